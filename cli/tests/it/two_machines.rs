//! Copies over SSH where the backup's machine is another one: another user, a long and unsteady line.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use testkit::{Cluster, Sshd, TestDir};

use crate::restore_scene::{Scene, state};
use crate::support::{Home, Run, barkeep};

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

/// A way to a port of this machine on which everything takes a while, and which breaks after so many bytes from there,
/// the first time.
struct SlowLine {
    port: u16,
    connections: Arc<AtomicU64>,
}

const DELAY: Duration = Duration::from_millis(20);

impl SlowLine {
    fn to(target: u16, breaks_after: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&connections);
        // It ends with the test's process.
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let (near, far) = (near.unwrap(), TcpStream::connect(("127.0.0.1", target)).unwrap());
                let first = counted.fetch_add(1, Ordering::SeqCst) == 0;
                let left = if first { breaks_after } else { u64::MAX };
                let ways = [(near.try_clone(), far.try_clone(), u64::MAX), (Ok(far), Ok(near), left)];
                for (from, to, left) in ways {
                    let (from, to) = (from.unwrap(), to.unwrap());
                    std::thread::spawn(move || carry(from, to, left));
                }
            }
        });
        SlowLine { port, connections }
    }
}

/// Carries bytes one way, each as late as the others.
fn carry(mut from: TcpStream, mut to: TcpStream, mut left: u64) {
    let (sender, receiver) = std::sync::mpsc::sync_channel::<(Instant, Vec<u8>)>(64);
    let (mut end, input) = (to.try_clone().unwrap(), from.try_clone().unwrap());
    std::thread::spawn(move || {
        for (due, bytes) in receiver {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if end.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = (end.shutdown(Shutdown::Both), input.shutdown(Shutdown::Both));
    });
    let mut buffer = vec![0; 64 << 10];
    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
        left = left.saturating_sub(bytes as u64);
        if left == 0 || sender.send((Instant::now() + DELAY, buffer[..bytes].to_vec())).is_err() {
            break;
        }
    }
    drop(sender);
    let _ = to.flush();
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
    assert_eq!(line.connections.load(Ordering::SeqCst), 2, "one that broke, and one that went on");
    assert!(scene.home.log().contains("The copy failed"), "{}", scene.home.log());
    scene.home.run(["verify-backup", "main", "latest"]).success();
    scene.archive();
    let restored = scene.recover("restored", &[]);
    assert_eq!(state(&restored), state(&scene.cluster));
}
