//! The user that servers run as: PostgreSQL refuses to run as root.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// A user of this machine that servers run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The login name.
    pub name: String,
    /// The numeric user id.
    pub uid: u32,
    /// The numeric id of the user's own group.
    pub gid: u32,
}

impl User {
    /// Whether this is somebody else than who runs the tests, so that files have to be handed over.
    #[must_use]
    pub fn is_other(&self) -> bool {
        self.uid != rustix::process::geteuid().as_raw()
    }

    /// Makes `command` run as this user.
    pub fn run_as<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        if self.is_other() { command.uid(self.uid).gid(self.gid) } else { command }
    }

    /// Hands a file or directory, with all that is in it, to this user. Links are not followed.
    pub fn take_over(&self, path: &Path) {
        if !self.is_other() {
            return;
        }
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid))
            .unwrap_or_else(|error| panic!("hand '{}' to user '{}': {error}", path.display(), self.name));
        if path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            for entry in std::fs::read_dir(path).expect("list a directory").flatten() {
                self.take_over(&entry.path());
            }
        }
    }
}

/// The user that servers run as: who runs the tests, or, under root, `postgres` if there is one and else `nobody`.
#[must_use]
pub fn unprivileged_user() -> &'static User {
    static USER: OnceLock<User> = OnceLock::new();
    USER.get_or_init(|| {
        let users = all_users();
        let uid = rustix::process::geteuid().as_raw();
        let chosen = if uid == 0 {
            let by_name = |name: &str| users.iter().find(|user| user.name == name);
            by_name("postgres").or_else(|| by_name("nobody"))
        } else {
            users.iter().find(|user| user.uid == uid)
        };
        let unnamed = User { name: uid.to_string(), uid, gid: rustix::process::getegid().as_raw() };
        let user = chosen.cloned().unwrap_or(unnamed);
        assert!(user.uid != 0, "no user 'postgres' or 'nobody' to run servers as");
        user
    })
}

/// A user of this machine that is neither root nor the one that servers run as; only root can be several users. Says on
/// standard error that a test is skipped when there is none.
#[must_use]
pub fn second_user() -> Option<User> {
    let root = rustix::process::geteuid().is_root();
    let taken = unprivileged_user().uid;
    let found = ["backup", "daemon", "nobody"]
        .into_iter()
        .filter(|_| root)
        .find_map(|name| all_users().into_iter().find(|user| user.name == name && user.uid != taken));
    if found.is_none() {
        crate::notice_skipped("a second user, which only root has");
    }
    found
}

/// The users of further machines, who can log in: `barkeep-backup` and `barkeep-standby`, made if they are missing, which only
/// root can. Says on standard error that they are not to be had if so.
#[must_use]
pub fn users_of_other_machines() -> Option<[User; 2]> {
    let made = ["barkeep-backup", "barkeep-standby"].map(login_user);
    let [Some(backup), Some(standby)] = made else {
        crate::notice_skipped("users for three machines, which only root can make");
        return None;
    };
    Some([backup, standby])
}

/// A user with a shell.
fn login_user(name: &str) -> Option<User> {
    let there = || all_users().into_iter().find(|user| user.name == name);
    // Another test may be making it: useradd does not wait for its lock.
    for _ in 0..50 {
        if let Some(user) = there() {
            return Some(user);
        }
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let mut useradd = Command::new("useradd");
        useradd.args(["--system", "--user-group", "--create-home", "--shell", "/bin/sh", "--home-dir"]);
        let made = useradd.arg(format!("/var/lib/{name}")).arg(name).output();
        if made.is_err() {
            return None;
        }
        std::thread::sleep(crate::POLL_INTERVAL * 5);
    }
    there()
}

fn all_users() -> Vec<User> {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some(User { name, uid, gid })
        })
        .collect()
}
