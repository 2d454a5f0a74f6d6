//! Hook scripts: when they run, what they are told, and what they can stop.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use barkeep_catalog::{Catalog, Status};
use pgwal::WalFile;
use testkit::{Barman, Cluster, TestDir, wait_for};

use crate::stored::{layout, names};
use crate::support::{Home, Run, barkeep};

/// The keys of the scripts around an event, in the order in which they run.
fn keys(event: &str) -> [String; 4] {
    ["pre_E_script", "pre_E_retry_script", "post_E_retry_script", "post_E_script"]
        .map(|key| key.replace('E', event))
}

/// A script that appends its key and what `tell` prints to a file.
fn teller(place: &Path, tell: &str) -> String {
    format!("echo \"${{BARMAN_PHASE}}_$BARMAN_HOOK {tell}\" >> '{}'", place.display())
}

fn told(place: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(place).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// A server, its home, and a place for what scripts tell.
struct Scene {
    cluster: Cluster,
    home: Home,
    dir: TestDir,
}

impl Scene {
    fn new(configure: impl FnOnce(Home, &Path) -> Home) -> Self {
        let cluster = Cluster::start(15);
        let dir = TestDir::new();
        let home = Home::new()
            .server("main", &cluster.conninfo())
            .with("main", "streaming_archiver", "off")
            .with("main", "archiver", "on");
        let home = configure(home, dir.path());
        Scene { cluster, home, dir }
    }

    fn told(&self) -> Vec<String> {
        told(&self.dir.join("told"))
    }

    fn statuses(&self) -> Vec<Status> {
        let backups = Catalog::new(layout(&self.home)).backups().unwrap();
        backups.iter().map(|info| info.status).collect()
    }
}

#[test]
fn scripts_run_around_a_backup_in_order_and_their_exit_codes_change_nothing() {
    testkit::require_pg!(15);
    let scene = Scene::new(|home, dir| {
        let script = |tell: &str| teller(&dir.join("told"), tell);
        home.with(
            "main",
            "pre_backup_script",
            &format!("{}; exit 63", script("$BARMAN_STATUS $BARMAN_RETRY")),
        )
        .with("main", "pre_backup_retry_script", &script("$BARMAN_STATUS $BARMAN_RETRY"))
        .with("barman", "post_backup_retry_script", &format!("{}; exit 63", script("$BARMAN_STATUS")))
        .with(
            "barman",
            "post_backup_script",
            &format!("{}; echo is; echo said >&2", script("$BARMAN_STATUS")),
        )
    });
    let run = scene.home.run(["backup", "main"]).success();
    let expected = [
        "pre_backup_script EMPTY 0",
        "pre_backup_retry_script EMPTY 1",
        "post_backup_retry_script WAITING_FOR_WALS",
        "post_backup_script WAITING_FOR_WALS",
    ];
    assert_eq!(scene.told(), expected);
    assert!(run.stderr.contains("pre_backup_script") && run.stderr.contains("returned 63"), "{run:?}");
    assert!(run.stderr.contains("this has happened already"), "{run:?}");
    let log = scene.home.log();
    assert!(log.contains("post_backup_script: is\n") && log.contains("post_backup_script: said\n"), "{log}");
}

#[test]
fn a_retried_script_is_run_again_until_it_succeeds_or_says_to_go_on() {
    testkit::require_pg!(15);
    let scene = Scene::new(|home, dir| {
        let script = teller(&dir.join("told"), "");
        let flag = dir.join("flag");
        let flag = flag.display();
        home.with(
            "main",
            "pre_backup_retry_script",
            &format!("{script}; test -e '{flag}' || {{ touch '{flag}'; exit 1; }}"),
        )
        .with("main", "post_backup_retry_script", &format!("{script}; exit 62"))
    });
    let run = scene.home.run(["backup", "main"]).success();
    let expected = ["pre_backup_retry_script ", "pre_backup_retry_script ", "post_backup_retry_script "];
    assert_eq!(scene.told(), expected);
    assert!(run.stderr.contains("trying again in 3 seconds"), "{run:?}");
    assert!(run.stderr.contains("returned 62, which means to go on"), "{run:?}");
}

#[test]
fn a_retried_script_can_stop_a_backup_before_it_begins() {
    testkit::require_pg!(15);
    let scene = Scene::new(|home, dir| {
        home.with("main", "pre_backup_retry_script", "exit 63").with(
            "main",
            "post_backup_script",
            &teller(&dir.join("told"), "$BARMAN_STATUS $BARMAN_ERROR"),
        )
    });
    let run = scene.home.run(["backup", "main"]).exits_with(1);
    assert!(run.stderr.contains("returned 63, which means to stop"), "{run:?}");
    assert_eq!(scene.statuses(), [Status::Failed]);
    let told = scene.told();
    assert!(
        told[0].starts_with("post_backup_script FAILED failure starting backup (pre_backup_retry_script")
    );
    assert_eq!(names(scene.home.join("main/base")), Vec::<String>::new(), "nothing was copied");
}

#[test]
fn scripts_may_use_barkeep_on_the_same_server() {
    testkit::require_pg!(15);
    let config = "-c \"$BARMAN_CONFIGURATION\"";
    let scene = Scene::new(|home, _| home);
    let mut home = scene.home;
    for _ in 0..2 {
        home.run(["backup", "main"]).success();
    }
    let older = names(home.join("main/base"));
    home.set("main", "pre_backup_retry_script", &format!("'{}' {config} delete main oldest", barkeep()));
    home.run(["backup", "main"]).success();
    let left = names(home.join("main/base"));
    assert_eq!(left[0], older[1], "the first was deleted before the third was taken");
    assert_eq!(left.len(), 2);
    home.set("main", "pre_backup_retry_script", "true");
    home.set("main", "post_backup_retry_script", &format!("'{}' {config} delete main oldest", barkeep()));
    home.run(["backup", "main"]).success();
    let left = names(home.join("main/base"));
    assert_eq!(left.len(), 2, "{left:?}");
    let ids = Catalog::new(layout(&home)).backups().unwrap();
    assert_eq!(ids.iter().map(|info| info.id.to_string()).collect::<Vec<_>>(), left);
    drop(scene.cluster);
}

#[test]
fn a_script_that_takes_too_long_is_stopped_with_all_that_it_started() {
    testkit::require_pg!(15);
    let scene = Scene::new(|home, dir| {
        let pids = dir.join("pids");
        let script = format!("sleep 300 & echo $! > '{}'; sleep 300", pids.display());
        home.with("main", "hook_timeout", "1").with("main", "pre_backup_script", &script)
    });
    let clock = Instant::now();
    let run = scene.home.run(["backup", "main"]).success();
    assert!(clock.elapsed() < Duration::from_secs(60));
    assert!(run.stderr.contains("was stopped after 1 seconds (hook_timeout)"), "{run:?}");
    let pid: i32 = std::fs::read_to_string(scene.dir.join("pids")).unwrap().trim().parse().unwrap();
    wait_for("the script's child to end", 60, || is_gone(pid).then_some(()));
}

#[test]
fn what_a_script_leaves_running_holds_nothing_up() {
    testkit::require_pg!(15);
    let scene = Scene::new(|home, dir| {
        let pids = dir.join("pids");
        let script = format!("sleep 300 & echo $! > '{}'; echo done", pids.display());
        home.with("main", "pre_backup_script", &script)
    });
    let clock = Instant::now();
    scene.home.run(["backup", "main"]).success();
    assert!(clock.elapsed() < Duration::from_secs(60));
    let pid = std::fs::read_to_string(scene.dir.join("pids")).unwrap();
    Command::new("kill").arg(pid.trim()).status().unwrap();
}

#[test]
fn a_backup_is_alone_with_its_server_while_its_scripts_run_and_a_signal_ends_both() {
    testkit::require_pg!(15);
    let scene = Scene::new(|home, dir| {
        let pids = dir.join("pids");
        home.with("main", "pre_backup_script", &format!("echo $$ > '{}'; exec sleep 300", pids.display()))
            .with("main", "post_backup_script", &teller(&dir.join("told"), "$BARMAN_STATUS"))
    });
    let mut backup = scene.home.command().args(["backup", "main"]).stderr(Stdio::null()).spawn().unwrap();
    let pid: i32 = wait_for("the script to run", 30, || {
        std::fs::read_to_string(scene.dir.join("pids")).ok()?.trim().parse().ok()
    });
    scene
        .home
        .run(["backup", "main"])
        .fails_with_one_line(1, &["already running", &format!("pid {}", backup.id())]);
    scene.home.run(["cron"]);
    assert_eq!(scene.statuses(), [Status::Empty], "cron leaves a backup alone whose script runs");
    Command::new("kill").arg(backup.id().to_string()).status().unwrap();
    assert_eq!(backup.wait().unwrap().code(), Some(1));
    assert!(is_gone(pid));
    assert_eq!(scene.statuses(), [Status::Failed]);
    assert_eq!(scene.told(), ["post_backup_script FAILED"]);
}

fn is_gone(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A zombie waits for whoever has inherited it.
    stat.is_empty() || stat.contains(") Z ")
}

/// A home that Barman and barkeep share, with scripts around an event that write down their environment.
struct Shared {
    barman: Barman,
    cluster: Cluster,
}

impl Shared {
    fn new(events: &[&str]) -> Self {
        let cluster = Cluster::builder(15).checksums(true).start();
        let space = cluster.new_dir("fast");
        cluster.execute(&format!("create tablespace fast location '{}'", space.display()));
        let barman = Barman::new();
        let told = barman.new_dir("told");
        let script =
            format!("env | grep ^BARMAN_ | sort > '{}'/${{BARMAN_PHASE}}_$BARMAN_HOOK", told.display());
        let mut options = "immediate_checkpoint = true\n".to_owned();
        for key in events.iter().flat_map(|event| keys(event)) {
            options.push_str(&format!("{key} = {script}\n"));
        }
        barman.add_server("main", &cluster, &options);
        Shared { barman, cluster }
    }

    fn barkeep(&self, arguments: &[&str]) -> Run {
        let mut command = Command::new(testkit::reachable_binary(barkeep()));
        command.arg("-c").arg(self.barman.config_path()).args(arguments).stdin(Stdio::null());
        command.current_dir(self.barman.home());
        testkit::unprivileged_user().run_as(&mut command);
        Run::of(&mut command).success()
    }

    fn told_place(&self) -> PathBuf {
        self.barman.config_path().parent().unwrap().join("told")
    }

    /// What the scripts were told since the last call, by key, with all backup ids alike.
    fn take_told(&self) -> Vec<(String, String)> {
        let place = self.told_place();
        let mut all = Vec::new();
        for name in names(&place) {
            let text = std::fs::read_to_string(place.join(&name)).unwrap();
            std::fs::remove_file(place.join(&name)).unwrap();
            all.push((name, without_ids(&text)));
        }
        all
    }
}

/// The text with `ID` in the place of every backup id.
fn without_ids(text: &str) -> String {
    const ID_LEN: usize = "20260102T030405".len();
    let mut result = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let is_id = rest.get(..ID_LEN).is_some_and(|id| id.parse::<barkeep_catalog::BackupId>().is_ok());
        if is_id {
            result.push_str("ID");
            rest = &rest[ID_LEN..];
        } else {
            result.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    result
}

#[test]
fn scripts_are_told_what_barman_tells_them() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    let shared = Shared::new(&["backup", "recovery"]);
    let receiver = shared.barman.start_receiver("main", &shared.cluster);
    shared.barman.wait_for_first_wal("main", &shared.cluster);
    shared.barman.run(&["backup", "main"]);
    // The second has one before it.
    shared.take_told();
    shared.barman.run(&["backup", "main"]);
    let by_barman = shared.take_told();
    assert_eq!(by_barman.len(), 4, "{by_barman:?}");
    shared.barkeep(&["backup", "main"]);
    assert_eq!(shared.take_told(), by_barman);

    let destination = shared.barman.new_dir("restored");
    let space = shared.barman.new_dir("space");
    let destination = destination.to_str().unwrap();
    let mapping = format!("fast:{}", space.display());
    let restores: [&[&str]; 3] = [
        &["restore", "main", "oldest", destination, "--tablespace", &mapping],
        &[
            "restore",
            "main",
            "oldest",
            destination,
            "--tablespace",
            &mapping,
            "--get-wal",
            "--target-immediate",
            "--target-action",
            "promote",
            "--exclusive",
            "--target-tli",
            "1",
        ],
        &["restore", "main", "oldest", destination, "--tablespace", &mapping, "--get-wal", "--standby-mode"],
    ];
    for restore in restores {
        shared.barman.run(restore);
        let by_barman = shared.take_told();
        assert_eq!(by_barman.len(), 4, "{by_barman:?}");
        for place in [Path::new(destination), &space] {
            std::fs::remove_dir_all(place).unwrap();
            std::fs::create_dir(place).unwrap();
            testkit::unprivileged_user().take_over(place);
        }
        shared.barkeep(restore);
        assert_eq!(shared.take_told(), by_barman, "{restore:?}");
        for place in [Path::new(destination), &space] {
            std::fs::remove_dir_all(place).unwrap();
            std::fs::create_dir(place).unwrap();
            testkit::unprivileged_user().take_over(place);
        }
    }
    drop(receiver);
}

/// What scripts were told, without what differs from file to file: which it is, how large, and how old.
fn alike(told: &[(String, String)]) -> Vec<(String, String)> {
    const DIFFERS: [&str; 5] =
        ["BARMAN_SEGMENT=", "BARMAN_FILE=", "BARMAN_SIZE=", "BARMAN_TIMESTAMP=", "BARMAN_STATUS="];
    let line = |line: &str| match DIFFERS.iter().find(|key| line.starts_with(*key)) {
        Some(key) => (*key).to_owned(),
        None => line.to_owned(),
    };
    let text = |text: &str| text.lines().map(line).collect::<Vec<_>>().join("\n");
    told.iter().map(|(name, told)| (name.clone(), text(told))).collect()
}

/// The value of a variable in what a script was told.
fn value<'a>(told: &'a str, key: &str) -> &'a str {
    told.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap_or("(none)")
}

#[test]
fn scripts_around_deletions_are_told_what_barman_tells_them() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    let shared = Shared::new(&["delete", "wal_delete"]);
    let receiver = shared.barman.start_receiver("main", &shared.cluster);
    shared.barman.wait_for_first_wal("main", &shared.cluster);
    for _ in 0..6 {
        let second = || barkeep_catalog::BackupId::at(&jiff::Zoned::now());
        let now = second();
        shared.barman.run(&["backup", "main"]);
        // Barman takes no care that two backups of one second have ids of their own.
        wait_for("the next second", 60, || (second() != now).then_some(()));
    }
    shared.barman.archive_all("main", &shared.cluster);
    shared.take_told();
    let base = shared.barman.server_dir("main").join("base");
    // One in the middle first: it has both neighbours and takes no WAL along. Then the oldest.
    let second_id = || names(&base)[1].clone();
    shared.barman.run(&["delete", "main", &second_id()]);
    let mut by_barman = shared.take_told();
    shared.barman.run(&["delete", "main", "oldest"]);
    by_barman.extend(shared.take_told());
    assert_eq!(by_barman.len(), 4 + 8, "{by_barman:?}");
    shared.barkeep(&["delete", "main", &second_id()]);
    let mut by_barkeep = shared.take_told();
    shared.barkeep(&["delete", "main", "oldest"]);
    by_barkeep.extend(shared.take_told());
    assert_eq!(alike(&by_barkeep), alike(&by_barman));
    for (name, told) in &by_barkeep {
        if name.contains("wal_delete") {
            let segment = value(told, "BARMAN_SEGMENT");
            let path = format!("wals/{}/{segment}", &segment[..16]);
            assert!(value(told, "BARMAN_FILE").ends_with(&path), "{told}");
            assert!(value(told, "BARMAN_TIMESTAMP").parse::<f64>().unwrap() > 1e9, "{told}");
            assert!(value(told, "BARMAN_SIZE").parse::<u64>().unwrap() > 0, "{told}");
        }
    }
    drop(receiver);
}

#[test]
fn a_script_can_keep_a_backup_from_being_deleted() {
    let place = TestDir::new();
    let home = crate::stored::home().with("main", "pre_delete_retry_script", "exit 63").with(
        "main",
        "post_delete_script",
        &teller(&place.join("told"), ""),
    );
    let kept =
        [1, 2].map(|hour| crate::stored::backup(&home, hour, crate::stored::segment(1, 1)).id.to_string());
    let run = home.run(["delete", "main", "latest"]).exits_with(1);
    assert!(run.stderr.contains("was not deleted") && run.stderr.contains("returned 63"), "{run:?}");
    assert_eq!(names(home.join("main/base")), kept);
    assert_eq!(told(&place.join("told")), Vec::<String>::new());
}

#[test]
fn only_the_backup_itself_is_locked_while_scripts_around_its_deletion_run() {
    let place = TestDir::new();
    let mut home = crate::stored::home();
    let ids =
        [1, 2].map(|hour| crate::stored::backup(&home, hour, crate::stored::segment(1, u64::from(hour))).id);
    crate::stored::archived(&home, [1, 2].map(|number| WalFile::Segment(crate::stored::segment(1, number))));
    let held = place.join("held");
    for key in keys("delete").into_iter().chain(keys("wal_delete")) {
        let script = format!(
            "for lock in '{}'/.*.lock; do flock -n $lock true || basename $lock; done | sed \"s/^/$BARMAN_PHASE /\" >> '{}'",
            home.path().display(),
            held.display()
        );
        home.set("main", &key, &script);
    }
    home.run(["delete", "main", "oldest"]).success();
    assert_eq!(crate::stored::archive(&home).len(), 1, "WAL went too");
    let lock = |phase: &str| std::iter::repeat_n(format!("{phase} .main-{}.lock", ids[0]), 2);
    let pair = || lock("pre").chain(lock("post"));
    let expected: Vec<String> = lock("pre").chain(pair()).chain(lock("post")).collect();
    assert_eq!(told(&held), expected);
}

#[test]
fn what_scripts_before_a_deletion_do_is_looked_at_before_anything_goes() {
    let mut home = crate::stored::home().with("main", "minimum_redundancy", "1");
    let ids = [1, 2, 3].map(|hour| {
        crate::stored::backup(&home, hour, crate::stored::segment(1, u64::from(hour))).id.to_string()
    });
    let barkeep = format!("'{}' -c \"$BARMAN_CONFIGURATION\"", barkeep());
    let others = format!("{barkeep} delete main {} && {barkeep} delete main {}", ids[0], ids[1]);
    let script = format!("if [ $BARMAN_BACKUP_ID = {} ]; then {others}; fi", ids[2]);
    home.set("main", "pre_delete_script", &script);
    let place = TestDir::new();
    home.set("main", "post_delete_script", &teller(&place.join("told"), "$BARMAN_BACKUP_ID $BARMAN_ERROR"));
    let run = home.run(["delete", "main", &ids[2]]).exits_with(1);
    assert!(run.stderr.contains("Cannot delete backup") && run.stderr.contains(&ids[2]), "{run:#?}");
    assert_eq!(names(home.join("main/base")), [ids[2].as_str()], "the others are gone, and it is not");
    assert_eq!(
        Catalog::new(layout(&home)).backups().unwrap().iter().map(|info| info.status).collect::<Vec<_>>(),
        [Status::Done]
    );
    let told = told(&place.join("told"));
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[2].contains("Cannot delete backup"), "{told:?}");
}

#[test]
fn scripts_around_archiving_are_told_what_barman_tells_them() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    let shared = Shared::new(&["archive"]);
    let config = shared.barman.config_path().parent().unwrap().join("conf.d/main.conf");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace("streaming_archiver = on", "archiver = on\ncompression = gzip");
    std::fs::write(&config, text).unwrap();
    let incoming = shared.barman.server_dir("main").join("incoming");
    shared.barkeep(&["cron"]);
    let deliver = || {
        let segment = shared.cluster.switch_wal();
        let to = incoming.join(&segment);
        std::fs::copy(shared.cluster.data_dir().join("pg_wal").join(&segment), &to).unwrap();
        testkit::unprivileged_user().take_over(&to);
        segment
    };
    let archived =
        |segment: &str| shared.barman.server_dir("main").join("wals").join(&segment[..16]).join(segment);
    deliver();
    shared.barman.run(&["archive-wal", "main"]);
    let by_barman = shared.take_told();
    assert_eq!(by_barman.len(), 4, "{by_barman:?}");
    let segment = deliver();
    shared.barkeep(&["archive-wal", "main"]);
    let by_barkeep = shared.take_told();
    assert_eq!(alike(&by_barkeep), alike(&by_barman));
    for (name, told) in &by_barkeep {
        let (path, size) = match name.starts_with("pre") {
            true => (incoming.join(&segment), 16 << 20),
            false => (archived(&segment), archived(&segment).metadata().unwrap().len()),
        };
        assert_eq!(value(told, "BARMAN_SEGMENT"), segment);
        assert_eq!(value(told, "BARMAN_FILE"), path.to_str().unwrap());
        assert_eq!(value(told, "BARMAN_SIZE"), size.to_string(), "{told}");
        let listed =
            std::fs::read_to_string(shared.barman.server_dir("main").join("wals/main-xlog.db")).unwrap();
        assert_eq!(
            value(told, "BARMAN_TIMESTAMP"),
            listed.lines().last().unwrap().split('\t').nth(2).unwrap()
        );
    }
}

#[test]
fn a_script_can_keep_wal_from_being_archived_for_now() {
    use crate::stored::{archive, deliver, segment};
    let mut home = crate::stored::home().with("main", "pre_archive_retry_script", "exit 63");
    let source = deliver(&home, segment(1, 1));
    let run = home.run(["archive-wal", "main"]).exits_with(1);
    assert!(run.stderr.contains("returned 63") && run.stderr.contains("nothing is lost"), "{run:?}");
    assert!(source.exists() && archive(&home).is_empty());
    home.set("main", "pre_archive_retry_script", "true");
    home.run(["archive-wal", "main"]).success();
    assert!(!source.exists());
    assert_eq!(archive(&home), [segment(1, 1).to_string()]);
}
