//! The WAL formats of PostgreSQL's major versions, told apart by the magic number of their pages
//! (`XLOG_PAGE_MAGIC` in `access/xlog_internal.h`).

use std::fmt;

/// A major version's WAL format.
///
/// ```
/// use pgwal::WalVersion;
/// assert_eq!(WalVersion::from_magic(0xD110), Some(WalVersion::V15));
/// assert!(WalVersion::V15 < WalVersion::V16);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalVersion {
    /// PostgreSQL 13.
    V13,
    /// PostgreSQL 14.
    V14,
    /// PostgreSQL 15.
    V15,
    /// PostgreSQL 16.
    V16,
    /// PostgreSQL 17.
    V17,
    /// PostgreSQL 18.
    V18,
}

impl WalVersion {
    /// Every version, oldest first.
    pub const ALL: [WalVersion; 6] = [Self::V13, Self::V14, Self::V15, Self::V16, Self::V17, Self::V18];

    /// The version whose pages carry this magic number; `None` for any other.
    pub const fn from_magic(magic: u16) -> Option<Self> {
        Some(match magic {
            0xD106 => Self::V13,
            0xD10D => Self::V14,
            0xD110 => Self::V15,
            0xD113 => Self::V16,
            0xD116 => Self::V17,
            0xD118 => Self::V18,
            _ => return None,
        })
    }

    /// The magic number of this version's pages.
    pub const fn magic(self) -> u16 {
        match self {
            Self::V13 => 0xD106,
            Self::V14 => 0xD10D,
            Self::V15 => 0xD110,
            Self::V16 => 0xD113,
            Self::V17 => 0xD116,
            Self::V18 => 0xD118,
        }
    }

    /// The major version's number, like 15.
    pub const fn major(self) -> u32 {
        match self {
            Self::V13 => 13,
            Self::V14 => 14,
            Self::V15 => 15,
            Self::V16 => 16,
            Self::V17 => 17,
            Self::V18 => 18,
        }
    }

    /// The version with this major number.
    pub fn from_major(major: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.major() == major)
    }
}

impl fmt::Display for WalVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgreSQL {}", self.major())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magic_and_major_numbers_round_trip() {
        for version in WalVersion::ALL {
            assert_eq!(WalVersion::from_magic(version.magic()), Some(version));
            assert_eq!(WalVersion::from_major(version.major()), Some(version));
        }
        assert_eq!(WalVersion::from_magic(0), None);
        assert_eq!(WalVersion::from_major(12), None);
    }
}
