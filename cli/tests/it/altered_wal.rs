//! Archived WAL that is sound as far as can be told, and not what was archived: the right bytes take its place.

use std::fs;

use barkeep_transport::codec::Compression;
use pgwal::WalFile;
use testkit::wal::{SEGMENT_BYTES, joined_segment};

use crate::damaged_wal::{LAST_RECORD, archived, flip, three_joined};
use crate::put_wal::{put, python, tar_stream};
use crate::stored::{layout, listed, names, segment};
use crate::support::Home;

/// The last of three segments as it was archived, and with another bit than the one that rots changed in its last record.
fn right_and_other() -> (Vec<u8>, Vec<u8>) {
    let right = joined_segment(1, 3 << 20, SEGMENT_BYTES);
    let mut other = right.clone();
    other[LAST_RECORD + 200] ^= 4;
    (right, other)
}

/// What is archived as the last of three, unpacked.
fn last(home: &Home, compression: &str) -> Vec<u8> {
    let packing = Compression::from_name(compression).unwrap_or(Compression::None);
    let mut bytes = Vec::new();
    let stored = fs::File::open(archived(home, 3)).unwrap();
    std::io::Read::read_to_end(&mut packing.reader(stored).unwrap(), &mut bytes).unwrap();
    bytes
}

/// All is as it was archived, each segment is listed once, and what was altered is kept.
fn is_healed(home: &Home, compression: &str) {
    assert!(last(home, compression) == right_and_other().0, "{compression}");
    let mut list = listed(home);
    list.sort();
    assert_eq!(list, [1, 2, 3].map(|number| segment(1, number).to_string()), "{compression}");
    let kept = names(layout(home).errors);
    assert_eq!(kept.iter().filter(|name| name.ends_with(".damaged")).count(), 1, "{compression}: {kept:?}");
    let deep = home.run(["check", "--deep", "main"]);
    assert!(deep.stdout.contains("WAL archive records: OK"), "{compression}: {deep:?}");
}

#[test]
fn a_segment_that_is_sent_again_takes_the_place_of_an_altered_one() {
    testkit::require_barman!();
    let name = segment(1, 3).to_string();
    let (right, other) = right_and_other();
    for compression in ["", "gzip", "zstd"] {
        // Whether anybody has noticed yet makes no difference.
        for noticed in [true, false] {
            let home = three_joined(compression);
            flip(&home, 3, compression, LAST_RECORD + 100);
            if noticed {
                let deep = home.run(["check", "--deep", "main"]).exits_with(1);
                assert!(deep.stdout.contains("WAL archive records: FAILED"), "{deep:?}");
            }
            let stream = tar_stream(&home, &python(), &[(&name, other.clone())]);
            put(&home, &stream).fails_with_one_line(1, &[&name, "is there already with other content"]);
            let stream = tar_stream(&home, &python(), &[(&name, right.clone())]);
            put(&home, &stream).success();
            assert!(last(&home, compression) != right, "it waits in incoming/");
            // It still does for who sends it once more, and nothing else can have its name.
            put(&home, &stream).success();
            home.run(["archive-wal", "main"]);
            is_healed(&home, compression);
            put(&home, &stream).success();
        }
    }
}

#[test]
fn a_local_archive_command_brings_back_what_was_archived() {
    let home = three_joined("zstd");
    flip(&home, 3, "zstd", LAST_RECORD + 100);
    let path = home.join(segment(1, 3).to_string());
    let archive = |bytes: Vec<u8>| {
        fs::write(&path, bytes).unwrap();
        home.run(["wal-archive", "--local", "main", path.to_str().unwrap()])
    };
    let (right, other) = right_and_other();
    archive(other).fails_with_one_line(1, &["is there already with other content"]);
    archive(right).success();
    home.run(["archive-wal", "main"]);
    is_healed(&home, "zstd");
}

#[test]
fn cron_fetches_the_right_bytes_of_an_altered_segment_from_the_server() {
    testkit::require_pg!(15);
    let (_cluster, home, files) = crate::heal::scene(15);
    home.run(["archive-wal", "main"]).success();
    let path = layout(&home).wal(&files[3]);
    let read = || {
        let mut bytes = Vec::new();
        let stored = fs::File::open(&path).unwrap();
        std::io::Read::read_to_end(&mut Compression::Zstd.reader(stored).unwrap(), &mut bytes).unwrap();
        bytes
    };
    let right = read();
    // Behind the record by which the server left it, where nothing is.
    let mut altered = right.clone();
    *altered.last_mut().unwrap() ^= 1;
    fs::write(&path, &altered).unwrap();
    let deep = home.run(["check", "--deep", "main"]).exits_with(1);
    let file: WalFile = files[3];
    assert!(deep.stdout.contains(&format!("{file}: ")), "{deep:?}");
    home.run(["cron"]).success();
    assert!(read() == right);
    assert_eq!(listed(&home).iter().filter(|name| **name == file.to_string()).count(), 1);
    let deep = home.run(["check", "--deep", "main"]);
    assert!(deep.stdout.contains("WAL archive records: OK"), "{deep:?}");
}
