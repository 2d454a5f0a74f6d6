//! `generate-manifest`: a `backup_manifest` for a backup that has none.

use barkeep_catalog::{BackupInfo, ServerLock, Task};
use pgbase::generate::{GenerateError, GenerateOptions, Generated, generate_manifest};
use pgbase::manifest::{UnknownAlgorithm, WalRange};

use super::stored_backup::{self, Watcher};
use crate::args::GenerateManifestArgs;
use crate::context::{Context, Policy, ServerContext};
use crate::error::{CommandError, chain};
use crate::output::text;

/// Generates a manifest.
///
/// # Errors
/// When there is one, or it can't be made.
pub fn run(context: &mut Context, args: &GenerateManifestArgs) -> Result<(), CommandError> {
    let server = context.server(&args.server, Policy::Stored)?;
    let info = stored_backup::find(&server, &args.backup)?;
    stored_backup::check_plain(&info, server.name(), "given a manifest")?;
    let layout = server.layout();
    let lock = ServerLock::try_acquire(&layout, Task::OneBackup(info.id));
    let _lock = lock.map_err(|error| {
        CommandError::because(format!("Backup {} is in use", info.id), &error).hint("try again later")
    })?;
    let generated = generate(&server, &info, args.jobs)?;
    server.output.info(format!(
        "Backup manifest for backup '{}' successfully generated for server {}: {} files, {}",
        info.id,
        server.name(),
        generated.files,
        text::size_u64(generated.bytes)
    ));
    Ok(())
}

/// Makes the manifest of a backup that nobody else is at work in.
///
/// # Errors
/// When there is one, or it can't be made.
pub(super) fn generate(
    server: &ServerContext,
    info: &BackupInfo,
    jobs: Option<u32>,
) -> Result<Generated, CommandError> {
    let config = &server.config;
    let algorithm = config.manifest_checksums().parse().map_err(|error: UnknownAlgorithm| {
        CommandError::because(format!("manifest_checksums of server '{}' is wrong", server.name()), &error)
    })?;
    let range = || {
        let (timeline, start, end) = (info.timeline?, info.begin_xlog?, info.end_xlog?);
        Some(WalRange { timeline, start, end })
    };
    let options = GenerateOptions {
        major: info.version.unwrap_or_default() / 10_000,
        system_id: info.system_id.as_deref().and_then(|id| id.parse().ok()),
        algorithm,
        wal_ranges: range().into_iter().collect(),
        jobs: stored_backup::jobs(jobs, config),
    };
    let trees = stored_backup::trees(&server.layout(), info);
    let watcher = Watcher::new(&server.output, "Reading");
    generate_manifest(&trees, &options, &watcher).map_err(|error| {
        let text = CommandError::new(format!("No manifest for backup {}: {}", info.id, chain(&error)));
        match error {
            GenerateError::Exists { .. } => text.hint(format!(
                "verify the backup with: barkeep verify-backup {} {}",
                server.name(),
                info.id
            )),
            _ => text,
        }
    })
}
