//! The barkeep program as its users meet it: run as a process, against real servers and real homes.

// Helpers of tests may panic as tests do; clippy's own exemption ends at functions marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod agent;
mod archive_faults;
mod archive_wal;
mod backup;
mod barman_interop;
mod check_oracle;
mod command_line;
mod completeness;
mod configparser;
mod configuration;
mod configuration_change;
mod configuration_oracle;
mod cron;
mod daemon;
mod delete;
mod delta_restore;
mod differential;
mod drill;
mod exact_deletion;
mod file_backup;
mod file_backup_load;
mod get_wal;
mod heal;
mod health;
mod hooks;
mod hostile_backup;
mod init;
mod inspection;
mod notify;
mod packed_backups;
mod pitr;
mod processes;
mod put_wal;
mod receive_wal;
mod replication_status;
mod restore;
mod restore_scene;
mod restored_trees;
mod retention;
mod retention_barman;
mod setup;
mod shared_home;
mod stored;
mod support;
mod switch_wal;
mod tables;
mod tutorial;
mod verify_backup;
mod wal;
mod wal_archive;
mod wal_inputs;
mod wal_restore;
mod wal_scene;
