#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod archive;
pub mod backup_info;
pub mod completion;
pub mod delete;
pub mod drill;
pub mod gaps;
pub mod id;
pub mod identity;
pub mod index_store;
pub mod inspect;
pub mod keep;
pub mod layout;
pub mod literal;
pub mod lock;
pub mod lost;
pub mod name_map;
pub mod names;
pub mod preflight;
pub mod processes;
pub mod rates;
pub mod reception;
pub mod seal;
pub mod state;
pub mod store;
mod sweep;
pub mod sync;
mod time;
pub mod verification;
pub mod wal;
pub mod wal_map;
pub mod windows;
pub mod xlogdb;

pub use backup_info::{BackupInfo, BackupType, Tablespace};
pub use id::BackupId;
pub use identity::Identity;
pub use index_store::IndexStore;
pub use keep::{Keep, Kept};
pub use layout::Layout;
pub use lock::{LockError, ServerLock, Task};
pub use state::Status;
pub use store::{Backups, Catalog, CatalogError};
