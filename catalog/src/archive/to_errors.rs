//! Where files go that can't be archived.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use barkeep_transport::durable::{self, DurableError};
use jiff::{Span, Timestamp};

use crate::time;

/// How often a name for a rejected file is tried, a second later each time.
const REJECT_TRIES: u32 = 3600;

/// Moves the file `path` into the directory `errors`, as `<name>.<time>.<suffix>`; `None` when no such name is free. Where it
/// is then.
pub(crate) fn move_to_errors(
    path: &Path,
    name: &OsStr,
    suffix: &str,
    errors: &Path,
    now: Timestamp,
) -> Result<Option<PathBuf>, DurableError> {
    durable::create_dir_all(errors)?;
    let mut moment = now;
    for _ in 0..REJECT_TRIES {
        let mut target = name.to_owned();
        target.push(format!(".{}.{suffix}", time::utc_stamp(moment)));
        let moved_to = errors.join(target);
        match move_new(path, &moved_to) {
            Ok(()) => return Ok(Some(moved_to)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                moment = moment.checked_add(Span::new().seconds(1)).unwrap_or(Timestamp::MAX);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Moves a file or directory to a name that must be free, also to another file system (files only).
fn move_new(from: &Path, to: &Path) -> Result<(), DurableError> {
    match durable::rename_new(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            let mut copy = durable::TempFile::create(to)?;
            let mut source =
                fs::File::open(from).map_err(|error| copy.failed(durable::Step::Create, error))?;
            io::copy(&mut source, &mut copy).map_err(|error| copy.failed(durable::Step::Write, error))?;
            copy.publish_new()?;
            durable::remove(from).map(drop)
        }
        outcome => outcome,
    }
}
