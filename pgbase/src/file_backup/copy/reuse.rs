//! What an earlier copy has of a file: taken as it is when it is the same for sure, compared block by block otherwise.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use barkeep_transport::host::{Digest, Known, PIECE_BYTES, block_digest};

use super::super::reference::{Earlier, Reuse, link};
use super::super::{FileBackupError, TreeKind};
use super::hash::Hash;
use super::{Finished, Work};
use crate::copy::Directory;
use crate::manifest::ChecksumAlgorithm;

/// Blocks that are compared with an earlier copy, in bytes: a page, for those are what changes.
const BLOCK_BYTES: u32 = 8192;
/// Below this size comparing costs more than sending, in bytes.
const COMPARE_FROM_BYTES: u64 = 32 << 10;

impl Work<'_> {
    /// The first reference that has a file, and what it has.
    pub(super) fn earlier(&self, row: usize) -> Option<(usize, Earlier, Directory)> {
        let file = &self.list.rows[row];
        let place = self.list.directory(file);
        if self.tree(place.tree).kind == TreeKind::Outside {
            return None;
        }
        self.references.iter().enumerate().find_map(|(number, reference)| {
            let directory = reference.directory(place.tree, &place.path)?;
            let earlier = reference.look(&directory, self.list.name(file), file.size, file.modified_ns)?;
            Some((number, earlier, directory))
        })
    }

    /// Takes a file from an earlier copy, if it is the same for sure.
    pub(super) fn reuse(
        &self,
        row: usize,
        to: &Directory,
        stop: &AtomicBool,
    ) -> Result<Option<Option<Earlier>>, FileBackupError> {
        let Some((number, mut earlier, from)) = self.earlier(row) else { return Ok(Some(None)) };
        if !earlier.is_same {
            return Ok(Some(Some(earlier)));
        }
        let file = &self.list.rows[row];
        let name = self.list.name(file);
        let failed = |error| FileBackupError::write(&self.target_path(row), error);
        let checksum = match self.checksums.get(number).and_then(|known| known.get(row)) {
            Some(known) => known.to_vec(),
            None => self.hash_file(&earlier).map_err(failed)?,
        };
        let linked = self.references[number].reuse == Reuse::Link && link(&from, to, name);
        if !linked {
            let mut output =
                to.create(Path::new(name), u32::from(file.mode) | 0o600, None).map_err(failed)?;
            let ends = |_| match stop.load(Ordering::Relaxed) || self.observer.cancelled() {
                true => Err(io::ErrorKind::Interrupted.into()),
                false => Ok(()),
            };
            let copied = self.method.copy(&mut earlier.file, &mut output, file.size, &ends);
            copied.map_err(|error| self.sink_error(row, error, stop))?;
            let when =
                std::time::UNIX_EPOCH + std::time::Duration::from_nanos(file.modified_ns.max(0) as u64);
            output.set_modified(when).map_err(failed)?;
        }
        self.observer.copied(file.size);
        let (size, modified_ns) = (file.size, file.modified_ns);
        self.finished(row, Some(Finished { size, modified_ns, checksum }), !linked);
        Ok(None)
    }

    fn hash_file(&self, earlier: &Earlier) -> io::Result<Vec<u8>> {
        let mut hash = Hash::new(self.plan.manifest_checksum);
        if self.plan.manifest_checksum != ChecksumAlgorithm::None {
            let mut take = |bytes: &[u8]| {
                hash.update(bytes);
                Ok(())
            };
            each_piece(&earlier.file, 0, earlier.size, &mut take)?;
        }
        Ok(hash.finish())
    }

    /// What a range of an earlier copy is, for the host to compare with.
    pub(super) fn known(&self, earlier: &Earlier, offset: u64, length: u64) -> Option<Known> {
        let worth = self.plan.remote || self.plan.references.iter().any(|one| one.reuse == Reuse::Compare);
        if !worth || length < COMPARE_FROM_BYTES || offset >= earlier.size {
            return None;
        }
        let mut digests: Vec<Digest> = Vec::new();
        let read = each_piece(&earlier.file, offset, length.min(earlier.size - offset), &mut |bytes| {
            digests.extend(bytes.chunks(BLOCK_BYTES as usize).map(block_digest));
            Ok(())
        });
        // What can't be read is of no use, and that is all.
        read.ok().map(|()| Known { block_bytes: BLOCK_BYTES, digests })
    }
}

/// Reads a range of a file of ours.
pub(super) fn each_piece(
    file: &std::fs::File,
    offset: u64,
    length: u64,
    take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; usize::try_from(length).map_or(PIECE_BYTES, |length| length.min(PIECE_BYTES))];
    let mut done = 0;
    while done < length {
        let step = usize::try_from(length - done).map_or(buffer.len(), |left| left.min(buffer.len()));
        file.read_exact_at(&mut buffer[..step], offset + done)?;
        take(&buffer[..step])?;
        done += step as u64;
    }
    Ok(())
}
