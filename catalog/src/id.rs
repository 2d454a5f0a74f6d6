//! Backup identifiers: the second in which a backup started, on the clock of the backup host.

use std::fmt;
use std::str::FromStr;

use jiff::{Span, Zoned};

/// How many seconds ahead a free identifier is looked for when backups start in the same second.
const FREE_ID_TRIES: u32 = 3600;

/// A backup's identifier, `YYYYMMDDTHHMMSS` in local time. Identifiers order as their texts do, and that is the order
/// of a catalogue.
///
/// ```
/// use barkeep_catalog::BackupId;
/// let id: BackupId = "20261122T101555".parse()?;
/// assert!(id > "20261122T101539".parse()?);
/// assert!("latest".parse::<BackupId>().is_err());
/// # Ok::<(), barkeep_catalog::id::ParseBackupIdError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupId([u8; 15]);

impl BackupId {
    /// The identifier of a backup that starts at `now`, whose time zone is taken as the local one.
    pub fn at(now: &Zoned) -> Self {
        let text = format!(
            "{:04}{:02}{:02}T{:02}{:02}{:02}",
            now.year().clamp(0, 9999),
            now.month(),
            now.day(),
            now.hour(),
            now.minute(),
            now.second()
        );
        let mut id = [0; 15];
        // Always 15 bytes: every field above has its exact width.
        for (slot, byte) in id.iter_mut().zip(text.bytes()) {
            *slot = byte;
        }
        BackupId(id)
    }

    /// The identifier for a backup that starts at `now`: the first second from then on that `is_taken` does not know.
    /// `None` when an hour of them is taken, which means that `is_taken` is wrong.
    pub fn first_free(now: &Zoned, mut is_taken: impl FnMut(BackupId) -> bool) -> Option<Self> {
        let mut moment = now.clone();
        for _ in 0..FREE_ID_TRIES {
            let id = BackupId::at(&moment);
            if !is_taken(id) {
                return Some(id);
            }
            moment = moment.checked_add(Span::new().seconds(1)).ok()?;
        }
        None
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        // The bytes are ASCII by construction.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackupId({self})")
    }
}

/// A text that is not a backup identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a backup id: expected YYYYMMDDTHHMMSS")]
pub struct ParseBackupIdError {
    text: String,
}

impl FromStr for BackupId {
    type Err = ParseBackupIdError;

    /// Eight digits, `T`, six digits. Whether they are a date is not looked at: nor does Barman.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = |bytes: &[u8; 15]| {
            bytes
                .iter()
                .enumerate()
                .all(|(at, byte)| if at == 8 { *byte == b'T' } else { byte.is_ascii_digit() })
        };
        <[u8; 15]>::try_from(text.as_bytes())
            .ok()
            .filter(fits)
            .map(BackupId)
            .ok_or_else(|| ParseBackupIdError { text: text.chars().take(64).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn moment(text: &str) -> Zoned {
        text.parse().unwrap()
    }

    #[test]
    fn an_id_is_local_time() {
        let now = moment("2026-01-02T03:04:05.999+05:30[+05:30]");
        assert_eq!(BackupId::at(&now).as_str(), "20260102T030405");
    }

    #[test]
    fn backups_of_the_same_second_get_different_ids() {
        let now = moment("2026-12-31T23:59:58+00:00[UTC]");
        let mut taken = BTreeSet::new();
        for expected in ["20261231T235958", "20261231T235959", "20270101T000000"] {
            let id = BackupId::first_free(&now, |id| taken.contains(&id)).unwrap();
            assert_eq!(id.as_str(), expected);
            taken.insert(id);
        }
        assert_eq!(BackupId::first_free(&now, |_| true), None);
    }

    #[test]
    fn what_barman_does_not_take_for_an_id_is_none() {
        for text in [
            "",
            "latest",
            "20261122",
            "20261122T1015",
            "20261122t101555",
            "20261122T101555 ",
            "2026112xT101555",
        ] {
            assert!(text.parse::<BackupId>().is_err(), "{text:?}");
        }
    }
}
