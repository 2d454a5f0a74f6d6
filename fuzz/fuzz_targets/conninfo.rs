//! Connection strings: no panic, and a password never appears in what is meant for logs.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgwal::replication::ConnInfo;

fuzz_target!(|text: &str| {
    let Ok(mut conninfo) = ConnInfo::parse(text, &|_| None) else { return };
    conninfo.set("password", "s3cr3t-0f-fuzz").expect("a password can always be set");
    assert!(!conninfo.redacted().contains("s3cr3t-0f-fuzz"));
    assert!(!format!("{conninfo:?}").contains("s3cr3t-0f-fuzz"));
});
