//! Agents that greet like any other, keep to the protocol for a while, and then lie.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::frame::{Frame, FrameKind, FrameOutput, read_frame};
use super::wire::Encoder;
use super::*;
use crate::conformance::Gather;
use crate::host::{
    Access, Action, Change, Digest, Entry, FileEnd, HashJob, Hashed, Host, HostError, Kind, Known, Owner,
    ReadJob, ReadOptions, Root,
};

/// How much a client reads at most before it sees that an agent lies, in bytes: what it gave credit for, and what is under
/// way in buffers. What it has not read takes no memory.
const READ_BYTES_MAX: u64 = 8 << 20;

/// What a client makes of an agent that sends `lies` once it is asked for something: the error, and the bytes that went
/// through until the client hung up.
fn told(
    ask: impl FnOnce(&AgentHost) -> Result<(), HostError>,
    lies: impl FnOnce(Frame, &mut dyn Write) -> std::io::Result<()> + Send + 'static,
) -> (HostError, u64) {
    let (mut agent_input, client_output) = std::io::pipe().unwrap();
    let (client_input, agent_output) = std::io::pipe().unwrap();
    let agent = std::thread::spawn(move || {
        let mut output = Counted(agent_output, 0);
        output.write_all(&[&AGENT_MAGIC[..], &[1, 0, 1, 0]].concat()).unwrap();
        let mut greeting = [0; 20];
        std::io::Read::read_exact(&mut agent_input, &mut greeting).unwrap();
        let asked = read_frame(&mut agent_input).unwrap().unwrap();
        // A client that has hung up is what all of them come to.
        let _ = lies(asked, &mut output);
        output.1
    });
    let host = AgentHost::connect(client_input, client_output, AgentOptions::default()).unwrap();
    let error = ask(&host).unwrap_err();
    drop(host);
    (error, agent.join().unwrap())
}

/// Counts what is written.
struct Counted<W>(W, u64);

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.0.write(bytes)?;
        self.1 += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

fn frame(kind: FrameKind, request: u32, payload: &[u8]) -> Vec<u8> {
    let output = FrameOutput::new(Vec::new(), FrameCompression::Off);
    output.send(kind, request, payload).unwrap();
    output.with(std::mem::take)
}

#[track_caller]
fn breaks_the_protocol(what: &str, (error, bytes): (HostError, u64)) {
    assert!(matches!(error, HostError::Protocol(_)), "{what}: {error}");
    assert!(bytes < READ_BYTES_MAX, "{what}: {bytes} bytes were read");
}

fn entry(path: &str, kind: Kind) -> Entry {
    Entry {
        path: PathBuf::from(path),
        kind,
        size: 1,
        modified_ns: 0,
        mode: 0o600,
        owner: Owner { uid: 0, gid: 0 },
        links: 1,
        target: PathBuf::from("/etc"),
    }
}

fn entries(entries: &[Entry]) -> Vec<u8> {
    let mut out = Encoder::default();
    entries.iter().for_each(|entry| message::encode_entry(&mut out, entry));
    out.0
}

/// Walks, and takes no more than so many entries.
fn walk(most: usize) -> impl FnOnce(&AgentHost) -> Result<(), HostError> {
    move |host| {
        let mut found = 0;
        host.walk(Root(0), &[PathBuf::from("closed")], &mut |entry| {
            assert!(entry.path.components().all(|name| matches!(name, std::path::Component::Normal(_))));
            found += 1;
            if found > most { Err(std::io::Error::other("enough")) } else { Ok(()) }
        })
    }
}

#[test]
fn a_walk_leads_nowhere_but_down() {
    use Kind::{Directory, File, Link};
    let long = "x/".repeat(3000);
    for (what, walked) in [
        ("upwards", vec![entry("../../etc/passwd", File)]),
        ("upwards in the middle", vec![entry("a", Directory), entry("a/../../b", File)]),
        ("an absolute path", vec![entry("/etc/passwd", File)]),
        ("a NUL", vec![entry("a\0b", File)]),
        ("no name", vec![entry("", File)]),
        ("the directory itself", vec![entry(".", Directory)]),
        ("a path that no system has", vec![entry(&long, File)]),
        ("twice the same", vec![entry("a", File), entry("a", File)]),
        ("a link where a directory was", vec![entry("a", Directory), entry("a", Link)]),
        ("beneath a link", vec![entry("a", Link), entry("a/b", File)]),
        ("beneath a file", vec![entry("a", File), entry("a/b", File)]),
        ("beneath nothing", vec![entry("a/b", File)]),
        ("beneath what is closed", vec![entry("closed", Directory), entry("closed/b", File)]),
    ] {
        let lies = entries(&walked);
        let answer = move |asked: Frame, to: &mut dyn Write| {
            to.write_all(&frame(FrameKind::Done, asked.request, &lies))
        };
        breaks_the_protocol(what, told(walk(usize::MAX), answer));
    }
    let mut unknown = entries(&[entry("a", File)]);
    unknown[5] = 9;
    let cut_off = entries(&[entry("a", File)])[..20].to_vec();
    for (what, lies) in [("an unknown kind", unknown), ("half an entry", cut_off)] {
        let answer = move |asked: Frame, to: &mut dyn Write| {
            to.write_all(&frame(FrameKind::Done, asked.request, &lies))
        };
        breaks_the_protocol(what, told(walk(usize::MAX), answer));
    }
}

/// A full part of a walk that never ends.
fn endless_part(number: u64) -> Vec<u8> {
    let names: Vec<Entry> =
        (0..4000).map(|index| entry(&format!("{number:016}-{index:05}"), Kind::File)).collect();
    entries(&names)
}

#[test]
fn what_never_ends_takes_no_memory_and_is_given_up() {
    let endless_walk = |asked: Frame, to: &mut dyn Write| {
        (0..).try_for_each(|n| to.write_all(&frame(FrameKind::Part, asked.request, &endless_part(n))))
    };
    // Whoever walks has a limit of its own; here, a small one.
    let (error, bytes) = told(walk(10_000), endless_walk);
    assert!(error.to_string() == "enough" || matches!(error, HostError::Protocol(_)), "{error}");
    assert!(bytes < READ_BYTES_MAX, "{bytes} bytes were read");

    let same_for_ever = |kind, payload: Vec<u8>| {
        move |asked: Frame, to: &mut dyn Write| {
            let request = if kind == FrameKind::Pong { u32::MAX } else { asked.request };
            let frame = frame(kind, request, &payload);
            loop {
                to.write_all(&frame)?;
            }
        }
    };
    let open = |host: &AgentHost| host.open(Path::new("/"), Access::Read).map(drop);
    for (what, kind, payload) in [
        ("an answer without an end", FrameKind::Part, vec![0; 300 << 10]),
        ("an answer in empty parts", FrameKind::Part, Vec::new()),
        ("an answer byte by byte", FrameKind::Part, vec![0]),
        ("signs of life that nobody asked for", FrameKind::Pong, Vec::new()),
        ("ends without an end", FrameKind::Done, vec![0; 4]),
    ] {
        let outcome = told(
            |host| {
                open(host)?;
                // What comes after a good answer is seen by whoever asks next.
                loop {
                    open(host)?;
                }
            },
            same_for_ever(kind, payload.clone()),
        );
        breaks_the_protocol(what, outcome);
    }
    let no_data = {
        let mut out = Encoder::default();
        message::encode_data(&mut out, 0, 0, b"");
        out.0
    };
    breaks_the_protocol("a file in no bytes", told(read, same_for_ever(FrameKind::Part, no_data)));
}

fn read(host: &AgentHost) -> Result<(), HostError> {
    let known = Known { block_bytes: 8192, digests: vec![[0; 16]; 2] };
    let job = |known| ReadJob { root: Root(0), path: "file".into(), offset: 0, length: 20_000, known };
    host.read(&[job(Some(known)), job(None)], &ReadOptions::default(), &mut Gather::default())
}

#[test]
fn a_file_has_no_more_than_was_asked_for() {
    let data = |job, offset, bytes: &[u8]| {
        let mut out = Encoder::default();
        message::encode_data(&mut out, job, offset, bytes);
        out.0
    };
    let same = |job, offset, length| {
        let mut out = Encoder::default();
        message::encode_same(&mut out, job, offset, length);
        out.0
    };
    let end = |job, bytes| {
        let mut out = Encoder::default();
        let end = FileEnd { bytes, modified_ns: 0, findings: Vec::new() };
        message::encode_end(&mut out, job, &Ok(end));
        out.0
    };
    for (what, lies) in [
        ("more bytes than asked for", vec![data(0, 0, &[0; 20_001])]),
        ("a range that nobody asked for", vec![data(0, 8192, &[0; 100])]),
        ("a file that nobody asked for", vec![data(7, 0, b"x")]),
        ("the second file first", vec![data(1, 0, b"x")]),
        ("the same as what nobody has", vec![same(0, 0, 20_000)]),
        ("the same as no whole block", vec![data(0, 0, &[0; 10]), same(0, 10, 8192)]),
        ("the same without anything known", vec![end(0, 0), same(1, 0, 8192)]),
        ("a length beyond all numbers", vec![data(0, 0, b"x"), same(0, 1, u64::MAX)]),
        ("an end that counts wrong", vec![data(0, 0, b"xy"), end(0, 3)]),
        ("a third file", vec![end(0, 0), end(1, 0), end(2, 0)]),
        ("one file too few", vec![end(0, 0)]),
        ("a length that lies", vec![[&[1][..], &[0; 12], &[0xff; 4], b"x"].concat()]),
    ] {
        let lies = lies.concat();
        let answer = move |asked: Frame, to: &mut dyn Write| {
            to.write_all(&frame(FrameKind::Done, asked.request, &lies))
        };
        breaks_the_protocol(what, told(read, answer));
    }
}

#[test]
fn hashes_and_outcomes_are_as_many_as_was_asked_for() {
    let hash = |host: &AgentHost| {
        let job =
            HashJob { root: Root(0), path: "file".into(), offset: 0, length: 10_000, block_bytes: 8192 };
        host.hash(&[job]).map(drop)
    };
    let hashed = |bytes, digests: usize| {
        let mut out = Encoder::default();
        let digests: Vec<Digest> = vec![[0; 16]; digests];
        message::encode_hashed(&mut out, &Ok(Hashed { bytes, digests }));
        out.0
    };
    let one = || hashed(10_000, 2);
    for (what, lies) in [
        ("too few digests", hashed(10_000, 1)),
        ("too many digests", hashed(10_000, 3)),
        ("digests of more than was asked for", hashed(20_000, 3)),
        ("one file too many", [one(), one()].concat()),
        ("no file", Vec::new()),
        ("a count that lies", [&[0][..], &[0; 8], &[0xff; 4]].concat()),
    ] {
        let answer = move |asked: Frame, to: &mut dyn Write| {
            to.write_all(&frame(FrameKind::Done, asked.request, &lies))
        };
        breaks_the_protocol(what, told(hash, answer));
    }
    let change = |host: &AgentHost| {
        let change = Change { root: Root(0), path: "file".into(), action: Action::Truncate { size: 0 } };
        host.change(&[change]).map(drop)
    };
    for (what, lies) in [("no outcome", &[][..]), ("two outcomes", &[0, 0]), ("neither good nor bad", &[2])] {
        let answer = move |asked: Frame, to: &mut dyn Write| {
            to.write_all(&frame(FrameKind::Done, asked.request, lies))
        };
        breaks_the_protocol(what, told(change, answer));
    }
    let sync = |host: &AgentHost| host.sync(Root(0));
    let answer =
        |asked: Frame, to: &mut dyn Write| to.write_all(&frame(FrameKind::Done, asked.request, b"well..."));
    breaks_the_protocol("words for nothing", told(sync, answer));
}

#[test]
fn frames_are_no_longer_than_frames_are() {
    let open = |host: &AgentHost| host.open(Path::new("/"), Access::Read).map(drop);
    let header = |length: u32, kind: FrameKind, flags| {
        [&length.to_le_bytes()[..], &[kind as u8, flags, 0, 0], &1_u32.to_le_bytes()].concat()
    };
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
    for (what, lies) in [
        ("a frame of 4 GiB", header(u32::MAX, FrameKind::Part, 0)),
        ("a frame that is a little too long", header(FRAME_BYTES_MAX as u32 + 1, FrameKind::Part, 0)),
        ("a bomb", [header(bomb.len() as u32, FrameKind::Part, 1), bomb].concat()),
        ("a question", frame(FrameKind::Request, 1, &[1])),
        ("an answer to nobody", frame(FrameKind::Part, 99, b"x")),
        ("no frame", vec![0xff; 64]),
    ] {
        let answer = move |_: Frame, to: &mut dyn Write| to.write_all(&lies);
        breaks_the_protocol(what, told(open, answer));
    }
}

#[test]
fn an_end_in_the_middle_is_a_loss() {
    let walked = frame(FrameKind::Part, 1, &entries(&[entry("a", Kind::File)]));
    for length in [0, 1, 12, walked.len() - 1, walked.len()] {
        let begun = walked[..length].to_vec();
        let answer = move |_: Frame, to: &mut dyn Write| to.write_all(&begun);
        let (error, _) = told(walk(10), answer);
        assert!(error.is_lost(), "{length}: {error}");
    }
}

#[test]
fn what_an_agent_says_of_an_error_is_words() {
    let failed = |kind: u8| {
        let mut out = Encoder::default();
        out.u8(kind);
        out.bytes(format!("\x1b]0;mine\x07\n{}", "very ".repeat(100_000)).as_bytes());
        out.0
    };
    for kind in [0, 1] {
        let answer = move |asked: Frame, to: &mut dyn Write| {
            to.write_all(&frame(FrameKind::Failed, asked.request, &failed(kind)))
        };
        let error = told(walk(10), answer).0.to_string();
        assert!(!error.chars().any(char::is_control), "{error}");
        assert!(error.contains("mine") && error.chars().count() < 2 * TEXT_CHARS_MAX, "{error}");
    }
}
