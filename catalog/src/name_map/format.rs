//! A map of names on disk: see `docs/formats.md`.

use std::io::{self, Read, Write};

use barkeep_transport::codec::{Bounded, Compression, Level};
use jiff::Timestamp;
use pgwal::names::{ClassRow, DatabaseRow, Name, NamespaceRow, RowPlace};
use pgwal::{Lsn, TimelineId, WalVersion};

use super::{DatabaseNames, MAP_BYTES_MAX, NameMap};

const MAGIC: [u8; 4] = *b"BKNM";
/// The version of the format.
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 12;
const CHECKSUM_BYTES: usize = 4;
/// Largest payload when decompressed, in bytes.
const PAYLOAD_BYTES_MAX: u64 = 512 << 20;

pub(super) fn to_bytes(map: &NameMap) -> io::Result<Vec<u8>> {
    let mut encoder = Compression::Zstd.writer(Vec::new(), Level::Low)?;
    encoder.write_all(&payload(map))?;
    let packed = encoder.finish()?;
    let length = u32::try_from(packed.len()).ok().filter(|length| u64::from(*length) < MAP_BYTES_MAX / 2);
    let length = length
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the map of names is too large to keep"))?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend([0, 0]);
    bytes.extend(length.to_le_bytes());
    bytes.extend(packed);
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend(checksum.to_le_bytes());
    Ok(bytes)
}

/// `None` for anything but a whole and sound map of this version.
pub(super) fn from_bytes(bytes: &[u8]) -> Option<NameMap> {
    let (framed, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
    let (header, packed) = framed.split_first_chunk::<HEADER_BYTES>()?;
    let [b'B', b'K', b'N', b'M', v0, v1, _, _, l0, l1, l2, l3] = *header else { return None };
    let sound = u16::from_le_bytes([v0, v1]) == VERSION
        && u32::from_le_bytes([l0, l1, l2, l3]) as usize == packed.len()
        && u32::from_le_bytes(*checksum) == crc32c::crc32c(framed);
    if !sound {
        return None;
    }
    let mut payload = Vec::new();
    let unpacked = Compression::Zstd.reader(packed).ok()?;
    Bounded::new(unpacked, PAYLOAD_BYTES_MAX).read_to_end(&mut payload).ok()?;
    let mut fields = Fields(&payload);
    let map = fields.map()?;
    fields.0.is_empty().then_some(map)
}

fn payload(map: &NameMap) -> Vec<u8> {
    let mut out = Writer(Vec::new());
    // Times before 1970 have no map.
    out.number(u64::try_from(map.at.as_microsecond()).unwrap_or(0));
    out.number(map.lsn.as_u64());
    out.number(map.timeline.as_u32().into());
    out.number(map.version.major().into());
    out.number(map.system_id);
    out.number(map.database_file.into());
    out.number(map.databases.len() as u64);
    for database in &map.databases {
        out.place(database.place);
        out.number(database.row.oid.into());
        out.name(&database.row.name);
        out.number(u64::from(database.row.encoding.cast_unsigned()));
        out.number(database.files.0.into());
        out.number(database.files.1.into());
        out.number(database.schemas.len() as u64);
        for (place, schema) in &database.schemas {
            out.place(*place);
            out.number(schema.oid.into());
            out.name(&schema.name);
        }
        out.number(database.relations.len() as u64);
        for (place, relation) in &database.relations {
            out.place(*place);
            out.number(relation.oid.into());
            out.name(&relation.name);
            out.number(relation.namespace.into());
            out.number(relation.file.into());
            out.number(relation.tablespace.into());
            out.0.extend([relation.kind, relation.persistence]);
        }
    }
    out.0
}

struct Writer(Vec<u8>);

impl Writer {
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn place(&mut self, place: RowPlace) {
        self.number(place.block.into());
        self.number(place.offset.into());
    }

    fn name(&mut self, name: &Name) {
        self.number(name.as_bytes().len() as u64);
        self.0.extend_from_slice(name.as_bytes());
    }
}

/// What is left to be read.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7F);
            number |= part.checked_shl(shift).filter(|shifted| shifted >> shift == part)?;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn oid(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    /// How many entries follow, of which each takes a byte at least.
    fn count(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok().filter(|count| *count <= self.0.len())
    }

    fn place(&mut self) -> Option<RowPlace> {
        Some(RowPlace { block: self.oid()?, offset: u16::try_from(self.number()?).ok()? })
    }

    fn name(&mut self) -> Option<Name> {
        let length = self.count()?;
        let (name, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Name::new(name)
    }

    fn map(&mut self) -> Option<NameMap> {
        Some(NameMap {
            at: Timestamp::from_microsecond(i64::try_from(self.number()?).ok()?).ok()?,
            lsn: Lsn::from_u64(self.number()?),
            timeline: TimelineId::new(self.oid()?)?,
            version: WalVersion::from_major(self.oid()?)?,
            system_id: self.number()?,
            database_file: self.oid()?,
            databases: (0..self.count()?).map(|_| self.database()).collect::<Option<_>>()?,
        })
    }

    fn database(&mut self) -> Option<DatabaseNames> {
        Some(DatabaseNames {
            place: self.place()?,
            row: DatabaseRow { oid: self.oid()?, name: self.name()?, encoding: self.oid()?.cast_signed() },
            files: (self.oid()?, self.oid()?),
            schemas: (0..self.count()?)
                .map(|_| Some((self.place()?, NamespaceRow { oid: self.oid()?, name: self.name()? })))
                .collect::<Option<_>>()?,
            relations: (0..self.count()?)
                .map(|_| Some((self.place()?, self.relation()?)))
                .collect::<Option<_>>()?,
        })
    }

    fn relation(&mut self) -> Option<ClassRow> {
        Some(ClassRow {
            oid: self.oid()?,
            name: self.name()?,
            namespace: self.oid()?,
            file: self.oid()?,
            tablespace: self.oid()?,
            kind: self.byte()?,
            persistence: self.byte()?,
        })
    }
}
