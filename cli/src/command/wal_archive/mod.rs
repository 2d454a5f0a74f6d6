//! `wal-archive`: the `archive_command` of a PostgreSQL server, for a backup home on another host or on this one.
//!
//! The server recycles a segment when this exits with 0, so that means: durable, under its own name, where it belongs. No
//! runtime is started, and for another host no configuration is read.

mod local;
mod parcel;
mod ship;
mod shipped;
mod tar;
mod transit;

use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use barkeep_transport::codec::Compression;
use pgwal::WalFile;

use self::parcel::Parcel;
use self::ship::{Route, ShipError, Sums};
use self::shipped::Shipped;
use self::transit::Transit;
use crate::args::{Destination, GlobalArgs, WalArchiveArgs};
use crate::command::remote;
use crate::error::{CommandError, exit};
use crate::output::Output;

pub use local::run_local;

/// Most files that one call ships: each is held open until the far end has acknowledged it.
const BATCH_FILES_MAX: u32 = 256;

/// Ships a file to another host.
///
/// # Errors
/// Exit code 2 when the file can't be read or `ssh` can't be started, 3 when `ssh` fails, else the far end's own.
pub fn run_remote(output: &Output, global: &GlobalArgs, args: &WalArchiveArgs) -> Result<(), CommandError> {
    let (destination, path) = operands(args)?;
    let Destination { host: Some(host), server } = destination else {
        return Err(CommandError::new("a backup host is missing").code(exit::CLIENT));
    };
    let ssh = remote::ssh_to(&host, &args.remote, output)?;
    let command = remote::program(&args.remote, global)?.arg("put-wal").arg(&server);
    if args.remote.test {
        return remote::test(&ssh, &command.arg("--test"), output);
    }
    let mut asked_for = open(&path)?;
    let batch = args.parallel.clamp(1, BATCH_FILES_MAX);
    let memory = (batch > 1).then(|| memory(args, &format!("{ssh}\0{command}"), &path)).transpose()?;
    if let Some(memory) = &memory
        && memory.has(&mut asked_for, unix_seconds())
    {
        output.debug(format!("'{}' was shipped with an earlier file", path.display()));
        return Ok(());
    }
    let transit = if is_compressed(args) { None } else { Transit::of(&ssh, &command) };
    let route = Route {
        ssh,
        transit,
        command,
        sums: if args.md5 { Sums::Md5 } else { Sums::Sha256 },
        compression: args.compression.algorithm(),
        level: args.compression.level(),
    };
    let mut parcels = vec![asked_for];
    parcels.extend(waiting_after(&parcels[0], batch - 1));
    ship(&route, parcels, memory.as_ref(), output)
}

/// Ships the first of `parcels`, and the others along with it. When they can't go together, the first goes alone: nobody
/// has asked for the others yet.
fn ship(
    route: &Route,
    mut parcels: Vec<Parcel>,
    memory: Option<&Shipped>,
    output: &Output,
) -> Result<(), CommandError> {
    let receipt = match route.ship(&mut parcels) {
        Err(error) if parcels.len() > 1 && !is_of_the_first(&error, &parcels[0]) => {
            output
                .debug(format!("Shipping one file only, because {} together failed: {error}", parcels.len()));
            parcels.truncate(1);
            route.ship(&mut parcels)
        }
        outcome => outcome,
    };
    let receipt = receipt.map_err(|error| told(error, &parcels[0]))?;
    remote::tell_remarks(&receipt.remarks, output);
    if let Some(memory) = memory
        && let Err(error) = memory.remember(parcels.iter().zip(receipt.hashes), unix_seconds())
    {
        // The others will be shipped once more.
        output.warning(format!("What was shipped cannot be remembered: {error}"));
    }
    Ok(())
}

/// The files after this one that the server has put up for archiving too, in order.
fn waiting_after(first: &Parcel, count: u32) -> Vec<Parcel> {
    let mut waiting = Vec::new();
    let (WalFile::Segment(mut segment), Some(size)) = (first.file, first.segment_size()) else {
        return waiting;
    };
    let directory = first.path().parent().unwrap_or(Path::new("."));
    for _ in 0..count {
        let Some(next) = segment.next(size) else { break };
        let is_ready = directory.join("archive_status").join(format!("{next}.ready")).exists();
        match Parcel::open(&directory.join(next.to_string())) {
            Ok(parcel) if is_ready => waiting.push(parcel),
            _ => break,
        }
        segment = next;
    }
    waiting
}

fn memory(args: &WalArchiveArgs, destination: &str, path: &Path) -> Result<Shipped, CommandError> {
    let env = |name: &str| std::env::var_os(name);
    Shipped::open(args.prefetch_cache_dir.as_deref(), env, destination, path).map_err(|error| {
        CommandError::new(error.to_string())
            .code(exit::CLIENT)
            .hint("--prefetch-cache-dir names another; it has to be this user's own, with mode 0700")
    })
}

fn operands(args: &WalArchiveArgs) -> Result<(Destination, std::path::PathBuf), CommandError> {
    args.operands().map_err(|error| CommandError::new(error).code(exit::USAGE))
}

fn open(path: &Path) -> Result<Parcel, CommandError> {
    Parcel::open(path).map_err(|error| {
        let failure =
            CommandError::new(format!("cannot archive '{}': {error}", path.display())).code(exit::CLIENT);
        match error.kind() {
            io::ErrorKind::InvalidInput => failure.hint("WAL_PATH is what PostgreSQL puts for %p"),
            io::ErrorKind::NotFound if path.is_relative() => failure
                .hint("relative paths start in the data directory, where PostgreSQL runs archive_command"),
            _ => failure,
        }
    })
}

/// Whether the first file would meet the same alone.
fn is_of_the_first(error: &ShipError, first: &Parcel) -> bool {
    match error {
        ShipError::Remote(failure) => failure.exit_code() == exit::CONNECTION,
        ShipError::Refused { words } => words.contains(&first.file.to_string()),
        _ => false,
    }
}

fn told(error: ShipError, parcel: &Parcel) -> CommandError {
    match error {
        ShipError::Remote(failure) => {
            let told = CommandError::from(failure);
            let code = told.exit_code();
            CommandError::new(format!("WAL file '{}' is not archived: {told}", parcel.file)).code(code)
        }
        error => {
            let code = if matches!(error, ShipError::Refused { .. }) { exit::FAILED } else { exit::CLIENT };
            CommandError::new(format!("WAL file '{}' is not archived: {error}", parcel.file)).code(code)
        }
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Whether files come compressed to their destination.
fn is_compressed(args: &WalArchiveArgs) -> bool {
    args.compression.algorithm() != Compression::None
}
