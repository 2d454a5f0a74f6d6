#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod archive_stats;
pub mod args;
pub mod command;
pub mod config;
pub mod context;
mod daemon;
pub mod error;
mod hooks;
pub mod live;
mod logging;
mod moment;
mod notify;
pub mod output;
mod page;
mod privilege;
mod program;
pub mod verdicts;
pub mod wal_plan;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use args::{Cli, ColorWhen, Command, GlobalArgs, OutputFormat};
use config::Config;
use context::Context;
use error::{CommandError, exit};
use output::{Format, Output, Style};
use program::Program;

/// The version of Barman whose commands, formats and hooks these are.
pub const BARMAN_VERSION: &str = "3.20.1";

/// Runs the program with this command line, the program's name first, and tells its exit code.
pub fn run(words: Vec<OsString>) -> ExitCode {
    let restores_wal = words.iter().any(|word| word.as_encoded_bytes().ends_with(b"wal-restore"));
    if restores_wal && command::wal_restore::take_at_once(&words) {
        return ExitCode::from(exit::OK);
    }
    let program = Program::called(words.first().map(OsString::as_os_str));
    let cli = match args::parse(words) {
        Ok(cli) => cli,
        Err(error) if error.kind() == clap::error::ErrorKind::DisplayVersion => {
            return print(program.version());
        }
        Err(error) => {
            // Help and version come this way too; a closed pipe is no reason to panic.
            let _ = error.print();
            if restores_wal && error.use_stderr() && command::wal_restore::ends_recovery() {
                return ExitCode::from(exit::STOP_RECOVERY);
            }
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit::USAGE));
        }
    };
    let Cli { global, command, .. } = cli;
    let Some(command) = command else {
        return print(args::help(program.name()));
    };
    let output = Output::new(style(&global));
    let result = match &command {
        // What an agent may do, its own command line says.
        Command::Agent(args) => command::agent::run(args),
        // Files can be looked into without a configuration.
        Command::Wal(args) if args.server().is_none() => command::wal::run(&output, None, args),
        Command::InstallLinks(args) => command::setup::install_links(&output, args),
        Command::Completions(args) => command::setup::completions(program, args),
        Command::ManPages(args) => command::setup::man_pages(&output, args),
        // On a database host there is no configuration.
        Command::WalArchive(args) if !args.remote.local => {
            command::wal_archive::run_remote(&output, &global, args)
        }
        Command::WalRestore(args) if !args.remote.local => {
            command::wal_restore::run_remote(&output, &global, args)
        }
        Command::WalRestore(_) => prepare(&global, &command, &output)
            .map_err(command::wal_restore::stop_recovery)
            .and_then(|mut context| command::dispatch(&mut context, &command)),
        _ => prepare(&global, &command, &output)
            .and_then(|mut context| command::dispatch(&mut context, &command)),
    };
    let code = match result {
        Ok(()) if output.failed() => exit::FAILED,
        Ok(()) => exit::OK,
        Err(error) => {
            if !error.is_reported() {
                output.error(error.to_string());
            }
            error.exit_code()
        }
    };
    // What looks into WAL prints JSON lines of its own, completions are no JSON at all, an agent's output is its protocol's.
    if !matches!(command, Command::Wal(_) | Command::Completions(_) | Command::Agent(_)) || output.failed() {
        output.finish();
    }
    ExitCode::from(code)
}

/// Prints what was asked for instead of a command. A closed pipe is no reason to panic.
fn print(text: impl std::fmt::Display) -> ExitCode {
    use std::io::Write as _;
    let _ = write!(std::io::stdout(), "{text}");
    ExitCode::SUCCESS
}

fn style(global: &GlobalArgs) -> Style {
    let terminals = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
    Style {
        format: match global.format {
            OutputFormat::Console => Format::Console,
            OutputFormat::Json => Format::Json,
        },
        quiet: global.quiet,
        debug: global.debug,
        color: match global.color {
            ColorWhen::Always => true,
            ColorWhen::Never => false,
            ColorWhen::Auto => terminals,
        },
    }
}

/// Reads the configuration, becomes the right user, starts logging: what every command needs before it starts.
fn prepare(global: &GlobalArgs, command: &Command, output: &Output) -> Result<Context, CommandError> {
    let invoker_home = std::env::var_os("HOME").map(PathBuf::from);
    let path = Config::locate(global.config.as_deref(), invoker_home.as_deref())
        .map_err(|error| CommandError::from(error).hint("name one with -c or BARMAN_CONFIG_FILE"))?;
    let config = Config::load(&path, invoker_home.as_deref())?;
    let user = privilege::become_user(&config.global.barman_user, &path)?;
    logging::start(&config.global, global.log_level, global.debug, output);
    let context = Context::new(config, output.clone(), user.home);
    tell_configuration_warnings(&context, command);
    Ok(context)
}

/// What the configuration says and is not heeded. Commands that run unattended every minute or for every WAL file log
/// it only. Keys that are not acted on concern those who act; `check` tells of them as information.
fn tell_configuration_warnings(context: &Context, command: &Command) {
    let unattended = matches!(
        command,
        Command::Cron(_)
            | Command::ArchiveWal(_)
            | Command::PutWal(_)
            | Command::ReceiveWal(_)
            | Command::GetWal(_)
            | Command::WalArchive(_)
            | Command::WalRestore(_)
    );
    let tell = |warning: &str, aloud: bool| {
        if aloud {
            context.output().warning(warning);
        } else {
            tracing::warn!("{}", output::redact(warning));
        }
    };
    for warning in &context.config().warnings {
        tell(warning, !unattended);
    }
    let pending: Vec<&str> = context.config().pending.iter().copied().collect();
    if !pending.is_empty() {
        let warning = format!("Configuration keys that barkeep does not act on yet: {}", pending.join(", "));
        let acts = matches!(command, Command::Backup(_) | Command::Restore(_) | Command::Delete(_));
        tell(&warning, acts);
    }
}
