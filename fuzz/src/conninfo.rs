//! Connection strings: no panic, and a password never appears in what is meant for logs.

use pgwal::replication::ConnInfo;

/// Runs it on these bytes.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // What the text itself names may be shown: a user can be called anything.
    if text.contains(SECRET) {
        return;
    }
    let Ok(mut conninfo) = ConnInfo::parse(text, &|_| None) else { return };
    conninfo.set("password", SECRET).expect("a password can always be set");
    assert!(!conninfo.redacted().contains(SECRET));
    assert!(!format!("{conninfo:?}").contains(SECRET));
}

const SECRET: &str = "s3cr3t-0f-fuzz";
