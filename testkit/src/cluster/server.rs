//! The server process: started, watched, stopped by its id.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::user::unprivileged_user;

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Disconnects clients, writes a checkpoint, ends (SIGINT).
    Fast,
    /// Ends at once; the next start recovers (SIGQUIT).
    Immediate,
    /// Is killed, with no chance to do anything (SIGKILL).
    Kill,
}

#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    watchdog: Child,
}

impl Server {
    pub(super) fn spawn(program: &Path, data_dir: &Path, socket_dir: &Path, port: u16, log: &Path) -> Self {
        let log_file = File::options().create(true).append(true).open(log).expect("open the server's log");
        let mut command = Command::new(program);
        command
            .arg("-D")
            .arg(data_dir)
            // On the command line, so that a restored cluster never takes the address of the one it came from.
            .arg("-p")
            .arg(port.to_string())
            .args(["-c", "listen_addresses=127.0.0.1", "-c"])
            .arg(format!("unix_socket_directories={}", socket_dir.display()))
            .args(["-c", "logging_collector=off", "-c", "log_destination=stderr"])
            .current_dir(socket_dir)
            .env_remove("PGDATA")
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .stdin(Stdio::null())
            .stdout(log_file.try_clone().expect("the log, twice"))
            .stderr(log_file);
        let child = unprivileged_user().run_as(&mut command).spawn().expect("start postgres");
        let watchdog = spawn_watchdog(child.id(), data_dir);
        Self { child, watchdog }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn has_exited(&mut self) -> bool {
        self.child.try_wait().expect("look at the server").is_some()
    }

    pub(super) fn stop(&mut self, mode: StopMode) {
        let signal = match mode {
            StopMode::Fast => Signal::INT,
            StopMode::Immediate => Signal::QUIT,
            StopMode::Kill => Signal::KILL,
        };
        let children = if mode == StopMode::Kill { child_processes(self.child.id()) } else { Vec::new() };
        if !self.has_exited() {
            self.signal(signal);
            if !self.exits_within(STOP_SECONDS) {
                self.signal(Signal::KILL);
                let _ = self.child.wait();
            }
        }
        // The other processes of a killed server see its end a moment later, and hold its shared memory until then.
        let end = Instant::now() + Duration::from_secs(STOP_SECONDS);
        while children.iter().any(|pid| is_alive(*pid)) && Instant::now() < end {
            std::thread::sleep(crate::POLL_INTERVAL);
        }
        self.dismiss_watchdog();
    }

    fn signal(&self, signal: Signal) {
        let _ = rustix::process::kill_process(Pid::from_child(&self.child), signal);
    }

    fn exits_within(&mut self, seconds: u64) -> bool {
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            if self.has_exited() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    fn dismiss_watchdog(&mut self) {
        if let Some(mut stdin) = self.watchdog.stdin.take() {
            let _ = stdin.write_all(b"done\n");
        }
        let _ = self.watchdog.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(StopMode::Immediate);
    }
}

/// A shell that waits for a word on its standard input. If the test process is killed, the pipe closes without one, and
/// the shell stops the server: no test leaves one behind. The process's directory tells whether the id is still its own.
fn spawn_watchdog(server: u32, data_dir: &Path) -> Child {
    const SCRIPT: &str = r#"trap '' INT TERM HUP; read -r _ && exit; [ "$(readlink "/proc/$1/cwd")" = "$2" ] && kill -QUIT "$1""#;
    Command::new("sh")
        .args(["-c", SCRIPT, "watchdog"])
        .arg(server.to_string())
        .arg(data_dir.canonicalize().unwrap_or_else(|_| data_dir.to_path_buf()))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start a shell")
}

fn child_processes(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

const STOP_SECONDS: u64 = 30;
