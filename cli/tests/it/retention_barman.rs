//! Retention and deletion beside the real Barman: the same verdicts on the same homes, deletions finished by either, and the
//! WAL that Barman loses.

use std::fs;

use barkeep_catalog::{BackupInfo, Status};
use jiff::{SignedDuration, Timestamp};
use pgwal::{SegmentSize, WalFile};
use testkit::{VerdictCase, unprivileged_user};

use crate::killed_steps::{has_strace, killed_at};
use crate::shared_home::{SharedHome, Spot, Tool, archive, archived, listed, put, record};
use crate::stored::names;
use crate::support::Run;

/// The cases of the engine's own tests.
const CASES: [&str; 2] =
    [include_str!("../../../retention/cases/barman.txt"), include_str!("../../../retention/cases/own.txt")];

/// Makes a case a server of the home.
fn stage(home: &SharedHome, server: &str, case: &VerdictCase, now: Timestamp) {
    home.add_server(
        server,
        &format!("retention_policy = {}\nminimum_redundancy = {}", case.policy, case.minimum),
    );
    let layout = home.layout_of(server);
    let id_of = |name: &str| {
        let index = case.backups.iter().position(|backup| backup.name == name).unwrap();
        format!("202601{:02}T000000", index + 1)
    };
    let mut infos: Vec<BackupInfo> = Vec::new();
    for backup in &case.backups {
        let spot = Spot { size: SegmentSize::DEFAULT, timeline: backup.timeline, segment: backup.at };
        let mut info = record(&id_of(&backup.name), spot);
        let age = SignedDuration::from_millis((backup.age_days * 86_400_000.0) as i64);
        info.end_time = Some((now - age).to_zoned(jiff::tz::TimeZone::UTC));
        info.server_name = Some(server.to_owned());
        info.system_id = Some(format!("{}", 7_000_000_000_000_000_000_u64 + u64::from(backup.cluster)));
        info.status = match backup.status.as_str() {
            "done" => Status::Done,
            "waiting" => Status::WaitingForWals,
            "started" => Status::Started,
            _ => Status::Failed,
        };
        info.parent_backup_id = backup.parent.as_deref().map(|parent| id_of(parent).parse().unwrap());
        if let Some(parent) = info.parent_backup_id {
            infos.iter_mut().find(|info| info.id == parent).unwrap().children_backup_ids.push(info.id);
        }
        if let Some(keep) = &backup.keep {
            fs::write(layout.annotation(info.id, "keep"), keep).unwrap();
        }
        infos.push(info);
    }
    for info in &infos {
        put(&layout, info);
    }
    fs::write(layout.xlogdb(), "").unwrap();
}

/// Barman's list knows no difference between a valid backup and one that is not judged.
fn in_a_list(letter: &str) -> &'static str {
    match letter {
        "V" | "-" => "-",
        "O" => "OBSOLETE",
        "O*" => "OBSOLETE*",
        "KF" => "KEEP:FULL",
        _ => "KEEP:STANDALONE",
    }
}

/// All cases that Barman knows the policy of, each a server of one home, listed by both tools.
#[test]
fn both_tools_give_the_verdicts_of_the_tables() {
    testkit::require_barman!();
    let home = SharedHome::empty();
    let now = Timestamp::now();
    // What only barkeep's own files could tell is not staged here: ends of keeps, and what was verified.
    let cases: Vec<VerdictCase> = CASES.iter().flat_map(|text| VerdictCase::parse_all(text)).collect();
    let known = |case: &&VerdictCase| {
        case.barman.as_ref().is_none_or(|verdicts| !verdicts.is_empty())
            && case.backups.iter().all(|backup| backup.until_days.is_none())
    };
    let cases: Vec<&VerdictCase> = cases.iter().filter(known).collect();
    assert!(cases.len() >= 40, "{}", cases.len());
    for case in &cases {
        stage(&home, &case.name.to_lowercase(), case, now);
        let layout = home.layout_of(&case.name.to_lowercase());
        for (timeline, ancestors) in &case.histories {
            let lines = ancestors
                .iter()
                .map(|(ancestor, at)| format!("{ancestor}\t{}\tx\n", pgwal::Lsn::from_u64(at << 24)));
            fs::write(layout.wals.join(format!("{timeline:08X}.history")), lines.collect::<String>())
                .unwrap();
        }
    }
    home.hand_over();
    for tool in [Tool::Barman, Tool::Barkeep] {
        let lists = home.json(tool, &["list-backups", "all"]);
        for case in &cases {
            let mut expected: Vec<String> =
                case.backups.iter().map(|backup| backup.verdict.clone()).collect();
            if let (Tool::Barman, Some(theirs)) = (tool, &case.barman) {
                expected.clone_from(theirs);
            }
            let list =
                lists[case.name.to_lowercase()].as_array().unwrap_or_else(|| panic!("{tool:?} {lists}"));
            // The newest comes first.
            for (index, letter) in expected.iter().enumerate() {
                let line = &list[list.len() - 1 - index];
                let usable = ["DONE", "WAITING_FOR_WALS"].contains(&line["status"].as_str().unwrap());
                let told = line["retention_status"].as_str().unwrap_or("-");
                assert!(usable || letter == "-", "{tool:?} {}: {line}", case.name);
                assert_eq!(told, in_a_list(letter), "{tool:?} {}: {line}", case.name);
            }
        }
    }
}

fn segments(size: SegmentSize, numbers: impl IntoIterator<Item = u64>) -> Vec<WalFile> {
    let name = |segment| WalFile::Segment(Spot { size, timeline: 1, segment }.name());
    numbers.into_iter().map(name).collect()
}

/// Barman 3.13 to 3.20.1 count the entries of an archive directory that are to go, and take 256 of them for all it can hold.
/// Two ways in which the next backup loses its WAL; what must be left is what it begins in and all after that.
fn check_two_hundred_and_fifty_six(size: SegmentSize, next: u64, last: u64, label: bool) {
    let home = SharedHome::new("");
    let layout = home.layout();
    put(&layout, &record("20260101T000000", Spot { size, timeline: 1, segment: 0 }));
    put(&layout, &record("20260102T000000", Spot { size, timeline: 1, segment: next }));
    archived(&layout, segments(size, 0..=last));
    if label {
        let first = Spot { size, timeline: 1, segment: 0 }.name();
        archived(&layout, [format!("{first}.00000028.backup").parse().unwrap()]);
    }
    home.hand_over();
    home.run(Tool::Barkeep, &["delete", "main", "oldest"]).success();
    let expected: Vec<String> = segments(size, next..=last).iter().map(ToString::to_string).collect();
    assert_eq!(archive(&layout), expected);
    assert_eq!(listed(&layout), expected);
    for name in [&expected[0], expected.last().unwrap()] {
        assert_eq!(
            home.run(Tool::Barkeep, &["get-wal", "main", name]).success().stdout,
            format!("stands for {name}")
        );
    }
}

#[test]
fn a_label_beside_255_segments_costs_no_wal() {
    testkit::require_barman!();
    check_two_hundred_and_fifty_six(SegmentSize::DEFAULT, 0xFF, 0xFF, true);
}

#[test]
fn small_segments_cost_no_wal() {
    testkit::require_barman!();
    check_two_hundred_and_fifty_six(SegmentSize::MIN, 0x300, 0x3FF, false);
}

/// The hooks of a deletion, in the order in which they run, each taken as the moment at which barkeep is killed.
const KILLING_HOOKS: [&str; 6] = [
    "pre_delete_script",
    "pre_delete_retry_script",
    "pre_wal_delete_script",
    "post_wal_delete_script",
    "post_delete_retry_script",
    "post_delete_script",
];

/// A home in which retention lets one backup and its increment go, and a killer on the way.
fn doomed(killing_hook: Option<&str>) -> SharedHome {
    doomed_but_for("REDUNDANCY 1", killing_hook)
}

/// The same with another policy.
fn doomed_but_for(policy: &str, killing_hook: Option<&str>) -> SharedHome {
    let size = SegmentSize::DEFAULT;
    let killer = killing_hook.map(|hook| format!("{hook} = kill -9 $PPID\n")).unwrap_or_default();
    let home = SharedHome::new(&format!("retention_policy = {policy}\n{killer}"));
    let layout = home.layout();
    let at = |segment| Spot { size, timeline: 1, segment };
    let mut root = record("20260101T000000", at(2));
    let mut child = record("20260102T000000", at(4));
    child.parent_backup_id = Some(root.id);
    root.children_backup_ids = vec![child.id];
    for info in [&root, &child, &record("20260103T000000", at(6))] {
        put(&layout, info);
    }
    archived(&layout, segments(size, 1..=7));
    home.hand_over();
    home
}

#[test]
fn a_deletion_killed_at_any_hook_is_finished_by_either_tool() {
    testkit::require_barman!();
    for hook in KILLING_HOOKS {
        for finisher in [Tool::Barkeep, Tool::Barman] {
            let home = doomed(Some(hook));
            let layout = home.layout();
            let run = home.run(Tool::Barkeep, &["delete", "main", "oldest"]);
            assert_eq!(run.code, None, "{hook} kills it: {run:?}");
            let conf = layout.backup_directory.parent().unwrap().with_file_name("conf.d").join("main.conf");
            let text = fs::read_to_string(&conf).unwrap();
            fs::write(&conf, text.replace("kill -9 $PPID", "true")).unwrap();
            // Both can read what is there, and nothing that shrinks looks whole.
            for tool in [Tool::Barman, Tool::Barkeep] {
                let list = home.json(tool, &["list-backups", "main"]);
                for line in list["main"].as_array().unwrap() {
                    let id = line["backup_id"].as_str().unwrap();
                    let whole = layout.base.join(id).join("data/PG_VERSION").exists();
                    assert!(whole || line["status"] == "FAILED", "{hook} {tool:?}: {line}");
                }
            }
            for _ in 0..2 {
                home.run(finisher, &["cron"]).success();
            }
            testkit::wait_for("what cron has started to end", 30, || {
                let left = names(layout.base.clone());
                (left == ["20260103T000000"]).then_some(())
            });
            assert_eq!(names(layout.meta()), ["20260103T000000-backup.info"], "{hook} {finisher:?}");
            let expected: Vec<String> =
                segments(SegmentSize::DEFAULT, 6..=7).iter().map(ToString::to_string).collect();
            // Barman only looks at the list: a file that was taken off it before the kill stays where it is, until barkeep's
            // next removal finds it.
            let mut left = archive(&layout);
            left.retain(|name| expected.contains(name) || finisher == Tool::Barkeep);
            assert_eq!(left, expected, "{hook} {finisher:?}");
            assert_eq!(listed(&layout), expected, "{hook} {finisher:?}");
        }
    }
}

/// The calls by which a deletion changes what others see.
const CALLS: [&str; 3] = ["rename", "unlink", "unlinkat"];
/// After every so many kills, Barman reads what is left before barkeep ends it.
const BARMANS_TURN: u32 = 8;

/// Deletes a backup with barkeep again and again, each time in a fresh home and killed one step later, until it gets
/// through. `after` looks at what each has left, and is told how many came before.
fn killed_at_every_step(backup: &str, home: impl Fn() -> SharedHome, after: impl Fn(&SharedHome, &str, u32)) {
    let mut kills = 0;
    for call in CALLS {
        for count in 1.. {
            let home = home();
            let delete = home.command(Tool::Barkeep, &["delete", "main", backup]);
            let mut killed = killed_at(&delete, call, count);
            unprivileged_user().run_as(&mut killed);
            let is_through = Run::of(&mut killed).code == Some(0);
            after(&home, &format!("{call} {count}"), kills);
            kills += 1;
            if is_through {
                break;
            }
        }
    }
    assert!(kills > 15, "only {kills}");
}

/// Whatever a tool lists as a backup has its data.
#[track_caller]
fn nothing_that_shrinks_looks_whole(home: &SharedHome, tool: Tool, at: &str) {
    let list = home.json(tool, &["list-backups", "main"]);
    for line in list["main"].as_array().unwrap() {
        let id = line["backup_id"].as_str().unwrap();
        let whole = home.layout().base.join(id).join("data/PG_VERSION").exists();
        assert!(whole || line["status"] == "FAILED", "{at} {tool:?}: {line}");
    }
}

/// Waits until the directories and the records are those of these backups, and nothing else is beside them but for what was
/// half written when its writer was killed.
#[track_caller]
fn only_these_remain(home: &SharedHome, ids: &[&str], at: &str) {
    let layout = home.layout();
    let records: Vec<String> = ids.iter().map(|id| format!("{id}-backup.info")).collect();
    testkit::wait_for(&format!("the deletion to be finished that was killed at {at}"), 30, || {
        let mut meta = names(layout.meta());
        meta.retain(|name| !name.starts_with('.'));
        (names(layout.base.clone()) == ids && meta == records).then_some(())
    });
}

#[test]
fn a_deletion_killed_at_any_step_is_finished() {
    testkit::require_barman!();
    if !has_strace() {
        return;
    }
    let expected: Vec<String> =
        segments(SegmentSize::DEFAULT, 6..=7).iter().map(ToString::to_string).collect();
    killed_at_every_step(
        "oldest",
        || doomed(None),
        |home, at, kills| {
            nothing_that_shrinks_looks_whole(home, Tool::Barkeep, at);
            if kills % BARMANS_TURN == 0 {
                nothing_that_shrinks_looks_whole(home, Tool::Barman, at);
            }
            for _ in 0..2 {
                home.run(Tool::Barkeep, &["cron"]).success();
            }
            only_these_remain(home, &["20260103T000000"], at);
            assert_eq!(archive(&home.layout()), expected, "{at}");
            assert_eq!(listed(&home.layout()), expected, "{at}");
        },
    );
}

/// Barman's cron after barkeep was killed: the backups that are to go are gone from its list, with all of their files. What
/// may be left is an empty directory and the mark of a backup without a record, which barkeep's cron takes away.
#[track_caller]
fn barman_finishes(home: &SharedHome, stay: &[&str], at: &str) {
    let layout = home.layout();
    let listed_as_child =
        || home.catalog().backups().unwrap().iter().any(|info| !info.children_backup_ids.is_empty());
    let has_lost_child = home.catalog().backups().unwrap().iter().any(|info| info.parent_backup_id.is_some());
    let may_stumble = has_lost_child && !listed_as_child();
    let first = home.run(Tool::Barman, &["cron"]);
    // Barman takes an increment off its parent's list when all is done, and stumbles if it is off already.
    assert!(first.code == Some(0) || may_stumble && first.code == Some(1), "{at}: {first:?}");
    let mut records = names(layout.meta());
    records.retain(|name| name.ends_with("-backup.info") && !name.starts_with('.'));
    assert!(
        records.iter().map(|name| &name[..15]).eq(stay.iter().copied()),
        "{records:?} at {at}: {first:?}"
    );
    let left: Vec<String> =
        names(layout.base.clone()).into_iter().filter(|id| !stay.contains(&id.as_str())).collect();
    for id in &left {
        assert_eq!(names(layout.base.join(id)), [""; 0], "{id} at {at}");
    }
    if !left.is_empty() || first.code != Some(0) {
        let again = home.run(Tool::Barman, &["cron"]).success();
        assert!(!format!("{again:?}").contains("orphan"), "{at}: {again:?}");
        let list = home.json(Tool::Barman, &["list-backups", "main"]);
        assert_eq!(list["main"].as_array().map(Vec::len), Some(stay.len()), "{at}: {list}");
    }
    home.run(Tool::Barkeep, &["cron"]).success();
    only_these_remain(home, stay, at);
    assert!(!listed_as_child(), "{at}");
}

#[test]
fn a_deletion_killed_at_any_step_is_finished_by_barman() {
    testkit::require_barman!();
    if !has_strace() {
        return;
    }
    killed_at_every_step(
        "oldest",
        || doomed(None),
        |home, at, _| {
            barman_finishes(home, &["20260103T000000"], at);
        },
    );
}

#[test]
fn so_is_that_of_an_increment_whose_parent_stays() {
    testkit::require_barman!();
    if !has_strace() {
        return;
    }
    killed_at_every_step(
        "20260102T000000",
        || doomed_but_for("REDUNDANCY 2", None),
        |home, at, _| {
            let marked = home.layout().annotation("20260102T000000".parse().unwrap(), "delete_this").exists();
            if marked {
                barman_finishes(home, &["20260101T000000", "20260103T000000"], at);
            }
        },
    );
}

#[test]
fn a_deletion_that_barman_left_halfway_is_finished() {
    testkit::require_barman!();
    // As Barman leaves it when a directory of the archive is missing: the data is gone, the record and the mark are there,
    // and each of its crons fails again.
    let home = doomed(None);
    let layout = home.layout();
    let first = "20260101T000000".parse().unwrap();
    fs::remove_dir_all(layout.backup_data(first)).unwrap();
    fs::write(layout.annotation(first, "delete_this"), "delete").unwrap();
    fs::remove_dir_all(layout.wals.join("0000000100000000")).unwrap();
    home.hand_over();
    home.run(Tool::Barkeep, &["cron"]).success();
    assert_eq!(names(layout.base.clone()), ["20260103T000000"]);
    assert_eq!(names(layout.meta()), ["20260103T000000-backup.info"]);
    home.run(Tool::Barkeep, &["cron"]).success();
    let list = home.json(Tool::Barman, &["list-backups", "main"]);
    assert_eq!(list["main"].as_array().map(Vec::len), Some(1), "{list}");
}

#[test]
fn barman_reads_a_keep_of_barkeeps_and_the_other_way_round() {
    testkit::require_barman!();
    let home = doomed(None);
    let status = |tool| home.run(tool, &["keep", "main", "oldest", "--status"]).success().stdout;
    home.run(
        Tool::Barkeep,
        &["keep", "main", "oldest", "--target", "full", "--until", "+1 day", "--note", "audit"],
    )
    .success();
    assert_eq!(status(Tool::Barman), "Server main:\n\tKeep: full\n");
    assert!(status(Tool::Barkeep).contains("\tNote: audit\n"));
    for (tool, other) in [(Tool::Barman, Tool::Barkeep), (Tool::Barkeep, Tool::Barman)] {
        home.run(tool, &["keep", "main", "oldest", "--release"]).success();
        assert_eq!(status(other), "Server main:\n\tKeep: nokeep\n");
        home.run(tool, &["keep", "main", "oldest", "--target", "standalone"]).success();
        assert_eq!(status(other), "Server main:\n\tKeep: standalone\n");
        assert_eq!(status(tool), status(other), "without an end or a note, both tell the same");
        let list = home.json(other, &["list-backups", "main"]);
        assert_eq!(list["main"][2]["retention_status"], "KEEP:STANDALONE", "{list}");
    }
}
