//! Whether what an agent tells of a tree can be one.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::wire::Malformed;
use crate::host::{Entry, Kind, check_relative};

/// Holds a walk to the order in which hosts tell it: a directory before what is in it, the names of each ascending. Then no
/// name comes twice, and none lies beneath what is no directory; to know that takes no memory for what came before.
pub(super) struct TreeOrder<'a> {
    closed: HashSet<&'a Path>,
    /// The directories on the way to the last entry, each with the last name that was told of it.
    open: Vec<(PathBuf, OsString)>,
}

impl<'a> TreeOrder<'a> {
    /// Of a walk that leaves out what is in these directories.
    pub(super) fn new(closed: &'a [PathBuf]) -> Self {
        TreeOrder {
            closed: closed.iter().map(PathBuf::as_path).collect(),
            open: vec![(PathBuf::new(), OsString::new())],
        }
    }

    /// The next entry.
    pub(super) fn take(&mut self, entry: &Entry) -> Result<(), Malformed> {
        check_relative(&entry.path).map_err(|_| Malformed)?;
        let (Some(parent), Some(name)) = (entry.path.parent(), entry.path.file_name()) else {
            return Err(Malformed);
        };
        while self.open.last().is_some_and(|(directory, _)| directory != parent) {
            self.open.pop();
        }
        let (_, last) = self.open.last_mut().ok_or(Malformed)?;
        if last.as_os_str() >= name {
            return Err(Malformed);
        }
        last.clear();
        last.push(name);
        if entry.kind == Kind::Directory && !self.closed.contains(entry.path.as_path()) {
            self.open.push((entry.path.clone(), OsString::new()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Owner;

    /// Whether a walk can be like this: names with a slash at the end are directories, with an @ links.
    fn is_a_tree(names: &[&str]) -> bool {
        let closed = [PathBuf::from("closed")];
        let mut order = TreeOrder::new(&closed);
        names.iter().all(|name| {
            let (path, kind) = match (name.strip_suffix('/'), name.strip_suffix('@')) {
                (Some(path), _) => (path, Kind::Directory),
                (_, Some(path)) => (path, Kind::Link),
                _ => (*name, Kind::File),
            };
            let entry = Entry {
                path: path.into(),
                kind,
                size: 0,
                modified_ns: 0,
                mode: 0,
                owner: Owner { uid: 0, gid: 0 },
                links: 1,
                target: PathBuf::new(),
            };
            order.take(&entry).is_ok()
        })
    }

    #[test]
    fn a_tree_is_taken_and_nothing_else() {
        assert!(is_a_tree(&["a/", "a/b/", "a/b/c", "a/d", "b", "closed/", "e/", "f@"]));
        for names in [
            &["a", "a"][..],
            &["b", "a"],
            &["a/", "a/x", "a/x"],
            &["a/", "a/x", "b", "a/y"],
            &["a/x"],
            &["a", "a/x"],
            &["a@", "a@/x"],
            &["a/", "a/b/c"],
            &["closed/", "closed/x"],
            &["../a"],
            &["/a"],
            &["a/", "a/../../b"],
            &["./a"],
            &[""],
            &["."],
        ] {
            assert!(!is_a_tree(names), "{names:?}");
        }
    }
}
