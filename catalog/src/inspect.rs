//! Looking at a segment while its bytes pass by: is it sound, what does it hold, what is its hash.
//!
//! The bytes are read once. Only when something is wrong are they read again, to tell damage from what PostgreSQL itself
//! would replay.

use std::io::{self, Read};
use std::sync::Arc;

use pgwal::index::{IndexOptions, Indexer};
use pgwal::page::{LONG_HEADER_BYTES, LongHeader, PageHeader, identify_segment};
use pgwal::{Fault, FaultKind, SegmentName, SegmentSize, WalVersion};
use twox_hash::XxHash3_128;

pub use pgwal::index::SegmentIndex;

/// Size of the pieces in which a segment is read again, in bytes.
const PIECE_BYTES: usize = 256 << 10;
/// The versions whose WAL can be judged.
const KNOWN_VERSIONS: std::ops::RangeInclusive<u32> = 13..=18;

/// An XXH3 hash of 128 bits, big-endian: against decay, not against forgery.
pub type Hash = [u8; 16];

/// How sound a segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Soundness {
    /// It was not judged.
    Unjudged,
    /// From its first byte to its last, and it follows the segment before where that is known.
    Sound,
    /// PostgreSQL replays all of it, but it holds something that a server does not write.
    Odd,
    /// Sound in itself, but it does not follow the segment before in the archive.
    Unlinked,
    /// As far as can be told recovery gets through it, but its bytes are not those that were archived.
    Altered,
    /// No WAL of a known version, from a cluster of unknown version: nothing can be said about it.
    Unknown,
    /// PostgreSQL would stop inside it, or not begin with it at all.
    Damaged,
    /// The WAL of another cluster.
    Foreign,
}

impl Soundness {
    /// Whether recovery gets through it, as far as can be told.
    pub const fn replays(self) -> bool {
        !matches!(self, Soundness::Damaged | Soundness::Foreign)
    }

    /// Whether something has happened to it, or to the segment before it: recovery may not get through, or to its end.
    pub const fn is_damage(self) -> bool {
        matches!(self, Soundness::Unlinked | Soundness::Altered) || !self.replays()
    }

    /// Whether there is nothing to tell about it.
    pub const fn is_fine(self) -> bool {
        matches!(self, Soundness::Unjudged | Soundness::Sound)
    }
}

/// What is known of the cluster whose WAL this should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cluster {
    /// Its system identifier.
    pub system_id: u64,
    /// Its major version, where it is known.
    pub version: Option<u32>,
}

/// What was found out about a segment.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// How sound it is.
    pub soundness: Soundness,
    /// What is wrong; empty when nothing is.
    pub note: String,
    /// What it holds, as far as it could be read.
    pub index: Option<Arc<SegmentIndex>>,
    /// Whether the index was made with the one before it: a record that crosses into the segment is in it.
    pub chained: bool,
    /// Its length when decompressed, in bytes.
    pub bytes: u64,
    /// The hash of its decompressed bytes.
    pub hash: Hash,
}

/// Looks at the bytes of one segment as they pass by.
pub struct Inspector {
    segment: SegmentName,
    cluster: Option<Cluster>,
    before: Option<Arc<SegmentIndex>>,
    judge: bool,
    hash: XxHash3_128,
    bytes: u64,
    size: Option<SegmentSize>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Reading(Box<Indexer>),
    /// Its verdict is certain.
    Decided(Soundness, String),
    /// Something is wrong: it has to be read again.
    Doubtful,
}

impl std::fmt::Debug for Inspector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inspector")
            .field("segment", &self.segment)
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

impl Inspector {
    /// Begins with a segment's first bytes: as many as there are, up to [`LONG_HEADER_BYTES`]. `before` gives the index of
    /// the segment before, when it is asked with the segment size; unless `judge`, the segment is indexed only.
    pub fn begin(
        segment: SegmentName,
        first_bytes: &[u8],
        cluster: Option<Cluster>,
        judge: bool,
        before: impl FnOnce(SegmentSize) -> Option<Arc<SegmentIndex>>,
    ) -> Self {
        let mut inspector = Inspector {
            segment,
            cluster,
            before: None,
            judge,
            hash: XxHash3_128::new(),
            bytes: 0,
            size: None,
            stage: Stage::Doubtful,
        };
        inspector.stage = inspector.recognise(first_bytes, before);
        inspector
    }

    fn recognise(
        &mut self,
        first_bytes: &[u8],
        before: impl FnOnce(SegmentSize) -> Option<Arc<SegmentIndex>>,
    ) -> Stage {
        let Some((_, _, long, size)) = identify_segment(first_bytes) else {
            let (soundness, note) = unrecognised(first_bytes, self.cluster);
            return Stage::Decided(soundness, note);
        };
        if let Some(foreign) = self.foreign(&long) {
            return Stage::Decided(Soundness::Foreign, foreign);
        }
        self.size = Some(size);
        // What does not fit is as good as not known.
        let segment = self.segment;
        self.before = before(size).filter(|before| Indexer::after(before, segment, false).is_some());
        match self.indexer(self.before.as_deref(), self.judge) {
            Some(indexer) => Stage::Reading(Box::new(indexer)),
            None => {
                let note = format!("no cluster with WAL segments of {size} has a segment {}", self.segment);
                Stage::Decided(Soundness::Damaged, note)
            }
        }
    }

    /// Takes in the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.hash.write(bytes);
        self.bytes += bytes.len() as u64;
        if let Stage::Reading(indexer) = &mut self.stage
            && indexer.feed(bytes).is_err()
            && self.judge
        {
            self.stage = Stage::Doubtful;
        }
    }

    /// Ends, when all bytes were taken in. `again` opens the segment once more, decompressed.
    ///
    /// # Errors
    /// When it had to be read again and could not.
    pub fn finish<R: Read>(mut self, again: impl Fn() -> io::Result<R>) -> io::Result<Inspection> {
        let mut stage = std::mem::replace(&mut self.stage, Stage::Doubtful);
        if let (Stage::Reading(indexer), true) = (&mut stage, self.judge)
            && indexer.fault_at_end().is_some()
        {
            stage = Stage::Doubtful;
        }
        match stage {
            Stage::Reading(indexer) => {
                let soundness = if self.judge { Soundness::Sound } else { Soundness::Unjudged };
                let chained = self.before.is_some();
                Ok(self.inspection(soundness, String::new(), indexer.finish(), chained))
            }
            Stage::Decided(soundness, note) => {
                let soundness = if self.judge { soundness } else { Soundness::Unjudged };
                Ok(self.inspection(soundness, note, None, false))
            }
            Stage::Doubtful => self.reconsider(&again),
        }
    }

    /// Tells damage from what PostgreSQL would replay, and a wrong segment from a wrong predecessor.
    fn reconsider<R: Read>(self, again: &impl Fn() -> io::Result<R>) -> io::Result<Inspection> {
        let (as_chained, chained) = match &self.before {
            Some(before) => {
                let (fault, index) = self.pass(again, Some(before), false)?;
                (fault, index)
            }
            None => (None, None),
        };
        let (strictly, alone) = self.pass(again, None, true)?;
        let is_chained = chained.is_some() && as_chained.is_none();
        Ok(match (strictly, as_chained) {
            // A timeline announced in the segment before looks unannounced here, and such like.
            (None, None) => {
                let index = if is_chained { chained } else { alone };
                self.inspection(Soundness::Sound, String::new(), index, is_chained)
            }
            (None, Some(fault)) => {
                let note = format!("it does not follow the segment before it: {fault}");
                self.inspection(Soundness::Unlinked, note, alone, false)
            }
            (Some(strictly), as_chained) => {
                let (fault, loosely) = self.pass(again, None, false)?;
                match fault {
                    None => {
                        let (index, is_chained) = match chained.filter(|_| as_chained.is_none()) {
                            Some(chained) => (Some(chained), true),
                            None => (loosely, false),
                        };
                        self.inspection(Soundness::Odd, strictly.to_string(), index, is_chained)
                    }
                    Some(Fault { kind: FaultKind::SystemId { .. }, .. }) => {
                        self.inspection(Soundness::Foreign, strictly.to_string(), None, false)
                    }
                    Some(fault) => self.inspection(Soundness::Damaged, fault.to_string(), loosely, false),
                }
            }
        })
    }

    /// Reads the segment again: the first fault, and the index of what comes before that.
    fn pass<R: Read>(
        &self,
        again: &impl Fn() -> io::Result<R>,
        before: Option<&SegmentIndex>,
        strictly: bool,
    ) -> io::Result<(Option<Fault>, Option<SegmentIndex>)> {
        let Some(mut indexer) = self.indexer(before, strictly) else { return Ok((None, None)) };
        let mut source = again()?;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let count = match source.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if let Err(fault) = indexer.feed(&piece[..count]) {
                return Ok((Some(fault), indexer.finish()));
            }
        }
        let fault = indexer.fault_at_end();
        Ok((fault, indexer.finish()))
    }

    fn indexer(&self, before: Option<&SegmentIndex>, strictly: bool) -> Option<Indexer> {
        let segment_size = self.size?;
        let after = before.and_then(|before| Indexer::after(before, self.segment, false));
        let options = IndexOptions { segment_size, blocks: false };
        let mut indexer = after.or_else(|| Indexer::new(self.segment, options))?;
        if let Some(cluster) = self.cluster {
            indexer = indexer.with_system_id(cluster.system_id);
        }
        Some(if strictly { indexer.strict() } else { indexer })
    }

    fn inspection(
        self,
        soundness: Soundness,
        note: String,
        index: Option<SegmentIndex>,
        chained: bool,
    ) -> Inspection {
        let (index, hash) = (index.map(Arc::new), self.hash.finish_128().to_be_bytes());
        Inspection { soundness, note, index, chained, bytes: self.bytes, hash }
    }

    fn foreign(&self, long: &LongHeader) -> Option<String> {
        let expected = self.cluster?.system_id;
        let found = long.system_id;
        (found != expected).then(|| FaultKind::SystemId { found, expected }.to_string())
    }
}

/// Judges a partial segment by its first bytes: its WAL ends somewhere, and what comes then is no damage.
pub fn judge_partial(
    segment: SegmentName,
    first_bytes: &[u8],
    cluster: Option<Cluster>,
) -> (Soundness, String) {
    let Some((_, header, long, size)) = identify_segment(first_bytes) else {
        return unrecognised(first_bytes, cluster);
    };
    if let Some(expected) = cluster.map(|cluster| cluster.system_id).filter(|id| *id != long.system_id) {
        return (Soundness::Foreign, FaultKind::SystemId { found: long.system_id, expected }.to_string());
    }
    match segment.first_lsn(size) {
        Some(start) if start == header.address => (Soundness::Sound, String::new()),
        _ => (Soundness::Damaged, FaultKind::PageAddress { found: header.address }.to_string()),
    }
}

/// Judges bytes that don't begin as WAL of a known version does. Where the cluster is known to have such a version, it
/// can't have written them. Nor can any, where only the version is right.
fn unrecognised(first_bytes: &[u8], cluster: Option<Cluster>) -> (Soundness, String) {
    let header = PageHeader::read(first_bytes);
    if header.is_some_and(|header| WalVersion::from_magic(header.magic).is_some()) {
        let note = "its first page has no long header, or one with an impossible segment size";
        return (Soundness::Damaged, note.to_owned());
    }
    let note = match header.filter(|_| first_bytes.len() >= LONG_HEADER_BYTES) {
        Some(header) => format!(
            "it does not begin with a WAL page of PostgreSQL 13 to 18, but with magic number {:04X}",
            header.magic
        ),
        None => "it does not begin with a WAL page of PostgreSQL 13 to 18".to_owned(),
    };
    let is_known = cluster
        .is_some_and(|cluster| cluster.version.is_none_or(|version| KNOWN_VERSIONS.contains(&version)));
    (if is_known { Soundness::Damaged } else { Soundness::Unknown }, note)
}
