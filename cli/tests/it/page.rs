//! The page, in a real browser: drawn, without a word on its console, at the widths of a desk and of a telephone.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use testkit::{Cluster, TestDir, wait_for};

use crate::restore_scene::Scene;
use crate::support::{Home, Run};

/// Opens a page in Chromium: a picture of it, and what Chromium said.
fn look_at(url: &str, width: u32, picture: &Path) -> (Vec<u8>, Run) {
    let profile = TestDir::new();
    let mut command = Command::new(testkit::programs::chromium().unwrap());
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        "--v=0",
        &format!("--user-data-dir={}", profile.path().display()),
        &format!("--window-size={width},1400"),
        &format!("--screenshot={}", picture.display()),
        url,
    ]);
    let run = Run::of(&mut command).success();
    (fs::read(picture).unwrap(), run)
}

/// What JavaScript-free pages can still say on the console: errors of loading, of style, of policy.
#[track_caller]
fn says_nothing(run: &Run) {
    let said: Vec<&str> = run.stderr.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(said.is_empty(), "{said:?}");
}

/// The document as the browser understands it, with its measures.
fn measures(url: &str, width: u32) -> String {
    let profile = TestDir::new();
    let mut command = Command::new(testkit::programs::chromium().unwrap());
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        &format!("--user-data-dir={}", profile.path().display()),
        &format!("--window-size={width},1400"),
        "--dump-dom",
        url,
    ]);
    Run::of(&mut command).success().stdout
}

/// How many different colours there are in the middle of a PNG: a page that was not drawn is all of one.
fn is_drawn(png: &[u8]) -> bool {
    // What is all of one colour compresses to almost nothing.
    png.starts_with(b"\x89PNG") && png.len() > 12_000
}

fn history_of_a_server(scene: &mut Scene) {
    let cluster = &scene.cluster;
    cluster.execute("insert into log values (10)");
    cluster.execute("select pg_create_restore_point('before <b>lunch</b>')");
    for _ in 0..3 {
        cluster.execute("insert into bulk select generate_series(1, 20000)");
        scene.archive();
    }
    scene.home.run(["backup", "--wait", "--wait-timeout", "60", "main"]).success();
    scene.promote_original();
    scene.cluster.execute("insert into log values (20)");
    wait_for("the receiver to follow", 60, || {
        (scene.cluster.value("select count(*) from pg_stat_replication") == "1").then_some(())
    });
    for _ in 0..2 {
        scene.cluster.execute("insert into bulk select generate_series(1, 40000)");
        scene.archive();
    }
    scene.home.run(["archive-wal", "main"]).success();
}

#[test]
fn the_page_is_drawn_at_desk_and_telephone_width() {
    testkit::require_pg!(15);
    testkit::require_chromium!();
    let mut scene = Scene::with(Cluster::builder(15).segment_size_mib(1), |home| {
        home.with("main", "retention_policy", "RECOVERY WINDOW OF 1 DAYS")
    });
    history_of_a_server(&mut scene);
    let page = scene.dir.join("page.html");
    scene.home.run(["windows", "main", "--html", page.to_str().unwrap()]).success();
    let url = format!("file://{}", page.display());
    let keep = std::env::var_os("BARKEEP_SCREENSHOTS").map(std::path::PathBuf::from);
    for (width, shown) in [(1280, "wide"), (400, "narrow")] {
        let picture = keep.as_deref().unwrap_or(scene.dir.path()).join(format!("page-{width}.png"));
        let (png, run) = look_at(&url, width, &picture);
        says_nothing(&run);
        assert!(is_drawn(&png), "{shown}: {} bytes", png.len());
    }
    let dom = measures(&url, 1280);
    for part in [
        "<svg class=\"wide\"",
        "class=\"interval\"",
        "class=\"backup\"",
        "class=\"branch\"",
        "class=\"rate\"",
        "Timeline 2",
    ] {
        assert!(dom.contains(part), "{part}: {dom}");
    }
    assert!(dom.contains("before &lt;b&gt;lunch&lt;/b&gt;"), "{dom}");

    // The daemon shows the same, and more.
    let mut daemon = Listening::start(&scene.home);
    let url = format!("http://{}/", daemon.address);
    let picture = keep.as_deref().unwrap_or(scene.dir.path()).join("daemon-1280.png");
    let (png, run) = look_at(&url, 1280, &picture);
    says_nothing(&run);
    assert!(is_drawn(&png), "{} bytes", png.len());
    daemon.stop();
}

/// A daemon that answers over HTTP.
struct Listening {
    child: Child,
    address: SocketAddr,
}

impl Listening {
    fn start(home: &Home) -> Self {
        let said = home.join("listening.out");
        let file = fs::File::create(&said).unwrap();
        let mut command = home.command();
        command.args(["daemon", "--listen", "127.0.0.1:0"]);
        let child =
            command.stdout(file.try_clone().unwrap()).stderr(file).stdin(Stdio::null()).spawn().unwrap();
        let address = wait_for("the daemon to listen", 30, || {
            let said = fs::read_to_string(&said).unwrap_or_default();
            let (_, rest) = said.split_once("answers on http://")?;
            rest.split_once('/')?.0.parse().ok()
        });
        Listening { child, address }
    }

    /// Sends bytes and reads what comes until the connection is closed.
    fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // What is refused may be cut off in the middle.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    }

    fn stop(&mut self) {
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_daemon_tells_metrics_and_nothing_else() {
    testkit::require_pg!(15);
    let scene = Scene::with(Cluster::builder(15).segment_size_mib(1), |home| {
        home.with("main", "retention_policy", "REDUNDANCY 1")
    });
    scene.cluster.execute("insert into log values (10)");
    scene.archive();
    let mut daemon = Listening::start(&scene.home);
    let metrics = wait_for("the checks to be told", 90, || {
        let metrics = daemon.get("/metrics");
        (metrics.contains("barkeep_check_ok") && metrics.contains("barkeep_receiver_lag_bytes"))
            .then_some(metrics)
    });
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    for part in [
        "barkeep_rpo_seconds{server=\"main\"} ",
        "barkeep_last_backup_age_seconds{server=\"main\"} ",
        "barkeep_last_backup_size_bytes{server=\"main\"} ",
        "barkeep_last_backup_duration_seconds{server=\"main\"} ",
        "barkeep_archive_gaps{server=\"main\"} 0",
        "barkeep_receiver_running{server=\"main\"} 1",
        "barkeep_retention_backups{server=\"main\",verdict=\"VALID\"} 1",
        "barkeep_check_ok{server=\"main\",check=",
        "# TYPE barkeep_rpo_seconds gauge",
    ] {
        assert!(metrics.contains(part), "{part}: {metrics}");
    }
    assert!(daemon.get("/health").contains("\"ok\""));
    let page = daemon.get("/");
    assert!(page.contains("<h2>main</h2>") && page.contains("<svg"), "{page}");

    // Nothing is changed, nothing is told to strangers, and nobody holds it up.
    let status = |answer: String| answer.split(' ').nth(1).unwrap_or_default().to_owned();
    assert_eq!(status(daemon.get("/../../etc/passwd")), "404");
    assert_eq!(
        status(daemon.ask("POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")),
        "405"
    );
    assert_eq!(status(daemon.ask("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")), "403");
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(100_000));
    assert!(matches!(&status(daemon.ask(&long))[..], "414" | "431" | "400" | ""));
    assert_eq!(status(daemon.ask("\x16\x03\x01 rubbish\r\n\r\n")), "400");
    // One that says nothing is left after a while; until then others are answered.
    let silent: Vec<TcpStream> = (0..8).map(|_| TcpStream::connect(daemon.address).unwrap()).collect();
    assert!(daemon.get("/health").contains("\"ok\""));
    for mut stream in silent {
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let _ = stream.read_to_string(&mut String::new());
    }
    daemon.stop();
}

#[test]
fn only_this_machine_is_answered_unless_asked() {
    let home = Home::new();
    home.run(["daemon", "--listen", "0.0.0.0:0"])
        .fails_with_one_line(1, &["other machines", "--listen-publicly"]);
    home.run(["daemon", "--listen", "rubbish"]).exits_with(2);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    home.run(["daemon", "--listen", &address]).fails_with_one_line(1, &["can't listen"]);
}
