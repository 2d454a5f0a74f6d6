//! Parsers of option values.

use std::net::{AddrParseError, SocketAddr};
use std::path::PathBuf;

/// A whole number from 1.
pub(super) fn positive(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("\"{text}\" is not a whole number from 1")),
    }
}

/// An address with a port; this machine's own may be called `localhost`.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let numeric = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    let wrong = |_: AddrParseError| {
        format!("\"{text}\" is no address with a port: write it like 127.0.0.1:9187 or [::1]:9187")
    };
    numeric.parse().map_err(wrong)
}

/// A path from the root.
pub(super) fn absolute_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err(format!("\"{text}\" is not an absolute path")) }
}

/// Words that mean a backup where its name is expected, hence no names of backups.
const RESERVED_NAMES: [&str; 8] =
    ["latest", "last", "oldest", "first", "last-failed", "latest-full", "last-full", "auto"];

/// A name for a backup: not empty, not a word that already means one, not in the form of an id.
pub(super) fn backup_name(text: &str) -> Result<String, String> {
    let like_id = text.len() == 15
        && text.bytes().enumerate().all(|(at, b)| if at == 8 { b == b'T' } else { b.is_ascii_digit() });
    if text.is_empty() {
        Err("a backup's name cannot be empty".to_owned())
    } else if RESERVED_NAMES.contains(&text) || like_id {
        Err(format!("\"{text}\" already means a backup: choose another name"))
    } else if text.chars().any(char::is_control) {
        Err("a backup's name cannot contain control characters".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_mean_something_else_are_refused() {
        for name in ["", "latest", "auto", "last-full", "20261122T101539", "a\nb"] {
            assert!(backup_name(name).is_err(), "{name:?}");
        }
        for name in ["before-upgrade", "20261122", "Latest", "x y"] {
            assert_eq!(backup_name(name).as_deref(), Ok(name));
        }
    }

    #[test]
    fn addresses_have_a_port() {
        let local = Ok(SocketAddr::from(([127, 0, 0, 1], 9187)));
        assert_eq!((address("localhost:9187"), address("127.0.0.1:9187")), (local.clone(), local));
        assert!(address("[::1]:0").is_ok());
        for wrong in ["", "9187", ":9187", "localhost", "127.0.0.1", "127.0.0.1:99999", "example.org:1"] {
            assert!(address(wrong).unwrap_err().contains("127.0.0.1:9187"), "{wrong}");
        }
    }

    #[test]
    fn numbers_and_paths() {
        assert_eq!(positive("3"), Ok(3));
        assert!(positive("0").is_err() && positive("-1").is_err() && positive("").is_err());
        assert!(absolute_path("/x").is_ok() && absolute_path("x").is_err());
    }
}
