//! A PostgreSQL cluster with a running server.

mod builder;
mod server;
mod standby;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use builder::ClusterBuilder;
use server::Server;
pub use server::StopMode;

use crate::port::Port;
use crate::programs;
use crate::tls::TlsFiles;
use crate::user::unprivileged_user;
use crate::{TestDir, wait_for};

/// A PostgreSQL cluster with a server of its own; stopped and removed when dropped.
#[derive(Debug)]
pub struct Cluster {
    major: u32,
    data_dir: PathBuf,
    server: Option<Server>,
    port: Port,
    tls: Option<TlsFiles>,
    // Declared last: dropped after the server has been stopped.
    root: TestDir,
}

/// Why a server did not start: its last words.
#[derive(Debug)]
pub struct StartFailure {
    /// What was waited for.
    pub reason: String,
    /// The server's log.
    pub log: String,
}

impl Cluster {
    /// Begins the description of a new cluster of a major version: what `initdb` and `postgresql.conf` are to say.
    #[must_use]
    pub fn builder(major: u32) -> ClusterBuilder {
        ClusterBuilder::new(major)
    }

    /// A new cluster with nothing special about it.
    #[must_use]
    pub fn start(major: u32) -> Self {
        Self::builder(major).start()
    }

    /// Starts a server on an existing data directory, such as a restored one, on a port of its own, and waits until it
    /// accepts connections: as a primary, or read-only while in recovery (also paused at its target).
    ///
    /// The directory and its tablespaces are handed to the servers' user. They are not removed at the end.
    #[must_use]
    #[track_caller]
    pub fn adopt(major: u32, data_dir: &Path) -> Self {
        match Self::try_adopt(major, data_dir) {
            Ok(cluster) => cluster,
            Err(failure) => panic!("{}\n--- its log:\n{}", failure.reason, failure.log),
        }
    }

    /// As [`Cluster::adopt`], for a server that may refuse to start.
    ///
    /// # Errors
    /// The server's log, if it ends or does not accept connections in time.
    pub fn try_adopt(major: u32, data_dir: &Path) -> Result<Self, StartFailure> {
        take_over_with_tablespaces(data_dir);
        let mut cluster = Self::unstarted(major, data_dir.to_path_buf(), TestDir::new());
        cluster.try_start().map(|()| cluster)
    }

    /// Runs the server on an existing data directory until it ends by itself, as it does with
    /// `recovery_target_action = 'shutdown'` or when recovery fails: its log.
    #[must_use]
    #[track_caller]
    pub fn run_until_exit(major: u32, data_dir: &Path) -> String {
        take_over_with_tablespaces(data_dir);
        let mut cluster = Self::unstarted(major, data_dir.to_path_buf(), TestDir::new());
        let mut server = cluster.spawn_server();
        wait_for("the server to end by itself", START_SECONDS, || server.has_exited().then_some(()));
        cluster.server = Some(server);
        cluster.log()
    }

    /// The major version.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The TCP port on 127.0.0.1; also the number in the socket's name.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The directory of the Unix socket.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        self.root.path()
    }

    /// Where one of the server's own programs is (`pg_ctl`, `initdb`, perhaps `pg_waldump`).
    #[must_use]
    pub fn bin(&self, name: &str) -> Option<PathBuf> {
        programs::server_bin_dir(self.major).map(|dir| dir.join(name)).filter(|path| path.exists())
    }

    /// The certificates, of a cluster that was built with TLS.
    #[must_use]
    pub fn tls(&self) -> &TlsFiles {
        self.tls.as_ref().expect("a cluster built with tls()")
    }

    /// A connection string over the Unix socket, as superuser `postgres`, with no password asked.
    #[must_use]
    pub fn conninfo(&self) -> String {
        format!("host={} port={} user=postgres dbname=postgres", self.socket_dir().display(), self.port())
    }

    /// A connection string over TCP, as superuser `postgres`.
    #[must_use]
    pub fn tcp_conninfo(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port())
    }

    /// An SQL connection. Not to be used within an asynchronous runtime; [`Cluster::execute`] and
    /// [`Cluster::query_text`] may.
    #[must_use]
    #[track_caller]
    pub fn client(&self) -> postgres::Client {
        self.client_of("postgres")
    }

    /// A connection to this database.
    #[track_caller]
    pub fn client_of(&self, database: &str) -> postgres::Client {
        self.try_client(database)
            .unwrap_or_else(|error| panic!("connect to the server: {error}\n{}", self.log()))
    }

    /// Runs SQL statements, in one implicit transaction if there is more than one.
    #[track_caller]
    pub fn execute(&self, sql: &str) {
        self.query_text(sql);
    }

    /// Runs SQL statements: the first column of every row as text, with an empty string for null.
    #[track_caller]
    pub fn query_text(&self, sql: &str) -> Vec<String> {
        self.try_query_text(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// As [`Cluster::query_text`], in another database.
    #[track_caller]
    #[must_use]
    pub fn query_text_in(&self, database: &str, sql: &str) -> Vec<String> {
        let run = || -> Result<Vec<String>, postgres::Error> {
            let mut client = self.try_client(database)?;
            Ok(client.simple_query(sql)?.iter().filter_map(first_column).collect())
        };
        let result = std::thread::scope(|scope| scope.spawn(run).join().expect("an SQL thread"));
        result.unwrap_or_else(|error| panic!("{database}: {sql}: {error}"))
    }

    /// As [`Cluster::query_text`], where the statement may fail.
    ///
    /// # Errors
    /// The server's message.
    pub fn try_query_text(&self, sql: &str) -> Result<Vec<String>, String> {
        // A thread of its own: the client brings a runtime, which could not be started inside the caller's.
        let run = || -> Result<Vec<String>, postgres::Error> {
            let mut client = self.try_client("postgres")?;
            let messages = client.simple_query(sql)?;
            Ok(messages.iter().filter_map(first_column).collect())
        };
        let result = std::thread::scope(|scope| scope.spawn(run).join().expect("an SQL thread"));
        result.map_err(|error| match error.as_db_error() {
            Some(server) => server.to_string(),
            None => error.to_string(),
        })
    }

    /// The one value that a query gives, as text.
    #[must_use]
    #[track_caller]
    pub fn value(&self, sql: &str) -> String {
        let mut rows = self.query_text(sql);
        assert_eq!(rows.len(), 1, "rows of: {sql}");
        rows.remove(0)
    }

    /// Starts the next WAL segment: the name of the one that was completed.
    #[track_caller]
    pub fn switch_wal(&self) -> String {
        self.execute(
            "create table if not exists testkit_switch (n int); insert into testkit_switch values (1)",
        );
        self.value("select pg_walfile_name(pg_switch_wal())")
    }

    /// Whether the server is in recovery: a standby, or a restored cluster on its way to the target.
    #[must_use]
    #[track_caller]
    pub fn is_in_recovery(&self) -> bool {
        self.value("select pg_is_in_recovery()") == "t"
    }

    /// Waits until recovery has ended and the server takes writes.
    #[track_caller]
    pub fn wait_until_writable(&self) {
        let writable = || self.try_query_text("select pg_is_in_recovery()").is_ok_and(|rows| rows == ["f"]);
        let end = std::time::Instant::now() + Duration::from_secs(START_SECONDS);
        while !writable() {
            assert!(std::time::Instant::now() < end, "recovery did not end; the log:\n{}", self.log());
            std::thread::sleep(crate::POLL_INTERVAL);
        }
    }

    /// Makes a standby (or a server paused in recovery) the primary of a new timeline, and waits until it takes writes.
    #[track_caller]
    pub fn promote(&self) {
        self.execute("select pg_promote(true)");
        self.wait_until_writable();
    }

    /// Stops the server and waits for its end.
    #[track_caller]
    pub fn stop(&mut self, mode: StopMode) {
        if let Some(mut server) = self.server.take() {
            server.stop(mode);
        }
    }

    /// Kills the server (SIGKILL), as a power cut would; [`Cluster::start_again`] then recovers it.
    #[track_caller]
    pub fn kill(&mut self) {
        self.stop(StopMode::Kill);
    }

    /// Starts the server again, on the same port.
    #[track_caller]
    pub fn start_again(&mut self) {
        if let Err(failure) = self.try_start() {
            panic!("{}\n--- its log:\n{}", failure.reason, failure.log);
        }
    }

    /// Stops the server in good order and starts it again.
    #[track_caller]
    pub fn restart(&mut self) {
        self.stop(StopMode::Fast);
        self.start_again();
    }

    /// Adds a line `key = 'value'` to `postgresql.conf` and makes the server read it. Settings that need a restart take
    /// effect at the next one.
    #[track_caller]
    pub fn set(&self, key: &str, value: &str) {
        builder::append_settings(&self.data_dir, &[(key.to_owned(), value.to_owned())]);
        self.execute("select pg_reload_conf()");
    }

    /// Makes an empty directory for the server's user beside the cluster, as for a tablespace; removed with it.
    #[must_use]
    pub fn new_dir(&self, name: &str) -> PathBuf {
        self.root.subdir(name)
    }

    /// All that the server has logged.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// The server's process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Server::pid)
    }

    fn unstarted(major: u32, data_dir: PathBuf, root: TestDir) -> Self {
        Self { major, data_dir, server: None, port: Port::reserve(), tls: None, root }
    }

    fn log_path(&self) -> PathBuf {
        self.root.join("server.log")
    }

    fn try_client(&self, database: &str) -> Result<postgres::Client, postgres::Error> {
        postgres::Config::new()
            .host_path(self.socket_dir())
            .port(self.port())
            .user("postgres")
            .dbname(database)
            .application_name("testkit")
            .connect(postgres::NoTls)
    }

    fn spawn_server(&mut self) -> Server {
        let program =
            self.bin("postgres").unwrap_or_else(|| panic!("no PostgreSQL {} installed", self.major));
        Server::spawn(&program, &self.data_dir, self.socket_dir(), self.port(), &self.log_path())
    }

    fn try_start(&mut self) -> Result<(), StartFailure> {
        assert!(self.server.is_none(), "the server runs already");
        let mut server = self.spawn_server();
        let end = std::time::Instant::now() + Duration::from_secs(START_SECONDS);
        let reason = loop {
            if server.has_exited() {
                break format!(
                    "PostgreSQL {} on '{}' ended while starting",
                    self.major,
                    self.data_dir.display()
                );
            }
            if self.try_query_text("select 1").is_ok() {
                self.server = Some(server);
                return Ok(());
            }
            if std::time::Instant::now() > end {
                server.stop(StopMode::Immediate);
                break format!("PostgreSQL {} accepted no connection in {START_SECONDS} s", self.major);
            }
            std::thread::sleep(crate::POLL_INTERVAL);
        };
        Err(StartFailure { reason, log: self.log() })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            eprintln!(
                "--- log of PostgreSQL {} on port {}:\n{}\n---",
                self.major,
                self.port(),
                last.join("\n")
            );
        }
        if let Some(mut server) = self.server.take() {
            // Nothing is kept, so nothing needs a shutdown checkpoint.
            server.stop(StopMode::Immediate);
        }
    }
}

fn first_column(message: &postgres::SimpleQueryMessage) -> Option<String> {
    match message {
        postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    }
}

/// A restored cluster belongs to who restored it; its server runs as somebody else if that was root.
fn take_over_with_tablespaces(data_dir: &Path) {
    let user = unprivileged_user();
    user.take_over(data_dir);
    for link in std::fs::read_dir(data_dir.join("pg_tblspc")).into_iter().flatten().flatten() {
        if let Ok(target) = std::fs::read_link(link.path()) {
            user.take_over(&target);
        }
    }
}

/// How long a server may take to start, recovery included.
const START_SECONDS: u64 = 90;
/// How much of a server's log a failing test shows.
const LOG_LINES_SHOWN: usize = 60;
