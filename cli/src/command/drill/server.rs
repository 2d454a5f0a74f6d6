//! The server of a drill: found, started as a child, and stopped whatever happens.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::scratch::Scratch;
use crate::config::ServerConfig;
use crate::error::CommandError;

/// How long a server may take to stop before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether it has.
const POLL: Duration = Duration::from_millis(50);
/// Most of a server's log that is read, in bytes: its end.
const LOG_BYTES_MAX: usize = 64 << 10;

/// A running server.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    log: PathBuf,
    pub(super) sockets: PathBuf,
}

/// The directory with `postgres` of this major version.
pub(super) fn find_programs(
    told: Option<&Path>,
    config: &ServerConfig,
    major: u32,
) -> Result<PathBuf, CommandError> {
    let usual = [format!("/usr/lib/postgresql/{major}/bin"), format!("/usr/pgsql-{major}/bin")];
    let prefix = config.setting("path_prefix").and_then(|setting| setting.text.clone()).unwrap_or_default();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places: Vec<PathBuf> = match told {
        Some(told) => vec![told.to_owned()],
        None => std::env::split_paths(&prefix)
            .chain(usual.into_iter().map(PathBuf::from))
            .chain(std::env::split_paths(&path))
            .collect(),
    };
    let fits = |directory: &PathBuf| version(&directory.join("postgres")) == Some(major);
    places.into_iter().find(fits).ok_or_else(|| {
        CommandError::new(format!("There is no PostgreSQL {major} to try the backup with"))
            .hint("install its server package, or name its programs with --pg-bin DIRECTORY")
    })
}

/// The major version of a server program: `postgres (PostgreSQL) 15.18 (Debian ...)`.
fn version(program: &Path) -> Option<u32> {
    let answer = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    let number = text.split_once("(PostgreSQL) ")?.1;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

impl Server {
    /// Starts the server on the scratch directory's cluster.
    pub(super) fn start(programs: &Path, scratch: &Scratch) -> Result<Self, CommandError> {
        let log = scratch.log();
        let failed =
            |error: std::io::Error| CommandError::because("the restored server can't be started", &error);
        let file = File::create(&log).map_err(failed)?;
        let child = Command::new(programs.join("postgres"))
            .arg("-D")
            .arg(scratch.data())
            .arg("-c")
            .arg(format!("config_file={}", scratch.config().display()))
            .current_dir(scratch.path())
            .env_remove("PGDATA")
            // Its log is read by programs as well.
            .env_remove("LC_ALL")
            .env_remove("LANGUAGE")
            .env("LC_MESSAGES", "C")
            // What is typed at the terminal is for barkeep, which then stops it.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(file.try_clone().map_err(failed)?)
            .stderr(file)
            .spawn()
            .map_err(failed)?;
        Ok(Server { child, log, sockets: scratch.sockets().to_owned() })
    }

    /// Whether it has given up.
    pub(super) fn has_ended(&self) -> bool {
        // Its directory in /proc goes when it is waited for, and says `Z` until then.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
    }

    /// Stops it; the end of its log.
    pub(super) fn stop(mut self) -> String {
        self.end();
        let text = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(LOG_BYTES_MAX)..]).into_owned()
    }

    fn end(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let begun = Instant::now();
        // Nothing of it is kept, so there is nothing to shut down in order.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        while begun.elapsed() < STOP_PATIENCE {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(POLL),
                _ => return,
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.end();
        }
    }
}
