//! Another machine's files over one SSH connection, bringing the agent along where there is none.
//!
//! One session does it all. A few lines of shell look for an agent at the far end: one that was brought earlier, verified by
//! its hash; then `barkeep` on the search path. If there is neither they ask for this very executable, take it
//! from the connection, verify it, keep it in a cache directory of that user's, and become it. A forced command in
//! `authorized_keys` that starts an agent is as good: then the lines are never seen.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::agent::{AgentHost, AgentOptions, Confinement};
use crate::host::{Host, HostError};
use crate::ssh::{End, Patient, RemoteCommand, Session, Ssh, SshError};

/// How the far end says that it wants the executable.
const WANTED: &[u8; 16] = b"\0barkeep-wants\r\n";
/// How an agent's greeting begins.
const GREETED: &[u8; 16] = crate::agent::AGENT_MAGIC;
/// How much may come before either, in bytes.
const CHATTER_BYTES_MAX: usize = 64 << 10;
/// How long nothing may move on the connection: longer than it takes a system to give up one that can't be made.
const STILL_MAX: Duration = Duration::from_secs(180);
/// How long the far end may take to end once it is hung up on.
const END_MAX: Duration = Duration::from_secs(5);
/// After how many days an agent of another version that nobody used goes, in the cache at the far end.
const CACHE_DAYS: u32 = 30;
/// Pieces in which the executable is sent, in bytes.
const SEND_BYTES: usize = 256 << 10;

/// Which agent to use at the far end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AgentChoice {
    /// The one on the search path if it speaks a version known here, else one brought along.
    #[default]
    Auto,
    /// The one on the search path: nothing is brought.
    Path,
    /// One that was brought along, always: exactly this version.
    DeployedOnly,
}

impl AgentChoice {
    /// By its name in a configuration file.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "auto" => Some(AgentChoice::Auto),
            "path" => Some(AgentChoice::Path),
            "deployed-only" => Some(AgentChoice::DeployedOnly),
            _ => None,
        }
    }
}

/// Why there is no agent at the far end.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// `ssh` can't be used.
    #[error(transparent)]
    Ssh(#[from] SshError),
    /// This program's own file can't be read, so it can't be sent.
    #[error("this program's own file '{}' can't be sent: {source}", path.display())]
    Executable {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The connection was made or not, but no agent answered.
    #[error("no agent at the far end of \"{command}\": {reason}")]
    NoAgent {
        /// The SSH command.
        command: String,
        /// What was heard instead.
        reason: String,
    },
}

/// The files of another machine. Dropped, it closes the connection.
#[derive(Debug)]
pub struct RemoteHost {
    // Dropped first: the agent sees the end of its input.
    host: AgentHost,
    session: Session,
}

impl RemoteHost {
    /// Connects, and starts an agent that is confined so.
    ///
    /// # Errors
    /// When the host can't be reached, or no agent answers there.
    pub fn connect(
        ssh: &Ssh,
        choice: AgentChoice,
        confinement: &Confinement,
        options: AgentOptions,
    ) -> Result<Self, RemoteError> {
        Self::connect_within(ssh, choice, confinement, options, STILL_MAX)
    }

    fn connect_within(
        ssh: &Ssh,
        choice: AgentChoice,
        confinement: &Confinement,
        options: AgentOptions,
        patience: Duration,
    ) -> Result<Self, RemoteError> {
        match Self::connect_once(ssh, choice, confinement, options, patience) {
            // What is on the path there may be too old to be an agent, or a newer one that has forgotten this version.
            Err(RemoteError::NoAgent { reason, .. })
                if choice == AgentChoice::Auto && reason.starts_with("the agent") =>
            {
                Self::connect_once(ssh, AgentChoice::DeployedOnly, confinement, options, patience)
            }
            outcome => outcome,
        }
    }

    fn connect_once(
        ssh: &Ssh,
        choice: AgentChoice,
        confinement: &Confinement,
        options: AgentOptions,
        patience: Duration,
    ) -> Result<Self, RemoteError> {
        let executable = match choice {
            AgentChoice::Path => None,
            AgentChoice::Auto | AgentChoice::DeployedOnly => Some(Executable::own()?),
        };
        let script = script(choice, executable.as_ref(), &arguments(confinement));
        let mut session = ssh.start(&RemoteCommand::new("sh").arg("-c").arg(&script))?;
        let pipes = session.take_stdout().zip(session.take_stdin()).and_then(|(input, output)| {
            Patient::new(input, patience).ok().zip(Patient::new(output, patience).ok())
        });
        let Some((mut input, mut output)) = pipes else {
            return Err(no_agent(ssh, session, patience, "no pipes".to_owned()));
        };
        let begun = begin(&mut input, &mut output, executable.as_ref());
        let before = match begun {
            Ok(before) => before,
            Err(error) => {
                // The far end may wait for the end of its input.
                drop((input, output));
                return Err(no_agent(ssh, session, patience, error.to_string()));
            }
        };
        match AgentHost::connect(io::Cursor::new(before).chain(input), output, options) {
            Ok(host) => Ok(RemoteHost { host, session }),
            Err(HostError::Lost(reason)) => Err(no_agent(ssh, session, patience, reason)),
            Err(error) => Err(no_agent(ssh, session, patience, error.to_string())),
        }
    }

    /// The host itself.
    pub fn host(&self) -> &dyn Host {
        &self.host
    }

    /// What the far end has said on standard error: the end of it.
    pub fn stderr(&self) -> String {
        self.session.stderr()
    }
}

fn no_agent(ssh: &Ssh, session: Session, patience: Duration, reason: String) -> RemoteError {
    let (end, said) =
        session.finish_within(END_MAX.min(patience)).unwrap_or((End::Connection, String::new()));
    // Then it is not the agent's fault, and another one would not help.
    let reason = if end == End::Connection { "the connection failed".to_owned() } else { reason };
    let said: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let said = said.join("; ").replace(char::is_control, " ");
    let reason = if said.is_empty() { reason } else { format!("{reason} ({said})") };
    RemoteError::NoAgent { command: ssh.to_string(), reason }
}

fn arguments(confinement: &Confinement) -> String {
    let mut line = String::from("agent");
    let options = confinement.read.iter().map(|path| ("--read", path));
    for (option, path) in options.chain(confinement.change.iter().map(|path| ("--restore", path))) {
        // A path that is no text can't be named on a command line that goes through a shell.
        let _ = write!(line, " {option} {}", RemoteCommand::new(&path.to_string_lossy()).as_str());
    }
    line
}

/// This program's own file.
struct Executable {
    path: PathBuf,
    file: File,
    size: u64,
    hash: String,
}

impl Executable {
    fn own() -> Result<Self, RemoteError> {
        let path = PathBuf::from("/proc/self/exe");
        let open = || -> io::Result<(File, u64, String)> {
            let mut file = File::open(&path)?;
            let mut hasher = Sha256::new();
            let mut piece = vec![0; SEND_BYTES];
            let mut size = 0;
            loop {
                let bytes = file.read(&mut piece)?;
                if bytes == 0 {
                    break;
                }
                hasher.update(&piece[..bytes]);
                size += bytes as u64;
            }
            let hash = hasher.finalize().iter().fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            });
            Ok((File::open(&path)?, size, hash))
        };
        match open() {
            Ok((file, size, hash)) => Ok(Executable { path, file, size, hash }),
            Err(source) => Err(RemoteError::Executable { path, source }),
        }
    }

    fn send(&self, output: &mut impl Write) -> io::Result<()> {
        let mut left = (&self.file).take(self.size);
        let mut piece = vec![0; SEND_BYTES];
        loop {
            match left.read(&mut piece)? {
                0 => return output.flush(),
                bytes => output.write_all(&piece[..bytes])?,
            }
        }
    }
}

/// The lines that are run at the far end, for any POSIX shell.
fn script(choice: AgentChoice, executable: Option<&Executable>, arguments: &str) -> String {
    let mut lines = String::from("set -u\n");
    if choice != AgentChoice::DeployedOnly {
        let _ = writeln!(lines, "if command -v barkeep >/dev/null 2>&1; then exec barkeep {arguments}; fi");
    }
    let Some(Executable { size, hash, .. }) = executable else {
        lines.push_str("echo 'barkeep is not on the search path there' >&2; exit 127\n");
        return lines;
    };
    let _ = write!(
        lines,
        r#"umask 077
d="${{XDG_CACHE_HOME:-$HOME/.cache}}/barkeep"
f="$d/agent-{hash}"
sound() {{ [ "$(sha256sum <"$1" 2>/dev/null | cut -c 1-64)" = {hash} ]; }}
mkdir -p "$d" && chmod 700 "$d" || exit 126
if ! sound "$f"; then
  t="$f.$$"
  trap 'rm -f "$t"' EXIT
  printf '\000barkeep-wants\r\n'
  head -c {size} >"$t" || exit 126
  sound "$t" || {{ echo 'the agent arrived damaged, or there is no sha256sum' >&2; exit 126; }}
  chmod 700 "$t" && mv -f "$t" "$f" || exit 126
  trap - EXIT
fi
touch "$f"
find "$d" -name 'agent-*' -mtime +{CACHE_DAYS} -exec rm -f {{}} + 2>/dev/null
exec "$f" {arguments}
"#
    );
    lines
}

/// Reads until an agent greets, sending the executable when it is asked for; the beginning of the greeting.
fn begin(
    input: &mut impl Read,
    output: &mut impl Write,
    mut executable: Option<&Executable>,
) -> io::Result<Vec<u8>> {
    let mut seen = Vec::new();
    let mut byte = [0];
    loop {
        if seen.ends_with(GREETED) {
            return Ok(seen.split_off(seen.len() - GREETED.len()));
        }
        if seen.ends_with(WANTED) {
            // Once: else a far end could go on asking for ever.
            let Some(executable) = executable.take() else {
                return Err(io::Error::other("the far end asks for what it was not offered"));
            };
            executable.send(output).map_err(|error| {
                io::Error::other(format!("sending '{}': {error}", executable.path.display()))
            })?;
            seen.clear();
        }
        if seen.len() >= CHATTER_BYTES_MAX {
            return Err(io::Error::other("no agent answered among much else"));
        }
        if input.read(&mut byte)? == 0 {
            let text = String::from_utf8_lossy(&seen).trim().replace(char::is_control, " ");
            let text: String = text.chars().take(300).collect();
            let instead =
                if text.is_empty() { String::new() } else { format!("; what came instead: {text}") };
            return Err(io::Error::other(format!("the agent does not start{instead}")));
        }
        seen.extend_from_slice(&byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_have_names() {
        assert_eq!(AgentChoice::from_name("deployed-only"), Some(AgentChoice::DeployedOnly));
        assert_eq!(AgentChoice::from_name("never"), None);
    }

    #[test]
    fn odd_paths_arrive_as_they_are() {
        let read = vec![PathBuf::from("/it's a \"place\"; rm -rf $HOME")];
        let line = arguments(&Confinement { read: read.clone(), change: vec![PathBuf::from("/to")] });
        let words = shell_words::split(&line).unwrap();
        assert_eq!(words, ["agent", "--read", read[0].to_str().unwrap(), "--restore", "/to"]);
    }

    #[test]
    fn a_far_end_gets_only_what_it_was_offered() {
        let error = begin(&mut &WANTED[..], &mut Vec::new(), None).unwrap_err();
        assert!(error.to_string().contains("not offered"));
        let error = begin(&mut &b"Welcome!\n"[..], &mut Vec::new(), None).unwrap_err();
        assert!(error.to_string().ends_with("instead: Welcome!"), "{error}");
        let greeting = [b"motd\n", &GREETED[..], b"rest"].concat();
        let mut input = &greeting[..];
        assert_eq!(begin(&mut input, &mut Vec::new(), None).unwrap(), GREETED);
        assert_eq!(input, b"rest");
    }

    /// What becomes of a far end that runs these lines of shell, whatever it is asked to run.
    fn connect(lines: &str) -> Result<RemoteHost, RemoteError> {
        let ssh = Ssh::from_command(&shell_words::join(["sh", "-c", lines, "far-end"])).unwrap();
        // Long enough for a shell to start on a busy machine.
        let patience = Duration::from_secs(2);
        let (choice, options) = (AgentChoice::DeployedOnly, AgentOptions::default());
        RemoteHost::connect_within(&ssh, choice, &Confinement::default(), options, patience)
    }

    #[test]
    fn a_far_end_that_goes_on_with_nothing_is_given_up() {
        for (lines, said) in [
            ("exec sleep 100", "nothing came"),
            ("printf '\\000barkeep-wants\\r\\n'; exec sleep 100", "nothing was taken"),
            ("printf '\\000barkeep-agent\\r\\n'; exec sleep 100", "nothing came"),
        ] {
            let error = connect(lines).unwrap_err().to_string();
            assert!(error.contains(said), "{lines}: {error}");
        }
    }

    #[test]
    fn an_agent_that_takes_nothing_is_given_up() {
        use crate::host::{Action, Change, Root};
        let host = connect("printf '\\000barkeep-agent\\r\\n\\001\\000\\001\\000'; exec sleep 100").unwrap();
        let action = Action::Write { offset: 0, data: vec![0; 1 << 20] };
        let error = host.host().change(&[Change { root: Root(0), path: "file".into(), action }]).unwrap_err();
        assert!(error.is_lost(), "{error}");
    }

    #[test]
    fn a_far_end_that_does_not_end_is_hung_up_on() {
        let error = connect("yes welcome | head -c 100000; exec sleep 100").unwrap_err().to_string();
        assert!(error.contains("much else"), "{error}");
    }

    #[test]
    fn every_shell_takes_the_lines() {
        let executable = Executable::own().unwrap();
        for choice in [AgentChoice::Auto, AgentChoice::Path, AgentChoice::DeployedOnly] {
            let executable = (choice != AgentChoice::Path).then_some(&executable);
            let lines = script(choice, executable, "agent");
            let checked = std::process::Command::new("sh").args(["-n", "-c", &lines]).output().unwrap();
            assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
        }
    }
}
