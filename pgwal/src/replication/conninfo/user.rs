//! The process's user, from the password file. Names from other sources of the name service are not seen;
//! then `USER` decides.

use std::path::PathBuf;

use super::Environment;

const PASSWD: &str = "/etc/passwd";

/// The user's name.
pub(super) fn current(environment: Environment<'_>) -> Option<String> {
    let variable = |name| environment(name).and_then(|value| value.into_string().ok());
    name_of(rustix::process::geteuid().as_raw())
        .or_else(|| variable("USER"))
        .or_else(|| variable("LOGNAME"))
        .filter(|name| !name.is_empty())
}

/// The user's home directory.
pub(super) fn home_of_current() -> Option<PathBuf> {
    let home = field(rustix::process::geteuid().as_raw(), 5)?;
    Some(PathBuf::from(home)).filter(|home| home.is_absolute())
}

/// The name of a user id.
pub(crate) fn name_of(uid: u32) -> Option<String> {
    field(uid, 0)
}

/// A field of the line `name:password:uid:gid:comment:home:shell`.
fn field(uid: u32, number: usize) -> Option<String> {
    let passwd = std::fs::read(PASSWD).ok()?;
    let passwd = String::from_utf8_lossy(&passwd);
    passwd.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let found = fields.get(2)?.parse::<u32>().ok()? == uid;
        found.then(|| fields.get(number).map(|field| (*field).to_owned()))?
    })
}
