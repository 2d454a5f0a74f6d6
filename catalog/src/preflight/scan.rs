//! Reading the segments of a recovery, one at a time and only those that may matter.

use std::io::{self, Read};
use std::ops::ControlFlow;

use pgwal::record::RecordHeader;
use pgwal::rmgr::xact::{Xact, Xids};
use pgwal::rmgr::xlog::Xlog;
use pgwal::rmgr::{Operation, Rmgr};
use pgwal::{Decoder, Keep, Lsn, Parts, PgTimestamp, Record, SegmentSize, WalFile};

use crate::wal::WalError;
use crate::wal_map::{Known, WalMap};
use crate::{Layout, wal};

/// Size of the pieces in which a segment is read, in bytes.
const PIECE_BYTES: usize = 256 << 10;

/// Gives the bytes of segments.
pub trait SegmentReader {
    /// Opens a segment; `None` when it is gone.
    ///
    /// # Errors
    /// When it can't be read.
    fn open(&self, known: &Known) -> Result<Option<Box<dyn Read + '_>>, WalError>;
}

impl SegmentReader for Layout {
    fn open(&self, known: &Known) -> Result<Option<Box<dyn Read + '_>>, WalError> {
        let Some(open) = wal::find(self, WalFile::Segment(known.name), known.partial)? else {
            return Ok(None);
        };
        Ok(Some(Box::new(open.plain()?)))
    }
}

/// What a record is to recovery's stop.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event<'a> {
    /// A transaction ends.
    Ended { xid: u32, time: PgTimestamp, committed: bool, subxacts: Xids<'a> },
    /// A transaction is prepared.
    Prepared { xid: u32 },
    /// A restore point.
    RestorePoint { name: &'a [u8] },
    /// The end of the base backup that began there.
    BackupEnd { begin: Lsn },
    /// Anything else.
    Other,
}

/// A record that recovery reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) lsn: Lsn,
    pub(super) end: Lsn,
    pub(super) event: Event<'a>,
}

/// How the reading of a segment ended.
#[derive(Debug)]
pub(super) enum Scanned<T> {
    /// What was looked for.
    Found(T),
    /// All of the segment was read.
    Through,
    /// The WAL ends in it: nothing later can be reached.
    Ends { at: Lsn, why: Option<String> },
}

/// The segments of a recovery, read by position.
pub(super) struct Scanner<'a> {
    map: &'a WalMap,
    reader: &'a dyn SegmentReader,
    /// Places in the map, in the order of recovery.
    pub(super) path: Vec<usize>,
    /// Where recovery begins: what is before is not applied.
    begin: Lsn,
    /// A decoder at the start of that position of the path.
    ready: Option<(usize, Decoder)>,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(map: &'a WalMap, reader: &'a dyn SegmentReader, path: Vec<usize>, begin: Lsn) -> Self {
        Scanner { map, reader, path, begin, ready: None }
    }

    pub(super) fn size(&self) -> SegmentSize {
        self.map.size
    }

    pub(super) fn known(&self, at: usize) -> Option<&'a Known> {
        self.map.at(*self.path.get(at)?)
    }

    /// Reads the records that end in the segment at this position of the path, and calls `each` until it breaks.
    pub(super) fn segment<T>(
        &mut self,
        at: usize,
        mut each: impl FnMut(Seen<'_>) -> ControlFlow<T>,
    ) -> Result<Scanned<T>, WalError> {
        let Some(known) = self.known(at) else { return Ok(Scanned::Through) };
        let Some(start) = known.name.first_lsn(self.map.size) else { return Ok(Scanned::Through) };
        let mut decoder = match self.ready.take() {
            Some((ready, decoder)) if ready == at => decoder,
            _ => self.decoder_at(at, start)?,
        };
        let scanned = feed(self.reader, known, &mut decoder, |record, parts| {
            if record.lsn < self.begin {
                return ControlFlow::Continue(());
            }
            let event = event(record, parts);
            each(Seen { lsn: record.lsn, end: record.end, event })
        })?;
        if matches!(scanned, Scanned::Through) {
            self.ready = Some((at + 1, decoder));
        }
        Ok(scanned)
    }

    /// A decoder that has read what is before a position.
    fn decoder_at(&self, at: usize, start: Lsn) -> Result<Decoder, WalError> {
        let fresh = |start| Decoder::new(start, self.map.size).with_keep(Keep::Some(is_kept));
        let before = at.checked_sub(1).and_then(|before| self.known(before));
        let Some(before) = before else { return Ok(fresh(start)) };
        let index = before.index.as_ref().filter(|index| index.complete && index.end == start);
        if let Some((index, tail)) = index.and_then(|index| Some((index, index.tail.as_ref()?))) {
            return Ok(fresh(start).with_system_id(index.system_id).with_version(index.version).resume(
                tail.last_record,
                tail.timeline,
                tail.open.clone(),
            ));
        }
        let Some(first) = before.name.first_lsn(self.map.size) else { return Ok(fresh(start)) };
        let mut decoder = fresh(first);
        match feed(self.reader, before, &mut decoder, |_, _| ControlFlow::<()>::Continue(()))? {
            Scanned::Through => Ok(decoder),
            _ => Ok(fresh(start)),
        }
    }
}

fn feed<T>(
    reader: &dyn SegmentReader,
    known: &Known,
    decoder: &mut Decoder,
    mut each: impl FnMut(&Record<'_>, &mut Parts) -> ControlFlow<T>,
) -> Result<Scanned<T>, WalError> {
    let Some(mut source) = reader.open(known)? else {
        return Ok(Scanned::Ends { at: decoder.position(), why: None });
    };
    let failed = |source| WalError::Read { path: known.name.to_string().into(), source };
    let mut parts = Parts::new();
    let mut piece = vec![0; PIECE_BYTES];
    let mut reached = decoder.position();
    loop {
        let count = match source.read(&mut piece) {
            Ok(0) => return Ok(Scanned::Through),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // What can't be decompressed is damaged; what can't be read may be fine.
            Err(error) if error.raw_os_error().is_none() => {
                let why = Some(format!("it cannot be decompressed: {error}"));
                return Ok(Scanned::Ends { at: reached, why });
            }
            Err(error) => return Err(failed(error)),
        };
        let mut input = piece.get(..count).unwrap_or_default();
        loop {
            match decoder.next(&mut input) {
                Ok(None) => break,
                Ok(Some(record)) => {
                    reached = record.end;
                    if let ControlFlow::Break(found) = each(&record, &mut parts) {
                        return Ok(Scanned::Found(found));
                    }
                }
                Err(fault) => return Ok(Scanned::Ends { at: reached, why: Some(fault.to_string()) }),
            }
        }
    }
}

/// Records that are put together as a whole: those that [`event`] reads.
fn is_kept(header: &RecordHeader) -> bool {
    match Rmgr::from_id(header.rmid) {
        Rmgr::Transaction => true,
        // Page images are long, and say nothing here.
        Rmgr::Xlog => !matches!(header.operation(), 0xA0 | 0xB0),
        _ => false,
    }
}

fn event<'r>(record: &Record<'r>, parts: &mut Parts) -> Event<'r> {
    if !is_kept(&record.header) || parts.read(record).is_err() {
        return Event::Other;
    }
    match Operation::read(record, parts) {
        Some(Operation::Transaction(Xact::Commit(end))) => Event::Ended {
            xid: end.prepared_xid.unwrap_or(record.header.xid),
            time: end.time,
            committed: true,
            subxacts: end.subxacts,
        },
        Some(Operation::Transaction(Xact::Abort(end))) => Event::Ended {
            xid: end.prepared_xid.unwrap_or(record.header.xid),
            time: end.time,
            committed: false,
            subxacts: end.subxacts,
        },
        Some(Operation::Transaction(Xact::Prepare(prepare))) => Event::Prepared { xid: prepare.xid },
        Some(Operation::Xlog(Xlog::RestorePoint { name, .. })) => Event::RestorePoint { name },
        Some(Operation::Xlog(Xlog::BackupEnd(begin))) => Event::BackupEnd { begin },
        _ => Event::Other,
    }
}
