//! The checksum of a short record in one call, by the processor's instruction.
//!
//! Most records are shorter than 100 bytes: two calls of a general function for each cost as much as the sums.
#![allow(unsafe_code, reason = "an eighth of what verifying WAL of small records takes")]

use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u16, _mm_crc32_u32, _mm_crc32_u64};

/// The checksum of `body` and then `header`; `None` where the processor lacks the instruction.
#[inline]
pub(super) fn of_both(body: &[u8], header: &[u8]) -> Option<u32> {
    // SAFETY: the processor has been asked, and the function needs nothing else: it reads slices.
    is_x86_feature_detected!("sse4.2").then(|| unsafe { sum(body, header) })
}

#[target_feature(enable = "sse4.2")]
fn sum(body: &[u8], header: &[u8]) -> u32 {
    !add(add(!0, body), header)
}

#[target_feature(enable = "sse4.2")]
#[inline]
fn add(crc: u32, bytes: &[u8]) -> u32 {
    let (words, mut rest) = bytes.as_chunks::<8>();
    let wide = words.iter().fold(u64::from(crc), |crc, word| _mm_crc32_u64(crc, u64::from_le_bytes(*word)));
    // The upper half is zero.
    let mut crc = wide as u32;
    if let Some((four, after)) = rest.split_first_chunk::<4>() {
        crc = _mm_crc32_u32(crc, u32::from_le_bytes(*four));
        rest = after;
    }
    if let Some((two, after)) = rest.split_first_chunk::<2>() {
        crc = _mm_crc32_u16(crc, u16::from_le_bytes(*two));
        rest = after;
    }
    rest.first().map_or(crc, |byte| _mm_crc32_u8(crc, *byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit by bit: nothing that could be wrong in the same way.
    fn slow(bytes: impl Iterator<Item = u8>) -> u32 {
        !bytes.fold(!0, |crc, byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ ((crc & 1) * 0x82F6_3B78))
        })
    }

    #[test]
    fn is_that_of_both_one_after_the_other_whatever_their_lengths_and_places() {
        if !is_x86_feature_detected!("sse4.2") {
            return;
        }
        let bytes: Vec<u8> = (0..120u32).map(|at| (at * at + 7) as u8).collect();
        // Every rest of a word, from every place in one.
        for start in 0..8 {
            for length in 0..40 {
                let (body, header) = (&bytes[start..start + length], &bytes[100 - length / 3..100]);
                let expected = slow(body.iter().chain(header).copied());
                assert_eq!(of_both(body, header), Some(expected), "{start} {length}");
            }
        }
    }
}
