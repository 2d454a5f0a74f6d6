//! The options of `restore`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use pgwal::{Lsn, TargetAction, TargetTimeline};

use super::values;

/// `restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The server
    #[arg(value_name = "SERVER")]
    pub server: String,
    /// The backup: its id, its name, latest, oldest, latest-full, or auto for the best one before the target
    #[arg(value_name = "BACKUP")]
    pub backup: String,
    /// The directory to restore into, which must be empty or not exist unless with --delta-restore
    #[arg(value_name = "DESTINATION")]
    pub destination: PathBuf,

    /// Recover along this timeline: a number, current, or latest
    #[arg(long, value_name = "TIMELINE", help_heading = "Where to stop")]
    pub target_tli: Option<TargetTimeline>,
    /// Stop after the last commit not later than this time
    #[arg(long, value_name = "TIME", group = "target", help_heading = "Where to stop")]
    pub target_time: Option<String>,
    /// Stop after this transaction
    #[arg(long, value_name = "XID", group = "target", help_heading = "Where to stop")]
    pub target_xid: Option<String>,
    /// Stop at this position
    #[arg(long, value_name = "LSN", group = "target", help_heading = "Where to stop")]
    pub target_lsn: Option<Lsn>,
    /// Stop at this restore point
    #[arg(long, value_name = "NAME", group = "target", help_heading = "Where to stop")]
    pub target_name: Option<String>,
    /// Stop as soon as the cluster is consistent
    #[arg(long, group = "target", help_heading = "Where to stop")]
    pub target_immediate: bool,
    /// Stop just before the target rather than just after it
    #[arg(long, help_heading = "Where to stop")]
    pub exclusive: bool,
    /// What the server does at the target: pause, promote or shutdown
    #[arg(long, value_name = "ACTION", help_heading = "Where to stop")]
    pub target_action: Option<TargetAction>,

    /// Restore although the target can't be reached by what is archived, or a timeline's history is missing
    #[arg(long)]
    pub force: bool,
    /// Only tell what would be done, how much it is and how long it would take
    #[arg(long)]
    pub plan: bool,
    /// Put this tablespace there; may be given several times
    #[arg(long, value_name = "NAME:LOCATION", action = clap::ArgAction::Append)]
    pub tablespace: Vec<TablespaceMapping>,
    /// Restore on another host, over this SSH command
    #[arg(long, value_name = "COMMAND")]
    pub remote_ssh_command: Option<String>,
    /// Put the WAL that recovery needs here [default: DESTINATION/barman_wal]
    #[arg(long, value_name = "DIRECTORY")]
    pub staging_wal_directory: Option<PathBuf>,
    /// Copy at most this many KiB a second; 0 is no limit
    #[arg(long, value_name = "KBPS")]
    pub bwlimit: Option<u32>,
    /// Try the copy again this often
    #[arg(long, value_name = "COUNT", overrides_with = "no_retry")]
    pub retry_times: Option<u32>,
    /// Wait this many seconds between tries
    #[arg(long, value_name = "SECONDS")]
    pub retry_sleep: Option<u32>,
    /// Try the copy once
    #[arg(long)]
    pub no_retry: bool,
    /// Copy with this many workers
    #[arg(short, long, value_name = "COUNT", value_parser = values::positive)]
    pub jobs: Option<u32>,
    /// Start workers in groups, one group in this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = values::positive)]
    pub jobs_start_batch_period: Option<u32>,
    /// Start this many workers in a group
    #[arg(long, value_name = "COUNT", value_parser = values::positive)]
    pub jobs_start_batch_size: Option<u32>,
    /// Let the restored server fetch WAL with get-wal, rather than copying it (overrides recovery_options)
    #[arg(long, overrides_with = "no_get_wal")]
    pub get_wal: bool,
    /// Copy the WAL that recovery needs
    #[arg(long)]
    pub no_get_wal: bool,
    /// With --no-get-wal: copy the last, partial WAL file too
    #[arg(long)]
    pub partial_wal: bool,
    /// Don't archive received WAL first
    #[arg(long)]
    pub skip_archive_wal: bool,
    /// Compress what goes over the network
    #[arg(long, overrides_with = "no_network_compression")]
    pub network_compression: bool,
    /// Don't compress what goes over the network
    #[arg(long)]
    pub no_network_compression: bool,
    /// Make a standby: keep recovering until promoted
    #[arg(long, conflicts_with = "target_action")]
    pub standby_mode: bool,
    /// Deprecated: use --staging-path
    #[arg(long, value_name = "DIRECTORY", hide = true)]
    pub recovery_staging_path: Option<PathBuf>,
    /// Deprecated: use --staging-path
    #[arg(long, value_name = "DIRECTORY", hide = true)]
    pub local_staging_path: Option<PathBuf>,
    /// Keep intermediate files here
    #[arg(long, value_name = "DIRECTORY", value_parser = values::absolute_path)]
    pub staging_path: Option<PathBuf>,
    /// Whether that directory is here (local) or at the destination (remote)
    #[arg(long, value_name = "WHERE", value_parser = ["local", "remote"])]
    pub staging_location: Option<String>,
    /// How files of incremental backups are combined
    #[arg(long, value_name = "MODE", value_parser = ["copy", "link", "clone", "copy-file-range"])]
    pub combine_mode: Option<String>,
    /// Write recovery settings into this file of DESTINATION [default: postgresql.auto.conf]
    #[arg(long, value_name = "FILE")]
    pub recovery_conf_filename: Option<String>,
    /// The SSH port that the restored server fetches WAL through
    #[arg(long, value_name = "PORT")]
    pub recovery_option_port: Option<u16>,
    /// The restore_command to write, with --get-wal
    #[arg(long, value_name = "COMMAND")]
    pub restore_command: Option<String>,
    /// Restore over an earlier state of the cluster, writing only what differs (overrides recovery_options)
    #[arg(long, overrides_with = "no_delta_restore")]
    pub delta_restore: bool,
    /// Restore into an empty directory only
    #[arg(long)]
    pub no_delta_restore: bool,
    /// The instance that the restored disks are attached to
    #[arg(long, value_name = "INSTANCE", hide = true)]
    pub snapshot_recovery_instance: Option<String>,
    /// Deprecated: use --gcp-zone
    #[arg(long, value_name = "ZONE", hide = true)]
    pub snapshot_recovery_zone: Option<String>,
    /// The zone of that instance
    #[arg(long, value_name = "ZONE", hide = true)]
    pub gcp_zone: Option<String>,
    /// The resource group of that instance
    #[arg(long, value_name = "GROUP", hide = true)]
    pub azure_resource_group: Option<String>,
    /// The region of that instance
    #[arg(long, value_name = "REGION", hide = true)]
    pub aws_region: Option<String>,
}

/// `--tablespace NAME:LOCATION`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceMapping {
    /// The tablespace.
    pub name: String,
    /// Where it goes.
    pub location: PathBuf,
}

impl FromStr for TablespaceMapping {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A name may have colons in it; a location begins with a slash.
        let colon = text.find(":/").or_else(|| text.find(':'));
        match colon.map(|at| (&text[..at], &text[at + 1..])) {
            Some((name, location)) if !name.is_empty() && !location.is_empty() => {
                Ok(TablespaceMapping { name: name.to_owned(), location: PathBuf::from(location) })
            }
            _ => Err(format!("\"{text}\" is not of the form NAME:LOCATION")),
        }
    }
}

impl RestoreArgs {
    /// `--get-wal`, `--no-get-wal`, or `None` to go by the configuration.
    pub fn get_wal(&self) -> Option<bool> {
        super::backup::switch(self.get_wal, self.no_get_wal)
    }

    /// `--network-compression`, `--no-network-compression`, or `None` to go by the configuration.
    pub fn network_compression(&self) -> Option<bool> {
        super::backup::switch(self.network_compression, self.no_network_compression)
    }

    /// `--delta-restore`, `--no-delta-restore`, or `None` to go by the configuration.
    pub fn delta_restore(&self) -> Option<bool> {
        super::backup::switch(self.delta_restore, self.no_delta_restore)
    }

    /// `--retry-times`, `--no-retry` as 0, or `None` to go by the configuration.
    pub fn retry_times(&self) -> Option<u32> {
        if self.no_retry { Some(0) } else { self.retry_times }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_take_odd_names_and_places() {
        for (text, name, location) in [
            ("fast:/srv/fast", "fast", "/srv/fast"),
            ("o'dd: \u{e9}:/srv/a b:/c", "o'dd: \u{e9}", "/srv/a b:/c"),
            ("fast:elsewhere", "fast", "elsewhere"),
        ] {
            let read = text.parse();
            assert_eq!(read, Ok(TablespaceMapping { name: name.to_owned(), location: location.into() }));
        }
        for wrong in ["fast", ":/srv", "fast:", ":"] {
            assert!(wrong.parse::<TablespaceMapping>().is_err(), "{wrong}");
        }
    }
}
