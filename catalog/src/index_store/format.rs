//! The packs of the index store as bytes; drawn in `docs/formats.md`.

use pgwal::SegmentName;

use crate::inspect::{Hash, Soundness};

/// What a pack begins with: magic, format version, zero.
pub(super) const PACK_HEADER: [u8; 8] = *b"BKWP\x01\0\0\0";
/// What an entry has before its payload: the payload's length and the checksum of its facts and note.
const ENTRY_HEADER_BYTES: usize = 8;
/// The facts at the front of the payload.
const FACTS_BYTES: usize = 60;
/// Length of a segment's name, in bytes.
const NAME_BYTES: usize = 24;
/// Longest note that is kept, in bytes.
pub(super) const NOTE_BYTES_MAX: usize = 512;
/// Longest payload accepted, in bytes: far above an index with all its lists full.
const PAYLOAD_BYTES_MAX: usize = 16 << 20;

const CHAINED: u8 = 1;
/// The time of the last change follows the note.
const DATED: u8 = 2;

/// What is known of one archived segment, besides its index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The segment.
    pub segment: SegmentName,
    /// How sound it was when it was looked at.
    pub soundness: Soundness,
    /// What was wrong; empty when nothing was.
    pub note: String,
    /// Whether its index was made with the one before it.
    pub chained: bool,
    /// Its length when decompressed, in bytes.
    pub bytes: u64,
    /// The hash of its decompressed bytes when they were first known to be whole; zeros when they never were.
    pub hash: Hash,
    /// The length of its file in the archive, in bytes.
    pub stored_bytes: u64,
    /// When what was archived had last been changed, in seconds since 1970, as the list of the archive has it; `None` if that is not
    /// known.
    pub modified: Option<u64>,
}

/// Appends an entry. `index` may be empty.
pub(super) fn write(pack: &mut Vec<u8>, facts: &Facts, index: &[u8]) {
    let note = cut(&facts.note);
    let modified = facts.modified.map(u64::to_le_bytes);
    let date = modified.as_ref().map_or(&[][..], |modified| modified);
    let payload = FACTS_BYTES + note.len() + date.len() + index.len();
    let start = pack.len();
    pack.extend((payload as u32).to_le_bytes());
    pack.extend([0; 4]);
    pack.extend(facts.segment.to_string().as_bytes());
    pack.push(code(facts.soundness));
    pack.push(if facts.chained { CHAINED } else { 0 } | if facts.modified.is_some() { DATED } else { 0 });
    pack.extend((note.len() as u16).to_le_bytes());
    pack.extend(facts.bytes.to_le_bytes());
    pack.extend(facts.hash);
    pack.extend(facts.stored_bytes.to_le_bytes());
    pack.extend(note.as_bytes());
    pack.extend(date);
    let checksum = checksum(payload as u32, &pack[start + ENTRY_HEADER_BYTES..]);
    pack[start + 4..start + ENTRY_HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    pack.extend(index);
}

/// The entry at the front of `pack`, with its index's bytes and what follows; `None` where it is damaged or cut off.
pub(super) fn read(pack: &[u8]) -> Option<(Facts, &[u8], &[u8])> {
    let (length, rest) = pack.split_first_chunk::<4>()?;
    let (expected, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length);
    let wanted = usize::try_from(length).ok().filter(|wanted| *wanted <= PAYLOAD_BYTES_MAX)?;
    let (payload, rest) = rest.split_at_checked(wanted)?;
    let (name, fields) = payload.split_first_chunk::<NAME_BYTES>()?;
    let (&[soundness, flags], fields) = fields.split_first_chunk::<2>()?;
    let (note_length, fields) = fields.split_first_chunk::<2>()?;
    let (bytes, fields) = fields.split_first_chunk::<8>()?;
    let (hash, fields) = fields.split_first_chunk::<16>()?;
    let (stored_bytes, fields) = fields.split_first_chunk::<8>()?;
    let (note, fields) = fields.split_at_checked(usize::from(u16::from_le_bytes(*note_length)))?;
    let (modified, index) = match flags & DATED {
        0 => (None, fields),
        _ => fields.split_first_chunk::<8>().map(|(modified, index)| (Some(*modified), index))?,
    };
    let checked = payload.get(..payload.len() - index.len())?;
    if checksum(length, checked) != u32::from_le_bytes(*expected) {
        return None;
    }
    let facts = Facts {
        segment: std::str::from_utf8(name).ok()?.parse().ok()?,
        soundness: soundness_of(soundness)?,
        note: std::str::from_utf8(note).ok()?.to_owned(),
        chained: flags & CHAINED != 0,
        bytes: u64::from_le_bytes(*bytes),
        hash: *hash,
        stored_bytes: u64::from_le_bytes(*stored_bytes),
        modified: modified.map(u64::from_le_bytes),
    };
    Some((facts, index, rest))
}

/// The index has a checksum of its own; this one covers what is before it, and the length that leads to what is after it.
fn checksum(length: u32, facts: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length.to_le_bytes()), facts)
}

fn cut(note: &str) -> &str {
    let mut end = note.len().min(NOTE_BYTES_MAX);
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    &note[..end]
}

const fn code(soundness: Soundness) -> u8 {
    match soundness {
        Soundness::Unjudged => 0,
        Soundness::Sound => 1,
        Soundness::Odd => 2,
        Soundness::Unlinked => 3,
        Soundness::Unknown => 4,
        Soundness::Damaged => 5,
        Soundness::Foreign => 6,
        Soundness::Altered => 7,
    }
}

const fn soundness_of(code: u8) -> Option<Soundness> {
    Some(match code {
        0 => Soundness::Unjudged,
        1 => Soundness::Sound,
        2 => Soundness::Odd,
        3 => Soundness::Unlinked,
        4 => Soundness::Unknown,
        5 => Soundness::Damaged,
        6 => Soundness::Foreign,
        7 => Soundness::Altered,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn facts() -> Facts {
        Facts {
            segment: "0000000100000002000000FE".parse().unwrap(),
            soundness: Soundness::Odd,
            note: "a byte that should be zero".to_owned(),
            chained: true,
            bytes: 16 << 20,
            hash: [7; 16],
            stored_bytes: 1234,
            modified: Some(1_800_000_000),
        }
    }

    #[test]
    fn an_entry_reads_back_and_leaves_what_follows() {
        for facts in [facts(), Facts { modified: None, ..facts() }] {
            let mut pack = Vec::new();
            write(&mut pack, &facts, b"index");
            pack.extend(b"next");
            let (read_back, index, rest) = read(&pack).unwrap();
            assert_eq!((read_back, index, rest), (facts, &b"index"[..], &b"next"[..]));
        }
        assert_eq!(FACTS_BYTES, NAME_BYTES + 2 + 2 + 8 + 16 + 8);
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let mut pack = Vec::new();
        write(&mut pack, &Facts { note: "\u{e4}".repeat(300) + "x", ..facts() }, b"");
        assert_eq!(read(&pack).unwrap().0.note, "\u{e4}".repeat(256));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let mut pack = Vec::new();
        write(&mut pack, &facts(), b"");
        for bit in 0..pack.len() * 8 {
            let mut damaged = pack.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&damaged).is_none(), "bit {bit}");
        }
        assert!((0..pack.len()).all(|length| read(&pack[..length]).is_none()));
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes: Vec<u8>) {
            let _ = read(&bytes);
        }
    }
}
