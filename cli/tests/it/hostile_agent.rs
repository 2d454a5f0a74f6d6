//! Backups of a real server whose far end is not what it seems: it hands on what a real agent says, up to a point, and then
//! lies. Whatever it says, the backup ends with one plain error, in little memory, and nothing is written beside it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use testkit::{Cluster, TestDir};

use crate::support::{DATA_KIB_MAX, Home, Run, barkeep};

/// What each side says before its frames, in bytes.
const GREETING_BYTES: usize = 20;

/// What a request begins with, and a frame's kind.
const WALK: u8 = 2;
const READ: u8 = 3;
const PART: u8 = 16;
const DONE: u8 = 17;
const PONG: u8 = 19;

/// Answers a request by its number.
type Lie = fn(u32, &mut dyn Write) -> io::Result<()>;

/// What it is, what is said instead of a greeting, which requests are lied to and how, and what barkeep says.
type Case = (&'static str, Option<Vec<u8>>, u8, Lie, &'static str);

/// A far end that answers requests of one kind by itself.
struct Liar {
    dir: TestDir,
    data: PathBuf,
}

impl Liar {
    fn new(cluster: &Cluster) -> Self {
        let liar = Liar { dir: TestDir::new(), data: cluster.data_dir().to_owned() };
        let at = liar.dir.path().display();
        for pipe in ["asked", "told"] {
            assert!(Command::new("mkfifo").arg(liar.dir.join(pipe)).status().unwrap().success());
        }
        // Stands in for ssh: what it is to run at the far end is left unread.
        let script = format!("exec 3<&0\ncat <&3 >'{at}/asked' 3<&- &\nexec cat '{at}/told' 3<&-\n");
        liar.dir.write("far-end", script);
        liar
    }

    fn ssh_command(&self) -> String {
        format!("sh {}", self.dir.join("far-end").display())
    }

    /// Plays one session.
    fn play(&self, greeting: Option<&[u8]>, kind: u8, lie: Lie) -> io::Result<()> {
        let mut asked = File::open(self.dir.join("asked"))?;
        let told = Arc::new(Mutex::new(File::options().write(true).open(self.dir.join("told"))?));
        if let Some(greeting) = greeting {
            told.lock().unwrap().write_all(greeting)?;
            return asked.read_to_end(&mut Vec::new()).map(drop);
        }
        let mut agent = Agent::start(&self.data);
        let (mut to_agent, mut from_agent) = (agent.0.stdin.take().unwrap(), agent.0.stdout.take().unwrap());
        let mut hello = [0; GREETING_BYTES];
        from_agent.read_exact(&mut hello)?;
        told.lock().unwrap().write_all(&hello)?;
        asked.read_exact(&mut hello)?;
        to_agent.write_all(&hello)?;
        let honest = Arc::clone(&told);
        std::thread::spawn(move || {
            while let Ok(frame) = read_frame(&mut from_agent) {
                if honest.lock().unwrap().write_all(&frame).is_err() {
                    break;
                }
            }
        });
        while let Ok(frame) = read_frame(&mut asked) {
            let request = u32::from_le_bytes([frame[8], frame[9], frame[10], frame[11]]);
            match frame.get(12) == Some(&kind) && frame[4] == 1 {
                true => lie(request, &mut *told.lock().unwrap())?,
                false => to_agent.write_all(&frame)?,
            }
        }
        Ok(())
    }
}

/// A real agent; killed when dropped.
struct Agent(Child);

impl Agent {
    fn start(data: &Path) -> Self {
        let mut command = Command::new(barkeep());
        command.args(["agent", "--read"]).arg(data).stdin(Stdio::piped()).stdout(Stdio::piped());
        Agent(command.spawn().unwrap())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn read_frame(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 12];
    input.read_exact(&mut frame)?;
    let length = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
    frame.resize(12 + length, 0);
    input.read_exact(&mut frame[12..])?;
    Ok(frame)
}

fn frame(kind: u8, request: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [&length.to_le_bytes()[..], &[kind, 0, 0, 0], &request.to_le_bytes(), payload].concat()
}

/// An entry of a walk.
fn entry(path: &str, kind: u8, size: u64) -> Vec<u8> {
    let path_bytes = u32::try_from(path.len()).unwrap().to_le_bytes();
    let target = *b"/etc";
    [
        &path_bytes[..],
        path.as_bytes(),
        &[kind],
        &size.to_le_bytes(),
        &[0; 8],
        &0o600_u32.to_le_bytes(),
        &[0; 8],
        &1_u32.to_le_bytes(),
        &4_u32.to_le_bytes(),
        &target,
    ]
    .concat()
}

const FILE: u8 = 0;
const DIRECTORY: u8 = 1;
const LINK: u8 = 2;

/// A tree that is a cluster's, as far as can be seen, with something more in it.
fn walked(request: u32, to: &mut dyn Write, more: &[Vec<u8>]) -> io::Result<()> {
    let cluster = [entry("PG_VERSION", FILE, 3), entry("global", DIRECTORY, 0)];
    let control = [entry("global/pg_control", FILE, 8192)];
    let payload = [&cluster[..], &control, more].concat().concat();
    to.write_all(&frame(DONE, request, &payload))
}

fn for_ever(frame: &[u8], to: &mut dyn Write) -> io::Result<()> {
    loop {
        to.write_all(frame)?;
    }
}

/// All names beneath a directory.
fn list(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        found.push(entry.path());
        if entry.file_type().unwrap().is_dir() {
            list(&entry.path(), found);
        }
    }
}

#[test]
fn whatever_a_far_end_tells_the_backup_fails_plainly_and_nothing_is_written_beside_it() {
    testkit::require_pg!(15);
    let cluster = Cluster::builder(15).checksums(true).start();
    let liar = Liar::new(&cluster);
    let home = Home::new()
        .server("main", &cluster.conninfo())
        .with("main", "backup_method", "rsync")
        .with("main", "ssh_command", &liar.ssh_command())
        .with("main", "network_compression", "false");
    let greeting = |versions: [u8; 4]| [&b"Welcome!\r\n\0barkeep-agent\r\n"[..], &versions].concat();
    let broken = "breaks the agent's protocol";
    let cases: [Case; 14] = [
        ("a newer protocol", Some(greeting([7, 0, 9, 0])), 0, |_, _| Ok(()), "update the older"),
        ("no agent", Some(b"Welcome!\n".repeat(10_000)), 0, |_, _| Ok(()), "no agent"),
        ("asked for again and again", Some(b"\0barkeep-wants\r\n".repeat(2)), 0, |_, _| Ok(()), "no agent"),
        ("upwards", None, WALK, |n, to| walked(n, to, &[entry("../../../../evil", FILE, 1)]), broken),
        ("absolute", None, WALK, |n, to| walked(n, to, &[entry("/tmp/evil", FILE, 1)]), broken),
        (
            "beneath a link",
            None,
            WALK,
            |n, to| walked(n, to, &[entry("link", LINK, 1), entry("link/evil", FILE, 1)]),
            broken,
        ),
        ("twice", None, WALK, |n, to| walked(n, to, &[entry("x", FILE, 1), entry("x", FILE, 1)]), broken),
        (
            "larger than all disks",
            None,
            WALK,
            |n, to| walked(n, to, &[entry("x", FILE, u64::MAX), entry("y", FILE, u64::MAX)]),
            "larger files than a backup can hold",
        ),
        ("an answer byte by byte", None, WALK, |n, to| for_ever(&frame(PART, n, &[0]), to), broken),
        ("a long answer", None, WALK, |n, to| for_ever(&frame(PART, n, &[0; 1 << 20]), to), broken),
        ("signs of life", None, READ, |n, to| for_ever(&frame(PONG, n, &[]), to), broken),
        ("a frame of 4 GiB", None, READ, |_, to| to.write_all(&[0xff; 100]), broken),
        (
            "a file that nobody asked for",
            None,
            READ,
            // Data of the file with the number 99999.
            |n, to| {
                let data = [&[1][..], &99_999_u32.to_le_bytes(), &[0; 8], &1_u32.to_le_bytes(), b"x"];
                to.write_all(&frame(DONE, n, &data.concat()))
            },
            broken,
        ),
        ("an end in the middle", None, READ, |_, _| Err(io::ErrorKind::BrokenPipe.into()), "is lost"),
    ];
    for (what, greeting, kind, lie, said) in cases {
        let (liar, greeting) = (&liar, &greeting);
        let run = std::thread::scope(|scope| {
            // A far end that is hung up on ends with an error, and that is all. Where one speaks another version, an agent
            // of the right one is brought along: another session, and here the same lie.
            let sessions = if said.contains("older") { 2 } else { 1 };
            scope.spawn(move || {
                (0..sessions).for_each(|_| _ = liar.play(greeting.as_deref(), kind, lie));
            });
            Run::of(home.frugal_command(DATA_KIB_MAX).args(["backup", "main"]))
        });
        let run = run.exits_with(1);
        let errors: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("ERROR")).collect();
        assert!(errors.len() == 1 && errors[0].contains(said), "{what}: {run:#?}");
        let mut names = Vec::new();
        list(home.path(), &mut names);
        list(liar.dir.path(), &mut names);
        assert!(!names.iter().any(|path| path.ends_with("evil")), "{what}: {names:?}");
    }
    assert!(!Path::new("/tmp/evil").exists());
}
