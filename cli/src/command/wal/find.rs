//! `wal find`: what destroyed data, and the commit that made it so.

use pgwal::Fork;
use pgwal::WalVersion;
use pgwal::index::{Destructive, Loss};
use pgwal::rmgr::storage::relation_path;
use serde_json::json;

use super::input::Input;
use super::stream::{self, Ended};
use super::{Lines, Stop};
use crate::args::WalSource;

pub(super) fn run(input: &Input, source: &WalSource, lines: &mut Lines) -> Result<Option<Ended>, Stop> {
    stream::indexes(input, false, |index| {
        for operation in &index.destructive.entries {
            let in_range = source.from.is_none_or(|from| operation.lsn >= from)
                && source.to.is_none_or(|to| operation.lsn < to);
            if in_range {
                lines
                    .line(|| loss_text(operation, index.version), || loss_object(operation, index.version))?;
            }
        }
        if index.destructive.more > 0 {
            let (more, segment) = (index.destructive.more, index.segment);
            lines.line(
                || format!("... and {more} more in segment {segment}"),
                || json!({"segment": segment.to_string(), "more": more}),
            )?;
        }
        Ok(())
    })
}

/// An operation as a line.
pub(super) fn loss_text(operation: &Destructive, version: WalVersion) -> String {
    let (kind, object) = describe(&operation.what, version);
    let when = operation.commit.map(|(lsn, time)| format!("  committed {time} at {lsn}")).unwrap_or_default();
    format!("{kind:<16}  {object}  xid {}  lsn {}{when}", operation.xid, operation.lsn)
}

/// An operation as JSON.
pub(super) fn loss_object(operation: &Destructive, version: WalVersion) -> serde_json::Value {
    let (kind, object) = describe(&operation.what, version);
    json!({
        "what": kind,
        "object": object,
        "xid": operation.xid,
        "lsn": operation.lsn.to_string(),
        "commit_lsn": operation.commit.map(|(lsn, _)| lsn.to_string()),
        "commit_time": operation.commit.map(|(_, time)| time.to_string()),
    })
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
