//! `put-wal`: what an `archive_command` on another host may rely on.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use testkit::wal::{SEGMENT_BYTES, segment_of};

use crate::stored::{archive, content, home, layout, listed, names, segment};
use crate::support::{Home, Run, barkeep};

/// A tar stream as Python's tarfile writes it, which is what Barman's client sends.
pub(crate) fn tar_stream(home: &Home, python: &Path, files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let script = "import sys, io, tarfile, hashlib, os\n\
        tar = tarfile.open(mode='w|', fileobj=sys.stdout.buffer, format=tarfile.PAX_FORMAT)\n\
        sums = ''\n\
        for path in sys.argv[1:]:\n\
        \x20   name = os.path.basename(path)\n\
        \x20   tar.add(path, name)\n\
        \x20   sums += hashlib.sha256(open(path, 'rb').read()).hexdigest() + ' *' + name + '\\n'\n\
        info = tarfile.TarInfo('SHA256SUMS')\n\
        info.size = len(sums)\n\
        tar.addfile(info, io.BytesIO(sums.encode()))\n\
        tar.close()\n";
    let directory = home.join("sender");
    fs::create_dir_all(&directory).unwrap();
    let paths: Vec<_> = files
        .iter()
        .map(|(name, content)| {
            fs::write(directory.join(name), content).unwrap();
            directory.join(name)
        })
        .collect();
    let output = Command::new(python).args(["-c", script]).args(paths).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

pub(crate) fn python() -> std::path::PathBuf {
    testkit::programs::barman_bin_dir().expect("Barman: call require_barman! first").join("python")
}

pub(crate) fn put(home: &Home, stream: &[u8]) -> Run {
    let mut command = home.command();
    command.args(["put-wal", "main"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let stream = stream.to_vec();
    let feeder = std::thread::spawn(move || stdin.write_all(&stream));
    let output = child.wait_with_output().unwrap();
    // A refused stream is not read to its end.
    let _ = feeder.join().unwrap();
    Run {
        command: "put-wal".to_owned(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code(),
    }
}

#[test]
fn says_whether_it_is_ready() {
    let home = home();
    let run = home.run(["put-wal", "--test", "main"]).success();
    assert_eq!(run.stdout, "Ready to accept WAL files for the server main\n");
    home.run(["put-wal", "--test", "other"]).fails_with_one_line(1, &["Unknown server 'other'"]);
    let home = home.with("main", "active", "false");
    home.run(["put-wal", "--test", "main"]).fails_with_one_line(1, &["Inactive server: main"]);
}

#[test]
fn takes_what_barmans_client_sends_and_takes_it_again() {
    testkit::require_barman!();
    let home = home();
    let one = segment(1, 1);
    // Barman's own client, with its SSH replaced by a shell on this machine.
    let bin = home.join("bin");
    fs::create_dir_all(&bin).unwrap();
    fs::write(
        bin.join("ssh"),
        "#!/bin/sh\nuntil [ \"${1#*@}\" != \"$1\" ]; do shift; done\nshift\nexec sh -c \"$*\"\n",
    )
    .unwrap();
    fs::set_permissions(bin.join("ssh"), fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink(barkeep(), bin.join("barman")).unwrap();
    let path = home.join(one.to_string());
    fs::write(&path, content(one)).unwrap();
    let path_variable = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    for options in [&[][..], &["--md5"], &["-z"], &["--zstd"]] {
        let output = Command::new(python())
            .arg(testkit::programs::barman_bin_dir().unwrap().join("barman-wal-archive"))
            .args(["-U", "nobody"])
            .args(options)
            .args(["backup-host", "main"])
            .arg(&path)
            .env("PATH", &path_variable)
            .env("BARMAN_CONFIG_FILE", home.config())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        // A compressor that this Barman was installed without is not what is tested.
        if said.contains("No module named") {
            continue;
        }
        assert!(output.status.success(), "{options:?}: {output:?}");
        assert_eq!(fs::read(layout(&home).incoming.join(one.to_string())).unwrap(), content(one));
    }
    home.run(["archive-wal", "main"]).success();
    assert_eq!(archive(&home), [one.to_string()]);
    // Barman finds it in what barkeep has archived.
    let barman = testkit::programs::barman_bin_dir().unwrap();
    let got = Command::new(barman.join("barman"))
        .args(["-q", "-c"])
        .arg(home.config())
        .args(["get-wal", "main", &one.to_string()])
        .output()
        .unwrap();
    assert!(got.status.success() && got.stdout == content(one), "{:?}", got.status);
}

#[test]
fn other_content_under_a_name_that_is_taken_is_never_acknowledged() {
    testkit::require_barman!();
    let home = home();
    let one = segment(1, 1).to_string();
    let stream = tar_stream(&home, &python(), &[(&one, content(segment(1, 1)))]);
    put(&home, &stream).success();
    put(&home, &stream).success();
    let other = testkit::wal::segment(1, SEGMENT_BYTES as u64, SEGMENT_BYTES, 7);
    let other = tar_stream(&home, &python(), &[(&one, other)]);
    for _ in 0..2 {
        put(&home, &other).fails_with_one_line(1, &[&one, "is there already with other content", "errors/"]);
    }
    home.run(["archive-wal", "main"]).success();
    put(&home, &stream).success();
    put(&home, &other).fails_with_one_line(1, &[&one, "is there already with other content", "wals/"]);
    assert_eq!(names(layout(&home).errors).len(), 1, "kept once, however often it comes");
    let check = home.run(["check", "main"]);
    assert!(check.stdout.contains("archiver errors: FAILED (duplicates: 1)"), "{check:?}");
}

#[test]
fn damaged_and_foreign_wal_is_refused() {
    testkit::require_barman!();
    let home = home();
    let (one, two) = (segment(1, 1).to_string(), segment(1, 2).to_string());
    put(&home, &tar_stream(&home, &python(), &[(&one, content(segment(1, 1)))])).success();
    home.run(["archive-wal", "main"]).success();
    let mut damaged = content(segment(1, 2));
    damaged[777_777] ^= 0x10;
    let stream = tar_stream(&home, &python(), &[(&two, damaged)]);
    put(&home, &stream).fails_with_one_line(1, &[&two, "is refused", "checksum"]);
    let foreign = segment_of(1, 1, 2 * SEGMENT_BYTES as u64, SEGMENT_BYTES, 0);
    let stream = tar_stream(&home, &python(), &[(&two, foreign)]);
    put(&home, &stream).fails_with_one_line(
        1,
        &[&two, "different database system", "a new cluster needs a server section of its own"],
    );
    let check = home.run(["check", "main"]);
    assert!(check.stdout.contains("archiver errors: FAILED (damaged: 1, foreign: 1)"), "{check:?}");
    assert!(check.stdout.contains("see which cluster archives to this server"), "{check:?}");
    assert_eq!(names(layout(&home).incoming), [""; 0]);
}

#[test]
fn hostile_streams_leave_nothing_behind() {
    let home = home();
    put(&home, b"").fails_with_one_line(1, &["holds no WAL file", "put-wal for server 'main'"]);
    put(&home, &[7; 4096]).fails_with_one_line(1, &["no tar archive"]);
    put(&home, &vec![0; 4 << 20]).fails_with_one_line(1, &["goes on after its end"]);
    assert_eq!(names(layout(&home).incoming), [""; 0]);
}

#[test]
fn a_receiver_that_is_killed_acknowledges_nothing_and_leaves_no_half_file() {
    testkit::require_barman!();
    let home = home();
    let files: Vec<(String, Vec<u8>)> =
        (1..=6).map(|number| (segment(1, number).to_string(), content(segment(1, number)))).collect();
    let listed_files: Vec<(&str, Vec<u8>)> =
        files.iter().map(|(name, content)| (name.as_str(), content.clone())).collect();
    let stream = tar_stream(&home, &python(), &listed_files);
    for round in 0..24_u64 {
        let mut command = home.command();
        command.args(["put-wal", "main"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let bytes = stream.clone();
        let feeder = std::thread::spawn(move || {
            let _ = stdin.write_all(&bytes);
        });
        std::thread::sleep(std::time::Duration::from_millis(2 + round * 3));
        let _ = child.kill();
        let acknowledged = child.wait().unwrap().success();
        feeder.join().unwrap();
        let mut whole = 0;
        for (name, content) in &files {
            if let Ok(found) = fs::read(layout(&home).incoming.join(name)) {
                assert!(found == *content, "{name} is no whole file");
                whole += 1;
            }
        }
        assert!(!acknowledged || whole == files.len());
        // On a busy machine none may have come far enough to make it.
        if round % 5 == 4 && layout(&home).incoming.exists() {
            fs::remove_dir_all(layout(&home).incoming).unwrap();
        }
    }
    put(&home, &stream).success();
    home.run(["archive-wal", "main"]).success();
    assert_eq!(archive(&home).len(), files.len());
    assert_eq!(listed(&home).len(), files.len());
}
