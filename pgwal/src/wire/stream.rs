//! What flows inside START_REPLICATION PHYSICAL ("Streaming Replication Protocol" in PostgreSQL's manual).

use bytes::{BufMut, Bytes, BytesMut};

use super::reader::Reader;
use super::{TextRow, WireError};
use crate::{Lsn, PgTimestamp, TimelineId};

/// A message from the server inside the copy stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamMessage {
    /// `w`, XLogData.
    XLogData {
        /// Where these bytes begin.
        start: Lsn,
        /// The end of WAL on the server when this was sent.
        server_end: Lsn,
        /// The server's clock when this was sent.
        sent_at: PgTimestamp,
        /// The WAL; shares the frame's memory.
        bytes: Bytes,
    },
    /// `k`, primary keepalive.
    KeepAlive {
        /// The end of WAL on the server when this was sent.
        server_end: Lsn,
        /// The server's clock when this was sent.
        sent_at: PgTimestamp,
        /// Whether the server wants a [`StandbyStatus`] at once, or else will end the connection.
        reply_requested: bool,
    },
}

impl StreamMessage {
    /// Reads the body of a CopyData message.
    ///
    /// # Errors
    /// [`WireError`] for a type byte other than `w` and `k`, for a body too short, and for WAL whose end would be
    /// past the largest LSN.
    pub fn parse(body: Bytes) -> Result<StreamMessage, WireError> {
        let mut reader = Reader::new("XLogData", body);
        match reader.u8()? {
            b'w' => {
                let start = Lsn::from_u64(reader.u64()?);
                let server_end = Lsn::from_u64(reader.u64()?);
                let sent_at = PgTimestamp::from_micros(reader.i64()?);
                let bytes = reader.rest();
                if start.checked_add(bytes.len() as u64).is_none() {
                    return Err(WireError::bad_field("XLogData", "start", &start.to_string()));
                }
                Ok(StreamMessage::XLogData { start, server_end, sent_at, bytes })
            }
            b'k' => {
                let server_end = Lsn::from_u64(reader.u64()?);
                let sent_at = PgTimestamp::from_micros(reader.i64()?);
                let reply_requested = reader.u8()? != 0;
                reader.finish()?;
                Ok(StreamMessage::KeepAlive { server_end, sent_at, reply_requested })
            }
            tag => {
                Err(WireError::UnexpectedMessage { during: "streaming replication", tag: char::from(tag) })
            }
        }
    }
}

/// `r`, standby status update: how far the receiver has got.
///
/// What `flush` says is a promise that synchronous commits wait for: it must be on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StandbyStatus {
    /// The end of the WAL that was received and written.
    pub write: Lsn,
    /// The end of the WAL that survives a crash; also moves the slot's `restart_lsn`.
    pub flush: Lsn,
    /// The end of the WAL that was applied; `0/0` for one who only stores it.
    pub apply: Lsn,
}

impl StandbyStatus {
    /// Bytes of the update inside its CopyData message.
    const BODY_LEN: u32 = 1 + 8 + 8 + 8 + 8 + 1;

    /// Appends the update, in its CopyData message, to `out`.
    ///
    /// `now` is the receiver's clock; `reply_requested` asks the server for a keepalive at once.
    pub fn encode(&self, now: PgTimestamp, reply_requested: bool, out: &mut BytesMut) {
        out.put_u8(b'd');
        out.put_u32(4 + Self::BODY_LEN);
        out.put_u8(b'r');
        out.put_u64(self.write.as_u64());
        out.put_u64(self.flush.as_u64());
        out.put_u64(self.apply.as_u64());
        out.put_i64(now.as_micros());
        out.put_u8(u8::from(reply_requested));
    }
}

/// The row that a server sends after it has sent the last WAL of a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimelineEnd {
    /// The timeline that follows.
    pub next: TimelineId,
    /// Where it begins: the first position that is not of the old timeline.
    pub switch: Lsn,
}

impl TimelineEnd {
    /// Reads the row `(next_tli, next_tli_startpos)`.
    ///
    /// # Errors
    /// [`WireError::BadField`] if either is missing or is none.
    pub fn parse(row: &TextRow) -> Result<TimelineEnd, WireError> {
        const RESULT: &str = "end of timeline";
        Ok(TimelineEnd {
            next: row.required(0, RESULT, "next timeline")?,
            switch: row.required(1, RESULT, "position")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{BackendMessage, Inbox};
    use proptest::prelude::*;

    #[test]
    fn reads_wal_and_keepalives() {
        let mut body = BytesMut::from(&b"w"[..]);
        body.put_u64(0x100);
        body.put_u64(0x200);
        body.put_i64(-5);
        body.put_slice(b"wal");
        assert_eq!(
            StreamMessage::parse(body.freeze()),
            Ok(StreamMessage::XLogData {
                start: Lsn::from_u64(0x100),
                server_end: Lsn::from_u64(0x200),
                sent_at: PgTimestamp::from_micros(-5),
                bytes: Bytes::from_static(b"wal"),
            })
        );
        let keepalive = b"k\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x07\x01";
        assert_eq!(
            StreamMessage::parse(Bytes::from_static(keepalive)),
            Ok(StreamMessage::KeepAlive {
                server_end: Lsn::from_u64(9),
                sent_at: PgTimestamp::from_micros(7),
                reply_requested: true
            })
        );
    }

    #[test]
    fn refuses_wal_past_the_end_of_the_address_space() {
        let mut body = BytesMut::from(&b"w"[..]);
        body.put_u64(u64::MAX);
        body.put_u64(0);
        body.put_i64(0);
        body.put_slice(b"x");
        assert!(StreamMessage::parse(body.freeze()).is_err());
    }

    #[test]
    fn a_status_is_a_whole_copy_data_message() {
        let mut inbox = Inbox::new();
        let status = StandbyStatus { write: Lsn::from_u64(3), flush: Lsn::from_u64(2), apply: Lsn::INVALID };
        status.encode(PgTimestamp::from_micros(1), true, inbox.buffer());
        let frame = inbox.next_frame().unwrap().unwrap();
        let BackendMessage::CopyData(body) = BackendMessage::parse(frame).unwrap() else {
            panic!("not copy data")
        };
        assert_eq!(&body[..9], b"r\0\0\0\0\0\0\0\x03");
        assert_eq!(body.len(), 34);
        assert!(inbox.is_empty());
    }

    proptest! {
        #[test]
        fn never_panics(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = StreamMessage::parse(Bytes::from(body));
        }
    }
}
