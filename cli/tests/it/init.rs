//! `init`: from a server's address to a first backup.

use testkit::{Cluster, require_pg};

use crate::support::Home;

fn home() -> Home {
    let home = Home::new();
    let includes = home.join("conf.d");
    std::fs::create_dir(&includes).unwrap();
    home.with("barman", "configuration_files_directory", includes.to_str().unwrap())
}

#[test]
fn what_it_prints_and_writes_is_enough_for_a_backup() {
    for major in [13, 15, 18] {
        if !testkit::want_pg(major) {
            continue;
        }
        let cluster = Cluster::builder(major).start();
        let home = home();
        let conninfo = format!("{} user=careful", cluster.conninfo().replace("user=postgres", ""));
        // The role does not exist yet: what makes it is printed, and nothing is written.
        let run = home.run(["init", "new one", "--conninfo", &conninfo]).exits_with(1);
        assert!(run.stderr.contains("nothing was written"), "{run:#?}");
        assert!(!home.join("conf.d/new one.conf").exists());
        let statements = |run: &crate::support::Run| -> Vec<String> {
            let sql =
                run.stdout.lines().filter(|line| line.starts_with("CREATE ") || line.starts_with("GRANT "));
            sql.map(|line| line.split(';').next().unwrap().to_owned()).collect()
        };
        for statement in statements(&run) {
            // The server's version is not known before it answers.
            let functions = statement.contains("pg_backup_st") || statement.contains("pg_checkpoint");
            if major >= 15 || !functions {
                cluster.execute(&statement);
            }
        }
        let run = home.run(["init", "new one", "--conninfo", &conninfo]).success();
        for statement in statements(&run).iter().filter(|statement| statement.starts_with("GRANT EXECUTE")) {
            cluster.execute(statement);
        }
        assert!(home.join("conf.d/new one.conf").exists(), "{run:#?}");
        let lines = home.run(["-f", "json", "check", "new one"]).json();
        for line in
            ["postgresql", "superuser_or_standard_user_with_backup_privileges", "postgresql_streaming"]
        {
            assert_eq!(lines["new one"][line]["status"], "OK", "{major} {line}: {lines}");
        }
        assert!(lines["new one"].get("configuration").is_none(), "{lines}");
        home.run(["backup", "new one"]).success();
        home.run(["init", "new one", "--conninfo", &conninfo])
            .fails_with_one_line(1, &["configured already"]);
    }
}

#[test]
fn a_trial_run_only_prints() {
    require_pg!(15);
    let cluster = Cluster::builder(15).start();
    let home = home();
    let run = home.run(["init", "pg", "--conninfo", &cluster.conninfo(), "--dry-run"]).success();
    assert!(
        run.stdout.contains("\n[pg]\n") && run.stdout.contains("\nbackup_method = postgres\n"),
        "{run:#?}"
    );
    assert!(run.stdout.contains("host  replication  "), "{run:#?}");
    assert_eq!(std::fs::read_dir(home.join("conf.d")).unwrap().count(), 0);
}

#[test]
fn nothing_is_overwritten_and_no_password_is_taken() {
    let home = home();
    std::fs::write(
        home.join("conf.d/pg.conf"),
        "[other]\nconninfo = host=x\nbackup_method = postgres\narchiver = on\n",
    )
    .unwrap();
    home.run(["init", "other", "--conninfo", "host=x"])
        .fails_with_one_line(1, &["'other'", "configured already"]);
    home.run(["init", "new", "--conninfo", "host=x password=secret"])
        .fails_with_one_line(1, &["password", ".pgpass"]);
    for name in ["all", "barman", "../x", "a]b", ""] {
        home.run(["init", name, "--conninfo", "host=x"]).exits_with(1);
    }
    assert_eq!(std::fs::read_dir(home.join("conf.d")).unwrap().count(), 1);
}
