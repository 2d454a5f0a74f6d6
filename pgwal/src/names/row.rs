//! Rows of `pg_class`, `pg_namespace` and `pg_database`: the columns that name things (`catalog/pg_class.h` and so on).
//!
//! These columns have fixed widths and are never null, so they lie at fixed places from the start of a row's data:
//!
//! ```text
//! pg_class      0 oid   4 relname (64)  68 relnamespace  88 relfilenode  92 reltablespace
//!               114 relpersistence  115 relkind; both 4 later in PostgreSQL 18
//! pg_namespace  0 oid   4 nspname (64)
//! pg_database   0 oid   4 datname (64)  72 encoding
//! ```

use crate::WalVersion;
use crate::rmgr::payload::Payload;

/// The size of a name in a row, in bytes, its closing zero included (`NAMEDATALEN`).
const NAME_BYTES: usize = 64;
/// `UTF8` in `pg_database.encoding`.
const ENCODING_UTF8: i32 = 6;
/// `LATIN1` in `pg_database.encoding`.
const ENCODING_LATIN1: i32 = 8;
/// The kinds of relations: see [`ClassRow::kind`].
const KINDS: &[u8] = b"rtiSvmcfpI";

/// A catalogue whose rows name things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Catalog {
    /// `pg_class`: relations.
    Class,
    /// `pg_namespace`: schemas.
    Namespace,
    /// `pg_database`, shared by all databases.
    Database,
}

impl Catalog {
    /// Its OID, which is also the number of its file until it is rewritten.
    pub const fn oid(self) -> u32 {
        match self {
            Catalog::Class => 1259,
            Catalog::Namespace => 2615,
            Catalog::Database => 1262,
        }
    }

    /// How many bytes from the start of a row have columns that are read.
    const fn bytes(self, version: WalVersion) -> usize {
        match self {
            Catalog::Class => kind_offset(version) + 1,
            Catalog::Namespace => 4 + NAME_BYTES,
            Catalog::Database => 76,
        }
    }
}

/// PostgreSQL 18 has one more number in front: `relallfrozen`.
const fn kind_offset(version: WalVersion) -> usize {
    if matches!(version, WalVersion::V18) { 119 } else { 115 }
}

/// A name as the catalogue stores it, in the encoding of its database.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

impl Name {
    /// A name of up to 63 bytes without zeros; `None` for anything else.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let fits = !bytes.is_empty() && bytes.len() < NAME_BYTES && !bytes.contains(&0);
        fits.then(|| Name(bytes.into()))
    }

    fn read(data: Payload<'_>, at: usize) -> Option<Self> {
        let field = data.array(at, NAME_BYTES, 1)?;
        Name::new(field.get(..field.iter().position(|byte| *byte == 0)?)?)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As text, for a database of this encoding (`pg_database.encoding`). Of encodings other than UTF-8 and Latin 1, what is
    /// beyond ASCII is replaced.
    pub fn text(&self, encoding: i32) -> String {
        match encoding {
            ENCODING_LATIN1 => self.0.iter().copied().map(char::from).collect(),
            _ => String::from_utf8_lossy(&self.0).into_owned(),
        }
    }
}

/// A row of `pg_class`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassRow {
    /// The relation's OID.
    pub oid: u32,
    /// `relname`.
    pub name: Name,
    /// `relnamespace`: its schema.
    pub namespace: u32,
    /// `relfilenode`: the number of its file; 0 for what has none, and for catalogues in the map of files.
    pub file: u32,
    /// `reltablespace`; 0 for the database's own.
    pub tablespace: u32,
    /// `relkind`: `r` table, `i` index, `S` sequence, `t` TOAST table, `v` view, `m` materialized view, `c` composite type,
    /// `f` foreign table, `p` partitioned table, `I` partitioned index.
    pub kind: u8,
    /// `relpersistence`: `p` permanent, `u` unlogged, `t` temporary.
    pub persistence: u8,
}

/// A row of `pg_namespace`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceRow {
    /// The schema's OID.
    pub oid: u32,
    /// `nspname`.
    pub name: Name,
}

/// A row of `pg_database`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseRow {
    /// The database's OID.
    pub oid: u32,
    /// `datname`.
    pub name: Name,
    /// `encoding`: what names in it are written in.
    pub encoding: i32,
}

/// A row of one of the catalogues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// Of `pg_class`.
    Class(ClassRow),
    /// Of `pg_namespace`.
    Namespace(NamespaceRow),
    /// Of `pg_database`.
    Database(DatabaseRow),
}

impl Row {
    /// Reads the data of a row, from behind its header on; `None` when it can't be one of this catalogue.
    pub fn read(catalog: Catalog, data: &[u8], version: WalVersion) -> Option<Self> {
        let data = Payload(data);
        let oid = data.u32(0).filter(|oid| *oid != 0)?;
        let name = Name::read(data, 4)?;
        Some(match catalog {
            Catalog::Class => {
                let kind_at = kind_offset(version);
                let kind = data.u8(kind_at).filter(|kind| KINDS.contains(kind))?;
                let persistence = data.u8(kind_at - 1).filter(|persistence| b"put".contains(persistence))?;
                let (namespace, file, tablespace) = (data.u32(68)?, data.u32(88)?, data.u32(92)?);
                Row::Class(ClassRow { oid, name, namespace, file, tablespace, kind, persistence })
            }
            Catalog::Namespace => Row::Namespace(NamespaceRow { oid, name }),
            Catalog::Database => Row::Database(DatabaseRow { oid, name, encoding: data.i32(72)? }),
        })
    }

    /// The start of the row's data, zeros where there are columns that are not kept.
    pub(crate) fn start(&self, version: WalVersion) -> Vec<u8> {
        let mut data = vec![0; self.catalog().bytes(version)];
        let mut put = |at: usize, bytes: &[u8]| data[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.oid().to_le_bytes());
        put(4, self.name().as_bytes());
        match self {
            Row::Class(class) => {
                put(68, &class.namespace.to_le_bytes());
                put(88, &class.file.to_le_bytes());
                put(92, &class.tablespace.to_le_bytes());
                put(kind_offset(version) - 1, &[class.persistence, class.kind]);
            }
            Row::Namespace(_) => {}
            Row::Database(database) => put(72, &database.encoding.to_le_bytes()),
        }
        data
    }

    /// The catalogue it is of.
    pub const fn catalog(&self) -> Catalog {
        match self {
            Row::Class(_) => Catalog::Class,
            Row::Namespace(_) => Catalog::Namespace,
            Row::Database(_) => Catalog::Database,
        }
    }

    /// The OID of what it names.
    pub const fn oid(&self) -> u32 {
        match self {
            Row::Class(row) => row.oid,
            Row::Namespace(row) => row.oid,
            Row::Database(row) => row.oid,
        }
    }

    /// The name.
    pub const fn name(&self) -> &Name {
        match self {
            Row::Class(row) => &row.name,
            Row::Namespace(row) => &row.name,
            Row::Database(row) => &row.name,
        }
    }
}

/// `datconnlimit` in the data of a row of `pg_database`. PostgreSQL 15 moved two names of locales from before to behind it.
pub(super) fn connection_limit(data: Payload<'_>, version: WalVersion) -> Option<i32> {
    data.i32(if version < WalVersion::V15 { 208 } else { 80 })
}

/// The encoding that is assumed where a database's row isn't known.
pub(crate) const DEFAULT_ENCODING: i32 = ENCODING_UTF8;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn class(name: &str) -> Row {
        Row::Class(ClassRow {
            oid: 16384,
            name: Name::new(name.as_bytes()).unwrap(),
            namespace: 2200,
            file: 16390,
            tablespace: 0,
            kind: b'r',
            persistence: b'p',
        })
    }

    #[test]
    fn what_is_written_is_read_again_in_every_version() {
        for version in WalVersion::ALL {
            let row = class("na\"me with \u{fc}");
            assert_eq!(Row::read(Catalog::Class, &row.start(version), version), Some(row));
            let row =
                Row::Database(DatabaseRow { oid: 5, name: Name::new(b"postgres").unwrap(), encoding: 6 });
            assert_eq!(Row::read(Catalog::Database, &row.start(version), version), Some(row));
        }
    }

    #[test]
    fn what_is_no_row_is_none() {
        let version = WalVersion::V15;
        let sound = class("t").start(version);
        for (at, byte) in [(4, 0), (115, b'x'), (114, 0)] {
            let mut data = sound.clone();
            data[at] = byte;
            assert_eq!(Row::read(Catalog::Class, &data, version), None, "{at}");
        }
        assert_eq!(Row::read(Catalog::Class, &sound[..sound.len() - 1], version), None);
        assert_eq!(Row::read(Catalog::Class, &[7; 200], version), None, "a name without an end");
        assert_eq!((Name::new(b""), Name::new(&[b'a'; 64]), Name::new(b"a\0b")), (None, None, None));
    }

    #[test]
    fn names_are_text_in_the_encoding_of_their_database() {
        let name = Name::new(&[b'k', 0xFC]).unwrap();
        assert_eq!((name.text(8).as_str(), name.text(6).as_str()), ("k\u{fc}", "k\u{fffd}"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_row_or_none(data: Vec<u8>) {
            for catalog in [Catalog::Class, Catalog::Namespace, Catalog::Database] {
                if let Some(row) = Row::read(catalog, &data, WalVersion::V18) {
                    prop_assert!(data.len() >= row.start(WalVersion::V18).len());
                }
            }
        }
    }
}
