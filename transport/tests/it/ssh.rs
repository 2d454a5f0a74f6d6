//! Commands on other hosts, by a real server on loopback.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use barkeep_transport::ssh::{ControlDirectory, End, RemoteCommand, Ssh};
use testkit::Sshd;

struct Scene {
    sshd: Sshd,
    base: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let base = tempfile::Builder::new().prefix("c").tempdir_in("/tmp").unwrap();
        Scene { sshd: Sshd::start(), base }
    }

    fn plain(&self) -> Ssh {
        Ssh::from_command(&self.sshd.ssh_command()).unwrap()
    }

    fn reusing(&self) -> Ssh {
        let directory = ControlDirectory::at(&self.base.path().join("control")).unwrap();
        self.plain().reuse(&directory, Duration::from_secs(30))
    }

    fn logins(&self) -> usize {
        self.sshd.log().matches("Accepted publickey").count()
    }
}

#[track_caller]
fn check_words_arrive(ssh: &Ssh) {
    let words = ["it's", "a b", "$HOME", "", "*", "\u{fc}"];
    let output =
        ssh.start(&RemoteCommand::new("printf").arg("<%s>").args(words)).unwrap().output(1000).unwrap();
    assert_eq!(output.end, End::Exit(0), "{}", output.stderr);
    let expected: String = words.iter().map(|word| format!("<{word}>")).collect();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}

#[test]
fn words_and_bytes_arrive_as_they_are() {
    testkit::require_sshd!();
    let scene = Scene::new();
    for ssh in [scene.plain(), scene.reusing()] {
        check_words_arrive(&ssh);
        let mut session = ssh.start(&RemoteCommand::new("cat")).unwrap();
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let (mut stdin, mut stdout) = (session.take_stdin().unwrap(), session.take_stdout().unwrap());
        let received = std::thread::scope(|scope| {
            let sent = &sent;
            scope.spawn(move || stdin.write_all(sent).unwrap());
            let mut received = Vec::new();
            stdout.read_to_end(&mut received).unwrap();
            received
        });
        assert!(received == sent);
        assert_eq!(session.finish().unwrap(), (End::Exit(0), String::new()));
    }
    scene.reusing().close();
}

#[test]
fn the_second_session_goes_through_the_first_ones_connection() {
    testkit::require_sshd!();
    let scene = Scene::new();
    let ssh = scene.reusing();
    for code in [0, 7, 0] {
        let (end, stderr) =
            ssh.start(&RemoteCommand::shell(&format!("exit {code}"))).unwrap().finish().unwrap();
        assert_eq!(end, End::Exit(code), "{stderr}");
    }
    assert_eq!(scene.logins(), 1, "{}", scene.sshd.log());
    ssh.close();
    let socket = ssh.control_socket().unwrap();
    testkit::wait_for("the connection to close", 60, || (!socket.exists()).then_some(()));
    check_words_arrive(&ssh);
    assert_eq!(scene.logins(), 2, "{}", scene.sshd.log());
    ssh.close();
}

#[test]
fn a_socket_whose_connection_died_is_replaced() {
    testkit::require_sshd!();
    let scene = Scene::new();
    let ssh = scene.reusing();
    drop(std::os::unix::net::UnixListener::bind(ssh.control_socket().unwrap()).unwrap());
    check_words_arrive(&ssh);
    check_words_arrive(&ssh);
    assert_eq!(scene.logins(), 1, "{}", scene.sshd.log());
    ssh.close();
}

#[test]
fn many_at_once_all_succeed() {
    testkit::require_sshd!();
    let scene = Scene::new();
    let ssh = scene.reusing();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| check_words_arrive(&ssh));
        }
    });
    ssh.close();
}

#[test]
fn no_connection_is_told_apart_from_a_program_that_fails() {
    testkit::require_sshd!();
    let scene = Scene::new();
    let remote = |line: &str| scene.plain().start(&RemoteCommand::shell(line)).unwrap().output(1000).unwrap();
    let failing = remote("echo reason >&2; exit 4");
    assert_eq!((failing.end, failing.stderr.as_str()), (End::Exit(4), "reason\n"));
    assert_eq!(remote("exec /nonexistent/program").end, End::Exit(127));

    let free_port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = Ssh::to_host(None, "127.0.0.1", Some(free_port)).unwrap();
    let refused = nobody.start(&RemoteCommand::new("true")).unwrap().output(1000).unwrap();
    assert_eq!(refused.end, End::Connection);
    assert!(refused.stderr.contains("refused"), "{}", refused.stderr);
}

#[test]
fn a_wrapper_around_ssh_works_without_reuse() {
    testkit::require_sshd!();
    let scene = Scene::new();
    let wrapper = scene.base.path().join("my wrapper");
    std::fs::write(&wrapper, format!("#!/bin/sh\nexec {} \"$@\"\n", scene.sshd.ssh_command())).unwrap();
    std::process::Command::new("chmod").arg("755").arg(&wrapper).status().unwrap();
    let directory = ControlDirectory::at(&scene.base.path().join("control")).unwrap();
    let ssh = Ssh::from_command(&format!("'{}'", wrapper.display())).unwrap();
    let ssh = ssh.reuse(&directory, Duration::from_secs(30));
    assert_eq!(ssh.control_socket(), None::<&Path>);
    check_words_arrive(&ssh);
}
