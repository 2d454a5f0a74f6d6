//! `check-wal-archive` and `check-archived-wal-range`: what is in the archive, and what is missing there.

use barkeep_catalog::{gaps, xlogdb};
use pgwal::{SegmentName, SegmentSize};
use serde_json::{Value, json};

use crate::args::{CheckArchivedWalRangeArgs, CheckWalArchiveArgs};
use crate::context::{Context, Policy, ServerContext};
use crate::error::CommandError;
use crate::output::{Report, Style};

/// Checks that the archive can take the WAL of a new server: it is empty, or holds only older timelines.
///
/// # Errors
/// When it holds other WAL, or can't be read.
pub fn archive(context: &mut Context, args: &CheckWalArchiveArgs) -> Result<(), CommandError> {
    let server = context.server(&args.server, Policy::Query)?;
    let name = server.name();
    server.output.report(&Opening(name));
    let entries = xlogdb::read(&server.layout())?.entries;
    let failed =
        |why: String| Err(CommandError::new(format!("WAL archive check failed for server {name}: {why}")));
    match args.timeline {
        None if !entries.is_empty() => return failed("Expected empty archive".to_owned()),
        None => {}
        Some(timeline) => {
            let newer = entries.iter().filter(|entry| entry.file.timeline() >= timeline).count();
            if newer > 0 {
                let files = if newer == 1 { "file" } else { "files" };
                return failed(format!(
                    "Found {newer} {files} in WAL archive equal to or newer than timeline {timeline}"
                ));
            }
        }
    }
    server.output.report(&Passed(name));
    Ok(())
}

/// Checks that every segment from one to another is archived.
///
/// # Errors
/// When one is missing, or the range makes no sense.
pub fn range(context: &mut Context, args: &CheckArchivedWalRangeArgs) -> Result<(), CommandError> {
    let server = context.server(&args.server, Policy::Query)?;
    let name = server.name();
    let segment = |text| CheckArchivedWalRangeArgs::segment(text).map_err(CommandError::new);
    let (begin, end) = (segment(&args.begin)?, segment(&args.end)?);
    if begin.timeline() != end.timeline() {
        return Err(CommandError::new(format!(
            "begin_wal ({begin}) and end_wal ({end}) must be on the same timeline"
        )));
    }
    if begin > end {
        return Err(CommandError::new(format!(
            "begin_wal ({begin}) must not be greater than end_wal ({end})"
        )));
    }
    let size = segment_size(&server)?.ok_or_else(|| {
        CommandError::new(format!("No backup found for server '{name}': cannot determine WAL segment size"))
            .hint("nor is there any WAL in its archive that tells it")
    })?;
    let missing = gaps::missing_between(&server.layout(), begin, end, size)
        .map_err(|error| CommandError::new(error.to_string()))?;
    let count = missing.len();
    server.output.report(&Range { server: name, begin, end, missing });
    if count > 0 {
        return Err(CommandError::new(format!(
            "WAL sequence check failed for server '{name}': {count} missing segment(s) in range {begin}..{end}"
        )));
    }
    Ok(())
}

/// The segment size of a server: what its newest backup says, or else its archived WAL.
pub(super) fn segment_size(server: &ServerContext) -> Result<Option<SegmentSize>, CommandError> {
    let catalog = server.catalog();
    if let Some(newest) = catalog.backups()?.iter().next_back() {
        return Ok(Some(newest.segment_size));
    }
    Ok(barkeep_catalog::wal::archive_segment_size(&server.layout())?)
}

/// The line that a check begins with.
struct Opening<'a>(&'a str);

impl Report for Opening<'_> {
    fn server(&self) -> &str {
        self.0
    }

    fn json(&self) -> Value {
        json!({})
    }

    fn console(&self, _style: Style) -> String {
        format!("Server {}:\n", self.0)
    }
}

struct Passed<'a>(&'a str);

impl Report for Passed<'_> {
    fn server(&self) -> &str {
        self.0
    }

    fn json(&self) -> Value {
        json!(format!("WAL archive check for server {} passed", self.0))
    }

    fn console(&self, _style: Style) -> String {
        format!(" - WAL archive check for server {} passed\n", self.0)
    }
}

struct Range<'a> {
    server: &'a str,
    begin: SegmentName,
    end: SegmentName,
    missing: Vec<SegmentName>,
}

impl Report for Range<'_> {
    fn server(&self) -> &str {
        self.server
    }

    fn json(&self) -> Value {
        let missing: Vec<String> = self.missing.iter().map(ToString::to_string).collect();
        json!({"begin_wal": self.begin.to_string(), "end_wal": self.end.to_string(), "missing_wals": missing})
    }

    fn console(&self, _style: Style) -> String {
        let mut text = format!("Server {}:\n\tWAL sequence check for server {}: ", self.server, self.server);
        if self.missing.is_empty() {
            return text + "all segments are present\n";
        }
        text.push_str(&format!("{} missing segment(s):\n", self.missing.len()));
        for segment in &self.missing {
            text.push_str(&format!("\t\t{segment}\n"));
        }
        text
    }
}
