//! `verify-backup` (also `verify`): every file of a backup against its manifest, and the WAL that it needs.

mod report;
mod wal;

use barkeep_catalog::verification::{Verification, Verified as Verdict};
use barkeep_catalog::{BackupInfo, Status};
use pgbase::verify::{Verified, VerifyError, VerifyOptions, verify_archives, verify_backup};

use super::stored_backup::{self, Watcher};
use crate::args::VerifyBackupArgs;
use crate::context::{Context, Policy, ServerContext};
use crate::error::{CommandError, chain};
use report::Report;
use wal::WalVerdict;

/// Verifies a backup.
///
/// # Errors
/// When it can't be verified; what is wrong with it is told, and makes the exit code 1.
pub fn run(context: &mut Context, args: &VerifyBackupArgs) -> Result<(), CommandError> {
    let server = context.server(&args.server, Policy::Query)?;
    let info = stored_backup::find(&server, &args.backup)?;
    stored_backup::check_readable(&info, server.name(), "verified")?;
    let _lock = stored_backup::keep_from_deletion(&server, info.id)?;
    let output = &server.output;
    output.info(format!("Verifying backup '{}' on server '{}'", args.backup, server.name()));

    let jobs = stored_backup::jobs(args.jobs, &server.config);
    let verified = verify_files(&server, &info, jobs)?;
    let wal =
        if args.no_parse_wal { None } else { Some(wal::verify(&server, &info, &verified.manifest, jobs)?) };
    let report = Report { server: server.name(), info: &info, files: &verified, wal: wal.as_ref() };
    report.tell(output);
    remember(&server, &info, &verified, wal.as_ref());
    if report.is_sound() {
        output.info("backup successfully verified");
        Ok(())
    } else {
        Err(CommandError::new(format!(
            "Backup {} of server '{}' is damaged: {} found",
            info.id,
            server.name(),
            report.count()
        ))
        .hint(format!("take a new one with: barkeep backup {}", server.name())))
    }
}

fn verify_files(server: &ServerContext, info: &BackupInfo, jobs: usize) -> Result<Verified, CommandError> {
    let system_id = info.system_id.as_deref().and_then(|id| id.parse().ok());
    let (layout, options) = (server.layout(), VerifyOptions { jobs, system_id });
    let watcher = Watcher::new(&server.output, "Verifying");
    let verified = match info.is_archived() {
        true => verify_archives(&stored_backup::archives(&layout, info), options, &watcher),
        false => verify_backup(&stored_backup::trees(&layout, info), options, &watcher),
    };
    verified.map_err(|error| {
        let text = CommandError::new(format!("Backup {} can't be verified: {}", info.id, chain(&error)));
        match error {
            VerifyError::NoManifest { .. } if info.is_archived() => {
                text.hint("without a manifest nothing is known of the files")
            }
            VerifyError::NoManifest { .. } => text.hint(format!(
                "make one, of the files as they are now, with: barkeep generate-manifest {} {}",
                server.name(),
                info.id
            )),
            VerifyError::Manifest(_) => text.hint("without a sound manifest nothing is known of the files"),
            _ => text,
        }
    })
}

/// Keeps the verdict beside the catalogue, where retention and lists find it. A home that can't be written to is no
/// reason to doubt the verdict.
fn remember(server: &ServerContext, info: &BackupInfo, files: &Verified, wal: Option<&WalVerdict>) {
    let wal_sound = wal.is_none_or(WalVerdict::is_sound);
    let verdict = match (files.is_sound() && wal_sound, info.status) {
        (false, _) => Verdict::Damaged,
        // Its WAL is not all there yet, so there is no saying.
        (true, Status::WaitingForWals) => return,
        (true, _) => Verdict::Sound,
    };
    let verification = Verification {
        id: info.id,
        verdict,
        at: jiff::Timestamp::now(),
        files: files.files,
        bytes: files.bytes,
        wal: wal.is_some(),
    };
    if let Err(error) = server.catalog().record_verification(&verification) {
        server.output.warning(format!("The verdict could not be recorded: {}", chain(&error)));
    }
}
