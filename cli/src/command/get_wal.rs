//! `get-wal`: hands out a WAL file, for a server's `restore_command`.
//!
//! PostgreSQL waits for each answer, so this starts nothing it does not need, and streams: no temporary file, no
//! runtime. Exit codes are part of the contract: 1 is "there is no such file", which ends recovery in peace; an answer
//! that breaks off must never exit with 0.

pub(crate) mod serve;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use barkeep_catalog::Layout;
use barkeep_catalog::wal::{self, OpenWal};
use barkeep_transport::codec::{Compression, Level};
use barkeep_transport::durable::TempFile;
use pgwal::page::{LONG_HEADER_BYTES, PageHeader};
use pgwal::{WalFile, WalVersion};

use crate::args::GetWalArgs;
use crate::context::{Context, Policy};
use crate::error::{CommandError, chain, exit};

/// Size of the pieces in which a file is handed out, in bytes.
const PIECE_BYTES: usize = 256 << 10;
/// The mode of a file that is handed out, less the umask: a server of another user may be to read it.
const FOR_THE_SERVER: u32 = 0o666;

/// Hands out a file, or the names of some.
///
/// # Errors
/// Exit code 1 when there is no such file or it can't be read, 3 when the name is none or the output can't be written.
pub fn run(context: &mut Context, args: &GetWalArgs) -> Result<(), CommandError> {
    let server = context.server(&args.server, Policy::Stored)?;
    let name = server.name();
    if args.test {
        server.output.info(format!("Ready to retrieve WAL files from the server {name}"));
        return Ok(());
    }
    if args.serve {
        tracing::info!("Handing out WAL files of server '{name}'{}", asked_by(context));
        let tell = |file| server.output.debug(format!("Sent WAL '{file}' of server '{name}'"));
        let lost = |error| unwritable("standard output", &error);
        let answers = io::BufWriter::new(standard_output().map_err(lost)?);
        return serve::serve(&server.layout(), io::stdin().lock(), answers, tell).map_err(lost);
    }
    let wal = args.wal.as_deref().unwrap_or_default();
    let file: WalFile = wal.parse().map_err(|_| {
        CommandError::new(format!("'{wal}' is not a valid wal file name{}", asked_by(context)))
            .code(exit::GET_WAL_INPUT)
    })?;
    if let Some(count) = args.peek {
        let found = wal::following(&server.layout(), file, usize::try_from(count).unwrap_or(usize::MAX));
        for file in found.map_err(|error| CommandError::new(chain(&error)))? {
            server.output.info(file.to_string());
        }
        return Ok(());
    }
    let found = wal::find(&server.layout(), file, args.partial);
    let open = found
        .map_err(|error| CommandError::new(chain(&error)))?
        .ok_or_else(|| not_found(&server.layout(), file, args.partial, &asked_by(context)))?;
    server.output.debug(format!("Sending WAL '{file}' of server '{name}' from '{}'", open.path.display()));

    let form = Form::of(args);
    match &args.output_directory {
        None => {
            let sink = standard_output().map_err(|error| unwritable("standard output", &error))?;
            hand_out(open, file, form, sink, "standard output").map(drop)
        }
        Some(directory) => {
            let path = directory.join(file.to_string());
            let shown = path.display().to_string();
            server.output.info(format!("Sending WAL '{file}' for server '{name}' into '{shown}' file"));
            let sink = TempFile::create_mode(&path, FOR_THE_SERVER)
                .map_err(|error| unwritable(&shown, &error.source))?;
            let written = hand_out(open, file, form, sink, &shown)?;
            written.publish().map_err(|error| unwritable(&shown, &error.source))
        }
    }
}

/// Standard output without a buffer of its own.
fn standard_output() -> io::Result<File> {
    io::stdout().as_fd().try_clone_to_owned().map(File::from)
}

/// In what form the file is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// As PostgreSQL wrote it.
    Plain,
    /// As it is stored.
    Stored,
    /// Compressed in this way.
    Packed(Compression),
}

impl Form {
    fn of(args: &GetWalArgs) -> Self {
        match (args.keep_compression, args.gzip, args.bzip2) {
            (true, ..) => Form::Stored,
            (_, true, _) => Form::Packed(Compression::Gzip),
            (.., true) => Form::Packed(Compression::Bzip2),
            _ => Form::Plain,
        }
    }
}

/// Copies a file to `sink`, which is given back complete.
fn hand_out<W: Write>(
    open: OpenWal,
    file: WalFile,
    form: Form,
    sink: W,
    sink_name: &str,
) -> Result<W, CommandError> {
    let source_path = open.path.clone();
    let pass_on = match form {
        Form::Stored => true,
        Form::Packed(compression) => open.compression == compression,
        Form::Plain => open.compression == Compression::None,
    };
    // What is passed on as it is stored can be checked only when that is also how PostgreSQL wrote it.
    let is_plain = !pass_on || open.compression == Compression::None;
    let mut source: Box<dyn Read> = if pass_on {
        Box::new(open.stored())
    } else {
        Box::new(open.plain().map_err(|error| CommandError::new(chain(&error)))?)
    };
    let packing = match form {
        Form::Packed(compression) if !pass_on => compression,
        _ => Compression::None,
    };
    let refused = |error: io::Error| unwritable(sink_name, &error);
    let mut sink = packing.writer(sink, Level::Medium).map_err(refused)?;
    let mut length = LengthCheck::default();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match source.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => {
                length.pass(&piece[..count]);
                sink.write_all(&piece[..count]).map_err(refused)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(damaged(&source_path, &error.to_string())),
        }
    }
    if let (true, WalFile::Segment(_), Some(fault)) = (is_plain, file, length.fault()) {
        return Err(damaged(&source_path, &fault));
    }
    sink.finish().map_err(refused)
}

/// Compares a segment's length with what its first page says: some compressed formats can't tell that they are cut off.
#[derive(Debug, Default)]
struct LengthCheck {
    header: Vec<u8>,
    bytes: u64,
}

impl LengthCheck {
    fn pass(&mut self, piece: &[u8]) {
        let missing = LONG_HEADER_BYTES.saturating_sub(self.header.len()).min(piece.len());
        self.header.extend_from_slice(&piece[..missing]);
        self.bytes += piece.len() as u64;
    }

    fn fault(&self) -> Option<String> {
        let header = PageHeader::read(&self.header)?;
        WalVersion::from_magic(header.magic)?;
        let expected = u64::from(header.long?.segment_bytes);
        (self.bytes != expected).then(|| format!("it has {} bytes of {expected}", self.bytes))
    }
}

fn not_found(layout: &Layout, file: WalFile, partial: bool, asked_by: &str) -> CommandError {
    let error =
        CommandError::new(format!("WAL file '{file}' not found in server '{}'{asked_by}", layout.server));
    let partial_exists = || {
        let WalFile::Segment(segment) = file else { return false };
        wal::exists(layout, WalFile::Partial(segment))
    };
    if !partial && partial_exists() {
        return error.hint("a partial one exists: --partial hands it out");
    }
    error
}

fn damaged(path: &Path, fault: &str) -> CommandError {
    CommandError::new(format!("'{}' is damaged: {fault}", path.display()))
        .hint("look for another copy of it: in errors/, on the server, on a standby")
}

fn unwritable(what: &str, error: &io::Error) -> CommandError {
    CommandError::new(format!("cannot write to {what}: {error}")).code(exit::GET_WAL_INPUT)
}

/// Who asks, when that is another host: it says where to look.
fn asked_by(context: &Context) -> String {
    let connection = context.env("SSH_CONNECTION").unwrap_or_default();
    match connection.to_string_lossy().split_whitespace().next() {
        Some(client) => format!(" (SSH host: {client})"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_checked_against_the_first_page() {
        let mut page = vec![0x10, 0xd1, 2, 0, 1, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        page.extend_from_slice(&7_u64.to_le_bytes());
        page.extend_from_slice(&(1_u32 << 20).to_le_bytes());
        page.extend_from_slice(&8192_u32.to_le_bytes());
        let fault = |length: usize| {
            let mut segment = page.clone();
            segment.resize(length, 0);
            let mut check = LengthCheck::default();
            segment.chunks(7).for_each(|piece| check.pass(piece));
            check.fault()
        };
        assert_eq!(fault(1 << 20), None);
        assert_eq!(fault(1 << 19).unwrap(), "it has 524288 bytes of 1048576");
        assert_eq!(LengthCheck::default().fault(), None);
    }
}
