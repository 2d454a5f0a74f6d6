//! Pipes to and from a session that are given up when nothing moves on them for too long.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

/// A pipe's own end (the other one has its own flags) that is waited for so long and no longer.
#[derive(Debug)]
pub(crate) struct Patient<P> {
    pipe: P,
    patience: Duration,
}

impl<P: AsFd> Patient<P> {
    /// Gives the pipe up when nothing moves for `patience`.
    pub(crate) fn new(pipe: P, patience: Duration) -> io::Result<Self> {
        let flags = fcntl_getfl(&pipe)?;
        fcntl_setfl(&pipe, flags | OFlags::NONBLOCK)?;
        Ok(Patient { pipe, patience })
    }

    /// Tries, and waits until trying again may help.
    fn moved<T>(
        &mut self,
        what: PollFlags,
        stuck: &str,
        mut attempt: impl FnMut(&mut P) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            match attempt(&mut self.pipe) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return outcome,
            }
            let timeout = Timespec::try_from(self.patience).map_err(io::Error::other)?;
            let mut waited_for = [PollFd::new(&self.pipe, what)];
            match poll(&mut waited_for, Some(&timeout)) {
                Ok(0) => {
                    let text = format!("{stuck} for {} seconds", self.patience.as_secs());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl<P: Read + AsFd> Read for Patient<P> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.moved(PollFlags::IN, "nothing came", |pipe| pipe.read(bytes))
    }
}

impl<P: Write + AsFd> Write for Patient<P> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.moved(PollFlags::OUT, "nothing was taken", |pipe| pipe.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pipe.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_moves_is_waited_for_and_what_does_not_is_given_up() {
        let (input, output) = io::pipe().unwrap();
        let mut patient = Patient::new(input, LONG).unwrap();
        let writer = std::thread::spawn(move || {
            std::thread::sleep(SHORT);
            let mut output = Patient::new(output, LONG).unwrap();
            output.write_all(&[7; 1 << 20]).unwrap();
        });
        let mut got = Vec::new();
        patient.read_to_end(&mut got).unwrap();
        assert_eq!(got, [7; 1 << 20]);
        writer.join().unwrap();

        let (input, output) = io::pipe().unwrap();
        let error = Patient::new(input, SHORT).unwrap().read(&mut [0]).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (io::ErrorKind::TimedOut, "nothing came for 0 seconds")
        );
        let (_unread, full) = io::pipe().unwrap();
        let error = Patient::new(full, SHORT).unwrap().write_all(&[0; 1 << 20]).unwrap_err();
        assert!(error.to_string().starts_with("nothing was taken"), "{error}");
        drop(output);
    }
}
