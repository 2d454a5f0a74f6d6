//! What every [`Host`] has to do, as checks that each implementation runs.
//!
//! For tests: a check that fails panics. [`check`] runs them all in an empty directory.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::host::{
    Access, Action, Change, Entry, FileEnd, HashJob, Host, Kind, Known, PIECE_BYTES, ReadJob, ReadOptions,
    ReadSink, Root,
};

/// Runs every check on `host`, which may read and change the empty directory `dir`.
///
/// # Panics
/// When the host does not conform.
pub fn check(host: &dyn Host, dir: &Path) {
    let at = |name: &str| {
        let path = dir.join(name);
        fs::create_dir(&path).expect("an empty directory");
        path
    };
    walks_find_everything(host, &at("walk"));
    reads_give_the_bytes_asked_for(host, &at("read"));
    only_differences_are_sent(host, &at("known"));
    hashes_tell_blocks_apart(host, &at("hash"));
    changes_happen_in_order(host, &at("change"));
    nothing_outside_is_touched(host, &at("outside"));
}

/// Gathers what is read.
#[derive(Debug, Default)]
pub struct Gather {
    /// The bytes of each job, zeros where it was the same.
    pub bytes: BTreeMap<usize, Vec<u8>>,
    /// What became of each job.
    pub ends: BTreeMap<usize, io::Result<FileEnd>>,
    /// How many bytes came, rather than being the same.
    pub sent: u64,
}

impl ReadSink for Gather {
    fn data(&mut self, job: usize, _offset: u64, bytes: &[u8]) -> io::Result<()> {
        assert!(bytes.len() <= PIECE_BYTES && !self.ends.contains_key(&job));
        self.bytes.entry(job).or_default().extend_from_slice(bytes);
        self.sent += bytes.len() as u64;
        Ok(())
    }

    fn same(&mut self, job: usize, _offset: u64, length: u64) -> io::Result<()> {
        let bytes = self.bytes.entry(job).or_default();
        bytes.resize(bytes.len() + length as usize, 0);
        Ok(())
    }

    fn end(&mut self, job: usize, outcome: io::Result<FileEnd>) -> io::Result<()> {
        assert!(self.ends.insert(job, outcome).is_none());
        Ok(())
    }
}

fn open(host: &dyn Host, dir: &Path, access: Access) -> Root {
    host.open(dir, access).unwrap_or_else(|error| panic!("open {}: {error}", dir.display()))
}

fn job(root: Root, path: &str, offset: u64, length: u64) -> ReadJob {
    ReadJob { root, path: PathBuf::from(path), offset, length, known: None }
}

/// Bytes that tell where they belong.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 251 + at) as u8).collect()
}

fn walks_find_everything(host: &dyn Host, dir: &Path) {
    fs::create_dir_all(dir.join("tree/a/b/c")).unwrap();
    fs::create_dir_all(dir.join("tree/closed/inner")).unwrap();
    fs::create_dir(dir.join("elsewhere")).unwrap();
    fs::write(dir.join("elsewhere/far"), "far away").unwrap();
    fs::write(dir.join("tree/a/b/file with 'quotes' and \u{fc}"), "12345").unwrap();
    fs::set_permissions(dir.join("tree/a"), fs::Permissions::from_mode(0o750)).unwrap();
    symlink("../elsewhere", dir.join("tree/out")).unwrap();
    symlink("nowhere", dir.join("tree/dangling")).unwrap();
    symlink("..", dir.join("tree/a/round")).unwrap();
    for number in 0..3000 {
        fs::write(dir.join(format!("tree/a/b/c/{number}")), "x").unwrap();
    }
    let list = |access| {
        let root = open(host, &dir.join("tree"), access);
        let mut found: Vec<Entry> = Vec::new();
        let closed = [PathBuf::from("closed")];
        let mut keep = |entry| {
            found.push(entry);
            Ok(())
        };
        host.walk(root, &closed, &mut keep).unwrap();
        found
    };
    let find = |found: &[Entry], path: &str| found.iter().find(|e| e.path == Path::new(path)).cloned();

    let found = list(Access::Change);
    assert_eq!(found.iter().filter(|entry| entry.path.starts_with("a/b/c")).count(), 3001);
    let file = find(&found, "a/b/file with 'quotes' and \u{fc}").unwrap();
    let stat = fs::metadata(dir.join("tree").join(&file.path)).unwrap();
    assert_eq!((file.kind, file.size, file.owner.uid), (Kind::File, 5, stat.uid()));
    assert_eq!(file.modified_ns, stat.mtime() * 1_000_000_000 + stat.mtime_nsec());
    assert_eq!(find(&found, "a").unwrap().mode, 0o750);
    assert!(find(&found, "closed").is_some() && find(&found, "closed/inner").is_none());
    let link = find(&found, "out").unwrap();
    assert_eq!((link.kind, link.target.as_path()), (Kind::Link, Path::new("../elsewhere")));
    assert!(find(&found, "out/far").is_none(), "links are not followed where anything may be changed");
    let position = |path: &str| found.iter().position(|entry| entry.path == Path::new(path));
    assert!(position("a/b") < position("a/b/c/7"), "directories come first");

    let found = list(Access::Read);
    assert_eq!(find(&found, "out").unwrap().kind, Kind::Directory);
    assert_eq!(find(&found, "out/far").unwrap().size, 8);
    assert_eq!(find(&found, "dangling").unwrap().kind, Kind::Link);
    assert!(found.iter().all(|entry| !entry.path.starts_with("a/round/a")), "no running in circles");

    let root = open(host, &dir.join("tree"), Access::Read);
    let stopped = host.walk(root, &[], &mut |_| Err(io::Error::other("enough")));
    assert_eq!(stopped.unwrap_err().to_string(), "enough");
    assert_eq!(list(Access::Read).len(), found.len(), "the host is none the worse for it");
}

fn reads_give_the_bytes_asked_for(host: &dyn Host, dir: &Path) {
    let large = pattern(3 * PIECE_BYTES + 4567);
    fs::write(dir.join("large"), &large).unwrap();
    fs::write(dir.join("empty"), "").unwrap();
    fs::create_dir(dir.join("directory")).unwrap();
    for number in 0..500 {
        fs::write(dir.join(format!("small{number}")), pattern(number * 7)).unwrap();
    }
    let root = open(host, dir, Access::Read);
    let mut jobs = vec![
        job(root, "large", 0, u64::MAX),
        job(root, "missing", 0, 10),
        job(root, "directory", 0, 10),
        job(root, "large", 1_000_000, 100_000),
        job(root, "empty", 0, 100),
        job(root, "large", large.len() as u64 + 5, 10),
        job(root, "../read/large", 0, 10),
        job(root, "large", 5, 0),
        job(root, "large", u64::MAX - 1, u64::MAX),
    ];
    jobs.extend((0..500).map(|number| job(root, &format!("small{number}"), 0, 1 << 20)));
    let mut got = Gather::default();
    host.read(&jobs, &ReadOptions::default(), &mut got).unwrap();
    assert_eq!(got.bytes[&0], large);
    assert_eq!(got.ends[&0].as_ref().unwrap().bytes, large.len() as u64);
    assert_eq!(got.ends[&1].as_ref().unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(got.ends[&2].is_err() && got.ends[&6].is_err());
    assert_eq!(got.bytes[&3], large[1_000_000..1_100_000]);
    for nothing in [4, 5, 7] {
        assert_eq!(got.ends[&nothing].as_ref().unwrap().bytes, 0);
    }
    for number in 1..500 {
        assert_eq!(got.bytes[&(9 + number)], pattern(number * 7));
    }
    assert_eq!(got.ends.len(), jobs.len());

    let mut refusing = Refuse(RefCell::new(0));
    let error = host.read(&jobs, &ReadOptions::default(), &mut refusing).unwrap_err();
    assert_eq!(error.to_string(), "no room");
    let mut again = Gather::default();
    host.read(&jobs[..1], &ReadOptions::default(), &mut again).unwrap();
    assert_eq!(again.bytes[&0], large, "the host is none the worse for it");

    let unknown = ReadOptions { inspector: Some(("nobody".to_owned(), Vec::new())) };
    let error = host.read(&jobs[..1], &unknown, &mut Gather::default()).unwrap_err();
    assert!(error.to_string().contains("nobody"), "{error}");
}

/// Takes three pieces and no more.
struct Refuse(RefCell<u32>);

impl ReadSink for Refuse {
    fn data(&mut self, _job: usize, _offset: u64, _bytes: &[u8]) -> io::Result<()> {
        *self.0.get_mut() += 1;
        if *self.0.borrow() > 2 { Err(io::Error::other("no room")) } else { Ok(()) }
    }

    fn end(&mut self, _job: usize, _outcome: io::Result<FileEnd>) -> io::Result<()> {
        Ok(())
    }
}

fn only_differences_are_sent(host: &dyn Host, dir: &Path) {
    let old = pattern(2 * PIECE_BYTES + 10_000);
    let mut new = old.clone();
    for changed in [0, 700_000, 2 * PIECE_BYTES + 9_999] {
        new[changed] ^= 1;
    }
    new.extend_from_slice(b"and more");
    fs::write(dir.join("old"), &old).unwrap();
    fs::write(dir.join("new"), &new).unwrap();
    let root = open(host, dir, Access::Read);
    let block_bytes = 8192;
    let hash = HashJob { root, path: PathBuf::from("old"), offset: 0, length: u64::MAX >> 40, block_bytes };
    let hashed = host.hash(&[hash]).unwrap().remove(0).unwrap();
    let known = Some(Known { block_bytes, digests: hashed.digests });
    let mut got = Gather::default();
    let job = ReadJob { known, ..job(root, "new", 0, u64::MAX) };
    host.read(&[job], &ReadOptions::default(), &mut got).unwrap();
    assert_eq!(got.ends[&0].as_ref().unwrap().bytes, new.len() as u64);
    assert_eq!(got.bytes[&0].len(), new.len());
    let at = PIECE_BYTES * 2 / 8192 * 8192;
    assert_eq!(got.bytes[&0][at + 8192..], new[at + 8192..]);
    assert_eq!(got.bytes[&0][..8192], new[..8192]);
    assert!(got.sent <= 4 * 8192, "{} bytes were sent", got.sent);
}

fn hashes_tell_blocks_apart(host: &dyn Host, dir: &Path) {
    let mut bytes = vec![7; 100_000];
    fs::write(dir.join("file"), &bytes).unwrap();
    bytes[50_000] = 8;
    fs::write(dir.join("other"), &bytes).unwrap();
    let root = open(host, dir, Access::Read);
    let job = |path: &str, offset, length, block_bytes| HashJob {
        root,
        path: PathBuf::from(path),
        offset,
        length,
        block_bytes,
    };
    let jobs = [
        job("file", 0, 1 << 20, 8192),
        job("other", 0, 1 << 20, 8192),
        job("missing", 0, 1, 8192),
        job("file", 8192, 8192, 8192),
        job("file", 0, 1, 1),
        job("file", 0, u64::MAX, 8192),
    ];
    let hashed = host.hash(&jobs).unwrap();
    let [file, other, missing, part, odd, endless] = &hashed[..] else { panic!("one outcome a job") };
    let (file, other) = (file.as_ref().unwrap(), other.as_ref().unwrap());
    assert_eq!((file.bytes, file.digests.len()), (100_000, 13));
    let differ = file.digests.iter().zip(&other.digests).filter(|(a, b)| a != b).count();
    assert_eq!(differ, 1);
    assert_eq!(missing.as_ref().unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(part.as_ref().unwrap().digests, file.digests[1..2]);
    assert!(odd.is_err() && endless.is_err());
}

fn changes_happen_in_order(host: &dyn Host, dir: &Path) {
    let root = open(host, dir, Access::Change);
    let change = |path: &str, action| Change { root, path: PathBuf::from(path), action };
    let metadata =
        Action::SetMetadata { mode: Some(0o640), owner: None, modified_ns: Some(1_700_000_000_123_456_789) };
    let outcomes = host
        .change(&[
            change("d", Action::CreateDirectory { mode: 0o700 }),
            change("d/file", Action::CreateFile { mode: 0o600 }),
            change("d/file", Action::CreateFile { mode: 0o600 }),
            change("d/file", Action::Write { offset: 5, data: b"world".to_vec() }),
            change("d/file", Action::Write { offset: 0, data: b"hello".to_vec() }),
            change("d/file", Action::Truncate { size: 8 }),
            change("d/file", Action::Sync),
            change("d/file", Action::HardLink { to: PathBuf::from("d/second") }),
            change("d/file", Action::Rename { to: PathBuf::from("renamed") }),
            change("d/link", Action::SymbolicLink { target: PathBuf::from("/etc/passwd") }),
            change("renamed", metadata),
            change("d/second", Action::RemoveFile),
            change("d", Action::RemoveDirectory),
            change("d/link", Action::Write { offset: 0, data: b"never".to_vec() }),
            change("d/link", Action::RemoveFile),
            change("d", Action::Sync),
            change("d", Action::RemoveDirectory),
        ])
        .unwrap();
    let failed: Vec<usize> =
        outcomes.iter().enumerate().filter(|(_, outcome)| outcome.is_err()).map(|(index, _)| index).collect();
    assert_eq!(failed, [2, 12, 13], "{outcomes:?}");
    assert_eq!(outcomes[2].as_ref().unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    let stat = fs::metadata(dir.join("renamed")).unwrap();
    assert_eq!(fs::read(dir.join("renamed")).unwrap(), b"hellowor");
    assert_eq!((stat.mode() & 0o7777, stat.mtime(), stat.mtime_nsec()), (0o640, 1_700_000_000, 123_456_789));
    assert!(!dir.join("d").exists());
    assert!(host.free_bytes(root).unwrap() > 0);
    host.sync(root).unwrap();

    let metadata = Action::SetMetadata { mode: Some(0o750), owner: None, modified_ns: None };
    let itself = host.change(&[change(".", metadata), change(".", Action::Sync)]).unwrap();
    assert!(itself.iter().all(Result::is_ok), "{itself:?}");
    assert_eq!(fs::metadata(dir).unwrap().mode() & 0o777, 0o750);

    let lock = [change("renamed", Action::Lock)];
    assert!(host.change(&lock).unwrap()[0].is_ok());
    let again = host.change(&lock).unwrap().remove(0);
    assert_eq!(again.unwrap_err().kind(), io::ErrorKind::WouldBlock, "locked by another opening of it");

    let large: Vec<Change> = (0..8_u64)
        .map(|n| change("renamed", Action::Write { offset: n << 20, data: vec![n as u8; PIECE_BYTES] }))
        .collect();
    assert!(host.change(&large).unwrap().iter().all(Result::is_ok));
    assert_eq!(fs::metadata(dir.join("renamed")).unwrap().len(), 8 << 20);

    let readable = open(host, dir, Access::Read);
    let refused = Change { root: readable, ..change("new", Action::CreateFile { mode: 0o600 }) };
    assert!(host.change(&[refused]).unwrap()[0].is_err());
    assert!(!dir.join("new").exists(), "what is open for reading is not changed");
}

fn nothing_outside_is_touched(host: &dyn Host, dir: &Path) {
    fs::create_dir(dir.join("inside")).unwrap();
    fs::create_dir(dir.join("outside")).unwrap();
    fs::write(dir.join("outside/file"), "precious").unwrap();
    symlink("../outside", dir.join("inside/out")).unwrap();
    symlink("../outside/file", dir.join("inside/file")).unwrap();
    let root = open(host, &dir.join("inside"), Access::Change);
    let absolute = dir.join("outside/file");
    let paths =
        ["out/file", "file", "../outside/file", absolute.to_str().unwrap(), "", "./file", "out/../file"];
    for path in paths {
        let path = PathBuf::from(path);
        let change = |action| Change { root, path: path.clone(), action };
        let mut tried = vec![
            change(Action::Write { offset: 0, data: b"spoilt".to_vec() }),
            change(Action::Truncate { size: 0 }),
            change(Action::SetMetadata { mode: Some(0o777), owner: None, modified_ns: Some(0) }),
        ];
        if path != Path::new("file") {
            tried.push(change(Action::CreateFile { mode: 0o600 }));
            tried.push(change(Action::RemoveFile));
            tried.push(change(Action::Rename { to: PathBuf::from("gone") }));
            tried.push(Change {
                root,
                path: PathBuf::from("gone"),
                action: Action::Rename { to: path.clone() },
            });
        }
        for (change, outcome) in tried.iter().zip(host.change(&tried).unwrap()) {
            assert!(outcome.is_err(), "{change:?}");
        }
        let mut got = Gather::default();
        let read = ReadJob { root, path: path.clone(), offset: 0, length: 100, known: None };
        host.read(&[read], &ReadOptions::default(), &mut got).unwrap();
        assert!(got.ends[&0].is_err(), "{path:?}");
    }
    assert_eq!(fs::read(dir.join("outside/file")).unwrap(), b"precious");
    let mode = fs::metadata(dir.join("outside/file")).unwrap().mode();
    assert_ne!(mode & 0o777, 0o777);
}
