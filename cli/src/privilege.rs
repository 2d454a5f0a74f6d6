//! Running as the right user: `barman_user`, who owns the backup home.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Gid, Uid, getuid};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};

use crate::error::CommandError;

/// The user that the program runs as from now on.
#[derive(Debug)]
pub(crate) struct User {
    /// The home directory; `None` leaves `HOME` alone.
    pub(crate) home: Option<PathBuf>,
}

/// An entry of the user database.
#[derive(Debug, PartialEq, Eq)]
struct Account {
    name: String,
    uid: u32,
    gid: u32,
    home: PathBuf,
}

/// Becomes `name` when started by root; refuses to run as anybody else.
///
/// Must be called while the process has one thread: the system calls behind it act on the calling thread, and threads
/// started later inherit.
pub(crate) fn become_user(name: &str, config: &Path) -> Result<User, CommandError> {
    let Some(account) = find_account(name) else {
        let what = format!("the user \"{name}\" does not exist");
        return Err(CommandError::new(what)
            .hint(format!("create it, or set barman_user in the [barman] section of {}", config.display())));
    };
    let uid = getuid().as_raw();
    if uid == account.uid {
        return Ok(User { home: None });
    }
    if uid != 0 {
        return Err(CommandError::new(format!("please run barkeep as the user \"{name}\"")).hint(format!(
            "for example with: sudo -u {name} barkeep ..., or set barman_user in {}",
            config.display()
        )));
    }
    let groups: Vec<Gid> = groups_of(&account).into_iter().map(Gid::from_raw).collect();
    set_thread_groups(&groups)
        .and_then(|()| set_thread_gid(Gid::from_raw(account.gid)))
        .and_then(|()| set_thread_uid(Uid::from_raw(account.uid)))
        .map_err(|error| CommandError::because(format!("cannot become the user \"{name}\""), &error))?;
    Ok(User { home: Some(account.home) })
}

/// Looks into `/etc/passwd`, then asks `getent`, which knows of directory services.
fn find_account(name: &str) -> Option<Account> {
    let local = lines("/etc/passwd").find_map(|line| parse_account(&line).filter(|a| a.name == name));
    local.or_else(|| {
        if name.starts_with('-') {
            return None;
        }
        let answer = Command::new("getent").args(["passwd", name]).output().ok()?;
        parse_account(String::from_utf8(answer.stdout).ok()?.lines().next()?)
    })
}

/// The account's group and those of `/etc/group` that name it.
fn groups_of(account: &Account) -> Vec<u32> {
    let mut groups = vec![account.gid];
    for line in lines("/etc/group") {
        if let Some(gid) = parse_membership(&line, &account.name).filter(|gid| !groups.contains(gid)) {
            groups.push(gid);
        }
    }
    groups
}

fn lines(path: &str) -> impl Iterator<Item = String> {
    let file = std::fs::File::open(path).ok();
    file.into_iter().flat_map(|file| BufReader::new(file).lines().map_while(Result::ok))
}

/// `name:password:uid:gid:gecos:home:shell` (passwd(5)).
fn parse_account(line: &str) -> Option<Account> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
    Some(Account {
        name: (*name).to_owned(),
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        home: PathBuf::from(home),
    })
}

/// The group's number if `user` is a member by `group:password:gid:user,user` (group(5)).
fn parse_membership(line: &str, user: &str) -> Option<u32> {
    let fields: Vec<&str> = line.split(':').collect();
    let [_, _, gid, members] = fields.as_slice() else { return None };
    if members.split(',').any(|member| member == user) { gid.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_user_database() {
        let account = parse_account("barman:x:106:113:Backup,,,:/var/lib/barman:/bin/bash").unwrap();
        assert_eq!((account.uid, account.gid), (106, 113));
        assert_eq!(account.home, PathBuf::from("/var/lib/barman"));
        assert_eq!(parse_account("+::::::").map(|account| account.uid), None);
        assert_eq!(parse_account("short:x:1"), None);
        assert_eq!(parse_membership("ssl-cert:x:115:postgres,barman", "barman"), Some(115));
        assert_eq!(parse_membership("ssl-cert:x:115:postgres,barman2", "barman"), None);
    }

    #[test]
    fn an_unknown_user_is_named_with_the_key_to_change() {
        let error = become_user("no-such-user-here", Path::new("/etc/barman.conf")).unwrap_err().to_string();
        assert!(error.contains("no-such-user-here") && error.contains("barman_user"), "{error}");
    }
}
