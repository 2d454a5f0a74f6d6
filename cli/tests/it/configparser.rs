//! The INI reader beside the one it imitates: Python's `configparser`, on texts made to be difficult.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use barkeep::config::ini::{Ini, interpolate};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

/// How many texts are tried.
const TEXTS: usize = 3000;

/// Reads a list of texts, prints for each what Python makes of it: sections with options, raw and interpolated; null
/// for what it refuses.
const PYTHON: &str = r#"
import configparser, json, sys
def read(text):
    parser = configparser.ConfigParser(strict=False)
    try:
        parser.read_string(text)
    except configparser.Error:
        return None
    sections = {}
    for section in parser.sections():
        options = {}
        for option in parser[section]:
            try:
                value = parser.get(section, option)
            except configparser.Error:
                value = None
            options[option] = [parser.get(section, option, raw=True), value]
        sections[section] = options
    return sections
print(json.dumps([read(text) for text in json.load(sys.stdin)]))
"#;

type Sections = BTreeMap<String, BTreeMap<String, (String, Option<String>)>>;

fn ours(text: &str) -> Option<Sections> {
    let ini = Ini::parse(text).ok()?;
    let read = |section: &str| {
        let options = ini.options(section);
        let value = |key: &String| interpolate(&options[key].value, &options).ok();
        options.keys().map(|key| (key.clone(), (options[key].value.clone(), value(key)))).collect()
    };
    Some(ini.sections().map(|section| (section.to_owned(), read(section))).collect())
}

/// Texts of lines that are likely to interact, and some noise.
fn texts() -> Vec<String> {
    let key = "[ab]|Key|DEFAULT|a b";
    let value = "|1|x = y|a:b|; c|# c|\"q\"|%%|%\\(a\\)s|%\\(KEY\\)s|%|%\\(a|%\\(\\)s|%\\(b\\)s%%";
    let line = proptest::prop_oneof![
        4 => (key, "[ \t]{0,2}[=:][ \t]{0,2}", value, "[ \t]{0,1}").prop_map(|(k, d, v, end)| format!("{k}{d}{v}{end}")),
        2 => "\\[(a|b|DEFAULT|a\\]b| |)\\][ x]?".prop_map(|header| header),
        2 => "[ \t]{1,3}(more|x = 1|# c|; c|\\[s\\]|%%|=)".prop_map(|line| line),
        1 => "(#|;|  #)[ =a]{0,4}".prop_map(|line| line),
        1 => proptest::strategy::Just(String::new()),
        1 => "[ \t]{1,2}".prop_map(|line| line),
        1 => "[\\[\\]=:#;%() a\t\u{e9}]{0,6}".prop_map(|line| line),
    ];
    let text = proptest::collection::vec(line, 0..12).prop_map(|lines| format!("[s]\n{}", lines.join("\n")));
    let mut runner = TestRunner::deterministic();
    (0..TEXTS).map(|_| text.new_tree(&mut runner).unwrap().current()).collect()
}

#[test]
fn reads_what_python_reads() {
    let texts = texts();
    let spawned =
        Command::new("python3").args(["-c", PYTHON]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut python) = spawned else {
        return testkit::notice_skipped("python3 is not installed");
    };
    let mut stdin = python.stdin.take().unwrap();
    stdin.write_all(serde_json::to_string(&texts).unwrap().as_bytes()).unwrap();
    drop(stdin);
    let output = python.wait_with_output().unwrap();
    let theirs: Vec<Option<Sections>> = serde_json::from_slice(&output.stdout).unwrap();
    let mut accepted = 0;
    for (text, theirs) in texts.iter().zip(theirs) {
        assert_eq!(ours(text), theirs, "{text:?}");
        accepted += usize::from(theirs.is_some());
    }
    assert!(accepted > TEXTS / 5, "only {accepted} texts were of any use");
}
