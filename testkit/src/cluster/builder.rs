//! What a new cluster is to be like.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use super::Cluster;
use crate::TestDir;
use crate::programs;
use crate::tls::TlsFiles;
use crate::user::unprivileged_user;

/// The description of a new cluster; see [`Cluster::builder`].
#[derive(Debug, Clone)]
pub struct ClusterBuilder {
    major: u32,
    segment_size_mib: Option<u32>,
    checksums: bool,
    settings: Vec<(String, String)>,
    hba: Vec<String>,
    tls: bool,
}

impl ClusterBuilder {
    pub(super) fn new(major: u32) -> Self {
        Self {
            major,
            segment_size_mib: None,
            checksums: false,
            settings: Vec::new(),
            hba: Vec::new(),
            tls: false,
        }
    }

    /// The size of WAL segments, a power of two from 1 to 1024 MiB. PostgreSQL's own choice is 16.
    #[must_use]
    pub fn segment_size_mib(mut self, size: u32) -> Self {
        self.segment_size_mib = Some(size);
        self
    }

    /// Whether data pages carry checksums. They do not unless asked for, in every version.
    #[must_use]
    pub fn checksums(mut self, checksums: bool) -> Self {
        self.checksums = checksums;
        self
    }

    /// A line `key = 'value'` of `postgresql.conf`.
    #[must_use]
    pub fn setting(mut self, key: &str, value: &str) -> Self {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    /// A line of `pg_hba.conf`, before those that trust everybody on this machine.
    #[must_use]
    pub fn hba(mut self, line: &str) -> Self {
        self.hba.push(line.to_owned());
        self
    }

    /// The server speaks TLS, with the certificates that [`Cluster::tls`] shows.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Makes the cluster and starts its server.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> Cluster {
        let root = TestDir::new();
        let data_dir = root.join("data");
        self.initdb(&data_dir);
        let tls = self.tls.then(|| TlsFiles::create(&root.join("tls")));
        self.configure(&data_dir, tls.as_ref());
        let mut cluster = Cluster::unstarted(self.major, data_dir, root);
        cluster.tls = tls;
        cluster.start_again();
        cluster
    }

    fn initdb(&self, data_dir: &Path) {
        let bin_dir = programs::server_bin_dir(self.major)
            .unwrap_or_else(|| panic!("no PostgreSQL {}: call require_pg! first", self.major));
        let mut command = Command::new(bin_dir.join("initdb"));
        command
            .args([
                "--username=postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--no-locale",
                "--no-sync",
                "--pgdata",
            ])
            .arg(data_dir)
            .current_dir("/")
            .env("LC_ALL", "C");
        if let Some(size) = self.segment_size_mib {
            command.arg(format!("--wal-segsize={size}"));
        }
        if self.checksums {
            command.arg("--data-checksums");
        } else if self.major >= CHECKSUMS_BY_DEFAULT_SINCE {
            command.arg("--no-data-checksums");
        }
        let output = unprivileged_user().run_as(&mut command).output().expect("run initdb");
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn configure(&self, data_dir: &Path, tls: Option<&TlsFiles>) {
        let mut settings: Vec<(String, String)> =
            BASE_SETTINGS.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        if let Some(tls) = tls {
            for (key, path) in [
                ("ssl_ca_file", tls.ca_cert()),
                ("ssl_cert_file", tls.server_cert()),
                ("ssl_key_file", tls.server_key()),
            ] {
                settings.push((key.to_owned(), path.display().to_string()));
            }
            settings.push(("ssl".to_owned(), "on".to_owned()));
        }
        settings.extend(self.settings.iter().cloned());
        append_settings(data_dir, &settings);
        let hba = format!("{}\n{TRUST_EVERYBODY_HERE}", self.hba.join("\n"));
        std::fs::write(data_dir.join("pg_hba.conf"), hba).expect("write pg_hba.conf");
    }
}

pub(super) fn append_settings(data_dir: &Path, settings: &[(String, String)]) {
    let mut text = String::from("\n");
    for (key, value) in settings {
        let _ = writeln!(text, "{key} = '{}'", value.replace('\'', "''"));
    }
    let path = data_dir.join("postgresql.conf");
    let mut file = std::fs::File::options().append(true).open(path).expect("open postgresql.conf");
    file.write_all(text.as_bytes()).expect("write postgresql.conf");
}

/// Quick to start, small, and with nothing in the way of what is tested. A test's servers do not outlive a power cut,
/// so they need not wait for the disk.
const BASE_SETTINGS: [(&str, &str); 8] = [
    ("fsync", "off"),
    ("shared_buffers", "32MB"),
    ("max_connections", "30"),
    ("wal_level", "replica"),
    ("jit", "off"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    ("log_line_prefix", "%m [%p] %q%a "),
];

const TRUST_EVERYBODY_HERE: &str = "\
local all         all              trust
host  all         all 127.0.0.1/32 trust
local replication all              trust
host  replication all 127.0.0.1/32 trust
";

/// The first version whose `initdb` turns checksums on by itself.
const CHECKSUMS_BY_DEFAULT_SINCE: u32 = 18;
