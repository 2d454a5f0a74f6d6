//! Sending files: whole ones where there was nothing, and of those that are there what differs.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};

use barkeep_transport::host::{
    Action, Change, Digest, HASH_BLOCKS_MAX, HashJob, Host, HostError, Kind, PIECE_BYTES, Root, block_digest,
};

use super::super::super::tree::FileJob;
use super::super::super::wal_copy;
use super::super::delta::{BLOCK_BYTES, OldFile, update};
use super::super::seams::Seams;
use super::{Far, PRIVATE_FILE, RestoreError, There, change, metadata};
use crate::copy::{CopyMethod, Directory};
use crate::packed::StoredFile;
use crate::pool;

/// Files below this size are sent several at a time, in bytes.
const SMALL_BYTES: u64 = 128 << 10;
/// Most files that are sent at a time.
const BATCH_FILES: usize = 64;
/// How many pieces of one file are on their way at a time.
const SENDERS: usize = 3;
/// How much of a file the far end hashes at a time, in bytes.
const WINDOW_BYTES: u64 = 32 << 20;

const _: () = assert!(WINDOW_BYTES / BLOCK_BYTES as u64 <= HASH_BLOCKS_MAX);

/// A small file, read.
struct Small<'a> {
    root: Root,
    job: &'a FileJob,
    data: Vec<u8>,
    file: StoredFile,
}

impl Far<'_> {
    /// Sends all WAL: before the files, because it may turn out to be damaged.
    pub(super) fn send_all_wal(&self, jobs: usize) -> Result<(), RestoreError> {
        let work: Vec<usize> = (0..self.plan.wal.len()).collect();
        let seams = Seams::new(self.plan);
        pool::run(&work, jobs.max(1), || (), |(), index, stop| self.send_wal(*index, &seams, stop))
    }

    /// Sends all files; how many bytes of them were written.
    pub(super) fn send_all_files(
        &self,
        sources: &[Directory],
        files: Vec<FileJob>,
        jobs: usize,
    ) -> Result<u64, RestoreError> {
        let (mut large, small): (Vec<FileJob>, Vec<FileJob>) =
            files.into_iter().partition(|file| file.size >= SMALL_BYTES);
        large.sort_by_key(|file| std::cmp::Reverse(file.size));
        let mut work: Vec<Vec<FileJob>> = large.into_iter().map(|file| vec![file]).collect();
        let mut batch = Vec::new();
        for file in small {
            batch.push(file);
            if batch.len() >= BATCH_FILES {
                work.push(std::mem::take(&mut batch));
            }
        }
        work.push(batch);
        let written = AtomicU64::new(0);
        pool::run(
            &work,
            jobs.max(1),
            || (),
            |(), files, stop| {
                written.fetch_add(self.send_files(sources, files, stop)?, Ordering::Relaxed);
                Ok::<_, RestoreError>(())
            },
        )?;
        Ok(written.into_inner())
    }

    fn there(&self, job: &FileJob) -> Option<&There> {
        self.roots.get(job.tree)?.there.get(&job.path)
    }

    fn send_files(
        &self,
        sources: &[Directory],
        files: &[FileJob],
        stop: &AtomicBool,
    ) -> Result<u64, RestoreError> {
        let mut small = Vec::new();
        let mut written = 0;
        for job in files {
            let (Some(source), Some(far)) = (sources.get(job.tree), self.roots.get(job.tree)) else {
                continue;
            };
            let from =
                || self.plan.trees.get(job.tree).map_or(job.path.clone(), |tree| tree.from.join(&job.path));
            let mut file = job.open(source).map_err(|error| RestoreError::read(&from(), error))?;
            if job.size >= SMALL_BYTES {
                written += self.send_large(far.root, job, &mut file, stop)?;
                self.make(vec![keep_time(far.root, &job.path, file.file())])?;
                continue;
            }
            let mut data = Vec::new();
            let read = (&mut file).take(SMALL_BYTES * 2).read_to_end(&mut data);
            read.map_err(|error| RestoreError::read(&from(), error))?;
            small.push(Small { root: far.root, job, data, file });
        }
        let same = self.are_there(&small)?;
        let mut changes = Vec::new();
        let mut bytes = 0;
        for (Small { root, job, data, file }, same) in small.into_iter().zip(same) {
            bytes += job.size;
            if same {
                changes.push(change(root, &job.path, metadata(job.mode)));
                changes.push(keep_time(root, &job.path, file.file()));
                continue;
            }
            written += data.len() as u64;
            if self.there(job).is_some() {
                changes.push(change(root, &job.path, Action::RemoveFile));
            }
            changes.push(change(root, &job.path, Action::CreateFile { mode: job.mode }));
            if !data.is_empty() {
                changes.push(change(root, &job.path, Action::Write { offset: 0, data }));
            }
            changes.push(keep_time(root, &job.path, file.file()));
        }
        self.make(changes)?;
        self.account(bytes, stop)?;
        Ok(written)
    }

    /// Which of some small files are there already.
    fn are_there(&self, files: &[Small<'_>]) -> Result<Vec<bool>, RestoreError> {
        let mut jobs = Vec::new();
        let mut asked = Vec::new();
        for (index, Small { root, job, data, .. }) in files.iter().enumerate() {
            let (length, block_bytes) = (data.len() as u64, BLOCK_BYTES as u32);
            let is_candidate =
                |there: &&There| there.kind == Kind::File && !there.shared && there.size == length;
            if self.there(job).filter(is_candidate).is_some() {
                jobs.push(HashJob { root: *root, path: job.path.clone(), offset: 0, length, block_bytes });
                asked.push(index);
            }
        }
        let mut same = vec![false; files.len()];
        if jobs.is_empty() {
            return Ok(same);
        }
        for (index, hashed) in asked.into_iter().zip(self.host.hash(&jobs)?) {
            let digests: Vec<Digest> = files[index].data.chunks(BLOCK_BYTES).map(block_digest).collect();
            // One that can't be read is replaced.
            same[index] = hashed.is_ok_and(|theirs| theirs.digests == digests);
        }
        Ok(same)
    }

    fn send_large(
        &self,
        root: Root,
        job: &FileJob,
        file: &mut StoredFile,
        stop: &AtomicBool,
    ) -> Result<u64, RestoreError> {
        match self.there(job) {
            Some(there) if there.kind == Kind::File && !there.shared => {
                return self.update_large(root, job, there, file, stop);
            }
            Some(_) => self.make(vec![change(root, &job.path, Action::RemoveFile)])?,
            None => {}
        }
        self.send_file(root, &job.path, job.mode, file, stop)?;
        Ok(job.size)
    }

    /// Changes a file that is there into what the backup has.
    fn update_large(
        &self,
        root: Root,
        job: &FileJob,
        there: &There,
        file: &mut StoredFile,
        stop: &AtomicBool,
    ) -> Result<u64, RestoreError> {
        let mut old = FarFile {
            host: self.host,
            root,
            path: &job.path,
            size: there.size,
            window: 0..0,
            digests: Vec::new(),
            failed: None,
        };
        let mut buffer = vec![0; PIECE_BYTES];
        let progress = |bytes| self.account(bytes, stop).map_err(|_| io::ErrorKind::Interrupted.into());
        let updated = update(file, job.size, &mut old, &mut buffer, &progress);
        if let Some(error) = old.failed.take() {
            return Err(error.into());
        }
        let written = updated.map_err(|source| match source.kind() {
            io::ErrorKind::Interrupted => RestoreError::Cancelled,
            _ => RestoreError::write(&job.path, source),
        })?;
        if there.mode != job.mode {
            self.make(vec![change(root, &job.path, metadata(job.mode))])?;
        }
        Ok(written)
    }

    /// Sends one file that is not there, leaving out what is zero.
    pub(super) fn send_file(
        &self,
        root: Root,
        path: &Path,
        mode: u32,
        file: &mut dyn Read,
        stop: &AtomicBool,
    ) -> Result<(), RestoreError> {
        self.make(vec![change(root, path, Action::CreateFile { mode })])?;
        let first = read_piece(file).map_err(|error| RestoreError::read(path, error))?;
        let mut size = first.len() as u64;
        let is_all = first.len() < PIECE_BYTES;
        self.send_piece(root, path, 0, first, stop)?;
        if !is_all {
            size = self.send_pieces(root, path, size, file, stop)?;
        }
        self.make(vec![change(root, path, Action::Truncate { size })])
    }

    /// Sends the pieces of a file from `offset` on, several at a time: one after the other, the far end and the way to it
    /// would wait for each other. Where the file ends.
    fn send_pieces(
        &self,
        root: Root,
        path: &Path,
        mut offset: u64,
        file: &mut dyn Read,
        stop: &AtomicBool,
    ) -> Result<u64, RestoreError> {
        let (queue, pieces) = mpsc::sync_channel::<(u64, Vec<u8>)>(1);
        let pieces = Mutex::new(pieces);
        let failed = AtomicBool::new(false);
        let failure = Mutex::new(None);
        let send = || {
            let next = || pieces.lock().unwrap_or_else(PoisonError::into_inner).recv();
            while let Ok((offset, data)) = next() {
                // Who reads must find somebody that takes pieces to the end.
                if failed.load(Ordering::Relaxed) {
                    continue;
                }
                if let Err(error) = self.send_piece(root, path, offset, data, stop) {
                    failed.store(true, Ordering::Relaxed);
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            }
        };
        let read = std::thread::scope(|scope| {
            for _ in 0..SENDERS {
                scope.spawn(send);
            }
            // Dropped at the end, which is what ends the others.
            let queue = queue;
            while !failed.load(Ordering::Relaxed) {
                let data = read_piece(file)?;
                let bytes = data.len();
                if bytes == 0 || queue.send((offset, data)).is_err() {
                    break;
                }
                offset += bytes as u64;
            }
            Ok(offset)
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => read.map_err(|error| RestoreError::read(path, error)),
        }
    }

    fn send_piece(
        &self,
        root: Root,
        path: &Path,
        offset: u64,
        data: Vec<u8>,
        stop: &AtomicBool,
    ) -> Result<(), RestoreError> {
        let bytes = data.len() as u64;
        if data.iter().any(|byte| *byte != 0) {
            self.make(vec![change(root, path, Action::Write { offset, data })])?;
        }
        self.account(bytes, stop)
    }

    fn send_wal(&self, index: usize, seams: &Seams<'_>, stop: &AtomicBool) -> Result<(), RestoreError> {
        let (Some(wal), Some((root, directory))) = (self.plan.wal.get(index), &self.wal) else {
            return Ok(());
        };
        let name = wal.name();
        let path = self.staging.join(&name);
        let copy = || -> io::Result<File> {
            let staging = Directory::open(self.staging)?;
            let size = self.plan.backup.segment_size;
            let goes_on = seams.goes_on(index);
            let method = CopyMethod::default();
            let ending = wal_copy::place(wal, &staging, size, None, &method, goes_on, &|_| Ok(()))?;
            seams.note(index, ending)?;
            let file = File::open(&path)?;
            // Open, it needs no name.
            std::fs::remove_file(&path)?;
            Ok(file)
        };
        let mut file = copy().map_err(|source| RestoreError::Copy {
            from: wal.source.path(),
            to: path.clone(),
            source,
        })?;
        self.send_file(*root, &directory.join(&name), PRIVATE_FILE, &mut file, stop)
    }
}

/// The next piece of a file, shorter only at its end.
fn read_piece(file: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut data = Vec::with_capacity(PIECE_BYTES);
    file.take(PIECE_BYTES as u64).read_to_end(&mut data)?;
    Ok(data)
}

/// As rsync leaves it: what compares by time finds nothing to do.
pub(super) fn keep_time(root: Root, path: &Path, file: &File) -> Change {
    use std::os::unix::fs::MetadataExt;
    let stat = file.metadata().ok();
    let modified_ns =
        stat.map(|stat| stat.mtime().saturating_mul(1_000_000_000).saturating_add(stat.mtime_nsec()));
    change(root, path, Action::SetMetadata { mode: None, owner: None, modified_ns })
}

/// A file at the far end that is to be changed into what the backup has.
struct FarFile<'a> {
    host: &'a dyn Host,
    root: Root,
    path: &'a Path,
    size: u64,
    /// The range whose digests are at hand, in bytes.
    window: Range<u64>,
    digests: Vec<Digest>,
    /// What ended it, when that was more than trouble with the file.
    failed: Option<HostError>,
}

impl FarFile<'_> {
    fn lost<T>(&mut self, outcome: Result<T, HostError>) -> io::Result<T> {
        outcome.map_err(|error| {
            let told = io::Error::other(error.to_string());
            self.failed = Some(error);
            told
        })
    }

    fn make(&mut self, action: Action) -> io::Result<()> {
        let changed = self.host.change(&[change(self.root, self.path, action)]);
        self.lost(changed)?.into_iter().next().unwrap_or(Ok(()))
    }

    /// Has the digests of a piece at hand; what is beyond the file's end has none.
    fn load(&mut self, offset: u64, length: u64) -> io::Result<()> {
        if self.window.start <= offset && offset + length <= self.window.end {
            return Ok(());
        }
        let wanted = WINDOW_BYTES.max(length);
        let job = HashJob {
            root: self.root,
            path: PathBuf::from(self.path),
            offset,
            length: wanted,
            block_bytes: BLOCK_BYTES as u32,
        };
        let hashed = self.host.hash(&[job]);
        let hashed = self.lost(hashed)?.into_iter().next();
        self.digests = hashed.ok_or(io::ErrorKind::UnexpectedEof)??.digests;
        self.window = offset..offset + wanted;
        Ok(())
    }
}

impl OldFile for FarFile<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn differences(&mut self, offset: u64, new: &[u8]) -> io::Result<Vec<Range<usize>>> {
        self.load(offset, new.len() as u64)?;
        let first = ((offset - self.window.start) / BLOCK_BYTES as u64) as usize;
        let mut different: Vec<Range<usize>> = Vec::new();
        for (index, block) in new.chunks(BLOCK_BYTES).enumerate() {
            // The last block of the old file may be longer or shorter: then its digest is another.
            if self.digests.get(first + index) == Some(&block_digest(block)) {
                continue;
            }
            let start = index * BLOCK_BYTES;
            let end = start + block.len();
            match different.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => different.push(start..end),
            }
        }
        Ok(different)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.make(Action::Write { offset, data: bytes.to_vec() })
    }

    fn resize(&mut self, size: u64) -> io::Result<()> {
        self.make(Action::Truncate { size })
    }
}
