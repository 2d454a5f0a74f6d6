//! `barkeep wal` on what people give it: pipes, holes, cut and empty files, directories of anything; and its filters.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use barkeep_transport::codec::{Compression, Level};
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
    // A segment that is no file but a directory.
    std::fs::create_dir(dir.join(name(&wal.segments[2]))).unwrap();
    let (code, said, _) = barkeep(&["wal", "verify"], &[dir.path()], None);
    assert_eq!(code, Some(1), "{said}");
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
