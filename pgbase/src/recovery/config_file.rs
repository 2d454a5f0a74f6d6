//! Inherited configuration files, made safe: a restored cluster must not act on what its original was told.
//!
//! Works on bytes, line by line, with the server's own notion of a line (`guc-file.l`): files may be in any encoding,
//! and a line that can't be read is left exactly as it is.

/// What marks a line that was commented out: Barman's mark, so that its users find what they look for.
const MARK: &[u8] = b"#BARMAN#";

/// The files of a data directory that hold settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigFile {
    /// `postgresql.conf`, or a file that stands in for it: the administrator's.
    Main,
    /// `postgresql.auto.conf`: the server's own, read last, so that what it says wins.
    Auto,
}

/// A line that was commented out, and what took its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigChange {
    /// The line's number in the original, from 1.
    pub line: usize,
    /// The setting.
    pub name: String,
    /// Its value now; `None` when it is only commented out.
    pub value: Option<String>,
}

/// A line that was left alone, but that a person should look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigNote {
    /// The line's number, from 1.
    pub line: usize,
    /// The setting.
    pub name: String,
    /// Its value as written, unquoted.
    pub value: String,
}

/// A configuration file made safe.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Neutralised {
    /// The new content.
    pub content: Vec<u8>,
    /// What was changed; when empty, `content` is the original.
    pub changes: Vec<ConfigChange>,
    /// What was left, but points elsewhere.
    pub notes: Vec<ConfigNote>,
}

/// Settings that name files and places of the original machine (Barman's list).
const ELSEWHERE: [&str; 14] = [
    "data_directory",
    "config_file",
    "hba_file",
    "ident_file",
    "external_pid_file",
    "ssl_cert_file",
    "ssl_key_file",
    "ssl_ca_file",
    "ssl_crl_file",
    "unix_socket_directory",
    "unix_socket_directories",
    "include",
    "include_dir",
    "include_if_exists",
];

/// Commands of an earlier recovery that a new one would run.
const RECOVERY_COMMANDS: [&str; 2] = ["recovery_end_command", "archive_cleanup_command"];

/// What `ALTER SYSTEM`, `pg_basebackup -R` or an earlier restore left in the server's own file about where to recover
/// from.
const RECOVERY_SOURCES: [&str; 5] = [
    "restore_command",
    "primary_conninfo",
    "primary_slot_name",
    "recovery_min_apply_delay",
    "promote_trigger_file",
];

/// Comments out what a restored cluster must not inherit, and lists what a person should look at.
///
/// * Archiving is switched off (`archive_command = false`, no `archive_library`): the new cluster would otherwise write
///   its WAL over the original's archive.
/// * Recovery targets and commands of an earlier recovery are commented out, in the server's own file also the sources
///   it would recover from: two targets stop a server from starting, a stale command runs.
///
/// ```
/// use pgbase::recovery::{ConfigFile, neutralise};
/// let safe = neutralise(b"port = 5432\narchive_command = 'cp %p /wal'\n", ConfigFile::Main);
/// assert_eq!(safe.content, b"port = 5432\n#BARMAN#archive_command = 'cp %p /wal'\narchive_command = false\n");
/// assert_eq!(safe.changes[0].line, 2);
/// ```
pub fn neutralise(original: &[u8], file: ConfigFile) -> Neutralised {
    let mut result = Neutralised::default();
    for (index, line) in original.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let setting = read_line(line);
        let number = index + 1;
        let Some((name, value)) = setting else {
            result.content.extend_from_slice(line);
            continue;
        };
        match verdict(&name, &value, file) {
            Verdict::Keep => result.content.extend_from_slice(line),
            Verdict::Note => {
                result.content.extend_from_slice(line);
                result.notes.push(ConfigNote { line: number, name, value });
            }
            Verdict::Remove(replacement) => {
                result.content.extend_from_slice(MARK);
                result.content.extend_from_slice(line);
                if !line.ends_with(b"\n") {
                    result.content.push(b'\n');
                }
                if let Some(replacement) = replacement {
                    result.content.extend_from_slice(format!("{name} = {replacement}\n").as_bytes());
                }
                result.changes.push(ConfigChange {
                    line: number,
                    name,
                    value: replacement.map(str::to_owned),
                });
            }
        }
    }
    result
}

/// Whether a configuration file reads others, whose settings can't be known here.
pub fn has_includes(content: &[u8]) -> bool {
    content
        .split(|&byte| byte == b'\n')
        .filter_map(read_line)
        .any(|(name, _)| matches!(name.as_str(), "include" | "include_dir" | "include_if_exists"))
}

enum Verdict {
    Keep,
    Note,
    /// Comment it out, and put this value in its place.
    Remove(Option<&'static str>),
}

fn verdict(name: &str, value: &str, file: ConfigFile) -> Verdict {
    let inherited_source = file == ConfigFile::Auto && RECOVERY_SOURCES.contains(&name);
    match name {
        "archive_command" if value == "false" => Verdict::Keep,
        "archive_command" => Verdict::Remove(Some("false")),
        "archive_library" if value.is_empty() => Verdict::Keep,
        "archive_library" => Verdict::Remove(None),
        _ if name.starts_with("recovery_target") => Verdict::Remove(None),
        _ if RECOVERY_COMMANDS.contains(&name) || inherited_source => Verdict::Remove(None),
        _ if ELSEWHERE.contains(&name) => Verdict::Note,
        _ => Verdict::Keep,
    }
}

/// A line's setting, its name in lower case and its value unquoted; `None` for blanks, comments and what the server
/// would not read either.
fn read_line(line: &[u8]) -> Option<(String, String)> {
    let text = String::from_utf8_lossy(line);
    let text = text.trim();
    let starts_a_name = |character: char| character.is_ascii_alphabetic() || character == '_';
    if !text.starts_with(starts_a_name) {
        return None;
    }
    let in_name = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '.' | '$');
    let (name, rest) = text.split_at(text.find(|character| !in_name(character)).unwrap_or(text.len()));
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    Some((name.to_ascii_lowercase(), read_value(rest)))
}

/// A value as the server reads it: up to the closing quote, or to a blank or comment.
fn read_value(rest: &str) -> String {
    let Some(quoted) = rest.strip_prefix('\'') else {
        return rest.split(|c: char| c.is_whitespace() || c == '#').next().unwrap_or_default().to_owned();
    };
    let mut value = String::new();
    let mut characters = quoted.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\'' if characters.peek() == Some(&'\'') => {
                characters.next();
                value.push('\'');
            }
            '\'' => break,
            '\\' => value.extend(characters.next()),
            other => value.push(other),
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(file: ConfigFile, original: &str, expected: &str) -> Neutralised {
        let safe = neutralise(original.as_bytes(), file);
        assert_eq!(String::from_utf8(safe.content.clone()).unwrap(), expected);
        safe
    }

    #[test]
    fn archiving_is_switched_off_however_it_is_spelled() {
        for line in [
            "archive_command = 'x'",
            "ARCHIVE_COMMAND 'x' # why",
            "  archive_command='it''s'",
            "archive_command=",
        ] {
            check(ConfigFile::Main, line, &format!("#BARMAN#{line}\narchive_command = false\n"));
        }
        check(
            ConfigFile::Main,
            "archive_library = 'basic_archive'\n",
            "#BARMAN#archive_library = 'basic_archive'\n",
        );
    }

    #[test]
    fn comments_other_settings_and_unreadable_lines_stay_as_they_are() {
        for text in [
            "",
            "\n\n",
            "#archive_command = 'x'\n",
            "port = 5432",
            "archive_command_x = 1\n",
            "archive_command = false\n",
            "archive_library = ''\n",
            "= 5\n",
            "'archive_command' = 'x'\r\n",
        ] {
            let safe = check(ConfigFile::Auto, text, text);
            assert!(safe.changes.is_empty() && safe.notes.is_empty());
        }
    }

    #[test]
    fn an_earlier_recovery_is_forgotten() {
        let auto = "primary_conninfo = 'host=a'\nrestore_command = 'b'\nrecovery_target_xid = '1'\n";
        let commented = "#BARMAN#primary_conninfo = 'host=a'\n#BARMAN#restore_command = 'b'\n#BARMAN#recovery_target_xid = '1'\n";
        check(ConfigFile::Auto, auto, commented);
        // The administrator's own file keeps what only a signal file wakes.
        let safe = check(
            ConfigFile::Main,
            auto,
            "primary_conninfo = 'host=a'\nrestore_command = 'b'\n#BARMAN#recovery_target_xid = '1'\n",
        );
        assert_eq!(safe.changes, [ConfigChange { line: 3, name: "recovery_target_xid".into(), value: None }]);
    }

    #[test]
    fn places_of_the_original_machine_are_named_with_their_lines() {
        let safe =
            neutralise(b"# x\nhba_file = '/etc/pg/hba' # here\ninclude_dir 'conf.d'\n", ConfigFile::Main);
        let note =
            |line, name: &str, value: &str| ConfigNote { line, name: name.into(), value: value.into() };
        assert_eq!(safe.notes, [note(2, "hba_file", "/etc/pg/hba"), note(3, "include_dir", "conf.d")]);
        assert!(has_includes(b"port = 1\nInclude 'a.conf'\n"));
        assert!(!has_includes(b"#include 'a.conf'\n"));
    }

    #[test]
    fn other_encodings_pass_through_byte_for_byte() {
        let latin1 = b"cluster_name = 'caf\xe9'\narchive_command = '\xe9'\n";
        let safe = neutralise(latin1, ConfigFile::Main);
        assert_eq!(
            safe.content,
            b"cluster_name = 'caf\xe9'\n#BARMAN#archive_command = '\xe9'\narchive_command = false\n"
        );
    }

    proptest! {
        #[test]
        fn making_safe_twice_changes_nothing_more(
            lines in proptest::collection::vec("(archive_command|recovery_target|port|x)( ?=? ?'?[a-z]{0,4}'?)", 0..6)
        ) {
            let once = neutralise(lines.join("\n").as_bytes(), ConfigFile::Auto);
            let twice = neutralise(&once.content, ConfigFile::Auto);
            prop_assert!(twice.changes.is_empty());
            prop_assert_eq!(twice.content, once.content);
        }

        #[test]
        fn any_bytes_are_survived(content: Vec<u8>) {
            let _ = neutralise(&content, ConfigFile::Main);
            let _ = has_includes(&content);
        }
    }
}
