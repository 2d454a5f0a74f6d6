//! WAL commands that are killed (SIGKILL) at every single step: what was acknowledged is there, whole, once, and listed.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use pgwal::WalFile;

use crate::put_wal::{put, python, tar_stream};
use crate::stored::{archive, content, deliver, home, layout, listed, names, relist, segment};
use crate::support::Home;
use crate::wal_faults::{archived, nothing_is_half, restore_local};

/// Runs a command again and again, killed at its first call of a system call, at its second, and so on, until it gets
/// through; `after` looks at what each has left.
///
/// The command reads `stdin`, if there is one.
pub(crate) fn killed_at_every(
    calls: &[&str],
    stdin: Option<&Path>,
    mut command: impl FnMut() -> Command,
    mut after: impl FnMut(bool),
) {
    for call in calls {
        for count in 1..200 {
            let mut traced = killed_at(&command(), call, count);
            traced.stdin(stdin.map_or_else(Stdio::null, |path| fs::File::open(path).unwrap().into()));
            let done = traced.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success();
            after(done);
            if done {
                break;
            }
        }
    }
}

/// A command that is killed at the so-manieth time that it makes a system call. It runs as whoever starts it.
pub(crate) fn killed_at(inner: &Command, call: &str, count: u32) -> Command {
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq", "-o", "/dev/null", "-e"]).arg(format!("trace={call}"));
    traced.arg("-e").arg(format!("inject={call}:signal=KILL:when={count}"));
    traced.arg(inner.get_program()).args(inner.get_args()).stdin(Stdio::null());
    if let Some(directory) = inner.get_current_dir() {
        traced.current_dir(directory);
    }
    for (key, value) in inner.get_envs() {
        match value {
            Some(value) => traced.env(key, value),
            None => traced.env_remove(key),
        };
    }
    traced
}

pub(crate) fn has_strace() -> bool {
    let found = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status();
    let found = found.is_ok_and(|status| status.success());
    if !found {
        testkit::notice_skipped("strace, and leave to use it");
    }
    found
}

/// The calls by which something becomes visible to others, or is taken away.
const CALLS: [&str; 8] = ["write", "fsync", "linkat", "rename", "renameat2", "unlink", "ftruncate", "openat"];

#[test]
fn a_restore_that_is_killed_at_any_step_leaves_a_whole_file_or_none() {
    if !has_strace() {
        return;
    }
    let home = archived(2, "zstd");
    let out = home.join("out");
    fs::create_dir_all(&out).unwrap();
    let to = out.join("RECOVERYXLOG");
    killed_at_every(
        &["write", "linkat", "rename", "openat"],
        None,
        || {
            let _ = fs::remove_file(&to);
            restore_local(&home, 2, &to, &[])
        },
        |done| {
            nothing_is_half(&out, 2);
            assert!(!done || to.exists());
        },
    );
    assert_eq!(names(&out), ["RECOVERYXLOG"]);
}

#[test]
fn an_archive_command_that_is_killed_at_any_step_can_be_repeated() {
    if !has_strace() {
        return;
    }
    for compression in ["zstd", "none"] {
        let home = archived(1, compression);
        let path = home.join(segment(1, 2).to_string());
        fs::write(&path, content(segment(1, 2))).unwrap();
        let put_away = |home: &Home| {
            let layout = layout(home);
            let file = pgwal::WalFile::Segment(segment(1, 2));
            let _ = fs::remove_file(layout.wal(&file));
            crate::stored::relist(home);
        };
        killed_at_every(
            &CALLS,
            None,
            || {
                put_away(&home);
                let mut command = home.command();
                command.args(["wal-archive", "--local", "main"]).arg(&path);
                command
            },
            |done| {
                let whole = |name: &String| {
                    let file: pgwal::WalFile = name.parse().unwrap();
                    let open = barkeep_catalog::wal::find(&layout(&home), file, false).unwrap().unwrap();
                    let mut bytes = Vec::new();
                    std::io::Read::read_to_end(&mut open.plain().unwrap(), &mut bytes).unwrap();
                    assert!(bytes == content(name.parse().unwrap()), "{name} is half");
                };
                archive(&home).iter().for_each(whole);
                if done {
                    assert_eq!(archive(&home).len(), 2, "acknowledged, so it is there");
                }
                // PostgreSQL tries again.
                home.run(["wal-archive", "--local", "main", path.to_str().unwrap()]).success();
                home.run(["archive-wal", "main"]).success();
                assert_eq!(archive(&home).len(), 2);
                let mut list = listed(&home);
                list.sort();
                assert_eq!(list, archive(&home), "each is listed once");
            },
        );
        assert_eq!(names(layout(&home).errors), [""; 0]);
    }
}

/// Both segments are whole, wherever they are.
#[track_caller]
fn nothing_is_lost(home: &Home) {
    for segment in [segment(1, 1), segment(1, 2)] {
        let open = barkeep_catalog::wal::find(&layout(home), WalFile::Segment(segment), false).unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut open.unwrap().plain().unwrap(), &mut bytes).unwrap();
        assert!(bytes == content(segment), "{segment} is half");
    }
}

/// Both segments are in the archive, each is listed once, and nothing is left to do.
#[track_caller]
fn all_is_archived(home: &Home) {
    let both = [segment(1, 1).to_string(), segment(1, 2).to_string()];
    nothing_is_lost(home);
    assert_eq!(archive(home), both);
    let mut list = listed(home);
    list.sort();
    assert_eq!(list, both, "each is listed once");
    let visible = |name: &String| !name.starts_with('.');
    assert_eq!(names(layout(home).incoming).into_iter().filter(visible).count(), 0);
    assert_eq!(names(layout(home).errors), [""; 0]);
}

/// An empty archive.
fn start_over(home: &Home) {
    let layout = layout(home);
    for number in [1, 2] {
        let file = WalFile::Segment(segment(1, number));
        let _ = fs::remove_file(layout.wal(&file));
        let _ = fs::remove_file(layout.incoming.join(file.to_string()));
    }
    relist(home);
}

/// The calls by which the receiver, the archiver and the list change what others see.
const CHANGES: [&str; 8] =
    ["write", "fsync", "fdatasync", "linkat", "rename", "renameat2", "unlink", "ftruncate"];

#[test]
fn a_receiver_that_is_killed_at_any_step_has_acknowledged_nothing_it_has_not() {
    testkit::require_barman!();
    if !has_strace() {
        return;
    }
    let home = home();
    home.run(["archive-wal", "main"]).success();
    let both = [segment(1, 1), segment(1, 2)];
    let bytes = tar_stream(
        &home,
        &python(),
        &both
            .map(|one| (one.to_string(), content(one)))
            .each_ref()
            .map(|(name, content)| (name.as_str(), content.clone())),
    );
    let stream = home.join("stream");
    fs::write(&stream, &bytes).unwrap();
    let incoming = layout(&home).incoming;
    killed_at_every(
        &CHANGES,
        Some(&stream),
        || {
            both.iter().for_each(|one| drop(fs::remove_file(incoming.join(one.to_string()))));
            let mut command = home.command();
            command.args(["put-wal", "main"]);
            command
        },
        |done| {
            let visible: Vec<_> =
                names(&incoming).into_iter().filter(|name| !name.starts_with('.')).collect();
            nothing_is_half(&incoming, 0);
            assert!(!done || visible.len() == both.len(), "acknowledged, so it is there");
            // The sender tries again.
            put(&home, &bytes).success();
        },
    );
    home.run(["archive-wal", "main"]).success();
    all_is_archived(&home);
}

#[test]
fn an_archiver_that_is_killed_at_any_step_goes_on_where_it_was() {
    if !has_strace() {
        return;
    }
    let home = home().with("main", "compression", "zstd");
    home.run(["archive-wal", "main"]).success();
    killed_at_every(
        &CHANGES,
        None,
        || {
            start_over(&home);
            [1, 2].into_iter().for_each(|number| drop(deliver(&home, segment(1, number))));
            let mut command = home.command();
            command.args(["-q", "archive-wal", "main"]);
            command
        },
        |done| {
            nothing_is_lost(&home);
            assert!(!done || listed(&home).len() == 2);
            home.run(["archive-wal", "main"]).success();
            all_is_archived(&home);
        },
    );
}

#[test]
fn a_rebuild_that_is_killed_at_any_step_leaves_the_old_list_or_the_new_one() {
    if !has_strace() {
        return;
    }
    let home = archived(2, "zstd");
    let path = layout(&home).xlogdb();
    let new = fs::read_to_string(&path).unwrap();
    let old = new.split_inclusive('\n').next().unwrap().to_owned();
    killed_at_every(
        &CHANGES,
        None,
        || {
            fs::write(&path, &old).unwrap();
            let mut command = home.command();
            command.args(["-q", "rebuild-xlogdb", "main"]);
            command
        },
        |done| {
            let list = fs::read_to_string(&path).unwrap();
            assert!(list == new || !done && list == old, "{list}");
            home.run(["rebuild-xlogdb", "main"]).success();
            assert_eq!(fs::read_to_string(&path).unwrap(), new);
        },
    );
}
