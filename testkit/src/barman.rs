//! Barman itself, the peer whose homes and commands barkeep shares.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::programs;
use crate::user::unprivileged_user;
use crate::{Cluster, TestDir};

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
    #[must_use]
    pub fn try_run(&self, args: &[&str]) -> Output {
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

impl Default for Barman {
    fn default() -> Self {
        Self::new()
    }
}
