//! Retention cases as data: backups, a policy, and the verdicts expected.
//!
//! ```text
//! case R5: kept backups take their place
//! policy REDUNDANCY 2
//! minimum 1
//! b1 40 keep-full       KF
//! b2 20 ^b1             V
//! barman KF O
//! ```
//!
//! A backup is its name, its age in days, what is special about it, and its verdict: V, O, O* (potentially obsolete), KF,
//! KS or - (not judged). Special: `failed`, `waiting`, `started`, `keep-full`, `keep-standalone`, `^parent`, `verified`,
//! `tli=N`, `at=N` (its position, in segments), `of=N` (the cluster), `until=N` (days from now that it is kept). Without
//! `at`, positions follow the order of the lines. `barman` gives Barman's verdicts where they differ on purpose; `barman
//! -` says that it does not know the policy. `history N: 1@5 2@7` gives a timeline's ancestors and where each was left.

use std::str::FromStr;

/// One case.
#[derive(Debug, Clone, Default)]
pub struct VerdictCase {
    /// Its short name.
    pub name: String,
    /// The policy as written.
    pub policy: String,
    /// `minimum_redundancy`.
    pub minimum: u32,
    /// The backups, in the order of their identifiers.
    pub backups: Vec<CaseBackup>,
    /// Timelines, and their ancestors with the segment in which each was left.
    pub histories: Vec<(u32, Vec<(u32, u64)>)>,
    /// Barman's verdicts, in the order of the backups: where they differ from ours, else none. Empty if it does not know
    /// the policy.
    pub barman: Option<Vec<String>>,
}

/// A backup of a case.
#[derive(Debug, Clone, Default)]
pub struct CaseBackup {
    /// Its name in the case.
    pub name: String,
    /// Its age in days.
    pub age_days: f64,
    /// `done`, `failed`, `waiting` or `started`.
    pub status: String,
    /// `full` or `standalone`.
    pub keep: Option<String>,
    /// Days from now until which it is kept.
    pub until_days: Option<i64>,
    /// The one it is an increment of.
    pub parent: Option<String>,
    /// Whether it was verified.
    pub verified: bool,
    /// Its timeline.
    pub timeline: u32,
    /// Its position, in segments.
    pub at: u64,
    /// Its cluster.
    pub cluster: u32,
    /// The verdict expected.
    pub verdict: String,
}

impl VerdictCase {
    /// The cases of a file.
    ///
    /// # Panics
    /// When the file is not as described above.
    #[must_use]
    pub fn parse_all(text: &str) -> Vec<Self> {
        let mut cases: Vec<VerdictCase> = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(title) = line.strip_prefix("case ") {
                let name = title.split(':').next().unwrap_or_default().to_owned();
                assert!(cases.iter().all(|case| case.name != name), "two cases {name}");
                cases.push(VerdictCase { name, ..VerdictCase::default() });
                continue;
            }
            let case = cases.last_mut().expect("a case first");
            match line.split_once(' ') {
                Some(("policy", policy)) => case.policy = policy.trim().to_owned(),
                Some(("minimum", number)) => case.minimum = parsed(number),
                Some(("barman", verdicts)) => {
                    let words = verdicts.split_whitespace().take_while(|word| *word != "because");
                    let words: Vec<String> = words.map(str::to_owned).collect();
                    case.barman = Some(if words == ["-"] { Vec::new() } else { words });
                }
                Some(("history", text)) => {
                    let (timeline, ancestors) = text.split_once(':').expect("history N: ...");
                    let ancestors = ancestors.split_whitespace().map(|word| {
                        let (ancestor, at) = word.split_once('@').expect("timeline@segment");
                        (parsed(ancestor), parsed(at))
                    });
                    case.histories.push((parsed(timeline), ancestors.collect()));
                }
                _ => {
                    let at = case.backups.len() as u64 + 1;
                    case.backups.push(CaseBackup::parse(line, at));
                }
            }
        }
        cases
    }
}

impl CaseBackup {
    fn parse(line: &str, at: u64) -> Self {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, age, special @ .., verdict] = words.as_slice() else { panic!("not a backup: {line}") };
        let mut backup = CaseBackup {
            name: (*name).to_owned(),
            age_days: parsed(age),
            status: "done".to_owned(),
            timeline: 1,
            at,
            cluster: 1,
            verdict: (*verdict).to_owned(),
            ..CaseBackup::default()
        };
        for word in special {
            match word.split_once('=') {
                Some(("tli", number)) => backup.timeline = parsed(number),
                Some(("at", number)) => backup.at = parsed(number),
                Some(("of", number)) => backup.cluster = parsed(number),
                Some(("until", number)) => backup.until_days = Some(parsed(number)),
                _ => match *word {
                    "failed" | "waiting" | "started" => backup.status = (*word).to_owned(),
                    "keep-full" => backup.keep = Some("full".to_owned()),
                    "keep-standalone" => backup.keep = Some("standalone".to_owned()),
                    "verified" => backup.verified = true,
                    _ => {
                        let parent = word.strip_prefix('^').unwrap_or_else(|| panic!("{word:?} in {line}"));
                        backup.parent = Some(parent.to_owned());
                    }
                },
            }
        }
        backup
    }
}

fn parsed<T: FromStr>(text: &str) -> T {
    text.trim().parse().unwrap_or_else(|_| panic!("not a number: {text:?}"))
}
