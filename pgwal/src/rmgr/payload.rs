//! Reads numbers from a record's payload. Every read is checked: what isn't there is `None`.

use crate::{Lsn, PgTimestamp, RelFile};

/// Bytes of a record's payload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Payload<'a>(pub(crate) &'a [u8]);

impl<'a> Payload<'a> {
    pub(crate) fn take<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..)?.first_chunk::<N>().copied()
    }

    pub(crate) fn u8(self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }

    pub(crate) fn flag(self, at: usize) -> Option<bool> {
        self.u8(at).map(|byte| byte != 0)
    }

    pub(crate) fn u16(self, at: usize) -> Option<u16> {
        self.take(at).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(self, at: usize) -> Option<u32> {
        self.take(at).map(u32::from_le_bytes)
    }

    pub(crate) fn i32(self, at: usize) -> Option<i32> {
        self.take(at).map(i32::from_le_bytes)
    }

    pub(crate) fn u64(self, at: usize) -> Option<u64> {
        self.take(at).map(u64::from_le_bytes)
    }

    pub(crate) fn i64(self, at: usize) -> Option<i64> {
        self.take(at).map(i64::from_le_bytes)
    }

    pub(crate) fn f64(self, at: usize) -> Option<f64> {
        self.take(at).map(f64::from_le_bytes)
    }

    pub(crate) fn lsn(self, at: usize) -> Option<Lsn> {
        self.u64(at).map(Lsn::from_u64)
    }

    pub(crate) fn time(self, at: usize) -> Option<PgTimestamp> {
        self.i64(at).map(PgTimestamp::from_micros)
    }

    /// A relation's file, as PostgreSQL orders it: tablespace, database, number.
    pub(crate) fn relation(self, at: usize) -> Option<RelFile> {
        Some(RelFile { tablespace: self.u32(at)?, database: self.u32(at + 4)?, number: self.u32(at + 8)? })
    }

    /// A block number stored as two halves, the high one first (`BlockIdData`).
    pub(crate) fn block_id(self, at: usize) -> Option<u32> {
        Some(u32::from(self.u16(at)?) << 16 | u32::from(self.u16(at + 2)?))
    }

    /// What follows `at`.
    pub(crate) fn after(self, at: usize) -> Option<Payload<'a>> {
        self.0.get(at..).map(Payload)
    }

    /// `count` things of `size` bytes each from `at` on.
    pub(crate) fn array(self, at: usize, count: usize, size: usize) -> Option<&'a [u8]> {
        self.0.get(at..at.checked_add(count.checked_mul(size)?)?)
    }

    /// `count` 16-bit numbers from `at` on.
    pub(crate) fn u16s(self, at: usize, count: usize) -> Option<impl Iterator<Item = u16> + Clone + 'a> {
        let bytes = self.array(at, count, 2)?;
        Some(bytes.as_chunks::<2>().0.iter().map(|two| u16::from_le_bytes(*two)))
    }

    /// `count` 32-bit numbers from `at` on.
    pub(crate) fn u32s(self, at: usize, count: usize) -> Option<impl Iterator<Item = u32> + Clone + 'a> {
        let bytes = self.array(at, count, 4)?;
        Some(bytes.as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(*four)))
    }

    /// The text up to the next zero byte, which has to be there.
    pub(crate) fn text(self, at: usize) -> Option<&'a [u8]> {
        let rest = self.0.get(at..)?;
        rest.get(..rest.iter().position(|byte| *byte == 0)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_none() {
        let payload = Payload(&[1, 2, 3, 0, 5]);
        assert_eq!((payload.u16(0), payload.u32(1), payload.u32(2)), (Some(0x201), Some(0x0500_0302), None));
        assert_eq!((payload.text(0), payload.text(4)), (Some(&[1, 2, 3][..]), None));
        assert_eq!(payload.u16s(1, 2).map(Iterator::count), Some(2));
        assert!(payload.u16s(1, 3).is_none());
        assert!(payload.array(1, usize::MAX, 8).is_none());
    }
}
