//! Another segment under the name of one that was deleted is not called damaged.

use std::fs;
use std::path::Path;
use std::process::Command;

use testkit::{Barman, Cluster, StopMode, TestDir, unprivileged_user};

use crate::support::{Run, barkeep};
use crate::wal_scene::all_names;

fn cluster() -> Cluster {
    let builder = Cluster::builder(17).segment_size_mib(1);
    builder.setting("archive_mode", "on").setting("archive_command", "false").start()
}

struct Scene {
    barman: Barman,
}

impl Scene {
    fn new(cluster: &Cluster) -> Self {
        let barman = Barman::new();
        barman.add_server("main", cluster, "archiver = on\nstreaming_archiver = off");
        for directory in ["incoming", "wals", "errors", "streaming", "base", "meta"] {
            fs::create_dir_all(barman.server_dir("main").join(directory)).unwrap();
        }
        unprivileged_user().take_over(&barman.home());
        Scene { barman }
    }

    fn barkeep(&self, arguments: &[&str]) -> Run {
        let mut command = Command::new(testkit::reachable_binary(barkeep()));
        command.arg("-c").arg(self.barman.config_path()).args(arguments).current_dir(self.barman.home());
        Run::of(unprivileged_user().run_as(&mut command))
    }

    /// Writes segments, all alike but for their positions and what makes them a cluster's, and delivers them.
    fn deliver(&self, cluster: &Cluster, segments: usize) -> Vec<String> {
        for _ in 0..segments {
            cluster.execute("select pg_logical_emit_message(false, 'x', 'the same in each')");
            cluster.switch_wal();
        }
        let wal = cluster.data_dir().join("pg_wal");
        let status = wal.join("archive_status");
        let incoming = self.barman.server_dir("main").join("incoming");
        let mut files = Vec::new();
        for name in all_names(&status) {
            let Some(file) = name.strip_suffix(".ready") else { continue };
            fs::copy(wal.join(file), incoming.join(file)).unwrap();
            fs::remove_file(status.join(&name)).unwrap();
            files.push(file.to_owned());
        }
        unprivileged_user().take_over(&incoming);
        files
    }

    fn archived_by_barman(&self) {
        let output = self.barman.try_run(&["archive-wal", "main"]);
        assert!(output.status.success(), "{output:?}");
    }

    /// Deletes archived files without barkeep.
    fn delete(&self, files: &[String]) {
        let server = self.barman.server_dir("main");
        for file in files {
            let _ = fs::remove_file(server.join("wals").join(&file[..16]).join(file));
        }
        let list = server.join("wals").join("main-xlog.db");
        let text = fs::read_to_string(&list).unwrap();
        let stays = |line: &&str| !files.iter().any(|file| line.starts_with(file.as_str()));
        fs::write(&list, text.lines().filter(stays).map(|line| format!("{line}\n")).collect::<String>())
            .unwrap();
    }

    #[track_caller]
    fn assert_sound(&self) {
        let deep = self.barkeep(&["check", "--deep", "main"]);
        assert!(deep.stdout.contains("WAL archive records: OK"), "{deep:?}");
        let check = self.barkeep(&["check", "main"]);
        assert!(!check.stdout.contains("soundness"), "{check:?}");
        self.barkeep(&["wal", "verify", "--server", "main"]).success();
        assert_eq!(all_names(&self.barman.server_dir("main").join("errors")), [""; 0]);
    }
}

#[test]
fn a_cluster_that_is_made_anew_under_its_name_is_archived_and_sound() {
    testkit::require_pg!(17);
    testkit::require_barman!();
    let first = cluster();
    let scene = Scene::new(&first);
    let files = scene.deliver(&first, 4);
    scene.barkeep(&["archive-wal", "main"]).success();
    scene.assert_sound();
    scene.delete(&files);

    let second = cluster();
    scene.deliver(&second, 3);
    scene.archived_by_barman();
    scene.deliver(&second, 2);
    let run = scene.barkeep(&["archive-wal", "main"]).success();
    assert_eq!(run.stderr, "", "{run:?}");
    scene.assert_sound();
}

#[test]
fn a_segment_that_was_deleted_and_archived_again_with_another_content_is_sound() {
    testkit::require_pg!(17);
    testkit::require_barman!();
    let mut one = cluster();
    let scene = Scene::new(&one);
    scene.deliver(&one, 2);
    one.stop(StopMode::Immediate);
    let (copies, copy) = copy_of(one.data_dir());
    one.start_again();
    let files = scene.deliver(&one, 3);
    scene.barkeep(&["archive-wal", "main"]).success();
    one.stop(StopMode::Immediate);
    scene.delete(&files);

    // The same cluster goes on elsewhere. Barman's list has whole seconds after a rebuild, and a copy may be as old.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let other = Cluster::adopt(17, &copy);
    other.wait_until_writable();
    let again = scene.deliver(&other, 4);
    assert!(files.iter().all(|file| again.contains(file)), "{files:?} {again:?}");
    scene.archived_by_barman();
    scene.assert_sound();
    drop((other, copies));
}

fn copy_of(data: &Path) -> (TestDir, std::path::PathBuf) {
    let dir = TestDir::new();
    let copy = dir.join("data");
    let copied = Command::new("cp").arg("-a").arg(data).arg(&copy).status().unwrap();
    assert!(copied.success());
    unprivileged_user().take_over(dir.path());
    (dir, copy)
}
