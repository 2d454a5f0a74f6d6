//! The house rules that a compiler does not check: who may import whom, what may not be in the tree, and the
//! shape of source files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Every arrow between our crates that may exist in what ships.
const ALLOWED: &[(&str, &[&str])] = &[
    ("pgwal", &[]),
    ("barkeep-transport", &[]),
    ("barkeep-retention", &["pgwal"]),
    ("barkeep-catalog", &["barkeep-transport", "pgwal"]),
    ("pgbase", &["barkeep-transport", "pgwal"]),
    ("barkeep", &["barkeep-catalog", "barkeep-retention", "barkeep-transport", "pgbase", "pgwal"]),
    ("testkit", &[]),
];

/// A file longer than this holds two ideas.
const MAX_SOURCE_LINES: usize = 800;

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn cargo(arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO")).args(arguments).current_dir(workspace()).output().expect("cargo runs")
}

#[test]
fn crates_import_only_along_the_arrows() {
    let output = cargo(&["metadata", "--format-version", "1", "--no-deps", "--locked"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let arrows =
            allowed.get(name).unwrap_or_else(|| panic!("a new crate, {name}: draw its arrows first"));
        let imports: BTreeSet<&str> = package["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|dependency| dependency["kind"].as_str() != Some("dev"))
            .filter_map(|dependency| dependency["name"].as_str())
            .filter(|dependency| allowed.contains_key(dependency))
            .collect();
        for import in imports {
            assert!(arrows.contains(&import), "{name} may not import {import}");
        }
    }
}

#[test]
fn the_wal_library_brings_no_runtime_unless_asked() {
    let output = cargo(&["tree", "--locked", "-p", "pgwal", "--edges", "normal", "--prefix", "none"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8_lossy(&output.stdout);
    assert!(!tree.lines().any(|line| line.starts_with("tokio")), "{tree}");
}

/// Its checksum and its errors, with what those bring.
const WAL_LIBRARY_CRATES_MAX: usize = 8;

#[test]
fn the_wal_library_brings_a_handful_of_crates() {
    let output = cargo(&["tree", "--locked", "-p", "pgwal", "--edges", "normal", "--prefix", "none"]);
    let tree = String::from_utf8_lossy(&output.stdout);
    let crates: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(crates.contains("crc32c") && crates.len() <= WAL_LIBRARY_CRATES_MAX, "{crates:?}");
}

/// Where a bench shows that it pays.
const UNSAFE: [&str; 3] = ["pgwal/src/ahead.rs", "pgwal/src/checksum/short.rs", "pgwal/src/reader/mapped.rs"];

#[test]
fn unsafe_code_is_where_it_is_known_to_be() {
    let mut sources = Vec::new();
    for member in ["pgwal", "pgbase", "catalog", "retention", "transport", "cli", "testkit"] {
        collect(&workspace().join(member).join("src"), &mut sources);
    }
    let allows = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        text.contains("#![allow(") && text.contains("unsafe_code")
    };
    let mut found: Vec<PathBuf> = sources.into_iter().filter(allows).collect();
    found.sort();
    let expected: Vec<PathBuf> = UNSAFE.iter().map(|path| workspace().join(path)).collect();
    assert_eq!(found, expected);
}

#[test]
fn there_is_one_cryptography_provider() {
    let output = cargo(&["tree", "--locked", "--workspace", "--all-features", "--prefix", "none"]);
    let tree = String::from_utf8_lossy(&output.stdout);
    assert!(tree.lines().any(|line| line.starts_with("ring ")), "{tree}");
    assert!(!tree.lines().any(|line| line.starts_with("aws-lc-rs ")), "{tree}");
}

#[test]
fn sources_are_ascii_and_hold_one_idea_each() {
    let mut sources = Vec::new();
    for member in ["pgwal", "pgbase", "catalog", "retention", "transport", "cli", "testkit"] {
        for folder in ["src", "tests"] {
            collect(&workspace().join(member).join(folder), &mut sources);
        }
    }
    assert!(sources.len() > 20, "found only {sources:?}");
    for path in sources {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().count();
        assert!(lines <= MAX_SOURCE_LINES, "{} has {lines} lines: two ideas?", path.display());
        if let Some(line) = text.lines().position(|line| !line.is_ascii()) {
            panic!("{}:{} is not ASCII", path.display(), line + 1);
        }
    }
}

fn collect(folder: &Path, sources: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(path);
        }
    }
}
