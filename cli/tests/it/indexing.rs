//! `cron` gets to know the WAL that something else has archived.

use std::process::Command;

use barkeep_catalog::IndexStore;
use barkeep_catalog::inspect::Soundness;

use crate::stored::{archive, deliver, home, layout, segment};

#[test]
fn what_barman_archived_is_indexed_by_the_next_cron() {
    testkit::require_barman!();
    let home = home().with("main", "compression", "gzip");
    for number in 1..=5 {
        deliver(&home, segment(1, number));
    }
    let barman = testkit::programs::barman_bin_dir().unwrap().join("barman");
    let run =
        Command::new(barman).arg("-q").arg("-c").arg(home.config()).args(["archive-wal", "main"]).output();
    assert!(run.unwrap().status.success());
    assert_eq!(archive(&home).len(), 5);
    let store = IndexStore::of(&layout(&home));
    assert_eq!(store.load().unwrap().len(), 0);

    home.run(["cron"]);
    let indexes = store.load().unwrap();
    assert_eq!(indexes.len(), 5);
    assert!(indexes.iter().all(|entry| entry.facts.soundness == Soundness::Sound && entry.index().is_some()));
    assert!(indexes.iter().skip(1).all(|entry| entry.facts.chained), "each after the one before it");
}

#[test]
fn damage_that_barman_archived_is_told_by_cron_and_check() {
    let home = home();
    for number in 1..=3 {
        deliver(&home, segment(1, number));
    }
    home.run(["archive-wal", "main"]).success();
    let path = layout(&home).wal(&pgwal::WalFile::Segment(segment(1, 2)));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8192 + 30] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    std::fs::remove_dir_all(layout(&home).private().join("wal-index")).unwrap();
    let cron = home.run(["cron"]);
    assert!(cron.stderr.contains(&format!("{} of server 'main' is not sound", segment(1, 2))), "{cron:?}");
    let check = home.run(["check", "main"]);
    assert!(check.stdout.contains("WAL archive soundness: FAILED"), "{check:?}");
}
