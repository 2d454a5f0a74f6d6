//! The command lines of servers: one for every WAL file, so that they are read in a fraction of the time.
//!
//! Most of what a command like these took was the definition of all the others. What can't be read here (help, a wrong
//! option, an old spelling) is read, and told of, by the whole definition.

use std::ffi::OsString;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use super::{Cli, Command, GetWalArgs, GlobalArgs, PutWalArgs, WalArchiveArgs, WalRestoreArgs, legacy};

/// As [`Cli`], with fewer commands.
#[derive(Debug, Parser)]
#[command(
    name = "barkeep",
    version,
    disable_version_flag = true,
    infer_long_args = true,
    args_override_self = true
)]
struct FrequentCli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Frequent,
}

/// As [`Command`], and no others than those.
#[derive(Debug, Subcommand)]
enum Frequent {
    GetWal(GetWalArgs),
    PutWal(PutWalArgs),
    WalArchive(Box<WalArchiveArgs>),
    WalRestore(Box<WalRestoreArgs>),
}

const NAMES: [&str; 4] = ["get-wal", "put-wal", "wal-archive", "wal-restore"];

/// What this command line says, if it is one of these and all is well with it.
pub(super) fn parse(words: &[OsString]) -> Option<(Cli, ArgMatches)> {
    let is_frequent = words.iter().any(|word| NAMES.iter().any(|name| word == name));
    // "-config=x" is "--config=x" in an old script, and must not be taken for "-c onfig=x".
    if !is_frequent || words.iter().any(legacy::may_be_old) {
        return None;
    }
    let matches = FrequentCli::command().try_get_matches_from(words).ok()?;
    let FrequentCli { global, command } = FrequentCli::from_arg_matches(&matches).ok()?;
    let command = match command {
        Frequent::GetWal(args) => Command::GetWal(args),
        Frequent::PutWal(args) => Command::PutWal(args),
        Frequent::WalArchive(args) => Command::WalArchive(args),
        Frequent::WalRestore(args) => Command::WalRestore(args),
    };
    Some((Cli { global, command: Some(command) }, matches))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{parse_any, read};

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn means_what_the_whole_definition_says() {
        for line in [
            "barkeep wal-restore -q --local main 000000010000000000000001 pg_wal/RECOVERYXLOG",
            "barkeep -q -c /x wal-restore --local -p 4 main 000000010000000000000001 x",
            "barkeep wal-restore --config /x -U barman -P -t host main 000000010000000000000001 x",
            "barkeep wal-archive -z host main x --debug",
            "barkeep wal-archive --loc main pg_wal/000000010000000000000001 -f json",
            "barkeep get-wal --peek 3 main 000000010000000000000001",
            "barkeep get-wal -o /x -P main 000000010000000000000001",
            "barkeep --col never put-wal main",
            "barkeep get-wal main -- get-wal",
            "barkeep put-wal put-wal",
        ] {
            let (frequent, matches) = parse(&words(line)).unwrap_or_else(|| panic!("{line}"));
            let frequent = read(frequent, &matches);
            assert_eq!(format!("{frequent:?}"), format!("{:?}", parse_any(words(line)).unwrap()), "{line}");
        }
    }

    #[test]
    fn leaves_the_rest_to_the_whole_definition() {
        for line in [
            "barkeep status get-wal",
            "barkeep -config=/x get-wal main 000000010000000000000001",
            "barkeep get-wal main --peek",
            "barkeep wal-restore --help",
            "barkeep wal-restore",
            "barkeep -v get-wal main 000000010000000000000001",
            "barkeep get-wal main 000000010000000000000001 -partial",
            "barkeep",
        ] {
            assert!(parse(&words(line)).is_none(), "{line}");
        }
    }
}
