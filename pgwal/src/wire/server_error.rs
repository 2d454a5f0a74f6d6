//! ErrorResponse and NoticeResponse: what the server says went wrong.

use std::fmt;

use bytes::Bytes;

use super::WireError;
use super::reader::Reader;

/// The longest text kept of one field, in characters; the server's own texts are far shorter.
const FIELD_CHARS_MAX: usize = 8192;

/// A five-character SQLSTATE code (`errcodes.h`).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// `28000`: no matching `pg_hba.conf` line, or the role may not log in.
    pub const INVALID_AUTHORIZATION: SqlState = SqlState(*b"28000");
    /// `28P01`: wrong password.
    pub const INVALID_PASSWORD: SqlState = SqlState(*b"28P01");
    /// `3D000`: no such database.
    pub const INVALID_CATALOG_NAME: SqlState = SqlState(*b"3D000");
    /// `42501`: the role lacks a privilege, such as REPLICATION.
    pub const INSUFFICIENT_PRIVILEGE: SqlState = SqlState(*b"42501");
    /// `42601`: the command was not understood.
    pub const SYNTAX_ERROR: SqlState = SqlState(*b"42601");
    /// `42704`: no such object, such as a replication slot.
    pub const UNDEFINED_OBJECT: SqlState = SqlState(*b"42704");
    /// `42710`: the object exists already, such as a replication slot.
    pub const DUPLICATE_OBJECT: SqlState = SqlState(*b"42710");
    /// `53300`: no connection is free, or `max_wal_senders` is reached.
    pub const TOO_MANY_CONNECTIONS: SqlState = SqlState(*b"53300");
    /// `53400`: `max_replication_slots` is reached.
    pub const CONFIGURATION_LIMIT_EXCEEDED: SqlState = SqlState(*b"53400");
    /// `55000`: not possible in the server's present state.
    pub const OBJECT_NOT_IN_PREREQUISITE_STATE: SqlState = SqlState(*b"55000");
    /// `55006`: in use by another connection, such as an active replication slot.
    pub const OBJECT_IN_USE: SqlState = SqlState(*b"55006");
    /// `57P01`: the server shuts down, or an administrator ended the connection.
    pub const ADMIN_SHUTDOWN: SqlState = SqlState(*b"57P01");
    /// `57P03`: the server starts up, shuts down or recovers.
    pub const CANNOT_CONNECT_NOW: SqlState = SqlState(*b"57P03");
    /// `58P01`: a file is missing, such as a WAL segment that was removed.
    pub const UNDEFINED_FILE: SqlState = SqlState(*b"58P01");
    /// `XX000`: what the server reports when the error has no code of its own.
    pub const INTERNAL_ERROR: SqlState = SqlState(*b"XX000");

    /// A code from its five ASCII letters and digits.
    pub fn new(code: &str) -> Option<SqlState> {
        let code: [u8; 5] = code.as_bytes().try_into().ok()?;
        code.iter().all(u8::is_ascii_alphanumeric).then_some(SqlState(code))
    }

    /// The code as text.
    pub fn as_str(&self) -> &str {
        // Only ASCII can be inside; the fallback is never used.
        std::str::from_utf8(&self.0).unwrap_or("XX000")
    }

    /// The class: the first two characters, such as `28` for authorization failures.
    pub fn class(&self) -> &str {
        self.as_str().get(..2).unwrap_or("XX")
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqlState({self})")
    }
}

/// An error or a notice from the server.
///
/// Control characters in its texts are replaced, so that a hostile server cannot drive a terminal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{severity}: {message} (SQLSTATE {code}){}", Extra(.detail, .hint))]
pub struct ServerError {
    /// `ERROR`, `FATAL`, `PANIC`, `WARNING`, `NOTICE`, ...; not translated.
    pub severity: String,
    /// The SQLSTATE code.
    pub code: SqlState,
    /// One line saying what is wrong, in the server's language.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What might help.
    pub hint: Option<String>,
}

impl ServerError {
    /// Reads the body of an ErrorResponse or NoticeResponse.
    ///
    /// # Errors
    /// [`WireError::Truncated`] if a field does not end, or the list of fields does not.
    pub fn parse(body: Bytes) -> Result<ServerError, WireError> {
        let mut reader = Reader::new("ErrorResponse", body);
        let mut error = ServerError {
            severity: String::new(),
            code: SqlState::INTERNAL_ERROR,
            message: String::new(),
            detail: None,
            hint: None,
        };
        loop {
            let field = reader.u8()?;
            if field == 0 {
                return Ok(error);
            }
            let value = clean(&reader.c_string()?);
            match field {
                // `V` is `S` untranslated and comes after it.
                b'S' | b'V' => error.severity = value,
                b'C' => error.code = SqlState::new(&value).unwrap_or(SqlState::INTERNAL_ERROR),
                b'M' => error.message = value,
                b'D' => error.detail = Some(value),
                b'H' => error.hint = Some(value),
                _ => {}
            }
        }
    }

    /// Whether the server ends the connection after this.
    pub fn is_fatal(&self) -> bool {
        matches!(self.severity.as_str(), "FATAL" | "PANIC")
    }
}

/// The tail of the displayed form.
struct Extra<'a>(&'a Option<String>, &'a Option<String>);

impl fmt::Display for Extra<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(detail) = self.0 {
            write!(f, "; detail: {detail}")?;
        }
        if let Some(hint) = self.1 {
            write!(f, "; hint: {hint}")?;
        }
        Ok(())
    }
}

fn clean(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .take(FIELD_CHARS_MAX)
        .map(|c| if c.is_control() && c != '\n' && c != '\t' { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_the_server_says() {
        let body = b"SFEHLER\0VERROR\0C42704\0Mslot \"a\" does not exist\0Hcreate it\0Fslot.c\0L12\0\0";
        let error = ServerError::parse(Bytes::from_static(body)).unwrap();
        assert_eq!(error.severity, "ERROR");
        assert_eq!(error.code, SqlState::UNDEFINED_OBJECT);
        assert_eq!(error.code.class(), "42");
        assert_eq!(error.to_string(), "ERROR: slot \"a\" does not exist (SQLSTATE 42704); hint: create it");
    }

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        let error = ServerError::parse(Bytes::from_static(b"M\x1b[2Jgone\0\0")).unwrap();
        assert_eq!(error.message, "\u{FFFD}[2Jgone");
    }

    proptest! {
        #[test]
        fn never_panics(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = ServerError::parse(Bytes::from(body));
        }
    }
}
