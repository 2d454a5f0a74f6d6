//! `get-wal`: every form of every answer, and its exit codes.

use std::fs;
use std::io::Read;
use std::process::Stdio;

use barkeep_transport::codec::Compression;
use pgwal::WalFile;

use crate::stored::{archived, content, deliver, home, layout, names, segment};
use crate::support::Home;

/// What get-wal puts out, as bytes.
fn get(home: &Home, arguments: &[&str]) -> Vec<u8> {
    let output = home.command().arg("get-wal").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn unpack(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    assert_eq!(Compression::detect(bytes), compression);
    let mut plain = Vec::new();
    compression.reader(bytes).unwrap().read_to_end(&mut plain).unwrap();
    plain
}

#[test]
fn hands_out_what_is_archived_in_every_form() {
    for stored in ["", "gzip", "bzip2", "xz", "zstd", "lz4", "snappy"] {
        let home = home().with("main", "compression", stored);
        let one = segment(1, 1);
        deliver(&home, one);
        home.run(["archive-wal", "main"]).success();
        let name = one.to_string();
        assert!(get(&home, &["main", &name]) == content(one), "{stored}");
        assert!(unpack(Compression::Gzip, &get(&home, &["-z", "main", &name])) == content(one), "{stored}");
        assert!(unpack(Compression::Bzip2, &get(&home, &["main", &name, "-j"])) == content(one), "{stored}");
        let kept = get(&home, &["--keep-compression", "main", &name]);
        assert!(kept == fs::read(layout(&home).wal(&WalFile::Segment(one))).unwrap(), "{stored}");
    }
}

#[test]
fn finds_what_is_not_archived_yet() {
    let home = home();
    deliver(&home, segment(1, 1));
    let partial = layout(&home).streaming.join(format!("{}.partial", segment(1, 2)));
    fs::create_dir_all(partial.parent().unwrap()).unwrap();
    fs::write(&partial, content(segment(1, 2))).unwrap();
    let (one, two) = (segment(1, 1).to_string(), segment(1, 2).to_string());
    assert!(get(&home, &["main", &one]) == content(segment(1, 1)));
    home.run(["get-wal", "main", &two])
        .fails_with_one_line(1, &[&two, "not found in server 'main'", "--partial"]);
    assert!(get(&home, &["-P", "main", &two]) == content(segment(1, 2)));
}

#[test]
fn writes_into_a_directory() {
    let home = home();
    deliver(&home, segment(1, 1));
    let name = segment(1, 1).to_string();
    let directory = home.join("out");
    fs::create_dir(&directory).unwrap();
    home.run(["get-wal", "-o", directory.to_str().unwrap(), "main", &name]).success();
    assert_eq!(names(&directory), std::slice::from_ref(&name));
    assert!(fs::read(directory.join(&name)).unwrap() == content(segment(1, 1)));
    home.run(["get-wal", "-o", "/nonexistent/out", "main", &name])
        .exits_with(3)
        .fails_with_one_line(3, &["/nonexistent/out"]);
}

#[test]
fn exit_codes_are_barmans() {
    let home = home();
    home.run(["get-wal", "main", "00000001000000000000000A"]).fails_with_one_line(1, &["not found"]);
    home.run(["get-wal", "main", "00000009.history"]).fails_with_one_line(1, &["not found"]);
    for name in ["rubbish", "", "../../etc/passwd", "00000001000000000000000"] {
        home.run(["get-wal", "main", name]).fails_with_one_line(3, &["is not a valid wal file name"]);
    }
    let mut asked = home.command();
    asked.args(["get-wal", "main", "rubbish"]).env("SSH_CONNECTION", "192.0.2.7 5 192.0.2.1 22");
    assert!(crate::support::Run::of(&mut asked).stderr.contains("(SSH host: 192.0.2.7)"));
    home.run(["get-wal", "other", "00000001000000000000000A"]).fails_with_one_line(1, &["Unknown server"]);
    let test = home.run(["get-wal", "--test", "main", "any"]).success();
    assert_eq!(test.stdout, "Ready to retrieve WAL files from the server main\n");
}

#[test]
fn a_damaged_file_is_never_handed_out_as_whole() {
    for stored in ["", "gzip", "bzip2", "xz", "zstd", "lz4", "snappy"] {
        let home = home().with("main", "compression", stored);
        let one = segment(1, 1);
        deliver(&home, one);
        home.run(["archive-wal", "main"]).success();
        let path = layout(&home).wal(&WalFile::Segment(one));
        let whole = fs::read(&path).unwrap();
        for length in [whole.len() - 1, whole.len() / 2, 65_568] {
            fs::write(&path, &whole[..length]).unwrap();
            let output = home.command().args(["get-wal", "main", &one.to_string()]).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{stored} cut to {length}");
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(told.contains("is damaged") && told.lines().count() == 1, "{stored}: {told}");
            let directory = home.join("out");
            fs::create_dir_all(&directory).unwrap();
            home.run(["get-wal", "-o", directory.to_str().unwrap(), "main", &one.to_string()]).exits_with(1);
            assert_eq!(names(&directory), [""; 0], "no partial state");
        }
    }
}

#[test]
fn lists_what_follows() {
    let home = home();
    let numbers = [4094, 4095, 4096, 4098];
    for number in numbers {
        deliver(&home, segment(1, number));
    }
    home.run(["archive-wal", "main"]).success();
    let from = segment(1, 4094).to_string();
    let expected: String = numbers[..3].iter().map(|number| format!("{}\n", segment(1, *number))).collect();
    assert_eq!(home.run(["get-wal", "--peek", "10", "main", &from]).success().stdout, expected);
    assert_eq!(home.run(["get-wal", "-p", "1", "main", &from]).success().stdout, format!("{from}\n"));
    let missing = segment(1, 9).to_string();
    assert_eq!(home.run(["get-wal", "-p", "5", "main", &missing]).success().stdout, "");
}

#[test]
fn labels_and_histories_are_handed_out() {
    let home = home();
    let names = ["00000002.history", "000000010000000000000001.00000028.backup"];
    archived(&home, names.map(|name| name.parse().unwrap()));
    for name in names {
        assert_eq!(get(&home, &["main", name]), format!("stands for {name}").into_bytes());
    }
}

#[test]
fn a_reader_that_goes_away_is_an_error() {
    let home = home();
    deliver(&home, segment(1, 1));
    let mut child = home
        .command()
        .args(["get-wal", "main", &segment(1, 1).to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(3));
}
