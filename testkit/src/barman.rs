//! Barman itself, the peer whose homes and commands barkeep shares.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::programs;
use crate::user::unprivileged_user;
use crate::{Cluster, TestDir, wait_for};

/// A Barman installation with a configuration and a home of its own, run as the servers' user.
#[derive(Debug)]
pub struct Barman {
    bin_dir: PathBuf,
    dir: TestDir,
}

impl Barman {
    /// An empty home and a configuration with no servers yet.
    #[must_use]
    pub fn new() -> Self {
        let bin_dir = programs::barman_bin_dir().expect("Barman: call require_barman! first");
        let barman = Self { bin_dir, dir: TestDir::new() };
        for dir in ["home", "conf.d", "lock"] {
            let _ = barman.dir.subdir(dir);
        }
        let at = barman.dir.path().display();
        let user = &unprivileged_user().name;
        barman.dir.write(
            "barman.conf",
            format!(
                "[barman]\nbarman_user = {user}\nbarman_home = {at}/home\nbarman_lock_directory = {at}/lock\n\
                 configuration_files_directory = {at}/conf.d\nlog_file = {at}/barman.log\nlog_level = INFO\n"
            ),
        );
        barman
    }

    /// Adds a server to the configuration: backups and WAL over the replication protocol, plus `options`, lines
    /// `key = value` of Barman's dialect.
    pub fn add_server(&self, name: &str, cluster: &Cluster, options: &str) -> PathBuf {
        let tools =
            programs::client_tool("pg_basebackup", cluster.major()).expect("PostgreSQL's client tools");
        let tools = tools.parent().expect("a directory").display();
        let conninfo = cluster.conninfo();
        self.dir.write(
            Path::new("conf.d").join(format!("{name}.conf")),
            format!(
                "[{name}]\ndescription = \"{name}\"\nconninfo = {conninfo}\nstreaming_conninfo = {conninfo}\n\
                 backup_method = postgres\nstreaming_archiver = on\nslot_name = barman\ncreate_slot = auto\n\
                 path_prefix = {tools}\n{options}\n"
            ),
        )
    }

    /// The main configuration file, for `-c` of either tool.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.dir.join("barman.conf")
    }

    /// The backup home.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.dir.join("home")
    }

    /// The directory of one server in the home.
    #[must_use]
    pub fn server_dir(&self, server: &str) -> PathBuf {
        self.home().join(server)
    }

    /// A directory for the servers' user that is removed with the home, as a restore's destination.
    #[must_use]
    pub fn new_dir(&self, name: &str) -> PathBuf {
        self.dir.subdir(name)
    }

    /// A command line of Barman's, ready to be run: as the servers' user, with this configuration.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.bin_dir.join("barman"));
        command
            .arg("-c")
            .arg(self.config_path())
            .args(args)
            .current_dir(self.dir.path())
            .env("HOME", self.dir.path());
        unprivileged_user().run_as(&mut command);
        command
    }

    /// Runs a command of Barman's, whatever comes of it.
    ///
    /// A backup starts in a second of its own: Barman names a backup by the second, and gives two of one second the
    /// same directory.
    #[must_use]
    pub fn try_run(&self, args: &[&str]) -> Output {
        if args.contains(&"backup") {
            wait_for_the_next_second();
        }
        self.command(args).output().expect("run barman")
    }

    /// Runs a command of Barman's that must succeed: its standard output.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> String {
        let output = self.try_run(args);
        assert!(
            output.status.success(),
            "barman {args:?}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Creates the slot and starts Barman's WAL receiver, and waits until it streams.
    #[must_use]
    #[track_caller]
    pub fn start_receiver(&self, server: &str, cluster: &Cluster) -> BarmanReceiver<'_> {
        self.run(&["receive-wal", "--create-slot", "--if-not-exists", server]);
        let mut command = self.command(&["-q", "receive-wal", server]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("run barman");
        let receiver = BarmanReceiver { barman: self, server: server.to_owned(), child };
        wait_for("Barman's WAL receiver to stream", 60, || {
            let streams =
                "select count(*) from pg_stat_replication where application_name = 'barman_receive_wal'";
            (cluster.value(streams) == "1").then_some(())
        });
        receiver
    }

    /// Writes WAL and archives what Barman's receiver has got until a first segment is in the archive, which Barman
    /// asks for before it takes a backup. (It leaves the newest segment alone until the next one has begun.)
    #[track_caller]
    pub fn wait_for_first_wal(&self, server: &str, cluster: &Cluster) {
        wait_for("a WAL segment in Barman's archive", 60, || {
            cluster.switch_wal();
            self.run(&["archive-wal", server]);
            let wals = std::fs::read_dir(self.server_dir(server).join("wals"));
            wals.into_iter().flatten().flatten().any(|entry| entry.path().is_dir()).then_some(())
        });
    }

    /// Archives all WAL written so far, however late the receiver is, and has Barman look again at its backups: one that
    /// ended before its last segment was archived waits until somebody does.
    #[track_caller]
    pub fn archive_all(&self, server: &str, cluster: &Cluster) {
        let last = cluster.switch_wal();
        let archived = self.server_dir(server).join("wals").join(&last[..16]).join(&last);
        wait_for("the last segment in Barman's archive", 60, || {
            // Barman leaves the newest segment where it is until another has begun.
            cluster.switch_wal();
            self.run(&["archive-wal", server]);
            archived.exists().then_some(())
        });
        for backup in std::fs::read_dir(self.server_dir(server).join("base")).into_iter().flatten().flatten()
        {
            self.run(&["check-backup", server, &backup.file_name().to_string_lossy()]);
        }
    }

    /// Runs a command of Barman's that must succeed, with its answer as JSON.
    #[must_use]
    #[track_caller]
    pub fn run_json(&self, args: &[&str]) -> serde_json::Value {
        let words: Vec<&str> = ["-f", "json"].into_iter().chain(args.iter().copied()).collect();
        let text = self.run(&words);
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("barman {args:?} gave no JSON ({error}): {text}"))
    }
}

/// Barman's WAL receiver, stopped by Barman's own command when dropped.
#[derive(Debug)]
pub struct BarmanReceiver<'b> {
    barman: &'b Barman,
    server: String,
    child: Child,
}

impl Drop for BarmanReceiver<'_> {
    fn drop(&mut self) {
        // It runs `pg_receivewal` as a child of its own: only Barman stops both.
        let _ = self.barman.try_run(&["receive-wal", "--stop", &self.server]);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Default for Barman {
    fn default() -> Self {
        Self::new()
    }
}

/// Sleeps until the clock shows another second than now.
fn wait_for_the_next_second() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    std::thread::sleep(
        Duration::from_secs(1).saturating_sub(Duration::from_nanos(now.subsec_nanos().into())),
    );
}
