//! Small files of one tree: asked for together, written one after the other.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use barkeep_transport::host::{FileEnd, PIECE_BYTES, ReadJob, ReadSink};

use super::super::list::{FileList, State};
use super::super::reference::Earlier;
use super::super::target::{Output, Writer};
use super::super::{FileBackupError, Tree};
use super::hash::Hash;
use super::jobs::LARGE_BYTES;
use super::reuse::each_piece;
use super::{Finished, Work, lock};
use crate::copy::Directory;

impl Work<'_> {
    pub(super) fn batch(
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
