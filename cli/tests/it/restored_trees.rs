//! What a restore leaves behind, file by file, so that two restores can be compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use barkeep_catalog::{BackupId, Layout};
use pgwal::{SegmentName, SegmentSize};

use crate::shared_home::{SharedHome, Tool};

/// A restored directory and its tablespace: each path with what is there.
pub(crate) type Tree = BTreeMap<String, Node>;

/// What is at a path. Of what the restore itself adds to the backup's files, mode and time are of no interest: Barman
/// leaves the mode to the umask, and barkeep takes the one that the server would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    Directory { mode: Option<u32> },
    File { mode: Option<u32>, modified: Option<SystemTime>, content: String },
    Link { to: String },
}

/// The oid of the tablespace that a furnished backup has.
const SPACE: u32 = 16_386;
/// Where it was.
const SPACE_LOCATION: &str = "/srv/pg/fast";

/// Gives a backup of a [`SharedHome`] files of many kinds, which differ from one backup to the next.
pub(crate) fn furnish(layout: &Layout, id: BackupId, number: u32) {
    let data = layout.backup_data(id);
    let page = |seed: u32| (0..8192_u32).map(|at| (at.wrapping_mul(seed) >> 3) as u8).collect::<Vec<u8>>();
    for directory in ["base/1", "base/5", "global", "pg_tblspc", "pg_wal", "pg_xact", "a b"] {
        fs::create_dir_all(data.join(directory)).unwrap();
    }
    let label = format!("LABEL: {id}\n");
    let files: [(&str, Vec<u8>); 9] = [
        ("base/1/2345", page(number)),
        ("base/5/1259", page(7)),
        ("base/5/empty", Vec::new()),
        ("global/pg_control", page(number + 1)),
        ("pg_xact/0000", page(3)),
        ("a b/it's \u{fc}", b"odd".to_vec()),
        ("backup_label", label.into_bytes()),
        ("postgresql.conf", b"port = 5432\narchive_command = 'cp %p /x/%f'\n#fsync = on\n".to_vec()),
        ("postgresql.auto.conf", b"# Do not edit\nwork_mem = '8MB'\nrecovery_target_xid = '9'\n".to_vec()),
    ];
    for (name, content) in files {
        fs::write(data.join(name), content).unwrap();
        fs::set_permissions(data.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let space = layout.backup_tablespace(id, SPACE).join("PG_15_202209061/5");
    fs::create_dir_all(&space).unwrap();
    fs::write(space.join("16400"), page(number + 2)).unwrap();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + u64::from(number));
    settle(&layout.backup(id), long_ago);
    let record = layout.backup_info(id);
    let text = fs::read_to_string(&record).unwrap();
    let spaces = format!("tablespaces=[('fast', {SPACE}, '{SPACE_LOCATION}')]");
    fs::write(record, text.replace("tablespaces=None", &spaces)).unwrap();
}

/// Restores a backup and tells what came of it; the files are removed again.
pub(crate) fn restore(home: &SharedHome, tool: Tool, id: BackupId, target: &[&str]) -> Tree {
    let place = home.new_dir("restored");
    let (to, space) = (place.join("data"), place.join("fast"));
    let moved = format!("fast:{}", space.display());
    let mut words = vec!["restore", "--tablespace", &moved];
    words.extend_from_slice(target);
    words.extend_from_slice(&["main", id.as_str(), to.to_str().unwrap()]);
    let begun = SystemTime::now() - Duration::from_secs(1);
    home.run(tool, &words).success();
    let mut tree = Tree::new();
    walk(&place, &place, begun, &mut tree);
    drop_wal_behind_a_gap(&mut tree);
    fs::remove_dir_all(&place).unwrap();
    tree
}

/// Forgets the WAL behind a gap, which no recovery gets to: Barman copies it, barkeep does not.
fn drop_wal_behind_a_gap(tree: &mut Tree) {
    let segments = tree.keys().filter_map(|path| path.strip_prefix("data/pg_wal/")?.parse().ok());
    let mut segments = segments.collect::<BTreeSet<SegmentName>>().into_iter().peekable();
    let mut behind = BTreeSet::new();
    while let Some(segment) = segments.next() {
        if segments.peek().is_some_and(|next| segment.next(SegmentSize::MIN) != Some(*next)) {
            behind.extend(segments.by_ref().map(|segment| segment.to_string()));
        }
    }
    tree.retain(|path, _| !behind.iter().any(|name| path.contains(name.as_str())));
}

/// Where two trees differ, and how.
pub(crate) fn differences(ours: &Tree, theirs: &Tree) -> Vec<String> {
    let paths: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let differs = |path: &&String| ours.get(*path) != theirs.get(*path);
    let told = |path: &String| format!("{path}: {:?}, not {:?}", ours.get(path), theirs.get(path));
    paths.into_iter().filter(differs).map(told).collect()
}

/// As in a backup: private, and from another time.
fn settle(directory: &Path, time: SystemTime) {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            settle(&path, time);
        } else {
            fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        }
    }
}

fn walk(root: &Path, directory: &Path, begun: SystemTime, tree: &mut Tree) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        // With WAL put elsewhere, Barman makes the directory for its marks there, and the server then its own.
        if name.ends_with("_wal/archive_status") && fs::read_dir(&path).unwrap().next().is_none() {
            continue;
        }
        let added = ["data/pg_wal/", "data/barman_wal"].iter().any(|place| name.starts_with(place))
            || ["/.barman-recover.info", ".origin", "/recovery.signal"].iter().any(|end| name.ends_with(end));
        let metadata = path.symlink_metadata().unwrap();
        let mode = (!added).then_some(metadata.mode() & 0o7777);
        let here = |text: &str| text.replace(root.to_str().unwrap(), "HERE");
        // Barman leaves an empty line before its settings, barkeep a comment; and barkeep names the WAL by a path that
        // goes on being right if the directory is moved.
        let said = |line: &&str| !line.is_empty() && !line.starts_with("# Added by barkeep");
        let settings = |text: &str| {
            let text = here(text).replace("HERE/data/barman_wal", "barman_wal");
            text.lines().filter(said).collect::<Vec<_>>().join("\n")
        };
        let node = if metadata.is_dir() {
            walk(root, &path, begun, tree);
            Node::Directory { mode }
        } else if metadata.is_symlink() {
            Node::Link { to: here(fs::read_link(&path).unwrap().to_str().unwrap()) }
        } else {
            let content = match String::from_utf8(fs::read(&path).unwrap()) {
                Ok(text) if name.ends_with(".conf") => settings(&text),
                Ok(text) => here(&text),
                Err(error) => format!("{} bytes, {:x}", error.as_bytes().len(), hash(error.as_bytes())),
            };
            let modified = metadata.modified().unwrap();
            Node::File { mode, modified: (!added && modified < begun).then_some(modified), content }
        };
        tree.insert(name, node);
    }
}

fn hash(bytes: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hasher as _};
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}
