//! The archive that `put-wal` reads: plain files in the ustar format (POSIX.1-1988), one after another.

/// Size of headers and of what file contents are padded to, in bytes.
pub(super) const BLOCK_BYTES: usize = 512;
/// What ends an archive, in bytes.
pub(super) const END_BYTES: usize = 2 * BLOCK_BYTES;
/// The longest name that fits the header, in bytes.
const NAME_BYTES_MAX: usize = 100;
/// The largest size that the header's octal digits hold, in bytes: 8 GiB, above that of any WAL file.
const SIZE_MAX: u64 = 0o77_777_777_777;

const MODE: std::ops::Range<usize> = 100..108;
const UID: std::ops::Range<usize> = 108..116;
const GID: std::ops::Range<usize> = 116..124;
const SIZE: std::ops::Range<usize> = 124..136;
const MODIFIED: std::ops::Range<usize> = 136..148;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const TYPE: usize = 156;
const MAGIC: std::ops::Range<usize> = 257..265;

/// The header of a regular file; `None` when the name or the size does not fit.
pub(super) fn header(name: &str, size: u64, modified_unix_seconds: u64) -> Option<[u8; BLOCK_BYTES]> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || size > SIZE_MAX {
        return None;
    }
    let mut block = [0; BLOCK_BYTES];
    block[..name.len()].copy_from_slice(name.as_bytes());
    octal(&mut block[MODE], 0o600);
    octal(&mut block[UID], 0);
    octal(&mut block[GID], 0);
    octal(&mut block[SIZE], size);
    octal(&mut block[MODIFIED], modified_unix_seconds.min(SIZE_MAX));
    block[TYPE] = b'0';
    block[MAGIC].copy_from_slice(b"ustar\x0000");
    // The sum counts its own field as blanks.
    block[CHECKSUM].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut block[CHECKSUM.start..CHECKSUM.end - 1], sum);
    Some(block)
}

/// How many zero bytes follow a content of this size.
pub(super) fn padding(size: u64) -> usize {
    let block = BLOCK_BYTES as u64;
    // Less than a block.
    usize::try_from((block - size % block) % block).unwrap_or(0)
}

/// Digits with leading zeros, and a zero byte at the end.
fn octal(field: &mut [u8], mut number: u64) {
    if let Some((end, digits)) = field.split_last_mut() {
        *end = 0;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + u8::try_from(number % 8).unwrap_or(0);
            number /= 8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_tar_reads_it() {
        use std::io::Write as _;
        let mut archive = Vec::new();
        for (name, content) in [("000000010000000000000001", "some WAL"), ("SHA256SUMS", "")] {
            archive.extend_from_slice(&header(name, content.len() as u64, 1_700_000_000).unwrap());
            archive.extend_from_slice(content.as_bytes());
            archive.resize(archive.len() + padding(content.len() as u64), 0);
        }
        archive.resize(archive.len() + END_BYTES, 0);
        let directory = tempfile::tempdir().unwrap();
        let mut tar = std::process::Command::new("tar")
            .args(["-x", "-C"])
            .arg(directory.path())
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        tar.stdin.take().unwrap().write_all(&archive).unwrap();
        assert!(tar.wait().unwrap().success());
        let path = directory.path().join("000000010000000000000001");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "some WAL");
        let modified = std::fs::metadata(path).unwrap().modified().unwrap();
        assert_eq!(modified.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs(), 1_700_000_000);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(header("", 1, 0).is_none());
        assert!(header(&"x".repeat(101), 1, 0).is_none());
        assert!(header("x", SIZE_MAX + 1, 0).is_none());
        assert!(header("x", SIZE_MAX, u64::MAX).is_some());
        assert_eq!([padding(0), padding(1), padding(512), padding(513)], [0, 511, 0, 511]);
    }
}
