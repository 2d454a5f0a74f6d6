//! Retention of a very large catalogue: 10,000 backups and 10 million WAL segments.
//!
//! Before the measurements, one evaluation is run by itself, and the memory of the process that holds the facts and the
//! answer is printed.

use std::hint::black_box;

use barkeep_retention::{Backup, Keep, Policy, Rules, SegmentRange, WalPlan, WalPolicy, claims, evaluate};
use criterion::{Criterion, criterion_group, criterion_main};
use jiff::{SignedDuration, Timestamp};
use pgwal::{History, Lsn, SegmentSize, TimelineId};

const BACKUPS: u64 = 10_000;
const SEGMENTS: u64 = 10_000_000;
const TIMELINES: u32 = 5;
/// A gap in the archive after so many segments.
const RUN_SEGMENTS: u64 = 10_000;
const NOW: Timestamp = Timestamp::constant(1_795_000_000, 0);

/// What a catalogue says.
struct Catalogue {
    backups: Vec<Backup<u64>>,
    histories: Vec<History>,
    ranges: Vec<SegmentRange>,
}

fn timeline(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap_or(TimelineId::FIRST)
}

impl Catalogue {
    /// An hourly backup, every hundredth kept, three quarters of them increments, with a promotion now and then.
    fn new() -> Self {
        let size = SegmentSize::DEFAULT.bytes();
        let (per_backup, per_timeline) = (SEGMENTS / BACKUPS, SEGMENTS / u64::from(TIMELINES));
        let timeline_of = |segment: u64| timeline(1 + (segment / per_timeline) as u32);
        let backups = (0..BACKUPS).map(|number| {
            let begin = number * per_backup * size + 40;
            let end_time = NOW - SignedDuration::from_hours((BACKUPS - number) as i64);
            let backup = Backup::done(number, end_time).at(
                timeline_of(number * per_backup),
                Lsn::from_u64(begin),
                Lsn::from_u64(begin + 3 * size),
            );
            match number % 100 {
                0 => backup.kept(if number % 200 == 0 { Keep::Full } else { Keep::Standalone }),
                n if n % 4 != 0 => backup.increment_of(number - number % 4),
                _ => backup,
            }
        });
        let histories = (2..=TIMELINES).map(|number| {
            let lines = (1..number).map(|ancestor| {
                format!("{ancestor}\t{}\tx\n", Lsn::from_u64(u64::from(ancestor) * per_timeline * size))
            });
            History::parse(timeline(number), lines.collect::<String>().as_bytes())
                .unwrap_or(History::root(timeline(number)))
        });
        let ranges = (0..SEGMENTS / RUN_SEGMENTS).map(|run| SegmentRange {
            timeline: timeline_of(run * RUN_SEGMENTS),
            first: run * RUN_SEGMENTS,
            last: (run + 1) * RUN_SEGMENTS - 2,
        });
        Catalogue { backups: backups.collect(), histories: histories.collect(), ranges: ranges.collect() }
    }

    /// Judges the backups, and every range of WAL; how many segments may go.
    fn evaluate(&self, policy: &Policy) -> u64 {
        let rules = Rules { minimum_redundancy: 2, histories: &self.histories, ..Rules::new(policy) };
        let judged = evaluate(&self.backups, &rules, NOW);
        let claims =
            claims(&self.backups, &judged, WalPolicy::Main, &self.histories, NOW).unwrap_or_default();
        let timelines = (1..=TIMELINES).map(timeline);
        let plan = WalPlan::new(&claims, &self.histories, timelines, SegmentSize::DEFAULT);
        let parts = plan.ranges(self.ranges.iter().copied());
        parts.filter(|(_, fate)| fate.is_removable()).map(|(part, _)| part.count()).sum()
    }
}

/// The most memory that this process has had, in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn bench(criterion: &mut Criterion) {
    let catalogue = Catalogue::new();
    for (name, text) in [
        ("window", "RECOVERY WINDOW OF 4 WEEKS"),
        ("redundancy", "REDUNDANCY 20"),
        ("calendar", "KEEP 7 DAILY 4 WEEKLY 12 MONTHLY AND REDUNDANCY 2"),
    ] {
        let Ok(policy) = text.parse::<Policy>() else { continue };
        let clock = std::time::Instant::now();
        let removable = catalogue.evaluate(&policy);
        println!(
            "{name}: {removable} segments go; {:?}; peak memory of the process {} KiB",
            clock.elapsed(),
            peak_kib()
        );
        criterion.bench_function(&format!("retention/{name}"), |bencher| {
            bencher.iter(|| black_box(catalogue.evaluate(&policy)));
        });
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
