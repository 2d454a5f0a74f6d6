//! The types of configuration values: how each is written, and what it means.

use std::fmt;
use std::time::Duration;

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing.
    Unset,
    /// Text.
    Text(String),
    /// A number.
    Integer(i64),
    /// Yes or no.
    Boolean(bool),
    /// A length of time.
    Interval(Interval),
    /// A number of bytes.
    Size(u64),
    /// A comma-separated list.
    List(Vec<String>),
}

/// The longest interval there is, in days (Python's `timedelta`).
const MAX_INTERVAL_DAYS: u64 = 999_999_999;

/// What a key without a value (`key =`, `key = None`) means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nothing {
    /// The key is unset, whatever `[barman]` says.
    Unset,
    /// As if the key were not there.
    Absent,
    /// A value as wrong as any other.
    Wrong,
}

/// How a key's text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A decimal number.
    Integer,
    /// A decimal number that makes sense when it is zero or more. Barman takes any number here.
    Natural,
    /// true/t/yes/1/on or false/f/no/0/off.
    Boolean,
    /// `N HOURS|DAYS|WEEKS|MONTHS`.
    Interval,
    /// A number of bytes with an optional k, Ki, M, Mi, G, Gi, T or Ti.
    Size,
    /// One of these words, in any case.
    Choice(&'static [&'static str]),
    /// [`Choice`](Self::Choice), or nothing.
    MaybeChoice(&'static [&'static str]),
    /// One of these words, as they stand.
    Word(&'static [&'static str]),
    /// A comma-separated list of these words.
    Choices(&'static [&'static str]),
    /// A comma-separated list of any words.
    List,
    /// A replication slot's name.
    SlotName,
    /// A path that starts at the root.
    AbsolutePath,
    /// A path, or the address of a place in an object store.
    Place,
    /// A WAL compression level: a number, or low, medium or high.
    Level,
}

/// A length of time as configuration files write it. A month counts as 31 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// How many units.
    pub count: u32,
    /// The unit.
    pub unit: IntervalUnit,
}

/// A unit of [`Interval`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntervalUnit {
    /// 60 minutes.
    Hour,
    /// 24 hours.
    Day,
    /// 7 days.
    Week,
    /// 31 days.
    Month,
}

impl Interval {
    /// Its length.
    pub fn duration(self) -> Duration {
        const HOUR_SECONDS: u64 = 3600;
        let hours = match self.unit {
            IntervalUnit::Hour => 1,
            IntervalUnit::Day => 24,
            IntervalUnit::Week => 7 * 24,
            IntervalUnit::Month => 31 * 24,
        };
        Duration::from_secs(u64::from(self.count) * hours * HOUR_SECONDS)
    }
}

/// A text that does not have its key's form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}")]
pub struct ValueError {
    /// What would have been right.
    pub expected: String,
}

impl Kind {
    /// What a key without a value means.
    pub const fn nothing(self) -> Nothing {
        match self {
            Kind::Integer | Kind::Natural | Kind::Boolean | Kind::Choice(_) | Kind::Word(_) => Nothing::Wrong,
            Kind::SlotName | Kind::List | Kind::AbsolutePath => Nothing::Wrong,
            Kind::Interval | Kind::Size => Nothing::Absent,
            Kind::Text | Kind::Place | Kind::Choices(_) | Kind::MaybeChoice(_) | Kind::Level => {
                Nothing::Unset
            }
        }
    }

    /// Reads a value.
    ///
    /// # Errors
    /// When the text does not have the form; the error says what would have.
    pub fn parse(self, text: &str) -> Result<Value, ValueError> {
        let fail = |expected: &str| Err(ValueError { expected: expected.to_owned() });
        match self {
            Kind::Text => Ok(Value::Text(text.to_owned())),
            Kind::Integer | Kind::Natural => match integer(text) {
                Some(number) => Ok(Value::Integer(number)),
                None => fail("a whole number"),
            },
            Kind::Boolean => match text.to_lowercase().as_str() {
                "true" | "t" | "yes" | "1" | "on" => Ok(Value::Boolean(true)),
                "false" | "f" | "no" | "0" | "off" => Ok(Value::Boolean(false)),
                _ => fail("on or off"),
            },
            Kind::Interval => parse_interval(text).map_or_else(
                || fail("a number and HOURS, DAYS, WEEKS or MONTHS, like \"1 week\""),
                |interval| Ok(Value::Interval(interval)),
            ),
            Kind::Size => parse_size(text).map_or_else(
                || fail("a number with an optional k, Ki, M, Mi, G, Gi, T or Ti"),
                |bytes| Ok(Value::Size(bytes)),
            ),
            Kind::Choice(words) | Kind::MaybeChoice(words) => {
                let lower = text.to_lowercase();
                if words.contains(&lower.as_str()) {
                    Ok(Value::Text(lower))
                } else {
                    fail(&one_of(words, text))
                }
            }
            Kind::Word(words) if words.contains(&text) => Ok(Value::Text(text.to_owned())),
            Kind::Word(words) => fail(&one_of(words, text)),
            Kind::Choices(words) => {
                let mut list: Vec<String> =
                    text.to_lowercase().split(',').map(|word| word.trim().to_owned()).collect();
                list.sort();
                list.dedup();
                let opposite = |word: &String| CONFLICT.contains(&word.as_str());
                if let Some(wrong) = list.iter().find(|word| !words.contains(&word.as_str())) {
                    fail(&format!("a comma-separated list: {}", one_of(words, wrong)))
                } else if list.iter().filter(|word| opposite(word)).count() > 1 {
                    fail(&format!("{} or {}, not both", CONFLICT[0], CONFLICT[1]))
                } else {
                    Ok(Value::List(list))
                }
            }
            Kind::List if text.split(',').any(str::is_empty) => fail("a comma-separated list"),
            Kind::List => Ok(Value::List(text.split(',').map(str::to_owned).collect())),
            Kind::SlotName => {
                let lower = text.to_lowercase();
                let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
                if !lower.is_empty() && lower.bytes().all(plain) {
                    Ok(Value::Text(lower))
                } else {
                    fail("letters, digits and underscores")
                }
            }
            Kind::AbsolutePath if text.starts_with('/') => Ok(Value::Text(text.to_owned())),
            Kind::AbsolutePath => fail("an absolute path"),
            Kind::Place if text.contains("://") && !is_object_store(text) => {
                fail("a path, or the address of a place in S3, Google Cloud Storage or Azure Blob Storage")
            }
            Kind::Place => Ok(Value::Text(text.to_owned())),
            Kind::Level => match text.to_lowercase().as_str() {
                word @ ("low" | "medium" | "high") => Ok(Value::Text(word.to_owned())),
                other => match other.parse() {
                    Ok(number) if !other.starts_with('+') => Ok(Value::Integer(number)),
                    _ => fail("low, medium, high or a whole number"),
                },
            },
        }
    }
}

/// Options that contradict each other within one list.
const CONFLICT: [&str; 2] = ["concurrent_backup", "exclusive_backup"];

/// "one of a, b, c", and which of them may have been meant.
fn one_of(words: &[&str], written: &str) -> String {
    let guess = nearest(written, words.iter().copied()).map(|word| format!("; did you mean \"{word}\"?"));
    format!("one of {}{}", words.join(", "), guess.unwrap_or_default())
}

/// How alike two words have to be for one to be a slip of the pen for the other, of 1.
const ALIKE: f64 = 0.8;

/// The word that was probably meant by one that is not among them.
pub fn nearest<'a>(written: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_lowercase();
    let alike = words.into_iter().map(|word| (strsim::jaro_winkler(&written, word), word));
    alike.filter(|(alike, _)| *alike >= ALIKE).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, word)| word)
}

/// A number as Python's `int` reads it: spaces around it, a sign, underscores between digits.
pub fn integer(text: &str) -> Option<i64> {
    let text = text.trim();
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let plain = digits.split('_').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    if !plain {
        return None;
    }
    let number: i64 = digits.replace('_', "").parse().ok()?;
    Some(if text.starts_with('-') { -number } else { number })
}

/// Whether an address leads to one of the object stores that Barman knows.
fn is_object_store(address: &str) -> bool {
    let Some((scheme, rest)) = address.split_once("://") else { return false };
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    match scheme {
        "s3" | "gs" => true,
        "https" | "http" => host.ends_with(".blob.core.windows.net") || host == "console.cloud.google.com",
        _ => false,
    }
}

/// The text between one pair of matching quotes around the whole value, else the text itself.
pub fn strip_quotes(text: &str) -> &str {
    for quote in ['"', '\''] {
        let inner = text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
        // `.` of Barman's pattern doesn't match a newline, so a continued value keeps its quotes.
        if let Some(inner) = inner.filter(|inner| !inner.contains('\n')) {
            return inner;
        }
    }
    text
}

fn parse_interval(text: &str) -> Option<Interval> {
    let text = text.trim().to_lowercase();
    let at = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, rest) = text.split_at(at);
    let unit = rest.trim_start();
    // At least one space between number and unit.
    if unit.len() == rest.len() {
        return None;
    }
    let unit = match unit.strip_suffix('s').unwrap_or(unit) {
        "hour" => IntervalUnit::Hour,
        "day" => IntervalUnit::Day,
        "week" => IntervalUnit::Week,
        "month" => IntervalUnit::Month,
        _ => return None,
    };
    let interval = Interval { count: digits.parse().ok()?, unit };
    (interval.duration().as_secs() / 86_400 <= MAX_INTERVAL_DAYS).then_some(interval)
}

fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, suffix) = text.split_at(at);
    let unit: u64 = match suffix.trim_start() {
        "" => 1,
        "k" => 1_000,
        "Ki" => 1 << 10,
        "M" => 1_000_000,
        "Mi" => 1 << 20,
        "G" => 1_000_000_000,
        "Gi" => 1 << 30,
        "T" => 1_000_000_000_000,
        "Ti" => 1 << 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            IntervalUnit::Hour => "hour",
            IntervalUnit::Day => "day",
            IntervalUnit::Week => "week",
            IntervalUnit::Month => "month",
        };
        write!(f, "{} {unit}{}", self.count, if self.count == 1 { "" } else { "s" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn accepts(kind: Kind, text: &str, value: Value) {
        assert_eq!(kind.parse(text), Ok(value), "{text:?}");
    }

    #[track_caller]
    fn refuses(kind: Kind, texts: &[&str]) {
        for text in texts {
            assert!(kind.parse(text).is_err(), "{kind:?} {text:?}");
        }
    }

    #[test]
    fn booleans_by_every_spelling() {
        for text in ["true", "T", "YES", "1", "on"] {
            accepts(Kind::Boolean, text, Value::Boolean(true));
        }
        for text in ["false", "f", "No", "0", "OFF"] {
            accepts(Kind::Boolean, text, Value::Boolean(false));
        }
        refuses(Kind::Boolean, &["", "y", "enabled", "2"]);
    }

    #[test]
    fn intervals_have_no_minutes() {
        let interval = |count, unit| Value::Interval(Interval { count, unit });
        accepts(Kind::Interval, " 3 DAYS ", interval(3, IntervalUnit::Day));
        accepts(Kind::Interval, "1 hour", interval(1, IntervalUnit::Hour));
        accepts(Kind::Interval, "2 month", interval(2, IntervalUnit::Month));
        refuses(Kind::Interval, &["", "day", "1day", "-1 day", "5 minutes", "1 dayss", "99999999999 days"]);
        assert_eq!(
            Interval { count: 1, unit: IntervalUnit::Month }.duration(),
            Duration::from_secs(31 * 86_400)
        );
    }

    #[test]
    fn sizes_are_case_sensitive() {
        accepts(Kind::Size, "10k", Value::Size(10_000));
        accepts(Kind::Size, "1Mi", Value::Size(1 << 20));
        accepts(Kind::Size, "5 Gi ", Value::Size(5 << 30));
        accepts(Kind::Size, "7", Value::Size(7));
        refuses(Kind::Size, &["", "1m", "1kb", "k", "-1", "1.5G", "99999999Ti"]);
    }

    #[test]
    fn names_words_and_paths() {
        accepts(Kind::SlotName, "Barman_1", Value::Text("barman_1".into()));
        refuses(Kind::SlotName, &["", "a-b", "a b"]);
        accepts(Kind::Choice(&["rsync", "postgres"]), "Postgres", Value::Text("postgres".into()));
        refuses(Kind::Choice(&["rsync", "postgres"]), &["", "tar"]);
        accepts(Kind::Choices(&["get-wal"]), "Get-WAL, get-wal", Value::List(vec!["get-wal".into()]));
        refuses(Kind::Choices(&["get-wal"]), &["get-wal, put-wal", "get-wal,"]);
        refuses(Kind::Choices(&CONFLICT), &["exclusive_backup, concurrent_backup"]);
        accepts(Kind::List, "a, b", Value::List(vec!["a".into(), " b".into()]));
        refuses(Kind::List, &["", "a,"]);
        refuses(Kind::Word(&["local"]), &["Local", ""]);
        accepts(Kind::Place, "s3://bucket/x", Value::Text("s3://bucket/x".into()));
        refuses(Kind::Place, &["ftp://x/y", "https://example.com/x"]);
        refuses(Kind::AbsolutePath, &["", "tmp", "~/x"]);
        accepts(Kind::Level, "High", Value::Text("high".into()));
        accepts(Kind::Level, "-3", Value::Integer(-3));
        accepts(Kind::Natural, " +1_000 ", Value::Integer(1000));
        accepts(Kind::Natural, "-1", Value::Integer(-1));
        refuses(Kind::Natural, &["", "x", "1.5", "_1", "1__0", "99999999999999999999"]);
    }

    #[test]
    fn slips_of_the_pen_are_recognised() {
        let words = ["conninfo", "compression", "archiver", "streaming_archiver"];
        assert_eq!(nearest("coninfo", words), Some("conninfo"));
        assert_eq!(nearest("compresion", words), Some("compression"));
        assert_eq!(nearest("zebra", words), None);
        let error = Kind::Choice(&["rsync", "postgres"]).parse("postgre").unwrap_err();
        assert_eq!(error.to_string(), "expected one of rsync, postgres; did you mean \"postgres\"?");
    }

    #[test]
    fn one_pair_of_matching_quotes_goes() {
        assert_eq!(strip_quotes("\"a b\""), "a b");
        assert_eq!(strip_quotes("'a\"b'"), "a\"b");
        assert_eq!(strip_quotes("\"\"a\"\""), "\"a\"");
        assert_eq!(strip_quotes("\"a'"), "\"a'");
        assert_eq!(strip_quotes("\""), "\"");
        assert_eq!(strip_quotes("\"\""), "");
    }
}
