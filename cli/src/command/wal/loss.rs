//! Operations that destroy data, as the index of a segment has them: by number.

use pgwal::Fork;
use pgwal::WalVersion;
use pgwal::index::{Destructive, Loss};
use pgwal::rmgr::storage::relation_path;
use serde_json::json;

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
