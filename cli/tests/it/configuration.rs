//! Barman's configuration files, read unchanged.

use crate::support::Home;

#[test]
fn servers_come_from_the_main_file_and_the_includes() {
    let home = Home::new();
    std::fs::create_dir(home.join("conf.d")).unwrap();
    let includes = home.join("conf.d");
    let home = home.with("barman", "configuration_files_directory", includes.to_str().unwrap()).with(
        "main",
        "description",
        "From the main file",
    );
    let rest =
        "[main]\nbackup_method = postgres\nconninfo = host=x\n[other]\nactive = off\nssh_command = ssh x\n";
    std::fs::write(includes.join("10.conf"), rest).unwrap();
    std::fs::write(includes.join("20.conf.off"), "[ignored]\n").unwrap();
    std::fs::write(home.join(".barman.auto.conf"), "[other]\nconninfo = host=y\ndescription = Changed\n")
        .unwrap();
    let run = home.run(["list-servers"]).success();
    assert_eq!(run.stdout, "main - From the main file\nother - Changed (inactive)\n");
    let json = home.run(["-f", "json", "list-servers"]).success().json();
    assert_eq!(json["main"]["description"], "From the main file");
    assert_eq!(home.run(["list-servers", "--minimal"]).success().stdout, "main\nother\n");
}

#[test]
fn what_is_not_heeded_is_told_once() {
    let home = Home::new()
        .server("main", "host=x")
        .with("main", "bogus", "1")
        .with("main", "check_timeout", "soon")
        .with("main", "custom_compression_magic", "0x28b52ffd")
        .with("main", "ssh_command", "ssh postgres@pg");
    let run = home.run(["list-servers"]).success();
    let told: Vec<&str> = run.stderr.lines().collect();
    assert_eq!(told.len(), 2, "{run:#?}");
    assert_eq!(told[0], "WARNING: Invalid configuration option \"bogus\" in [main] section.");
    assert!(told[1].contains("'soon' for key check_timeout in [main]"), "{run:#?}");
    // Keys without effect are for those who act.
    assert!(home.log().contains("barkeep does not act on yet: "), "{}", home.log());
    let run = home.run(["delete", "main", "latest"]).exits_with(1);
    assert!(
        run.stderr.contains("WARNING: Configuration keys that barkeep does not act on yet: "),
        "{run:#?}"
    );
}

#[test]
fn a_contradiction_disables_the_server_alone() {
    let home =
        Home::new().server("bad", "host=x").with("bad", "reuse_backup", "link").server("good", "host=y");
    let run = home.run(["list-servers"]).success();
    assert!(run.stdout.starts_with("bad - The bad server (WARNING: disabled)\n"), "{run:#?}");
    assert!(run.stdout.contains("\ngood - "), "{run:#?}");
}

#[test]
fn two_servers_in_one_directory_stop_everything() {
    let home = Home::new().server("a", "host=x").server("b", "host=y");
    let shared = home.join("a/wals");
    let home = home.with("b", "wals_directory", shared.to_str().unwrap());
    home.run(["check", "all"]).fails_with_one_line(1, &["'a'", "'b'", "wals_directory"]);
}

#[test]
fn faults_of_a_file_name_the_line() {
    let home = Home::new().with("main", "conninfo", "host=%(nothing)s");
    home.run(["list-servers"]).fails_with_one_line(1, &["barman.conf, line", "conninfo", "%(nothing)s"]);
    std::fs::write(home.config(), "[barman]\nbarman_home\n").unwrap();
    home.run(["list-servers"]).fails_with_one_line(1, &["line 2"]);
    std::fs::write(home.config(), "[main]\nconninfo = x\n").unwrap();
    home.run(["list-servers"]).fails_with_one_line(1, &["barman_home"]);
}

#[test]
fn a_model_in_force_lies_over_its_server() {
    let home = Home::new()
        .server("main", "host=primary")
        .with("main", "cluster", "pg")
        .with("main", "minimum_redundancy", "2")
        .with("standby", "model", "on")
        .with("standby", "cluster", "pg")
        .with("standby", "conninfo", "host=standby")
        .with("standby", "minimum_redundancy", "1");
    assert_eq!(home.run(["list-servers", "--minimal"]).success().stdout, "main\n");
    std::fs::create_dir_all(home.join("main")).unwrap();
    let active = home.join("main/.active-model.auto");
    std::fs::write(&active, "standby").unwrap();
    let status = home.run(["-f", "json", "status", "main"]).success().json();
    assert_eq!(status["main"]["active_model"]["message"], "standby");
    assert_eq!(status["main"]["minimum_redundancy"]["message"], "FAILED (0/1)");
    std::fs::write(&active, "other").unwrap();
    let run = home.run(["list-servers"]).success();
    assert!(run.stdout.ends_with("(WARNING: disabled)\n"), "{run:#?}");
}

#[test]
fn the_log_has_barmans_form() {
    let home = Home::new().server("main", "host=/nonexistent");
    home.run(["status", "other"]).exits_with(1);
    let log = home.log();
    let line = log.lines().find(|line| line.contains("Unknown server")).unwrap_or_else(|| panic!("{log}"));
    let (date, rest) = line.split_at(23);
    assert!(date.as_bytes()[10] == b' ' && date.as_bytes()[19] == b',', "{line}");
    assert!(
        rest.starts_with(" [") && rest.contains("] barkeep.output ERROR: Unknown server 'other'"),
        "{line}"
    );
}

#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    let home = Home::new().server("main", "host=/nonexistent").with(
        "barman",
        "log_file",
        "/proc/nowhere/barman.log",
    );
    let run = home.run(["list-servers"]).success();
    assert!(run.stderr.starts_with("WARNING: cannot write log_file /proc/nowhere/barman.log"), "{run:#?}");
}

#[test]
fn the_manual_has_every_key() {
    let manual = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let manual = std::fs::read_to_string(manual).unwrap();
    let row = |key: &str| {
        manual.lines().filter(|line| line.starts_with(&format!("| `{key}` |"))).collect::<Vec<_>>()
    };
    for key in barkeep::config::keys::GLOBAL_KEYS {
        assert_eq!(row(key).len(), 1, "{key}");
    }
    for key in barkeep::config::keys::SERVER_KEYS {
        let rows = row(key.name);
        assert_eq!(rows.len(), 1, "{} needs one row in docs/configuration.md", key.name);
        let cells: Vec<&str> = rows[0].split('|').map(str::trim).collect();
        let scope = match (key.scope.global, key.scope.model) {
            (true, true) => "G S M",
            (true, false) => "G S",
            (false, true) => "S M",
            (false, false) => "S",
        };
        assert_eq!(cells[2], scope, "{}", key.name);
        if !key.default.is_empty() {
            assert_eq!(cells[4], format!("`{}`", key.default), "{}", key.name);
        }
        assert!(cells[5].len() > 3, "{}", key.name);
        let own = barkeep::config::keys::OWN_KEYS.contains(&key.name);
        assert_eq!(cells[5].starts_with("(barkeep)"), own, "{}", key.name);
    }
}

#[test]
fn a_slip_of_the_pen_is_answered_with_the_key_that_was_meant() {
    let home = Home::new().server("main", "host=x").with("main", "streming_archiver", "on").with(
        "barman",
        "minimum_redundency",
        "1",
    );
    let run = home.run(["list-servers"]).success();
    assert!(
        run.stderr.contains("\"streming_archiver\" in [main] section. Did you mean \"streaming_archiver\"?"),
        "{run:#?}"
    );
    assert!(run.stderr.contains("Did you mean \"minimum_redundancy\"?"), "{run:#?}");
    let home = home.with("main", "backup_method", "postgress");
    let run = home.run(["list-servers"]);
    assert!(run.stderr.contains("did you mean \"postgres\"?"), "{run:#?}");
}

#[test]
fn an_include_may_repeat_the_global_section_and_not_change_it() {
    let home = Home::new();
    let includes = home.join("conf.d");
    std::fs::create_dir(&includes).unwrap();
    let home = home.with("barman", "configuration_files_directory", includes.to_str().unwrap());
    let same = format!("[barman]\nbarman_home = {}\n[more]\nconninfo = host=x\n", home.path().display());
    std::fs::write(includes.join("more.conf"), same).unwrap();
    assert_eq!(home.run(["list-servers", "--minimal"]).success().stdout, "more\n");
    std::fs::write(includes.join("more.conf"), "[barman]\ncompression = gzip\n").unwrap();
    home.run(["list-servers"]).fails_with_one_line(1, &["more.conf", "[barman]"]);
}
