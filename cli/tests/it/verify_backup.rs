//! `verify-backup` and `generate-manifest`, with PostgreSQL's own tool and Barman as judges.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::{Barman, Cluster};

use crate::restore_scene::Scene;
use crate::support::{Home, Run, barkeep};

/// What `pg_verifybackup` of this major says, without its name; `None` where it isn't installed.
fn postgres_verdict(major: u32, data: &Path) -> Option<BTreeSet<String>> {
    let tool = testkit::client_tool("pg_verifybackup", major)?;
    let run = Run::of(Command::new(tool).arg("--no-parse-wal").arg(data));
    let lines = run.stderr.lines().filter_map(|line| line.split_once("error: "));
    let faults: BTreeSet<String> = lines.map(|(_, fault)| fault.to_owned()).collect();
    assert_eq!(faults.is_empty(), run.code == Some(0), "{run:#?}");
    Some(faults)
}

/// What barkeep says of the newest backup.
fn our_verdict(home: &Home) -> BTreeSet<String> {
    let run = home.run(["verify-backup", "main", "latest"]);
    let lines = run.stderr.lines().filter_map(|line| line.strip_prefix("ERROR: "));
    // The last line is the verdict on the whole.
    let faults: BTreeSet<String> =
        lines.filter(|line| !line.contains("is damaged")).map(str::to_owned).collect();
    assert_eq!(run.code, Some(i32::from(!faults.is_empty())), "{run:#?}");
    assert_eq!(faults.is_empty(), run.stdout.ends_with("backup successfully verified\n"), "{run:#?}");
    faults
}

fn backup_data(scene: &Scene) -> PathBuf {
    scene.home.join("main/base").join(&scene.backup_id).join("data")
}

/// A file of a relation, away from those that every server needs to start.
fn relation(data: &Path, number: usize) -> PathBuf {
    let mut files: Vec<PathBuf> =
        fs::read_dir(data.join("base/1")).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|path| path.metadata().unwrap().len() >= 16_384);
    files.sort();
    files[number].clone()
}

fn gives_postgresqls_verdicts(major: u32) {
    let scene = Scene::new(Cluster::builder(major).checksums(true));
    scene.archive();
    scene.home.run(["archive-wal", "main"]).success();
    let data = backup_data(&scene);
    assert_eq!(our_verdict(&scene.home), BTreeSet::new());
    let json = scene.home.run(["-f", "json", "verify", "main", "oldest"]).success().json();
    let main = &json["main"];
    assert_eq!(main["verified"], true, "{json}");
    assert_eq!(main["manifest_version"], if major >= 17 { 2 } else { 1 });
    assert!(
        main["files"].as_u64().unwrap() > 900 && main["wal"]["segments"].as_u64().unwrap() >= 1,
        "{json}"
    );

    let same = |what: &str| {
        let ours = our_verdict(&scene.home);
        assert!(!ours.is_empty(), "{what}");
        // The tool of each major that can read this manifest.
        for tool in [15, 18].into_iter().filter(|tool| major < 17 || *tool == major) {
            if let Some(theirs) = postgres_verdict(tool, &data) {
                assert_eq!(ours, theirs, "{what}, by pg_verifybackup {tool}");
            }
        }
    };
    let [first, second, third] = [0, 1, 2].map(|number| relation(&data, number));
    let mut content = fs::read(&first).unwrap();
    content[9000] ^= 1;
    fs::write(&first, &content).unwrap();
    same("a flipped bit");
    fs::write(&second, "short").unwrap();
    same("a cut file too");
    fs::remove_file(&third).unwrap();
    same("a missing file too");
    fs::write(data.join("base/1/extra"), "").unwrap();
    fs::write(data.join("backup_label.old"), "").unwrap();
    same("additional files too");
    let space = fs::read_dir(data.join("pg_tblspc")).unwrap().next().unwrap().unwrap().path();
    fs::write(space.join("stranger"), "in a tablespace").unwrap();
    same("an additional file in a tablespace too");
    fs::write(data.join("postgresql.auto.conf"), "# changed").unwrap();
    fs::write(data.join("standby.signal"), "").unwrap();
    same("files that do not count");

    let json = scene.home.run(["-f", "json", "verify-backup", "main", "latest"]).exits_with(1).json();
    assert_eq!(json["main"]["fault_count"], 6, "{json}");
    assert_eq!(json["main"]["faults"].as_array().unwrap().len(), 6);
}

#[test]
fn gives_postgresqls_verdicts_on_13() {
    testkit::require_pg!(13);
    gives_postgresqls_verdicts(13);
}

#[test]
fn gives_postgresqls_verdicts_on_15() {
    testkit::require_pg!(15);
    gives_postgresqls_verdicts(15);
}

#[test]
fn gives_postgresqls_verdicts_on_17() {
    testkit::require_pg!(17);
    gives_postgresqls_verdicts(17);
}

#[test]
fn gives_postgresqls_verdicts_on_18() {
    testkit::require_pg!(18);
    gives_postgresqls_verdicts(18);
}

#[test]
fn damaged_missing_and_foreign_wal_is_a_fault_and_recorded() {
    testkit::require_pg!(15);
    let scene = Scene::with(Cluster::builder(15).segment_size_mib(1), |home| {
        home.with("main", "compression", "gzip")
    });
    scene.archive();
    scene.home.run(["archive-wal", "main"]).success();
    let record = scene.home.join(format!("main/.barkeep/verified/{}.json", scene.backup_id));
    let recorded = |verdict: &str| {
        let text = fs::read_to_string(&record).unwrap();
        assert!(text.contains(&format!("\"verdict\":\"{verdict}\"")), "{text}");
    };
    // Retention reads what is recorded here.
    let counts = || {
        let words = ["-f", "json", "retention", "main", "--policy", "REDUNDANCY 1 VERIFIED"];
        let json = scene.home.run(words).success().json();
        json["main"]["backups"][0]["reason"].as_str().unwrap().starts_with("number 1 of the 1 newest")
    };
    assert!(!counts());
    let json = scene.home.run(["-f", "json", "verify-backup", "main", "latest"]).success().json();
    recorded("sound");
    assert!(counts());
    let first = json["main"]["wal"]["first"].as_str().unwrap();
    let path = scene.home.join("main/wals").join(&first[..16]).join(first);
    let whole = fs::read(&path).unwrap();

    let plain = scene.home.run(["get-wal", "main", first]).code;
    assert_eq!(plain, Some(0));
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let run = scene.home.run(["verify-backup", "main", "latest"]).exits_with(1);
    assert!(run.stderr.contains(first), "{run:#?}");
    recorded("damaged");
    assert!(!counts());
    fs::remove_file(&path).unwrap();
    let run = scene.home.run(["verify-backup", "main", "latest"]).exits_with(1);
    assert!(run.stderr.contains(&format!("WAL segment {first} is not in the archive")), "{run:#?}");
    // Barman looks at the files alone; so does barkeep if told to.
    scene.home.run(["verify-backup", "--no-parse-wal", "main", "latest"]).success();

    let foreign = Cluster::builder(15).segment_size_mib(1).start();
    foreign.execute("create table t as select generate_series(1, 100)");
    let segment = fs::read_dir(foreign.data_dir().join("pg_wal")).unwrap().map(|e| e.unwrap().path());
    let segment = segment.filter(|path| path.is_file()).min().unwrap();
    fs::copy(segment, &path).unwrap();
    let run = scene.home.run(["verify-backup", "main", "latest"]).exits_with(1);
    assert!(run.stderr.contains("different database system"), "{run:#?}");
}

#[test]
fn what_can_not_be_verified_is_one_clear_line() {
    testkit::require_pg!(15);
    let scene = Scene::new(Cluster::builder(15));
    let refuse = |parts: &[&str]| {
        scene.home.run(["-q", "verify-backup", "main", "latest"]).fails_with_one_line(1, parts);
    };
    let manifest = backup_data(&scene).join("backup_manifest");
    let content = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, content.replacen("\"Size\": ", "\"Size\": 1", 1)).unwrap();
    refuse(&["the backup manifest is damaged", "without a sound manifest"]);
    fs::write(&manifest, &content[..content.len() / 2]).unwrap();
    refuse(&["can't be verified"]);
    fs::remove_file(&manifest).unwrap();
    refuse(&["there is no backup manifest", "barkeep generate-manifest main"]);
    symlink("/etc/passwd", &manifest).unwrap();
    refuse(&["backup_manifest\" can't be read"]);
    fs::remove_file(&manifest).unwrap();
    fs::remove_dir_all(backup_data(&scene)).unwrap();
    refuse(&["data\" can't be read"]);
    scene
        .home
        .run(["verify-backup", "main", "nightly"])
        .fails_with_one_line(1, &["Unknown backup 'nightly'"]);
    scene.home.run(["verify-backup", "main"]).exits_with(2);
}

#[test]
fn a_generated_manifest_is_postgresqls_in_all_but_the_order() {
    testkit::require_pg!(15);
    testkit::require_pg!(18);
    for major in [15, 18] {
        let scene = Scene::new(Cluster::builder(major));
        let data = backup_data(&scene);
        let manifest = data.join("backup_manifest");
        let original = fs::read(&manifest).unwrap();
        scene
            .home
            .run(["generate-manifest", "main", "latest"])
            .fails_with_one_line(1, &["has a manifest already", "barkeep verify-backup main"]);
        assert_eq!(fs::read(&manifest).unwrap(), original);

        fs::remove_file(&manifest).unwrap();
        scene.home.run(["generate-manifest", "main", "latest"]).success();
        let read = |text: &[u8]| {
            let mut files = Vec::new();
            let facts = pgbase::manifest::read(text, |file| files.push(file)).unwrap();
            files.retain(|file| file.path != b"postgresql.auto.conf");
            files.sort_by(|a, b| a.path.cmp(&b.path));
            (facts.version, facts.system_identifier, facts.wal_ranges, files)
        };
        let (theirs, ours) = (read(&original), read(&fs::read(&manifest).unwrap()));
        assert_eq!((ours.0, ours.1, ours.2.len()), (theirs.0, theirs.1, theirs.2.len()));
        assert_eq!(ours.2[0].start, theirs.2[0].start);
        assert_eq!(ours.3, theirs.3);
        assert_eq!(postgres_verdict(major, &data), Some(BTreeSet::new()));
        scene.home.run(["verify-backup", "--no-parse-wal", "main", "latest"]).success();
        scene.recover("new", &[]);
    }
}

/// barkeep on Barman's home, as Barman's user.
fn run_shared(barman: &Barman, arguments: &[&str]) -> Run {
    let mut command = Command::new(testkit::reachable_binary(barkeep()));
    command.arg("-c").arg(barman.config_path()).args(arguments).current_dir(barman.home());
    testkit::unprivileged_user().run_as(&mut command);
    Run::of(&mut command)
}

#[test]
fn both_verify_and_generate_for_each_other() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    let cluster = Cluster::builder(15).checksums(true).start();
    let space = cluster.new_dir("fast");
    cluster.execute(&format!("create tablespace fast location '{}'", space.display()));
    cluster.execute("create table spaced tablespace fast as select generate_series(1, 200) as id");
    let barman = Barman::new();
    barman.add_server("main", &cluster, "immediate_checkpoint = true");
    let receiver = barman.start_receiver("main", &cluster);
    barman.wait_for_first_wal("main", &cluster);
    barman.run(&["backup", "main"]);
    barman.archive_all("main", &cluster);
    drop(receiver);
    let verified = run_shared(&barman, &["verify-backup", "main", "latest"]).success();
    assert!(verified.stdout.contains("backup successfully verified"), "{verified:#?}");

    let base = fs::read_dir(barman.server_dir("main").join("base")).unwrap().next().unwrap().unwrap().path();
    let manifest = base.join("data/backup_manifest");
    fs::remove_file(&manifest).unwrap();
    barman.run(&["generate-manifest", "main", "latest"]);
    // Barman's own lists the data directory alone, and the link to the tablespace leads out of it.
    let theirs = fs::read(&manifest).unwrap();
    let run = run_shared(&barman, &["verify-backup", "--no-parse-wal", "main", "latest"]);
    let barmans = barman.try_run(&["verify-backup", "main", "latest"]);
    assert_eq!(run.code, barmans.status.code(), "{run:#?}\n{barmans:?}");

    fs::remove_file(&manifest).unwrap();
    run_shared(&barman, &["generate-manifest", "main", "latest"]).success();
    assert_ne!(fs::read(&manifest).unwrap(), theirs);
    barman.run(&["verify-backup", "main", "latest"]);
    barman.run(&["list-backups", "main"]);
}
