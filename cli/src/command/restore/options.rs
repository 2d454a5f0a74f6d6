//! What was asked for: options checked against each other, and against what barkeep can do.

use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use pgwal::{RecoveryTarget, TargetKind};

use crate::args::RestoreArgs;
use crate::error::CommandError;
use crate::moment::Moment;
use crate::output::Output;

/// The target as typed and as PostgreSQL takes it.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) recovery: RecoveryTarget,
    /// The line that tells people of it; `None` for a restore without a target.
    pub(super) told: Option<String>,
}

/// Refuses options that ask for what barkeep can't do yet, before anything is touched.
pub(super) fn refuse_unavailable(args: &RestoreArgs) -> Result<(), CommandError> {
    let snapshot = [
        &args.snapshot_recovery_instance,
        &args.snapshot_recovery_zone,
        &args.gcp_zone,
        &args.azure_resource_group,
        &args.aws_region,
    ];
    let staging = [&args.staging_path, &args.recovery_staging_path, &args.local_staging_path];
    let unavailable = [
        ("restoring from snapshots", snapshot.iter().any(|option| option.is_some())),
        ("a staging path", staging.iter().any(|option| option.is_some()) || args.staging_location.is_some()),
        ("--combine-mode", args.combine_mode.is_some()),
        ("--recovery-option-port", args.recovery_option_port.is_some()),
    ];
    match unavailable.into_iter().find(|(_, asked)| *asked) {
        None => Ok(()),
        Some((what, _)) => Err(CommandError::new(format!("{what} is not supported yet"))
            .hint("barkeep restores full backups, here or to another machine")),
    }
}

/// The destination as an absolute path.
pub(super) fn destination(args: &RestoreArgs) -> Result<PathBuf, CommandError> {
    let path = &args.destination;
    if path.as_os_str().as_encoded_bytes().contains(&b':') {
        return Err(CommandError::new(format!("The destination {} contains a ':'", path.display()))
            .hint("another host is named with --remote-ssh-command"));
    }
    absolute(path)
}

/// A path from the root, without `.` and `..`: what ends up in links and settings must not depend on the directory that
/// barkeep was started in.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, CommandError> {
    let full = std::path::absolute(path)
        .map_err(|error| CommandError::because(format!("{} can't be resolved", path.display()), &error))?;
    if full.components().any(|part| part == std::path::Component::ParentDir) {
        return Err(CommandError::new(format!("{} contains '..'", path.display())).hint("give the full path"));
    }
    Ok(full)
}

/// Reads the target.
pub(super) fn target(args: &RestoreArgs, output: &Output) -> Result<Target, CommandError> {
    let mut told = None;
    let mut tell =
        |what: &str, value: &str| told = Some(format!("Doing PITR. Recovery target {what}: {value}"));
    let mut kind = None;
    if let Some(timeline) = &args.target_tli {
        tell("timeline", &format!("'{timeline}'"));
    }
    if let Some(text) = &args.target_time {
        let moment = Moment::read(text, &TimeZone::system())?;
        if moment.zone_assumed {
            output.warning(format!("Target time \"{text}\" has no time zone: taken as {}", moment.text()));
        }
        tell("time", &format!("'{}'", moment.text()));
        kind = Some(TargetKind::Time(moment.postgres()?));
    }
    if let Some(text) = &args.target_xid {
        let xid = read_xid(text)?;
        tell("xid", &format!("'{xid}'"));
        kind = Some(TargetKind::Xid(xid));
    }
    if let Some(lsn) = args.target_lsn {
        tell("lsn", &format!("'{lsn}'"));
        kind = Some(TargetKind::Lsn(lsn));
    }
    if let Some(name) = &args.target_name {
        tell("name", &format!("'{name}'"));
        kind = Some(TargetKind::Name(name.clone()));
    }
    if args.target_immediate {
        tell("immediate", "True");
        kind = Some(TargetKind::Immediate);
    }
    let recovery = RecoveryTarget {
        kind,
        inclusive: !args.exclusive,
        timeline: args.target_tli,
        action: args.target_action,
    };
    Ok(Target { recovery, told })
}

/// A transaction id; also one with its epoch, as `pg_current_xact_id()` shows it: the server compares the lower half.
fn read_xid(text: &str) -> Result<u32, CommandError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number: Option<u64> = digits.then(|| text.parse().ok()).flatten();
    number.map(|number| (number & 0xFFFF_FFFF) as u32).ok_or_else(|| {
        let shown: String = text.chars().take(64).collect();
        CommandError::new(format!("\"{shown}\" is not a transaction id")).hint("expected a decimal number")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transaction_ids_may_have_an_epoch() {
        assert_eq!(read_xid("742"), Ok(742));
        assert_eq!(read_xid("4294968038"), Ok(742));
        for text in ["", "-1", "0x10", "+5", "99999999999999999999"] {
            assert!(read_xid(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn paths_are_made_absolute_and_plain() {
        assert_eq!(absolute(Path::new("/srv/./pg/")).unwrap(), Path::new("/srv/pg"));
        assert!(absolute(Path::new("x")).unwrap().is_absolute());
        assert!(absolute(Path::new("/srv/../pg")).is_err());
    }
}
