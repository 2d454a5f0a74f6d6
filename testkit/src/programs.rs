//! Where the programs are: the directory filled by `scripts/install-test-deps.sh`, then the system's own.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The oldest major version of PostgreSQL that is supported, and tested.
pub const OLDEST_MAJOR: u32 = 13;
/// The newest major version of PostgreSQL that is supported, and tested.
pub const NEWEST_MAJOR: u32 = 18;

/// The directory with the test dependencies: `BARKEEP_TEST_DEPS`, or `/var/tmp/barkeep-deps`.
#[must_use]
pub fn deps_dir() -> PathBuf {
    std::env::var_os("BARKEEP_TEST_DEPS")
        .map_or_else(|| PathBuf::from("/var/tmp/barkeep-deps"), PathBuf::from)
}

/// The directory with `postgres` and `initdb` of a major version.
#[must_use]
pub fn server_bin_dir(major: u32) -> Option<PathBuf> {
    candidate_bin_dirs(major)
        .into_iter()
        .find(|dir| dir.join("postgres").exists() && dir.join("initdb").exists())
}

/// The newest and the oldest major versions of those that are installed, for tests that care about neither.
#[must_use]
pub fn installed_majors() -> Vec<u32> {
    (OLDEST_MAJOR..=NEWEST_MAJOR).filter(|major| server_bin_dir(*major).is_some()).collect()
}

/// A client program of PostgreSQL that can work with a server, or a data directory, of version `major`.
///
/// Most clients serve every older server, so the newest at hand will do; `pg_verifybackup` reads the backups of older
/// versions up to 16 only, and programs that read data files (`pg_waldump`, `pg_checksums`, `pg_combinebackup`...) must
/// be of the same version.
#[must_use]
pub fn client_tool(name: &str, major: u32) -> Option<PathBuf> {
    let serves_older = match name {
        "pg_basebackup" | "pg_receivewal" | "psql" | "pgbench" | "pg_dump" | "pg_isready" => true,
        "pg_verifybackup" => major <= 16,
        _ => false,
    };
    let newest = if serves_older { NEWEST_MAJOR } else { major };
    (major..=newest)
        .flat_map(candidate_bin_dirs)
        .map(|dir| dir.join(name))
        .find(|path| path.exists() && !is_dispatcher(path))
}

/// The directory with Barman's commands. Barman restores by `rsync`: without that it counts as absent.
#[must_use]
pub fn barman_bin_dir() -> Option<PathBuf> {
    let dir = deps_dir().join("barman/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has_rsync = std::env::split_paths(&path).any(|dir| dir.join("rsync").exists());
    (has_rsync && dir.join("barman").exists()).then_some(dir)
}

/// The OpenSSH server's program.
#[must_use]
pub fn sshd() -> Option<PathBuf> {
    [PathBuf::from("/usr/sbin/sshd"), deps_dir().join("sshd/usr/sbin/sshd")]
        .into_iter()
        .find(|path| path.exists())
}

/// Chromium, which can look at pages without a screen.
#[must_use]
pub fn chromium() -> Option<PathBuf> {
    ["/usr/bin/chromium", "/usr/bin/chromium-browser"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
}

/// A path by which the servers' unprivileged user can run `binary`: the binary itself, or, if it lies below a
/// directory closed to others (a home directory, say), a copy in a temporary place that lasts as long as the process.
#[must_use]
pub fn reachable_binary(binary: impl AsRef<Path>) -> PathBuf {
    static COPIES: OnceLock<crate::TestDir> = OnceLock::new();
    let binary = binary.as_ref();
    if !crate::user::unprivileged_user().is_other() || is_open_to_all(binary) {
        return binary.to_path_buf();
    }
    let copy = COPIES
        .get_or_init(crate::TestDir::new)
        .path()
        .join(binary.file_name().expect("a program's file name"));
    if !copy.exists() {
        std::fs::copy(binary, &copy).unwrap_or_else(|error| panic!("copy '{}': {error}", binary.display()));
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755))
            .expect("permissions of a copy");
    }
    copy
}

fn candidate_bin_dirs(major: u32) -> Vec<PathBuf> {
    vec![
        deps_dir().join(format!("pg/{major}/bin")),
        PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")),
        PathBuf::from(format!("/usr/pgsql-{major}/bin")),
    ]
}

/// Debian's wrappers in /usr/bin choose a version by themselves; they never do.
fn is_dispatcher(path: &Path) -> bool {
    path.canonicalize().is_ok_and(|real| real.ends_with("pg_wrapper"))
}

fn is_open_to_all(path: &Path) -> bool {
    const OTHERS_EXECUTE: u32 = 0o001;
    path.ancestors()
        .filter(|ancestor| !ancestor.as_os_str().is_empty())
        .all(|ancestor| ancestor.metadata().is_ok_and(|meta| meta.permissions().mode() & OTHERS_EXECUTE != 0))
}
