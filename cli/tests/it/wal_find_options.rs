//! What narrows `wal find`, and its view on a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};
use serde_json::Value;
use testkit::{Cluster, wait_for};

use crate::restore_scene::Scene;

/// Statements in their order, each a transaction.
const STORY: &[&str] = &[
    "create schema shop",
    "create table shop.orders as select g as id, g as price from generate_series(1, 40) g",
    "create index orders_id on shop.orders (id)",
    "create index orders_price on shop.orders (id)",
    "create materialized view shop.totals as select sum(price) from shop.orders",
    "create table public.orders as select g as id from generate_series(1, 3) g",
    "delete from shop.orders where id <= 7",
    "update shop.orders set price = 0 where id <= 17",
    "select pg_create_restore_point('before \"it\"')",
    "drop index shop.orders_id",
    "drop materialized view shop.totals",
    "alter table shop.orders drop column price",
    "truncate public.orders",
    "drop table shop.orders",
];

fn find(scene: &Scene, options: &[&str]) -> Vec<Value> {
    let run = scene.home.run([&["-f", "json", "wal", "find", "main"], options].concat()).success();
    let lines = run.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    // The last may tell where the WAL ends.
    lines.filter(|line| line["destroyed"].is_array()).collect()
}

/// What is told to be destroyed: statement and name.
fn told(events: &[Value]) -> Vec<String> {
    let deeds = events.iter().flat_map(|event| event["destroyed"].as_array().unwrap());
    deeds
        .map(|deed| {
            let text = |key: &str| deed[key].as_str().unwrap_or_default().to_owned();
            let rows = deed["rows"].as_u64().map_or_else(String::new, |rows| format!("{rows} of "));
            format!("{} {rows}{}.{}", text("statement"), text("schema"), text("name"))
        })
        .collect()
}

#[test]
fn what_is_asked_for_is_found_and_a_terminal_shows_all_of_it() {
    testkit::require_pg!(18);
    let scene = Scene::new(Cluster::builder(18).segment_size_mib(1));
    for statement in STORY {
        scene.cluster.execute(statement);
    }
    scene.archive();

    // The table's other index goes with it.
    let drops = [
        "DROP INDEX shop.orders_id",
        "DROP MATERIALIZED VIEW shop.totals",
        "DROP COLUMN shop.orders",
        "DROP TABLE shop.orders",
    ];
    let dropped = find(&scene, &["--op", "drop"]);
    assert_eq!(told(&dropped), drops);
    assert_eq!(dropped[2]["destroyed"][0]["column"], 2);
    let text = scene.home.run(["wal", "find", "main", "--op", "drop"]).success().stdout;
    assert!(text.contains("DROP COLUMN 2 of postgres.shop.orders"), "{text}");
    assert_eq!(told(&find(&scene, &["--op", "truncate"])), ["TRUNCATE TABLE public.orders"]);
    let kinds = [&drops[..3], &["TRUNCATE TABLE public.orders"], &drops[3..]].concat();
    assert_eq!(told(&find(&scene, &["--op", "DROP,truncate"])), kinds);
    // Few rows are told of only when they are asked for.
    assert_eq!(told(&find(&scene, &["--op", "delete"])), [] as [&str; 0]);
    assert_eq!(told(&find(&scene, &["--op", "delete", "--rows", "7"])), ["DELETE 7 of shop.orders"]);
    let of_table = [
        "DELETE 7 of shop.orders",
        "UPDATE 10 of shop.orders",
        "DROP COLUMN shop.orders",
        "DROP TABLE shop.orders",
    ];
    assert_eq!(told(&find(&scene, &["--table", "shop.orders"])), of_table);
    assert_eq!(told(&find(&scene, &["--table", "Shop.ORDERS"])), of_table);
    assert_eq!(told(&find(&scene, &["--table", "postgres.shop.orders", "--op", "update"])), of_table[1..2]);
    assert_eq!(told(&find(&scene, &["--table", "other.orders"])), [] as [&str; 0]);

    // Around the moment of a commit, and between two, everything is told.
    let all = find(&scene, &["--commits"]);
    let time = |event: &Value| event["time"].as_str().unwrap().to_owned();
    let (first, last) = (time(&all[0]), time(all.last().unwrap()));
    assert_eq!(find(&scene, &["--around", &last]), all);
    assert_eq!(find(&scene, &["--between", &last, &first]), all);
    let before = find(&scene, &["--between", "2001-01-01 00:00", "2001-01-01 01:00"]);
    assert!(before.is_empty(), "{before:?}");
    let run = scene.home.run(["wal", "find", "main", "--between", "2001-01-01 00:00", "2001-01-01 01:00"]);
    assert!(run.stdout.contains("the first commit in this WAL is of 20"), "{run:#?}");
    let run = scene.home.run(["wal", "find", "main", "--around", "2901-01-01 00:00"]).success();
    assert!(run.stdout.contains("the last commit in this WAL is of 20"), "{run:#?}");
    assert_eq!(run.stderr, "");
    // A segment that is not full yet ends where it ends.
    scene.cluster.execute("checkpoint");
    let end = scene.cluster.value("select pg_current_wal_flush_lsn()");
    wait_for("the checkpoint to be received", 60, || {
        let received = format!("select flush_lsn >= '{end}' from pg_stat_replication");
        (scene.cluster.query_text(&received) == ["t"]).then_some(())
    });
    let run = scene.home.run(["wal", "find", "main"]).success();
    assert!(run.stdout.contains("has not been received yet") && run.stderr.is_empty(), "{run:#?}");
    let deleted = time(&find(&scene, &["--op", "delete", "--rows", "7"])[0]);
    let alone = find(&scene, &["--between", &deleted, &deleted]);
    assert_eq!(alone.len(), 1, "{alone:?}");
    terminal(&scene);
}

fn terminal(scene: &Scene) {
    let mut screen = Screen::of(scene, (30, 100));
    screen.shows("destroyed something");
    // The first loss is chosen, and told in full.
    screen.shows("To restore what was there just before:");
    screen.shows("! DROP MATERIALIZED VIEW postgres.shop.totals");
    screen.press(b"nnnn");
    screen.shows("of WAL, database postgres");
    screen.press(b"/before\r");
    screen.shows("only: before");
    screen.shows("restore point \"before \"\"it\"\"\"");
    screen.press(b"\r");
    screen.shows("To restore to it");
    screen.press(b"p");
    let printed = screen.ends();
    assert!(printed.contains("barkeep restore --target-lsn 0/"), "{printed:?}");
    assert!(printed.contains(&format!(" main {} DIRECTORY", scene.backup_id)), "{printed:?}");

    // Nothing is left of it on the terminal, whatever ends it.
    let mut narrow = Screen::of(scene, (8, 30));
    narrow.shows("DROP");
    narrow.press(b"\x03");
    narrow.ends();

    scene.home.run(["wal", "find", "main", "--tui"]).fails_with_one_line(1, &["--tui needs a terminal"]);
}

/// A terminal of so many rows and columns, and the program on it.
struct Screen {
    controller: File,
    child: Child,
    written: Arc<Mutex<Vec<u8>>>,
    reader: std::thread::JoinHandle<()>,
    user: OwnedFd,
    before: rustix::termios::Termios,
    rows: usize,
}

impl Screen {
    fn of(scene: &Scene, (rows, columns): (u16, u16)) -> Self {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let name = ptsname(&controller, Vec::new()).unwrap();
        let user = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        tcsetwinsize(&user, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let before = tcgetattr(&user).unwrap();
        let end = || Stdio::from(user.try_clone().unwrap());
        let mut command = scene.home.command();
        command.args(["wal", "find", "main", "--tui"]).env("TERM", "xterm");
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        let controller = File::from(controller);
        let written = Arc::new(Mutex::new(Vec::new()));
        let (mut source, into) = (controller.try_clone().unwrap(), Arc::clone(&written));
        let reader = std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = source.read(&mut piece) {
                into.lock().unwrap().extend_from_slice(&piece[..count]);
            }
        });
        Screen { controller, child, written, reader, user: user.into(), before, rows: rows.into() }
    }

    /// Waits until it is on the screen.
    fn shows(&self, text: &str) {
        wait_for(&format!("{text:?} on the screen"), 60, || {
            drawn(&self.written.lock().unwrap(), self.rows)
                .iter()
                .any(|line| line.contains(text))
                .then_some(())
        });
    }

    fn press(&mut self, keys: &[u8]) {
        self.controller.write_all(keys).unwrap();
    }

    /// Waits for the end: exit code 0, and the terminal as it was. What was printed then.
    fn ends(mut self) -> String {
        let status = wait_for("the end of the program", 60, || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}");
        let after = tcgetattr(&self.user).unwrap();
        assert_eq!(after.local_modes, self.before.local_modes);
        drop(self.user);
        self.reader.join().unwrap();
        let written = self.written.lock().unwrap();
        let text = String::from_utf8_lossy(&written);
        let (_, after) = text.rsplit_once("\u{1b}[?1049l").expect("the screen of before");
        after.to_owned()
    }
}

/// The screen after all that was written: only what the drawing uses of a terminal's language.
fn drawn(written: &[u8], rows: usize) -> Vec<String> {
    let text = String::from_utf8_lossy(written);
    let mut screen = vec![Vec::new(); rows];
    let (mut row, mut column) = (0, 0);
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            '\u{1b}' if characters.next() == Some('[') => {
                let mut words = String::new();
                let end = characters.by_ref().find(|c| {
                    words.push(*c);
                    ('@'..='~').contains(c)
                });
                let mut numbers =
                    words.split(|c: char| !c.is_ascii_digit()).map(|word| word.parse().unwrap_or(1));
                match end {
                    Some('H') => {
                        let mut next = || numbers.next().unwrap_or(1usize) - 1;
                        (row, column) = (next(), next());
                    }
                    Some('J') => screen.iter_mut().for_each(Vec::clear),
                    _ => {}
                }
            }
            c if c.is_control() => {}
            c => {
                let Some(line) = screen.get_mut(row) else { continue };
                line.resize(line.len().max(column + 1), ' ');
                line[column] = c;
                column += 1;
            }
        }
    }
    screen.into_iter().map(|line| line.into_iter().collect()).collect()
}
