//! What `wal-archive` and `wal-restore` share: the way to the backup host, and what to make of the far end's answer.

use std::fmt;
use std::io::{self, Read};
use std::time::Duration;

use barkeep_transport::ssh::{ControlDirectory, End, RemoteCommand, Session, Ssh};

use crate::args::{GlobalArgs, RemoteArgs};
use crate::error::{CommandError, exit};
use crate::output::Output;

/// How much of the far end's words goes into a message, in bytes.
const WORDS_BYTES_MAX: usize = 2000;
/// How much of the far end's standard output is looked at, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// The way to `host`, connections kept open as asked.
pub(crate) fn ssh_to(host: &str, args: &RemoteArgs, output: &Output) -> Result<Ssh, CommandError> {
    let ssh = Ssh::to_host(Some(&args.user), host, args.port)
        .map_err(|error| CommandError::new(error.to_string()).code(exit::CLIENT))?;
    if args.keep_connection == 0 {
        return Ok(ssh);
    }
    match ControlDirectory::find(|name| std::env::var_os(name)) {
        Ok(directory) => Ok(ssh.reuse(&directory, Duration::from_secs(args.keep_connection.into()))),
        Err(error) => {
            output.debug(format!("Connections are not reused: {error}"));
            Ok(ssh)
        }
    }
}

/// The beginning of a command line for the far end: the program, and its configuration where that was named here.
pub(crate) fn program(args: &RemoteArgs, global: &GlobalArgs) -> Result<RemoteCommand, CommandError> {
    let command = RemoteCommand::new(&args.remote_program);
    match global.typed_config() {
        None => Ok(command),
        Some(path) => match path.to_str() {
            Some(path) => Ok(command.arg(&format!("--config={path}"))),
            None => {
                Err(CommandError::new(format!("{} is not valid UTF-8", path.display())).code(exit::CLIENT))
            }
        },
    }
}

/// Runs `work`, which ends with closing the session's standard input, while what the session writes to standard output is
/// read, so that it can't block. The beginning of that comes back, too.
pub(crate) fn beside_stdout<T>(session: &mut Session, work: impl FnOnce() -> T) -> (T, String) {
    let stdout = session.take_stdout();
    std::thread::scope(|scope| {
        let reader = stdout.map(|mut stdout| {
            scope.spawn(move || {
                let mut said = Vec::new();
                let _ = (&mut stdout).take(ANSWER_BYTES_MAX).read_to_end(&mut said);
                let _ = io::copy(&mut stdout, &mut io::sink());
                said
            })
        });
        let done = work();
        let said = reader.and_then(|reader| reader.join().ok()).unwrap_or_default();
        (done, String::from_utf8_lossy(&said).into_owned())
    })
}

/// Asks the far end whether a command would work, and tells its answer.
pub(crate) fn test(ssh: &Ssh, command: &RemoteCommand, output: &Output) -> Result<(), CommandError> {
    let failed = |error: &dyn fmt::Display| CommandError::new(error.to_string()).code(exit::CLIENT);
    let session = ssh.start(command).map_err(|error| failed(&error))?;
    let answer = session.output(ANSWER_BYTES_MAX).map_err(|error| failed(&error))?;
    for line in String::from_utf8_lossy(&answer.stdout).lines() {
        output.info(line);
    }
    let remarks = succeeded((answer.end, answer.stderr))?;
    tell_remarks(&remarks, output);
    Ok(())
}

/// Passes on what the far end said although all went well.
pub(crate) fn tell_remarks(remarks: &str, output: &Output) {
    for line in remarks.lines().filter(|line| !line.trim().is_empty()) {
        output.warning(line.trim().trim_start_matches("WARNING: "));
    }
}

/// The far end, or the way there, failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RemoteFailure {
    /// How it ended.
    pub(crate) end: End,
    /// What it said.
    pub(crate) words: String,
}

impl RemoteFailure {
    /// The exit code by which the caller is told.
    pub(crate) fn exit_code(&self) -> u8 {
        match self.end {
            End::Exit(code) if code > 0 => code,
            End::Connection => exit::CONNECTION,
            _ => exit::CLIENT,
        }
    }
}

impl fmt::Display for RemoteFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.end {
            End::Exit(code) => write!(f, "the backup host answers with exit code {code}")?,
            End::Connection => f.write_str("cannot reach the backup host by SSH")?,
            End::Signal(signal) => write!(f, "ssh was killed by signal {signal}")?,
        }
        if self.words.is_empty() { Ok(()) } else { write!(f, ": {}", self.words) }
    }
}

impl std::error::Error for RemoteFailure {}

impl From<RemoteFailure> for CommandError {
    fn from(failure: RemoteFailure) -> Self {
        let error = CommandError::new(failure.to_string()).code(failure.exit_code());
        match failure.end {
            End::Connection => error.hint("this has to work without a password: ssh USER@BARMAN_HOST true"),
            End::Exit(127) => error.hint("name the program there with --remote-program"),
            _ => error,
        }
    }
}

/// What the far end said, when it ended with 0.
pub(crate) fn succeeded((end, stderr): (End, String)) -> Result<String, RemoteFailure> {
    if end == End::Exit(0) {
        return Ok(stderr);
    }
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut words = lines.join("; ");
    if words.len() > WORDS_BYTES_MAX {
        let at = (words.len() - WORDS_BYTES_MAX..).find(|at| words.is_char_boundary(*at)).unwrap_or(0);
        words = format!("... {}", &words[at..]);
    }
    Err(RemoteFailure { end, words })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(end: End, stderr: &str) -> RemoteFailure {
        succeeded((end, stderr.to_owned())).unwrap_err()
    }

    #[test]
    fn exit_codes_tell_who_failed() {
        assert_eq!(succeeded((End::Exit(0), "hm".to_owned())).unwrap(), "hm");
        for (end, code) in [(End::Exit(1), 1), (End::Exit(4), 4), (End::Connection, 3), (End::Signal(9), 2)] {
            assert_eq!(failure(end, "").exit_code(), code, "{end:?}");
        }
    }

    #[test]
    fn the_far_ends_words_become_one_bounded_line() {
        let error = failure(End::Exit(1), "ERROR: a\n\n  b \n");
        assert_eq!(error.to_string(), "the backup host answers with exit code 1: ERROR: a; b");
        assert!(failure(End::Exit(1), &"\u{e4}".repeat(5000)).to_string().len() < WORDS_BYTES_MAX + 60);
    }
}
