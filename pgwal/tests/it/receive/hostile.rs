//! A server, or a network, that sends what it should not.

use super::proxy::{Meddle, Proxy};
use super::*;

/// Whether this is XLogData, in a CopyData message.
fn is_wal(message: &[u8]) -> bool {
    message[0] == b'd' && message[5] == b'w'
}

/// Changes the tenth piece of WAL, once.
fn once(mut change: impl FnMut(&mut Vec<u8>) -> bool + Send + 'static) -> Meddle {
    let mut seen = 0;
    Box::new(move |message| {
        seen += u32::from(is_wal(message));
        if is_wal(message) && seen == 10 { change(message) } else { true }
    })
}

/// After this meddling, the receiver says `expected`, connects again, and has everything right in the end.
fn check(meddle: Meddle, expected: &str) {
    let cluster = Cluster::builder(15).segment_size_mib(1).setting("wal_keep_size", "1GB").start();
    let directory = TestDir::new();
    let proxy = Proxy::start(&cluster, meddle);
    let mut options = options(&cluster, &directory);
    options.conninfo = proxy.conninfo();
    let receiving = Receiving::start(options);
    receiving.expect("streaming");
    for _ in 0..20 {
        write(&cluster, 500);
    }
    receiving.expect(&format!("retrying: {expected}"));
    wait_until_flushed(&cluster);
    assert!(compare_segments(&cluster, directory.path()) > 2);
    receiving.stop();
}

fn position(message: &mut [u8]) -> &mut [u8] {
    &mut message[6..14]
}

#[test]
fn a_gap_in_the_stream_is_refused() {
    testkit::require_pg!(15);
    let gap = once(|message| {
        position(message)[5] ^= 1;
        true
    });
    check(gap, "the server sent WAL at ");
}

#[test]
fn wal_far_outside_is_refused() {
    testkit::require_pg!(15);
    let far = once(|message| {
        position(message).fill(0xFF);
        true
    });
    check(far, "");
}

#[test]
fn a_connection_cut_inside_the_stream_is_made_again() {
    testkit::require_pg!(15);
    check(once(|_| false), "the server closed the connection");
}

#[test]
fn an_unknown_message_is_refused() {
    testkit::require_pg!(15);
    let unknown = once(|message| {
        message[5] = b'?';
        true
    });
    check(unknown, "the server sent message");
}

#[test]
fn an_impossible_length_is_refused() {
    testkit::require_pg!(15);
    let huge = once(|message| {
        message[1..5].copy_from_slice(&u32::MAX.to_be_bytes());
        true
    });
    check(huge, "message 'd' has the impossible length");
}

#[test]
fn a_dropped_message_is_noticed() {
    testkit::require_pg!(15);
    let dropped = once(|message| {
        // A parameter status in its place: harmless, but the WAL is missing.
        *message = b"S\0\0\0\x08a\0b\0".to_vec();
        true
    });
    check(dropped, "");
}
