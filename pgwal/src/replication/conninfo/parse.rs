//! `key=value` connection strings (`conninfo_parse` in `fe-connect.c`).

use super::ConnInfoError;

/// The pairs of a connection string, in order. Whether the keys exist is not looked at.
///
/// Values end at a space or are in single quotes; a backslash takes the next character as it is, in both.
/// Unlike in SQL, what follows a closing quote begins the next key without a space between.
pub(super) fn key_values(text: &str) -> Result<Vec<(String, String)>, ConnInfoError> {
    let mut pairs = Vec::new();
    let mut rest = skip_spaces(text);
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || is_space(c)).unwrap_or(rest.len());
        let (key, after) = rest.split_at(end);
        let Some(after) = skip_spaces(after).strip_prefix('=') else {
            // The word is not shown: it may be the second half of a password with a space in it.
            return Err(ConnInfoError::MissingEquals { position: text.len() - rest.len() + 1 });
        };
        let after = skip_spaces(after);
        let (value, after) = match after.strip_prefix('\'') {
            Some(quoted) => quoted_value(key, quoted)?,
            None => bare_value(after),
        };
        pairs.push((key.to_owned(), value));
        rest = skip_spaces(after);
    }
    Ok(pairs)
}

fn quoted_value<'a>(key: &str, text: &'a str) -> Result<(String, &'a str), ConnInfoError> {
    let mut value = String::new();
    let mut characters = text.chars();
    loop {
        match characters.next() {
            None => return Err(ConnInfoError::UnterminatedQuote { key: key.to_owned() }),
            Some('\'') => return Ok((value, characters.as_str())),
            Some('\\') => value.extend(characters.next()),
            Some(character) => value.push(character),
        }
    }
}

fn bare_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.chars();
    loop {
        let rest = characters.as_str();
        match characters.next() {
            None => return (value, rest),
            Some(character) if is_space(character) => return (value, rest),
            Some('\\') => value.extend(characters.next()),
            Some(character) => value.push(character),
        }
    }
}

fn skip_spaces(text: &str) -> &str {
    text.trim_start_matches(is_space)
}

/// `isspace` in the C locale.
fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\x0B' | '\x0C' | '\r')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expected: &[(&str, &str)]) {
        let pairs = key_values(text).unwrap();
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(pairs, expected, "{text:?}");
    }

    #[test]
    fn reads_what_libpq_reads() {
        check("", &[]);
        check("  ", &[]);
        check("host=a port=1", &[("host", "a"), ("port", "1")]);
        check("host = a\tport\n=\r1 ", &[("host", "a"), ("port", "1")]);
        check("host=", &[("host", "")]);
        // An empty value takes the next word: libpq skips spaces behind the equals sign.
        check("host= port=1", &[("host", "port=1")]);
        check("password='a b'user=me", &[("password", "a b"), ("user", "me")]);
        check(r"password='it\'s \\ \x'", &[("password", r"it's \ x")]);
        check(r"password=a\ b\\c\", &[("password", r"a b\c")]);
        check("options='-c datestyle=iso'", &[("options", "-c datestyle=iso")]);
        check("user=caf\u{e9}", &[("user", "caf\u{e9}")]);
        check("=x", &[("", "x")]);
    }

    #[test]
    fn refuses_what_libpq_refuses() {
        assert_eq!(key_values("host"), Err(ConnInfoError::MissingEquals { position: 1 }));
        assert_eq!(key_values(" host a=b"), Err(ConnInfoError::MissingEquals { position: 2 }));
        for text in ["password='abc", r"password='abc\'", r"password='\"] {
            assert_eq!(
                key_values(text),
                Err(ConnInfoError::UnterminatedQuote { key: "password".into() }),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn never_panics(text: String) {
            let _ = key_values(&text);
        }

        #[test]
        fn quoting_round_trips(value: String) {
            let text = format!("password={}", super::super::quote(&value));
            prop_assert_eq!(key_values(&text).unwrap(), vec![("password".to_owned(), value)]);
        }
    }
}
