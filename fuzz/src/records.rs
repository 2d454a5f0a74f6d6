//! Damaged WAL whose checksums happen to be right: no panic in anything that reads a record, its page images included; and
//! pages in any chunks.

use pgwal::activity::Tracker;
use pgwal::names::Names;
use pgwal::record::RecordHeader;
use pgwal::rmgr::{Description, Operation};
use pgwal::{Decoder, Lsn, Parts, Record, SegmentSize, WalVersion};

/// Runs it on these bytes.
pub fn run(data: &[u8]) {
    let [choice, cut, bytes @ ..] = data else { return };
    let (choice, cut) = (*choice, *cut);
    if let Some(header) = RecordHeader::read(bytes) {
        let lsn = Lsn::from_u64(0x100_0028);
        let version = WalVersion::ALL[usize::from(choice) % WalVersion::ALL.len()];
        let record = Record { lsn, end: lsn, version, header, bytes };
        let mut parts = Parts::new();
        if parts.read(&record).is_ok() {
            let _ = Operation::read(&record, &parts);
            let mut description = Description::new();
            description.read(&record, &parts);
            let _ = (parts.image_bytes(), record.operation_name(), description.text().len());
            let mut tracker = Tracker::new(Names::new());
            tracker.record(&record);
            // Once more, as what it says of a catalogue's rows is known by then.
            tracker.record(&record);
            let mut page = [0; 8192];
            for image in parts.blocks.iter().filter_map(|block| block.image.as_ref()) {
                let _ = image.restore(&record, &mut page);
            }
        }
    }
    assert_eq!(decode(bytes, bytes.len().max(1)), decode(bytes, usize::from(cut).max(1)));
}

/// The positions of the records that were found, and how it ended.
fn decode(wal: &[u8], piece_len: usize) -> (Vec<Lsn>, String) {
    let mut decoder = Decoder::new(Lsn::from_u64(0x100_0000), SegmentSize::DEFAULT);
    let mut found = Vec::new();
    for mut piece in wal.chunks(piece_len) {
        loop {
            match decoder.next(&mut piece) {
                Ok(Some(record)) => found.push(record.lsn),
                Ok(None) => break,
                Err(fault) => return (found, format!("{fault:?}")),
            }
        }
    }
    (found, format!("{:?}", decoder.finish()))
}
