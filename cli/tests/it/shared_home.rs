//! A home with stored backups and WAL that needs no running server, for both tools.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use barkeep_catalog::{BackupId, BackupInfo, Catalog, Layout, Status, backup_info, xlogdb};
use pgwal::{Lsn, SegmentName, SegmentSize, TimelineId, WalFile};
use serde_json::Value;
use testkit::{Barman, unprivileged_user};

use crate::support::{Run, barkeep};

/// One of the two tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    Barman,
    Barkeep,
}

/// A home, its configuration, and a way to run either tool on it as the servers' user.
pub(crate) struct SharedHome {
    barman: Barman,
}

impl SharedHome {
    /// A home with one server, `main`, and these options of its.
    pub(crate) fn new(options: &str) -> Self {
        let home = Self::empty();
        home.add_server("main", options);
        home
    }

    /// A home without servers.
    pub(crate) fn empty() -> Self {
        SharedHome { barman: Barman::new() }
    }

    /// Adds a server that cannot be reached, for commands that need not.
    pub(crate) fn add_server(&self, name: &str, options: &str) {
        let conf = self.barman.config_path().with_file_name("conf.d").join(format!("{name}.conf"));
        let conninfo = "host=127.0.0.1 port=1 user=nobody dbname=none connect_timeout=1";
        let text = format!(
            "[{name}]\ndescription = {name}\nconninfo = {conninfo}\nstreaming_conninfo = {conninfo}\n\
             backup_method = postgres\narchiver = on\n{options}\n"
        );
        fs::write(conf, text).unwrap();
        let layout = self.layout_of(name);
        for directory in layout.directories() {
            fs::create_dir_all(directory).unwrap();
        }
    }

    pub(crate) fn layout_of(&self, server: &str) -> Layout {
        Layout::new(server, &self.barman.server_dir(server), &self.barman.home().with_file_name("lock"))
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout_of("main")
    }

    /// The configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.barman.config_path()
    }

    pub(crate) fn catalog(&self) -> Catalog {
        Catalog::new(self.layout())
    }

    /// A directory for the servers' user beside the home, as a restore's destination.
    pub(crate) fn new_dir(&self, name: &str) -> PathBuf {
        self.barman.new_dir(name)
    }

    /// Gives all that the test has written to the servers' user.
    pub(crate) fn hand_over(&self) {
        take_over(&self.barman.home());
        take_over(&self.barman.home().with_file_name("lock"));
    }

    pub(crate) fn command(&self, tool: Tool, arguments: &[&str]) -> Command {
        match tool {
            Tool::Barman => self.barman.command(arguments),
            Tool::Barkeep => {
                let mut command = Command::new(testkit::reachable_binary(barkeep()));
                command.arg("-c").arg(self.barman.config_path()).args(arguments).stdin(Stdio::null());
                command.current_dir(self.barman.home());
                unprivileged_user().run_as(&mut command);
                command
            }
        }
    }

    pub(crate) fn run(&self, tool: Tool, arguments: &[&str]) -> Run {
        Run::of(&mut self.command(tool, arguments))
    }

    pub(crate) fn json(&self, tool: Tool, arguments: &[&str]) -> Value {
        let words: Vec<&str> = ["-f", "json"].into_iter().chain(arguments.iter().copied()).collect();
        let run = self.run(tool, &words);
        serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:#?}"))
    }
}

fn take_over(path: &Path) {
    unprivileged_user().take_over(path);
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).unwrap() {
            take_over(&entry.unwrap().path());
        }
    }
}

/// Where a made-up backup lies: in segments of this size, on this timeline.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spot {
    pub(crate) size: SegmentSize,
    pub(crate) timeline: u32,
    pub(crate) segment: u64,
}

impl Spot {
    pub(crate) fn name(self) -> SegmentName {
        SegmentName::at(
            TimelineId::new(self.timeline).unwrap(),
            Lsn::from_u64(self.segment * self.size.bytes()),
            self.size,
        )
    }
}

/// The record of a finished backup over the replication protocol that begins and ends in one segment.
pub(crate) fn record(id: &str, spot: Spot) -> BackupInfo {
    let id: BackupId = id.parse().unwrap();
    let mut info = BackupInfo::new(id, "main");
    let start = spot.name().first_lsn(spot.size).unwrap();
    let timeline = TimelineId::new(spot.timeline).unwrap();
    info.segment_size = spot.size;
    info.mode = Some("postgres".to_owned());
    info.version = Some(150_000);
    info.system_id = Some("7710937153959999515".to_owned());
    info.pgdata = Some("/srv/pg/data".to_owned());
    info.set_begin(timeline, start.checked_add(40).unwrap());
    info.set_end(timeline, start.checked_add(300).unwrap());
    let text = id.to_string();
    let time = format!(
        "{}-{}-{}T{}:{}:{}+00:00[UTC]",
        &text[..4],
        &text[4..6],
        &text[6..8],
        &text[9..11],
        &text[11..13],
        &text[13..15]
    );
    let time: jiff::Zoned = time.parse().unwrap();
    info.begin_time = Some(time.clone());
    info.end_time = Some(time);
    info.size = Some(3);
    info.deduplicated_size = Some(3);
    info.cluster_size = Some(3);
    info.status = Status::Done;
    info
}

/// Writes a record, and gives the backup some files.
pub(crate) fn put(layout: &Layout, info: &BackupInfo) {
    fs::write(layout.backup_info(info.id), backup_info::render(info).unwrap()).unwrap();
    fs::create_dir_all(layout.backup_data(info.id).join("base/1")).unwrap();
    fs::create_dir_all(layout.backup_data(info.id).join("global")).unwrap();
    fs::write(layout.backup_data(info.id).join("PG_VERSION"), "15\n").unwrap();
    fs::write(layout.backup_data(info.id).join("base/1/1259"), "").unwrap();
}

/// Puts small files of these names into the archive and lists them.
pub(crate) fn archived(layout: &Layout, files: impl IntoIterator<Item = WalFile>) {
    for file in files {
        fs::create_dir_all(layout.wal_directory(&file)).unwrap();
        fs::write(layout.wal(&file), format!("stands for {file}")).unwrap();
    }
    let entries = xlogdb::scan(layout).unwrap();
    xlogdb::Locked::acquire(layout).unwrap().replace(&entries).unwrap();
}

/// The names of all files in the archive.
pub(crate) fn archive(layout: &Layout) -> Vec<String> {
    let files = xlogdb::archived_files(layout).unwrap();
    files.into_iter().map(|(file, _)| file.to_string()).collect()
}

/// The names in the list of the archive.
pub(crate) fn listed(layout: &Layout) -> Vec<String> {
    let list = xlogdb::read(layout).unwrap();
    assert_eq!(list.faults, []);
    list.entries.iter().map(|entry| entry.file.to_string()).collect()
}
