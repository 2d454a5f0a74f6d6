//! Disks that are full, and disks that take their time. Real ones: both tests mount a file system, for which they
//! must be run by root, and are skipped visibly where that is not possible.

use std::process::Command;

use super::*;

/// A mounted file system, unmounted at the end.
struct Mounted {
    directory: TestDir,
}

impl Mounted {
    fn new(kind: &[&str], source: &Path) -> Option<Self> {
        let directory = TestDir::new();
        let mut command = Command::new("mount");
        command.args(kind).arg(source).arg(directory.path());
        match command.output() {
            Ok(output) if output.status.success() => Some(Mounted { directory }),
            _ => {
                testkit::notice_skipped("the right to mount file systems");
                None
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.directory.path()).status();
    }
}

#[test]
fn a_full_disk_is_named_and_receiving_goes_on_when_there_is_space_again() {
    testkit::require_pg!(15);
    let Some(disk) = Mounted::new(&["-t", "tmpfs", "-o", "size=8m"], Path::new("none")) else { return };
    let cluster = Cluster::builder(15).segment_size_mib(1).setting("wal_keep_size", "1GB").start();
    let ballast = disk.directory.join("ballast");
    std::fs::write(&ballast, vec![1; 4 << 20]).unwrap();
    let receiving = Receiving::start(options(&cluster, &disk.directory));
    receiving.expect("streaming");
    write(&cluster, 20_000);
    let told = receiving.expect("retrying: cannot prepare ");
    assert!(told.contains(&disk.directory.path().display().to_string()), "{told}");
    assert!(told.contains("No space left"), "{told}");
    // What was reported as flushed is there: the server may have forgotten it.
    let flushed = cluster.query_text("select coalesce(max(flush_lsn), '0/0') from pg_stat_replication");
    let flushed: pgwal::Lsn = flushed[0].parse().unwrap();
    let newest = names(disk.directory.path()).into_iter().rfind(|name| name.len() == 24).unwrap();
    let held = newest.parse::<pgwal::SegmentName>().unwrap().end_lsn(pgwal::SegmentSize::MIN).unwrap();
    assert!(flushed <= held, "{flushed} was reported, and WAL is held up to {held}");
    compare_segments(&cluster, disk.directory.path());
    // Space again, but not enough for what is to come: segments are archived meanwhile.
    std::fs::remove_file(&ballast).unwrap();
    let target = cluster.value("select pg_current_wal_flush_lsn()");
    let question = format!("select count(*) from pg_stat_replication where flush_lsn >= '{target}'::pg_lsn");
    wait_for("all WAL to be received", 60, || {
        let mut whole = names(disk.directory.path());
        whole.retain(|name| name.len() == 24);
        for name in whole.iter().rev().skip(1) {
            std::fs::remove_file(disk.directory.join(name)).unwrap();
        }
        (cluster.value(&question) != "0").then_some(())
    });
    receiving.stop();
}

#[test]
fn a_full_disk_at_the_start_is_an_error_that_names_the_file() {
    testkit::require_pg!(15);
    let Some(disk) = Mounted::new(&["-t", "tmpfs", "-o", "size=8m"], Path::new("none")) else { return };
    let cluster = Cluster::start(15);
    let receiving = Receiving::start(options(&cluster, &disk.directory));
    write(&cluster, 10);
    // The first WAL is what shows it, and streaming has worked by then or not.
    let error = wait_for("the error", 30, || {
        let events = receiving.events().into_iter().find(|event| event.starts_with("retrying: "));
        events.or_else(|| receiving.thread.as_ref().is_some_and(JoinHandle::is_finished).then(String::new))
    });
    let error = if error.is_empty() { receiving.failure().to_string() } else { error };
    assert!(error.contains(".partial: No space left"), "{error}");
    let names = names(disk.directory.path());
    assert_eq!(names, [""; 0], "nothing half-made is left behind");
}

#[test]
fn a_disk_that_hangs_does_not_cost_the_connection() {
    testkit::require_pg!(15);
    let image = TestDir::new();
    let file = image.join("disk.img");
    std::fs::File::create(&file).unwrap().set_len(64 << 20).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&file).output();
    if !made.is_ok_and(|output| output.status.success()) {
        testkit::notice_skipped("mkfs.ext4");
        return;
    }
    let Some(disk) = Mounted::new(&["-o", "loop"], &file) else { return };
    let _ = std::fs::remove_dir(disk.directory.join("lost+found"));
    let cluster = Cluster::builder(15).segment_size_mib(1).setting("wal_sender_timeout", "2s").start();
    let receiving = Receiving::start(options(&cluster, &disk.directory));
    receiving.expect("streaming");
    write(&cluster, 100);
    wait_until_flushed(&cluster);
    let freeze = |way: &str| {
        assert!(Command::new("fsfreeze").arg(way).arg(disk.directory.path()).status().unwrap().success());
    };
    let pid = "select pid from pg_stat_replication";
    let before = cluster.value(pid);
    freeze("--freeze");
    write(&cluster, 40_000);
    let target = cluster.value("select pg_current_wal_flush_lsn()");
    std::thread::sleep(Duration::from_secs(6));
    let question = format!("select flush_lsn < '{target}'::pg_lsn from pg_stat_replication");
    let (during, honest) = (cluster.query_text(pid), cluster.query_text(&question));
    freeze("--unfreeze");
    assert_eq!(during, [before], "the server gave up: {:?}", receiving.events());
    assert_eq!(honest, ["t"], "WAL was reported as flushed that the disk had not taken");
    wait_until_flushed(&cluster);
    receiving.stop();
}
