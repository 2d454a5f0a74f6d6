//! Connection strings: no panic, and a password never appears in what is meant for logs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgwal::replication::ConnInfo;

fuzz_target!(|text: &str| {
    // What the text itself names may be shown: a user can be called anything.
    if text.contains(SECRET) {
        return;
    }
    let Ok(mut conninfo) = ConnInfo::parse(text, &|_| None) else { return };
    conninfo.set("password", SECRET).expect("a password can always be set");
    assert!(!conninfo.redacted().contains(SECRET));
    assert!(!format!("{conninfo:?}").contains(SECRET));
});

const SECRET: &str = "s3cr3t-0f-fuzz";
