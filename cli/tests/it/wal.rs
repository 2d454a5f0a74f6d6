//! `barkeep wal`: looking into the WAL of real servers, without a configuration.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use barkeep_transport::codec::{Compression, Level};
use serde_json::json;
use testkit::{Cluster, StopMode};

use crate::support::Home;

/// A stopped cluster with some WAL, and its segments in order.
pub(crate) struct Wal {
    cluster: Cluster,
    pub(crate) segments: Vec<PathBuf>,
}

impl Wal {
    pub(crate) fn make(major: u32) -> Self {
        let settings = [("wal_keep_size", "1GB"), ("autovacuum", "off"), ("wal_level", "logical")];
        let mut builder = Cluster::builder(major).segment_size_mib(1);
        for (key, value) in settings {
            builder = builder.setting(key, value);
        }
        let mut cluster = builder.start();
        cluster.execute("CREATE TABLE t AS SELECT g, repeat('x', 200) AS x FROM generate_series(1, 20000) g");
        cluster.execute("CREATE TABLE doomed (a int)");
        cluster.execute("DROP TABLE doomed");
        cluster.execute("DELETE FROM t WHERE g % 2 = 0");
        cluster.execute("TRUNCATE t");
        cluster.stop(StopMode::Fast);
        let dir = cluster.data_dir().join("pg_wal");
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let mut segments: Vec<PathBuf> =
            entries.filter(|path| path.file_name().unwrap().len() == 24).collect();
        segments.sort();
        // The server makes segments in advance; what is read here is what it has used.
        let used = segments.iter().position(|path| verify(&[path]).0 != Some(0)).unwrap();
        segments.truncate(used + 1);
        Wal { cluster, segments }
    }

    pub(crate) fn paths(&self) -> Vec<&Path> {
        self.segments.iter().map(PathBuf::as_path).collect()
    }
}

pub(crate) fn barkeep(
    words: &[&str],
    paths: &[&Path],
    stdin: Option<&[u8]>,
) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_barkeep"));
    command.args(words).args(paths).env("HOME", "/nonexistent");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let feed = stdin.map(<[u8]>::to_vec).unwrap_or_default();
    let feeder = std::thread::spawn(move || pipe.write_all(&feed));
    let output = child.wait_with_output().unwrap();
    let _ = feeder.join().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn verify(paths: &[&Path]) -> (Option<i32>, String, String) {
    barkeep(&["wal", "verify"], paths, None)
}

#[test]
fn prints_records_as_pg_waldump_does() {
    for major in [15, 18] {
        testkit::require_pg!(major);
        let Some(pg_waldump) = testkit::client_tool("pg_waldump", major) else { return };
        let wal = Wal::make(major);
        let start = wal.segments[0].file_name().unwrap().to_str().unwrap();
        let theirs = Command::new(pg_waldump)
            .arg("-p")
            .arg(wal.cluster.data_dir().join("pg_wal"))
            .args([start, wal.segments.last().unwrap().file_name().unwrap().to_str().unwrap()])
            .env("TZ", "UTC")
            .output()
            .unwrap();
        let (code, ours, complaint) = barkeep(&["wal", "dump"], &wal.paths(), None);
        assert_eq!(code, Some(0), "{complaint}");
        assert!(ours.lines().count() > 5000);
        assert!(ours == String::from_utf8(theirs.stdout).unwrap());
        let (_, heap, _) = barkeep(&["wal", "dump", "--rmgr", "heap2"], &wal.paths(), None);
        let expected: Vec<&str> = ours.lines().filter(|line| line.starts_with("rmgr: Heap2 ")).collect();
        assert!(!expected.is_empty());
        assert_eq!(heap.lines().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn verifies_what_is_sound_and_tells_what_is_not() {
    testkit::require_pg!(18);
    let wal = Wal::make(18);
    let sound = wal.segments.len() - 1;
    let (code, said, complaint) = verify(&wal.paths()[..sound]);
    assert_eq!((code, complaint.as_str()), (Some(0), ""), "{said}");
    assert!(said.contains(&format!("{sound} segments with ")), "{said}");
    let (code, said, _) = barkeep(&["wal", "verify", "--may-end"], &wal.paths(), None);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("the WAL ends at "), "{said}");
    // From standard input, and compressed under another name.
    let bytes = std::fs::read(&wal.segments[1]).unwrap();
    let (code, said, _) = barkeep(&["wal", "verify"], &[Path::new("-")], Some(&bytes));
    assert_eq!(code, Some(0), "{said}");
    // A flipped bit.
    let dir = testkit::TestDir::new();
    let mut damaged = bytes;
    damaged[70_000] ^= 4;
    let path = dir.write("damaged-segment", &damaged);
    let (code, said, complaint) = verify(&[&path]);
    assert_eq!((code, complaint.as_str()), (Some(1), ""));
    assert!(said.contains("checksum") || said.contains("invalid"), "{said}");
    let (code, said, _) = barkeep(&["-f", "json", "wal", "verify"], &[&path], None);
    let first: serde_json::Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    assert_eq!((code, first["sound"].as_bool()), (Some(1), Some(false)));
    // No WAL at all.
    let path = dir.write("notes.txt", "nothing of the sort");
    let (code, _, complaint) = verify(&[&path]);
    assert_eq!(code, Some(1));
    assert!(complaint.contains("is not a WAL segment"), "{complaint}");
}

#[test]
fn finds_what_was_dropped_and_when() {
    testkit::require_pg!(15);
    let wal = Wal::make(15);
    let (code, found, complaint) = barkeep(&["-f", "json", "wal", "find"], &wal.paths(), None);
    assert_eq!(code, Some(0), "{complaint}");
    let found: Vec<serde_json::Value> =
        found.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> =
        found.iter().flat_map(|event| event["destroyed"].as_array().into_iter().flatten()).collect();
    let summary: Vec<_> =
        told.iter().map(|deed| (&deed["statement"], &deed["name"], &deed["rows"])).collect();
    let (doomed, t, none) = (json!("doomed"), json!("t"), json!(null));
    assert_eq!(
        summary,
        [
            (&json!("DROP TABLE"), &doomed, &none),
            (&json!("DELETE"), &t, &json!(10_000)),
            (&json!("TRUNCATE TABLE"), &t, &none),
        ]
    );
    let truncated = found.iter().rfind(|event| event["xid"].is_number()).unwrap();
    assert_eq!(truncated["restore"]["target_lsn"], truncated["lsn"]);
    let (code, commits, _) = barkeep(&["-f", "json", "wal", "commits"], &wal.paths(), None);
    assert_eq!(code, Some(0));
    let of_its_xid = commits.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let commit = of_its_xid.into_iter().find(|commit| commit["xid"] == truncated["xid"]).unwrap();
    assert_eq!((&commit["time"], &commit["lsn"]), (&truncated["time"], &truncated["lsn"]));
    let (code, stats, _) = barkeep(&["wal", "stats", "--by-relation"], &wal.paths(), None);
    assert_eq!(code, Some(0));
    assert!(stats.lines().count() > 10 && stats.contains("\nTotal"), "{stats}");
}

#[test]
fn looks_into_a_servers_archive() {
    testkit::require_pg!(18);
    let wal = Wal::make(18);
    let home = Home::new().server("main", "host=/nowhere");
    let archive = home.path().join("main/wals");
    for (number, segment) in wal.segments[..wal.segments.len() - 1].iter().enumerate() {
        let name = segment.file_name().unwrap().to_str().unwrap();
        let directory = archive.join(&name[..16]);
        std::fs::create_dir_all(&directory).unwrap();
        let (mut stored, plain) = (Vec::new(), std::fs::read(segment).unwrap());
        // Archives are compressed, or become so.
        if number % 2 == 0 {
            let mut encoder = Compression::Zstd.writer(&mut stored, Level::Medium).unwrap();
            encoder.write_all(&plain).unwrap();
            encoder.finish().unwrap();
        } else {
            stored = plain;
        }
        std::fs::write(directory.join(name), stored).unwrap();
    }
    let said = home.run(["wal", "verify", "--server", "main"]).success().stdout;
    assert!(said.contains(&format!("{} segments with ", wal.segments.len() - 1)), "{said}");
    let (_, of_files, _) = barkeep(&["wal", "commits"], &wal.paths()[..wal.segments.len() - 1], None);
    assert_eq!(home.run(["wal", "commits", "--server", "main"]).success().stdout, of_files);
    home.run(["wal", "verify", "--server", "other"]).exits_with(1);
    // As with other commands, the server's name alone will do.
    for command in ["verify", "stats", "dump", "index", "commits", "find"] {
        let by_option = home.run(["wal", command, "--server", "main"]).success().stdout;
        assert_eq!(home.run(["wal", command, "main"]).success().stdout, by_option, "{command}");
        home.run(["wal", command, "other"]).fails_with_one_line(1, &["no file or directory 'other'"]);
        home.run(["wal", command, &archive.join("other").to_string_lossy()]).exits_with(1);
    }
    let missing = &wal.segments[0].file_name().unwrap().to_string_lossy();
    home.run(["wal", "verify", missing]).fails_with_one_line(1, &[missing, "No such file"]);
}

#[test]
fn a_server_without_wal_is_named() {
    let home = Home::new().server("main", "host=/nowhere");
    for command in ["verify", "stats", "dump", "index", "commits", "find"] {
        for _ in 0..2 {
            let run = home.run(["wal", command, "main"]);
            run.fails_with_one_line(1, &["Server 'main' has no WAL", "barkeep check main"]);
            std::fs::create_dir_all(home.path().join("main/wals")).unwrap();
        }
        std::fs::remove_dir_all(home.path().join("main")).unwrap();
    }
}
