//! `barkeep agent` as a process of its own, spoken to over its standard input and output.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use barkeep_transport::agent::{AgentHost, AgentOptions};
use barkeep_transport::conformance;
use barkeep_transport::host::{Access, Host};

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
