//! The machine and the program.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::command::shown::isoformat;

/// Where distributions say what they are (os-release(5)).
const OS_RELEASE: &str = "/etc/os-release";

/// What Barman tells of its machine. There is no Python here, and no rsync or ssh that would be run.
pub(super) fn info(now: Timestamp) -> Value {
    let system = rustix::system::uname();
    let text = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
    let kernel = [system.sysname(), system.nodename(), system.release(), system.version(), system.machine()];
    json!({
        "barkeep_ver": env!("CARGO_PKG_VERSION"),
        "barman_ver": crate::BARMAN_VERSION,
        "kernel_ver": format!("{} GNU/Linux", kernel.map(text).join(" ")),
        "release": release(&std::fs::read_to_string(OS_RELEASE).unwrap_or_default()),
        "python_ver": null,
        "python_executable": null,
        "rsync_ver": null,
        "ssh_ver": null,
        "timestamp": isoformat(&now.to_zoned(jiff::tz::TimeZone::system())),
    })
}

/// The distribution as `lsb_release -a` prints it.
fn release(os_release: &str) -> String {
    let field = |name: &str| {
        let value = os_release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or("n/a").trim_matches('"').to_owned()
    };
    let id = field("ID");
    let (initial, rest) = id.split_at(id.chars().next().map_or(0, char::len_utf8));
    let distributor = initial.to_uppercase() + rest;
    format!(
        "Distributor ID:\t{}\nDescription:\t{}\nRelease:\t{}\nCodename:\t{}",
        distributor,
        field("PRETTY_NAME"),
        field("VERSION_ID"),
        field("VERSION_CODENAME")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_told_as_lsb_release_does() {
        let text = release("PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID=\"12\"\n");
        assert_eq!(
            text,
            "Distributor ID:\tDebian\nDescription:\tDebian GNU/Linux 12 (bookworm)\nRelease:\t12\nCodename:\tn/a"
        );
    }
}
