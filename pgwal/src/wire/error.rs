//! What can be wrong with bytes that claim to be PostgreSQL's protocol.

/// A violation of the protocol by the server, or a text that the protocol cannot carry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// A frame whose length field is below 4 or above [`FRAME_LEN_MAX`](super::FRAME_LEN_MAX).
    #[error("message {tag:?} has the impossible length {length}; is this a PostgreSQL server?", tag = char::from(*tag))]
    FrameLength {
        /// The message's type byte.
        tag: u8,
        /// The length it claims, in bytes, its own four included.
        length: u32,
    },
    /// A message ended inside one of its fields.
    #[error("the server's {message} message ended too soon")]
    Truncated {
        /// The message's name in the PostgreSQL manual.
        message: &'static str,
    },
    /// A message held more than its fields.
    #[error("the server's {message} message has {bytes} bytes too many")]
    TrailingBytes {
        /// The message's name in the PostgreSQL manual.
        message: &'static str,
        /// How many bytes are left over.
        bytes: usize,
    },
    /// A field with a value that it cannot have.
    #[error("the server's {message} message has {value:?} as its {field}")]
    BadField {
        /// The message's or result's name.
        message: &'static str,
        /// The field's name.
        field: &'static str,
        /// The value received, shortened.
        value: String,
    },
    /// A message type that does not belong to what is going on.
    #[error("the server sent message {tag:?} during {during}")]
    UnexpectedMessage {
        /// What was going on.
        during: &'static str,
        /// The message's type byte.
        tag: char,
    },
    /// Too many of something.
    #[error("the server sent more than {limit} {what}")]
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// How many are accepted.
        limit: usize,
    },
    /// A text to be sent holds a NUL character, which the protocol uses as its end mark.
    #[error("the {what} contains a NUL character")]
    NulInText {
        /// What the text is.
        what: &'static str,
    },
    /// A text to be sent is longer than a message may be.
    #[error("the {what} is too long for the protocol")]
    TooLong {
        /// What the text is.
        what: &'static str,
    },
}

impl WireError {
    /// A [`WireError::BadField`] with the value cut to a length fit for an error message.
    pub(crate) fn bad_field(message: &'static str, field: &'static str, value: &str) -> Self {
        WireError::BadField { message, field, value: value.chars().take(64).collect() }
    }
}
