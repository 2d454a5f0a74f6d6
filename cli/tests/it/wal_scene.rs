//! A backup host that is reached by SSH, and a cluster whose WAL goes there.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use testkit::{Barman, Cluster, Sshd, TestDir};

use crate::support::{Run, barkeep};

/// Which program answers on the backup host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Far {
    Barkeep,
    Barman,
}

/// A home with the server `main`, an SSH server before it, and the server's cluster.
pub(crate) struct Scene {
    pub(crate) cluster: Cluster,
    pub(crate) barman: Barman,
    pub(crate) sshd: Option<Sshd>,
    port: u16,
    pub(crate) dir: TestDir,
}

impl Scene {
    /// A cluster with segments of 1 MiB, all of whose WAL waits to be archived.
    pub(crate) fn new(major: u32) -> Self {
        Self::configured(major, "")
    }

    /// With more lines in the server's configuration.
    pub(crate) fn configured(major: u32, options: &str) -> Self {
        Self::with_segments(major, 1, options)
    }

    /// With segments of this size.
    pub(crate) fn with_segments(major: u32, segment_mib: u32, options: &str) -> Self {
        let cluster = Cluster::builder(major)
            .segment_size_mib(segment_mib)
            .setting("archive_mode", "on")
            .setting("archive_command", "false")
            .start();
        let (barman, sshd, dir) = (Barman::new(), Sshd::start(), TestDir::new());
        barman.add_server("main", &cluster, &format!("archiver = on\nstreaming_archiver = off\n{options}"));
        let ssh = sshd.ssh_command();
        let port = sshd.port();
        let scene = Scene { cluster, barman, sshd: Some(sshd), port, dir };
        for directory in ["incoming", "wals", "errors", "streaming", "base", "meta"] {
            fs::create_dir_all(scene.barman.server_dir("main").join(directory)).unwrap();
        }
        testkit::unprivileged_user().take_over(&scene.barman.home());
        let _ = scene.dir.subdir("run");
        let _ = scene.dir.subdir("bin");
        // Found before the system's: it knows the key and the host, as a user's configuration would.
        let words = ssh.strip_suffix(" 127.0.0.1").unwrap().strip_prefix("ssh ").unwrap();
        let path = scene.dir.write("bin/ssh", format!("#!/bin/sh\nexec /usr/bin/ssh {words} \"$@\"\n"));
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        scene
    }

    /// barkeep as the database host's user, in the data directory, without any configuration.
    pub(crate) fn client(&self) -> Command {
        let mut command = Command::new(testkit::reachable_binary(barkeep()));
        command
            .current_dir(self.cluster.data_dir())
            .env("PATH", self.path())
            .env("XDG_RUNTIME_DIR", self.dir.join("run"))
            .env("HOME", self.dir.path())
            .env_remove("BARMAN_CONFIG_FILE")
            .stdin(Stdio::null());
        testkit::unprivileged_user().run_as(&mut command);
        command
    }

    /// The words that name the backup host and the program there.
    pub(crate) fn words(&self, far: Far) -> Vec<String> {
        let program = match far {
            Far::Barkeep => testkit::reachable_binary(barkeep()),
            Far::Barman => testkit::programs::barman_bin_dir().unwrap().join("barman"),
        };
        [
            "-U".to_owned(),
            testkit::unprivileged_user().name.clone(),
            "--port".to_owned(),
            self.port.to_string(),
            "-c".to_owned(),
            self.barman.config_path().display().to_string(),
            "--remote-program".to_owned(),
            program.display().to_string(),
            "--keep-connection".to_owned(),
            "5".to_owned(),
        ]
        .into()
    }

    /// `wal-archive` of a file, named as PostgreSQL does.
    pub(crate) fn archive(&self, far: Far, options: &[&str], file: &str) -> Run {
        let path = format!("pg_wal/{file}");
        let mut command = self.client();
        command.arg("wal-archive").args(self.words(far)).args(options).args(["127.0.0.1", "main", &path]);
        Run::of(&mut command)
    }

    /// `wal-restore` of a file to a path.
    pub(crate) fn restore(&self, far: Far, options: &[&str], file: &str, to: &Path) -> Run {
        let mut command = self.client();
        command.arg("wal-restore").args(self.words(far)).args(options).args(["127.0.0.1", "main", file]);
        Run::of(command.arg(to))
    }

    /// A `restore_command`, for a server of this scene's user.
    pub(crate) fn restore_command(&self, far: Far) -> String {
        let path = self.path().into_string().unwrap();
        let run = self.dir.join("run").display().to_string();
        let program = testkit::reachable_binary(barkeep()).display().to_string();
        let words = shell_words::join(self.words(far));
        format!("PATH={path} XDG_RUNTIME_DIR={run} {program} wal-restore {words} 127.0.0.1 main %f %p")
    }

    /// Brings everything that the cluster has written into the archive.
    pub(crate) fn archive_everything(&self) {
        let incoming = self.barman.server_dir("main").join("incoming");
        for name in all_names(&self.wal("archive_status")) {
            if let Some(file) = name.strip_suffix(".ready") {
                fs::copy(self.wal(file), incoming.join(file)).unwrap();
                fs::rename(
                    self.wal(&format!("archive_status/{name}")),
                    self.wal(&format!("archive_status/{file}.done")),
                )
                .unwrap();
            }
        }
        testkit::unprivileged_user().take_over(&incoming);
        self.on_backup_host(&["archive-wal", "main"]).success();
    }

    /// A base backup without WAL, by PostgreSQL's own tool, that is to be recovered with this command.
    pub(crate) fn base_backup(&self, name: &str, restore_command: &str) -> PathBuf {
        let destination = self.dir.join(name);
        let tool = testkit::client_tool("pg_basebackup", self.cluster.major()).unwrap();
        let mut command = Command::new(tool);
        // Without a stream of WAL it would wait until all of it is archived.
        command
            .args(["-X", "stream", "-c", "fast", "-d"])
            .arg(self.cluster.conninfo())
            .arg("-D")
            .arg(&destination);
        Run::of(testkit::unprivileged_user().run_as(&mut command)).success();
        for name in all_names(&destination.join("pg_wal")).iter().filter(|name| name.len() == 24) {
            fs::remove_file(destination.join("pg_wal").join(name)).unwrap();
        }
        let settings =
            format!("restore_command = '{}'\narchive_mode = off\n", restore_command.replace('\'', "''"));
        let auto = destination.join("postgresql.auto.conf");
        let before = fs::read_to_string(&auto).unwrap();
        fs::write(&auto, before + &settings).unwrap();
        fs::write(destination.join("recovery.signal"), "").unwrap();
        testkit::unprivileged_user().take_over(&destination);
        destination
    }

    /// barkeep on the backup host.
    pub(crate) fn on_backup_host(&self, arguments: &[&str]) -> Run {
        let mut command = Command::new(testkit::reachable_binary(barkeep()));
        command.arg("-c").arg(self.barman.config_path()).args(arguments).stdin(Stdio::null());
        command.current_dir(self.barman.home());
        Run::of(testkit::unprivileged_user().run_as(&mut command))
    }

    /// A file of `pg_wal`.
    pub(crate) fn wal(&self, file: &str) -> PathBuf {
        self.cluster.data_dir().join("pg_wal").join(file)
    }

    /// Writes this many segments, and names them.
    pub(crate) fn write_segments(&self, count: usize) -> Vec<String> {
        (0..count)
            .map(|_| {
                self.cluster
                    .execute("select pg_logical_emit_message(false, 'x', repeat('some text ', 3000))");
                self.cluster.switch_wal()
            })
            .collect()
    }

    /// Whether the home has this very content under this name, plain or compressed, archived or not.
    #[track_caller]
    pub(crate) fn assert_kept(&self, file: &str) {
        let output = self.barman.try_run(&["get-wal", "main", file]);
        assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == fs::read(self.wal(file)).unwrap(), "{file} differs");
    }

    /// Nobody can connect any more.
    pub(crate) fn stop_sshd(&mut self) {
        self.sshd = None;
    }

    /// The cluster goes on on a new timeline.
    pub(crate) fn promote(&mut self) {
        self.cluster.stop(testkit::StopMode::Fast);
        let signal = self.cluster.data_dir().join("standby.signal");
        fs::write(&signal, "").unwrap();
        testkit::unprivileged_user().take_over(&signal);
        self.cluster.start_again();
        self.cluster.promote();
    }

    /// What the SSH server has logged.
    pub(crate) fn ssh_log(&self) -> String {
        self.sshd.as_ref().map(Sshd::log).unwrap_or_default()
    }

    /// How often somebody has logged in.
    pub(crate) fn logins(&self) -> usize {
        self.ssh_log().matches("Accepted publickey").count()
    }

    fn path(&self) -> std::ffi::OsString {
        let system = std::env::var_os("PATH").unwrap();
        let directories = std::iter::once(self.dir.join("bin")).chain(std::env::split_paths(&system));
        std::env::join_paths(directories).unwrap()
    }
}

/// The names in a directory, hidden ones too.
pub(crate) fn all_names(directory: &Path) -> Vec<String> {
    crate::stored::names(directory)
}
