//! Reading pg_control, which the server writes while it is read.

use std::io;
use std::path::Path;

use barkeep_transport::host::{FileEnd, Host, ReadJob, ReadOptions, ReadSink, Root};

use super::{FileBackupError, rules};

/// Size of pg_control in bytes (`PG_CONTROL_FILE_SIZE`).
const CONTROL_BYTES: u64 = 8192;
/// How often pg_control is read until two readings are the same.
const CONTROL_READS: u32 = 50;

/// Reads pg_control until two readings are the same: none of them was cut in half by the server writing it.
pub(super) fn read_control(host: &dyn Host, data: Root) -> Result<(Vec<u8>, i64), FileBackupError> {
    let path = Path::new(rules::PG_CONTROL);
    let mut before = None;
    for _ in 0..CONTROL_READS {
        let mut sink = Whole::default();
        let job =
            ReadJob { root: data, path: path.to_owned(), offset: 0, length: CONTROL_BYTES, known: None };
        host.read(&[job], &ReadOptions::default(), &mut sink)?;
        let end = sink.end.unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()));
        let end = end.map_err(|error| FileBackupError::read(path, error))?;
        if before.as_ref() == Some(&sink.bytes) {
            return Ok((sink.bytes, end.modified_ns));
        }
        before = Some(sink.bytes);
    }
    Err(FileBackupError::read(path, io::Error::other("it changes all the time")))
}

#[derive(Default)]
struct Whole {
    bytes: Vec<u8>,
    end: Option<io::Result<FileEnd>>,
}

impl ReadSink for Whole {
    fn data(&mut self, _job: usize, _offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self, _job: usize, outcome: io::Result<FileEnd>) -> io::Result<()> {
        self.end = Some(outcome);
        Ok(())
    }
}
