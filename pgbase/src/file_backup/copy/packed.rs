//! A large file that is compressed by several threads, each a range: its blocks are in order nevertheless.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::super::target::set_modified;
use super::lock;
use crate::packed::{BlockPacker, Packing, file_end};

/// How much compressed data of a range may wait in memory before it is written, when it could be, in bytes.
const WAITING_BYTES: usize = 1 << 20;
/// How long is waited for the ranges before, between two looks at whether to stop.
const LOOK: Duration = Duration::from_millis(100);

/// A compressed file being made.
#[derive(Debug)]
pub(super) struct PackedOutput {
    file: File,
    packing: Packing,
    block_bytes: u32,
    appended: Mutex<Appended>,
    turn: Condvar,
}

/// What is in the file.
#[derive(Debug, Default)]
struct Appended {
    /// Where the range begins whose turn it is, in bytes of the original.
    turn: u64,
    /// Where the next block goes in the file.
    at: u64,
    lengths: Vec<u32>,
    /// What is not yet a block: the ranges so far end with it.
    rest: Vec<u8>,
}

/// A range of the original.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    /// Where it begins, a multiple of the block's size.
    pub(super) offset: u64,
    /// How long it was meant to be.
    pub(super) length: u64,
}

impl PackedOutput {
    pub(super) fn new(file: File, packing: Packing, block_bytes: u32) -> Self {
        PackedOutput { file, packing, block_bytes, appended: Mutex::default(), turn: Condvar::new() }
    }

    pub(super) const fn packing(&self) -> Packing {
        self.packing
    }

    pub(super) const fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    /// Writes what waits, if there is much of it and all ranges before are there.
    pub(super) fn write_if_its_turn(&self, range: Range, packer: &mut BlockPacker) -> io::Result<()> {
        if packer.waiting_bytes() < WAITING_BYTES {
            return Ok(());
        }
        let mut appended = lock(&self.appended);
        match appended.turn == range.offset {
            true => self.append(&mut appended, range, packer),
            false => Ok(()),
        }
    }

    /// Writes the rest of a range, of which `got` bytes were there, once all ranges before are there.
    pub(super) fn finish_range(
        &self,
        range: Range,
        got: u64,
        packer: &mut BlockPacker,
        stop: &AtomicBool,
    ) -> io::Result<()> {
        let mut appended = lock(&self.appended);
        while appended.turn != range.offset {
            if stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let waited = self.turn.wait_timeout(appended, LOOK);
            appended = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if got > 0 {
            self.append(&mut appended, range, packer)?;
            appended.rest = packer.take_rest();
        }
        appended.turn = range.offset + range.length;
        self.turn.notify_all();
        Ok(())
    }

    fn append(&self, appended: &mut Appended, range: Range, packer: &mut BlockPacker) -> io::Result<()> {
        self.fill(appended, range.offset)?;
        packer.drain(|blocks, lengths| self.write(appended, blocks, lengths))
    }

    fn write(&self, appended: &mut Appended, blocks: &[u8], lengths: &[u32]) -> io::Result<()> {
        self.file.write_all_at(blocks, appended.at)?;
        appended.at += blocks.len() as u64;
        appended.lengths.extend_from_slice(lengths);
        Ok(())
    }

    /// A range that was shorter than meant, with more after it, is followed by zeros: WAL fills them.
    fn fill(&self, appended: &mut Appended, to: u64) -> io::Result<()> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        let mut at = appended.lengths.len() as u64 * u64::from(self.block_bytes) + appended.rest.len() as u64;
        if at >= to {
            return Ok(());
        }
        let mut packer = BlockPacker::with_blocks(self.packing, self.block_bytes)?;
        packer.put(&std::mem::take(&mut appended.rest))?;
        while at < to {
            let step = (to - at).min(ZEROS.len() as u64);
            packer.put(&ZEROS[..step as usize])?;
            at += step;
            packer.drain(|blocks, lengths| self.write(appended, blocks, lengths))?;
        }
        Ok(())
    }

    /// The last step, when all ranges are there and have `size` bytes together; the size of the file as it is stored.
    pub(super) fn finish(&self, size: u64, modified_ns: i64) -> io::Result<u64> {
        let mut appended = lock(&self.appended);
        let mut packer = BlockPacker::with_blocks(self.packing, self.block_bytes)?;
        packer.put(&std::mem::take(&mut appended.rest))?;
        packer.finish()?;
        packer.drain(|blocks, lengths| self.write(&mut appended, blocks, lengths))?;
        let end = file_end(self.packing, self.block_bytes, size, std::mem::take(&mut appended.lengths))?;
        self.file.write_all_at(&end, appended.at)?;
        set_modified(&self.file, modified_ns)?;
        Ok(appended.at + end.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packed::{PackedFile, block_bytes};
    use barkeep_transport::codec::{Compression, Level};
    use std::io::Read;

    const PACKING: Packing = Packing { compression: Compression::Zstd, level: Level::Low };
    const RANGE: u64 = 4 << 20;

    /// A file made of ranges that are there up to some length, each by a thread, started in the order given.
    fn made(got: &[u64], order: &[usize]) -> Vec<u8> {
        let file = tempfile::tempfile().unwrap();
        let output =
            PackedOutput::new(file.try_clone().unwrap(), PACKING, block_bytes(RANGE * got.len() as u64));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for index in order {
                let (output, stop, got) = (&output, &stop, got[*index]);
                let range = Range { offset: *index as u64 * RANGE, length: RANGE };
                scope.spawn(move || {
                    let mut packer = BlockPacker::with_blocks(PACKING, output.block_bytes).unwrap();
                    let bytes = vec![*index as u8 + 1; got as usize];
                    for piece in bytes.chunks(300_000) {
                        packer.put(piece).unwrap();
                        output.write_if_its_turn(range, &mut packer).unwrap();
                    }
                    output.finish_range(range, got, &mut packer, stop).unwrap();
                });
            }
        });
        let last = got.iter().rposition(|got| *got > 0).map_or(0, |last| last as u64 * RANGE + got[last]);
        let stored = output.finish(last, 0).unwrap();
        assert_eq!(file.metadata().unwrap().len(), stored);
        let mut content = Vec::new();
        PackedFile::new(file, PACKING.compression).unwrap().read_to_end(&mut content).unwrap();
        content
    }

    #[test]
    fn ranges_come_in_order_whoever_is_first_and_gaps_are_zeros() {
        for got in
            [[RANGE; 3], [RANGE, RANGE, 5], [RANGE, 100_000, RANGE], [0, 0, 7], [RANGE, 0, 0], [3, 0, 0]]
        {
            let mut expected = Vec::new();
            for (index, got) in got.iter().enumerate().filter(|(_, got)| **got > 0) {
                expected.resize(index * RANGE as usize, 0);
                expected.resize(index * RANGE as usize + *got as usize, index as u8 + 1);
            }
            for order in [[0, 1, 2], [2, 1, 0]] {
                assert!(made(&got, &order) == expected, "{got:?} {order:?}");
            }
        }
    }

    #[test]
    fn nobody_waits_for_a_range_that_never_comes() {
        let output = PackedOutput::new(tempfile::tempfile().unwrap(), PACKING, 1 << 20);
        let mut packer = BlockPacker::with_blocks(PACKING, 1 << 20).unwrap();
        let range = Range { offset: RANGE, length: RANGE };
        assert!(output.finish_range(range, 0, &mut packer, &AtomicBool::new(true)).is_err());
    }
}
