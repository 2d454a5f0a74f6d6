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
fn only_the_owner_of_the_home_may_use_it() {
    use std::os::unix::process::CommandExt as _;
    const SOMEBODY_ELSE: u32 = 65_534;
    if !rustix::process::getuid().is_root() {
        return testkit::notice_skipped("root, to become somebody else");
    }
    // Where that somebody may read both program and configuration.
    let place = testkit::TestDir::new();
    let program = place.path().join("barkeep");
    std::fs::copy(barkeep(), &program).unwrap();
    let config = place.path().join("barman.conf");
    std::fs::write(&config, "[barman]\nbarman_home = /nonexistent\nbarman_user = root\n").unwrap();
    Run::of(Command::new(&program).arg("-c").arg(&config).arg("list-servers").uid(SOMEBODY_ELSE))
        .fails_with_one_line(1, &["please run barkeep as the user \"root\"", "barman_user"]);
}

#[test]
fn inactive_servers_are_known_and_not_operated() {
    let home = Home::new().server("main", "host=/nonexistent").with("main", "active", "off");
    for command in
        [&["backup", "main"][..], &["receive-wal", "main"], &["switch-wal", "all"], &["archive-wal", "main"]]
    {
        let run = home.run(command).success();
        assert_eq!(run.stdout, "Skipping inactive server 'main'\n", "{command:?}");
    }
    home.run(["list-backups", "main"]).success();
    let run = home.run(["check", "main"]);
    assert!(run.stdout.starts_with("Server main (inactive):\n"), "{run:#?}");
}

#[test]
fn disabled_servers_are_shown_and_not_touched() {
    let home = Home::new().server("main", "host=/nonexistent").with("main", "reuse_backup", "copy");
    let restore = ["restore", "main", "latest", "/nonexistent/destination"];
    for command in
        [&["backup", "main"][..], &["receive-wal", "main"], &["delete", "main", "latest"], &restore]
    {
        let run = home.run(command).exits_with(1);
        let errors: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("ERROR: ")).collect();
        assert_eq!(errors.len(), 1, "{run:#?}");
        assert!(errors[0].contains("reuse_backup") && errors[0].contains("disabled"), "{run:#?}");
    }
    home.run(["list-backups", "main"]).success();
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
