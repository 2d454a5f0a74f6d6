//! Authentication as a state machine: the server's requests in, answers out.

use std::fmt;

use bytes::BytesMut;
use postgres_protocol::authentication::{md5_hash, sasl};

use super::{AuthRequest, WireError, frontend};

/// What the client knows.
#[derive(Clone)]
pub struct Credentials {
    /// The user's name, as in the startup message.
    pub user: String,
    /// The password; an empty one counts as none, as in libpq.
    pub password: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = self.password.as_ref().map(|_| "***");
        f.debug_struct("Credentials").field("user", &self.user).field("password", &password).finish()
    }
}

/// libpq's `channel_binding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// Where both sides can.
    #[default]
    Prefer,
    /// Or else fail.
    Require,
}

/// How the server had the client prove itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuthMethod {
    /// Not at all (trust, peer, a client certificate).
    None,
    /// The password in clear.
    Cleartext,
    /// MD5.
    Md5,
    /// SCRAM-SHA-256.
    Scram,
    /// SCRAM-SHA-256-PLUS: bound to the TLS connection.
    ScramPlus,
}

impl AuthMethod {
    /// The name in libpq's `require_auth`.
    pub const fn as_str(self) -> &'static str {
        match self {
            AuthMethod::None => "none",
            AuthMethod::Cleartext => "password",
            AuthMethod::Md5 => "md5",
            AuthMethod::Scram | AuthMethod::ScramPlus => "scram-sha-256",
        }
    }
}

/// Why authentication cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The server wants a password and there is none.
    #[error("the server asks for a password and none was given (password, passfile or PGPASSWORD)")]
    PasswordRequired,
    /// A method that this client does not speak.
    #[error("the server asks for {method} authentication, which is not supported")]
    Unsupported {
        /// The method's name or number.
        method: String,
    },
    /// `channel_binding=require` cannot be met.
    #[error("channel_binding=require: {reason}")]
    ChannelBinding {
        /// What is in the way.
        reason: &'static str,
    },
    /// A method outside `require_auth`.
    #[error("the server asks for {method} authentication, which require_auth forbids")]
    Forbidden {
        /// The method's name.
        method: &'static str,
    },
    /// The server's SCRAM messages are wrong: it does not know the password, or is not what it says.
    #[error("the server's SCRAM answer is not valid: {reason}")]
    Scram {
        /// What is wrong with it.
        reason: String,
    },
    /// A request that makes no sense now.
    #[error("the server broke off authentication: it sent {request} out of order")]
    OutOfOrder {
        /// The request's name.
        request: &'static str,
    },
    /// The answer cannot be sent.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// Where authentication stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthProgress {
    /// Send what was appended (it may be nothing), then wait for the next request.
    Continue,
    /// The client is in.
    Done(AuthMethod),
}

/// One authentication exchange.
pub struct Auth {
    credentials: Credentials,
    channel_binding: ChannelBinding,
    /// The `tls-server-end-point` hash, when the connection is TLS and the certificate has one.
    end_point: Option<Vec<u8>>,
    allowed: Option<Vec<&'static str>>,
    state: State,
}

enum State {
    Start,
    /// A password was sent; only the verdict is left.
    Sent(AuthMethod),
    Scram(Box<sasl::ScramSha256>, AuthMethod),
    /// The client's proof was sent; the server's must follow.
    Proved(Box<sasl::ScramSha256>, AuthMethod),
    Done,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("credentials", &self.credentials).finish_non_exhaustive()
    }
}

impl Auth {
    /// A new exchange; `end_point` is [`tls_server_end_point`](super::tls_server_end_point) on a TLS connection.
    pub fn new(
        credentials: Credentials,
        channel_binding: ChannelBinding,
        end_point: Option<Vec<u8>>,
    ) -> Self {
        Auth { credentials, channel_binding, end_point, allowed: None, state: State::Start }
    }

    /// Accepts only these methods, by their names in libpq's `require_auth` ([`AuthMethod::as_str`]).
    #[must_use]
    pub fn allow_only(mut self, methods: Vec<&'static str>) -> Self {
        self.allowed = Some(methods);
        self
    }

    /// Answers a request: appends to `out` what must be sent.
    ///
    /// # Errors
    /// [`AuthError`]; the connection must be closed then.
    pub fn step(&mut self, request: AuthRequest, out: &mut BytesMut) -> Result<AuthProgress, AuthError> {
        // Every error leaves the machine at its end.
        let state = std::mem::replace(&mut self.state, State::Done);
        match (state, request) {
            (State::Start, AuthRequest::Ok) => self.done(AuthMethod::None),
            (State::Sent(method), AuthRequest::Ok) => self.done(method),
            (State::Start, AuthRequest::CleartextPassword) => {
                self.permit(AuthMethod::Cleartext)?;
                frontend::password(self.password()?.as_bytes(), out)?;
                self.state = State::Sent(AuthMethod::Cleartext);
                Ok(AuthProgress::Continue)
            }
            (State::Start, AuthRequest::Md5Password { salt }) => {
                self.permit(AuthMethod::Md5)?;
                let hash = md5_hash(self.credentials.user.as_bytes(), self.password()?.as_bytes(), salt);
                frontend::password(hash.as_bytes(), out)?;
                self.state = State::Sent(AuthMethod::Md5);
                Ok(AuthProgress::Continue)
            }
            (State::Start, AuthRequest::Sasl { mechanisms }) => self.begin_scram(&mechanisms, out),
            (State::Scram(mut scram, method), AuthRequest::SaslContinue(challenge)) => {
                scram.update(&challenge).map_err(scram_error)?;
                frontend::sasl_response(scram.message(), out)?;
                self.state = State::Proved(scram, method);
                Ok(AuthProgress::Continue)
            }
            (State::Proved(mut scram, method), AuthRequest::SaslFinal(proof)) => {
                scram.finish(&proof).map_err(scram_error)?;
                self.state = State::Sent(method);
                Ok(AuthProgress::Continue)
            }
            (_, AuthRequest::Unsupported { code }) => {
                let method = match code {
                    2 => "Kerberos V5".to_owned(),
                    7 | 8 => "GSSAPI".to_owned(),
                    9 => "SSPI".to_owned(),
                    code => format!("method {code}"),
                };
                Err(AuthError::Unsupported { method })
            }
            // Above all: a server that skips its own SCRAM proof is not let through.
            (_, request) => Err(AuthError::OutOfOrder { request: name(&request) }),
        }
    }

    fn done(&self, method: AuthMethod) -> Result<AuthProgress, AuthError> {
        self.permit(method)?;
        Ok(AuthProgress::Done(method))
    }

    fn begin_scram(&mut self, mechanisms: &[String], out: &mut BytesMut) -> Result<AuthProgress, AuthError> {
        let offered = |name: &str| mechanisms.iter().any(|mechanism| mechanism == name);
        let use_plus = offered(sasl::SCRAM_SHA_256_PLUS)
            && self.end_point.is_some()
            && self.channel_binding != ChannelBinding::Disable;
        let method = if use_plus { AuthMethod::ScramPlus } else { AuthMethod::Scram };
        self.permit(method)?;
        if !use_plus && !offered(sasl::SCRAM_SHA_256) {
            return Err(AuthError::Unsupported { method: format!("SASL ({})", mechanisms.join(", ")) });
        }
        // "y" tells the server that the client could have: if a man in the middle took PLUS off the list, it notices.
        let (mechanism, binding) = match (&self.end_point, self.channel_binding) {
            (Some(hash), _) if use_plus => {
                (sasl::SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(hash.clone()))
            }
            (Some(_), ChannelBinding::Prefer | ChannelBinding::Require) => {
                (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested())
            }
            _ => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
        };
        let scram = sasl::ScramSha256::new(self.password()?.as_bytes(), binding);
        frontend::sasl_initial_response(mechanism, scram.message(), out)?;
        self.state = State::Scram(Box::new(scram), method);
        Ok(AuthProgress::Continue)
    }

    /// Checks a method against `channel_binding` and `require_auth` before anything secret is sent.
    fn permit(&self, method: AuthMethod) -> Result<(), AuthError> {
        if let Some(allowed) = &self.allowed
            && !allowed.contains(&method.as_str())
        {
            return Err(AuthError::Forbidden { method: method.as_str() });
        }
        if self.channel_binding == ChannelBinding::Require && method != AuthMethod::ScramPlus {
            let reason = match (&self.end_point, method) {
                (None, _) => "the connection has no TLS, or a certificate without a usable signature hash",
                (_, AuthMethod::Scram) => "the server does not offer it",
                _ => "the server does not use SCRAM for this user",
            };
            return Err(AuthError::ChannelBinding { reason });
        }
        Ok(())
    }

    fn password(&self) -> Result<&str, AuthError> {
        self.credentials
            .password
            .as_deref()
            .filter(|password| !password.is_empty())
            .ok_or(AuthError::PasswordRequired)
    }
}

fn scram_error(error: std::io::Error) -> AuthError {
    AuthError::Scram { reason: error.to_string() }
}

fn name(request: &AuthRequest) -> &'static str {
    match request {
        AuthRequest::Ok => "AuthenticationOk",
        AuthRequest::CleartextPassword => "AuthenticationCleartextPassword",
        AuthRequest::Md5Password { .. } => "AuthenticationMD5Password",
        AuthRequest::Sasl { .. } => "AuthenticationSASL",
        AuthRequest::SaslContinue(_) => "AuthenticationSASLContinue",
        AuthRequest::SaslFinal(_) => "AuthenticationSASLFinal",
        AuthRequest::Unsupported { .. } => "an unknown request",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn auth(password: Option<&str>, channel_binding: ChannelBinding, end_point: Option<&[u8]>) -> Auth {
        let credentials = Credentials { user: "me".to_owned(), password: password.map(str::to_owned) };
        Auth::new(credentials, channel_binding, end_point.map(<[u8]>::to_vec))
    }

    fn scram(mechanisms: &[&str]) -> AuthRequest {
        AuthRequest::Sasl { mechanisms: mechanisms.iter().map(|name| (*name).to_owned()).collect() }
    }

    /// The answer to the offer of `mechanisms`, as text.
    fn answer(
        channel_binding: ChannelBinding,
        end_point: Option<&[u8]>,
        mechanisms: &[&str],
    ) -> Result<String, AuthError> {
        let mut out = BytesMut::new();
        auth(Some("secret"), channel_binding, end_point).step(scram(mechanisms), &mut out)?;
        Ok(String::from_utf8_lossy(&out).into_owned())
    }

    #[test]
    fn binds_to_the_channel_whenever_both_sides_can() {
        use ChannelBinding::{Disable, Prefer, Require};
        let both = ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"];
        let plain = ["SCRAM-SHA-256"];
        let hash = Some(&b"hash"[..]);
        assert!(answer(Prefer, hash, &both).unwrap().contains("SCRAM-SHA-256-PLUS\0"));
        assert!(answer(Prefer, hash, &both).unwrap().contains("p=tls-server-end-point,,"));
        assert!(answer(Prefer, hash, &plain).unwrap().contains("y,,"));
        assert!(answer(Prefer, None, &both).unwrap().contains("n,,"));
        assert!(answer(Disable, hash, &both).unwrap().contains("n,,"));
        assert!(matches!(answer(Require, hash, &plain), Err(AuthError::ChannelBinding { .. })));
        assert!(matches!(answer(Require, None, &both), Err(AuthError::ChannelBinding { .. })));
        assert!(matches!(answer(Prefer, hash, &["OAUTHBEARER"]), Err(AuthError::Unsupported { .. })));
    }

    #[test]
    fn a_server_that_skips_its_own_proof_is_not_let_in() {
        let mut auth = auth(Some("secret"), ChannelBinding::Prefer, None);
        let mut out = BytesMut::new();
        auth.step(scram(&["SCRAM-SHA-256"]), &mut out).unwrap();
        assert_eq!(
            auth.step(AuthRequest::Ok, &mut out),
            Err(AuthError::OutOfOrder { request: "AuthenticationOk" })
        );
    }

    #[test]
    fn no_secret_leaves_when_channel_binding_is_required() {
        for request in [AuthRequest::CleartextPassword, AuthRequest::Md5Password { salt: [0; 4] }] {
            let mut out = BytesMut::new();
            let result = auth(Some("secret"), ChannelBinding::Require, Some(b"hash")).step(request, &mut out);
            assert!(matches!(result, Err(AuthError::ChannelBinding { .. })));
            assert!(out.is_empty());
        }
        let trusted = auth(None, ChannelBinding::Require, None).step(AuthRequest::Ok, &mut BytesMut::new());
        assert!(trusted.is_err());
    }

    #[test]
    fn a_forbidden_method_gets_no_answer() {
        let mut out = BytesMut::new();
        let result = auth(Some("secret"), ChannelBinding::Prefer, None)
            .allow_only(vec!["scram-sha-256"])
            .step(AuthRequest::CleartextPassword, &mut out);
        assert_eq!(result, Err(AuthError::Forbidden { method: "password" }));
        assert!(out.is_empty());
    }

    #[test]
    fn an_empty_password_is_no_password() {
        let result = auth(Some(""), ChannelBinding::Prefer, None)
            .step(AuthRequest::CleartextPassword, &mut BytesMut::new());
        assert_eq!(result, Err(AuthError::PasswordRequired));
    }

    #[test]
    fn nothing_is_answered_after_a_bad_challenge() {
        let mut auth = auth(Some("secret"), ChannelBinding::Prefer, None);
        let mut out = BytesMut::new();
        auth.step(scram(&["SCRAM-SHA-256"]), &mut out).unwrap();
        let challenge = || AuthRequest::SaslContinue(Bytes::from_static(b"r=wrong,s=c2FsdA==,i=4096"));
        assert!(matches!(auth.step(challenge(), &mut out), Err(AuthError::Scram { .. })));
        assert!(matches!(auth.step(challenge(), &mut out), Err(AuthError::OutOfOrder { .. })));
    }

    #[test]
    fn passwords_are_not_shown() {
        let shown = format!("{:?}", auth(Some("secret"), ChannelBinding::Prefer, None));
        assert!(!shown.contains("secret"), "{shown}");
    }
}
