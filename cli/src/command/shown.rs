//! How Barman writes moments and shares in its answers.

use barkeep_catalog::drill::Drill;
use barkeep_catalog::seal::Sealed;
use barkeep_catalog::{BackupId, Catalog};
use jiff::Zoned;

use crate::config::ServerConfig;

/// The line above what is told about a server.
pub(super) fn heading(config: &ServerConfig) -> String {
    let state = match (config.active(), config.disabled()) {
        (false, _) => " (inactive)",
        (true, true) => " (WARNING: disabled)",
        (true, false) => "",
    };
    format!("Server {}{state}:\n", config.name())
}

/// Python's text of a truth.
pub(super) const fn on_off(on: bool) -> &'static str {
    if on { "True" } else { "False" }
}

/// C's `ctime`: `Sun Nov  1 10:15:58 2026`, on the clock of the moment's own offset.
pub(super) fn ctime(moment: &Zoned) -> String {
    moment.strftime("%a %b %e %H:%M:%S %Y").to_string()
}

/// Seconds since 1970, as text.
pub(super) fn epoch(moment: &Zoned) -> String {
    moment.timestamp().as_second().to_string()
}

/// Python's text of a `datetime`: microseconds unless they are 0, and the offset.
pub(super) fn datetime(moment: &Zoned) -> String {
    let fraction = if moment.subsec_nanosecond() / 1000 == 0 { "" } else { "%.6f" };
    moment.strftime(&format!("%Y-%m-%d %H:%M:%S{fraction}%:z")).to_string()
}

/// Python's `isoformat` of a `datetime`, on the clock of this machine.
pub(super) fn isoformat(moment: &Zoned) -> String {
    datetime(&moment.with_time_zone(jiff::tz::TimeZone::system())).replacen(' ', "T", 1)
}

/// A share of one as `99.90%`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.2}%", share * 100.0)
}

/// So many a second as `80.00/hour`.
pub(super) fn hourly(per_second: f64) -> String {
    format!("{:.2}/hour", per_second * 3600.0)
}

/// The last drill with a backup.
pub(super) struct LastDrill {
    pub(super) drill: Drill,
    sealed: Sealed,
}

impl LastDrill {
    /// What is recorded; `None` when there was no drill, or the record can't be understood.
    pub(super) fn of(catalog: &Catalog, id: BackupId) -> Option<Self> {
        let (drill, sealed) = catalog.sealed_drill(id).ok().flatten()?;
        Some(LastDrill { drill, sealed })
    }

    /// `passed, Wed Nov 25 22:00:00 2026`, and what its seal shows unless it is sound.
    pub(super) fn text(&self) -> String {
        let result = if self.drill.passed() { "passed" } else { "failed" };
        let at = ctime(&self.drill.at.to_zoned(jiff::tz::TimeZone::system()));
        match self.sealed {
            Sealed::Sound => format!("{result}, {at}"),
            sealed => format!("{result}, {at} ({})", sealed.words()),
        }
    }

    pub(super) fn json(&self) -> serde_json::Value {
        let Drill { at, target, bytes, restore_seconds, recovery_seconds, last_commit, faults, .. } =
            &self.drill;
        serde_json::json!({
            "passed": self.drill.passed(), "at": at.to_string(), "seal": self.sealed.words(), "target": target,
            "bytes": bytes, "restore_seconds": restore_seconds, "recovery_seconds": recovery_seconds,
            "last_commit": last_commit, "faults": faults,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_as_python_and_c_write_them() {
        let moment: Zoned = "2026-11-01T10:15:42.349427+02:00[+02:00]".parse().unwrap();
        assert_eq!(ctime(&moment), "Sun Nov  1 10:15:42 2026");
        assert_eq!(epoch(&moment), "1793520942");
        assert_eq!(datetime(&moment), "2026-11-01 10:15:42.349427+02:00");
        let whole: Zoned = "2026-11-22T10:15:42+00:00[+00:00]".parse().unwrap();
        assert_eq!(datetime(&whole), "2026-11-22 10:15:42+00:00");
    }

    #[test]
    fn shares_and_rates() {
        assert_eq!(percent(0.99902), "99.90%");
        assert_eq!(hourly(1.0 / 45.0), "80.00/hour");
    }
}
