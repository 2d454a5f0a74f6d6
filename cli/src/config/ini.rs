//! The INI dialect of Barman's configuration files: Python's `configparser`, rule for rule.
//!
//! * `=` or `:` separates, whichever comes first; keys are lower-cased, section names are not.
//! * Whole-line comments start with `#` or `;`. A `#` or `;` inside a value belongs to the value.
//! * An indented line continues the value above it, joined by a newline; blank lines inside a value stay.
//! * A section or option given twice is legal: the last one wins. `[DEFAULT]` flows into every section.
//! * `%(option)s` is replaced by another option of the same section, `%%` by a percent sign.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Largest configuration file that is read, in bytes. A file beyond it is a mistake, not a configuration.
pub const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// How deep `%(a)s` may refer to `%(b)s` and so on (Python's `MAX_INTERPOLATION_DEPTH`).
const MAX_INTERPOLATION_DEPTH: usize = 10;

/// The name of the section that flows into all others.
const DEFAULT_SECTION: &str = "DEFAULT";

/// Options of one section by lower-cased name, with the line each was read from.
pub type Options = BTreeMap<String, Entry>;

/// A raw value, before interpolation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The value as written; lines of a continued value are joined by newlines.
    pub value: String,
    /// The line it starts on, counted from 1.
    pub line: usize,
}

/// One parsed file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ini {
    defaults: Options,
    sections: BTreeMap<String, Options>,
}

/// Why a file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum IniError {
    /// The file can't be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is too large to be a configuration file.
    #[error("{} has more than {MAX_CONFIG_BYTES} bytes: not a configuration file", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is not UTF-8.
    #[error("{} is not UTF-8 text", path.display())]
    Encoding {
        /// The file.
        path: PathBuf,
    },
    /// A line is neither section, option, comment nor continuation.
    #[error("{}, line {line}: {fault}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        fault: SyntaxFault,
    },
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxFault {
    /// An option before any `[section]`.
    #[error("an option before any [section]")]
    NoSection,
    /// No separator.
    #[error("neither a [section] nor a \"key = value\"")]
    NoSeparator,
    /// Nothing before the separator.
    #[error("a value without a key")]
    NoKey,
}

/// Why a value's `%` references can't be resolved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InterpolationError {
    /// `%(x)s` where the section has no option `x`.
    #[error(
        "bad value substitution: it refers to %({reference})s, and the section has no option of that name"
    )]
    Missing {
        /// The option referred to.
        reference: String,
    },
    /// A `%` that is neither `%%` nor `%(name)s`.
    #[error(
        "invalid interpolation syntax near {near:?}: a literal percent sign is written %%%% in this file"
    )]
    Syntax {
        /// The text from the percent sign on.
        near: String,
    },
    /// References too deep, most likely in a circle.
    #[error("references nest deeper than {MAX_INTERPOLATION_DEPTH} levels")]
    Depth,
}

impl Ini {
    /// Reads and parses a file.
    ///
    /// # Errors
    /// When it can't be read, is too large, is not UTF-8, or breaks the grammar.
    pub fn read(path: &Path) -> Result<Self, IniError> {
        use std::io::Read as _;
        let read_error = |source| IniError::Read { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(read_error)?;
        let mut bytes = Vec::new();
        file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut bytes).map_err(read_error)?;
        if bytes.len() as u64 > MAX_CONFIG_BYTES {
            return Err(IniError::TooLarge { path: path.to_owned() });
        }
        let text = String::from_utf8(bytes).map_err(|_| IniError::Encoding { path: path.to_owned() })?;
        Self::parse(&text).map_err(|(line, fault)| IniError::Syntax { path: path.to_owned(), line, fault })
    }

    /// Parses a text; an error names its line, counted from 1.
    ///
    /// # Errors
    /// At the first line that breaks the grammar.
    pub fn parse(text: &str) -> Result<Self, (usize, SyntaxFault)> {
        let mut ini = Ini::default();
        let mut section: Option<String> = None;
        let mut option: Option<String> = None;
        let mut indent = 0;
        for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
            let content = line.trim();
            if content.starts_with(['#', ';']) {
                continue;
            }
            let current = section.as_deref().and_then(|name| ini.options_mut(name));
            let open = current.zip(option.as_deref()).and_then(|(options, name)| options.get_mut(name));
            if content.is_empty() {
                if let Some(entry) = open {
                    entry.value.push('\n');
                }
                continue;
            }
            let line_indent = line.chars().take_while(|c| c.is_whitespace()).count();
            if let (Some(entry), true) = (open, line_indent > indent) {
                entry.value.push('\n');
                entry.value.push_str(content);
                continue;
            }
            indent = line_indent;
            if let Some(name) = section_header(content) {
                if name != DEFAULT_SECTION {
                    ini.sections.entry(name.to_owned()).or_default();
                }
                section = Some(name.to_owned());
                option = None;
                continue;
            }
            let options = section.as_deref().and_then(|name| ini.options_mut(name));
            let options = options.ok_or((number, SyntaxFault::NoSection))?;
            let at = content.find(['=', ':']).ok_or((number, SyntaxFault::NoSeparator))?;
            let key = content[..at].trim_end().to_lowercase();
            if key.is_empty() {
                return Err((number, SyntaxFault::NoKey));
            }
            let value = content[at + 1..].trim().to_owned();
            options.insert(key.clone(), Entry { value, line: number });
            option = Some(key);
        }
        ini.trim_values();
        Ok(ini)
    }

    /// The sections by name, without `[DEFAULT]`.
    pub fn sections(&self) -> impl Iterator<Item = &str> {
        self.sections.keys().map(String::as_str)
    }

    /// The options of a section, those of `[DEFAULT]` included; empty for an unknown section.
    pub fn options(&self, section: &str) -> Options {
        let mut options = Options::new();
        if let Some(own) = self.sections.get(section) {
            options.extend(self.defaults.iter().map(|(key, entry)| (key.clone(), entry.clone())));
            options.extend(own.iter().map(|(key, entry)| (key.clone(), entry.clone())));
        }
        options
    }

    fn options_mut(&mut self, section: &str) -> Option<&mut Options> {
        if section == DEFAULT_SECTION { Some(&mut self.defaults) } else { self.sections.get_mut(section) }
    }

    /// Blank lines after a value belong to the file, not to the value.
    fn trim_values(&mut self) {
        for options in self.sections.values_mut().chain([&mut self.defaults]) {
            for entry in options.values_mut() {
                entry.value.truncate(entry.value.trim_end().len());
            }
        }
    }
}

/// The name between the first `[` and the last `]`.
fn section_header(content: &str) -> Option<&str> {
    let inner = content.strip_prefix('[')?;
    let name = &inner[..inner.rfind(']')?];
    if name.is_empty() { None } else { Some(name) }
}

/// Resolves the `%` references of `value` against `options`.
///
/// # Errors
/// When a reference is unknown, malformed or circular.
pub fn interpolate(value: &str, options: &Options) -> Result<String, InterpolationError> {
    let mut resolved = String::with_capacity(value.len());
    interpolate_into(value, options, &mut resolved, 1)?;
    Ok(resolved)
}

/// Checks that a value could be interpolated once more, as Python does when one parser's values are put into another.
///
/// # Errors
/// When a percent sign is left that is neither `%%` nor `%(name)s`.
pub fn check_syntax(value: &str) -> Result<(), InterpolationError> {
    let mut rest = value;
    while let Some(at) = rest.find('%') {
        let near = &rest[at..];
        let width = if near.starts_with("%%") { 2 } else { reference(near).map_or(0, |(_, width)| width) };
        if width == 0 {
            return Err(InterpolationError::Syntax { near: near.to_owned() });
        }
        rest = &near[width..];
    }
    Ok(())
}

fn interpolate_into(
    value: &str,
    options: &Options,
    resolved: &mut String,
    depth: usize,
) -> Result<(), InterpolationError> {
    if depth > MAX_INTERPOLATION_DEPTH {
        return Err(InterpolationError::Depth);
    }
    let mut rest = value;
    while let Some(at) = rest.find('%') {
        resolved.push_str(&rest[..at]);
        let near = &rest[at..];
        if let Some(after) = near.strip_prefix("%%") {
            resolved.push('%');
            rest = after;
            continue;
        }
        let Some((name, width)) = reference(near) else {
            return Err(InterpolationError::Syntax { near: near.to_owned() });
        };
        let name = name.to_lowercase();
        let Some(entry) = options.get(&name) else {
            return Err(InterpolationError::Missing { reference: name });
        };
        interpolate_into(&entry.value, options, resolved, depth + 1)?;
        rest = &near[width..];
    }
    resolved.push_str(rest);
    Ok(())
}

/// The name in a leading `%(name)s`, and the length of the whole reference in bytes.
fn reference(text: &str) -> Option<(&str, usize)> {
    let inner = text.strip_prefix("%(")?;
    let end = inner.find(')')?;
    if end == 0 || !inner[end..].starts_with(")s") {
        return None;
    }
    Some((&inner[..end], end + 4))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, section: &str, key: &str, value: &str) {
        let options = Ini::parse(text).unwrap().options(section);
        assert_eq!(options.get(key).map(|entry| entry.value.as_str()), Some(value));
    }

    #[test]
    fn reads_the_dialect_of_configparser() {
        check("[a]\nKey = v", "a", "key", "v");
        check("[a]\nkey: v=w", "a", "key", "v=w");
        check("[a]\nkey=v:w", "a", "key", "v:w");
        check("[a]\nkey = v ; not a comment # nor this", "a", "key", "v ; not a comment # nor this");
        check("[a]\nkey = one\n  two\n\tthree\nnext = x", "a", "key", "one\ntwo\nthree");
        check("[a]\nkey = one\n  # a comment\n  two", "a", "key", "one\ntwo");
        check("[a]\nkey = one\n\n  two\n\n", "a", "key", "one\n\ntwo");
        check("[a]\nkey =\n  two", "a", "key", "\ntwo");
        check("[a]\nkey = 1\nKEY = 2\n[b]\n[a]\nother = 3", "a", "key", "2");
        check("[a]\nkey = 1\n[b]\nx = 1\n[a]\nother = 3", "a", "other", "3");
        check("[DEFAULT]\nkey = 1\n[a]\nx = 2", "a", "key", "1");
        check("; c\n# c\n  # c\n[a] trailing\nkey =", "a", "key", "");
        check("[a]b]\nkey = 1", "a]b", "key", "1");
        check("  [a]\n  key = 1\n  other = 2", "a", "other", "2");
        check("[a]\nkey = \"quoted\"", "a", "key", "\"quoted\"");
    }

    #[test]
    fn faults_name_their_line() {
        assert_eq!(Ini::parse("key = 1"), Err((1, SyntaxFault::NoSection)));
        assert_eq!(Ini::parse("[a]\n\nkey"), Err((3, SyntaxFault::NoSeparator)));
        assert_eq!(Ini::parse("[a]\n= 1"), Err((2, SyntaxFault::NoKey)));
        assert_eq!(Ini::parse("[]\nx = 1"), Err((1, SyntaxFault::NoSection)));
    }

    #[test]
    fn percent_references_resolve_within_the_section() {
        let options =
            Ini::parse("[s]\na = 1\nb = <%(A)s>\nc = %(b)s%%\nloop = %(loop)s").unwrap().options("s");
        assert_eq!(interpolate("%(c)s", &options).as_deref(), Ok("<1>%"));
        assert_eq!(interpolate("%%%%", &options).as_deref(), Ok("%%"));
        let fault = |value: &str| interpolate(value, &options).unwrap_err();
        assert_eq!(fault("%(name)s"), InterpolationError::Missing { reference: "name".into() });
        assert_eq!(fault("%(loop)s"), InterpolationError::Depth);
        for bad in ["%", "100% sure", "%(a", "%(a)", "%()s"] {
            assert!(matches!(fault(bad), InterpolationError::Syntax { .. }), "{bad}");
        }
        assert_eq!(check_syntax("%% and %(anything)s"), Ok(()));
        assert!(check_syntax("5%").is_err());
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "[\\[\\]a-c=:#;% \t\n()s\u{a0}\u{e9}]{0,200}") {
            if let Ok(ini) = Ini::parse(&text) {
                for section in ini.sections() {
                    let options = ini.options(section);
                    for entry in options.values() {
                        let _ = interpolate(&entry.value, &options);
                        let _ = check_syntax(&entry.value);
                    }
                }
            }
        }
    }
}
