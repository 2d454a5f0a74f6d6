//! What sets barkeep up on a machine: links under Barman's names, shell completions, manual pages. Needs no configuration.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::CommandFactory;

use crate::args::{Cli, CompletionsArgs, InstallLinksArgs, ManPagesArgs};
use crate::error::CommandError;
use crate::output::Output;
use crate::program::{LINKS, Program};

/// Makes `barman` and the programs of its command-line package links to this binary. What is there already, and is no
/// such link, stays.
///
/// # Errors
/// When a link can't be made, or something else has its name; the others are made all the same.
pub(crate) fn install_links(output: &Output, args: &InstallLinksArgs) -> Result<(), CommandError> {
    let binary = std::env::current_exe()
        .map_err(|error| CommandError::because("the path of this program cannot be found out", &error))?;
    std::fs::create_dir_all(&args.directory).map_err(|error| {
        CommandError::because(format!("cannot create directory '{}'", args.directory.display()), &error)
    })?;
    for name in LINKS {
        let link = args.directory.join(name);
        match install_link(&binary, &link) {
            Ok(Made::New) => output.info(format!("{} -> {}", link.display(), binary.display())),
            Ok(Made::Before) => {
                output.info(format!("{} -> {} (as before)", link.display(), binary.display()));
            }
            Ok(Made::InTheWay) => output.error(format!(
                "'{}' is something else and stays as it is (remove it, or choose another directory that is earlier in \
                 PATH)",
                link.display()
            )),
            Err(error) => output.error(format!("cannot make the link '{}': {error}", link.display())),
        }
    }
    Ok(())
}

enum Made {
    New,
    Before,
    InTheWay,
}

fn install_link(binary: &Path, link: &Path) -> io::Result<Made> {
    match std::os::unix::fs::symlink(binary, link) {
        Ok(()) => Ok(Made::New),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let leads_here = std::fs::canonicalize(link).is_ok_and(|there| {
                std::fs::canonicalize(binary).is_ok_and(|binary: PathBuf| there == binary)
            });
            Ok(if leads_here { Made::Before } else { Made::InTheWay })
        }
        Err(error) => Err(error),
    }
}

/// Prints the completions of a shell, for the name that barkeep was called by.
///
/// # Errors
/// When standard output can't be written to.
pub(crate) fn completions(program: Program, args: &CompletionsArgs) -> Result<(), CommandError> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), program.name(), &mut text);
    match io::stdout().write_all(&text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CommandError::because("cannot write to standard output", &error))
        }
        _ => Ok(()),
    }
}

/// Writes a manual page for barkeep and each of its commands.
///
/// # Errors
/// When a file can't be written.
pub(crate) fn man_pages(output: &Output, args: &ManPagesArgs) -> Result<(), CommandError> {
    let directory = &args.directory;
    let failed = |error: io::Error| {
        CommandError::because(format!("cannot write manual pages to '{}'", directory.display()), &error)
    };
    std::fs::create_dir_all(directory).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), directory).map_err(failed)?;
    output.info(format!("Manual pages are in {}", directory.display()));
    Ok(())
}
