//! The names that the one binary answers to.

use std::ffi::OsStr;
use std::path::Path;

/// What barkeep was called as: the first word's file name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// Its own name, or any that is no other program's.
    Barkeep,
    /// `barman`.
    Barman,
}

/// The links that stand for other programs.
pub(crate) const LINKS: [&str; 3] = ["barman", "barman-wal-archive", "barman-wal-restore"];

impl Program {
    pub(crate) fn called(word: Option<&OsStr>) -> Self {
        match word.and_then(|word| Path::new(word).file_name()) {
            Some(name) if name == "barman" => Program::Barman,
            _ => Program::Barkeep,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Program::Barkeep => "barkeep",
            Program::Barman => "barman",
        }
    }

    /// What `--version` prints. Scripts take the first word of Barman's for a version of Barman.
    pub(crate) fn version(self) -> String {
        let own = env!("CARGO_PKG_VERSION");
        match self {
            Program::Barkeep => format!("barkeep {own}\n"),
            Program::Barman => format!("{} Barman by barkeep {own}\n", crate::BARMAN_VERSION),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_name_decides() {
        let called = |word: &str| Program::called(Some(OsStr::new(word)));
        assert_eq!(called("/usr/bin/barman"), Program::Barman);
        assert_eq!(called("barman"), Program::Barman);
        assert_eq!(called("barkeep"), Program::Barkeep);
        assert_eq!(called("/opt/barman/barkeep-0.1"), Program::Barkeep);
        assert_eq!(Program::called(None), Program::Barkeep);
    }
}
