//! What another process does between the reading of a file and its publication: Barman's archiver above all, which has the
//! archive's lock then.

use std::fs;
use std::path::{Path, PathBuf};

use barkeep_transport::codec::Compression;
use pgwal::WalFile;
use testkit::wal::{SEGMENT_BYTES, segment};

use super::batch::Batch;
use super::found::{FileState, Found};
use super::parallel::Ready;
use super::place::Job;
use super::run::Run;
use super::tests::{archived_bytes, home, listed, names, now};
use super::*;
use crate::xlogdb::{Locked, WalEntry};
use crate::{ServerLock, Task};

const ONE: &str = "000000010000000000000001";
const TWO: &str = "000000010000000000000002";

/// What is said of a file, and of the run.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Archived,
    Already,
    Rejected,
    Left,
    Overtaken(Change),
}

/// A home where ONE and TWO have arrived, and what the archiver does there.
struct Scene {
    layout: Layout,
    options: ArchiveOptions,
    _home: tempfile::TempDir,
}

impl Scene {
    fn new(compression: Compression, verify: Verify) -> Self {
        let (home, layout) = home();
        let scene = Scene {
            layout,
            options: ArchiveOptions { compression, verify, ..ArchiveOptions::default() },
            _home: home,
        };
        fs::write(scene.source(ONE), content(1)).unwrap();
        fs::write(scene.source(TWO), content(2)).unwrap();
        scene
    }

    /// In every way in which a file gets into the archive.
    fn each(check: impl Fn(Scene)) {
        for compression in [Compression::None, Compression::Lz4] {
            check(Scene::new(compression, Verify::Warn));
        }
    }

    fn source(&self, name: &str) -> PathBuf {
        self.layout.incoming.join(name)
    }

    fn archived(&self, name: &str) -> PathBuf {
        self.layout.wal(&name.parse().unwrap())
    }

    /// Puts a file into the archive as Barman does, with or without its line.
    fn barman_archives(&self, name: &str, bytes: &[u8], listed: bool) {
        let (file, path) = (name.parse().unwrap(), self.archived(name));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        if listed {
            let entry = WalEntry::of_file(file, &path).unwrap();
            Locked::acquire(&self.layout).unwrap().append(&[entry]).unwrap();
        }
    }

    fn run(&self) -> Vec<(String, Told)> {
        let mut told = Vec::new();
        archive_wal(&self.layout, &self.options, now(), |event| tell(&mut told, event)).unwrap();
        told
    }

    /// Archives what has arrived; `meanwhile` happens when all of it is read and compressed.
    #[track_caller]
    fn run_while(&self, meanwhile: impl FnOnce(&Self)) -> Vec<(String, Told)> {
        let (store, mut told) = (IndexStore::of(&self.layout), Vec::new());
        let mut observer = |event| tell(&mut told, event);
        let mut run =
            Run::begin(&self.layout, &self.options, now(), &NoHooks, &store, &mut observer).unwrap();
        let incoming = &self.layout.incoming;
        let queue = queue::read(incoming, Origin::Incoming, 0).unwrap();
        let jobs: Vec<Job> = queue.files.iter().map(|queued| Job::of(queued, incoming)).collect();
        let ready = run.prepare(&jobs).unwrap();
        meanwhile(self);
        let outcome = run.publish(incoming, &jobs, ready).unwrap();
        run.tell(outcome).unwrap();
        drop(run);
        let temporary = |name: &String| name.ends_with(".tmp");
        let directory = self.layout.wals.join("0000000100000000");
        assert!(!names(&directory).iter().any(temporary), "{:?}", names(&directory));
        told
    }

    /// The next run goes through, and then ONE and TWO are in the archive, once, with this content.
    #[track_caller]
    fn settles(&self, next: &[(&str, Told)], one: &[u8]) {
        let told = self.run();
        assert_eq!(told.iter().map(|(name, told)| (name.as_str(), told)).collect::<Vec<_>>(), {
            next.iter().map(|(name, told)| (*name, told)).collect::<Vec<_>>()
        });
        let mut list = listed(&self.layout);
        list.sort();
        assert_eq!(list, [ONE, TWO]);
        assert!(archived_bytes(&self.layout, ONE).unwrap() == one);
        assert!(archived_bytes(&self.layout, TWO).unwrap() == content(2));
        assert_eq!(names(&self.layout.incoming), [""; 0]);
    }
}

fn content(number: u64) -> Vec<u8> {
    segment(1, number * SEGMENT_BYTES as u64, SEGMENT_BYTES, 0)
}

/// A sound segment of the same name, with other records.
fn other_content(number: u64) -> Vec<u8> {
    segment(1, number * SEGMENT_BYTES as u64, SEGMENT_BYTES, 7)
}

fn tell(told: &mut Vec<(String, Told)>, event: ArchiveEvent) {
    told.push(match event {
        ArchiveEvent::Archived(entry) => (entry.file.to_string(), Told::Archived),
        ArchiveEvent::AlreadyArchived(file) => (file.to_string(), Told::Already),
        ArchiveEvent::Rejected { name, .. } => (name.into_string().unwrap(), Told::Rejected),
        ArchiveEvent::Left { path, .. } => {
            (path.file_name().unwrap().to_string_lossy().into_owned(), Told::Left)
        }
        ArchiveEvent::Overtaken { file, change } => (file.to_string(), Told::Overtaken(change)),
        ArchiveEvent::NotIndexed(error) => panic!("{error}"),
        ArchiveEvent::Origin(_) | ArchiveEvent::Doubtful { .. } | ArchiveEvent::Healed { .. } => return,
    });
}

/// What a run says of ONE and TWO.
fn of_both(one: Told, two: Told) -> Vec<(String, Told)> {
    let mut told = vec![(ONE.to_owned(), one), (TWO.to_owned(), two)];
    // By what became of them, then by name.
    told.sort_by_key(|(_, told)| !matches!(told, Told::Archived));
    told
}

/// Writes other bytes into a file, as long as what was there, and sets its time back.
fn rewrite(path: &Path, bytes: &[u8]) {
    let before = FileState::of(path).unwrap();
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    std::io::Write::write_all(&mut file, bytes).unwrap();
    // The system's clock for files goes by ticks.
    testkit::wait_for("the clock to go on", 60, || {
        file.set_modified(modified).unwrap();
        (FileState::of(path).unwrap() != before).then_some(())
    });
    assert!(before.is_at(path), "but for what can't be set back, it looks the same");
}

/// Puts another file in a file's place, of the same time.
fn replace(path: &Path, bytes: &[u8]) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let new = path.with_extension("new");
    fs::write(&new, bytes).unwrap();
    fs::File::options().write(true).open(&new).unwrap().set_modified(modified).unwrap();
    fs::rename(new, path).unwrap();
}

#[test]
fn while_files_are_read_others_have_the_archives_lock() {
    Scene::each(|scene| {
        let told = scene.run_while(|scene| {
            let lock = ServerLock::try_acquire(&scene.layout, Task::ArchiveWal).unwrap();
            drop(lock);
            // Another archiver of ours has to make way all the same: it would remove what this one writes.
            let busy = archive_wal(&scene.layout, &scene.options, now(), |_| {}).unwrap_err();
            assert!(busy.to_string().contains("archiver.lock"), "{busy}");
            let (file, path) = (ONE.parse().unwrap(), scene.source(ONE));
            let directly = archive_directly(&scene.layout, &scene.options, file, &path, now(), |_| {});
            assert!(!directly.unwrap());
        });
        assert_eq!(told, of_both(Told::Archived, Told::Archived));
        scene.settles(&[], &content(1));
    });
}

#[test]
fn what_barman_archived_meanwhile_is_archived_and_listed_once() {
    Scene::each(|scene| {
        let told = scene.run_while(|scene| {
            fs::remove_file(scene.source(ONE)).unwrap();
            scene.barman_archives(ONE, &content(1), true);
        });
        assert_eq!(told, of_both(Told::Overtaken(Change::Gone), Told::Archived));
        scene.settles(&[], &content(1));
    });
}

#[test]
fn what_was_taken_away_is_not_brought_back() {
    Scene::each(|scene| {
        let told = scene.run_while(|scene| fs::remove_file(scene.source(ONE)).unwrap());
        assert_eq!(told, of_both(Told::Overtaken(Change::Gone), Told::Archived));
        assert_eq!(listed(&scene.layout), [TWO]);
        assert!(!scene.archived(ONE).exists());
    });
}

#[test]
fn a_source_that_changed_is_read_again_by_the_next_run() {
    for change in [rewrite, replace] {
        Scene::each(|scene| {
            let told = scene.run_while(|scene| change(&scene.source(ONE), &other_content(1)));
            assert_eq!(told, of_both(Told::Overtaken(Change::Rewritten), Told::Archived));
            scene.settles(&[(ONE, Told::Archived)], &other_content(1));
        });
    }
}

#[test]
fn a_name_that_was_taken_meanwhile_stays_with_who_took_it() {
    for listed in [true, false] {
        Scene::each(|scene| {
            let told = scene.run_while(|scene| scene.barman_archives(ONE, &content(1), listed));
            assert_eq!(told, of_both(Told::Overtaken(Change::Archive), Told::Archived));
            scene.settles(&[(ONE, Told::Already)], &content(1));
        });
        Scene::each(|scene| {
            let told = scene.run_while(|scene| scene.barman_archives(ONE, &other_content(1), listed));
            assert_eq!(told, of_both(Told::Overtaken(Change::Archive), Told::Archived));
            let rejected = scene.run();
            assert_eq!(rejected, [(ONE.to_owned(), Told::Rejected)]);
            assert!(archived_bytes(&scene.layout, ONE).unwrap() == other_content(1));
            assert_eq!(names(&scene.layout.errors).len(), 1, "kept");
        });
    }
}

#[test]
fn a_source_is_not_removed_for_a_copy_that_is_gone_or_another() {
    Scene::each(|scene| {
        scene.barman_archives(ONE, &content(1), true);
        let told = scene.run_while(|scene| {
            // A deletion by a policy: the file, then its line.
            fs::remove_file(scene.archived(ONE)).unwrap();
            Locked::acquire(&scene.layout).unwrap().replace(&[]).unwrap();
        });
        assert_eq!(told, of_both(Told::Overtaken(Change::Archive), Told::Archived));
        scene.settles(&[(ONE, Told::Archived)], &content(1));
    });
    Scene::each(|scene| {
        scene.barman_archives(ONE, &content(1), true);
        let told = scene.run_while(|scene| replace(&scene.archived(ONE), &other_content(1)));
        assert_eq!(told, of_both(Told::Overtaken(Change::Archive), Told::Archived));
        assert!(fs::read(scene.source(ONE)).unwrap() == content(1));
    });
    Scene::each(|scene| {
        scene.barman_archives(ONE, &content(1), true);
        let told = scene.run_while(|scene| replace(&scene.source(ONE), &other_content(1)));
        assert_eq!(told, of_both(Told::Overtaken(Change::Rewritten), Told::Archived));
        assert!(fs::read(scene.source(ONE)).unwrap() == other_content(1));
    });
}

#[test]
fn what_differed_before_is_compared_again() {
    Scene::each(|scene| {
        scene.barman_archives(ONE, &other_content(1), false);
        let told = scene.run_while(|scene| replace(&scene.source(ONE), &other_content(1)));
        assert_eq!(told, of_both(Told::Overtaken(Change::Rewritten), Told::Archived));
        scene.settles(&[(ONE, Told::Already)], &other_content(1));
    });
    Scene::each(|scene| {
        scene.barman_archives(ONE, &other_content(1), false);
        let told = scene.run_while(|scene| fs::remove_file(scene.archived(ONE)).unwrap());
        assert_eq!(told, of_both(Told::Overtaken(Change::Archive), Told::Archived));
        scene.settles(&[(ONE, Told::Archived)], &content(1));
    });
    Scene::each(|scene| {
        scene.barman_archives(ONE, &other_content(1), false);
        let told = scene.run_while(|scene| fs::remove_file(scene.source(ONE)).unwrap());
        assert_eq!(told, of_both(Told::Overtaken(Change::Gone), Told::Archived));
        assert_eq!(names(&scene.layout.errors), [""; 0]);
    });
}

#[test]
fn what_was_refused_or_not_whole_before_is_judged_again() {
    let mut damaged = content(1);
    damaged[500_000] ^= 1;
    let torn = content(1)[..400_000].to_vec();
    for before in [damaged, torn] {
        Scene::each(|scene| {
            fs::write(scene.source(ONE), &before).unwrap();
            let told = scene.run_while(|scene| replace(&scene.source(ONE), &content(1)));
            assert_eq!(told, of_both(Told::Overtaken(Change::Rewritten), Told::Archived));
            assert_eq!(names(&scene.layout.errors), [""; 0]);
            scene.settles(&[(ONE, Told::Archived)], &content(1));
        });
    }
}

#[test]
fn a_damaged_segment_that_was_mended_meanwhile_makes_no_room() {
    Scene::each(|scene| {
        let mut damaged = content(1);
        damaged[500_000] ^= 1;
        scene.barman_archives(ONE, &damaged, true);
        let told = scene.run_while(|scene| replace(&scene.archived(ONE), &content(1)));
        assert_eq!(told, of_both(Told::Overtaken(Change::Archive), Told::Archived));
        assert_eq!(names(&scene.layout.errors), [""; 0]);
        scene.settles(&[(ONE, Told::Already)], &content(1));
    });
}

/// Barman deletes a whole directory of the archive when it takes all of it for obsolete.
#[test]
fn copies_that_were_removed_with_their_directory_are_made_again() {
    let scene = Scene::new(Compression::Lz4, Verify::Warn);
    let directory = scene.layout.wals.join("0000000100000000");
    let told = scene.run_while(|_| fs::remove_dir_all(&directory).unwrap());
    let change = || Told::Overtaken(Change::Archive);
    assert_eq!(told, of_both(change(), change()));
    scene.settles(&[(ONE, Told::Archived), (TWO, Told::Archived)], &content(1));
    // Nor does it matter where nothing was written yet.
    let scene = Scene::new(Compression::None, Verify::Warn);
    let directory = scene.layout.wals.join("0000000100000000");
    let told = scene.run_while(|_| fs::remove_dir_all(&directory).unwrap());
    assert_eq!(told, of_both(Told::Archived, Told::Archived));
    scene.settles(&[], &content(1));
}

#[test]
fn a_directory_that_goes_before_a_copy_is_begun_costs_that_file_its_turn() {
    let scene = Scene::new(Compression::Lz4, Verify::Warn);
    let job = Job { file: ONE.parse().unwrap(), source: scene.source(ONE), stays: false };
    let error = barkeep_transport::durable::TempFile::create(&scene.archived(ONE)).unwrap_err();
    let mut batch = Batch::new(&scene.layout, &scene.options, now());
    batch.publish(&job, Ready { found: Found::of(&job, &scene.layout), outcome: Err(error.into()) }).unwrap();
    assert_eq!(batch.overtaken, [(job.file, Change::Archive)]);
    scene.settles(&[(ONE, Told::Archived), (TWO, Told::Archived)], &content(1));
}

#[test]
fn the_receivers_newest_segment_is_looked_at_again_too() {
    let scene = Scene::new(Compression::Lz4, Verify::Warn);
    let source = scene.layout.streaming.join("000000010000000000000003");
    fs::write(&source, content(3)).unwrap();
    let job = Job { file: "000000010000000000000003".parse().unwrap(), source, stays: true };
    let (store, mut told) = (IndexStore::of(&scene.layout), Vec::new());
    let mut observer = |event| tell(&mut told, event);
    let mut run = Run::begin(&scene.layout, &scene.options, now(), &NoHooks, &store, &mut observer).unwrap();
    let jobs = [job];
    let ready = run.prepare(&jobs).unwrap();
    rewrite(&jobs[0].source, &other_content(3));
    let outcome = run.publish(&scene.layout.streaming, &jobs, ready).unwrap();
    run.tell(outcome).unwrap();
    drop(run);
    assert_eq!(told, [(jobs[0].file.to_string(), Told::Overtaken(Change::Rewritten))]);
    scene.run();
    assert!(archived_bytes(&scene.layout, &jobs[0].file.to_string()).unwrap() == other_content(3));
    assert!(jobs[0].source.exists());
}

#[test]
fn a_source_that_was_replaced_after_its_publication_is_not_removed() {
    Scene::each(|scene| {
        let (store, mut observer) = (IndexStore::of(&scene.layout), |_: ArchiveEvent| {});
        let mut run =
            Run::begin(&scene.layout, &scene.options, now(), &NoHooks, &store, &mut observer).unwrap();
        let jobs = [ONE, TWO].map(|name| {
            let file: WalFile = name.parse().unwrap();
            Job { file, source: scene.source(name), stays: false }
        });
        let ready = run.prepare(&jobs).unwrap();
        let mut batch = Batch::new(&scene.layout, &scene.options, now());
        for (job, ready) in jobs.iter().zip(ready) {
            batch.publish(job, ready).unwrap();
        }
        batch.list().unwrap();
        replace(&scene.source(ONE), &other_content(1));
        assert!(batch.remove_sources().unwrap());
        assert_eq!(names(&scene.layout.incoming), [ONE]);
        drop(run);
        assert_eq!(scene.run(), [(ONE.to_owned(), Told::Rejected)]);
    });
}

#[test]
fn what_is_written_into_the_archive_by_others_is_left_alone() {
    let scene = Scene::new(Compression::None, Verify::Off);
    // Somebody replaces the list, which is beside the history files.
    let list = barkeep_transport::durable::TempFile::create(&scene.layout.xlogdb()).unwrap();
    fs::write(scene.source("00000002.history"), "1\t0/3000000\tno recovery target specified\n").unwrap();
    scene.run();
    list.publish().unwrap();
}

#[test]
fn what_was_no_wal_and_is_now_stays() {
    let scene = Scene::new(Compression::None, Verify::Off);
    fs::remove_file(scene.source(ONE)).unwrap();
    fs::create_dir(scene.source(ONE)).unwrap();
    assert!(queue::is_unknown(&scene.source(ONE)));
    assert!(queue::is_unknown(&scene.source("notes.txt")));
    fs::remove_dir(scene.source(ONE)).unwrap();
    fs::write(scene.source(ONE), content(1)).unwrap();
    assert!(!queue::is_unknown(&scene.source(ONE)));
}

/// What `archive_command` hands over is received like any other file when it can't go straight into the archive after all.
#[test]
fn the_direct_way_ends_where_somebody_is_quicker() {
    type Meanwhile = fn(&Scene, &Path) -> Option<ServerLock>;
    let meanwhile: [Meanwhile; 3] = [
        |scene, _| {
            scene.barman_archives(ONE, &content(1), true);
            None
        },
        |_, path| {
            rewrite(path, &other_content(1));
            None
        },
        |scene, _| Some(ServerLock::try_acquire(&scene.layout, Task::ArchiveWal).unwrap()),
    ];
    for meanwhile in meanwhile {
        Scene::each(|scene| {
            let (file, path) = (ONE.parse().unwrap(), scene.layout.backup_directory.join(ONE));
            fs::rename(scene.source(ONE), &path).unwrap();
            let mut lock = None;
            let heard = |event| panic!("{event:?}");
            let (layout, options) = (&scene.layout, &scene.options);
            let done = direct::archive_with(layout, options, file, &path, now(), heard, || {
                lock = meanwhile(&scene, &path);
            });
            assert!(!done.unwrap());
            let directory = scene.layout.wal_directory(&file);
            assert!(!names(&directory).iter().any(|name| name.ends_with(".tmp")), "{:?}", names(&directory));
            assert!(path.exists());
            drop(lock);
            let taken = scene.archived(ONE).exists();
            let again = archive_directly(layout, options, file, &path, now(), |_| {}).unwrap();
            assert_eq!(again, !taken, "a free name can be had the next time");
            assert_eq!(listed(layout), [ONE]);
        });
    }
}

/// Hooks that do something before ONE is archived, and note whom they are told of.
struct Meddling<'a> {
    scene: &'a Scene,
    told: std::cell::RefCell<Vec<String>>,
}

impl ArchiveHooks for Meddling<'_> {
    fn before(&self, file: &HookFile<'_>) -> Result<(), HookStop> {
        self.told.borrow_mut().push(format!("before {}", file.file));
        if file.file.to_string() == ONE {
            // Neither lock is held: a hook may archive by itself.
            archive_wal(&self.scene.layout, &self.scene.options, now(), |_| {}).unwrap();
        }
        Ok(())
    }

    fn after(&self, file: &HookFile<'_>, error: Option<&str>) {
        let lock = ServerLock::try_acquire(&self.scene.layout, Task::Archiver);
        lock.and_then(|_| ServerLock::try_acquire(&self.scene.layout, Task::ArchiveWal)).unwrap();
        self.told.borrow_mut().push(format!("after {} {error:?}", file.file));
    }
}

#[test]
fn no_hook_is_told_the_end_of_what_another_archived() {
    Scene::each(|scene| {
        let hooks = Meddling { scene: &scene, told: std::cell::RefCell::default() };
        let mut told = Vec::new();
        let observer = |event| tell(&mut told, event);
        archive_wal_with(&scene.layout, &scene.options, now(), &hooks, observer).unwrap();
        // TWO was gone before its turn came.
        assert_eq!(*hooks.told.borrow(), [format!("before {ONE}")]);
        let gone = || Told::Overtaken(Change::Gone);
        assert_eq!(told, of_both(gone(), gone()));
        scene.settles(&[], &content(1));
        // With nobody in between, each hears of both ends.
        let third = "000000010000000000000003";
        fs::write(scene.source(third), content(3)).unwrap();
        hooks.told.borrow_mut().clear();
        archive_wal_with(&scene.layout, &scene.options, now(), &hooks, |_| {}).unwrap();
        assert_eq!(*hooks.told.borrow(), [format!("before {third}"), format!("after {third} None")]);
    });
}
