//! `wal stats`: records and bytes, by resource manager, operation or relation.

use std::collections::BTreeMap;

use pgwal::{Lsn, Parts, Record};
use serde_json::json;

use super::filter::Filter;
use super::input::{Input, Pace};
use super::stream::{self, Ended};
use super::{Lines, Stop};
use crate::args::StatsArgs;

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    records: u64,
    record_bytes: u64,
    image_bytes: u64,
}

impl Count {
    fn add(&mut self, record_bytes: u64, image_bytes: u64) {
        self.records += 1;
        self.record_bytes += record_bytes;
        self.image_bytes += image_bytes;
    }

    fn bytes(&self) -> u64 {
        self.record_bytes + self.image_bytes
    }
}

pub(super) fn run(input: &Input, args: &StatsArgs, lines: &mut Lines) -> Result<Option<Ended>, Stop> {
    // By manager's number and operation, so that the order is that of pg_waldump; the name is made at the end.
    let mut counts: BTreeMap<(u8, u8, String), Count> = BTreeMap::new();
    let mut filter = Filter::new(&args.filter);
    let (mut range, mut total): (Option<(Lsn, Lsn)>, Count) = (None, Count::default());
    let ended = stream::records(input, &args.source, Pace::Steady, |record, parts| {
        if !filter.accepts(record, parts) {
            return Ok(());
        }
        range = Some((range.map_or(record.lsn, |(start, _)| start), record.end));
        let image_bytes = u64::from(parts.image_bytes());
        let record_bytes = u64::from(record.header.total_bytes).saturating_sub(image_bytes);
        total.add(record_bytes, image_bytes);
        if args.by_relation {
            by_relation(&mut counts, parts);
        } else {
            let operation = if args.by_record { record.header.operation() } else { 0 };
            let key = (record.header.rmid, operation, name(record, args.by_record));
            counts.entry(key).or_default().add(record_bytes, image_bytes);
        }
        Ok(())
    })?;
    let mut rows: Vec<(String, Count)> =
        counts.into_iter().map(|((.., name), count)| (name, count)).collect();
    if args.by_relation {
        rows.sort_by_key(|(_, count)| std::cmp::Reverse(count.bytes()));
    }
    let Some((start, end)) = range else { return Ok(ended) };
    lines.line(
        || format!("WAL statistics between {start} and {end}:\n{}", header()),
        || json!({"start": start.to_string(), "end": end.to_string(), "records": total.records}),
    )?;
    for (name, count) in rows.into_iter().chain([("Total".to_owned(), total)]) {
        lines.line(|| row(&name, &count, &total), || object(&name, &count))?;
    }
    Ok(ended)
}

/// What a record says of a relation: the data and the image of each of its blocks.
fn by_relation(counts: &mut BTreeMap<(u8, u8, String), Count>, parts: &Parts) {
    for block in &parts.blocks {
        let image = block.image.as_ref().map_or(0, |image| u64::from(image.stored_bytes()));
        let key = (0, 0, block.relation.to_string());
        counts.entry(key).or_default().add(u64::from(block.data.end - block.data.start), image);
    }
}

fn name(record: &Record<'_>, by_record: bool) -> String {
    if !by_record {
        return record.rmgr().to_string();
    }
    match record.operation_name() {
        Some(operation) => format!("{}/{operation}", record.rmgr()),
        None => format!("{}/UNKNOWN ({:x})", record.rmgr(), record.header.operation()),
    }
}

fn header() -> String {
    let names = ["N", "(%)", "Record size", "(%)", "FPI size", "(%)", "Combined size", "(%)"];
    let mut text = format!("{:<27}", "Type");
    for pair in names.chunks(2) {
        text.push_str(&format!(" {:>20} {:>8}", pair[0], pair[1]));
    }
    text
}

fn row(name: &str, count: &Count, total: &Count) -> String {
    let columns = [
        (count.records, total.records),
        (count.record_bytes, total.record_bytes),
        (count.image_bytes, total.image_bytes),
        (count.bytes(), total.bytes()),
    ];
    let mut text = format!("{name:<27}");
    for (part, whole) in columns {
        let percent = if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 };
        text.push_str(&format!(" {part:>20} ({percent:6.2})"));
    }
    text
}

fn object(name: &str, count: &Count) -> serde_json::Value {
    json!({
        "name": name,
        "records": count.records,
        "record_bytes": count.record_bytes,
        "image_bytes": count.image_bytes,
    })
}
