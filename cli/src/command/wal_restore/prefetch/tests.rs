use super::pace::Pace;
use super::state::{Flight, Task, WAIT_MAX};
use super::*;
use crate::command::wal_restore::memory;
use crate::command::wal_restore::plan::Plan;
use barkeep_catalog::Layout;
use pgwal::SegmentName;

fn prefetcher(directory: &std::path::Path) -> Prefetcher {
    let destination = directory.join("RECOVERYXLOG").into_os_string();
    let line = crate::command::wal_restore::spool::CommandLine::new(&[], "".as_ref(), &destination);
    let spool = Spool::new(None, &line, "").unwrap();
    spool.make().unwrap();
    let cursor = "000000010000000000000001".parse().ok();
    let plan = Plan { cursor, size: Some(SegmentSize::DEFAULT), history: None };
    Prefetcher {
        spool,
        source: Source::Local(Box::new(Layout::new("main", directory, directory))),
        recovery: None,
        system_id: None,
        limits: Limits { jobs: 2, bytes: 128 << 20 },
        state: Mutex::new(State { plan, ..State::default() }),
        changed: Condvar::new(),
    }
}

#[test]
fn what_somebody_waits_for_is_not_left_to_the_patient_thread() {
    let directory = tempfile::tempdir().unwrap();
    let prefetcher = prefetcher(directory.path());
    let mut state = prefetcher.state();
    let asked_for: WalFile = "000000010000000000000009".parse().unwrap();
    state.demanded.push_back(asked_for);
    let expected: WalFile = "000000010000000000000002".parse().unwrap();
    assert_eq!(prefetcher.choose(&mut state, true), Task::Fetch(expected));
    assert_eq!(prefetcher.choose(&mut state, false), Task::Fetch(asked_for));
}

#[test]
fn all_threads_fetch_ahead_only_while_little_lies_ready() {
    let directory = tempfile::tempdir().unwrap();
    let prefetcher = prefetcher(directory.path());
    let mut state = prefetcher.state();
    state.ready.insert("000000010000000000000002".to_owned(), 1);
    let third: WalFile = "000000010000000000000003".parse().unwrap();
    assert_eq!(prefetcher.choose(&mut state, false), Task::Fetch(third));
    state.ready.insert(third.to_string(), 1);
    assert_eq!(prefetcher.choose(&mut state, false), Task::None);
    assert!(matches!(prefetcher.choose(&mut state, true), Task::Fetch(_)));
}

/// A prefetcher that has enough ready, and fetches one more.
fn well_stocked(directory: &std::path::Path) -> (Prefetcher, WalFile) {
    let prefetcher = prefetcher(directory);
    let file: WalFile = "000000010000000000000004".parse().unwrap();
    let mut state = prefetcher.state();
    state.ready.insert("000000010000000000000002".to_owned(), 1);
    state.ready.insert("000000010000000000000003".to_owned(), 1);
    let flight = Flight { since: Instant::now(), patient: true, held: false };
    state.in_flight.insert(file.to_string(), flight);
    drop(state);
    (prefetcher, file)
}

#[test]
fn the_patient_thread_keeps_still_while_the_server_syncs_what_it_got() {
    let directory = tempfile::tempdir().unwrap();
    let (prefetcher, _) = well_stocked(directory.path());
    let mut state = prefetcher.state();
    // Of the future, however slow this test runs.
    state.last_question = Some(Instant::now() + Duration::from_secs(3600));
    assert!(matches!(prefetcher.choose(&mut state, true), Task::KeepStill(_)));
    state.ready.clear();
    assert!(matches!(prefetcher.choose(&mut state, true), Task::Fetch(_)), "recovery is about to wait");
}

#[test]
fn a_file_takes_the_disk_when_the_server_has_just_been_served() {
    let directory = tempfile::tempdir().unwrap();
    let (prefetcher, file) = well_stocked(directory.path());
    let name = file.to_string();
    let since = Instant::now();
    thread::scope(|scope| {
        let holding = scope.spawn(|| prefetcher.hold(file, since));
        while !prefetcher.state().in_flight[&name].held {
            assert!(since.elapsed() < Duration::from_secs(30));
            thread::yield_now();
        }
        assert!(!holding.is_finished());
        prefetcher.state().last_question = Some(Instant::now());
        prefetcher.changed.notify_all();
        holding.join().unwrap();
    });
    let flight = prefetcher.state().in_flight[&name];
    assert!(!flight.held && flight.since > since, "the time that it was held does not count");
    // Nor is it held for ever where nobody asks.
    prefetcher.hold(file, Instant::now());
}

#[test]
fn what_takes_longer_than_the_server_will_be_busy_waits_for_its_next_question() {
    const LONG: Duration = Duration::from_secs(1000);
    let directory = tempfile::tempdir().unwrap();
    let prefetcher = prefetcher(directory.path());
    let mut state = prefetcher.state();
    let names = [1, 2, 3, 4, 5].map(|number| format!("00000001000000000000000{number}"));
    let [first, second] = [&names[0], &names[1]].map(|name| name.parse::<SegmentName>().unwrap());
    state.ready.extend(names[1..].iter().map(|name| (name.clone(), 1)));
    state.records.extend([(first, 1_000_000), (second, 10)]);
    let long_ago = Instant::now().checked_sub(Duration::from_millis(100)).unwrap();
    state.last_question = Some(long_ago);
    state.pace.copied(LONG / 2);
    assert!(matches!(prefetcher.choose(&mut state, true), Task::Fetch(_)), "its pace is not known yet");
    state.pace.replayed(1000, Duration::from_secs(1));
    assert!(matches!(prefetcher.choose(&mut state, true), Task::Fetch(_)), "it is busy for long");
    assert!(state.is_time_for(LONG / 2) && !state.is_time_for(LONG));
    state.pace.copied(LONG * 4);
    assert!(matches!(prefetcher.choose(&mut state, true), Task::KeepStill(_)));
    state.pace = Pace::default();
    state.is_asked_for(second, SystemTime::now());
    state.passed.clear();
    assert!(
        state.pace.replay_of(1_000_000).unwrap() >= Duration::from_millis(100),
        "from question to question"
    );
    state.pace.copied(LONG);
    assert!(matches!(prefetcher.choose(&mut state, true), Task::KeepStill(_)));
    // With less than half of what is to lie ready, that counts more, and nothing waits for ever.
    let ready = state.ready.split_off(&names[3]);
    assert!(matches!(prefetcher.choose(&mut state, true), Task::Fetch(_)));
    state.ready.extend(ready);
    state.last_question = Instant::now().checked_sub(WAIT_MAX);
    assert!(matches!(prefetcher.choose(&mut state, true), Task::Fetch(_)));
}

#[test]
fn nothing_is_held_when_little_lies_ready() {
    let directory = tempfile::tempdir().unwrap();
    let (prefetcher, file) = well_stocked(directory.path());
    let before = prefetcher.state().in_flight[&file.to_string()].since;
    prefetcher.state().ready.clear();
    prefetcher.hold(file, Instant::now());
    assert_eq!(prefetcher.state().in_flight[&file.to_string()].since, before);
}

#[test]
fn nobody_waits_long_for_a_thread_that_gets_no_processor() {
    let directory = tempfile::tempdir().unwrap();
    let prefetcher = prefetcher(directory.path());
    let file: WalFile = "000000010000000000000002".parse().unwrap();
    let flight = Flight { since: Instant::now(), patient: true, held: false };
    prefetcher.state().in_flight.insert(file.to_string(), flight);
    let (mut stream, _other) = UnixStream::pair().unwrap();
    assert_eq!(prefetcher.demand(file, &mut stream).unwrap(), Answer::Direct);
    assert!(flight.since.elapsed() >= PATIENT_GRACE);
}

/// A recovery that has segment 1 in its `pg_wal`, whose last record ends in segment 2.
fn recovering(directory: &std::path::Path) -> Recovery {
    fs::create_dir(directory.join("pg_wal")).unwrap();
    fs::write(directory.join("postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
    fs::write(directory.join("recovery.signal"), "").unwrap();
    let bytes = testkit::wal::SEGMENT_BYTES;
    let wal = testkit::wal::joined_segment(1, bytes as u64, bytes);
    fs::write(directory.join("pg_wal/000000010000000000000001"), wal).unwrap();
    Recovery::of(directory).unwrap()
}

#[test]
fn a_record_is_followed_out_of_a_segment_that_the_prefetcher_has_not_heard_of() {
    let directory = tempfile::tempdir().unwrap();
    let recovery = Some(recovering(directory.path()));
    let prefetcher = Prefetcher { recovery, ..prefetcher(directory.path()) };
    let [first, second]: [SegmentName; 2] =
        ["000000010000000000000001", "000000010000000000000002"].map(|name| name.parse().unwrap());
    prefetcher.state().is_asked_for(second, SystemTime::now());
    assert!(prefetcher.end_of(first, second).unwrap().is_some());
    // Fetched ahead: the first one is asked for, and what is there under its name may be of another recovery.
    prefetcher.state().is_asked_for(first, SystemTime::now() + Duration::from_secs(60));
    assert_eq!(prefetcher.end_of(first, second).unwrap_err(), Answer::Direct);
    prefetcher.state().is_asked_for(first, SystemTime::UNIX_EPOCH);
    assert!(prefetcher.end_of(first, second).unwrap().is_some());
}

#[test]
fn segments_that_recovery_has_passed_leave_memory() {
    let directory = tempfile::tempdir().unwrap();
    let recovery = recovering(directory.path());
    let [passed, latest] = ["000000010000000000000001", "000000010000000000000002"]
        .map(|name| recovery.wal_directory().join(name));
    if ![&passed, &latest].into_iter().all(|path| memory::tests::write_warm(path)) {
        return;
    }
    let prefetcher = Prefetcher { recovery: Some(recovery), ..prefetcher(directory.path()) };
    let third = "000000010000000000000003";
    // As a call asks that has taken the file already: it is gone when the answer comes.
    let ask = || {
        prefetcher.state().ready.insert(third.to_owned(), 1);
        let (stream, mut other) = UnixStream::pair().unwrap();
        other.write_all(format!("get {third} {}\n", std::process::id()).as_bytes()).unwrap();
        drop(other);
        assert!(prefetcher.answer(stream).is_err());
        let Task::LetGo(segment) = prefetcher.choose(&mut prefetcher.state(), true) else {
            panic!("nothing is let go")
        };
        prefetcher.let_go_of(segment);
    };
    assert!(memory::tests::is_cold_after(&passed, ask));
    assert!(!memory::is_cold(&File::open(&latest).unwrap()), "its last record may end in the third");
}

#[test]
fn an_archived_file_is_left_in_memory_as_it_was_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("00000002.history");
    if !memory::tests::write_warm(&path) {
        return;
    }
    let fetch = || Source::fetch_path(&path, &mut io::sink()).unwrap();
    fetch();
    assert!(!memory::is_cold(&File::open(&path).unwrap()), "somebody had it there");
    assert!(memory::tests::is_cold_after(&path, || memory::let_go_of_path(&path)));
    assert!(
        memory::tests::is_cold_after(&path, || {
            memory::let_go_of_path(&path);
            fetch();
        }),
        "nobody had"
    );
}
