//! Messages to the server, appended to a buffer that the caller sends.
//!
//! Only what a replication client says. Texts with a NUL in them cannot be sent and are refused.

use std::io;

use bytes::{BufMut, BytesMut};
use postgres_protocol::message::frontend;

use super::WireError;

/// Asks for TLS; the answer is one byte, `S` for yes or `N` for no (or an ErrorResponse's `E`).
pub fn ssl_request(out: &mut BytesMut) {
    frontend::ssl_request(out);
}

/// Opens the session, in protocol 3.0, with these parameters (`user`, `database`, `replication`, settings).
///
/// 3.0 on purpose: no server then sends NegotiateProtocolVersion or a cancel key of variable length.
///
/// # Errors
/// [`WireError::NulInText`].
pub fn startup<'a>(
    parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
    out: &mut BytesMut,
) -> Result<(), WireError> {
    guard("startup parameter", out, |out| frontend::startup_message(parameters, out))
}

/// A command.
///
/// # Errors
/// [`WireError::NulInText`].
pub fn query(text: &str, out: &mut BytesMut) -> Result<(), WireError> {
    guard("command", out, |out| frontend::query(text, out))
}

/// A password, or its MD5 form.
///
/// # Errors
/// [`WireError::NulInText`].
pub fn password(password: &[u8], out: &mut BytesMut) -> Result<(), WireError> {
    guard("password", out, |out| frontend::password_message(password, out))
}

/// The choice of a SASL mechanism and its first message.
///
/// # Errors
/// [`WireError::NulInText`].
pub fn sasl_initial_response(mechanism: &str, data: &[u8], out: &mut BytesMut) -> Result<(), WireError> {
    guard("SASL mechanism", out, |out| frontend::sasl_initial_response(mechanism, data, out))
}

/// A further SASL message.
///
/// # Errors
/// [`WireError::TooLong`].
pub fn sasl_response(data: &[u8], out: &mut BytesMut) -> Result<(), WireError> {
    guard("SASL response", out, |out| frontend::sasl_response(data, out))
}

/// A piece of copy data.
///
/// # Errors
/// [`WireError::TooLong`] above 2 GiB.
pub fn copy_data(data: &[u8], out: &mut BytesMut) -> Result<(), WireError> {
    let length = u32::try_from(data.len()).ok().and_then(|len| len.checked_add(4));
    let length = length.filter(|length| i32::try_from(*length).is_ok());
    out.put_u8(b'd');
    out.put_u32(length.ok_or(WireError::TooLong { what: "copy data" })?);
    out.put_slice(data);
    Ok(())
}

/// The end of the client's copy data.
pub fn copy_done(out: &mut BytesMut) {
    frontend::copy_done(out);
}

/// Good-bye.
pub fn terminate(out: &mut BytesMut) {
    frontend::terminate(out);
}

/// `postgres-protocol` reports both faults as an `io::Error`; a half-written message is taken back.
fn guard(
    what: &'static str,
    out: &mut BytesMut,
    write: impl FnOnce(&mut BytesMut) -> io::Result<()>,
) -> Result<(), WireError> {
    let before = out.len();
    write(out).map_err(|error| {
        out.truncate(before);
        match error.kind() {
            io::ErrorKind::InvalidInput if error.to_string().contains("null") => {
                WireError::NulInText { what }
            }
            _ => WireError::TooLong { what },
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nul_is_refused_and_leaves_nothing_behind() {
        let mut out = BytesMut::from(&b"before"[..]);
        assert_eq!(query("SHOW a\0b", &mut out), Err(WireError::NulInText { what: "command" }));
        assert_eq!(&out[..], b"before");
    }

    #[test]
    fn startup_asks_for_protocol_three_zero() {
        let mut out = BytesMut::new();
        startup([("user", "me"), ("replication", "true")], &mut out).unwrap();
        assert_eq!(&out[4..8], &[0, 3, 0, 0]);
        assert!(out.ends_with(b"replication\0true\0\0"));
    }
}
