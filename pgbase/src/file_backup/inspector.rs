//! Page checksums where the files are read, with another look at pages that seem wrong.

use std::io;
use std::path::Path;
use std::time::Duration;

use barkeep_transport::host::{Inspection, Inspector, Reread};
use pgwal::Lsn;

use crate::checksum::{BadPage, PageGeometry, RelationFile, check_page};

/// The inspector's name.
pub(super) const NAME: &str = "pages";

/// How often a page that seems wrong is read again: it may just be being written.
const REREADS: u32 = 5;
/// How long is waited before the second and later looks.
const PAUSE: Duration = Duration::from_millis(2);
/// Most wrong pages told for one range; more are only counted.
const BAD_PAGES_MAX: usize = 100;
/// Size of a wrong page in the findings, in bytes.
const BAD_PAGE_BYTES: usize = 8;

/// Checks the pages of relation files. To be registered with a host that reads a cluster's files; whoever runs an agent
/// for PostgreSQL registers it there.
#[derive(Debug, Clone, Copy, Default)]
pub struct PageInspector;

/// What the inspector is told: the geometry, where the backup starts, and whether the tree is a tablespace's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parameters {
    pub(super) geometry: PageGeometry,
    pub(super) start: Lsn,
    pub(super) in_tablespace: bool,
}

impl Parameters {
    pub(super) fn encode(self) -> Vec<u8> {
        let mut bytes = (self.geometry.block_bytes() as u32).to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.geometry.blocks_per_segment().to_le_bytes());
        bytes.extend_from_slice(&self.start.as_u64().to_le_bytes());
        bytes.push(u8::from(self.in_tablespace));
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (block, rest) = bytes.split_first_chunk::<4>()?;
        let (blocks, rest) = rest.split_first_chunk::<4>()?;
        let (start, rest) = rest.split_first_chunk::<8>()?;
        let [in_tablespace @ 0..=1] = rest else { return None };
        let geometry = PageGeometry::new(u32::from_le_bytes(*block) as usize, u32::from_le_bytes(*blocks))?;
        let start = Lsn::from_u64(u64::from_le_bytes(*start));
        Some(Parameters { geometry, start, in_tablespace: *in_tablespace == 1 })
    }
}

impl Inspector for PageInspector {
    fn name(&self) -> &'static str {
        NAME
    }

    fn begin(
        &self,
        parameters: &[u8],
        path: &Path,
        offset: u64,
    ) -> Result<Option<Box<dyn Inspection>>, String> {
        use std::os::unix::ffi::OsStrExt;
        let parameters = Parameters::decode(parameters).ok_or("it is told nothing that makes sense")?;
        let Some(file) = RelationFile::parse(path.as_os_str().as_bytes(), parameters.in_tablespace) else {
            return Ok(None);
        };
        let geometry = parameters.geometry;
        let first = file.segment.wrapping_mul(geometry.blocks_per_segment());
        let inspection = Pages {
            geometry,
            start: parameters.start,
            range_start: offset,
            first,
            bad: Vec::new(),
            count: 0,
        };
        Ok(Some(Box::new(inspection)))
    }
}

#[derive(Debug)]
struct Pages {
    geometry: PageGeometry,
    start: Lsn,
    range_start: u64,
    /// The number in its relation of the file's first block.
    first: u32,
    bad: Vec<BadPage>,
    count: u64,
}

impl Inspection for Pages {
    fn look(&mut self, offset: u64, bytes: &mut [u8], reread: &mut Reread<'_>) -> io::Result<()> {
        let block_bytes = self.geometry.block_bytes();
        // Pieces are many pages long; a range that does not start at a page would be the caller's mistake.
        if !offset.is_multiple_of(block_bytes as u64) || !self.range_start.is_multiple_of(block_bytes as u64)
        {
            return Ok(());
        }
        for (index, page) in bytes.chunks_exact_mut(block_bytes).enumerate() {
            let at = offset + (index * block_bytes) as u64;
            let block = self.first.wrapping_add((at / block_bytes as u64) as u32);
            if let Some(bad) = check_page(page, block, self.start)
                && let Some(bad) = look_again(page, at, block, self.start, bad, reread)?
            {
                self.count += 1;
                if self.bad.len() < BAD_PAGES_MAX {
                    self.bad.push(bad);
                }
            }
        }
        Ok(())
    }

    fn findings(self: Box<Self>) -> Vec<u8> {
        encode(&self.bad, self.count)
    }
}

/// A page being written looks wrong until it is; `None` once it does not any more, or is beyond the file's end.
fn look_again(
    page: &mut [u8],
    at: u64,
    block: u32,
    start: Lsn,
    mut bad: BadPage,
    reread: &mut Reread<'_>,
) -> io::Result<Option<BadPage>> {
    for look in 0..REREADS {
        if look > 0 {
            std::thread::sleep(PAUSE);
        }
        let mut again = vec![0; page.len()];
        if reread(at, &mut again)? < page.len() {
            // Truncated meanwhile: replaying WAL does the same.
            return Ok(None);
        }
        page.copy_from_slice(&again);
        match check_page(page, block, start) {
            Some(still) => bad = still,
            None => return Ok(None),
        }
    }
    Ok(Some(bad))
}

/// Wrong pages as findings: how many, then the first ones.
fn encode(bad: &[BadPage], count: u64) -> Vec<u8> {
    if count == 0 {
        return Vec::new();
    }
    let mut bytes = count.to_le_bytes().to_vec();
    for page in bad {
        bytes.extend_from_slice(&page.block.to_le_bytes());
        bytes.extend_from_slice(&page.stored.to_le_bytes());
        bytes.extend_from_slice(&page.computed.to_le_bytes());
    }
    bytes
}

/// The wrong pages of findings, and how many there were; `None` for findings that make no sense.
pub(super) fn decode(findings: &[u8]) -> Option<(Vec<BadPage>, u64)> {
    if findings.is_empty() {
        return Some((Vec::new(), 0));
    }
    let (count, rest) = findings.split_first_chunk::<8>()?;
    let (pages, rest) = rest.as_chunks::<BAD_PAGE_BYTES>();
    if !rest.is_empty() || pages.len() > BAD_PAGES_MAX {
        return None;
    }
    let page = |bytes: &[u8; BAD_PAGE_BYTES]| {
        let [a, b, c, d, e, f, g, h] = *bytes;
        BadPage {
            block: u32::from_le_bytes([a, b, c, d]),
            stored: u16::from_le_bytes([e, f]),
            computed: u16::from_le_bytes([g, h]),
        }
    };
    Some((pages.iter().map(page).collect(), u64::from_le_bytes(*count)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::page_checksum;

    const PARAMETERS: Parameters =
        Parameters { geometry: PageGeometry::DEFAULT, start: Lsn::from_u64(1000), in_tablespace: false };

    fn page(block: u32, lsn: u64) -> Vec<u8> {
        let mut page = vec![7; 8192];
        page[..4].copy_from_slice(&((lsn >> 32) as u32).to_le_bytes());
        page[4..8].copy_from_slice(&(lsn as u32).to_le_bytes());
        page[14..16].copy_from_slice(&8192_u16.to_le_bytes());
        let checksum = page_checksum(&page, block);
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    /// Looks at `first`, where the file has `later` from then on: what was found, and what is copied.
    fn inspect(path: &str, first: &[u8], later: &[u8]) -> (Vec<u32>, Vec<u8>) {
        let begun = PageInspector.begin(&PARAMETERS.encode(), Path::new(path), 0).unwrap();
        let mut inspection = begun.expect("a relation's file");
        let mut bytes = first.to_vec();
        let mut reread = |offset: u64, buffer: &mut [u8]| {
            let rest = later.get(offset as usize..).unwrap_or_default();
            let length = rest.len().min(buffer.len());
            buffer[..length].copy_from_slice(&rest[..length]);
            Ok(length)
        };
        inspection.look(0, &mut bytes, &mut reread).unwrap();
        let (bad, count) = decode(&inspection.findings()).unwrap();
        assert_eq!(bad.len() as u64, count);
        (bad.into_iter().map(|page| page.block).collect(), bytes)
    }

    #[test]
    fn a_damaged_page_is_named() {
        let mut file = [page(0, 10), page(1, 10), page(2, 10)].concat();
        file[8192 + 5000] ^= 1;
        assert_eq!(inspect("base/5/16384", &file, &file), (vec![1], file.clone()));
        let blocks = inspect("base/5/16384.2", &file, &file).0;
        assert_eq!(blocks, [2 * 131_072, 2 * 131_072 + 1, 2 * 131_072 + 2], "pages of another file");
    }

    #[test]
    fn a_page_that_was_being_written_is_not_reported_and_copied_whole() {
        let file = [page(0, 10), page(1, 10)].concat();
        let mut torn = file.clone();
        torn[8192 + 4096..].fill(0xee);
        assert_eq!(inspect("base/5/16384", &torn, &file), (vec![], file.clone()));
        // Cut off meanwhile.
        assert_eq!(inspect("base/5/16384", &torn, &file[..8192]).0, [0_u32; 0]);
        // Changed since the backup began: WAL has all of it.
        let mut changed = [page(0, 10), page(1, 2000)].concat();
        changed[8192 + 5000] ^= 1;
        assert_eq!(inspect("base/5/16384", &changed, &changed).0, [0_u32; 0]);
    }

    #[test]
    fn only_relations_are_looked_at() {
        for path in ["PG_VERSION", "base/5/PG_VERSION", "pg_xact/0000", "base/5/t3_16384"] {
            assert!(PageInspector.begin(&PARAMETERS.encode(), Path::new(path), 0).unwrap().is_none());
        }
        for wrong in [&b""[..], b"rubbish", &[0; 17]] {
            assert!(PageInspector.begin(wrong, Path::new("base/5/1"), 0).is_err());
        }
    }

    #[test]
    fn findings_of_a_hostile_host_make_no_sense() {
        for wrong in [&[1; 7][..], &[1; 9], &[0; 8 + 8 * 101]] {
            assert_eq!(decode(wrong), None);
        }
    }
}
