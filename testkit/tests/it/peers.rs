use testkit::{Barman, Cluster, Sshd};

#[test]
fn a_private_sshd_runs_commands_as_the_unprivileged_user() {
    testkit::require_sshd!();
    let sshd = Sshd::start();
    let words: Vec<String> = sshd.ssh_command().split(' ').map(str::to_owned).collect();
    let mut command = std::process::Command::new(&words[0]);
    command.args(&words[1..]).args(["id", "-un"]);
    let output = testkit::unprivileged_user().run_as(&mut command).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        testkit::unprivileged_user().name,
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn barman_takes_a_backup_of_a_cluster() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    let cluster = Cluster::start(15);
    let barman = Barman::new();
    barman.add_server("main", &cluster, "");
    barman.run(&["receive-wal", "--create-slot", "main"]);
    let mut receiver = barman.command(&["receive-wal", "main"]).spawn().unwrap();
    testkit::wait_for("the WAL receiver", 30, || {
        (cluster.value("select count(*) from pg_stat_replication") == "1").then_some(())
    });
    cluster.switch_wal();
    testkit::wait_for("a WAL segment in the archive", 60, || {
        barman.run(&["archive-wal", "main"]);
        barman.server_dir("main").join("wals/0000000100000000").exists().then_some(())
    });
    barman.run(&["backup", "main"]);
    receiver.kill().unwrap();
    receiver.wait().unwrap();
    let backups = barman.run_json(&["list-backups", "main"]);
    assert_eq!(backups["main"].as_array().unwrap().len(), 1, "{backups}");
}
