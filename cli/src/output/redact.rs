//! Passwords are never told.

/// What stands in a password's place.
const REDACTED: &str = "*REDACTED*";

/// The text with the passwords of connection strings (`password=secret`, `postgresql://user:secret@host`) blotted out.
///
/// ```
/// use barkeep::output::redact;
/// assert_eq!(redact("host=a password='x y' user=b"), "host=a password=*REDACTED* user=b");
/// assert_eq!(redact("postgresql://me:secret@db/x"), "postgresql://me:*REDACTED*@db/x");
/// ```
pub fn redact(text: &str) -> String {
    if !text.contains("password") && !text.contains("://") {
        return text.to_owned();
    }
    redact_urls(&redact_keywords(text))
}

fn redact_keywords(text: &str) -> String {
    let mut redacted = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("password") {
        let (before, found) = rest.split_at(at);
        let after = &found["password".len()..];
        redacted.push_str(before);
        redacted.push_str("password");
        // `sslpassword` is a password too; `passwordcheck` is not followed by an equals sign.
        let spaces = after.len() - after.trim_start_matches(' ').len();
        let Some(value) = after[spaces..].strip_prefix('=') else {
            rest = after;
            continue;
        };
        let value = value.trim_start_matches(' ');
        let end = value_end(value);
        if end > 0 {
            redacted.push('=');
            redacted.push_str(REDACTED);
            rest = &value[end..];
        } else {
            rest = after;
        }
    }
    redacted.push_str(rest);
    redacted
}

/// Where a conninfo value ends: at its closing quote, or before a space, `&` (of a URL), quote, comma or bracket.
fn value_end(value: &str) -> usize {
    let mut escaped = false;
    let quoted = value.starts_with('\'');
    for (at, c) in value.char_indices().skip(usize::from(quoted)) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\'' if quoted => return at + 1,
            ' ' | '\t' | '\n' | '&' | '"' | '\'' if !quoted => return at,
            _ => {}
        }
    }
    value.len()
}

fn redact_urls(text: &str) -> String {
    let mut redacted = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + "://".len());
        redacted.push_str(before);
        let scheme = before.trim_end_matches("://");
        let end = after.find(['/', '?', ' ', '\n']).unwrap_or(after.len());
        let authority = &after[..end];
        rest = after;
        let postgres = scheme.ends_with("postgresql") || scheme.ends_with("postgres");
        if let (true, Some(host)) = (postgres, authority.rfind('@'))
            && let Some(colon) = authority[..host].find(':')
        {
            redacted.push_str(&authority[..=colon]);
            redacted.push_str(REDACTED);
            rest = &after[host..];
        }
    }
    redacted.push_str(rest);
    redacted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(redact(text), expected);
    }

    #[test]
    fn blots_out_every_way_to_write_a_password() {
        check("password=secret", "password=*REDACTED*");
        check("user=a password = secret host=b", "user=a password=*REDACTED* host=b");
        check(r"password='it\'s' host=b", "password=*REDACTED* host=b");
        check("sslpassword=x", "sslpassword=*REDACTED*");
        check("postgres://u:p@h:5432/d?x=1", "postgres://u:*REDACTED*@h:5432/d?x=1");
        check("postgresql://u:p@ss@h/d", "postgresql://u:*REDACTED*@h/d");
        check("postgresql://h/d?password=x&user=y", "postgresql://h/d?password=*REDACTED*&user=y");
        check("\tconninfo: host=a password=b", "\tconninfo: host=a password=*REDACTED*");
    }

    #[test]
    fn leaves_the_rest_alone() {
        check(
            "password authentication failed for user \"x\"",
            "password authentication failed for user \"x\"",
        );
        check("https://user:pass@host/", "https://user:pass@host/");
        check("s3://bucket/password/x", "s3://bucket/password/x");
        check("password=", "password=");
    }

    proptest! {
        #[test]
        fn a_quoted_password_never_shows(secret in "[A-Z]{8,16}", tail in "[ a-z=]{0,20}") {
            let text = format!("host=x password='{secret}' {tail}");
            prop_assert!(!redact(&text).contains(&secret));
        }

        #[test]
        fn never_panics(text in "\\PC{0,80}|(password|=|'|:|//|@|postgresql| |\u{e9}){0,20}") {
            let _ = redact(&text);
        }
    }
}
