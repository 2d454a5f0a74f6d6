//! What transactions destroyed, by name, from the WAL of real servers.

use std::path::Path;

use pgwal::activity::{Commit, LossKind, Tracker};
use pgwal::names::Names;
use pgwal::{Decoder, Keep, SegmentSize};
use testkit::{Cluster, StopMode};

use crate::workload::segments_in;

/// The commits in a directory of WAL segments.
fn commits(dir: &Path) -> Vec<Commit> {
    let size = SegmentSize::DEFAULT;
    let mut tracker = Tracker::new(Names::new());
    let segments = segments_in(dir);
    let start = segments[0].first_lsn(size).unwrap();
    let mut decoder = Decoder::new(start, size).with_keep(Keep::Some(Tracker::needs));
    let mut commits = Vec::new();
    'segments: for segment in segments {
        let bytes = std::fs::read(dir.join(segment.to_string())).unwrap();
        let mut input = &bytes[..];
        loop {
            match decoder.next(&mut input) {
                Ok(Some(record)) => commits.extend(tracker.record(&record)),
                Ok(None) => break,
                // The WAL ends here.
                Err(_) => break 'segments,
            }
        }
    }
    commits
}

/// What a commit destroyed: `DROP TABLE db.schema.name`.
fn told(commit: &Commit) -> Vec<String> {
    let name = |part: &Option<String>| part.clone().unwrap_or_else(|| "?".to_owned());
    let losses = commit.losses.iter().map(|loss| {
        let object = &loss.object;
        match loss.kind.words() {
            words @ "DROP DATABASE" => format!("{words} {}", name(&object.database)),
            words @ "DROP SCHEMA" => format!("{words} {}.{}", name(&object.database), name(&object.schema)),
            words => format!(
                "{words}{} {} {}.{}.{}",
                if let LossKind::DropColumn { number } = loss.kind {
                    format!(" {number}")
                } else {
                    String::new()
                },
                object.kind_words(),
                name(&object.database),
                name(&object.schema),
                name(&object.name)
            ),
        }
    });
    let rows = commit.tables.iter().filter(|change| change.updated + change.deleted > 0).map(|change| {
        let table = format!("{}.{}", name(&change.table.schema), name(&change.table.name));
        format!("{table} +{} ~{} -{}", change.inserted, change.updated, change.deleted)
    });
    losses.chain(rows).collect()
}

/// Statements, each in a transaction of its own, and what they are to be told as.
const STORY: &[(&str, &[&str])] = &[
    ("create table public.plain (id int primary key, t text)", &[]),
    ("insert into plain select g, repeat('x', 3000) from generate_series(1, 100) g", &[]),
    ("create schema \"Odd \"\"Schema\"", &[]),
    ("create table \"Odd \"\"Schema\".\"t\u{e4}ble; with 'all'\" (a int)", &[]),
    ("create view seen as select 1 as one", &[]),
    ("create table parted (a int) partition by range (a)", &[]),
    ("create table part1 partition of parted for values from (0) to (1000)", &[]),
    ("create table early (a int); create index on early (a)", &[]),
    ("alter table early rename to late", &[]),
    ("create table kept (a int); insert into kept select generate_series(1, 50)", &[]),
    ("checkpoint", &[]),
    // None of these loses anything.
    ("alter table kept alter a type bigint", &[]),
    ("create index kept_a on kept (a); reindex table kept", &[]),
    ("begin; create table passing (a int); insert into passing values (1); drop table passing; commit", &[]),
    ("begin; drop table plain; rollback", &[]),
    ("create temp table tmp (a int); drop table tmp", &[]),
    ("alter table kept set unlogged; alter table kept set logged", &[]),
    ("vacuum full kept", &[]),
    ("cluster kept using kept_a", &[]),
    ("reindex index concurrently kept_a", &[]),
    ("create table wide (a int primary key, b text unique, c int, d int)", &[]),
    ("create index wide_c on wide (c); create index on wide (d)", &[]),
    ("alter table wide alter a type bigint", &[]),
    ("begin; create table brief (a int, b int); alter table brief drop b; drop table brief; commit", &[]),
    ("begin; drop index wide_c; rollback", &[]),
    ("create temp table tmp (a int primary key, b int); drop index if exists none; drop table tmp", &[]),
    ("create table child (a bigint references wide, e int)", &[]),
    ("begin; savepoint s; truncate kept; rollback to s; insert into kept values (51); commit", &[]),
    // These do.
    ("truncate plain", &["TRUNCATE TABLE told.public.plain"]),
    (
        "begin; truncate kept; insert into kept select generate_series(1, 9); commit",
        &["TRUNCATE TABLE told.public.kept"],
    ),
    ("insert into parted select generate_series(0, 199)", &[]),
    ("delete from parted where a < 150", &["public.part1 +0 ~0 -150"]),
    ("update parted set a = a + 1 where a > 180", &["public.part1 +0 ~19 -0"]),
    (
        "begin; savepoint s; delete from kept where a < 4; release s; delete from kept where a = 8; commit",
        &["public.kept +0 ~0 -4"],
    ),
    ("drop table late", &["DROP TABLE told.public.late"]),
    ("drop index wide_c", &["DROP INDEX told.public.wide_c"]),
    ("begin; drop index wide_d_idx; create index wide_d_idx on wide (d desc); commit", &[]),
    ("alter table wide drop c", &["DROP COLUMN 3 TABLE told.public.wide"]),
    // With its index.
    (
        "alter table wide drop d",
        &["DROP COLUMN 4 TABLE told.public.wide", "DROP INDEX told.public.wide_d_idx"],
    ),
    (
        "alter table wide drop constraint wide_b_key, drop b",
        &["DROP COLUMN 2 TABLE told.public.wide", "DROP INDEX told.public.wide_b_key"],
    ),
    ("vacuum full pg_attribute", &[]),
    ("vacuum full pg_attribute", &[]),
    ("alter table child drop e", &["DROP COLUMN 2 TABLE told.public.child"]),
    ("drop table child", &["DROP TABLE told.public.child"]),
    ("drop view seen", &["DROP VIEW told.public.seen"]),
    ("begin; alter table plain rename to brief; drop table brief; commit", &["DROP TABLE told.public.plain"]),
    (
        "drop schema \"Odd \"\"Schema\" cascade",
        &["DROP SCHEMA told.Odd \"Schema", "DROP TABLE told.Odd \"Schema.t\u{e4}ble; with 'all'"],
    ),
    ("drop table parted", &["DROP TABLE told.public.part1", "DROP TABLE told.public.parted"]),
];

fn losses_are_told_by_name(major: u32) {
    testkit::require_pg!(major);
    let builder = Cluster::builder(major).setting("wal_keep_size", "4GB").setting("autovacuum", "off");
    let mut cluster = builder.setting("wal_level", "replica").start();
    cluster.execute("create database told");
    let mut client = cluster.client_of("told");
    let mut expected = Vec::new();
    for (statement, losses) in STORY {
        client.batch_execute(statement).unwrap_or_else(|error| panic!("{statement}: {error}"));
        expected.extend(losses.iter().map(|loss| (*loss).to_owned()));
    }
    drop(client);
    cluster.execute("drop database told");
    expected.push("DROP DATABASE told".to_owned());
    cluster.stop(StopMode::Fast);
    let commits = commits(&cluster.data_dir().join("pg_wal"));
    let found: Vec<String> = commits.iter().flat_map(told).collect();
    assert_eq!(found, expected);
    // A dropped database is lost before the commit; anything else with it.
    for commit in &commits {
        let at_once = commit.losses.iter().any(|loss| loss.kind.words() == "DROP DATABASE");
        assert_eq!(commit.before < commit.lsn, at_once, "{commit:?}");
    }
    assert!(commits.iter().all(|commit| commit.bytes > 0 || commit.tables.is_empty()));
}

#[test]
fn losses_are_told_by_name_on_13() {
    losses_are_told_by_name(13);
}

#[test]
fn losses_are_told_by_name_on_14_and_15() {
    losses_are_told_by_name(14);
    losses_are_told_by_name(15);
}

#[test]
fn losses_are_told_by_name_on_17() {
    losses_are_told_by_name(17);
}

#[test]
fn losses_are_told_by_name_on_18() {
    losses_are_told_by_name(18);
}
