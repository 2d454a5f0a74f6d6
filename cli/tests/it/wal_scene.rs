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
    Barman,
}

/// A home with the server `main`, an SSH server before it, and the server's cluster.
pub(crate) struct Scene {
    pub(crate) cluster: Cluster,
    pub(crate) barman: Barman,
    pub(crate) sshd: Sshd,
    pub(crate) dir: TestDir,
}

impl Scene {
    /// A cluster with segments of 1 MiB, all of whose WAL waits to be archived.
    pub(crate) fn new(major: u32) -> Self {
        let cluster = Cluster::builder(major)
            .segment_size_mib(1)
            .setting("archive_mode", "on")
            .setting("archive_command", "false")
            .start();
        Scene::with(cluster)
    }

    /// Around this cluster.
    pub(crate) fn with(cluster: Cluster) -> Self {
        let (barman, sshd, dir) = (Barman::new(), Sshd::start(), TestDir::new());
        barman.add_server("main", &cluster, "archiver = on\nstreaming_archiver = off");
        let scene = Scene { cluster, barman, sshd, dir };
        for directory in ["incoming", "wals", "errors", "streaming", "base", "meta"] {
            fs::create_dir_all(scene.barman.server_dir("main").join(directory)).unwrap();
        }
        testkit::unprivileged_user().take_over(&scene.barman.home());
        let _ = scene.dir.subdir("run");
        let _ = scene.dir.subdir("bin");
        // Found before the system's: it knows the key and the host, as a user's configuration would.
        let ssh = scene.sshd.ssh_command();
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
            Far::Barman => testkit::programs::barman_bin_dir().unwrap().join("barman"),
        };
        [
            "-U".to_owned(),
            testkit::unprivileged_user().name.clone(),
            "--port".to_owned(),
            self.sshd.port().to_string(),
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

    /// How often somebody has logged in.
    pub(crate) fn logins(&self) -> usize {
        self.sshd.log().matches("Accepted publickey").count()
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
