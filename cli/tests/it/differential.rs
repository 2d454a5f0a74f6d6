//! The same life of two homes, one driven by Barman and one by barkeep: each tool then tells the same of both.
//!
//! The same few lives are played by default; `DIFFERENTIAL_CASES=100` plays random ones, and shrinks one that ends differently.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Not;
use std::time::{Duration, SystemTime};

use barkeep_catalog::{BackupId, Backups, Keep, Status};
use pgwal::{SegmentName, SegmentSize, WalFile};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

use crate::restored_trees;
use crate::shared_home::{SharedHome, Spot, Tool, archive, put, record};
use crate::stored::content;
use crate::support::Run;

/// How many lives are played when the environment does not say.
const CASES: u32 = 2;
const SIZE: SegmentSize = SegmentSize::MIN;
const BOTH: [Tool; 2] = [Tool::Barman, Tool::Barkeep];

/// What is done to both homes.
#[derive(Debug, Clone)]
enum Operation {
    /// So many segments arrive and are archived.
    Archive(u64),
    /// A backup appears, perhaps an increment of the newest, with the WAL it needs.
    BackUp { incremental: bool },
    /// The backup with this index (among those there are) is deleted.
    Delete(usize),
    /// It is kept, with all later WAL or by itself.
    Keep(usize, bool),
    /// It is kept no longer.
    Release(usize),
    /// It is looked at whether it has all its WAL.
    Check(usize),
    /// The work of a minute, retention included.
    Cron,
    /// The list of the archive is made anew.
    Rebuild,
}

fn any_operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        3 => (1u64..4).prop_map(Operation::Archive),
        5 => prop::bool::weighted(0.3).prop_map(|incremental| Operation::BackUp { incremental }),
        2 => (0usize..8).prop_map(Operation::Delete),
        2 => (0usize..8, any::<bool>()).prop_map(|(index, full)| Operation::Keep(index, full)),
        1 => (0usize..8).prop_map(Operation::Release),
        1 => (0usize..8).prop_map(Operation::Check),
        2 => Just(Operation::Cron),
        1 => Just(Operation::Rebuild),
    ]
}

/// Two homes that should stay alike.
struct Twins {
    homes: [SharedHome; 2],
    next_segment: u64,
    next_backup: u32,
}

impl Twins {
    fn new() -> Self {
        let options = "retention_policy = REDUNDANCY 2\nminimum_redundancy = 1\nwal_verify = off";
        let homes = [SharedHome::new(options), SharedHome::new(options)];
        for home in &homes {
            fs::write(home.layout().xlogdb(), "").unwrap();
            home.hand_over();
        }
        Twins { homes, next_segment: 1, next_backup: 1 }
    }

    fn backups(&self) -> Backups {
        self.homes[1].catalog().backups().unwrap()
    }

    fn nth(&self, index: usize) -> Option<BackupId> {
        let backups = self.backups();
        let count = backups.by_id.len();
        backups.by_id.into_keys().nth(index.checked_rem(count)?)
    }

    /// Runs a command by each tool on its home; both must end alike.
    fn run(&self, words: &[&str]) -> Result<[Run; 2], TestCaseError> {
        let runs = [0, 1].map(|which| self.homes[which].run(BOTH[which], words));
        prop_assert_eq!(runs[0].code, runs[1].code, "{:#?}", runs);
        Ok(runs)
    }

    fn deliver(&mut self, count: u64) -> Result<(), TestCaseError> {
        for segment in self.next_segment..self.next_segment + count {
            let name = Spot { size: SIZE, timeline: 1, segment }.name();
            for home in &self.homes {
                let path = home.layout().incoming.join(name.to_string());
                fs::write(&path, content(name)).unwrap();
                let time =
                    SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_000_000_000 + segment * 60_500);
                fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
                home.hand_over();
            }
        }
        self.next_segment += count;
        self.run(&["archive-wal", "main"]).map(drop)
    }

    fn back_up(&mut self, incremental: bool) -> Result<(), TestCaseError> {
        let id = format!("202601{:02}T000000", self.next_backup);
        self.next_backup += 1;
        let mut info = record(&id, Spot { size: SIZE, timeline: 1, segment: self.next_segment });
        let backups = self.backups();
        let parent = backups.iter().next_back().filter(|parent| incremental && parent.status == Status::Done);
        info.parent_backup_id = parent.map(|parent| parent.id);
        for home in &self.homes {
            if let Some(parent) = parent {
                let mut parent = home.catalog().read(parent.id).unwrap();
                parent.children_backup_ids.push(info.id);
                home.catalog().save(&parent).unwrap();
            }
            put(&home.layout(), &info);
            restored_trees::furnish(&home.layout(), info.id, self.next_backup);
            home.hand_over();
        }
        self.deliver(2)
    }

    /// Whether barkeep would refuse to delete a backup that Barman deletes: the last that can be restored.
    fn is_last(&self, id: BackupId) -> bool {
        let backups = self.backups();
        let roots = backups.iter().filter(|info| info.status == Status::Done && info.is_root());
        roots.map(|info| info.id).collect::<Vec<_>>() == [id]
    }

    fn apply(&mut self, operation: &Operation) -> Result<(), TestCaseError> {
        let named = |twins: &Self, index: usize, words: &[&str]| {
            let Some(id) = twins.nth(index) else { return Ok(()) };
            let words: Vec<&str> =
                words.iter().map(|word| if *word == "ID" { id.as_str() } else { *word }).collect();
            twins.run(&words).map(drop)
        };
        match operation {
            Operation::Archive(count) => self.deliver(*count),
            Operation::BackUp { incremental } => self.back_up(*incremental),
            Operation::Delete(index) if self.nth(*index).is_some_and(|id| self.is_last(id)) => Ok(()),
            Operation::Delete(index) => {
                named(self, *index, &["delete", "main", "ID"])?;
                self.drop_what_nothing_needs()
            }
            Operation::Keep(index, full) => named(
                self,
                *index,
                &["keep", "main", "ID", "--target", if *full { "full" } else { "standalone" }],
            ),
            Operation::Release(index) => named(self, *index, &["keep", "main", "ID", "--release"]),
            Operation::Check(index) => named(self, *index, &["check-backup", "main", "ID"]),
            Operation::Cron => {
                self.run(&["cron"])?;
                // Barman's leaves an archiver behind, which the next command would meet.
                testkit::wait_for("what cron has started to end", 30, || {
                    self.homes[0]
                        .run(Tool::Barman, &["archive-wal", "main"])
                        .stderr
                        .contains("already running")
                        .not()
                        .then_some(())
                });
                self.drop_what_nothing_needs()
            }
            Operation::Rebuild => self.run(&["rebuild-xlogdb", "main"]).map(drop),
        }
    }

    /// Of WAL that no remaining backup needs, Barman leaves some behind unless the oldest backup is deleted; barkeep does not.
    /// That is all that may be missing, and goes from Barman's home too, that the lives stay alike.
    fn drop_what_nothing_needs(&self) -> Result<(), TestCaseError> {
        let [by_barman, by_barkeep] = self.homes.each_ref().map(|home| archive(&home.layout()));
        let more: Vec<_> = by_barkeep.iter().filter(|name| !by_barman.contains(name)).collect();
        prop_assert!(more.is_empty(), "left behind by barkeep alone: {:?}", more);
        let gone: Vec<&String> = by_barman.iter().filter(|name| !by_barkeep.contains(name)).collect();
        for name in &gone {
            let segment: SegmentName = name.parse().unwrap();
            prop_assert!(!self.is_needed(segment), "{} is needed, and barkeep has removed it", name);
            let layout = self.homes[0].layout();
            fs::remove_file(layout.wal(&WalFile::Segment(segment))).unwrap();
        }
        let list = self.homes[0].layout().xlogdb();
        let text = fs::read_to_string(&list).unwrap();
        let stays = |line: &&str| !gone.iter().any(|name| line.starts_with(name.as_str()));
        let text: String = text.lines().filter(stays).map(|line| format!("{line}\n")).collect();
        fs::write(&list, text).unwrap();
        Ok(())
    }

    /// Whether a remaining backup needs a segment: to be consistent, or to recover from it to any later time.
    fn is_needed(&self, segment: SegmentName) -> bool {
        let catalog = self.homes[1].catalog();
        self.backups().iter().any(|info| {
            let alone = catalog.kept(info.id).unwrap().is_some_and(|kept| kept.keep == Keep::Standalone);
            info.begin_wal.is_none_or(|begin| begin <= segment)
                && (!alone || info.end_wal.is_none_or(|end| segment <= end))
        })
    }

    /// Each tool tells the same of both homes, and both tell the same of each.
    fn compare(&self) -> Result<(), TestCaseError> {
        let lists = self.homes.each_ref().map(|home| fs::read_to_string(home.layout().xlogdb()).unwrap());
        prop_assert_eq!(&lists[0], &lists[1], "the list of the archive");
        let mut questions: Vec<Vec<String>> = vec![vec!["list-backups".to_owned(), "main".to_owned()]];
        for id in self.backups().by_id.into_keys() {
            questions.push(vec!["show-backup".to_owned(), "main".to_owned(), id.to_string()]);
        }
        for question in questions {
            let words: Vec<&str> = question.iter().map(String::as_str).collect();
            let told = |tool, which: usize| self.homes[which].json(tool, &words)["main"].clone();
            let by_barman = told(Tool::Barman, 0);
            for (tool, which) in [(Tool::Barman, 1), (Tool::Barkeep, 0), (Tool::Barkeep, 1)] {
                prop_assert_eq!(&told(tool, which), &by_barman, "{:?} on home {}: {:?}", tool, which, words);
            }
        }
        let names: Vec<&str> = lists[0].lines().filter_map(|line| line.split('\t').next()).collect();
        for name in names.iter().step_by(names.len().max(3) / 3) {
            let bytes = |tool, which: usize| {
                let output = self.homes[which].command(tool, &["get-wal", "main", name]).output().unwrap();
                (output.status.code(), output.stdout)
            };
            let by_barman = bytes(Tool::Barman, 0);
            for (tool, which) in [(Tool::Barman, 1), (Tool::Barkeep, 0), (Tool::Barkeep, 1)] {
                prop_assert!(bytes(tool, which) == by_barman, "{:?} on home {}: {}", tool, which, name);
            }
        }
        self.compare_restored()
    }

    /// Each tool restores the oldest and the newest full backup of both homes, and the same comes of it.
    fn compare_restored(&self) -> Result<(), TestCaseError> {
        let backups = self.backups();
        let full: Vec<BackupId> = backups
            .iter()
            .filter(|info| info.status.is_usable() && info.is_root())
            .map(|info| info.id)
            .collect();
        let ends: BTreeSet<BackupId> = full.first().into_iter().chain(full.last()).copied().collect();
        for id in ends {
            for target in [&[][..], &["--target-immediate"]] {
                let restored =
                    |tool, which: usize| restored_trees::restore(&self.homes[which], tool, id, target);
                let by_barman = restored(Tool::Barman, 0);
                for (tool, which) in [(Tool::Barman, 1), (Tool::Barkeep, 0), (Tool::Barkeep, 1)] {
                    let tree = restored(tool, which);
                    let differs = restored_trees::differences(&tree, &by_barman);
                    prop_assert_eq!(differs, [""; 0], "{:?} on home {}: {} {:?}", tool, which, id, target);
                }
            }
        }
        Ok(())
    }
}

#[test]
fn two_homes_that_live_the_same_life_are_alike() {
    testkit::require_barman!();
    let asked: Option<u32> = std::env::var("DIFFERENTIAL_CASES").ok().and_then(|cases| cases.parse().ok());
    // Each step of shrinking plays a life again, at several seconds each.
    let config = Config {
        cases: asked.unwrap_or(CASES),
        max_shrink_iters: if asked.is_some() { 30 } else { 0 },
        failure_persistence: None,
        ..Config::default()
    };
    // The same few by default, so that nobody's change fails for what it has not touched.
    let mut runner = match asked {
        Some(_) => TestRunner::new(config),
        None => TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha)),
    };
    let lives = prop::collection::vec(any_operation(), 3..12);
    let outcome = runner.run(&lives, |life| {
        let mut twins = Twins::new();
        for operation in &life {
            twins.apply(operation)?;
        }
        twins.compare()
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}
