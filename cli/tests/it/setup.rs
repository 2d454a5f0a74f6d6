//! Setting barkeep up on a machine: Barman's names, completions, manual pages.

use std::path::Path;
use std::process::Command;

use crate::stored::names;
use crate::support::{Home, Run, barkeep};

fn bare(program: impl AsRef<Path>, arguments: &[&str]) -> Run {
    Run::of(Command::new(program.as_ref()).args(arguments).env_remove("BARMAN_CONFIG_FILE"))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn links_make_barkeep_answer_as_barman() {
    let place = tempfile::tempdir().unwrap();
    let bin = place.path().join("bin");
    bare(barkeep(), &["install-links", text(&bin)]).success();
    assert_eq!(names(&bin), ["barman", "barman-wal-archive", "barman-wal-restore"]);
    let barman = bin.join("barman");
    let version = bare(&barman, &["-v"]).success().stdout;
    let mut words = version.split(' ');
    assert_eq!((words.next(), words.next()), (Some("3.20.1"), Some("Barman")), "{version}");
    assert!(bare(&barman, &["help"]).success().stdout.contains("Usage: barman "));
    assert!(bare(&barman, &[]).success().stdout.contains("Usage: barman "));
    let home = Home::new().server("main", "host=/nowhere");
    let run = Run::of(Command::new(&barman).arg("-c").arg(home.config()).arg("list-server"));
    assert_eq!(run.success().stdout, "main - The main server\n");
    // The links can be made again, from a link too.
    let run = bare(&barman, &["install-links", text(&bin)]).success();
    assert_eq!(run.stdout.matches("(as before)").count(), 3, "{run:?}");
}

#[test]
fn links_replace_nothing() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("barman"), "#!/bin/sh\n").unwrap();
    std::os::unix::fs::symlink("/nonexistent", place.path().join("barman-wal-archive")).unwrap();
    let run = bare(barkeep(), &["install-links", text(place.path())]).exits_with(1);
    assert_eq!(run.stderr.matches("is something else and stays as it is").count(), 2, "{run:?}");
    assert_eq!(std::fs::read_to_string(place.path().join("barman")).unwrap(), "#!/bin/sh\n");
    assert!(place.path().join("barman-wal-restore").is_symlink());
    let file = place.path().join("barman/below");
    bare(barkeep(), &["install-links", text(&file)]).fails_with_one_line(1, &["cannot create directory"]);
}

#[test]
fn completions_know_the_commands_of_the_name_they_are_for() {
    let bash = bare(barkeep(), &["completions", "bash"]).success().stdout;
    assert!(bash.contains("list-backups") && bash.contains("complete -F _barkeep"), "{bash}");
    // As a file: an argument may not be as long.
    let script = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(script.path(), &bash).unwrap();
    let syntax = Command::new("bash").arg("-n").arg(script.path()).status().unwrap();
    assert!(syntax.success());
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(bare(barkeep(), &["completions", shell]).success().stdout.contains("switch-wal"), "{shell}");
    }
    let place = tempfile::tempdir().unwrap();
    bare(barkeep(), &["install-links", text(place.path())]).success();
    let bash = bare(place.path().join("barman"), &["completions", "bash"]).success().stdout;
    assert!(bash.contains("complete -F _barman"), "{bash}");
}

#[test]
fn there_is_a_manual_page_for_each_command() {
    let place = tempfile::tempdir().unwrap();
    let pages = place.path().join("man1");
    bare(barkeep(), &["man-pages", text(&pages)]).success();
    let found = names(&pages);
    for command in ["backup", "restore", "cron", "list-backups", "wal-dump"] {
        assert!(found.contains(&format!("barkeep-{command}.1")), "{command}: {found:?}");
    }
    let page = std::fs::read_to_string(pages.join("barkeep.1")).unwrap();
    assert!(page.contains(".TH barkeep 1") && page.contains("barkeep\\-backup(1)"), "{page}");
    bare(barkeep(), &["man-pages", "/dev/null/x"]).fails_with_one_line(1, &["/dev/null/x"]);
}
