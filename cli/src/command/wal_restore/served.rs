//! A process on the backup host that hands out file after file (`get-wal --serve`), where barkeep runs there.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::process::{ChildStdin, ChildStdout};

use barkeep_transport::ssh::{End, Session};
use pgwal::WalFile;

use super::source::{CopyError, FetchError, Remote, Source, patiently, unpack};
use crate::command::get_wal::serve::{GREETING, LINE_BYTES_MAX};
use crate::command::remote;
use crate::error::{CommandError, exit};

/// How much login scripts may print before the greeting comes, in bytes.
const PRINTED_BYTES_MAX: u64 = 64 << 10;

/// Fetches one file after another.
#[derive(Debug)]
pub(super) struct Courier<'s> {
    source: &'s Source,
    served: Option<Served>,
    /// The far end has shown that it does not know `--serve`.
    one_by_one: bool,
}

impl<'s> Courier<'s> {
    pub(super) fn new(source: &'s Source) -> Self {
        Courier { source, served: None, one_by_one: false }
    }

    /// Like [`Source::fetch`].
    pub(super) fn fetch<W: Write>(
        &mut self,
        file: WalFile,
        sink: impl FnMut() -> io::Result<W>,
    ) -> Result<W, FetchError> {
        if let (Source::Remote(remote), false) = (self.source, self.one_by_one) {
            return patiently(sink, |sink| self.fetch_served(remote, file, sink));
        }
        self.source.fetch(file, false, sink)
    }

    fn fetch_served(
        &mut self,
        remote: &Remote,
        file: WalFile,
        sink: &mut dyn Write,
    ) -> Result<(), FetchError> {
        let mut served = match self.served.take() {
            Some(served) => served,
            None if self.one_by_one => return remote.fetch(file, false, sink),
            None => match Served::begin(remote)? {
                Some(served) => served,
                None => {
                    self.one_by_one = true;
                    return remote.fetch(file, false, sink);
                }
            },
        };
        match served.fetch(file, sink) {
            Ok(()) => self.served = Some(served),
            Err(Trouble::Answer(error)) => {
                self.served = Some(served);
                return Err(error);
            }
            Err(Trouble::Sink(error)) => return Err(FetchError::Sink(error)),
            Err(Trouble::Lost(error)) => return Err(served.why_lost(file, &error)),
        }
        Ok(())
    }
}

/// The process.
#[derive(Debug)]
struct Served {
    session: Session,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

enum Trouble {
    /// That is the answer; another question may follow.
    Answer(FetchError),
    /// The connection is lost, or what comes makes no sense.
    Lost(io::Error),
    /// What arrives can't be written; the rest of it is still to come.
    Sink(io::Error),
}

impl Served {
    /// Starts it; `None` when the far end does not know how.
    fn begin(remote: &Remote) -> Result<Option<Self>, FetchError> {
        let Some(command) = &remote.serving else { return Ok(None) };
        let failed = |error: &dyn std::fmt::Display| {
            FetchError::Failed(CommandError::new(error.to_string()).code(exit::CLIENT))
        };
        let mut session = remote.ssh.start(command).map_err(|error| failed(&error))?;
        let (Some(questions), Some(answers)) = (session.take_stdin(), session.take_stdout()) else {
            return Err(failed(&"the pipes to ssh are missing"));
        };
        let mut served = Served { session, questions, answers: BufReader::new(answers) };
        if served.is_greeted() {
            return Ok(Some(served));
        }
        drop((served.questions, served.answers));
        match remote::succeeded(served.session.finish().map_err(|error| failed(&error))?) {
            Err(failure) if failure.end == End::Connection => Err(FetchError::Unreachable(failure)),
            _ => Ok(None),
        }
    }

    fn is_greeted(&mut self) -> bool {
        let mut printed = (&mut self.answers).take(PRINTED_BYTES_MAX);
        let mut line = Vec::new();
        loop {
            line.clear();
            match printed.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return false,
                Ok(_) if line.strip_suffix(b"\n") == Some(GREETING.as_bytes()) => return true,
                Ok(_) => {}
            }
        }
    }

    fn fetch(&mut self, file: WalFile, sink: &mut dyn Write) -> Result<(), Trouble> {
        let asked = self.questions.write_all(format!("{file}\n").as_bytes());
        asked.and_then(|()| self.questions.flush()).map_err(Trouble::Lost)?;
        let mut pieces = Pieces { answers: &mut self.answers, left: 0, end: None };
        pieces.next_piece().map_err(Trouble::Lost)?;
        let copied = match &pieces.end {
            None => unpack(&mut pieces, sink),
            Some(_) => Ok(()),
        };
        if let Err(CopyError::Sink(error)) = copied {
            return Err(Trouble::Sink(error));
        }
        // A decompressor may be content before the last byte; the rest belongs to this answer.
        io::copy(&mut pieces, &mut io::sink()).map_err(Trouble::Lost)?;
        let failed = |text: String| FetchError::Failed(CommandError::new(text).code(exit::CLIENT));
        match (pieces.end, copied) {
            (Some(Outcome::Whole), Ok(())) => Ok(()),
            (Some(Outcome::Missing(text)), _) => Err(Trouble::Answer(FetchError::Missing(text))),
            (Some(Outcome::Failed(text)), _) => Err(Trouble::Answer(failed(text))),
            (_, Err(CopyError::Source(error) | CopyError::Sink(error))) => {
                Err(Trouble::Answer(failed(format!("WAL file '{file}' arrives damaged: {error}"))))
            }
            (None, Ok(())) => Err(Trouble::Lost(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// What the far end has to say tells more than a broken pipe.
    fn why_lost(self, file: WalFile, error: &io::Error) -> FetchError {
        let Served { session, questions, answers } = self;
        drop((questions, answers));
        let failed = |text: String| FetchError::Failed(CommandError::new(text).code(exit::CLIENT));
        match session.finish().map(remote::succeeded) {
            Ok(Err(failure)) if failure.end == End::Connection => FetchError::Unreachable(failure),
            Ok(Err(failure)) => FetchError::Failed(failure.into()),
            _ => failed(format!("WAL file '{file}' does not arrive: {error}")),
        }
    }
}

/// How an answer ends.
enum Outcome {
    Whole,
    Missing(String),
    Failed(String),
}

/// The pieces of one answer.
struct Pieces<'a> {
    answers: &'a mut BufReader<ChildStdout>,
    /// Bytes of the present piece that are to come.
    left: u64,
    end: Option<Outcome>,
}

impl Pieces<'_> {
    /// Reads on to the next piece, or to the end.
    fn next_piece(&mut self) -> io::Result<()> {
        let nonsense = || io::Error::new(io::ErrorKind::InvalidData, "the backup host answers with nonsense");
        let mut line = Vec::new();
        (&mut *self.answers).take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        let Some(line) = line.strip_suffix(b"\n") else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        let line = String::from_utf8_lossy(line);
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("data", length) => self.left = length.parse().map_err(|_| nonsense())?,
            ("end", "") => self.end = Some(Outcome::Whole),
            ("missing", text) => self.end = Some(Outcome::Missing(text.to_owned())),
            ("failed", text) => self.end = Some(Outcome::Failed(text.to_owned())),
            _ => return Err(nonsense()),
        }
        Ok(())
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            if self.end.is_some() || buffer.is_empty() {
                return Ok(0);
            }
            self.next_piece()?;
        }
        let room = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        match self.answers.read(&mut buffer[..room])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.left -= count as u64;
                Ok(count)
            }
        }
    }
}
