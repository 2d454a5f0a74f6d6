//! Which files hold pages: the names of relation files (`common/relpath.c`, `storage/reinit.c`).

/// One of the files that belong to a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelationFile {
    /// The relation's file number.
    pub number: u32,
    /// Which of the relation's forks.
    pub fork: Fork,
    /// Which file of the fork: 0 for the first, which has no suffix.
    pub segment: u32,
}

/// A relation's forks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// The data itself.
    Main,
    /// The free space map.
    FreeSpaceMap,
    /// The visibility map.
    VisibilityMap,
    /// What an unlogged relation is reset to.
    Init,
}

impl RelationFile {
    /// Recognises the path of a file with checksummed pages, relative to the data directory, or to a tablespace's
    /// when `in_tablespace`: `global/N`, `base/D/N` or `PG_x_y/D/N`. Temporary relations are not among them.
    pub fn parse(path: &[u8], in_tablespace: bool) -> Option<Self> {
        let mut components = path.split(|byte| *byte == b'/');
        let top = components.next()?;
        if in_tablespace {
            if !top.starts_with(b"PG_") {
                return None;
            }
            number(components.next()?)?;
        } else {
            match top {
                b"global" => {}
                b"base" => _ = number(components.next()?)?,
                _ => return None,
            }
        }
        let file = components.next()?;
        if components.next().is_some() { None } else { Self::parse_file_name(file) }
    }

    /// Recognises the last component of a relation file's path: `N`, `N_fork`, `N.S` or `N_fork.S`.
    pub fn parse_file_name(name: &[u8]) -> Option<Self> {
        let (stem, segment) = match name.iter().position(|byte| *byte == b'.') {
            Some(dot) => (&name[..dot], number(&name[dot + 1..])?),
            None => (name, 0),
        };
        let (digits, fork) = match stem.iter().position(|byte| *byte == b'_') {
            Some(underscore) => (&stem[..underscore], fork(&stem[underscore + 1..])?),
            None => (stem, Fork::Main),
        };
        Some(RelationFile { number: number(digits)?, fork, segment })
    }
}

fn fork(name: &[u8]) -> Option<Fork> {
    match name {
        b"fsm" => Some(Fork::FreeSpaceMap),
        b"vm" => Some(Fork::VisibilityMap),
        b"init" => Some(Fork::Init),
        _ => None,
    }
}

/// PostgreSQL prints these numbers without sign or leading zeros, and none of them is zero.
fn number(digits: &[u8]) -> Option<u32> {
    crate::tar::parse_oid(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, in_tablespace: bool, expected: Option<(u32, Fork, u32)>) {
        let expected = expected.map(|(number, fork, segment)| RelationFile { number, fork, segment });
        assert_eq!(RelationFile::parse(path.as_bytes(), in_tablespace), expected, "{path}");
    }

    #[test]
    fn relation_files_are_recognised() {
        check("global/1262", false, Some((1262, Fork::Main, 0)));
        check("base/5/16384", false, Some((16384, Fork::Main, 0)));
        check("base/5/16384.12", false, Some((16384, Fork::Main, 12)));
        check("base/5/16384_fsm", false, Some((16384, Fork::FreeSpaceMap, 0)));
        check("base/5/16384_vm.1", false, Some((16384, Fork::VisibilityMap, 1)));
        check("base/5/16384_init", false, Some((16384, Fork::Init, 0)));
        check("PG_15_202209061/5/16384", true, Some((16384, Fork::Main, 0)));
    }

    #[test]
    fn other_files_are_not() {
        for path in [
            "global/pg_control",
            "global/pg_filenode.map",
            "PG_VERSION",
            "base/5/PG_VERSION",
            "base/5/t3_16384",
            "base/5/16384_",
            "base/5/16384.",
            "base/5/16384.0",
            "base/5/016384",
            "base/5/16384_fsm_vm",
            "base/16384",
            "base/x/1",
            "base/5/1/1",
            "pg_xact/0000",
            "base/5/4294967296",
            "PG_15_202209061/5/16384",
            "",
        ] {
            check(path, false, None);
        }
        check("base/5/16384", true, None);
        check("PG_15_202209061/16384", true, None);
    }
}
