//! One program running at the far end.

use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::SshError;

/// How much of what a session says on standard error is kept, in bytes: the end of it.
pub const STDERR_BYTES_MAX: usize = 16 << 10;
/// How long, after the program's end, the end of its standard error is waited for. A connection that stays open in the
/// background may hold the pipe: older `ssh` does not let go of it.
const STDERR_GRACE: Duration = Duration::from_millis(500);
/// How often it is looked whether a program has ended.
const END_LOOK: Duration = Duration::from_millis(10);
/// The exit code by which `ssh` tells of its own trouble.
const SSH_FAILED: i32 = 255;

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The remote program ended with this code, from 0 to 254.
    Exit(u8),
    /// `ssh` failed: no connection, no login, connection lost. A remote program that ends with 255 looks the same.
    Connection,
    /// `ssh` was killed here by this signal.
    Signal(i32),
}

/// What a short session has said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub end: End,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// The end of its standard error, at most [`STDERR_BYTES_MAX`].
    pub stderr: String,
}

/// A program running at the far end; killed (here) when dropped.
///
/// Its standard error is read all the time, so it can't block. Who writes much to its standard input has to read its
/// standard output meanwhile, if it writes any.
#[derive(Debug)]
pub struct Session {
    program: String,
    child: Child,
    stderr: Arc<Mutex<Vec<u8>>>,
    stderr_end: mpsc::Receiver<()>,
}

impl Session {
    pub(super) fn new(program: String, mut child: Child) -> Self {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let (send_end, stderr_end) = mpsc::channel();
        if let Some(stderr) = child.stderr.take() {
            let kept = Arc::clone(&kept);
            // Without a thread there is no end to wait for either: the sender is dropped with the closure.
            let _ = thread::Builder::new().name("ssh stderr".to_owned()).spawn(move || {
                keep_tail(stderr, &kept);
                drop(send_end);
            });
        }
        Session { program, child, stderr: kept, stderr_end }
    }

    /// The pipe into its standard input; once.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// The pipe from its standard output; once.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// What it has said on standard error so far: the end of it.
    pub fn stderr(&self) -> String {
        let kept = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).into_owned()
    }

    /// Closes its standard input, if that was not taken, and waits for its end.
    ///
    /// # Errors
    /// When it can't be waited for.
    pub fn finish(mut self) -> Result<(End, String), SshError> {
        drop(self.child.stdin.take());
        let status = self.child.wait();
        self.ended(status)
    }

    /// The same, but kills it (here) if it has not ended by itself after `patience`.
    ///
    /// # Errors
    /// As for [`finish`](Self::finish).
    pub fn finish_within(mut self, patience: Duration) -> Result<(End, String), SshError> {
        drop(self.child.stdin.take());
        let since = Instant::now();
        while since.elapsed() < patience {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(END_LOOK),
                Ok(Some(status)) => return self.ended(Ok(status)),
                Err(error) => return self.ended(Err(error)),
            }
        }
        let status = self.child.kill().and_then(|()| self.child.wait());
        self.ended(status)
    }

    fn ended(self, status: io::Result<ExitStatus>) -> Result<(End, String), SshError> {
        let status = status.map_err(|source| SshError::Pipe { program: self.program.clone(), source })?;
        let end = match (status.code(), status.signal()) {
            (Some(SSH_FAILED), _) => End::Connection,
            (Some(code), _) => u8::try_from(code).map_or(End::Connection, End::Exit),
            (None, signal) => End::Signal(signal.unwrap_or_default()),
        };
        let _ = self.stderr_end.recv_timeout(STDERR_GRACE);
        Ok((end, self.stderr()))
    }

    /// Reads its standard output to the end, and waits for its end. Nothing is sent to it.
    ///
    /// # Errors
    /// When there is more than `limit` bytes of output, or the pipe breaks.
    pub fn output(mut self, limit: u64) -> Result<Output, SshError> {
        drop(self.take_stdin());
        let mut stdout = Vec::new();
        if let Some(pipe) = self.take_stdout() {
            let read = pipe.take(limit.saturating_add(1)).read_to_end(&mut stdout);
            read.map_err(|source| SshError::Pipe { program: self.program.clone(), source })?;
        }
        if stdout.len() as u64 > limit {
            return Err(SshError::TooMuch { program: self.program.clone(), limit });
        }
        let (end, stderr) = self.finish()?;
        Ok(Output { end, stdout, stderr })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // After the end, both do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads to the end, and keeps the last part of it.
fn keep_tail(mut source: ChildStderr, kept: &Mutex<Vec<u8>>) {
    let mut piece = [0; 4096];
    loop {
        match source.read(&mut piece) {
            Ok(0) => return,
            Ok(count) => {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&piece[..count]);
                let excess = kept.len().saturating_sub(STDERR_BYTES_MAX);
                kept.drain(..excess);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh::{RemoteCommand, Ssh};

    /// `sh -c` stands in for the far end: what is tested here is this side of the pipes.
    fn run(line: &str) -> Session {
        Ssh::from_command("sh -c").unwrap().start(&RemoteCommand::shell(line)).unwrap()
    }

    #[test]
    fn exit_codes_are_told_apart() {
        assert_eq!(run("exit 3").finish().unwrap(), (End::Exit(3), String::new()));
        assert_eq!(run("exit 255").finish().unwrap().0, End::Connection);
        assert_eq!(run("kill -9 $$").finish().unwrap().0, End::Signal(9));
        let missing = Ssh::from_command("/nonexistent/ssh host").unwrap();
        assert!(matches!(missing.start(&RemoteCommand::new("true")), Err(SshError::Start { .. })));
    }

    #[test]
    fn what_does_not_end_is_killed_after_a_while() {
        let patience = Duration::from_millis(50);
        assert_eq!(run("exec sleep 100").finish_within(patience).unwrap().0, End::Signal(9));
        assert_eq!(run("exit 3").finish_within(Duration::from_secs(60)).unwrap().0, End::Exit(3));
    }

    #[test]
    fn much_on_standard_error_neither_blocks_nor_grows() {
        let (end, stderr) =
            run("i=0; while [ $i -lt 20000 ]; do echo line $i >&2; i=$((i+1)); done").finish().unwrap();
        assert_eq!(end, End::Exit(0));
        assert_eq!(stderr.len(), STDERR_BYTES_MAX);
        assert!(stderr.ends_with("line 19999\n"), "{stderr}");
    }

    #[test]
    fn output_is_bounded() {
        assert_eq!(run("printf 12345").output(5).unwrap().stdout, b"12345");
        assert!(matches!(run("yes").output(1000), Err(SshError::TooMuch { limit: 1000, .. })));
    }

    #[test]
    fn what_holds_the_pipe_after_the_end_is_not_waited_for() {
        let begin = Instant::now();
        let (end, stderr) = run("echo first >&2; sleep 20 & exit 0").finish().unwrap();
        assert_eq!((end, stderr.as_str()), (End::Exit(0), "first\n"));
        assert!(begin.elapsed() < Duration::from_secs(15));
    }
}
