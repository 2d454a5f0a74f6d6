//! Segments one after the other in one stream, as `cat` makes it of the files of a directory.

use std::io::{self, BufRead, Read};

use crate::page::{self, LONG_HEADER_BYTES};
use crate::{SegmentName, SegmentSize};

/// A stream of whole segments, later ones after earlier ones; the last may be cut off. Reading it gives the bytes of the
/// segment at hand.
#[derive(Debug)]
pub struct SegmentSeries<R> {
    input: R,
    /// What has been read of a segment to know which it is.
    start: Vec<u8>,
    /// How much of that has been consumed.
    used: usize,
    /// Bytes of the segment at hand that are still in `input`.
    left: u64,
    at_hand: Option<SegmentName>,
    /// The segment that comes next, whose start has been read.
    next: Option<SegmentName>,
    size: Option<SegmentSize>,
}

/// A stream that isn't a series of segments.
#[derive(Debug, thiserror::Error)]
pub enum SeriesError {
    /// It can't be read.
    #[error("it can't be read")]
    Read(#[from] io::Error),
    /// It doesn't start with a segment.
    #[error("it doesn't start with a WAL page header of PostgreSQL 13 to 18")]
    NoSegment,
    /// Something else follows a segment.
    #[error("what follows segment {after} is no segment of {size}")]
    Stray {
        /// The segment.
        after: SegmentName,
        /// The segment size.
        size: SegmentSize,
    },
    /// A segment isn't later than the one before. A server keeps old segments under new names, to write to them later.
    #[error("segment {after} is followed by {found}, which is not later")]
    Order {
        /// The segment.
        after: SegmentName,
        /// The one that follows it.
        found: SegmentName,
    },
}

impl<R: BufRead> SegmentSeries<R> {
    /// Reads the first segment's header.
    ///
    /// # Errors
    /// When there is none.
    pub fn new(input: R) -> Result<Self, SeriesError> {
        let (start, used, left) = (Vec::with_capacity(LONG_HEADER_BYTES), 0, 0);
        let mut series = SegmentSeries { input, start, used, left, at_hand: None, next: None, size: None };
        match series.peek()? {
            Some(_) => Ok(series),
            None => Err(SeriesError::NoSegment),
        }
    }

    /// Goes on to the next segment, past what is left of the one at hand; `None` at the end.
    ///
    /// Its name has the timeline of its first page: where a timeline begins, the file has the later one's.
    ///
    /// # Errors
    /// When the stream can't be read, or something else follows.
    pub fn next_segment(&mut self) -> Result<Option<SegmentName>, SeriesError> {
        let Some(next) = self.peek()? else { return Ok(None) };
        self.next = None;
        self.at_hand = Some(next);
        let size = self.size.map_or(0, SegmentSize::bytes);
        self.left = size.saturating_sub(self.start.len() as u64);
        Ok(Some(next))
    }

    /// The next segment, without going on to it: but what is left of the one at hand is skipped.
    ///
    /// # Errors
    /// As [`next_segment`](Self::next_segment).
    pub fn peek(&mut self) -> Result<Option<SegmentName>, SeriesError> {
        if self.next.is_some() {
            return Ok(self.next);
        }
        io::copy(&mut self.input.by_ref().take(self.left), &mut io::sink())?;
        self.left = 0;
        self.used = 0;
        self.start.clear();
        self.input.by_ref().take(LONG_HEADER_BYTES as u64).read_to_end(&mut self.start)?;
        if self.start.is_empty() {
            return Ok(None);
        }
        let found = page::identify_segment(&self.start).and_then(|(_, header, _, size)| {
            let timeline = crate::TimelineId::new(header.timeline)?;
            Some((SegmentName::at(timeline, header.address, size), size))
        });
        let (Some(after), Some(known)) = (self.at_hand, self.size) else {
            let (segment, size) = found.ok_or(SeriesError::NoSegment)?;
            (self.next, self.size) = (Some(segment), Some(size));
            return Ok(self.next);
        };
        match found {
            Some((segment, size)) if size == known => {
                if segment.first_lsn(size) <= after.first_lsn(size) {
                    return Err(SeriesError::Order { after, found: segment });
                }
                self.next = Some(segment);
                Ok(self.next)
            }
            _ => Err(SeriesError::Stray { after, size: known }),
        }
    }

    /// The size of its segments.
    pub fn segment_size(&self) -> SegmentSize {
        // Known since the first header.
        self.size.unwrap_or(SegmentSize::DEFAULT)
    }
}

impl<R: BufRead> BufRead for SegmentSeries<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at_hand.is_none() || self.next.is_some() {
            return Ok(&[]);
        }
        if self.used < self.start.len() {
            return Ok(&self.start[self.used..]);
        }
        if self.left == 0 {
            return Ok(&[]);
        }
        let bytes = self.input.fill_buf()?;
        // `left` may be more than the address space holds only where the input can't be.
        let length = usize::try_from(self.left).map_or(bytes.len(), |left| bytes.len().min(left));
        Ok(&bytes[..length])
    }

    fn consume(&mut self, amount: usize) {
        let of_start = amount.min(self.start.len() - self.used);
        self.used += of_start;
        let of_input = amount - of_start;
        self.left = self.left.saturating_sub(of_input as u64);
        self.input.consume(of_input);
    }
}

impl<R: BufRead> Read for SegmentSeries<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = (&mut self.fill_buf()?).read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WalVersion;

    const SIZE: SegmentSize = SegmentSize::MIN;

    /// A segment that holds its header and zeros.
    fn segment(number: u64) -> Vec<u8> {
        let mut bytes = WalVersion::V17.magic().to_le_bytes().to_vec();
        bytes.extend(2u16.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend((number * SIZE.bytes()).to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(7u64.to_le_bytes());
        bytes.extend((SIZE.bytes() as u32).to_le_bytes());
        bytes.extend(8192u32.to_le_bytes());
        bytes.resize(SIZE.bytes() as usize, 0);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<(u64, usize)>, SeriesError> {
        let mut series = SegmentSeries::new(bytes)?;
        let mut read = Vec::new();
        while let Some(segment) = series.next_segment()? {
            let mut bytes = Vec::new();
            series.read_to_end(&mut bytes)?;
            assert_eq!(segment.first_lsn(SIZE).unwrap().as_u64().to_le_bytes(), bytes[8..16]);
            read.push((segment.number(SIZE).unwrap(), bytes.len()));
        }
        Ok(read)
    }

    #[test]
    fn gives_each_segment_with_all_its_bytes() {
        let whole = SIZE.bytes() as usize;
        let bytes = [segment(3), segment(4), segment(9)[..5000].to_vec()].concat();
        assert_eq!(read(&bytes).unwrap(), [(3, whole), (4, whole), (9, 5000)]);
        assert_eq!(read(&segment(1)).unwrap(), [(1, whole)]);
    }

    #[test]
    fn goes_on_past_what_is_not_read() {
        let bytes = [segment(3), segment(4)].concat();
        let mut series = SegmentSeries::new(&bytes[..]).unwrap();
        let first = series.next_segment().unwrap().unwrap();
        assert_eq!(series.read(&mut [0; 100]).unwrap(), 40);
        let second = series.peek().unwrap();
        assert_eq!(second, first.next(SIZE));
        // What was skipped is gone.
        assert_eq!(series.read(&mut [0; 100]).unwrap(), 0);
        assert_eq!(series.next_segment().unwrap(), second);
        assert_eq!(series.next_segment().unwrap(), None);
        assert_eq!(series.next_segment().unwrap(), None);
    }

    #[test]
    fn refuses_what_is_no_later_segment() {
        assert!(matches!(read(b""), Err(SeriesError::NoSegment)));
        assert!(matches!(read(b"text"), Err(SeriesError::NoSegment)));
        let stray = [segment(3), b"text".to_vec()].concat();
        assert!(matches!(read(&stray), Err(SeriesError::Stray { .. })));
        let recycled = [segment(3), segment(1)].concat();
        assert!(matches!(read(&recycled), Err(SeriesError::Order { .. })));
        let twice = [segment(3), segment(3)].concat();
        assert!(matches!(read(&twice), Err(SeriesError::Order { .. })));
    }
}
