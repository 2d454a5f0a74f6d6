//! Every configuration key: where it may stand, what it holds, its default, and whether barkeep acts on it yet.

use super::value::Kind;

/// A key of a server's configuration.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Where it may stand.
    pub scope: Scope,
    /// What it holds.
    pub kind: Kind,
    /// Its default as text; empty when it has none, or one that is computed from other keys.
    pub default: &'static str,
    /// Whether barkeep acts on it.
    pub support: Support,
}

/// Where a key may stand besides a server's own section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// In `[barman]`, from where servers inherit it.
    pub global: bool,
    /// In a model's section.
    pub model: bool,
}

/// Whether barkeep acts on a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// It does.
    Acted,
    /// It does in backups by copying files; for other methods it is like a pending one.
    OfCopies,
    /// Barman knows the key, barkeep does not act on it yet: accepted, and named in a warning.
    Pending,
}

const GSM: Scope = Scope { global: true, model: true };
const GS: Scope = Scope { global: true, model: false };
const SM: Scope = Scope { global: false, model: true };
const S: Scope = Scope { global: false, model: false };
const ACTED: Support = Support::Acted;
const COPIES: Support = Support::OfCopies;
const PENDING: Support = Support::Pending;

/// The keys of `[barman]` that belong to the program rather than to servers. All hold text here; the few with a
/// type of their own are read by [`super::Global`].
pub const GLOBAL_KEYS: &[&str] = &[
    "barman_home",
    "barman_lock_directory",
    "barman_user",
    "config_changes_queue",
    "configuration_files_directory",
    "lock_directory_cleanup",
    "log_file",
    "log_format",
    "log_level",
];

/// The keys of servers that are barkeep's own. Barman ignores them with a warning.
#[rustfmt::skip]
pub const OWN_KEYS: &[&str] = &[
    "agent",
    "backup_schedule",
    "drill_check",
    "drill_schedule",
    "hook_timeout",
    "manifest_checksums",
    "notify",
    "wal_verify",
];

/// The server key of this name.
pub fn find(name: &str) -> Option<&'static Key> {
    SERVER_KEYS.binary_search_by(|key| key.name.cmp(name)).ok().map(|index| &SERVER_KEYS[index])
}

const fn key(name: &'static str, scope: Scope, kind: Kind, default: &'static str, support: Support) -> Key {
    Key { name, scope, kind, default, support }
}

/// All keys of servers, in alphabetical order: Barman's and [`OWN_KEYS`]. To add one, give it its line here, a line in
/// `docs/configuration.md` (a test compares the two), and an accessor on `ServerConfig` where it is acted on.
#[rustfmt::skip]
pub const SERVER_KEYS: &[Key] = &[
    key("active", SM, Kind::Boolean, "true", ACTED),
    key("agent", GSM, Kind::Choice(&["auto", "path", "deployed-only"]), "auto", ACTED),
    key("archiver", GSM, Kind::Boolean, "off", ACTED),
    key("archiver_batch_size", GSM, Kind::Natural, "0", ACTED),
    key("autogenerate_manifest", GSM, Kind::Boolean, "false", ACTED),
    key("aws_await_snapshots_timeout", GSM, Kind::Natural, "3600", PENDING),
    key("aws_check_object_lock", GSM, Kind::Boolean, "off", PENDING),
    key("aws_encryption", GSM, Kind::Word(&["AES256", "aws:kms"]), "", PENDING),
    key("aws_profile", GSM, Kind::Text, "", PENDING),
    key("aws_read_timeout", GSM, Kind::Integer, "", PENDING),
    key("aws_region", GSM, Kind::Text, "", PENDING),
    key("aws_snapshot_lock_cool_off_period", GSM, Kind::Integer, "", PENDING),
    key("aws_snapshot_lock_duration", GSM, Kind::Integer, "", PENDING),
    key("aws_snapshot_lock_expiration_date", GSM, Kind::Text, "", PENDING),
    key("aws_snapshot_lock_mode", GSM, Kind::Text, "", PENDING),
    key("aws_sse_customer_key", GSM, Kind::Text, "", PENDING),
    key("aws_sse_kms_key_id", GSM, Kind::Text, "", PENDING),
    key("azure_credential", GSM, Kind::Text, "", PENDING),
    key("azure_resource_group", GSM, Kind::Text, "", PENDING),
    key("azure_subscription_id", GSM, Kind::Text, "", PENDING),
    key("backup_compression", GSM, Kind::Choice(&["gzip", "lz4", "zstd", "none"]), "", COPIES),
    key("backup_compression_format", GSM, Kind::Choice(&["plain", "tar"]), "", PENDING),
    key("backup_compression_level", GSM, Kind::Integer, "", COPIES),
    key("backup_compression_location", GSM, Kind::Choice(&["client", "server"]), "", PENDING),
    key("backup_compression_workers", GSM, Kind::Integer, "", PENDING),
    key("backup_directory", S, Kind::Text, "", ACTED),
    key("backup_method", GSM, Kind::Choice(&["rsync", "postgres", "local-rsync", "snapshot", "local-to-cloud"]), "rsync", ACTED),
    key("backup_options", GSM, Kind::Choices(&["concurrent_backup", "exclusive_backup", "external_configuration"]), "", ACTED),
    key("backup_schedule", GSM, Kind::Text, "", ACTED),
    key("bandwidth_limit", GSM, Kind::Text, "", ACTED),
    key("basebackup_retry_sleep", GSM, Kind::Natural, "30", ACTED),
    key("basebackup_retry_times", GSM, Kind::Natural, "0", ACTED),
    key("basebackups_directory", S, Kind::Place, "", ACTED),
    key("check_timeout", GSM, Kind::Natural, "30", ACTED),
    key("cloud_delete_batch_size", GSM, Kind::Integer, "", PENDING),
    key("cloud_staging_directory", GSM, Kind::AbsolutePath, "/tmp/barman/cloud-staging", PENDING),
    key("cloud_staging_max_size", GSM, Kind::Size, "30Gi", PENDING),
    key("cloud_upload_max_archive_size", SM, Kind::Size, "100Gi", PENDING),
    key("cloud_upload_min_chunk_size", SM, Kind::Size, "", PENDING),
    key("cloud_wal_archive_parallel", GSM, Kind::Integer, "0", PENDING),
    key("cloud_wal_restore_parallel", GSM, Kind::Integer, "0", PENDING),
    key("cluster", SM, Kind::Text, "", ACTED),
    key("combine_mode", GSM, Kind::Choice(&["copy", "link", "clone", "copy-file-range"]), "copy", PENDING),
    key("compression", GSM, Kind::MaybeChoice(&["none", "gzip", "bzip2", "pigz", "xz", "zstd", "lz4", "snappy", "pygzip", "pybzip2", "custom"]), "", ACTED),
    key("compression_level", GSM, Kind::Level, "medium", ACTED),
    key("conninfo", SM, Kind::Text, "", ACTED),
    key("create_slot", GSM, Kind::Choice(&["manual", "auto"]), "manual", ACTED),
    key("custom_compression_filter", GSM, Kind::Text, "", PENDING),
    key("custom_compression_magic", GSM, Kind::Text, "", PENDING),
    key("custom_decompression_filter", GSM, Kind::Text, "", PENDING),
    key("description", SM, Kind::Text, "", ACTED),
    key("drill_check", GSM, Kind::Choice(&["amcheck", "checksums", "both"]), "amcheck", ACTED),
    key("drill_schedule", GSM, Kind::Text, "", ACTED),
    key("encryption", GSM, Kind::Choice(&["none", "gpg"]), "", PENDING),
    key("encryption_key_id", GSM, Kind::Text, "", PENDING),
    key("encryption_passphrase_command", GSM, Kind::Text, "", PENDING),
    key("errors_directory", S, Kind::Text, "", ACTED),
    key("forward_config_path", GSM, Kind::Boolean, "false", PENDING),
    key("gcp_project", GSM, Kind::Text, "", PENDING),
    key("gcp_zone", SM, Kind::Text, "", PENDING),
    key("hook_timeout", GSM, Kind::Natural, "86400", ACTED),
    key("immediate_checkpoint", GSM, Kind::Boolean, "false", ACTED),
    key("incoming_wals_directory", S, Kind::Text, "", ACTED),
    key("keepalive_interval", SM, Kind::Natural, "60", ACTED),
    key("last_backup_maximum_age", GSM, Kind::Interval, "", ACTED),
    key("last_backup_minimum_size", GSM, Kind::Size, "", ACTED),
    key("last_wal_maximum_age", GSM, Kind::Interval, "", ACTED),
    key("local_staging_path", GSM, Kind::AbsolutePath, "", PENDING),
    key("manifest_checksums", GSM, Kind::Choice(&["none", "crc32c", "sha224", "sha256", "sha384", "sha512"]), "crc32c", ACTED),
    key("max_incoming_wals_queue", GSM, Kind::Natural, "", ACTED),
    key("minimum_redundancy", GSM, Kind::Text, "0", ACTED),
    key("network_compression", GSM, Kind::Boolean, "false", ACTED),
    key("notify", GSM, Kind::Text, "", ACTED),
    key("parallel_jobs", GSM, Kind::Natural, "1", ACTED),
    key("parallel_jobs_start_batch_period", GSM, Kind::Natural, "1", PENDING),
    key("parallel_jobs_start_batch_size", GSM, Kind::Natural, "10", PENDING),
    // For hook scripts: barkeep itself runs no program.
    key("path_prefix", GSM, Kind::Text, "", ACTED),
    key("post_archive_retry_script", GS, Kind::Text, "", ACTED),
    key("post_archive_script", GS, Kind::Text, "", ACTED),
    key("post_backup_retry_script", GS, Kind::Text, "", ACTED),
    key("post_backup_script", GS, Kind::Text, "", ACTED),
    key("post_delete_retry_script", GS, Kind::Text, "", ACTED),
    key("post_delete_script", GS, Kind::Text, "", ACTED),
    key("post_recovery_retry_script", GS, Kind::Text, "", ACTED),
    key("post_recovery_script", GS, Kind::Text, "", ACTED),
    key("post_wal_delete_retry_script", GS, Kind::Text, "", ACTED),
    key("post_wal_delete_script", GS, Kind::Text, "", ACTED),
    key("pre_archive_retry_script", GS, Kind::Text, "", ACTED),
    key("pre_archive_script", GS, Kind::Text, "", ACTED),
    key("pre_backup_retry_script", GS, Kind::Text, "", ACTED),
    key("pre_backup_script", GS, Kind::Text, "", ACTED),
    key("pre_delete_retry_script", GS, Kind::Text, "", ACTED),
    key("pre_delete_script", GS, Kind::Text, "", ACTED),
    key("pre_recovery_retry_script", GS, Kind::Text, "", ACTED),
    key("pre_recovery_script", GS, Kind::Text, "", ACTED),
    key("pre_wal_delete_retry_script", GS, Kind::Text, "", ACTED),
    key("pre_wal_delete_script", GS, Kind::Text, "", ACTED),
    key("primary_checkpoint_timeout", SM, Kind::Natural, "0", PENDING),
    key("primary_conninfo", SM, Kind::Text, "", ACTED),
    key("primary_ssh_command", GSM, Kind::Text, "", PENDING),
    key("recovery_options", GSM, Kind::Choices(&["get-wal", "delta-restore"]), "", ACTED),
    key("recovery_staging_path", GSM, Kind::AbsolutePath, "", PENDING),
    key("retention_policy", GSM, Kind::Text, "", ACTED),
    key("retention_policy_mode", GSM, Kind::Text, "auto", ACTED),
    key("reuse_backup", GSM, Kind::Choice(&["off", "copy", "link"]), "", ACTED),
    key("slot_name", GSM, Kind::SlotName, "", ACTED),
    key("snapshot_disks", SM, Kind::List, "", PENDING),
    key("snapshot_gcp_project", GSM, Kind::Text, "", PENDING),
    key("snapshot_instance", SM, Kind::Text, "", PENDING),
    key("snapshot_provider", GSM, Kind::Text, "", PENDING),
    key("snapshot_zone", SM, Kind::Text, "", PENDING),
    key("ssh_command", SM, Kind::Text, "", ACTED),
    key("staging_location", GSM, Kind::Word(&["local", "remote"]), "local", PENDING),
    key("staging_path", GSM, Kind::AbsolutePath, "", PENDING),
    key("streaming_archiver", GSM, Kind::Boolean, "off", ACTED),
    key("streaming_archiver_batch_size", GSM, Kind::Natural, "0", ACTED),
    key("streaming_archiver_name", GSM, Kind::Text, "barman_receive_wal", ACTED),
    key("streaming_backup_name", GSM, Kind::Text, "barman_streaming_backup", ACTED),
    key("streaming_conninfo", SM, Kind::Text, "", ACTED),
    key("streaming_wals_directory", S, Kind::Text, "", ACTED),
    key("tablespace_bandwidth_limit", GSM, Kind::Text, "", ACTED),
    key("wal_conninfo", SM, Kind::Text, "", ACTED),
    key("wal_retention_policy", GSM, Kind::Text, "main", ACTED),
    key("wal_streaming_conninfo", SM, Kind::Text, "", ACTED),
    key("wal_verify", GSM, Kind::Choice(&["reject", "warn", "off"]), "warn", ACTED),
    key("wals_directory", S, Kind::Place, "", ACTED),
    key("warehousepg_dbid", GSM, Kind::Integer, "", PENDING),
    key("worm_mode", GSM, Kind::Boolean, "off", ACTED),
    key("xlogdb_directory", GS, Kind::Text, "", ACTED),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sorted_and_their_defaults_parse() {
        assert!(SERVER_KEYS.windows(2).all(|pair| pair[0].name < pair[1].name));
        for key in SERVER_KEYS.iter().filter(|key| !key.default.is_empty()) {
            assert!(key.kind.parse(key.default).is_ok(), "{}", key.name);
            assert_eq!(find(key.name).map(|found| found.name), Some(key.name));
        }
        assert!(OWN_KEYS.iter().all(|name| find(name).is_some()));
    }
}
