//! `wal-restore`: the `restore_command` of a recovering PostgreSQL server, for a backup home on another host or on this one.
//!
//! The first call of a recovery starts a prefetcher in the background, which keeps the next segments ready; the calls
//! that follow only rename, and that before they read anything else.
//!
//! PostgreSQL takes an ordinary failure for the end of the archive, and so it takes a segment that it can read in part
//! only: a backup host that can't be reached is tried again, a damaged segment is looked for elsewhere, and what can't
//! be mended stops recovery instead of ending it.

mod check;
mod direct;
mod extent;
mod landing;
mod memory;
mod plan;
mod prefetch;
mod recovery;
mod seam;
mod served;
mod source;
mod spool;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use pgwal::WalFile;
use pgwal::seam::LooseEnd;

use self::check::{Check, Verdict};
use self::prefetch::Limits;
use self::recovery::Recovery;
use self::source::{FetchError, Remote, Source};
use self::spool::{Answer, CommandLine, Spool};
use crate::args::{Destination, GlobalArgs, WalRestoreArgs};
use crate::command::remote;
use crate::context::{Context, Policy};
use crate::error::{CommandError, exit};
use crate::output::Output;

/// How many files are fetched at once unless told otherwise.
const JOBS: u32 = 2;
/// How many may be.
const JOBS_MAX: u32 = 32;

/// Puts a file in its place that lies ready, before anything else is read, the command line included: most of what a call takes
/// else. Whether that is done. A command line that differs from a living prefetcher's in the file and the destination only was
/// understood when that was started.
pub(crate) fn take_at_once(words: &[OsString]) -> bool {
    let Some(line) = CommandLine::read(words).filter(|_| !asks_for_json(words)) else { return false };
    let Some(file) = line.file.to_str().and_then(|name| name.parse().ok()) else { return false };
    let spool = Spool::beside(&line).filter(|_| !Spool::is_to_be_served());
    let postmaster = || Recovery::here().map_or(0, |recovery| recovery.postmaster());
    spool.is_some_and(|spool| spool.take_at_once(file, postmaster, line.destination.as_ref()))
}

/// Whether something may be to be printed even where all is well.
fn asks_for_json(words: &[OsString]) -> bool {
    words.iter().any(|word| word.as_encoded_bytes().ends_with(b"json"))
}

/// Fetches a file from another host.
///
/// # Errors
/// Exit code 1 when there is no such file, 3 when the name is none or the destination can't be written, else 2.
pub fn run_remote(output: &Output, global: &GlobalArgs, args: &WalRestoreArgs) -> Result<(), CommandError> {
    match remote_request(output, global, args).map_err(stop_recovery)? {
        Some((request, source)) => request.run(&source, output),
        None => Ok(()),
    }
}

/// What is to be fetched from where; nothing, where that was only a test.
fn remote_request(
    output: &Output,
    global: &GlobalArgs,
    args: &WalRestoreArgs,
) -> Result<Option<(Request, Source)>, CommandError> {
    let (destination, name, path) = operands(args)?;
    let Destination { host: Some(host), server } = destination else {
        return Err(CommandError::new("a backup host is missing").code(exit::USAGE));
    };
    let ssh = remote::ssh_to(&host, &args.remote, output)?;
    let mut command = remote::program(&args.remote, global)?.arg("get-wal");
    // Files come as they are stored then.
    let as_stored = !args.gzip && !args.bzip2;
    let serving = as_stored.then(|| command.clone().arg("--serve").arg(&server));
    if args.remote.test {
        return remote::test(&ssh, &command.arg("--test").arg(&server).arg(&name), output).map(|()| None);
    }
    for (chosen, option) in
        [(args.gzip, "--gzip"), (args.bzip2, "--bzip2"), (args.keep_compression, "--keep-compression")]
    {
        if chosen {
            command = command.arg(option);
        }
    }
    let identity = format!("{ssh}\0{command}\0{server}");
    let source = Source::Remote(Box::new(Remote { ssh, command, server, serving }));
    Ok(Some((Request::new(args, &name, path, &identity)?, source)))
}

/// Fetches a file from this machine's home.
///
/// # Errors
/// As for another host.
pub fn run_local(context: &mut Context, args: &WalRestoreArgs) -> Result<(), CommandError> {
    let (destination, name, path) = operands(args).map_err(stop_recovery)?;
    let server = context.server(&destination.server, Policy::Stored).map_err(stop_recovery)?;
    if args.remote.test {
        server.output.info(format!("Ready to retrieve WAL files from the server {}", server.name()));
        return Ok(());
    }
    let layout = server.layout();
    let identity = format!("{}\0{}", layout.backup_directory.display(), layout.server);
    let source = Source::Local(Box::new(layout));
    Request::new(args, &name, path, &identity).map_err(stop_recovery)?.run(&source, &server.output)
}

/// What goes wrong before the archive is asked, a configuration that can't be read above all, is not the archive's end.
pub(crate) fn stop_recovery(error: CommandError) -> CommandError {
    if ends_recovery() { error.code(exit::STOP_RECOVERY) } else { error }
}

/// Whether PostgreSQL would take an ordinary failure of this process for the end of the archive, and open there.
pub(crate) fn ends_recovery() -> bool {
    Recovery::here().is_some_and(|recovery| !recovery.is_standby())
}

fn operands(args: &WalRestoreArgs) -> Result<(Destination, String, PathBuf), CommandError> {
    args.operands().map_err(|error| CommandError::new(error).code(exit::USAGE))
}

/// What PostgreSQL asks for.
#[derive(Debug)]
struct Request {
    file: WalFile,
    destination: PathBuf,
    partial: bool,
    sleep: Duration,
    recovery: Option<Recovery>,
    /// Where files are kept ready, if they are to be.
    spool: Option<Spool>,
    limits: Limits,
}

impl Request {
    fn new(
        args: &WalRestoreArgs,
        name: &str,
        destination: PathBuf,
        identity: &str,
    ) -> Result<Self, CommandError> {
        let input = |text: String| CommandError::new(text).code(exit::GET_WAL_INPUT);
        let file: WalFile =
            name.parse().map_err(|_| input(format!("'{name}' is not a valid wal file name")))?;
        if destination.is_dir() {
            return Err(input(format!("'{}' is a directory", destination.display()))
                .hint("WAL_DEST is what PostgreSQL puts for %p"));
        }
        let recovery = Recovery::here();
        let limits = Limits {
            jobs: args.parallel.unwrap_or(JOBS).min(JOBS_MAX),
            bytes: u64::from(args.prefetch) << 20,
        };
        // Beside a recovery; elsewhere only when somebody asks for it.
        let is_wanted =
            limits.jobs > 1 && limits.bytes > 0 && (recovery.is_some() || args.parallel.is_some());
        let words: Vec<OsString> = std::env::args_os().collect();
        let line = CommandLine::new(&words, name.as_ref(), destination.as_os_str());
        let spool = is_wanted.then(|| Spool::new(args.spool_dir.as_deref(), &line, identity)).flatten();
        let sleep = Duration::from_secs(args.sleep.into());
        Ok(Request { file, destination, partial: args.partial, sleep, recovery, spool, limits })
    }

    fn run(&self, source: &Source, output: &Output) -> Result<(), CommandError> {
        if let Some(spool) = self.spool.as_ref().and_then(Spool::to_be_served) {
            return prefetch::serve(spool, source.clone(), self.file, self.recovery.clone(), self.limits)
                .map_err(|error| CommandError::because("cannot prefetch", &error));
        }
        let outcome = self.fetch(source, output);
        if outcome.is_err() {
            thread::sleep(self.sleep);
        }
        outcome.map_err(|error| self.for_postgresql(error))
    }

    /// PostgreSQL takes an ordinary failure for the end of the archive: a server that is not a standby ends recovery there and
    /// begins a new timeline, whatever WAL there is beyond. Only that a file is missing may mean this.
    fn for_postgresql(&self, error: CommandError) -> CommandError {
        let ends_by_itself = self.recovery.as_ref().is_some_and(|recovery| !recovery.is_standby());
        if ends_by_itself && error.exit_code() != exit::FAILED {
            return error.code(exit::STOP_RECOVERY);
        }
        error
    }

    fn fetch(&self, source: &Source, output: &Output) -> Result<(), CommandError> {
        let postmaster = self.recovery.as_ref().map_or(0, Recovery::postmaster);
        if self
            .spool
            .as_ref()
            .is_some_and(|spool| spool.take_at_once(self.file, || postmaster, &self.destination))
        {
            return Ok(());
        }
        let asked = self.spool.as_ref().map(|spool| (spool, spool.ask(self.file, postmaster)));
        match &asked {
            Some((spool, Some(Answer::Ready))) if spool.take(self.file, &self.destination).is_ok() => {
                return Ok(());
            }
            // It does not look for partial files.
            Some((_, Some(Answer::Missing))) if !self.partial => {
                return Err(FetchError::Missing(format!("WAL file '{}' not found", self.file)).into());
            }
            _ => {}
        }
        let outcome = self.fetch_directly(source, output);
        // Also after a failure: recovery asks for histories that don't exist before it asks for what does.
        if let Some((spool, None)) = asked {
            let segment_bytes = match (self.file, &outcome) {
                (WalFile::Segment(_), Ok(bytes)) => *bytes,
                _ => 0,
            };
            if let Err(error) = spool.start_prefetcher(segment_bytes) {
                output.debug(format!("Nothing is prefetched: {error}"));
            }
        }
        outcome.map(|_| ())
    }
}

/// A sink that checks a segment on its way.
#[derive(Debug)]
struct Checked<W> {
    sink: W,
    check: Option<Check>,
    bytes: u64,
}

/// What a sink has found.
#[derive(Debug)]
struct Looked<W> {
    sink: W,
    verdict: Verdict,
    /// How a sound segment ends, if a record goes on in the next one.
    end: Option<LooseEnd>,
    /// How many records it has.
    records: u32,
}

impl<W: Write> Checked<W> {
    fn new(sink: W, file: WalFile, system_id: Option<u64>) -> Self {
        let check = match file {
            WalFile::Segment(segment) => Some(Check::new(segment, system_id)),
            _ => None,
        };
        Checked { sink, check, bytes: 0 }
    }

    fn finish(self) -> Looked<W> {
        let end = self.check.as_ref().and_then(Check::loose_end);
        let records = self.check.as_ref().map_or(0, Check::records);
        let verdict = self.check.map_or(Verdict::Sound, Check::finish);
        Looked { sink: self.sink, verdict, end, records }
    }
}

impl<W: Write> Write for Checked<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sink.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        if let Some(check) = &mut self.check {
            check.pass(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}
