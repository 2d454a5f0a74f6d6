//! Compressions by configuration name, magic bytes and level, as streaming readers and writers.
//!
//! The formats are the ones that Barman and the command-line tools read and write: gzip members, bzip2 and xz streams,
//! zstd and LZ4 frames, the snappy framing format. A file is told by its first bytes ([`Compression::detect`]), never
//! by its name.

mod packer;

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};

use bzip2::read::MultiBzDecoder;
use bzip2::write::BzEncoder;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use liblzma::read::XzDecoder;
use liblzma::stream::{CONCATENATED, Check, Filters, LzmaOptions, Stream};
use liblzma::write::XzEncoder;
use zstd::zstd_safe::{CParameter, Strategy};

pub use packer::Packer;

/// How many of a file's first bytes [`Compression::detect`] needs.
pub const MAGIC_BYTES: usize = 10;
/// Memory that an xz stream may ask for when decompressed, in bytes: above what preset 9 needs (65 MiB).
const XZ_MEMORY_BYTES_MAX: u64 = 256 << 20;
/// Largest zstd window accepted, as a power of two in bytes: 128 MiB, what the zstd tool accepts by default too.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// Size of the buffers in front of decoders, in bytes.
const BUFFER_BYTES: usize = 128 << 10;

/// How a file's bytes are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// bzip2.
    Bzip2,
    /// The xz container with LZMA2.
    Xz,
    /// RFC 8878.
    Zstd,
    /// The LZ4 frame format.
    Lz4,
    /// The snappy framing format.
    Snappy,
}

impl Compression {
    /// All of them.
    pub const ALL: [Compression; 7] = [
        Compression::None,
        Compression::Gzip,
        Compression::Bzip2,
        Compression::Xz,
        Compression::Zstd,
        Compression::Lz4,
        Compression::Snappy,
    ];

    /// The compression that a configuration file means: Barman's names, with those that differ only in who does the
    /// work (`pigz`, `pygzip`, `pybzip2`). `None` for a name that stands for nothing known.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "none" => Compression::None,
            "gzip" | "pigz" | "pygzip" => Compression::Gzip,
            "bzip2" | "pybzip2" => Compression::Bzip2,
            "xz" => Compression::Xz,
            "zstd" => Compression::Zstd,
            "lz4" => Compression::Lz4,
            "snappy" => Compression::Snappy,
            _ => return None,
        })
    }

    /// Its name in configuration files and in `xlog.db`.
    pub const fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Bzip2 => "bzip2",
            Compression::Xz => "xz",
            Compression::Zstd => "zstd",
            Compression::Lz4 => "lz4",
            Compression::Snappy => "snappy",
        }
    }

    /// What a file compressed with it begins with; empty for [`Compression::None`].
    pub const fn magic(self) -> &'static [u8] {
        match self {
            Compression::None => b"",
            Compression::Gzip => b"\x1f\x8b\x08",
            Compression::Bzip2 => b"BZh",
            Compression::Xz => b"\xfd7zXZ\0",
            Compression::Zstd => b"\x28\xb5\x2f\xfd",
            Compression::Lz4 => b"\x04\x22\x4d\x18",
            Compression::Snappy => b"\xff\x06\0\0sNaPpY",
        }
    }

    /// Tells a file's compression by its first [`MAGIC_BYTES`] bytes (fewer when the file is shorter).
    ///
    /// ```
    /// use barkeep_transport::codec::Compression;
    /// assert_eq!(Compression::detect(b"\x1f\x8b\x08\0\0\0\0\0\0\xff"), Compression::Gzip);
    /// assert_eq!(Compression::detect(b"\x10\xd1\x07\0"), Compression::None);
    /// ```
    pub fn detect(first_bytes: &[u8]) -> Self {
        Self::ALL
            .into_iter()
            .find(|one| *one != Compression::None && first_bytes.starts_with(one.magic()))
            .unwrap_or(Compression::None)
    }

    /// The numeric level that `level` means here, clamped to the range that configuration files may use. Formats
    /// without levels always answer 0.
    pub fn level_number(self, level: Level) -> i32 {
        let (least, low, medium, high, most) = match self {
            Compression::None | Compression::Snappy => (0, 0, 0, 0, 0),
            Compression::Gzip => (1, 1, 6, 9, 9),
            Compression::Bzip2 => (1, 1, 5, 9, 9),
            Compression::Xz => (1, 1, 3, 5, 9),
            Compression::Zstd => (-22, 1, 4, 9, 22),
            Compression::Lz4 => (0, 0, 6, 10, 16),
        };
        match level {
            Level::Low => low,
            Level::Medium => medium,
            Level::High => high,
            Level::Number(number) => number.clamp(least, most),
        }
    }

    /// Whether a [`Packer`] works with hardly more memory than what it takes in and gives out. Where not, a
    /// [writer](Self::writer) compresses as well, with 24 MiB at most.
    pub fn packs_frugally(self, level: Level) -> bool {
        match self {
            Compression::Gzip => true,
            Compression::Zstd => self.level_number(level) <= ZSTD_SMALL_LEVEL_MAX,
            _ => false,
        }
    }

    /// A writer that compresses into `sink`. Nothing is complete before [`Encoder::finish`].
    ///
    /// # Errors
    /// When the compressor can't be set up or `sink` refuses its first bytes.
    pub fn writer<W: Write>(self, sink: W, level: Level) -> io::Result<Encoder<W>> {
        let number = self.level_number(level);
        Ok(Encoder(match self {
            Compression::None => Encode::None(sink),
            Compression::Gzip => {
                Encode::Gzip(Box::new(GzEncoder::new(sink, flate2::Compression::new(number.unsigned_abs()))))
            }
            Compression::Bzip2 => {
                Encode::Bzip2(Box::new(BzEncoder::new(sink, bzip2::Compression::new(number.unsigned_abs()))))
            }
            Compression::Xz => {
                let mut options = LzmaOptions::new_preset(number.unsigned_abs())?;
                options.dict_size(xz_dictionary_bytes(number.unsigned_abs()));
                let stream = Stream::new_stream_encoder(Filters::new().lzma2(&options), Check::Crc64)?;
                Encode::Xz(Box::new(XzEncoder::new_stream(sink, stream)))
            }
            Compression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(sink, number)?;
                encoder.include_checksum(true)?;
                for parameter in zstd_parameters(level) {
                    encoder.set_parameter(*parameter)?;
                }
                Encode::Zstd(Box::new(encoder))
            }
            Compression::Lz4 => {
                use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
                let frame = FrameInfo::new()
                    .block_size(BlockSize::Max256KB)
                    .block_mode(BlockMode::Linked)
                    .content_checksum(true);
                Encode::Lz4(Box::new(FrameEncoder::with_frame_info(frame, sink)))
            }
            Compression::Snappy => Encode::Snappy(Box::new(snap::write::FrameEncoder::new(sink))),
        }))
    }

    /// A reader that decompresses `source`: all of it, also when it is several members or frames one after another.
    ///
    /// It is as large as the compressed bytes say, which may be a lie: put a [`Bounded`] around it when `source` is
    /// not trusted.
    ///
    /// # Errors
    /// When the decompressor can't be set up. Wrong bytes are found on reading.
    pub fn reader<'a, R: Read + Send + 'a>(self, source: R) -> io::Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Compression::None => Box::new(source),
            Compression::Gzip => Box::new(MultiGzDecoder::new(source)),
            Compression::Bzip2 => Box::new(MultiBzDecoder::new(source)),
            Compression::Xz => {
                let stream = Stream::new_stream_decoder(XZ_MEMORY_BYTES_MAX, CONCATENATED)?;
                Box::new(XzDecoder::new_stream(source, stream))
            }
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::new(source)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Box::new(decoder)
            }
            Compression::Lz4 => Box::new(Lz4Reader::new(source)),
            Compression::Snappy => Box::new(snap::read::FrameDecoder::new(source)),
        })
    }
}

/// How zstd searches at `medium`: level 4's two tables, but small enough for a core's own caches, and matches of six bytes.
///
/// Over WAL of eight kinds of work (2026-11-26: page images, index builds, JSON, random bytes...) that is 2.2 times as fast as
/// level 4, and the files are smaller by 2 %; those of page images alone are larger by 5 %.
const ZSTD_MEDIUM: [CParameter; 6] = [
    CParameter::Strategy(Strategy::ZSTD_dfast),
    CParameter::WindowLog(19),
    CParameter::HashLog(15),
    CParameter::ChainLog(15),
    CParameter::SearchLog(1),
    CParameter::MinMatch(6),
];

/// Up to this level, zstd's tables take less than 3 MiB.
const ZSTD_SMALL_LEVEL_MAX: i32 = 4;
/// Up to this one, they and the window take less than 20 MiB.
const ZSTD_USUAL_LEVEL_MAX: i32 = 9;
/// What keeps the levels above, which would take up to 900 MiB, to as much: a window of 4 MiB, tables of 8 and 4 MiB.
const ZSTD_FRUGAL: [CParameter; 3] =
    [CParameter::WindowLog(22), CParameter::ChainLog(21), CParameter::HashLog(20)];

/// What is set beyond the number that a level has.
fn zstd_parameters(level: Level) -> &'static [CParameter] {
    match level {
        Level::Medium => &ZSTD_MEDIUM,
        Level::Number(number) if number > ZSTD_USUAL_LEVEL_MAX => &ZSTD_FRUGAL,
        _ => &[],
    }
}

/// How far back xz searches at most, in bytes: of the memory that it takes, from 7 to 12 bytes are for each of these.
const XZ_DICTIONARY_BYTES_MAX: u32 = 1536 << 10;

/// How far back an xz preset searches. The presets' own distances, from 256 KiB to 64 MiB, take up to 674 MiB of memory.
const fn xz_dictionary_bytes(preset: u32) -> u32 {
    match preset {
        0 => 256 << 10,
        1 => 1 << 20,
        _ => XZ_DICTIONARY_BYTES_MAX,
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How hard to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    /// `low`: quick.
    Low,
    /// `medium`: each format's usual compromise.
    #[default]
    Medium,
    /// `high`: small.
    High,
    /// A number in the format's own scale; out of its range it is clamped.
    Number(i32),
}

impl Level {
    /// Reads a configuration value: `low`, `medium`, `high` or a whole number.
    pub fn from_name(text: &str) -> Option<Self> {
        match text {
            "low" => Some(Level::Low),
            "medium" => Some(Level::Medium),
            "high" => Some(Level::High),
            number => number.parse().ok().map(Level::Number),
        }
    }
}

/// Reads the first bytes of `source`, tells its compression, and gives back a reader of the whole.
///
/// # Errors
/// When reading fails.
pub fn sniff<R: Read>(source: R) -> io::Result<(Compression, BufReader<R>)> {
    let mut source = BufReader::with_capacity(BUFFER_BYTES, source);
    // A regular file fills the buffer at once; a pipe may deliver less than the magic in its first read, and then
    // there is no way to put bytes back. Files are what this is for.
    let first_bytes = source.fill_buf()?;
    let compression = Compression::detect(&first_bytes[..first_bytes.len().min(MAGIC_BYTES)]);
    Ok((compression, source))
}

/// Compresses what is written to it.
pub struct Encoder<W: Write>(Encode<W>);

enum Encode<W: Write> {
    None(W),
    Gzip(Box<GzEncoder<W>>),
    Bzip2(Box<BzEncoder<W>>),
    Xz(Box<XzEncoder<W>>),
    Zstd(Box<zstd::stream::write::Encoder<'static, W>>),
    Lz4(Box<lz4_flex::frame::FrameEncoder<W>>),
    Snappy(Box<snap::write::FrameEncoder<W>>),
}

impl<W: Write> Encoder<W> {
    /// Writes what is still held back and the format's end, and gives the sink back.
    ///
    /// # Errors
    /// When the sink refuses bytes.
    pub fn finish(self) -> io::Result<W> {
        match self.0 {
            Encode::None(sink) => Ok(sink),
            Encode::Gzip(encoder) => encoder.finish(),
            Encode::Bzip2(encoder) => encoder.finish(),
            Encode::Xz(encoder) => encoder.finish(),
            Encode::Zstd(encoder) => encoder.finish(),
            Encode::Lz4(encoder) => encoder.finish().map_err(io::Error::from),
            Encode::Snappy(encoder) => encoder.into_inner().map_err(snap::write::IntoInnerError::into_error),
        }
    }

    fn inner(&mut self) -> &mut dyn Write {
        match &mut self.0 {
            Encode::None(sink) => sink,
            Encode::Gzip(encoder) => encoder,
            Encode::Bzip2(encoder) => encoder,
            Encode::Xz(encoder) => encoder,
            Encode::Zstd(encoder) => encoder,
            Encode::Lz4(encoder) => encoder,
            Encode::Snappy(encoder) => encoder,
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner().flush()
    }
}

impl<W: Write> fmt::Debug for Encoder<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

/// Reads at most `limit` bytes and fails where there are more: against archives that claim to be endless.
#[derive(Debug)]
pub struct Bounded<R> {
    source: R,
    limit: u64,
    left: u64,
}

impl<R: Read> Bounded<R> {
    /// Bounds `source` to `limit` bytes.
    pub const fn new(source: R, limit: u64) -> Self {
        Bounded { source, limit, left: limit }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !buffer.is_empty() {
            let mut probe = [0_u8; 1];
            return match self.source.read(&mut probe)? {
                0 => Ok(0),
                _ => Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("more than {} bytes when decompressed", self.limit),
                )),
            };
        }
        let room = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let count = self.source.read(&mut buffer[..room])?;
        self.left = self.left.saturating_sub(count as u64);
        Ok(count)
    }
}

/// Reads LZ4 frames one after another until the source ends. The library's decoder stops after the first frame, and
/// takes a source that ends between two blocks for a complete one.
struct Lz4Reader<R: Read> {
    decoder: lz4_flex::frame::FrameDecoder<FrameSource<R>>,
}

/// A source whose end is an error while a frame is being read.
struct FrameSource<R> {
    source: BufReader<R>,
    in_frame: bool,
}

impl<R: Read> Lz4Reader<R> {
    fn new(source: R) -> Self {
        let source = BufReader::with_capacity(BUFFER_BYTES, source);
        Lz4Reader { decoder: lz4_flex::frame::FrameDecoder::new(FrameSource { source, in_frame: false }) }
    }
}

impl<R: Read> Read for Lz4Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let source = self.decoder.get_mut();
            if !source.in_frame {
                if source.source.fill_buf()?.is_empty() {
                    return Ok(0);
                }
                source.in_frame = true;
            }
            match self.decoder.read(buffer)? {
                0 => self.decoder.get_mut().in_frame = false,
                count => return Ok(count),
            }
        }
    }
}

impl<R: Read> Read for FrameSource<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.source.read(buffer)? {
            // Not UnexpectedEof: that is the kind that the decoder takes for a regular end.
            0 if self.in_frame && !buffer.is_empty() => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "the LZ4 frame is cut off"))
            }
            count => Ok(count),
        }
    }
}

#[cfg(test)]
mod tests;
