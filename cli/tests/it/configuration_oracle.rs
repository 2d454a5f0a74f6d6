//! The configuration beside what Barman makes of it: every key with every kind of value, good, odd and hostile.

use std::fmt::Write as _;
use std::process::Command;

use serde_json::{Map, Value};
use testkit::require_barman;

use crate::support::{Home, Run, current_user};

/// Values that are right for some keys and wrong for the others.
const VALUES: &[&str] = &[
    "",
    "None",
    "none",
    "-5",
    " +1_000 ",
    "007",
    "1.5",
    "OFF",
    "t",
    "maybe",
    "3 DAYS",
    "1 hour",
    "1 month",
    "999999999999 days",
    "1day",
    "10k",
    "5 Gi",
    "1kb",
    "GZIP",
    "pigz",
    "tar",
    "Server",
    "postgres",
    "local-rsync",
    "link",
    "Auto",
    "get-wal, delta-restore",
    "GET-WAL , get-wal",
    "get-wal,",
    "exclusive_backup",
    "exclusive_backup, concurrent_backup",
    "a, b",
    "a,,b",
    "Medium",
    "-3",
    "AES256",
    "aes256",
    "/abs/path",
    "rel/path",
    "Slot_1",
    "bad-slot",
    "'quoted'",
    "\"  \"",
    "x ; y # z",
    "Local",
    "copy-file-range",
];

/// Places, for keys that hold one.
const PLACES: &[&str] =
    &["/abs/x", "s3://bucket/x", "gs://b", "ftp://x", "https://acc.blob.core.windows.net/c"];

/// Barman's own reader of configurations, asked for what it read: all servers, key by key.
const READER: &str = r#"
import json, sys, barman.config
from barman import output
from barman.utils import BarmanEncoderV2
config = barman.config.Config(sys.argv[1])
config.load_configuration_files_directory()
servers = {server.name: server.to_json() for server in config.servers()}
print("\n=== " + json.dumps(servers, cls=BarmanEncoderV2))
"#;

/// Keys whose values Barman makes sense of later than it reads them.
const LATE: [&str; 8] = [
    "archiver",
    "bandwidth_limit",
    "disabled",
    "minimum_redundancy",
    "retention_policy",
    "retention_policy_mode",
    "tablespace_bandwidth_limit",
    "wal_retention_policy",
];

/// All servers of a configuration as Barman reads them.
fn read_by_barman(home: &Home) -> Value {
    let python = testkit::programs::barman_bin_dir().unwrap().join("python3");
    let run = Run::of(Command::new(python).args(["-c", READER]).arg(home.config())).success();
    let (_, json) = run.stdout.split_once("=== ").unwrap_or_else(|| panic!("{}", run.stderr));
    serde_json::from_str(json).unwrap()
}

/// The same as barkeep reads them.
fn read_by_barkeep(home: &Home) -> Map<String, Value> {
    let report = home.run(["diagnose"]).success().json();
    report["servers"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, server)| (name.clone(), server["config"].clone()))
        .collect()
}

/// The members of a set have no order.
fn normal(key: &str, value: &Value) -> Value {
    match (key, value) {
        ("backup_options" | "recovery_options", Value::String(text)) if text.contains("({") => {
            let mut words: Vec<&str> = text.split(['{', '}', ',', ' ']).collect();
            words.sort_unstable();
            Value::from(words)
        }
        ("backup_options" | "recovery_options", Value::String(text)) => {
            let mut words: Vec<&str> = text.split(',').collect();
            words.sort_unstable();
            Value::from(words)
        }
        _ => value.clone(),
    }
}

/// Where both differ, one line each.
fn differences(theirs: &Value, ours: &Map<String, Value>, but: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (server, values) in theirs.as_object().unwrap() {
        for (key, theirs) in
            values.as_object().unwrap().iter().filter(|(key, _)| !but.contains(&key.as_str()))
        {
            let ours = ours[server].get(key).unwrap_or_else(|| panic!("{server} has no {key}"));
            if normal(key, theirs) != normal(key, ours) {
                found.push(format!("[{server}] {key}: Barman {theirs}, barkeep {ours}"));
            }
        }
    }
    found
}

fn keys() -> impl Iterator<Item = &'static barkeep::config::keys::Key> {
    let known = barkeep::config::keys::SERVER_KEYS.iter();
    // Ours alone are tested where they act; an empty cluster is no cluster for Barman, and the server's name here.
    known.filter(|key| !barkeep::config::keys::OWN_KEYS.contains(&key.name) && key.name != "cluster")
}

/// A home with a configuration text of its own below `[barman]`.
fn home_with(global: &str, sections: &str) -> Home {
    let home = Home::new();
    let path = home.path().display().to_string();
    let user = current_user();
    std::fs::write(
        home.config(),
        format!("[barman]\nbarman_home = {path}\nbarman_user = {user}\n{global}{sections}"),
    )
    .unwrap();
    home
}

#[test]
fn every_key_is_read_as_barman_reads_it() {
    require_barman!();
    // Keys are read one by one, so that one section holds them all.
    let mut sections = String::new();
    for (number, value) in VALUES.iter().enumerate() {
        writeln!(sections, "[active-{number}]\nactive = {value}\n[value-{number}]\nactive = off").unwrap();
        for key in keys().filter(|key| !key.name.ends_with("_directory") && key.name != "active") {
            writeln!(sections, "{} = {value}", key.name).unwrap();
        }
    }
    for (number, place) in PLACES.iter().enumerate() {
        // Barman itself comes to grief over an address as the root of all.
        for key in keys().filter(|key| key.name.ends_with("_directory") && key.name != "backup_directory") {
            writeln!(sections, "[{}-{number}]\nactive = off\n{} = {place}", key.name, key.name).unwrap();
        }
    }
    let home = home_with("", &sections);
    let found = differences(&read_by_barman(&home), &read_by_barkeep(&home), &LATE);
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found[..found.len().min(40)].join("\n"));
}

#[test]
fn what_servers_inherit_is_what_barman_lets_them_inherit() {
    require_barman!();
    for value in ["", "None", "-5", "3 DAYS", "gzip", "on", "get-wal", "5 Gi"] {
        let mut global = String::new();
        let mut nothing = "[nothing]\n".to_owned();
        let mut wrong = "[wrong]\n".to_owned();
        for key in keys().filter(|key| !key.name.ends_with("_directory")) {
            writeln!(global, "{} = {value}", key.name).unwrap();
            let name = key.name;
            if name != "active" {
                writeln!(nothing, "{name} = None").unwrap();
                writeln!(wrong, "{name} = !bad").unwrap();
            }
        }
        let sections = format!("[plain]\nactive = off\n{nothing}active = off\n{wrong}active = off\n");
        let home = home_with(&global, &sections);
        // `encryption = none` in a server's section is taken at its word here; Barman asks `[barman]` all the same.
        let found = differences(&read_by_barman(&home), &read_by_barkeep(&home), &LATE);
        assert!(found.is_empty(), "{value:?}: {} differences:\n{}", found.len(), found.join("\n"));
    }
}

/// Sections in which keys act on each other, or are made sense of late.
const TELLING: &str = "\
[late]
conninfo = host=/nonexistent
backup_method = postgres
streaming_archiver = on
slot_name = s
bandwidth_limit = 4_000
minimum_redundancy = -3
retention_policy = recovery window of 4 weeks
wal_retention_policy = all
retention_policy_mode = manual
last_backup_maximum_age = 9 days
last_wal_maximum_age = 2 hours
backup_options = external_configuration
recovery_options = get-wal
[late-wrong]
conninfo = host=/nonexistent
backup_method = postgres
archiver = on
bandwidth_limit = fast
minimum_redundancy = two
retention_policy = keep everything
wal_retention_policy = all
compression = none
[forced]
conninfo = host=/nonexistent
ssh_command = ssh postgres@pg
tablespace_bandwidth_limit = fast:100 slow:200 odd rest:x
bandwidth_limit = 100
[exclusive]
conninfo = host=/nonexistent
ssh_command = ssh postgres@pg
backup_options = exclusive_backup
archiver = on
[overruled]
conninfo = host=/nonexistent
backup_method = postgres
archiver = on
backup_options = exclusive_backup
[no-ssh]
conninfo = host=/nonexistent
archiver = on
[resting]
active = off
backup_method = postgres
[copy-of-another]
primary_ssh_command = ssh barman@other
";

#[test]
fn show_servers_and_diagnose_show_what_barman_shows() {
    require_barman!();
    let home = home_with("", TELLING);
    let barman = testkit::programs::barman_bin_dir().unwrap().join("barman");
    let theirs = |arguments: &[&str]| {
        let run = Run::of(Command::new(&barman).arg("-c").arg(home.config()).args(arguments));
        let at = run.stdout.find('{').unwrap_or_else(|| panic!("{run:#?}"));
        serde_json::from_str::<Value>(&run.stdout[at..]).unwrap()
    };
    // Where the clients of PostgreSQL are, and how they put it that there is no server.
    let own_way = |key: &str| {
        key == "connection_error" || key.starts_with("pg_") && (key.ends_with("_path") || key.ends_with("_version"))
            // No program is run that could be missing.
            || key.starts_with("pg_") && key.ends_with("_installed")
    };
    let mut found = Vec::new();
    let (their_sheet, our_sheet) = (
        theirs(&["-f", "json", "show-servers", "all"]),
        home.run(["-f", "json", "show-servers", "all"]).json(),
    );
    let (their_report, our_report) = (theirs(&["diagnose"]), home.run(["diagnose"]).json());
    let mut compare = |place: &str, theirs: &Value, ours: &Value, own_keys: &[&str]| {
        let (theirs, ours) = (theirs.as_object().unwrap(), ours.as_object().unwrap());
        let known = |key: &&String| !own_way(key) && !own_keys.contains(&key.as_str());
        for key in theirs.keys().chain(ours.keys()).filter(known) {
            match (theirs.get(key), ours.get(key)) {
                (Some(one), Some(other)) if normal(key, one) == normal(key, other) => {}
                (one, other) => found.push(format!("{place}/{key}: Barman {one:?}, barkeep {other:?}")),
            }
        }
    };
    let own: Vec<&str> = barkeep::config::keys::OWN_KEYS.to_vec();
    for name in their_report["servers"].as_object().unwrap().keys() {
        compare(
            &format!("show/{name}"),
            &their_sheet[name],
            &our_sheet[name],
            &[&own[..], &["description", "msg_list"]].concat(),
        );
        let (one, other) = (&their_report["servers"][name], &our_report["servers"][name]);
        compare(&format!("config/{name}"), &one["config"], &other["config"], &own);
        compare(&format!("status/{name}"), &one["status"], &other["status"], &[]);
        compare(&format!("diagnose/{name}"), one, other, &["config", "status", "msg_list"]);
        assert_eq!(
            one["msg_list"].as_array().unwrap().is_empty(),
            other["msg_list"].as_array().unwrap().is_empty(),
            "{name}"
        );
    }
    compare("global", &their_report["global"]["config"], &our_report["global"]["config"], &[]);
    compare(
        "system",
        &their_report["global"]["system_info"],
        &our_report["global"]["system_info"],
        &[
            "barkeep_ver",
            "kernel_ver",
            "python_executable",
            "python_ver",
            "release",
            "rsync_ver",
            "ssh_ver",
            "timestamp",
        ],
    );
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_source_of_every_value_is_the_file_that_barman_names() {
    require_barman!();
    let home = Home::new();
    let includes = home.join("conf.d");
    std::fs::create_dir(&includes).unwrap();
    let text = format!(
        "[barman]\nbarman_home = {}\nbarman_user = {}\nconfiguration_files_directory = {}\ncompression = gzip\n\
         [main]\nactive = off\nconninfo = host=x\ncheck_timeout = 5\n[mod]\nmodel = on\ncluster = main\nslot_name = s\n",
        home.path().display(),
        current_user(),
        includes.display()
    );
    std::fs::write(home.config(), text).unwrap();
    std::fs::write(includes.join("10.conf"), "[main]\ncheck_timeout = 6\ndescription = 'From %%%% d'\n")
        .unwrap();
    std::fs::write(home.join(".barman.auto.conf"), "[main]\nparallel_jobs = 3\n").unwrap();
    std::fs::create_dir(home.join("main")).unwrap();
    std::fs::write(home.join("main/.active-model.auto"), "mod").unwrap();
    let barman = testkit::programs::barman_bin_dir().unwrap().join("barman");
    let run =
        Run::of(Command::new(barman).arg("-c").arg(home.config()).args(["diagnose", "--show-config-source"]));
    let theirs: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:#?}"));
    let ours = home.run(["diagnose", "--show-config-source"]).success().json();
    for (place, keys) in [("/servers/main/config", 122), ("/models/mod/config", 96), ("/global/config", 4)] {
        let (theirs, ours) = (theirs.pointer(place).unwrap(), ours.pointer(place).unwrap());
        let theirs = theirs.as_object().unwrap();
        assert!(theirs.len() >= keys, "{place}: {}", theirs.len());
        for (key, value) in theirs {
            assert_eq!(&ours[key], value, "{place}/{key}");
        }
    }
    assert_eq!(theirs["servers"]["main"]["active_model"], ours["servers"]["main"]["active_model"]);
}
