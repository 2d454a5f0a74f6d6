use std::collections::BTreeMap;
use std::io::Read;

use pgwal::index::{IndexOptions, Indexer, SegmentIndex};
use pgwal::{SegmentSize, TargetKind, WalFile};
use proptest::prelude::*;

use super::*;
use crate::inspect::Soundness;
use crate::wal_map::Known;
use crate::wal_map::tests::{SIZE, lsn, minute, start, tli};

/// The magic number of PostgreSQL 15's pages.
const MAGIC: u16 = 0xD110;
const SYSTEM_ID: u64 = 7;

/// What happens, one record each.
#[derive(Debug, Clone)]
enum Fact {
    Commit(u32, u64),
    Abort(u32, u64),
    CommitPrepared(u32, u64),
    Point(&'static str),
    BackupEnd(Lsn),
}

/// WAL made for a test: per segment, where each fact is.
#[derive(Default)]
struct Wal {
    bytes: BTreeMap<SegmentName, Vec<u8>>,
    at: Vec<Lsn>,
    previous: u64,
}

impl Wal {
    /// Segments from the second on, each with its facts.
    fn new(segments: &[Vec<Fact>]) -> Self {
        let mut wal = Wal { previous: SIZE.bytes() * 2 - 32, ..Wal::default() };
        for (number, facts) in (2..).zip(segments) {
            wal.segment(number, facts);
        }
        wal
    }

    fn segment(&mut self, number: u64, facts: &[Fact]) {
        let begin = number * SIZE.bytes();
        let mut page = Vec::new();
        page.extend(MAGIC.to_le_bytes());
        page.extend(2_u16.to_le_bytes());
        page.extend(1_u32.to_le_bytes());
        page.extend(begin.to_le_bytes());
        page.extend([0; 8]);
        page.extend(SYSTEM_ID.to_le_bytes());
        page.extend(u32::try_from(SIZE.bytes()).unwrap().to_le_bytes());
        page.extend(8192_u32.to_le_bytes());
        let micros = |at: u64| minute(at).as_micros().to_le_bytes();
        for fact in facts {
            let (xid, rmid, info, main) = match fact {
                Fact::Commit(xid, at) => (*xid, 1, 0x00, micros(*at).to_vec()),
                Fact::Abort(xid, at) => (*xid, 1, 0x20, micros(*at).to_vec()),
                Fact::CommitPrepared(xid, at) => {
                    let mut main = micros(*at).to_vec();
                    main.extend((1_u32 << 4).to_le_bytes());
                    main.extend(xid.to_le_bytes());
                    (0, 1, 0xB0, main)
                }
                Fact::Point(name) => {
                    let mut main = micros(number).to_vec();
                    main.extend(name.as_bytes());
                    main.resize(72, 0);
                    (0, 0, 0x70, main)
                }
                Fact::BackupEnd(of) => (0, 0, 0x50, of.as_u64().to_le_bytes().to_vec()),
            };
            let at = begin + page.len() as u64;
            self.at.push(Lsn::from_u64(at));
            self.record(&mut page, at, xid, rmid, info, &main);
        }
        let at = begin + page.len() as u64;
        self.record(&mut page, at, 0, 0, 0x40, &[]);
        page.resize(usize::try_from(SIZE.bytes()).unwrap(), 0);
        self.bytes.insert(SegmentName::at(tli(1), lsn(number, 0), SIZE), page);
    }

    fn record(&mut self, page: &mut Vec<u8>, at: u64, xid: u32, rmid: u8, info: u8, main: &[u8]) {
        let mut body = Vec::new();
        if !main.is_empty() {
            body.extend([255, u8::try_from(main.len()).unwrap()]);
            body.extend(main);
        }
        let mut head = Vec::new();
        head.extend(u32::try_from(24 + body.len()).unwrap().to_le_bytes());
        head.extend(xid.to_le_bytes());
        head.extend(self.previous.to_le_bytes());
        head.extend([info, rmid, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&body), &head);
        head.extend(crc.to_le_bytes());
        page.extend(head);
        page.extend(body);
        page.resize(page.len().next_multiple_of(8), 0);
        self.previous = at;
    }

    /// The map of it; without indexes, every segment has to be read.
    fn map(&self, indexed: bool) -> WalMap {
        let mut before: Option<SegmentIndex> = None;
        let mut known = Vec::new();
        for (name, bytes) in &self.bytes {
            let fresh = || Indexer::new(*name, IndexOptions { segment_size: SIZE, blocks: false }).unwrap();
            let chained = before.as_ref().and_then(|before| Indexer::after(before, *name, false));
            let mut indexer = chained.unwrap_or_else(fresh);
            indexer.feed(bytes).unwrap();
            let index = indexer.finish().unwrap();
            assert!(index.complete);
            before = Some(index.clone());
            known.push(Known {
                name: *name,
                index: indexed.then(|| Box::new(index)),
                soundness: Soundness::Unjudged,
                note: String::new(),
                partial: false,
            });
        }
        WalMap::new(SIZE, known, Vec::new())
    }
}

impl SegmentReader for Wal {
    fn open(&self, known: &Known) -> Result<Option<Box<dyn Read + '_>>, WalError> {
        Ok(self.bytes.get(&known.name).map(|bytes| Box::new(&bytes[..]) as Box<dyn Read>))
    }
}

/// A backup from the beginning of segment 2 to the end of the first record.
fn backup(wal: &Wal) -> Start {
    let mut start = start(1, (2, 40), (2, 40));
    (start.end, start.begin_time, start.end_time) = (wal.at[1], None, None);
    start
}

/// Segment 2 begins with the end of the backup.
fn story() -> Wal {
    let begin = Fact::BackupEnd(lsn(2, 40));
    Wal::new(&[
        vec![begin, Fact::Commit(100, 10), Fact::Commit(101, 12), Fact::Commit(102, 11)],
        vec![Fact::Abort(103, 13), Fact::Point("a"), Fact::Commit(105, 14)],
        vec![],
        vec![Fact::CommitPrepared(104, 15), Fact::Point("a"), Fact::Commit(106, 16)],
    ])
}

fn target(kind: TargetKind, inclusive: bool) -> RecoveryTarget {
    RecoveryTarget { kind: Some(kind), inclusive, ..RecoveryTarget::default() }
}

fn locate(wal: &Wal, indexed: bool, target: &RecoveryTarget) -> Verdict {
    let (map, start) = (wal.map(indexed), backup(wal));
    Preflight::new(&map, wal).locate(&start, &History::root(tli(1)), target).unwrap()
}

/// Where it stops, by the number of the fact, whether that is applied, and the last transaction committed; with an
/// index and without.
#[track_caller]
fn stops(kind: TargetKind, inclusive: bool, fact: usize, applied: bool, commit: Option<u32>) {
    let wal = story();
    for indexed in [true, false] {
        match locate(&wal, indexed, &target(kind.clone(), inclusive)) {
            Verdict::Reachable(stop) => {
                let found = (stop.at, stop.applied, stop.last_commit.map(|commit| commit.xid));
                assert_eq!(found, (wal.at[fact], applied, commit), "{kind:?}");
            }
            Verdict::Unreachable(no) => panic!("{kind:?}: {no:?}"),
        }
    }
}

#[track_caller]
fn no_way(kind: TargetKind, expected: impl Fn(&Why) -> bool) {
    for indexed in [true, false] {
        match locate(&story(), indexed, &target(kind.clone(), true)) {
            Verdict::Unreachable(no) => assert!(expected(&no.why), "{no:?}"),
            Verdict::Reachable(stop) => panic!("{kind:?}: {stop:?}"),
        }
    }
}

#[test]
fn a_time_stops_before_the_first_later_end_in_the_order_of_the_wal() {
    stops(TargetKind::Time(minute(10)), true, 2, false, Some(100));
    // 102 is older, and behind.
    stops(TargetKind::Time(minute(11)), true, 2, false, Some(100));
    stops(TargetKind::Time(minute(12)), true, 4, false, Some(102));
    stops(TargetKind::Time(minute(12)), false, 2, false, Some(100));
    stops(TargetKind::Time(minute(13)), true, 6, false, Some(102));
    no_way(TargetKind::Time(minute(16)), |why| matches!(why, Why::AfterLast { .. }));
}

#[test]
fn a_transaction_stops_at_its_end_however_it_ends() {
    stops(TargetKind::Xid(101), true, 2, true, Some(101));
    stops(TargetKind::Xid(101), false, 2, false, Some(100));
    stops(TargetKind::Xid(103), true, 4, true, Some(102));
    stops(TargetKind::Xid(104), true, 7, true, Some(104));
    stops(TargetKind::Xid(100), false, 1, false, None);
    no_way(TargetKind::Xid(99), |why| matches!(why, Why::NotEnded { top: None, prepared: false }));
}

#[test]
fn a_position_stops_at_the_first_record_from_there_on() {
    let wal = story();
    let after = |fact: usize| TargetKind::Lsn(Lsn::from_u64(wal.at[fact].as_u64() + 1));
    stops(TargetKind::Lsn(wal.at[2]), true, 2, true, Some(101));
    stops(TargetKind::Lsn(wal.at[2]), false, 2, false, Some(100));
    stops(after(1), true, 2, true, Some(101));
    no_way(TargetKind::Lsn(lsn(6, 0)), |why| matches!(why, Why::AfterLast { .. }));
    // Before everything: the first record there is, which ends the backup here.
    stops(TargetKind::Lsn(lsn(2, 0)), true, 0, true, None);
}

#[test]
fn the_end_of_the_backup_is_the_first_moment() {
    let wal = story();
    // The record that ends it, applied, makes the cluster consistent.
    stops(TargetKind::Lsn(wal.at[0]), true, 0, true, None);
    let exclusive = locate(&wal, true, &target(TargetKind::Lsn(wal.at[0]), false));
    assert!(matches!(exclusive, Verdict::Unreachable(Unreachable { why: Why::BeforeBackupEnd { .. }, .. })));
    stops(TargetKind::Immediate, true, 0, true, None);
}

#[test]
fn of_restore_points_with_one_name_the_first_counts_and_the_others_are_told() {
    stops(TargetKind::Name("a".to_owned()), true, 5, true, Some(102));
    match locate(&story(), true, &target(TargetKind::Name("a".to_owned()), true)) {
        Verdict::Reachable(stop) => assert_eq!(stop.same_name_later, 1),
        Verdict::Unreachable(no) => panic!("{no:?}"),
    }
    no_way(TargetKind::Name("b".to_owned()), |why| matches!(why, Why::UnknownName { .. }));
}

#[test]
fn what_lies_behind_a_gap_is_out_of_reach() {
    let mut wal = story();
    let gap = SegmentName::at(tli(1), lsn(4, 0), SIZE);
    wal.bytes.remove(&gap);
    let no = locate(&wal, true, &target(TargetKind::Xid(104), true));
    let Verdict::Unreachable(no) = no else { panic!("{no:?}") };
    let missing = Break::Missing { first: gap, later: 1 };
    assert_eq!(no.why, Why::Interrupted { reach: lsn(4, 0), by: missing });
    assert_eq!(no.last_commit.map(|commit| commit.xid), Some(105));
    // Without a target, that is where it ends.
    let Verdict::Reachable(stop) = locate(&wal, true, &RecoveryTarget::default()) else { panic!() };
    assert_eq!((stop.at, stop.cut_short.is_some()), (lsn(4, 0), true));
}

#[test]
fn no_more_is_read_than_up_to_the_record() {
    let wal = story();
    let Verdict::Reachable(stop) = locate(&wal, true, &target(TargetKind::Xid(101), true)) else { panic!() };
    assert_eq!(
        WalFile::Segment(SegmentName::ending_at(tli(1), stop.read_to, SIZE)).to_string(),
        "000000010000000000000002"
    );
}

fn facts() -> impl Strategy<Value = Vec<Vec<Fact>>> {
    let fact = prop_oneof![
        (100u32..120, 0u64..40).prop_map(|(xid, at)| Fact::Commit(xid, at)),
        (100u32..120, 0u64..40).prop_map(|(xid, at)| Fact::Abort(xid, at)),
        (100u32..120, 0u64..40).prop_map(|(xid, at)| Fact::CommitPrepared(xid, at)),
        prop::sample::select(vec!["a", "b", "c"]).prop_map(Fact::Point),
    ];
    prop::collection::vec(prop::collection::vec(fact, 0..6), 1..6)
}

fn targets() -> impl Strategy<Value = RecoveryTarget> {
    let kind = prop_oneof![
        (0u64..42).prop_map(|at| TargetKind::Time(minute(at))),
        (99u32..121).prop_map(TargetKind::Xid),
        (2u64..8, 0u64..600).prop_map(|(number, offset)| TargetKind::Lsn(lsn(number, offset))),
        prop::sample::select(vec!["a", "b", "c", "d"]).prop_map(|name| TargetKind::Name(name.to_owned())),
        Just(TargetKind::Immediate),
    ];
    (kind, any::<bool>()).prop_map(|(kind, inclusive)| target(kind, inclusive))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_index_saves_reading_and_changes_no_answer(segments in facts(), target in targets()) {
        let mut segments = segments;
        segments[0].insert(0, Fact::BackupEnd(lsn(2, 40)));
        segments[0].insert(1, Fact::Commit(90, 0));
        let wal = Wal::new(&segments);
        let (with, without) = (locate(&wal, true, &target), locate(&wal, false, &target));
        match (with, without) {
            (Verdict::Reachable(mut with), Verdict::Reachable(without)) => {
                with.same_name_later = without.same_name_later;
                prop_assert_eq!(with, without);
            }
            (Verdict::Unreachable(with), Verdict::Unreachable(without)) => {
                prop_assert_eq!(with.last_commit, without.last_commit);
            }
            (with, without) => prop_assert!(false, "{:?} {:?}", with, without),
        }
    }
}

const _: () = assert!(SegmentSize::MIN.bytes() == 1 << 20);
