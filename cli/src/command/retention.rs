//! `retention`: what the policy keeps and lets go, why, until when, and how much that frees. It touches nothing.

mod chart;
mod report;

use barkeep_catalog::BackupId;
use barkeep_retention::{Fate, Stage, Verdict};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::args::RetentionArgs;
use crate::context::{Context, Policy, ServerContext};
use crate::error::CommandError;
use crate::moment::read_moment;
use crate::verdicts::{self, Decree, Verdicts};
use crate::wal_plan::WalFates;
use report::{BackupLine, Report, WalLine};

/// Shows what retention would do.
///
/// # Errors
/// When a policy or a moment can't be read, or the catalogue can't.
pub fn run(context: &mut Context, args: &RetentionArgs) -> Result<(), CommandError> {
    let server = context.server(&args.server, Policy::Query)?;
    let now = match &args.at {
        None => context.now(),
        Some(text) => read_moment(text, context.now(), &TimeZone::system())
            .map_err(|error| CommandError::because("--at", &error))?,
    };
    let decree = decree(&server, args)?;
    let wal_policy = match &args.wal_policy {
        None => verdicts::wal_policy(&server.config),
        Some(text) => text.parse().map_err(|error| CommandError::because("--wal-policy", &error))?,
    };
    let backups = server.catalog().current()?;
    for fault in &backups.faults {
        server.output.error(fault.to_string());
    }
    let verdicts = Verdicts::judge_by(&server, &backups, decree, wal_policy, now)?;
    let fates = WalFates::decide(&server, &backups, verdicts.claims(), None)?;
    let lines = verdicts.facts().iter().filter_map(|fact| {
        let info = backups.get(fact.id)?;
        let judgement = verdicts.of(fact.id);
        let goes = fact.stage == Stage::Leaving
            || judgement.is_some_and(|judgement| judgement.verdict == Verdict::Obsolete);
        Some(BackupLine {
            id: fact.id,
            name: info.backup_name.clone(),
            kind: info.backup_type().as_str(),
            status: info.status,
            timeline: info.timeline,
            begin: info.begin_xlog,
            end_time: info.end_time.clone(),
            bytes: info.deduplicated_size.or(info.size).unwrap_or(0),
            verdict: judgement.map_or(Verdict::None, |judgement| judgement.verdict),
            reason: judgement
                .map_or_else(|| "no retention policy is in force".to_owned(), |one| one.reason.to_string()),
            until: judgement.filter(|_| !goes).and_then(|judgement| judgement.until),
            goes,
        })
    });
    let backups = lines.collect();
    let report = Report {
        server: server.name(),
        policy: verdicts.policy().map(ToString::to_string),
        wal_policy: verdicts.wal_policy().to_string(),
        minimum_redundancy: server.config.minimum_redundancy(),
        now,
        is_now: args.at.is_none(),
        window_begin: verdicts.policy().and_then(|policy| policy.window()).map(|window| window.begin(now)),
        backups,
        wal: wal_lines(&fates),
        all_wal_kept: fates.all_kept.clone(),
        segment_size: fates.segment_size,
        explain: args.explain,
    };
    context.output().report(&report);
    Ok(())
}

fn decree(server: &ServerContext, args: &RetentionArgs) -> Result<Option<Decree>, CommandError> {
    match &args.policy {
        Some(text) => {
            Decree::parse(text).map(Some).map_err(|error| CommandError::because("--policy", &error))
        }
        None => verdicts::policy(&server.config).map_err(|error| {
            CommandError::because(format_args!("nothing is deleted from server '{}'", server.name()), &error)
                .hint("correct its retention_policy")
        }),
    }
}

/// Joins files that follow each other and share their fate.
fn wal_lines(fates: &WalFates) -> Vec<WalLine> {
    let mut lines: Vec<WalLine> = Vec::new();
    for (entry, fate) in &fates.files {
        let goes = fates.all_kept.is_none() && fate.is_removable();
        let reason = fates.all_kept.clone().unwrap_or_else(|| fate.to_string());
        let name = entry.file.to_string();
        let (timeline, number) = (entry.file.timeline(), number_of(fates, entry));
        match lines.last_mut() {
            Some(line)
                if line.timeline == timeline
                    && line.fate == *fate
                    && number.is_some()
                    && line.last_number.zip(number).is_some_and(|(last, next)| next <= last + 1) =>
            {
                line.last = name;
                line.last_number = number;
                line.files += 1;
                line.bytes = line.bytes.saturating_add(entry.size);
            }
            _ => lines.push(WalLine {
                timeline,
                first: name.clone(),
                last: name,
                first_number: number,
                last_number: number,
                files: 1,
                bytes: entry.size,
                fate: *fate,
                goes,
                reason,
            }),
        }
    }
    lines
}

fn number_of(fates: &WalFates, entry: &barkeep_catalog::xlogdb::WalEntry) -> Option<u64> {
    entry.file.segment()?.number(fates.segment_size?)
}

/// The backup on whose account WAL stays.
fn needed_by(fate: &Fate<BackupId>) -> Option<BackupId> {
    match fate {
        Fate::Needed { by } | Fate::UnknownAncestry { by } => Some(*by),
        _ => None,
    }
}

/// A moment as people read it, in UTC.
fn told(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%d %H:%M UTC").to_string()
}
