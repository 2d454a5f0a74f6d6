//! The configuration of one server: every key with its value and source, and typed accessors for those acted upon.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::assemble::ACTIVE_MODEL_FILE;
use super::model::ModelConfig;
use super::value::{Interval, Value, integer};
use super::{Source, keys};

/// A key's value and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The value as text, after interpolation and without quotes; `None` when unset.
    pub text: Option<String>,
    /// The value.
    pub value: Value,
    /// Where it came from.
    pub source: Source,
}

impl Setting {
    /// Whether it has a value; an empty list is one.
    pub fn is_set(&self) -> bool {
        self.value != Value::Unset
    }
}

/// How base backups are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupMethod {
    /// Over the replication protocol.
    Postgres,
    /// By rsync over SSH.
    Rsync,
    /// By rsync on the same machine.
    LocalRsync,
    /// By disk snapshots.
    Snapshot,
    /// Straight into an object store.
    LocalToCloud,
}

/// The configuration of one server.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    pub(super) name: String,
    pub(super) settings: BTreeMap<&'static str, Setting>,
    pub(super) barman_home: PathBuf,
    pub(super) lock_directory: PathBuf,
    pub(super) active_model: Option<String>,
    pub(super) faults: Vec<String>,
    pub(super) pending: BTreeSet<&'static str>,
}

impl ServerConfig {
    /// The server's name: its section's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All keys in alphabetical order.
    pub fn settings(&self) -> impl Iterator<Item = (&'static str, &Setting)> {
        self.settings.iter().map(|(key, setting)| (*key, setting))
    }

    /// What contradicts what in this server's section. Not empty: the server is disabled, and only commands that
    /// read work on it.
    pub fn faults(&self) -> &[String] {
        &self.faults
    }

    /// Whether contradictions disable the server.
    pub fn disabled(&self) -> bool {
        !self.faults.is_empty()
    }

    /// The model applied over the section, if any.
    pub fn active_model(&self) -> Option<&str> {
        self.active_model.as_deref()
    }

    /// The file that names the model in force.
    pub fn active_model_file(&self) -> PathBuf {
        self.backup_directory().join(ACTIVE_MODEL_FILE)
    }

    /// Lays a model's values over the server's.
    pub(super) fn apply(&mut self, model: &ModelConfig) {
        for (key, setting) in model.overrides() {
            self.settings.insert(key, setting.clone());
        }
        self.pending.extend(&model.pending);
        self.active_model = Some(model.name().to_owned());
    }

    /// The keys that are set for this server, by whichever section, and that are not acted on.
    pub fn pending(&self) -> impl Iterator<Item = &'static str> {
        let copies = matches!(self.backup_method(), BackupMethod::Rsync | BackupMethod::LocalRsync);
        let acted = move |key: &&str| {
            copies && keys::find(key).is_some_and(|key| key.support == keys::Support::OfCopies)
        };
        self.pending.iter().copied().filter(move |key| !acted(key))
    }

    /// `[barman] barman_home`.
    pub fn barman_home(&self) -> &Path {
        &self.barman_home
    }

    /// Where lock files are.
    pub fn lock_directory(&self) -> &Path {
        &self.lock_directory
    }

    /// `active`: whether the server is operated, rather than only known.
    pub fn active(&self) -> bool {
        self.boolean("active")
    }

    /// `primary_ssh_command` is set: a copy of another Barman host's server.
    pub fn passive(&self) -> bool {
        self.text("primary_ssh_command").is_some()
    }

    /// `encryption`, if any is asked for.
    pub fn encryption(&self) -> Option<&str> {
        self.text("encryption").filter(|how| *how != "none")
    }

    /// `worm_mode`: what is archived can't be deleted, so WAL from before the first backup stays.
    pub fn worm_mode(&self) -> bool {
        self.boolean("worm_mode")
    }

    /// `description`.
    pub fn description(&self) -> Option<&str> {
        self.text("description")
    }

    /// `cluster`, by default the server's name.
    pub fn cluster(&self) -> &str {
        self.text("cluster").unwrap_or(&self.name)
    }

    /// `conninfo`.
    pub fn conninfo(&self) -> Option<&str> {
        self.text("conninfo")
    }

    /// `streaming_conninfo`, by default `conninfo`.
    pub fn streaming_conninfo(&self) -> Option<&str> {
        self.text("streaming_conninfo")
    }

    /// `wal_conninfo`: where to ask about a WAL host that is not the backup host.
    pub fn wal_conninfo(&self) -> Option<&str> {
        self.text("wal_conninfo")
    }

    /// `wal_streaming_conninfo`: where to stream from on a WAL host that is not the backup host.
    pub fn wal_streaming_conninfo(&self) -> Option<&str> {
        self.text("wal_streaming_conninfo")
    }

    /// `backup_method`.
    pub fn backup_method(&self) -> BackupMethod {
        match self.text("backup_method") {
            Some("postgres") => BackupMethod::Postgres,
            Some("local-rsync") => BackupMethod::LocalRsync,
            Some("snapshot") => BackupMethod::Snapshot,
            Some("local-to-cloud") => BackupMethod::LocalToCloud,
            _ => BackupMethod::Rsync,
        }
    }

    /// `slot_name`.
    pub fn slot_name(&self) -> Option<&str> {
        self.text("slot_name")
    }

    /// `create_slot = auto`: receive-wal creates a missing slot.
    pub fn create_slot_auto(&self) -> bool {
        self.text("create_slot") == Some("auto")
    }

    /// `archiver`: take WAL from `incoming`.
    pub fn archiver(&self) -> bool {
        self.boolean("archiver")
    }

    /// `archiver_batch_size`; `None` takes all.
    pub fn archiver_batch_size(&self) -> Option<usize> {
        self.natural("archiver_batch_size").filter(|size| *size > 0).and_then(|size| size.try_into().ok())
    }

    /// `streaming_archiver`: receive WAL, and take it from `streaming`.
    pub fn streaming_archiver(&self) -> bool {
        self.boolean("streaming_archiver")
    }

    /// `streaming_archiver_batch_size`; `None` takes all.
    pub fn streaming_archiver_batch_size(&self) -> Option<usize> {
        let size = self.natural("streaming_archiver_batch_size");
        size.filter(|size| *size > 0).and_then(|size| size.try_into().ok())
    }

    /// `streaming_archiver_name`: the WAL receiver's `application_name`.
    pub fn streaming_archiver_name(&self) -> &str {
        self.text("streaming_archiver_name").unwrap_or("barman_receive_wal")
    }

    /// `streaming_backup_name`: the base backup's `application_name`.
    pub fn streaming_backup_name(&self) -> &str {
        self.text("streaming_backup_name").unwrap_or("barman_streaming_backup")
    }

    /// `compression` of archived WAL, by the compressor's name.
    pub fn compression(&self) -> Option<&str> {
        self.text("compression")
    }

    /// `compression_level` as text: `low`, `medium`, `high` or a number.
    pub fn compression_level(&self) -> &str {
        self.text("compression_level").unwrap_or("medium")
    }

    /// `immediate_checkpoint`: don't spread the checkpoint that starts a backup.
    pub fn immediate_checkpoint(&self) -> bool {
        self.boolean("immediate_checkpoint")
    }

    /// `bandwidth_limit` in KiB a second; `None` for no limit, and for a value that is not a number.
    pub fn bandwidth_limit_kib(&self) -> Option<u32> {
        u32::try_from(self.bandwidth_limit()?).ok().filter(|limit| *limit > 0)
    }

    /// `bandwidth_limit` as a number, whether it makes sense or not.
    pub fn bandwidth_limit(&self) -> Option<i64> {
        self.text("bandwidth_limit").and_then(integer)
    }

    /// `basebackup_retry_times`.
    pub fn basebackup_retry_times(&self) -> u32 {
        self.natural("basebackup_retry_times").and_then(|times| times.try_into().ok()).unwrap_or(0)
    }

    /// `basebackup_retry_sleep`.
    pub fn basebackup_retry_sleep(&self) -> Duration {
        Duration::from_secs(self.natural("basebackup_retry_sleep").unwrap_or(30))
    }

    /// `backup_schedule`: when the daemon takes backups, as crontab(5) would have it.
    pub fn backup_schedule(&self) -> Option<&str> {
        self.text("backup_schedule").map(str::trim).filter(|text| !text.is_empty())
    }

    /// `drill_schedule`: when cron or the daemon try a backup out, as crontab(5) would have it.
    pub fn drill_schedule(&self) -> Option<&str> {
        self.text("drill_schedule").map(str::trim).filter(|text| !text.is_empty())
    }

    /// `drill_check`: how a drill looks at the recovered cluster: amcheck, checksums or both.
    pub fn drill_check(&self) -> &str {
        self.text("drill_check").unwrap_or("amcheck")
    }

    /// `notify`: who wants to hear of backups and checks.
    pub fn notify(&self) -> Option<&str> {
        self.text("notify").map(str::trim).filter(|text| !text.is_empty())
    }

    /// `hook_timeout`: how long a hook script may take; `None` for no limit.
    pub fn hook_timeout(&self) -> Option<Duration> {
        self.natural("hook_timeout").filter(|seconds| *seconds > 0).map(Duration::from_secs)
    }

    /// `wal_verify`: what becomes of WAL that is not sound: reject, warn or off.
    pub fn wal_verify(&self) -> &str {
        self.text("wal_verify").unwrap_or("warn")
    }

    /// `manifest_checksums`: how `backup_manifest` checks files: none, crc32c, sha224, sha256, sha384 or sha512.
    pub fn manifest_checksums(&self) -> &str {
        self.text("manifest_checksums").unwrap_or("crc32c")
    }

    /// `check_timeout`; `None` for no limit.
    pub fn check_timeout(&self) -> Option<Duration> {
        self.natural("check_timeout").filter(|seconds| *seconds > 0).map(Duration::from_secs)
    }

    /// `last_backup_maximum_age`.
    pub fn last_backup_maximum_age(&self) -> Option<Interval> {
        self.interval("last_backup_maximum_age")
    }

    /// `last_wal_maximum_age`.
    pub fn last_wal_maximum_age(&self) -> Option<Interval> {
        self.interval("last_wal_maximum_age")
    }

    /// `last_backup_minimum_size` in bytes.
    pub fn last_backup_minimum_size(&self) -> Option<u64> {
        match self.setting("last_backup_minimum_size")?.value {
            Value::Size(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// `max_incoming_wals_queue`: how many files may wait before `check` complains.
    pub fn max_incoming_wals_queue(&self) -> Option<u64> {
        self.natural("max_incoming_wals_queue")
    }

    /// `minimum_redundancy`; a value that is not a number counts as 0.
    pub fn minimum_redundancy(&self) -> u32 {
        self.text("minimum_redundancy").and_then(integer).and_then(|count| count.try_into().ok()).unwrap_or(0)
    }

    /// `retention_policy` as written.
    pub fn retention_policy(&self) -> Option<&str> {
        self.text("retention_policy")
    }

    /// `wal_retention_policy` as written.
    pub fn wal_retention_policy(&self) -> Option<&str> {
        self.text("wal_retention_policy")
    }

    /// `recovery_options` has `get-wal`: restored servers fetch their WAL from here.
    pub fn recovery_get_wal(&self) -> bool {
        self.recovery_option("get-wal")
    }

    /// `delta-restore` among the `recovery_options`.
    pub fn recovery_delta(&self) -> bool {
        self.recovery_option("delta-restore")
    }

    fn recovery_option(&self, name: &str) -> bool {
        matches!(
            self.setting("recovery_options").map(|setting| &setting.value),
            Some(Value::List(words)) if words.iter().any(|word| word == name)
        )
    }

    /// `agent`: which agent to use at the far end of `ssh_command`: auto, path or deployed-only.
    pub fn agent(&self) -> &str {
        self.text("agent").unwrap_or("auto")
    }

    /// `backup_compression_level`, in the scale of the compression.
    pub fn backup_compression_level(&self) -> Option<i32> {
        self.text("backup_compression_level").and_then(integer).and_then(|level| level.try_into().ok())
    }

    /// `network_compression`: whether to compress what goes over SSH; `None` when it was not set, and it is compressed
    /// where that helps.
    pub fn network_compression(&self) -> Option<bool> {
        let set = self.setting("network_compression")?.source != Source::Default;
        set.then(|| self.boolean("network_compression"))
    }

    /// `parallel_jobs`; `None` when it was not set, and as many as help are used.
    pub fn parallel_jobs(&self) -> Option<u32> {
        let set = self.setting("parallel_jobs")?.source != Source::Default;
        self.natural("parallel_jobs").filter(|jobs| set && *jobs > 0).and_then(|jobs| jobs.try_into().ok())
    }

    /// `keepalive_interval` in seconds; 0 for never.
    pub fn keepalive_interval(&self) -> Option<u64> {
        self.natural("keepalive_interval")
    }

    /// Whether `backup_options` has this word.
    pub fn has_backup_option(&self, option: &str) -> bool {
        matches!(
            self.setting("backup_options").map(|setting| &setting.value),
            Some(Value::List(words)) if words.iter().any(|word| word == option)
        )
    }

    /// `ssh_command`.
    pub fn ssh_command(&self) -> Option<&str> {
        self.text("ssh_command")
    }

    /// `backup_directory`: the root of everything of this server.
    pub fn backup_directory(&self) -> PathBuf {
        self.directory("backup_directory")
    }

    /// `basebackups_directory`.
    pub fn basebackups_directory(&self) -> PathBuf {
        self.directory("basebackups_directory")
    }

    /// `wals_directory`.
    pub fn wals_directory(&self) -> PathBuf {
        self.directory("wals_directory")
    }

    /// `incoming_wals_directory`.
    pub fn incoming_wals_directory(&self) -> PathBuf {
        self.directory("incoming_wals_directory")
    }

    /// `streaming_wals_directory`.
    pub fn streaming_wals_directory(&self) -> PathBuf {
        self.directory("streaming_wals_directory")
    }

    /// `errors_directory`.
    pub fn errors_directory(&self) -> PathBuf {
        self.directory("errors_directory")
    }

    /// `xlogdb_directory`: where `<server>-xlog.db` is.
    pub fn xlogdb_directory(&self) -> PathBuf {
        self.directory("xlogdb_directory")
    }

    /// The setting of this name; `None` for a name that is no key.
    pub fn setting(&self, key: &str) -> Option<&Setting> {
        self.settings.get(key)
    }

    /// The text of a key, `None` when it is unset.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.setting(key)?.text.as_deref()
    }

    fn boolean(&self, key: &str) -> bool {
        matches!(self.setting(key), Some(Setting { value: Value::Boolean(true), .. }))
    }

    fn natural(&self, key: &str) -> Option<u64> {
        match self.setting(key)?.value {
            // A negative number counts as the default; a warning has said so.
            Value::Integer(number) => {
                let number: Result<u64, _> = number.try_into();
                number.ok().or_else(|| keys::find(key)?.default.parse().ok())
            }
            _ => None,
        }
    }

    fn interval(&self, key: &str) -> Option<Interval> {
        match self.setting(key)?.value {
            Value::Interval(interval) => Some(interval),
            _ => None,
        }
    }

    /// Directories always have a value: the loader fills in the computed defaults.
    fn directory(&self, key: &str) -> PathBuf {
        PathBuf::from(self.text(key).unwrap_or_default())
    }
}
