//! `sync-info`: what Barman's passive node asks this home for; and commands that are not there.

use ::barkeep::config::keys::OWN_KEYS;
use pgwal::{SegmentSize, WalFile};
use serde_json::Value;

use crate::shared_home::{SharedHome, Spot, Tool, archive, archived, put, record};
use crate::support::{Home, barkeep};

const SIZE: SegmentSize = SegmentSize::DEFAULT;

fn spot(segment: u64) -> Spot {
    Spot { size: SIZE, timeline: 1, segment }
}

/// What a tool tells, but for the keys of the configuration that only barkeep knows.
#[track_caller]
fn told(home: &SharedHome, tool: Tool, words: &[&str]) -> Result<Value, String> {
    let run = home.run(tool, words);
    match run.code {
        Some(0) => {
            let mut told = run.json();
            let config = told["config"].as_object_mut().unwrap();
            config.retain(|key, _| !OWN_KEYS.contains(&key.as_str()));
            Ok(told)
        }
        code => {
            let error = run.stderr.lines().find_map(|line| line.strip_prefix("ERROR: "));
            let error = error.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
            Err(format!("{code:?} {}", error.split(" (").next().unwrap()))
        }
    }
}

#[test]
fn tells_barmans_passive_node_what_barman_tells_it() {
    testkit::require_barman!();
    let home = SharedHome::new("compression = gzip");
    let layout = home.layout();
    archived(&layout, (1..=9).map(|segment| WalFile::Segment(spot(segment).name())));
    for (id, segment, status) in [
        ("20260101T000000", 2, barkeep_catalog::Status::Failed),
        ("20260102T000000", 3, barkeep_catalog::Status::Done),
        ("20260103T000000", 6, barkeep_catalog::Status::Done),
        ("20260104T000000", 9, barkeep_catalog::Status::WaitingForWals),
    ] {
        let mut info = record(id, spot(segment));
        info.status = status;
        put(&layout, &info);
    }
    home.hand_over();
    let list = std::fs::read_to_string(layout.xlogdb()).unwrap();
    let name = |segment| spot(segment).name().to_string();
    let position = |segment| list.find(&name(segment)).unwrap().to_string();
    let (one, four, nine, ten) = (name(1), name(4), name(9), name(10));
    let (at_four, at_nine) = (position(4), position(9));
    for words in [
        &[][..],
        &[one.as_str()],
        &[&four],
        &[&four, &at_four],
        &[&four, "7"],
        &[&four, "999999"],
        &[&nine, &at_nine],
        &[&ten],
        &["000000010000000000000000"],
        &["--primary"],
    ] {
        let words: Vec<&str> = ["sync-info", "main"].iter().chain(words).copied().collect();
        let by_barman = told(&home, Tool::Barman, &words);
        assert_eq!(told(&home, Tool::Barkeep, &words), by_barman, "{words:?}");
    }
    let words = ["sync-info", "main", &four, "nine"];
    home.run(Tool::Barman, &words).exits_with(2);
    home.run(Tool::Barkeep, &words).exits_with(2);
    for words in [&["sync-wals", "main"][..], &["sync-backup", "main", "20260103T000000"]] {
        assert_eq!(told(&home, Tool::Barkeep, words), told(&home, Tool::Barman, words));
    }
    assert_eq!(std::fs::read_to_string(layout.xlogdb()).unwrap(), list, "it only looks");
}

#[test]
fn barmans_passive_node_copies_a_home_that_barkeep_keeps() {
    use std::os::unix::fs::PermissionsExt as _;
    testkit::require_barman!();
    let id = "20260102T000000";
    let primary = SharedHome::new("");
    archived(&primary.layout(), (3..=6).map(|segment| WalFile::Segment(spot(segment).name())));
    put(&primary.layout(), &record(id, spot(3)));
    primary.hand_over();
    // In ssh's place: what is asked for is run here, as a shell there would.
    let there = testkit::TestDir::new();
    let bin = there.join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(testkit::reachable_binary(barkeep()), bin.join("barman")).unwrap();
    let ssh = there.write(
        "ssh",
        format!(
            "#!/bin/sh\nwhile [ \"$1\" != primary ]; do shift; done\nshift\n\
             exec env PATH='{}':\"$PATH\" BARMAN_CONFIG_FILE='{}' sh -c \"$*\"\n",
            bin.display(),
            primary.config().display()
        ),
    );
    std::fs::set_permissions(&ssh, std::fs::Permissions::from_mode(0o755)).unwrap();
    let copy = SharedHome::new(&format!("primary_ssh_command = {} primary", ssh.display()));
    copy.hand_over();
    // As its cron does, one after the other.
    copy.run(Tool::Barman, &["sync-info", "--primary", "main"]).success();
    copy.run(Tool::Barman, &["sync-backup", "main", id]).success();
    copy.run(Tool::Barman, &["sync-wals", "main"]).success();
    let id = id.parse().unwrap();
    let version = |home: &SharedHome| home.layout().backup_data(id).join("PG_VERSION");
    assert_eq!(std::fs::read(version(&copy)).unwrap(), std::fs::read(version(&primary)).unwrap());
    assert_eq!(archive(&copy.layout()), archive(&primary.layout()));
    // What comes later follows.
    archived(&primary.layout(), (7..=8).map(|segment| WalFile::Segment(spot(segment).name())));
    primary.hand_over();
    copy.run(Tool::Barman, &["sync-info", "--primary", "main"]).success();
    copy.run(Tool::Barman, &["sync-wals", "main"]).success();
    assert_eq!(archive(&copy.layout()), archive(&primary.layout()));
}

#[test]
fn what_is_not_there_says_so_and_what_to_do_instead() {
    let home = Home::new().server("main", "host=/nowhere").server("copy", "host=/nowhere").with(
        "copy",
        "primary_ssh_command",
        "ssh somewhere",
    );
    for words in [
        &["sync-info", "--primary", "copy"][..],
        &["sync-backup", "copy", "latest"],
        &["sync-wals", "copy"],
        &["export-backup", "main", "latest", "/tmp", "--compression", "gzip"],
        &["import-backup", "main", "/tmp/x.tar"],
        &["cloud-wal-archive", "-p", "2", "main", "pg_wal/000000010000000000000001"],
        &["cloud-wal-restore", "main", "000000010000000000000001", "/tmp/x", "--spool-dir", "/tmp"],
    ] {
        home.run(words).fails_with_one_line(1, &["barkeep", "Barman's"]);
    }
}
