//! Copies over SSH where the backup's machine is another one: another user, a long and unsteady line.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use barkeep_catalog::{Catalog, Layout};
use testkit::{Cluster, Sshd, TestDir};

use crate::restore_scene::{Scene, state};
use crate::support::{DATA_KIB_MAX, Home, Run, barkeep};

#[test]
fn the_backups_user_needs_no_right_to_the_servers_files() {
    testkit::require_pg!(15);
    testkit::require_sshd!();
    let Some(keeper) = testkit::second_user() else { return };
    let cluster = Cluster::builder(15).checksums(true).start();
    cluster.execute("create table t as select generate_series(1, 20000) as n, repeat('x', 200) as filler");
    let sshd = Sshd::start();
    let dir = TestDir::new();
    let keys = dir.subdir("keys");
    let command = sshd.ssh_command_for(&keeper, &keys);
    let home = dir.subdir("home");
    keeper.take_over(dir.path());
    let conninfo = cluster.conninfo();
    let at = home.display();
    dir.write(
        "barman.conf",
        format!(
            "[barman]\nbarman_home = {at}\nbarman_user = {}\nbarman_lock_directory = {at}\nlog_file = {at}/log\n\
             [main]\ndescription = main\nconninfo = {conninfo}\nstreaming_conninfo = {conninfo}\n\
             backup_method = rsync\nssh_command = {command}\nstreaming_archiver = on\nslot_name = barkeep\n\
             create_slot = auto\nimmediate_checkpoint = on\n",
            keeper.name
        ),
    );
    let run = |words: &[&str]| {
        let mut command = Command::new(testkit::reachable_binary(barkeep()));
        command.arg("-c").arg(dir.join("barman.conf")).args(words).current_dir("/").env("HOME", &home);
        keeper.run_as(&mut command);
        Run::of(&mut command)
    };
    // Proof that it is not by its own right.
    let mut look = Command::new("ls");
    assert!(!keeper.run_as(look.arg(cluster.data_dir())).output().unwrap().status.success());
    run(&["backup", "main"]).success();
    run(&["verify-backup", "main", "latest", "--no-parse-wal"]).success();
    let base = std::fs::read_dir(home.join("main/base")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(std::fs::metadata(base.join("data/PG_VERSION")).unwrap().uid(), keeper.uid);
    // Back to the server's machine: there the files are the server's user's.
    let far = TestDir::new();
    testkit::unprivileged_user().take_over(far.path());
    let destination = far.join("restored");
    let words = [
        "restore",
        "main",
        "latest",
        destination.to_str().unwrap(),
        "--get-wal",
        "--restore-command",
        "false",
    ];
    run(&[&words[..], &["--remote-ssh-command", &command]].concat()).success();
    let control = std::fs::metadata(destination.join("global/pg_control")).unwrap();
    assert_eq!(control.uid(), testkit::unprivileged_user().uid);
}

/// A way to a port of this machine: everything takes a while on it, no more than a window of what comes from there is under
/// way, once it stands still, and the first connection breaks after so many bytes from there. What is lost on a real line is
/// sent again by TCP, and is no more than a delay to those who speak over it.
struct SlowLine {
    port: u16,
    /// How many bytes came from there, by connection.
    carried: Arc<Mutex<Vec<u64>>>,
}

const DELAY: Duration = Duration::from_millis(20);
/// How long the line stands still, and after how many bytes of a connection.
const STALL: Duration = Duration::from_secs(1);
const STALLS_AFTER: u64 = 2 << 20;
/// Largest piece that is carried at once, in bytes.
const PIECE: usize = 32 << 10;
/// How many pieces are under way at most: towards the far end, where the agent's executable goes, and from there.
const WINDOWS: [usize; 2] = [128, 16];

impl SlowLine {
    fn to(target: u16, breaks_after: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let carried = Arc::new(Mutex::new(Vec::new()));
        let counted = Arc::clone(&carried);
        // It ends with the test's process.
        std::thread::spawn(move || {
            for (connection, near) in listener.incoming().enumerate() {
                let (near, far) = (near.unwrap(), TcpStream::connect(("127.0.0.1", target)).unwrap());
                counted.lock().unwrap().push(0);
                let limit = if connection == 0 { breaks_after } else { u64::MAX };
                let ways = [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))];
                for ((from, to), window) in ways.into_iter().zip(WINDOWS) {
                    let (from, to, counted) = (from.unwrap(), to.unwrap(), Arc::clone(&counted));
                    let is_back = window == WINDOWS[1];
                    std::thread::spawn(move || {
                        carry(from, to, window, |bytes| {
                            let mut counted = counted.lock().unwrap();
                            let carried = &mut counted[connection];
                            if !is_back || *carried + bytes > limit {
                                return (!is_back).then_some(Duration::ZERO);
                            }
                            *carried += bytes;
                            let stalls = (STALLS_AFTER..STALLS_AFTER + bytes).contains(carried);
                            Some(if stalls { STALL } else { Duration::ZERO })
                        });
                    });
                }
            }
        });
        SlowLine { port, carried }
    }

    fn carried(&self) -> Vec<u64> {
        self.carried.lock().unwrap().clone()
    }
}

/// Carries bytes one way, each as late as the others, after a pause that `allow` tells, until it tells none.
fn carry(mut from: TcpStream, to: TcpStream, window: usize, mut allow: impl FnMut(u64) -> Option<Duration>) {
    let (sender, receiver) = std::sync::mpsc::sync_channel::<(Instant, Vec<u8>)>(window);
    let (mut end, input) = (to, from.try_clone().unwrap());
    std::thread::spawn(move || {
        for (due, bytes) in receiver {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if end.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = (end.shutdown(Shutdown::Both), input.shutdown(Shutdown::Both));
    });
    let mut buffer = vec![0; PIECE];
    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
        let Some(pause) = allow(bytes as u64) else { break };
        std::thread::sleep(pause);
        if sender.send((Instant::now() + DELAY, buffer[..bytes].to_vec())).is_err() {
            break;
        }
    }
}

#[test]
fn over_a_long_line_that_breaks_the_next_try_goes_on() {
    testkit::require_pg!(15);
    testkit::require_sshd!();
    let sshd = Sshd::start();
    // More than the agent itself, which goes the other way; less than the backup.
    let line = SlowLine::to(sshd.port(), 6 << 20);
    let command = sshd.ssh_command().replacen("ssh ", &format!("ssh -p {} ", line.port), 1);
    let configure = |home: Home| {
        home.with("main", "backup_method", "rsync")
            .with("main", "ssh_command", &command)
            // As many bytes as there are: the line is to break in the middle.
            .with("main", "network_compression", "false")
            .with("main", "basebackup_retry_times", "2")
            .with("main", "basebackup_retry_sleep", "0")
    };
    let scene = Scene::with(Cluster::builder(15).checksums(true), configure);
    assert_eq!(line.carried().len(), 2, "one that broke, and one that went on");
    assert!(scene.home.log().contains("The copy failed"), "{}", scene.home.log());
    scene.home.run(["verify-backup", "main", "latest"]).success();
    scene.archive();
    let restored = scene.recover("restored", &[]);
    assert_eq!(state(&restored), state(&scene.cluster));
}

#[test]
fn cut_off_on_a_long_line_it_is_gone_on_with_by_hand_in_little_memory() {
    testkit::require_pg!(15);
    testkit::require_sshd!();
    let sshd = Sshd::start();
    let line = SlowLine::to(sshd.port(), 12 << 20);
    let cluster = Cluster::builder(15).checksums(true).start();
    let home = Home::new()
        .server("main", &cluster.conninfo())
        .with("main", "backup_method", "rsync")
        .with(
            "main",
            "ssh_command",
            &sshd.ssh_command().replacen("ssh ", &format!("ssh -p {} ", line.port), 1),
        )
        .with("main", "network_compression", "false")
        // What is under way when it breaks is what one of them has asked for.
        .with("main", "parallel_jobs", "1");
    let backup =
        |options: &[&str]| Run::of(home.frugal_command(DATA_KIB_MAX).args(["backup", "main"]).args(options));
    let run = backup(&[]).exits_with(1);
    assert!(run.stderr.contains("the connection to the agent is lost"), "{run:#?}");
    backup(&["--resume"]).success();
    let run = backup(&["--resume"]).exits_with(1);
    assert!(run.stderr.contains("nothing to go on with"), "{run:#?}");
    home.run(["verify-backup", "main", "latest", "--no-parse-wal"]).success();
    let catalog = Catalog::new(Layout::new("main", &home.join("main"), home.path()));
    let size =
        catalog.backups().unwrap().by_id.into_values().filter_map(|info| info.size).next_back().unwrap();
    let carried = line.carried();
    // What came before, but for what was under way, did not come again.
    assert!(matches!(carried[..], [_, again] if again < size - (4 << 20)), "{carried:?} of {size}");
}
