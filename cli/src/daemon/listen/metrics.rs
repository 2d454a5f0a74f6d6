//! The facts in Prometheus' text format, version 0.0.4.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;

use super::facts::Facts;
use crate::command::windows::gather::{Gathered, unix_seconds};

/// Most states of checks that are told of one server.
const CHECKS_MAX: usize = 200;

/// Collects samples by metric, as the format wants them.
#[derive(Default)]
struct Metrics {
    by_name: BTreeMap<&'static str, (&'static str, Vec<String>)>,
}

impl Metrics {
    fn gauge(&mut self, name: &'static str, help: &'static str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> =
            labels.iter().map(|(label, text)| format!("{label}=\"{}\"", escape(text))).collect();
        let (_, samples) = self.by_name.entry(name).or_insert((help, Vec::new()));
        samples.push(format!("{name}{{{}}} {value}", labels.join(",")));
    }

    fn render(self) -> String {
        let mut text = String::new();
        for (name, (help, samples)) in self.by_name {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
            for sample in samples {
                let _ = writeln!(text, "{sample}");
            }
        }
        text
    }
}

/// All facts.
pub(super) fn render(facts: &[Facts], now: Timestamp) -> String {
    let mut metrics = Metrics::default();
    metrics.gauge(
        "barkeep_build_info",
        "The program that answers.",
        &[("version", env!("CARGO_PKG_VERSION"))],
        1.0,
    );
    for facts in facts {
        server(&mut metrics, facts, now);
    }
    metrics.render()
}

fn server(metrics: &mut Metrics, facts: &Facts, now: Timestamp) {
    let name = [("server", facts.server.as_str())];
    let mut gauge = |metric, help, value: f64| metrics.gauge(metric, help, &name, value);
    gauge("barkeep_active", "Whether the server is backed up (1) or set inactive (0).", truth(facts.active));
    gauge("barkeep_home_readable", "Whether the server's home could be read.", truth(facts.windows.is_ok()));
    if let Some(backup) = &facts.last_backup {
        let age = now.duration_since(backup.end).as_secs_f64();
        gauge("barkeep_last_backup_age_seconds", "Since the newest usable backup ended.", age.max(0.0));
        if let Some(size) = backup.size {
            gauge("barkeep_last_backup_size_bytes", "The size of the newest usable backup.", size as f64);
        }
        if let Some(seconds) = backup.seconds {
            gauge("barkeep_last_backup_duration_seconds", "How long the newest usable backup took.", seconds);
        }
    }
    if let Some(receiving) = facts.receiver {
        gauge("barkeep_receiver_running", "Whether WAL is being received.", truth(receiving));
    }
    if let Some(lag) = facts.lag_bytes {
        gauge("barkeep_receiver_lag_bytes", "WAL that the server has written and barkeep lacks.", lag as f64);
    }
    if let Ok(gathered) = &facts.windows {
        windows(metrics, &facts.server, gathered, now);
    }
    if let Some(check) = &facts.check {
        let states = check.failed.iter().map(|line| (line, false));
        for (line, ok) in states.chain(check.passed.iter().map(|line| (line, true))).take(CHECKS_MAX) {
            let labels = [("server", facts.server.as_str()), ("check", line.as_str())];
            metrics.gauge(
                "barkeep_check_ok",
                "Lines of the last check: 1 passed, 0 failed.",
                &labels,
                truth(ok),
            );
        }
    }
}

fn windows(metrics: &mut Metrics, server: &str, gathered: &Gathered, now: Timestamp) {
    let name = [("server", server)];
    let mut gauge = |metric, help, value: f64| metrics.gauge(metric, help, &name, value);
    if let Some(seconds) = gathered.loss_seconds() {
        gauge(
            "barkeep_rpo_seconds",
            "The age of the newest commit that can be had: what would be lost at most.",
            seconds as f64,
        );
    }
    let earliest = gathered.windows.timelines.iter().flat_map(|timeline| &timeline.intervals);
    if let Some(seconds) = earliest.filter_map(|interval| interval.from_time).min().and_then(unix_seconds) {
        gauge(
            "barkeep_earliest_restorable_timestamp_seconds",
            "The earliest moment to restore.",
            seconds as f64,
        );
    }
    let missing: u64 = gathered.windows.gaps.iter().map(|gap| gap.segments).sum();
    let counts = [
        ("barkeep_archive_gaps", "Interruptions of the archived WAL.", gathered.windows.gaps.len() as u64),
        ("barkeep_archive_missing_segments", "WAL segments missing between others.", missing),
        (
            "barkeep_archive_damaged_segments",
            "Segments not replayable.",
            gathered.windows.damaged.len() as u64,
        ),
        (
            "barkeep_archive_missing_histories",
            "Timelines without a history file.",
            gathered.windows.missing_histories.len() as u64,
        ),
        ("barkeep_archive_unindexed_segments", "Segments never read.", gathered.unindexed as u64),
        ("barkeep_backups", "Usable backups.", gathered.backups.len() as u64),
        (
            "barkeep_backups_stranded",
            "Backups without the WAL they need.",
            gathered.windows.stranded.len() as u64,
        ),
    ];
    for (metric, help, count) in counts {
        gauge(metric, help, count as f64);
    }
    let mut verdicts: BTreeMap<String, u64> = BTreeMap::new();
    for verdict in gathered.backups.iter().filter_map(|backup| backup.verdict) {
        *verdicts.entry(verdict.to_string()).or_default() += 1;
    }
    for (verdict, count) in verdicts {
        let labels = [("server", server), ("verdict", verdict.as_str())];
        metrics.gauge("barkeep_retention_backups", "Backups by what retention says.", &labels, count as f64);
    }
    let drills = gathered.backups.iter().filter_map(|backup| backup.drill.as_ref());
    if let Some(drill) = drills.max_by_key(|drill| drill.at) {
        let age = now.duration_since(drill.at).as_secs_f64();
        metrics.gauge("barkeep_drill_age_seconds", "Since the last drill ended.", &name, age.max(0.0));
        let passed = truth(drill.faults.is_empty());
        metrics.gauge("barkeep_drill_passed", "Whether the last drill found all well.", &name, passed);
    }
}

const fn truth(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

/// A label's value.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_quoted_and_metrics_grouped() {
        let mut metrics = Metrics::default();
        metrics.gauge("b", "Two.", &[("server", "a\"b\\c\nd")], 2.0);
        metrics.gauge("a", "One.", &[("server", "x")], 0.5);
        metrics.gauge("b", "Two.", &[("server", "y")], 3.0);
        let expected = "# HELP a One.\n# TYPE a gauge\na{server=\"x\"} 0.5\n# HELP b Two.\n# TYPE b gauge\n\
                        b{server=\"a\\\"b\\\\c\\nd\"} 2\nb{server=\"y\"} 3\n";
        assert_eq!(metrics.render(), expected);
    }
}
