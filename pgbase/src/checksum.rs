//! Data page checksums: PostgreSQL's own algorithm over the pages of relation files as they pass.
//!
//! The algorithm is that of `storage/checksum_impl.h`: the page is read as rows of 32 little-endian numbers, each
//! column is hashed by a variant of FNV-1a, and the columns are folded into 16 bits together with the block's number.
//! Which files have checksums and which pages may be torn follows the server's own base backup (`basebackup.c`).

mod cluster;
mod relation;

use bytes::Bytes;
use pgwal::Lsn;

pub use cluster::{CheckedCluster, check_cluster};
pub use relation::{Fork, RelationFile};

/// Number of columns hashed side by side.
const COLUMNS: usize = 32;
const FNV_PRIME: u32 = 16_777_619;

/// Where each column starts (`checksumBaseOffsets`).
const BASE_OFFSETS: [u32; COLUMNS] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// Offset of `pd_checksum` in a page header, in bytes.
const CHECKSUM_OFFSET: usize = 8;
/// Offset of `pd_upper`, zero in a page that was never initialised.
const UPPER_OFFSET: usize = 14;
/// Size of a page's header, the least that a page can be.
const PAGE_HEADER_BYTES: usize = 24;

/// Geometry of a cluster's data files, from its `block_size` and `segment_size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageGeometry {
    /// Size of a page in bytes: a power of two from 1 KiB to 32 KiB, nearly always 8 KiB.
    block_bytes: usize,
    /// Pages in one file of a relation, nearly always 131072 (1 GiB).
    blocks_per_segment: u32,
}

impl PageGeometry {
    /// What servers are built with unless told otherwise: pages of 8 KiB in files of 1 GiB.
    pub const DEFAULT: PageGeometry = PageGeometry { block_bytes: 8192, blocks_per_segment: 131_072 };

    /// A geometry by page size and pages per file; `None` when no server can have it.
    pub fn new(block_bytes: usize, blocks_per_segment: u32) -> Option<Self> {
        let sound = block_bytes.is_power_of_two() && (1024..=32_768).contains(&block_bytes);
        (sound && blocks_per_segment > 0).then_some(PageGeometry { block_bytes, blocks_per_segment })
    }

    /// Size of a page in bytes.
    pub const fn block_bytes(self) -> usize {
        self.block_bytes
    }

    /// Pages in one file of a relation.
    pub const fn blocks_per_segment(self) -> u32 {
        self.blocks_per_segment
    }
}

/// The checksum that a page should carry as block `block` of its relation, never 0.
///
/// `page` is a whole page: any length that is a multiple of 128 bytes works. The two bytes in which the checksum itself
/// is stored don't count.
pub fn page_checksum(page: &[u8], block: u32) -> u16 {
    let mut sums = BASE_OFFSETS;
    let mut rows = page.as_chunks::<{ 4 * COLUMNS }>().0.iter();
    if let Some(first) = rows.next() {
        let mut first = *first;
        first[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2].fill(0);
        mix_row(&mut sums, &first);
    }
    for row in rows {
        mix_row(&mut sums, row);
    }
    // Two more rounds of zeros, so that the last row is mixed as well as the first.
    for _ in 0..2 {
        mix_row(&mut sums, &[0; 4 * COLUMNS]);
    }
    let folded = sums.iter().fold(0, |folded, sum| folded ^ sum) ^ block;
    // 1 to 65535: zero means that there is no checksum.
    (folded % 65_535 + 1) as u16
}

#[inline(always)]
fn mix_row(sums: &mut [u32; COLUMNS], row: &[u8; 4 * COLUMNS]) {
    let words = row.as_chunks::<4>().0;
    for (sum, word) in sums.iter_mut().zip(words) {
        let mixed = *sum ^ u32::from_le_bytes(*word);
        *sum = mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17);
    }
}

/// A page whose checksum is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadPage {
    /// The block's number in its relation, across the relation's files.
    pub block: u32,
    /// The checksum in its header.
    pub stored: u16,
    /// The checksum of its bytes.
    pub computed: u16,
}

/// Checks a single page the way the server does while it sends a base backup.
///
/// Pages that were never initialised have no checksum. Pages changed at or after `backup_start` may have been read while
/// they were being written: WAL replay repairs them, so they aren't judged. A torn page whose old half holds an
/// older LSN is re-read by the server until it is whole, before it is sent.
pub fn check_page(page: &[u8], block: u32, backup_start: Lsn) -> Option<BadPage> {
    let header = page.first_chunk::<PAGE_HEADER_BYTES>()?;
    if page_upper(header) == 0 || page_lsn(header) >= backup_start {
        return None;
    }
    let stored = u16::from_le_bytes([header[CHECKSUM_OFFSET], header[CHECKSUM_OFFSET + 1]]);
    let computed = page_checksum(page, block);
    (stored != computed).then_some(BadPage { block, stored, computed })
}

fn page_upper(header: &[u8; PAGE_HEADER_BYTES]) -> u16 {
    u16::from_le_bytes([header[UPPER_OFFSET], header[UPPER_OFFSET + 1]])
}

/// `pd_lsn`: two halves of 32 bits, the high one first.
fn page_lsn(header: &[u8; PAGE_HEADER_BYTES]) -> Lsn {
    let half = |at: usize| {
        u64::from(u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]))
    };
    Lsn::from_u64(half(0) << 32 | half(4))
}

/// Checks the pages of one relation file whose bytes come in pieces of any size.
#[derive(Debug)]
pub struct FileChecker {
    geometry: PageGeometry,
    backup_start: Lsn,
    /// The next block's number in the relation.
    block: u32,
    /// The beginning of a page that came in pieces.
    partial: Vec<u8>,
}

impl FileChecker {
    /// A checker at the start of `file`.
    pub fn new(geometry: PageGeometry, file: RelationFile, backup_start: Lsn) -> Self {
        let block = file.segment.wrapping_mul(geometry.blocks_per_segment);
        FileChecker { geometry, backup_start, block, partial: Vec::new() }
    }

    /// Checks every page that `data` completes, telling `report` of wrong ones.
    pub fn update(&mut self, data: &Bytes, mut report: impl FnMut(BadPage)) {
        let mut data: &[u8] = data;
        let block_bytes = self.geometry.block_bytes;
        if !self.partial.is_empty() {
            let take = data.len().min(block_bytes - self.partial.len());
            self.partial.extend_from_slice(&data[..take]);
            data = &data[take..];
            if self.partial.len() < block_bytes {
                return;
            }
            let page = std::mem::take(&mut self.partial);
            self.page(&page, &mut report);
            self.partial = page;
            self.partial.clear();
        }
        let mut pages = data.chunks_exact(block_bytes);
        for page in &mut pages {
            self.page(page, &mut report);
        }
        self.partial.extend_from_slice(pages.remainder());
    }

    /// Bytes after the last whole page, which no server checks.
    pub fn trailing_bytes(&self) -> usize {
        self.partial.len()
    }

    fn page(&mut self, page: &[u8], report: &mut impl FnMut(BadPage)) {
        if let Some(bad) = check_page(page, self.block, self.backup_start) {
            report(bad);
        }
        self.block = self.block.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `checksum_impl.h` read literally, one number at a time.
    fn by_the_book(page: &[u8], block: u32) -> u16 {
        let mut page = page.to_vec();
        page[8..10].fill(0);
        let mut sums = BASE_OFFSETS;
        let mut mix = |column: usize, value: u32| {
            let mixed = sums[column] ^ value;
            sums[column] = mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17);
        };
        for (index, word) in page.chunks(4).enumerate() {
            mix(index % 32, u32::from_le_bytes(word.try_into().unwrap()));
        }
        for column in (0..32).chain(0..32) {
            mix(column, 0);
        }
        let folded = sums.iter().fold(block, |a, b| a ^ b);
        (folded % 65_535 + 1) as u16
    }

    /// A page with data, an LSN and the right checksum for `block`.
    fn page(block: u32, lsn: u64, fill: u8) -> Vec<u8> {
        let mut page = vec![fill; 8192];
        page[..4].copy_from_slice(&((lsn >> 32) as u32).to_le_bytes());
        page[4..8].copy_from_slice(&(lsn as u32).to_le_bytes());
        page[14..16].copy_from_slice(&8192_u16.to_le_bytes());
        let checksum = page_checksum(&page, block);
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    fn faults(name: &str, data: &[u8], piece: usize) -> Vec<BadPage> {
        let file = RelationFile::parse_file_name(name.as_bytes()).unwrap();
        let mut checker = FileChecker::new(PageGeometry::DEFAULT, file, Lsn::from_u64(1000));
        let mut found = Vec::new();
        for chunk in data.chunks(piece) {
            checker.update(&Bytes::copy_from_slice(chunk), |bad| found.push(bad));
        }
        found
    }

    #[test]
    fn finds_the_one_damaged_page_in_any_pieces() {
        let mut data: Vec<u8> = (0..5).flat_map(|block| page(block, 10, block as u8 + 1)).collect();
        data[3 * 8192 + 5000] ^= 1;
        for piece in [1000, 8192, 32_768, 1 << 20] {
            let found = faults("16384", &data, piece);
            assert_eq!(found.iter().map(|bad| bad.block).collect::<Vec<_>>(), [3]);
        }
    }

    #[test]
    fn blocks_count_on_in_later_files_of_a_relation() {
        let data = page(2 * 131_072, 10, 1);
        assert_eq!(faults("16384.2", &data, 8192), []);
        assert_eq!(faults("16384", &data, 8192).len(), 1);
        assert_eq!(faults("16384_vm.2", &data, 8192), []);
    }

    #[test]
    fn new_pages_and_pages_changed_during_the_backup_are_not_judged() {
        assert_eq!(faults("1", &[0; 8192], 8192), []);
        let mut changed = page(0, 1000, 1);
        changed[5000] ^= 1;
        assert_eq!(faults("1", &changed, 8192), []);
        let mut before = page(0, 999, 1);
        before[5000] ^= 1;
        assert_eq!(faults("1", &before, 8192).len(), 1);
    }

    #[test]
    fn a_partial_last_page_is_left_alone() {
        let file = RelationFile::parse_file_name(b"1").unwrap();
        let mut checker = FileChecker::new(PageGeometry::DEFAULT, file, Lsn::from_u64(1000));
        checker.update(&Bytes::from(vec![1; 8192 + 100]), |_| {});
        assert_eq!(checker.trailing_bytes(), 100);
    }

    #[test]
    fn impossible_geometries_are_refused() {
        for (bytes, blocks) in [(0, 1), (512, 1), (65_536, 1), (8191, 1), (8192, 0)] {
            assert_eq!(PageGeometry::new(bytes, blocks), None);
        }
        assert_eq!(PageGeometry::new(8192, 131_072), Some(PageGeometry::DEFAULT));
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(bytes in prop::collection::vec(any::<u8>(), 8192), block: u32) {
            prop_assert_eq!(page_checksum(&bytes, block), by_the_book(&bytes, block));
        }

        #[test]
        fn any_bytes_never_panic(bytes: Vec<u8>, block: u32) {
            let _ = page_checksum(&bytes, block);
            let _ = check_page(&bytes, block, Lsn::MAX);
        }
    }
}
