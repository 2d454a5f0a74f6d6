//! Checks of the WAL archive, and of what is on its way into it.

use std::path::Path;

use barkeep_catalog::{ServerLock, Task};
use pgwal::WalFile;

use super::Lines;
use super::backups::Home;
use crate::command::archive_wal::OTHER_CLUSTER;
use crate::context::ServerContext;
use crate::live::Live;

/// Whether any WAL ever arrived, be it that it still waits for being archived. Told only when not.
pub(super) fn archive(lines: &mut Lines, server: &ServerContext, home: &Home) {
    let (config, layout) = (&server.config, server.layout());
    let waits = config.archiver() && has_segment(&layout.incoming)
        || config.streaming_archiver() && has_segment(&layout.streaming);
    if home.waiting || waits || home.archive_empty == Some(false) {
        return;
    }
    lines.failed(
        "WAL archive",
        "please make sure WAL shipping is setup",
        format!(
            "nothing is archived yet: once WAL arrives, run 'barkeep switch-wal --force --archive {}'",
            server.name()
        ),
    );
}

/// Whether a complete segment lies in a directory.
fn has_segment(directory: &Path) -> bool {
    names(directory).iter().any(|name| name.parse().is_ok_and(is_segment))
}

/// Whether WAL waits where nobody takes it, or more of it than should. Told only when so.
pub(super) fn queues(lines: &mut Lines, server: &ServerContext) {
    let (config, layout) = (&server.config, server.layout());
    let directories = [
        ("incoming", config.archiver(), "archiver", &layout.incoming),
        ("streaming", config.streaming_archiver(), "streaming_archiver", &layout.streaming),
    ];
    for (name, used, key, directory) in directories {
        let waiting = count_waiting(directory);
        if !used && waiting > 0 {
            let hint = format!("'{}' must be empty when {key}=off", directory.display());
            let cure = format!("set {key} = on to have them archived, or move them away");
            lines.failed(format!("empty {name} directory"), hint, cure);
        }
    }
    for (name, used, _, directory) in directories {
        let waiting = count_waiting(directory);
        if let Some(limit) = config.max_incoming_wals_queue().filter(|limit| used && waiting > *limit) {
            let hint = format!("there are too many WALs in queue: {waiting}, max {limit}");
            lines.failed(format!("{name} WALs directory"), hint, "see whether cron runs, and keeps up");
        }
    }
}

/// How many whole files wait in a directory; what is still being written does not count.
fn count_waiting(directory: &Path) -> u64 {
    let whole = |name: &str| !name.starts_with('.') && !name.ends_with(".tmp") && !name.ends_with(".partial");
    names(directory).iter().filter(|name| whole(name)).count() as u64
}

/// Whether the receiver runs, for a server that is streamed from.
pub(super) fn receiver(lines: &mut Lines, server: &ServerContext, live: &Live) {
    if !server.config.streaming_archiver() {
        return;
    }
    const NAME: &str = "receive-wal running";
    super::copying::client(lines, "pg_receivexlog", live);
    let cure = format!(
        "'barkeep cron' starts it; the log says why it stopped, and so does 'barkeep receive-wal {}'",
        server.name()
    );
    match ServerLock::holder(&server.layout(), Task::ReceiveWal) {
        Ok(Some(_)) => lines.ok(NAME),
        Ok(None) => lines.failed(NAME, "See the Barman log file for more details", cure),
        Err(error) => {
            lines.failed(NAME, error.to_string(), "make the lock directory readable to barman_user")
        }
    }
}

/// Whether files were refused by the archive.
pub(super) fn errors(lines: &mut Lines, server: &ServerContext) {
    let directory = server.layout().errors;
    let names = names(&directory);
    if names.is_empty() {
        return lines.ok("archiver errors");
    }
    let count = |end: &str| names.iter().filter(|name| name.ends_with(end)).count();
    let kinds = [
        ("unknown", count(".unknown")),
        ("not relevant", count(".error")),
        ("duplicates", count(".duplicate")),
        ("damaged", count(".damaged")),
        ("foreign", count(".foreign")),
    ];
    let known: usize = kinds.iter().map(|(_, count)| count).sum();
    let kinds = kinds.into_iter().chain([("unknown failure", names.len() - known)]);
    let told: Vec<String> =
        kinds.filter(|(_, count)| *count > 0).map(|(kind, count)| format!("{kind}: {count}")).collect();
    let mut cure =
        format!("look at the files in {}, and remove them when they are of no use", directory.display());
    if names.iter().any(|name| name.ends_with(".foreign")) {
        cure = format!("{OTHER_CLUSTER}; {cure}");
    }
    lines.failed("archiver errors", told.join(", "), cure);
}

/// The names in a directory; none when it does not exist.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

/// Whether a file of the archive says that WAL has arrived.
pub(super) fn is_segment(file: WalFile) -> bool {
    matches!(file, WalFile::Segment(_))
}
