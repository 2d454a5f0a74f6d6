//! CRC-32C, as records carry it.
//!
//! Short inputs go to the processor's own instruction. Long ones, page images for the most part, go to carry-less
//! multiplication where the feature `fast` is on: several times as fast in a core's cache, and it reads memory in order.

#[cfg(all(feature = "fast", target_arch = "x86_64"))]
mod short;

use crate::record::RECORD_HEADER_BYTES;

/// From this length on, in bytes, multiplication is the faster.
#[cfg(feature = "fast")]
const LONG_BYTES: usize = 512;

/// The checksum of a record: of what follows its fixed header, and then of the header without the checksum in it.
///
/// 0 for bytes that are too few for a header.
#[inline]
pub(crate) fn of_record(bytes: &[u8]) -> u32 {
    let Some((header, body)) = bytes.split_at_checked(RECORD_HEADER_BYTES) else { return 0 };
    let summed = &header[..RECORD_HEADER_BYTES - 4];
    #[cfg(all(feature = "fast", target_arch = "x86_64"))]
    if body.len() < LONG_BYTES
        && let Some(crc) = short::of_both(body, summed)
    {
        return crc;
    }
    append(append(0, body), summed)
}

/// The checksum of what `crc` is the checksum of, and then of `bytes`.
#[inline]
pub(crate) fn append(crc: u32, bytes: &[u8]) -> u32 {
    #[cfg(feature = "fast")]
    if bytes.len() >= LONG_BYTES {
        return append_long(crc, bytes);
    }
    crc32c::crc32c_append(crc, bytes)
}

#[cfg(feature = "fast")]
fn append_long(crc: u32, bytes: &[u8]) -> u32 {
    let mut digest =
        crc_fast::Digest::new_with_init_state(crc_fast::CrcAlgorithm::Crc32Iscsi, u64::from(!crc));
    digest.update(bytes);
    // A checksum of 32 bits.
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn of_the_standard_text() {
        assert_eq!(append(0, b"123456789"), 0xE306_9283);
    }

    proptest! {
        #[test]
        fn in_pieces_of_any_length_is_that_of_the_whole(
            bytes in prop::collection::vec(any::<u8>(), 0..20_000),
            cut: prop::sample::Index,
        ) {
            let (start, rest) = bytes.split_at(cut.index(bytes.len() + 1));
            prop_assert_eq!(append(0, &bytes), crc32c::crc32c(&bytes));
            prop_assert_eq!(append(append(0, start), rest), crc32c::crc32c(&bytes));
        }

        #[test]
        fn of_a_record_ends_with_its_header(bytes in prop::collection::vec(any::<u8>(), 24..1000)) {
            let body = crc32c::crc32c(&bytes[24..]);
            prop_assert_eq!(of_record(&bytes), crc32c::crc32c_append(body, &bytes[..20]));
        }
    }
}
