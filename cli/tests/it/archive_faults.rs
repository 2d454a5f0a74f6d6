//! Storage that fails: never an acknowledgement, a clear error, and all is well again when the cause is gone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::put_wal::{put, python, tar_stream};
use crate::stored::{archive, content, deliver, home, layout, listed, names, segment};
use crate::support::{Home, Run, barkeep};

/// A small file system over a server's directory, for as long as this lives.
pub(crate) struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// `None`, visibly, where it can't be mounted.
    pub(crate) fn over(path: PathBuf, size: &str) -> Option<Self> {
        fs::create_dir_all(&path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=755"), "tmpfs"])
            .arg(&path)
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("SKIPPED: a file system cannot be mounted here");
            return None;
        }
        Some(SmallDisk { path })
    }

    pub(crate) fn remount(&self, options: &str) {
        let status = Command::new("mount")
            .args(["-o", &format!("remount,{options}")])
            .arg(&self.path)
            .status()
            .unwrap();
        assert!(status.success(), "remount {options}");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

fn incoming(home: &Home) -> Vec<String> {
    names(layout(home).incoming)
}

/// Every segment from 1 to `count` is whole, in `incoming/` or in the archive.
fn nothing_is_lost(home: &Home, count: u64) {
    for number in 1..=count {
        let segment = segment(1, number);
        let found =
            barkeep_catalog::wal::find(&layout(home), pgwal::WalFile::Segment(segment), false).unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut found.unwrap().plain().unwrap(), &mut bytes).unwrap();
        assert!(bytes == content(segment), "{segment}");
    }
}

#[test]
fn a_full_disk_costs_a_run_and_nothing_else() {
    let home = home().with("main", "compression", "gzip");
    let Some(disk) = SmallDisk::over(home.join("main"), "6m") else { return };
    for number in 1..=5 {
        deliver(&home, segment(1, number));
    }
    // Filled up, but for a little.
    fs::create_dir_all(home.join("main/wals")).unwrap();
    fs::write(home.join("main/filler"), vec![1; 700_000]).unwrap();
    let run = home.run(["archive-wal", "main"]).exits_with(1);
    assert!(
        run.stderr.contains("No space left on device") && run.stderr.contains("nothing is lost"),
        "{run:?}"
    );
    nothing_is_lost(&home, 5);
    let archived = archive(&home);
    assert!(listed(&home).iter().all(|name| archived.contains(name)));
    disk.remount("size=60m");
    home.run(["archive-wal", "main"]).success();
    nothing_is_lost(&home, 5);
    assert_eq!(archive(&home).len(), 5);
    assert_eq!(listed(&home).len(), 5);
    assert_eq!(incoming(&home), [""; 0]);
    home.run(["rebuild-xlogdb", "main"]).success();
}

#[test]
fn a_read_only_disk_is_told_and_survived() {
    testkit::require_barman!();
    let home = home();
    let Some(disk) = SmallDisk::over(home.join("main"), "60m") else { return };
    home.run(["archive-wal", "main"]).success();
    deliver(&home, segment(1, 1));
    disk.remount("ro");
    let run = home.run(["archive-wal", "main"]).exits_with(1);
    assert!(run.stderr.contains("Read-only file system"), "{run:?}");
    let run = home.run(["rebuild-xlogdb", "main"]).exits_with(1);
    assert!(run.stderr.contains("Read-only file system"), "{run:?}");
    // Nor is anything acknowledged that comes.
    let path = home.join(segment(1, 2).to_string());
    fs::write(&path, content(segment(1, 2))).unwrap();
    let local = || home.run(["wal-archive", "--local", "main", path.to_str().unwrap()]);
    local().fails_with_one_line(1, &["not archived", "Read-only file system"]);
    let stream = tar_stream(&home, &python(), &[(&segment(1, 3).to_string(), content(segment(1, 3)))]);
    put(&home, &stream).fails_with_one_line(1, &["Read-only file system"]);
    disk.remount("rw");
    local().success();
    put(&home, &stream).success();
    home.run(["archive-wal", "main"]).success();
    nothing_is_lost(&home, 3);
    assert_eq!(listed(&home).len(), 3);
}

/// A library that makes fsync fail while a file exists: of directories only, if it says so.
pub(crate) fn failing_fsync(directory: &Path) -> PathBuf {
    let source = directory.join("fsync.c");
    fs::write(
        &source,
        "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <errno.h>\n#include <fcntl.h>\n#include <stdlib.h>\n\
         #include <sys/stat.h>\n#include <unistd.h>\n\
         static int fails(int fd) { const char *flag = getenv(\"FSYNC_FAILS\"); char kind = 0; struct stat st;\n\
         int at = flag ? open(flag, O_RDONLY) : -1; if (at < 0) return 0;\n\
         if (read(at, &kind, 1) < 0) kind = 0;\n\
         close(at); return kind != 'd' || (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)); }\n\
         int fsync(int fd) { if (fails(fd)) { errno = EIO; return -1; }\n\
         return ((int (*)(int))dlsym(RTLD_NEXT, \"fsync\"))(fd); }\n\
         int fdatasync(int fd) { if (fails(fd)) { errno = EIO; return -1; }\n\
         return ((int (*)(int))dlsym(RTLD_NEXT, \"fdatasync\"))(fd); }\n",
    )
    .unwrap();
    let library = directory.join("fsync.so");
    let status =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").status();
    assert!(status.unwrap().success(), "cc");
    library
}

#[test]
fn nothing_is_acknowledged_while_fsync_fails() {
    let home = home().with("main", "compression", "zstd");
    let library = failing_fsync(home.path());
    let flag = home.join("fsync-fails");
    let failing = |arguments: &[&str]| {
        let mut command = home.command();
        command.args(arguments).env("LD_PRELOAD", &library).env("FSYNC_FAILS", &flag);
        Run::of(&mut command)
    };
    home.run(["archive-wal", "main"]).success();
    for number in 1..=3 {
        deliver(&home, segment(1, number));
    }
    fs::write(&flag, "").unwrap();
    let run = failing(&["archive-wal", "main"]).exits_with(1);
    assert!(run.stderr.contains("Input/output error") && run.stderr.contains("fsync"), "{run:?}");
    assert_eq!(incoming(&home).len(), 3);
    let run = failing(&["rebuild-xlogdb", "main"]).exits_with(1);
    assert!(run.stderr.contains("Input/output error"), "{run:?}");
    nothing_is_lost(&home, 3);
    fs::remove_file(&flag).unwrap();
    failing(&["archive-wal", "main"]).success();
    nothing_is_lost(&home, 3);
    assert_eq!((archive(&home).len(), listed(&home).len()), (3, 3));
    assert_eq!(incoming(&home), [""; 0]);
}

#[test]
fn archivers_that_are_killed_again_and_again_lose_nothing() {
    let home = home().with("main", "compression", "zstd");
    let count = 24;
    for number in 1..=count {
        deliver(&home, segment(1, number));
    }
    for round in 0..40_u64 {
        let mut child =
            home.command().args(["-q", "archive-wal", "main"]).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(1 + round * 2));
        let _ = child.kill();
        child.wait().unwrap();
        nothing_is_lost(&home, count);
    }
    home.run(["archive-wal", "main"]).success();
    nothing_is_lost(&home, count);
    let mut list = listed(&home);
    list.sort();
    assert_eq!(list, archive(&home));
    assert_eq!(list.len(), usize::try_from(count).unwrap());
    assert_eq!(incoming(&home), [""; 0]);
}

#[test]
fn two_archivers_of_each_tool_share_a_home() {
    testkit::require_barman!();
    let home = home().with("main", "compression", "gzip");
    let barman = testkit::programs::barman_bin_dir().expect("Barman").join("barman");
    let count = 40;
    for number in 1..=count {
        deliver(&home, segment(1, number));
    }
    for _ in 0..20 {
        let mut running = Vec::new();
        for program in [Path::new(barkeep()), &barman, Path::new(barkeep()), &barman] {
            let mut command = Command::new(program);
            command.arg("-q").arg("-c").arg(home.config()).args(["archive-wal", "main"]);
            running.push(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        }
        for mut child in running {
            child.wait().unwrap();
        }
        if incoming(&home).is_empty() {
            break;
        }
    }
    nothing_is_lost(&home, count);
    let mut list = listed(&home);
    list.sort();
    assert_eq!(list, archive(&home), "each is listed once");
    assert_eq!(list.len(), usize::try_from(count).unwrap());
    assert_eq!(names(layout(&home).errors), [""; 0]);
}

#[test]
fn a_list_that_is_made_anew_while_files_are_archived_names_each_once() {
    testkit::require_barman!();
    let home = home().with("main", "compression", "zstd");
    let barman = testkit::programs::barman_bin_dir().expect("Barman").join("barman");
    let count = 90;
    home.run(["archive-wal", "main"]).success();
    let archived = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for program in [Path::new(barkeep()), Path::new(barkeep()), &barman] {
            let (home, archived) = (&home, &archived);
            scope.spawn(move || {
                while !archived.load(std::sync::atomic::Ordering::Relaxed) {
                    let mut command = Command::new(program);
                    command.arg("-q").arg("-c").arg(home.config()).args(["rebuild-xlogdb", "main"]);
                    command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
                }
            });
        }
        for number in 1..=count {
            deliver(&home, segment(1, number));
            if number % 3 == 0 {
                home.run(["-q", "archive-wal", "main"]).success();
            }
        }
        archived.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let mut list = listed(&home);
    list.sort();
    assert_eq!(list, archive(&home), "each is listed once");
    assert_eq!(list.len(), usize::try_from(count).unwrap());
}
