//! PostgreSQL's ustar as the replication protocol carries it, read as if the server were an enemy.
//!
//! The format is the one of `src/port/tar.c` and `src/backend/backup/basebackup.c`: plain POSIX ustar with
//! regular files, directories and symbolic links; no extensions of any kind. Names of directories and links end
//! in a slash. Numbers are octal digits closed by a space, or base 256 for what eleven digits can't hold. Servers from
//! 15 on end an archive with two blocks of zeros; 13 and 14 end it with the last member.
//!
//! [`TarParser`] does no I/O and copies no file data: pieces of the stream go in, and what comes out are events that
//! share the same memory. Everything PostgreSQL would not send is an error, each with a variant of its own.

mod name;

use bytes::{Buf, Bytes};

pub(crate) use name::parse_oid;
pub use name::{EntryName, NameError};

/// The unit of a tar archive, in bytes: headers take one block, data is padded to whole ones.
pub const BLOCK_BYTES: usize = 512;

/// Largest size of one member that is believed, in bytes (16 TiB, the most that ext4 can store in a file).
/// A relation's file is 1 GiB at most unless the server was built with other segments.
pub const MAX_FILE_BYTES: u64 = 1 << 44;

/// Offsets and lengths of the header's fields (POSIX.1-1988 ustar).
mod field {
    use std::ops::Range;

    pub(super) const NAME: Range<usize> = 0..100;
    pub(super) const MODE: Range<usize> = 100..108;
    pub(super) const UID: Range<usize> = 108..116;
    pub(super) const GID: Range<usize> = 116..124;
    pub(super) const SIZE: Range<usize> = 124..136;
    pub(super) const MTIME: Range<usize> = 136..148;
    pub(super) const CHECKSUM: Range<usize> = 148..156;
    pub(super) const TYPE: usize = 156;
    pub(super) const LINK: Range<usize> = 157..257;
    pub(super) const MAGIC: Range<usize> = 257..265;
    pub(super) const PREFIX: Range<usize> = 345..500;
}

const MAGIC: &[u8; 8] = b"ustar\x0000";

/// How the archive has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trailer {
    /// Two blocks of zeros, as servers send from PostgreSQL 15 on.
    Required,
    /// The end of the last member will do, as with PostgreSQL 13 and 14.
    Optional,
}

/// What a piece of the stream means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A member begins.
    Entry(Entry),
    /// The next bytes of the member that began last; never empty.
    Data(Bytes),
    /// All bytes of a file were given out. Directories and links have no such event.
    EndOfFile,
}

/// One member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it belongs, relative to the archive's directory.
    pub name: EntryName,
    /// What it is.
    pub kind: EntryKind,
    /// Its permission bits on the server.
    pub mode: u32,
}

/// The kinds of member that a base backup has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// How many bytes of data follow.
        bytes: u64,
    },
    /// A directory.
    Directory,
    /// The link `pg_tblspc/<oid>` to a tablespace's directory on the server.
    TablespaceLink {
        /// The tablespace's object id.
        oid: u32,
        /// What the link points at on the server. To be compared with, never to be followed.
        target: Vec<u8>,
    },
}

/// A stream that PostgreSQL would not have sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    /// The stream stops in the middle of a header, of a member, or before the closing blocks.
    #[error("the archive is truncated: it ends {place}")]
    Truncated {
        /// Where.
        place: TruncatedAt,
    },
    /// The header's checksum doesn't match its bytes.
    #[error("a header of the archive is damaged: its checksum is {stored}, its bytes give {computed}")]
    Checksum {
        /// The number in the header.
        stored: u64,
        /// The sum of its bytes.
        computed: u64,
    },
    /// No ustar magic and version.
    #[error("a header of the archive isn't in ustar format (magic {magic:?})")]
    Magic {
        /// The bytes found in its place.
        magic: String,
    },
    /// A number that is neither octal nor a base-256 number that fits.
    #[error("the field '{field}' of an archive header isn't a number: {text:?}")]
    Number {
        /// The field's name.
        field: &'static str,
        /// Its bytes.
        text: String,
    },
    /// A name that must not be used.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A size beyond [`MAX_FILE_BYTES`].
    #[error("'{name}' claims to be {bytes} bytes long, more than the {MAX_FILE_BYTES} that are accepted")]
    TooLarge {
        /// The member.
        name: EntryName,
        /// The size claimed.
        bytes: u64,
    },
    /// A directory or link that claims to have data.
    #[error("'{name}' isn't a file, but claims to have {bytes} bytes of data")]
    Unsized {
        /// The member.
        name: EntryName,
        /// The size claimed.
        bytes: u64,
    },
    /// A member that is neither file, directory nor symbolic link.
    #[error("'{name}' is of a kind that a base backup never has (tar type {type_flag:?})")]
    Kind {
        /// The member.
        name: EntryName,
        /// The header's type.
        type_flag: char,
    },
    /// A symbolic link elsewhere than at `pg_tblspc/<oid>`.
    #[error("'{name}' is a symbolic link to '{target}': links are accepted as pg_tblspc/<oid> only")]
    Link {
        /// The member.
        name: EntryName,
        /// What it points at.
        target: String,
    },
    /// Something follows the closing blocks, or only one of them came.
    #[error("the archive goes on after its end")]
    DataAfterEnd,
}

/// Where a truncated archive ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TruncatedAt {
    /// In a header.
    Header,
    /// In a member's data or its padding.
    Member {
        /// The member.
        name: EntryName,
        /// Bytes of data missing.
        missing_bytes: u64,
    },
    /// Before the second block of zeros.
    Trailer,
}

impl std::fmt::Display for TruncatedAt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TruncatedAt::Header => f.write_str("within a header"),
            TruncatedAt::Member { name, missing_bytes: 0 } => write!(f, "in the padding of '{name}'"),
            TruncatedAt::Member { name, missing_bytes } => {
                write!(f, "within '{name}', {missing_bytes} bytes early")
            }
            TruncatedAt::Trailer => f.write_str("without its closing blocks"),
        }
    }
}

/// The push parser of one archive.
///
/// ```
/// use bytes::Bytes;
/// use pgbase::tar::{encode_header, Event, TarParser, Trailer};
///
/// let mut archive = encode_header(b"PG_VERSION", b'0', 3, b"").to_vec();
/// archive.extend_from_slice(b"18\n");
/// archive.resize(1024, 0); // the data is padded to a whole block
///
/// let mut parser = TarParser::new(Trailer::Optional);
/// let mut input = Bytes::from(archive);
/// let mut contents = Vec::new();
/// while let Some(event) = parser.next(&mut input)? {
///     if let Event::Data(piece) = event {
///         contents.extend_from_slice(&piece);
///     }
/// }
/// parser.finish()?;
/// assert_eq!(contents, b"18\n");
/// # Ok::<(), pgbase::tar::TarError>(())
/// ```
#[derive(Debug)]
pub struct TarParser {
    state: State,
    trailer: Trailer,
    /// A header that came in pieces; only the first `filled` bytes count.
    header: [u8; BLOCK_BYTES],
    filled: usize,
}

#[derive(Debug)]
enum State {
    /// At or within a header.
    Header,
    /// Within a file's data; `left` may be 0, then the end of the file is still to be told.
    Data { name: EntryName, left: u64, padding: usize },
    /// Between the end of a file's data and the next block.
    Padding { name: EntryName, left: usize },
    /// One block of zeros was seen.
    FirstZeros,
    /// Both were.
    Ended,
}

impl TarParser {
    /// A parser at the start of an archive.
    pub fn new(trailer: Trailer) -> Self {
        TarParser { state: State::Header, trailer, header: [0; BLOCK_BYTES], filled: 0 }
    }

    /// Takes bytes off the front of `input` and says what they mean; `None` when it needs more of them.
    ///
    /// # Errors
    /// When the bytes are not what PostgreSQL sends. The parser is of no use afterwards.
    pub fn next(&mut self, input: &mut Bytes) -> Result<Option<Event>, TarError> {
        loop {
            match &mut self.state {
                State::Data { name, left: 0, padding } => {
                    self.state = State::Padding { name: std::mem::take(name), left: *padding };
                    return Ok(Some(Event::EndOfFile));
                }
                State::Padding { left: 0, .. } => self.state = State::Header,
                _ if input.is_empty() => return Ok(None),
                State::Data { left, .. } => {
                    let take = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
                    *left -= take as u64;
                    return Ok(Some(Event::Data(input.split_to(take))));
                }
                State::Padding { left, .. } => {
                    let take = input.len().min(*left);
                    *left -= take;
                    input.advance(take);
                }
                State::Header | State::FirstZeros => {
                    if let Some(event) = self.header_bytes(input)? {
                        return Ok(Some(event));
                    }
                }
                State::Ended => return Err(TarError::DataAfterEnd),
            }
        }
    }

    /// Says that the stream of this archive is over.
    ///
    /// # Errors
    /// When the archive is not complete.
    pub fn finish(self) -> Result<(), TarError> {
        let place = match self.state {
            State::Ended => return Ok(()),
            State::Header if self.filled > 0 => TruncatedAt::Header,
            State::Padding { left: 0, .. } | State::Header if self.trailer == Trailer::Optional => {
                return Ok(());
            }
            State::Padding { left: 0, .. } | State::Header | State::FirstZeros => TruncatedAt::Trailer,
            State::Data { name, left, .. } => TruncatedAt::Member { name, missing_bytes: left },
            State::Padding { name, .. } => TruncatedAt::Member { name, missing_bytes: 0 },
        };
        Err(TarError::Truncated { place })
    }

    /// Collects a header and acts on it once it is complete.
    fn header_bytes(&mut self, input: &mut Bytes) -> Result<Option<Event>, TarError> {
        let take = input.len().min(BLOCK_BYTES - self.filled);
        self.header[self.filled..self.filled + take].copy_from_slice(&input[..take]);
        input.advance(take);
        self.filled += take;
        if self.filled < BLOCK_BYTES {
            return Ok(None);
        }
        self.filled = 0;
        if self.header.iter().all(|byte| *byte == 0) {
            self.state =
                if matches!(self.state, State::FirstZeros) { State::Ended } else { State::FirstZeros };
            return Ok(None);
        }
        if matches!(self.state, State::FirstZeros) {
            return Err(TarError::DataAfterEnd);
        }
        let entry = parse_header(&self.header)?;
        if let EntryKind::File { bytes } = entry.kind {
            // The remainder is below BLOCK_BYTES, so the cast loses nothing.
            let padding = bytes.wrapping_neg() as usize % BLOCK_BYTES;
            self.state = State::Data { name: entry.name.clone(), left: bytes, padding };
        }
        Ok(Some(Event::Entry(entry)))
    }
}

fn parse_header(header: &[u8; BLOCK_BYTES]) -> Result<Entry, TarError> {
    let stored = number("checksum", &header[field::CHECKSUM])?;
    let computed = checksum(header);
    if stored != computed {
        return Err(TarError::Checksum { stored, computed });
    }
    if &header[field::MAGIC] != MAGIC {
        return Err(TarError::Magic { magic: printable(&header[field::MAGIC]) });
    }
    let type_flag = header[field::TYPE];
    let is_file = matches!(type_flag, b'0' | 0);
    let raw = text(&header[field::NAME]);
    if header[field::PREFIX][0] != 0 {
        let prefix = printable(text(&header[field::PREFIX]));
        return Err(NameError::Prefixed { prefix, name: printable(raw) }.into());
    }
    let name = if is_file { EntryName::file(raw)? } else { EntryName::directory(raw)? };
    let bytes = number("size", &header[field::SIZE])?;
    // Seven octal digits at most, cut to what permissions are.
    let mode = (number("mode", &header[field::MODE])? & 0o777) as u32;
    if is_file {
        return match bytes {
            0..=MAX_FILE_BYTES => Ok(Entry { name, kind: EntryKind::File { bytes }, mode }),
            _ => Err(TarError::TooLarge { name, bytes }),
        };
    }
    if bytes != 0 {
        return Err(TarError::Unsized { name, bytes });
    }
    match type_flag {
        b'5' => Ok(Entry { name, kind: EntryKind::Directory, mode }),
        b'2' => {
            let target = text(&header[field::LINK]);
            match name.tablespace_oid() {
                Some(oid) => {
                    let kind = EntryKind::TablespaceLink { oid, target: target.to_vec() };
                    Ok(Entry { name, kind, mode })
                }
                None => Err(TarError::Link { name, target: printable(target) }),
            }
        }
        _ => Err(TarError::Kind { name, type_flag: char::from(type_flag) }),
    }
}

/// Octal digits followed by spaces or zeros, or a byte 0x80 and a big-endian number.
fn number(field: &'static str, bytes: &[u8]) -> Result<u64, TarError> {
    let refused = || TarError::Number { field, text: printable(bytes) };
    if let Some((0x80, rest)) = bytes.split_first() {
        return rest.iter().try_fold(0_u64, |value, byte| {
            value.checked_mul(256).map(|value| value | u64::from(*byte)).ok_or_else(refused)
        });
    }
    let digits = bytes.iter().take_while(|byte| matches!(byte, b'0'..=b'7')).count();
    let closed = bytes[digits..].iter().all(|byte| matches!(byte, b' ' | 0));
    if digits == 0 || !closed {
        return Err(refused());
    }
    // Twelve octal digits at most: 36 bits.
    Ok(bytes[..digits].iter().fold(0, |value, digit| value * 8 + u64::from(digit - b'0')))
}

/// The sum of the header's bytes, those of the checksum itself counted as spaces.
fn checksum(header: &[u8; BLOCK_BYTES]) -> u64 {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    sum(header) - sum(&header[field::CHECKSUM]) + 8 * u64::from(b' ')
}

/// A field up to its first zero byte.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// One header as PostgreSQL writes it: for making archives, in tests foremost.
///
/// `name` and `link` are cut at 100 bytes; nothing else is checked, so that wrong headers can be made too.
pub fn encode_header(name: &[u8], type_flag: u8, bytes: u64, link: &[u8]) -> [u8; BLOCK_BYTES] {
    let mut header = [0; BLOCK_BYTES];
    let mut put = |field: std::ops::Range<usize>, value: &[u8]| {
        let length = value.len().min(field.len());
        header[field.start..field.start + length].copy_from_slice(&value[..length]);
    };
    put(field::NAME, name);
    put(field::MODE, b"0000600 ");
    put(field::UID, b"0000000 ");
    put(field::GID, b"0000000 ");
    put(field::SIZE, &encode_size(bytes));
    put(field::MTIME, b"00000000000 ");
    put(field::LINK, link);
    put(field::MAGIC, MAGIC);
    header[field::TYPE] = type_flag;
    reseal(&mut header);
    header
}

/// Writes the right checksum into a header that was changed.
pub fn reseal(header: &mut [u8; BLOCK_BYTES]) {
    let sum = checksum(header);
    header[field::CHECKSUM].copy_from_slice(format!("{sum:07o} ").as_bytes());
}

/// Eleven octal digits and a space, or base 256.
fn encode_size(bytes: u64) -> [u8; 12] {
    let mut field = [0; 12];
    if bytes < 1 << 33 {
        field.copy_from_slice(format!("{bytes:011o} ").as_bytes());
    } else {
        field[0] = 0x80;
        field[4..].copy_from_slice(&bytes.to_be_bytes());
    }
    field
}

#[cfg(test)]
mod tests;
