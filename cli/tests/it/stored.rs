//! Homes with stored backups and WAL made by hand, for commands that need no running server.

use std::fs;
use std::path::PathBuf;

use barkeep_catalog::{BackupId, BackupInfo, Layout, Status, backup_info, xlogdb};
use pgwal::{Lsn, SegmentName, SegmentSize, TimelineId, WalFile};

use crate::support::Home;

/// The smallest segments that a cluster can have: 1 MiB.
pub(crate) const SIZE: SegmentSize = SegmentSize::MIN;

/// The layout of the server `main` of a home.
pub(crate) fn layout(home: &Home) -> Layout {
    Layout::new("main", &home.join("main"), home.path())
}

/// A segment by its number on a timeline.
pub(crate) fn segment(timeline: u32, number: u64) -> SegmentName {
    let timeline = TimelineId::new(timeline).unwrap();
    SegmentName::at(timeline, Lsn::from_u64(number * SIZE.bytes()), SIZE)
}

/// What a segment holds: sound WAL as PostgreSQL 15 writes it, in which nothing happens.
pub(crate) fn content(segment: SegmentName) -> Vec<u8> {
    let start = segment.first_lsn(SIZE).unwrap();
    testkit::wal::segment(segment.timeline().as_u32(), start.as_u64(), testkit::wal::SEGMENT_BYTES, 0)
}

/// Delivers a segment, as `archive_command` would.
pub(crate) fn deliver(home: &Home, segment: SegmentName) -> PathBuf {
    let path = layout(home).incoming.join(segment.to_string());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content(segment)).unwrap();
    path
}

/// Puts small files of these names into the archive and lists them.
pub(crate) fn archived(home: &Home, files: impl IntoIterator<Item = WalFile>) {
    let layout = layout(home);
    for file in files {
        fs::create_dir_all(layout.wal_directory(&file)).unwrap();
        fs::write(layout.wal(&file), format!("stands for {file}")).unwrap();
    }
    relist(home);
}

/// Makes the list of the archive anew.
pub(crate) fn relist(home: &Home) {
    let layout = layout(home);
    fs::create_dir_all(&layout.wals).unwrap();
    let entries = xlogdb::scan(&layout).unwrap();
    xlogdb::Locked::acquire(&layout).unwrap().replace(&entries).unwrap();
}

/// A finished backup of the first of January, at this hour, from this segment on.
pub(crate) fn backup(home: &Home, hour: u32, begin: SegmentName) -> BackupInfo {
    let id: BackupId = format!("20260101T{hour:02}0000").parse().unwrap();
    let mut info = BackupInfo::new(id, "main");
    info.segment_size = SIZE;
    info.mode = Some("postgres".to_owned());
    info.version = Some(150_000);
    let start = begin.first_lsn(SIZE).unwrap();
    info.set_begin(begin.timeline(), start.checked_add(40).unwrap());
    info.set_end(begin.timeline(), start.checked_add(300).unwrap());
    let time: jiff::Zoned = format!("2026-01-01T{hour:02}:00:00+00:00[UTC]").parse().unwrap();
    info.begin_time = Some(time.clone());
    info.end_time = Some(time);
    info.size = Some(4);
    info.deduplicated_size = Some(4);
    info.status = Status::Done;
    save(home, &info);
    info
}

/// Writes a backup's record, whatever the record was before, and gives it a data directory.
pub(crate) fn save(home: &Home, info: &BackupInfo) {
    let layout = layout(home);
    for directory in layout.directories() {
        fs::create_dir_all(directory).unwrap();
    }
    fs::write(layout.backup_info(info.id), backup_info::render(info).unwrap()).unwrap();
    fs::create_dir_all(layout.backup_data(info.id)).unwrap();
    fs::write(layout.backup_data(info.id).join("PG_VERSION"), "15\n").unwrap();
}

/// The names of all files in the archive.
pub(crate) fn archive(home: &Home) -> Vec<String> {
    let files = xlogdb::archived_files(&layout(home)).unwrap();
    files.into_iter().map(|(file, _)| file.to_string()).collect()
}

/// The names in the list of the archive.
pub(crate) fn listed(home: &Home) -> Vec<String> {
    let list = xlogdb::read(&layout(home)).unwrap();
    assert_eq!(list.faults, []);
    list.entries.iter().map(|entry| entry.file.to_string()).collect()
}

/// The names in a directory, in order.
pub(crate) fn names(directory: impl Into<PathBuf>) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory.into()) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A home with a server that exists on paper only.
pub(crate) fn home() -> Home {
    Home::new()
        .server("main", "host=/nonexistent user=postgres")
        .with("main", "streaming_archiver", "off")
        .with("main", "archiver", "on")
}
