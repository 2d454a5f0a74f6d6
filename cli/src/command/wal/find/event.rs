//! A commit that is worth telling, as text and as JSON.

use barkeep_catalog::BackupId;
use pgwal::activity::{Loss, LossKind, Object, TableChange, Tracker};
use pgwal::rmgr::Operation;
use pgwal::rmgr::xlog::Xlog;
use pgwal::{Lsn, Parts, PgTimestamp, Record, SegmentName, TimelineId};
use serde_json::{Value, json};

use super::Told;
use super::chain::Chain;
use crate::args::{FindArgs, FindOp};
use crate::output::text;

/// Deletions and updates are told from so many rows on.
const ROWS_MIN: u64 = 1000;

/// What is asked for.
pub(super) struct Wanted<'a> {
    args: &'a FindArgs,
    rows: u64,
    /// Whether ordinary commits are wanted too.
    all: bool,
}

/// Something that a commit destroyed.
struct Deed {
    op: FindOp,
    /// In the words of SQL: `DROP TABLE`.
    words: String,
    /// Rows deleted or updated.
    rows: Option<u64>,
    /// The number of the column of `object` that is dropped.
    column: Option<u16>,
    object: Object,
}

/// A commit that is worth telling.
pub(super) struct Event {
    told: Told,
    database: Option<String>,
    deeds: Vec<Deed>,
    way_back: WayBack,
}

/// How to go back to just before.
enum WayBack {
    /// Of WAL that is nobody's, only the position is known.
    Position,
    /// No backup is early enough.
    None,
    Backup {
        id: BackupId,
        server: String,
    },
}

impl WayBack {
    fn to(lsn: Lsn, chain: Option<&Chain>) -> Self {
        match chain {
            Some(chain) => chain
                .backup_before(lsn)
                .map_or(WayBack::None, |id| WayBack::Backup { id, server: chain.server.clone() }),
            None => WayBack::Position,
        }
    }

    /// The options of `restore`, with the words around them where these are known.
    fn command(&self, options: &str) -> String {
        match self {
            WayBack::Position => options.to_owned(),
            WayBack::None => "no backup is early enough".to_owned(),
            WayBack::Backup { id, server } => {
                format!("barkeep restore {options} {} {id} DIRECTORY", word(server))
            }
        }
    }
}

/// A restore point.
pub(super) struct Point {
    pub(super) name: String,
    pub(super) time: PgTimestamp,
    pub(super) lsn: Lsn,
    timeline: TimelineId,
    way_back: WayBack,
}

impl Point {
    /// What a record says, if it is a restore point.
    pub(super) fn read(
        record: &Record<'_>,
        parts: &mut Parts,
        segment: SegmentName,
        chain: Option<&Chain>,
    ) -> Option<Self> {
        if !super::is_restore_point(&record.header) || parts.read(record).is_err() {
            return None;
        }
        let Operation::Xlog(Xlog::RestorePoint { name, time }) = Operation::read(record, parts)? else {
            return None;
        };
        let name = String::from_utf8_lossy(name).into_owned();
        let timeline = chain.map_or(segment.timeline(), |chain| chain.timeline_at(record.lsn));
        Some(Point { name, time, lsn: record.lsn, timeline, way_back: WayBack::to(record.lsn, chain) })
    }

    /// What it is, in one line.
    pub(super) fn summary(&self) -> String {
        format!("restore point {}", identifier(&self.name))
    }

    /// The options of `restore`, or the whole command, that lead to it: by its position, because names may be given twice.
    pub(super) fn back(&self) -> String {
        self.way_back.command(&format!("--target-lsn {} --target-tli {}", self.lsn, self.timeline.as_u32()))
    }
}

impl<'a> Wanted<'a> {
    pub(super) fn new(args: &'a FindArgs) -> Self {
        let by_default = if args.table.is_some() { 1 } else { ROWS_MIN };
        let in_span = args.around.is_some() || !args.between.is_empty();
        let narrowed = !args.op.is_empty() || args.table.is_some();
        Wanted {
            args,
            rows: args.rows.unwrap_or(by_default).max(1),
            all: args.commits || args.tui || (in_span && !narrowed),
        }
    }

    /// The commit as an event, if it is wanted.
    pub(super) fn event(
        &self,
        commit: pgwal::activity::Commit,
        timeline: TimelineId,
        tracker: &Tracker,
    ) -> Option<Event> {
        if !self.all && commit.losses.is_empty() && commit.tables.is_empty() {
            return None;
        }
        let deeds: Vec<Deed> = commit
            .losses
            .iter()
            .map(Deed::loss)
            .chain(commit.tables.iter().filter(|change| !change.is_new).flat_map(|change| {
                // Rows of what is dropped or emptied as a whole are not told again.
                let gone = commit.losses.iter().any(|loss| loss.is_whole() && loss.object == change.table);
                if gone { Vec::new() } else { self.rows_of(change) }
            }))
            .filter(|deed| self.args.op.is_empty() || self.args.op.contains(&deed.op))
            .filter(|deed| self.args.table.as_deref().is_none_or(|name| names(&deed.object, name)))
            .collect();
        if deeds.is_empty() && !self.all {
            return None;
        }
        let known = commit.database.and_then(|oid| tracker.names().database(oid));
        let told = deeds.iter().find_map(|deed| deed.object.database.clone());
        let database = told.or_else(|| known.map(|row| row.name.text(row.encoding)));
        Some(Event { told: (commit, timeline), database, deeds, way_back: WayBack::Position })
    }

    fn rows_of(&self, change: &TableChange) -> Vec<Deed> {
        let deed = |op, word: &str, rows: u64| Deed {
            op,
            words: word.to_owned(),
            rows: Some(rows),
            column: None,
            object: change.table.clone(),
        };
        let deleted = (change.deleted >= self.rows).then(|| deed(FindOp::Delete, "DELETE", change.deleted));
        let updated = (change.updated >= self.rows).then(|| deed(FindOp::Update, "UPDATE", change.updated));
        deleted.into_iter().chain(updated).collect()
    }
}

impl Deed {
    fn loss(loss: &Loss) -> Self {
        let op = if loss.kind == LossKind::Truncate { FindOp::Truncate } else { FindOp::Drop };
        let words = match loss.kind {
            LossKind::DropRelation | LossKind::Truncate | LossKind::RemoveFile => {
                format!("{} {}", loss.kind.words(), loss.object.kind_words())
            }
            kind => kind.words().to_owned(),
        };
        let column = match loss.kind {
            LossKind::DropColumn { number } => Some(number),
            _ => None,
        };
        Deed { op, words, rows: None, column, object: loss.object.clone() }
    }

    fn text(&self) -> String {
        let part = match (self.rows, self.column) {
            (Some(1), _) => "1 row of ".to_owned(),
            (Some(rows), _) => format!("{rows} rows of "),
            (None, Some(column)) => format!("{column} of "),
            (None, None) => String::new(),
        };
        format!("{} {part}{}", self.words, shown(&self.object))
    }

    fn json(&self) -> Value {
        let object = &self.object;
        json!({
            "what": match self.op {
                FindOp::Drop => "drop",
                FindOp::Truncate => "truncate",
                FindOp::Delete => "delete",
                FindOp::Update => "update",
            },
            "statement": self.words,
            "rows": self.rows,
            "column": self.column,
            "database": object.database,
            "database_oid": Some(object.database_oid).filter(|oid| *oid != 0),
            "schema": object.schema,
            "name": object.name,
            "oid": object.oid,
            "file": object.file.map(|file| file.to_string()),
            "kind": object.relation_kind.map(|kind| char::from(kind).to_string()),
        })
    }
}

impl Event {
    /// Whether every name in it is known.
    pub(super) fn is_told(&self) -> bool {
        let is_named =
            |object: &Object| object.name.is_some() || object.schema.is_some() || object.database.is_some();
        self.deeds
            .iter()
            .all(|deed| is_named(&deed.object) && (deed.object.file.is_none() || deed.object.name.is_some()))
    }

    /// Adds how to go back to just before.
    pub(super) fn with_way_back(mut self, chain: Option<&Chain>) -> Self {
        self.way_back = WayBack::to(self.told.0.before, chain);
        self
    }

    fn options(&self) -> [String; 5] {
        let (commit, timeline) = &self.told;
        [
            "--target-lsn".to_owned(),
            commit.before.to_string(),
            "--exclusive".to_owned(),
            "--target-tli".to_owned(),
            timeline.as_u32().to_string(),
        ]
    }

    /// What happened, in one line.
    pub(super) fn summary(&self) -> String {
        let deeds: Vec<String> = self.deeds.iter().map(Deed::text).collect();
        if !deeds.is_empty() {
            return deeds.join(", ");
        }
        let tables: Vec<String> = self.told.0.tables.iter().map(rows_changed).collect();
        if tables.is_empty() { "(no rows of tables)".to_owned() } else { tables.join("; ") }
    }

    /// All there is to tell, a line each.
    pub(super) fn details(&self) -> Vec<String> {
        let commit = self.commit();
        let database = self.database.as_deref().map(|name| format!(", database {}", identifier(name)));
        let mut lines = vec![
            format!("Transaction {} committed at {}", commit.xid, commit.time),
            format!(
                "LSN {}, {} of WAL{}",
                commit.lsn,
                text::size_u64(commit.bytes),
                database.unwrap_or_default()
            ),
        ];
        lines.extend(self.deeds.iter().map(Deed::text));
        lines.extend(commit.tables.iter().map(rows_changed));
        lines
    }

    /// The commit itself.
    pub(super) fn commit(&self) -> &pgwal::activity::Commit {
        &self.told.0
    }

    /// Whether it destroyed something.
    pub(super) fn is_destructive(&self) -> bool {
        !self.deeds.is_empty()
    }

    /// The options of `restore`, or the whole command, that lead to just before.
    pub(super) fn back(&self) -> String {
        self.way_back.command(&self.options().join(" "))
    }

    pub(super) fn text(&self) -> String {
        let (commit, _) = &self.told;
        let mut lines = format!(
            "{}  xid {:<10}  lsn {}  {}",
            commit.time,
            commit.xid,
            commit.lsn,
            text::size_u64(commit.bytes)
        );
        if let Some(database) = &self.database {
            lines.push_str(&format!("  database {}", identifier(database)));
        }
        for deed in &self.deeds {
            lines.push_str(&format!("\n    {}", deed.text()));
        }
        if self.deeds.is_empty() {
            for change in &commit.tables {
                lines.push_str(&format!("\n    {}", rows_changed(change)));
            }
            return lines;
        }
        lines.push_str(&format!("\n    just before: {}", self.back()));
        lines
    }

    pub(super) fn json(&self) -> Value {
        let (commit, timeline) = &self.told;
        let restore = |backup: Option<&BackupId>| {
            json!({
                "backup_id": backup.map(ToString::to_string),
                "target_lsn": commit.before.to_string(),
                "exclusive": true,
                "target_tli": timeline.as_u32(),
                "options": self.options(),
            })
        };
        json!({
            "time": commit.time.to_string(),
            "xid": commit.xid,
            "lsn": commit.lsn.to_string(),
            "end": commit.end.to_string(),
            "timeline": timeline.as_u32(),
            "bytes": commit.bytes,
            "database": self.database,
            "destroyed": self.deeds.iter().map(Deed::json).collect::<Vec<_>>(),
            "tables": commit.tables.iter().map(|change| json!({
                "schema": change.table.schema,
                "name": change.table.name,
                "oid": change.table.oid,
                "inserted": change.inserted,
                "updated": change.updated,
                "deleted": change.deleted,
            })).collect::<Vec<_>>(),
            "restore": match &self.way_back {
                _ if self.deeds.is_empty() => Value::Null,
                WayBack::None => Value::Null,
                WayBack::Position => restore(None),
                WayBack::Backup { id, .. } => restore(Some(id)),
            },
        })
    }
}

/// What something is called, as SQL would: `db.schema.name`; by number where the name isn't known.
fn shown(object: &Object) -> String {
    let parts = [&object.database, &object.schema, &object.name];
    let names: Vec<String> = parts.into_iter().flatten().map(|name| identifier(name)).collect();
    let number = match (object.file, object.oid) {
        _ if object.name.is_some() => return names.join("."),
        (Some(file), _) => format!("file {file}"),
        (None, Some(_)) if !names.is_empty() => return names.join("."),
        (None, Some(oid)) => format!("OID {oid}"),
        (None, None) => "of unknown name".to_owned(),
    };
    if names.is_empty() { number } else { format!("{number} in {}", names.join(".")) }
}

/// What happened to a table's rows.
fn rows_changed(change: &TableChange) -> String {
    let TableChange { inserted, updated, deleted, .. } = change;
    format!("{}: {inserted} inserted, {updated} updated, {deleted} deleted", shown(&change.table))
}

/// A name as SQL writes it, in double quotes where it needs them. What would move a terminal's cursor is shown as a number.
fn identifier(name: &str) -> String {
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    if starts && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
        return name.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in name.chars() {
        match c {
            '"' => quoted.push_str("\"\""),
            c if c.is_control() => quoted.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// A word for the shell.
fn word(text: &str) -> String {
    shell_words::quote(text).into_owned()
}

/// Whether a person means this object by `wish`: its name, with its schema and its database if wished, quoted as in SQL or
/// not; as in SQL, capitals that are not quoted may stand for small letters.
fn names(object: &Object, wish: &str) -> bool {
    let parts: Vec<&str> =
        [&object.database, &object.schema, &object.name].into_iter().flatten().map(String::as_str).collect();
    (0..parts.len()).any(|from| {
        let plain = parts[from..].join(".");
        let quoted: Vec<String> = parts[from..].iter().map(|part| identifier(part)).collect();
        plain == wish || quoted.join(".") == wish || (!wish.contains('"') && plain == wish.to_lowercase())
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// All that a commit destroyed, in WAL that is nobody's.
    pub(in crate::command::wal::find) fn event(
        commit: pgwal::activity::Commit,
        timeline: TimelineId,
    ) -> Event {
        let deeds = commit.losses.iter().map(Deed::loss).collect();
        Event { told: (commit, timeline), database: None, deeds, way_back: WayBack::Position }
    }

    fn object(schema: &str, name: &str) -> Object {
        Object {
            database: Some("shop".to_owned()),
            schema: Some(schema.to_owned()),
            name: Some(name.to_owned()),
            ..Object::default()
        }
    }

    #[test]
    fn names_are_shown_as_sql_has_them_and_can_be_asked_for_so() {
        let odd = object("public", "Or\"ders 1\u{1b}[2J");
        assert_eq!(shown(&odd), "shop.public.\"Or\"\"ders 1\\u{1b}[2J\"");
        for wish in ["Or\"ders 1\u{1b}[2J", "public.Or\"ders 1\u{1b}[2J", &shown(&odd)] {
            assert!(names(&odd, wish), "{wish}");
        }
        let plain = object("public", "t");
        assert!(names(&plain, "t") && names(&plain, "public.t") && names(&plain, "shop.public.t"));
        assert!(names(&plain, "T") && names(&plain, "Public.T") && names(&object("S", "T"), "S.T"));
        assert!(!names(&plain, "other.t") && !names(&plain, "public") && !names(&plain, "\"T\""));
        assert!(!names(&object("S", "T"), "s.t"));
    }

    #[test]
    fn what_has_no_name_is_told_by_number() {
        let file = Some(pgwal::RelFile { tablespace: 1663, database: 5, number: 16400 });
        assert_eq!(shown(&Object { file, ..Object::default() }), "file 1663/5/16400");
        assert_eq!(shown(&Object { oid: Some(7), ..Object::default() }), "OID 7");
        let of_shop = Object { file, database: Some("shop".to_owned()), ..Object::default() };
        assert_eq!(shown(&of_shop), "file 1663/5/16400 in shop");
    }
}
