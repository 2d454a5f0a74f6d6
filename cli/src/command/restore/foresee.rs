//! `restore --plan`: what would be done, where, how much, how long it would take, and what would be written.

use std::time::Duration;

use barkeep_catalog::rates::{Rates, blend};
use barkeep_catalog::{BackupInfo, Catalog};
use pgbase::restore::{RestorePlan, RestoreReport, WalCopy, WalPlace};
use serde_json::json;

use crate::error::{CommandError, chain};
use crate::output::{Output, text};

/// Tells a plan instead of carrying it out.
pub(super) fn tell(
    output: &Output,
    catalog: &Catalog,
    info: &BackupInfo,
    plan: &RestorePlan,
) -> Result<(), CommandError> {
    let settings =
        plan.settings.render(plan.backup.major).map_err(|error| CommandError::new(chain(&error)))?;
    let rates = catalog.rates().unwrap_or_default();
    let foreseen = Foreseen::new(info, plan, rates);
    output.info(format!("Plan for backup {} (nothing is done):", info.id));
    for tree in &plan.trees {
        let what = match &tree.tablespace {
            None => "the data directory".to_owned(),
            Some((oid, name)) => format!("tablespace {name} ({oid})"),
        };
        output.info(format!("  {what}: {} -> {}", tree.from.display(), tree.to.display()));
    }
    let place = match &plan.wal_place {
        WalPlace::PgWal => "pg_wal".to_owned(),
        WalPlace::Staged => pgbase::restore::STAGED_WAL.to_owned(),
        WalPlace::Elsewhere(path) => path.display().to_string(),
    };
    match (plan.wal.first(), plan.wal.last()) {
        (Some(first), Some(last)) => output.info(format!(
            "  {} WAL files, {} to {}, into {place}",
            plan.wal.len(),
            first.name(),
            last.name()
        )),
        _ => output.info("  no WAL: the restored server fetches it"),
    }
    output.info(format!("  along timeline {}", plan.timeline.as_u32()));
    output.info(format!(
        "  to copy: {} and {} of WAL",
        text::size_u64(foreseen.bytes),
        text::size_u64(foreseen.wal_bytes)
    ));
    output.info(format!("  expected time: {}", foreseen.in_words()));
    if let Some(signal) = plan.settings.mode.signal_file() {
        output.info(format!("  a file {signal}"));
    }
    if !settings.is_empty() {
        output.info(format!("  added to {}:", plan.settings_file));
        settings.lines().for_each(|line| output.info(format!("    {line}")));
    }
    for warning in &plan.warnings {
        output.warning(warning.to_string());
    }
    let trees: Vec<_> = plan
        .trees
        .iter()
        .map(|tree| {
            json!({"tablespace": tree.tablespace.as_ref().map(|(_, name)| name), "from": tree.from.display().to_string(),
                   "to": tree.to.display().to_string()})
        })
        .collect();
    let wal: Vec<String> = plan.wal.iter().map(WalCopy::name).collect();
    output.set(
        "plan",
        json!({"backup_id": info.id.to_string(), "delta": plan.delta, "trees": trees, "wal": wal, "wal_place": place,
               "timeline": plan.timeline.as_u32(), "bytes": foreseen.bytes, "wal_bytes": foreseen.wal_bytes,
               "copy_seconds": foreseen.copy, "replay_seconds": foreseen.replay, "settings_file": plan.settings_file,
               "settings": settings, "signal_file": plan.settings.mode.signal_file()}),
    );
    Ok(())
}

/// Takes a restore that was carried out into account for later plans.
pub(super) fn learn(
    catalog: &Catalog,
    info: &BackupInfo,
    plan: &RestorePlan,
    done: &RestoreReport,
    elapsed: Duration,
) {
    let wal_bytes = plan.wal.len() as u64 * info.segment_size.bytes();
    let record = || {
        let known = catalog.rates()?;
        let copy = blend(known.copy, done.bytes + wal_bytes, elapsed.as_secs_f64());
        if copy == known.copy { Ok(()) } else { catalog.record_rates(Rates { copy, ..known }) }
    };
    if let Err(error) = record() {
        tracing::debug!(%error, "the copy rate could not be recorded");
    }
}

/// How much, and for how long.
struct Foreseen {
    bytes: u64,
    wal_bytes: u64,
    /// In seconds, where a rate is known.
    copy: Option<f64>,
    replay: Option<f64>,
}

impl Foreseen {
    fn new(info: &BackupInfo, plan: &RestorePlan, rates: Rates) -> Self {
        let bytes = info.size.or(info.cluster_size).unwrap_or_default();
        let wal_bytes = plan.wal.len() as u64 * info.segment_size.bytes();
        let seconds = |bytes: u64, rate: Option<f64>| rate.map(|rate| bytes as f64 / rate);
        Foreseen {
            bytes,
            wal_bytes,
            copy: seconds(bytes + wal_bytes, rates.copy),
            replay: seconds(wal_bytes, rates.replay),
        }
    }

    fn in_words(&self) -> String {
        let words = |seconds: Option<f64>, what: &str| {
            seconds.map(|seconds| {
                let time = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
                format!("{} to {what}", text::duration(time))
            })
        };
        match (words(self.copy, "copy"), words(self.replay, "replay the WAL")) {
            (Some(copy), Some(replay)) => format!("{copy}, {replay} (by earlier restores and drills here)"),
            (Some(copy), None) => {
                format!("{copy} (by earlier restores here); no replay was measured yet, a drill would do it")
            }
            _ => "not known: no restore or drill was measured here yet".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_measured_is_not_promised() {
        let foreseen = |copy, replay| Foreseen { bytes: 1, wal_bytes: 1, copy, replay };
        assert!(foreseen(None, None).in_words().contains("not known"));
        assert!(foreseen(Some(61.0), None).in_words().starts_with("1 minute, 1 second to copy"));
        let both = foreseen(Some(1e300), Some(2.0)).in_words();
        assert!(both.contains("2 seconds to replay"), "{both}");
    }
}
