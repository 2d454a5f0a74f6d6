//! `wal`: looking into WAL files, directories of them, a server's archive, or standard input.
//!
//! Results go to standard output as they are found: text, or JSON lines. What the WAL is read from needs no
//! configuration, unless it is a server's archive.

mod commits;
mod dump;
mod filter;
mod find;
mod index;
mod input;
mod loss;
mod stats;
mod stream;
mod verify;

use std::io::{self, BufWriter, StdoutLock, Write};

use barkeep_catalog::Layout;

use crate::args::{WalArgs, WalCommand, WalSource};
use crate::context::{Context, Policy, ServerContext};
use crate::error::CommandError;
use crate::output::{Format, Output};
use input::Input;
use serde_json::json;
use stream::Ended;

/// Looks into WAL. Without a context, it can't be that of a server.
///
/// # Errors
/// When the WAL can't be read, or is not sound.
pub fn run(output: &Output, context: Option<&Context>, args: &WalArgs) -> Result<(), CommandError> {
    let source = args.command.source();
    let server =
        match (args.server(), context) {
            (Some(name), Some(context)) => {
                let server = context.server(name, Policy::Query);
                Some(server.map_err(|error| {
                    if source.server.is_some() { error } else { no_such_path(name, &error) }
                })?)
            }
            _ => None,
        };
    let mut lines = Lines::new(output);
    if let WalCommand::Find(args) = &args.command {
        return match find::run(server.as_ref(), args, &mut lines).and_then(|ended| lines.finish(ended)) {
            Err(Stop::Closed) | Ok(()) => Ok(()),
            Err(Stop::Failed(error)) => Err(error),
        };
    }
    // One that has nothing yet has no directory either.
    let archive: Vec<_> =
        server.iter().map(|server| server.layout().wals).filter(|wals| wals.exists()).collect();
    let mut source = source.clone();
    if let (Some(name), None) = (args.server(), &source.server) {
        source = WalSource { paths: Vec::new(), server: Some(name.to_owned()), ..source };
    }
    let input = Input::open(&source, &archive, args.command.may_end())?;
    let done = match &args.command {
        WalCommand::Verify(args) => {
            let around = || source.paths.first().and_then(|path| Layout::around(path));
            let layout = server.as_ref().map(ServerContext::layout).or_else(around);
            verify::run(&input, args, layout.as_ref(), &mut lines).map(|()| None)
        }
        WalCommand::Stats(args) => stats::run(&input, args, &mut lines),
        WalCommand::Dump(args) => dump::run(&input, args, &mut lines),
        WalCommand::Index(args) => index::run(&input, args, &mut lines),
        WalCommand::Commits(_) => commits::run(&input, &source, &mut lines),
        WalCommand::Find(_) => Ok(None),
    };
    match done.and_then(|ended| lines.finish(ended)) {
        Err(Stop::Closed) | Ok(()) => Ok(()),
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// A word that means neither a path nor a server.
fn no_such_path(word: &str, error: &CommandError) -> CommandError {
    CommandError::new(format!("There is no file or directory '{word}', nor does it name a server: {error}"))
}

/// Why a command stops early.
#[derive(Debug)]
enum Stop {
    /// Nobody reads the output any more, or all that was asked for is printed.
    Closed,
    /// Something failed.
    Failed(CommandError),
}

impl From<CommandError> for Stop {
    fn from(error: CommandError) -> Self {
        Stop::Failed(error)
    }
}

/// Standard output, as text or JSON lines.
struct Lines {
    sink: BufWriter<StdoutLock<'static>>,
    json: bool,
    output: Output,
}

impl Lines {
    fn new(output: &Output) -> Self {
        let json = output.style().format == Format::Json;
        Lines { sink: BufWriter::with_capacity(64 << 10, io::stdout().lock()), json, output: output.clone() }
    }

    /// Prints a line of text, or an object.
    fn line(
        &mut self,
        text: impl FnOnce() -> String,
        json: impl FnOnce() -> serde_json::Value,
    ) -> Result<(), Stop> {
        let line = if self.json { json().to_string() } else { text() };
        writeln!(self.sink, "{line}").map_err(|error| unwritable(&error))
    }

    /// Tells where the WAL ended, if it did, and writes out all lines.
    fn finish(mut self, ended: Option<Ended>) -> Result<(), Stop> {
        if let Some(Ended { segment, lsn, why }) = ended {
            if self.json {
                let end = json!({"ends": lsn.to_string(), "segment": segment.to_string(), "why": why});
                self.line(String::new, || end)?;
            } else {
                self.output.warning(format!("The WAL ends at {lsn} in segment {segment}: {why}"));
            }
        }
        self.sink.flush().map_err(|error| unwritable(&error))
    }
}

fn unwritable(error: &io::Error) -> Stop {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Stop::Closed
    } else {
        Stop::Failed(CommandError::because("Standard output can't be written", error))
    }
}
