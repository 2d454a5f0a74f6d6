//! The tar stream that `put-wal` reads: a few regular files, from whoever may call it.
//!
//! Read are what Python's tarfile and GNU tar write for that: ustar, with names, sizes and times in PAX headers, or long
//! names in GNU's own way. Anything but a regular file directly in the archive is refused, and every size is bounded
//! before anything of that size is done.

use std::io::{self, Read};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The unit of a tar archive, in bytes.
const BLOCK_BYTES: usize = 512;
/// Largest extended header accepted, in bytes.
const EXTENSION_BYTES_MAX: u64 = 64 << 10;
/// Largest member accepted, in bytes: above any WAL file, and far below where sums overflow.
const MEMBER_BYTES_MAX: u64 = 1 << 32;
/// Most headers in a row that only extend the next one.
const EXTENSIONS_MAX: u32 = 8;
/// Most zero blocks and other rest after the end of the archive, in bytes: Python pads to 10 KiB.
const TRAILER_BYTES_MAX: u64 = 1 << 20;

/// A stream that is no tar archive of regular files.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// It can't be read.
    #[error("the stream cannot be read: {0}")]
    Read(io::Error),
    /// It ends in the middle.
    #[error("the stream ends in the middle of the archive")]
    CutOff,
    /// A header's checksum is wrong, or a field is none.
    #[error("the stream is no tar archive: {0}")]
    Header(&'static str),
    /// Something other than a regular file.
    #[error("'{name}' is no regular file (tar type '{kind}')", kind = kind.escape_ascii())]
    Kind {
        /// Its name.
        name: String,
        /// Its type in the header.
        kind: u8,
    },
    /// A name that leads somewhere else.
    #[error("'{name}' is no plain file name")]
    Name {
        /// The name.
        name: String,
    },
}

/// A file in the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) modified: Option<SystemTime>,
}

/// Reads a tar stream member by member; the member's bytes are read from it in between.
pub(super) struct TarStream<R> {
    source: R,
    /// Bytes of the present member that were not read yet.
    left: u64,
    /// Bytes that round it up to whole blocks.
    padding: u64,
}

/// What extended headers say about the next member.
#[derive(Default)]
struct Extension {
    name: Option<Vec<u8>>,
    bytes: Option<u64>,
    modified: Option<SystemTime>,
}

impl<R: Read> TarStream<R> {
    pub(super) fn new(source: R) -> Self {
        TarStream { source, left: 0, padding: 0 }
    }

    /// Skips what is left of the present member, and gives the next; `None` at the end of the archive.
    pub(super) fn next(&mut self) -> Result<Option<Member>, TarError> {
        self.skip_rest()?;
        let mut extension = Extension::default();
        for _ in 0..=EXTENSIONS_MAX {
            let Some(block) = self.block()? else { return Ok(None) };
            if block.iter().all(|byte| *byte == 0) {
                self.drain()?;
                return Ok(None);
            }
            verify_checksum(&block)?;
            let bytes = number(&block[124..136]).ok_or(TarError::Header("a size is no number"))?;
            match block[156] {
                b'x' => pax(&self.extension(bytes)?, &mut extension)?,
                b'L' => {
                    let mut name = self.extension(bytes)?;
                    name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
                    extension.name = Some(name);
                }
                b'g' => drop(self.extension(bytes)?),
                b'0' | 0 | b'7' => return self.member(&block, bytes, extension).map(Some),
                kind => {
                    let name = extension.name.unwrap_or_else(|| name_of(&block));
                    return Err(TarError::Kind { name: shown(&name), kind });
                }
            }
        }
        Err(TarError::Header("too many extended headers"))
    }

    fn member(&mut self, block: &[u8], bytes: u64, extension: Extension) -> Result<Member, TarError> {
        let name = extension.name.unwrap_or_else(|| name_of(block));
        let plain = name.strip_prefix(b"./").unwrap_or(&name);
        let is_plain = !plain.is_empty()
            && !matches!(plain, b"." | b"..")
            && !plain.iter().any(|b| matches!(b, b'/' | 0));
        let (Ok(name), true) = (String::from_utf8(plain.to_vec()), is_plain) else {
            return Err(TarError::Name { name: shown(&name) });
        };
        let bytes = extension.bytes.unwrap_or(bytes);
        if bytes > MEMBER_BYTES_MAX {
            return Err(TarError::Header("a file is too long"));
        }
        let seconds = number(&block[136..148]);
        let modified = extension.modified.or_else(|| UNIX_EPOCH.checked_add(Duration::from_secs(seconds?)));
        self.left = bytes;
        self.padding = bytes.wrapping_neg() % BLOCK_BYTES as u64;
        Ok(Member { name, bytes, modified })
    }

    /// The content of an extended header.
    fn extension(&mut self, bytes: u64) -> Result<Vec<u8>, TarError> {
        if bytes > EXTENSION_BYTES_MAX {
            return Err(TarError::Header("an extended header is too long"));
        }
        let whole = bytes.next_multiple_of(BLOCK_BYTES as u64);
        let mut content = Vec::new();
        (&mut self.source).take(whole).read_to_end(&mut content).map_err(TarError::Read)?;
        if (content.len() as u64) < whole {
            return Err(TarError::CutOff);
        }
        content.truncate(bytes as usize);
        Ok(content)
    }

    /// A block; `None` where the stream ends.
    fn block(&mut self) -> Result<Option<[u8; BLOCK_BYTES]>, TarError> {
        let mut block = [0; BLOCK_BYTES];
        match crate::archive::fill(&mut self.source, &mut block).map_err(TarError::Read)? {
            0 => Ok(None),
            BLOCK_BYTES => Ok(Some(block)),
            _ => Err(TarError::CutOff),
        }
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        let rest = self.left + self.padding;
        let skipped =
            io::copy(&mut (&mut self.source).take(rest), &mut io::sink()).map_err(TarError::Read)?;
        (self.left, self.padding) = (0, 0);
        if skipped == rest { Ok(()) } else { Err(TarError::CutOff) }
    }

    /// Reads what follows the archive, so that its sender is not cut off while it pads.
    fn drain(&mut self) -> Result<(), TarError> {
        let rest = io::copy(&mut (&mut self.source).take(TRAILER_BYTES_MAX + 1), &mut io::sink());
        match rest.map_err(TarError::Read)? {
            rest if rest > TRAILER_BYTES_MAX => Err(TarError::Header("it goes on after its end")),
            _ => Ok(()),
        }
    }
}

impl<R: Read> Read for TarStream<R> {
    /// Reads the present member. Where the stream ends inside it, that is an error.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if room == 0 {
            return Ok(0);
        }
        match self.source.read(&mut buffer[..room])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.left -= count as u64;
                Ok(count)
            }
        }
    }
}

fn verify_checksum(block: &[u8; BLOCK_BYTES]) -> Result<(), TarError> {
    let expected = number(&block[148..156]).ok_or(TarError::Header("a header has no checksum"))?;
    let sum = |byte_of: fn(u8) -> i64| {
        let field = 8 * i64::from(b' ');
        let bytes = block[..148].iter().chain(&block[156..]);
        bytes.map(|byte| byte_of(*byte)).sum::<i64>() + field
    };
    // Some old programs added up signed bytes.
    let matches = [sum(i64::from), sum(|byte| i64::from(byte as i8))].contains(&(expected as i64));
    if matches { Ok(()) } else { Err(TarError::Header("a header's checksum is wrong")) }
}

/// A number of a header: octal digits, or base 256 behind a set first bit.
fn number(field: &[u8]) -> Option<u64> {
    if field.first()? & 0x80 != 0 {
        let (first, rest) = field.split_first()?;
        let mut value = u64::from(first & 0x7f);
        for byte in rest {
            value = value.checked_mul(256)?.checked_add(u64::from(*byte))?;
        }
        return Some(value);
    }
    let text = field.trim_ascii_start();
    let digits = text.split(|byte| matches!(byte, b' ' | 0)).next()?;
    digits.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// The name in a header: its prefix and its name.
fn name_of(block: &[u8]) -> Vec<u8> {
    let until_zero = |field: &[u8]| field.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
    let name = until_zero(&block[..100]);
    let prefix = until_zero(&block[345..500]);
    let is_ustar = &block[257..263] == b"ustar\0";
    if is_ustar && !prefix.is_empty() { [prefix, name].join(&b'/') } else { name }
}

/// Reads PAX records: `length key=value\n`.
fn pax(mut records: &[u8], extension: &mut Extension) -> Result<(), TarError> {
    let wrong = TarError::Header("a PAX record is none");
    while !records.is_empty() {
        let Some(space) = records.iter().position(|byte| *byte == b' ') else { return Err(wrong) };
        let length = std::str::from_utf8(&records[..space]).ok().and_then(|text| text.parse::<usize>().ok());
        let Some((record, rest)) = length.and_then(|length| records.split_at_checked(length)) else {
            return Err(wrong);
        };
        records = rest;
        let field = record.get(space + 1..).and_then(|field| field.strip_suffix(b"\n"));
        let Some((key, value)) = field.and_then(|field| {
            let equals = field.iter().position(|byte| *byte == b'=')?;
            Some((&field[..equals], &field[equals + 1..]))
        }) else {
            return Err(wrong);
        };
        match key {
            b"path" => extension.name = Some(value.to_vec()),
            b"size" => {
                let bytes = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                extension.bytes = Some(bytes.ok_or(wrong_size())?);
            }
            b"mtime" => {
                let seconds = std::str::from_utf8(value).ok().and_then(|text| text.parse::<f64>().ok());
                let since = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                extension.modified = since.and_then(|since| UNIX_EPOCH.checked_add(since));
            }
            _ => {}
        }
    }
    Ok(())
}

const fn wrong_size() -> TarError {
    TarError::Header("a size is no number")
}

fn shown(name: &[u8]) -> String {
    name.escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    fn header(name: &str, bytes: u64, kind: u8) -> Vec<u8> {
        let mut block = vec![0; BLOCK_BYTES];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[124..135].copy_from_slice(format!("{bytes:011o}").as_bytes());
        block[136..147].copy_from_slice(b"00000000017");
        block[156] = kind;
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        block
    }

    fn file(name: &str, content: &[u8]) -> Vec<u8> {
        let mut bytes = header(name, content.len() as u64, b'0');
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
        bytes
    }

    /// What a stream holds, or why it is refused.
    #[track_caller]
    fn check(stream: &[u8], expected: Result<&[(&str, &str)], &str>) {
        let mut tar = TarStream::new(stream);
        let mut found = Vec::new();
        let outcome = loop {
            match tar.next() {
                Ok(Some(member)) => {
                    let mut content = String::new();
                    match tar.read_to_string(&mut content) {
                        Ok(_) => found.push((member.name, content)),
                        Err(error) => break Err(error.to_string()),
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error.to_string()),
            }
        };
        match (outcome, expected) {
            (Ok(()), Ok(expected)) => {
                let found: Vec<_> = found.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
                assert_eq!(found, expected);
            }
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (outcome, _) => panic!("{outcome:?} {found:?}"),
        }
    }

    #[test]
    fn files_come_out_one_after_another() {
        let mut stream = [file("one", b"1"), file("./two", &[b'2'; 600]), vec![0; 1024]].concat();
        let two = "2".repeat(600);
        check(&stream, Ok(&[("one", "1"), ("two", &two)]));
        stream.truncate(stream.len() - 1024);
        check(&stream, Ok(&[("one", "1"), ("two", &two)]));
        check(b"", Ok(&[]));
    }

    #[test]
    fn what_other_programs_write_is_read() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("one"), "1").unwrap();
        std::fs::write(home.path().join("two"), "22").unwrap();
        for format in ["ustar", "gnu", "pax", "v7"] {
            let output = Command::new("tar")
                .current_dir(home.path())
                .args(["-cf", "-", &format!("--format={format}"), "one", "./two"])
                .output()
                .unwrap();
            check(&output.stdout, Ok(&[("one", "1"), ("two", "22")]));
        }
    }

    #[test]
    fn what_leads_elsewhere_is_refused() {
        for name in ["../one", "/etc/passwd", "a/b", "..", ".", "./", ""] {
            check(&file(name, b"x"), Err("is no plain file name"));
        }
        for kind in [b'1', b'2', b'3', b'4', b'5', b'6', b'S', b'K'] {
            check(&header("one", 0, kind), Err("is no regular file"));
        }
        let path = "20 path=../../outer\n";
        let pax = [header("x", 20, b'x'), {
            let mut block = path.as_bytes().to_vec();
            block.resize(512, 0);
            block
        }];
        check(&[pax.concat(), file("one", b"1")].concat(), Err("'../../outer' is no plain file name"));
    }

    #[test]
    fn sizes_are_not_believed() {
        check(&header("x", EXTENSION_BYTES_MAX + 1, b'x'), Err("too long"));
        check(&header("x", EXTENSION_BYTES_MAX + 1, b'L'), Err("too long"));
        check(&header("x", u64::from(u32::MAX), b'0'), Err("unexpected end of file"));
        check(
            &[header("x", 0, b'x').repeat(20), file("one", b"1")].concat(),
            Err("too many extended headers"),
        );
        let mut huge = header("x", 0, b'0');
        huge[124..136].fill(0xff);
        check(&huge, Err("checksum is wrong"));
        check(
            &[vec![0; 1024], vec![7; TRAILER_BYTES_MAX as usize + 1]].concat(),
            Err("goes on after its end"),
        );
    }

    #[test]
    fn a_stream_that_is_cut_off_is_noticed() {
        let stream = [file("one", &[b'1'; 700]), file("two", b"2")].concat();
        for length in (1..stream.len()).filter(|length| !matches!(length, 1536)) {
            let mut tar = TarStream::new(&stream[..length]);
            let mut outcome = Ok(());
            loop {
                match tar.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(error) => {
                        outcome = Err(error);
                        break;
                    }
                }
            }
            assert!(outcome.is_err(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(bytes: Vec<u8>, kind: u8, size: u64) {
            let mut stream = header("name", size % 8_000_000, kind);
            stream.extend(&bytes);
            let mut tar = TarStream::new(&stream[..]);
            while let Ok(Some(_)) = tar.next() {}
            let _ = pax(&bytes, &mut Extension::default());
            let _ = number(&bytes);
        }
    }
}
