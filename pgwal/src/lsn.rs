//! Log sequence numbers: byte positions in the WAL (`access/xlogdefs.h`, `XLogRecPtr`).

use std::fmt;
use std::str::FromStr;

/// A byte position in the write-ahead log, counted from the start of the cluster's first segment.
///
/// Written as two hexadecimal halves, as PostgreSQL prints it:
///
/// ```
/// use pgwal::Lsn;
/// let lsn: Lsn = "16/B374D848".parse()?;
/// assert_eq!(lsn.as_u64(), 0x16_B374_D848);
/// assert_eq!(lsn.to_string(), "16/B374D848");
/// # Ok::<(), pgwal::lsn::ParseLsnError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(u64);

impl Lsn {
    /// `0/0`, which PostgreSQL uses for "no position" (`InvalidXLogRecPtr`).
    pub const INVALID: Lsn = Lsn(0);

    /// The largest position.
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// A position from its number of bytes.
    pub const fn from_u64(bytes: u64) -> Self {
        Lsn(bytes)
    }

    /// The position as a number of bytes.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Whether this is a real position, that is, not `0/0`.
    pub const fn is_valid(self) -> bool {
        self.0 != 0
    }

    /// `self + bytes`, or `None` past the end of the address space.
    pub const fn checked_add(self, bytes: u64) -> Option<Lsn> {
        match self.0.checked_add(bytes) {
            Some(sum) => Some(Lsn(sum)),
            None => None,
        }
    }

    /// `self - bytes`, or `None` below zero.
    pub const fn checked_sub(self, bytes: u64) -> Option<Lsn> {
        match self.0.checked_sub(bytes) {
            Some(difference) => Some(Lsn(difference)),
            None => None,
        }
    }

    /// The number of bytes from `earlier` to `self`, or `None` if `earlier` is later.
    pub const fn bytes_since(self, earlier: Lsn) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lsn({self})")
    }
}

/// A text that is not an LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an LSN: expected two hexadecimal numbers of at most 8 digits, like 16/B374D848")]
pub struct ParseLsnError {
    text: String,
}

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (high, low) = text.split_once('/')?;
            Some(Lsn(u64::from(hex(high)?) << 32 | u64::from(hex(low)?)))
        };
        parse().ok_or_else(|| ParseLsnError { text: text.chars().take(64).collect() })
    }
}

/// One to eight hexadecimal digits and nothing else (`from_str_radix` would also take a sign).
fn hex(digits: &str) -> Option<u32> {
    let plain = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if plain { u32::from_str_radix(digits, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_what_postgresql_refuses() {
        for text in
            ["", "/", "1/", "/1", "1", "+1/1", "1/-1", "123456789/0", "0/123456789", "G/0", "0/0 ", "0/0/0"]
        {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn accepts_lower_case_and_leading_zeros() {
        assert_eq!("0/00000abc".parse(), Ok(Lsn::from_u64(0xABC)));
    }

    proptest! {
        #[test]
        fn text_form_round_trips(bytes: u64) {
            let lsn = Lsn::from_u64(bytes);
            prop_assert_eq!(lsn.to_string().parse(), Ok(lsn));
        }
    }
}
