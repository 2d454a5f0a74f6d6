//! The directory in which the next files lie ready, and how a call asks for one.
//!
//! It belongs to one command line and the directory of the destination, so two recoveries never share it. In it: `lock`, held by the prefetcher while
//! it lives; `socket`, where it is asked; `owner`, the server that it works for; files under their own names, whole and checked;
//! and `part-N`, being fetched.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::hash::{DefaultHasher, Hasher as _};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pgwal::WalFile;
use rustix::fs::{Mode, OFlags};

use super::landing::Landing;

/// What the prefetcher's directory is called, before a hash of what it is for.
const NAME: &str = ".barkeep-prefetch-";
/// The socket on which the prefetcher is asked.
pub(super) const SOCKET: &str = "socket";
/// The file that names the server's process, 0 where there is none.
const OWNER: &str = "owner";
/// By which a process knows that it is to be the prefetcher: the segment size in bytes (0 if unknown), when the call began that
/// starts it (in nanoseconds since 1970), and the directory, with colons between.
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
    /// When the call began that this process serves, or that started the prefetcher.
    called: SystemTime,
    /// A hash of where the files come from.
    source: String,
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

/// A command line as PostgreSQL repeats it, each time with another file and perhaps another destination.
#[derive(Debug)]
pub(super) struct CommandLine<'w> {
    words: &'w [OsString],
    pub(super) file: &'w OsStr,
    pub(super) destination: &'w OsStr,
}

impl<'w> CommandLine<'w> {
    /// One that asks for `file`.
    pub(super) fn new(words: &'w [OsString], file: &'w OsStr, destination: &'w OsStr) -> Self {
        CommandLine { words, file, destination }
    }

    /// One that names a file and right after it a destination, whatever the other words mean.
    pub(super) fn read(words: &'w [OsString]) -> Option<Self> {
        let is_file = |word: &OsString| word.to_str().is_some_and(|word| word.parse::<WalFile>().is_ok());
        let place = words.iter().position(is_file)?;
        let destination = words.get(place + 1).filter(|word| !word.as_encoded_bytes().starts_with(b"-"))?;
        Some(CommandLine { words, file: &words[place], destination })
    }

    /// The directory of the destination.
    fn beside(&self) -> Option<PathBuf> {
        let parent = Path::new(self.destination).parent().filter(|path| !path.as_os_str().is_empty());
        parent.unwrap_or(Path::new(".")).canonicalize().ok()
    }

    /// A hash of the directory and of all words but the file and the destination. It tells recoveries apart, and defends against
    /// nobody; one that is computed faster than a cryptographic one's code is chosen.
    fn key(&self, beside: &Path) -> String {
        let mut hash = DefaultHasher::new();
        let (mut file, mut destination) = (Some(self.file), Some(self.destination));
        for word in self.words {
            let changes =
                [&mut file, &mut destination].into_iter().find(|part| part.is_some_and(|part| part == word));
            match changes {
                Some(place) => *place = None,
                None => hash.write(word.as_encoded_bytes()),
            }
            hash.write(&[0]);
        }
        hash.write(beside.as_os_str().as_encoded_bytes());
        format!("{:016x}", hash.finish())
    }
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
    /// The directory for what `line` asks for, from the place that `identity` tells of: beside the destination, so that it only
    /// takes a rename, or below `parent`. `None` when it can't be had.
    pub(super) fn new(parent: Option<&Path>, line: &CommandLine, identity: &str) -> Option<Self> {
        let beside = line.beside()?;
        let parent = match parent {
            Some(parent) => {
                DirBuilder::new().recursive(true).mode(0o700).create(parent).ok()?;
                parent.canonicalize().ok()?
            }
            None => beside.clone(),
        };
        let path = parent.join(format!("{NAME}{}", line.key(&beside)));
        let mut hash = DefaultHasher::new();
        hash.write(identity.as_bytes());
        let source = format!("{:016x}", hash.finish());
        Some(Spool { path, segment_bytes: 0, called: SystemTime::now(), source })
    }

    /// The same directory, if it is beside the destination, for somebody who does not know where the files come from.
    pub(super) fn beside(line: &CommandLine) -> Option<Self> {
        let beside = line.beside()?;
        let path = beside.join(format!("{NAME}{}", line.key(&beside)));
        Some(Spool { path, segment_bytes: 0, called: SystemTime::now(), source: String::new() })
    }

    /// Whether this process was started to serve a directory.
    pub(super) fn is_to_be_served() -> bool {
        std::env::var_os(VARIABLE).is_some()
    }

    /// The directory that this process is to serve, if it was started for that.
    pub(super) fn to_be_served(&self) -> Option<Self> {
        let value = std::env::var_os(VARIABLE)?.into_string().ok()?;
        let (segment_bytes, rest) = value.split_once(':')?;
        let (called, path) = rest.split_once(':')?;
        let called = UNIX_EPOCH.checked_add(Duration::from_nanos(called.parse().ok()?))?;
        let (path, source) = (PathBuf::from(path), self.source.clone());
        Some(Spool { path, segment_bytes: segment_bytes.parse().ok()?, called, source })
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A hash of where the files come from; empty if nobody knows.
    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// The segment size, 0 if it is not known.
    pub(super) fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// When the call began that started the prefetcher.
    pub(super) fn called(&self) -> SystemTime {
        self.called
    }

    /// Makes the directory; refuses one that is somebody else's.
    pub(super) fn make(&self) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        self.open().map(drop)
    }

    /// Opens the directory; refuses one that is somebody else's, or that others can write to. Where the destination is, anybody
    /// may make a directory of that name.
    fn open(&self) -> io::Result<File> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = File::from(rustix::fs::open(&self.path, flags, Mode::empty())?);
        let metadata = directory.metadata()?;
        if metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o077 == 0 {
            return Ok(directory);
        }
        Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("'{}' is not ours", self.path.display())))
    }

    /// Puts a file in its place that lies ready already, and tells the prefetcher without waiting for its answer. Whether that
    /// is done; if not, it has to be asked.
    pub(super) fn take_at_once(
        &self,
        file: WalFile,
        postmaster: impl FnOnce() -> i32,
        destination: &Path,
    ) -> bool {
        let Ok(directory) = self.open() else { return false };
        // It lives, and has emptied the directory of what another one had left.
        let Ok(mut stream) = UnixStream::connect(short_path(&directory, SOCKET)) else { return false };
        let postmaster = postmaster();
        let owner = fs::read_to_string(short_path(&directory, OWNER));
        if owner.ok().as_deref() != Some(&owner_line(postmaster))
            || take_from(&directory, file, destination).is_err()
        {
            return false;
        }
        let _ = stream.set_write_timeout(Some(ANSWER_PATIENCE));
        // If it does not hear of this, it ends after a while, and the next call starts another.
        let _ = stream.write_all(self.question(file, postmaster).as_bytes());
        true
    }

    /// Writes down for which server the directory is.
    pub(super) fn own(&self, postmaster: i32) -> io::Result<()> {
        fs::write(self.path.join(OWNER), owner_line(postmaster))
    }

    /// Asks the prefetcher for a file. `None` when there is no prefetcher.
    pub(super) fn ask(&self, file: WalFile, postmaster: i32) -> Option<Answer> {
        let directory = self.open().ok()?;
        let mut stream = UnixStream::connect(short_path(&directory, SOCKET)).ok()?;
        Some(converse(&mut stream, &self.question(file, postmaster)).unwrap_or(Answer::Direct))
    }

    fn question(&self, file: WalFile, postmaster: i32) -> String {
        let separator = if self.source.is_empty() { "" } else { " " };
        format!("get {file} {postmaster}{separator}{}\n", self.source)
    }

    /// Puts a file that is ready in its place.
    pub(super) fn take(&self, file: WalFile, destination: &Path) -> io::Result<()> {
        take_from(&self.open()?, file, destination)
    }

    /// Starts a prefetcher: this very program with the same words.
    pub(super) fn start_prefetcher(&self, segment_bytes: u64) -> io::Result<()> {
        let mut words = std::env::args_os();
        let name = words.next().unwrap_or_else(|| OsString::from("barkeep"));
        let called = self.called.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let mut value = OsString::from(format!("{segment_bytes}:{called}:"));
        value.push(&self.path);
        let mut command = Command::new(std::env::current_exe()?);
        command.arg0(name).args(words).env(VARIABLE, value);
        // Nobody waits for it: it outlives this process.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map(drop)
    }
}

fn take_from(directory: &File, file: WalFile, destination: &Path) -> io::Result<()> {
    let ready = short_path(directory, &file.to_string());
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

/// The path of a file in an open directory; short enough for a socket's, wherever the directory is.
pub(super) fn short_path(directory: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

fn owner_line(postmaster: i32) -> String {
    format!("{postmaster}\n")
}

fn converse(stream: &mut UnixStream, question: &str) -> io::Result<Answer> {
    stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
    stream.set_write_timeout(Some(ANSWER_PATIENCE))?;
    stream.write_all(question.as_bytes())?;
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    fn path(text: &str) -> Option<PathBuf> {
        Some(Spool::beside(&CommandLine::read(&words(text))?)?.path)
    }

    #[test]
    fn a_command_line_is_known_by_all_but_the_file_and_the_destination() {
        let directory = tempfile::tempdir().unwrap();
        let to = |name: &str| directory.path().join(name).display().to_string();
        let ready =
            path(&format!("barkeep wal-restore main 000000010000000000000001 {}", to("RECOVERYXLOG")));
        assert!(
            ready.as_ref().is_some_and(|path| path.starts_with(directory.path().canonicalize().unwrap()))
        );
        let next = path(&format!("barkeep wal-restore main 00000002.history {}", to("RECOVERYHISTORY")));
        assert_eq!(next, ready);
        for other in ["barkeep wal-restore -p 4 main", "barkeep wal-restore other", "barkeep wal-restore"] {
            assert_ne!(path(&format!("{other} 000000010000000000000001 {}", to("RECOVERYXLOG"))), ready);
        }
        fs::create_dir(directory.path().join("elsewhere")).unwrap();
        let elsewhere = to("elsewhere/RECOVERYXLOG");
        assert_ne!(path(&format!("barkeep wal-restore main 000000010000000000000001 {elsewhere}")), ready);
    }

    #[test]
    fn a_command_line_without_a_file_and_a_destination_after_it_is_none() {
        for other in [
            "barkeep wal-restore main",
            "barkeep wal-restore main 000000010000000000000001",
            "barkeep wal-restore main 000000010000000000000001 -p 4 to",
            "barkeep wal-restore main 00000001000000000000000g to",
        ] {
            assert_eq!(path(other), None, "{other}");
        }
    }

    #[test]
    fn nothing_is_taken_from_a_directory_that_others_may_have_made() {
        let directory = tempfile::tempdir().unwrap();
        let to = directory.path().join("RECOVERYXLOG");
        let words = [words("barkeep wal-restore main 00000002.history"), vec![to.clone().into()]].concat();
        let spool = Spool::beside(&CommandLine::read(&words).unwrap()).unwrap();
        let file = "00000002.history".parse().unwrap();
        spool.make().unwrap();
        spool.own(0).unwrap();
        fs::write(spool.path().join("00000002.history"), "").unwrap();
        let listener =
            std::os::unix::net::UnixListener::bind(short_path(&spool.open().unwrap(), SOCKET)).unwrap();
        let allow = |mode| fs::set_permissions(spool.path(), fs::Permissions::from_mode(mode)).unwrap();
        allow(0o770);
        assert!(!spool.take_at_once(file, || 0, &to) && spool.ask(file, 0).is_none());
        allow(0o700);
        let elsewhere = directory.path().join("elsewhere");
        fs::rename(spool.path(), &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, spool.path()).unwrap();
        assert!(!spool.take_at_once(file, || 0, &to), "by a link");
        fs::remove_file(spool.path()).unwrap();
        fs::rename(&elsewhere, spool.path()).unwrap();
        assert!(spool.take_at_once(file, || 0, &to));
        drop(listener);
    }

    #[test]
    fn the_whole_definition_and_the_short_way_agree_on_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let to = directory.path().join("RECOVERYXLOG").into_os_string();
        let mut words = words("barkeep wal-restore --local main 000000010000000000000001");
        words.push(to.clone());
        let line = CommandLine::new(&words, "000000010000000000000001".as_ref(), &to);
        let known = Spool::new(None, &line, "a home").unwrap();
        assert_eq!(
            Some(known.path()),
            CommandLine::read(&words).and_then(|line| Spool::beside(&line)).as_ref().map(Spool::path)
        );
        assert_ne!(known.source(), Spool::new(None, &line, "another home").unwrap().source());
    }
}
