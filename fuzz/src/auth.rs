//! A hostile server's requests for authentication: no panic, and never "done" without the server's proof when a
//! password was asked for by SCRAM.

use bytes::BytesMut;
use pgwal::wire::{Auth, AuthMethod, AuthProgress, BackendMessage, ChannelBinding, Credentials, Inbox};

/// Runs it on these bytes.
pub fn run(stream: &[u8]) {
    let credentials = Credentials { user: "barman".to_owned(), password: Some("secret".to_owned()) };
    let mut auth = Auth::new(credentials, ChannelBinding::Prefer, Some(vec![7; 32]));
    let (mut inbox, mut out) = (Inbox::new(), BytesMut::new());
    inbox.buffer().extend_from_slice(stream);
    while let Ok(Some(frame)) = inbox.next_frame() {
        let Ok(BackendMessage::Authentication(request)) = BackendMessage::parse(frame) else { continue };
        match auth.step(request, &mut out) {
            Ok(AuthProgress::Continue) => {}
            // The fuzzer cannot sign with a key derived from the password and our nonce.
            Ok(AuthProgress::Done(method)) => {
                assert!(!matches!(method, AuthMethod::Scram | AuthMethod::ScramPlus));
                return;
            }
            Err(_) => return,
        }
    }
    let _ = pgwal::wire::tls_server_end_point(stream);
}
