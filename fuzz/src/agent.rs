//! Both ends of the agent's protocol against a peer that sends whatever it likes.

use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use barkeep_transport::agent::{AgentHost, AgentOptions, Confinement, serve};
use barkeep_transport::host::{
    Access, FileEnd, HashJob, Host, Inspectors, Known, ReadJob, ReadOptions, ReadSink,
};

/// How long to wait for threads that are about to end.
const THREAD_END_MAX: Duration = Duration::from_secs(5);

/// Holds what comes to what was asked for.
struct Strict(Vec<(u64, u64)>);

impl ReadSink for Strict {
    fn data(&mut self, job: usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (next, end) = &mut self.0[job];
        assert_eq!(*next, offset);
        *next += bytes.len() as u64;
        assert!(*next <= *end);
        Ok(())
    }

    fn same(&mut self, job: usize, offset: u64, length: u64) -> io::Result<()> {
        let (next, end) = &mut self.0[job];
        assert_eq!(*next, offset);
        *next += length;
        assert!(*next <= *end);
        Ok(())
    }

    fn end(&mut self, _job: usize, _outcome: io::Result<FileEnd>) -> io::Result<()> {
        Ok(())
    }
}

fn client(data: &[u8]) {
    let mut replies = b"\0barkeep-agent\r\n\x01\0\x01\0".to_vec();
    replies.extend_from_slice(data);
    let input = io::Cursor::new(replies);
    let Ok(host) = AgentHost::connect(input, io::sink(), AgentOptions::default()) else { return };
    let Ok(root) = host.open(Path::new("/"), Access::Read) else { return };
    let known = Known { block_bytes: 512, digests: vec![[0; 16]; 2] };
    let jobs = [
        ReadJob { root, path: "a".into(), offset: 0, length: 1000, known: Some(known) },
        ReadJob { root, path: "b".into(), offset: 5, length: 10, known: None },
    ];
    let _ = host.read(&jobs, &ReadOptions::default(), &mut Strict(vec![(0, 1000), (5, 15)]));
    let _ = host.walk(root, &[], &mut |entry| {
        assert!(entry.path.is_relative() && !entry.path.starts_with(".."));
        Ok(())
    });
    let hash = HashJob { root, path: "a".into(), offset: 0, length: 1024, block_bytes: 512 };
    if let Ok(hashed) = host.hash(&[hash]) {
        assert_eq!(hashed.len(), 1);
    }
    let _ = host.free_bytes(root);
}

struct Nowhere;

impl Write for Nowhere {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn agent(data: &[u8]) {
    let directory = Path::new("/nonexistent/barkeep-fuzz");
    let confinement = Confinement { read: vec![directory.into()], change: vec![directory.into()] };
    let hello = &b"\0barkeep-reads\r\n\x01\0\0\0"[..];
    let _ = serve(hello.chain(data), Nowhere, confinement, Inspectors::none());
}

/// How many threads this process has; `None` where that can't be told.
fn threads() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/task").ok()?.count())
}

/// Waits until there are no more threads than there were: LeakSanitizer takes for a leak what one frees at its very end, after
/// all that its scope or channel waits for. That makes it rare, not impossible; `leaks.txt` names the rest.
fn let_threads_end(before: Option<usize>) {
    let clock = Instant::now();
    while threads() > before && clock.elapsed() < THREAD_END_MAX {
        std::thread::yield_now();
    }
}

/// The first byte chooses the end.
pub fn run(data: &[u8]) {
    let before = threads();
    match data.split_first() {
        Some((0, rest)) => client(rest),
        Some((_, rest)) => agent(rest),
        None => {}
    }
    let_threads_end(before);
}
