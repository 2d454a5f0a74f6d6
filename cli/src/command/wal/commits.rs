//! `wal commits`: the ends of transactions.

use pgwal::Record;
use pgwal::rmgr::xact::{Completion, Xact};
use pgwal::rmgr::{Operation, Rmgr};
use serde_json::json;

use super::input::{Input, Pace};
use super::stream::{self, Ended};
use super::{Lines, Stop};
use crate::args::WalSource;

pub(super) fn run(input: &Input, source: &WalSource, lines: &mut Lines) -> Result<Option<Ended>, Stop> {
    stream::records(input, source, Pace::OfOutput, |record, parts| {
        if record.rmgr() != Rmgr::Transaction {
            return Ok(());
        }
        match Operation::read(record, parts) {
            Some(Operation::Transaction(Xact::Commit(commit))) => line(lines, "commit", record, &commit),
            Some(Operation::Transaction(Xact::Abort(abort))) => line(lines, "abort", record, &abort),
            _ => Ok(()),
        }
    })
}

fn line(lines: &mut Lines, what: &str, record: &Record<'_>, end: &Completion<'_>) -> Result<(), Stop> {
    let xid = end.prepared_xid.unwrap_or(record.header.xid);
    let (subxacts, dropped) = (end.subxacts.len(), end.dropped.iter().count());
    lines.line(
        || {
            let mut text =
                format!("{}  {what:<6}  xid {xid:<10}  lsn {}  end {}", end.time, record.lsn, record.end);
            for (count, name) in [(subxacts, "subtransactions"), (dropped, "dropped files")] {
                if count > 0 {
                    text.push_str(&format!("  {count} {name}"));
                }
            }
            text
        },
        || {
            json!({
                "what": what,
                "time": end.time.to_string(),
                "xid": xid,
                "lsn": record.lsn.to_string(),
                "end": record.end.to_string(),
                "subxacts": end.subxacts.iter().collect::<Vec<_>>(),
                "dropped": end.dropped.iter().map(|file| file.to_string()).collect::<Vec<_>>(),
                "database": end.database.map(|(database, _)| database),
            })
        },
    )
}
