//! Drills that do not come to their end: interrupted, killed, turned away.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use testkit::wait_for;

use crate::archive_faults::SmallDisk;
use crate::drill::{drill, nothing_left, programs};
use crate::packed_backups::Packed;
use crate::support::barkeep;

/// Starts a drill that does not end by itself, and waits until its server takes connections: its lines of `postmaster.pid`.
fn endless(packed: &Packed, major: u32) -> (Child, Vec<String>) {
    let mut command = Command::new(testkit::reachable_binary(barkeep()));
    command.arg("-c").arg(packed.barman.config_path()).args(["drill", "main", "--target", "immediate"]);
    command.args(["--sql", "select pg_sleep(600)", "--pg-bin"]).arg(programs(major));
    command.current_dir(packed.barman.home()).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    testkit::unprivileged_user().run_as(&mut command);
    let child = command.spawn().unwrap();
    let scratch = packed.barman.server_dir("main").join(".barkeep/drill");
    let lines = wait_for("the drill's server", 60, || {
        let path = fs::read_dir(&scratch).ok()?.next()?.unwrap().path();
        let text = fs::read_to_string(path.join("data/postmaster.pid")).ok()?;
        let lines: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
        (lines.get(7)? == "ready").then_some(lines)
    });
    (child, lines)
}

fn nothing_recorded(packed: &Packed) {
    let private = packed.barman.server_dir("main").join(".barkeep");
    for name in ["drills", "verified"] {
        assert!(!private.join(name).exists(), "{name}");
    }
}

#[test]
fn a_drill_that_is_interrupted_has_no_result() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    let packed = Packed::new(15, "");
    let (child, lines) = endless(&packed, 15);
    // As Ctrl-C at a terminal does.
    kill_process_group(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("The drill was interrupted by SIGINT: it has no result"), "{told}");
    nothing_left(&packed);
    nothing_recorded(&packed);
    assert!(!PathBuf::from(&lines[4]).exists(), "{lines:?}");

    // Nor has one whose server does not let it in.
    drill(&packed, &programs(15), &["--user", "who's that", "-q"])
        .fails_with_one_line(1, &["can't be asked as user 'who's that'", "--user"]);
    nothing_left(&packed);
    nothing_recorded(&packed);
}

#[test]
fn what_a_killed_drill_leaves_is_gone_after_the_next() {
    testkit::require_pg!(18);
    testkit::require_barman!();
    let packed = Packed::new(18, "");
    let (mut child, lines) = endless(&packed, 18);
    child.kill().unwrap();
    child.wait().unwrap();
    let (server, sockets) = (PathBuf::from(format!("/proc/{}/cwd", lines[0])), PathBuf::from(&lines[4]));
    assert!(server.read_link().is_ok() && sockets.exists(), "{lines:?}");
    drill(&packed, &programs(18), &["--target", "immediate"]).success();
    nothing_left(&packed);
    assert!(server.read_link().map_or(true, |directory| !directory.ends_with("data")), "{lines:?}");
    assert!(!sockets.exists());
}

#[test]
fn a_full_disk_is_not_held_against_the_backup() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    let packed = Packed::new(15, "");
    let place = packed.barman.new_dir("small");
    let Some(disk) = SmallDisk::over(place.clone(), "1m") else { return };
    testkit::unprivileged_user().take_over(&place);
    let words = ["--target", "end", "--directory", place.to_str().unwrap()];
    let run = drill(&packed, &programs(15), &words).exits_with(1);
    let (_, needed) = run.stderr.split_once("the restore needs ").unwrap_or_else(|| panic!("{run:#?}"));
    let needed: u64 = needed.trim().parse().unwrap();
    // Enough for the restore, files rounded up, and not for another segment.
    disk.remount(&format!("size={}", needed + (8 << 20)));
    let run = drill(&packed, &programs(15), &words).exits_with(1);
    assert!(run.stderr.contains("ran out of space") && run.stderr.contains("--directory"), "{run:#?}");
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
    nothing_recorded(&packed);
    disk.remount(&format!("size={}", needed + (512 << 20)));
    drill(&packed, &programs(15), &words).success();
}
