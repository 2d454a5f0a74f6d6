//! WAL that rots after it was archived and indexed: a restore fails over it before it copies the backup, and from then on it
//! is known.

use std::fs;

use barkeep_catalog::xlogdb;
use pgwal::{SegmentName, SegmentSize, WalFile};
use testkit::Cluster;

use crate::restore_scene::Scene;
use crate::stored::layout;

/// Where the checksum of a segment's first record is: behind the page's header and all but the end of the record's.
const FIRST_CHECKSUM: usize = 40 + 20;

fn rot_is_found_before_files_are_copied_and_remembered(compression: &str) {
    let scene = Scene::with(Cluster::builder(17).segment_size_mib(1), |home| match compression {
        "none" => home,
        _ => home.with("main", "compression", compression),
    });
    let mut xid = String::new();
    for id in 10..13 {
        xid = scene
            .cluster
            .value(&format!("with new as (insert into log values ({id})) select txid_current()::text"));
        scene.archive();
    }
    scene.home.run(["archive-wal", "main"]).success();
    let layout = layout(&scene.home);
    let archived: Vec<SegmentName> = xlogdb::archived_segments(&layout).unwrap();
    let rotten = archived[archived.len() - 2];
    assert_eq!(rotten.next(SegmentSize::MIN), archived.last().copied());
    let path = layout.wal(&WalFile::Segment(rotten));
    let whole = fs::read(&path).unwrap();
    let mut bytes = whole.clone();
    // Of what is compressed, the checksum at its end: elsewhere a bit may happen to mean the same.
    let at = if compression == "none" { FIRST_CHECKSUM } else { bytes.len() - 6 };
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();

    let target = ["--target-xid", &xid];
    let windows = || scene.home.run(["windows", "main"]).success().stdout;
    assert!(!windows().contains("damaged"), "{}", windows());
    let run = scene.restore("tried", &target).exits_with(1);
    let told = run.stderr.lines().last().unwrap_or_default();
    for part in [&rotten.to_string()[..], "it is damaged", "nothing of it was left", "barkeep windows main"] {
        assert!(told.contains(part) || part == "it is damaged" && compression != "none", "{part}: {run:?}");
    }
    assert!(!scene.destination("tried").exists());

    // Now it is known, and the next restore is refused at once.
    let told = windows();
    assert!(
        told.lines().any(|line| line.contains(&rotten.to_string()) && line.contains("damaged")),
        "{told}"
    );
    let run = scene.restore("tried", &target);
    run.fails_with_one_line(1, &[&format!("{rotten} is damaged")]);

    // Until a sound one takes its place and is looked at.
    fs::write(&path, whole).unwrap();
    scene.home.run(["check", "--deep", "main"]);
    let restored = scene.recover("restored", &[&target[..], &["--target-action", "promote"]].concat());
    assert_eq!(restored.value("select max(id)::text from log"), "12");
}

#[test]
fn rot_in_plain_wal_is_found_before_files_are_copied_and_remembered() {
    testkit::require_pg!(17);
    rot_is_found_before_files_are_copied_and_remembered("none");
}

#[test]
fn rot_in_compressed_wal_is_found_before_files_are_copied_and_remembered() {
    testkit::require_pg!(17);
    rot_is_found_before_files_are_copied_and_remembered("gzip");
}
