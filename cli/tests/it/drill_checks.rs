//! How a drill looks at what it has recovered: by amcheck, by page checksums, by both.

use std::fs;

use testkit::Cluster;

use crate::drill::{drill, programs};
use crate::packed_backups::Packed;

#[test]
fn page_checksums_are_a_check_of_their_own() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    let packed = Packed::new(15, "drill_check = checksums");
    let bin = programs(15);
    let seen = |options: &[&str]| {
        let words = [&["--target", "end", "-f", "json"], options].concat();
        let json = drill(&packed, &bin, &words).success().json();
        assert!(json["main"]["databases"].as_u64().unwrap() >= 2, "{json}");
        (
            json["main"]["indexes_checked"].as_u64() > Some(50),
            json["main"]["page_bytes_checked"].as_u64() > Some(8 << 20),
        )
    };
    // By the configuration, and by what is said instead.
    assert_eq!(seen(&[]), (false, true));
    assert_eq!(seen(&["--check", "amcheck"]), (true, false));
    assert_eq!(seen(&["--check", "both"]), (true, true));
    let run = drill(&packed, &bin, &["--target", "immediate"]).success();
    assert!(run.stdout.contains("Checked the checksum of every page: "), "{run:#?}");
    assert!(run.stdout.contains("Opened ") && !run.stdout.contains(" indexes"), "{run:#?}");

    // Rot in a page that recovery does not touch, and in the last one of the file.
    let path = packed.cluster.value("select pg_relation_filepath('pg_proc')");
    let table = packed.data().join(&path);
    let mut rotten = fs::read(&table).unwrap();
    let last = rotten.len() / 8192 - 1;
    for page in [2, last] {
        rotten[page * 8192 + 8000] ^= 1;
    }
    fs::write(&table, rotten).unwrap();
    let run = drill(&packed, &bin, &["--target", "immediate"]).exits_with(1);
    for page in [2, last] {
        assert!(run.stderr.contains(&format!("page {page} of file {path} has a wrong checksum")), "{run:#?}");
    }
    let run = drill(&packed, &bin, &["--check", "nothing"]).exits_with(2);
    assert!(run.stderr.contains("amcheck, checksums, both"), "{run:#?}");
}

#[test]
fn a_cluster_without_checksums_is_looked_at_by_amcheck_instead() {
    testkit::require_pg!(18);
    testkit::require_barman!();
    let packed = Packed::of(Cluster::builder(18).checksums(false).start(), "");
    let run = drill(&packed, &programs(18), &["--target", "immediate", "--check", "checksums"]).success();
    assert!(run.stderr.contains("no data checksums: amcheck has looked at it instead"), "{run:#?}");
    assert!(run.stdout.contains(" indexes"), "{run:#?}");
}
