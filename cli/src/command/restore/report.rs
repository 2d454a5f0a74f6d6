//! What a restore says at its end, in Barman's words where scripts may look for them.

use std::time::Duration;

use jiff::Zoned;
use pgbase::restore::{DeltaReport, FileChange, FileNote, RestorePlan, RestoreReport};
use serde_json::{Value, json};

use crate::output::{Format, Output, text};

/// How much of what was left alone is told on the console, name by name.
const KEPT_TOLD_MAX: usize = 20;

pub(super) fn finished(
    output: &Output,
    plan: &RestorePlan,
    report: &RestoreReport,
    begun: &Zoned,
    elapsed: Duration,
) {
    for stranger in &report.strangers {
        output.warning(format!(
            "{} is neither a file nor a directory and was not restored",
            stranger.display()
        ));
    }
    if !report.missing_files.is_empty() {
        output.warning(format!(
            "The backup has no {}: put the configuration of the original in place before you start the server",
            report.missing_files.join(", ")
        ));
    }
    if let Some(delta) = &report.delta {
        tell_delta(output, delta, report.bytes);
    }
    match output.style().format {
        Format::Console => tell(output, report),
        Format::Json => {
            if !report.changes.is_empty() {
                output.warning(
                    "IMPORTANT! Some settings have been modified to prevent data losses. See 'changes' key.",
                );
            }
            if !report.notes.is_empty() {
                output.warning(
                    "WARNING! You are required to review the options as potentially dangerous. See 'warnings' key.",
                );
            }
        }
    }
    document(output, report, begun, elapsed);
    if output.style().format == Format::Console {
        let start = begun.strftime("%Y-%m-%d %H:%M:%S%.6f%:z");
        output.info(format!(
            "\nRestore operation completed (start time: {start}, elapsed time: {})",
            text::duration(elapsed)
        ));
        output.info("Your PostgreSQL server has been successfully prepared for recovery!");
        let destination = plan.trees.first().map(|tree| tree.to.display().to_string()).unwrap_or_default();
        output.debug(format!("Start it with: pg_ctl start -D {destination}"));
    }
}

/// What became of what was at the destination.
fn tell_delta(output: &Output, delta: &DeltaReport, bytes: u64) {
    output.info(format!(
        "Delta restore: {} compared, {} written, {} no longer needed removed",
        text::size_u64(bytes),
        text::size_u64(delta.written),
        match delta.removed {
            1 => "1 file".to_owned(),
            count => format!("{count} files"),
        }
    ));
    if let Some(shelved) = &delta.shelved_wal {
        output.warning(format!(
            "{} WAL files that the old server had not archived are now in {}: remove them when nobody needs them",
            shelved.files,
            shelved.path.display()
        ));
    }
    for kept in delta.kept.iter().take(KEPT_TOLD_MAX) {
        output.info(format!("Left alone, since it is not PostgreSQL's: {}", kept.display()));
    }
    if delta.kept.len() > KEPT_TOLD_MAX {
        output.info(format!("and {} more", delta.kept.len() - KEPT_TOLD_MAX));
    }
    let shelved = delta.shelved_wal.as_ref().map(|shelved| shelved.path.display().to_string());
    let kept: Vec<String> = delta.kept.iter().map(|kept| kept.display().to_string()).collect();
    output.set(
        "delta_restore",
        json!({"bytes_compared": bytes, "bytes_written": delta.written, "files_removed": delta.removed,
               "left_alone": kept, "wal_put_aside": shelved}),
    );
}

fn tell(output: &Output, report: &RestoreReport) {
    if !report.changes.is_empty() {
        output.info("\nIMPORTANT\nThese settings have been modified to prevent data losses\n");
        for FileChange { file, change } in &report.changes {
            let value = change.value.as_deref().unwrap_or("(commented out)");
            let place = if change.line == 0 { "added".to_owned() } else { format!("line {}", change.line) };
            output.info(format!("{file} {place}: {} = {value}", change.name));
        }
    }
    if !report.notes.is_empty() {
        output.info("\nWARNING\nYou are required to review the following options as potentially dangerous\n");
        for FileNote { file, note } in &report.notes {
            output.info(format!("{file} line {}: {} = '{}'", note.line, note.name, note.value));
        }
    }
}

/// The keys of Barman's document.
fn document(output: &Output, report: &RestoreReport, begun: &Zoned, elapsed: Duration) {
    let changes: Vec<Value> = report
        .changes
        .iter()
        .map(|FileChange { file, change }| json!([file, change.line, change.name, change.value]))
        .collect();
    let warnings: Vec<Value> = report
        .notes
        .iter()
        .map(|FileNote { file, note }| json!([file, note.line, note.name, format!("'{}'", note.value)]))
        .collect();
    for (key, value) in [
        ("changes_count", json!(changes.len())),
        ("changes", Value::Array(changes)),
        ("warnings_count", json!(warnings.len())),
        ("warnings", Value::Array(warnings)),
        ("missing_files", json!(report.missing_files)),
        ("recovery_start_time", json!(begun.strftime("%Y-%m-%d %H:%M:%S%.6f%:z").to_string())),
        ("recovery_start_time_timestamp", json!(begun.timestamp().as_second().to_string())),
        ("recovery_elapsed_time", json!(text::duration(elapsed))),
        ("recovery_elapsed_time_seconds", json!(elapsed.as_secs_f64())),
    ] {
        output.set(key, value);
    }
}
