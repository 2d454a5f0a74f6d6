//! Damaged WAL in the archive is never taken for the end of WAL.

use std::fs;
use std::path::Path;

use pgwal::WalFile;
use testkit::{Cluster, StopMode};

use crate::stored::{archive, content, deliver, home, layout, names, segment};
use crate::support::{Home, Run, barkeep};
use crate::wal_scene::{Far, Scene};

/// The path of a segment in the archive.
fn archived(home: &Home, number: u64) -> std::path::PathBuf {
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
