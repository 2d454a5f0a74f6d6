//! What is at a place where a restore wants to go.

use std::io;
use std::path::Path;

use pgwal::WalFile;

use crate::copy::{Directory, Owner};

/// The file that marks a data directory as an unfinished restore.
pub const INCOMPLETE_MARKER: &str = ".barkeep-restore-incomplete";

/// How many names of a directory that isn't empty are told.
const FOUND_MAX: usize = 5;

/// What is at a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DestinationState {
    /// Nothing.
    Absent,
    /// A directory without any entry, hidden ones included.
    Empty,
    /// A directory with something in it.
    NotEmpty {
        /// The first names, in order; "and 12 more" ends a longer list.
        found: Vec<String>,
        /// Whether it is what a killed restore left.
        interrupted: bool,
        /// Whether it looks like what PostgreSQL or a restore makes: a data directory, a tablespace's location, WAL.
        postgres: bool,
    },
    /// Something else.
    NotADirectory,
}

/// Looks at a destination.
///
/// # Errors
/// When it is there but can't be read.
pub fn look_at(path: &Path) -> io::Result<DestinationState> {
    match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A link that leads nowhere is in the way too.
            let dangling = path.symlink_metadata().is_ok();
            return Ok(if dangling { DestinationState::NotADirectory } else { DestinationState::Absent });
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Ok(DestinationState::NotADirectory);
        }
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.is_dir() => return Ok(DestinationState::NotADirectory),
        Ok(_) => {}
    }
    state_of(&Directory::open(path)?)
}

pub(super) fn state_of(directory: &Directory) -> io::Result<DestinationState> {
    let names = directory.entries()?.into_iter().map(|entry| entry.name.to_string_lossy().into_owned());
    Ok(state_by_names(names.collect()))
}

/// What is in a directory, by the names in it.
pub(super) fn state_by_names(mut names: Vec<String>) -> DestinationState {
    if names.is_empty() {
        return DestinationState::Empty;
    }
    names.sort();
    let interrupted = names.iter().any(|name| name == INCOMPLETE_MARKER);
    let postgres = interrupted || is_postgres(&names);
    let more = names.len().saturating_sub(FOUND_MAX);
    names.truncate(FOUND_MAX);
    if more > 0 {
        names.push(format!("and {more} more"));
    }
    DestinationState::NotEmpty { found: names, interrupted, postgres }
}

fn is_postgres(names: &[String]) -> bool {
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    let data = has("PG_VERSION") && has("global") && has("base");
    // `PG_15_202209061`: the directory that a major version has in a tablespace.
    let tablespace = names.iter().any(|name| {
        name.strip_prefix("PG_").and_then(|rest| rest.split_once('_')).is_some_and(|(major, version)| {
            let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            number(major) && number(version)
        })
    });
    let wal = names.iter().all(|name| name.parse::<WalFile>().is_ok());
    data || tablespace || wal
}

/// Whom a restore run as root should give the files to: the owner of the destination, or of the nearest directory above
/// it that exists, since that is where the administrator said who lives there; where that is root too, the owner of
/// the backup. `None` when not run as root, or when everything is root's.
///
/// # Errors
/// When a directory can't be looked at.
pub fn owner_for(destination: &Path, backup_data: &Path) -> io::Result<Option<Owner>> {
    use std::os::unix::fs::MetadataExt;
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let nearest = destination.ancestors().find_map(|path| path.metadata().ok());
    for metadata in nearest.into_iter().chain([backup_data.metadata()?]) {
        if metadata.uid() != 0 {
            return Ok(Some(Owner { uid: metadata.uid(), gid: metadata.gid() }));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn look(path: &Path) -> DestinationState {
        look_at(path).unwrap()
    }

    #[test]
    fn hidden_files_and_dangling_links_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(look(&dir.path().join("absent")), DestinationState::Absent);
        assert_eq!(look(dir.path()), DestinationState::Empty);

        std::os::unix::fs::symlink("/nowhere", dir.path().join("link")).unwrap();
        assert_eq!(look(&dir.path().join("link")), DestinationState::NotADirectory);
        fs::write(dir.path().join(".hidden"), "").unwrap();
        assert_eq!(
            look(dir.path()),
            DestinationState::NotEmpty {
                found: vec![".hidden".into(), "link".into()],
                interrupted: false,
                postgres: false
            }
        );
        assert_eq!(look(&dir.path().join(".hidden")), DestinationState::NotADirectory);
        assert_eq!(look(&dir.path().join(".hidden/below")), DestinationState::NotADirectory);
    }

    #[test]
    fn long_lists_are_cut_and_unfinished_restores_known() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c", "d", "e", "f", INCOMPLETE_MARKER] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let DestinationState::NotEmpty { found, interrupted, postgres } = look(dir.path()) else { panic!() };
        assert!(interrupted && postgres);
        assert_eq!(found.last().map(String::as_str), Some("and 2 more"));
    }

    #[test]
    fn what_postgresql_makes_is_known() {
        let check = |names: &[&str], expected: bool| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(is_postgres(&names), expected, "{names:?}");
        };
        check(&["PG_VERSION", "base", "global", "server.crt"], true);
        check(&["PG_15_202209061", "lost+found"], true);
        check(&["00000002.history", "000000010000000000000002"], true);
        check(&["PG_VERSION", "base"], false);
        check(&["PG_15_", "PG_x_1", "home"], false);
        check(&["000000010000000000000002", "home"], false);
    }

    #[test]
    fn a_link_to_an_empty_directory_is_one() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("disk")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("disk"), dir.path().join("main")).unwrap();
        assert_eq!(look(&dir.path().join("main")), DestinationState::Empty);
    }

    #[test]
    fn files_restored_by_root_go_to_whoever_lives_there() {
        if !rustix::process::geteuid().is_root() {
            return assert_eq!(owner_for(Path::new("/"), Path::new("/")).unwrap(), None);
        }
        let dir = tempfile::tempdir().unwrap();
        let (home, backup) = (dir.path().join("home"), dir.path().join("backup"));
        fs::create_dir(&home).unwrap();
        fs::create_dir(&backup).unwrap();
        let owner = |path: &Path| owner_for(path, &backup).unwrap().map(|owner| (owner.uid, owner.gid));
        assert_eq!(owner(&home.join("a/b")), None);
        std::os::unix::fs::chown(&backup, Some(4242), Some(4343)).unwrap();
        assert_eq!(owner(&home.join("a/b")), Some((4242, 4343)));
        std::os::unix::fs::chown(&home, Some(4444), Some(4545)).unwrap();
        assert_eq!(owner(&home.join("a/b")), Some((4444, 4545)));
    }
}
