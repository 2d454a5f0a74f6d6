#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod backup_info;
pub mod id;
pub mod layout;
pub mod literal;
pub mod lock;
pub mod state;
mod time;

pub use backup_info::{BackupInfo, BackupType, Tablespace};
pub use id::BackupId;
pub use layout::Layout;
pub use lock::{ServerLock, Task};
pub use state::Status;
