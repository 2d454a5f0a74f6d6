//! A hostile archive: no panic, nothing outside the destination, the same events however it is cut.

use bytes::Bytes;
use pgbase::tar::{Event, TarParser, Trailer};

/// Runs it on these bytes.
pub fn run(data: &[u8]) {
    let Some((&cut, archive)) = data.split_first() else { return };
    for trailer in [Trailer::Required, Trailer::Optional] {
        let whole = read_all(archive, archive.len().max(1), trailer);
        let in_pieces = read_all(archive, usize::from(cut).max(1), trailer);
        assert_eq!(whole, in_pieces);
    }
}

/// What was read, with adjacent data joined, and how it ended.
fn read_all(archive: &[u8], piece_len: usize, trailer: Trailer) -> (Vec<String>, Vec<u8>, String) {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    let mut parser = TarParser::new(trailer);
    for piece in archive.chunks(piece_len) {
        let mut input = Bytes::copy_from_slice(piece);
        loop {
            match parser.next(&mut input) {
                Ok(None) => break,
                Ok(Some(Event::Data(bytes))) => data.extend_from_slice(&bytes),
                Ok(Some(event)) => {
                    if let Event::Entry(entry) = &event {
                        check_name(entry.name.as_bytes());
                    }
                    entries.push(format!("{event:?}"));
                }
                Err(error) => return (entries, data, error.to_string()),
            }
        }
    }
    let end = parser.finish().err().map(|error| error.to_string()).unwrap_or_default();
    (entries, data, end)
}

fn check_name(name: &[u8]) {
    assert!(!name.starts_with(b"/"));
    assert!(name.split(|byte| *byte == b'/').all(|part| part != b".."));
    assert!(!name.contains(&0));
}
