//! Backups with content that no server makes: odd names are restored, ways out of the backup are not followed.

use std::fs;
use std::os::unix::fs::symlink;

use testkit::Cluster;

use crate::restore_scene::{Scene, state};

#[test]
fn odd_names_come_along_and_nothing_leads_out_of_the_backup() {
    testkit::require_pg!(15);
    let scene = Scene::new(Cluster::builder(15));
    scene.archive();
    let data = scene.home.join("main/base").join(&scene.backup_id).join("data");
    let outside = scene.dir.subdir("outside");
    fs::write(outside.join("secret"), "secret").unwrap();
    fs::create_dir_all(data.join("certs")).unwrap();
    for name in ["new\nline", "quo'te\"s", "\u{e9}\u{4e2d}", " spaces "] {
        fs::write(data.join("certs").join(name), name).unwrap();
    }
    symlink(outside.join("secret"), data.join("certs/link")).unwrap();
    symlink(&outside, data.join("certs/directory")).unwrap();
    let pipe = data.join("certs/pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());

    let run = scene.restore("new", &[]).success();
    for strange in ["certs/link", "certs/directory", "certs/pipe"] {
        assert!(run.stderr.contains(strange), "{strange}: {run:#?}");
        assert!(!scene.destination("new").join(strange).exists(), "{strange}");
    }
    for name in ["new\nline", "quo'te\"s", "\u{e9}\u{4e2d}", " spaces "] {
        assert_eq!(fs::read_to_string(scene.destination("new").join("certs").join(name)).unwrap(), name);
    }
    // Verification names every one of them: none is in the manifest.
    let run = scene.home.run(["verify-backup", "main", "latest"]).exits_with(1);
    for part in ["certs/new\\nline\" is present on disk", "certs/pipe\" is not a regular file"] {
        assert!(run.stderr.contains(part), "{part}: {run:#?}");
    }

    // The same over what is there: a link in the destination is not written through.
    fs::remove_file(scene.destination("new").join("base/1/PG_VERSION")).unwrap();
    symlink(outside.join("secret"), scene.destination("new").join("base/1/PG_VERSION")).unwrap();
    scene.restore("new", &["--delta-restore"]).success();
    assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "secret");
    let restored = Cluster::adopt(15, &scene.destination("new"));
    restored.wait_until_writable();
    assert_eq!(state(&restored), state(&scene.cluster));

    // A tablespace that the record knows nothing of would be missing: refused before anything is copied.
    symlink(&outside, data.join("pg_tblspc/99999")).unwrap();
    scene.restore("other", &[]).fails_with_one_line(1, &["99999", "does not list"]);
    assert!(!scene.destination("other").exists());
}
