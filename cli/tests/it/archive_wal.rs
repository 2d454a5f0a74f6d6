//! `archive-wal`, and whether Barman can read what it archives.

use std::fs;
use std::io::Read;
use std::process::Command;

use barkeep_catalog::wal;
use pgwal::WalFile;

use crate::stored::{archive, content, deliver, home, layout, listed, names, segment};

#[test]
fn tells_each_file_and_moves_it() {
    let home = home().with("main", "compression", "gzip");
    let (one, two) = (segment(1, 1), segment(1, 2));
    deliver(&home, two);
    deliver(&home, one);
    let run = home.run(["archive-wal", "main"]).success();
    assert_eq!(
        run.stdout,
        format!("Processing xlog segments from file archival for main\n\t{one}\n\t{two}\n")
    );
    assert_eq!(listed(&home), [one.to_string(), two.to_string()]);
    assert_eq!(names(home.join("main/incoming")), [""; 0]);
    let again = home.run(["archive-wal", "main"]).success();
    assert_eq!(again.stdout, "Processing xlog segments from file archival for main\n\tno file found\n");
    let json = home.run(["-f", "json", "archive-wal", "main"]).success().json();
    assert_eq!(json["_INFO"][1], "\tno file found");
}

#[test]
fn takes_wal_from_the_receiver_too() {
    let home = home().with("main", "streaming_archiver", "on").with("main", "archiver", "on");
    let streaming = layout(&home).streaming;
    fs::create_dir_all(&streaming).unwrap();
    fs::write(streaming.join(segment(1, 1).to_string()), content(segment(1, 1))).unwrap();
    fs::write(streaming.join(format!("{}.partial", segment(1, 2))), "being written").unwrap();
    deliver(&home, segment(1, 1));
    let run = home.run(["archive-wal", "main"]).success();
    assert!(run.stdout.starts_with("Processing xlog segments from streaming for main\n\t"), "{run:?}");
    assert!(run.stdout.contains("from file archival for main\n\t"), "{run:?}");
    assert_eq!(archive(&home), [segment(1, 1).to_string()]);
    assert_eq!(names(&streaming), [format!("{}.partial", segment(1, 2))]);
}

#[test]
fn a_different_file_of_the_same_name_is_kept_and_reported() {
    let home = home().with("main", "compression", "zstd");
    let one = segment(1, 1);
    deliver(&home, one);
    home.run(["archive-wal", "main"]).success();
    let mut other = content(one);
    other[5000] ^= 1;
    fs::write(layout(&home).incoming.join(one.to_string()), &other).unwrap();
    let run = home.run(["archive-wal", "main"]);
    let run = run.fails_with_one_line(1, &[&one.to_string(), "already present", "byte 5000", "errors/"]);
    assert!(!run.stdout.contains(&format!("\t{one}")), "{run:?}");
    let rejected = names(home.join("main/errors"));
    assert_eq!(rejected.len(), 1);
    assert!(rejected[0].starts_with(&format!("{one}.2")) && rejected[0].ends_with("Z.duplicate"));
    assert_eq!(fs::read(home.join("main/errors").join(&rejected[0])).unwrap(), other);
    home.run(["archive-wal", "main"]).success();
}

#[test]
fn a_half_copied_file_waits() {
    let home = home();
    let path = deliver(&home, segment(1, 1));
    fs::write(&path, &content(segment(1, 1))[..700_000]).unwrap();
    let run = home.run(["archive-wal", "main"]).success();
    assert!(run.stderr.contains("700000 bytes of 1048576"), "{run:?}");
    assert!(path.exists() && archive(&home).is_empty());
    // Long after, nobody can be copying it any more.
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    home.run(["archive-wal", "main"]).fails_with_one_line(1, &["700000 bytes of 1048576"]);
    assert!(path.exists() && archive(&home).is_empty());
}

#[test]
fn an_unknown_compression_archives_nothing_and_loses_nothing() {
    let home = home().with("main", "compression", "custom");
    let path = deliver(&home, segment(1, 1));
    home.run(["archive-wal", "main"]).fails_with_one_line(1, &["custom", "gzip"]);
    assert!(path.exists());
}

#[test]
fn an_archive_that_cannot_be_written_is_one_clear_line() {
    let home = home();
    let path = deliver(&home, segment(1, 1));
    fs::write(home.join("main/wals"), "in the way").unwrap();
    home.run(["archive-wal", "main"]).fails_with_one_line(1, &["main/wals", "nothing is lost"]);
    assert!(path.exists());
}

#[test]
fn a_second_archiver_makes_way() {
    let home = home();
    deliver(&home, segment(1, 1));
    let lock = barkeep_catalog::ServerLock::try_acquire(&layout(&home), barkeep_catalog::Task::ArchiveWal);
    let run = home.run(["archive-wal", "main"]).success();
    assert!(run.stdout.contains("already running on server main"), "{run:?}");
    drop(lock);
    assert!(archive(&home).is_empty());
}

#[test]
fn barman_reads_every_compression() {
    testkit::require_barman!();
    let barman = testkit::programs::barman_bin_dir().unwrap().join("barman");
    let usual =
        ["", "gzip", "bzip2", "xz", "zstd", "lz4", "snappy"].map(|compression| (compression, "medium"));
    // Of these we search less far back than the formats would.
    let hardest = [("xz", "9"), ("zstd", "22")];
    for (number, (compression, level)) in usual.into_iter().chain(hardest).enumerate() {
        let home = home().with("main", "compression", compression).with("main", "compression_level", level);
        let one = segment(1, u64::try_from(number).unwrap() + 1);
        deliver(&home, one);
        home.run(["archive-wal", "main"]).success();
        let barman = |arguments: &[&str]| {
            Command::new(&barman).arg("-c").arg(home.config()).args(arguments).output().unwrap()
        };
        let output = barman(&["get-wal", "main", &one.to_string()]);
        let told = String::from_utf8_lossy(&output.stderr);
        if told.contains("Missing required python module") {
            testkit::notice_skipped(&format!("Barman's module for {compression}"));
            continue;
        }
        assert!(output.status.success(), "{compression}: {told}");
        assert!(output.stdout == content(one), "{compression}: other bytes");
        let before = fs::read_to_string(layout(&home).xlogdb()).unwrap();
        let rebuilt = barman(&["rebuild-xlogdb", "main"]);
        assert!(rebuilt.status.success(), "{rebuilt:?}");
        assert_eq!(fs::read_to_string(layout(&home).xlogdb()).unwrap(), before, "{compression}");
    }
}

#[test]
fn killed_at_any_moment_it_loses_nothing() {
    for (round, compression) in ["", "gzip", "zstd"].into_iter().cycle().take(12).enumerate() {
        let home = home().with("main", "compression", compression);
        let segments: Vec<_> = (1..=12).map(|number| segment(1, number)).collect();
        segments.iter().for_each(|segment| drop(deliver(&home, *segment)));
        let mut child = home.command().args(["-q", "archive-wal", "main"]).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(9 * u64::try_from(round).unwrap() + 2));
        child.kill().unwrap();
        child.wait().unwrap();
        for segment in &segments {
            let source = layout(&home).incoming.join(segment.to_string()).exists();
            let is_listed = layout(&home).xlogdb().exists() && listed(&home).contains(&segment.to_string());
            assert!(source || is_listed, "{segment} lost in round {round}");
        }
        home.run(["archive-wal", "main"]).success();
        let names: Vec<String> = segments.iter().map(ToString::to_string).collect();
        assert_eq!(archive(&home), names, "round {round}");
        let mut list = listed(&home);
        list.sort();
        assert_eq!(list, names, "round {round}");
        assert_eq!(crate::stored::names(home.join("main/incoming")), [""; 0]);
        assert_eq!(crate::stored::names(home.join("main/errors")), [""; 0]);
        for segment in &segments {
            let open = wal::find(&layout(&home), WalFile::Segment(*segment), false).unwrap().unwrap();
            let mut plain = Vec::new();
            open.plain().unwrap().read_to_end(&mut plain).unwrap();
            assert!(plain == content(*segment), "round {round}: {segment}");
        }
    }
}

#[test]
fn barman_and_barkeep_keep_each_other_out() {
    testkit::require_barman!();
    let home = home();
    deliver(&home, segment(1, 1));
    let barman = testkit::programs::barman_bin_dir().unwrap();
    let lock = barkeep_catalog::ServerLock::try_acquire(&layout(&home), barkeep_catalog::Task::ArchiveWal);
    let output = Command::new(barman.join("barman"))
        .arg("-c")
        .arg(home.config())
        .args(["archive-wal", "main"])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("Another archive-wal process is already running"), "{output:?}");
    drop(lock);
    assert!(archive(&home).is_empty());

    // The other way round, by Barman's own class.
    let hold = "import sys, barman.output\nfrom barman.lockfile import ServerWalArchiveLock\n\
                with ServerWalArchiveLock(sys.argv[1], 'main'):\n    print('held', flush=True)\n    sys.stdin.read()\n";
    let mut holder = Command::new(barman.join("python"))
        .args(["-c", hold])
        .arg(home.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(holder.stdout.take().unwrap()), &mut line)
        .unwrap();
    assert_eq!(line, "held\n");
    let run = home.run(["archive-wal", "main"]).success();
    assert!(run.stdout.contains("already running on server main"), "{run:?}");
    drop(holder.stdin.take());
    holder.wait().unwrap();
    home.run(["archive-wal", "main"]).success();
    assert_eq!(archive(&home), [segment(1, 1).to_string()]);
}
