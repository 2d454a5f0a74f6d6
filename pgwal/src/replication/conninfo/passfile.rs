//! Password files (`passwordFromFile` in `fe-connect.c`): lines of `host:port:database:user:password`.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A password file longer than this is not one, in bytes.
const FILE_LEN_MAX: u64 = 1 << 20;
/// Permission bits that nobody but the owner may have.
const OTHERS: u32 = 0o077;

/// Why a password file was not used. libpq warns and goes on without it, and so should the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PassfileProblem {
    /// Others may read it.
    #[error("the password file \"{}\" is ignored: it has group or world access; make it mode 0600", file.display())]
    Permissions {
        /// The file.
        file: std::path::PathBuf,
    },
    /// It is a directory, a device, ...
    #[error("the password file \"{}\" is ignored: it is not a plain file", file.display())]
    NotAFile {
        /// The file.
        file: std::path::PathBuf,
    },
    /// It cannot be read.
    #[error("the password file \"{}\" cannot be read: {reason}", file.display())]
    Unreadable {
        /// The file.
        file: std::path::PathBuf,
        /// The operating system's reason.
        reason: String,
    },
}

/// Whom the password is for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) host: &'a str,
    pub(crate) port: &'a str,
    pub(crate) database: &'a str,
    pub(crate) user: &'a str,
}

/// The password in the first line that matches; `None` without a file or a line.
pub(crate) fn look_up(file: &Path, wanted: Wanted<'_>) -> Result<Option<String>, PassfileProblem> {
    let unreadable = |error: std::io::Error| PassfileProblem::Unreadable {
        file: file.to_owned(),
        reason: error.to_string(),
    };
    // Looked at before it is opened: opening a pipe would wait for its writer.
    let metadata = match std::fs::metadata(file) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    if !metadata.is_file() {
        return Err(PassfileProblem::NotAFile { file: file.to_owned() });
    }
    if metadata.mode() & OTHERS != 0 {
        return Err(PassfileProblem::Permissions { file: file.to_owned() });
    }
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(unreadable)?;
    opened.take(FILE_LEN_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(find(&String::from_utf8_lossy(&bytes), wanted))
}

fn find(text: &str, wanted: Wanted<'_>) -> Option<String> {
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let rest = field(line, wanted.host)?;
        let rest = field(rest, wanted.port)?;
        let rest = field(rest, wanted.database)?;
        let rest = field(rest, wanted.user)?;
        Some(unescape(rest))
    })
}

/// What follows the first field of `line`, if the field is `*` or matches.
fn field<'a>(line: &'a str, wanted: &str) -> Option<&'a str> {
    if let Some(rest) = line.strip_prefix("*:") {
        return Some(rest);
    }
    let mut wanted = wanted.chars();
    let mut characters = line.chars();
    loop {
        let character = match characters.next()? {
            ':' => return wanted.next().is_none().then_some(characters.as_str()),
            '\\' => characters.next()?,
            character => character,
        };
        if wanted.next() != Some(character) {
            return None;
        }
    }
}

/// The password ends at the line's end or at an unescaped colon.
fn unescape(text: &str) -> String {
    let mut value = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            ':' => break,
            // A backslash at the very end is itself.
            '\\' => value.push(characters.next().unwrap_or('\\')),
            character => value.push(character),
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    const WANTED: Wanted<'_> = Wanted { host: "db:1", port: "5432", database: "replication", user: "a\\b" };

    fn check(text: &str, expected: Option<&str>) {
        assert_eq!(find(text, WANTED).as_deref(), expected, "{text:?}");
    }

    #[test]
    fn reads_what_libpq_reads() {
        check("", None);
        check("*:*:*:*:secret", Some("secret"));
        check(r"db\:1:5432:replication:a\\b:secret", Some("secret"));
        check("db:1:5432:replication:*:secret", None);
        check(r"db\:1:5432:postgres:*:no", None);
        check("other:*:*:*:no\n*:*:*:*:first\n*:*:*:*:second", Some("first"));
        check("#*:*:*:*:no", None);
        check(r"*:*:*:*:a\:b\\c", Some(r"a:b\c"));
        check("*:*:*:*:a:b", Some("a"));
        check("*:*:*:*:secret\r\n", Some("secret"));
        check("*:*:*:*", None);
        check("*5:*:*:*:no", None);
        check(r"*:*:*:*:a\", Some(r"a\"));
    }

    #[test]
    fn a_file_that_others_can_read_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pgpass");
        assert_eq!(look_up(&file, WANTED), Ok(None));
        std::fs::write(&file, "*:*:*:*:secret\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(look_up(&file, WANTED), Err(PassfileProblem::Permissions { file: file.clone() }));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(look_up(&file, WANTED), Ok(Some("secret".to_owned())));
        assert!(matches!(look_up(directory.path(), WANTED), Err(PassfileProblem::NotAFile { .. })));
    }

    proptest! {
        #[test]
        fn never_panics(text: String) {
            let _ = find(&text, WANTED);
        }

        #[test]
        fn escaped_fields_round_trip(host in "[^\r\n]*", password in "[^\r\n]*") {
            let escape = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
            let line = format!("{}:*:*:*:{}", escape(&host), escape(&password));
            prop_assume!(!line.starts_with('#'));
            let wanted = Wanted { host: &host, ..WANTED };
            prop_assert_eq!(find(&line, wanted), Some(password));
        }
    }
}
