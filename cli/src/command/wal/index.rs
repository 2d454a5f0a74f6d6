//! `wal index`: what each segment holds, in a few lines.

use pgwal::index::{BlockMap, Listed, Outcomes, SegmentIndex};
use serde_json::{Value, json};

use super::input::Input;
use super::loss::{loss_object, loss_text};
use super::stream::{self, Ended};
use super::{Lines, Stop};
use crate::args::IndexArgs;

pub(super) fn run(input: &Input, args: &IndexArgs, lines: &mut Lines) -> Result<Option<Ended>, Stop> {
    let mut merged: Option<SegmentIndex> = None;
    let ended = stream::indexes(input, args.blocks, |index| {
        if !args.merge {
            return print(lines, index);
        }
        let Some(all) = &mut merged else {
            merged = Some(index.clone());
            return Ok(());
        };
        match all.merge(index.clone()) {
            Ok(()) => Ok(()),
            // A gap, or another timeline: begin anew.
            Err(apart) => print(lines, &std::mem::replace(all, *apart)),
        }
    })?;
    merged.map_or(Ok(()), |index| print(lines, &index))?;
    Ok(ended)
}

fn print(lines: &mut Lines, index: &SegmentIndex) -> Result<(), Stop> {
    lines.line(|| text(index), || object(index))
}

fn text(index: &SegmentIndex) -> String {
    let mut text = format!(
        "{}  {} - {}  {} records  {}  {} aborts",
        index.segment,
        index.start,
        index.end,
        index.records,
        commits(&index.commits),
        index.aborts.count
    );
    if let Some((low, high)) = index.xids {
        text.push_str(&format!("  xids {low} - {high}"));
    }
    if !index.complete {
        text.push_str("  (the WAL ends here)");
    }
    let mut note = |line: String| text.push_str(&format!("\n  {line}"));
    for point in &index.restore_points.entries {
        note(format!("restore point \"{}\"  lsn {}  {}", point.name, point.lsn, point.time));
    }
    for checkpoint in &index.checkpoints.entries {
        let kind = if checkpoint.shutdown { "shutdown checkpoint" } else { "checkpoint" };
        note(format!("{kind}  lsn {}  redo {}", checkpoint.lsn, checkpoint.redo));
    }
    for begin in &index.timelines.entries {
        let (timeline, previous) = (begin.timeline, begin.previous);
        note(format!("timeline {timeline} begins after {previous}  lsn {}  {}", begin.lsn, begin.time));
    }
    for loss in &index.destructive.entries {
        note(loss_text(loss, index.version));
    }
    for (list, more) in [
        ("restore points", index.restore_points.more),
        ("checkpoints", index.checkpoints.more),
        ("timelines", index.timelines.more),
        ("destructive operations", index.destructive.more),
    ] {
        if more > 0 {
            note(format!("and {more} more {list}"));
        }
    }
    for (file, fork, blocks) in index.blocks.iter().flat_map(BlockMap::iter) {
        let limit = blocks.limit().map_or_else(String::new, |limit| format!("  cut off to {limit} blocks"));
        note(format!("{} blocks of {file} {} change{limit}", blocks.blocks().count(), fork.name()));
    }
    text
}

fn commits(commits: &Outcomes) -> String {
    match commits.times {
        Some((first, last)) => format!("{} commits ({first} - {last})", commits.count),
        None => "0 commits".to_owned(),
    }
}

fn object(index: &SegmentIndex) -> Value {
    let position = |lsn: Option<pgwal::Lsn>| lsn.map(|lsn| lsn.to_string());
    json!({
        "segment": index.segment.to_string(),
        "segment_size": index.segment_size.bytes(),
        "postgresql": index.version.major(),
        "system_id": index.system_id.to_string(),
        "start": index.start.to_string(),
        "end": index.end.to_string(),
        "complete": index.complete,
        "head_missing": index.head_missing,
        "records": index.records,
        "first_record": position(index.first_record),
        "last_record": position(index.last_record),
        "commits": outcomes(&index.commits),
        "aborts": outcomes(&index.aborts),
        "xids": index.xids.map(|(low, high)| json!({"low": low, "high": high})),
        "restore_points": list(&index.restore_points, |point| json!({
            "lsn": point.lsn.to_string(),
            "time": point.time.to_string(),
            "name": point.name,
        })),
        "checkpoints": list(&index.checkpoints, |checkpoint| json!({
            "lsn": checkpoint.lsn.to_string(),
            "redo": checkpoint.redo.to_string(),
            "timeline": checkpoint.timeline,
            "shutdown": checkpoint.shutdown,
            "unix_seconds": checkpoint.unix_seconds,
        })),
        "timelines": list(&index.timelines, |begin| json!({
            "lsn": begin.lsn.to_string(),
            "timeline": begin.timeline,
            "previous": begin.previous,
            "time": begin.time.to_string(),
        })),
        "destructive": list(&index.destructive, |loss| loss_object(loss, index.version)),
        "blocks": index.blocks.as_ref().map(blocks),
    })
}

fn list<T>(list: &Listed<T>, object: impl Fn(&T) -> Value) -> Value {
    json!({"entries": list.entries.iter().map(object).collect::<Vec<_>>(), "more": list.more})
}

fn outcomes(outcomes: &Outcomes) -> Value {
    json!({
        "count": outcomes.count,
        "first_time": outcomes.times.map(|(first, _)| first.to_string()),
        "last_time": outcomes.times.map(|(_, last)| last.to_string()),
        "last_end": outcomes.last_end.map(|lsn| lsn.to_string()),
    })
}

fn blocks(map: &BlockMap) -> Value {
    let fork = |(file, fork, blocks): (pgwal::RelFile, pgwal::Fork, &pgwal::index::ForkBlocks)| {
        json!({
            "relation": file.to_string(),
            "fork": fork.name(),
            "limit": blocks.limit(),
            "changed": blocks.blocks().count(),
        })
    };
    map.iter().map(fork).collect()
}
