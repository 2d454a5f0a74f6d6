//! A throw-away backup home and a way to run barkeep on it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A temporary `barman_home` with its configuration file.
///
/// ```ignore
/// let home = Home::new().server("main", &cluster.conninfo());
/// home.run(["backup", "main"]).success();
/// ```
pub(crate) struct Home {
    directory: tempfile::TempDir,
    program: PathBuf,
    sections: BTreeMap<String, BTreeMap<String, String>>,
}

/// What a run of barkeep left behind.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) command: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: Option<i32>,
}

/// How much data barkeep may have in memory while it copies a small cluster, in KiB: several times what it takes.
pub(crate) const DATA_KIB_MAX: u32 = 256 << 10;

impl Home {
    /// A home without servers.
    pub(crate) fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("barkeep-home-").tempdir().unwrap();
        let mut home = Home { directory, program: PathBuf::from(barkeep()), sections: BTreeMap::new() };
        let path = home.path().to_str().unwrap().to_owned();
        home.set("barman", "barman_home", &path);
        home.set("barman", "barman_user", &current_user());
        home.set("barman", "log_file", &format!("{path}/barman.log"));
        home.set("barman", "log_level", "DEBUG");
        home
    }

    /// Adds a server as one would configure it: backups and WAL over the replication protocol, with a slot that is
    /// created when it's first needed.
    #[must_use]
    pub(crate) fn server(self, name: &str, conninfo: &str) -> Self {
        self.with(name, "description", &format!("The {name} server"))
            .with(name, "conninfo", conninfo)
            .with(name, "backup_method", "postgres")
            .with(name, "streaming_archiver", "on")
            .with(name, "slot_name", "barkeep")
            .with(name, "create_slot", "auto")
            .with(name, "immediate_checkpoint", "on")
    }

    /// Sets a key of a section (`barman` is the global one).
    #[must_use]
    pub(crate) fn with(mut self, section: &str, key: &str, value: &str) -> Self {
        self.set(section, key, value);
        self
    }

    /// Sets a key of a section and writes the configuration file again.
    pub(crate) fn set(&mut self, section: &str, key: &str, value: &str) {
        self.sections.entry(section.to_owned()).or_default().insert(key.to_owned(), value.to_owned());
        let mut text = String::new();
        for (section, options) in &self.sections {
            writeln!(text, "[{section}]").unwrap();
            for (key, value) in options {
                writeln!(text, "{key} = {value}").unwrap();
            }
        }
        std::fs::write(self.config(), text).unwrap();
    }

    /// Gives the home to the user that servers run as, who does everything on it from here on.
    pub(crate) fn hand_over(&mut self) {
        let user = testkit::unprivileged_user();
        self.set("barman", "barman_user", &user.name);
        user.take_over(self.path());
        self.program = testkit::reachable_binary(&self.program);
    }

    /// The home itself.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A file or directory of the home, like `main/base`.
    pub(crate) fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.path().join(path)
    }

    /// The configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.join("barman.conf")
    }

    /// The log so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.join("barman.log")).unwrap_or_default()
    }

    /// barkeep on this home, to be run or spawned with more arguments.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("BARMAN_CONFIG_FILE", self.config()).env_remove("PGPASSWORD").stdin(Stdio::null());
        command
    }

    /// The same with no more than so much data in memory, in KiB: threads' stacks and what they allocate.
    pub(crate) fn frugal_command(&self, data_kib: u32) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -d {data_kib} && exec \"$0\" \"$@\""), barkeep()]);
        command.env("BARMAN_CONFIG_FILE", self.config()).env_remove("PGPASSWORD").stdin(Stdio::null());
        command
    }

    /// Runs barkeep on this home to its end.
    pub(crate) fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Run {
        Run::of(self.command().args(arguments))
    }
}

impl Run {
    /// Runs a command to its end.
    pub(crate) fn of(command: &mut Command) -> Self {
        let Output { stdout, stderr, status } = command.output().unwrap();
        Run {
            command: format!("{command:?}"),
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            code: status.code(),
        }
    }

    /// Exit code 0, or the test ends here with all that was said.
    #[track_caller]
    pub(crate) fn success(self) -> Self {
        self.exits_with(0)
    }

    /// This exit code, or the test ends here with all that was said.
    #[track_caller]
    pub(crate) fn exits_with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{self:#?}", self.command);
        self
    }

    /// Fails with this exit code and exactly one line on standard error, which contains all of `parts`.
    #[track_caller]
    pub(crate) fn fails_with_one_line(self, code: i32, parts: &[&str]) -> Self {
        let run = self.exits_with(code);
        assert_eq!(run.stderr.lines().count(), 1, "{run:#?}");
        for part in parts {
            assert!(run.stderr.contains(part), "{part:?} is missing: {run:#?}");
        }
        run
    }

    /// Standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// The program under test.
pub(crate) fn barkeep() -> &'static str {
    env!("CARGO_BIN_EXE_barkeep")
}

/// The user that runs the tests.
pub(crate) fn current_user() -> String {
    let uid = rustix::process::getuid().as_raw().to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let account = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|line| line[2] == uid);
    account.map_or_else(|| "root".to_owned(), |line| line[0].to_owned())
}
