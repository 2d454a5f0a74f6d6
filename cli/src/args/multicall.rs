//! Other names of the program: which command each of them stands for.

use std::ffi::OsString;
use std::path::Path;

/// A name by which the program may be started, and the words that it stands for.
const NAMES: &[(&str, &[&str])] =
    &[("barman-wal-archive", &["wal-archive"]), ("barman-wal-restore", &["wal-restore"])];

/// The command line with the words that the program's name, the first word, stands for.
pub(super) fn expand(mut words: Vec<OsString>) -> Vec<OsString> {
    let name = words.first().and_then(|word| Path::new(word).file_name()?.to_str().map(str::to_owned));
    if let Some((_, meaning)) = NAMES.iter().find(|(known, _)| Some(*known) == name.as_deref()) {
        words.splice(1..1, meaning.iter().map(OsString::from));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_its_command() {
        let expanded = |line: &str| {
            let words = expand(line.split(' ').map(OsString::from).collect());
            words.join(&OsString::from(" ")).into_string().unwrap()
        };
        assert_eq!(
            expanded("/usr/bin/barman-wal-archive -t host main x"),
            "/usr/bin/barman-wal-archive wal-archive -t host main x"
        );
        for unchanged in ["barkeep wal-archive x", "barman status all", "", "/x/barman-wal-archive/barkeep x"]
        {
            assert_eq!(expanded(unchanged), unchanged);
        }
    }
}
