//! What pre-flight found, in words and for programs.

use barkeep_catalog::BackupInfo;
use barkeep_catalog::preflight::{Elsewhere, Stop, Transaction, Unreachable, Why};
use barkeep_catalog::wal_map::Break;
use pgwal::{RecoveryTarget, TargetKind, TimelineId};
use serde_json::{Value, json};

use crate::command::windows::{end_in_words, transaction_json};
use crate::output::Output;

/// The key of the document.
const KEY: &str = "preflight";

/// Where recovery will stop.
pub(super) fn reachable(target: &RecoveryTarget, stop: &Stop) -> String {
    let commit = match &stop.last_commit {
        Some(Transaction { xid, time, .. }) => format!("the last commit is transaction {xid}, of {time}"),
        None => "no commit is replayed".to_owned(),
    };
    match (&target.kind, stop.applied) {
        (None, _) => format!("Recovery will end at {}: {commit}", stop.at),
        (Some(_), true) => format!("Recovery will stop after the record at {}: {commit}", stop.at),
        (Some(_), false) => format!("Recovery will stop before the record at {}: {commit}", stop.at),
    }
}

pub(super) fn reachable_json(
    output: &Output,
    info: &BackupInfo,
    timeline: TimelineId,
    target: &RecoveryTarget,
    stop: &Stop,
) {
    let mut document = head(info, timeline, target, true);
    document["stops_at"] = json!(stop.at.to_string());
    document["record_applied"] = json!(stop.applied);
    document["last_commit"] = json!(stop.last_commit.as_ref().map(transaction_json));
    document["same_name_later"] = json!(stop.same_name_later);
    document["cut_short"] = json!(stop.cut_short.as_ref().and_then(end_in_words));
    output.set(KEY, document);
}

fn head(info: &BackupInfo, timeline: TimelineId, target: &RecoveryTarget, reachable: bool) -> Value {
    json!({"reachable": reachable, "backup_id": info.id.to_string(), "timeline": timeline.as_u32(),
           "target": target.to_string()})
}

/// A target that can't be reached.
pub(super) struct Refusal<'a> {
    pub(super) info: &'a BackupInfo,
    pub(super) timeline: TimelineId,
    pub(super) target: &'a RecoveryTarget,
    pub(super) no: &'a Unreachable,
    pub(super) elsewhere: Vec<Elsewhere>,
}

impl Refusal<'_> {
    /// Why not, in one sentence.
    pub(super) fn reason(&self) -> String {
        let Refusal { info, timeline, target, no, .. } = self;
        let why = match &no.why {
            Why::BeforeBackupEnd { at, consistent } => {
                format!("recovery would stop at {at}, before the end of the backup at {consistent}")
            }
            Why::BackupIncomplete { reach, consistent } => {
                format!("its WAL ends at {reach}, and it needs all up to {consistent} to be consistent")
            }
            Why::AfterLast { reach } => match target.kind {
                Some(TargetKind::Time(_)) => {
                    format!("no later commit shows that it was reached; the archived WAL ends at {reach}")
                }
                _ => format!("the archived WAL ends at {reach}"),
            },
            Why::Interrupted { reach, by } => {
                let by = end_in_words(by).unwrap_or_else(|| "nothing follows".to_owned());
                format!("the WAL that follows from this backup ends at {reach}: {by}")
            }
            Why::UnknownName { known } if known.is_empty() => "there is no restore point there".to_owned(),
            Why::UnknownName { known } => {
                let names: Vec<String> = known.iter().map(|name| format!("{name:?}")).collect();
                format!("there is no restore point of that name; the last ones are {}", names.join(", "))
            }
            Why::NotEnded { top: Some(top), .. } => {
                format!("it is a subtransaction of {top}, and only whole transactions can be a target")
            }
            Why::NotEnded { prepared: true, .. } => "it was prepared and has not ended".to_owned(),
            Why::NotEnded { .. } => "no such transaction committed or was rolled back there".to_owned(),
        };
        format!("{target} can't be reached from backup {} along timeline {timeline}: {why}", info.id)
    }

    /// What can be had instead.
    pub(super) fn alternatives(&self) -> String {
        let mut ways: Vec<String> = self
            .elsewhere
            .iter()
            .map(|other| {
                let timeline = match other.timeline == self.timeline {
                    true => String::new(),
                    false => format!(" with --target-tli {}", other.timeline),
                };
                format!("it can from backup {}{timeline}", other.backup)
            })
            .collect();
        match (&self.no.why, &self.no.last_commit) {
            (Why::BeforeBackupEnd { .. }, _) => {
                ways.push("the first moment of this backup: --target-immediate".to_owned());
            }
            (Why::NotEnded { top: Some(top), .. }, _) => ways.push(format!("--target-xid {top}")),
            (_, Some(commit)) => ways.push(format!(
                "the last commit before is transaction {}, of {}: --target-xid {}",
                commit.xid, commit.time, commit.xid
            )),
            _ => {}
        }
        ways.push("--force restores all the same".to_owned());
        ways.join("; ")
    }

    pub(super) fn json(&self, output: &Output) {
        let mut document = head(self.info, self.timeline, self.target, false);
        document["why"] = json!(code(&self.no.why));
        document["reason"] = json!(self.reason());
        document["last_commit"] = json!(self.no.last_commit.as_ref().map(transaction_json));
        let elsewhere: Vec<Value> = self
            .elsewhere
            .iter()
            .map(|other| {
                json!({"backup_id": other.backup.to_string(), "timeline": other.timeline.as_u32(),
                       "stops_at": other.stop.at.to_string(),
                       "last_commit": other.stop.last_commit.as_ref().map(transaction_json)})
            })
            .collect();
        document["elsewhere"] = Value::Array(elsewhere);
        output.set(KEY, document);
    }
}

/// A reason as a word.
const fn code(why: &Why) -> &'static str {
    match why {
        Why::BeforeBackupEnd { .. } => "before_backup_end",
        Why::BackupIncomplete { .. } => "backup_incomplete",
        Why::AfterLast { .. } => "after_last_commit",
        Why::Interrupted { by: Break::Missing { .. }, .. } => "in_gap",
        Why::Interrupted { .. } => "damaged",
        Why::UnknownName { .. } => "unknown_restore_point",
        Why::NotEnded { .. } => "transaction_never_ended",
    }
}
