use super::*;
use barkeep_transport::faults::Faults;
use testkit::wal::{SEGMENT_BYTES, segment, segment_of};

const ONE: &str = "000000010000000000000001";
const TWO: &str = "000000010000000000000002";

fn home() -> (tempfile::TempDir, Layout) {
    let home = tempfile::tempdir().unwrap();
    let layout = Layout::new("pg", &home.path().join("pg"), home.path());
    (home, layout)
}

fn now() -> Timestamp {
    "2026-11-22T10:15:55Z".parse().unwrap()
}

fn wal(number: u64) -> Vec<u8> {
    segment(1, number * SEGMENT_BYTES as u64, SEGMENT_BYTES, 0)
}

/// A tar stream of these files, and of a list of their checksums.
fn tar(files: &[(&str, &[u8])], list: &str) -> Vec<u8> {
    let mut stream = Vec::new();
    for (name, content) in files.iter().chain([&("SHA256SUMS", list.as_bytes())]) {
        let mut header = vec![0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[136..147].copy_from_slice(b"14705123456");
        header[156] = b'0';
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        stream.extend(header);
        stream.extend(*content);
        stream.resize(stream.len().next_multiple_of(512), 0);
    }
    stream.extend([0; 1024]);
    stream
}

fn sums(files: &[(&str, &[u8])]) -> String {
    files.iter().map(|(name, content)| format!("{} *{name}\n", hex(&Sha256::digest(content)))).collect()
}

fn put(layout: &Layout, files: &[(&str, &[u8])]) -> Result<Vec<Receipt>, ReceiveError> {
    put_stream(layout, &tar(files, &sums(files)))
}

fn put_stream(layout: &Layout, stream: &[u8]) -> Result<Vec<Receipt>, ReceiveError> {
    receive_tar(&Reception::new(layout, Verify::Warn, now())?, stream)
}

fn names(directory: &Path) -> Vec<String> {
    let mut names = crate::store::names_in(directory).unwrap();
    names.sort();
    names
}

#[test]
fn files_arrive_whole_and_again_is_fine() {
    let (_home, layout) = home();
    let files: [(&str, &[u8]); 3] = [(ONE, &wal(1)), ("00000002.history", b"1\t0/1\tx\n"), (TWO, &wal(2))];
    let receipts = put(&layout, &files).unwrap();
    assert!(receipts.iter().all(|receipt| receipt.accepted == Accepted::New && receipt.note.is_empty()));
    assert_eq!(names(&layout.incoming), [ONE, TWO, "00000002.history"]);
    assert_eq!(fs::read(layout.incoming.join(TWO)).unwrap(), wal(2));
    let modified = fs::metadata(layout.incoming.join(ONE)).unwrap().modified().unwrap();
    assert_eq!(modified.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs(), 0o14705123456);
    let receipts = put(&layout, &files).unwrap();
    assert!(receipts.iter().all(|receipt| receipt.accepted == Accepted::Same));
    assert_eq!(names(&layout.incoming).len(), 3);
}

#[test]
fn the_same_as_in_the_archive_is_fine_and_anything_else_is_not() {
    let (_home, layout) = home();
    put(&layout, &[(ONE, &wal(1))]).unwrap();
    let options = archive::ArchiveOptions { compression: Compression::Gzip, ..Default::default() };
    archive::archive_wal(&layout, &options, now(), |_| {}).unwrap();
    assert_eq!(put(&layout, &[(ONE, &wal(1))]).unwrap()[0].accepted, Accepted::Same);
    let other = segment(1, SEGMENT_BYTES as u64, SEGMENT_BYTES, 7);
    for _ in 0..3 {
        let error = put(&layout, &[(ONE, &other)]).unwrap_err();
        assert!(matches!(error, ReceiveError::Duplicate { .. }), "{error}");
    }
    // However often it comes.
    let kept = names(&layout.errors);
    assert_eq!(kept, [format!("{ONE}.20261122T101555Z.duplicate")]);
    assert_eq!(fs::read(layout.errors.join(&kept[0])).unwrap(), other);
    assert_eq!(names(&layout.incoming), [""; 0]);
}

#[test]
fn other_content_than_what_waits_is_kept_apart() {
    let (_home, layout) = home();
    put(&layout, &[(ONE, &wal(1))]).unwrap();
    let error = put(&layout, &[(ONE, &segment(1, SEGMENT_BYTES as u64, SEGMENT_BYTES, 7))]).unwrap_err();
    assert!(error.to_string().contains("is there already with other content"), "{error}");
    assert_eq!(fs::read(layout.incoming.join(ONE)).unwrap(), wal(1));
}

#[test]
fn what_stands_under_the_name_and_is_no_file_is_neither_waited_for_nor_overwritten() {
    for stands in ["incoming", "wals"] {
        for make in ["mkdir", "mkfifo", "ln -s /nonexistent", "ln -s /dev/null"] {
            let (_home, layout) = home();
            let path =
                if stands == "wals" { layout.wal(&ONE.parse().unwrap()) } else { layout.incoming.join(ONE) };
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let mut words = make.split(' ');
            let made = std::process::Command::new(words.next().unwrap()).args(words).arg(&path).status();
            assert!(made.unwrap().success());
            let error = put(&layout, &[(ONE, &wal(1))]).unwrap_err();
            assert!(matches!(error, ReceiveError::Duplicate { .. }), "{stands} {make}: {error}");
            assert!(!path.is_file(), "{stands} {make}");
            let kept = names(&layout.errors);
            assert_eq!(kept.len(), 1, "{stands} {make}");
            assert_eq!(fs::read(layout.errors.join(&kept[0])).unwrap(), wal(1));
        }
    }
}

#[test]
fn a_segment_that_could_never_be_archived_is_refused_though_none_are_judged() {
    let (_home, layout) = home();
    let put = |content: &[u8]| {
        let files = [(ONE, content)];
        receive_tar(&Reception::new(&layout, Verify::Off, now())?, &tar(&files, &sums(&files))[..])
    };
    let whole = wal(1);
    for cut in [&whole[..whole.len() - 1], &whole[..8192], &[&whole[..], b"x"].concat()] {
        let error = put(cut).unwrap_err();
        assert!(matches!(error, ReceiveError::Length { .. }), "{error}");
        assert_eq!(names(&layout.incoming), [""; 0]);
    }
    put(&whole).unwrap();
}

#[test]
fn damaged_and_foreign_segments_are_refused_and_kept_once() {
    let (_home, layout) = home();
    put(&layout, &[(ONE, &wal(1))]).unwrap();
    archive::archive_wal(&layout, &archive::ArchiveOptions::default(), now(), |_| {}).unwrap();
    let mut damaged = wal(2);
    damaged[600_000] ^= 1;
    let foreign = segment_of(5, 1, 2 * SEGMENT_BYTES as u64, SEGMENT_BYTES, 0);
    for (content, expected) in
        [(&damaged, "checksum"), (&foreign, "different database system"), (&wal(3), "pageaddr")]
    {
        for _ in 0..2 {
            let error = put(&layout, &[(TWO, content)]).unwrap_err();
            assert!(
                matches!(error, ReceiveError::Refused { .. }) && error.to_string().contains(expected),
                "{error}"
            );
        }
    }
    assert_eq!(names(&layout.errors).len(), 3);
    assert_eq!(names(&layout.incoming), [""; 0]);
}

/// A segment of another cluster.
fn foreign(number: u64) -> Vec<u8> {
    segment_of(5, 1, number * SEGMENT_BYTES as u64, SEGMENT_BYTES, 0)
}

#[test]
fn whose_wal_a_server_has_is_told_by_the_first_that_comes() {
    let (_home, layout) = home();
    put(&layout, &[(ONE, &wal(1))]).unwrap();
    let packed = {
        let mut writer = Compression::Zstd.writer(Vec::new(), barkeep_transport::codec::Level::Low).unwrap();
        writer.write_all(&foreign(2)).unwrap();
        writer.finish().unwrap()
    };
    for (name, content) in [(TWO, &foreign(2)), (TWO, &packed), (&format!("{TWO}.partial"), &foreign(2))] {
        let error = put(&layout, &[(name, content)]).unwrap_err();
        assert!(matches!(error, ReceiveError::Refused { soundness: Soundness::Foreign, .. }), "{error}");
    }
    assert_eq!(names(&layout.incoming), [ONE]);
    put(&layout, &[(TWO, &wal(2))]).unwrap();

    // Nothing is indexed of what Barman has archived.
    let (_home, layout) = home();
    let archived = layout.wal(&ONE.parse().unwrap());
    fs::create_dir_all(archived.parent().unwrap()).unwrap();
    fs::write(archived, wal(1)).unwrap();
    put(&layout, &[(TWO, &foreign(2))]).unwrap_err();

    // Both in one stream.
    let (_home, layout) = home();
    let error = put(&layout, &[(ONE, &wal(1)), (TWO, &foreign(2))]).unwrap_err();
    assert!(error.to_string().contains("different database system"), "{error}");
    assert_eq!(names(&layout.incoming), [ONE]);
}

#[test]
fn of_two_clusters_that_send_their_first_wal_at_once_one_is_refused() {
    for _ in 0..8 {
        let (_home, layout) = home();
        // Both have been received when the first is accepted.
        let both = std::sync::Barrier::new(2);
        let send = |name: &str, content: &[u8]| {
            let reception = Reception::new(&layout, Verify::Warn, now()).unwrap();
            let received = reception.receive(name.parse().unwrap(), None, content).unwrap();
            both.wait();
            reception.accept(vec![received])
        };
        let outcomes = std::thread::scope(|scope| {
            let threads = [scope.spawn(|| send(ONE, &wal(1))), scope.spawn(|| send(TWO, &foreign(2)))];
            threads.map(|thread| thread.join().unwrap())
        });
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
        assert_eq!(names(&layout.incoming).len(), 1);
    }
}

#[test]
fn compressed_segments_are_verified_too() {
    let (_home, layout) = home();
    let pack = |bytes: &[u8]| {
        let mut writer = Compression::Zstd.writer(Vec::new(), barkeep_transport::codec::Level::Low).unwrap();
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    };
    put(&layout, &[(ONE, &pack(&wal(1)))]).unwrap();
    assert_eq!(put(&layout, &[(ONE, &wal(1))]).unwrap()[0].accepted, Accepted::Same, "it is the same WAL");
    let mut damaged = wal(2);
    damaged[600_000] ^= 1;
    let error = put(&layout, &[(TWO, &pack(&damaged))]).unwrap_err();
    assert!(matches!(error, ReceiveError::Refused { .. }), "{error}");
}

#[test]
fn sums_are_checked_by_either_algorithm() {
    let (_home, layout) = home();
    let one = wal(1);
    let refuse = |stream: &[u8], expected: &str| {
        let error = put_stream(&layout, stream).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(names(&layout.incoming), [""; 0]);
    };
    refuse(&tar(&[(ONE, &one)], ""), "Missing checksum for file");
    refuse(&tar(&[(ONE, &one)], &sums(&[(ONE, &wal(2))])), "Bad file checksum");
    refuse(&tar(&[(ONE, &one)], &sums(&[(ONE, &one), (TWO, &one)])), "Checksum without corresponding file");
    refuse(&tar(&[(ONE, &one)], "rubbish\n"), "Bad checksum line");
    refuse(&tar(&[], ""), "holds no WAL file");
    refuse(&tar(&[("notes.txt", &one)], ""), "is no WAL file's name");
    refuse(&tar(&[(&ONE.to_lowercase().replace('0', "a"), &one)], ""), "is no WAL file's name");
    refuse(&tar(&[(ONE, &one), (ONE, &one)], ""), "comes twice");
    refuse(&tar(&[(ONE, b"")], &sums(&[(ONE, b"")])), "0 bytes");
    refuse(&tar(&[(ONE, &one)], &sums(&[(ONE, &one)]))[..500_000], "cannot read");
    let md5 = format!("{}  ./{ONE}\n", hex(&Md5::digest(&one)).to_uppercase());
    let stream = tar(&[(ONE, &one)], &md5);
    let position = stream.len() - 1024 - 512 - 512;
    let mut with_md5 = stream.clone();
    let mut header = stream[position..position + 512].to_vec();
    header[..10].copy_from_slice(b"MD5SUMS\0\0\0");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    with_md5[position..position + 512].copy_from_slice(&header);
    assert_eq!(put_stream(&layout, &with_md5).unwrap()[0].accepted, Accepted::New);
}

#[test]
fn nothing_is_acknowledged_that_a_failing_step_may_have_lost() {
    for fault in 0.. {
        let (home, layout) = home();
        let faults = Faults::fail_once_at(home.path(), fault);
        let outcome = put(&layout, &[(ONE, &wal(1)), (TWO, &wal(2))]);
        if faults.finish().len() <= fault {
            outcome.unwrap();
            assert!(fault > 8, "only {fault} steps");
            break;
        }
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("injected fault"), "{error}");
        let receipts = put(&layout, &[(ONE, &wal(1)), (TWO, &wal(2))]).unwrap();
        assert_eq!(receipts.len(), 2);
        for (name, number) in [(ONE, 1), (TWO, 2)] {
            assert_eq!(fs::read(layout.incoming.join(name)).unwrap(), wal(number), "fault at step {fault}");
        }
        assert_eq!(names(&layout.incoming), [ONE, TWO], "fault at step {fault}");
    }
}

#[test]
fn a_crash_at_any_step_leaves_whole_files_or_none() {
    for crash in 0.. {
        let (home, layout) = home();
        let faults = Faults::crash_at(home.path(), crash);
        let outcome = put(&layout, &[(ONE, &wal(1)), (TWO, &wal(2))]);
        let steps = faults.finish().len();
        for (name, number) in [(ONE, 1), (TWO, 2)] {
            if let Ok(content) = fs::read(layout.incoming.join(name)) {
                assert_eq!(content, wal(number), "crash at step {crash}");
            }
        }
        if steps <= crash {
            outcome.unwrap();
            break;
        }
        outcome.unwrap_err();
    }
}

#[test]
fn what_was_archived_but_not_listed_is_listed_before_it_is_acknowledged_again() {
    let (_home, layout) = home();
    let file: WalFile = ONE.parse().unwrap();
    let archived = layout.wal(&file);
    fs::create_dir_all(archived.parent().unwrap()).unwrap();
    fs::write(&archived, wal(1)).unwrap();
    for _ in 0..2 {
        assert_eq!(put(&layout, &[(ONE, &wal(1))]).unwrap()[0].accepted, Accepted::Same);
        let list = crate::xlogdb::read(&layout).unwrap();
        assert_eq!(list.entries.iter().map(|entry| entry.file).collect::<Vec<_>>(), [file]);
    }
}

#[test]
fn two_that_bring_the_same_file_at_once_both_succeed() {
    let (_home, layout) = home();
    for number in 1..=8 {
        let name = format!("0000000100000000000000{number:02X}");
        let content = wal(number);
        let deliver = || put(&layout, &[(&name, &content)]).unwrap()[0].accepted;
        let accepted = std::thread::scope(|scope| {
            let threads = [scope.spawn(deliver), scope.spawn(deliver)];
            threads.map(|thread| thread.join().unwrap())
        });
        assert!(accepted.contains(&Accepted::New), "{accepted:?}");
    }
    assert_eq!(names(&layout.incoming).len(), 8);
}
