//! A hostile server's bytes: frames, messages, and what they mean inside a base backup and a WAL stream.
//!
//! The law: how the bytes are cut into packets changes nothing.

use pgwal::wire::{BackendMessage, BackupDialect, BackupReader, Inbox, StreamMessage, TimelineEnd};

/// Runs it on these bytes.
pub fn run(data: &[u8]) {
    let Some((&cut, stream)) = data.split_first() else { return };
    let whole = read_all(stream, stream.len().max(1));
    let in_pieces = read_all(stream, usize::from(cut).max(1));
    assert_eq!(whole, in_pieces);
}

fn read_all(stream: &[u8], piece_len: usize) -> Vec<String> {
    let mut seen = Vec::new();
    let mut inbox = Inbox::new();
    let mut backups = [BackupDialect::PerArchive, BackupDialect::SingleStream]
        .map(|dialect| Some(BackupReader::new(dialect, true)));
    for piece in stream.chunks(piece_len) {
        inbox.buffer().extend_from_slice(piece);
        loop {
            let frame = match inbox.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    seen.push(error.to_string());
                    return seen;
                }
            };
            let message = BackendMessage::parse(frame);
            seen.push(format!("{message:?}"));
            let Ok(message) = message else { continue };
            if let BackendMessage::CopyData(body) = &message {
                seen.push(format!("{:?}", StreamMessage::parse(body.clone())));
            }
            if let BackendMessage::DataRow(row) = &message {
                seen.push(format!("{:?}", TimelineEnd::parse(row)));
            }
            for slot in &mut backups {
                let Some(reader) = slot else { continue };
                let event = reader.push(message.clone());
                if event.is_err() {
                    *slot = None;
                }
                seen.push(format!("{event:?}"));
            }
        }
    }
    seen
}
