//! `wal`: looking into WAL.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use pgwal::rmgr::Rmgr;
use pgwal::{Fork, Lsn, PgTimestamp, RelFile, TimelineId};

use crate::error::CommandError;
use crate::moment::Moment;

/// The characters of a segment's name, with which those of compressed and partial ones begin.
const SEGMENT_NAME_CHARS: usize = 24;

/// `wal`.
#[derive(Debug, Args)]
pub struct WalArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: WalCommand,
}

/// What to do with WAL.
#[derive(Debug, Subcommand)]
pub enum WalCommand {
    /// Check that WAL is sound, from the first byte to the last
    Verify(VerifyArgs),
    /// Count records and bytes, by resource manager, operation or relation
    Stats(StatsArgs),
    /// Print records, as pg_waldump does
    Dump(DumpArgs),
    /// Summarise each segment: commits, restore points, checkpoints, what was destroyed, which blocks changed
    Index(IndexArgs),
    /// List commits and aborts with their times
    Commits(WalSource),
    /// Tell what happened: drops, truncations, mass deletions and updates by name, and how to restore to just before
    Find(FindArgs),
}

/// Which WAL.
#[derive(Debug, Clone, Args)]
pub struct WalSource {
    /// WAL files (plain or compressed), directories of them, - for standard input, or a server's name for its archive
    #[arg(value_name = "PATH", required_unless_present = "server")]
    pub paths: Vec<PathBuf>,
    /// The WAL archive of this server
    #[arg(short, long, value_name = "SERVER")]
    pub server: Option<String>,
    /// Start here: a position (1/2345678)
    #[arg(long, value_name = "LSN")]
    pub from: Option<Lsn>,
    /// Stop here: a position
    #[arg(long, value_name = "LSN")]
    pub to: Option<Lsn>,
}

/// `wal verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Which WAL.
    #[command(flatten)]
    pub source: WalSource,
    /// The WAL may end inside the last segment, as in a running server's pg_wal (always so for .partial files)
    #[arg(long)]
    pub may_end: bool,
    /// Use this many threads [default: one per processor]
    #[arg(short = 'j', long, value_name = "COUNT", value_parser = super::values::positive)]
    pub jobs: Option<u32>,
    /// The cluster's system identifier
    #[arg(long, value_name = "ID")]
    pub system_id: Option<u64>,
}

/// `wal stats`.
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Which WAL.
    #[command(flatten)]
    pub source: WalSource,
    /// Which records.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Count by operation rather than by resource manager
    #[arg(long, conflicts_with = "by_relation")]
    pub by_record: bool,
    /// Count by relation file
    #[arg(long)]
    pub by_relation: bool,
}

/// `wal index`.
#[derive(Debug, Args)]
pub struct IndexArgs {
    /// Which WAL.
    #[command(flatten)]
    pub source: WalSource,
    /// Also list the relation files whose blocks change, and how many of them do
    #[arg(long)]
    pub blocks: bool,
    /// One summary of all segments that follow one another
    #[arg(long)]
    pub merge: bool,
}

/// `wal dump`.
#[derive(Debug, Args)]
pub struct DumpArgs {
    /// Which WAL.
    #[command(flatten)]
    pub source: WalSource,
    /// Which records.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Print blocks in a line each, with details of their images
    #[arg(short, long)]
    pub bkp_details: bool,
    /// Stop after this many records
    #[arg(short = 'n', long, value_name = "COUNT", value_parser = super::values::positive)]
    pub limit: Option<u32>,
}

/// Which records.
#[derive(Debug, Args)]
pub struct FilterArgs {
    /// Records of this resource manager (may be given several times)
    #[arg(short, long, value_name = "NAME", value_parser = resource_manager)]
    pub rmgr: Vec<Rmgr>,
    /// Records that concern this relation file: TABLESPACE/DATABASE/NUMBER
    #[arg(short = 'R', long, value_name = "T/D/R", value_parser = relation)]
    pub relation: Option<RelFile>,
    /// Records that concern this block
    #[arg(short = 'B', long, value_name = "NUMBER")]
    pub block: Option<u32>,
    /// Records that concern this fork: main, fsm, vm, init
    #[arg(short = 'F', long, value_name = "FORK", value_parser = fork)]
    pub fork: Option<Fork>,
    /// Records of this transaction
    #[arg(short, long, value_name = "XID")]
    pub xid: Option<u32>,
    /// Records with a full-page image
    #[arg(short = 'w', long)]
    pub fullpage: bool,
    /// Records after the first commit or abort at this moment or later ("2024-05-01 10:00:00 Europe/Rome")
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since: Option<PgTimestamp>,
    /// Records before the first commit or abort later than this moment
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub until: Option<PgTimestamp>,
}

/// `wal find`.
#[derive(Debug, Args)]
pub struct FindArgs {
    /// Which WAL: files, directories, or the name of a server.
    #[command(flatten)]
    pub source: WalSource,
    /// All that happened around this moment ("2024-05-01 10:00", or "14:05" for the last time it was that late)
    #[arg(long, value_name = "TIME", value_parser = around, conflicts_with = "between")]
    pub around: Option<PgTimestamp>,
    /// How long before and after the moment ("10m", "2 hours") [default: 5 minutes]
    #[arg(long, value_name = "LENGTH", value_parser = length, requires = "around")]
    pub margin: Option<i64>,
    /// All that happened between two moments
    #[arg(long, num_args = 2, value_names = ["FROM", "TO"], value_parser = around)]
    pub between: Vec<PgTimestamp>,
    /// Only what concerns this table: NAME, SCHEMA.NAME or DATABASE.SCHEMA.NAME
    #[arg(long, value_name = "NAME", value_parser = table)]
    pub table: Option<String>,
    /// Only this kind of loss (may be given several times)
    #[arg(long, value_name = "KIND", ignore_case = true, value_delimiter = ',')]
    pub op: Vec<FindOp>,
    /// Tell of deletions and updates from so many rows of a table on [default: 1000, with --table 1]
    #[arg(long, value_name = "COUNT")]
    pub rows: Option<u64>,
    /// Also list ordinary commits
    #[arg(long)]
    pub commits: bool,
    /// Show it on the whole terminal, ordinary commits and restore points too: to scroll, to search, and to pick the moment
    #[arg(long)]
    pub tui: bool,
    /// Follow the WAL to this timeline [default: the newest in the archive]
    #[arg(long, value_name = "NUMBER", value_parser = timeline)]
    pub timeline: Option<TimelineId>,
}

/// Kinds of losses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FindOp {
    /// Tables, views, sequences, schemas and databases dropped; neither indexes nor columns.
    Drop,
    /// Tables truncated.
    Truncate,
    /// Rows deleted.
    Delete,
    /// Rows updated.
    Update,
}

impl WalArgs {
    /// The server whose archive is meant, if one is: that of the option, or a word that is neither a path nor a WAL file's name.
    pub fn server(&self) -> Option<&str> {
        let source = self.command.source();
        let word = || match source.paths.as_slice() {
            [path] if !path.exists() => path.to_str().filter(|word| may_be_a_server(word)),
            _ => None,
        };
        source.server.as_deref().or_else(word)
    }
}

/// Whether a word is more likely a server's name than a file that is missing.
fn may_be_a_server(word: &str) -> bool {
    let is_wal = word.len() >= SEGMENT_NAME_CHARS
        && word.bytes().take(SEGMENT_NAME_CHARS).all(|byte| byte.is_ascii_hexdigit());
    !is_wal && !word.contains('/') && word != "-"
}

impl WalCommand {
    /// Whether the WAL may end before the last segment does.
    pub fn may_end(&self) -> bool {
        if let WalCommand::Verify(args) = self { args.may_end } else { true }
    }

    /// Which WAL it reads.
    pub fn source(&self) -> &WalSource {
        match self {
            WalCommand::Verify(args) => &args.source,
            WalCommand::Stats(args) => &args.source,
            WalCommand::Dump(args) => &args.source,
            WalCommand::Index(args) => &args.source,
            WalCommand::Commits(source) => source,
            WalCommand::Find(args) => &args.source,
        }
    }
}

fn resource_manager(text: &str) -> Result<Rmgr, String> {
    Rmgr::from_name(text).ok_or_else(|| {
        let names: Vec<&str> = Rmgr::built_in().map(Rmgr::name).collect();
        format!("\"{text}\" is no resource manager: expected {} or custom###", names.join(", "))
    })
}

fn relation(text: &str) -> Result<RelFile, String> {
    let mut numbers = text.split('/').map(str::parse);
    match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(tablespace)), Some(Ok(database)), Some(Ok(number)), None) => {
            Ok(RelFile { tablespace, database, number })
        }
        _ => Err(format!(
            "\"{text}\" is no relation file: expected TABLESPACE/DATABASE/NUMBER, like 1663/5/16384"
        )),
    }
}

fn time(text: &str) -> Result<PgTimestamp, String> {
    let read = Moment::read(text, &jiff::tz::TimeZone::system()).and_then(|moment| moment.postgres());
    read.map_err(|error| error.to_string())
}

/// A moment; a time without a date is the last one that is past.
fn around(text: &str) -> Result<PgTimestamp, String> {
    let text = text.trim();
    // A date has no colon so early.
    let padded = match text.find(':') {
        Some(1) => format!("0{text}"),
        Some(2) => text.to_owned(),
        _ => return time(text),
    };
    let now = jiff::Zoned::now();
    let on = |date: jiff::civil::Date| {
        Moment::read(&format!("{date} {padded}"), now.time_zone()).map(|moment| moment.zoned)
    };
    let past = || {
        // Whose today it is depends on the zone that is named.
        let date = now.with_time_zone(on(now.date())?.time_zone().clone()).date();
        let today = on(date)?;
        let yesterday = || date.yesterday().map_or_else(|_| Ok(today.clone()), on);
        let past = if today > now { yesterday()? } else { today.clone() };
        crate::moment::postgres_time(&past)
    };
    past().or_else(|_: CommandError| time(text))
}

/// The name of a table.
fn table(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("no table has an empty name".to_owned()) } else { Ok(text.to_owned()) }
}

/// A length of time, in microseconds.
fn length(text: &str) -> Result<i64, String> {
    let parsed = text.trim().parse::<jiff::SignedDuration>().ok().filter(|length| length.is_positive());
    let micros = parsed.and_then(|length| i64::try_from(length.as_micros()).ok());
    micros.ok_or_else(|| format!("\"{text}\" is no length of time: write it like \"10m\" or \"2 hours\""))
}

fn timeline(text: &str) -> Result<TimelineId, String> {
    let number = text.parse().ok().and_then(TimelineId::new);
    number.ok_or_else(|| format!("\"{text}\" is no timeline: expected a number from 1 on"))
}

fn fork(text: &str) -> Result<Fork, String> {
    Fork::from_name(text).ok_or_else(|| format!("\"{text}\" is no fork: expected main, fsm, vm or init"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_lengths() {
        let now = PgTimestamp::from_unix_micros(jiff::Timestamp::now().as_microsecond()).unwrap();
        let past = around("00:00").unwrap();
        assert!(past <= now && now.as_micros() - past.as_micros() <= 25 * 3600 * 1_000_000);
        assert_eq!(
            around("2024-05-01 10:00Z").map(|time| time.to_string()).unwrap(),
            "2024-05-01 10:00:00.000000+00"
        );
        // The date counts, also of what is today's time of day, past or to come.
        for time in ["00:00", "12:30:15.5", "23:59"] {
            for (text, expected) in [("2024-05-01", "2024-05-01"), ("2924-05-01", "2924-05-01")] {
                let read = around(&format!("{text} {time}Z")).map(|time| time.to_string()).unwrap();
                assert!(read.starts_with(&format!("{expected} {time}")), "{read}");
            }
        }
        assert_eq!(around("9:05 UTC"), around(" 09:05:00+00"));
        assert!(around("9:05 UTC").unwrap() <= now && table(" ").is_err());
        assert!(around("25:00").is_err() && length("-5m").is_err() && length("soon").is_err());
        assert_eq!((length("5m"), length("2 hours")), (Ok(300_000_000), Ok(7_200_000_000)));
        assert!(timeline("0").is_err());
    }

    #[test]
    fn relations_and_managers_by_name() {
        assert_eq!(relation("1663/5/16384"), Ok(RelFile { tablespace: 1663, database: 5, number: 16384 }));
        assert!(relation("1663/5").is_err() && relation("1/2/3/4").is_err() && relation("a/b/c").is_err());
        assert_eq!(resource_manager("btree"), Ok(Rmgr::Btree));
        assert!(resource_manager("nothing").is_err());
    }
}
