//! What was typed: every command and option, Barman's spellings old and new.
//!
//! Usage errors exit with code 2, as Barman's do. Long options may be abbreviated as long as they stay unambiguous.

mod agent;
mod archive;
mod backup;
mod daemon;
mod drill;
mod frequent;
mod inspect;
mod legacy;
mod multicall;
mod processes;
mod restore;
mod retention;
mod setup;
mod sync;
mod values;
mod verify;
mod wal;
mod wal_client;
mod windows;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

pub use agent::AgentArgs;
pub use archive::{CheckArchivedWalRangeArgs, CheckWalArchiveArgs, PutWalArgs};
pub use backup::{BackupArgs, ReuseBackup};
pub use daemon::DaemonArgs;
pub use drill::{DrillArgs, DrillCheck, DrillTarget};
pub use inspect::{
    ClientsSource, ClientsTarget, ConfigSwitchArgs, ConfigUpdateArgs, DiagnoseArgs, FilesTarget, InitArgs,
    ListFilesArgs, ReplicationStatusArgs,
};
pub use processes::TerminateProcessArgs;
pub use restore::{RestoreArgs, TablespaceMapping};
pub use retention::{KeepArgs, KeepTarget, RetentionArgs};
pub use setup::{CompletionsArgs, InstallLinksArgs, ManPagesArgs};
pub use sync::{AbsentArgs, SyncInfoArgs};
pub use verify::{GenerateManifestArgs, VerifyBackupArgs};
pub use wal::{
    DumpArgs, FilterArgs, FindArgs, FindOp, IndexArgs, StatsArgs, VerifyArgs, WalArgs, WalCommand, WalSource,
};
pub use wal_client::{Destination, RemoteArgs, ShippedCompression, WalArchiveArgs, WalRestoreArgs};
pub use windows::WindowsArgs;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "barkeep",
    version,
    about = "Backup and point-in-time recovery for PostgreSQL, over Barman's configuration and backup home",
    disable_version_flag = true,
    infer_long_args = true,
    args_override_self = true,
    max_term_width = 100
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do; nothing shows the help.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct GlobalArgs {
    /// Read this configuration file [default: ~/.barman.conf, /etc/barman.conf, /etc/barman/barman.conf]
    #[arg(
        short,
        long,
        value_name = "FILE",
        env = "BARMAN_CONFIG_FILE",
        hide_env_values = true,
        global = true
    )]
    pub config: Option<PathBuf>,
    /// Answer as text or as one JSON object
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t, global = true)]
    pub format: OutputFormat,
    /// Tell nothing but warnings and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Tell details
    #[arg(short, long, global = true)]
    pub debug: bool,
    /// Log messages of this severity and above (overrides log_level)
    #[arg(long, value_name = "LEVEL", value_enum, global = true)]
    pub log_level: Option<LogLevel>,
    /// Colour the output
    #[arg(long, alias = "colour", value_name = "WHEN", value_enum, default_value_t, global = true)]
    pub color: ColorWhen,
    /// Print the version
    #[arg(short = 'v', long, action = ArgAction::Version)]
    pub version: Option<bool>,
    /// Whether the configuration file was named on the command line rather than by the environment.
    #[arg(skip)]
    config_was_typed: bool,
}

impl GlobalArgs {
    /// The configuration file, if it was named on the command line.
    pub fn typed_config(&self) -> Option<&Path> {
        self.config.as_deref().filter(|_| self.config_was_typed)
    }
}

/// `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
#[allow(
    missing_docs,
    reason = "the names are the documentation, and comments would become a second, longer help"
)]
pub enum OutputFormat {
    #[default]
    Console,
    Json,
}

/// `--log-level`, by Python's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum LogLevel {
    NotSet,
    Debug,
    Info,
    Warning,
    Error,
    Critical,
}

/// `--color`.
/// `Auto` colours when both standard output and standard error are terminals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
#[allow(missing_docs, reason = "as for the output format")]
pub enum ColorWhen {
    Always,
    Never,
    #[default]
    Auto,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve this machine's files to a barkeep elsewhere, which starts this over SSH by itself
    Agent(AgentArgs),
    /// Move received WAL files into the archive, now
    ArchiveWal(ServerArgs),
    /// Take a base backup
    Backup(Box<BackupArgs>),
    /// Check that servers can be backed up and recovered
    Check(CheckArgs),
    /// Check that no WAL file is missing between two segments
    CheckArchivedWalRange(CheckArchivedWalRangeArgs),
    /// Look whether a backup has all its WAL now
    CheckBackup(BackupIdArgs),
    /// Check that the WAL archive can be used for a new server
    CheckWalArchive(CheckWalArchiveArgs),
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Lay a model over a server's configuration, or take it away
    ConfigSwitch(ConfigSwitchArgs),
    /// Change the configuration of servers and models, all changes or none
    ConfigUpdate(ConfigUpdateArgs),
    /// Do the work of one minute for all servers: archive WAL, keep receivers running, apply retention
    Cron(CronArgs),
    /// Do cron's work without cron, and take backups by schedule, until stopped
    Daemon(DaemonArgs),
    /// Delete a backup, its incremental descendants, and the WAL that only they needed
    Delete(DeleteArgs),
    /// Prove that a backup restores: restore it to a scratch directory, recover, start, and check it
    Drill(DrillArgs),
    /// Make a backup_manifest for a backup that has none
    GenerateManifest(GenerateManifestArgs),
    /// Print everything that helps to find out what is wrong, as JSON
    Diagnose(DiagnoseArgs),
    /// Print a WAL file, for a server's restore_command
    GetWal(GetWalArgs),
    /// Make links under Barman's names, which then run barkeep: barman, barman-wal-archive, barman-wal-restore
    InstallLinks(InstallLinksArgs),
    /// Protect a backup from retention and deletion, or let it go again
    Keep(KeepArgs),
    /// Look at a server, and write what it takes to back it up
    Init(InitArgs),
    /// List backups
    #[command(alias = "list-backup")]
    ListBackups(ListBackupsArgs),
    /// List the files of a backup, and the WAL that belongs to it
    ListFiles(ListFilesArgs),
    /// List the processes that are at work on a server
    #[command(alias = "list-process")]
    ListProcesses(ServerArgs),
    /// List the configured servers
    #[command(alias = "list-server")]
    ListServers(ListServersArgs),
    /// Remove lock files that nobody holds
    LockDirectoryCleanup,
    /// Write manual pages
    ManPages(ManPagesArgs),
    /// Receive WAL files from a PostgreSQL host, as a tar stream on standard input
    PutWal(PutWalArgs),
    /// Make the list of archived WAL files anew from the files
    RebuildXlogdb(ServersArgs),
    /// Receive WAL from a server as it is written
    ReceiveWal(ReceiveWalArgs),
    /// Show who streams WAL from servers
    ReplicationStatus(ReplicationStatusArgs),
    /// Restore a backup to a directory, ready to recover to a chosen moment
    #[command(alias = "recover")]
    Restore(Box<RestoreArgs>),
    /// Show what the retention policy keeps and lets go, why and until when
    Retention(RetentionArgs),
    /// Show everything known about a backup
    #[command(alias = "show-backups")]
    ShowBackup(BackupIdArgs),
    /// Show the configuration and state of servers
    #[command(alias = "show-server")]
    ShowServers(ServersArgs),
    /// Show how servers and their backups are doing
    Status(ServersArgs),
    /// Make servers begin a new WAL file
    #[command(alias = "switch-xlog")]
    SwitchWal(SwitchWalArgs),
    /// Check every file of a backup against its manifest, and the WAL that it needs
    #[command(alias = "verify")]
    VerifyBackup(VerifyBackupArgs),
    /// Print what a copying backup host needs to know, as JSON: backups, and WAL from a point on
    SyncInfo(SyncInfoArgs),
    /// Not available: copy a backup from the primary backup host
    #[command(hide = true)]
    SyncBackup(BackupIdArgs),
    /// Not available: copy WAL from the primary backup host
    #[command(hide = true)]
    SyncWals(ServerArgs),
    /// Not available: write a backup into a tar archive
    #[command(hide = true)]
    ExportBackup(AbsentArgs),
    /// Not available: take a backup out of a tar archive
    #[command(hide = true)]
    ImportBackup(AbsentArgs),
    /// Not available: put a WAL file into an object store
    #[command(hide = true)]
    CloudWalArchive(AbsentArgs),
    /// Not available: fetch a WAL file from an object store
    #[command(hide = true)]
    CloudWalRestore(AbsentArgs),
    /// Stop a process that is at work on a server
    TerminateProcess(TerminateProcessArgs),
    /// Show every interval that can be restored, and how much would be lost if the server were lost now
    Windows(WindowsArgs),
    /// Look into WAL: verify, count, print, find
    Wal(Box<WalArgs>),
    /// Hand a WAL file to a backup host, as a server's archive_command
    WalArchive(Box<WalArchiveArgs>),
    /// Fetch a WAL file from a backup host, as a server's restore_command
    WalRestore(Box<WalRestoreArgs>),
}

/// One server.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// The server
    #[arg(value_name = "SERVER")]
    pub server: String,
}

/// One or more servers.
#[derive(Debug, Args)]
pub struct ServersArgs {
    /// The servers, or "all"
    #[arg(value_name = "SERVER", required = true)]
    pub servers: Vec<String>,
}

/// A backup of a server.
#[derive(Debug, Args)]
pub struct BackupIdArgs {
    /// The server
    #[arg(value_name = "SERVER")]
    pub server: String,
    /// The backup: its id, its name, or latest, oldest, latest-full, last-failed
    #[arg(value_name = "BACKUP")]
    pub backup: String,
}

/// `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The servers, or "all"
    #[arg(value_name = "SERVER", required = true)]
    pub servers: Vec<String>,
    /// Answer with one line in the form Nagios plugins use; exit code 2 on trouble
    #[arg(long)]
    pub nagios: bool,
    /// Also read every archived WAL file, and check each record
    #[arg(long)]
    pub deep: bool,
    /// Give up on a server after this many seconds; 0 never does (overrides check_timeout)
    #[arg(long, value_name = "SECONDS")]
    pub check_timeout: Option<u64>,
}

/// `cron`.
#[derive(Debug, Args)]
pub struct CronArgs {
    /// Leave standard output and error of the started processes open, for containers
    #[arg(long)]
    pub keep_descriptors: bool,
}

/// `delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The server
    #[arg(value_name = "SERVER")]
    pub server: String,
    /// The backup: its id, its name, or oldest, latest, last-failed
    #[arg(value_name = "BACKUP")]
    pub backup: String,
    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,
}

/// `get-wal`.
#[derive(Debug, Args)]
pub struct GetWalArgs {
    /// The server
    #[arg(value_name = "SERVER")]
    pub server: String,
    /// The WAL file's name
    #[arg(value_name = "WAL", required_unless_present = "serve")]
    pub wal: Option<String>,
    /// Hand out file after file, as standard input asks for them
    #[arg(long, hide = true, conflicts_with_all = ["wal", "output_directory", "partial", "gzip", "bzip2", "peek", "test"])]
    pub serve: bool,
    /// Write the file into this directory, under its own name, rather than to standard output
    #[arg(short, long, value_name = "DIRECTORY")]
    pub output_directory: Option<PathBuf>,
    /// Hand out a partial file too, when there is no complete one
    #[arg(short = 'P', long)]
    pub partial: bool,
    /// Compress the output with gzip
    #[arg(short = 'z', visible_short_alias = 'x', long, conflicts_with_all = ["bzip2", "keep_compression"])]
    pub gzip: bool,
    /// Compress the output with bzip2
    #[arg(short = 'j', long, conflicts_with = "keep_compression")]
    pub bzip2: bool,
    /// Hand out the file as it is stored
    #[arg(long)]
    pub keep_compression: bool,
    /// Print the names of up to this many consecutive files from WAL on, rather than a file
    #[arg(short, long, value_name = "COUNT", value_parser = values::positive)]
    pub peek: Option<u32>,
    /// Only say whether this works
    #[arg(short, long)]
    pub test: bool,
}

/// `list-backups`.
#[derive(Debug, Args)]
pub struct ListBackupsArgs {
    /// The servers, or "all"
    #[arg(value_name = "SERVER", required = true)]
    pub servers: Vec<String>,
    /// Print ids alone
    #[arg(long)]
    pub minimal: bool,
    /// Also tell how the last drill with each backup went
    #[arg(long)]
    pub drills: bool,
}

/// `list-servers`.
#[derive(Debug, Args)]
pub struct ListServersArgs {
    /// Print names alone
    #[arg(long)]
    pub minimal: bool,
}

/// `receive-wal`.
#[derive(Debug, Args)]
pub struct ReceiveWalArgs {
    /// The server
    #[arg(value_name = "SERVER")]
    pub server: String,
    /// Stop the receiver that is running
    #[arg(long, conflicts_with_all = ["reset", "create_slot", "drop_slot"])]
    pub stop: bool,
    /// Begin again at the server's current position, leaving a gap
    #[arg(long, conflicts_with_all = ["create_slot", "drop_slot"])]
    pub reset: bool,
    /// Create the replication slot, and stop
    #[arg(long, conflicts_with = "drop_slot")]
    pub create_slot: bool,
    /// With --create-slot: an existing slot is fine
    #[arg(long)]
    pub if_not_exists: bool,
    /// Drop the replication slot, and stop
    #[arg(long)]
    pub drop_slot: bool,
}

/// `switch-wal`.
#[derive(Debug, Args)]
pub struct SwitchWalArgs {
    /// The servers, or "all"
    #[arg(value_name = "SERVER", required = true)]
    pub servers: Vec<String>,
    /// Run a CHECKPOINT first, so that there is something to switch
    #[arg(long)]
    pub force: bool,
    /// Wait until the closed file is archived
    #[arg(long)]
    pub archive: bool,
    /// With --archive: wait at most this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = values::positive)]
    pub archive_timeout: u32,
}

/// Reads the command line; what comes back instead of a [`Cli`] is to be printed (help, version, usage errors).
///
/// # Errors
/// For a wrong command line, and for `--help` and `--version`, in clap's way.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let words = multicall::expand(words.into_iter().collect());
    match frequent::parse(&words) {
        Some((cli, matches)) => Ok(read(cli, &matches)),
        None => parse_any(words),
    }
}

/// What any command line says.
fn parse_any(words: Vec<OsString>) -> Result<Cli, clap::Error> {
    let mut command = Cli::command();
    let words = legacy::modernise(&mut command, words);
    let matches = command.try_get_matches_from_mut(words)?;
    Ok(read(Cli::from_arg_matches(&matches)?, &matches))
}

/// Adds what only the matches tell.
fn read(mut cli: Cli, matches: &ArgMatches) -> Cli {
    let nested = std::iter::successors(Some(matches), |matches| matches.subcommand().map(|(_, below)| below));
    cli.global.config_was_typed =
        nested.into_iter().any(|matches| matches.value_source("config") == Some(ValueSource::CommandLine));
    cli
}

/// The help text, for a command line without a command: `name` is what the program was called by.
pub fn help(name: &'static str) -> clap::builder::StyledStr {
    Cli::command().bin_name(name).render_help()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(line: &str) -> Result<Cli, clap::Error> {
        parse(std::iter::once("barkeep").chain(line.split_whitespace()).map(OsString::from))
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_alias_leads_to_its_command() {
        let is = |line: &str, expected: fn(&Command) -> bool| {
            let cli = parse_words(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert!(cli.command.as_ref().is_some_and(expected), "{line}");
        };
        is("list-backup all", |c| matches!(c, Command::ListBackups(_)));
        is("list-server", |c| matches!(c, Command::ListServers(_)));
        is("show-server main", |c| matches!(c, Command::ShowServers(_)));
        is("show-backups main latest", |c| matches!(c, Command::ShowBackup(_)));
        is("switch-xlog main", |c| matches!(c, Command::SwitchWal(_)));
        is("verify main latest", |c| matches!(c, Command::VerifyBackup(_)));
        is("recover main latest /tmp/x", |c| matches!(c, Command::Restore(_)));
    }

    #[test]
    fn global_options_stand_before_or_after_the_command() {
        for line in
            ["-q -f json -c /x check main", "check main -q -f json -c /x", "check -fjson main --config=/x -q"]
        {
            let cli = parse_words(line).unwrap();
            assert!(cli.global.quiet, "{line}");
            assert_eq!(cli.global.format, OutputFormat::Json, "{line}");
            assert_eq!(cli.global.config, Some(PathBuf::from("/x")), "{line}");
        }
    }

    #[test]
    fn options_may_be_abbreviated() {
        let cli = parse_words("list-backups --min all").unwrap();
        assert!(matches!(cli.command, Some(Command::ListBackups(ListBackupsArgs { minimal: true, .. }))));
    }

    #[test]
    fn repeated_options() {
        let line = "restore main latest /x --tablespace a:/1 --tablespace b:/2 --jobs 2 --jobs 3 --get-wal --no-get-wal";
        let Some(Command::Restore(args)) = parse_words(line).unwrap().command else {
            panic!("asked for restore")
        };
        assert_eq!(args.tablespace.len(), 2, "tablespaces add up");
        assert_eq!(args.jobs, Some(3), "of others the last one counts");
        assert_eq!(args.get_wal(), Some(false), "of opposites too");
        let Some(Command::Backup(args)) =
            parse_words("backup main --no-retry --retry-times 2").unwrap().command
        else {
            panic!("asked for backup")
        };
        assert_eq!((args.retry_times(), args.immediate_checkpoint()), (Some(2), None));
    }

    #[test]
    fn one_target_is_enough() {
        for line in
            ["--target-xid 1 --target-lsn 0/1", "--target-immediate --target-name x", "--target-lsn zero"]
        {
            let error = parse_words(&format!("restore main latest /x {line}")).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
        assert!(parse_words("restore main latest /x --target-xid 1 --target-tli latest").is_ok());
    }

    #[test]
    fn usage_errors_exit_with_2() {
        for line in
            ["bogus", "backup", "list-backups", "check main --bogus", "get-wal main", "-f xml check main"]
        {
            let error = parse_words(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
