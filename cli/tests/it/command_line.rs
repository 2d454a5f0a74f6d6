//! The command line itself: help, version, usage errors, who may run it.

use std::io::Read as _;
use std::process::{Command, Stdio};

use clap::CommandFactory as _;

use crate::support::{Home, Run, barkeep};

fn bare(arguments: &[&str]) -> Run {
    Run::of(Command::new(barkeep()).args(arguments).env_remove("BARMAN_CONFIG_FILE"))
}

#[test]
fn tells_its_version() {
    for option in ["-v", "--version"] {
        let run = bare(&[option]).success();
        assert_eq!(run.stdout, format!("barkeep {}\n", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn shows_the_help_when_asked_for_nothing() {
    let nothing = bare(&[]).success();
    let help = bare(&["help"]).success();
    assert_eq!(nothing.stdout, help.stdout);
    assert!(nothing.stdout.contains("list-backups"));
}

#[test]
fn usage_errors_exit_with_2() {
    for arguments in
        [&["bogus"][..], &["backup"], &["check", "main", "--bogus"], &["-f", "xml", "list-servers"]]
    {
        let run = bare(arguments).exits_with(2);
        assert!(run.stdout.is_empty() && run.stderr.contains("error:"), "{run:?}");
    }
}

#[test]
fn a_missing_configuration_is_one_clear_line() {
    bare(&["-c", "/nonexistent/barman.conf", "list-servers"])
        .fails_with_one_line(1, &["/nonexistent/barman.conf", "does not exist", "-c"]);
}

#[test]
fn an_unknown_user_is_one_clear_line() {
    let home = Home::new().with("barman", "barman_user", "nobody-by-this-name");
    home.run(["list-servers"]).fails_with_one_line(1, &["nobody-by-this-name", "barman_user"]);
}

#[test]
fn an_unknown_server_is_one_clear_line() {
    let home = Home::new().server("main", "host=/nowhere");
    for command in
        [&["status", "other"][..], &["check", "main", "other"], &["show-backup", "other", "latest"]]
    {
        home.run(command).fails_with_one_line(1, &["Unknown server 'other'"]);
    }
    home.run(["check", "all", "main"]).fails_with_one_line(1, &["\"all\""]);
    assert!(!home.join("main").exists(), "nothing is left behind");
}

#[test]
fn json_errors_come_in_the_object() {
    let home = Home::new();
    let run = home.run(["-f", "json", "status", "other"]).exits_with(1);
    assert!(run.stderr.is_empty());
    assert!(!run.stdout.ends_with('\n'));
    assert!(run.json()["_ERROR"][0].as_str().unwrap().starts_with("Unknown server 'other'"));
    assert_eq!(home.run(["-q", "-f", "json", "status", "other"]).exits_with(1).stdout, "");
}

#[test]
fn a_closed_pipe_is_no_panic() {
    let mut home = Home::new();
    for number in 0..2000 {
        home = home.with(&format!("server-with-a-rather-long-name-{number}"), "conninfo", "host=x");
    }
    let mut child =
        home.command().args(["list-servers"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(!stderr.contains("panic"), "{stderr}");
}

/// The help of every command, as it was last agreed on. After a change that is meant, run with `UPDATE_SNAPSHOTS=1` and
/// look at the difference.
#[test]
fn the_help_is_as_agreed() {
    let mut text = String::new();
    let mut tell = |words: &[&str]| {
        let mut command = Command::new(barkeep());
        let run =
            Run::of(command.args(words).arg("--help").env_remove("BARMAN_CONFIG_FILE").env_remove("COLUMNS"));
        text.push_str(&format!("$ barkeep {} --help\n{}\n", words.join(" "), run.success().stdout));
    };
    tell(&[]);
    let cli = barkeep::args::Cli::command();
    for command in cli.get_subcommands() {
        tell(&[command.get_name()]);
        for inner in command.get_subcommands() {
            tell(&[command.get_name(), inner.get_name()]);
        }
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/help.txt");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let agreed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(agreed == text, "the help differs from {}:\n{text}", path.display());
}
