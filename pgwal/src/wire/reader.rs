//! A cursor over one message's body. Every read is checked; slices share the frame's memory.

use bytes::{Buf, Bytes};

use super::WireError;

/// A message body being taken apart.
#[derive(Debug)]
pub(crate) struct Reader {
    rest: Bytes,
    message: &'static str,
}

impl Reader {
    pub(crate) fn new(message: &'static str, body: Bytes) -> Self {
        Reader { rest: body, message }
    }

    pub(crate) fn u8(&mut self) -> Result<u8, WireError> {
        self.rest.try_get_u8().map_err(|_| self.truncated())
    }

    pub(crate) fn u16(&mut self) -> Result<u16, WireError> {
        self.rest.try_get_u16().map_err(|_| self.truncated())
    }

    pub(crate) fn i32(&mut self) -> Result<i32, WireError> {
        self.rest.try_get_i32().map_err(|_| self.truncated())
    }

    pub(crate) fn i64(&mut self) -> Result<i64, WireError> {
        self.rest.try_get_i64().map_err(|_| self.truncated())
    }

    pub(crate) fn u64(&mut self) -> Result<u64, WireError> {
        self.rest.try_get_u64().map_err(|_| self.truncated())
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<Bytes, WireError> {
        if len > self.rest.len() {
            return Err(self.truncated());
        }
        Ok(self.rest.split_to(len))
    }

    /// The bytes up to the next NUL, which is consumed too.
    pub(crate) fn c_string(&mut self) -> Result<Bytes, WireError> {
        let end = self.rest.iter().position(|byte| *byte == 0).ok_or_else(|| self.truncated())?;
        let text = self.rest.split_to(end);
        self.rest.advance(1);
        Ok(text)
    }

    /// [`Reader::c_string`] as text; bytes that are not UTF-8 become replacement characters.
    pub(crate) fn text(&mut self) -> Result<String, WireError> {
        Ok(String::from_utf8_lossy(&self.c_string()?).into_owned())
    }

    pub(crate) fn rest(self) -> Bytes {
        self.rest
    }

    pub(crate) fn finish(self) -> Result<(), WireError> {
        match self.rest.len() {
            0 => Ok(()),
            bytes => Err(WireError::TrailingBytes { message: self.message, bytes }),
        }
    }

    fn truncated(&self) -> WireError {
        WireError::Truncated { message: self.message }
    }
}
