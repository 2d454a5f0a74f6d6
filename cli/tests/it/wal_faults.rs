//! WAL on its way in and out, and everything that can go wrong meanwhile: kills, full disks, failing fsyncs.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use testkit::{Cluster, StopMode, wait_for};

use crate::archive_faults::{SmallDisk, failing_fsync};
use crate::put_wal::{put, python, tar_stream};
use crate::stored::{archive, content, deliver, home, layout, listed, names, segment};
use crate::support::{Home, Run};
use crate::wal_scene::{Far, Scene, all_names};

/// A home with this many archived segments, the first of them number 1.
pub(crate) fn archived(count: u64, compression: &str) -> Home {
    let home = home().with("main", "compression", compression);
    (1..=count).for_each(|number| drop(deliver(&home, segment(1, number))));
    home.run(["archive-wal", "main"]).success();
    home
}

pub(crate) fn restore_local(home: &Home, number: u64, to: &Path, options: &[&str]) -> Command {
    let mut command = home.command();
    command.args(["wal-restore", "--local"]).args(options).args(["main", &segment(1, number).to_string()]);
    command.arg(to).current_dir(home.path()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// What lies under a segment's own name, or as what was asked for, is whole.
#[track_caller]
pub(crate) fn nothing_is_half(directory: &Path, asked_for: u64) {
    for name in all_names(directory) {
        let path = directory.join(&name);
        if name == "RECOVERYXLOG" {
            assert!(fs::read(&path).unwrap() == content(segment(1, asked_for)), "{name} is not whole");
        } else if let Ok(segment) = name.parse::<pgwal::SegmentName>() {
            // Whoever serves it may take it away just now.
            let Ok(found) = fs::read(&path) else { continue };
            assert!(found == content(segment), "{name} is not whole");
        } else if name.starts_with(".barkeep-prefetch-") && path.is_dir() {
            nothing_is_half(&path, asked_for);
        }
    }
}

/// Kills (SIGKILL) the processes of `wal-restore` that run in this directory; only prefetchers unless `all`. How many. None
/// of them does anything any more when this returns.
fn kill_restorers(directory: &Path, all: bool) -> usize {
    let mut killed = 0;
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        let has = |bytes: &[u8], text: &[u8]| bytes.windows(text.len()).any(|part| part == text);
        // Of a process that has ended this can't be read.
        let is_here = || fs::read_link(entry.path().join("cwd")).is_ok_and(|path| path == directory);
        if is_here()
            && has(&read("cmdline"), b"wal-restore")
            && (all || has(&read("environ"), b"BARKEEP_PREFETCHER="))
        {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            killed += usize::from(rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok());
            testkit::wait_for("a killed process to be gone", 60, || (!is_here()).then_some(()));
        }
    }
    killed
}

#[test]
fn restores_that_are_killed_leave_whole_files_or_none() {
    let home = archived(30, "zstd");
    let out = home.join("out");
    fs::create_dir_all(&out).unwrap();
    let to = out.join("RECOVERYXLOG");
    for round in 0..40_u64 {
        let number = 1 + round % 30;
        let _ = fs::remove_file(&to);
        let mut child = restore_local(&home, number, &to, &["-p", "2"]).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(500 + round * 400));
        if round % 3 == 0 {
            kill_restorers(home.path(), true);
        }
        let _ = child.kill();
        child.wait().unwrap();
        nothing_is_half(&out, number);
    }
    for number in 1..=30 {
        assert!(restore_local(&home, number, &to, &["-p", "2"]).status().unwrap().success());
        assert!(fs::read(&to).unwrap() == content(segment(1, number)));
        if number % 7 == 0 {
            kill_restorers(home.path(), true);
        }
    }
    kill_restorers(home.path(), true);
}

#[test]
fn a_full_disk_is_never_an_acknowledgement() {
    testkit::require_barman!();
    let home = home().with("main", "compression", "gzip");
    let Some(disk) = SmallDisk::over(home.join("main"), "6m") else { return };
    let (one, two) = (segment(1, 1), segment(1, 2));
    let stream = tar_stream(&home, &python(), &[(&one.to_string(), content(one))]);
    let path = home.join(two.to_string());
    fs::write(&path, content(two)).unwrap();
    let local = || home.run(["wal-archive", "--local", "main", path.to_str().unwrap()]);
    // The directories are there.
    home.run(["archive-wal", "main"]).success();
    let filler = home.join("main/filler");
    let mut filling = fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut filling, &[1; 4096]).is_ok() {}
    drop(filling);
    put(&home, &stream).fails_with_one_line(1, &["No space left on device"]);
    local().fails_with_one_line(1, &["not archived", "No space left on device"]);
    assert_eq!(names(layout(&home).incoming), [""; 0], "nor is anything left there");
    assert_eq!(archive(&home), [""; 0]);
    disk.remount("size=60m");
    put(&home, &stream).success();
    local().success();
    home.run(["archive-wal", "main"]).success();
    assert_eq!(archive(&home), [one.to_string(), two.to_string()]);
}

#[test]
fn a_failing_fsync_is_never_an_acknowledgement() {
    testkit::require_barman!();
    for what in ["all", "directories"] {
        let home = home();
        home.run(["archive-wal", "main"]).success();
        let library = failing_fsync(home.path());
        let flag = home.join("fsync-fails");
        let (one, two) = (segment(1, 1), segment(1, 2));
        let stream = home.join("stream");
        fs::write(&stream, tar_stream(&home, &python(), &[(&one.to_string(), content(one))])).unwrap();
        let path = home.join(two.to_string());
        fs::write(&path, content(two)).unwrap();
        let failing = |arguments: &[&str]| {
            let mut command = home.command();
            command.args(arguments).env("LD_PRELOAD", &library).env("FSYNC_FAILS", &flag);
            Run::of(command.stdin(fs::File::open(&stream).unwrap()))
        };
        let attempts = || {
            [
                failing(&["put-wal", "main"]),
                failing(&["wal-archive", "--local", "main", path.to_str().unwrap()]),
            ]
        };
        fs::write(&flag, what).unwrap();
        for run in attempts() {
            let run = run.exits_with(1);
            assert!(
                run.stderr.contains("Input/output error") && run.stderr.contains("fsync"),
                "{what}: {run:?}"
            );
        }
        fs::remove_file(&flag).unwrap();
        for run in attempts() {
            run.success();
        }
        home.run(["archive-wal", "main"]).success();
        assert_eq!(archive(&home), [one.to_string(), two.to_string()], "{what}");
        assert_eq!(listed(&home).len(), 2);
    }
}

#[test]
fn a_full_disk_under_the_prefetcher_costs_only_time() {
    let home = archived(12, "zstd");
    let out = home.join("out");
    let Some(_disk) = SmallDisk::over(out.clone(), "3m") else { return };
    let to = out.join("RECOVERYXLOG");
    for number in 1..=12 {
        let _ = fs::remove_file(&to);
        let mut command = restore_local(&home, number, &to, &["-p", "4", "--prefetch", "64"]);
        let run = Run::of(command.stderr(Stdio::piped()));
        if run.code != Some(0) {
            // What is kept ready fills the disk: told, nothing half is there, and it works when there is room.
            assert!(run.stderr.contains("No space left on device"), "{run:?}");
            assert!(!to.exists());
            kill_restorers(home.path(), true);
            all_names(&out).iter().for_each(|name| fs::remove_dir_all(out.join(name)).unwrap());
            assert!(restore_local(&home, number, &to, &[]).status().unwrap().success());
        }
        assert!(fs::read(&to).unwrap() == content(segment(1, number)));
    }
    kill_restorers(home.path(), true);
}

/// PostgreSQL would not hear of it any more when its own fsync comes.
#[test]
fn what_the_prefetcher_cannot_bring_to_stable_storage_is_not_kept_ready() {
    let home = archived(4, "none");
    let library = failing_fsync(home.path());
    let (flag, out) = (home.join("fsync-fails"), home.join("out"));
    fs::create_dir(&out).unwrap();
    let to = out.join("RECOVERYXLOG");
    let restore = |number: u64| {
        let mut command = restore_local(&home, number, &to, &["-p", "2"]);
        command.env("LD_PRELOAD", &library).env("FSYNC_FAILS", &flag);
        Run::of(command.stderr(Stdio::piped())).success();
        assert!(fs::read(&to).unwrap() == content(segment(1, number)));
        fs::remove_file(&to).unwrap();
    };
    let ready = || {
        let spool = all_names(&out).into_iter().find(|name| name.starts_with(".barkeep-prefetch-"))?;
        Some(
            all_names(&out.join(spool)).into_iter().filter(|name| name.parse::<pgwal::SegmentName>().is_ok()),
        )
    };
    fs::write(&flag, "all").unwrap();
    restore(1);
    restore(2);
    // Time enough for the other two.
    for _ in 0..50 {
        assert_eq!(ready().expect("a prefetcher").count(), 0);
        std::thread::sleep(Duration::from_millis(20));
    }
    fs::remove_file(&flag).unwrap();
    restore(3);
    let fourth = segment(1, 4).to_string();
    wait_for("the next one to be ready", 60, || ready()?.any(|name| name == fourth).then_some(()));
    kill_restorers(home.path(), true);
}

/// A recovery whose helpers are killed again and again.
fn check_killed_recovery(far: Far, all: bool) {
    let scene = Scene::new(15);
    scene.cluster.execute("create table kept (n int)");
    let backup = scene.base_backup("restored", &scene.restore_command(far));
    scene.cluster.execute("insert into kept values (1)");
    scene.write_segments(40);
    scene.cluster.execute("insert into kept values (2)");
    scene.write_segments(2);
    scene.archive_everything();
    let ended = std::sync::atomic::AtomicBool::new(false);
    let killed = std::sync::atomic::AtomicUsize::new(0);
    let most = if all { 4 } else { 30 };
    std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            use std::sync::atomic::Ordering::Relaxed;
            while !ended.load(Relaxed) && killed.load(Relaxed) < most {
                killed.fetch_add(kill_restorers(&backup, all), Relaxed);
                std::thread::sleep(Duration::from_millis(if all { 150 } else { 30 }));
            }
        });
        // PostgreSQL itself ends when its restore_command is killed; it goes on when it is started again.
        let mut cluster = None;
        for _ in 0..20 {
            let Ok(started) = Cluster::try_adopt(15, &backup) else { continue };
            let rows = || started.try_query_text("select pg_is_in_recovery()");
            let alive = |pid: u32| Path::new(&format!("/proc/{pid}")).exists() && rows().is_ok();
            let recovered = loop {
                match rows() {
                    Ok(rows) if rows == ["f"] => break true,
                    Ok(_) => {}
                    Err(_) if !started.pid().is_some_and(alive) => break false,
                    Err(_) => {}
                }
                std::thread::sleep(Duration::from_millis(50));
            };
            if recovered {
                cluster = Some(started);
                break;
            }
        }
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
        killer.join().unwrap();
        let mut cluster = cluster.expect("recovery goes on");
        assert_eq!(cluster.value("select string_agg(n::text, ' ' order by n) from kept"), "1 2");
        cluster.stop(StopMode::Fast);
    });
    assert!(killed.into_inner() > 0, "nobody was killed");
}

#[test]
fn a_recovery_goes_on_while_its_prefetchers_are_killed() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    testkit::require_sshd!();
    check_killed_recovery(Far::Barkeep, false);
}

#[test]
fn a_recovery_goes_on_after_its_restore_commands_were_killed() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    testkit::require_sshd!();
    check_killed_recovery(Far::Barkeep, true);
}

/// From `archive_command` to the end of a recovery, with segments of 64 MiB. (1 MiB is what all other tests have.)
#[test]
fn large_segments_go_all_the_way() {
    testkit::require_pg!(16);
    testkit::require_barman!();
    testkit::require_sshd!();
    let scene = Scene::with_segments(16, 64, "compression = zstd\n");
    scene.cluster.execute("create table kept (n int)");
    let backup = scene.base_backup("restored", &scene.restore_command(Far::Barkeep));
    scene.cluster.execute("insert into kept values (1)");
    let mut files = scene.write_segments(3);
    scene.cluster.execute("insert into kept values (2)");
    files.extend(scene.write_segments(1));
    let first = all_names(&scene.wal("archive_status"));
    for file in first.iter().filter_map(|name| name.strip_suffix(".ready")) {
        scene.archive(Far::Barkeep, &[], file).success();
    }
    scene.on_backup_host(&["archive-wal", "main"]).success();
    for file in &files {
        scene.assert_kept(file);
    }
    scene.on_backup_host(&["wal", "verify", "--server", "main"]).success();
    let mut restored = Cluster::adopt(16, &backup);
    restored.wait_until_writable();
    assert_eq!(restored.value("select string_agg(n::text, ' ' order by n) from kept"), "1 2");
    restored.stop(StopMode::Fast);
}
