//! Messages from the server, as far as a physical replication connection sees them.

use bytes::Bytes;

use super::reader::Reader;
use super::{Frame, ServerError, WireError};

/// The most SASL mechanisms read from one request; PostgreSQL 18 knows three.
const SASL_MECHANISMS_MAX: usize = 32;

/// A message from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackendMessage {
    /// `R`: what the server wants before it lets the client in.
    Authentication(AuthRequest),
    /// `K`: the process id and the key for cancel requests, as they came.
    BackendKeyData(Bytes),
    /// `S`: the value of a reported setting, now.
    ParameterStatus {
        /// The setting's name.
        name: String,
        /// Its value.
        value: String,
    },
    /// `E`.
    Error(Box<ServerError>),
    /// `N`.
    Notice(Box<ServerError>),
    /// `T`: the names of the columns to follow.
    RowDescription(Vec<String>),
    /// `D`.
    DataRow(TextRow),
    /// `C`: a command, or a part of one, has ended; its tag.
    CommandComplete(String),
    /// `W`: both sides send copy data from here on.
    CopyBothResponse,
    /// `H`: the server sends copy data from here on.
    CopyOutResponse,
    /// `G`: the server expects copy data from here on.
    CopyInResponse,
    /// `d`.
    CopyData(Bytes),
    /// `c`.
    CopyDone,
    /// `Z`: the next command may be sent.
    ReadyForQuery,
    /// `I`: the command was empty.
    EmptyQueryResponse,
    /// `A`: LISTEN/NOTIFY, which may come at any time and means nothing here.
    NotificationResponse,
    /// `v`: the server speaks only an older minor version. Never sent to a client that asks for 3.0.
    NegotiateProtocolVersion,
}

impl BackendMessage {
    /// Reads a frame.
    ///
    /// # Errors
    /// A [`WireError`] that names the message, or its type byte if that is unknown.
    pub fn parse(frame: Frame) -> Result<BackendMessage, WireError> {
        let Frame { tag, body } = frame;
        Ok(match tag {
            b'd' => BackendMessage::CopyData(body),
            b'R' => BackendMessage::Authentication(AuthRequest::parse(body)?),
            b'K' => BackendMessage::BackendKeyData(body),
            b'S' => parameter_status(body)?,
            b'E' => BackendMessage::Error(Box::new(ServerError::parse(body)?)),
            b'N' => BackendMessage::Notice(Box::new(ServerError::parse(body)?)),
            b'T' => BackendMessage::RowDescription(row_description(body)?),
            b'D' => BackendMessage::DataRow(TextRow::parse(body)?),
            b'C' => {
                let mut reader = Reader::new("CommandComplete", body);
                let tag = reader.text()?;
                reader.finish()?;
                BackendMessage::CommandComplete(tag)
            }
            b'W' => BackendMessage::CopyBothResponse,
            b'H' => BackendMessage::CopyOutResponse,
            b'G' => BackendMessage::CopyInResponse,
            b'c' => BackendMessage::CopyDone,
            b'Z' => BackendMessage::ReadyForQuery,
            b'I' => BackendMessage::EmptyQueryResponse,
            b'A' => BackendMessage::NotificationResponse,
            b'v' => BackendMessage::NegotiateProtocolVersion,
            tag => return Err(WireError::UnexpectedMessage { during: "the session", tag: char::from(tag) }),
        })
    }

    /// The message's type byte as a character, for error messages.
    pub fn tag(&self) -> char {
        match self {
            BackendMessage::Authentication(_) => 'R',
            BackendMessage::BackendKeyData(_) => 'K',
            BackendMessage::ParameterStatus { .. } => 'S',
            BackendMessage::Error(_) => 'E',
            BackendMessage::Notice(_) => 'N',
            BackendMessage::RowDescription(_) => 'T',
            BackendMessage::DataRow(_) => 'D',
            BackendMessage::CommandComplete(_) => 'C',
            BackendMessage::CopyBothResponse => 'W',
            BackendMessage::CopyOutResponse => 'H',
            BackendMessage::CopyInResponse => 'G',
            BackendMessage::CopyData(_) => 'd',
            BackendMessage::CopyDone => 'c',
            BackendMessage::ReadyForQuery => 'Z',
            BackendMessage::EmptyQueryResponse => 'I',
            BackendMessage::NotificationResponse => 'A',
            BackendMessage::NegotiateProtocolVersion => 'v',
        }
    }
}

fn parameter_status(body: Bytes) -> Result<BackendMessage, WireError> {
    let mut reader = Reader::new("ParameterStatus", body);
    let (name, value) = (reader.text()?, reader.text()?);
    reader.finish()?;
    Ok(BackendMessage::ParameterStatus { name, value })
}

fn row_description(body: Bytes) -> Result<Vec<String>, WireError> {
    // Behind each name: table OID, column number, type OID, type length, type modifier, format.
    const FIXED_LEN: usize = 4 + 2 + 4 + 2 + 4 + 2;
    let mut reader = Reader::new("RowDescription", body);
    let columns = reader.u16()?;
    // Not pre-allocated: the count is the server's word.
    let mut names = Vec::new();
    for _ in 0..columns {
        names.push(reader.text()?);
        reader.take(FIXED_LEN)?;
    }
    reader.finish()?;
    Ok(names)
}

/// What the server asks for in an `R` message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuthRequest {
    /// The client is in.
    Ok,
    /// The password itself.
    CleartextPassword,
    /// An MD5 hash of password, user name and this salt.
    Md5Password {
        /// Four random bytes.
        salt: [u8; 4],
    },
    /// SASL, by one of these mechanisms.
    Sasl {
        /// Their names, in the server's order of preference.
        mechanisms: Vec<String>,
    },
    /// The server's challenge.
    SaslContinue(Bytes),
    /// The server's last word, which proves that it knows the password too.
    SaslFinal(Bytes),
    /// A method that this client does not speak (GSSAPI is 7, SSPI is 9).
    Unsupported {
        /// The method's number in the protocol.
        code: i32,
    },
}

impl AuthRequest {
    fn parse(body: Bytes) -> Result<AuthRequest, WireError> {
        let mut reader = Reader::new("Authentication", body);
        let request = match reader.i32()? {
            0 => AuthRequest::Ok,
            3 => AuthRequest::CleartextPassword,
            5 => AuthRequest::Md5Password { salt: [reader.u8()?, reader.u8()?, reader.u8()?, reader.u8()?] },
            10 => return AuthRequest::parse_mechanisms(reader),
            11 => return Ok(AuthRequest::SaslContinue(reader.rest())),
            12 => return Ok(AuthRequest::SaslFinal(reader.rest())),
            code => return Ok(AuthRequest::Unsupported { code }),
        };
        reader.finish()?;
        Ok(request)
    }

    fn parse_mechanisms(mut reader: Reader) -> Result<AuthRequest, WireError> {
        let mut mechanisms = Vec::new();
        loop {
            let name = reader.text()?;
            if name.is_empty() {
                reader.finish()?;
                return Ok(AuthRequest::Sasl { mechanisms });
            }
            if mechanisms.len() == SASL_MECHANISMS_MAX {
                return Err(WireError::TooMany { what: "SASL mechanisms", limit: SASL_MECHANISMS_MAX });
            }
            mechanisms.push(name);
        }
    }
}

/// A row of columns in text form, as every replication command answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextRow(Vec<Option<Bytes>>);

impl TextRow {
    fn parse(body: Bytes) -> Result<TextRow, WireError> {
        let mut reader = Reader::new("DataRow", body);
        let columns = reader.u16()?;
        let mut values = Vec::new();
        for _ in 0..columns {
            // -1 is NULL; any other negative length is as good as one.
            values.push(match usize::try_from(reader.i32()?) {
                Ok(len) => Some(reader.take(len)?),
                Err(_) => None,
            });
        }
        reader.finish()?;
        Ok(TextRow(values))
    }

    /// The number of columns.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no columns.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A column's bytes; `None` for NULL and for a column that is not there.
    pub fn bytes(&self, column: usize) -> Option<&Bytes> {
        self.0.get(column)?.as_ref()
    }

    /// A column's text; `None` for NULL, for a column that is not there, and for what is not UTF-8.
    pub fn text(&self, column: usize) -> Option<&str> {
        std::str::from_utf8(self.bytes(column)?).ok()
    }

    /// A column parsed; `message` and `field` name it in the error.
    pub(crate) fn parsed<T: std::str::FromStr>(
        &self,
        column: usize,
        message: &'static str,
        field: &'static str,
    ) -> Result<Option<T>, WireError> {
        let Some(bytes) = self.bytes(column) else { return Ok(None) };
        let text = String::from_utf8_lossy(bytes);
        text.parse().map(Some).map_err(|_| WireError::bad_field(message, field, &text))
    }

    /// [`TextRow::parsed`] for a column that may not be NULL.
    pub(crate) fn required<T: std::str::FromStr>(
        &self,
        column: usize,
        message: &'static str,
        field: &'static str,
    ) -> Result<T, WireError> {
        self.parsed(column, message, field)?.ok_or_else(|| WireError::bad_field(message, field, "NULL"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(tag: u8, body: &'static [u8]) -> Result<BackendMessage, WireError> {
        BackendMessage::parse(Frame { tag, body: Bytes::from_static(body) })
    }

    #[test]
    fn reads_rows_with_nulls() {
        let BackendMessage::DataRow(row) = parse(b'D', b"\0\x02\0\0\0\x01x\xff\xff\xff\xff").unwrap() else {
            panic!("not a row")
        };
        assert_eq!((row.len(), row.text(0), row.text(1), row.text(2)), (2, Some("x"), None, None));
    }

    #[test]
    fn refuses_a_column_longer_than_its_row() {
        assert_eq!(parse(b'D', b"\0\x01\x7f\xff\xff\xffx"), Err(WireError::Truncated { message: "DataRow" }));
    }

    #[test]
    fn reads_the_offered_mechanisms() {
        assert_eq!(
            parse(b'R', b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"),
            Ok(BackendMessage::Authentication(AuthRequest::Sasl {
                mechanisms: vec!["SCRAM-SHA-256-PLUS".into(), "SCRAM-SHA-256".into()]
            }))
        );
    }

    #[test]
    fn an_unknown_message_is_named() {
        assert_eq!(parse(b'!', b""), Err(WireError::UnexpectedMessage { during: "the session", tag: '!' }));
    }

    proptest! {
        #[test]
        fn never_panics(tag: u8, body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = BackendMessage::parse(Frame { tag, body: Bytes::from(body) });
        }
    }
}
