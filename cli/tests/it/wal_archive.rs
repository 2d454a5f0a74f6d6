//! `wal-archive`: WAL goes from a database host to a backup host, and is acknowledged only when it is safe there.

use std::fs;
use std::time::Instant;

use crate::support::{Run, barkeep};
use crate::wal_scene::{Far, Scene, all_names};

#[test]
fn what_is_shipped_to_barman_is_there_in_every_form() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    testkit::require_sshd!();
    let scene = Scene::new(15);
    let forms = ["", "--md5", "-z", "-j", "--xz", "--zstd", "--lz4"];
    let files = scene.write_segments(forms.len());
    for (form, file) in forms.iter().zip(&files) {
        let options: Vec<&str> = form.split_terminator(' ').collect();
        let run = scene.archive(Far::Barman, &options, file).success();
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""), "{form}");
        scene.assert_kept(file);
        // And once more: the same file is no news.
        scene.archive(Far::Barman, &options, file).success();
    }
    assert_eq!(scene.logins(), 1, "one connection for all calls: {}", scene.ssh_log());
}

#[test]
fn the_stream_is_compressed_where_the_far_end_takes_it_so() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    testkit::require_sshd!();
    for (far, learned) in [(Far::Barkeep, "zstd\n"), (Far::Barman, "plain\n")] {
        let scene = Scene::new(15);
        let files = scene.write_segments(2);
        let notes = || {
            let run = scene.dir.join("run/barkeep");
            let all = all_names(&run).into_iter().filter(|name| name.ends_with(".stream"));
            all.map(|name| fs::read_to_string(run.join(name)).unwrap()).collect::<Vec<_>>()
        };
        for file in &files {
            let run = scene.archive(far, &[], file).success();
            assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""), "{far:?}");
            scene.assert_kept(file);
            assert_eq!(notes(), [learned], "{far:?}");
        }
    }
}

#[test]
fn a_far_end_that_is_replaced_by_barman_is_no_trouble() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    testkit::require_sshd!();
    let scene = Scene::new(15);
    let files = scene.write_segments(2);
    let program = scene.dir.write("far", "");
    let answer_by = |far: Far| {
        let words = scene.words(far);
        let real = words[words.iter().position(|word| word == "--remote-program").unwrap() + 1].clone();
        fs::write(&program, format!("#!/bin/sh\nexec {real} \"$@\"\n")).unwrap();
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    };
    let mut words = scene.words(Far::Barman);
    let at = words.iter().position(|word| word == "--remote-program").unwrap() + 1;
    words[at] = program.display().to_string();
    for (far, file) in [(Far::Barkeep, &files[0]), (Far::Barman, &files[1])] {
        answer_by(far);
        let mut command = scene.client();
        command.arg("wal-archive").args(&words).args(["127.0.0.1", "main", &format!("pg_wal/{file}")]);
        Run::of(&mut command).success();
        scene.assert_kept(file);
    }
}

#[test]
fn exit_codes_are_those_of_barmans_client() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    testkit::require_sshd!();
    let scene = Scene::new(15);
    let file = &scene.write_segments(1)[0];
    let run = |words: &[&str]| {
        let mut command = scene.client();
        Run::of(command.arg("wal-archive").args(words))
    };
    let path = format!("pg_wal/{file}");
    let far = scene.words(Far::Barman);
    let far: Vec<&str> = far.iter().map(String::as_str).collect();
    let with = |words: &[&str]| run(&[&far[..], words].concat());

    // No such server: the far end's own code.
    with(&["127.0.0.1", "other", &path])
        .fails_with_one_line(1, &[file, "not archived", "exit code 1", "other"]);
    // What can't be shipped.
    with(&["127.0.0.1", "main", "pg_wal/000000010000000000000FFF"])
        .fails_with_one_line(2, &["cannot archive"]);
    with(&["127.0.0.1", "main", "pg_wal"]).fails_with_one_line(2, &["not a WAL file's name"]);
    with(&["127.0.0.1", "main"]).exits_with(2);
    with(&["127.0.0.1", "--", "-x", &path]).fails_with_one_line(2, &["name of a server"]);
    with(&["127.0.0.1", "main", &path, "-z", "--zstd"]).exits_with(2);
    // No connection.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    run(&["--port", &port, "127.0.0.1", "main", &path]).fails_with_one_line(3, &["cannot reach", "refused"]);
    // No such program.
    with(&["--remote-program", "/nonexistent/barman", "127.0.0.1", "main", &path])
        .fails_with_one_line(127, &["--remote-program"]);
    // What is Barman's default, and a number that makes no sense.
    with(&["-p", "0", "127.0.0.1", "main", &path]).success();
    fs::remove_file(scene.barman.server_dir("main").join("incoming").join(file)).unwrap();
    with(&["-p", "x", "127.0.0.1", "main", &path]).exits_with(2);
    // A test ships nothing.
    let test = with(&["--test", "127.0.0.1", "main", "any"]).success();
    assert!(test.stdout.contains("Ready to accept WAL files for the server main"), "{test:?}");
    let incoming = scene.barman.server_dir("main").join("incoming");
    assert_eq!(all_names(&incoming), [""; 0]);
}

#[test]
fn a_batch_is_acknowledged_file_by_file_without_another_connection() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    testkit::require_sshd!();
    let scene = Scene::new(15);
    let files = scene.write_segments(6);
    let ready = |file: &str| scene.wal(&format!("archive_status/{file}.ready")).exists();
    assert!(files.iter().all(|file| ready(file)));
    // Not connected for longer than a call takes.
    let options = ["--parallel", "4", "--keep-connection", "0"];
    scene.archive(Far::Barman, &options, &files[0]).success();
    for file in &files[..4] {
        scene.assert_kept(file);
    }
    for file in &files[1..4] {
        scene.archive(Far::Barman, &options, file).success();
    }
    assert_eq!(scene.logins(), 1, "{}", scene.ssh_log());
    assert!(!scene.barman.server_dir("main").join("incoming").join(&files[4]).exists());

    // Without --parallel, nothing is taken on trust.
    scene.archive(Far::Barman, &["--keep-connection", "0"], &files[1]).success();
    assert_eq!(scene.logins(), 2, "{}", scene.ssh_log());
    // Nor for another server, or a file whose content is another now.
    let changed = scene.wal(&files[2]);
    let mut content = fs::read(&changed).unwrap();
    content[8192] ^= 1;
    fs::write(&changed, content).unwrap();
    scene.archive(Far::Barman, &options, &files[2]);
    assert_eq!(scene.logins(), 3, "{}", scene.ssh_log());
}

#[test]
fn a_file_that_the_far_end_refuses_does_not_hold_up_the_one_asked_for() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    testkit::require_sshd!();
    let scene = Scene::new(15);
    let files = scene.write_segments(3);
    // Barman can't read a member of this name's directory: a directory is in the way.
    fs::create_dir(scene.barman.server_dir("main").join("incoming").join(&files[1])).unwrap();
    scene.archive(Far::Barman, &["-p", "3"], &files[0]).success();
    scene.assert_kept(&files[0]);
    let second = scene.archive(Far::Barman, &["-p", "3"], &files[1]);
    assert_ne!(second.code, Some(0), "{second:?}");
}

#[test]
fn a_shared_cache_directory_is_refused() {
    testkit::require_pg!(15);
    testkit::require_sshd!();
    testkit::require_barman!();
    let scene = Scene::new(15);
    let file = &scene.write_segments(1)[0];
    let open = scene.dir.subdir("open");
    fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let cache = open.to_str().unwrap();
    scene
        .archive(Far::Barman, &["-p", "2", "--prefetch-cache-dir", cache], file)
        .fails_with_one_line(2, &[cache, "others may"]);
}

#[test]
fn starts_in_a_few_milliseconds() {
    // Not a measurement: it must not read a configuration, start a runtime or connect before it knows that it has to.
    let begin = Instant::now();
    let mut command = std::process::Command::new(barkeep());
    let run = Run::of(command.args([
        "wal-archive",
        "host.invalid",
        "main",
        "/nonexistent/000000010000000000000001",
    ]));
    run.fails_with_one_line(2, &["cannot archive"]);
    assert!(begin.elapsed().as_secs() < 20);
}

#[test]
fn a_home_on_this_machine_needs_no_ssh() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    testkit::require_sshd!();
    let scene = Scene::new(15);
    let file = &scene.write_segments(1)[0];
    let path = scene.wal(file);
    let archive = |words: &[&str]| scene.on_backup_host(&[&["wal-archive", "--local"], words].concat());
    for _ in 0..2 {
        archive(&["main", path.to_str().unwrap()]).success();
        scene.assert_kept(file);
    }
    assert_eq!(scene.logins(), 0);
    archive(&["-p", "0", "main", path.to_str().unwrap()]).success();
    archive(&["-p", "2", "main", path.to_str().unwrap()]).fails_with_one_line(2, &["one file at a time"]);
    archive(&["other", path.to_str().unwrap()]).fails_with_one_line(1, &["Unknown server 'other'"]);
    archive(&["host", "main", path.to_str().unwrap()]).exits_with(2);
    archive(&["main", "/nonexistent/000000010000000000000001"]).fails_with_one_line(2, &["cannot archive"]);
}

#[test]
fn answers_to_the_name_of_barmans_client() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("barman-wal-archive");
    std::os::unix::fs::symlink(barkeep(), &link).unwrap();
    let run = |words: &[&str]| Run::of(std::process::Command::new(&link).args(words));
    run(&["host", "main", "/nonexistent/000000010000000000000001"])
        .fails_with_one_line(2, &["cannot archive"]);
    assert!(run(&["--help"]).success().stdout.contains("--prefetch-cache-dir"));
    for version in ["-V", "--version"] {
        assert!(run(&[version]).success().stdout.contains(env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn a_local_home_has_the_file_archived_listed_and_compressed_at_once() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    testkit::require_sshd!();
    let scene = Scene::configured(15, "compression = zstd");
    let files = scene.write_segments(3);
    for file in &files {
        let path = scene.wal(file);
        let archive = || scene.on_backup_host(&["wal-archive", "--local", "main", path.to_str().unwrap()]);
        let run = archive().success();
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""));
        archive().success();
        scene.assert_kept(file);
    }
    let server = scene.barman.server_dir("main");
    assert_eq!(all_names(&server.join("incoming")), [""; 0], "nothing waits for the archiver");
    let list = fs::read_to_string(server.join("wals/main-xlog.db")).unwrap();
    assert_eq!(list.lines().map(|line| &line[..24]).collect::<Vec<_>>(), files);
    assert!(list.lines().all(|line| line.contains("\tzstd\t")), "{list}");
}

#[test]
fn other_content_under_a_name_is_never_acknowledged() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    testkit::require_sshd!();
    let scene = Scene::new(15);
    let files = scene.write_segments(2);
    let directory = scene.dir.subdir("other");
    let imposter = directory.join(&files[0]);
    fs::copy(scene.wal(&files[1]), &imposter).unwrap();
    testkit::unprivileged_user().take_over(&directory);
    let local = |path: &std::path::Path| {
        scene.on_backup_host(&["wal-archive", "--local", "main", path.to_str().unwrap()])
    };
    // Another segment's bytes.
    local(&imposter).fails_with_one_line(1, &[&files[0], "not archived"]);
    local(&scene.wal(&files[0])).success();
    local(&imposter).fails_with_one_line(1, &[&files[0], "other content"]);
    scene.assert_kept(&files[0]);
    // And over SSH.
    let mut command = scene.client();
    command.arg("wal-archive").args(scene.words(Far::Barkeep)).args(["127.0.0.1", "main"]).arg(&imposter);
    Run::of(&mut command).fails_with_one_line(1, &[&files[0], "not archived"]);
    scene.assert_kept(&files[0]);
}

/// Barman ends with 0 then, and without `errors/` it even drops the file.
#[test]
fn barmans_success_is_none_when_other_content_waits_under_the_name() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    testkit::require_sshd!();
    let scene = Scene::new(15);
    let files = scene.write_segments(3);
    fs::remove_dir(scene.barman.server_dir("main").join("errors")).unwrap();
    scene.archive(Far::Barman, &[], &files[1]).success();
    let kept = fs::read(scene.wal(&files[1])).unwrap();
    fs::copy(scene.wal(&files[0]), scene.wal(&files[1])).unwrap();
    let refused = scene.archive(Far::Barman, &[], &files[1]);
    refused.fails_with_one_line(1, &[&files[1], "not archived", "Duplicate Files Detected"]);
    // Nor does it hold up the one before it.
    scene.archive(Far::Barman, &["-p", "3"], &files[0]).success();
    scene.assert_kept(&files[0]);
    scene.archive(Far::Barman, &["-p", "3"], &files[1]).exits_with(1);
    let incoming = scene.barman.server_dir("main").join("incoming");
    assert!(fs::read(incoming.join(&files[1])).unwrap() == kept);
}

/// Killed at any moment, a call leaves the file whole or absent, and the next call finishes.
#[test]
fn a_killed_call_loses_nothing() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    testkit::require_sshd!();
    let scene = Scene::configured(15, "compression = gzip");
    let files = scene.write_segments(4);
    let server = scene.barman.server_dir("main");
    for (number, file) in files.iter().cycle().take(40).enumerate() {
        let path = scene.wal(file);
        let (far, words) = (scene.words(Far::Barkeep), path.to_str().unwrap());
        let mut command = scene.client();
        if number % 2 == 0 {
            command.arg("-c").arg(scene.barman.config_path());
            command.args(["wal-archive", "--local", "main", words]);
        } else {
            command.arg("wal-archive").args(far).args(["127.0.0.1", "main", words]);
        }
        let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(number as u64 * 4 % 90));
        let _ = child.kill();
        let acknowledged = child.wait().unwrap().success();
        let archived = server.join("wals").join(&file[..16]).join(file);
        if acknowledged {
            scene.assert_kept(file);
        } else if archived.exists() || server.join("incoming").join(file).exists() {
            // Under its own name, it is whole.
            testkit::wait_for("the far end to be done", 60, || {
                let there = archived.exists() || server.join("incoming").join(file).exists();
                there.then_some(())
            });
            scene.assert_kept(file);
        }
    }
    for file in &files {
        let path = scene.wal(file);
        scene.on_backup_host(&["wal-archive", "--local", "main", path.to_str().unwrap()]).success();
    }
    scene.on_backup_host(&["archive-wal", "main"]).success();
    for file in &files {
        scene.assert_kept(file);
    }
    let list = fs::read_to_string(server.join("wals/main-xlog.db")).unwrap();
    let mut listed: Vec<&str> = list.lines().map(|line| &line[..24]).collect();
    listed.sort_unstable();
    assert_eq!(listed, files, "each is listed, and once");
    assert_eq!(all_names(&server.join("errors")), [""; 0]);
    let hash_directory = server.join("wals").join(&files[0][..16]);
    assert_eq!(all_names(&hash_directory), files, "and nothing else is left there");
}

#[test]
fn a_full_or_closed_home_is_no_acknowledgement() {
    testkit::require_pg!(15);
    testkit::require_barman!();
    testkit::require_sshd!();
    let scene = Scene::new(15);
    let file = &scene.write_segments(1)[0];
    let server = scene.barman.server_dir("main");
    let close = |mode| {
        for directory in ["wals", "incoming", "errors"] {
            fs::set_permissions(server.join(directory), std::os::unix::fs::PermissionsExt::from_mode(mode))
                .unwrap();
        }
    };
    close(0o500);
    let path = scene.wal(file);
    let local = || scene.on_backup_host(&["wal-archive", "--local", "main", path.to_str().unwrap()]);
    local().fails_with_one_line(1, &["not archived", "Permission denied"]);
    scene.archive(Far::Barkeep, &[], file).fails_with_one_line(1, &["not archived", "Permission denied"]);
    close(0o700);
    local().success();
    scene.archive(Far::Barkeep, &[], file).success();
    scene.assert_kept(file);
}
