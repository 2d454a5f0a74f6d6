//! Dividing the files among jobs: large ones in ranges, small ones in batches.

use std::sync::{Arc, Mutex};

use super::super::list::{FileList, State};
use super::super::target::Output;
use super::hash::Hash;
use super::packed::PackedOutput;
use crate::manifest::ChecksumAlgorithm;
use crate::packed::block_bytes;

/// Files from this size on are copied one by one, in ranges where their checksum allows, in bytes.
pub(super) const LARGE_BYTES: u64 = 4 << 20;
/// Size of a range in bytes.
const RANGE_BYTES: u64 = 32 << 20;
/// Size of a range that is compressed, in bytes, unless blocks are larger: it may have to wait in memory.
const PACKED_RANGE_BYTES: u64 = 4 << 20;
/// Most ranges, more or less: beyond 16 TiB they grow, so that the list of them does not.
const RANGES_MAX: u64 = 1 << 22;
/// Most files of a batch.
const BATCH_FILES: usize = 128;
/// Most bytes of a batch, more or less.
const BATCH_BYTES: u64 = 8 << 20;

/// Something to do for one thread.
pub(super) enum Job {
    /// A part of a large file, by its index among them.
    Range { large: usize, offset: u64, length: u64 },
    /// Small files with these row numbers, all of one tree.
    Batch { rows: std::ops::Range<usize>, tree: u16 },
}

/// A large file under way.
pub(super) struct Large {
    pub(super) row: usize,
    pub(super) state: Mutex<LargeState>,
}

#[derive(Default)]
pub(super) struct LargeState {
    pub(super) output: Option<LargeOutput>,
    pub(super) parts: Vec<Part>,
    pub(super) ranges: usize,
    pub(super) vanished: bool,
    pub(super) modified_ns: i64,
}

/// Where a large file's copy goes, as it is or compressed.
#[derive(Clone)]
pub(super) enum LargeOutput {
    Plain(Arc<Output>),
    Packed(Arc<PackedOutput>),
}

pub(super) struct Part {
    pub(super) offset: u64,
    pub(super) wanted: u64,
    pub(super) got: u64,
    pub(super) hash: Hash,
}

/// Divides the files among jobs.
pub(super) fn divide(list: &FileList, algorithm: ChecksumAlgorithm, packed: bool) -> (Vec<Job>, Vec<Large>) {
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
    let large_bytes: u64 = large_rows.iter().map(|index| list.rows[*index].size).sum();
    // Checksums other than CRC-32C need a file's bytes in order.
    let splits = matches!(algorithm, ChecksumAlgorithm::Crc32c | ChecksumAlgorithm::None);
    for row in large_rows {
        let size = list.rows[row].size;
        let range_bytes = match packed {
            true => PACKED_RANGE_BYTES.max(block_bytes(size).into()),
            false => RANGE_BYTES,
        };
        let step = if splits { range_bytes * (1 + large_bytes / RANGES_MAX / range_bytes) } else { size };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_backup::list::TOTAL_BYTES_MAX;
    use std::ffi::OsStr;
    use std::path::Path;

    #[test]
    fn ranges_cover_a_file_and_are_not_too_many() {
        for (size, packed) in [
            (LARGE_BYTES, false),
            ((5 << 30) + 1, true),
            ((1 << 40) + 8192, false),
            (TOTAL_BYTES_MAX, true),
            (TOTAL_BYTES_MAX, false),
        ] {
            let mut list = FileList::new(ChecksumAlgorithm::Crc32c);
            list.add_directory(0, Path::new(""), 0o700).unwrap();
            list.add_file(0, OsStr::new("large"), size, 0, 0o600).unwrap();
            let (jobs, larges) = divide(&list, ChecksumAlgorithm::Crc32c, packed);
            let mut next = 0;
            for job in &jobs {
                let Job::Range { large: 0, offset, length } = job else { continue };
                assert_eq!(*offset, next, "{size}");
                assert!(!packed || offset.is_multiple_of(block_bytes(size).into()), "{size}");
                next += length;
            }
            assert_eq!(next, size);
            assert_eq!(ranges_of(&larges[0]) + 1, jobs.len(), "one batch that has nothing");
            assert!(jobs.len() as u64 <= RANGES_MAX + 2, "{size}: {}", jobs.len());
        }
    }

    fn ranges_of(large: &Large) -> usize {
        large.state.lock().unwrap().ranges
    }
}
