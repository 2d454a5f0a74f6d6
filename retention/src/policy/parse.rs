//! Reading policies.

use std::str::FromStr;

use super::suggest::{suggest_policy, suggest_wal};
use super::{Calendar, Clause, Period, Policy, Rule, WalPolicy, Window, WindowUnit};

/// Longest policy that is looked at, in bytes; real ones are a line.
const TEXT_BYTES_MAX: usize = 4096;
/// How much of a wrong text an error repeats, in characters.
const QUOTED_CHARS_MAX: usize = 64;

/// A text that is not a policy: where it goes wrong, and what was meant, if that can be guessed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {kind}: at column {column}, expected {expected} but found {found}{}", hint(suggestion.as_deref()))]
pub struct ParsePolicyError {
    text: String,
    kind: &'static str,
    column: usize,
    expected: String,
    found: String,
    suggestion: Option<String>,
}

fn hint(suggestion: Option<&str>) -> String {
    suggestion.map(|suggestion| format!("; did you mean \"{suggestion}\"?")).unwrap_or_default()
}

impl ParsePolicyError {
    /// Where it goes wrong, in characters from 1; one more than its length when it ends too early.
    pub fn column(&self) -> usize {
        self.column
    }

    /// What should have been there.
    pub fn expected(&self) -> &str {
        &self.expected
    }

    /// A policy that may have been meant.
    pub fn suggestion(&self) -> Option<&str> {
        self.suggestion.as_deref()
    }
}

impl FromStr for Policy {
    type Err = ParsePolicyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        read(text).map_err(|wrong| {
            let suggestion = suggest_policy(text).map(|policy| policy.to_string());
            wrong.into_error(text, "retention policy", suggestion)
        })
    }
}

impl FromStr for WalPolicy {
    type Err = ParsePolicyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        read_wal(text).map_err(|wrong| {
            let suggestion = suggest_wal(text).map(|policy| policy.to_string());
            wrong.into_error(text, "WAL retention policy", suggestion)
        })
    }
}

/// Where a text goes wrong.
#[derive(Debug)]
pub(super) struct Wrong {
    column: usize,
    expected: String,
    found: String,
}

impl Wrong {
    fn into_error(self, text: &str, kind: &'static str, suggestion: Option<String>) -> ParsePolicyError {
        ParsePolicyError {
            text: text.chars().take(QUOTED_CHARS_MAX).collect(),
            kind,
            column: self.column,
            expected: self.expected,
            found: self.found,
            suggestion,
        }
    }
}

/// Reads a policy, without a guess at what a wrong one means.
pub(super) fn read(text: &str) -> Result<Policy, Wrong> {
    let mut words = Words::new(text)?;
    let mut clauses = Vec::new();
    let mut all_verified = false;
    loop {
        let verified = words.take("VERIFIED");
        if verified && (words.is("AND") || words.at_end()) {
            all_verified = true;
        } else {
            let rule = read_rule(&mut words)?;
            let verified = words.take("VERIFIED") || verified;
            clauses.push(Clause { rule, verified });
        }
        if !words.take("AND") {
            break;
        }
    }
    words.expect_end("AND, VERIFIED or the end")?;
    for clause in &mut clauses {
        clause.verified |= all_verified;
    }
    if clauses.is_empty() {
        return Err(words.wrong("AND and what is to be verified"));
    }
    Policy::new(clauses).ok_or_else(|| Wrong {
        column: 1,
        expected: "one time zone".to_owned(),
        found: "several".to_owned(),
    })
}

pub(super) fn read_wal(text: &str) -> Result<WalPolicy, Wrong> {
    let mut words = Words::new(text)?;
    let policy = if words.take("MAIN") {
        WalPolicy::Main
    } else if words.take("WINDOW") {
        words.expect("OF")?;
        WalPolicy::Window(read_window(&mut words)?)
    } else {
        return Err(words.wrong("MAIN or WINDOW OF"));
    };
    words.expect_end("the end")?;
    Ok(policy)
}

fn read_rule(words: &mut Words<'_>) -> Result<Rule, Wrong> {
    if words.take("REDUNDANCY") {
        return Ok(Rule::Redundancy(words.number()?));
    }
    if words.take("RECOVERY") {
        words.expect("WINDOW")?;
        words.expect("OF")?;
        return Ok(Rule::RecoveryWindow(read_window(words)?));
    }
    if words.take("KEEP") {
        return read_calendar(words).map(Rule::Keep);
    }
    Err(words.wrong("REDUNDANCY, RECOVERY WINDOW OF or KEEP"))
}

fn read_window(words: &mut Words<'_>) -> Result<Window, Wrong> {
    let count = words.number()?;
    let unit = words.peek().and_then(unit);
    let unit = unit.ok_or_else(|| words.wrong("HOURS, DAYS, WEEKS, MONTHS or YEARS"))?;
    words.next += 1;
    Ok(Window { count, unit })
}

fn read_calendar(words: &mut Words<'_>) -> Result<Calendar, Wrong> {
    let mut calendar = Calendar::default();
    let mut seen = Vec::new();
    let beginning = words.next;
    loop {
        let count = words.number()?;
        let period = words.peek().and_then(period).filter(|period| !seen.contains(period));
        let period =
            period.ok_or_else(|| words.wrong("HOURLY, DAILY, WEEKLY, MONTHLY or YEARLY, each once"))?;
        words.next += 1;
        seen.push(period);
        let slot = match period {
            Period::Hour => &mut calendar.hourly,
            Period::Day => &mut calendar.daily,
            Period::Week => &mut calendar.weekly,
            Period::Month => &mut calendar.monthly,
            Period::Year => &mut calendar.yearly,
        };
        *slot = count;
        if !words.peek().is_some_and(|word| word.starts_with(|first: char| first.is_ascii_digit())) {
            break;
        }
    }
    if calendar.counts().all(|(_, count)| count == 0) {
        words.next = beginning;
        return Err(words.wrong("a number above zero"));
    }
    if words.take("IN") {
        let zone = words.peek().filter(|word| is_zone(word)).map(str::to_owned);
        calendar.zone = Some(zone.ok_or_else(|| words.wrong("a time zone"))?);
        words.next += 1;
    }
    Ok(calendar)
}

/// Whether a word may name a time zone, as the IANA database's names are made.
fn is_zone(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_alphabetic())
        && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_+-".contains(&b))
}

pub(super) fn unit(word: &str) -> Option<WindowUnit> {
    match word.to_ascii_uppercase().as_str() {
        "HOUR" | "HOURS" => Some(WindowUnit::Hours),
        "DAY" | "DAYS" => Some(WindowUnit::Days),
        "WEEK" | "WEEKS" => Some(WindowUnit::Weeks),
        "MONTH" | "MONTHS" => Some(WindowUnit::Months),
        "YEAR" | "YEARS" => Some(WindowUnit::Years),
        _ => None,
    }
}

fn period(word: &str) -> Option<Period> {
    let all = [Period::Hour, Period::Day, Period::Week, Period::Month, Period::Year];
    all.into_iter().find(|period| period.adverb().eq_ignore_ascii_case(word))
}

/// The words of a text, with their columns.
struct Words<'a> {
    words: Vec<(usize, &'a str)>,
    next: usize,
    end: usize,
}

impl<'a> Words<'a> {
    fn new(text: &'a str) -> Result<Self, Wrong> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Wrong {
                column: 1,
                expected: format!("at most {TEXT_BYTES_MAX} bytes"),
                found: format!("{} bytes", text.len()),
            });
        }
        let mut words = Vec::new();
        let mut begin = None;
        let mut column = 0;
        for (offset, character) in text.char_indices() {
            column += 1;
            match (begin, character.is_whitespace()) {
                (None, false) => begin = Some((column, offset)),
                (Some((at, from)), true) => {
                    words.push((at, &text[from..offset]));
                    begin = None;
                }
                (None, true) | (Some(_), false) => {}
            }
        }
        if let Some((at, from)) = begin {
            words.push((at, &text[from..]));
        }
        Ok(Words { words, next: 0, end: column + 1 })
    }

    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.next).map(|(_, word)| *word)
    }

    fn is(&self, keyword: &str) -> bool {
        self.peek().is_some_and(|word| word.eq_ignore_ascii_case(keyword))
    }

    fn at_end(&self) -> bool {
        self.peek().is_none()
    }

    /// Goes past a keyword, if it is the next word.
    fn take(&mut self, keyword: &str) -> bool {
        let found = self.is(keyword);
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, keyword: &str) -> Result<(), Wrong> {
        if self.take(keyword) { Ok(()) } else { Err(self.wrong(keyword)) }
    }

    fn expect_end(&self, expected: &str) -> Result<(), Wrong> {
        if self.at_end() { Ok(()) } else { Err(self.wrong(expected)) }
    }

    /// Digits alone (`parse` would also take a sign).
    fn number(&mut self) -> Result<u32, Wrong> {
        let digits = self.peek().filter(|word| word.bytes().all(|b| b.is_ascii_digit()));
        let number = digits.and_then(|digits| digits.parse().ok());
        let number = number.ok_or_else(|| self.wrong("a number below 4294967296"))?;
        self.next += 1;
        Ok(number)
    }

    /// The next word is wrong.
    fn wrong(&self, expected: &str) -> Wrong {
        let (column, found) = match self.words.get(self.next) {
            Some((column, word)) => {
                (*column, format!("{:?}", word.chars().take(QUOTED_CHARS_MAX).collect::<String>()))
            }
            None => (self.end, "the end".to_owned()),
        };
        Wrong { column, expected: expected.to_owned(), found }
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
