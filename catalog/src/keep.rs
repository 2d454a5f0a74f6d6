//! Backups that somebody asked to keep: Barman's annotation, and what barkeep knows beside it.
//!
//! The annotation `meta/<id>-keep` holds one word, and is all that Barman knows: without it, nothing is kept. A note and
//! an end are in `.barkeep/keep/<id>.json`, together with the moment at which the annotation was written. When that is
//! not the annotation's any more, somebody else has kept the backup anew, and the note and the end are void: better
//! kept too long than not long enough.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use barkeep_transport::durable;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::store::{CatalogError, read_bounded};
use crate::{BackupId, Catalog, Layout};

/// Longest annotation read, in bytes; the known ones are words.
const ANNOTATION_BYTES_MAX: u64 = 4096;
/// Largest note file read, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Longest note, in bytes.
pub const NOTE_BYTES_MAX: usize = 4096;
/// The version of the note file's format.
const VERSION: u32 = 1;

/// A backup kept from retention and deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Keep {
    /// With all WAL from it on: any moment since stays reachable.
    Full,
    /// With just the WAL that makes it consistent.
    Standalone,
}

impl Keep {
    /// The word in the annotation.
    pub const fn as_str(self) -> &'static str {
        match self {
            Keep::Full => "full",
            Keep::Standalone => "standalone",
        }
    }
}

/// How, until when and why a backup is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// How.
    pub keep: Keep,
    /// When it ends; never, if not said.
    pub until: Option<Timestamp>,
    /// Why, in somebody's words.
    pub note: Option<String>,
}

impl Kept {
    /// Kept without an end or a note.
    pub const fn for_good(keep: Keep) -> Self {
        Kept { keep, until: None, note: None }
    }

    /// Whether it has come to its end.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

/// The note file's content.
#[derive(Serialize, Deserialize)]
struct Text {
    version: u32,
    /// The word in the annotation.
    target: String,
    /// The annotation's modification time, in nanoseconds since 1970, as text: beyond what JSON numbers hold exactly.
    annotation_time: String,
    /// In RFC 3339.
    until: Option<String>,
    note: Option<String>,
}

impl Catalog {
    /// How a backup is kept, its end being past or not; `None` when it is not. A word that is not known means the
    /// safest, as it does to Barman.
    ///
    /// # Errors
    /// When the annotation can't be read: the backup must not be deleted then.
    pub fn kept(&self, id: BackupId) -> Result<Option<Kept>, CatalogError> {
        for path in [self.layout().annotation(id, "keep"), self.layout().old_annotation(id, "keep")] {
            let Some(word) = read_bounded(&path, ANNOTATION_BYTES_MAX)? else { continue };
            let keep = match word.trim_ascii() {
                b"standalone" => Keep::Standalone,
                _ => Keep::Full,
            };
            let note = self.note(id, keep, &path)?;
            let (until, note) = note.map_or((None, None), |text| (text.until, text.note));
            return Ok(Some(Kept { keep, until: until.and_then(|until| until.parse().ok()), note }));
        }
        Ok(None)
    }

    /// How a backup is kept at this moment.
    ///
    /// # Errors
    /// As for [`kept`](Self::kept).
    pub fn kept_at(&self, id: BackupId, now: Timestamp) -> Result<Option<Keep>, CatalogError> {
        Ok(self.kept(id)?.filter(|kept| !kept.is_over(now)).map(|kept| kept.keep))
    }

    /// Keeps a backup, in place of how it was kept before.
    ///
    /// # Errors
    /// When storage fails.
    pub fn keep(&self, id: BackupId, kept: &Kept) -> Result<(), CatalogError> {
        // First what protects it, with neither an end nor a note: a crash in between leaves it kept for good.
        durable::remove(&note_path(self.layout(), id))?;
        let annotation = self.layout().annotation(id, "keep");
        self.write_meta(&annotation, kept.keep.as_str().as_bytes())?;
        durable::remove(&self.layout().old_annotation(id, "keep"))?;
        if kept.until.is_none() && kept.note.is_none() {
            return Ok(());
        }
        let time = annotation_time(&annotation)?.unwrap_or_default();
        let text = Text {
            version: VERSION,
            target: kept.keep.as_str().to_owned(),
            annotation_time: time,
            until: kept.until.map(|until| until.to_string()),
            note: kept.note.clone(),
        };
        let path = note_path(self.layout(), id);
        durable::create_dir_all(&directory(self.layout()))?;
        durable::write(&path, &serde_json::to_vec(&text).unwrap_or_default())?;
        Ok(())
    }

    /// Keeps a backup no longer.
    ///
    /// # Errors
    /// When storage fails.
    pub fn release(&self, id: BackupId) -> Result<(), CatalogError> {
        durable::remove(&self.layout().annotation(id, "keep"))?;
        durable::remove(&self.layout().old_annotation(id, "keep"))?;
        durable::remove(&note_path(self.layout(), id))?;
        Ok(())
    }

    /// The note that belongs to an annotation.
    fn note(&self, id: BackupId, keep: Keep, annotation: &Path) -> Result<Option<Text>, CatalogError> {
        let Some(text) = read_bounded(&note_path(self.layout(), id), FILE_BYTES_MAX)? else {
            return Ok(None);
        };
        let text = serde_json::from_slice::<Text>(&text).ok();
        let text = text.filter(|text| text.version == VERSION && text.target == keep.as_str());
        let time = annotation_time(annotation)?;
        Ok(text.filter(|text| Some(&text.annotation_time) == time.as_ref()))
    }
}

/// When an annotation was written; `None` when it is gone.
fn annotation_time(path: &Path) -> Result<Option<String>, CatalogError> {
    match fs::metadata(path).and_then(|metadata| metadata.modified()) {
        Ok(time) => {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            Ok(Some(since.as_nanos().to_string()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CatalogError::Read { path: path.to_owned(), source }),
    }
}

fn directory(layout: &Layout) -> PathBuf {
    layout.private().join("keep")
}

fn note_path(layout: &Layout, id: BackupId) -> PathBuf {
    directory(layout).join(format!("{id}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use barkeep_transport::faults::Faults;

    const ID: &str = "20261122T101539";

    fn home() -> (tempfile::TempDir, Catalog, BackupId) {
        let home = tempfile::tempdir().unwrap();
        let catalog = Catalog::new(Layout::new("pg", home.path(), home.path()));
        catalog.create_directories().unwrap();
        (home, catalog, ID.parse().unwrap())
    }

    fn annotation(catalog: &Catalog) -> PathBuf {
        catalog.layout().annotation(ID.parse().unwrap(), "keep")
    }

    fn yearly() -> Kept {
        let until = Some("2027-01-01T00:00:00Z".parse().unwrap());
        Kept { keep: Keep::Full, until, note: Some("the year's accounts".to_owned()) }
    }

    #[test]
    fn a_keep_is_written_for_both_and_released() {
        let (_home, catalog, id) = home();
        assert_eq!(catalog.kept(id).unwrap(), None);
        catalog.release(id).unwrap();
        catalog.keep(id, &yearly()).unwrap();
        assert_eq!(fs::read(annotation(&catalog)).unwrap(), b"full");
        assert_eq!(catalog.kept(id).unwrap(), Some(yearly()));
        let end = yearly().until.unwrap();
        let before = end - jiff::SignedDuration::from_secs(1);
        assert_eq!(catalog.kept_at(id, before).unwrap(), Some(Keep::Full));
        assert_eq!(catalog.kept_at(id, end).unwrap(), None);
        catalog.keep(id, &Kept::for_good(Keep::Standalone)).unwrap();
        assert_eq!(catalog.kept(id).unwrap(), Some(Kept::for_good(Keep::Standalone)));
        catalog.release(id).unwrap();
        assert_eq!(catalog.kept(id).unwrap(), None);
    }

    #[test]
    fn whoever_keeps_it_anew_keeps_it_for_good() {
        let (_home, catalog, id) = home();
        catalog.keep(id, &yearly()).unwrap();
        // As Barman does it, whichever the word: its own file of another time.
        for (word, keep) in [("standalone", Keep::Standalone), ("full", Keep::Full)] {
            fs::write(annotation(&catalog), word).unwrap();
            let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
            fs::File::open(annotation(&catalog)).unwrap().set_modified(later).unwrap();
            assert_eq!(catalog.kept(id).unwrap(), Some(Kept::for_good(keep)));
        }
    }

    #[test]
    fn unknown_words_and_rubbish_keep_it() {
        let (_home, catalog, id) = home();
        catalog.keep(id, &yearly()).unwrap();
        fs::write(note_path(catalog.layout(), id), "rubbish").unwrap();
        assert_eq!(catalog.kept(id).unwrap(), Some(Kept::for_good(Keep::Full)));
        for word in ["", "whole", "\u{e9}"] {
            fs::write(annotation(&catalog), word).unwrap();
            assert_eq!(catalog.kept(id).unwrap(), Some(Kept::for_good(Keep::Full)), "{word:?}");
        }
    }

    #[test]
    fn the_old_place_is_read_and_left() {
        let (_home, catalog, id) = home();
        let old = catalog.layout().old_annotation(id, "keep");
        fs::create_dir_all(old.parent().unwrap()).unwrap();
        fs::write(&old, "standalone").unwrap();
        assert_eq!(catalog.kept(id).unwrap(), Some(Kept::for_good(Keep::Standalone)));
        catalog.keep(id, &yearly()).unwrap();
        assert!(!old.exists());
        fs::write(&old, "standalone").unwrap();
        catalog.release(id).unwrap();
        assert_eq!(catalog.kept(id).unwrap(), None);
    }

    #[test]
    fn a_crash_never_shortens_a_keep() {
        for crash in 0.. {
            let (home, catalog, id) = home();
            catalog.keep(id, &Kept::for_good(Keep::Standalone)).unwrap();
            let faults = Faults::crash_at(home.path(), crash);
            let outcome = catalog.keep(id, &yearly());
            let steps = faults.finish().len();
            let kept = catalog.kept(id).unwrap().unwrap();
            assert!(kept.until.is_none() || kept == yearly(), "step {crash}");
            if steps <= crash {
                outcome.unwrap();
                break;
            }
            outcome.unwrap_err();
        }
    }
}
