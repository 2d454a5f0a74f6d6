//! One range of a large file: read by one thread, while others read the next.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use barkeep_transport::host::{FileEnd, HostError, ReadJob, ReadSink};

use super::super::reference::Earlier;
use super::super::target::{Output, Writer};
use super::super::{FileBackupError, Tree};
use super::hash::{Hash, pad};
use super::jobs::{LargeState, Part};
use super::reuse::each_piece;
use super::{Finished, Work, lock};

impl Work<'_> {
    pub(super) fn range(
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
