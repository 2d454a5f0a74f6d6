//! Secrets that are never printed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use testkit::{Cluster, require_pg};

use crate::support::{Home, Run};

/// A server that asks for a password, with WAL delivered to the home by its `archive_command`.
fn guarded(secret: &str) -> (Cluster, Home) {
    let cluster = Cluster::builder(15)
        .hba("host all guarded 127.0.0.1/32 scram-sha-256")
        .hba("host replication guarded 127.0.0.1/32 scram-sha-256")
        .start();
    cluster.execute(&format!("create role guarded superuser replication login password '{secret}'"));
    let home = Home::new().server("main", &format!("{} user=guarded", cluster.tcp_conninfo()));
    (cluster, home)
}

#[test]
fn a_password_is_printed_nowhere_wherever_it_comes_from() {
    require_pg!(15);
    const SECRET: &str = "s3cr3t-w0rd";
    let (cluster, mut home) = guarded(SECRET);
    let plain = format!("{} user=guarded", cluster.tcp_conninfo());
    let passfile = home.join("pgpass");
    fs::write(&passfile, format!("*:*:*:guarded:{SECRET}\n")).unwrap();
    fs::set_permissions(&passfile, fs::Permissions::from_mode(0o600)).unwrap();
    let in_conninfo = format!("{plain} password={SECRET}");
    let none = home.join("no-such-file");
    for (conninfo, password, passfile) in [
        (in_conninfo.as_str(), "", none.as_path()),
        (&plain, SECRET, &none),
        (&plain, "", &passfile),
        // And where it is wrong: errors are as discreet.
        (&format!("{plain} password={SECRET}-wrong"), "", &none),
        (&format!("{plain} password={SECRET} no_such_key=1"), "", &none),
    ] {
        home.set("main", "conninfo", conninfo);
        let works = !conninfo.contains("wrong") && !conninfo.contains("no_such_key");
        for words in [
            &["check", "main"][..],
            &["status", "main"],
            &["show-servers", "main"],
            &["diagnose", "--show-config-source"],
            &["replication-status", "main"],
            &["receive-wal", "--create-slot", "--if-not-exists", "main"],
            &["backup", "main"],
            &["switch-wal", "--force", "main"],
            &["cron"],
            &["terminate-process", "main", "receive-wal"],
        ] {
            for format in ["console", "json"] {
                let mut command = home.command();
                command.args(["-d", "-f", format]).args(words).env("PGPASSFILE", passfile);
                if !password.is_empty() {
                    command.env("PGPASSWORD", password);
                }
                let run = Run::of(&mut command);
                assert!(!run.stdout.contains(SECRET) && !run.stderr.contains(SECRET), "{run:#?}");
                if works && words[0] == "replication-status" {
                    run.success();
                }
            }
        }
    }
    assert!(home.log().len() > 1000, "there is something in the log");
    assert!(!home.log().contains(SECRET));
}

#[test]
fn a_backup_and_its_record_are_their_owners_alone() {
    require_pg!(15);
    let cluster = Cluster::builder(15).start();
    for method in ["postgres", "local-rsync"] {
        let home = Home::new().server("main", &cluster.conninfo()).with("main", "backup_method", method);
        home.run(["backup", "main"]).success();
        let mut seen = 0;
        for directory in ["main", "main/meta", "main/base", "main/wals", "main/incoming"] {
            for entry in fs::read_dir(home.join(directory)).unwrap() {
                let entry = entry.unwrap();
                let mode = entry.metadata().unwrap().permissions().mode();
                assert_eq!(mode & 0o077, 0, "{method}: {} has mode {mode:o}", entry.path().display());
                seen += 1;
            }
        }
        assert!(seen >= 8, "{method}: {seen}");
    }
}
