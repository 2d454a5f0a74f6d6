//! Every command and option of Barman's is one of barkeep's, and takes as many words.
//!
//! Barman is asked for its own parser, so that nobody has to keep a list.

use std::collections::BTreeMap;
use std::process::Command;

use clap::CommandFactory as _;
use serde_json::Value;

/// Commands that take any words, to say what to do instead.
const ABSENT: [&str; 4] = ["cloud-wal-archive", "cloud-wal-restore", "export-backup", "import-backup"];

/// Prints each command with its arguments as argparse has them.
const ASK: &str = r#"
import argparse, json
from barman.cli import p as parser
flags = ("_StoreTrueAction", "_StoreFalseAction", "_StoreConstAction", "_HelpAction", "_VersionAction")
def told(parser):
    actions = [a for a in parser._actions if not isinstance(a, argparse._SubParsersAction)]
    return [{"names": list(a.option_strings), "choices": [str(c) for c in a.choices or []][:9],
             "words": 0 if type(a).__name__ in flags and a.nargs in (None, 0) else a.nargs or 1}
            for a in actions]
commands = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)][0].choices
print(json.dumps({"": told(parser), **{name: told(command) for name, command in commands.items()}}))
"#;

fn barmans_parser() -> BTreeMap<String, Vec<Value>> {
    let bin = testkit::barman_bin_dir().unwrap();
    let output = Command::new(bin.join("python")).args(["-c", ASK]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A word that an option takes.
fn word(option: &str, choices: &[Value]) -> String {
    let by_name = match option {
        "--tablespace" => "fast:/srv/fast",
        "--target-lsn" => "0/2000028",
        "--target-time" => "2026-11-22 10:15:42+00:00",
        "--target-action" => "pause",
        "--target-tli" => "latest",
        "--cloud-staging-directory" | "--staging-path" | "--local-staging-path" => "/srv/staging",
        "--recovery-staging-path" | "--staging-wal-directory" | "--output-directory" | "-o" => "/srv/staging",
        "--cloud-staging-max-size" => "30Gi",
        "--name" | "--target-name" | "--remote-ssh-command" | "--restore-command" => "a name",
        "--incremental" => "latest",
        "-c" | "--config" => "/etc/barman.conf",
        _ => "2",
    };
    choices.first().and_then(Value::as_str).unwrap_or(by_name).to_owned()
}

fn accepts(words: &[String]) -> Result<(), String> {
    let words = std::iter::once("barkeep".to_owned()).chain(words.iter().cloned()).map(Into::into);
    match barkeep::args::parse(words) {
        Err(error) if error.use_stderr() => Err(error.to_string()),
        _ => Ok(()),
    }
}

#[test]
fn every_command_and_option_of_barman_is_one_of_barkeeps() {
    testkit::require_barman!();
    let ours = barkeep::args::Cli::command();
    let commands = barmans_parser();
    assert!(commands.len() > 40, "{:?}", commands.keys());
    let mut refused = Vec::new();
    let mut lines = 0;
    for (command, arguments) in &commands {
        if ABSENT.contains(&command.as_str()) {
            assert!(ours.find_subcommand(command).is_some(), "{command}");
            continue;
        }
        let number = |argument: &Value| argument["words"].as_u64();
        let is_option = |argument: &&Value| !argument["names"].as_array().unwrap().is_empty();
        // What has to be there: the positional arguments.
        let places = arguments.iter().filter(|argument| !is_option(argument));
        let needed = places.filter(|argument| argument["words"] != "?").count();
        let positional = ["main", "20260101T000000", "/srv/restored"];
        let positional = match command.as_str() {
            "keep" => vec!["main", "20260101T000000", "--status"],
            "check-archived-wal-range" => {
                vec!["main", "000000010000000000000001", "000000010000000000000002"]
            }
            "config-switch" => vec!["main", "a model"],
            "" => vec!["list-servers"],
            _ => positional[..needed].to_vec(),
        };
        let lead: Vec<String> = (!command.is_empty()).then(|| command.clone()).into_iter().collect();
        for option in arguments.iter().filter(is_option) {
            let choices: Vec<Value> = option["choices"].as_array().unwrap().clone();
            for name in option["names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()) {
                // Help and version end the parser early.
                if ["-h", "--help", "-v", "--version"].contains(&name) {
                    continue;
                }
                let mut line = lead.clone();
                line.push(name.to_owned());
                if number(option) == Some(1) || option["words"] == "?" {
                    line.push(word(name, &choices));
                }
                // These take one thing or the other.
                let rest = match command.as_str() {
                    "keep" => &positional[..2],
                    "config-switch" => &positional[..1],
                    _ => &positional[..],
                };
                line.extend(rest.iter().map(|word| (*word).to_owned()));
                lines += 1;
                if let Err(error) = accepts(&line) {
                    refused.push(format!("{}: {error}", line.join(" ")));
                }
            }
        }
        let line: Vec<String> =
            lead.into_iter().chain(positional.iter().map(|word| (*word).to_owned())).collect();
        lines += 1;
        if let Err(error) = accepts(&line) {
            refused.push(format!("{}: {error}", line.join(" ")));
        }
    }
    assert!(lines > 200, "{lines}");
    assert!(refused.is_empty(), "of {lines} command lines:\n{}", refused.join("\n"));
}

#[test]
fn every_option_of_barmans_clients_is_one_of_barkeeps() {
    testkit::require_barman!();
    let bin = testkit::barman_bin_dir().unwrap();
    for (client, command) in [("barman-wal-archive", "wal-archive"), ("barman-wal-restore", "wal-restore")] {
        let help = Command::new(bin.join(client)).arg("--help").env("COLUMNS", "500").output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        let options =
            help.split("options:").nth(1).unwrap().lines().filter_map(|line| line.strip_prefix("  -"));
        let names = options
            .map(|line| format!("-{line}").split("  ").next().unwrap().to_owned())
            .flat_map(|names| names.split(", ").map(str::to_owned).collect::<Vec<_>>());
        let ours = barkeep::args::Cli::command();
        let ours = ours.find_subcommand(command).unwrap();
        let (mut missing, mut seen) = (Vec::new(), 0);
        for name in names {
            let mut words = name.split_whitespace();
            let option = words.next().unwrap().to_owned();
            let takes = words.next().is_some();
            // Those of every command are not the command's own.
            if ["-h", "--help", "-V", "--version", "-c", "--config"].contains(&option.as_str()) {
                continue;
            }
            seen += 1;
            let is_it = |argument: &clap::Arg| match option.strip_prefix("--") {
                Some(long) => {
                    let aliases = argument.get_all_aliases().unwrap_or_default();
                    argument.get_long() == Some(long) || aliases.contains(&long)
                }
                None => {
                    let letter = option.chars().nth(1);
                    let aliases = argument.get_all_short_aliases().unwrap_or_default();
                    argument.get_short() == letter || letter.is_some_and(|letter| aliases.contains(&letter))
                }
            };
            let found = ours.get_arguments().find(|argument| is_it(argument));
            if found.is_none_or(|argument| argument.get_action().takes_values() != takes) {
                missing.push(name);
            }
        }
        assert!(seen > 10, "{help}");
        assert!(missing.is_empty(), "{client}: {missing:?}");
    }
}
