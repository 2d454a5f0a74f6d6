//! `daemon`: all of cron's work, all the time.

use crate::args::DaemonArgs;
use crate::context::Context;
use crate::daemon;
use crate::error::CommandError;
use crate::output::Format;

/// Works until it is told to stop.
///
/// # Errors
/// When it can't start.
pub fn run(context: &mut Context, args: &DaemonArgs) -> Result<(), CommandError> {
    if context.output().style().format == Format::Json {
        return Err(CommandError::new("the daemon has no answer to give as JSON").hint("leave -f json out"));
    }
    daemon::run(context, args)?;
    // What went wrong in all that time was told then; the daemon itself has ended well.
    context.output().forget_failures();
    Ok(())
}
