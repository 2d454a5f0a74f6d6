//! Whether a server is running on a data directory: nothing in it may be touched then.
//!
//! PostgreSQL's own lock is `postmaster.pid` (`utils/init/miscinit.c`): the process id in its first line, the port in the
//! fourth, the socket directory in the fifth. The file outlives a crash, and the process may be in a container, so
//! what it says is checked against the processes of this machine and the socket; and since the file may be gone
//! while backends still run, all processes are asked where they work: PostgreSQL's work in their data directory.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use barkeep_transport::host::{Inspection, Inspector, Reread};
use rustix::process::{Pid, test_kill_process};

/// Largest `postmaster.pid` read, in bytes.
const PID_FILE_BYTES_MAX: u64 = 4096;

/// A server at work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Running {
    /// As a process of this machine.
    Process(u32),
    /// Somewhere behind a socket.
    Socket(PathBuf),
}

impl std::fmt::Display for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Running::Process(pid) => write!(f, "process {pid}"),
            Running::Socket(path) => write!(f, "it answers at {path:?}"),
        }
    }
}

/// Looks for a server at the far end: reads any file of a data directory, told the directory's path, and finds how the
/// server is known, or nothing. To be registered with the agent of a machine that is restored to.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServerInspector;

/// The inspector's name.
pub(super) const INSPECTOR: &str = "server";

impl Inspector for ServerInspector {
    fn name(&self) -> &'static str {
        INSPECTOR
    }

    fn begin(&self, data: &[u8], _path: &Path, _offset: u64) -> Result<Option<Box<dyn Inspection>>, String> {
        use std::os::unix::ffi::OsStrExt;
        let found = find(Path::new(std::ffi::OsStr::from_bytes(data)));
        Ok(Some(Box::new(Answer(found.map(|server| server.to_string().into_bytes()).unwrap_or_default()))))
    }
}

#[derive(Debug)]
struct Answer(Vec<u8>);

impl Inspection for Answer {
    fn look(&mut self, _offset: u64, _bytes: &mut [u8], _reread: &mut Reread<'_>) -> io::Result<()> {
        Ok(())
    }

    fn findings(self: Box<Self>) -> Vec<u8> {
        self.0
    }
}

/// Finds a server that runs on the data directory at `path`.
pub(super) fn find(path: &Path) -> Option<Running> {
    by_pid_file(path).or_else(|| by_working_directory(path))
}

fn by_pid_file(path: &Path) -> Option<Running> {
    let mut text = String::new();
    let file = fs::File::open(path.join("postmaster.pid")).ok()?;
    file.take(PID_FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    let mut lines = text.lines();
    // A standalone backend writes its process id as a negative number.
    let pid = lines.next()?.trim().trim_start_matches('-').parse::<u32>().ok()?;
    if pid != std::process::id() && is_alive(pid) && !works_elsewhere(pid, path) {
        return Some(Running::Process(pid));
    }
    let (port, directory) = (lines.nth(2)?.trim(), lines.next()?.trim());
    let socket = Path::new(directory).join(format!(".s.PGSQL.{port}"));
    let answers =
        !directory.is_empty() && port.parse::<u16>().is_ok() && UnixStream::connect(&socket).is_ok();
    answers.then_some(Running::Socket(socket))
}

fn is_alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // A process that may not be signalled is one.
    pid.is_some_and(|pid| !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH)))
}

/// Whether a process is known to work in another directory: the number was given anew since the server died.
fn works_elsewhere(pid: u32, path: &Path) -> bool {
    let at = |path: &Path| path.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
    match (at(Path::new(&format!("/proc/{pid}/cwd"))), at(path)) {
        (Ok(works), Ok(data)) => works != data,
        _ => false,
    }
}

/// A PostgreSQL process of this machine that works in the directory.
fn by_working_directory(path: &Path) -> Option<Running> {
    let here = path.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()))?;
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let process = entry.path();
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
        if !matches!(name.trim_end(), "postgres" | "postmaster") {
            continue;
        }
        let works = process.join("cwd").metadata().map(|metadata| (metadata.dev(), metadata.ino()));
        if works.is_ok_and(|works| works == here) {
            return Some(Running::Process(pid));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn pid_file(pid: u32, directory: &Path) -> tempfile::TempDir {
        let data = tempfile::tempdir().unwrap();
        let text =
            format!("{pid}\n{}\n1795342542\n5432\n{}\n*\n", data.path().display(), directory.display());
        fs::write(data.path().join("postmaster.pid"), text).unwrap();
        data
    }

    #[test]
    fn what_a_dead_server_left_is_no_server() {
        // Process 1 works in another directory than this.
        let nowhere = Path::new("/nowhere");
        assert_eq!(find(pid_file(4_000_000, nowhere).path()), None);
        let mut child = std::process::Command::new("sleep").arg("60").current_dir("/").spawn().unwrap();
        assert_eq!(find(pid_file(child.id(), nowhere).path()), None);
        child.kill().unwrap();
        child.wait().unwrap();
        let data = tempfile::tempdir().unwrap();
        assert_eq!(find(data.path()), None);
        fs::write(data.path().join("postmaster.pid"), "rubbish").unwrap();
        assert_eq!(find(data.path()), None);
    }

    #[test]
    fn a_process_that_works_in_the_directory_is_one() {
        let data = pid_file(0, Path::new(""));
        let mut child =
            std::process::Command::new("sleep").arg("60").current_dir(data.path()).spawn().unwrap();
        fs::write(data.path().join("postmaster.pid"), format!("{}\n", child.id())).unwrap();
        assert_eq!(find(data.path()), Some(Running::Process(child.id())));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_socket_that_answers_is_one() {
        let sockets = tempfile::tempdir().unwrap();
        let _listener = UnixListener::bind(sockets.path().join(".s.PGSQL.5432")).unwrap();
        let data = pid_file(4_000_000, sockets.path());
        assert!(matches!(find(data.path()), Some(Running::Socket(_))));
    }
}
