//! Sending WAL files to a backup host: a tar of them and of their sums, into the `put-wal` that runs there.
//!
//! That it ends with 0 is the acknowledgement: each file is durable there under its own name.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use barkeep_transport::codec::{Compression, Level};
use barkeep_transport::ssh::{End, RemoteCommand, Session, Ssh, SshError};
use md5::Md5;
use sha2::{Digest, Sha256};

use super::parcel::{CopyError, Parcel};
use super::tar;
use super::transit::{Known, Transit};
use crate::command::remote::{self, RemoteFailure};
use crate::error::exit;

/// Size of the pieces in which compressed files are sent, in bytes.
const PIECE_BYTES: usize = 256 << 10;

/// How files are guarded on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sums {
    /// `SHA256SUMS`.
    Sha256,
    /// `MD5SUMS`.
    Md5,
}

/// The way to a backup host.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) ssh: Ssh,
    pub(super) command: RemoteCommand,
    pub(super) sums: Sums,
    pub(super) compression: Compression,
    pub(super) level: Level,
    /// What is known of the far end's liking for compressed streams; `None` to send plain ones.
    pub(super) transit: Option<Transit>,
}

/// Why files were not acknowledged.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShipError {
    #[error("cannot read '{}': {source}", path.display())]
    Source { path: PathBuf, source: io::Error },
    #[error("cannot compress '{}': {source}", path.display())]
    Compress { path: PathBuf, source: io::Error },
    #[error("'{}' is too large to be shipped", path.display())]
    TooLarge { path: PathBuf },
    #[error(transparent)]
    Start(#[from] SshError),
    #[error(transparent)]
    Remote(#[from] RemoteFailure),
    #[error("the backup host answers with success, but: {words}")]
    Refused { words: String },
    #[error("the backup host did not read all of it: {source}")]
    CutOff { source: io::Error },
}

/// What an acknowledged shipment was.
#[derive(Debug)]
pub(super) struct Receipt {
    /// The SHA-256 of each file as it is here, where that had to be known.
    pub(super) hashes: Vec<Option<[u8; 32]>>,
    /// What the far end said all the same.
    pub(super) remarks: String,
}

/// In what form the stream goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Plain,
    Packed,
}

impl Route {
    /// Sends these files in one stream. On `Ok`, the far end has acknowledged all of them.
    ///
    /// The stream is compressed where the far end takes it so: to encrypt all of it costs both ends more than that.
    pub(super) fn ship(&self, parcels: &mut [Parcel]) -> Result<Receipt, ShipError> {
        let Some(transit) = &self.transit else { return self.ship_as(Stream::Plain, parcels) };
        let known = transit.known();
        if known == Known::Plain {
            return self.ship_as(Stream::Plain, parcels);
        }
        match self.ship_as(Stream::Packed, parcels) {
            Ok(receipt) => {
                if known != Known::Packed {
                    transit.remember(Known::Packed);
                }
                Ok(receipt)
            }
            Err(ShipError::Remote(failure)) if may_be_unknown_option(&failure, known) => {
                let receipt = self.ship_as(Stream::Plain, parcels)?;
                transit.remember(Known::Plain);
                Ok(receipt)
            }
            Err(error) => Err(error),
        }
    }

    fn ship_as(&self, stream: Stream, parcels: &mut [Parcel]) -> Result<Receipt, ShipError> {
        let mut session = match stream {
            Stream::Plain => self.ssh.start(&self.command)?,
            Stream::Packed => self.ssh.start(&self.command.clone().arg("--zstd-stream"))?,
        };
        let stdin = session.take_stdin();
        let (sent, said) = match stdin {
            // Closed when all is sent: the far end may wait for that.
            Some(mut stdin) => remote::beside_stdout(&mut session, move || match stream {
                Stream::Plain => self.send(parcels, &mut stdin),
                Stream::Packed => {
                    let mut packed = Compression::Zstd.writer(stdin, Level::Low).map_err(cut_off)?;
                    let hashes = self.send(parcels, &mut packed)?;
                    packed.finish().map_err(cut_off)?;
                    Ok(hashes)
                }
            }),
            None => return Err(ShipError::CutOff { source: io::ErrorKind::BrokenPipe.into() }),
        };
        match sent {
            Ok(hashes) => {
                let remarks = remote::succeeded(session.finish()?)?;
                match refusal(&said) {
                    Some(words) => Err(ShipError::Refused { words: words.to_owned() }),
                    None => Ok(Receipt { hashes, remarks }),
                }
            }
            // Nothing is wrong with the far end: it must not take the half for the whole.
            Err(
                error @ (ShipError::Source { .. } | ShipError::Compress { .. } | ShipError::TooLarge { .. }),
            ) => {
                drop(session);
                Err(error)
            }
            Err(error) => Err(self.why_cut_off(session, error)),
        }
    }

    /// What the far end has to say tells more than a broken pipe.
    fn why_cut_off(&self, session: Session, error: ShipError) -> ShipError {
        match session.finish() {
            Ok((End::Exit(0), _)) => error,
            Ok(finished) => remote::succeeded(finished).err().map_or(error, ShipError::from),
            Err(lost) => lost.into(),
        }
    }

    fn send(
        &self,
        parcels: &mut [Parcel],
        sink: &mut impl Write,
    ) -> Result<Vec<Option<[u8; 32]>>, ShipError> {
        let mut list = String::new();
        let mut hashes = Vec::with_capacity(parcels.len());
        for parcel in parcels.iter_mut() {
            let name = parcel.file.to_string();
            let mut sum = Sum::new(self.sums);
            if self.compression == Compression::None {
                self.member(&name, parcel.size(), parcel.modified_unix_seconds(), parcel, sink)?;
                parcel.copy(|piece| sum.pass(piece, sink)).map_err(|error| failed(parcel, error))?;
                pad(parcel.size(), sink)?;
                hashes.push(sum.as_sha256());
            } else {
                let packed = parcel.compressed(self.compression, self.level);
                let (mut bytes, length) = packed.map_err(|error| match error {
                    CopyError::Source(source) => ShipError::Source { path: parcel.path().to_owned(), source },
                    CopyError::Sink(source) => ShipError::Compress { path: parcel.path().to_owned(), source },
                })?;
                self.member(&name, length, parcel.modified_unix_seconds(), parcel, sink)?;
                send_all(&mut bytes, length, parcel, &mut sum, sink)?;
                pad(length, sink)?;
                hashes.push(None);
            }
            let _ = writeln!(list, "{} *{name}", sum.finish());
        }
        let name = match self.sums {
            Sums::Sha256 => "SHA256SUMS",
            Sums::Md5 => "MD5SUMS",
        };
        let header = tar::header(name, list.len() as u64, 0);
        let header = header.ok_or_else(|| cut_off(io::ErrorKind::InvalidInput.into()))?;
        sink.write_all(&header).and_then(|()| sink.write_all(list.as_bytes())).map_err(cut_off)?;
        pad(list.len() as u64, sink)?;
        sink.write_all(&[0; tar::END_BYTES]).map_err(cut_off)?;
        Ok(hashes)
    }

    fn member(
        &self,
        name: &str,
        size: u64,
        modified: u64,
        parcel: &Parcel,
        sink: &mut impl Write,
    ) -> Result<(), ShipError> {
        let header = tar::header(name, size, modified)
            .ok_or_else(|| ShipError::TooLarge { path: parcel.path().to_owned() })?;
        sink.write_all(&header).map_err(cut_off)
    }
}

/// Why a file is not under its own name, though the far end ended with 0: Barman says so, on standard output, when other content
/// waits under that name there, and moves the file to `errors/` if that directory exists.
fn refusal(said: &str) -> Option<&str> {
    said.lines().map(str::trim).find(|line| line.starts_with("Error: Duplicate Files Detected"))
}

/// Whether a failure may be the far end's word that it does not know how streams are compressed.
fn may_be_unknown_option(failure: &RemoteFailure, known: Known) -> bool {
    match failure.end {
        // By this one, programs tell that they don't understand their command line.
        End::Exit(code) => code == exit::USAGE || (code > 0 && known == Known::Nothing),
        End::Connection | End::Signal(_) => false,
    }
}

fn send_all(
    bytes: &mut dyn Read,
    length: u64,
    parcel: &Parcel,
    sum: &mut Sum,
    sink: &mut impl Write,
) -> Result<(), ShipError> {
    let lost = |source| ShipError::Compress { path: parcel.path().to_owned(), source };
    let mut piece = vec![0; PIECE_BYTES];
    let mut left = length;
    while left > 0 {
        match bytes.read(&mut piece) {
            Ok(0) => return Err(lost(io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => {
                sum.pass(&piece[..count], sink).map_err(cut_off)?;
                left = left.saturating_sub(count as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(lost(error)),
        }
    }
    Ok(())
}

fn pad(size: u64, sink: &mut impl Write) -> Result<(), ShipError> {
    let zeros = [0; tar::BLOCK_BYTES];
    sink.write_all(&zeros[..tar::padding(size)]).map_err(cut_off)
}

fn failed(parcel: &Parcel, error: CopyError) -> ShipError {
    match error {
        CopyError::Source(source) => ShipError::Source { path: parcel.path().to_owned(), source },
        CopyError::Sink(source) => cut_off(source),
    }
}

fn cut_off(source: io::Error) -> ShipError {
    ShipError::CutOff { source }
}

/// A sum that is made while bytes are sent.
enum Sum {
    Sha256(Sha256),
    Md5(Md5),
}

impl Sum {
    fn new(sums: Sums) -> Self {
        match sums {
            Sums::Sha256 => Sum::Sha256(Sha256::new()),
            Sums::Md5 => Sum::Md5(Md5::new()),
        }
    }

    fn pass(&mut self, piece: &[u8], sink: &mut impl Write) -> io::Result<()> {
        match self {
            Sum::Sha256(hash) => hash.update(piece),
            Sum::Md5(hash) => hash.update(piece),
        }
        sink.write_all(piece)
    }

    fn as_sha256(&self) -> Option<[u8; 32]> {
        match self {
            Sum::Sha256(hash) => Some(hash.clone().finalize().into()),
            Sum::Md5(_) => None,
        }
    }

    fn finish(self) -> String {
        match self {
            Sum::Sha256(hash) => hex(&hash.finalize()),
            Sum::Md5(hash) => hex(&hash.finalize()),
        }
    }
}

/// Hexadecimal digits, lower case.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
