//! Healing: WAL that is missing in the archive, or damaged there, is fetched from the server while it still has it.

use std::fs::File;
use std::io::{Seek, Write};
use std::time::Duration;

use barkeep_catalog::archive::Verify;
use barkeep_catalog::inspect::Soundness;
use barkeep_catalog::reception::Reception;
use barkeep_catalog::{IndexStore, gaps};
use barkeep_transport::durable::TempFile;
use pgwal::replication::{ConnInfo, Connection, StandbyStatus, StartPhysical, WalEvent};
use pgwal::{SegmentName, SegmentSize, WalFile};

use crate::context::ServerContext;
use crate::error::{CommandError, chain};

/// Most segments fetched in one go.
const SEGMENTS_MAX: usize = 64;
/// How long the server may take to send anything of a segment.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Looks for what is missing or damaged in a server's archive, and delivers to `incoming/` what the server still has of it.
/// How many segments that were. What the server doesn't have any more is not an error: `check` tells of it.
///
/// # Errors
/// When the archive can't be read, or nothing can be delivered.
pub(super) fn fetch_missing(
    server: &ServerContext,
    source: Option<&ConnInfo>,
) -> Result<usize, CommandError> {
    let catalog = server.catalog();
    let Some((gaps, size)) = gaps::find(&catalog, &catalog.backups()?)? else { return Ok(0) };
    let mut wanted: Vec<SegmentName> =
        gaps.into_iter().flat_map(|gap| gap.segments(size)).take(SEGMENTS_MAX).collect();
    wanted.extend(damaged(server));
    wanted.truncate(SEGMENTS_MAX);
    let Some(source) = source.filter(|_| !wanted.is_empty()) else { return Ok(0) };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::because("cannot start the event loop", &error))?;
    let layout = server.layout();
    let verify = Verify::from_name(server.config.wal_verify()).unwrap_or_default();
    let reception = Reception::new(&layout, verify, jiff::Timestamp::now())
        .map_err(|error| CommandError::new(chain(&error)))?;
    let mut fetched = 0;
    for segment in wanted {
        let file = WalFile::Segment(segment);
        let name = server.name();
        let mut copy = TempFile::create(&layout.incoming.join(file.to_string()))
            .map_err(|error| CommandError::new(error.to_string()))?;
        if let Err(reason) = runtime.block_on(fetch(source, segment, size, &mut copy)) {
            server.output.debug(format!("{file} cannot be fetched from server '{name}': {reason}"));
            continue;
        }
        let reread =
            File::open(copy.temporary_path()).and_then(|mut reread| reread.rewind().map(|()| reread));
        let reread =
            reread.map_err(|error| CommandError::because("what was fetched cannot be read", &error))?;
        let received =
            reception.receive(file, None, reread).and_then(|received| reception.accept(vec![received]));
        match received {
            Ok(_) => {
                fetched += 1;
                server.output.info(format!(
                    "{file} was missing in the archive of server '{name}' and was fetched from it"
                ));
            }
            Err(error) => server
                .output
                .warning(format!("{file} was fetched from server '{name}' in vain: {}", chain(&error))),
        }
    }
    Ok(fetched)
}

/// Archived segments that are known to be damaged.
fn damaged(server: &ServerContext) -> Vec<SegmentName> {
    let Ok(indexes) = IndexStore::of(&server.layout()).load() else { return Vec::new() };
    let facts = indexes
        .iter()
        .map(|entry| &entry.facts)
        .filter(|facts| matches!(facts.soundness, Soundness::Damaged | Soundness::Altered));
    let is_there = |segment: &SegmentName| server.layout().wal(&WalFile::Segment(*segment)).exists();
    facts.map(|facts| facts.segment).filter(is_there).take(SEGMENTS_MAX).collect()
}

/// Streams one segment.
async fn fetch(
    source: &ConnInfo,
    segment: SegmentName,
    size: SegmentSize,
    sink: &mut impl Write,
) -> Result<(), String> {
    let start = segment.first_lsn(size).ok_or("there is no such segment")?;
    let end = segment.end_lsn(size).ok_or("there is no such segment")?;
    let mut connection = Connection::connect(source).await.map_err(|error| chain(&error))?;
    let identity = connection.identify_system().await.map_err(|error| chain(&error))?;
    if identity.flush_lsn < end {
        return Err("the server has not completed it".to_owned());
    }
    let start_physical = StartPhysical { slot: None, start, timeline: segment.timeline() };
    let mut stream = connection.start_physical(start_physical).await.map_err(|error| chain(&error))?;
    let mut position = start;
    while position < end {
        let next = tokio::time::timeout(SILENCE_MAX, stream.next()).await;
        match next.map_err(|_| "the server sends nothing")?.map_err(|error| chain(&error))? {
            WalEvent::Data { start, bytes, .. } if start == position => {
                let left = usize::try_from(end.as_u64() - position.as_u64()).unwrap_or(usize::MAX);
                let taken = &bytes[..bytes.len().min(left)];
                sink.write_all(taken).map_err(|error| error.to_string())?;
                position = position.checked_add(taken.len() as u64).ok_or("the position overflows")?;
            }
            WalEvent::KeepAlive { reply_requested: true, .. } => {
                let status = StandbyStatus { write: position, flush: start, apply: pgwal::Lsn::INVALID };
                stream.send_status(status).await.map_err(|error| chain(&error))?;
            }
            WalEvent::KeepAlive { .. } => {}
            WalEvent::Data { .. } => return Err("the server leaves WAL out".to_owned()),
            _ => return Err("the server has no more of that timeline".to_owned()),
        }
    }
    // The connection is dropped with what the server still sends.
    Ok(())
}
