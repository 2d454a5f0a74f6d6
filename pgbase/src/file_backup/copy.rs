//! The threads that copy: large files in ranges, largest first, then small ones in batches.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use barkeep_transport::host::{
    Digest, FileEnd, Host, HostError, Known, PIECE_BYTES, ReadJob, ReadOptions, ReadSink, block_digest,
};

use crate::copy::{CopyMethod, Directory};
use crate::manifest::{ChecksumAlgorithm, FileHasher};
use crate::pipeline::{CorruptPage, CorruptPages, MAX_CORRUPT_PAGES};
use crate::pool;

use super::inspector::{self, Parameters};
use super::limit::Limiter;
use super::list::{FileList, State};
use super::reference::{Earlier, Known as KnownChecksums, OpenReference, Reuse, link};
use super::target::{Output, Target, Writer};
use super::{FileBackupError, FileBackupObserver, FileBackupPlan, Tree, TreeKind};

/// Files from this size on are copied one by one, in ranges where their checksum allows, in bytes.
const LARGE_BYTES: u64 = 4 << 20;
/// Size of a range in bytes.
const RANGE_BYTES: u64 = 32 << 20;
/// Most files of a batch.
const BATCH_FILES: usize = 128;
/// Most bytes of a batch, more or less.
const BATCH_BYTES: u64 = 8 << 20;
/// Blocks that are compared with an earlier copy, in bytes: a page, for those are what changes.
const BLOCK_BYTES: u32 = 8192;
/// Below this size comparing costs more than sending, in bytes.
const COMPARE_FROM_BYTES: u64 = 32 << 10;

/// What was copied.
pub(super) struct Outcome {
    pub(super) list: FileList,
    pub(super) corrupt: CorruptPages,
    pub(super) total_bytes: u64,
    pub(super) new_bytes: u64,
}

/// Something to do for one thread.
enum Job {
    /// A part of a large file, by its index among them.
    Range { large: usize, offset: u64, length: u64 },
    /// Small files with these row numbers, all of one tree.
    Batch { rows: std::ops::Range<usize>, tree: u16 },
}

/// A large file under way.
struct Large {
    row: usize,
    state: Mutex<LargeState>,
}

#[derive(Default)]
struct LargeState {
    output: Option<Arc<Output>>,
    parts: Vec<Part>,
    ranges: usize,
    vanished: bool,
    modified_ns: i64,
}

struct Part {
    offset: u64,
    wanted: u64,
    got: u64,
    hash: Hash,
}

/// A checksum that can be put together from those of ranges, or one that can't.
enum Hash {
    Crc(u32),
    Other(Box<FileHasher>),
}

impl Hash {
    fn new(algorithm: ChecksumAlgorithm) -> Self {
        match algorithm {
            ChecksumAlgorithm::Crc32c => Hash::Crc(0),
            other => Hash::Other(Box::new(other.hasher())),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Hash::Crc(crc) => *crc = crc32c::crc32c_append(*crc, bytes),
            Hash::Other(hasher) => hasher.update(bytes),
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Hash::Crc(crc) => crc.to_le_bytes().to_vec(),
            Hash::Other(hasher) => {
                let mut bytes = Vec::new();
                hasher.finish_into(&mut bytes);
                bytes
            }
        }
    }
}

/// What the threads share.
struct Work<'a> {
    host: &'a dyn Host,
    plan: &'a FileBackupPlan,
    target: &'a Target,
    trees: &'a [Tree],
    observer: &'a dyn FileBackupObserver,
    limiter: Option<Limiter>,
    references: Vec<OpenReference>,
    checksums: Vec<KnownChecksums>,
    method: CopyMethod,
    larges: Vec<Large>,
    /// What the threads change; nobody keeps it for long.
    shared: Mutex<Shared>,
    list: &'a FileList,
}

struct Shared {
    finished: Vec<(usize, Option<Finished>)>,
    corrupt: CorruptPages,
    new_bytes: u64,
}

struct Finished {
    size: u64,
    modified_ns: i64,
    checksum: Vec<u8>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Copies everything that is listed.
pub(super) fn copy_all(
    host: &dyn Host,
    plan: &FileBackupPlan,
    target: &Target,
    trees: &[Tree],
    mut list: FileList,
    observer: &dyn FileBackupObserver,
) -> Result<Outcome, FileBackupError> {
    list.begin_copy();
    let oids: Vec<u32> = plan.tablespaces.iter().map(|one| one.oid).collect();
    let references: Vec<OpenReference> =
        plan.references.iter().map(|reference| OpenReference::open(reference, &oids)).collect();
    let prefixes: Vec<String> = trees.iter().map(|tree| tree.prefix.clone()).collect();
    let checksums = references
        .iter()
        .map(|reference| reference.checksums(&list, plan.manifest_checksum, &prefixes))
        .collect();
    let (jobs, larges) = jobs(&list, plan.manifest_checksum);
    let shared = Shared { finished: Vec::new(), corrupt: CorruptPages::default(), new_bytes: 0 };
    let work = Work {
        host,
        plan,
        target,
        trees,
        observer,
        limiter: plan.limit_kib.and_then(Limiter::from_kib),
        references,
        checksums,
        method: CopyMethod::default(),
        larges,
        shared: Mutex::new(shared),
        list: &list,
    };
    pool::run(&jobs, plan.jobs.max(1), Writer::new, |writer, job, stop| work.run(writer, job, stop))?;
    let Work { shared, .. } = work;
    let shared = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    for (index, finished) in shared.finished {
        list.finish(index, finished.as_ref().map(|file| (file.size, file.modified_ns, &file.checksum[..])));
    }
    let total_bytes = list.totals().1;
    Ok(Outcome { list, corrupt: shared.corrupt, total_bytes, new_bytes: shared.new_bytes })
}

/// Divides the files among jobs.
fn jobs(list: &FileList, algorithm: ChecksumAlgorithm) -> (Vec<Job>, Vec<Large>) {
    let mut large_rows: Vec<usize> = Vec::new();
    let mut batches = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    let tree_of = |index: usize| list.rows.get(index).map(|row| list.directory(row).tree);
    for (index, row) in list.rows.iter().enumerate() {
        let is_large = row.size >= LARGE_BYTES && row.state == State::Listed;
        if is_large {
            large_rows.push(index);
        } else {
            bytes += row.size;
        }
        let ends =
            index + 1 - start >= BATCH_FILES || bytes >= BATCH_BYTES || tree_of(index + 1) != tree_of(index);
        if ends {
            batches.push(Job::Batch { rows: start..index + 1, tree: list.directory(row).tree });
            (start, bytes) = (index + 1, 0);
        }
    }
    large_rows.sort_by_key(|index| std::cmp::Reverse(list.rows[*index].size));
    let mut jobs = Vec::new();
    let mut larges = Vec::new();
    // Checksums other than CRC-32C need a file's bytes in order.
    let splits = matches!(algorithm, ChecksumAlgorithm::Crc32c | ChecksumAlgorithm::None);
    for row in large_rows {
        let size = list.rows[row].size;
        let step = if splits { RANGE_BYTES } else { size };
        let ranges = size.div_ceil(step);
        for range in 0..ranges {
            let offset = range * step;
            jobs.push(Job::Range { large: larges.len(), offset, length: step.min(size - offset) });
        }
        let state = LargeState { ranges: ranges as usize, ..LargeState::default() };
        larges.push(Large { row, state: Mutex::new(state) });
    }
    jobs.extend(batches);
    (jobs, larges)
}

impl Work<'_> {
    fn run(&self, writer: &mut Writer, job: &Job, stop: &AtomicBool) -> Result<(), FileBackupError> {
        writer.clear();
        match job {
            Job::Range { large, offset, length } => self.range(writer, *large, *offset, *length, stop),
            Job::Batch { rows, tree } => self.batch(writer, rows.clone(), *tree, stop),
        }
    }

    fn tree(&self, number: u16) -> &Tree {
        &self.trees[usize::from(number)]
    }

    fn options(&self, tree: &Tree) -> ReadOptions {
        let inspector = self.plan.pages.filter(|_| tree.kind != TreeKind::Outside).map(|geometry| {
            let in_tablespace = tree.kind == TreeKind::Tablespace;
            let parameters = Parameters { geometry, start: self.plan.start, in_tablespace };
            (inspector::NAME.to_owned(), parameters.encode())
        });
        ReadOptions { inspector }
    }

    /// The directory that a row's copy goes to.
    fn directory(&self, row: usize) -> Result<Directory, FileBackupError> {
        let place = self.list.directory(&self.list.rows[row]);
        let tree = &self.target.trees[self.tree(place.tree).target];
        let opened = match place.path.as_os_str().is_empty() {
            true => tree.directory.again(),
            false => tree.directory.directory(&place.path),
        };
        opened.map_err(|error| FileBackupError::write(&tree.path.join(&place.path), error))
    }

    fn target_path(&self, row: usize) -> PathBuf {
        let row = &self.list.rows[row];
        let tree = &self.target.trees[self.tree(self.list.directory(row).tree).target];
        tree.path.join(self.list.path(row))
    }

    /// Waits as the limits say, and tells whether to go on.
    fn account(&self, tree: &Tree, bytes: u64, stop: &AtomicBool) -> io::Result<()> {
        let ends = || stop.load(Ordering::Relaxed) || self.observer.cancelled();
        for limiter in [&self.limiter, &tree.limiter].into_iter().flatten() {
            limiter.take(bytes, &ends);
        }
        self.observer.copied(bytes);
        if ends() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    }

    fn finished(&self, row: usize, finished: Option<Finished>, is_new: bool) {
        let mut shared = lock(&self.shared);
        if let (true, Some(file)) = (is_new, &finished) {
            shared.new_bytes += file.size;
        }
        shared.finished.push((row, finished));
    }

    fn note_findings(&self, row: usize, findings: &[u8]) -> Result<(), FileBackupError> {
        if findings.is_empty() {
            return Ok(());
        }
        let (pages, count) = inspector::decode(findings)
            .ok_or_else(|| HostError::Protocol("findings that make no sense".to_owned()))?;
        let row = &self.list.rows[row];
        let prefix = &self.tree(self.list.directory(row).tree).prefix;
        let file = format!("{prefix}{}", self.list.path(row).display());
        let mut shared = lock(&self.shared);
        let corrupt = &mut shared.corrupt;
        corrupt.count = corrupt.count.saturating_add(count);
        for page in pages {
            if corrupt.first.len() < MAX_CORRUPT_PAGES {
                let (block, stored, computed) = (page.block, page.stored, page.computed);
                corrupt.first.push(CorruptPage { file: file.clone(), block, stored, computed });
            }
        }
        Ok(())
    }

    /// The first reference that has a file, and what it has.
    fn earlier(&self, row: usize) -> Option<(usize, Earlier, Directory)> {
        let file = &self.list.rows[row];
        let place = self.list.directory(file);
        if self.tree(place.tree).kind == TreeKind::Outside {
            return None;
        }
        self.references.iter().enumerate().find_map(|(number, reference)| {
            let directory = reference.directory(place.tree, &place.path)?;
            let earlier = reference.look(&directory, self.list.name(file), file.size, file.modified_ns)?;
            Some((number, earlier, directory))
        })
    }

    /// Takes a file from an earlier copy, if it is the same for sure.
    fn reuse(
        &self,
        row: usize,
        to: &Directory,
        stop: &AtomicBool,
    ) -> Result<Option<Option<Earlier>>, FileBackupError> {
        let Some((number, mut earlier, from)) = self.earlier(row) else { return Ok(Some(None)) };
        if !earlier.is_same {
            return Ok(Some(Some(earlier)));
        }
        let file = &self.list.rows[row];
        let name = self.list.name(file);
        let failed = |error| FileBackupError::write(&self.target_path(row), error);
        let checksum = match self.checksums.get(number).and_then(|known| known.get(row)) {
            Some(known) => known.to_vec(),
            None => self.hash_file(&earlier).map_err(failed)?,
        };
        let linked = self.references[number].reuse == Reuse::Link && link(&from, to, name);
        if !linked {
            let mut output =
                to.create(Path::new(name), u32::from(file.mode) | 0o600, None).map_err(failed)?;
            let ends = |_| match stop.load(Ordering::Relaxed) || self.observer.cancelled() {
                true => Err(io::ErrorKind::Interrupted.into()),
                false => Ok(()),
            };
            let copied = self.method.copy(&mut earlier.file, &mut output, file.size, &ends);
            copied.map_err(|error| self.sink_error(row, error, stop))?;
            let when =
                std::time::UNIX_EPOCH + std::time::Duration::from_nanos(file.modified_ns.max(0) as u64);
            output.set_modified(when).map_err(failed)?;
        }
        self.observer.copied(file.size);
        let (size, modified_ns) = (file.size, file.modified_ns);
        self.finished(row, Some(Finished { size, modified_ns, checksum }), !linked);
        Ok(None)
    }

    fn hash_file(&self, earlier: &Earlier) -> io::Result<Vec<u8>> {
        let mut hash = Hash::new(self.plan.manifest_checksum);
        if self.plan.manifest_checksum != ChecksumAlgorithm::None {
            let mut take = |bytes: &[u8]| {
                hash.update(bytes);
                Ok(())
            };
            each_piece(&earlier.file, 0, earlier.size, &mut take)?;
        }
        Ok(hash.finish())
    }

    /// What a range of an earlier copy is, for the host to compare with.
    fn known(&self, earlier: &Earlier, offset: u64, length: u64) -> Option<Known> {
        let worth = self.plan.remote || self.plan.references.iter().any(|one| one.reuse == Reuse::Compare);
        if !worth || length < COMPARE_FROM_BYTES || offset >= earlier.size {
            return None;
        }
        let mut digests: Vec<Digest> = Vec::new();
        let read = each_piece(&earlier.file, offset, length.min(earlier.size - offset), &mut |bytes| {
            digests.extend(bytes.chunks(BLOCK_BYTES as usize).map(block_digest));
            Ok(())
        });
        // What can't be read is of no use, and that is all.
        read.ok().map(|()| Known { block_bytes: BLOCK_BYTES, digests })
    }

    fn range(
        &self,
        writer: &mut Writer,
        index: usize,
        offset: u64,
        length: u64,
        stop: &AtomicBool,
    ) -> Result<(), FileBackupError> {
        let large = &self.larges[index];
        let file = &self.list.rows[large.row];
        let tree = self.tree(self.list.directory(file).tree);
        let failed = |error| FileBackupError::write(&self.target_path(large.row), error);
        let mut earlier = None;
        let output = {
            let mut state = lock(&large.state);
            if state.ranges == 0 {
                // Taken from an earlier copy, as a whole.
                return Ok(());
            }
            if state.output.is_none() {
                let directory = self.directory(large.row)?;
                match self.reuse(large.row, &directory, stop)? {
                    None => {
                        state.ranges = 0;
                        return Ok(());
                    }
                    Some(found) => earlier = found,
                }
                let name = self.list.name(file);
                let output =
                    self.target.new_file(&directory, name, file.mode.into(), file.size).map_err(failed)?;
                output.set_len(file.size).map_err(failed)?;
                state.output = Some(Arc::new(output));
            }
            state.output.clone()
        };
        let Some(output) = output else { return Ok(()) };
        let earlier = earlier.or_else(|| self.earlier(large.row).map(|(_, earlier, _)| earlier));
        let known = earlier.as_ref().and_then(|earlier| self.known(earlier, offset, length));
        let job = ReadJob { root: tree.root, path: self.list.path(file), offset, length, known };
        let mut sink = RangeSink {
            work: self,
            tree,
            row: large.row,
            output: &output,
            writer,
            earlier,
            hash: Hash::new(self.plan.manifest_checksum),
            end: None,
            error: None,
            stop,
        };
        let read = self.host.read(&[job], &self.options(tree), &mut sink);
        let RangeSink { hash, end, error, .. } = sink;
        self.judge(read, error)?;
        let mut state = lock(&large.state);
        match end {
            Some(Ok(end)) => {
                self.note_findings(large.row, &end.findings)?;
                state.modified_ns = state.modified_ns.max(end.modified_ns);
                state.parts.push(Part { offset, wanted: length, got: end.bytes, hash });
            }
            Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                state.vanished = true;
                let hash = Hash::new(self.plan.manifest_checksum);
                state.parts.push(Part { offset, wanted: length, got: 0, hash });
            }
            Some(Err(error)) => return Err(FileBackupError::read(&self.list.path(file), error)),
            None => return Err(HostError::Protocol("a file without an end".to_owned()).into()),
        }
        if state.parts.len() == state.ranges {
            let state = std::mem::take(&mut *state);
            self.finish_large(large.row, state)?;
        }
        Ok(())
    }

    fn finish_large(&self, row: usize, mut state: LargeState) -> Result<(), FileBackupError> {
        let failed = |error| FileBackupError::write(&self.target_path(row), error);
        let Some(output) = state.output.take() else { return Ok(()) };
        if state.vanished {
            let name = self.list.name(&self.list.rows[row]);
            self.directory(row)?.remove(Path::new(name)).map_err(failed)?;
            self.finished(row, None, false);
            return Ok(());
        }
        state.parts.sort_by_key(|part| part.offset);
        // A file that was truncated, and perhaps grew again, has a gap of zeros: WAL fills it.
        let size = state
            .parts
            .iter()
            .filter(|part| part.got > 0)
            .map(|part| part.offset + part.got)
            .max()
            .unwrap_or(0);
        let mut whole: Option<Hash> = None;
        for part in state.parts {
            let end = (part.offset + part.wanted).min(size);
            let mut hash = part.hash;
            pad(&mut hash, end.saturating_sub(part.offset + part.got));
            let length = end.saturating_sub(part.offset);
            whole = Some(match (whole, hash) {
                (Some(Hash::Crc(before)), Hash::Crc(after)) => {
                    Hash::Crc(crc32c::crc32c_combine(before, after, usize::try_from(length).unwrap_or(0)))
                }
                (_, hash) => hash,
            });
        }
        output.set_len(size).map_err(failed)?;
        output.finish(size, state.modified_ns).map_err(failed)?;
        let checksum = whole.map(Hash::finish).unwrap_or_default();
        self.finished(row, Some(Finished { size, modified_ns: state.modified_ns, checksum }), true);
        Ok(())
    }

    fn batch(
        &self,
        writer: &mut Writer,
        rows: std::ops::Range<usize>,
        tree: u16,
        stop: &AtomicBool,
    ) -> Result<(), FileBackupError> {
        let tree = self.tree(tree);
        let mut wanted = Vec::new();
        let mut jobs = Vec::new();
        let mut directory: Option<(u32, Directory)> = None;
        for row in rows {
            let file = &self.list.rows[row];
            if file.state != State::Listed || file.size >= LARGE_BYTES {
                continue;
            }
            let mut earlier = None;
            if !self.references.is_empty() {
                let here = FileList::directory_index(file);
                if directory.as_ref().is_none_or(|(known, _)| *known != here) {
                    directory = Some((here, self.directory(row)?));
                }
                if let Some((_, to)) = &directory {
                    match self.reuse(row, to, stop)? {
                        None => continue,
                        Some(found) => earlier = found,
                    }
                }
            }
            // Files that are no relations are small, and read whole even if they have grown.
            let length = file.size.max(PIECE_BYTES as u64);
            let known = earlier.as_ref().and_then(|earlier| self.known(earlier, 0, file.size));
            jobs.push(ReadJob { root: tree.root, path: self.list.path(file), offset: 0, length, known });
            wanted.push((row, earlier));
        }
        if jobs.is_empty() {
            return Ok(());
        }
        let mut sink = BatchSink {
            work: self,
            tree,
            wanted: &wanted,
            directory: None,
            open: None,
            writer,
            finished: Vec::new(),
            error: None,
            stop,
        };
        let read = self.host.read(&jobs, &self.options(tree), &mut sink);
        let BatchSink { finished, error, .. } = sink;
        self.judge(read, error)?;
        let mut shared = lock(&self.shared);
        for (row, file) in finished {
            shared.new_bytes += file.as_ref().map_or(0, |file| file.size);
            shared.finished.push((row, file));
        }
        Ok(())
    }

    /// The sink's own error comes first, then the host's.
    fn judge(
        &self,
        read: Result<(), HostError>,
        error: Option<FileBackupError>,
    ) -> Result<(), FileBackupError> {
        match (read, error) {
            (_, Some(error)) => Err(error),
            (Err(_), None) if self.observer.cancelled() => Err(FileBackupError::Cancelled),
            (Err(error), None) => Err(error.into()),
            (Ok(()), None) => Ok(()),
        }
    }

    fn sink_error(&self, row: usize, error: io::Error, stop: &AtomicBool) -> FileBackupError {
        let ends = stop.load(Ordering::Relaxed) || self.observer.cancelled();
        match ends && error.kind() == io::ErrorKind::Interrupted {
            true => FileBackupError::Cancelled,
            false => FileBackupError::write(&self.target_path(row), error),
        }
    }
}

/// Adds zeros to a checksum.
fn pad(hash: &mut Hash, mut zeros: u64) {
    const ZEROS: [u8; 8192] = [0; 8192];
    while zeros > 0 {
        let step = zeros.min(ZEROS.len() as u64);
        hash.update(&ZEROS[..step as usize]);
        zeros -= step;
    }
}

/// Reads a range of a file of ours.
fn each_piece(
    file: &std::fs::File,
    offset: u64,
    length: u64,
    take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; usize::try_from(length).map_or(PIECE_BYTES, |length| length.min(PIECE_BYTES))];
    let mut done = 0;
    while done < length {
        let step = usize::try_from(length - done).map_or(buffer.len(), |left| left.min(buffer.len()));
        file.read_exact_at(&mut buffer[..step], offset + done)?;
        take(&buffer[..step])?;
        done += step as u64;
    }
    Ok(())
}

/// Writes one range of a large file.
struct RangeSink<'a, 'w> {
    work: &'a Work<'w>,
    tree: &'a Tree,
    row: usize,
    output: &'a Output,
    writer: &'a mut Writer,
    earlier: Option<Earlier>,
    hash: Hash,
    end: Option<io::Result<FileEnd>>,
    error: Option<FileBackupError>,
    stop: &'a AtomicBool,
}

impl RangeSink<'_, '_> {
    fn put(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.writer.put(self.output, offset, bytes)
    }

    fn note<T>(&mut self, outcome: io::Result<T>) -> io::Result<T> {
        outcome.map_err(|error| {
            let copy = io::Error::from(error.kind());
            self.error = Some(self.work.sink_error(self.row, error, self.stop));
            copy
        })
    }
}

impl ReadSink for RangeSink<'_, '_> {
    fn data(&mut self, _job: usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let outcome = self
            .put(offset, bytes)
            .and_then(|()| self.work.account(self.tree, bytes.len() as u64, self.stop));
        self.note(outcome)
    }

    fn same(&mut self, _job: usize, offset: u64, length: u64) -> io::Result<()> {
        let Some(earlier) = self.earlier.take() else { return Err(io::ErrorKind::NotFound.into()) };
        let mut at = offset;
        let outcome = each_piece(&earlier.file, offset, length, &mut |bytes| {
            self.put(at, bytes)?;
            at += bytes.len() as u64;
            Ok(())
        });
        self.work.observer.copied(length);
        self.earlier = Some(earlier);
        self.note(outcome)
    }

    fn end(&mut self, _job: usize, outcome: io::Result<FileEnd>) -> io::Result<()> {
        self.end = Some(outcome);
        let flushed = self.writer.flush(self.output);
        self.note(flushed)
    }
}

/// Writes small files, one after the other.
struct BatchSink<'a, 'w> {
    work: &'a Work<'w>,
    tree: &'a Tree,
    wanted: &'a [(usize, Option<Earlier>)],
    directory: Option<(u32, Directory)>,
    open: Option<(Output, Hash)>,
    writer: &'a mut Writer,
    finished: Vec<(usize, Option<Finished>)>,
    error: Option<FileBackupError>,
    stop: &'a AtomicBool,
}

impl BatchSink<'_, '_> {
    /// Opens the copy of a file, unless it is open.
    fn output(&mut self, row: usize) -> Result<(), FileBackupError> {
        if self.open.is_some() {
            return Ok(());
        }
        let work = self.work;
        let file = &work.list.rows[row];
        let here = FileList::directory_index(file);
        if self.directory.as_ref().is_none_or(|(known, _)| *known != here) {
            self.directory = Some((here, work.directory(row)?));
        }
        if let Some((_, directory)) = &self.directory {
            let name: &OsStr = work.list.name(file);
            let output = work
                .target
                .new_file(directory, name, file.mode.into(), file.size)
                .map_err(|error| FileBackupError::write(&work.target_path(row), error))?;
            self.open = Some((output, Hash::new(work.plan.manifest_checksum)));
        }
        Ok(())
    }

    fn put(&mut self, row: usize, offset: u64, bytes: &[u8]) -> Result<(), FileBackupError> {
        self.output(row)?;
        let Some((output, hash)) = &mut self.open else { return Ok(()) };
        hash.update(bytes);
        let put = self.writer.put(output, offset, bytes);
        put.map_err(|error| self.work.sink_error(row, error, self.stop))
    }

    fn finish(&mut self, row: usize, end: FileEnd) -> Result<(), FileBackupError> {
        self.work.note_findings(row, &end.findings)?;
        self.output(row)?;
        let Some((output, hash)) = self.open.take() else { return Ok(()) };
        let flushed = self.writer.flush(&output);
        flushed
            .and_then(|()| output.finish(end.bytes, end.modified_ns))
            .map_err(|error| FileBackupError::write(&self.work.target_path(row), error))?;
        let (size, modified_ns) = (end.bytes, end.modified_ns);
        self.finished.push((row, Some(Finished { size, modified_ns, checksum: hash.finish() })));
        Ok(())
    }

    fn vanished(&mut self, row: usize) -> Result<(), FileBackupError> {
        if self.open.take().is_some() {
            self.writer.clear();
            let name = self.work.list.name(&self.work.list.rows[row]);
            let removed = self.work.directory(row)?.remove(Path::new(name));
            removed.map_err(|error| FileBackupError::write(&self.work.target_path(row), error))?;
        }
        self.finished.push((row, None));
        Ok(())
    }

    fn note(&mut self, outcome: Result<(), FileBackupError>) -> io::Result<()> {
        outcome.map_err(|error| {
            self.error.get_or_insert(error);
            io::Error::other("not written")
        })
    }
}

impl ReadSink for BatchSink<'_, '_> {
    fn data(&mut self, job: usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let row = self.wanted[job].0;
        let outcome = self.put(row, offset, bytes).and_then(|()| {
            let accounted = self.work.account(self.tree, bytes.len() as u64, self.stop);
            accounted.map_err(|error| self.work.sink_error(row, error, self.stop))
        });
        self.note(outcome)
    }

    fn same(&mut self, job: usize, offset: u64, length: u64) -> io::Result<()> {
        let (row, earlier) = &self.wanted[job];
        let Some(earlier) = earlier else { return Err(io::ErrorKind::NotFound.into()) };
        let mut bytes = Vec::new();
        let read = each_piece(&earlier.file, offset, length, &mut |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        });
        let outcome = read
            .map_err(|error| self.work.sink_error(*row, error, self.stop))
            .and_then(|()| self.put(*row, offset, &bytes));
        self.work.observer.copied(length);
        self.note(outcome)
    }

    fn end(&mut self, job: usize, outcome: io::Result<FileEnd>) -> io::Result<()> {
        let row = self.wanted[job].0;
        let outcome = match outcome {
            Ok(end) => self.finish(row, end),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.vanished(row),
            Err(error) => Err(FileBackupError::read(&self.work.list.path(&self.work.list.rows[row]), error)),
        };
        self.note(outcome)
    }
}
