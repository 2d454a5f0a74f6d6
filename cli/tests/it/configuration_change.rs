//! Changing the configuration by program: `config-update`, `config-switch`, beside Barman where both can.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use crate::support::{Home, Run};

/// A home with a main file, an included file and a model.
fn home() -> Home {
    let home = Home::new()
        .server("main", "host=/nonexistent user=postgres")
        .with("main", "streaming_archiver", "off")
        .with("main", "archiver", "on");
    let includes = home.join("conf.d");
    std::fs::create_dir(&includes).unwrap();
    std::fs::write(
        includes.join("pg.conf"),
        "; the second server\n[pg]\nconninfo = host=/nonexistent\nbackup_method = postgres\narchiver = on\n\
         # how many\nminimum_redundancy = 1\n\n[small]\nmodel = on\ncluster = pg\nminimum_redundancy = 2\nslot_name = s\n",
    )
    .unwrap();
    home.with("barman", "configuration_files_directory", includes.to_str().unwrap())
}

fn value(home: &Home, server: &str, key: &str) -> serde_json::Value {
    home.run(["diagnose"]).success().json()["servers"][server]["config"][key].clone()
}

#[test]
fn an_option_is_changed_where_it_stands_and_a_new_one_goes_into_the_automatic_file() {
    let home = home();
    let file = home.join("conf.d/pg.conf");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    let before = std::fs::read_to_string(&file).unwrap();
    let changes = json!([
        {"scope": "server", "server_name": "pg", "minimum_redundancy": "3", "last_wal_maximum_age": "1 hour"},
        {"scope": "model", "model_name": "large", "cluster": "pg", "parallel_jobs": "8"},
    ]);
    home.run(["config-update", &changes.to_string()]).success();
    let after = std::fs::read_to_string(&file).unwrap();
    assert_eq!(after, before.replacen("minimum_redundancy = 1", "minimum_redundancy = 3", 1));
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    let automatic = std::fs::read_to_string(home.join(".barman.auto.conf")).unwrap();
    assert_eq!(
        automatic,
        "[pg]\nlast_wal_maximum_age = 1 hour\n[large]\ncluster = pg\nparallel_jobs = 8\nmodel = on\n"
    );
    assert_eq!(std::fs::read_to_string(home.join("cfg_changes.queue")).unwrap(), "[]");
    assert_eq!(value(&home, "pg", "minimum_redundancy"), json!(3));
    let report = home.run(["diagnose"]).success().json();
    assert_eq!(report["models"]["large"]["config"]["parallel_jobs"], 8);
}

#[test]
fn one_wrong_change_keeps_all_of_them_from_being_made() {
    let home = home();
    let good = json!({"scope": "server", "server_name": "pg", "minimum_redundancy": "3"});
    for (wrong, told) in [
        (
            json!({"scope": "server", "server_name": "pg", "minimum_redundency": "3"}),
            "did you mean \"minimum_redundancy\"?",
        ),
        (json!({"scope": "server", "server_name": "pg", "check_timeout": "soon"}), "check_timeout"),
        (json!({"scope": "server", "server_name": "pg", "check_timeout": 5}), "must be a string"),
        (json!({"scope": "server", "server_name": "pg", "description": "100%"}), "%%%%"),
        (json!({"scope": "server", "server_name": "pg", "description": "a\n[other]"}), "one line"),
        (json!({"scope": "server", "server_name": "small", "slot_name": "s"}), "is a model"),
        (json!({"scope": "model", "model_name": "pg", "slot_name": "s"}), "is a server"),
        (json!({"scope": "model", "model_name": "new", "slot_name": "s"}), "cluster"),
        (json!({"scope": "model", "model_name": "small", "wals_directory": "/x"}), "wals_directory"),
        (json!({"scope": "server", "server_name": "barman", "compression": "gzip"}), "barman"),
        (json!({"scope": "server", "server_name": "x]\n[y", "compression": "gzip"}), "section"),
        (json!({"scope": "everything"}), "scope"),
        (json!("text"), "list of objects"),
    ] {
        let run = home.run(["config-update", &json!([good, wrong]).to_string()]);
        run.fails_with_one_line(1, &["nothing was changed", told]);
    }
    home.run(["config-update", "{"]).fails_with_one_line(1, &["JSON"]);
    assert_eq!(value(&home, "pg", "minimum_redundancy"), json!(1));
    assert!(!home.join(".barman.auto.conf").exists() && !home.join("cfg_changes.queue").exists());
}

#[test]
fn a_change_that_cannot_be_made_stays_queued() {
    let home = home();
    let queue = |file: &std::path::Path| {
        let change = json!({"key": "minimum_redundancy", "value": "4", "config_file": file});
        let queue = json!([{"section": "pg", "changes_set": [change]}]);
        std::fs::write(home.join("cfg_changes.queue"), queue.to_string()).unwrap();
    };
    let more = json!([{"scope": "server", "server_name": "main", "description": "x"}]).to_string();
    // The queue is worked off in its order.
    queue(std::path::Path::new("/etc/passwd"));
    let run = home.run(["config-update", &more]);
    run.fails_with_one_line(1, &["/etc/passwd", "none of the configuration files", "cron tries it again"]);
    assert_eq!(value(&home, "main", "description"), json!("The main server"));
    assert!(std::fs::read_to_string(home.join("cfg_changes.queue")).unwrap().contains("/etc/passwd"));
    queue(&home.join("conf.d/pg.conf"));
    home.run(["config-update", &more]).success();
    assert_eq!(value(&home, "pg", "minimum_redundancy"), json!(4));
    assert_eq!(value(&home, "main", "description"), json!("x"));
}

#[test]
fn cron_makes_the_changes_that_barman_queued() {
    let home = home();
    let queue = json!([{"section": "pg", "changes_set": [
        {"key": "minimum_redundancy", "value": "0", "config_file": home.join("conf.d/pg.conf")},
    ]}]);
    std::fs::write(home.join("cfg_changes.queue"), queue.to_string()).unwrap();
    home.run(["cron"]);
    assert_eq!(value(&home, "pg", "minimum_redundancy"), json!(0));
    assert_eq!(std::fs::read_to_string(home.join("cfg_changes.queue")).unwrap(), "[]");
}

#[test]
fn a_model_is_laid_over_a_server_and_taken_away() {
    let home = home();
    let run = home.run(["config-switch", "pg", "small"]).success();
    assert!(
        run.stdout.contains(
            "Changing value of option 'minimum_redundancy' for server 'pg' from '1' to '2' through the model 'small'"
        ),
        "{run:#?}"
    );
    assert_eq!(std::fs::read_to_string(home.join("pg/.active-model.auto")).unwrap(), "small");
    assert_eq!(
        (value(&home, "pg", "minimum_redundancy"), value(&home, "pg", "slot_name")),
        (json!(2), json!("s"))
    );
    assert!(home.run(["config-switch", "pg", "small"]).success().stdout.contains("already active"));
    home.run(["config-switch", "main", "small"]).fails_with_one_line(1, &["cluster=pg", "cluster=main"]);
    home.run(["config-switch", "pg", "medium"]).fails_with_one_line(1, &["Unknown model 'medium'", "small"]);
    home.run(["config-switch", "pg"]).exits_with(2);
    home.run(["config-switch", "pg", "--reset"]).success();
    assert!(!home.join("pg/.active-model.auto").exists());
    assert_eq!(value(&home, "pg", "minimum_redundancy"), json!(1));
}

#[test]
fn barman_and_barkeep_change_the_same_files_in_the_same_way() {
    testkit::require_barman!();
    let changes = json!([
        {"scope": "server", "server_name": "pg", "minimum_redundancy": "3", "last_wal_maximum_age": "1 hour"},
        {"scope": "model", "model_name": "small", "parallel_jobs": "8"},
        {"scope": "model", "model_name": "large", "cluster": "pg", "immediate_checkpoint": "true"},
    ])
    .to_string();
    let outcome = |barman: bool| {
        let home = home();
        if barman {
            let program = testkit::programs::barman_bin_dir().unwrap().join("barman");
            Run::of(
                std::process::Command::new(program)
                    .arg("-c")
                    .arg(home.config())
                    .args(["config-update", &changes]),
            )
            .success();
        } else {
            home.run(["config-update", &changes]).success();
        }
        ["barman.conf", "conf.d/pg.conf", ".barman.auto.conf", "cfg_changes.queue"].map(|name| {
            std::fs::read_to_string(home.join(name)).unwrap().replace(home.path().to_str().unwrap(), "HOME")
        })
    };
    assert_eq!(outcome(true), outcome(false));
}
