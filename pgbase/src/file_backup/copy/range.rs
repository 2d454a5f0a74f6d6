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
use super::jobs::{LargeOutput, LargeState, Part};
use super::packed::{PackedOutput, Range};
use super::reuse::each_piece;
use super::{Finished, Tools, Work, lock};
use crate::packed::{BlockPacker, block_bytes, stored_name};

impl Work<'_> {
    pub(super) fn range(
        &self,
        tools: &mut Tools,
        index: usize,
        offset: u64,
        length: u64,
        stop: &AtomicBool,
    ) -> Result<(), FileBackupError> {
        let large = &self.larges[index];
        let file = &self.list.rows[large.row];
        let tree = self.tree(self.list.directory(file).tree);
        let (output, earlier) = {
            let mut state = lock(&large.state);
            if state.ranges == 0 {
                // Taken from an earlier copy, as a whole.
                return Ok(());
            }
            let mut earlier = None;
            if state.output.is_none() {
                match self.begin_large(large.row, stop)? {
                    None => {
                        state.ranges = 0;
                        return Ok(());
                    }
                    Some((output, found)) => (state.output, earlier) = (Some(output), found),
                }
            }
            (state.output.clone(), earlier)
        };
        let Some(output) = output else { return Ok(()) };
        let mut earlier = earlier.or_else(|| self.candidate(large.row).map(|candidate| candidate.earlier));
        let known = earlier.as_mut().and_then(|earlier| self.known(earlier, offset, length));
        let job = ReadJob { root: tree.root, path: self.list.path(file), offset, length, known };
        let failed = |error| FileBackupError::write(&self.target_path(large.row), error);
        let into = match &output {
            LargeOutput::Plain(output) => Into::Plain { output, writer: &mut tools.writer },
            LargeOutput::Packed(output) => {
                let packer = tools.packer(output.packing(), output.block_bytes()).map_err(failed)?;
                Into::Packed { output, packer, range: Range { offset, length } }
            }
        };
        let mut sink = RangeSink {
            work: self,
            tree,
            row: large.row,
            into,
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

    /// Makes the file that a large one is copied to; `None` if an earlier copy had it.
    fn begin_large(
        &self,
        row: usize,
        stop: &AtomicBool,
    ) -> Result<Option<(LargeOutput, Option<Earlier>)>, FileBackupError> {
        let file = &self.list.rows[row];
        let failed = |error| FileBackupError::write(&self.target_path(row), error);
        let directory = self.directory(row)?;
        let mut earlier = None;
        if let Some(candidate) = self.candidate(row) {
            let mut candidates = [(row, candidate)];
            self.confirm(&mut candidates)?;
            let [(_, candidate)] = candidates;
            match self.take_over(row, candidate, &directory, stop)? {
                None => return Ok(None),
                left => earlier = left,
            }
        }
        let name = self.list.name(file);
        let output = match self.packing(row) {
            None => {
                let output =
                    self.target.new_file(&directory, name, file.mode.into(), file.size).map_err(failed)?;
                output.set_len(file.size).map_err(failed)?;
                LargeOutput::Plain(Arc::new(output))
            }
            Some(packing) => {
                let name = stored_name(name, packing.compression);
                let made = directory.create(Path::new(&name), u32::from(file.mode) | 0o600, None);
                let output = PackedOutput::new(made.map_err(failed)?, packing, block_bytes(file.size));
                LargeOutput::Packed(Arc::new(output))
            }
        };
        Ok(Some((output, earlier)))
    }

    fn finish_large(&self, row: usize, mut state: LargeState) -> Result<(), FileBackupError> {
        let failed = |error| FileBackupError::write(&self.target_path(row), error);
        let Some(output) = state.output.take() else { return Ok(()) };
        if state.vanished {
            let mut name = self.list.name(&self.list.rows[row]).to_owned();
            if let LargeOutput::Packed(output) = &output {
                name = stored_name(&name, output.packing().compression);
            }
            self.directory(row)?.remove(Path::new(&name)).map_err(failed)?;
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
        let modified_ns = state.modified_ns;
        let stored = match &output {
            LargeOutput::Plain(output) => {
                output.set_len(size).and_then(|()| output.finish(size, modified_ns)).map(|()| size)
            }
            LargeOutput::Packed(output) => output.finish(size, modified_ns),
        };
        let stored = stored.map_err(failed)?;
        let checksum = whole.map(Hash::finish).unwrap_or_default();
        self.finished(row, Some(Finished { size, stored, modified_ns, checksum }), true);
        Ok(())
    }
}

/// Where a range goes.
enum Into<'a> {
    Plain { output: &'a Output, writer: &'a mut Writer },
    Packed { output: &'a PackedOutput, packer: &'a mut BlockPacker, range: Range },
}

/// Writes one range of a large file.
struct RangeSink<'a, 'w> {
    work: &'a Work<'w>,
    tree: &'a Tree,
    row: usize,
    into: Into<'a>,
    earlier: Option<Earlier>,
    hash: Hash,
    end: Option<io::Result<FileEnd>>,
    error: Option<FileBackupError>,
    stop: &'a AtomicBool,
}

impl RangeSink<'_, '_> {
    fn put(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        match &mut self.into {
            Into::Plain { output, writer } => writer.put(output, offset, bytes),
            Into::Packed { output, packer, range } => {
                packer.put(bytes)?;
                output.write_if_its_turn(*range, packer)
            }
        }
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
        let Some(mut earlier) = self.earlier.take() else { return Err(io::ErrorKind::NotFound.into()) };
        let mut at = offset;
        let outcome = each_piece(&mut earlier.file, offset, length, &mut |bytes| {
            self.put(at, bytes)?;
            at += bytes.len() as u64;
            Ok(())
        });
        self.work.observer.copied(length);
        self.earlier = Some(earlier);
        self.note(outcome)
    }

    fn end(&mut self, _job: usize, outcome: io::Result<FileEnd>) -> io::Result<()> {
        let got = outcome.as_ref().map_or(0, |end| end.bytes);
        self.end = Some(outcome);
        let flushed = match &mut self.into {
            Into::Plain { output, writer } => writer.flush(output),
            Into::Packed { output, packer, range } => output.finish_range(*range, got, packer, self.stop),
        };
        self.note(flushed)
    }
}
