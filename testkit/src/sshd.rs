//! A private SSH server on loopback, for one test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::port::Port;
use crate::programs;
use crate::user::{User, unprivileged_user};
use crate::{TestDir, wait_for};

/// An OpenSSH server that lets the servers' user in, with a key made for the occasion; stopped when dropped.
#[derive(Debug)]
pub struct Sshd {
    child: Child,
    port: Port,
    dir: TestDir,
}

impl Sshd {
    /// Starts the server. It runs as the unprivileged user, and nobody else can log in.
    #[must_use]
    #[track_caller]
    pub fn start() -> Self {
        Self::start_for(unprivileged_user())
    }

    /// The same as another user, who alone can log in.
    #[must_use]
    #[track_caller]
    pub fn start_for(user: &User) -> Self {
        let program = programs::sshd().expect("an OpenSSH server: call require_sshd! first");
        let (dir, port) = (TestDir::new(), Port::reserve());
        for key in ["host_key", "client_key"] {
            let output = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(dir.join(key))
                .output()
                .expect("run ssh-keygen");
            assert!(output.status.success(), "ssh-keygen: {}", String::from_utf8_lossy(&output.stderr));
        }
        write_configuration(&dir, &user.name, port.number());
        user.take_over(dir.path());
        let mut command = Command::new(&program);
        command.arg("-D").arg("-e").arg("-f").arg(dir.join("sshd_config"));
        if let Some(libraries) = unpacked_libraries(&program) {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        let log = std::fs::File::create(dir.join("sshd.log")).expect("create sshd's log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = user.run_as(&mut command).spawn().expect("start sshd");
        let mut sshd = Self { child, port, dir };
        wait_for("sshd to listen", 20, || {
            let ended = sshd.child.try_wait().expect("look at sshd").is_some();
            assert!(!ended, "sshd ended: {}", sshd.log());
            std::net::TcpStream::connect(("127.0.0.1", sshd.port.number())).ok()
        });
        sshd
    }

    /// The words of an SSH command that reaches this server, as for `ssh_command` in a configuration file. It can be
    /// used by the servers' user, and by root.
    #[must_use]
    pub fn ssh_command(&self) -> String {
        format!("ssh -F {} 127.0.0.1", self.dir.join("ssh_config").display())
    }

    /// The same for another user, who then has the key too: `ssh` takes no one else's. `dir` is that user's.
    #[must_use]
    pub fn ssh_command_for(&self, user: &User, dir: &Path) -> String {
        use std::os::unix::fs::PermissionsExt as _;
        let (from, to) = (self.dir.path().display().to_string(), dir.display().to_string());
        let config =
            std::fs::read_to_string(self.dir.join("ssh_config")).expect("read the client's configuration");
        let key = dir.join("client_key");
        std::fs::write(dir.join("ssh_config"), config.replace(&from, &to)).expect("write it again");
        std::fs::copy(self.dir.join("client_key"), &key).expect("copy the key");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600))
            .expect("permissions of the key");
        user.take_over(dir);
        format!("ssh -F {} 127.0.0.1", dir.join("ssh_config").display())
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// What the server has logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("sshd.log")).unwrap_or_default()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of sshd:\n{}\n---", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write_configuration(dir: &TestDir, user: &str, port: u16) {
    let at = dir.path().display();
    std::fs::copy(dir.join("client_key.pub"), dir.join("authorized_keys")).expect("copy a public key");
    dir.write(
        "sshd_config",
        format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {at}/host_key\nPidFile none\n\
             AuthorizedKeysFile {at}/authorized_keys\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             UsePAM no\nStrictModes no\nAllowUsers {user}\nPrintMotd no\nPrintLastLog no\nMaxStartups 100\n\
             MaxSessions 100\n"
        ),
    );
    dir.write(
        "ssh_config",
        format!(
            "Host *\n  Port {port}\n  User {user}\n  IdentityFile {at}/client_key\n  IdentitiesOnly yes\n  \
             IdentityAgent none\n  UserKnownHostsFile {at}/known_hosts\n  StrictHostKeyChecking accept-new\n  \
             BatchMode yes\n  LogLevel ERROR\n"
        ),
    );
}

/// The unpacked package brings one library that the machine may lack.
fn unpacked_libraries(program: &Path) -> Option<PathBuf> {
    let root =
        program.strip_prefix(programs::deps_dir()).ok().map(|_| programs::deps_dir().join("sshd/usr/lib"))?;
    let entries = std::fs::read_dir(root).ok()?;
    entries.flatten().map(|entry| entry.path()).find(|path| path.join("libwrap.so.0").exists())
}
