//! `wal find`: what destroyed data, and the commit that made it so.

use std::io::Read;

use pgwal::Fork;
use pgwal::index::{Destructive, IndexOptions, Indexer, Loss, SegmentIndex};
use pgwal::reader::CHUNK_BYTES;
use pgwal::rmgr::storage::relation_path;
use pgwal::{PgTimestamp, WalVersion};
use serde_json::json;

use super::input::Input;
use super::{Lines, Stop, stream};
use crate::args::WalSource;
use crate::error::CommandError;

pub(super) fn run(input: &Input, source: &WalSource, lines: &mut Lines) -> Result<(), Stop> {
    let options = IndexOptions { segment_size: input.segment_size, blocks: false };
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut before: Option<SegmentIndex> = None;
    let segments = input.segments();
    for (at, segment) in segments.iter().enumerate() {
        let going = before.take().and_then(|before| Indexer::after(&before, *segment, false));
        let fresh = || Indexer::new(*segment, options).ok_or_else(|| stream::misfit(*segment, input));
        let mut indexer = going.map_or_else(fresh, Ok)?;
        let mut file = stream::open(input, *segment)?;
        loop {
            let count = file.read(&mut buffer).map_err(|error| stream::unreadable(*segment, &error))?;
            match indexer.feed(&buffer[..count]) {
                Ok(()) if count > 0 => {}
                Ok(()) => break,
                Err(_) if at + 1 == segments.len() => break,
                Err(fault) => {
                    return Err(CommandError::new(format!("Segment {segment} is damaged: {fault}"))
                        .hint("barkeep wal verify tells all that is wrong")
                        .into());
                }
            }
        }
        let Some(index) = indexer.finish() else { continue };
        for operation in &index.destructive.entries {
            let in_range = source.from.is_none_or(|from| operation.lsn >= from)
                && source.to.is_none_or(|to| operation.lsn < to);
            if in_range {
                print(lines, operation, index.version)?;
            }
        }
        if index.destructive.more > 0 {
            let more = index.destructive.more;
            lines.line(
                || format!("... and {more} more in segment {segment}"),
                || json!({"segment": segment.to_string(), "more": more}),
            )?;
        }
        before = Some(index);
    }
    Ok(())
}

fn print(lines: &mut Lines, operation: &Destructive, version: WalVersion) -> Result<(), Stop> {
    let (kind, object) = describe(&operation.what, version);
    lines.line(
        || {
            let when = operation.commit.map_or_else(String::new, |(lsn, time)| commit_text(lsn, time));
            format!("{kind:<16}  {object}  xid {}  lsn {}{when}", operation.xid, operation.lsn)
        },
        || {
            json!({
                "what": kind,
                "object": object,
                "xid": operation.xid,
                "lsn": operation.lsn.to_string(),
                "commit_lsn": operation.commit.map(|(lsn, _)| lsn.to_string()),
                "commit_time": operation.commit.map(|(_, time)| time.to_string()),
            })
        },
    )
}

fn commit_text(lsn: pgwal::Lsn, time: PgTimestamp) -> String {
    format!("  committed {time} at {lsn}")
}

fn describe(what: &Loss, version: WalVersion) -> (&'static str, String) {
    match what {
        Loss::RelationFile(file) => ("dropped file", relation_path(*file, Fork::MAIN, version)),
        Loss::RelationEnd { file, blocks } => {
            ("cut off", format!("{} to {blocks} blocks", relation_path(*file, Fork::MAIN, version)))
        }
        Loss::TruncatedTable { database, relation } => {
            ("truncated table", format!("OID {relation} in database {database}"))
        }
        Loss::Database(oid) => ("dropped database", format!("OID {oid}")),
        Loss::Tablespace(oid) => ("dropped tablespace", format!("OID {oid}")),
    }
}
