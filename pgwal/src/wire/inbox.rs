//! The frame splitter: a byte stream in, whole messages out.

use bytes::{Bytes, BytesMut};

use super::WireError;

/// The longest message accepted, in bytes, the length field included: 64 MiB.
///
/// A walsender sends WAL in pieces of at most 128 KiB and base backup data in pieces of 32 KiB; the longest
/// other message is a timeline history file in a data row. Whatever claims to be longer is not PostgreSQL.
pub const FRAME_LEN_MAX: u32 = 64 << 20;

/// The type byte and the length field.
const HEADER_LEN: usize = 5;
/// The length field counts itself.
const LENGTH_FIELD_LEN: u32 = 4;

/// One message as it came: its type and its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The message's type byte.
    pub tag: u8,
    /// What follows the length field; shares the inbox's memory, nothing is copied.
    pub body: Bytes,
}

/// Bytes received and not yet consumed.
///
/// ```
/// use pgwal::wire::Inbox;
/// let mut inbox = Inbox::new();
/// inbox.buffer().extend_from_slice(b"Z\0\0\0\x05Id\0\0");
/// let frame = inbox.next_frame()?.unwrap();
/// assert_eq!((frame.tag, &frame.body[..]), (b'Z', &b"I"[..]));
/// assert_eq!(inbox.next_frame()?, None); // the beginning of another one is there
/// # Ok::<(), pgwal::wire::WireError>(())
/// ```
#[derive(Debug, Default)]
pub struct Inbox {
    buffer: BytesMut,
}

impl Inbox {
    /// An empty inbox.
    pub fn new() -> Self {
        Inbox::default()
    }

    /// Where to append received bytes. Nothing may be removed from it.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Makes room for at least `len` bytes to be appended, reusing memory whose frames have all been dropped.
    pub fn reserve(&mut self, len: usize) {
        self.buffer.reserve(len);
    }

    /// Whether no bytes are left over.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The next whole message, or `None` if more bytes must come first.
    ///
    /// # Errors
    /// [`WireError::FrameLength`]; the stream is out of step then and useless from here on.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        let Some((header, _)) = self.buffer.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let [tag, length @ ..] = *header;
        let length = u32::from_be_bytes(length);
        if !(LENGTH_FIELD_LEN..=FRAME_LEN_MAX).contains(&length) {
            return Err(WireError::FrameLength { tag, length });
        }
        // At most 64 MiB + 1: fits any usize.
        let frame_len = length as usize + 1;
        if self.buffer.len() < frame_len {
            return Ok(None);
        }
        let mut body = self.buffer.split_to(frame_len).freeze();
        let body = body.split_off(HEADER_LEN);
        Ok(Some(Frame { tag, body }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BufMut;
    use proptest::prelude::*;

    fn encode(frames: &[(u8, Vec<u8>)]) -> BytesMut {
        let mut bytes = BytesMut::new();
        for (tag, body) in frames {
            bytes.put_u8(*tag);
            bytes.put_u32(4 + body.len() as u32);
            bytes.put_slice(body);
        }
        bytes
    }

    #[test]
    fn refuses_a_length_that_cannot_be() {
        for length in [0_u32, 3, FRAME_LEN_MAX + 1, u32::MAX] {
            let mut inbox = Inbox::new();
            inbox.buffer().put_u8(b'd');
            inbox.buffer().put_u32(length);
            assert_eq!(inbox.next_frame(), Err(WireError::FrameLength { tag: b'd', length }));
        }
    }

    proptest! {
        #[test]
        fn frames_survive_any_chunking(
            frames in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..200)), 0..20),
            chunk in 1_usize..300,
        ) {
            let mut inbox = Inbox::new();
            let mut seen = Vec::new();
            for piece in encode(&frames).chunks(chunk) {
                inbox.buffer().extend_from_slice(piece);
                while let Some(frame) = inbox.next_frame().unwrap() {
                    seen.push((frame.tag, frame.body.to_vec()));
                }
            }
            prop_assert_eq!(seen, frames);
            prop_assert!(inbox.is_empty());
        }
    }
}
