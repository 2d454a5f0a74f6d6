//! Finding the backup that a person means: by identifier, by name, or by a shortcut like `latest`.

use crate::{BackupId, BackupInfo, BackupType, Status};

/// Names that a backup can't be given, since they mean something else.
pub const RESERVED: [&str; 8] =
    ["latest", "last", "oldest", "first", "last-failed", "latest-full", "last-full", "auto"];

/// Why no backup is meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No backup has this identifier or name.
    #[error("Unknown backup '{text}' for server '{server}'")]
    Unknown {
        /// What was asked for.
        text: String,
        /// The server.
        server: String,
    },
    /// A shortcut for which there is no backup.
    #[error("server '{server}' has no backup that '{text}' could mean")]
    None {
        /// The shortcut.
        text: String,
        /// The server.
        server: String,
    },
    /// Several backups have this name.
    #[error("{count} backups of server '{server}' are named '{text}': use one's id")]
    Ambiguous {
        /// The name.
        text: String,
        /// The server.
        server: String,
        /// How many there are.
        count: usize,
    },
}

/// Whether a backup may be given this name: not empty, no shortcut, nothing that looks like an identifier.
pub fn is_free_name(name: &str) -> bool {
    !name.is_empty() && !RESERVED.contains(&name) && name.parse::<BackupId>().is_err()
}

/// Finds the backup that `text` means among a server's backups, given in ascending order of their identifiers.
///
/// An identifier finds any backup. A name must belong to exactly one usable backup. `latest` and `oldest` choose among
/// usable ones, `latest-full` among those that are neither increments nor snapshots.
///
/// # Errors
/// When there is none, or more than one by that name.
pub fn resolve<'a>(
    server: &str,
    backups: impl DoubleEndedIterator<Item = &'a BackupInfo> + Clone,
    text: &str,
) -> Result<BackupId, NameError> {
    let mut usable = backups.clone().filter(|backup| backup.status.is_usable());
    let (text, server) = (text.to_owned(), server.to_owned());
    let shortcut = match text.as_str() {
        "latest" | "last" => usable.next_back(),
        "oldest" | "first" => usable.next(),
        "latest-full" | "last-full" => {
            usable.rfind(|backup| matches!(backup.backup_type(), BackupType::Full | BackupType::Rsync))
        }
        "last-failed" => backups.clone().rfind(|backup| backup.status == Status::Failed),
        _ => {
            if let Ok(id) = text.parse::<BackupId>() {
                let known = backups.clone().any(|backup| backup.id == id);
                return if known { Ok(id) } else { Err(NameError::Unknown { text, server }) };
            }
            let named: Vec<BackupId> = usable
                .filter(|backup| backup.backup_name.as_deref() == Some(&text))
                .map(|backup| backup.id)
                .collect();
            return match named.as_slice() {
                [only] => Ok(*only),
                [] => Err(NameError::Unknown { text, server }),
                several => Err(NameError::Ambiguous { text, server, count: several.len() }),
            };
        }
    };
    shortcut.map(|backup| backup.id).ok_or(NameError::None { text, server })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup(hour: u32, status: Status, name: Option<&str>) -> BackupInfo {
        let id = format!("20260101T{hour:02}0000").parse().unwrap();
        BackupInfo { status, backup_name: name.map(str::to_owned), ..BackupInfo::new(id, "pg") }
    }

    fn home() -> Vec<BackupInfo> {
        let mut backups = vec![
            backup(0, Status::Failed, None),
            backup(1, Status::Done, Some("weekly")),
            backup(2, Status::Done, Some("twice")),
            backup(3, Status::WaitingForWals, Some("twice")),
            backup(4, Status::Done, Some("an increment")),
            backup(5, Status::Failed, Some("broken")),
            backup(6, Status::Started, None),
        ];
        backups[4].parent_backup_id = Some(backups[3].id);
        backups
    }

    #[track_caller]
    fn check(text: &str, hour: Option<u32>) {
        let backups = home();
        let found = resolve("pg", backups.iter(), text).ok();
        assert_eq!(
            found.map(|id| id.to_string()),
            hour.map(|hour| format!("20260101T{hour:02}0000")),
            "{text}"
        );
    }

    #[test]
    fn shortcuts_mean_usable_backups() {
        check("latest", Some(4));
        check("last", Some(4));
        check("oldest", Some(1));
        check("first", Some(1));
        check("latest-full", Some(3));
        check("last-full", Some(3));
        check("last-failed", Some(5));
        assert!(matches!(resolve("pg", [].iter(), "latest"), Err(NameError::None { .. })));
    }

    #[test]
    fn parts_of_a_shortcut_mean_nothing() {
        for text in ["", "st", "fail", "a", "last-fail", "LATEST", "auto"] {
            check(text, None);
        }
    }

    #[test]
    fn an_id_finds_any_backup() {
        check("20260101T060000", Some(6));
        check("20260101T000000", Some(0));
        check("20260101T070000", None);
    }

    #[test]
    fn a_name_must_belong_to_one_usable_backup() {
        check("weekly", Some(1));
        check("broken", None);
        let backups = home();
        let error = resolve("pg", backups.iter(), "twice").unwrap_err();
        assert_eq!(error.to_string(), "2 backups of server 'pg' are named 'twice': use one's id");
        assert_eq!(
            resolve("pg", backups.iter(), "x").unwrap_err().to_string(),
            "Unknown backup 'x' for server 'pg'"
        );
    }

    #[test]
    fn reserved_names_cannot_be_given() {
        for name in RESERVED.into_iter().chain(["", "20260101T060000"]) {
            assert!(!is_free_name(name), "{name}");
        }
        assert!(is_free_name("before the upgrade"));
    }
}
