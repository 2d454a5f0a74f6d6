//! Commands on other hosts, by the system's `ssh`.
//!
//! The user's own words start it (`ssh_command = ssh -F file barman@host` in a configuration file, or a host and a port), so
//! everything that OpenSSH's configuration can do works. One program is run per [`Session`]; its standard input and output
//! are pipes, its standard error is kept up to a bound. There is no runtime here: who waits for several sessions at once
//! gives each a thread.
//!
//! With [`Ssh::reuse`], the connection outlives the session for a while: the next one on this host goes through the same
//! connection, by a control socket in a private directory ([`ControlDirectory`]). Only a program named `ssh` is asked for
//! that; the words of a wrapper are run as they stand.
//!
//! ```no_run
//! use barkeep_transport::ssh::{End, RemoteCommand, Ssh};
//! let ssh = Ssh::from_command("ssh -p 2222 barman@backup.example.org")?;
//! let session = ssh.start(&RemoteCommand::new("ls").arg("-l").arg("it's here"))?;
//! let output = session.output(1 << 20)?;
//! assert_eq!(output.end, End::Exit(0));
//! # Ok::<(), barkeep_transport::ssh::SshError>(())
//! ```

mod control;
mod patient;
mod remote_command;
mod session;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sha2::{Digest, Sha256};

pub use control::ControlDirectory;
pub(crate) use patient::Patient;
pub use remote_command::RemoteCommand;
pub use session::{End, Output, STDERR_BYTES_MAX, Session};

/// How long a silent connection is waited for before a sign of life is asked for, in seconds.
const ALIVE_INTERVAL_SECONDS: u32 = 15;
/// How many such questions may go unanswered.
const ALIVE_COUNT_MAX: u32 = 4;
/// How many bytes of a hash name a control socket: 128 bits, in hexadecimal.
const SOCKET_NAME_BYTES: usize = 16;

/// What can go wrong around `ssh`. What a remote program says and how it ends is no error here: see [`End`].
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// The words can't be split as a shell would.
    #[error("the SSH command \"{command}\" has unbalanced quotes")]
    Words {
        /// The words.
        command: String,
    },
    /// There are no words.
    #[error("the SSH command is empty")]
    Empty,
    /// It would be taken for an option.
    #[error("\"{name}\" cannot be the name of a host or user")]
    Name {
        /// The name.
        name: String,
    },
    /// The program can't be started.
    #[error("cannot run \"{program}\": {source}")]
    Start {
        /// The program.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// Its pipes failed.
    #[error("lost \"{program}\": {source}")]
    Pipe {
        /// The program.
        program: String,
        /// How.
        source: io::Error,
    },
    /// It says more than it may.
    #[error("\"{program}\" answers with more than {limit} bytes")]
    TooMuch {
        /// The program.
        program: String,
        /// How much it may say.
        limit: u64,
    },
}

/// How to reach a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ssh {
    words: Vec<String>,
    reuse: Option<Reuse>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Reuse {
    socket: PathBuf,
    idle: Duration,
}

impl Ssh {
    /// By the words of a configuration file: program, options, destination, quoted as for a shell.
    ///
    /// # Errors
    /// When there are none, or quotes are unbalanced.
    pub fn from_command(command: &str) -> Result<Self, SshError> {
        let words =
            shell_words::split(command).map_err(|_| SshError::Words { command: command.to_owned() })?;
        if words.is_empty() {
            return Err(SshError::Empty);
        }
        Ok(Ssh { words, reuse: None })
    }

    /// By a host's name, as another user or at another port when given; `ssh` from the search path.
    ///
    /// # Errors
    /// When a name would be taken for an option, or is empty.
    pub fn to_host(user: Option<&str>, host: &str, port: Option<u16>) -> Result<Self, SshError> {
        for name in [Some(host), user].into_iter().flatten() {
            if name.is_empty() || name.starts_with('-') || name.chars().any(char::is_control) {
                return Err(SshError::Name { name: name.to_owned() });
            }
        }
        let mut words = vec!["ssh".to_owned()];
        if let Some(port) = port {
            words.extend(["-p".to_owned(), port.to_string()]);
        }
        words.push(user.map_or_else(|| host.to_owned(), |user| format!("{user}@{host}")));
        Ok(Ssh { words, reuse: None })
    }

    /// Keeps the connection open after a session for `idle`, and goes through one that is open already. Without effect for
    /// a program that is not called `ssh`, or when the words say themselves how connections are shared.
    #[must_use]
    pub fn reuse(mut self, directory: &ControlDirectory, idle: Duration) -> Self {
        let shares_already = self.has_option("ControlPath") || self.has_option("ControlMaster");
        if self.is_openssh() && !shares_already && !self.words.iter().any(|word| word.starts_with("-S")) {
            // Named by the words: other options, another user or port are another connection.
            let mut hash = Sha256::new();
            for word in &self.words {
                hash.update((word.len() as u64).to_le_bytes());
                hash.update(word.as_bytes());
            }
            let digest = hash.finalize();
            let name: String = digest.iter().take(SOCKET_NAME_BYTES).map(|b| format!("{b:02x}")).collect();
            self.reuse = Some(Reuse { socket: directory.path().join(name), idle });
        }
        self
    }

    /// The words, as given.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// The control socket, if connections are reused.
    pub fn control_socket(&self) -> Option<&Path> {
        self.reuse.as_ref().map(|reuse| reuse.socket.as_path())
    }

    /// The command that runs `remote` there, for those who start it in their own way.
    pub fn command(&self, remote: &RemoteCommand) -> Command {
        let mut command = Command::new(&self.words[0]);
        if self.is_openssh() {
            command.args(self.options());
        }
        command.args(&self.words[1..]).arg(remote.as_str());
        command
    }

    /// Runs `remote` there.
    ///
    /// # Errors
    /// When the program can't be started here. Whether the host can be reached shows when the session ends.
    pub fn start(&self, remote: &RemoteCommand) -> Result<Session, SshError> {
        let mut command = self.command(remote);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let program = self.words[0].clone();
        match command.spawn() {
            Ok(child) => Ok(Session::new(program, child)),
            Err(source) => Err(SshError::Start { program, source }),
        }
    }

    /// Closes the connection that is kept open, if there is one; sessions on it are cut off.
    pub fn close(&self) {
        let Some(reuse) = &self.reuse else { return };
        if !reuse.socket.exists() {
            return;
        }
        let mut command = Command::new(&self.words[0]);
        command.arg("-S").arg(&reuse.socket).args(["-O", "exit"]).args(&self.words[1..]);
        // It may have gone by itself just now, which is as well.
        let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }

    fn is_openssh(&self) -> bool {
        Path::new(&self.words[0]).file_name().is_some_and(|name| name == "ssh")
    }

    /// Ours come first, since `ssh` takes the first value of an option, and never against the user's own words.
    fn options(&self) -> Vec<String> {
        let mut options = vec!["-T".to_owned()];
        let mut set = |name: &str, value: &str| {
            if !self.has_option(name) {
                options.extend(["-o".to_owned(), format!("{name}={value}")]);
            }
        };
        // Nobody is there to answer a question.
        set("BatchMode", "yes");
        if !self.words.iter().any(|word| word == "-q" || word.starts_with("-v")) {
            // Banners and greetings of the server would end in somebody's log at each run.
            set("LogLevel", "ERROR");
        }
        set("ServerAliveInterval", &ALIVE_INTERVAL_SECONDS.to_string());
        set("ServerAliveCountMax", &ALIVE_COUNT_MAX.to_string());
        if let Some(reuse) = &self.reuse {
            set("ControlMaster", "auto");
            set("ControlPath", &escape_percent(&reuse.socket));
            set("ControlPersist", &reuse.idle.as_secs().max(1).to_string());
        }
        options
    }

    /// Whether the words set this option by `-o`, in any of the ways there are.
    fn has_option(&self, name: &str) -> bool {
        let after_o = self.words.windows(2).filter(|pair| pair[0] == "-o").map(|pair| pair[1].as_str());
        let joined = self.words.iter().filter_map(|word| word.strip_prefix("-o"));
        after_o.chain(joined).any(|option| {
            let key = option.trim_start().split(['=', ' ', '\t']).next().unwrap_or_default();
            key.eq_ignore_ascii_case(name)
        })
    }
}

impl fmt::Display for Ssh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shell_words::join(&self.words))
    }
}

/// In an option's value, `ssh` takes a percent sign for the start of a token.
fn escape_percent(path: &Path) -> String {
    path.display().to_string().replace('%', "%%")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ssh(command: &str) -> Ssh {
        Ssh::from_command(command).unwrap()
    }

    fn words(ssh: &Ssh) -> Vec<String> {
        let command = ssh.command(&RemoteCommand::new("true"));
        std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn words_are_split_as_a_shell_does() {
        assert_eq!(ssh("ssh -F '/a b/c' x\\ y host").words(), ["ssh", "-F", "/a b/c", "x y", "host"]);
        assert!(matches!(Ssh::from_command("ssh 'x"), Err(SshError::Words { .. })));
        assert!(matches!(Ssh::from_command("  "), Err(SshError::Empty)));
    }

    #[test]
    fn a_host_is_never_taken_for_an_option() {
        for (user, host) in [(None, "-oProxyCommand=x"), (Some("-l"), "host"), (None, ""), (Some(""), "h")] {
            assert!(matches!(Ssh::to_host(user, host, None), Err(SshError::Name { .. })), "{user:?} {host}");
        }
        let host = Ssh::to_host(Some("barman"), "host", Some(2222)).unwrap();
        assert_eq!(host.words(), ["ssh", "-p", "2222", "barman@host"]);
    }

    #[test]
    fn the_users_own_options_win() {
        let line =
            words(&ssh("ssh -o BatchMode=no -oserveraliveinterval=7 -o 'LogLevel DEBUG' host")).join(" ");
        for ours in ["BatchMode=yes", "ServerAliveInterval=15", "LogLevel=ERROR"] {
            assert!(!line.contains(ours), "{line}");
        }
        assert!(line.contains("ServerAliveCountMax=4"), "{line}");
        assert!(!words(&ssh("ssh -v host")).join(" ").contains("LogLevel"));
    }

    #[test]
    fn a_wrapper_is_run_as_it_stands() {
        assert_eq!(words(&ssh("/opt/jump host")), ["/opt/jump", "host", "true"]);
    }

    #[test]
    fn other_words_are_another_connection() {
        let base = tempfile::tempdir().unwrap();
        let directory = ControlDirectory::at(&base.path().join("x")).unwrap();
        let socket = |command: &str| {
            let ssh = ssh(command).reuse(&directory, Duration::from_secs(60));
            ssh.control_socket().map(Path::to_owned)
        };
        let one = socket("ssh -p 22 host").unwrap();
        assert_eq!(socket("ssh  -p '22' host"), Some(one.clone()));
        assert_ne!(socket("ssh -p 23 host"), Some(one.clone()));
        assert_ne!(socket("ssh '-p 22' host"), Some(one));
        for shared in
            ["ssh -S none host", "ssh -o ControlPath=/x host", "ssh -ocontrolmaster=no host", "/x host"]
        {
            assert_eq!(socket(shared), None, "{shared}");
        }
    }
}
