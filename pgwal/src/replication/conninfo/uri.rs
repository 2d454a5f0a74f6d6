//! Connection URIs (`conninfo_uri_parse_options` in `fe-connect.c`).

use super::ConnInfoError;

/// What makes a text a URI rather than `key=value` pairs.
const SCHEMES: [&str; 2] = ["postgresql://", "postgres://"];

/// Whether a connection string is a URI.
pub(super) fn is_uri(text: &str) -> bool {
    SCHEMES.iter().any(|scheme| text.starts_with(scheme))
}

/// The pairs of `postgresql://[user[:password]@][host[:port]][,...][/dbname][?key=value[&...]]`, in order.
pub(super) fn key_values(text: &str) -> Result<Vec<(String, String)>, ConnInfoError> {
    let Some(rest) = SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme)) else {
        return Err(ConnInfoError::Uri { reason: "it does not begin with postgresql://".to_owned() });
    };
    let mut pairs = Vec::new();
    let rest = credentials(rest, &mut pairs)?;
    let rest = hosts(rest, &mut pairs)?;
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    if let Some(database) = path.strip_prefix('/') {
        push(&mut pairs, "dbname", database)?;
    }
    if let Some(query) = query {
        parameters(query, &mut pairs)?;
    }
    Ok(pairs)
}

/// Up to the first `@`, if that comes before the first `/`.
fn credentials<'a>(text: &'a str, pairs: &mut Vec<(String, String)>) -> Result<&'a str, ConnInfoError> {
    let Some((found, rest)) = text.find(['@', '/']).and_then(|at| text.split_at_checked(at)) else {
        return Ok(text);
    };
    let Some(rest) = rest.strip_prefix('@') else { return Ok(text) };
    let (user, password) = found.split_once(':').unwrap_or((found, ""));
    push(pairs, "user", user)?;
    push(pairs, "password", password)?;
    Ok(rest)
}

/// All hosts become one comma-separated value, and so do all ports.
fn hosts<'a>(text: &'a str, pairs: &mut Vec<(String, String)>) -> Result<&'a str, ConnInfoError> {
    let (mut hosts, mut ports) = (String::new(), String::new());
    let mut rest = text;
    loop {
        let host;
        (host, rest) = match rest.strip_prefix('[') {
            Some(bracketed) => bracketed_address(bracketed)?,
            None => split_before(rest, &[':', '/', '?', ',']),
        };
        hosts.push_str(host);
        if let Some(after) = rest.strip_prefix(':') {
            let port;
            (port, rest) = split_before(after, &['/', '?', ',']);
            ports.push_str(port);
        }
        let Some(after) = rest.strip_prefix(',') else { break };
        rest = after;
        hosts.push(',');
        ports.push(',');
    }
    push(pairs, "host", &hosts)?;
    push(pairs, "port", &ports)?;
    Ok(rest)
}

fn bracketed_address(text: &str) -> Result<(&str, &str), ConnInfoError> {
    let Some((address, rest)) = text.split_once(']') else {
        return Err(ConnInfoError::Uri { reason: "an IPv6 address has no closing \"]\"".to_owned() });
    };
    if address.is_empty() {
        return Err(ConnInfoError::Uri { reason: "an IPv6 address is empty".to_owned() });
    }
    match rest.chars().next() {
        None | Some(':' | '/' | '?' | ',') => Ok((address, rest)),
        Some(character) => {
            Err(ConnInfoError::Uri { reason: format!("{character:?} follows the \"]\" of an IPv6 address") })
        }
    }
}

fn parameters(query: &str, pairs: &mut Vec<(String, String)>) -> Result<(), ConnInfoError> {
    // `a?` and a trailing `&` are fine; an empty pair elsewhere is not.
    let mut rest = query;
    while !rest.is_empty() {
        let (pair, after) = rest.split_once('&').unwrap_or((rest, ""));
        rest = after;
        let Some((key, value)) = pair.split_once('=') else {
            return Err(ConnInfoError::Uri { reason: "a parameter has no \"=\"".to_owned() });
        };
        if value.contains('=') {
            return Err(ConnInfoError::Uri {
                reason: format!("the parameter {:?} has more than one \"=\"", decode(key)?),
            });
        }
        let (key, value) = (decode(key)?, decode(value)?);
        // JDBC's spelling.
        if key == "ssl" && value == "true" {
            pairs.push(("sslmode".to_owned(), "require".to_owned()));
        } else {
            pairs.push((key, value));
        }
    }
    Ok(())
}

fn split_before<'a>(text: &'a str, ends: &[char]) -> (&'a str, &'a str) {
    let end = text.find(|c: char| ends.contains(&c)).unwrap_or(text.len());
    text.split_at(end)
}

/// Adds a pair unless its value is empty: an absent part of a URI says nothing.
fn push(pairs: &mut Vec<(String, String)>, key: &str, encoded: &str) -> Result<(), ConnInfoError> {
    if !encoded.is_empty() {
        pairs.push((key.to_owned(), decode(encoded)?));
    }
    Ok(())
}

/// Undoes percent-encoding. `+` is itself.
fn decode(text: &str) -> Result<String, ConnInfoError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let decoded = match rest {
            [high, low, after @ ..] => {
                rest = after;
                hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low)
            }
            _ => None,
        };
        match decoded {
            Some(0) => return Err(ConnInfoError::Uri { reason: "it contains %00".to_owned() }),
            Some(byte) => bytes.push(byte),
            // The text is not shown: it may be a password.
            None => {
                return Err(ConnInfoError::Uri {
                    reason: "a \"%\" is not followed by two hex digits".to_owned(),
                });
            }
        }
    }
    String::from_utf8(bytes)
        .map_err(|_| ConnInfoError::Uri { reason: "it is not UTF-8 once decoded".to_owned() })
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
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
        check("postgresql://", &[]);
        check("postgres://h", &[("host", "h")]);
        check(
            "postgresql://me:p%40ss@h:5433/db?sslmode=require&application_name=a%20b",
            &[
                ("user", "me"),
                ("password", "p@ss"),
                ("host", "h"),
                ("port", "5433"),
                ("dbname", "db"),
                ("sslmode", "require"),
                ("application_name", "a b"),
            ],
        );
        check("postgresql://[::1]:5433/", &[("host", "::1"), ("port", "5433")]);
        check("postgresql://a,b:2,c/d", &[("host", "a,b,c"), ("port", ",2,"), ("dbname", "d")]);
        check("postgresql:///d?host=/tmp", &[("dbname", "d"), ("host", "/tmp")]);
        check("postgresql://%2Frun%2Fpg/d", &[("host", "/run/pg"), ("dbname", "d")]);
        check("postgresql://h?ssl=true&", &[("host", "h"), ("sslmode", "require")]);
        check("postgresql://me@/d", &[("user", "me"), ("dbname", "d")]);
        // The "@" of a parameter is not the end of credentials.
        check("postgresql://h/d?user=a@b", &[("host", "h"), ("dbname", "d"), ("user", "a@b")]);
    }

    #[test]
    fn refuses_what_libpq_refuses() {
        for text in [
            "postgresql://[::1",
            "postgresql://[]",
            "postgresql://[::1]x",
            "postgresql://h?a",
            "postgresql://h?a=b=c",
            "postgresql://h?=b&&c=d",
            "postgresql://%zz",
            "postgresql://%1",
            "postgresql://%00",
            "postgresql://%ff",
            "http://h",
        ] {
            assert!(matches!(key_values(text), Err(ConnInfoError::Uri { .. })), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text: String) {
            let _ = key_values(&format!("postgresql://{text}"));
        }

        #[test]
        fn never_panics_on_what_looks_like_a_uri(text in "[a-z%0-9:/?&=@,\\[\\]]{0,40}") {
            let _ = key_values(&format!("postgres://{text}"));
        }
    }
}
