//! Where WAL comes from: a home on this machine, or a backup host.

use std::fmt;
use std::io::{self, Read, Write};
use std::thread;
use std::time::Duration;

use barkeep_catalog::Layout;
use barkeep_catalog::wal::{self, WAL_BYTES_MAX};
use barkeep_transport::codec::{Bounded, Compression, MAGIC_BYTES};
use barkeep_transport::ssh::{End, RemoteCommand, Ssh};
use pgwal::WalFile;

use crate::command::remote::{self, RemoteFailure};
use crate::error::{CommandError, chain, exit};

/// Size of the pieces in which files are copied, in bytes.
const PIECE_BYTES: usize = 256 << 10;
/// Pauses before a backup host that could not be reached is tried again. PostgreSQL takes a failure for the end of the
/// archive, and ends recovery: a short trouble must not look like that.
const RETRY_PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

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
    let path = open.path.display().to_string();
    let mut plain = open.plain().map_err(|error| failed(chain(&error)))?;
    copy(&mut plain, sink).map_err(|error| match error {
        CopyError::Source(error) => failed(format!("'{path}' is damaged: {error}")),
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
                    failed(&format_args!("WAL file '{file}' arrives damaged: {error}"))
                }
            }),
            Err(failure) => Err(match failure.end {
                End::Exit(exit::FAILED) => FetchError::Missing(failure.to_string()),
                End::Connection => FetchError::Unreachable(failure),
                _ => FetchError::Failed(failure.into()),
            }),
        }
    }
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
