//! The files of a manifest, compactly, to be found by path.

use std::io::Read;

use crate::manifest::{ChecksumAlgorithm, ManifestError, ManifestFacts, read};
use crate::scan::is_not_listed;

/// A manifest's files in the order of their paths.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// For each file its path, directly followed by its checksum.
    texts: Vec<u8>,
    rows: Vec<Row>,
    /// Paths that came more than once.
    repeated: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Row {
    /// Where in `texts` the path starts.
    start: usize,
    path_bytes: u32,
    algorithm: ChecksumAlgorithm,
    matched: bool,
    file_bytes: u64,
}

impl Row {
    fn path<'a>(&self, texts: &'a [u8]) -> &'a [u8] {
        &texts[self.start..self.start + self.path_bytes as usize]
    }
}

impl Listed {
    /// Reads a manifest.
    pub(super) fn read(source: impl Read) -> Result<(Self, ManifestFacts), ManifestError> {
        let (mut texts, mut rows) = (Vec::new(), Vec::<Row>::new());
        let facts = read(source, |file| {
            let start = texts.len();
            texts.extend_from_slice(&file.path);
            let algorithm = file.checksum.as_ref().map_or(ChecksumAlgorithm::None, |sum| sum.algorithm);
            file.checksum.iter().for_each(|sum| texts.extend_from_slice(&sum.bytes));
            // A line of a manifest, and so a path in it, is far shorter than 4 GiB.
            let path_bytes = file.path.len() as u32;
            rows.push(Row { start, path_bytes, algorithm, matched: false, file_bytes: file.bytes });
        })?;
        rows.sort_by(|a, b| a.path(&texts).cmp(b.path(&texts)));
        let mut repeated = Vec::new();
        rows.dedup_by(|a, b| {
            let same = a.path(&texts) == b.path(&texts);
            repeated.extend(same.then(|| a.path(&texts).to_vec()));
            same
        });
        Ok((Listed { texts, rows, repeated }, facts))
    }

    /// Paths that come more than once.
    pub(super) fn repeated(&self) -> impl Iterator<Item = &[u8]> {
        self.repeated.iter().map(Vec::as_slice)
    }

    /// Finds a file and marks it as found; its number.
    pub(super) fn take(&mut self, path: &[u8]) -> Option<usize> {
        let at = self.rows.binary_search_by(|row| row.path(&self.texts).cmp(path)).ok()?;
        self.rows[at].matched = true;
        Some(at)
    }

    /// Whether anything is listed whose path begins so.
    pub(super) fn any_below(&self, prefix: &[u8]) -> bool {
        let at = self.rows.partition_point(|row| row.path(&self.texts) < prefix);
        self.rows.get(at).is_some_and(|row| row.path(&self.texts).starts_with(prefix))
    }

    /// Paths of files that were not found, but for those that don't count.
    pub(super) fn unmatched(&self) -> impl Iterator<Item = &[u8]> {
        let missing = self.rows.iter().filter(|row| !row.matched).map(|row| row.path(&self.texts));
        missing.filter(|path| !is_not_listed(path))
    }

    /// A file's size in bytes.
    pub(super) fn bytes(&self, number: usize) -> u64 {
        self.rows[number].file_bytes
    }

    /// How a file is hashed.
    pub(super) fn algorithm(&self, number: usize) -> ChecksumAlgorithm {
        self.rows[number].algorithm
    }

    /// A file's checksum.
    pub(super) fn checksum(&self, number: usize) -> &[u8] {
        let row = &self.rows[number];
        let start = row.start + row.path_bytes as usize;
        &self.texts[start..start + row.algorithm.checksum_bytes()]
    }
}
