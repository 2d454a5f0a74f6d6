//! The directory of a drill: made, configured, and removed at the end, however that comes.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use barkeep_transport::durable;
use pgbase::recovery::quote_value;
use pgbase::restore::RestorePlan;

use super::sweep;
use crate::context::ServerContext;
use crate::error::{CommandError, chain};

/// Owner only.
const PRIVATE: u32 = 0o700;
/// How the directories of sockets are called.
pub(super) const SOCKETS_NAME: &str = "barkeep-drill";
/// How many names are tried for a directory.
const NAME_TRIES: u32 = 64;

/// A scratch directory.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    /// The directory of the server's socket: a socket's path has to be short.
    sockets: PathBuf,
}

impl Scratch {
    /// Makes a directory of its own below `parent`, or below the server's backup directory. To be called under the lock of
    /// drills.
    pub(super) fn create(server: &ServerContext, parent: Option<&Path>) -> Result<Self, CommandError> {
        let parent = match parent {
            Some(parent) => std::path::absolute(parent)?,
            None => server.layout().private().join("drill"),
        };
        // Nobody else is at it, by the lock: what is there was left by a drill that was killed.
        sweep::sweep(&server.layout().private().join("drill"));
        let failed = |path: &Path, error: &dyn std::error::Error| {
            CommandError::new(format!("{} can't be made: {error}", path.display()))
        };
        durable::create_dir_all_mode(&parent, PRIVATE).map_err(|error| failed(&parent, &error))?;
        let path = new_directory(&parent, "drill").map_err(|error| failed(&parent, &error))?;
        let temporary = std::env::temp_dir();
        match new_directory(&temporary, SOCKETS_NAME) {
            Ok(sockets) => Ok(Scratch { path, sockets }),
            Err(error) => {
                let _ = fs::remove_dir(&path);
                Err(failed(&temporary, &error))
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    pub(super) fn sockets(&self) -> &Path {
        &self.sockets
    }

    pub(super) fn config(&self) -> PathBuf {
        self.path.join("postgresql.conf")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.path.join("server.log")
    }

    /// Gives the restored cluster a configuration of the drill's own: of the original's nothing is left but what
    /// recovery needs.
    pub(super) fn configure(&self, plan: &RestorePlan) -> Result<(), CommandError> {
        let quoted = |path: &Path| {
            let text = path.to_str().ok_or_else(|| {
                CommandError::new(format!("{} can't be written into a configuration", path.display()))
            })?;
            quote_value(text).map_err(|error| CommandError::new(chain(&error)))
        };
        let (hba, ident) = (self.path.join("pg_hba.conf"), self.path.join("pg_ident.conf"));
        let config = format!(
            "# Of a drill: private, short-lived, nothing inherited.\n\
             hba_file = {}\nident_file = {}\nlisten_addresses = ''\nunix_socket_directories = {}\n\
             unix_socket_permissions = 0700\nport = {PORT}\narchive_mode = off\nhot_standby = off\n\
             max_wal_senders = 0\nmax_prepared_transactions = 1000\nmax_locks_per_transaction = 256\n\
             autovacuum = off\nfsync = off\nlogging_collector = off\njit = off\n",
            quoted(&hba)?,
            quoted(&ident)?,
            quoted(&self.sockets)?,
        );
        let recovery =
            plan.settings.render(plan.backup.major).map_err(|error| CommandError::new(chain(&error)))?;
        for (path, text) in [
            (self.config(), &config[..]),
            (hba, "local all all trust\n"),
            (ident, ""),
            (self.data().join(&plan.settings_file), &recovery),
        ] {
            fs::write(&path, text).map_err(|error| {
                CommandError::because(format!("{} can't be written", path.display()), &error)
            })?;
        }
        Ok(())
    }
}

/// The port that names the socket; nobody listens on it.
pub(super) const PORT: u16 = 5432;

impl Drop for Scratch {
    fn drop(&mut self) {
        for path in [&self.path, &self.sockets] {
            if let Err(error) = fs::remove_dir_all(path) {
                tracing::warn!(path = %path.display(), %error, "what a drill left could not be removed");
            }
        }
    }
}

/// A private directory with a name that nobody has.
fn new_directory(parent: &Path, name: &str) -> io::Result<PathBuf> {
    let mut tries = 0;
    loop {
        let path = parent.join(format!("{name}-{}-{tries}", std::process::id()));
        match DirBuilder::new().mode(PRIVATE).create(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < NAME_TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
}
