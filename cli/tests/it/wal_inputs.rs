//! `barkeep wal` on what people give it: pipes, holes, cut and empty files, directories of anything; and its filters.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use barkeep_transport::codec::{Compression, Level};
use rustix::fs::OFlags;
use testkit::TestDir;

use crate::wal::{Wal, barkeep};

fn compressed(plain: &[u8], compression: Compression) -> Vec<u8> {
    let mut stored = Vec::new();
    let mut encoder = compression.writer(&mut stored, Level::Low).unwrap();
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap();
    stored
}

/// A directory with some of the segments.
fn directory(wal: &Wal, which: impl IntoIterator<Item = usize>) -> TestDir {
    let dir = TestDir::new();
    for index in which {
        let from = &wal.segments[index];
        std::fs::copy(from, dir.join(from.file_name().unwrap().to_str().unwrap())).unwrap();
    }
    dir
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

fn lines(json: &str) -> Vec<serde_json::Value> {
    json.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_segment_comes_out_of_a_pipe_compressed_or_not() {
    testkit::require_pg!(18);
    let wal = Wal::make(18);
    let plain = std::fs::read(&wal.segments[1]).unwrap();
    let (_, expected, _) = barkeep(&["wal", "commits"], &[&wal.segments[1]], None);
    for compression in [Compression::None, Compression::Gzip, Compression::Xz, Compression::Zstd] {
        let piped =
            if compression == Compression::None { plain.clone() } else { compressed(&plain, compression) };
        let (code, said, complaint) = barkeep(&["wal", "commits"], &[Path::new("-")], Some(&piped));
        assert_eq!((code, said.as_str()), (Some(0), expected.as_str()), "{compression:?} {complaint}");
    }
    let (code, _, complaint) = barkeep(&["wal", "stats"], &[Path::new("-")], Some(b""));
    assert_eq!(code, Some(1));
    assert!(complaint.contains("Standard input is not a WAL segment"), "{complaint}");
}

#[test]
fn several_segments_come_out_of_one_pipe_as_they_do_out_of_files() {
    testkit::require_pg!(18);
    let wal = Wal::make(18);
    let whole: Vec<PathBuf> = wal.segments[..wal.segments.len() - 1].to_vec();
    let paths: Vec<&Path> = whole.iter().map(PathBuf::as_path).collect();
    let bytes: Vec<Vec<u8>> = whole.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let piped = |words: &[&str], bytes: &[u8]| barkeep(words, &[Path::new("-")], Some(bytes));
    for words in [
        &["wal", "verify"][..],
        &["-f", "json", "wal", "verify"],
        &["wal", "stats", "--by-record"],
        &["wal", "dump"],
        &["wal", "commits"],
        &["wal", "find"],
        &["-f", "json", "wal", "index", "--blocks"],
        &["-f", "json", "wal", "index", "--merge"],
    ] {
        let expected = barkeep(words, &paths, None);
        assert_eq!(expected.0, Some(0), "{words:?}: {}", expected.2);
        let all = bytes.concat();
        assert!(piped(words, &all) == expected, "{words:?}");
        assert!(piped(words, &compressed(&all, Compression::Zstd)) == expected, "{words:?}, compressed");
    }
    // A part of the WAL, in the middle of the pipe.
    let (_, commits, _) = barkeep(&["-f", "json", "wal", "commits"], &paths, None);
    let commits = lines(&commits);
    let at = |part: usize| commits[commits.len() * part / 4]["lsn"].as_str().unwrap().to_owned();
    for command in ["dump", "find", "commits"] {
        let words = ["wal", command, "--from", &at(1), "--to", &at(3)];
        assert!(piped(&words, &bytes.concat()) == barkeep(&words, &paths, None), "{command}");
    }
    // With a hole; cut off; with something else in between; with a segment that comes again.
    let hole = [&bytes[0][..], &bytes[2]].concat();
    let (code, said, complaint) = piped(&["wal", "verify"], &hole);
    assert_eq!((code, complaint.as_str()), (Some(0), ""));
    assert!(said.contains(&format!("{}: missing", name(&whole[1]))), "{said}");
    let cut = [&bytes[0][..], &bytes[1][..400_000]].concat();
    let (code, said, _) = piped(&["wal", "verify"], &cut);
    assert_eq!(code, Some(1));
    assert!(said.contains("the segment is 400000 bytes long") && said.contains("1 of 2 segments"), "{said}");
    let (code, _, complaint) = piped(&["wal", "stats"], &cut);
    assert_eq!(code, Some(0));
    assert!(complaint.starts_with("WARNING: The WAL ends at "), "{complaint}");
    for (stray, what) in [(&b"not WAL"[..], "is no segment of 1MB"), (&bytes[0][..], "which is not later")] {
        let stray = [&bytes[0][..], &bytes[1], stray, &bytes[2]].concat();
        for command in ["verify", "stats", "index"] {
            let (code, _, complaint) = piped(&["wal", command], &stray);
            assert_eq!(code, Some(1), "{command}");
            assert!(
                complaint.contains("Standard input is not a series") && complaint.contains(what),
                "{complaint}"
            );
        }
    }
    // Damage in one of them.
    let mut damaged = bytes.concat();
    damaged[(1 << 20) + 70_000] ^= 4;
    let (code, said, _) = piped(&["wal", "verify"], &damaged);
    assert_eq!(code, Some(1));
    let faults = said.lines().filter(|line| line.contains("offset")).count();
    assert!(faults == 1 && said.contains(&format!("1 of {} segments are damaged", whole.len())), "{said}");
}

#[test]
fn segments_that_a_server_has_made_in_advance_are_no_damage() {
    testkit::require_pg!(18);
    let wal = Wal::make(18);
    let used = wal.segments.len();
    let dir = directory(&wal, 0..used);
    let (_, expected, _) = barkeep(&["wal", "stats"], &[dir.path()], None);
    // One that is an old one under a new name, and one that is zeros.
    let number = |by: u64| {
        let last: pgwal::SegmentName = name(wal.segments.last().unwrap()).parse().unwrap();
        (0..by).fold(last, |segment, _| segment.next(pgwal::SegmentSize::MIN).unwrap()).to_string()
    };
    std::fs::copy(&wal.segments[0], dir.join(number(1))).unwrap();
    dir.write(number(2), vec![0_u8; 1 << 20]);
    for command in ["stats", "dump", "commits", "find", "index"] {
        let (code, said, complaint) = barkeep(&["wal", command], &[dir.path()], None);
        assert_eq!(code, Some(0), "{command}: {complaint}");
        assert!(complaint.starts_with("WARNING: The WAL ends at "), "{command}: {complaint}");
        assert!(command != "stats" || said == expected, "{said}");
    }
    let (code, said, _) = barkeep(&["wal", "verify", "--may-end"], &[dir.path()], None);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("{}: the server has made this segment in advance", number(1))), "{said}");
    assert!(said.contains(&format!("{used} segments with ")), "{said}");
    // Where WAL is to be complete, they are faults.
    let (code, said, _) = barkeep(&["wal", "verify"], &[dir.path()], None);
    assert_eq!(code, Some(1));
    assert!(said.contains(&format!("of {} segments are damaged", used + 2)), "{said}");
}

#[test]
fn a_reader_that_goes_away_and_a_full_disk_are_told_apart() {
    testkit::require_pg!(18);
    let wal = Wal::make(18);
    for command in ["dump", "stats", "commits", "index", "verify"] {
        let run = |output: std::process::Stdio| {
            let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_barkeep"))
                .args(["wal", command])
                .args(&wal.segments[..2])
                .stdout(output)
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            drop(child.stdout.take());
            let output = child.wait_with_output().unwrap();
            (output.status.code(), String::from_utf8(output.stderr).unwrap())
        };
        assert_eq!(run(std::process::Stdio::piped()), (Some(0), String::new()), "{command}");
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let (code, complaint) = run(full.into());
        assert_eq!(code, Some(1), "{command}");
        assert!(complaint.contains("Standard output can't be written"), "{command}: {complaint}");
    }
}

/// Whether nobody keeps a file from being written, as by a lease on it.
fn is_free_to_write(path: &Path) -> bool {
    let nonblocking = OFlags::NONBLOCK.bits() as i32;
    std::fs::OpenOptions::new().write(true).custom_flags(nonblocking).open(path).is_ok()
}

#[test]
fn a_dump_that_waits_for_its_reader_keeps_no_writer_waiting() {
    testkit::require_pg!(18);
    let wal = Wal::make(18);
    for options in [&["wal", "dump"][..], &["-f", "json", "wal", "dump"], &["wal", "dump", "--bkp-details"]] {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_barkeep"))
            .args(options)
            .args(&wal.segments)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        let stat = format!("/proc/{}/stat", child.id());
        testkit::wait_for("it to sleep with its output in the pipe", 30, || {
            let sleeps = std::fs::read_to_string(&stat).unwrap().contains(") S ");
            (sleeps && rustix::io::ioctl_fionread(&output).unwrap() >= 1 << 15).then_some(())
        });
        assert!(wal.segments.iter().all(|segment| is_free_to_write(segment)), "{options:?}");
        assert!(child.try_wait().unwrap().is_none(), "{options:?}: it was to wait");
        drop(output);
        child.wait().unwrap();
    }
}

#[test]
fn a_cut_file_spoils_nothing_but_itself() {
    testkit::require_pg!(18);
    let wal = Wal::make(18);
    let dir = directory(&wal, [0, 1, 2]);
    let cut = dir.join(name(&wal.segments[1]));
    let stored = compressed(&std::fs::read(&wal.segments[1]).unwrap(), Compression::Zstd);
    for (bytes, what) in [
        (&stored[..stored.len() / 2], "can't be read"),
        (&[][..], "the segment is 0 bytes long"),
        (&std::fs::read(&wal.segments[1]).unwrap()[..300_000], "the segment is 300000 bytes long"),
    ] {
        std::fs::write(&cut, bytes).unwrap();
        let (code, said, complaint) = barkeep(&["wal", "verify"], &[dir.path()], None);
        assert_eq!((code, complaint.as_str()), (Some(1), ""), "{said}");
        assert!(said.contains(what) && said.contains("1 of 3 segments are damaged"), "{said}");
        // What goes through the records can't go on behind it, and says why.
        for command in ["stats", "commits", "index", "find", "dump"] {
            let (code, _, complaint) = barkeep(&["wal", command], &[dir.path()], None);
            assert_eq!(code, Some(1), "{command} {what}");
            assert!(complaint.contains(name(&wal.segments[1])), "{command}: {complaint}");
        }
    }
}

#[test]
fn the_end_of_the_wal_is_told() {
    testkit::require_pg!(15);
    let wal = Wal::make(15);
    for command in ["stats", "commits", "index", "find", "dump"] {
        let (code, _, complaint) = barkeep(&["wal", command], &wal.paths(), None);
        assert_eq!(code, Some(0), "{complaint}");
        assert!(complaint.starts_with("WARNING: The WAL ends at "), "{command}: {complaint}");
        let (_, said, _) = barkeep(&["-f", "json", "wal", command], &wal.paths(), None);
        let last = lines(&said).pop().unwrap();
        assert_eq!(last["segment"], name(wal.segments.last().unwrap()), "{command}: {last}");
    }
}

#[test]
fn a_hole_and_strange_files_are_passed_over_and_told() {
    testkit::require_pg!(18);
    let wal = Wal::make(18);
    let dir = directory(&wal, [0, 1, 3, 4]);
    dir.write("notes.txt", "not WAL");
    dir.write("000000010000000000000001.00000028.backup", "START WAL LOCATION: 0/28");
    dir.write("00000002.history", "1\t0/2000000\tbefore 2000");
    std::fs::create_dir(dir.join("archive_status")).unwrap();
    let (code, said, complaint) = barkeep(&["wal", "verify"], &[dir.path()], None);
    assert_eq!((code, complaint.as_str()), (Some(0), ""), "{said}");
    assert!(said.contains(&format!("{}: missing", name(&wal.segments[2]))), "{said}");
    let (code, said, complaint) = barkeep(&["-f", "json", "wal", "index", "--merge"], &[dir.path()], None);
    assert_eq!(code, Some(0), "{complaint}");
    assert_eq!(lines(&said).len(), 2, "{said}");
    // A segment that is no file but a directory, or a pipe that nobody writes to.
    let strange = dir.join(name(&wal.segments[2]));
    for make in ["mkdir", "mkfifo"] {
        assert!(std::process::Command::new(make).arg(&strange).status().unwrap().success());
        let (code, said, _) = barkeep(&["wal", "verify"], &[dir.path()], None);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("it is not a regular file"), "{said}");
        let _ = std::fs::remove_dir(&strange);
    }
    std::fs::remove_file(&strange).unwrap();
    // A range that the WAL has nothing of is not sound, but not there.
    for range in [["--from", "FFFF/0"], ["--to", "0/1"]] {
        for command in ["verify", "dump", "stats", "find"] {
            let (code, _, complaint) = barkeep(&["wal", command, range[0], range[1]], &[dir.path()], None);
            assert_eq!(code, Some(1), "{command} {range:?}");
            assert!(complaint.contains("has nothing of the range"), "{complaint}");
        }
    }
    let empty = TestDir::new();
    let (code, _, complaint) = barkeep(&["wal", "verify"], &[empty.path()], None);
    assert_eq!(code, Some(1));
    assert!(complaint.contains("There is no WAL to look into"), "{complaint}");
}

#[test]
fn a_partial_segment_ends_where_its_wal_ends() {
    testkit::require_pg!(18);
    let wal = Wal::make(18);
    let dir = directory(&wal, [0, 1]);
    let mut bytes = std::fs::read(&wal.segments[2]).unwrap();
    bytes[500_000..].fill(0);
    let partial = dir.write(format!("{}.partial", name(&wal.segments[2])), &bytes);
    let (code, said, _) = barkeep(&["wal", "verify"], &[dir.path()], None);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("the WAL ends at ") && said.contains("3 segments with "), "{said}");
    let (code, said, complaint) = barkeep(&["-f", "json", "wal", "index"], &[&partial], None);
    assert_eq!(code, Some(0), "{complaint}");
    assert_eq!(lines(&said)[0]["complete"], false);
}

#[test]
fn two_timelines_side_by_side() {
    testkit::require_pg!(18);
    let wal = Wal::make(18);
    let dir = directory(&wal, [0, 1, 2]);
    // The same WAL under the name of another timeline: its pages say that they are older, which is no fault.
    let other = name(&wal.segments[1]).replacen("00000001", "00000002", 1);
    std::fs::copy(&wal.segments[1], dir.join(&other)).unwrap();
    let (code, said, complaint) = barkeep(&["wal", "verify"], &[dir.path()], None);
    assert_eq!((code, complaint.as_str()), (Some(0), ""), "{said}");
    let (_, said, _) = barkeep(&["-f", "json", "wal", "index"], &[dir.path()], None);
    let segments: Vec<String> = lines(&said).iter().map(|index| index["segment"].to_string()).collect();
    assert_eq!(segments.iter().filter(|segment| segment.contains(&other)).count(), 1);
}

#[test]
fn records_are_filtered_by_each_of_their_marks() {
    testkit::require_pg!(18);
    let wal = Wal::make(18);
    let whole: Vec<PathBuf> = wal.segments[..wal.segments.len() - 1].to_vec();
    let paths: Vec<&Path> = whole.iter().map(PathBuf::as_path).collect();
    let dump = |words: &[&str]| {
        let words = [&["-f", "json", "wal", "dump"][..], words].concat();
        let (code, said, complaint) = barkeep(&words, &paths, None);
        assert_eq!(code, Some(0), "{words:?}: {complaint}");
        lines(&said)
    };
    let all = dump(&[]);
    let some_block = |record: &serde_json::Value, wanted: &dyn Fn(&serde_json::Value) -> bool| {
        record["blocks"].as_array().unwrap().iter().any(wanted)
    };
    let expect = |words: &[&str], wanted: &dyn Fn(&serde_json::Value) -> bool| {
        let expected: Vec<&serde_json::Value> = all.iter().filter(|record| wanted(record)).collect();
        assert!(!expected.is_empty() && expected.len() < all.len(), "{words:?} proves nothing");
        assert!(dump(words).iter().eq(expected), "{words:?}");
    };
    let one = all.iter().find(|record| record["rmgr"] == "Heap" && record["xid"] != 0).unwrap();
    let (xid, relation) = (&one["xid"], &one["blocks"][0]["relation"]);
    expect(&["--rmgr", "heap"], &|record| record["rmgr"] == "Heap");
    expect(&["-r", "btree", "-r", "xlog"], &|record| record["rmgr"] == "Btree" || record["rmgr"] == "XLOG");
    expect(&["--xid", &xid.to_string()], &|record| record["xid"] == *xid);
    expect(&["--relation", relation.as_str().unwrap()], &|record| {
        some_block(record, &|block| block["relation"] == *relation)
    });
    expect(&["--block", "3", "--fork", "main"], &|record| {
        some_block(record, &|block| block["block"] == 3 && block["fork"] == "main")
    });
    expect(&["--fullpage"], &|record| some_block(record, &|block| !block["image"].is_null()));
    let at = |part: usize| all[all.len() * part / 4]["lsn"].as_str().unwrap().to_owned();
    let inside = dump(&["--from", &at(1), "--to", &at(3)]);
    assert_eq!(inside.first().unwrap()["lsn"], at(1).as_str());
    assert_eq!(inside.len(), all.len() * 3 / 4 - all.len() / 4);
    let (_, commits, _) = barkeep(&["-f", "json", "wal", "commits"], &paths, None);
    let commits = lines(&commits);
    let middle = commits[commits.len() / 2]["time"].as_str().unwrap();
    let (before, after) = (dump(&["--until", middle]), dump(&["--since", middle]));
    assert!(!before.is_empty() && !after.is_empty());
    assert!(before.len() + after.len() >= all.len() && after.len() < all.len() && before.len() < all.len());
}
