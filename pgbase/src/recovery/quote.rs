//! Quoting, once: values for configuration files, words for the shell, words for PostgreSQL's command settings.

/// A text that a configuration file or a command line can't carry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// A control character: a line end would start a new setting, and none of the others belongs in a value.
    #[error("{text:?} can't be written to a configuration file: it has the control character {found:?}")]
    Control {
        /// The text, shortened.
        text: String,
        /// The first such character.
        found: char,
    },
    /// A path that is not UTF-8, which a configuration file has no way to say.
    #[error("{path:?} can't be used in a command: it is not valid UTF-8")]
    NotUtf8 {
        /// The path, as well as it can be shown.
        path: String,
    },
}

/// Quotes a value for `postgresql.conf` or `postgresql.auto.conf`, as the server's own `escape_single_quotes_ascii`
/// does: in single quotes, with quotes and backslashes doubled.
///
/// ```
/// use pgbase::recovery::quote_value;
/// assert_eq!(quote_value(r"it's C:\x")?, r"'it''s C:\\x'");
/// assert!(quote_value("x'\nshared_preload_libraries = 'evil").is_err());
/// # Ok::<(), pgbase::recovery::QuoteError>(())
/// ```
///
/// # Errors
/// When the text has a control character (line ends, tabs and NUL included).
pub fn quote_value(text: &str) -> Result<String, QuoteError> {
    refuse_control(text)?;
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('\'');
    for character in text.chars() {
        if matches!(character, '\'' | '\\') {
            quoted.push(character);
        }
        quoted.push(character);
    }
    quoted.push('\'');
    Ok(quoted)
}

/// Quotes one word for a POSIX shell; plain words stay as they are.
///
/// # Errors
/// When the text has a control character: a command with one could not be written to a configuration file anyway.
pub fn shell_word(text: &str) -> Result<String, QuoteError> {
    refuse_control(text)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:,@%".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        return Ok(text.to_owned());
    }
    Ok(format!("'{}'", text.replace('\'', r"'\''")))
}

/// Quotes one word for a command setting such as `restore_command`: for the shell, and with `%` doubled, since the
/// server replaces `%f` and its kin before the shell sees them.
///
/// # Errors
/// As [`shell_word`].
pub fn command_word(text: &str) -> Result<String, QuoteError> {
    Ok(shell_word(text)?.replace('%', "%%"))
}

fn refuse_control(text: &str) -> Result<(), QuoteError> {
    match text.chars().find(|character| character.is_control()) {
        Some(found) => Err(QuoteError::Control { text: text.chars().take(80).collect(), found }),
        None => Ok(()),
    }
}

/// What the server makes of a quoted value (`GUC_scanstr`): the other half of the law that [`quote_value`] keeps.
#[cfg(test)]
pub(super) fn unquote_value(quoted: &str) -> Option<String> {
    let inner = quoted.strip_prefix('\'')?.strip_suffix('\'')?;
    let mut text = String::new();
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next()? {
                'n' => text.push('\n'),
                't' => text.push('\t'),
                '0'..='7' => return None,
                other => text.push(other),
            },
            '\'' => text.push(characters.next().filter(|&next| next == '\'')?),
            other => text.push(other),
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_that_would_start_a_new_line_are_refused() {
        for text in ["a\nb", "a\rb", "a\0b", "a\tb", "\u{7f}", "\u{85}"] {
            assert!(quote_value(text).is_err(), "{text:?}");
            assert!(shell_word(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn words_are_quoted_only_where_they_must_be() {
        assert_eq!(shell_word("/srv/pg 15/wal").unwrap(), "'/srv/pg 15/wal'");
        assert_eq!(shell_word("/srv/pg15").unwrap(), "/srv/pg15");
        assert_eq!(shell_word("").unwrap(), "''");
        assert_eq!(shell_word("a'; rm -rf /").unwrap(), r"'a'\''; rm -rf /'");
        assert_eq!(command_word("/srv/100%").unwrap(), "/srv/100%%");
    }

    proptest! {
        #[test]
        fn the_server_reads_back_what_was_quoted(text in "\\PC{0,60}") {
            match quote_value(&text) {
                Ok(quoted) => prop_assert_eq!(unquote_value(&quoted), Some(text)),
                Err(_) => prop_assert!(text.chars().any(char::is_control)),
            }
        }

        #[test]
        fn a_quoted_value_never_ends_early(text in "['\\\\a]{0,12}") {
            // Neither a quote nor a backslash may be left to pair with the closing quote.
            prop_assert_eq!(unquote_value(&quote_value(&text).unwrap()), Some(text));
        }
    }
}
