//! Bringing one file into the archive, up to the moment of its publication.

use std::borrow::Cow;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use barkeep_transport::codec::{Compression, Packer};
use barkeep_transport::durable::{self, DurableError, Step, TempFile};
use pgwal::WalFile;

use super::chain::Chain;
use super::look::{PACKED_BYTES_MAX, Scratch, fill, look_at, look_at_one};
use super::queue::QueuedFile;
use super::{ArchiveOptions, Verify};
use crate::index_store::ListedTimes;
use crate::inspect::{Cluster, Hash, Inspection, Soundness, judge_partial};
use crate::wal::{EMPTY, OpenWal, WalError, fault_of_segment};
use crate::xlogdb::{WalEntry, seconds};
use crate::{IndexStore, Layout};

/// Size of the pieces in which files are copied and compared, in bytes.
const PIECE_BYTES: usize = 256 << 10;

/// A file on its way.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) file: WalFile,
    pub(super) source: PathBuf,
    pub(super) stays: bool,
}

impl Job {
    /// The job of a file in a directory.
    pub(super) fn of(queued: &QueuedFile, directory: &Path) -> Self {
        let QueuedFile { file, stays } = *queued;
        Job { file, source: directory.join(file.to_string()), stays }
    }
}

/// What the files of a batch have in common.
pub(super) struct Work<'a> {
    pub(super) layout: &'a Layout,
    pub(super) options: &'a ArchiveOptions,
    pub(super) cluster: Option<Cluster>,
    pub(super) chain: Chain<'a>,
}

/// What was found out, or made ready.
#[derive(Debug)]
pub(super) enum Prepared {
    /// Compressed or copied into a temporary file.
    Copy(TempFile, Arrival),
    /// On the archive's file system, in the form it is to have: a link will do.
    Link(PathBuf, Arrival),
    /// The archive has it already, with the same content.
    Same,
    /// The archive has a file of that name with other content, or one that can't be compared.
    Different(String),
    /// Damaged, or another cluster's: not to be archived at all.
    Refused(Soundness, String),
    /// Not to be archived as it is.
    Unfit(String),
    /// Gone meanwhile.
    Gone,
}

impl Prepared {
    /// Whether this was found out by looking at a file that is in the archive.
    pub(super) fn rests_on_archived(&self) -> bool {
        match self {
            Prepared::Copy(_, arrival) | Prepared::Link(_, arrival) => arrival.replaces,
            Prepared::Same | Prepared::Different(_) => true,
            Prepared::Refused(..) | Prepared::Unfit(_) | Prepared::Gone => false,
        }
    }

    /// Brings the content to stable storage. Apart from the preparation, because it waits where that works.
    pub(super) fn sync(&mut self) -> Result<(), DurableError> {
        match self {
            Prepared::Copy(copy, _) => copy.sync(),
            Prepared::Link(source, _) => durable::sync_file(source),
            _ => Ok(()),
        }
    }
}

/// What is to be noted of a file once it is in the archive.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) entry: WalEntry,
    pub(super) inspection: Option<Inspection>,
    /// Whether the archive has a damaged file of that name, which has to make room.
    pub(super) replaces: bool,
}

/// Why a file could not be prepared.
#[derive(Debug)]
pub(super) enum PrepareError {
    /// The source can't be read: its fault alone.
    Source(WalError),
    /// The archive can't be written: the next file would meet the same.
    Archive(DurableError),
}

impl From<WalError> for PrepareError {
    fn from(error: WalError) -> Self {
        PrepareError::Source(error)
    }
}

impl From<DurableError> for PrepareError {
    fn from(error: DurableError) -> Self {
        PrepareError::Archive(error)
    }
}

/// Makes a file ready for publication, but for its sync. Its directory in the archive exists. Publishes nothing, so any number of these
/// may run at once.
pub(super) fn prepare(
    job: &Job,
    place: usize,
    work: &Work<'_>,
    scratch: &mut Scratch,
) -> Result<Prepared, PrepareError> {
    let Work { layout, options, .. } = work;
    let destination = layout.wal(&job.file);
    let archived = destination.exists();
    if archived && job.stays {
        // It will be compared when it is about to be removed.
        return Ok(Prepared::Same);
    }
    let Some(open) = OpenWal::open(&job.source)? else { return Ok(Prepared::Gone) };
    let unreadable = |source| WalError::Read { path: job.source.clone(), source };
    if let Some(fault) = unfit(job.file, &open).map_err(unreadable)? {
        return Ok(Prepared::Unfit(fault));
    }
    let mut replaces = None;
    if archived {
        match compare(&job.source, &destination)? {
            Prepared::Different(why) => match flaw(job.file, layout, options.verify, work.cluster) {
                Some(flaw) => replaces = Some(flaw),
                None => return Ok(Prepared::Different(why)),
            },
            other => return Ok(other),
        }
    }
    let metadata = fs::metadata(&job.source).map_err(unreadable)?;
    // What comes compressed already is kept as it is.
    let packed = open.compression;
    let compression = if packed == Compression::None { options.compression } else { packed };
    let mut entry = WalEntry {
        file: job.file,
        size: metadata.len(),
        time: modified_seconds(&metadata).map_err(unreadable)?,
        compression: (compression != Compression::None).then(|| Cow::Borrowed(compression.name())),
        encryption: None,
    };
    let links = compression == packed
        && !job.stays
        && fs::metadata(layout.wal_directory(&job.file)).map_err(unreadable)?.dev() == metadata.dev();
    let encode = if compression == packed { Compression::None } else { compression };
    // Beside a compressor with large tables it would be too much; the system has it in memory too.
    let keep = packed == Compression::None
        && !links
        && (encode == Compression::None || encode.packs_frugally(options.level));
    let inspection = match inspect(job, place, open, work, keep, scratch)? {
        Ok(inspection) => inspection,
        Err((soundness, note)) => return Ok(Prepared::Refused(soundness, note)),
    };
    let is_sound = inspection.as_ref().is_some_and(|found| found.soundness == Soundness::Sound);
    match &replaces {
        Some(_) if !is_sound => return Ok(Prepared::Different("neither of the two is sound".to_owned())),
        Some(Flaw::Altered(hash)) if inspection.as_ref().is_none_or(|found| found.hash != *hash) => {
            return Ok(Prepared::Different("neither of the two is what was archived".to_owned()));
        }
        _ => {}
    }
    let replaces = replaces.is_some();
    if links {
        return Ok(Prepared::Link(job.source.clone(), Arrival { entry, inspection, replaces }));
    }
    let held = scratch.held().filter(|(held, _)| held.len() as u64 == metadata.len());
    let mut copy = match held {
        Some((held, packer)) => match pack(held, packer, encode, options, &destination)? {
            Some(copy) => copy,
            None => copy(held, &job.source, &destination, encode, options)?,
        },
        None => match OpenWal::open(&job.source)? {
            Some(open) => copy(open.stored(), &job.source, &destination, encode, options)?,
            None => return Ok(Prepared::Gone),
        },
    };
    copy.set_metadata(Some(metadata.permissions().mode()), metadata.modified().ok())?;
    entry.size = copy.file().metadata().map_err(|error| copy.failed(Step::Metadata, error))?.len();
    Ok(Prepared::Copy(copy, Arrival { entry, inspection, replaces }))
}

/// Why a file is not whole yet, as far as its length tells.
fn unfit(file: WalFile, open: &OpenWal) -> io::Result<Option<String>> {
    match file {
        WalFile::Segment(_) if open.compression == Compression::None => fault_of_segment(open),
        _ => Ok((open.stored_bytes()? == 0).then(|| EMPTY.to_owned())),
    }
}

/// Why another segment may take an archived one's place.
pub(crate) enum Flaw {
    /// It is damaged.
    Damaged,
    /// It is not what was archived, which had this hash.
    Altered(Hash),
}

/// What is wrong with an archived segment. Where segments are not judged, nothing is.
pub(crate) fn flaw(file: WalFile, layout: &Layout, verify: Verify, cluster: Option<Cluster>) -> Option<Flaw> {
    let WalFile::Segment(segment) = file else { return None };
    if verify == Verify::Off {
        return None;
    }
    let open = OpenWal::open(&layout.wal(&file)).ok()??;
    let looked = look_at_one(segment, open, cluster, true).ok()?;
    if looked.soundness == Soundness::Damaged {
        return Some(Flaw::Damaged);
    }
    let entry = IndexStore::of(layout).entry(segment).ok()??;
    let known = entry.facts.hash;
    let is_altered = known != Hash::default() && known != looked.hash;
    let is_another = || entry.is_of_another(looked.index.as_deref(), &ListedTimes::of(layout));
    (is_altered && !is_another()).then_some(Flaw::Altered(known))
}

/// Makes one file that stays where it is ready for publication, judging it while a copy is written: for when somebody
/// waits for this one. It is read twice, the second time from memory.
pub(super) fn prepare_at_once(job: &Job, work: &Work<'_>) -> Result<Prepared, PrepareError> {
    let Work { layout, options, .. } = work;
    let Some(open) = OpenWal::open(&job.source)? else { return Ok(Prepared::Gone) };
    let unreadable = |source| WalError::Read { path: job.source.clone(), source };
    if let Some(fault) = unfit(job.file, &open).map_err(unreadable)? {
        return Ok(Prepared::Unfit(fault));
    }
    let metadata = fs::metadata(&job.source).map_err(unreadable)?;
    let packed = open.compression;
    let compression = if packed == Compression::None { options.compression } else { packed };
    let encode = if compression == packed { Compression::None } else { compression };
    let destination = layout.wal(&job.file);
    let write = || -> Result<Option<TempFile>, PrepareError> {
        let Some(open) = OpenWal::open(&job.source)? else { return Ok(None) };
        let mut copy = copy(open.stored(), &job.source, &destination, encode, options)?;
        copy.set_metadata(Some(metadata.permissions().mode()), metadata.modified().ok())?;
        copy.sync()?;
        Ok(Some(copy))
    };
    let (inspected, written) = std::thread::scope(|scope| {
        let writing = scope.spawn(write);
        let inspected = inspect(job, 0, open, work, false, &mut Scratch::default());
        (inspected, writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let inspection = match inspected? {
        Ok(inspection) => inspection,
        Err((soundness, note)) => return Ok(Prepared::Refused(soundness, note)),
    };
    let Some(copy) = written? else { return Ok(Prepared::Gone) };
    let size = copy.file().metadata().map_err(|error| copy.failed(Step::Metadata, error))?.len();
    let entry = WalEntry {
        file: job.file,
        size,
        time: modified_seconds(&metadata).map_err(unreadable)?,
        compression: (compression != Compression::None).then(|| Cow::Borrowed(compression.name())),
        encryption: None,
    };
    Ok(Prepared::Copy(copy, Arrival { entry, inspection, replaces: false }))
}

/// Looks at a file before it is archived, and hands its index on. What the archive doesn't admit comes back as the inner
/// error; `None` is a file about which there is nothing to say.
fn inspect(
    job: &Job,
    place: usize,
    open: OpenWal,
    work: &Work<'_>,
    keep: bool,
    scratch: &mut Scratch,
) -> Result<Result<Option<Inspection>, (Soundness, String)>, PrepareError> {
    let verify = work.options.verify;
    let judge = verify != Verify::Off;
    scratch.forget();
    match job.file {
        WalFile::Segment(segment) => {
            let before = |size| work.chain.before(place, size);
            let looked = look_at(segment, open, work.cluster, judge, before, keep, scratch)?;
            if !verify.admits(looked.soundness) {
                return Ok(Err((looked.soundness, looked.note)));
            }
            work.chain.post(place, looked.index.clone());
            Ok(Ok(Some(looked)))
        }
        WalFile::Partial(segment) if judge && open.compression == Compression::None => {
            let (soundness, note) = judge_partial(segment, open.first_bytes(), work.cluster);
            Ok(if verify.admits(soundness) { Ok(None) } else { Err((soundness, note)) })
        }
        WalFile::Partial(_) | WalFile::Label { .. } | WalFile::History(_) => Ok(Ok(None)),
    }
}

/// When a file was last modified, in seconds since 1970.
pub(super) fn modified_seconds(metadata: &fs::Metadata) -> io::Result<f64> {
    Ok(seconds(metadata.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default()))
}

/// Copies without linking, for when a link that looked possible is refused.
pub(super) fn copy_instead(
    source: &Path,
    destination: &Path,
    options: &ArchiveOptions,
) -> Result<Option<TempFile>, PrepareError> {
    let Some(open) = OpenWal::open(source)? else { return Ok(None) };
    let metadata =
        fs::metadata(source).map_err(|error| WalError::Read { path: source.to_owned(), source: error })?;
    let mut copy = copy(open.stored(), source, destination, Compression::None, options)?;
    copy.set_metadata(Some(metadata.permissions().mode()), metadata.modified().ok())?;
    copy.sync()?;
    Ok(Some(copy))
}

/// Compresses what is in memory at once, where that can be done.
fn pack(
    held: &[u8],
    packer: &mut Option<Packer>,
    encode: Compression,
    options: &ArchiveOptions,
    destination: &Path,
) -> Result<Option<TempFile>, PrepareError> {
    let packer = match packer {
        Some(packer) => packer,
        none => {
            let packer = Packer::new(encode, options.level, PACKED_BYTES_MAX);
            none.insert(packer.map_err(|source| DurableError {
                step: Step::Write,
                path: destination.to_owned(),
                source,
            })?)
        }
    };
    let Some(packed) = packer.pack(held) else { return Ok(None) };
    let mut copy = TempFile::create(destination)?;
    copy.write_bytes(packed)?;
    Ok(Some(copy))
}

fn copy(
    mut source: impl Read,
    path: &Path,
    destination: &Path,
    encode: Compression,
    options: &ArchiveOptions,
) -> Result<TempFile, PrepareError> {
    let target = TempFile::create(destination)?;
    let refused = |source| DurableError { step: Step::Write, path: destination.to_owned(), source };
    let mut encoder = encode.writer(target, options.level).map_err(refused)?;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let count = match source.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(WalError::Read { path: path.to_owned(), source }.into()),
        };
        encoder.write_all(&piece[..count]).map_err(refused)?;
    }
    Ok(encoder.finish().map_err(refused)?)
}

/// Compares a file with the one in the archive, both decompressed.
pub(super) fn compare(source: &Path, archived: &Path) -> Result<Prepared, PrepareError> {
    let unreadable = |path: &Path, source| WalError::Read { path: path.to_owned(), source };
    let ours = match fs::metadata(source) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Prepared::Gone),
        Err(error) => return Err(unreadable(source, error).into()),
    };
    let theirs = fs::metadata(archived).map_err(|error| unreadable(archived, error))?;
    if (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()) {
        return Ok(Prepared::Same);
    }
    let Some(open) = OpenWal::open(source)? else { return Ok(Prepared::Gone) };
    // From here on, trouble with the archived file is a difference: the new one may be the only good copy.
    let archived = match OpenWal::open(archived) {
        Ok(Some(archived)) => archived,
        Ok(None) => return Err(unreadable(archived, io::ErrorKind::NotFound.into()).into()),
        Err(error) => return Ok(Prepared::Different(format!("it cannot be compared: {error}"))),
    };
    let archived_path = archived.path.clone();
    let (mut new, mut old) = (open.plain()?, archived.plain()?);
    let (mut new_piece, mut old_piece) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
    let mut offset = 0_u64;
    loop {
        let new_count = fill(&mut new, &mut new_piece).map_err(|error| unreadable(source, error))?;
        let old_count = match fill(&mut old, &mut old_piece) {
            Ok(count) => count,
            Err(error) => {
                let why = format!("the archived '{}' cannot be read: {error}", archived_path.display());
                return Ok(Prepared::Different(why));
            }
        };
        let (new_bytes, old_bytes) = (&new_piece[..new_count], &old_piece[..old_count]);
        if new_bytes != old_bytes {
            let same = new_bytes.iter().zip(old_bytes).take_while(|(new, old)| new == old).count();
            return Ok(Prepared::Different(format!("they differ from byte {} on", offset + same as u64)));
        }
        if new_count == 0 {
            return Ok(Prepared::Same);
        }
        offset += new_count as u64;
    }
}

/// Whether two WAL files hold the same when decompressed; `None` when one of them is gone meanwhile.
pub(crate) fn same_content(new: &Path, existing: &Path) -> Result<Option<bool>, WalError> {
    match compare(new, existing) {
        Ok(Prepared::Same) => Ok(Some(true)),
        Ok(Prepared::Different(_)) => Ok(Some(false)),
        Ok(_) => Ok(None),
        Err(PrepareError::Source(WalError::Read { source, .. }))
            if source.kind() == io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(PrepareError::Source(error)) => Err(error),
        // Comparing writes nothing.
        Err(PrepareError::Archive(error)) => Err(WalError::Read { path: error.path, source: error.source }),
    }
}
