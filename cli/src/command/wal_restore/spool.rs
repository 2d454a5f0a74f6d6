//! The directory in which the next files lie ready, and how a call asks for one.
//!
//! It belongs to one destination and one source, so two recoveries never share it. In it: `lock`, held by the prefetcher while
//! it lives; `socket`, where it is asked; `owner`, the server that it works for; files under their own names, whole and checked;
//! and `part-N`, being fetched.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use pgwal::WalFile;
use sha2::{Digest as _, Sha256};

use super::landing::Landing;

/// What the prefetcher's directory is called, before a hash of what it is for.
const NAME: &str = ".barkeep-prefetch-";
/// The socket on which the prefetcher is asked.
pub(super) const SOCKET: &str = "socket";
/// The file that names the server's process, 0 where there is none.
const OWNER: &str = "owner";
/// By which a process knows that it is to be the prefetcher: the segment size in bytes (0 if unknown), a colon, and the
/// directory.
const VARIABLE: &str = "BARKEEP_PREFETCHER";
/// How long a sign of life is waited for. A prefetcher gives one every few seconds while it works on an answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(15);
/// Longest line that an answer has, in bytes.
const ANSWER_BYTES_MAX: u64 = 64;

/// The directory.
#[derive(Debug, Clone)]
pub(super) struct Spool {
    path: PathBuf,
    segment_bytes: u64,
}

/// What a prefetcher answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The file is there, to be taken.
    Ready,
    /// The source has no such file.
    Missing,
    /// It can't tell: the source is to be asked directly.
    Direct,
}

impl Answer {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Answer::Ready => "ready",
            Answer::Missing => "missing",
            Answer::Direct => "direct",
        }
    }
}

impl Spool {
    /// The directory for files that go beside `destination` and come from `identity`: beside the destination, so that it
    /// only takes a rename, or below `parent`. `None` when it can't be had.
    pub(super) fn new(parent: Option<&Path>, destination: &Path, identity: &str) -> Option<Self> {
        let beside =
            destination.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let beside = beside.canonicalize().ok()?;
        let mut hash = Sha256::new();
        hash.update(identity);
        hash.update([0]);
        hash.update(beside.as_os_str().as_encoded_bytes());
        let digits: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let parent = match parent {
            Some(parent) => {
                DirBuilder::new().recursive(true).mode(0o700).create(parent).ok()?;
                parent.canonicalize().ok()?
            }
            None => beside,
        };
        Some(Spool { path: parent.join(format!("{NAME}{digits}")), segment_bytes: 0 })
    }

    /// The directory that this process is to serve, if it was started for that.
    pub(super) fn to_be_served() -> Option<Self> {
        let value = std::env::var_os(VARIABLE)?.into_string().ok()?;
        let (segment_bytes, path) = value.split_once(':')?;
        Some(Spool { path: PathBuf::from(path), segment_bytes: segment_bytes.parse().ok()? })
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The segment size, 0 if it is not known.
    pub(super) fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// Makes the directory; refuses one that is somebody else's.
    pub(super) fn make(&self) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let metadata = fs::symlink_metadata(&self.path)?;
        let own = metadata.uid() == rustix::process::geteuid().as_raw();
        if metadata.is_dir() && own && metadata.mode() & 0o077 == 0 {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("'{}' is not ours", self.path.display())))
    }

    /// Puts a file in its place that lies ready already, and tells the prefetcher without waiting for its answer. Whether that
    /// is done; if not, it has to be asked.
    pub(super) fn take_at_once(&self, file: WalFile, postmaster: i32, destination: &Path) -> bool {
        let Ok(directory) = File::open(&self.path) else { return false };
        // It lives, and has emptied the directory of what another one had left.
        let Ok(mut stream) = UnixStream::connect(short_path(&directory, SOCKET)) else { return false };
        let owner = fs::read_to_string(self.path.join(OWNER));
        if owner.ok().as_deref() != Some(&owner_line(postmaster)) || self.take(file, destination).is_err() {
            return false;
        }
        let _ = stream.set_write_timeout(Some(ANSWER_PATIENCE));
        // If it does not hear of this, it ends after a while, and the next call starts another.
        let _ = stream.write_all(question(file, postmaster).as_bytes());
        true
    }

    /// Writes down for which server the directory is.
    pub(super) fn own(&self, postmaster: i32) -> io::Result<()> {
        fs::write(self.path.join(OWNER), owner_line(postmaster))
    }

    /// Asks the prefetcher for a file. `None` when there is no prefetcher.
    pub(super) fn ask(&self, file: WalFile, postmaster: i32) -> Option<Answer> {
        let directory = File::open(&self.path).ok()?;
        let mut stream = UnixStream::connect(short_path(&directory, SOCKET)).ok()?;
        Some(converse(&mut stream, file, postmaster).unwrap_or(Answer::Direct))
    }

    /// Puts a file that is ready in its place.
    pub(super) fn take(&self, file: WalFile, destination: &Path) -> io::Result<()> {
        let ready = self.path.join(file.to_string());
        match fs::rename(&ready, destination) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                let mut landing = Landing::create(destination.parent().unwrap_or(Path::new(".")))?;
                io::copy(&mut File::open(&ready)?, &mut landing)?;
                landing.land(destination)?;
                fs::remove_file(&ready)
            }
            outcome => outcome,
        }
    }

    /// Starts a prefetcher: this very program with the same words.
    pub(super) fn start_prefetcher(&self, segment_bytes: u64) -> io::Result<()> {
        let mut words = std::env::args_os();
        let name = words.next().unwrap_or_else(|| OsString::from("barkeep"));
        let mut value = OsString::from(format!("{segment_bytes}:"));
        value.push(&self.path);
        let mut command = Command::new(std::env::current_exe()?);
        command.arg0(name).args(words).env(VARIABLE, value);
        // Nobody waits for it: it outlives this process.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map(drop)
    }
}

/// The path of a socket in a directory, short enough for any directory.
pub(super) fn short_path(directory: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

fn question(file: WalFile, postmaster: i32) -> String {
    format!("get {file} {postmaster}\n")
}

fn owner_line(postmaster: i32) -> String {
    format!("{postmaster}\n")
}

fn converse(stream: &mut UnixStream, file: WalFile, postmaster: i32) -> io::Result<Answer> {
    stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
    stream.set_write_timeout(Some(ANSWER_PATIENCE))?;
    stream.write_all(question(file, postmaster).as_bytes())?;
    let mut lines = BufReader::new(stream);
    loop {
        let mut line = String::new();
        let count = io::Read::take(&mut lines, ANSWER_BYTES_MAX).read_line(&mut line)?;
        match line.trim_end() {
            _ if count == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            "wait" => {}
            "ready" => return Ok(Answer::Ready),
            "missing" => return Ok(Answer::Missing),
            _ => return Ok(Answer::Direct),
        }
    }
}
