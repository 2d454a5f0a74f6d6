//! What an earlier copy has of a file: taken as it is when it is the same for sure, compared block by block otherwise.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use barkeep_transport::host::{Digest, HashJob, Known, PIECE_BYTES, block_digest};

use super::super::reference::{Earlier, Reuse, Sameness, link};
use super::super::target::set_modified;
use super::super::{FileBackupError, TreeKind};
use super::hash::Hash;
use super::{Finished, Work};
use crate::copy::{Directory, copy_buffered};
use crate::manifest::ChecksumAlgorithm;
use crate::packed::{StoredFile, original_name, stored_name};

/// Blocks that are compared with an earlier copy, in bytes: a page, for those are what changes.
const BLOCK_BYTES: u32 = 8192;
/// Below this size comparing costs more than sending, in bytes.
const COMPARE_FROM_BYTES: u64 = 32 << 10;
/// How much of a file the host is asked to hash at a time, in bytes.
const HASH_BYTES: u64 = 64 << 20;

/// A file of an earlier copy, and where it is.
pub(super) struct Candidate {
    /// The number of the reference.
    reference: usize,
    pub(super) earlier: Earlier,
    from: Directory,
}

impl Work<'_> {
    /// The first reference that has a file, and what it has.
    pub(super) fn candidate(&self, row: usize) -> Option<Candidate> {
        let file = &self.list.rows[row];
        let place = self.list.directory(file);
        if self.tree(place.tree).kind == TreeKind::Outside {
            return None;
        }
        self.references.iter().enumerate().find_map(|(number, reference)| {
            let from = reference.directory(place.tree, &place.path)?;
            let earlier = reference.look(&from, self.list.name(file), file.size, file.modified_ns)?;
            Some(Candidate { reference: number, earlier, from })
        })
    }

    /// Looks at the server's content of files that seem to be the same, all together, and knows it then.
    pub(super) fn confirm(&self, candidates: &mut [(usize, Candidate)]) -> Result<(), FileBackupError> {
        let mut jobs = Vec::new();
        let mut of_job = Vec::new();
        for (index, (row, candidate)) in candidates.iter().enumerate() {
            if candidate.earlier.sameness != Sameness::Likely {
                continue;
            }
            let file = &self.list.rows[*row];
            let root = self.tree(self.list.directory(file).tree).root;
            // One byte more: the file may have grown.
            let (path, wanted) = (self.list.path(file), file.size + 1);
            for offset in (0..wanted).step_by(HASH_BYTES as usize) {
                let length = HASH_BYTES.min(wanted - offset);
                jobs.push(HashJob { root, path: path.clone(), offset, length, block_bytes: BLOCK_BYTES });
                of_job.push(index);
            }
        }
        let hashed = self.host.hash(&jobs)?;
        for (_, candidate) in candidates.iter_mut() {
            if candidate.earlier.sameness == Sameness::Likely {
                candidate.earlier.sameness = Sameness::Sure;
            }
        }
        for ((job, index), hashed) in jobs.iter().zip(of_job).zip(hashed) {
            let Some((_, candidate)) = candidates.get_mut(index) else { continue };
            let earlier = &mut candidate.earlier;
            if earlier.sameness == Sameness::No {
                continue;
            }
            let here = job.length.min(earlier.size.saturating_sub(job.offset));
            // What can't be read, on either side, is not the same.
            let same = hashed.is_ok_and(|theirs| {
                theirs.bytes == here
                    && digests(&mut earlier.file, job.offset, here).is_ok_and(|ours| ours == theirs.digests)
            });
            if !same {
                earlier.sameness = Sameness::No;
            }
        }
        Ok(())
    }

    /// The name that a file of an earlier copy is taken over by as it is stored there; `None` if this backup has to have
    /// it in another form.
    fn name_as_stored(&self, own: &OsStr, earlier: &StoredFile) -> Option<OsString> {
        match (earlier.compression(), self.plan.packing) {
            (None, None) => Some(own.to_owned()),
            // Its name would be taken for that of a compressed file.
            (None, Some(_)) => original_name(own).is_none().then(|| own.to_owned()),
            (Some(compression), Some(_)) => Some(stored_name(own, compression)),
            (Some(_), None) => None,
        }
    }

    /// Takes a file from an earlier copy if it is the same for sure; gives it back otherwise.
    pub(super) fn take_over(
        &self,
        row: usize,
        candidate: Candidate,
        to: &Directory,
        stop: &AtomicBool,
    ) -> Result<Option<Earlier>, FileBackupError> {
        let Candidate { reference, mut earlier, from } = candidate;
        let file = &self.list.rows[row];
        let own = self.list.name(file);
        let as_stored = self.name_as_stored(own, &earlier.file);
        let in_other_form = as_stored.is_none() && self.plan.packing.is_some();
        if earlier.sameness != Sameness::Sure || in_other_form {
            return Ok(Some(earlier));
        }
        let failed = |error| FileBackupError::write(&self.target_path(row), error);
        let checksum = match self.checksums.get(reference).and_then(|known| known.get(row)) {
            Some(known) => known.to_vec(),
            None => self.hash_file(&mut earlier).map_err(failed)?,
        };
        let reuse = self.references[reference].reuse;
        let linked = reuse != Reuse::Copy && as_stored.as_deref().is_some_and(|name| link(&from, to, name));
        let mut stored = earlier.file.file().metadata().map_err(failed)?.len();
        if !linked {
            let name = as_stored.as_deref().unwrap_or(own);
            let mut output =
                to.create(Path::new(name), u32::from(file.mode) | 0o600, None).map_err(failed)?;
            let ends = |_| match stop.load(Ordering::Relaxed) || self.observer.cancelled() {
                true => Err(io::ErrorKind::Interrupted.into()),
                false => Ok(()),
            };
            let copied = match as_stored {
                Some(_) => self.method.copy(earlier.file.file_mut(), &mut output, stored, &ends),
                None => copy_buffered(&mut earlier.file, &mut output, &ends).map(|bytes| stored = bytes),
            };
            copied.map_err(|error| self.sink_error(row, error, stop))?;
            set_modified(&output, file.modified_ns).map_err(failed)?;
        }
        self.observer.copied(file.size);
        let (size, modified_ns) = (file.size, file.modified_ns);
        // What a copy that was cut off has goes with it one day.
        let is_new = !linked || reuse == Reuse::Compare;
        self.finished(row, Some(Finished { size, stored, modified_ns, checksum }), is_new);
        Ok(None)
    }

    fn hash_file(&self, earlier: &mut Earlier) -> io::Result<Vec<u8>> {
        let mut hash = Hash::new(self.plan.manifest_checksum);
        if self.plan.manifest_checksum != ChecksumAlgorithm::None {
            let mut take = |bytes: &[u8]| {
                hash.update(bytes);
                Ok(())
            };
            let size = earlier.size;
            each_piece(&mut earlier.file, 0, size, &mut take)?;
        }
        Ok(hash.finish())
    }

    /// What a range of an earlier copy is, for the host to compare with.
    pub(super) fn known(&self, earlier: &mut Earlier, offset: u64, length: u64) -> Option<Known> {
        let worth = self.plan.remote || self.plan.references.iter().any(|one| one.reuse == Reuse::Compare);
        if !worth || length < COMPARE_FROM_BYTES || offset >= earlier.size {
            return None;
        }
        // What can't be read is of no use, and that is all.
        let digests = digests(&mut earlier.file, offset, length.min(earlier.size - offset)).ok()?;
        Some(Known { block_bytes: BLOCK_BYTES, digests })
    }
}

/// The digests of a range of a file of ours.
fn digests(file: &mut StoredFile, offset: u64, length: u64) -> io::Result<Vec<Digest>> {
    let mut digests: Vec<Digest> = Vec::new();
    each_piece(file, offset, length, &mut |bytes| {
        digests.extend(bytes.chunks(BLOCK_BYTES as usize).map(block_digest));
        Ok(())
    })?;
    Ok(digests)
}

/// Reads a range of a file of ours.
pub(super) fn each_piece(
    file: &mut StoredFile,
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
