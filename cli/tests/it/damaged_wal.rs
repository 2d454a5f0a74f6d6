//! Damaged WAL in the archive is never taken for the end of WAL.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;

use barkeep_transport::codec::{Compression, Level};
use pgwal::WalFile;
use testkit::{Cluster, StopMode};

use crate::stored::{archive, content, deliver, home, layout, names, segment};
use crate::support::{Home, Run, barkeep};
use crate::wal_scene::{Far, Scene};

/// The path of a segment in the archive.
pub(crate) fn archived(home: &Home, number: u64) -> std::path::PathBuf {
    layout(home).wal(&WalFile::Segment(segment(1, number)))
}

/// A home with three archived segments.
fn three(compression: &str) -> Home {
    let home = home().with("main", "compression", compression);
    for number in 1..=3 {
        deliver(&home, segment(1, number));
    }
    home.run(["archive-wal", "main"]).success();
    assert_eq!(archive(&home).len(), 3);
    home
}

fn restore(home: &Home, options: &[&str], number: u64) -> Run {
    let to = home.join("out/RECOVERYXLOG");
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    let name = segment(1, number).to_string();
    let words = ["wal-restore", "--local"].into_iter().chain(options.iter().copied());
    home.run(words.chain(["main", &name, to.to_str().unwrap()]))
}

fn damage(path: &Path, at: impl Fn(usize) -> usize) {
    let mut bytes = fs::read(path).unwrap();
    let at = at(bytes.len());
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_flipped_bit_is_not_handed_out() {
    for compression in ["", "gzip", "bzip2", "xz", "zstd", "lz4", "snappy"] {
        let home = three(compression);
        damage(&archived(&home, 2), |length| length / 2);
        for options in [&[][..], &["-P"]] {
            let run = restore(&home, options, 2).exits_with(2);
            assert!(
                run.stderr.contains("damaged") && run.stderr.contains("incoming/"),
                "{compression}: {run:?}"
            );
            assert_eq!(names(home.join("out")), [""; 0], "{compression}");
        }
        restore(&home, &[], 3).success();
    }
    // In the last record of the last segment but one, only the next segment tells that WAL does not end there.
    let home = three("");
    damage(&archived(&home, 2), |length| length - 1);
    restore(&home, &[], 2).fails_with_one_line(2, &["is damaged", "There is WAL behind that"]);
    damage(&archived(&home, 3), |length| length - 1);
    let run = restore(&home, &[], 3).success();
    assert!(run.stderr.contains("in part only"), "{run:?}");
}

#[test]
fn a_segment_of_another_length_is_not_handed_out() {
    let home = three("");
    let path = archived(&home, 3);
    let whole = fs::read(&path).unwrap();
    for length in [0, 20, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        restore(&home, &[], 3).fails_with_one_line(2, &["cannot be used", &format!("{length} bytes")]);
    }
    assert_eq!(names(home.join("out")), [""; 0]);
}

#[test]
fn a_sound_copy_on_its_way_takes_the_place_of_a_damaged_one() {
    for compression in ["", "zstd"] {
        let home = three(compression);
        damage(&archived(&home, 2), |length| length / 2);
        deliver(&home, segment(1, 2));
        let run = restore(&home, &[], 2).success();
        assert!(run.stderr.contains("takes its place"), "{run:?}");
        assert!(fs::read(home.join("out/RECOVERYXLOG")).unwrap() == content(segment(1, 2)));
    }
}

#[test]
fn what_a_crashed_server_left_is_handed_out() {
    let home = three("");
    let path = archived(&home, 3);
    let mut bytes = fs::read(&path).unwrap();
    bytes[50_000..].fill(0);
    fs::write(&path, &bytes).unwrap();
    let run = restore(&home, &[], 3).success();
    assert!(run.stderr.contains("in part only"), "{run:?}");
    assert!(fs::read(home.join("out/RECOVERYXLOG")).unwrap() == bytes);
}

/// A recovery that comes to a damaged segment, is stopped by it, and goes to the end once it is mended.
fn check_recovery(major: u32, far: Option<Far>, compression: &str) {
    let scene = Scene::configured(major, &format!("compression = {compression}"));
    scene.cluster.execute("create table kept (n int)");
    let command = match far {
        Some(far) => scene.restore_command(far),
        None => {
            let (program, conf) = (testkit::reachable_binary(barkeep()), scene.barman.config_path());
            format!("{} -c {} wal-restore --local main %f %p", program.display(), conf.display())
        }
    };
    let backup = scene.base_backup("restored", &command);
    scene.cluster.execute("insert into kept values (1)");
    let files = scene.write_segments(4);
    scene.cluster.execute("insert into kept values (2)");
    scene.write_segments(2);
    scene.archive_everything();
    let server = scene.barman.server_dir("main");
    let path = server.join("wals").join(&files[2][..16]).join(&files[2]);
    let whole = fs::read(&path).unwrap();
    // Plain, in the message that the segment holds. Packed, a single bit may make no difference to what comes out.
    let at = if compression.is_empty() { 20_000 } else { whole.len() / 2 };
    let mut bytes = whole.clone();
    bytes[at..][..16].iter_mut().for_each(|byte| *byte = !*byte);
    fs::write(&path, bytes).unwrap();

    let log = Cluster::run_until_exit(major, &backup);
    let told = format!("could not restore file \"{}\" from archive", files[2]);
    assert!(log.contains(&told), "{log}");
    assert!(log.contains("is damaged") || log.contains("cannot be used"), "{log}");
    assert!(!log.contains("selected new timeline"), "{log}");
    assert!(backup.join("recovery.signal").exists());

    fs::write(&path, whole).unwrap();
    let mut cluster = Cluster::adopt(major, &backup);
    cluster.wait_until_writable();
    assert_eq!(cluster.value("select string_agg(n::text, ' ' order by n) from kept"), "1 2");
    cluster.stop(StopMode::Fast);
}

#[test]
fn a_recovery_stops_at_a_damaged_segment_of_this_machine() {
    testkit::require_pg!(13, 18);
    testkit::require_barman!();
    testkit::require_sshd!();
    check_recovery(13, None, "");
    check_recovery(18, None, "zstd");
}

#[test]
fn a_recovery_stops_at_a_damaged_segment_of_a_backup_host() {
    testkit::require_pg!(15, 17);
    testkit::require_barman!();
    testkit::require_sshd!();
    check_recovery(15, Some(Far::Barkeep), "");
    check_recovery(17, Some(Far::Barkeep), "zstd");
}

#[test]
fn a_recovery_stops_at_a_damaged_segment_that_barman_hands_out() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    testkit::require_sshd!();
    check_recovery(15, Some(Far::Barman), "gzip");
}

/// A home with three archived segments whose last records go on in the next one.
pub(crate) fn three_joined(compression: &str) -> Home {
    let home = home().with("main", "compression", compression);
    for number in 1..=3 {
        let bytes = testkit::wal::joined_segment(1, number << 20, testkit::wal::SEGMENT_BYTES);
        fs::write(deliver(&home, segment(1, number)), bytes).unwrap();
    }
    home.run(["archive-wal", "main"]).success();
    assert_eq!(archive(&home).len(), 3);
    home
}

/// Changes a bit of what a segment holds, packed or not.
pub(crate) fn flip(home: &Home, number: u64, compression: &str, at: usize) {
    let path = archived(home, number);
    let packing = Compression::from_name(compression).unwrap_or(Compression::None);
    let mut bytes = Vec::new();
    packing.reader(fs::File::open(&path).unwrap()).unwrap().read_to_end(&mut bytes).unwrap();
    bytes[at] ^= 4;
    let mut packed = packing.writer(Vec::new(), Level::Medium).unwrap();
    packed.write_all(&bytes).unwrap();
    fs::write(path, packed.finish().unwrap()).unwrap();
}

/// Where the last record of a segment begins, and the next one of a segment that continues one.
pub(crate) const LAST_RECORD: usize = testkit::wal::SEGMENT_BYTES - 8192 + 24;

#[test]
fn a_flipped_bit_anywhere_in_the_last_segment_is_found_and_remembered() {
    // In the last record, whose end is not archived: length, number, the one before, flags, checksum, data.
    let of_last = [0, 4, 8, 16, 20, 8192 - 25].map(|at| LAST_RECORD + at);
    // The rest of the record before, the first record, one in between, the last page's header.
    let of_others = [41, 104, 500_000, LAST_RECORD - 24];
    for compression in ["", "gzip", "bzip2", "xz", "zstd", "lz4", "snappy"] {
        let home = three_joined(compression);
        let whole = fs::read(archived(&home, 3)).unwrap();
        let places = of_others.into_iter().chain(of_last);
        for at in places.filter(|at| compression.is_empty() || *at == LAST_RECORD + 8192 - 25) {
            flip(&home, 3, compression, at);
            let run = home.run(["wal", "verify", "main"]).exits_with(1);
            assert!(run.stdout.contains("0/2") || run.stdout.contains("0/3"), "{at} {run:?}");
            home.run(["wal", "verify", home.join("main/wals/0000000100000000").to_str().unwrap()])
                .exits_with(1);
            let run = home.run(["check", "--deep", "main"]).exits_with(1);
            let told = run.stdout.lines().skip_while(|line| !line.contains("WAL archive records: FAILED"));
            let told = told.take(2).collect::<String>();
            assert!(told.contains("000000010000000000000003: "), "{compression} {at}: {run:?}");
            assert!(told.contains("0/2") || told.contains("0/3"), "{compression} {at}: {run:?}");
            fs::write(archived(&home, 3), &whole).unwrap();
        }
        // What is found is held against what was archived, not against what was found the last time.
        let deep = |expected: &str| {
            let run = home.run(["check", "--deep", "main"]);
            assert!(
                run.stdout.contains(&format!("WAL archive records: {expected}")),
                "{compression}: {run:?}"
            );
        };
        deep("OK");
        if compression.is_empty() {
            flip(&home, 3, compression, LAST_RECORD + 24);
            deep("FAILED");
            deep("FAILED");
            fs::write(archived(&home, 3), whole).unwrap();
            deep("OK");
            home.run(["wal", "verify", "main"]).success();
        }
    }
}

#[test]
fn an_altered_segment_gives_way_to_what_was_archived_and_to_nothing_else() {
    let home = three_joined("");
    let whole = fs::read(archived(&home, 3)).unwrap();
    flip(&home, 3, "", LAST_RECORD + 100);
    home.run(["check", "--deep", "main"]).exits_with(1);
    // Other bytes than those that were archived, and as sound as can be told.
    let mut other = whole.clone();
    other[LAST_RECORD + 200] ^= 4;
    let path = layout(&home).incoming.join(segment(1, 3).to_string());
    fs::write(&path, other).unwrap();
    let run = home.run(["archive-wal", "main"]);
    assert!(format!("{run:?}").contains("neither of the two is what was archived"), "{run:?}");
    assert!(fs::read(archived(&home, 3)).unwrap() != whole);
    fs::write(&path, &whole).unwrap();
    home.run(["archive-wal", "main"]);
    assert!(fs::read(archived(&home, 3)).unwrap() == whole);
}

/// A recovery along records that lie in two segments each, one of them damaged on either side.
fn check_recovery_across(major: u32, far: Option<Far>) {
    let scene = Scene::new(major);
    scene.cluster.execute("create table kept (n int)");
    let command = match far {
        Some(far) => scene.restore_command(far),
        None => {
            let (program, conf) = (testkit::reachable_binary(barkeep()), scene.barman.config_path());
            format!("{} -c {} wal-restore --local main %f %p", program.display(), conf.display())
        }
    };
    let backup = scene.base_backup("restored", &command);
    scene
        .cluster
        .execute("create table filler as select repeat(md5(n::text), 20) from generate_series(1, 9000) n");
    scene.cluster.execute("insert into kept values (1)");
    scene.write_segments(1);
    scene.archive_everything();
    let wals = scene.barman.server_dir("main").join("wals/0000000100000000");
    let mut files: Vec<_> = fs::read_dir(&wals).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    // The first byte after a page header that says that it continues a record, far enough from the backup.
    let continues = |path: &std::path::PathBuf| fs::read(path).unwrap()[2] & 1 != 0;
    let at = (files.len() - 4..files.len()).find(|at| continues(&files[*at])).unwrap();
    for (path, offset) in [(&files[at], 41), (&files[at - 1], testkit::wal::SEGMENT_BYTES - 1)] {
        let whole = fs::read(path).unwrap();
        damage(path, |_| offset);
        let log = Cluster::run_until_exit(major, &backup);
        let name = files[at].file_name().unwrap().to_str().unwrap();
        assert!(log.contains(&format!("could not restore file \"{name}\" from archive")), "{log}");
        assert!(log.contains("in the segment before and ends in"), "{log}");
        assert!(!log.contains("selected new timeline"), "{log}");
        fs::write(path, whole).unwrap();
    }
    let mut cluster = Cluster::adopt(major, &backup);
    cluster.wait_until_writable();
    assert_eq!(cluster.value("select count(*)::text from kept"), "1");
    cluster.stop(StopMode::Fast);
}

#[test]
fn a_recovery_stops_at_a_damaged_record_that_lies_in_two_segments_of_this_machine() {
    testkit::require_pg!(13, 18);
    testkit::require_barman!();
    testkit::require_sshd!();
    check_recovery_across(13, None);
    check_recovery_across(18, None);
}

#[test]
fn a_recovery_stops_at_a_damaged_record_that_lies_in_two_segments_of_a_backup_host() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    testkit::require_sshd!();
    check_recovery_across(15, Some(Far::Barkeep));
}

/// The last segment of a server that crashed, brought into the archive by hand, ends somewhere: so does the recovery.
#[test]
fn a_recovery_ends_where_a_crashed_server_ended() {
    testkit::require_pg!(16);
    testkit::require_barman!();
    testkit::require_sshd!();
    let scene = Scene::new(16);
    scene.cluster.execute("create table kept (n int)");
    let backup = scene.base_backup("restored", &scene.restore_command(Far::Barkeep));
    scene.cluster.execute("insert into kept values (1)");
    let last = scene.write_segments(3).pop().unwrap();
    scene.archive_everything();
    let path = scene.barman.server_dir("main").join("wals").join(&last[..16]).join(&last);
    let mut bytes = fs::read(&path).unwrap();
    bytes[20_000..].fill(0);
    fs::write(&path, bytes).unwrap();
    let mut cluster = Cluster::adopt(16, &backup);
    cluster.wait_until_writable();
    assert_eq!(cluster.value("select string_agg(n::text, ' ') from kept"), "1");
    assert!(cluster.log().contains("in part only"), "{}", cluster.log());
    cluster.stop(StopMode::Fast);
}

#[test]
fn what_goes_wrong_before_the_archive_is_asked_is_not_its_end() {
    let home = three("");
    let data = testkit::TestDir::new();
    fs::write(data.join("postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
    let name = segment(1, 9).to_string();
    let ask = |before: &[&str], after: &[&str]| {
        let mut command = std::process::Command::new(barkeep());
        command.current_dir(data.path()).args(before).arg("wal-restore").args(after);
        Run::of(command.args([name.as_str(), "RECOVERYXLOG"]))
    };
    let config = home.config().to_str().unwrap().to_owned();
    // Of one that recovers, of a standby, and where nothing recovers.
    for (signal, stops) in [(Some("recovery.signal"), true), (Some("standby.signal"), false), (None, false)] {
        if let Some(signal) = signal {
            fs::write(data.join(signal), "").unwrap();
        }
        let code = |usual| if stops { 200 } else { usual };
        ask(&["-c", &config], &["--local", "main"]).exits_with(1);
        ask(&["-c", &config], &["--local", "nobody"]).exits_with(code(1));
        ask(&["-c", "/nonexistent/barman.conf"], &["--local", "main"]).exits_with(code(1));
        ask(&["-c", &config], &["--local", "--no-such-option", "main"]).exits_with(code(2));
        if let Some(signal) = signal {
            fs::remove_file(data.join(signal)).unwrap();
        }
    }
}
