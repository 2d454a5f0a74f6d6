//! Restores over what is there: the old primary's own directory, interrupted restores, other people's directories.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use testkit::Cluster;

use crate::restore_scene::{Scene, beside, state};
use crate::support::Run;

/// Everything below a directory, links with their targets, but for WAL and what differs between any two restores.
fn picture(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(path) = pending.pop() {
        let name = path.strip_prefix(directory).unwrap().to_owned();
        let metadata = path.symlink_metadata().unwrap();
        if name == Path::new("pg_wal") {
            continue;
        }
        if metadata.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if metadata.is_symlink() {
            // Tablespaces are beside the destination, whatever that is called.
            let space = path.file_name().unwrap().to_owned();
            found.insert(name, space.into_encoded_bytes());
        } else {
            found.insert(name, fs::read(&path).unwrap());
        }
    }
    found
}

/// `pg_amcheck` of all databases, where it and its extension are installed.
fn amcheck(cluster: &Cluster) {
    let Some(tool) = testkit::client_tool("pg_amcheck", cluster.major()) else { return };
    if cluster.value("select count(*) from pg_available_extensions where name = 'amcheck'") == "0" {
        return;
    }
    cluster.execute("create extension if not exists amcheck");
    let mut command = Command::new(tool);
    command.args(["--database", "postgres", "--heapallindexed"]).env("PGOPTIONS", "");
    let parameters = cluster.conninfo();
    for pair in parameters.split_whitespace() {
        if let Some((key, value)) = pair.split_once('=') {
            let name = match key {
                "host" => "PGHOST",
                "port" => "PGPORT",
                "user" => "PGUSER",
                _ => continue,
            };
            command.env(name, value.trim_matches('\''));
        }
    }
    Run::of(&mut command).success();
}

/// What happens to a cluster in a day.
fn live_on(cluster: &Cluster) {
    cluster.execute("create table late as select generate_series(1, 5000) as n");
    cluster.execute("update bulk set n = n + 1");
    cluster.execute("insert into log select n, 7 from generate_series(100, 3000) n");
    cluster.execute("vacuum full victim");
    cluster.execute("create database second");
    cluster.execute("alter table log set tablespace fast");
    cluster.execute("checkpoint");
}

/// `restore --delta-restore` to where the original was, tablespaces included.
fn restore_in_place(scene: &Scene, options: &[&str]) -> Run {
    let data = scene.cluster.data_dir().to_str().unwrap().to_owned();
    let mut words = vec!["restore", "--delta-restore"];
    words.extend(options);
    words.extend(["main", &scene.backup_id, &data]);
    scene.home.run(words)
}

fn goes_over_the_old_primary(major: u32) {
    let mut scene = Scene::new(Cluster::builder(major).checksums(true));
    live_on(&scene.cluster);
    scene.archive();
    let before = state(&scene.cluster);
    let untouched = fs::metadata(scene.cluster.data_dir().join("global/pg_control")).unwrap().modified();
    restore_in_place(&scene, &[]).fails_with_one_line(1, &["a server is running on", "nothing was touched"]);
    assert_eq!(
        fs::metadata(scene.cluster.data_dir().join("global/pg_control")).unwrap().modified().unwrap(),
        untouched.unwrap()
    );
    assert_eq!(state(&scene.cluster), before);

    scene.stop_original();
    let data = scene.cluster.data_dir().to_owned();
    fs::write(data.join("server.crt"), "mine").unwrap();
    testkit::unprivileged_user().take_over(&data.join("server.crt"));
    let json = restore_in_place(&scene, &["-f", "json"]).success().json();
    let delta = &json["delta_restore"];
    let (compared, written) =
        (delta["bytes_compared"].as_u64().unwrap(), delta["bytes_written"].as_u64().unwrap());
    assert!(written < compared / 2, "{json}");
    assert!(delta["files_removed"].as_u64().unwrap() > 0, "{json}");
    assert!(delta["left_alone"].to_string().contains("server.crt"), "{json}");

    let restored = Cluster::adopt(major, &data);
    restored.wait_until_writable();
    assert_eq!(state(&restored), before);
    assert_eq!(restored.value("select count(*) from pg_database where datname = 'second'"), "1");
    amcheck(&restored);
}

#[test]
fn goes_over_the_old_primary_on_13() {
    testkit::require_pg!(13);
    goes_over_the_old_primary(13);
}

#[test]
fn goes_over_the_old_primary_on_15() {
    testkit::require_pg!(15);
    goes_over_the_old_primary(15);
}

#[test]
fn goes_over_the_old_primary_on_18() {
    testkit::require_pg!(18);
    goes_over_the_old_primary(18);
}

#[test]
fn goes_back_to_a_target_in_the_old_primarys_directory() {
    testkit::require_pg!(15);
    let mut scene = Scene::new(Cluster::builder(15));
    scene.cluster.execute("insert into log values (10)");
    scene.cluster.execute("select pg_create_restore_point('noon')");
    let at_noon = state(&scene.cluster);
    scene.cluster.execute("drop table victim");
    live_on_without_victim(&scene.cluster);
    scene.archive();
    scene.stop_original();
    let data = scene.cluster.data_dir().to_owned();
    restore_in_place(&scene, &["--target-name", "noon", "--target-action", "promote"]).success();
    let restored = Cluster::adopt(15, &data);
    restored.wait_until_writable();
    assert_eq!(state(&restored), at_noon);
}

fn live_on_without_victim(cluster: &Cluster) {
    cluster.execute("insert into log values (20)");
    cluster.execute("create table late as select 1 as n");
    cluster.execute("checkpoint");
}

/// A restore that takes long, killed after a while.
fn killed_restore(scene: &Scene, name: &str, options: &[&str], after: Duration) -> bool {
    let destination = scene.destination(name);
    let mut child = scene
        .home
        .command()
        .args(["restore", "--bwlimit", "20000"])
        .args(options)
        .args(["main", "latest"])
        .arg(&destination)
        .args(["--tablespace", &format!("fast:{}", beside(&destination, "fast").display())])
        .args(["--tablespace", &format!("slow:{}", beside(&destination, "slow").display())])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(after);
    let _ = child.kill();
    child.wait().unwrap().success()
}

#[test]
fn killed_again_and_again_it_comes_to_the_same_end() {
    testkit::require_pg!(15);
    let scene = Scene::new(Cluster::builder(15));
    live_on(&scene.cluster);
    scene.archive();
    scene.restore("whole", &["--skip-archive-wal"]).success();
    let whole = picture(&scene.destination("whole"));
    let destination = scene.destination("cut");
    for round in 0_u64..3 {
        // The first kill is of a restore to an empty place, the others of delta restores.
        for (number, milliseconds) in [30, 400, 90, 800].into_iter().enumerate() {
            let options: &[&str] = if number == 0 { &[] } else { &["--delta-restore"] };
            let done =
                killed_restore(&scene, "cut", options, Duration::from_millis(milliseconds + 37 * round));
            assert!(done || !destination.join("global/pg_control").exists());
        }
        scene.restore("cut", &["--delta-restore"]).success();
        let cut = picture(&destination);
        assert_eq!(cut.keys().collect::<Vec<_>>(), whole.keys().collect::<Vec<_>>());
        assert!(cut == whole);
        scene.remove("cut");
    }
    scene.restore("cut", &["--delta-restore"]).success();
    let restored = Cluster::adopt(15, &destination);
    restored.wait_until_writable();
    assert_eq!(state(&restored), state(&scene.cluster));
}

#[test]
fn other_peoples_directories_and_clusters_are_left_alone() {
    testkit::require_pg!(15);
    let scene =
        Scene::with(Cluster::builder(15), |home| home.with("main", "recovery_options", "delta-restore"));
    scene.archive();
    let destination = scene.destination("new");
    fs::create_dir(&destination).unwrap();
    fs::write(destination.join("letter"), "mine").unwrap();
    scene.restore("new", &[]).fails_with_one_line(1, &["nothing of PostgreSQL's", "it has letter"]);
    // What the configuration says can be overruled.
    scene.restore("new", &["--no-delta-restore"]).fails_with_one_line(1, &["is not empty"]);
    assert_eq!(fs::read_to_string(destination.join("letter")).unwrap(), "mine");
    fs::remove_dir_all(&destination).unwrap();

    let mut other = Cluster::builder(15).start();
    other.stop(testkit::StopMode::Fast);
    fs::rename(other.data_dir(), &destination).unwrap();
    scene.restore("new", &[]).fails_with_one_line(1, &["holds another cluster", "nothing was touched"]);
    let _ = Cluster::adopt(15, &destination);
}

#[test]
fn a_plan_says_what_would_be_done_and_does_nothing() {
    testkit::require_pg!(15);
    let scene = Scene::new(Cluster::builder(15));
    scene.archive();
    let target = ["--plan", "--target-immediate"];
    let run = scene.restore("new", &target).success();
    for part in [
        "nothing is done",
        "tablespace fast",
        "recovery_target = 'immediate'",
        "recovery.signal",
        "not known",
    ] {
        assert!(run.stdout.contains(part), "{part}: {run:#?}");
    }
    assert!(!scene.destination("new").exists());
    // What one restore took is what the next plan is estimated from.
    let rates = scene.home.join("main/.barkeep/rates.json");
    fs::create_dir_all(rates.parent().unwrap()).unwrap();
    fs::write(&rates, "{\"version\":1,\"copy\":1000000,\"replay\":500000}").unwrap();
    let json = scene.restore("new", &["-f", "json", "--plan", "--target-immediate"]).success().json();
    let plan = &json["plan"];
    let bytes = plan["bytes"].as_u64().unwrap() + plan["wal_bytes"].as_u64().unwrap();
    assert!((plan["copy_seconds"].as_f64().unwrap() - bytes as f64 / 1e6).abs() < 0.01, "{json}");
    assert!(plan["replay_seconds"].as_f64().unwrap() > 0.0, "{json}");
    assert_eq!(plan["trees"].as_array().unwrap().len(), 3, "{json}");
    assert!(!scene.destination("new").exists());
}
