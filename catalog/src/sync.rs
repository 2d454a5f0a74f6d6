//! What another backup host, which copies this home, has not got yet of the archive (Barman's `sync-info`).
//!
//! It remembers the last name it was told and where in `xlog.db` that stood, in bytes. A list that was written anew
//! meanwhile has something else there: then the name alone counts. Names are compared as texts, as Barman does.

use crate::layout::Layout;
use crate::xlogdb::{self, WalEntry, XlogDbError};

/// Where a copying host has got to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// The last name that it was told.
    pub name: String,
    /// Where its line began, in bytes, if it knows.
    pub position: Option<u64>,
}

/// The part of the archive that a host asks for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Since {
    /// What it has not got yet, in the order of the list.
    pub entries: Vec<WalEntry>,
    /// The last name in the list, empty for an empty one.
    pub last_name: String,
    /// Where the last line begins, in bytes.
    pub last_position: u64,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// What came after the name it has got to may have been removed.
    #[error("last_wal '{asked}' is older than the first available wal '{first}'")]
    TooOld {
        /// What it has got to.
        asked: String,
        /// The first name in the list.
        first: String,
    },
    /// It has got further than this archive.
    #[error("last_wal '{asked}' is newer than the last available wal '{last}'")]
    TooNew {
        /// What it has got to.
        asked: String,
        /// The last name in the list.
        last: String,
    },
    /// The list can't be read.
    #[error(transparent)]
    List(#[from] XlogDbError),
}

/// What comes after what a host has `reached`, or else from the name `first` on.
///
/// # Errors
/// When the list can't be read, or has nothing to do with what the host has reached.
pub fn since(layout: &Layout, reached: Option<&Reached>, first: Option<&str>) -> Result<Since, SyncError> {
    since_in(&xlogdb::read_positions(layout)?, reached, first)
}

fn since_in(
    list: &[(u64, WalEntry)],
    reached: Option<&Reached>,
    first: Option<&str>,
) -> Result<Since, SyncError> {
    let named: Vec<(u64, String, &WalEntry)> =
        list.iter().map(|(position, entry)| (*position, entry.file.to_string(), entry)).collect();
    let Some((last_position, last_name, _)) = named.last().cloned() else {
        return Ok(Since::default());
    };
    let mut start = 0;
    if let Some(Reached { name: asked, position }) = reached {
        let is_there = |(at, name, _): &(u64, String, &WalEntry)| Some(*at) == *position && name == asked;
        start = named.iter().position(is_there).unwrap_or(0);
        let begins = named.first().map(|(_, name, _)| name.clone()).unwrap_or_default();
        if start == 0 && *asked < begins {
            return Err(SyncError::TooOld { asked: asked.clone(), first: begins });
        }
        if *asked > last_name {
            return Err(SyncError::TooNew { asked: asked.clone(), last: last_name });
        }
    }
    let is_wanted = |name: &str| match (reached, first) {
        (Some(reached), _) => name > reached.name.as_str(),
        (None, first) => first.is_none_or(|first| name >= first),
    };
    let wanted = named[start..].iter().filter(|(_, name, _)| is_wanted(name));
    let entries = wanted.map(|(_, _, entry)| (*entry).clone()).collect();
    Ok(Since { entries, last_name, last_position })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Segments of timeline 1, and where their lines begin.
    fn list(segments: &[u64]) -> Vec<(u64, WalEntry)> {
        let line = |(index, segment): (usize, &u64)| {
            let text = format!("00000001{segment:016X}\t16\t17.5\tNone\tNone");
            (index as u64 * 50, WalEntry::parse(&text).unwrap())
        };
        segments.iter().enumerate().map(line).collect()
    }

    /// What is told, by the last digit of each name.
    #[track_caller]
    fn check(reached: Option<(u64, Option<u64>)>, first: Option<u64>, told: Result<&[u64], &str>) {
        let name = |segment: u64| format!("00000001{segment:016X}");
        let reached = reached.map(|(segment, position)| Reached { name: name(segment), position });
        let first = first.map(name);
        let outcome = since_in(&list(&[2, 3, 5, 4, 6]), reached.as_ref(), first.as_deref());
        let outcome = outcome.map_err(|error| error.to_string());
        match (outcome, told) {
            (Ok(since), Ok(told)) => {
                let names: Vec<String> = since.entries.iter().map(|entry| entry.file.to_string()).collect();
                assert_eq!(names, told.iter().map(|segment| name(*segment)).collect::<Vec<_>>());
                assert_eq!((since.last_position, since.last_name), (200, name(6)));
            }
            (Err(error), Err(told)) => assert!(error.contains(told), "{error}"),
            (outcome, told) => panic!("{outcome:?}, not {told:?}"),
        }
    }

    #[test]
    fn a_host_is_told_what_it_has_not_got() {
        check(None, None, Ok(&[2, 3, 5, 4, 6]));
        check(None, Some(4), Ok(&[5, 4, 6]));
        check(Some((3, None)), Some(4), Ok(&[5, 4, 6]));
        check(Some((4, Some(150))), None, Ok(&[6]));
        // Without its place, or with a wrong one, the name alone counts.
        check(Some((4, None)), None, Ok(&[5, 6]));
        check(Some((4, Some(7))), None, Ok(&[5, 6]));
        check(Some((6, Some(200))), None, Ok(&[]));
        check(Some((1, None)), None, Err("older than the first"));
        check(Some((7, None)), None, Err("newer than the last"));
    }

    #[test]
    fn an_empty_list_is_begun_anew() {
        let reached = Reached { name: "000000010000000000000009".to_owned(), position: Some(10) };
        assert_eq!(since_in(&[], Some(&reached), None).unwrap(), Since::default());
    }
}
