//! What BASE_BACKUP answers, in both dialects, as one sequence of events.
//!
//! PostgreSQL 13 and 14 send one copy stream per archive and one for the manifest; from 15 on there is a single copy
//! stream whose messages say by their first byte what they are (`n` new archive, `d` data, `m` manifest, `p` progress).

use bytes::Bytes;

use super::reader::Reader;
use super::{BackendMessage, ServerError, TextRow, WireError};
use crate::{Lsn, TimelineId};

/// The most tablespaces accepted.
const TABLESPACES_MAX: usize = 65_536;
const DURING: &str = "BASE_BACKUP";

/// How a server's version frames a base backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupDialect {
    /// PostgreSQL 13 and 14: a copy stream per archive; options are bare words.
    PerArchive,
    /// PostgreSQL 15 and later: one copy stream; options are in parentheses.
    SingleStream,
}

impl BackupDialect {
    /// The dialect of a server by its `server_version_num`.
    pub const fn of(server_version_num: u32) -> Self {
        if server_version_num >= 150_000 { BackupDialect::SingleStream } else { BackupDialect::PerArchive }
    }
}

/// A line of the header: a tablespace, or the data directory itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    /// The tablespace's OID; `None` for the data directory.
    pub oid: Option<u32>,
    /// Its directory on the server; `None` for the data directory. Bytes, for a path need not be UTF-8.
    pub location: Option<Bytes>,
    /// Its approximate size in bytes, if progress was asked for.
    pub size_bytes: Option<u64>,
}

/// What happens next in a base backup.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackupEvent {
    /// The first event: where the backup begins and what will come.
    Start {
        /// The checkpoint's redo position.
        start: Lsn,
        /// The timeline it is on.
        timeline: TimelineId,
        /// One per archive, in the order of the archives; the data directory comes last.
        tablespaces: Vec<Tablespace>,
    },
    /// A tar archive begins; what was before is complete.
    Archive {
        /// The tablespace's OID; `None` for the data directory.
        tablespace: Option<u32>,
    },
    /// The backup manifest begins; the last archive is complete.
    Manifest,
    /// Bytes of the archive or the manifest that began last; shares the frame's memory.
    Data(Bytes),
    /// How much the server has read of the current archive (15 and later, if asked for).
    Progress {
        /// Bytes of the current archive so far.
        bytes: u64,
    },
    /// A warning, such as a page with a bad checksum.
    Notice(Box<ServerError>),
    /// The last event: everything was sent.
    End {
        /// The end of the WAL that the backup needs.
        end: Lsn,
        /// The timeline it is on.
        timeline: TimelineId,
    },
}

/// Turns the server's messages into [`BackupEvent`]s, and refuses any order but the right one.
#[derive(Debug)]
pub struct BackupReader {
    dialect: BackupDialect,
    manifest_expected: bool,
    state: State,
    start: Option<(Lsn, TimelineId)>,
    tablespaces: Vec<Tablespace>,
    /// How many archives have begun.
    archives: usize,
}

/// `Row` states wait for a result's row, `Done` states for its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    StartRow,
    StartDone,
    TablespaceRows,
    /// Between copy streams (13, 14), or before the only one.
    BetweenCopies,
    /// Inside a copy stream; nothing has been announced in it yet (15).
    CopyBegun,
    InArchive,
    InManifest,
    EndRow,
    EndDone,
    Finished,
}

impl BackupReader {
    /// A reader of the answer to one BASE_BACKUP; `manifest_expected` says whether a manifest was asked for.
    pub fn new(dialect: BackupDialect, manifest_expected: bool) -> Self {
        BackupReader {
            dialect,
            manifest_expected,
            state: State::StartRow,
            start: None,
            tablespaces: Vec::new(),
            archives: 0,
        }
    }

    /// Whether the whole answer was read, up to and including ReadyForQuery's predecessor.
    pub fn is_finished(&self) -> bool {
        self.state == State::Finished
    }

    /// Takes the next message; many mean nothing by themselves and give `None`.
    ///
    /// ErrorResponse is the caller's to handle, like ParameterStatus: here it is only out of place.
    ///
    /// # Errors
    /// A [`WireError`] if the message is malformed or out of order; the stream is useless then.
    pub fn push(&mut self, message: BackendMessage) -> Result<Option<BackupEvent>, WireError> {
        match (self.state, message) {
            // The bulk first.
            (State::InArchive | State::InManifest | State::CopyBegun, BackendMessage::CopyData(body)) => {
                self.copy_data(body)
            }
            (_, BackendMessage::Notice(notice)) => Ok(Some(BackupEvent::Notice(notice))),
            (
                State::StartRow | State::TablespaceRows | State::BetweenCopies | State::EndRow,
                BackendMessage::RowDescription(_),
            ) => {
                if self.state == State::BetweenCopies {
                    self.all_copies_seen()?;
                    self.state = State::EndRow;
                }
                Ok(None)
            }
            (State::StartRow, BackendMessage::DataRow(row)) => {
                self.start = Some(position(&row, "start of backup")?);
                self.state = State::StartDone;
                Ok(None)
            }
            (State::StartDone, BackendMessage::CommandComplete(_)) => {
                self.state = State::TablespaceRows;
                Ok(None)
            }
            (State::TablespaceRows, BackendMessage::DataRow(row)) => self.tablespace(&row).map(|()| None),
            (State::TablespaceRows, BackendMessage::CommandComplete(_)) => self.header_done().map(Some),
            (State::BetweenCopies, BackendMessage::CopyOutResponse) => self.copy_begins(),
            (State::InArchive | State::InManifest | State::CopyBegun, BackendMessage::CopyDone) => {
                if self.state == State::CopyBegun {
                    return Err(WireError::UnexpectedMessage { during: DURING, tag: 'c' });
                }
                self.state = State::BetweenCopies;
                Ok(None)
            }
            // Some versions complete the copy with a message of its own.
            (State::BetweenCopies | State::EndRow, BackendMessage::CommandComplete(_)) => Ok(None),
            (State::EndRow, BackendMessage::DataRow(row)) => {
                let (end, timeline) = position(&row, "end of backup")?;
                self.state = State::EndDone;
                Ok(Some(BackupEvent::End { end, timeline }))
            }
            (State::EndDone, BackendMessage::CommandComplete(_)) => {
                self.state = State::Finished;
                Ok(None)
            }
            (State::Finished, BackendMessage::CommandComplete(_)) => Ok(None),
            (_, message) => Err(WireError::UnexpectedMessage { during: DURING, tag: message.tag() }),
        }
    }

    fn tablespace(&mut self, row: &TextRow) -> Result<(), WireError> {
        const RESULT: &str = "tablespace list";
        if self.tablespaces.len() == TABLESPACES_MAX {
            return Err(WireError::TooMany { what: "tablespaces", limit: TABLESPACES_MAX });
        }
        let oid: Option<u32> = row.parsed(0, RESULT, "OID")?;
        let location = row.bytes(1).filter(|location| !location.is_empty()).cloned();
        let size_kib: Option<u64> = row.parsed(2, RESULT, "size")?;
        if oid.is_some() != location.is_some() {
            return Err(WireError::bad_field(RESULT, "location", &format!("{location:?}")));
        }
        if self.tablespaces.iter().any(|known| known.oid == oid) {
            return Err(WireError::bad_field(RESULT, "OID", &format!("{oid:?} twice")));
        }
        let size_bytes = size_kib.map(|kib| kib.saturating_mul(1024));
        self.tablespaces.push(Tablespace { oid, location, size_bytes });
        Ok(())
    }

    fn header_done(&mut self) -> Result<BackupEvent, WireError> {
        let (Some((start, timeline)), true) = (self.start, self.tablespaces.iter().any(|t| t.oid.is_none()))
        else {
            return Err(WireError::bad_field("tablespace list", "data directory", "nothing"));
        };
        self.state = State::BetweenCopies;
        Ok(BackupEvent::Start { start, timeline, tablespaces: self.tablespaces.clone() })
    }

    fn copy_begins(&mut self) -> Result<Option<BackupEvent>, WireError> {
        if self.dialect == BackupDialect::SingleStream {
            if self.archives > 0 {
                return Err(WireError::UnexpectedMessage { during: DURING, tag: 'H' });
            }
            self.state = State::CopyBegun;
            return Ok(None);
        }
        if let Some(next) = self.tablespaces.get(self.archives) {
            self.archives += 1;
            self.state = State::InArchive;
            return Ok(Some(BackupEvent::Archive { tablespace: next.oid }));
        }
        self.manifest_begins().map(Some)
    }

    fn manifest_begins(&mut self) -> Result<BackupEvent, WireError> {
        if !self.manifest_expected || self.archives < self.tablespaces.len() {
            return Err(WireError::UnexpectedMessage { during: DURING, tag: 'm' });
        }
        // Not twice.
        self.manifest_expected = false;
        self.state = State::InManifest;
        Ok(BackupEvent::Manifest)
    }

    fn all_copies_seen(&self) -> Result<(), WireError> {
        if self.archives < self.tablespaces.len() || self.manifest_expected {
            return Err(WireError::UnexpectedMessage { during: DURING, tag: 'T' });
        }
        Ok(())
    }

    fn copy_data(&mut self, body: Bytes) -> Result<Option<BackupEvent>, WireError> {
        if self.dialect == BackupDialect::PerArchive {
            return Ok(Some(BackupEvent::Data(body)));
        }
        let mut reader = Reader::new("base backup", body);
        let tag = reader.u8()?;
        Ok(Some(match tag {
            b'd' if self.state != State::CopyBegun => BackupEvent::Data(reader.rest()),
            b'p' if self.state != State::CopyBegun => {
                let bytes = reader.u64()?;
                reader.finish()?;
                BackupEvent::Progress { bytes }
            }
            b'n' if self.state != State::InManifest => self.new_archive(reader)?,
            b'm' if self.state == State::InArchive => {
                reader.finish()?;
                self.manifest_begins()?
            }
            tag => return Err(WireError::UnexpectedMessage { during: DURING, tag: char::from(tag) }),
        }))
    }

    /// `n`: file name of the archive, tablespace path. The name must be that of the next one in the header.
    fn new_archive(&mut self, mut reader: Reader) -> Result<BackupEvent, WireError> {
        let name = reader.text()?;
        let _location = reader.c_string()?;
        reader.finish()?;
        let expected = self.tablespaces.get(self.archives).map(|tablespace| tablespace.oid);
        let tablespace = match name.strip_suffix(".tar") {
            Some("base") => Some(None),
            Some(oid) => oid.parse::<u32>().ok().map(Some),
            None => None,
        };
        match tablespace {
            Some(tablespace) if Some(tablespace) == expected => {
                self.archives += 1;
                self.state = State::InArchive;
                Ok(BackupEvent::Archive { tablespace })
            }
            _ => Err(WireError::bad_field("base backup", "archive name", &name)),
        }
    }
}

fn position(row: &TextRow, result: &'static str) -> Result<(Lsn, TimelineId), WireError> {
    Ok((row.required(0, result, "position")?, row.required(1, result, "timeline")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Frame;
    use bytes::{BufMut, BytesMut};
    use proptest::prelude::*;

    fn row(columns: &[Option<&str>]) -> BackendMessage {
        let mut body = BytesMut::new();
        body.put_u16(columns.len() as u16);
        for column in columns {
            body.put_i32(column.map_or(-1, |text| text.len() as i32));
            body.put_slice(column.unwrap_or_default().as_bytes());
        }
        BackendMessage::parse(Frame { tag: b'D', body: body.freeze() }).unwrap()
    }

    fn data(bytes: &'static [u8]) -> BackendMessage {
        BackendMessage::CopyData(Bytes::from_static(bytes))
    }

    fn result(rows: &[BackendMessage]) -> Vec<BackendMessage> {
        let mut messages = vec![BackendMessage::RowDescription(vec![])];
        messages.extend_from_slice(rows);
        messages.push(BackendMessage::CommandComplete("SELECT".to_owned()));
        messages
    }

    /// The header of a backup with one tablespace.
    fn header() -> Vec<BackendMessage> {
        let mut messages = result(&[row(&[Some("0/2000028"), Some("1")])]);
        let space = row(&[Some("16385"), Some("/srv/space"), Some("7")]);
        messages.extend(result(&[space, row(&[None, None, None])]));
        messages
    }

    fn footer() -> Vec<BackendMessage> {
        result(&[row(&[Some("0/2000100"), Some("1")])])
    }

    fn copy(messages: &[BackendMessage]) -> Vec<BackendMessage> {
        let mut copy = vec![BackendMessage::CopyOutResponse];
        copy.extend_from_slice(messages);
        copy.push(BackendMessage::CopyDone);
        copy
    }

    fn read(dialect: BackupDialect, messages: Vec<BackendMessage>) -> Result<Vec<BackupEvent>, WireError> {
        let mut reader = BackupReader::new(dialect, true);
        let mut events = Vec::new();
        for message in messages {
            events.extend(reader.push(message)?);
        }
        assert_eq!(reader.is_finished(), matches!(events.last(), Some(BackupEvent::End { .. })));
        Ok(events)
    }

    fn expected() -> Vec<BackupEvent> {
        let lsn = |text: &str| text.parse::<Lsn>().unwrap();
        let location = Some(Bytes::from_static(b"/srv/space"));
        vec![
            BackupEvent::Start {
                start: lsn("0/2000028"),
                timeline: TimelineId::FIRST,
                tablespaces: vec![
                    Tablespace { oid: Some(16385), location, size_bytes: Some(7 * 1024) },
                    Tablespace { oid: None, location: None, size_bytes: None },
                ],
            },
            BackupEvent::Archive { tablespace: Some(16385) },
            BackupEvent::Data(Bytes::from_static(b"space")),
            BackupEvent::Archive { tablespace: None },
            BackupEvent::Data(Bytes::from_static(b"base")),
            BackupEvent::Manifest,
            BackupEvent::Data(Bytes::from_static(b"manifest")),
            BackupEvent::End { end: lsn("0/2000100"), timeline: TimelineId::FIRST },
        ]
    }

    fn old_style() -> Vec<BackendMessage> {
        let copies = [copy(&[data(b"space")]), copy(&[data(b"base")]), copy(&[data(b"manifest")])];
        [header(), copies.concat(), footer()].concat()
    }

    fn new_style() -> Vec<BackendMessage> {
        let stream = copy(&[
            data(b"n16385.tar\0/srv/space\0"),
            data(b"dspace"),
            data(b"nbase.tar\0\0"),
            data(b"dbase"),
            data(b"m"),
            data(b"dmanifest"),
        ]);
        [header(), stream, footer()].concat()
    }

    #[test]
    fn both_dialects_read_alike() {
        assert_eq!(read(BackupDialect::PerArchive, old_style()).unwrap(), expected());
        assert_eq!(read(BackupDialect::SingleStream, new_style()).unwrap(), expected());
    }

    #[test]
    fn no_message_can_be_left_out() {
        // Cut one message at a time: either that is an error, or the backup does not end, or it made no difference.
        for (dialect, messages) in
            [(BackupDialect::PerArchive, old_style()), (BackupDialect::SingleStream, new_style())]
        {
            for left_out in 0..messages.len() {
                let mut cut = messages.clone();
                let missing = cut.remove(left_out);
                let harmless =
                    matches!(missing, BackendMessage::RowDescription(_) | BackendMessage::CopyData(_));
                let mut reader = BackupReader::new(dialect, true);
                let failed = cut.into_iter().any(|message| reader.push(message).is_err());
                assert!(failed || !reader.is_finished() || harmless, "{left_out}: {missing:?}");
            }
        }
    }

    #[test]
    fn archives_must_be_those_that_were_announced() {
        for name in
            [&b"nbase.tar\0\0"[..], b"n16386.tar\0\0", b"n../16385.tar\0\0", b"n16385.tar.gz\0\0", b"n\0\0"]
        {
            let messages = [header(), vec![BackendMessage::CopyOutResponse, data(name)]].concat();
            assert!(read(BackupDialect::SingleStream, messages).is_err(), "{name:?}");
        }
    }

    #[test]
    fn data_must_belong_to_something() {
        for message in [&b"dx"[..], b"p\0\0\0\0\0\0\0\x01", b"m", b"", b"z"] {
            let messages = [header(), vec![BackendMessage::CopyOutResponse, data(message)]].concat();
            assert!(read(BackupDialect::SingleStream, messages).is_err(), "{message:?}");
        }
    }

    #[test]
    fn a_header_that_makes_no_sense_is_refused() {
        let base = || row(&[None, None, None]);
        for rows in [
            vec![],
            vec![base(), base()],
            vec![row(&[Some("1"), None, None]), base()],
            vec![row(&[None, Some("/x"), None]), base()],
            vec![row(&[Some("x"), Some("/x"), None]), base()],
            vec![row(&[Some("1"), Some("/x"), Some("-1")]), base()],
        ] {
            let messages = [result(&[row(&[Some("0/1"), Some("1")])]), result(&rows)].concat();
            assert!(read(BackupDialect::SingleStream, messages).is_err(), "{rows:?}");
        }
        for start in [[None, Some("1")], [Some("0/1"), Some("0")], [Some("x"), Some("1")]] {
            assert!(read(BackupDialect::SingleStream, result(&[row(&start)])).is_err());
        }
    }

    proptest! {
        #[test]
        fn never_panics_in_any_order(
            order in prop::collection::vec((any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 0..20)), 0..60),
            single: bool,
        ) {
            let dialect = if single { BackupDialect::SingleStream } else { BackupDialect::PerArchive };
            let messages = [old_style(), new_style()].concat();
            let mut reader = BackupReader::new(dialect, true);
            for (index, bytes) in order {
                let mut message = index.get(&messages).clone();
                if let BackendMessage::CopyData(body) = &mut message {
                    *body = Bytes::from(bytes);
                }
                let _ = reader.push(message);
            }
        }
    }
}
