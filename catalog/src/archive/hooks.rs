//! Places where others take part.

use std::path::Path;

use pgwal::WalFile;

/// A file that is being archived, as a hook sees it: Barman's `BARMAN_SEGMENT`, `BARMAN_FILE`, `BARMAN_SIZE`,
/// `BARMAN_TIMESTAMP` and `BARMAN_COMPRESSION`.
#[derive(Debug, Clone, Copy)]
pub struct HookFile<'a> {
    /// Its name.
    pub file: WalFile,
    /// Where it is: on its way before it is archived, in the archive afterwards.
    pub path: &'a Path,
    /// Its size there, in bytes.
    pub size: u64,
    /// When it was last modified, in seconds since 1970.
    pub time: f64,
    /// How it is compressed there; `None` for not at all.
    pub compression: Option<&'a str>,
}

/// A hook that lets nothing more be archived now.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}")]
pub struct HookStop {
    /// What the hook said or did.
    pub reason: String,
}

/// What is called before and after each file is archived, from one thread, in the order of the files.
///
/// No lock is held meanwhile: a hook that takes its time keeps nobody waiting, and may itself call what archives. A batch of
/// files shares its fsyncs, so the order over a batch is: `before` for each file, all of them archived and listed durably,
/// `after` for each. Per file it is Barman's: the pre scripts come before a file is compared or compressed, the post
/// scripts when nothing can undo it any more.
///
/// Another process may archive, take or change a file between the two ([`ArchiveEvent::Overtaken`]). Then `after` is not called
/// for it: who archives it, or the next run, calls both.
///
/// [`ArchiveEvent::Overtaken`]: super::ArchiveEvent::Overtaken
///
/// To run shell scripts: in `before` run `pre_archive_script`, then `pre_archive_retry_script`, and answer [`HookStop`]
/// when that exits with 63; in `after` run `post_archive_retry_script`, then `post_archive_script`. `error` is what goes into
/// `BARMAN_ERROR`.
pub trait ArchiveHooks {
    /// Whether there are none, so that nothing has to be let go for them.
    fn is_empty(&self) -> bool {
        false
    }

    /// A file is about to be archived.
    ///
    /// # Errors
    /// When it may not be. This file and those after it stay where they are, and the run ends with
    /// [`ArchiveError::Stopped`](super::ArchiveError::Stopped); those before it are archived.
    fn before(&self, file: &HookFile<'_>) -> Result<(), HookStop>;

    /// A file that `before` saw was archived, or `error` says why not.
    fn after(&self, file: &HookFile<'_>, error: Option<&str>);
}

/// Nobody takes part.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHooks;

impl ArchiveHooks for NoHooks {
    fn is_empty(&self) -> bool {
        true
    }

    fn before(&self, _file: &HookFile<'_>) -> Result<(), HookStop> {
        Ok(())
    }

    fn after(&self, _file: &HookFile<'_>, _error: Option<&str>) {}
}
