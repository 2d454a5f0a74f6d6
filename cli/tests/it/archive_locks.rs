//! For how long the archiver keeps others waiting.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use barkeep_catalog::{ServerLock, Task, xlogdb};
use rustix::process::{Pid, Signal};
use testkit::wait_for;

use crate::put_wal::{put, python, tar_stream};
use crate::stored::{archive, backup, content, deliver, home, layout, listed, names, segment};
use crate::support::{Home, Run};

/// A script in the home that is executable.
fn script(home: &Home, name: &str, text: &str) -> String {
    let path = home.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[test]
fn no_lock_of_the_archive_is_held_while_a_hook_runs() {
    let home = home().with("main", "compression", "zstd");
    let told = home.join("told");
    let locks = script(
        &home,
        "locks",
        &format!(
            "for lock in archive-wal xlogdb; do\n\
             if flock --nonblock '{0}'/.main-$lock.lock true; then free=free; else free=held; fi\n\
             echo \"$BARMAN_PHASE $BARMAN_SEGMENT $lock $free\" >> '{1}'\ndone",
            home.path().display(),
            told.display()
        ),
    );
    let keys = [
        "pre_archive_script",
        "pre_archive_retry_script",
        "post_archive_retry_script",
        "post_archive_script",
    ];
    let home = keys.into_iter().fold(home, |home, key| home.with("main", key, &locks));
    let files = [segment(1, 1), segment(1, 2), segment(1, 3)];
    files.iter().for_each(|file| drop(deliver(&home, *file)));
    home.run(["archive-wal", "main"]).success();
    let text = std::fs::read_to_string(&told).unwrap();
    assert_eq!(text.lines().count(), files.len() * keys.len() * 2, "{text}");
    assert!(text.lines().all(|line| line.ends_with(" free")), "{text}");
    assert_eq!(archive(&home).len(), files.len());
}

/// A hook may archive by itself: nothing is archived twice, and nothing is left out.
#[test]
fn a_hook_may_call_the_archiver() {
    let home = home();
    let inner = home.join("inner.conf");
    let again = script(
        &home,
        "again",
        &format!("'{}' -q -c '{}' archive-wal main", crate::support::barkeep(), inner.display()),
    );
    // The same home, without the hook.
    std::fs::copy(home.config(), &inner).unwrap();
    let home = home.with("main", "pre_archive_script", &again);
    for number in 1..=3 {
        deliver(&home, segment(1, number));
    }
    home.run(["archive-wal", "main"]).success();
    assert_eq!(archive(&home).len(), 3);
    assert_eq!(listed(&home).len(), 3);
}

#[test]
fn the_list_can_be_read_while_files_are_compressed() {
    let home = home().with("main", "compression", "xz");
    for number in 1..=8 {
        deliver(&home, segment(1, number));
    }
    let layout = layout(&home);
    std::fs::create_dir_all(&layout.wals).unwrap();
    let list = xlogdb::Locked::acquire(&layout).unwrap();
    let mut archiver =
        home.command().args(["-q", "archive-wal", "main"]).stdout(Stdio::null()).spawn().unwrap();
    // All of them are compressed and have their names, while the list is ours.
    wait_for("the files to be compressed", 60, || (archive(&home).len() == 8).then_some(()));
    assert!(archiver.try_wait().unwrap().is_none(), "it has to wait before it ends");
    drop(list);
    assert!(archiver.wait().unwrap().success());
    assert_eq!(listed(&home).len(), 8);
}

/// An archiver that stands still: it has read and compressed all that has arrived, and moved nothing yet.
struct Compressing {
    child: Child,
}

impl Compressing {
    fn begin(home: &Home) -> Self {
        let layout = layout(home);
        let arrived = names(&layout.incoming).len();
        let child = home.command().args(["-q", "archive-wal", "main"]).stdout(Stdio::null()).spawn().unwrap();
        let archiver = Compressing { child };
        wait_for("its script before the first file", 60, || home.join("begun").exists().then_some(()));
        // From here on it does without the lock.
        let lock = ServerLock::try_acquire(&layout, Task::ArchiveWal).unwrap();
        std::fs::write(home.join("go"), "").unwrap();
        let directory = layout.wal_directory(&pgwal::WalFile::Segment(segment(1, 1)));
        wait_for("a copy of each file", 60, || {
            let copies = names(&directory).iter().filter(|name| name.ends_with(".tmp")).count();
            (copies == arrived).then_some(())
        });
        archiver.send(Signal::STOP);
        let stat = format!("/proc/{}/stat", archiver.child.id());
        wait_for("the archiver to stand still", 60, || {
            let stat = std::fs::read_to_string(&stat).unwrap();
            stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T')).then_some(())
        });
        drop(lock);
        assert_eq!(archive(home), [""; 0]);
        archiver
    }

    fn send(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Lets it go on to its end.
    fn finish(mut self) {
        self.send(Signal::CONT);
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Compressing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A home that compresses, after a script that waits for the file `go`, and a configuration of it by which Barman takes so many
/// files at once, as they are.
fn two_configurations(barmans: usize) -> (Home, PathBuf) {
    let home = home().with("main", "archiver_batch_size", &barmans.to_string());
    let plain = home.join("plain.conf");
    std::fs::copy(home.config(), &plain).unwrap();
    home.run(["archive-wal", "main"]).success();
    let text =
        format!("cd '{}' && touch begun && until [ -e go ]; do sleep 0.02; done", home.path().display());
    let waits = script(&home, "waits", &text);
    let home = home.with("main", "archiver_batch_size", "0").with("main", "compression", "gzip");
    (home.with("main", "pre_archive_script", &waits), plain)
}

/// Barman's archiver, which has to come to its end.
fn barman_archives(config: &Path) {
    let program = testkit::programs::barman_bin_dir().unwrap().join("barman");
    let mut barman = std::process::Command::new(program);
    let told = Run::of(barman.arg("-c").arg(config).args(["archive-wal", "main"])).success().stdout;
    assert!(!told.contains("already running"), "{told}");
}

/// All segments up to this one are archived, whole, and listed once; and nothing else is there.
#[track_caller]
fn all_is_archived_once(home: &Home, count: u64) {
    let layout = layout(home);
    let all: Vec<String> = (1..=count).map(|number| segment(1, number).to_string()).collect();
    assert_eq!(archive(home), all);
    let mut list = listed(home);
    list.sort();
    assert_eq!(list, all, "each is listed once");
    for number in 1..=count {
        let file = pgwal::WalFile::Segment(segment(1, number));
        let open = barkeep_catalog::wal::find(&layout, file, false).unwrap().unwrap();
        let mut bytes = Vec::new();
        open.plain().unwrap().read_to_end(&mut bytes).unwrap();
        assert!(bytes == content(segment(1, number)), "{file}");
    }
    assert_eq!(names(&layout.incoming), [""; 0]);
    assert_eq!(names(&layout.errors), [""; 0]);
    let directory = layout.wal_directory(&pgwal::WalFile::Segment(segment(1, 1)));
    assert_eq!(names(directory), all, "no copy is left");
}

#[test]
fn barman_archives_while_barkeep_compresses() {
    testkit::require_barman!();
    let (count, barmans) = (12, 8);
    let (home, plain) = two_configurations(barmans);
    for number in 1..=count {
        deliver(&home, segment(1, number));
    }
    let archiver = Compressing::begin(&home);
    assert_eq!(ServerLock::holder(&layout(&home), Task::ArchiveWal).unwrap(), None);
    // Another barkeep would write and remove the same copies.
    let told = home.run(["archive-wal", "main"]).success().stdout;
    assert!(told.contains("already running on server main"), "{told}");
    let at_work = home.run(["list-processes", "main"]).success().stdout;
    assert!(at_work.contains(&format!("{} archive-wal", archiver.child.id())), "{at_work}");
    barman_archives(&plain);
    assert_eq!(archive(&home).len(), barmans);
    archiver.finish();
    all_is_archived_once(&home, count);
}

#[test]
fn an_archiver_that_is_killed_while_it_compresses_is_in_nobodys_way() {
    testkit::require_barman!();
    let (count, barmans) = (12, 8);
    let (home, plain) = two_configurations(barmans);
    for number in 1..=count {
        deliver(&home, segment(1, number));
    }
    // Dropped, it is killed.
    drop(Compressing::begin(&home));
    barman_archives(&plain);
    assert_eq!(archive(&home).len(), barmans);
    home.run(["archive-wal", "main"]).success();
    all_is_archived_once(&home, count);
}

/// The archive's lock, which Barman's archiver has from its first file to its last, is in nobody's way but another archiver's.
#[test]
fn only_another_archiver_makes_way_for_an_archiver() {
    testkit::require_barman!();
    let home = home();
    for number in 1..=4 {
        deliver(&home, segment(1, number));
    }
    home.run(["archive-wal", "main"]).success();
    let backups = [1, 2, 3].map(|number| backup(&home, number, segment(1, number.into())).id.to_string());
    let lock = ServerLock::try_acquire(&layout(&home), Task::ArchiveWal).unwrap();
    let barman = |arguments: &[&str]| {
        let program = testkit::programs::barman_bin_dir().unwrap().join("barman");
        Run::of(std::process::Command::new(program).arg("-c").arg(home.config()).args(arguments))
    };
    let barkeep = |arguments: &[&str]| home.run(arguments.iter().copied());
    let wanted = segment(1, 3).to_string();
    let ways = |obsolete| {
        [
            vec!["get-wal", "main", wanted.as_str(), "-o", home.path().to_str().unwrap()],
            vec!["list-backups", "main"],
            vec!["show-backup", "main", "last"],
            vec!["list-files", "main", "last"],
            vec!["rebuild-xlogdb", "main"],
            vec!["delete", "main", obsolete],
        ]
    };
    for words in ways(backups[0].as_str()) {
        barkeep(&words).success();
    }
    for words in ways(&backups[1]) {
        barman(&words).success();
    }
    assert_eq!(archive(&home), [3, 4].map(|number| segment(1, number).to_string()));
    assert_eq!(listed(&home), archive(&home));
    // What arrives is acknowledged, and waits.
    let name = segment(1, 5).to_string();
    let stream = tar_stream(&home, &python(), &[(&name, content(segment(1, 5)))]);
    put(&home, &stream).success();
    let path = home.join(segment(1, 6).to_string());
    std::fs::write(&path, content(segment(1, 6))).unwrap();
    home.run(["wal-archive", "--local", "main", path.to_str().unwrap()]).success();
    assert_eq!(names(home.join("main/incoming")), [5, 6].map(|number| segment(1, number).to_string()));
    for run in [barkeep(&["archive-wal", "main"]), barman(&["archive-wal", "main"])] {
        let told = run.success().stdout;
        assert!(told.contains("already running"), "{told}");
    }
    drop(lock);
    home.run(["archive-wal", "main"]).success();
    assert_eq!(listed(&home), [3, 4, 5, 6].map(|number| segment(1, number).to_string()));
}
