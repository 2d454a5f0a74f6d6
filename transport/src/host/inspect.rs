//! Looking at bytes where they are read: what is found travels with them.
//!
//! This crate knows nothing of what is inside files. Whoever does registers an [`Inspector`] under a name with the
//! host that reads (for an agent: with the command that runs it), and names it when asking for files.

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Reads again at an offset of the file under inspection: how many bytes there were.
pub type Reread<'a> = dyn FnMut(u64, &mut [u8]) -> io::Result<usize> + 'a;

/// Knows what is inside files.
pub trait Inspector: Debug + Send + Sync {
    /// The name that it is asked for by.
    fn name(&self) -> &'static str;

    /// Begins to look at the range of `path` that starts at `offset`; `None` when there is nothing to see in such a
    /// file.
    ///
    /// # Errors
    /// When the parameters have no meaning.
    fn begin(
        &self,
        parameters: &[u8],
        path: &Path,
        offset: u64,
    ) -> Result<Option<Box<dyn Inspection>>, String>;
}

/// One range of one file being looked at.
pub trait Inspection: Debug {
    /// The next bytes of the range, which begin at `offset` of the file. They may be corrected by reading again. Every
    /// piece but the last has [`PIECE_BYTES`](super::PIECE_BYTES).
    ///
    /// # Errors
    /// As reading again does.
    fn look(&mut self, offset: u64, bytes: &mut [u8], reread: &mut Reread<'_>) -> io::Result<()>;

    /// What was found, in words that only the inspector's friends understand; empty for nothing.
    fn findings(self: Box<Self>) -> Vec<u8>;
}

/// The inspectors that a host knows.
#[derive(Debug, Clone, Default)]
pub struct Inspectors(Vec<Arc<dyn Inspector>>);

impl Inspectors {
    /// None.
    pub const fn none() -> Self {
        Inspectors(Vec::new())
    }

    /// One more.
    #[must_use]
    pub fn with(mut self, inspector: impl Inspector + 'static) -> Self {
        self.0.push(Arc::new(inspector));
        self
    }

    pub(super) fn find(&self, name: &str) -> Option<&Arc<dyn Inspector>> {
        self.0.iter().find(|inspector| inspector.name() == name)
    }
}
