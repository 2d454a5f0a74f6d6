//! Fetching one file while PostgreSQL waits for it, and what becomes of one that is damaged.

use std::io;
use std::path::{Path, PathBuf};

use pgwal::WalFile;

use super::check::Verdict;
use super::extent::{Extent, extent};
use super::landing::Landing;
use super::recovery::Recovery;
use super::source::{FetchError, Source};
use super::{Checked, Looked, Request, seam};
use crate::error::{CommandError, exit};
use crate::output::Output;

/// Where another copy may be had, for whoever reads of a damaged one.
const OTHER_COPIES: &str =
    "look for another copy, in errors/, on the server, on a standby, and put it into incoming/";

/// A file that has come and has no name yet.
#[derive(Debug)]
struct Fetched {
    landing: Landing,
    bytes: u64,
    /// What there is to tell about it.
    note: Option<String>,
}

#[derive(Debug)]
enum Arrival {
    /// It can be handed out.
    Usable(Fetched),
    /// It is damaged at this place, and there is WAL behind.
    Broken(Fetched, String),
}

impl Request {
    /// Fetches the file itself: how many bytes it has.
    pub(super) fn fetch_directly(&self, source: &Source, output: &Output) -> Result<u64, CommandError> {
        let fetched = match self.fetch_from(source, self.partial) {
            Ok(Arrival::Usable(fetched)) => fetched,
            Ok(Arrival::Broken(broken, why)) => match self.other_copy(source, &why) {
                Some(sound) => sound,
                // It never takes this for the end of WAL: it goes on asking, and streaming.
                None if self.recovery.as_ref().is_some_and(Recovery::is_standby) => {
                    let note = Some(format!("WAL file '{}' is damaged: {why}", self.file));
                    Fetched { note, ..broken }
                }
                None => {
                    let what = format!(
                        "WAL file '{}' is damaged: {why}. There is WAL behind that, which recovery would not come to",
                        self.file
                    );
                    let hint = format!(
                        "{OTHER_COPIES}; with get-wal as restore_command, recovery ends at the damage"
                    );
                    return Err(CommandError::new(what).code(exit::CLIENT).hint(hint));
                }
            },
            Err(FetchError::Damaged(why)) => self.other_copy(source, &why).ok_or_else(|| {
                CommandError::new(format!("WAL file '{}' cannot be used: {why}", self.file))
                    .code(exit::CLIENT)
                    .hint(format!("is this the right server? If it is, {OTHER_COPIES}"))
            })?,
            Err(FetchError::Sink(error)) => return Err(self.unwritable(&error)),
            Err(error) => return Err(error.into()),
        };
        if let Some(note) = &fetched.note {
            output.warning(note);
        }
        fetched.landing.land(&self.destination).map_err(|error| self.unwritable(&error))?;
        Ok(fetched.bytes)
    }

    fn unwritable(&self, error: &io::Error) -> CommandError {
        CommandError::new(format!("cannot write '{}': {error}", self.destination.display()))
            .code(exit::GET_WAL_INPUT)
    }

    fn sink(&self) -> io::Result<Checked<Landing>> {
        let directory = self.destination.parent().unwrap_or(Path::new("."));
        let system_id = self.recovery.as_ref().and_then(Recovery::system_id);
        Ok(Checked::new(Landing::create(directory)?, self.file, system_id))
    }

    fn fetch_from(&self, source: &Source, partial: bool) -> Result<Arrival, FetchError> {
        let checked = source.fetch(self.file, partial, || self.sink())?;
        let bytes = checked.bytes;
        let Looked { sink: landing, verdict, .. } = checked.finish();
        let usable = |landing, note| Ok(Arrival::Usable(Fetched { landing, bytes, note }));
        let why = match verdict {
            Verdict::Sound => {
                return match self.break_before(&landing) {
                    Some(why) => Ok(Arrival::Broken(Fetched { landing, bytes, note: None }, why)),
                    None => usable(landing, None),
                };
            }
            Verdict::Useless(why) => return Err(FetchError::Damaged(why)),
            Verdict::Faulty(why) => why,
        };
        let (file, WalFile::Segment(segment)) = (self.file, self.file) else { return usable(landing, None) };
        let (fault, goes_on, size) = match landing.reopen().and_then(|wal| extent(segment, &wal)) {
            Ok(Extent::UpTo { fault, goes_on, size }) => (fault.to_string(), goes_on, size),
            Ok(Extent::Whole) => {
                let note = format!("WAL file '{file}' is not as a server writes it: {why}");
                return usable(landing, Some(note));
            }
            Ok(Extent::Unknown) => {
                return usable(landing, Some(format!("WAL file '{file}' cannot be verified: {why}")));
            }
            Err(error) => return Err(FetchError::Sink(error)),
        };
        let goes_on = goes_on || segment.next(size).map_or(Ok(false), |next| source.has(segment, next))?;
        match (goes_on, partial) {
            // What a server that crashed has left: it ends somewhere.
            (false, false) => {
                usable(landing, Some(format!("WAL file '{file}' can be read in part only: {fault}")))
            }
            (false, true) => usable(landing, None),
            // Of one that is being received, the pages may have been read while they were written.
            (true, true) => match self.fetch_from(source, false) {
                Err(FetchError::Missing(_)) => usable(landing, None),
                whole => whole,
            },
            (true, false) => Ok(Arrival::Broken(Fetched { landing, bytes, note: None }, fault)),
        }
    }

    /// Why the record that the segment should begin with the rest of is damaged, if it is. It can be told only where the
    /// recovering server has the segment before.
    fn break_before(&self, landing: &Landing) -> Option<String> {
        let (WalFile::Segment(segment), Some(recovery)) = (self.file, &self.recovery) else { return None };
        seam::break_after_pg_wal(recovery, segment, landing.reopen().ok()?)
    }

    /// A sound copy from elsewhere on this machine: on its way into the archive, or in the recovering server's `pg_wal`.
    fn other_copy(&self, source: &Source, why: &str) -> Option<Fetched> {
        let in_pg_wal = |recovery: &Recovery| recovery.wal_directory().join(self.file.to_string());
        let own: Option<PathBuf> = self.recovery.as_ref().map(in_pg_wal);
        source.other_paths(self.file).into_iter().chain(own).find_map(|path| {
            let mut checked = self.sink().ok()?;
            Source::fetch_path(&path, &mut checked).ok()?;
            let bytes = checked.bytes;
            let Looked { sink: landing, verdict, .. } = checked.finish();
            let is_sound = verdict == Verdict::Sound && self.break_before(&landing).is_none();
            let note =
                format!("WAL file '{}' is damaged: {why}. '{}' takes its place", self.file, path.display());
            is_sound.then_some(Fetched { landing, bytes, note: Some(note) })
        })
    }
}
