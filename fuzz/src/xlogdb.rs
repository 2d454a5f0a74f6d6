//! A damaged list of WAL files, and the literals of Python in Barman's files.

use barkeep_catalog::literal::Literal;
use barkeep_catalog::xlogdb::{self, WalEntry};

/// Runs it on these bytes.
pub fn run(file: &[u8]) {
    for entry in xlogdb::parse(file).entries {
        assert_eq!(WalEntry::parse(&entry.to_string()), Some(entry));
    }
    let Ok(text) = std::str::from_utf8(file) else { return };
    if let Ok(literal) = Literal::parse(text) {
        assert_eq!(Literal::parse(&literal.to_string()).ok(), Some(literal));
    }
}
