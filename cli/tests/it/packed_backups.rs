//! Backups that Barman stores as tar archives, compressed or not, with tablespaces.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::{Barman, Cluster};

use crate::support::{Run, barkeep};

/// A cluster with a tablespace, and a backup of it by Barman.
pub(crate) struct Packed {
    pub(crate) barman: Barman,
    pub(crate) cluster: Cluster,
}

impl Packed {
    pub(crate) fn new(major: u32, options: &str) -> Self {
        Self::of(Cluster::builder(major).checksums(true).start(), options)
    }

    pub(crate) fn of(cluster: Cluster, options: &str) -> Self {
        let space = cluster.new_dir("fast");
        cluster.execute(&format!("create tablespace fast location '{}'", space.display()));
        cluster.execute("create table kept as select generate_series(1, 1000) as id");
        cluster.execute("create index kept_id on kept (id)");
        cluster.execute("create table spaced tablespace fast as select generate_series(1, 200) as id");
        let barman = Barman::new();
        barman.add_server("main", &cluster, &format!("immediate_checkpoint = true\n{options}"));
        let receiver = barman.start_receiver("main", &cluster);
        barman.wait_for_first_wal("main", &cluster);
        barman.run(&["backup", "main"]);
        cluster.execute("insert into kept values (1001)");
        cluster.switch_wal();
        cluster.execute("insert into kept values (1002)");
        barman.archive_all("main", &cluster);
        drop(receiver);
        Packed { barman, cluster }
    }

    /// barkeep on Barman's home, as Barman's user.
    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        let mut command = Command::new(testkit::reachable_binary(barkeep()));
        command.arg("-c").arg(self.barman.config_path()).args(arguments).current_dir(self.barman.home());
        testkit::unprivileged_user().run_as(&mut command);
        Run::of(&mut command)
    }

    fn restore(&self, destination: &Path, spaces: &Path, options: &[&str]) -> Run {
        let mapping = format!("fast:{}", spaces.display());
        let mut words = vec!["restore"];
        words.extend(options);
        words.extend(["main", "latest", destination.to_str().unwrap(), "--tablespace", &mapping]);
        self.run(&words)
    }

    /// The data directory of the backup.
    pub(crate) fn data(&self) -> PathBuf {
        let base = self.barman.server_dir("main").join("base");
        fs::read_dir(base).unwrap().next().unwrap().unwrap().path().join("data")
    }

    fn check(&self, destination: &Path) {
        let restored = Cluster::adopt(self.cluster.major(), destination);
        restored.wait_until_writable();
        assert_eq!(restored.value("select count(*) from kept"), "1002");
        assert_eq!(restored.value("select count(*) from spaced"), "200");
    }
}

impl Drop for Packed {
    /// Stops the receiver that a cron has left running, also when the test fails.
    fn drop(&mut self) {
        let _ = self.run(&["receive-wal", "--stop", "main"]);
    }
}

fn a_file_that_comes_twice_is_refused(packed: &Packed) {
    let archive = packed.data().join("base.tar");
    let mut bytes = fs::read(&archive).unwrap();
    let at = bytes.chunks(512).position(|block| block.starts_with(b"PG_VERSION\0")).unwrap() * 512;
    // Header and content, again behind itself.
    let member = bytes[at..at + 1024].to_vec();
    bytes.splice(at..at, member);
    fs::write(&archive, bytes).unwrap();
    let (destination, spaces) = (packed.barman.new_dir("twice"), packed.barman.new_dir("twice-fast"));
    let run = packed.restore(&destination, &spaces, &[]).exits_with(1);
    assert!(run.stderr.contains("\"PG_VERSION\" is in it twice"), "{run:#?}");
    assert_eq!(fs::read_dir(&destination).unwrap().count(), 0);
}

fn restores(major: u32, options: &str, archive: &str) {
    let packed = Packed::new(major, options);
    assert!(packed.data().join(archive).exists(), "{archive}");
    let (destination, spaces) = (packed.barman.new_dir("new"), packed.barman.new_dir("new-fast"));
    packed.restore(&destination, &spaces, &[]).success();
    packed.check(&destination);
    // Over what the server has made of it; certificates and the like stay.
    fs::write(destination.join("server.crt"), "mine").unwrap();
    packed.restore(&destination, &spaces, &["--delta-restore"]).success();
    packed.check(&destination);
    assert!(destination.join("server.crt").exists());
    if archive == "base.tar" {
        a_file_that_comes_twice_is_refused(&packed);
    }
}

#[test]
fn restores_archives_compressed_by_gzip() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    restores(15, "backup_compression = gzip", "base.tar.gz");
}

#[test]
fn restores_archives_compressed_by_lz4() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    restores(15, "backup_compression = lz4", "base.tar.lz4");
}

#[test]
fn restores_archives_compressed_by_zstd() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    restores(15, "backup_compression = zstd\nbackup_compression_location = server", "base.tar.zst");
}

#[test]
fn restores_plain_archives_of_an_older_and_a_newer_server() {
    testkit::require_pg!(13);
    testkit::require_pg!(18);
    testkit::require_barman!();
    for major in [13, 18] {
        restores(major, "backup_compression = none", "base.tar");
    }
}

#[test]
fn damaged_archives_fail_and_leave_nothing() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    let packed = Packed::new(15, "backup_compression = gzip");
    let (destination, spaces) = (packed.barman.new_dir("new"), packed.barman.new_dir("new-fast"));
    let archive = packed.data().join("base.tar.gz");
    let whole = fs::read(&archive).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    let mut other = whole.clone();
    other.extend_from_slice(&whole);
    for damaged in
        [whole[..whole.len() / 2].to_vec(), whole[..whole.len() - 4].to_vec(), flipped, other, Vec::new()]
    {
        fs::write(&archive, damaged).unwrap();
        let run = packed.restore(&destination, &spaces, &[]).exits_with(1);
        assert!(run.stderr.contains("nothing of it was left behind"), "{run:#?}");
        assert_eq!(fs::read_dir(&destination).unwrap().count(), 0);
        assert_eq!(fs::read_dir(&spaces).unwrap().count(), 0);
    }
    fs::remove_file(&archive).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &archive).unwrap();
    packed.restore(&destination, &spaces, &[]).exits_with(1);
    assert_eq!(fs::read_dir(&destination).unwrap().count(), 0);
}

/// `verify-backup` of archives, and what `pg_verifybackup` says where it reads such: they agree.
fn verifies(major: u32, options: &str, archive: &str) {
    let packed = Packed::new(major, options);
    let check = |sound: bool, told: &str| {
        let run = packed.run(&["verify-backup", "main", "latest"]).exits_with(i32::from(!sound));
        assert!(run.stderr.contains(told), "{run:#?}");
        if let Some(tool) = testkit::client_tool("pg_verifybackup", 18).filter(|_| major == 18) {
            let mut command = Command::new(tool);
            let output =
                command.args(["--format=tar", "--no-parse-wal"]).arg(packed.data()).output().unwrap();
            assert_eq!(output.status.success(), sound, "{}", String::from_utf8_lossy(&output.stderr));
        }
    };
    check(true, "");
    let hint = ["made of tar archives", "barkeep verify-backup main"];
    packed.run(&["-q", "generate-manifest", "main", "latest"]).fails_with_one_line(1, &hint);
    let archive = packed.data().join(archive);
    let whole = fs::read(&archive).unwrap();
    // A plain archive shows which file is damaged.
    if let Some(header) = whole.windows(12).position(|name| name == b"global/1262\0") {
        let mut flipped = whole.clone();
        flipped[header + 512 + 100] ^= 1;
        fs::write(&archive, flipped).unwrap();
        check(false, "checksum mismatch for file \"global/1262\"");
    }
    fs::write(&archive, &whole[..whole.len() / 2]).unwrap();
    check(false, "can't be read");
    fs::remove_file(&archive).unwrap();
    check(false, "can't be read");
    fs::write(&archive, &whole).unwrap();
    check(true, "");
    let manifest = packed.data().join("backup_manifest");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replacen("base/1/1255", "base/1/9999", 1)).unwrap();
    packed.run(&["verify-backup", "main", "latest"]).exits_with(1);
    fs::remove_file(&manifest).unwrap();
    let run = packed.run(&["verify-backup", "main", "latest"]).exits_with(1);
    assert!(run.stderr.contains("no backup manifest"), "{run:#?}");
}

#[test]
fn verifies_archives_as_postgresql_does() {
    testkit::require_pg!(15, 18);
    testkit::require_barman!();
    verifies(18, "backup_compression = none", "base.tar");
    verifies(15, "backup_compression = gzip", "base.tar.gz");
}
