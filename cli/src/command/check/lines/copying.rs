//! Checks of the ways that data comes by: the replication protocol, SSH, the local file system.

use std::io::Read as _;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use barkeep_transport::ssh::{End, RemoteCommand, Ssh};

use super::backups::Home;
use super::{Deadline, Lines};
use crate::config::{BackupMethod, ServerConfig, Value};
use crate::context::ServerContext;
use crate::live::Live;

/// How much of what a remote `true` writes is looked at, in bytes: it should write nothing.
const OUTPUT_BYTES_MAX: u64 = 4096;
/// PostgreSQL 15 has no exclusive backups any more.
const NO_EXCLUSIVE_BACKUPS: u32 = 150_000;

/// Asks about the way that this server's backups take. Whether there was time enough.
pub(super) fn lines(
    lines: &mut Lines,
    server: &ServerContext,
    live: &Live,
    home: &Home,
    deadline: Deadline,
) -> bool {
    let config = &server.config;
    if let Some(command) = config.text("primary_ssh_command") {
        return remote(lines, command, "Barman primary node", deadline) != Reached::TooLate;
    }
    if let method @ (BackupMethod::Snapshot | BackupMethod::LocalToCloud) = config.backup_method() {
        let name = if method == BackupMethod::Snapshot { "snapshot" } else { "local-to-cloud" };
        lines.failed(
            "backup method",
            format!("backup_method = {name} is not available in barkeep"),
            "set backup_method = postgres, rsync or local-rsync, or leave this server to Barman",
        );
    }
    let in_time = match config.backup_method() {
        BackupMethod::Postgres => {
            client(lines, "pg_basebackup", live);
            if live.sql.known().is_some() {
                lines.ok("pg_basebackup supports tablespaces mapping");
            }
            true
        }
        BackupMethod::Rsync | BackupMethod::Snapshot => match config.ssh_command() {
            Some(command) => {
                let reached = remote(lines, command, "PostgreSQL server", deadline);
                if reached == Reached::Yes && live.sql.known().is_none() {
                    left_over_label(lines, command, home, deadline);
                }
                reached != Reached::TooLate
            }
            // The configuration line tells of it.
            None => true,
        },
        BackupMethod::LocalRsync => {
            local(lines, live);
            true
        }
        BackupMethod::LocalToCloud => true,
    };
    if is_exclusive(config) {
        exclusive(lines, live);
    }
    in_time
}

/// The client of the replication protocol: barkeep itself, for every server that answers.
pub(super) fn client(lines: &mut Lines, name: &str, live: &Live) {
    lines.ok(name);
    let compatible = live.sql.known().is_some();
    let hint = if compatible { "" } else { "not known while PostgreSQL does not answer" };
    lines.judge(format!("{name} compatible"), compatible, hint, "see the line about PostgreSQL");
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reached {
    Yes,
    No,
    TooLate,
}

/// How a small command at the far end went.
enum Answer {
    /// It was run: its exit code, and what it wrote.
    Ran(u8, Vec<u8>),
    /// It could not be run, for this reason.
    Failed(String),
    TooLate,
}

/// Whether the host can be reached, and nothing is written to the connection unasked.
fn remote(lines: &mut Lines, command: &str, to: &str, deadline: Deadline) -> Reached {
    const CURE: &str =
        "see that 'COMMAND true' works as the user barkeep runs as, without a question or a password";
    let cure = CURE.replace("COMMAND", command);
    match ask(command, &RemoteCommand::new("true"), deadline) {
        Answer::Ran(0, output) => {
            lines.put("ssh", true, to);
            if !output.is_empty() {
                lines.failed(
                    "ssh output clean",
                    "the configured ssh_command must not add anything to the remote command output",
                    "remove what prints from the start-up files of the remote user's shell (.bashrc, motd)",
                );
            }
            Reached::Yes
        }
        Answer::Ran(code, _) => {
            lines.failed("ssh", format!("the remote 'true' ended with code {code}"), cure);
            Reached::No
        }
        Answer::Failed(reason) => {
            lines.failed("ssh", reason, cure);
            Reached::No
        }
        Answer::TooLate => {
            lines.failed("ssh", "no answer in time", cure);
            Reached::TooLate
        }
    }
}

/// A server that is down, with the label of an exclusive backup in its data directory, will not start by itself.
fn left_over_label(lines: &mut Lines, command: &str, home: &Home, deadline: Deadline) {
    let Some(pgdata) = home.newest_pgdata() else { return };
    let label = format!("{}/backup_label", pgdata.trim_end_matches('/'));
    let test = RemoteCommand::new("test").arg("-e").arg(&label);
    if let Answer::Ran(0, _) = ask(command, &test, deadline) {
        lines.failed(
            "backup_label",
            "Check that the PostgreSQL server is up and no 'backup_label' file is in PGDATA.",
            format!("when the server crashed during an exclusive backup, remove {label} and start it"),
        );
    }
}

/// Runs a small command at the far end, as long as there is time.
fn ask(command: &str, remote: &RemoteCommand, deadline: Deadline) -> Answer {
    let started = Ssh::from_command(command).and_then(|ssh| ssh.start(remote));
    let mut session = match started {
        Ok(session) => session,
        Err(error) => return Answer::Failed(error.to_string()),
    };
    // What it writes ends when it ends, or is killed: the session's own end does that.
    let (sender, receiver) = mpsc::channel();
    if let Some(stdout) = session.take_stdout() {
        let read = move || {
            let mut output = Vec::new();
            let outcome = stdout.take(OUTPUT_BYTES_MAX).read_to_end(&mut output).map(|_| output);
            // Nobody listens any more when it is too late.
            let _ = sender.send(outcome);
        };
        if let Err(error) = std::thread::Builder::new().name("ssh".to_owned()).spawn(read) {
            return Answer::Failed(error.to_string());
        }
    }
    drop(session.take_stdin());
    let output = match deadline.left() {
        Some(left) => receiver.recv_timeout(left).map_err(|_| ()),
        None => receiver.recv_timeout(Duration::MAX).map_err(|_| ()),
    };
    let Ok(output) = output else { return Answer::TooLate };
    match (output, session.finish()) {
        (Ok(output), Ok((End::Exit(code), _))) => Answer::Ran(code, output),
        (_, Ok((_, said))) if !said.trim().is_empty() => {
            Answer::Failed(said.trim().lines().last().unwrap_or_default().to_owned())
        }
        (_, Ok(_)) => Answer::Failed("the connection cannot be made".to_owned()),
        (_, Err(error)) => Answer::Failed(error.to_string()),
    }
}

/// Whether the data directory is there, for backups on the same machine.
fn local(lines: &mut Lines, live: &Live) {
    let directory = live.sql.known().and_then(|sql| sql.setting("data_directory"));
    let there = directory.is_some_and(|directory| Path::new(directory).is_dir());
    let hint = match directory {
        Some(_) if there => "Access to local PGDATA".to_owned(),
        Some(directory) => format!("'{directory}' is not there, or not for this user"),
        None => "not known while PostgreSQL does not answer".to_owned(),
    };
    let cure = "backup_method = local-rsync is for servers on this machine whose files barman_user may read";
    lines.judge("local PGDATA", there, hint, cure);
}

fn is_exclusive(config: &ServerConfig) -> bool {
    let options = config.setting("backup_options").map(|setting| &setting.value);
    matches!(options, Some(Value::List(words)) if words.iter().any(|word| word == "exclusive_backup"))
}

/// Whether the server is one that can be backed up exclusively.
fn exclusive(lines: &mut Lines, live: &Live) {
    const CURE: &str = "set backup_options = concurrent_backup";
    let Some(sql) = live.sql.known() else {
        return lines.failed("exclusive backup supported", "unable to determine postgres version", CURE);
    };
    let hint = if sql.in_recovery { "cannot perform exclusive backup on a standby" } else { "" };
    lines.judge("not in recovery", !sql.in_recovery, hint, CURE);
    let supported = sql.version < NO_EXCLUSIVE_BACKUPS;
    let hint = format!("exclusive backups not supported on PostgreSQL {}", sql.version / 10_000);
    lines.judge("exclusive backup supported", supported, if supported { String::new() } else { hint }, CURE);
}
