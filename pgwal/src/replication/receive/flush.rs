//! Writing WAL into segments, and the only place where a flush position is made.

use std::io;
use std::path::PathBuf;

use super::directory::{SegmentDirectory, SegmentFile, partial_name};
use crate::{Lsn, SegmentName, SegmentSize, TimelineId};

/// A position below which all received WAL is on stable storage, under names that survive a crash.
///
/// Only the function that has just synced the files can make one, so a position that a server is told to be flushed
/// can't come from anywhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlushedLsn(Lsn);

impl FlushedLsn {
    /// The position.
    pub const fn get(self) -> Lsn {
        self.0
    }
}

/// What the writer was doing when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteAction {
    /// Creating or opening a partial segment, with all the space it needs.
    Open,
    /// Writing received WAL.
    Write,
    /// Syncing a segment's data.
    Sync,
    /// Giving a complete segment its final name.
    Rename,
    /// Syncing the directory.
    SyncDirectory,
    /// Removing a partial segment that was never written to.
    Remove,
}

impl std::fmt::Display for WriteAction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            WriteAction::Open => "prepare",
            WriteAction::Write => "write",
            WriteAction::Sync => "sync",
            WriteAction::Rename => "give its final name to",
            WriteAction::SyncDirectory => "sync the directory of",
            WriteAction::Remove => "remove",
        })
    }
}

/// Why received WAL could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was being done.
        action: WriteAction,
        /// To which file.
        path: PathBuf,
        /// The operating system's word.
        source: io::Error,
    },
    /// The thread that writes could not be started.
    #[error("cannot start the thread that writes WAL: {0}")]
    NoThread(#[source] io::Error),
    /// An earlier write or sync failed. What reached the disk since is unknown (after a failed fsync the kernel may
    /// drop the pages and report success next time), so this writer does nothing more; a new one starts over from the
    /// beginning of the segment.
    #[error("an earlier write failed, and nothing more is written after it")]
    Poisoned,
    /// The server sent WAL that does not continue what it sent before.
    #[error("the server sent WAL at {found} where {expected} was due")]
    OutOfSequence {
        /// Where the next byte belongs.
        expected: Lsn,
        /// Where the server says it belongs.
        found: Lsn,
    },
    /// The server sent WAL past the last possible position.
    #[error("the server sent {bytes} bytes of WAL at {start}, past the end of all positions")]
    PastTheEnd {
        /// Where they begin.
        start: Lsn,
        /// How many bytes.
        bytes: usize,
    },
}

impl WriteError {
    /// Whether there was no space (or no quota) left: the one failure that heals by itself.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, WriteError::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

/// Writes a contiguous stream of WAL into segments of one timeline.
///
/// The segment being received is `<segment>.partial`, always of full size. Completing one costs one sync of its data
/// and one of the directory; the same sync of the directory makes the next partial's name durable.
#[derive(Debug)]
pub(super) struct SegmentWriter<D: SegmentDirectory> {
    directory: D,
    timeline: TimelineId,
    size: SegmentSize,
    /// The segment that holds `written`. `None` if it could not be prepared when the previous one ended: tried again,
    /// and reported, when there is something to write.
    open: Option<(SegmentName, D::File)>,
    /// Where the next byte belongs.
    written: Lsn,
    /// Everything below is durable. `flushed <= written`, and both are in the same segment between calls.
    flushed: Lsn,
    poisoned: bool,
}

impl<D: SegmentDirectory> SegmentWriter<D> {
    /// A writer that begins at `start`, the first byte of a segment. Its partial segment exists durably on return.
    pub(super) fn begin(
        directory: D,
        timeline: TimelineId,
        start: Lsn,
        size: SegmentSize,
    ) -> Result<Self, WriteError> {
        let start = size.start_of(start);
        let mut writer = SegmentWriter {
            directory,
            timeline,
            size,
            open: None,
            written: start,
            flushed: start,
            poisoned: false,
        };
        writer.open_segment()?;
        writer.sync_directory(&partial_name(writer.segment()))?;
        Ok(writer)
    }

    /// Where the next byte belongs.
    pub(super) fn written(&self) -> Lsn {
        self.written
    }

    /// How many bytes were written since the last flush.
    pub(super) fn unflushed(&self) -> u64 {
        self.written.bytes_since(self.flushed).unwrap_or(0)
    }

    /// Writes `bytes`, which belong at `at`. Segments that become complete on the way are made durable, named, and
    /// told to `completed`.
    pub(super) fn write(
        &mut self,
        at: Lsn,
        bytes: &[u8],
        completed: &mut dyn FnMut(SegmentName),
    ) -> Result<(), WriteError> {
        if self.poisoned {
            return Err(WriteError::Poisoned);
        }
        if at != self.written {
            return Err(WriteError::OutOfSequence { expected: self.written, found: at });
        }
        if at.checked_add(bytes.len() as u64).is_none() {
            return Err(WriteError::PastTheEnd { start: at, bytes: bytes.len() });
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let offset = self.size.offset_of(self.written);
            // At most one segment, so it fits in memory and in the address space.
            let room = (self.size.bytes() - offset) as usize;
            let (piece, after) = rest.split_at(rest.len().min(room));
            self.write_piece(piece, offset)?;
            rest = after;
            if piece.len() == room {
                completed(self.complete_segment()?);
            }
        }
        Ok(())
    }

    /// Makes everything written durable and says up to where.
    pub(super) fn flush(&mut self) -> Result<FlushedLsn, WriteError> {
        if self.poisoned {
            return Err(WriteError::Poisoned);
        }
        if self.flushed < self.written {
            self.sync_data()?;
            self.flushed = self.written;
        }
        Ok(FlushedLsn(self.flushed))
    }

    /// Flushes, and removes the last partial segment if nothing was ever written to it: after a timeline's end nobody
    /// will. `is_blank` tells whether an earlier run left something in it.
    pub(super) fn end_timeline(
        mut self,
        is_blank: impl FnOnce(&D, &str) -> io::Result<bool>,
    ) -> Result<FlushedLsn, WriteError> {
        let flushed = self.flush()?;
        let segment = self.segment();
        let name = partial_name(segment);
        if self.open.is_some() && self.size.offset_of(self.written) == 0 {
            let blank = is_blank(&self.directory, &name);
            if blank.map_err(|source| self.failure(WriteAction::Open, &name, source))? {
                let removed = self.directory.remove_partial(segment).and_then(|()| self.directory.sync());
                removed.map_err(|source| self.failure(WriteAction::Remove, &name, source))?;
            }
        }
        Ok(flushed)
    }

    fn segment(&self) -> SegmentName {
        SegmentName::at(self.timeline, self.written, self.size)
    }

    fn write_piece(&mut self, piece: &[u8], offset: u64) -> Result<(), WriteError> {
        if self.open.is_none() {
            self.open_segment()?;
            self.sync_directory(&partial_name(self.segment()))?;
        }
        let Some((segment, file)) = &self.open else { return Err(WriteError::Poisoned) };
        if let Err(source) = file.write_all_at(piece, offset) {
            let name = partial_name(*segment);
            return Err(self.failure(WriteAction::Write, &name, source));
        }
        // Checked by `write` for the whole message.
        self.written = Lsn::from_u64(self.written.as_u64().saturating_add(piece.len() as u64));
        Ok(())
    }

    /// The segment that `written` has just passed the end of becomes durable under its final name.
    fn complete_segment(&mut self) -> Result<SegmentName, WriteError> {
        self.sync_data()?;
        let Some((segment, file)) = self.open.take() else { return Err(WriteError::Poisoned) };
        drop(file);
        if let Err(source) = self.directory.complete(segment) {
            return Err(self.failure(WriteAction::Rename, &segment.to_string(), source));
        }
        // Before the sync of the directory, which then makes both names durable. Should it fail, for a full disk say,
        // the complete segment must still be reported; the next write tries again and tells the reason.
        if let Ok(file) = self.directory.open_partial(self.segment(), self.size) {
            self.open = Some((self.segment(), file));
        }
        self.sync_directory(&segment.to_string())?;
        self.flushed = self.written;
        Ok(segment)
    }

    fn open_segment(&mut self) -> Result<(), WriteError> {
        let segment = self.segment();
        match self.directory.open_partial(segment, self.size) {
            Ok(file) => {
                self.open = Some((segment, file));
                Ok(())
            }
            Err(source) => Err(self.failure(WriteAction::Open, &partial_name(segment), source)),
        }
    }

    fn sync_data(&mut self) -> Result<(), WriteError> {
        let Some((segment, file)) = &self.open else { return Err(WriteError::Poisoned) };
        if let Err(source) = file.sync_data() {
            let name = partial_name(*segment);
            return Err(self.failure(WriteAction::Sync, &name, source));
        }
        Ok(())
    }

    fn sync_directory(&mut self, name: &str) -> Result<(), WriteError> {
        self.directory.sync().map_err(|source| self.failure(WriteAction::SyncDirectory, name, source))
    }

    fn failure(&mut self, action: WriteAction, name: &str, source: io::Error) -> WriteError {
        self.poisoned = true;
        WriteError::Io { action, path: self.directory.path_of(name), source }
    }
}

#[cfg(test)]
mod tests {
    use super::super::directory::StreamingDirectory;
    use super::*;
    use proptest::prelude::*;
    use std::fs::File;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const SIZE: SegmentSize = SegmentSize::MIN;
    const SEGMENT: u64 = 1 << 20;

    /// A real directory whose n-th operation fails, and every one after it.
    struct Failing {
        inner: StreamingDirectory,
        left: Arc<AtomicUsize>,
        kind: io::ErrorKind,
    }

    struct FailingFile {
        inner: File,
        left: Arc<AtomicUsize>,
        kind: io::ErrorKind,
    }

    fn spend(left: &AtomicUsize, kind: io::ErrorKind) -> io::Result<()> {
        let spent = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        spent.map(drop).map_err(|_| io::Error::from(kind))
    }

    impl SegmentFile for FailingFile {
        fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
            spend(&self.left, self.kind)?;
            SegmentFile::write_all_at(&self.inner, bytes, offset)
        }
        fn sync_data(&self) -> io::Result<()> {
            spend(&self.left, self.kind)?;
            SegmentFile::sync_data(&self.inner)
        }
    }

    impl SegmentDirectory for Failing {
        type File = FailingFile;
        fn open_partial(&self, segment: SegmentName, size: SegmentSize) -> io::Result<FailingFile> {
            spend(&self.left, self.kind)?;
            let inner = self.inner.open_partial(segment, size)?;
            Ok(FailingFile { inner, left: self.left.clone(), kind: self.kind })
        }
        fn complete(&self, segment: SegmentName) -> io::Result<()> {
            spend(&self.left, self.kind)?;
            self.inner.complete(segment)
        }
        fn remove_partial(&self, segment: SegmentName) -> io::Result<()> {
            spend(&self.left, self.kind)?;
            self.inner.remove_partial(segment)
        }
        fn sync(&self) -> io::Result<()> {
            spend(&self.left, self.kind)?;
            self.inner.sync()
        }
        fn path_of(&self, name: &str) -> PathBuf {
            self.inner.path_of(name)
        }
    }

    fn start() -> Lsn {
        Lsn::from_u64(7 * SEGMENT)
    }

    fn real() -> (tempfile::TempDir, SegmentWriter<StreamingDirectory>) {
        let path = tempfile::tempdir().unwrap();
        let directory = StreamingDirectory::open(path.path()).unwrap();
        let writer = SegmentWriter::begin(directory, TimelineId::FIRST, start(), SIZE).unwrap();
        (path, writer)
    }

    /// Bytes that differ by position, so that a misplaced one is seen.
    fn wal(from: u64, count: usize) -> Vec<u8> {
        (from..).take(count).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    fn read(path: &tempfile::TempDir, name: &str) -> Vec<u8> {
        std::fs::read(path.path().join(name)).unwrap()
    }

    fn names(path: &tempfile::TempDir) -> Vec<String> {
        let entries = std::fs::read_dir(path.path()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_message_over_three_segments_completes_two() {
        let (path, mut writer) = real();
        let bytes = wal(0, 2 * SEGMENT as usize + 5);
        let mut completed = Vec::new();
        writer.write(start(), &bytes, &mut |name| completed.push(name.to_string())).unwrap();
        assert_eq!(completed, ["000000010000000000000007", "000000010000000000000008"]);
        assert_eq!(names(&path), [&completed[0], &completed[1], "000000010000000000000009.partial"]);
        let joined = [read(&path, &completed[0]), read(&path, &completed[1])].concat();
        assert_eq!(joined, bytes[..2 * SEGMENT as usize]);
        // The two segments are durable, the five bytes after them not yet.
        assert_eq!(writer.unflushed(), 5);
        assert_eq!(writer.flush().unwrap().get(), start().checked_add(2 * SEGMENT + 5).unwrap());
    }

    #[test]
    fn a_gap_an_overlap_and_an_overflow_are_refused() {
        let (_path, mut writer) = real();
        writer.write(start(), b"12345", &mut |_| {}).unwrap();
        for wrong in [start(), Lsn::from_u64(7 * SEGMENT + 6), Lsn::INVALID, Lsn::MAX] {
            let error = writer.write(wrong, b"x", &mut |_| {}).unwrap_err();
            assert!(matches!(error, WriteError::OutOfSequence { .. }), "{error}");
        }
        // A stranger's mistake does not poison what is sound.
        assert_eq!(writer.flush().unwrap().get().as_u64(), 7 * SEGMENT + 5);

        let path = tempfile::tempdir().unwrap();
        let directory = StreamingDirectory::open(path.path()).unwrap();
        let last = Lsn::from_u64(u64::MAX - SEGMENT + 1);
        let mut writer = SegmentWriter::begin(directory, TimelineId::FIRST, last, SIZE).unwrap();
        let error = writer.write(last, &vec![0; SEGMENT as usize], &mut |_| {}).unwrap_err();
        assert!(matches!(error, WriteError::PastTheEnd { .. }), "{error}");
    }

    #[test]
    fn a_restart_rewrites_the_partial_without_emptying_it() {
        let (path, mut writer) = real();
        writer.write(start(), &wal(0, 1000), &mut |_| {}).unwrap();
        writer.flush().unwrap();
        drop(writer);
        let directory = StreamingDirectory::open(path.path()).unwrap();
        let mut writer = SegmentWriter::begin(directory, TimelineId::FIRST, start(), SIZE).unwrap();
        writer.write(start(), &wal(0, 10), &mut |_| {}).unwrap();
        // Killed here, the thousand acknowledged bytes are still there.
        let content = read(&path, "000000010000000000000007.partial");
        assert_eq!(content[..1000], wal(0, 1000));
        assert_eq!(content.len() as u64, SEGMENT);
    }

    #[test]
    fn the_partial_of_an_ended_timeline_stays_unless_it_is_blank() {
        let (path, mut writer) = real();
        writer.write(start(), &wal(0, SEGMENT as usize + 1), &mut |_| {}).unwrap();
        writer.end_timeline(StreamingDirectory::is_blank).unwrap();
        assert_eq!(names(&path), ["000000010000000000000007", "000000010000000000000008.partial"]);

        let (path, mut writer) = real();
        writer.write(start(), &wal(0, SEGMENT as usize), &mut |_| {}).unwrap();
        writer.end_timeline(StreamingDirectory::is_blank).unwrap();
        assert_eq!(names(&path), ["000000010000000000000007"]);
    }

    /// Runs a whole session whose n-th operation fails, and returns what had been reported as flushed before.
    fn fails_at(operations: usize, kind: io::ErrorKind) -> (tempfile::TempDir, Lsn, Option<WriteError>) {
        let path = tempfile::tempdir().unwrap();
        let inner = StreamingDirectory::open(path.path()).unwrap();
        let directory = Failing { inner, left: Arc::new(AtomicUsize::new(operations)), kind };
        let mut flushed = start();
        let mut writer = match SegmentWriter::begin(directory, TimelineId::FIRST, start(), SIZE) {
            Ok(writer) => writer,
            Err(error) => return (path, flushed, Some(error)),
        };
        let bytes = wal(0, 2 * SEGMENT as usize + 100);
        let mut at = 0;
        for piece in bytes.chunks(300_000) {
            let here = Lsn::from_u64(start().as_u64() + at);
            if let Err(error) = writer.write(here, piece, &mut |_| {}) {
                // Poisoned for good.
                let again = writer.write(writer.written(), b"x", &mut |_| {});
                assert!(matches!(again, Err(WriteError::Poisoned)));
                assert!(matches!(writer.flush(), Err(WriteError::Poisoned)));
                return (path, flushed, Some(error));
            }
            at += piece.len() as u64;
            match writer.flush() {
                Ok(position) => flushed = position.get(),
                Err(error) => {
                    assert!(matches!(writer.flush(), Err(WriteError::Poisoned)));
                    return (path, flushed, Some(error));
                }
            }
        }
        (path, flushed, None)
    }

    #[test]
    fn whatever_step_fails_nothing_beyond_the_last_flush_was_reported() {
        let everything = wal(0, 2 * SEGMENT as usize + 100);
        let mut failures = 0;
        for operations in 0.. {
            let (path, flushed, error) = fails_at(operations, io::ErrorKind::Other);
            // All that was reported as flushed can be read back, from whatever names it has.
            let mut found = Vec::new();
            for name in ["000000010000000000000007", "000000010000000000000008", "000000010000000000000009"] {
                let whole = std::fs::read(path.path().join(name)).ok();
                found.extend(
                    whole
                        .or_else(|| std::fs::read(path.path().join(format!("{name}.partial"))).ok())
                        .unwrap_or_default(),
                );
            }
            let count = (flushed.as_u64() - start().as_u64()) as usize;
            assert_eq!(found.get(..count), everything.get(..count), "after {operations} operations");
            match error {
                None => break,
                Some(WriteError::Io { path: named, .. }) => {
                    failures += 1;
                    assert!(named.starts_with(path.path()));
                }
                Some(other) => panic!("after {operations} operations: {other}"),
            }
        }
        assert!(failures > 20, "only {failures} steps were seen to fail");
    }

    #[test]
    fn a_full_disk_is_told_from_a_broken_one() {
        let (_path, _, error) = fails_at(4, io::ErrorKind::StorageFull);
        assert!(error.unwrap().is_disk_full());
        let (_path, _, error) = fails_at(4, io::ErrorKind::Other);
        assert!(!error.unwrap().is_disk_full());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn any_cutting_of_the_stream_writes_the_same_files(cuts in proptest::collection::vec(1usize..400_000, 1..12)) {
            let (path, mut writer) = real();
            let total: usize = cuts.iter().sum();
            let bytes = wal(0, total);
            let mut at = 0;
            for cut in cuts {
                writer.write(writer.written(), &bytes[at..at + cut], &mut |_| {}).unwrap();
                at += cut;
            }
            let flushed = writer.flush().unwrap().get();
            prop_assert_eq!(flushed.as_u64() - start().as_u64(), total as u64);
            let mut found = Vec::new();
            for name in names(&path) {
                found.extend(read(&path, &name));
            }
            prop_assert_eq!(&found[..total], &bytes[..]);
            prop_assert!(found[total..].iter().all(|&byte| byte == 0));
        }
    }
}
