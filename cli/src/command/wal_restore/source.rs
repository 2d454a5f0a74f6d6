//! Where WAL comes from: a home on this machine, or a backup host.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use barkeep_catalog::Layout;
use barkeep_catalog::wal::{self, OpenWal, WAL_BYTES_MAX};
use barkeep_transport::codec::{Bounded, Compression, MAGIC_BYTES};
use barkeep_transport::ssh::{End, RemoteCommand, Ssh};
use pgwal::{SegmentName, WalFile};

use super::memory;
use crate::command::remote::{self, RemoteFailure};
use crate::error::{CommandError, chain, exit};

/// Size of the pieces in which files are copied, in bytes.
const PIECE_BYTES: usize = 256 << 10;
/// Pauses before a backup host that could not be reached is tried again. PostgreSQL takes a failure for the end of the
/// archive, and ends recovery: a short trouble must not look like that.
const RETRY_PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

/// How much is read of the names of two segments, in bytes: login scripts may print first.
const NAMES_BYTES_MAX: u64 = 64 << 10;

/// Where WAL comes from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// A home on this machine.
    Local(Box<Layout>),
    /// `get-wal` on a backup host.
    Remote(Box<Remote>),
}

/// `get-wal` on a backup host.
#[derive(Debug, Clone)]
pub(super) struct Remote {
    pub(super) ssh: Ssh,
    /// `get-wal` and its options.
    pub(super) command: RemoteCommand,
    pub(super) server: String,
    /// What hands out file after file there, if that is wanted.
    pub(super) serving: Option<RemoteCommand>,
}

/// Why there is no file.
#[derive(Debug)]
pub(super) enum FetchError {
    /// There is none.
    Missing(String),
    /// It is there, and useless: why.
    Damaged(String),
    /// It can't be had.
    Failed(CommandError),
    /// The backup host can't be reached.
    Unreachable(RemoteFailure),
    /// It can't be written here.
    Sink(io::Error),
}

impl From<FetchError> for CommandError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Missing(text) => CommandError::new(text).code(exit::FAILED),
            FetchError::Damaged(text) => CommandError::new(text).code(exit::CLIENT),
            FetchError::Failed(error) => error,
            FetchError::Unreachable(failure) => CommandError::from(failure).code(exit::CLIENT),
            FetchError::Sink(error) => {
                CommandError::new(format!("cannot write the WAL file: {error}")).code(exit::GET_WAL_INPUT)
            }
        }
    }
}

impl Source {
    /// Writes a file as PostgreSQL wrote it to what `sink` makes, and gives that back. A backup host that can't be
    /// reached is tried again.
    pub(super) fn fetch<W: Write>(
        &self,
        file: WalFile,
        partial: bool,
        sink: impl FnMut() -> io::Result<W>,
    ) -> Result<W, FetchError> {
        patiently(sink, |sink| self.try_fetch(file, partial, sink))
    }

    /// Whether there is a segment `next`, directly after `segment`.
    pub(super) fn has(&self, segment: SegmentName, next: SegmentName) -> Result<bool, FetchError> {
        match self {
            Source::Local(layout) => Ok(wal::exists(layout, WalFile::Segment(next))),
            Source::Remote(remote) => remote.has(segment, next),
        }
    }

    /// Where on this machine the file may be, other than in the archive.
    pub(super) fn other_paths(&self, file: WalFile) -> Vec<PathBuf> {
        let Source::Local(layout) = self else { return Vec::new() };
        let archived = layout.wal(&file);
        wal::possible_paths(layout, file, false).into_iter().filter(|path| *path != archived).collect()
    }

    /// Writes a file of this machine, as PostgreSQL wrote it.
    pub(super) fn fetch_path(path: &Path, sink: &mut dyn Write) -> Result<(), FetchError> {
        let failed = |error| FetchError::Failed(CommandError::from(error).code(exit::CLIENT));
        let missing = || FetchError::Missing(format!("'{}' does not exist", path.display()));
        unpack_open(OpenWal::open(path).map_err(failed)?.ok_or_else(missing)?, sink)
    }

    fn try_fetch(&self, file: WalFile, partial: bool, sink: &mut dyn Write) -> Result<(), FetchError> {
        match self {
            Source::Local(layout) => fetch_local(layout, file, partial, sink),
            Source::Remote(remote) => remote.fetch(file, partial, sink),
        }
    }
}

/// Makes attempts, each with a new sink, until the backup host was reached, or could not be too often.
pub(super) fn patiently<W: Write>(
    mut sink: impl FnMut() -> io::Result<W>,
    mut attempt: impl FnMut(&mut dyn Write) -> Result<(), FetchError>,
) -> Result<W, FetchError> {
    let mut pauses = RETRY_PAUSES.into_iter();
    loop {
        let mut target = sink().map_err(FetchError::Sink)?;
        match attempt(&mut target) {
            Ok(()) => return Ok(target),
            Err(FetchError::Unreachable(failure)) => match pauses.next() {
                Some(pause) => thread::sleep(pause),
                None => return Err(FetchError::Unreachable(failure)),
            },
            Err(error) => return Err(error),
        }
    }
}

fn fetch_local(
    layout: &Layout,
    file: WalFile,
    partial: bool,
    sink: &mut dyn Write,
) -> Result<(), FetchError> {
    let failed = |text: String| FetchError::Failed(CommandError::new(text).code(exit::CLIENT));
    let found = wal::find(layout, file, partial).map_err(|error| failed(chain(&error)))?;
    let open = found.ok_or_else(|| {
        FetchError::Missing(format!("WAL file '{file}' not found in server '{}'", layout.server))
    })?;
    unpack_open(open, sink)
}

fn unpack_open(open: OpenWal, sink: &mut dyn Write) -> Result<(), FetchError> {
    let path = open.path.display().to_string();
    // Nobody else wants it in memory, then.
    let cold = open.file().try_clone().ok().filter(memory::is_cold);
    let mut plain =
        open.plain().map_err(|error| FetchError::Failed(CommandError::from(error).code(exit::CLIENT)))?;
    let copied = copy(&mut plain, sink);
    if let Some(file) = cold {
        memory::let_go_of(&file);
    }
    copied.map_err(|error| match error {
        CopyError::Source(error) if error.raw_os_error().is_none() => {
            FetchError::Damaged(format!("'{path}' is damaged: {error}"))
        }
        CopyError::Source(error) => {
            FetchError::Failed(CommandError::new(format!("cannot read '{path}': {error}")).code(exit::CLIENT))
        }
        CopyError::Sink(error) => FetchError::Sink(error),
    })
}

impl Remote {
    pub(super) fn fetch(&self, file: WalFile, partial: bool, sink: &mut dyn Write) -> Result<(), FetchError> {
        let failed = |text: &dyn fmt::Display| {
            FetchError::Failed(CommandError::new(text.to_string()).code(exit::CLIENT))
        };
        let mut command = self.command.clone();
        if partial {
            command = command.arg("--partial");
        }
        let command = command.arg(&self.server).arg(&file.to_string());
        let mut session = self.ssh.start(&command).map_err(|error| failed(&error))?;
        drop(session.take_stdin());
        let copied = match session.take_stdout() {
            Some(stdout) => unpack(stdout, sink),
            None => Err(CopyError::Source(io::ErrorKind::BrokenPipe.into())),
        };
        if let Err(CopyError::Sink(error)) = copied {
            return Err(FetchError::Sink(error));
        }
        // What the far end says of a failure tells more than bytes that break off.
        match remote::succeeded(session.finish().map_err(|error| failed(&error))?) {
            Ok(_) => copied.map(|_| ()).map_err(|error| match error {
                CopyError::Source(error) | CopyError::Sink(error) => {
                    FetchError::Damaged(format!("it arrives damaged: {error}"))
                }
            }),
            Err(failure) => Err(match failure.end {
                End::Exit(exit::FAILED) if is_about_a_missing_file(&failure) => {
                    FetchError::Missing(failure.to_string())
                }
                End::Exit(exit::FAILED) => FetchError::Damaged(failure.to_string()),
                End::Connection => FetchError::Unreachable(failure),
                _ => FetchError::Failed(failure.into()),
            }),
        }
    }

    /// Whether there is a segment `next`, directly after `segment`: both Barman and barkeep list what follows one.
    fn has(&self, segment: SegmentName, next: SegmentName) -> Result<bool, FetchError> {
        let failed = |error: &dyn fmt::Display| {
            FetchError::Failed(CommandError::new(error.to_string()).code(exit::CLIENT))
        };
        let command = self.command.clone().arg("--peek").arg("2").arg(&self.server).arg(&segment.to_string());
        let mut session = self.ssh.start(&command).map_err(|error| failed(&error))?;
        drop(session.take_stdin());
        let mut names = String::new();
        if let Some(stdout) = session.take_stdout() {
            stdout.take(NAMES_BYTES_MAX).read_to_string(&mut names).map_err(|error| failed(&error))?;
        }
        let ended = session.finish().map_err(|error| failed(&error))?;
        remote::succeeded(ended).map_err(|failure| FetchError::Failed(failure.into()))?;
        Ok(names.lines().any(|line| line.trim().parse() == Ok(next)))
    }
}

/// Whether a far end means that there is no such file: Barman has the same exit code for that, for a file that can't be
/// decompressed, and for a server that it does not know.
fn is_about_a_missing_file(failure: &RemoteFailure) -> bool {
    failure.words.is_empty() || failure.words.contains("not found in server")
}

pub(super) enum CopyError {
    Source(io::Error),
    Sink(io::Error),
}

/// Copies what arrives, decompressed when it is compressed.
pub(super) fn unpack(mut source: impl Read + Send, sink: &mut dyn Write) -> Result<(), CopyError> {
    let mut first = [0; MAGIC_BYTES];
    let mut count = 0;
    while count < MAGIC_BYTES {
        match source.read(&mut first[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(CopyError::Source(error)),
        }
    }
    if count == 0 {
        return Err(CopyError::Source(io::Error::new(io::ErrorKind::UnexpectedEof, "it is empty")));
    }
    let all = io::Cursor::new(&first[..count]).chain(source);
    let reader = Compression::detect(&first[..count]).reader(all).map_err(CopyError::Source)?;
    copy(&mut Bounded::new(reader, WAL_BYTES_MAX), sink)
}

fn copy(source: &mut dyn Read, sink: &mut dyn Write) -> Result<(), CopyError> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match source.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(count) => sink.write_all(&piece[..count]).map_err(CopyError::Sink)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(CopyError::Source(error)),
        }
    }
}
