//! `windows`: every interval that can be restored, and what is lost if the server is lost now.

pub(crate) mod gather;
mod report;

use barkeep_transport::durable::TempFile;

use crate::args::WindowsArgs;
use crate::context::{Context, Policy};
use crate::error::CommandError;
use crate::page;
use gather::Gathered;
pub(crate) use report::{end_in_words, transaction_json};

/// How many segments without an index are read without being asked: a few seconds' work.
pub(crate) const INDEX_UNASKED: usize = 256;

/// The mode of the page, less the umask: it is made to be looked at.
const PUBLISHED: u32 = 0o666;

/// Tells what can be restored.
///
/// # Errors
/// When a server is unknown, or its home can't be read.
pub fn run(context: &mut Context, args: &WindowsArgs) -> Result<(), CommandError> {
    let index_at_most = if args.index { usize::MAX } else { INDEX_UNASKED };
    let mut entries = Vec::new();
    for server in context.servers(&args.servers, Policy::Query)? {
        let gathered = Gathered::of(&server, context.now(), index_at_most)?;
        if let Some(fault) = &gathered.index_fault {
            server.output.warning(format!("Segments could not be indexed: {fault}"));
        }
        context.output().report(&gathered);
        if args.html.is_some() {
            entries.push((server.name().to_owned(), Ok(gathered)));
        }
    }
    if let Some(path) = &args.html {
        let mut file = TempFile::create_mode(&std::path::absolute(path)?, PUBLISHED)?;
        file.write_bytes(page::render(&entries, context.now()).as_bytes())?;
        file.publish()?;
        context.output().info(format!("The page is in {}", path.display()));
    }
    Ok(())
}
