//! Disasters in busy traffic: each is found by name, and restoring as told gives back what was there just before.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use testkit::{Cluster, ClusterBuilder};

use crate::restore_scene::Scene;

/// What is told: kind, schema, name, rows.
type Told = (&'static str, Option<&'static str>, Option<&'static str>, Option<u64>);

/// Something that somebody regrets.
struct Disaster {
    database: &'static str,
    /// What is done before, each statement a transaction.
    prepare: &'static [&'static str],
    statement: &'static str,
    told: &'static [Told],
    /// A question whose answer must be the same after the restore.
    question: &'static str,
}

const POSTGRES: &str = "postgres";
const ODD: &str = "Odd \"DB\" \u{e9}";

const DISASTERS: &[Disaster] = &[
    // Renamed after the backup.
    Disaster {
        database: POSTGRES,
        prepare: &["alter table victim rename to \"Renamed Victim\""],
        statement: "drop table \"Renamed Victim\"",
        told: &[("drop", Some("public"), Some("Renamed Victim"), None)],
        question: "select count(*) || ' ' || sum(n) from \"Renamed Victim\"",
    },
    // Created and dropped between two backups.
    Disaster {
        database: POSTGRES,
        prepare: &[
            "create table between_backups (a int primary key, t text)",
            "insert into between_backups select g, repeat('x', 4000) from generate_series(1, 300) g",
        ],
        statement: "drop table between_backups",
        told: &[("drop", Some("public"), Some("between_backups"), None)],
        question: "select count(*) || ' ' || sum(a) from between_backups",
    },
    Disaster {
        database: POSTGRES,
        prepare: &[
            "create schema \"Sch\u{e4}ma; --\"",
            "create table \"Sch\u{e4}ma; --\".\"it's \"\"quoted\"\"\" as select generate_series(1, 70) as a",
            "create view \"Sch\u{e4}ma; --\".seen as select 1 as one",
        ],
        statement: "drop schema \"Sch\u{e4}ma; --\" cascade",
        told: &[
            ("drop", Some("Sch\u{e4}ma; --"), None, None),
            ("drop", Some("Sch\u{e4}ma; --"), Some("it's \"quoted\""), None),
            ("drop", Some("Sch\u{e4}ma; --"), Some("seen"), None),
        ],
        question: "select count(*) || ' ' || sum(a) from \"Sch\u{e4}ma; --\".\"it's \"\"quoted\"\"\"",
    },
    Disaster {
        database: POSTGRES,
        prepare: &["insert into log select g from generate_series(100, 150) g"],
        statement: "truncate log",
        told: &[("truncate", Some("public"), Some("log"), None)],
        question: "select count(*) || ' ' || sum(id) from log",
    },
    Disaster {
        database: POSTGRES,
        prepare: &["insert into bulk select generate_series(501, 2345)"],
        statement: "delete from bulk",
        told: &[("delete", Some("public"), Some("bulk"), Some(2345))],
        question: "select count(*) || ' ' || sum(n) from bulk",
    },
    Disaster {
        database: ODD,
        prepare: &["create table prices as select g as id, g * 2 as price from generate_series(1, 1200) g"],
        statement: "update prices set price = 0",
        told: &[("update", Some("public"), Some("prices"), Some(1200))],
        question: "select count(*) || ' ' || sum(price) from prices",
    },
    // The last one: whoever asks about it has to be in another database.
    Disaster {
        database: POSTGRES,
        prepare: &[],
        statement: "drop database \"Odd \"\"DB\"\" \u{e9}\"",
        told: &[("drop", None, None, None)],
        question: "select count(*) || ' ' || sum(price) from prices",
    },
];

fn value(cluster: &Cluster, database: &str, question: &str) -> String {
    cluster.client_of(database).query_one(question, &[]).unwrap().get(0)
}

/// Many small transactions, until told to stop: rows of `traffic` count up.
fn traffic(cluster: &Cluster, stop: &AtomicBool) {
    let mut client = cluster.client();
    let mut id = 0;
    while !stop.load(Ordering::Relaxed) {
        id += 1;
        client.execute("insert into traffic values ($1, now())", &[&id]).unwrap();
        if id % 10 == 0 {
            client.batch_execute("begin; update traffic set at = now() where id % 7 = 0; rollback").unwrap();
            client.batch_execute("create table passing (a int); drop table passing").unwrap();
        }
    }
}

fn find(scene: &Scene, options: &[&str]) -> Vec<Value> {
    let mut words = vec!["-f", "json", "wal", "find", "main"];
    words.extend(options);
    let run = scene.home.run(words).success();
    run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn of_name(events: &[Value]) -> Vec<&Value> {
    events.iter().filter(|event| event["destroyed"].as_array().is_some_and(|list| !list.is_empty())).collect()
}

fn every_disaster_is_found_and_undone(builder: ClusterBuilder) {
    let scene = Scene::new(builder);
    let cluster = &scene.cluster;
    cluster.execute("create database \"Odd \"\"DB\"\" \u{e9}\"");
    cluster.execute("create table traffic (id int primary key, at timestamptz)");
    let stop = AtomicBool::new(false);
    let mut expected = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| traffic(cluster, &stop));
        for disaster in DISASTERS {
            let asked = if disaster.statement.starts_with("drop database") { ODD } else { disaster.database };
            let mut client = cluster.client_of(disaster.database);
            for statement in disaster.prepare {
                client.batch_execute(statement).unwrap_or_else(|error| panic!("{statement}: {error}"));
            }
            expected.push((asked, value(cluster, asked, disaster.question)));
            client.batch_execute(disaster.statement).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    scene.archive();

    let events = find(&scene, &[]);
    let found = of_name(&events);
    let told: Vec<Vec<_>> = found
        .iter()
        .filter(|event| !event["destroyed"].to_string().contains("passing"))
        .map(|event| event["destroyed"].as_array().unwrap().iter().map(summary).collect())
        .collect();
    let wanted: Vec<Vec<_>> = DISASTERS
        .iter()
        .map(|disaster| {
            let database =
                if disaster.statement.starts_with("drop database") { ODD } else { disaster.database };
            let text = |text: Option<&str>| text.map(str::to_owned);
            let told = disaster.told.iter();
            told.map(|(what, schema, name, rows)| {
                ((*what).to_owned(), database.to_owned(), text(*schema), text(*name), *rows)
            })
            .collect()
        })
        .collect();
    assert_eq!(told, wanted);

    // The files of the backup tell the same as the map that was saved beside it.
    let names = scene.home.join("main/.barkeep/names");
    assert_eq!(std::fs::read_dir(&names).unwrap().count(), 1);
    std::fs::remove_dir_all(&names).unwrap();
    assert_eq!(find(&scene, &[]), events);

    let found = found.into_iter().filter(|event| !event["destroyed"].to_string().contains("passing"));
    for ((event, disaster), (asked, answer)) in found.zip(DISASTERS).zip(&expected) {
        let restore = &event["restore"];
        assert_eq!(restore["backup_id"], scene.backup_id.as_str());
        let mut options: Vec<&str> =
            restore["options"].as_array().unwrap().iter().map(|option| option.as_str().unwrap()).collect();
        options.extend(["--target-action", "promote"]);
        let restored = scene.recover("restored", &options);
        assert_eq!(&value(&restored, asked, disaster.question), answer, "{}", disaster.statement);
        // Nothing of the traffic is missing in between.
        let whole = "select (count(*) = coalesce(max(id), 0))::text from traffic";
        assert_eq!(value(&restored, POSTGRES, whole), "true");
        drop(restored);
        scene.remove("restored");
    }
}

fn summary(deed: &Value) -> (String, String, Option<String>, Option<String>, Option<u64>) {
    let text = |key: &str| deed[key].as_str().map(str::to_owned);
    (
        text("what").unwrap(),
        text("database").unwrap_or_default(),
        text("schema"),
        text("name"),
        deed["rows"].as_u64(),
    )
}

#[test]
fn every_disaster_is_found_and_undone_on_13() {
    testkit::require_pg!(13);
    every_disaster_is_found_and_undone(Cluster::builder(13).segment_size_mib(1));
}

#[test]
fn every_disaster_is_found_and_undone_on_15() {
    testkit::require_pg!(15);
    every_disaster_is_found_and_undone(Cluster::builder(15).checksums(true));
}

#[test]
fn every_disaster_is_found_and_undone_on_18() {
    testkit::require_pg!(18);
    every_disaster_is_found_and_undone(Cluster::builder(18).setting("wal_compression", "on"));
}
