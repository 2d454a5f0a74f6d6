//! The memory of what was shipped ahead of being asked for.
//!
//! An entry is believed only while the file is the very same: same inode, size and times, or else the same SHA-256. So a
//! cluster made anew with the same names, a recycled segment, another timeline or another cluster are never mistaken for
//! what was acknowledged. The memory may be lost at any time: the file is then shipped again, which changes nothing.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use barkeep_transport::durable;
use barkeep_transport::private::{PrivateDirectory, UnsafeDirectory};
use sha2::{Digest as _, Sha256};

use super::parcel::{Identity, Parcel};
use super::ship::hex;

/// The first line.
const HEADER: &str = "barkeep shipped 1";
/// How long an entry is believed, in seconds. The server asks for the next file within milliseconds; what it asks for
/// much later is shipped again, in case somebody has done something to the backup host meanwhile.
const AGE_SECONDS_MAX: u64 = 600;
/// The largest memory that is read, in bytes.
const MEMORY_BYTES_MAX: u64 = 1 << 20;

/// The memory for one destination and one directory of WAL.
#[derive(Debug)]
pub(super) struct Shipped {
    path: PathBuf,
}

/// A file that the far end has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    name: String,
    identity: Identity,
    sha256: Option<String>,
    unix_seconds: u64,
}

impl Shipped {
    /// The memory for a destination (any text that names it) and the directory that `wal_path` lies in; in `directory`, or
    /// in the user's own.
    pub(super) fn open(
        directory: Option<&Path>,
        env: impl Fn(&str) -> Option<OsString>,
        destination: &str,
        wal_path: &Path,
    ) -> Result<Self, UnsafeDirectory> {
        let directory = match directory {
            Some(path) => {
                let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
                PrivateDirectory::at(&absolute)?
            }
            None => PrivateDirectory::find(env, |_| Ok(()))?,
        };
        let mut hash = Sha256::new();
        hash.update(destination);
        // A directory made anew is another one, even under the same name.
        if let Ok(metadata) = wal_path.parent().unwrap_or(wal_path).metadata() {
            hash.update(metadata.dev().to_le_bytes());
            hash.update(metadata.ino().to_le_bytes());
        }
        let name = format!("shipped-{}", hex(&hash.finalize()[..16]));
        Ok(Shipped { path: directory.path().join(name) })
    }

    /// Whether this very file has been acknowledged lately.
    pub(super) fn has(&self, parcel: &mut Parcel, now_unix_seconds: u64) -> bool {
        let name = parcel.file.to_string();
        let Some(entry) = self.read().into_iter().find(|entry| entry.name == name) else { return false };
        let age = now_unix_seconds.checked_sub(entry.unix_seconds);
        if age.is_none_or(|age| age > AGE_SECONDS_MAX) || entry.identity.size != parcel.size() {
            return false;
        }
        entry.identity == parcel.identity
            || entry.sha256.is_some_and(|known| parcel.sha256().is_ok_and(|found| hex(&found) == known))
    }

    /// Remembers what was acknowledged, instead of what was before.
    pub(super) fn remember<'p>(
        &self,
        parcels: impl IntoIterator<Item = (&'p Parcel, Option<[u8; 32]>)>,
        now_unix_seconds: u64,
    ) -> Result<(), durable::DurableError> {
        let entries = parcels.into_iter().map(|(parcel, hash)| Entry {
            name: parcel.file.to_string(),
            identity: parcel.identity,
            sha256: hash.map(|hash| hex(&hash)),
            unix_seconds: now_unix_seconds,
        });
        durable::write(&self.path, render(entries).as_bytes())
    }

    fn read(&self) -> Vec<Entry> {
        let mut text = String::new();
        let read = std::fs::File::open(&self.path)
            .and_then(|file| file.take(MEMORY_BYTES_MAX).read_to_string(&mut text));
        read.ok().and_then(|_| parse(&text)).unwrap_or_default()
    }
}

fn render(entries: impl Iterator<Item = Entry>) -> String {
    let mut text = format!("{HEADER}\n");
    let mut count = 0;
    for Entry { name, identity, sha256, unix_seconds } in entries {
        let Identity { device, inode, size, modified_nanoseconds, changed_nanoseconds } = identity;
        let _ = writeln!(
            text,
            "{name} {device} {inode} {size} {modified_nanoseconds} {changed_nanoseconds} {unix_seconds} {}",
            sha256.as_deref().unwrap_or("-")
        );
        count += 1;
    }
    let _ = writeln!(text, "end {count}");
    text
}

/// Nothing, unless it is whole.
fn parse(text: &str) -> Option<Vec<Entry>> {
    let mut lines = text.strip_suffix('\n')?.lines();
    lines.next().filter(|line| *line == HEADER)?;
    let mut entries = Vec::new();
    for line in lines.by_ref() {
        if let Some(count) = line.strip_prefix("end ") {
            return (count.parse() == Ok(entries.len()) && lines.next().is_none()).then_some(entries);
        }
        let mut words = line.split(' ');
        entries.push(Entry {
            name: words.next()?.to_owned(),
            identity: Identity {
                device: words.next()?.parse().ok()?,
                inode: words.next()?.parse().ok()?,
                size: words.next()?.parse().ok()?,
                modified_nanoseconds: words.next()?.parse().ok()?,
                changed_nanoseconds: words.next()?.parse().ok()?,
            },
            unix_seconds: words.next()?.parse().ok()?,
            sha256: Some(words.next()?).filter(|hash| *hash != "-").map(str::to_owned),
        });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const NAME: &str = "000000010000000000000007";

    struct Scene {
        directory: tempfile::TempDir,
    }

    impl Scene {
        fn new() -> Self {
            let scene = Scene { directory: tempfile::tempdir().unwrap() };
            fs::create_dir(scene.wal()).unwrap();
            fs::write(scene.wal().join(NAME), vec![7; 100_000]).unwrap();
            scene
        }

        fn wal(&self) -> PathBuf {
            self.directory.path().join("pg_wal")
        }

        fn parcel(&self) -> Parcel {
            Parcel::open(&self.wal().join(NAME)).unwrap()
        }

        fn memory(&self, destination: &str) -> Shipped {
            let cache = self.directory.path().join("cache");
            Shipped::open(Some(&cache), |_| None, destination, &self.wal().join(NAME)).unwrap()
        }

        fn remembered(&self) -> Shipped {
            let memory = self.memory("host main");
            let mut parcel = self.parcel();
            let hash = parcel.sha256().unwrap();
            memory.remember([(&parcel, Some(hash))], 1000).unwrap();
            memory
        }
    }

    #[test]
    fn the_very_same_file_is_known_for_a_while() {
        let scene = Scene::new();
        assert!(!scene.memory("host main").has(&mut scene.parcel(), 1000));
        let memory = scene.remembered();
        assert!(memory.has(&mut scene.parcel(), 1000) && memory.has(&mut scene.parcel(), 1600));
        assert!(!memory.has(&mut scene.parcel(), 1601), "too old");
        assert!(!memory.has(&mut scene.parcel(), 999), "from the future");
        assert!(!scene.memory("host other").has(&mut scene.parcel(), 1000), "shipped to somebody else");
    }

    #[test]
    fn a_copy_is_known_by_its_content() {
        let scene = Scene::new();
        let memory = scene.remembered();
        let path = scene.wal().join(NAME);
        fs::write(path.with_extension("copy"), fs::read(&path).unwrap()).unwrap();
        fs::rename(path.with_extension("copy"), &path).unwrap();
        assert!(memory.has(&mut scene.parcel(), 1000));
    }

    #[test]
    fn other_content_under_the_same_name_is_not_known() {
        let scene = Scene::new();
        let memory = scene.remembered();
        fs::write(scene.wal().join(NAME), vec![8; 100_000]).unwrap();
        assert!(!memory.has(&mut scene.parcel(), 1000));
    }

    #[test]
    fn a_directory_made_anew_knows_nothing() {
        let scene = Scene::new();
        drop(scene.remembered());
        fs::rename(scene.wal(), scene.directory.path().join("old")).unwrap();
        fs::create_dir(scene.wal()).unwrap();
        fs::copy(scene.directory.path().join("old").join(NAME), scene.wal().join(NAME)).unwrap();
        assert!(!scene.memory("host main").has(&mut scene.parcel(), 1000));
    }

    #[test]
    fn a_torn_or_strange_memory_is_none() {
        let scene = Scene::new();
        let memory = scene.remembered();
        let whole = fs::read_to_string(&memory.path).unwrap();
        assert_eq!(parse(&whole).unwrap().len(), 1);
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), None, "cut to {length}");
        }
        for strange in ["", "x", "barkeep shipped 2\nend 0\n", "barkeep shipped 1\na b c\nend 1\n"] {
            fs::write(&memory.path, strange).unwrap();
            assert!(!memory.has(&mut scene.parcel(), 1000));
        }
    }
}
