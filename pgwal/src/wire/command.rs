//! The texts of replication commands, quoted for the replication grammar (`repl_scanner.l`, `repl_gram.y`).
//!
//! That grammar is not SQL's: a backslash is an ordinary character everywhere, and quotes are doubled.

use std::fmt::Write;

use crate::{Lsn, TimelineId};

use super::BackupDialect;

/// The most characters in a replication slot's name (`NAMEDATALEN` - 1).
pub const SLOT_NAME_LEN_MAX: usize = 63;
/// The most characters in a backup label (`MAXPGPATH` - 1).
pub const LABEL_LEN_MAX: usize = 1023;
/// The smallest MAX_RATE, in KiB per second (`MAX_RATE_LOWER`).
pub const MAX_RATE_KIB_MIN: u32 = 32;
/// The largest MAX_RATE, in KiB per second (`MAX_RATE_UPPER`).
pub const MAX_RATE_KIB_MAX: u32 = 1_048_576;

/// A text that a command cannot carry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// Not a name that PostgreSQL would accept for a slot.
    #[error(
        "{name:?} is not a replication slot name: 1 to 63 lower-case letters, digits and underscores are allowed"
    )]
    SlotName {
        /// The name, shortened.
        name: String,
    },
    /// Not a name of a setting.
    #[error("{name:?} is not the name of a setting")]
    SettingName {
        /// The name, shortened.
        name: String,
    },
    /// A backup label with control characters, or too long.
    #[error(
        "{label:?} cannot be a backup label: it is longer than 1023 bytes or contains control characters"
    )]
    Label {
        /// The label, shortened.
        label: String,
    },
    /// A transfer rate that PostgreSQL refuses.
    #[error("a transfer rate of {rate_kib} KiB/s is not possible: PostgreSQL accepts 32 to 1048576")]
    MaxRate {
        /// The rate, in KiB per second.
        rate_kib: u32,
    },
}

/// What START_REPLICATION PHYSICAL needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartPhysical {
    /// The slot to use, if any.
    pub slot: Option<String>,
    /// Where to begin: should be the first byte of a segment.
    pub start: Lsn,
    /// The timeline that holds `start`.
    pub timeline: TimelineId,
}

impl StartPhysical {
    /// The command.
    ///
    /// # Errors
    /// [`CommandError::SlotName`].
    pub fn command(&self) -> Result<String, CommandError> {
        let slot = match &self.slot {
            Some(slot) => format!("SLOT {} ", quote_slot(slot)?),
            None => String::new(),
        };
        Ok(format!("START_REPLICATION {slot}PHYSICAL {} TIMELINE {}", self.start, self.timeline))
    }
}

/// The checksum of each file in a backup's manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ManifestChecksum {
    /// No checksums.
    None,
    /// PostgreSQL's default: detects accidents, not attacks.
    #[default]
    Crc32c,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl ManifestChecksum {
    /// The name in commands and manifests.
    pub const fn as_str(self) -> &'static str {
        match self {
            ManifestChecksum::None => "NONE",
            ManifestChecksum::Crc32c => "CRC32C",
            ManifestChecksum::Sha224 => "SHA224",
            ManifestChecksum::Sha256 => "SHA256",
            ManifestChecksum::Sha384 => "SHA384",
            ManifestChecksum::Sha512 => "SHA512",
        }
    }
}

/// What BASE_BACKUP can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseBackupOptions {
    /// What `backup_label` says.
    pub label: String,
    /// Checkpoint at once rather than spread out.
    pub fast_checkpoint: bool,
    /// Announce sizes, and from 15 on send progress.
    pub progress: bool,
    /// An upper bound for the transfer, in KiB per second.
    pub max_rate_kib: Option<u32>,
    /// Send `backup_manifest` with these checksums; `None` sends none at all.
    pub manifest: Option<ManifestChecksum>,
    /// Wait until the server has archived the backup's last WAL; only of use with `archive_mode`.
    pub wait_wal: bool,
    /// Append the WAL the backup needs to the main archive.
    pub include_wal: bool,
    /// Send `tablespace_map` instead of symbolic links in `pg_tblspc`.
    pub tablespace_map: bool,
    /// Have the server verify page checksums while it reads.
    pub verify_checksums: bool,
}

impl Default for BaseBackupOptions {
    fn default() -> Self {
        BaseBackupOptions {
            label: "base backup".to_owned(),
            fast_checkpoint: false,
            progress: true,
            max_rate_kib: None,
            manifest: Some(ManifestChecksum::Crc32c),
            wait_wal: false,
            include_wal: false,
            tablespace_map: false,
            verify_checksums: true,
        }
    }
}

impl BaseBackupOptions {
    /// The command, in the grammar of the server's version.
    ///
    /// # Errors
    /// [`CommandError::Label`], [`CommandError::MaxRate`].
    pub fn command(&self, dialect: BackupDialect) -> Result<String, CommandError> {
        if let Some(rate_kib) = self.max_rate_kib
            && !(MAX_RATE_KIB_MIN..=MAX_RATE_KIB_MAX).contains(&rate_kib)
        {
            return Err(CommandError::MaxRate { rate_kib });
        }
        let label = quote_label(&self.label)?;
        let words = match dialect {
            BackupDialect::PerArchive => self.plain_words(),
            BackupDialect::SingleStream => self.parenthesised_words(),
        };
        let mut options = vec![format!("LABEL {label}")];
        options.extend(words);
        Ok(match dialect {
            BackupDialect::PerArchive => format!("BASE_BACKUP {}", options.join(" ")),
            BackupDialect::SingleStream => format!("BASE_BACKUP ({})", options.join(", ")),
        })
    }

    /// PostgreSQL 13 and 14: flags by their presence.
    fn plain_words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut flag = |wanted: bool, word: &str| {
            if wanted {
                words.push(word.to_owned());
            }
        };
        flag(self.progress, "PROGRESS");
        flag(self.fast_checkpoint, "FAST");
        flag(self.include_wal, "WAL");
        flag(!self.wait_wal, "NOWAIT");
        flag(self.tablespace_map, "TABLESPACE_MAP");
        flag(!self.verify_checksums, "NOVERIFY_CHECKSUMS");
        if let Some(rate_kib) = self.max_rate_kib {
            words.push(format!("MAX_RATE {rate_kib}"));
        }
        if let Some(checksum) = self.manifest {
            words.push(format!("MANIFEST 'yes' MANIFEST_CHECKSUMS '{}'", checksum.as_str()));
        }
        words
    }

    /// PostgreSQL 15 and later: `name value` in parentheses.
    fn parenthesised_words(&self) -> Vec<String> {
        let checkpoint = if self.fast_checkpoint { "fast" } else { "spread" };
        let mut words = vec![
            format!("PROGRESS {}", self.progress),
            format!("CHECKPOINT '{checkpoint}'"),
            format!("WAL {}", self.include_wal),
            format!("WAIT {}", self.wait_wal),
            format!("TABLESPACE_MAP {}", self.tablespace_map),
            format!("VERIFY_CHECKSUMS {}", self.verify_checksums),
        ];
        if let Some(rate_kib) = self.max_rate_kib {
            words.push(format!("MAX_RATE {rate_kib}"));
        }
        match self.manifest {
            Some(checksum) => {
                words.push("MANIFEST 'yes'".to_owned());
                words.push(format!("MANIFEST_CHECKSUMS '{}'", checksum.as_str()));
            }
            None => words.push("MANIFEST 'no'".to_owned()),
        }
        words
    }
}

/// `CREATE_REPLICATION_SLOT ... PHYSICAL`.
///
/// # Errors
/// [`CommandError::SlotName`].
pub fn create_physical_slot(name: &str, reserve_wal: bool) -> Result<String, CommandError> {
    let mut command = format!("CREATE_REPLICATION_SLOT {} PHYSICAL", quote_slot(name)?);
    if reserve_wal {
        command.push_str(" RESERVE_WAL");
    }
    Ok(command)
}

/// `READ_REPLICATION_SLOT` (PostgreSQL 15 and later).
///
/// # Errors
/// [`CommandError::SlotName`].
pub fn read_slot(name: &str) -> Result<String, CommandError> {
    Ok(format!("READ_REPLICATION_SLOT {}", quote_slot(name)?))
}

/// `DROP_REPLICATION_SLOT`.
///
/// # Errors
/// [`CommandError::SlotName`].
pub fn drop_slot(name: &str) -> Result<String, CommandError> {
    Ok(format!("DROP_REPLICATION_SLOT {}", quote_slot(name)?))
}

/// `TIMELINE_HISTORY`.
pub fn timeline_history(timeline: TimelineId) -> String {
    format!("TIMELINE_HISTORY {timeline}")
}

/// `SHOW` of a setting.
///
/// # Errors
/// [`CommandError::SettingName`].
pub fn show(name: &str) -> Result<String, CommandError> {
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    if name.split('.').all(part) {
        Ok(format!("SHOW {name}"))
    } else {
        Err(CommandError::SettingName { name: shorten(name) })
    }
}

/// A slot name in double quotes, after checking it by the server's rule (`ReplicationSlotValidateName`).
fn quote_slot(name: &str) -> Result<String, CommandError> {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if (1..=SLOT_NAME_LEN_MAX).contains(&name.len()) && name.bytes().all(legal) {
        Ok(format!("\"{name}\""))
    } else {
        Err(CommandError::SlotName { name: shorten(name) })
    }
}

fn quote_label(label: &str) -> Result<String, CommandError> {
    if label.len() > LABEL_LEN_MAX || label.chars().any(char::is_control) {
        return Err(CommandError::Label { label: shorten(label) });
    }
    let mut quoted = String::with_capacity(label.len() + 2);
    quoted.push('\'');
    for character in label.chars() {
        if character == '\'' {
            quoted.push('\'');
        }
        quoted.push(character);
    }
    quoted.push('\'');
    Ok(quoted)
}

fn shorten(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    let mut short: String = text.chars().take(CHARS_MAX).collect();
    if short.len() < text.len() {
        // Writing to a String cannot fail.
        let _ = write!(short, "... ({} bytes)", text.len());
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_replication_names_slot_position_and_timeline() {
        let mut start = StartPhysical {
            slot: Some("barman".to_owned()),
            start: Lsn::from_u64(0x1_0300_0000),
            timeline: TimelineId::new(12).unwrap(),
        };
        assert_eq!(
            start.command().unwrap(),
            "START_REPLICATION SLOT \"barman\" PHYSICAL 1/3000000 TIMELINE 12"
        );
        start.slot = None;
        assert_eq!(start.command().unwrap(), "START_REPLICATION PHYSICAL 1/3000000 TIMELINE 12");
    }

    #[test]
    fn slot_names_cannot_smuggle_anything() {
        for name in ["", "Upper", "a b", "a\"b", "a;b", "caf\u{e9}", &"x".repeat(64)] {
            assert!(matches!(create_physical_slot(name, true), Err(CommandError::SlotName { .. })), "{name}");
        }
    }

    #[test]
    fn settings_are_names_only() {
        assert_eq!(show("a.b_1").unwrap(), "SHOW a.b_1");
        for name in ["", ".", "a.", "a b", "a;b", "1a", "\"a\""] {
            assert!(show(name).is_err(), "{name}");
        }
    }

    #[test]
    fn both_grammars_say_the_same() {
        let options = BaseBackupOptions {
            label: "it's".to_owned(),
            fast_checkpoint: true,
            max_rate_kib: Some(32),
            manifest: Some(ManifestChecksum::Sha256),
            ..BaseBackupOptions::default()
        };
        assert_eq!(
            options.command(BackupDialect::PerArchive).unwrap(),
            "BASE_BACKUP LABEL 'it''s' PROGRESS FAST NOWAIT MAX_RATE 32 MANIFEST 'yes' \
             MANIFEST_CHECKSUMS 'SHA256'"
        );
        assert_eq!(
            options.command(BackupDialect::SingleStream).unwrap(),
            "BASE_BACKUP (LABEL 'it''s', PROGRESS true, CHECKPOINT 'fast', WAL false, WAIT false, \
             TABLESPACE_MAP false, VERIFY_CHECKSUMS true, MAX_RATE 32, MANIFEST 'yes', \
             MANIFEST_CHECKSUMS 'SHA256')"
        );
    }

    #[test]
    fn impossible_options_are_refused_here() {
        let refuse = |change: fn(&mut BaseBackupOptions)| {
            let mut options = BaseBackupOptions::default();
            change(&mut options);
            options.command(BackupDialect::SingleStream).unwrap_err()
        };
        assert_eq!(refuse(|o| o.max_rate_kib = Some(31)), CommandError::MaxRate { rate_kib: 31 });
        assert!(matches!(refuse(|o| o.label = "a\nb".to_owned()), CommandError::Label { .. }));
        assert!(matches!(refuse(|o| o.label = "a".repeat(1024)), CommandError::Label { .. }));
    }
}
