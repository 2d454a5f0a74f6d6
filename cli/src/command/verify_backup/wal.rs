//! The WAL that a backup needs, looked for and read in the archive.

use std::io::{self, BufRead, BufReader};

use barkeep_catalog::{BackupInfo, Layout, Status, wal};
use pgbase::manifest::{ManifestFacts, WalRange};
use pgwal::reader::{CHUNK_BYTES, SegmentSource};
use pgwal::verify::{SegmentReport, VerifyOptions, verify_segments};
use pgwal::{SegmentName, WalFile};

use crate::context::ServerContext;
use crate::error::{CommandError, chain};

/// Most segments that a backup can be said to need: 16 TiB of WAL in segments of the usual size.
const SEGMENTS_MAX: u64 = 1 << 20;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct WalVerdict {
    pub(super) segments: u64,
    pub(super) first: Option<SegmentName>,
    pub(super) last: Option<SegmentName>,
    /// What is wrong, one line each.
    pub(super) faults: Vec<String>,
    /// Segments that have not arrived yet, of a backup that is known to wait for them.
    pub(super) awaited: Vec<SegmentName>,
}

impl WalVerdict {
    pub(super) fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }
}

/// Verifies the WAL that makes a backup consistent: by the manifest, else by the backup's record.
pub(super) fn verify(
    server: &ServerContext,
    info: &BackupInfo,
    manifest: &ManifestFacts,
    threads: usize,
) -> Result<WalVerdict, CommandError> {
    let layout = server.layout();
    let mut verdict = WalVerdict::default();
    let recorded = || {
        let (timeline, start, end) = (info.timeline?, info.begin_xlog?, info.end_xlog?);
        Some(WalRange { timeline, start, end })
    };
    let ranges = if manifest.wal_ranges.is_empty() {
        recorded().into_iter().collect()
    } else {
        manifest.wal_ranges.clone()
    };
    for range in ranges {
        verify_range(&layout, info, range, threads, &mut verdict)?;
    }
    Ok(verdict)
}

fn verify_range(
    layout: &Layout,
    info: &BackupInfo,
    range: WalRange,
    threads: usize,
    verdict: &mut WalVerdict,
) -> Result<(), CommandError> {
    let size = info.segment_size;
    let archive = Archive { layout };
    let count = (range.end.as_u64().saturating_sub(range.start.as_u64())) / size.bytes() + 1;
    if count > SEGMENTS_MAX {
        verdict.faults.push(format!(
            "the backup claims to need WAL from {} to {}, which no backup does",
            range.start, range.end
        ));
        return Ok(());
    }
    let (mut found, mut runs) = (SegmentName::at(range.timeline, range.start, size), vec![Vec::new()]);
    let last = SegmentName::ending_at(range.timeline, range.end, size);
    verdict.first.get_or_insert(found);
    verdict.last = Some(last);
    loop {
        verdict.segments += 1;
        if archive.has(found)? {
            if let Some(run) = runs.last_mut() {
                run.push(found);
            }
        } else if info.status == Status::WaitingForWals {
            verdict.awaited.push(found);
            runs.push(Vec::new());
        } else {
            verdict.faults.push(format!("WAL segment {found} is not in the archive"));
            runs.push(Vec::new());
        }
        match found.next(size) {
            Some(next) if found < last => found = next,
            _ => break,
        }
    }
    let options = VerifyOptions {
        segment_size: Some(size),
        system_id: info.system_id.as_deref().and_then(|id| id.parse().ok()),
        may_end: false,
    };
    for run in runs {
        let verified = verify_segments(&archive, &run, &options, threads, |report| {
            verdict.faults.extend(faults_before(&report, range));
        });
        if let Err(error) = verified {
            verdict.faults.push(chain(&error));
        }
    }
    Ok(())
}

/// Faults in the part of a segment that the backup needs.
fn faults_before(report: &SegmentReport, range: WalRange) -> Vec<String> {
    let segment = report.segment;
    let needed = report.faults.iter().filter(|fault| fault.lsn < range.end);
    let mut faults: Vec<String> =
        needed.map(|fault| format!("WAL segment {segment} at {}: {}", fault.lsn, fault.kind)).collect();
    faults.extend(report.failed.as_ref().map(|error| chain(error)));
    faults
}

/// Segments wherever they are: archived, or on their way.
struct Archive<'a> {
    layout: &'a Layout,
}

impl Archive<'_> {
    fn has(&self, segment: SegmentName) -> Result<bool, CommandError> {
        let found = wal::find(self.layout, WalFile::Segment(segment), false);
        Ok(found.map_err(|error| CommandError::new(chain(&error)))?.is_some())
    }
}

impl SegmentSource for Archive<'_> {
    fn open(&self, segment: SegmentName) -> io::Result<Option<Box<dyn BufRead + '_>>> {
        let found = wal::find(self.layout, WalFile::Segment(segment), false).map_err(io::Error::other)?;
        let Some(found) = found else { return Ok(None) };
        let plain = found.plain().map_err(io::Error::other)?;
        Ok(Some(Box::new(BufReader::with_capacity(CHUNK_BYTES, plain))))
    }
}
