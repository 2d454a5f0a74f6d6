//! Guessing what a wrong policy was meant to be.

use super::parse::{read, read_wal, unit};
use super::{Policy, WalPolicy};

/// Longest text that is worth a guess, in bytes.
const GUESSED_BYTES_MAX: usize = 256;

/// Every word of the grammar but numbers.
const KEYWORDS: [&str; 23] = [
    "REDUNDANCY",
    "RECOVERY",
    "WINDOW",
    "OF",
    "KEEP",
    "AND",
    "VERIFIED",
    "MAIN",
    "HOUR",
    "HOURS",
    "DAY",
    "DAYS",
    "WEEK",
    "WEEKS",
    "MONTH",
    "MONTHS",
    "YEAR",
    "YEARS",
    "HOURLY",
    "DAILY",
    "WEEKLY",
    "MONTHLY",
    "YEARLY",
];

/// What people write for them.
const SYNONYMS: [(&str, &str); 8] = [
    ("H", "HOURS"),
    ("D", "DAYS"),
    ("W", "WEEKS"),
    ("M", "MONTHS"),
    ("Y", "YEARS"),
    ("RETENTION", "RECOVERY"),
    ("COPIES", "REDUNDANCY"),
    ("BACKUPS", "REDUNDANCY"),
];

/// A policy near this text.
pub(super) fn suggest_policy(text: &str) -> Option<Policy> {
    let words = keywords(text)?;
    let candidates = [words.join(" "), windows(&words).join(" "), redundancy(&words).join(" ")];
    candidates.iter().find_map(|candidate| read(candidate).ok())
}

/// A WAL policy near this text.
pub(super) fn suggest_wal(text: &str) -> Option<WalPolicy> {
    let words = keywords(text)?;
    let without_recovery: Vec<&str> =
        windows(&words).into_iter().filter(|word| *word != "RECOVERY").collect();
    read_wal(&words.join(" ")).or_else(|_| read_wal(&without_recovery.join(" "))).ok()
}

/// The words of a text as the grammar spells them; numbers and letters are words of their own, punctuation is none.
fn keywords(text: &str) -> Option<Vec<&str>> {
    if text.len() > GUESSED_BYTES_MAX {
        return None;
    }
    let mut words = Vec::new();
    for run in text.split(|c: char| !c.is_ascii_alphanumeric()) {
        let mut rest = run;
        while let Some(first) = rest.chars().next() {
            let is_number = first.is_ascii_digit();
            let end = rest.find(|c: char| c.is_ascii_digit() != is_number).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            rest = after;
            words.push(if is_number { word } else { nearest(word)? });
        }
    }
    Some(words)
}

/// The keyword that a word is, or nearly is.
fn nearest(word: &str) -> Option<&'static str> {
    let upper = word.to_ascii_uppercase();
    if let Some((_, keyword)) = SYNONYMS.iter().find(|(synonym, _)| *synonym == upper) {
        return Some(keyword);
    }
    let slips_max = match upper.len() {
        0..=3 => 1,
        4..=6 => 2,
        _ => 3,
    };
    let distances = KEYWORDS.iter().map(|keyword| (strsim::osa_distance(&upper, keyword), *keyword));
    let (slips, keyword) = distances.min_by_key(|(slips, _)| *slips)?;
    (slips <= slips_max && slips < upper.len()).then_some(keyword)
}

/// `7 DAYS`, `WINDOW OF 7 DAYS`, `RECOVERY WINDOW 7 DAYS` all mean `RECOVERY WINDOW OF 7 DAYS`.
fn windows<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let mut written = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let is_number = word.starts_with(|first: char| first.is_ascii_digit());
        if is_number && words.get(index + 1).is_some_and(|next| unit(next).is_some()) {
            written.extend(["RECOVERY", "WINDOW", "OF"]);
        }
        if !["RECOVERY", "WINDOW", "OF"].contains(word) {
            written.push(*word);
        }
    }
    written
}

/// `3 REDUNDANCY`, `KEEP 3 REDUNDANCY`, `REDUNDANCY OF 3` all mean `REDUNDANCY 3`.
fn redundancy<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let mut words: Vec<&str> = words.iter().copied().filter(|word| !["OF", "KEEP"].contains(word)).collect();
    if let [_, "REDUNDANCY"] = words.as_slice() {
        words.swap(0, 1);
    }
    words
}
