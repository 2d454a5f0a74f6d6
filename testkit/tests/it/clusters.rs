use testkit::{Cluster, StopMode, TestDir, programs};

#[test]
fn every_installed_version_starts_with_the_wanted_segments_and_checksums() {
    testkit::require_pg!(13, 14, 15, 16, 17, 18);
    for major in programs::installed_majors() {
        let cluster = Cluster::builder(major).segment_size_mib(1).checksums(true).start();
        assert_eq!(
            cluster.value("select current_setting('server_version_num')::int / 10000"),
            major.to_string()
        );
        assert_eq!(cluster.value("show wal_segment_size"), "1MB");
        assert_eq!(cluster.value("show data_checksums"), "on");
    }
}

#[test]
fn checksums_are_off_and_segments_are_16_mib_unless_asked_for() {
    testkit::require_pg!(18);
    let cluster = Cluster::start(18);
    assert_eq!(cluster.value("show data_checksums"), "off");
    assert_eq!(cluster.value("show wal_segment_size"), "16MB");
}

#[test]
fn a_killed_server_starts_again_with_what_it_had_committed() {
    testkit::require_pg!(15);
    let mut cluster = Cluster::start(15);
    cluster.execute("create table t as select generate_series(1, 1000) as id");
    let port = cluster.port();
    cluster.kill();
    cluster.start_again();
    assert_eq!(cluster.value("select count(*) from t"), "1000");
    assert_eq!(cluster.port(), port);
}

#[test]
fn a_data_directory_moved_elsewhere_is_adopted_on_another_port() {
    testkit::require_pg!(15);
    let mut cluster = Cluster::start(15);
    cluster.execute("create table t as select 42 as answer");
    cluster.stop(StopMode::Fast);
    let elsewhere = TestDir::new();
    let data_dir = elsewhere.join("data");
    let copied =
        std::process::Command::new("cp").arg("-a").args([cluster.data_dir(), &data_dir]).status().unwrap();
    assert!(copied.success());
    cluster.start_again();
    let adopted = Cluster::adopt(15, &data_dir);
    assert_ne!(adopted.port(), cluster.port());
    assert_eq!(adopted.value("select answer from t"), "42");
}

#[test]
fn a_server_that_cannot_start_says_why() {
    testkit::require_pg!(15);
    let mut cluster = Cluster::start(15);
    cluster.stop(StopMode::Fast);
    std::fs::remove_file(cluster.data_dir().join("global/pg_control")).unwrap();
    let failure = Cluster::try_adopt(15, cluster.data_dir()).unwrap_err();
    assert!(failure.log.contains("pg_control"), "{}", failure.log);
}

#[test]
fn a_standby_follows_its_primary_and_is_promoted_to_a_new_timeline() {
    testkit::require_pg!(18);
    for major in programs::installed_majors() {
        let primary = Cluster::start(major);
        primary.execute("create table t as select 1 as id");
        let standby = primary.standby("second");
        primary.execute("insert into t values (2)");
        primary.wait_for_replay_by(&standby);
        assert!(standby.is_in_recovery());
        assert_eq!(primary.value("select application_name from pg_stat_replication"), "second");
        standby.promote();
        standby.execute("insert into t values (3)");
        assert_eq!(standby.value("select count(*) from t"), "3");
        assert_eq!(standby.value("select left(pg_walfile_name(pg_current_wal_lsn()), 8)"), "00000002");
    }
}

#[test]
fn statements_can_be_run_inside_an_asynchronous_runtime() {
    testkit::require_pg!(15);
    let cluster = Cluster::start(15);
    // The blocking client refuses to run inside a runtime; the testkit's own calls must not care.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(runtime.block_on(async { cluster.value("select 'inside'") }), "inside");
}

#[test]
fn users_with_passwords_are_asked_for_them() {
    testkit::require_pg!(15);
    let cluster = Cluster::builder(15).hba("host all keeper 127.0.0.1/32 scram-sha-256").start();
    cluster.execute("create user keeper password 'secret'");
    let connect = |password: &str| {
        let conninfo =
            format!("host=127.0.0.1 port={} user=keeper dbname=postgres password={password}", cluster.port());
        postgres::Client::connect(&conninfo, postgres::NoTls).map(drop)
    };
    connect("secret").unwrap();
    connect("wrong").unwrap_err();
}

#[test]
fn a_server_with_tls_shows_the_certificate_of_its_authority() {
    testkit::require_pg!(15);
    let cluster = Cluster::builder(15).tls().start();
    assert_eq!(cluster.value("show ssl"), "on");
    let psql = testkit::client_tool("psql", 15).unwrap();
    let (cert, key) = cluster.tls().client("postgres");
    let conninfo = format!(
        "host=localhost port={} user=postgres dbname=postgres sslmode=verify-full sslrootcert={} sslcert={} sslkey={}",
        cluster.port(),
        cluster.tls().ca_cert().display(),
        cert.display(),
        key.display()
    );
    let mut command = std::process::Command::new(psql);
    command.args(["-XAtc", "select ssl from pg_stat_ssl where pid = pg_backend_pid()", &conninfo]);
    let output = testkit::unprivileged_user().run_as(&mut command).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "t\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_server_does_not_outlive_a_test_process_that_is_killed() {
    testkit::require_pg!(15);
    const CHILD: &str = "TESTKIT_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let cluster = Cluster::start(15);
        println!("pid={}", cluster.pid().unwrap());
        std::thread::sleep(std::time::Duration::from_secs(120));
        return;
    }
    let name = "clusters::a_server_does_not_outlive_a_test_process_that_is_killed";
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let pid =
        lines.map_while(Result::ok).find_map(|line| line.split("pid=").nth(1).map(str::to_owned)).unwrap();
    let process = format!("/proc/{}", pid.trim());
    assert!(std::path::Path::new(&process).exists());
    child.kill().unwrap();
    child.wait().unwrap();
    testkit::wait_for("the watchdog to stop the server", 30, || {
        (!std::path::Path::new(&process).exists()).then_some(())
    });
}
