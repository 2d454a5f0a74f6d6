//! Small files of one tree: asked for together, written one after the other.

use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use barkeep_transport::host::{FileEnd, PIECE_BYTES, ReadJob, ReadSink};

use super::super::list::{FileList, State};
use super::super::reference::Earlier;
use super::super::target::Output;
use super::super::{FileBackupError, Tree};
use super::hash::Hash;
use super::jobs::LARGE_BYTES;
use super::reuse::each_piece;
use super::{Finished, Tools, Work, lock};
use crate::copy::Directory;
use crate::packed::{Packing, SMALLEST_BLOCK_BYTES, original_name, stored_name, whole_file};

impl Work<'_> {
    pub(super) fn batch(
        &self,
        tools: &mut Tools,
        rows: std::ops::Range<usize>,
        tree: u16,
        stop: &AtomicBool,
    ) -> Result<(), FileBackupError> {
        let tree = self.tree(tree);
        let mut wanted = self.not_taken_over(rows, stop)?;
        let mut jobs = Vec::new();
        for (row, earlier) in &mut wanted {
            let file = &self.list.rows[*row];
            // Files that are no relations are small, and read whole even if they have grown.
            let length = file.size.max(PIECE_BYTES as u64);
            let known = earlier.as_mut().and_then(|earlier| self.known(earlier, 0, file.size));
            jobs.push(ReadJob { root: tree.root, path: self.list.path(file), offset: 0, length, known });
        }
        if jobs.is_empty() {
            return Ok(());
        }
        let mut sink = BatchSink {
            work: self,
            tree,
            wanted,
            directory: None,
            open: None,
            tools,
            finished: Vec::new(),
            error: None,
            stop,
        };
        let read = self.host.read(&jobs, &self.options(tree), &mut sink);
        let BatchSink { finished, error, .. } = sink;
        self.judge(read, error)?;
        let mut shared = lock(&self.shared);
        for (row, file) in finished {
            shared.note(self.list, row, file, true);
        }
        Ok(())
    }

    /// Takes what can be taken from earlier copies; the other files, with what there is of them.
    fn not_taken_over(
        &self,
        rows: std::ops::Range<usize>,
        stop: &AtomicBool,
    ) -> Result<Vec<(usize, Option<Earlier>)>, FileBackupError> {
        let mine = rows.filter(|row| {
            let file = &self.list.rows[*row];
            file.state == State::Listed && file.size < LARGE_BYTES
        });
        if self.references.is_empty() {
            return Ok(mine.map(|row| (row, None)).collect());
        }
        let (mut candidates, mut wanted) = (Vec::new(), Vec::new());
        for row in mine {
            match self.candidate(row) {
                Some(candidate) => candidates.push((row, candidate)),
                None => wanted.push((row, None)),
            }
        }
        self.confirm(&mut candidates)?;
        let mut directory: Option<(u32, Directory)> = None;
        for (row, candidate) in candidates {
            let here = FileList::directory_index(&self.list.rows[row]);
            if directory.as_ref().is_none_or(|(known, _)| *known != here) {
                directory = Some((here, self.directory(row)?));
            }
            if let Some((_, to)) = &directory
                && let Some(earlier) = self.take_over(row, candidate, to, stop)?
            {
                wanted.push((row, Some(earlier)));
            }
        }
        // In the order in which they lie in their directories.
        wanted.sort_unstable_by_key(|(row, _)| *row);
        Ok(wanted)
    }
}

/// Writes small files, one after the other.
struct BatchSink<'a, 'w> {
    work: &'a Work<'w>,
    tree: &'a Tree,
    wanted: Vec<(usize, Option<Earlier>)>,
    directory: Option<(u32, Directory)>,
    open: Option<(Copy, Hash)>,
    tools: &'a mut Tools,
    finished: Vec<(usize, Option<Finished>)>,
    error: Option<FileBackupError>,
    stop: &'a AtomicBool,
}

/// A file's copy.
enum Copy {
    /// Written as it comes.
    Plain(Output),
    /// Gathered, to be compressed as a whole.
    Packed(Vec<u8>, Packing),
}

impl BatchSink<'_, '_> {
    /// The directory that a file's copy goes to.
    fn directory(&mut self, row: usize) -> Result<&Directory, FileBackupError> {
        let here = FileList::directory_index(&self.work.list.rows[row]);
        let known = self.directory.take().filter(|(known, _)| *known == here);
        let opened = match known {
            Some(known) => known,
            None => (here, self.work.directory(row)?),
        };
        Ok(&self.directory.insert(opened).1)
    }

    /// Begins the copy of a file, unless it was begun.
    fn begin(&mut self, row: usize) -> Result<(), FileBackupError> {
        if self.open.is_some() {
            return Ok(());
        }
        let work = self.work;
        let copy = match work.packing(row) {
            Some(packing) => Copy::Packed(Vec::new(), packing),
            None => {
                let file = &work.list.rows[row];
                let name = work.list.name(file);
                let made = work.target.new_file(self.directory(row)?, name, file.mode.into(), file.size);
                Copy::Plain(made.map_err(|error| FileBackupError::write(&work.target_path(row), error))?)
            }
        };
        self.open = Some((copy, Hash::new(work.plan.manifest_checksum)));
        Ok(())
    }

    fn put(&mut self, row: usize, offset: u64, bytes: &[u8]) -> Result<(), FileBackupError> {
        self.begin(row)?;
        let Some((copy, hash)) = &mut self.open else { return Ok(()) };
        hash.update(bytes);
        let put = match copy {
            Copy::Plain(output) => self.tools.writer.put(output, offset, bytes),
            Copy::Packed(content, _) => {
                content.extend_from_slice(bytes);
                Ok(())
            }
        };
        put.map_err(|error| self.work.sink_error(row, error, self.stop))
    }

    fn finish(&mut self, row: usize, end: FileEnd) -> Result<(), FileBackupError> {
        self.work.note_findings(row, &end.findings)?;
        self.begin(row)?;
        let Some((copy, hash)) = self.open.take() else { return Ok(()) };
        let written = match copy {
            Copy::Plain(output) => {
                let flushed = self.tools.writer.flush(&output);
                flushed.and_then(|()| output.finish(end.bytes, end.modified_ns)).map(|()| end.bytes)
            }
            Copy::Packed(content, packing) => self.write_packed(row, &content, packing, end.modified_ns)?,
        };
        let stored = written.map_err(|error| FileBackupError::write(&self.work.target_path(row), error))?;
        let (size, modified_ns) = (end.bytes, end.modified_ns);
        self.finished.push((row, Some(Finished { size, stored, modified_ns, checksum: hash.finish() })));
        Ok(())
    }

    /// Writes a gathered file, compressed if that makes it smaller; how large it is then.
    fn write_packed(
        &mut self,
        row: usize,
        content: &[u8],
        packing: Packing,
        modified_ns: i64,
    ) -> Result<io::Result<u64>, FileBackupError> {
        let work = self.work;
        let file = &work.list.rows[row];
        let own = work.list.name(file);
        let packed =
            self.tools.packer(packing, SMALLEST_BLOCK_BYTES).and_then(|packer| whole_file(packer, content));
        let packed = packed.map_err(|error| FileBackupError::write(&work.target_path(row), error))?;
        let has_to_be = original_name(own).is_some();
        let (name, bytes) = match packed.len() < content.len() || has_to_be {
            true => (stored_name(own, packing.compression), &packed[..]),
            false => (own.to_owned(), content),
        };
        let size = bytes.len() as u64;
        let output = work.target.new_file(self.directory(row)?, &name, file.mode.into(), size);
        let writer = &mut self.tools.writer;
        Ok(output.and_then(|output| {
            writer.put(&output, 0, bytes)?;
            writer.flush(&output)?;
            output.finish(size, modified_ns).map(|()| size)
        }))
    }

    fn vanished(&mut self, row: usize) -> Result<(), FileBackupError> {
        if let Some((Copy::Plain(_), _)) = self.open.take() {
            self.tools.writer.clear();
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
        let Some((row, Some(earlier))) = self.wanted.get_mut(job) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let row = *row;
        let mut bytes = Vec::new();
        let read = each_piece(&mut earlier.file, offset, length, &mut |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        });
        let outcome = read
            .map_err(|error| self.work.sink_error(row, error, self.stop))
            .and_then(|()| self.put(row, offset, &bytes));
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
