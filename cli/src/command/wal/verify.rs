//! `wal verify`: is the WAL sound?

use std::error::Error as _;
use std::thread::available_parallelism;

use barkeep_catalog::{IndexStore, Layout};
use pgwal::verify::{SegmentReport, VerifyError, VerifyOptions, verify_segments, verify_series};
use pgwal::{SegmentName, WalFile};
use serde_json::json;

use super::input::Input;
use super::{Lines, Stop};
use crate::args::VerifyArgs;
use crate::error::{CommandError, chain};

pub(super) fn run(
    input: &Input,
    args: &VerifyArgs,
    archive: Option<&Layout>,
    lines: &mut Lines,
) -> Result<(), Stop> {
    let options = VerifyOptions {
        segment_size: Some(input.segment_size),
        system_id: args.system_id,
        may_end: args.may_end || input.ends_partial,
    };
    let threads =
        args.jobs.map_or_else(|| available_parallelism().map_or(1, usize::from), |jobs| jobs as usize);
    let (mut segments, mut damaged, mut records, mut printed) = (Vec::new(), 0_u64, 0_u64, Ok(()));
    let each = |report: SegmentReport| {
        segments.push(report.segment);
        records += report.records;
        let is_archived =
            |layout: &&Layout| input.is_at(report.segment, &layout.wal(&WalFile::Segment(report.segment)));
        let altered = altered(&report, archive.filter(is_archived));
        damaged += u64::from(!report.is_sound() || altered.is_some());
        if printed.is_ok() {
            printed = print(lines, &report, altered.as_deref(), input);
        }
    };
    let done = match input.only_pipe() {
        Some(pipe) => {
            let mut series = pipe.series();
            verify_series(&mut series, &options, each).map_err(|error| pipe.error(&error))
        }
        None => verify_segments(input, &input.segments(), &options, threads, each)
            .map_err(|error| CommandError::because("The WAL can't be verified", &error as &VerifyError)),
    };
    printed?;
    done?;
    gaps(lines, &segments, input)?;
    if let Some(unused) = input.unused {
        lines.line(
            || format!("{unused}: the server has made this segment in advance"),
            || json!({"made_in_advance": unused.to_string()}),
        )?;
    }
    let count = segments.len();
    lines.line(
        || match damaged {
            0 => format!("{count} segments with {records} records are sound"),
            _ => format!("{damaged} of {count} segments are damaged"),
        },
        || json!({"segments": count, "records": records, "damaged": damaged}),
    )?;
    if damaged > 0 { Err(CommandError::reported().into()) } else { Ok(()) }
}

/// A record whose end is missing can't be checked by its checksum. Of a segment of a server's archive that ends in
/// such a record it is known what it held when it was archived: why that is not so any more.
fn altered(report: &SegmentReport, archive: Option<&Layout>) -> Option<String> {
    let (layout, lsn) = (archive?, report.unfinished.filter(|_| report.is_sound())?);
    match IndexStore::of(layout).is_altered(layout, report.segment) {
        Ok(Some(true)) => {
            Some(format!("its bytes are not those that were archived, perhaps in the record at {lsn}"))
        }
        Ok(_) => None,
        Err(error) => Some(chain(&error)),
    }
}

/// Text tells of what needs attention only; JSON of every segment.
fn print(
    lines: &mut Lines,
    report: &SegmentReport,
    altered: Option<&str>,
    input: &Input,
) -> Result<(), Stop> {
    let segment = report.segment;
    if lines.json {
        return lines.line(String::new, || object(report, altered, input));
    }
    if let Some(altered) = altered {
        lines.line(|| format!("{segment}: {altered}"), || json!({}))?;
    }
    for fault in &report.faults {
        let offset = input.segment_size.offset_of(fault.lsn);
        lines
            .line(|| format!("{segment}: {} at {}, offset {offset}", fault.kind, fault.lsn), || json!({}))?;
    }
    if report.more_faults > 0 {
        lines.line(|| format!("{segment}: and {} more faults", report.more_faults), || json!({}))?;
    }
    if let Some(error) = &report.failed {
        lines.line(|| failure(error), || json!({}))?;
    }
    if let Some(end) = report.end {
        lines.line(|| format!("{segment}: the WAL ends at {}: {}", end.lsn, end.kind), || json!({}))?;
    }
    if let Some(lsn) = report.unfinished {
        let why = if report.bytes < input.segment_size.bytes() {
            "is not all there: the file ends"
        } else {
            "goes on in the next segment, which is not at hand"
        };
        lines.line(|| format!("{segment}: the record at {lsn} {why}"), || json!({}))?;
    }
    Ok(())
}

fn object(report: &SegmentReport, altered: Option<&str>, input: &Input) -> serde_json::Value {
    let fault = |fault: &pgwal::Fault| {
        json!({
            "lsn": fault.lsn.to_string(),
            "offset": input.segment_size.offset_of(fault.lsn),
            "fault": fault.kind.to_string(),
        })
    };
    json!({
        "segment": report.segment.to_string(),
        "sound": report.is_sound() && altered.is_none(),
        "postgresql": report.version.map(|version| version.major()),
        "system_id": report.system_id.map(|id| id.to_string()),
        "timeline": report.timeline.map(|timeline| timeline.as_u32()),
        "records": report.records,
        "first_record": report.first.map(|(lsn, _)| lsn.to_string()),
        "last_record": report.last.map(|lsn| lsn.to_string()),
        "end": report.end.as_ref().map(fault),
        "unfinished": report.unfinished.map(|lsn| lsn.to_string()),
        "faults": report.faults.iter().map(fault).collect::<Vec<_>>(),
        "more_faults": report.more_faults,
        "altered": altered,
        "error": report.failed.as_ref().map(failure),
    })
}

/// Why a segment couldn't be read, in one line.
fn failure(error: &VerifyError) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

/// Says where segments are missing in between, on one timeline.
fn gaps(lines: &mut Lines, segments: &[SegmentName], input: &Input) -> Result<(), Stop> {
    for pair in segments.windows(2) {
        let [before, after] = pair else { continue };
        let next = before.next(input.segment_size);
        if before.timeline() == after.timeline() && next != Some(*after) {
            let missing = next.map_or_else(String::new, |next| next.to_string());
            lines.line(
                || format!("{missing}: missing, and perhaps more up to {after}"),
                || json!({"missing_from": missing, "next": after.to_string()}),
            )?;
        }
    }
    Ok(())
}
