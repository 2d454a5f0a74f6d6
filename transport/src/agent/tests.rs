use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use super::frame::FrameKind;
use super::*;
use crate::conformance::{self, Gather};
use crate::host::{Access, Host, HostError, Inspection, Inspector, Inspectors, ReadJob, ReadOptions, Reread};

/// An agent on a thread of its own, at the other end of two pipes.
fn start(
    confinement: Confinement,
    inspectors: Inspectors,
    options: AgentOptions,
) -> (AgentHost, JoinHandle<Result<(), AgentError>>) {
    let (agent_input, client_output) = std::io::pipe().unwrap();
    let (client_input, agent_output) = std::io::pipe().unwrap();
    let agent = std::thread::spawn(move || serve(agent_input, agent_output, confinement, inspectors));
    (AgentHost::connect(client_input, client_output, options).unwrap(), agent)
}

fn everything(dir: &Path) -> Confinement {
    Confinement { read: vec![dir.to_owned()], change: vec![dir.to_owned()] }
}

#[test]
fn an_agent_is_a_host() {
    for compression in [FrameCompression::Off, FrameCompression::Always(1), FrameCompression::WhereItHelps(1)]
    {
        let dir = tempfile::tempdir().unwrap();
        let (host, agent) = start(everything(dir.path()), Inspectors::none(), AgentOptions { compression });
        conformance::check(&host, dir.path());
        drop(host);
        agent.join().unwrap().unwrap();
    }
}

#[test]
fn this_machine_is_a_host() {
    let dir = tempfile::tempdir().unwrap();
    conformance::check(&crate::host::LocalHost::default(), dir.path());
}

#[test]
fn an_agent_opens_nothing_that_it_was_not_started_for() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["read", "restore", "other", "readable"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    std::os::unix::fs::symlink("../other", dir.path().join("read/link")).unwrap();
    let confinement =
        Confinement { read: vec![dir.path().join("read")], change: vec![dir.path().join("restore")] };
    let (host, agent) = start(confinement, Inspectors::none(), AgentOptions::default());
    assert!(host.open(&dir.path().join("read"), Access::Read).is_ok());
    assert!(host.open(&dir.path().join("restore"), Access::Change).is_ok());
    for (name, access) in [
        ("read", Access::Change),
        ("restore", Access::Read),
        ("other", Access::Read),
        ("readable", Access::Read),
        ("read/../other", Access::Read),
        ("read/link", Access::Read),
        ("missing", Access::Read),
    ] {
        assert!(host.open(&dir.path().join(name), access).is_err(), "{name}");
    }
    drop(host);
    agent.join().unwrap().unwrap();
}

#[test]
fn many_threads_share_a_connection() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), vec![7; 5 << 20]).unwrap();
    let (host, _agent) = start(everything(dir.path()), Inspectors::none(), AgentOptions::default());
    let root = host.open(dir.path(), Access::Read).unwrap();
    let total = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 * REQUESTS_MAX {
            scope.spawn(|| {
                let job = ReadJob { root, path: "file".into(), offset: 0, length: u64::MAX, known: None };
                let mut got = Gather::default();
                host.read(&[job], &ReadOptions::default(), &mut got).unwrap();
                total.fetch_add(got.sent, Ordering::Relaxed);
            });
        }
    });
    assert_eq!(total.into_inner(), 2 * REQUESTS_MAX as u64 * (5 << 20));
}

/// Counts sevens, and turns eights into sevens.
#[derive(Debug)]
struct Sevens(u64);

impl Inspector for Sevens {
    fn name(&self) -> &'static str {
        "sevens"
    }

    fn begin(&self, parameters: &[u8], path: &Path, _: u64) -> Result<Option<Box<dyn Inspection>>, String> {
        if parameters != b"please" {
            return Err("say please".to_owned());
        }
        Ok(path.starts_with("looked-at").then(|| Box::new(Sevens(0)) as Box<dyn Inspection>))
    }
}

impl Inspection for Sevens {
    fn look(&mut self, offset: u64, bytes: &mut [u8], reread: &mut Reread<'_>) -> std::io::Result<()> {
        let mut again = vec![0; bytes.len()];
        assert_eq!(reread(offset, &mut again)?, bytes.len());
        assert_eq!(again, bytes);
        bytes.iter_mut().filter(|byte| **byte == 8).for_each(|byte| *byte = 7);
        self.0 += bytes.iter().filter(|byte| **byte == 7).count() as u64;
        Ok(())
    }

    fn findings(self: Box<Self>) -> Vec<u8> {
        self.0.to_string().into_bytes()
    }
}

#[test]
fn inspectors_look_where_the_files_are() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("looked-at"), [7, 8, 9, 7]).unwrap();
    std::fs::write(dir.path().join("other"), [8]).unwrap();
    let inspectors = Inspectors::none().with(Sevens(0));
    let (host, _agent) = start(everything(dir.path()), inspectors, AgentOptions::default());
    let root = host.open(dir.path(), Access::Read).unwrap();
    let jobs = ["looked-at", "other"].map(|path| ReadJob {
        root,
        path: path.into(),
        offset: 0,
        length: 100,
        known: None,
    });
    let ask = |parameters: &[u8]| ReadOptions { inspector: Some(("sevens".to_owned(), parameters.to_vec())) };
    let mut got = Gather::default();
    host.read(&jobs, &ask(b"please"), &mut got).unwrap();
    assert_eq!(got.bytes[&0], [7, 7, 9, 7]);
    assert_eq!(got.bytes[&1], [8]);
    assert_eq!(got.ends[&0].as_ref().unwrap().findings, b"3");
    assert_eq!(got.ends[&1].as_ref().unwrap().findings, b"");
    let error = host.read(&jobs, &ask(b"now"), &mut got).unwrap_err();
    assert!(matches!(&error, HostError::Refused(text) if text.contains("say please")), "{error}");
}

#[test]
fn an_agent_that_dies_is_an_error_and_not_a_wait() {
    let (_keep, client_output) = std::io::pipe().unwrap();
    let (client_input, mut agent_output) = std::io::pipe().unwrap();
    let agent = std::thread::spawn(move || {
        agent_output.write_all(&hello()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
    });
    let host = AgentHost::connect(client_input, client_output, AgentOptions::default()).unwrap();
    let error = host.open(Path::new("/"), Access::Read).unwrap_err();
    assert!(error.is_lost(), "{error}");
    assert!(host.open(Path::new("/"), Access::Read).unwrap_err().is_lost(), "for good");
    agent.join().unwrap();
}

fn hello() -> Vec<u8> {
    [&b"\0barkeep-agent\r\n"[..], &OLDEST_VERSION.to_le_bytes(), &NEWEST_VERSION.to_le_bytes()].concat()
}

fn frame(kind: FrameKind, request: u32, payload: &[u8]) -> Vec<u8> {
    let output = frame::FrameOutput::new(Vec::new(), FrameCompression::Off);
    output.send(kind, request, payload).unwrap();
    output.with(std::mem::take)
}

/// What a client makes of an agent that answers its first request like this.
fn answered(replies: &[u8]) -> Result<usize, HostError> {
    let (agent_input, client_output) = std::io::pipe().unwrap();
    let (client_input, mut agent_output) = std::io::pipe().unwrap();
    let replies = replies.to_vec();
    let agent = std::thread::spawn(move || {
        agent_output.write_all(&hello()).unwrap();
        let mut input = agent_input;
        let mut head = [0; 24];
        input.read_exact(&mut head).unwrap();
        // A client that has given up reads no more.
        let _ = agent_output.write_all(&replies);
    });
    let host = AgentHost::connect(client_input, client_output, AgentOptions::default()).unwrap();
    let job =
        ReadJob { root: crate::host::Root(0), path: "file".into(), offset: 100, length: 1000, known: None };
    let mut got = Gather::default();
    let outcome = host.read(&[job], &ReadOptions::default(), &mut got);
    agent.join().unwrap();
    outcome.map(|()| got.bytes.get(&0).map_or(0, Vec::len))
}

#[test]
fn what_a_hostile_agent_sends_is_refused() {
    let data = |job: u32, offset: u64, bytes: &[u8]| {
        let mut out = wire::Encoder::default();
        message::encode_data(&mut out, job, offset, bytes);
        out.0
    };
    let end = |job: u32, bytes: u64| {
        let mut out = wire::Encoder::default();
        let end = crate::host::FileEnd { bytes, modified_ns: 0, findings: Vec::new() };
        message::encode_end(&mut out, job, &Ok(end));
        out.0
    };
    let same = |offset: u64, length: u64| {
        let mut out = wire::Encoder::default();
        message::encode_same(&mut out, 0, offset, length);
        out.0
    };
    let done = |parts: &[Vec<u8>]| frame(FrameKind::Done, 1, &parts.concat());
    assert_eq!(answered(&done(&[data(0, 100, b"good"), end(0, 4)])).unwrap(), 4);
    for (what, replies) in [
        ("another job", done(&[data(1, 100, b"x"), end(1, 1)])),
        ("another place", done(&[data(0, 99, b"x"), end(0, 1)])),
        ("a gap", done(&[data(0, 100, b"x"), data(0, 102, b"x"), end(0, 2)])),
        ("more than asked for", done(&[data(0, 100, &[0; 1001]), end(0, 1001)])),
        ("another count", done(&[data(0, 100, b"x"), end(0, 2)])),
        ("the same as nothing", done(&[same(100, 10), end(0, 10)])),
        ("no end", done(&[data(0, 100, b"x")])),
        ("two ends", done(&[end(0, 0), end(0, 0)])),
        ("rubbish", done(&[b"rubbish".to_vec()])),
        ("another request", frame(FrameKind::Part, 2, b"x")),
        ("a frame of a client", frame(FrameKind::Request, 1, b"x")),
        ("no frame", vec![0xff; 100]),
    ] {
        let error = answered(&replies).unwrap_err();
        assert!(matches!(error, HostError::Protocol(_)), "{what}: {error}");
    }
    let endless = frame(FrameKind::Part, 1, &data(0, 100, b"")).repeat(200_000);
    let full = frame(FrameKind::Part, 1, &vec![0; 1 << 20]).repeat(4);
    for replies in [endless, full] {
        assert!(answered(&replies).is_err());
    }
}

#[test]
fn a_hostile_client_ends_its_agent_and_nothing_else() {
    let hello = [&b"\0barkeep-reads\r\n"[..], &1_u16.to_le_bytes(), &[0, 0]].concat();
    let request = |number, payload: &[u8]| frame(FrameKind::Request, number, payload);
    let many: Vec<u8> = (0..2 * REQUESTS_MAX as u32).flat_map(|n| request(n, &[2, 0, 0, 0, 0])).collect();
    for (what, sent, fails) in [
        ("another greeting", b"SSH-2.0-nothing here at all".to_vec(), true),
        ("an unknown version", [&hello[..16], &9_u16.to_le_bytes(), &[0, 0]].concat(), true),
        ("rubbish for frames", [&hello[..], &[0xee; 64]].concat(), true),
        ("a rubbish request", [&hello[..], &request(1, b"rubbish")].concat(), false),
        ("an agent's frame", [&hello[..], &frame(FrameKind::Done, 1, b"")].concat(), true),
        ("credit for nothing", [&hello[..], &frame(FrameKind::Credit, 9, &[1, 0, 0, 0])].concat(), false),
        ("half a frame", [&hello[..], &request(1, b"rubbish")[..10]].concat(), true),
        ("very many requests", [&hello[..], &many].concat(), false),
    ] {
        let mut answers = Vec::new();
        let outcome = serve(&sent[..], &mut answers, Confinement::default(), Inspectors::none());
        // Whether that many are too many depends on how quickly they are done.
        assert!(outcome.is_err() == fails || what.starts_with("very many"), "{what}: {outcome:?}");
    }
}
