//! Barman 2.1's spelling of long options with a single dash (`-target-time X`), as found in old scripts.

use std::ffi::OsString;

use clap::Command;

/// The command line with single-dash long options given their second dash.
///
/// Only a word that is the whole name of a long option of the command in use is touched, so a group of short options
/// (`-qd`) stays what it is, and nothing after `--` is touched at all.
pub(super) fn modernise(cli: &mut Command, words: Vec<OsString>) -> Vec<OsString> {
    // Building what all commands take is most of what a short command costs.
    if !words.iter().any(may_be_old) {
        return words;
    }
    cli.build();
    let mut names = long_names(cli);
    let mut seen_command = false;
    let mut seen_end = false;
    let rewrite = |word: OsString| {
        let Some(text) = word.to_str() else { return word };
        seen_end |= text == "--";
        if seen_end {
            return word;
        }
        if let (false, Some(command)) = (seen_command, cli.find_subcommand(text)) {
            seen_command = true;
            names.extend(long_names(command));
            return word;
        }
        let name = text.strip_prefix('-').filter(|rest| rest.len() > 1 && !rest.starts_with('-'));
        let name = name.map(|rest| rest.split_once('=').map_or(rest, |(name, _)| name));
        match name {
            Some(name) if names.iter().any(|known| known == name) => OsString::from(format!("-{text}")),
            _ => word,
        }
    };
    words.into_iter().map(rewrite).collect()
}

/// Whether a word may be a long option with a single dash.
pub(super) fn may_be_old(word: &OsString) -> bool {
    let bytes = word.as_encoded_bytes();
    bytes.len() > 2 && bytes.starts_with(b"-") && !bytes.starts_with(b"--")
}

fn long_names(command: &Command) -> Vec<String> {
    let arguments = command.get_arguments();
    let names = arguments.flat_map(|argument| {
        let aliases = argument.get_all_aliases().into_iter().flatten();
        argument.get_long().into_iter().chain(aliases)
    });
    names.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[track_caller]
    fn check(line: &str, expected: &str) {
        let words = line.split_whitespace().map(OsString::from).collect();
        let words = modernise(&mut crate::args::Cli::command(), words);
        let words: Vec<_> = words.iter().map(|word| word.to_str().unwrap()).collect();
        assert_eq!(words.join(" "), expected);
    }

    #[test]
    fn old_scripts_keep_working() {
        check(
            "barkeep recover -target-time 2017-03-06 -remote-ssh-command=ssh main latest /x",
            "barkeep recover --target-time 2017-03-06 --remote-ssh-command=ssh main latest /x",
        );
        check("barkeep -quiet list-backup -minimal all", "barkeep --quiet list-backup --minimal all");
        check("barkeep -config /x check main", "barkeep --config /x check main");
    }

    #[test]
    fn other_words_stay() {
        check("barkeep -qd -f json check main", "barkeep -qd -f json check main");
        check("barkeep check -target-time main", "barkeep check -target-time main");
        check("barkeep get-wal -z -- -gzip x", "barkeep get-wal -z -- -gzip x");
        check("barkeep backup -j4 main", "barkeep backup -j4 main");
    }
}
