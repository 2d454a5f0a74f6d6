//! The settings that end a restored cluster's configuration, and the signal file that goes with them.
//!
//! Since PostgreSQL 12 recovery is configured by ordinary settings and asked for by an empty file. Their names and
//! values have been the same from 13 to 18 (`access/transam/xlogrecovery.c`), so the major version only decides
//! whether this module may be used at all, and which archiving settings exist.

use pgwal::target::MAX_RESTORE_POINT_NAME_BYTES;
use pgwal::{RecoveryTarget, TargetKind};

use super::{QuoteError, command_word, quote_value};

/// The oldest major version whose recovery settings are written here.
pub const MIN_MAJOR: u32 = 13;

/// The first major version with `archive_library`.
const ARCHIVE_LIBRARY_MAJOR: u32 = 15;

/// A server version that this crate can't restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the backup is of PostgreSQL {major}; restores are supported from PostgreSQL {MIN_MAJOR} on")]
pub struct UnsupportedMajor {
    /// The backup's major version.
    pub major: u32,
}

/// Passes a major version that can be restored.
///
/// # Errors
/// When it is older than [`MIN_MAJOR`]. Newer ones than are known pass: the settings have been stable for years, and a
/// restore that works on the newest release is worth more than a refusal.
pub const fn supported_major(major: u32) -> Result<u32, UnsupportedMajor> {
    if major < MIN_MAJOR { Err(UnsupportedMajor { major }) } else { Ok(major) }
}

/// How the restored cluster is asked to recover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RecoveryMode {
    /// No signal file: the server replays what it finds in `pg_wal` from the backup's start, and opens on the same
    /// timeline.
    #[default]
    Crash,
    /// `recovery.signal`: recovery from the archive, up to the target, then a new timeline.
    Archive,
    /// `standby.signal`: as above, but for ever.
    Standby,
}

impl RecoveryMode {
    /// The empty file that asks for it; `None` where none does.
    pub const fn signal_file(self) -> Option<&'static str> {
        match self {
            RecoveryMode::Crash => None,
            RecoveryMode::Archive => Some("recovery.signal"),
            RecoveryMode::Standby => Some("standby.signal"),
        }
    }
}

/// What the restored cluster is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecoverySettings {
    /// How it recovers.
    pub mode: RecoveryMode,
    /// Where it stops.
    pub target: RecoveryTarget,
    /// The command that fetches a WAL file, in PostgreSQL's notation (`%f`, `%p`).
    pub restore_command: Option<String>,
    /// The command run once recovery has ended.
    pub recovery_end_command: Option<String>,
    /// Whether archiving is switched off here too, because it may be switched on in files that are out of reach
    /// (included ones, or a `postgresql.conf` outside the data directory).
    pub disable_archiving: bool,
}

/// Settings that no server could follow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A value that can't be written.
    #[error("the value of {name} can't be used: {source}")]
    Value {
        /// The setting.
        name: &'static str,
        /// Why.
        source: QuoteError,
    },
    /// A restore point name that PostgreSQL could never have made.
    #[error(
        "restore point name {name:?} can't exist: names are 1 to {MAX_RESTORE_POINT_NAME_BYTES} bytes long, \
         and this one has {bytes}",
        bytes = name.len()
    )]
    RestorePointName {
        /// The name given.
        name: String,
    },
    /// An action without a target to do it at.
    #[error("a target action needs a target (a time, a transaction, an LSN, a restore point, or immediate)")]
    ActionWithoutTarget,
    /// A standby has no end of recovery at which to act.
    #[error("a standby takes no target action: leave out one of the two")]
    ActionOnStandby,
}

impl RecoverySettings {
    /// The settings as names and unquoted values, in the order they are written; nothing in crash mode but what
    /// protects the original's archive.
    ///
    /// # Errors
    /// When the target is one that no server could follow.
    pub fn values(&self, major: u32) -> Result<Vec<(&'static str, String)>, SettingsError> {
        let mut values = Vec::new();
        if self.disable_archiving {
            values.push(("archive_command", "false".to_owned()));
            if major >= ARCHIVE_LIBRARY_MAJOR {
                values.push(("archive_library", String::new()));
            }
        }
        self.check_target()?;
        if self.mode == RecoveryMode::Crash {
            return Ok(values);
        }
        let commands = [
            ("restore_command", &self.restore_command),
            ("recovery_end_command", &self.recovery_end_command),
        ];
        values.extend(commands.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
        if let Some(kind) = &self.target.kind {
            values.push(match kind {
                TargetKind::Time(time) => ("recovery_target_time", time.to_string()),
                TargetKind::Xid(xid) => ("recovery_target_xid", xid.to_string()),
                TargetKind::Lsn(lsn) => ("recovery_target_lsn", lsn.to_string()),
                TargetKind::Name(name) => ("recovery_target_name", name.clone()),
                TargetKind::Immediate => ("recovery_target", "immediate".to_owned()),
            });
        }
        if let Some(timeline) = self.target.timeline {
            values.push(("recovery_target_timeline", timeline.to_string()));
        }
        if !self.target.inclusive {
            values.push(("recovery_target_inclusive", "false".to_owned()));
        }
        if let Some(action) = self.target.action {
            values.push(("recovery_target_action", action.to_string()));
        }
        Ok(values)
    }

    /// The lines to append to a configuration file.
    ///
    /// # Errors
    /// When the target is one that no server could follow, or a value can't be quoted.
    pub fn render(&self, major: u32) -> Result<String, SettingsError> {
        let mut text = String::new();
        for (name, value) in self.values(major)? {
            let quoted = quote_value(&value).map_err(|source| SettingsError::Value { name, source })?;
            text.push_str(&format!("{name} = {quoted}\n"));
        }
        Ok(text)
    }

    fn check_target(&self) -> Result<(), SettingsError> {
        if let Some(TargetKind::Name(name)) = &self.target.kind
            && !(1..=MAX_RESTORE_POINT_NAME_BYTES).contains(&name.len())
        {
            return Err(SettingsError::RestorePointName { name: name.clone() });
        }
        match (self.target.action, &self.target.kind, self.mode) {
            (Some(_), _, RecoveryMode::Standby) => Err(SettingsError::ActionOnStandby),
            (Some(_), None, _) => Err(SettingsError::ActionWithoutTarget),
            _ => Ok(()),
        }
    }
}

/// The `restore_command` that copies from a directory of plain segments.
///
/// # Errors
/// When the path can't be written into a command.
pub fn copy_command(wal_directory: &str) -> Result<String, QuoteError> {
    Ok(format!("cp {}/%f %p", command_word(wal_directory)?))
}

/// The `recovery_end_command` that removes that directory.
///
/// # Errors
/// When the path can't be written into a command.
pub fn remove_command(wal_directory: &str) -> Result<String, QuoteError> {
    Ok(format!("rm -fr {}", command_word(wal_directory)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgwal::{PgTimestamp, TargetAction, TargetTimeline, TimelineId};

    fn settings(kind: TargetKind) -> RecoverySettings {
        RecoverySettings {
            mode: RecoveryMode::Archive,
            target: RecoveryTarget { kind: Some(kind), ..RecoveryTarget::default() },
            restore_command: Some(copy_command("barman_wal").unwrap()),
            recovery_end_command: Some(remove_command("barman_wal").unwrap()),
            disable_archiving: false,
        }
    }

    #[track_caller]
    fn check(settings: &RecoverySettings, major: u32, expected: &str) {
        assert_eq!(settings.render(major).unwrap(), expected);
    }

    const COMMANDS: &str =
        "restore_command = 'cp barman_wal/%f %p'\nrecovery_end_command = 'rm -fr barman_wal'\n";

    #[test]
    fn each_kind_of_target_is_exactly_one_setting() {
        let at = PgTimestamp::from_unix_micros(1_795_342_565_000_000).unwrap();
        for (kind, line) in [
            (TargetKind::Time(at), "recovery_target_time = '2026-11-22 10:16:05.000000+00'\n"),
            (TargetKind::Xid(742), "recovery_target_xid = '742'\n"),
            (TargetKind::Lsn("1/AB".parse().unwrap()), "recovery_target_lsn = '1/AB'\n"),
            (TargetKind::Name("before 'x'".into()), "recovery_target_name = 'before ''x'''\n"),
            (TargetKind::Immediate, "recovery_target = 'immediate'\n"),
        ] {
            for major in 13..=18 {
                check(&settings(kind.clone()), major, &format!("{COMMANDS}{line}"));
            }
        }
    }

    #[test]
    fn side_timeline_and_action_follow_the_target() {
        let mut exclusive = settings(TargetKind::Xid(3));
        exclusive.target.inclusive = false;
        exclusive.target.timeline = Some(TargetTimeline::Id(TimelineId::new(16).unwrap()));
        exclusive.target.action = Some(TargetAction::Promote);
        check(
            &exclusive,
            15,
            &format!(
                "{COMMANDS}recovery_target_xid = '3'\nrecovery_target_timeline = '16'\n\
                 recovery_target_inclusive = 'false'\nrecovery_target_action = 'promote'\n"
            ),
        );
    }

    #[test]
    fn without_a_signal_file_only_archiving_is_spoken_of() {
        let off = RecoverySettings { disable_archiving: true, ..RecoverySettings::default() };
        check(&off, 14, "archive_command = 'false'\n");
        check(&off, 15, "archive_command = 'false'\narchive_library = ''\n");
        assert_eq!(RecoveryMode::Crash.signal_file(), None);
    }

    #[test]
    fn targets_that_no_server_could_follow_are_refused() {
        let named = |name: &str| settings(TargetKind::Name(name.into())).render(15).unwrap_err();
        assert!(matches!(named(""), SettingsError::RestorePointName { .. }));
        assert!(matches!(named(&"x".repeat(64)), SettingsError::RestorePointName { .. }));
        assert!(matches!(
            named("x'\nrestore_command = 'evil"),
            SettingsError::Value { name: "recovery_target_name", .. }
        ));
        let mut acting = settings(TargetKind::Immediate);
        acting.target.action = Some(TargetAction::Shutdown);
        acting.mode = RecoveryMode::Standby;
        assert_eq!(acting.render(15), Err(SettingsError::ActionOnStandby));
        acting.mode = RecoveryMode::Archive;
        acting.target.kind = None;
        assert_eq!(acting.render(15), Err(SettingsError::ActionWithoutTarget));
    }

    #[test]
    fn commands_survive_spaces_quotes_and_percent_signs() {
        let command = copy_command("/srv/it's 100%/wal").unwrap();
        assert_eq!(command, r"cp '/srv/it'\''s 100%%/wal'/%f %p");
        assert_eq!(quote_value(&command).unwrap(), r"'cp ''/srv/it''\\''''s 100%%/wal''/%f %p'");
        assert!(copy_command("/srv/a\nb").is_err());
    }

    #[test]
    fn old_servers_are_refused_and_new_ones_tried() {
        assert_eq!(supported_major(12), Err(UnsupportedMajor { major: 12 }));
        assert_eq!(supported_major(19), Ok(19));
    }
}
