//! What the service manager is told, by the protocol of sd_notify(3); nothing happens without one.
//!
//! A manager that does not listen never holds the daemon up: what it can't take at once is dropped.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How long a message that matters may wait for the manager.
const PATIENCE: Duration = Duration::from_secs(5);

/// The service manager, as the environment names it.
#[derive(Debug)]
pub(super) struct ServiceManager {
    socket: Option<UnixDatagram>,
    /// It wants to hear from us all the time.
    watches: bool,
    last_status: String,
}

impl ServiceManager {
    pub(super) fn of_environment() -> Self {
        let socket = connect().unwrap_or_else(|error| {
            tracing::warn!("the service manager (NOTIFY_SOCKET) can't be told anything: {error}");
            None
        });
        let watches = std::env::var_os("WATCHDOG_USEC").is_some();
        ServiceManager { socket, watches, last_status: String::new() }
    }

    /// The daemon works.
    pub(super) fn ready(&mut self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"), true);
        status.clone_into(&mut self.last_status);
    }

    /// The daemon still works.
    pub(super) fn alive(&mut self, status: &str) {
        if self.last_status != status {
            self.tell(&format!("STATUS={status}"), false);
            status.clone_into(&mut self.last_status);
        }
        if self.watches {
            self.tell("WATCHDOG=1", false);
        }
    }

    /// The configuration is being read again.
    pub(super) fn reloading(&self) {
        // systemd wants to know when a reload began.
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"), true);
    }

    /// The daemon has been asked to stop.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1", true);
    }

    fn tell(&self, message: &str, matters: bool) {
        let Some(socket) = &self.socket else { return };
        let sent = socket.set_nonblocking(!matters).and_then(|()| socket.send(message.as_bytes()));
        if let Err(error) = sent {
            tracing::debug!("the service manager did not take \"{message}\": {error}");
        }
    }
}

fn connect() -> io::Result<Option<UnixDatagram>> {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name)?,
        None => SocketAddr::from_pathname(&name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(Some(socket))
}
