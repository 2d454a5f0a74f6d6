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
    let receiver = barman.start_receiver("main", &cluster);
    barman.wait_for_first_wal("main", &cluster);
    barman.run(&["backup", "main"]);
    drop(receiver);
    let backups = barman.run_json(&["list-backups", "main"]);
    assert_eq!(backups["main"].as_array().unwrap().len(), 1, "{backups}");
}
