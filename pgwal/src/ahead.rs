//! Asks for WAL before it is read.
//!
//! A segment comes from main memory, and the processor's own fetching ahead stops at the end of each page of memory: without
//! this it waits for the first bytes of every next one.
#![allow(unsafe_code, reason = "a twentieth of what verifying WAL takes")]

#[cfg(all(feature = "fast", target_arch = "x86_64"))]
use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

use crate::page::PAGE_BYTES;

/// What the processor fetches at a time, in bytes.
const LINE_BYTES: usize = 64;
/// A page of memory, in bytes.
const MEMORY_PAGE_BYTES: usize = 4096;
/// How far ahead of a record the bytes are that are asked for with it.
const RECORD_AHEAD_BYTES: usize = 4096;
/// How much is asked for at the start of each page of memory: from there on the processor fetches by itself.
const START_BYTES: usize = 512;

/// Before the record at the front of `input` is read: as much of what comes 4 KiB later.
#[inline(always)]
pub(crate) fn of_record(input: &[u8], record_bytes: usize) {
    ask(input, RECORD_AHEAD_BYTES, record_bytes);
}

/// Before the WAL page at the front of `input` is read: the start of what the next one lies in, and a touch of the one after.
#[inline]
pub(crate) fn of_page(input: &[u8]) {
    let next = PAGE_BYTES as usize;
    ask(input, next, START_BYTES);
    ask(input, next + MEMORY_PAGE_BYTES, START_BYTES);
    ask(input, 2 * next, LINE_BYTES);
    ask(input, 2 * next + MEMORY_PAGE_BYTES, LINE_BYTES);
}

/// Asks for `bytes` of `input` from `start` on; what is beyond its end is not asked for.
#[inline(always)]
fn ask(input: &[u8], start: usize, bytes: usize) {
    #[cfg(all(feature = "fast", target_arch = "x86_64"))]
    for line in input.get(start..).unwrap_or_default().iter().take(bytes).step_by(LINE_BYTES) {
        // SAFETY: the byte is there; and a prefetch has no effect but on the processor's cache.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(line).cast()) };
    }
    #[cfg(not(all(feature = "fast", target_arch = "x86_64")))]
    let _ = (input, start, bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_asked_for_beyond_the_input() {
        let bytes = vec![7; 3 * PAGE_BYTES as usize];
        for length in [0, 1, 4095, 4096, 4097, 8192, 8704, 12_289, 16_385, 3 * PAGE_BYTES as usize] {
            let input = bytes[..length].to_vec().into_boxed_slice();
            of_page(&input);
            of_record(&input, 0);
            of_record(&input, 100);
            of_record(&input, usize::MAX);
        }
    }
}
