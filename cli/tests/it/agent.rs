//! `barkeep agent` as a process of its own, spoken to over its standard input and output.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use barkeep_transport::agent::{AgentHost, AgentOptions};
use barkeep_transport::conformance;
use barkeep_transport::host::{Access, Action, Change, Host, Owner};

use crate::support::{Run, barkeep};

fn start(arguments: &[&str]) -> (Child, AgentHost) {
    let mut command = Command::new(barkeep());
    command.arg("agent").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (input, output) = (child.stdout.take().unwrap(), child.stdin.take().unwrap());
    let host = AgentHost::connect(input, output, AgentOptions::default()).unwrap();
    (child, host)
}

#[test]
fn it_is_a_host_like_any_other_and_ends_with_its_client() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let (mut child, host) = start(&["--read", path, "--restore", path]);
    conformance::check(&host, dir.path());
    drop(host);
    assert!(child.wait().unwrap().success());
}

#[test]
fn it_opens_nothing_without_being_told() {
    let (mut child, host) = start(&[]);
    for access in [Access::Read, Access::Change] {
        let error = host.open(Path::new("/tmp"), access).unwrap_err().to_string();
        assert!(error.contains("was not started for"), "{error}");
    }
    drop(host);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_directory_to_restore_into_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let new = dir.path().join("it's a \"new\" one");
    let (_child, host) = start(&["--restore", new.to_str().unwrap()]);
    host.open(&new, Access::Change).unwrap();
    assert!(new.is_dir());
}

#[test]
fn without_a_client_it_ends_with_an_error() {
    let run = Run::of(Command::new(barkeep()).arg("agent").stdin(Stdio::null()));
    let run = run.exits_with(1);
    assert!(run.stderr.contains("the agent ends"), "{run:#?}");
    Run::of(Command::new(barkeep()).args(["agent", "--read", "relative"])).exits_with(2);
}

#[test]
fn started_for_a_backup_it_changes_nothing_whoever_asks() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    std::fs::write(dir.path().join("file"), "content").unwrap();
    let before = std::fs::metadata(dir.path().join("file")).unwrap();
    let (mut child, host) = start(&["--read", dir.path().to_str().unwrap()]);
    assert!(host.open(dir.path(), Access::Change).is_err());
    let root = host.open(dir.path(), Access::Read).unwrap();
    let owner = Some(Owner { uid: 1, gid: 1 });
    let to = || "other".into();
    let tried = [
        ("new", Action::CreateDirectory { mode: 0o777 }),
        ("new", Action::CreateFile { mode: 0o777 }),
        ("new", Action::SymbolicLink { target: "/etc/passwd".into() }),
        ("file", Action::Write { offset: 0, data: b"spoilt".to_vec() }),
        ("file", Action::Truncate { size: 0 }),
        ("file", Action::HardLink { to: to() }),
        ("file", Action::Rename { to: to() }),
        ("file", Action::SetMetadata { mode: Some(0o777), owner, modified_ns: Some(0) }),
        (".", Action::SetMetadata { mode: Some(0o777), owner: None, modified_ns: Some(0) }),
        ("file", Action::Lock),
        ("file", Action::RemoveFile),
        ("empty", Action::RemoveDirectory),
    ];
    let changes = tried.map(|(path, action)| Change { root, path: path.into(), action });
    for (change, outcome) in changes.iter().zip(host.change(&changes).unwrap()) {
        assert!(outcome.is_err(), "{change:?}");
    }
    let mut names: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|one| one.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["empty", "file"]);
    let after = std::fs::metadata(dir.path().join("file")).unwrap();
    assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), b"content");
    assert_eq!(
        (after.permissions(), after.modified().unwrap()),
        (before.permissions(), before.modified().unwrap())
    );
    drop(host);
    assert!(child.wait().unwrap().success());
}

/// A static build has all of it inside, and then runs on hosts of any Linux.
#[test]
fn it_needs_nothing_but_the_c_library() {
    let Ok(listed) = Command::new("ldd").arg(barkeep()).output() else { return };
    let parts = ["linux-vdso", "ld-linux", "libc.", "libm.", "libgcc_s.", "libpthread.", "libdl.", "librt."];
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        let known = parts.iter().any(|part| line.contains(part)) || line.contains("statically linked");
        assert!(known, "{line}");
    }
}
