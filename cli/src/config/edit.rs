//! Changing one option in the text of a configuration file, and nothing else in it.

use super::ini::{Ini, check_syntax, interpolate};

/// Why an option can't be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The text is not a configuration file.
    #[error("line {line}: {fault}")]
    Syntax {
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        fault: super::ini::SyntaxFault,
    },
    /// The value would read back as something else.
    #[error(
        "the value {value:?} cannot be written into a configuration file: it must be one line, without spaces at \
         its ends, and with percent signs written as %%%%"
    )]
    Value {
        /// The value.
        value: String,
    },
    /// The section's name would read back as something else.
    #[error("{section:?} cannot be the name of a section")]
    Section {
        /// The name.
        section: String,
    },
}

/// The text with `key` of `section` set to `value`: in its place where it is already, at the end of the section where
/// not, and in a new section at the end where there is none. All other lines stay.
///
/// # Errors
/// When the result would not say that.
pub fn set_option(text: &str, section: &str, key: &str, value: &str) -> Result<String, EditError> {
    let options = super::ini::Options::new();
    let readable = interpolate(value, &options).and_then(|once| check_syntax(&once).map(|()| once));
    if readable.is_err() || value.trim() != value || value.contains(['\n', '\r']) {
        return Err(EditError::Value { value: value.to_owned() });
    }
    Ini::parse(text).map_err(|(line, fault)| EditError::Syntax { line, fault })?;
    let edited = edit(text, section, key, value);
    // What was written is what will be read.
    let written = Ini::parse(&edited).ok().and_then(|ini| ini.options(section).remove(key));
    match written {
        Some(entry) if entry.value == value => Ok(edited),
        _ if section.contains([']', '\n']) => Err(EditError::Section { section: section.to_owned() }),
        _ => Err(EditError::Value { value: value.to_owned() }),
    }
}

fn edit(text: &str, section: &str, key: &str, value: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let option = format!("{key} = {value}");
    match find(&lines, section, key) {
        Place::Option { first, end } => {
            // The lines that continue the old value go with it.
            let indent: String = lines[first].chars().take_while(|c| c.is_whitespace()).collect();
            lines.splice(first..end, [format!("{indent}{option}")]);
        }
        Place::EndOfSection { at, indent } => lines.insert(at, format!("{indent}{option}")),
        Place::Nowhere => lines.extend([format!("[{section}]"), option]),
    }
    lines.join("\n") + "\n"
}

enum Place {
    /// The option's lines, the last place that has it.
    Option { first: usize, end: usize },
    /// After the last line of the section that says anything.
    EndOfSection { at: usize, indent: String },
    /// There is no such section.
    Nowhere,
}

/// Finds the option as the reader would: see [`Ini::parse`] for the rules.
fn find(lines: &[String], section: &str, key: &str) -> Place {
    let mut place = Place::Nowhere;
    let mut found: Option<(usize, usize)> = None;
    let (mut inside, mut open, mut wanted, mut indent) = (false, false, false, 0);
    for (number, line) in lines.iter().enumerate() {
        let content = line.trim();
        if content.is_empty() || content.starts_with(['#', ';']) {
            continue;
        }
        let line_indent = line.chars().take_while(|c| c.is_whitespace()).count();
        if open && line_indent > indent {
            if let (true, Some((_, end))) = (wanted, &mut found) {
                *end = number + 1;
            }
        } else {
            indent = line_indent;
            let header = content.strip_prefix('[').and_then(|rest| Some(&rest[..rest.rfind(']')?]));
            if let Some(name) = header.filter(|name| !name.is_empty()) {
                inside = name == section;
                open = false;
                wanted = false;
            } else {
                let name = content.find(['=', ':']).map(|at| content[..at].trim_end().to_lowercase());
                open = true;
                wanted = inside && name.as_deref() == Some(key);
                if wanted {
                    found = Some((number, number + 1));
                }
            }
        }
        if inside {
            let indent = line.chars().take(indent).collect();
            place = Place::EndOfSection { at: number + 1, indent };
        }
    }
    found.map_or(place, |(first, end)| Place::Option { first, end })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(set_option(text, "pg", "key", "new").as_deref(), Ok(expected));
    }

    #[test]
    fn an_option_is_changed_in_its_place() {
        check("[pg]\n# note\nkey = old ; not a comment\nb = 1\n", "[pg]\n# note\nkey = new\nb = 1\n");
        check("[pg]\nKEY: old\n  and more\n\n  of it\nb = 1", "[pg]\nkey = new\nb = 1\n");
        check(
            "[pg]\nkey = 1\n[b]\nkey = 2\n[pg]\nkey = 3\n",
            "[pg]\nkey = 1\n[b]\nkey = 2\n[pg]\nkey = new\n",
        );
        check("[b]\n  [pg]\n  key = 3\n", "[b]\n  [pg]\n  key = new\n");
    }

    #[test]
    fn a_new_option_goes_to_the_end_of_its_section() {
        check(
            "[pg]\na = 1\n  more\n\n; about b\n[b]\n",
            "[pg]\na = 1\n  more\nkey = new\n\n; about b\n[b]\n",
        );
        check("[pg]", "[pg]\nkey = new\n");
        check("[pg]\nkeyring = 1\n", "[pg]\nkeyring = 1\nkey = new\n");
    }

    #[test]
    fn a_new_section_goes_to_the_end_of_the_file() {
        check("[b]\nkey = 1", "[b]\nkey = 1\n[pg]\nkey = new\n");
        check("", "[pg]\nkey = new\n");
    }

    #[test]
    fn what_would_read_back_differently_is_refused() {
        for value in [" x", "x ", "a\nb", "100%", "%(other)s", "50%% of it"] {
            assert!(set_option("[pg]\n", "pg", "key", value).is_err(), "{value:?}");
        }
        assert!(set_option("[pg]\n", "pg", "key", "50%%%% ; # = : [x]").is_ok());
        for section in ["a]\nb", "x\n[y", "DEFAULT"] {
            assert!(set_option("", section, "key", "1").is_err(), "{section:?}");
        }
        assert!(set_option("no section\n", "pg", "key", "1").is_err());
    }

    proptest! {
        #[test]
        fn only_the_option_changes(
            text in "(\\[(pg|b)\\]\n|key = x\n|  more\n|b=1\n|# c\n|\n|key: y\n| key = z\n){0,12}",
            value in "[a-z=:;#\\[ ]{0,8}",
        ) {
            if let Ok(edited) = set_option(&text, "pg", "key", &value) {
                let (before, after) = (Ini::parse(&text).unwrap(), Ini::parse(&edited).unwrap());
                for section in ["pg", "b"] {
                    let values = |ini: &Ini| {
                        let mut options = ini.options(section);
                        if section == "pg" {
                            options.remove("key");
                        }
                        options.into_iter().map(|(key, entry)| (key, entry.value)).collect::<Vec<_>>()
                    };
                    prop_assert_eq!(values(&before), values(&after));
                }
                prop_assert_eq!(&after.options("pg")["key"].value, &value);
            }
        }
    }
}
