//! What a restore will do, worked out before a byte is copied: pure decisions over facts that the caller supplies.

use std::io;
use std::path::{Component, Path};

use pgwal::{History, RecoveryTarget, SegmentName, TargetKind, TimelineId};

use super::destination::DestinationState;
use super::facts::{
    BackupFacts, Foreseen, RestorePlan, RestoreRequest, STAGED_WAL, TreeCopy, WalPlace, WalSupply,
};
use super::refusal::{FIRST_NORMAL_XID, PlanError};
use super::wal::{WalCopy, resolve_timeline, select_wal};
use super::warning::PlanWarning;
use crate::recovery::{
    QuoteError, RecoveryMode, RecoverySettings, copy_command, remove_command, supported_major,
};

/// Plans a restore.
///
/// `look` answers what is at a destination; see [`look_at`](super::look_at).
///
/// # Errors
/// When the restore could not lead to a running cluster at the target, or would touch what is already there.
pub fn plan_restore(
    request: RestoreRequest,
    look: &dyn Fn(&Path) -> io::Result<DestinationState>,
) -> Result<RestorePlan, PlanError> {
    let backup = &request.backup;
    supported_major(backup.major)?;
    for (name, _) in request.extra_files.iter().chain([&(request.settings_file.clone(), Vec::new())]) {
        check_plain_name(name)?;
    }
    check_target(backup, &request)?;
    let trees = place_trees(&request)?;
    for tree in &trees {
        check_destination(tree, request.delta, look)?;
    }
    let resolved = resolve_timeline(backup, request.target.timeline, &request.histories)?;
    let mut warnings = Vec::new();
    if let Some(timeline) = resolved.passed_over {
        warnings.push(PlanWarning::PassedOver { timeline, followed: resolved.history.timeline() });
    }

    let settings_target = RecoveryTarget { timeline: resolved.setting, ..request.target.clone() };
    let mode = recovery_mode(&request, resolved.history.timeline());
    let (wal, wal_place, settings) = match &request.wal {
        WalSupply::Fetch { restore_command } => {
            // What is missing now may be there when the server asks.
            if let Err(error) = needed_wal(&request, &resolved.history, true, &mut warnings)
                && let PlanError::MissingWal { missing, last, .. } = error
            {
                warnings.push(PlanWarning::MissingWal { missing, last });
            }
            let settings = RecoverySettings {
                mode,
                target: settings_target,
                restore_command: Some(restore_command.clone()),
                ..RecoverySettings::default()
            };
            (Vec::new(), WalPlace::PgWal, settings)
        }
        WalSupply::Copy { partials, staging } => {
            let wal = needed_wal(&request, &resolved.history, *partials, &mut warnings)?;
            let (place, settings) =
                staged_settings(mode, settings_target, staging.as_deref(), request.delta, look)?;
            (wal, place, settings)
        }
    };
    settings.render(backup.major)?;
    warn_about_target(&request, &mut warnings);
    Ok(RestorePlan {
        delta: request.delta,
        trees,
        wal,
        wal_place,
        timeline: resolved.history.timeline(),
        settings,
        settings_file: request.settings_file,
        extra_files: request.extra_files,
        warnings,
        backup: request.backup,
    })
}

/// A restore that wants nothing special replays `pg_wal` and stays on its timeline, as with Barman. Anything else, and
/// any change of timeline, is the business of archive recovery.
fn recovery_mode(request: &RestoreRequest, timeline: TimelineId) -> RecoveryMode {
    let target = &request.target;
    if request.standby {
        RecoveryMode::Standby
    } else if target.kind.is_some()
        || target.timeline.is_some()
        || timeline != request.backup.timeline
        || matches!(request.wal, WalSupply::Fetch { .. })
    {
        RecoveryMode::Archive
    } else {
        RecoveryMode::Crash
    }
}

/// Where copied WAL goes, and the settings that find it there.
fn staged_settings(
    mode: RecoveryMode,
    target: RecoveryTarget,
    staging: Option<&Path>,
    delta: bool,
    look: &dyn Fn(&Path) -> io::Result<DestinationState>,
) -> Result<(WalPlace, RecoverySettings), PlanError> {
    // A standby looks into pg_wal again and again by itself, and would ask an exhausted directory as often.
    let plain = target.kind.is_none() && target.timeline.is_none();
    if mode == RecoveryMode::Crash || (mode == RecoveryMode::Standby && plain) {
        return Ok((WalPlace::PgWal, RecoverySettings { mode, target, ..RecoverySettings::default() }));
    }
    let (place, directory) = match staging {
        None => (WalPlace::Staged, STAGED_WAL.to_owned()),
        Some(path) => {
            check_absolute(path)?;
            check_usable("WAL staging directory", path, delta, look)?;
            let text = path
                .to_str()
                .ok_or_else(|| QuoteError::NotUtf8 { path: path.to_string_lossy().into_owned() })?;
            (WalPlace::Elsewhere(path.to_owned()), text.to_owned())
        }
    };
    let settings = RecoverySettings {
        mode,
        target,
        restore_command: Some(copy_command(&directory)?),
        recovery_end_command: Some(remove_command(&directory)?),
        disable_archiving: false,
    };
    Ok((place, settings))
}

/// The WAL that is copied along; it has to cover the backup at least.
fn needed_wal(
    request: &RestoreRequest,
    history: &History,
    partials: bool,
    warnings: &mut Vec<PlanWarning>,
) -> Result<Vec<WalCopy>, PlanError> {
    let backup = &request.backup;
    let target = request.target.kind.as_ref();
    let until = match request.foreseen {
        // A standby goes on.
        Foreseen::Stop(until) if !request.standby => Some(until),
        _ => None,
    };
    let selection = select_wal(backup, history, target, until, &request.available_wal, partials);
    if selection.reach < backup.end || selection.last.is_none() {
        return Err(PlanError::MissingWal {
            id: backup.id.clone(),
            missing: SegmentName::at(
                history.timeline_at(selection.reach),
                selection.reach,
                backup.segment_size,
            ),
            last: SegmentName::ending_at(backup.timeline, backup.end, backup.segment_size),
        });
    }
    if let Some((missing, later)) = selection.gap {
        warnings.push(PlanWarning::Gap { missing, later });
    }
    if let (Some(TargetKind::Lsn(target)), Foreseen::Nothing) = (target, request.foreseen)
        && *target > selection.reach
    {
        warnings.push(PlanWarning::LsnBeyondArchive { target: *target, reach: selection.reach });
    }
    Ok(selection.files)
}

fn warn_about_target(request: &RestoreRequest, warnings: &mut Vec<PlanWarning>) {
    if let (Some(TargetKind::Time(target)), Some(until)) = (&request.target.kind, request.archived_until)
        && request.foreseen == Foreseen::Nothing
        && *target > until
    {
        warnings.push(PlanWarning::TimeBeyondArchive { target: *target, until });
    }
    let has_sides =
        matches!(request.target.kind, Some(TargetKind::Time(_) | TargetKind::Xid(_) | TargetKind::Lsn(_)));
    if !request.target.inclusive && !has_sides {
        warnings.push(PlanWarning::ExclusiveWithoutEffect);
    }
    if let WalSupply::Copy { staging: Some(_), .. } = request.wal
        && recovery_mode(request, request.backup.timeline) == RecoveryMode::Crash
    {
        warnings.push(PlanWarning::StagingWithoutEffect);
    }
}

fn check_target(backup: &BackupFacts, request: &RestoreRequest) -> Result<(), PlanError> {
    let id = backup.id.clone();
    match (&request.target.kind, backup.end_time) {
        (Some(TargetKind::Time(_) | TargetKind::Lsn(_)), _) if request.foreseen != Foreseen::Nothing => {
            Ok(())
        }
        (Some(TargetKind::Time(target)), Some(end)) if *target < end => {
            Err(PlanError::TimeBeforeEnd { id, target: *target, end })
        }
        (Some(TargetKind::Lsn(target)), _) if *target < backup.end => {
            Err(PlanError::LsnBeforeEnd { id, target: *target, end: backup.end })
        }
        (Some(TargetKind::Xid(xid)), _) if *xid < FIRST_NORMAL_XID => {
            Err(PlanError::ReservedXid { xid: *xid })
        }
        _ => Ok(()),
    }
}

/// Gives every tree its place.
fn place_trees(request: &RestoreRequest) -> Result<Vec<TreeCopy>, PlanError> {
    let backup = &request.backup;
    for (index, (name, _)) in request.tablespace_locations.iter().enumerate() {
        if backup.tablespaces.iter().all(|tablespace| tablespace.name != *name) {
            let known = backup.tablespaces.iter().map(|tablespace| tablespace.name.clone()).collect();
            return Err(PlanError::UnknownTablespace { name: name.clone(), known });
        }
        if request.tablespace_locations[..index].iter().any(|(earlier, _)| earlier == name) {
            return Err(PlanError::TwoLocations { name: name.clone() });
        }
    }
    let mut trees =
        vec![TreeCopy { tablespace: None, from: backup.data.clone(), to: request.destination.clone() }];
    trees.extend(backup.tablespaces.iter().map(|tablespace| {
        let moved = request.tablespace_locations.iter().find(|(name, _)| *name == tablespace.name);
        TreeCopy {
            tablespace: Some((tablespace.oid, tablespace.name.clone())),
            from: tablespace.data.clone(),
            to: moved.map_or(&tablespace.location, |(_, location)| location).clone(),
        }
    }));
    for tree in &trees {
        check_absolute(&tree.to)?;
        if tree.to.to_str().is_none_or(|path| path.chars().any(char::is_control)) {
            return Err(PlanError::Quote(QuoteError::NotUtf8 {
                path: tree.to.to_string_lossy().into_owned(),
            }));
        }
    }
    check_overlaps(&trees)?;
    Ok(trees)
}

/// A tablespace may lie in the data directory (PostgreSQL warns of it, and people have it so), but nothing else may
/// contain anything else.
fn check_overlaps(trees: &[TreeCopy]) -> Result<(), PlanError> {
    for (index, first) in trees.iter().enumerate() {
        for second in &trees[index + 1..] {
            let nested = first.tablespace.is_some() && second.to.starts_with(&first.to);
            if nested || first.to.starts_with(&second.to) {
                return Err(PlanError::Overlap { first: first.to.clone(), second: second.to.clone() });
            }
        }
    }
    Ok(())
}

fn check_destination(
    tree: &TreeCopy,
    delta: bool,
    look: &dyn Fn(&Path) -> io::Result<DestinationState>,
) -> Result<(), PlanError> {
    let what = match &tree.tablespace {
        None => "destination directory".to_owned(),
        Some((_, name)) => format!("location of tablespace {name:?},"),
    };
    check_usable(&what, &tree.to, delta, look)
}

fn check_usable(
    what: &str,
    path: &Path,
    delta: bool,
    look: &dyn Fn(&Path) -> io::Result<DestinationState>,
) -> Result<(), PlanError> {
    let (what, path) = (what.to_owned(), path.to_owned());
    match look(&path) {
        Ok(DestinationState::Absent | DestinationState::Empty) => Ok(()),
        Ok(DestinationState::NotEmpty { postgres: true, .. }) if delta => Ok(()),
        Ok(DestinationState::NotEmpty { found, .. }) if delta => {
            Err(PlanError::NotPostgres { what, path, found })
        }
        Ok(DestinationState::NotEmpty { found, interrupted, .. }) => {
            Err(PlanError::NotEmpty { what, path, found, interrupted })
        }
        Ok(DestinationState::NotADirectory) => Err(PlanError::NotADirectory { what, path }),
        Err(source) => Err(PlanError::Unreadable { what, path, source }),
    }
}

fn check_absolute(path: &Path) -> Result<(), PlanError> {
    let plain = path.is_absolute() && !path.components().any(|part| matches!(part, Component::ParentDir));
    if plain { Ok(()) } else { Err(PlanError::Relative { path: path.to_owned() }) }
}

fn check_plain_name(name: &str) -> Result<(), PlanError> {
    let plain =
        !name.is_empty() && name != "." && name != ".." && !name.contains('/') && !name.contains('\0');
    if plain { Ok(()) } else { Err(PlanError::FileName { name: name.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::super::facts::TablespaceFacts;
    use super::super::tests_support::{backup, history, wal};
    use super::*;
    use pgwal::{Lsn, PgTimestamp, TargetTimeline};

    fn request() -> RestoreRequest {
        let tablespace = |oid: u32, name: &str| TablespaceFacts {
            oid,
            name: name.into(),
            location: format!("/srv/{name}").into(),
            data: format!("/backup/{oid}").into(),
        };
        RestoreRequest {
            backup: BackupFacts {
                tablespaces: vec![tablespace(16386, "fast"), tablespace(16387, "slow")],
                end_time: Some(time(0)),
                ..backup()
            },
            destination: "/new/data".into(),
            delta: false,
            tablespace_locations: Vec::new(),
            target: RecoveryTarget::default(),
            standby: false,
            wal: WalSupply::Copy { partials: false, staging: None },
            available_wal: wal(&[
                "000000010000000000000002",
                "000000010000000000000003",
                "000000010000000000000004",
            ]),
            histories: Vec::new(),
            foreseen: Foreseen::Nothing,
            archived_until: None,
            settings_file: "postgresql.auto.conf".into(),
            extra_files: Vec::new(),
        }
    }

    /// Seconds after the backup's end.
    fn time(seconds: i64) -> PgTimestamp {
        PgTimestamp::from_micros(seconds * 1_000_000)
    }

    fn to(kind: TargetKind) -> RestoreRequest {
        RestoreRequest { target: RecoveryTarget { kind: Some(kind), ..Default::default() }, ..request() }
    }

    fn plan(request: RestoreRequest) -> Result<RestorePlan, PlanError> {
        plan_restore(request, &|_| Ok(DestinationState::Absent))
    }

    #[track_caller]
    fn refused(request: RestoreRequest, part: &str) {
        let error = plan(request).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn a_plain_restore_replays_pg_wal_without_a_signal() {
        let plan = plan(request()).unwrap();
        assert_eq!(plan.settings.mode, RecoveryMode::Crash);
        assert_eq!(plan.wal_place, WalPlace::PgWal);
        assert_eq!(plan.wal.len(), 3);
        assert_eq!(plan.settings.render(15).unwrap(), "");
        assert!(plan.warnings.is_empty());
    }

    #[test]
    fn a_plain_restore_follows_a_promotion_by_archive_recovery() {
        let mut promoted = request();
        promoted.histories = vec![history(2, "1\t0/4000100\tx\n")];
        promoted.available_wal.extend(wal(&["00000002.history", "000000020000000000000004"]));
        let plan = plan(promoted).unwrap();
        assert_eq!(plan.timeline.as_u32(), 2);
        assert_eq!(plan.settings.mode, RecoveryMode::Archive);
        assert_eq!(plan.wal_place, WalPlace::Staged);
        assert_eq!(
            plan.settings.render(15).unwrap(),
            "restore_command = 'cp barman_wal/%f %p'\nrecovery_end_command = 'rm -fr barman_wal'\n"
        );
    }

    #[test]
    fn a_named_timeline_is_archive_recovery_even_without_a_target() {
        let mut current = request();
        current.target.timeline = Some(TargetTimeline::Current);
        let plan = plan(current).unwrap();
        assert_eq!(plan.settings.mode, RecoveryMode::Archive);
        assert!(plan.settings.render(15).unwrap().contains("recovery_target_timeline = 'current'"));
    }

    #[test]
    fn fetched_wal_is_not_copied_and_may_be_missing() {
        let mut fetched = request();
        fetched.wal = WalSupply::Fetch { restore_command: "barkeep get-wal main %f > %p".into() };
        fetched.available_wal.clear();
        let plan = plan(fetched).unwrap();
        assert!(plan.wal.is_empty());
        assert!(matches!(plan.warnings[..], [PlanWarning::MissingWal { .. }]));
        assert_eq!(plan.settings.mode, RecoveryMode::Archive);
        assert_eq!(plan.settings.render(15).unwrap(), "restore_command = 'barkeep get-wal main %f > %p'\n");
    }

    #[test]
    fn a_standby_gets_its_signal_and_no_action() {
        let mut standby = request();
        standby.standby = true;
        let planned = plan(standby.clone()).unwrap();
        assert_eq!((planned.settings.mode, planned.wal_place), (RecoveryMode::Standby, WalPlace::PgWal));
        assert_eq!(planned.settings.restore_command, None);
        standby.target.action = Some(pgwal::TargetAction::Promote);
        refused(standby, "a standby takes no target action");
    }

    #[test]
    fn targets_before_the_backups_end_are_refused() {
        refused(to(TargetKind::Time(time(-1))), "earlier than the end of backup 20261122T101539");
        refused(to(TargetKind::Lsn(Lsn::from_u64(0x300_00ff))), "before the end of backup");
        refused(to(TargetKind::Xid(2)), "PostgreSQL's own");
        assert!(plan(to(TargetKind::Time(time(0)))).is_ok());
        assert!(plan(to(TargetKind::Lsn(Lsn::from_u64(0x300_0100)))).is_ok());
        assert!(plan(to(TargetKind::Immediate)).is_ok());
    }

    #[test]
    fn targets_past_the_archive_are_doubted() {
        let mut late = to(TargetKind::Time(time(100)));
        late.archived_until = Some(time(99));
        assert!(matches!(plan(late).unwrap().warnings[..], [PlanWarning::TimeBeyondArchive { .. }]));
        let far = to(TargetKind::Lsn(Lsn::from_u64(0x500_0001)));
        assert!(matches!(plan(far).unwrap().warnings[..], [PlanWarning::LsnBeyondArchive { .. }]));
        let near = to(TargetKind::Lsn(Lsn::from_u64(0x4ff_ffff)));
        assert!(plan(near).unwrap().warnings.is_empty());
    }

    #[test]
    fn wal_that_the_backup_itself_needs_must_be_there() {
        let mut poor = request();
        poor.available_wal.remove(1);
        refused(poor, "WAL segment 000000010000000000000003 is not in the archive");
        let mut poorest = request();
        poorest.available_wal.clear();
        refused(poorest, "000000010000000000000002 is not in the archive");
    }

    #[test]
    fn tablespaces_go_where_they_were_or_where_they_are_told() {
        let mut moved = request();
        moved.tablespace_locations = vec![("slow".into(), "/new/slow".into())];
        let places: Vec<_> = plan(moved.clone()).unwrap().trees.into_iter().map(|tree| tree.to).collect();
        assert_eq!(places, [Path::new("/new/data"), Path::new("/srv/fast"), Path::new("/new/slow")]);

        moved.tablespace_locations.push(("slow".into(), "/x".into()));
        refused(moved.clone(), "two locations");
        moved.tablespace_locations = vec![("quick".into(), "/x".into())];
        refused(moved.clone(), "no tablespace \"quick\"; it has fast, slow");
        moved.tablespace_locations = vec![("slow".into(), "slow".into())];
        refused(moved.clone(), "not an absolute path");
        moved.tablespace_locations = vec![("slow".into(), "/new/../srv/slow".into())];
        refused(moved.clone(), "not an absolute path");
        for overlapping in ["/srv/fast", "/srv/fast/slow", "/srv", "/new", "/new/data"] {
            moved.tablespace_locations = vec![("slow".into(), overlapping.into())];
            refused(moved.clone(), "into each other");
        }
        // PostgreSQL lives with a tablespace in the data directory.
        moved.tablespace_locations = vec![("slow".into(), "/new/data/slow".into())];
        assert!(plan(moved).is_ok());
    }

    #[test]
    fn every_destination_is_looked_at() {
        for occupied in ["/new/data", "/srv/slow", "/staging"] {
            let mut request = to(TargetKind::Immediate);
            request.wal = WalSupply::Copy { partials: false, staging: Some("/staging".into()) };
            let error = plan_restore(request, &|path| {
                Ok(if path == Path::new(occupied) {
                    let found = vec![".keep".into()];
                    DestinationState::NotEmpty { found, interrupted: false, postgres: false }
                } else {
                    DestinationState::Empty
                })
            })
            .unwrap_err();
            let text = error.to_string();
            assert!(text.contains(occupied) && text.contains(".keep"), "{text}");
        }
    }

    #[test]
    fn a_delta_restore_goes_over_what_is_postgresqls_and_over_nothing_else() {
        let delta = RestoreRequest { delta: true, ..request() };
        let look = |postgres: bool| {
            move |_: &Path| {
                Ok(DestinationState::NotEmpty { found: vec!["x".into()], interrupted: false, postgres })
            }
        };
        assert!(plan_restore(delta.clone(), &look(true)).unwrap().delta);
        let error = plan_restore(delta, &look(false)).unwrap_err();
        assert!(matches!(error, PlanError::NotPostgres { .. }), "{error}");
    }

    #[test]
    fn files_outside_the_data_directory_can_not_be_named() {
        for name in ["", "..", "a/b", "/etc/passwd"] {
            refused(RestoreRequest { settings_file: name.into(), ..request() }, "plain file name");
        }
    }

    #[test]
    fn old_servers_are_refused() {
        let mut old = request();
        old.backup.major = 12;
        refused(old, "supported from PostgreSQL 13");
    }
}
