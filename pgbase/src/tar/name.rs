//! Names of archive members, safe to be opened component by component beneath a directory.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

/// A relative path of one or more plain components: no root, no `.` or `..`, no empty component, no zero byte.
///
/// Compared and ordered by its bytes. Names need not be UTF-8; displaying one replaces what isn't.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EntryName(Vec<u8>);

/// A name that would lead out of the destination, or that no file can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No name, or nothing but a slash.
    #[error("a member of the archive has no name")]
    Empty,
    /// A path from the root.
    #[error("the archive has an absolute path, '{name}': only paths within the backup are accepted")]
    Absolute {
        /// The name, with what isn't UTF-8 replaced.
        name: String,
    },
    /// A `..` component.
    #[error("the archive has a path that climbs out of its directory, '{name}'")]
    Parent {
        /// The name, with what isn't UTF-8 replaced.
        name: String,
    },
    /// An empty or `.` component, or a file's name that ends in a slash.
    #[error("the archive has a malformed path, '{name}'")]
    Malformed {
        /// The name, with what isn't UTF-8 replaced.
        name: String,
    },
    /// The ustar prefix field is in use: longer than PostgreSQL makes names (99 bytes).
    #[error("the archive has a path longer than PostgreSQL can send, '{prefix}/{name}'")]
    Prefixed {
        /// The prefix field.
        prefix: String,
        /// The name field.
        name: String,
    },
    /// All 100 bytes are in use; PostgreSQL sends 99 at most.
    #[error("the archive has a path longer than PostgreSQL can send, starting with '{name}'")]
    TooLong {
        /// The name field.
        name: String,
    },
}

/// Longest name that PostgreSQL puts into a header, in bytes; it refuses longer ones when sending.
const MAX_NAME_BYTES: usize = 99;

impl EntryName {
    /// Checks the name of a file.
    ///
    /// # Errors
    /// When it isn't a relative path of plain components.
    pub fn file(raw: &[u8]) -> Result<Self, NameError> {
        Self::checked(raw, raw)
    }

    /// Checks the name of a directory or link, which may end in one slash.
    ///
    /// # Errors
    /// When it isn't a relative path of plain components.
    pub fn directory(raw: &[u8]) -> Result<Self, NameError> {
        Self::checked(raw, raw.strip_suffix(b"/").unwrap_or(raw))
    }

    fn checked(raw: &[u8], path: &[u8]) -> Result<Self, NameError> {
        let name = || String::from_utf8_lossy(raw).into_owned();
        if raw.starts_with(b"/") {
            return Err(NameError::Absolute { name: name() });
        }
        if raw.len() > MAX_NAME_BYTES {
            return Err(NameError::TooLong { name: name() });
        }
        // The server sends "./pg_wal/archive_status" beside "pg_wal" (sendDir in basebackup.c).
        let path = path.strip_prefix(b"./").unwrap_or(path);
        if path.is_empty() {
            return Err(NameError::Empty);
        }
        for component in path.split(|byte| *byte == b'/') {
            match component {
                b".." => return Err(NameError::Parent { name: name() }),
                b"" | b"." => return Err(NameError::Malformed { name: name() }),
                _ if component.contains(&0) => return Err(NameError::Malformed { name: name() }),
                _ => {}
            }
        }
        Ok(EntryName(path.to_vec()))
    }

    /// The name as bytes, components separated by `/`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The directory part, `None` at the top, and the last component.
    pub fn split(&self) -> (Option<&[u8]>, &OsStr) {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (Some(&self.0[..slash]), OsStr::from_bytes(&self.0[slash + 1..])),
            None => (None, OsStr::from_bytes(&self.0)),
        }
    }

    /// The object id when the name is `pg_tblspc/<oid>`.
    pub fn tablespace_oid(&self) -> Option<u32> {
        parse_oid(self.0.strip_prefix(b"pg_tblspc/")?)
    }
}

/// A decimal number from 1 to 2^32-1 as PostgreSQL prints it: no sign, no leading zero.
pub(crate) fn parse_oid(digits: &[u8]) -> Option<u32> {
    let plain = digits.first().is_some_and(|first| *first != b'0') && digits.iter().all(u8::is_ascii_digit);
    if plain { std::str::from_utf8(digits).ok()?.parse().ok() } else { None }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryName({:?})", String::from_utf8_lossy(&self.0))
    }
}
