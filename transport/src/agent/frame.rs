//! Frames: what belongs to which request, in bounded pieces.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::sync::{Mutex, PoisonError};

use super::FRAME_BYTES_MAX;
use super::greeting::FrameCompression;

/// Size of a frame's header in bytes: length of the payload, kind, flags, two bytes of zero, request.
pub(super) const HEADER_BYTES: usize = 12;
/// Flag: the payload is one zstd frame.
const COMPRESSED: u8 = 1;
/// Payloads below this size are never compressed, in bytes.
const COMPRESS_FROM_BYTES: usize = 512;

/// What a frame is. The numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum FrameKind {
    /// Client: a request.
    Request = 1,
    /// Client: more may be sent for this request.
    Credit = 2,
    /// Client: nothing more is wanted for this request.
    Cancel = 3,
    /// Client: is anybody there?
    Ping = 4,
    /// Agent: a part of the answer.
    Part = 16,
    /// Agent: the end of the answer.
    Done = 17,
    /// Agent: the request failed as a whole.
    Failed = 18,
    /// Agent: yes.
    Pong = 19,
}

impl FrameKind {
    fn from_number(number: u8) -> Option<Self> {
        use FrameKind::{Cancel, Credit, Done, Failed, Part, Ping, Pong, Request};
        [Request, Credit, Cancel, Ping, Part, Done, Failed, Pong]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }
}

/// A frame as it came.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: FrameKind,
    pub(super) request: u32,
    pub(super) payload: Vec<u8>,
}

/// Reads the next frame; `None` when the stream ends between two.
///
/// # Errors
/// When reading fails, or what comes is no frame (`InvalidData`).
pub(super) fn read_frame(input: &mut impl Read) -> io::Result<Option<Frame>> {
    let mut header = [0; HEADER_BYTES];
    let mut got = 0;
    while got < HEADER_BYTES {
        match input.read(&mut header[got..]) {
            Ok(0) if got == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => got += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let [l0, l1, l2, l3, kind, flags, _, _, r0, r1, r2, r3] = header;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let kind = FrameKind::from_number(kind).ok_or_else(|| invalid("a frame of an unknown kind"))?;
    if length > FRAME_BYTES_MAX || flags & !COMPRESSED != 0 {
        return Err(invalid("a frame that is too long or has unknown flags"));
    }
    let mut payload = Vec::with_capacity(length);
    input.take(length as u64).read_to_end(&mut payload)?;
    if payload.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if flags & COMPRESSED != 0 {
        payload = decompress(&payload).ok_or_else(|| invalid("a frame that can't be decompressed"))?;
    }
    Ok(Some(Frame { kind, request: u32::from_le_bytes([r0, r1, r2, r3]), payload }))
}

pub(super) fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

thread_local! {
    /// A compressor is large: each sending thread keeps its own, with its level.
    static COMPRESSOR: RefCell<Option<Kept>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

struct Kept {
    level: i8,
    compressor: zstd::bulk::Compressor<'static>,
    /// How many frames are sent as they are before it is tried again.
    skip: u32,
}

/// How many frames are sent as they are after one that compression made little difference to.
const SKIPPED_FRAMES: u32 = 15;

fn decompress(packed: &[u8]) -> Option<Vec<u8>> {
    // What a frame says of its size is believed only so far.
    let size = zstd::zstd_safe::get_frame_content_size(packed).ok().flatten();
    let size = size.and_then(|size| usize::try_from(size).ok()).unwrap_or(FRAME_BYTES_MAX);
    DECOMPRESSOR.with_borrow_mut(|kept| {
        if kept.is_none() {
            *kept = zstd::bulk::Decompressor::new().ok();
        }
        kept.as_mut()?.decompress(packed, size.min(FRAME_BYTES_MAX)).ok()
    })
}

/// Where frames go, from many threads.
#[derive(Debug)]
pub(super) struct FrameOutput<W> {
    output: Mutex<W>,
    compression: FrameCompression,
}

impl<W: Write> FrameOutput<W> {
    pub(super) const fn new(output: W, compression: FrameCompression) -> Self {
        FrameOutput { output: Mutex::new(output), compression }
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// When writing fails, or the payload is too long for a frame.
    pub(super) fn send(&self, kind: FrameKind, request: u32, payload: &[u8]) -> io::Result<()> {
        let packed = match self.compression {
            _ if payload.len() < COMPRESS_FROM_BYTES => None,
            FrameCompression::Off => None,
            FrameCompression::Always(level) => compress(level, false, payload),
            FrameCompression::WhereItHelps(level) => compress(level, true, payload),
        };
        let (payload, flags) = packed.as_deref().map_or((payload, 0), |packed| (packed, COMPRESSED));
        let length = u32::try_from(payload.len()).ok().filter(|length| *length as usize <= FRAME_BYTES_MAX);
        let length = length.ok_or_else(|| invalid("a payload too long for a frame"))?;
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&length.to_le_bytes());
        header[4] = kind as u8;
        header[5] = flags;
        header[8..].copy_from_slice(&request.to_le_bytes());
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        // Small ones in one system call, large ones without copying.
        if payload.len() <= 8192 {
            output.write_all(&[&header, payload].concat())?;
        } else {
            output.write_all(&header)?;
            output.write_all(payload)?;
        }
        output.flush()
    }

    /// Gives the stream back, for closing it.
    pub(super) fn with<T>(&self, action: impl FnOnce(&mut W) -> T) -> T {
        action(&mut self.output.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The payload compressed, if that makes it smaller; with `must_help`, by a quarter at least.
fn compress(level: i8, must_help: bool, payload: &[u8]) -> Option<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|kept| {
        if kept.as_ref().is_none_or(|kept| kept.level != level) {
            let compressor = zstd::bulk::Compressor::new(level.into()).ok()?;
            *kept = Some(Kept { level, compressor, skip: 0 });
        }
        let kept = kept.as_mut()?;
        if must_help && kept.skip > 0 {
            kept.skip -= 1;
            return None;
        }
        let packed = kept.compressor.compress(payload).ok()?;
        let enough = if must_help { payload.len() / 4 * 3 } else { payload.len() };
        if packed.len() < enough {
            return Some(packed);
        }
        kept.skip = SKIPPED_FRAMES;
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFF: FrameCompression = FrameCompression::Off;

    fn sent(compression: FrameCompression, payload: &[u8]) -> Vec<u8> {
        let output = FrameOutput::new(Vec::new(), compression);
        output.send(FrameKind::Part, 7, payload).unwrap();
        output.with(std::mem::take)
    }

    #[test]
    fn frames_come_out_as_they_went_in() {
        for compression in [OFF, FrameCompression::Always(3), FrameCompression::WhereItHelps(1)] {
            for payload in [&b""[..], b"short", &[7; 100_000]] {
                let bytes = sent(compression, payload);
                let frame = read_frame(&mut &bytes[..]).unwrap().unwrap();
                assert_eq!((frame.kind, frame.request), (FrameKind::Part, 7));
                assert_eq!(frame.payload, payload);
            }
        }
        assert!(sent(FrameCompression::Always(3), &[7; 100_000]).len() < 1000);
    }

    #[test]
    fn what_compression_does_not_help_is_sent_as_it_is() {
        let mut state = 1_u32;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        let noise: Vec<u8> = noise.take(100_000).collect();
        for number in 0..40 {
            let bytes = sent(FrameCompression::WhereItHelps(1), &noise);
            assert_eq!(bytes.len(), HEADER_BYTES + noise.len(), "{number}");
        }
        let text = [7; 100_000];
        let small = (0..40).filter(|_| sent(FrameCompression::WhereItHelps(1), &text).len() < 1000).count();
        assert!(small >= 40 - SKIPPED_FRAMES as usize, "it is tried again: {small}");
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        assert!(read_frame(&mut &b""[..]).unwrap().is_none());
        let good = sent(OFF, b"payload");
        for length in 1..good.len() {
            assert!(read_frame(&mut &good[..length]).is_err(), "{length}");
        }
        for (at, value) in [(2, 0xff), (4, 99), (5, 2), (5, 1)] {
            let mut bytes = good.clone();
            bytes[at] = value;
            assert!(read_frame(&mut &bytes[..]).is_err(), "{at}");
        }
        assert!(
            FrameOutput::new(Vec::new(), OFF)
                .send(FrameKind::Part, 1, &vec![0; FRAME_BYTES_MAX + 1])
                .is_err()
        );
    }

    #[test]
    fn a_small_frame_cannot_grow_beyond_the_limit() {
        let bomb = zstd::bulk::compress(&vec![0; FRAME_BYTES_MAX + 1], 3).unwrap();
        let mut bytes = (bomb.len() as u32).to_le_bytes().to_vec();
        bytes.extend([FrameKind::Part as u8, COMPRESSED, 0, 0, 1, 0, 0, 0]);
        bytes.extend(bomb);
        assert!(read_frame(&mut &bytes[..]).is_err());
    }
}
