//! `wal-restore`: WAL comes back, to single calls and to whole recoveries.

use std::fs;
use std::path::Path;
use std::time::Duration;

use testkit::{Cluster, StopMode, wait_for};

use crate::support::{Run, barkeep};
use crate::wal_scene::{Far, Scene, all_names};

/// What the prefetcher's directories are called.
const SPOOL: &str = ".barkeep-prefetch-";

fn spools(directory: &Path) -> Vec<String> {
    all_names(directory).into_iter().filter(|name| name.starts_with('.')).collect()
}

#[test]
fn every_file_comes_back_as_it_was() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    testkit::require_sshd!();
    let scene = Scene::new(15);
    let compressions = ["", "-z", "--zstd", "--lz4"];
    let files = scene.write_segments(compressions.len());
    for (compression, file) in compressions.iter().zip(&files) {
        let options: Vec<&str> = compression.split_terminator(' ').collect();
        scene.archive(Far::Barman, &options, file).success();
    }
    scene.on_backup_host(&["archive-wal", "main"]).success();
    let to = scene.dir.subdir("out").join("RECOVERYXLOG");
    for far in [Far::Barkeep, Far::Barman] {
        for file in &files {
            for options in [&[][..], &["--keep-compression"], &["-z"], &["-j"], &["-P"]] {
                let run = scene.restore(far, options, file, &to).success();
                assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""), "{far:?} {options:?}");
                assert!(fs::read(&to).unwrap() == fs::read(scene.wal(file)).unwrap(), "{far:?} {options:?}");
            }
        }
    }
    assert_eq!(all_names(to.parent().unwrap()), ["RECOVERYXLOG"], "nothing is left behind");
}

#[test]
fn exit_codes_are_those_of_barmans_client() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    testkit::require_sshd!();
    let scene = Scene::new(15);
    let out = scene.dir.subdir("out");
    let to = out.join("RECOVERYXLOG");
    let name = "000000010000000000000ABC";
    for far in [Far::Barkeep, Far::Barman] {
        scene.restore(far, &[], name, &to).fails_with_one_line(1, &[name, "not found"]);
        scene.restore(far, &[], "00000009.history", &to).fails_with_one_line(1, &["not found"]);
    }
    scene.restore(Far::Barkeep, &[], "rubbish", &to).fails_with_one_line(3, &["not a valid wal file name"]);
    scene.restore(Far::Barkeep, &[], name, &out).fails_with_one_line(3, &["is a directory"]);
    let file = &scene.write_segments(1)[0];
    scene.archive_everything();
    scene
        .restore(Far::Barkeep, &[], file, Path::new("/nonexistent/RECOVERYXLOG"))
        .fails_with_one_line(3, &["/nonexistent/RECOVERYXLOG"]);
    let test = scene.restore(Far::Barkeep, &["--test"], name, &to).success();
    assert_eq!(test.stdout, "Ready to retrieve WAL files from the server main\n");
    let local = scene.on_backup_host(&["wal-restore", "--local", "main", file, to.to_str().unwrap()]);
    local.success();
    assert!(fs::read(&to).unwrap() == fs::read(scene.wal(file)).unwrap());
    scene.on_backup_host(&["wal-restore", "--local", "main", name, to.to_str().unwrap()]).exits_with(1);
    assert_eq!(all_names(&out), ["RECOVERYXLOG"]);
}

#[test]
fn an_unreachable_backup_host_is_tried_again_and_is_no_missing_file() {
    let directory = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let mut command = std::process::Command::new(barkeep());
    command.args(["wal-restore", "--port", &port, "--keep-connection", "0", "127.0.0.1", "main"]);
    command.arg("000000010000000000000001").arg(directory.path().join("RECOVERYXLOG"));
    let begin = std::time::Instant::now();
    Run::of(&mut command).fails_with_one_line(2, &["cannot reach"]);
    assert!(begin.elapsed() >= Duration::from_secs(4), "two more tries");
}

/// The first call starts the prefetcher; after that, the source can go away for a while.
#[test]
fn what_is_prefetched_is_there_without_the_backup_host() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    testkit::require_sshd!();
    for far in [Far::Barkeep, Far::Barman] {
        let mut scene = Scene::new(15);
        let files = scene.write_segments(6);
        scene.archive_everything();
        let out = scene.dir.subdir("out");
        let to = out.join("RECOVERYXLOG");
        let options = ["-p", "2", "--prefetch", "4"];
        scene.restore(far, &options, &files[0], &to).success();
        let spool = wait_for("the next files to be ready", 60, || {
            let spool = out.join(all_names(&out).into_iter().find(|name| name.starts_with(SPOOL))?);
            files[1..5].iter().all(|file| spool.join(file).exists()).then_some(spool)
        });
        assert!(!spool.join(&files[5]).exists(), "no more than 4 MiB are kept");
        scene.stop_sshd();
        for file in &files[1..5] {
            scene.restore(far, &options, file, &to).success();
            assert!(fs::read(&to).unwrap() == fs::read(scene.wal(file)).unwrap());
        }
        let log = fs::read_to_string(scene.barman.config_path().with_file_name("barman.log"));
        let served = log.unwrap_or_default().matches("Handing out WAL files of server 'main'").count();
        let expected = if far == Far::Barkeep { 1..=2 } else { 0..=0 };
        assert!(expected.contains(&served), "one process there for each that fetches here, but {served}");
        // It ends when its directory is gone. Not removed file by file: it still writes there.
        let away = out.join("away");
        fs::rename(&spool, &away).unwrap();
        let lock = fs::File::open(away.join("lock")).unwrap();
        wait_for("the prefetcher to end", 60, || lock.try_lock().is_ok().then_some(()));
    }
}

/// What lies ready needs no configuration; whatever has to be asked for comes from where the configuration says at that time.
#[test]
fn a_prefetcher_hands_out_what_it_has_and_does_not_outlive_its_source() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    testkit::require_sshd!();
    let scene = Scene::new(15);
    let files = scene.write_segments(6);
    scene.archive_everything();
    let (out, config) = (scene.dir.subdir("out"), scene.barman.config_path());
    let to = out.join("RECOVERYXLOG");
    let restore = |file: &str| {
        let words =
            ["wal-restore", "--local", "-p", "2", "--prefetch", "3", "main", file, to.to_str().unwrap()];
        scene.on_backup_host(&words)
    };
    restore(&files[0]).success();
    wait_for("the next files to be ready", 60, || {
        let spool = out.join(all_names(&out).into_iter().find(|name| name.starts_with(SPOOL))?);
        files[1..4].iter().all(|file| spool.join(file).exists()).then_some(())
    });
    let sound = fs::read_to_string(&config).unwrap();
    fs::write(&config, "[nonsense").unwrap();
    let run = restore(&files[1]).success();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""));
    assert!(fs::read(&to).unwrap() == fs::read(scene.wal(&files[1])).unwrap());

    // Another home, with a file that the old one does not have.
    let moved = scene.barman.home().join("moved");
    fs::create_dir_all(moved.join("main/wals")).unwrap();
    fs::write(moved.join("main/wals/00000009.history"), "8\t0/5000000\tmoved\n").unwrap();
    testkit::unprivileged_user().take_over(&moved);
    let home = format!("barman_home = {}", scene.barman.home().display());
    assert!(sound.contains(&home), "{sound}");
    fs::write(&config, sound.replace(&home, &format!("barman_home = {}", moved.display()))).unwrap();
    restore("00000009.history").success();
    assert_eq!(fs::read_to_string(&to).unwrap(), "8\t0/5000000\tmoved\n");
}

/// A cluster with a story on two timelines, all of it archived, and base backups from before.
fn check_recovery(major: u32, far: Far, recoveries: usize) {
    let mut scene = Scene::new(major);
    scene.cluster.execute("create table kept (n int)");
    let command = scene.restore_command(far);
    let backups: Vec<_> =
        (0..recoveries).map(|number| scene.base_backup(&format!("restored{number}"), &command)).collect();
    scene.cluster.execute("insert into kept values (1)");
    scene.write_segments(20);
    scene.promote();
    scene.cluster.execute("insert into kept values (2)");
    scene.write_segments(20);
    scene.archive_everything();
    let restored: Vec<_> = backups.iter().map(|backup| Cluster::adopt(major, backup)).collect();
    for (mut cluster, backup) in restored.into_iter().zip(&backups) {
        cluster.wait_until_writable();
        assert_eq!(cluster.value("select string_agg(n::text, ' ' order by n) from kept"), "1 2");
        let restored = cluster.log().matches("restored log file").count();
        assert!(restored > 40, "only {restored} files restored");
        wait_for("the prefetcher to tidy up", 60, || spools(&backup.join("pg_wal")).is_empty().then_some(()));
        cluster.stop(StopMode::Fast);
    }
}

#[test]
fn a_recovery_follows_the_timelines_by_what_is_prefetched() {
    testkit::require_pg!(13, 18);
    testkit::require_barman!();
    testkit::require_sshd!();
    check_recovery(13, Far::Barkeep, 1);
    check_recovery(18, Far::Barkeep, 1);
}

#[test]
fn a_recovery_works_with_barman_at_the_far_end() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    testkit::require_sshd!();
    check_recovery(15, Far::Barman, 1);
}

#[test]
fn two_recoveries_at_once_do_not_disturb_each_other() {
    testkit::require_pg!(17);
    testkit::require_barman!();
    testkit::require_sshd!();
    check_recovery(17, Far::Barkeep, 2);
}
