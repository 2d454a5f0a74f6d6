//! A record's description: the text that `pg_waldump` prints, and the same as named values.

use std::fmt::{self, Write as _};

use super::Rmgr;
use super::payload::Payload;
use crate::record::Parts;
use crate::{Lsn, PgTimestamp, Record, RelFile, WalVersion};

/// One value of a description.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A count, number or transaction.
    Number(u64),
    /// A number that may be negative.
    Signed(i64),
    /// Flags.
    Flags(u8),
    /// Yes or no.
    Flag(bool),
    /// A number with a fraction.
    Real(f64),
    /// A relation's file.
    Relation(RelFile),
    /// A transaction with its epoch.
    FullXid(u64),
    /// A position.
    Lsn(Lsn),
    /// A moment.
    Time(PgTimestamp),
    /// A name, path or word.
    Text(String),
    /// Several values of one kind.
    List(Vec<Value>),
}

/// A record's description. Made to be reused from record to record.
#[derive(Debug, Clone, Default)]
pub struct Description {
    text: String,
    fields: Vec<(&'static str, Value)>,
}

/// How a yes or no is printed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Truth {
    /// `T` or `F`
    Letter,
    /// `true` or `false`
    Word,
    /// `on` or `off`
    Switch,
}

/// What the describers work from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'r> {
    pub(crate) record: &'r Record<'r>,
    pub(crate) parts: &'r Parts,
}

impl Description {
    /// An empty one.
    pub fn new() -> Self {
        Description::default()
    }

    /// What `pg_waldump` of the record's version prints after the operation's name, times in UTC.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The same as named values, in order.
    pub fn fields(&self) -> &[(&'static str, Value)] {
        &self.fields
    }

    /// Describes `record`, of which `parts` was read.
    ///
    /// Of an operation unknown to its version, or of a payload that isn't all there, says as much as can be read.
    pub fn read(&mut self, record: &Record<'_>, parts: &Parts) {
        self.text.clear();
        self.fields.clear();
        let subject = Subject { record, parts };
        // `None` is a payload that ends early: what was described up to there stands.
        let _ = match record.rmgr() {
            Rmgr::Xlog => super::xlog::describe(self, &subject),
            Rmgr::Transaction => super::xact::describe(self, &subject),
            Rmgr::Storage | Rmgr::Database | Rmgr::Tablespace | Rmgr::RelMap | Rmgr::Sequence => {
                super::storage::describe(self, &subject)
            }
            Rmgr::Clog
            | Rmgr::MultiXact
            | Rmgr::Standby
            | Rmgr::CommitTs
            | Rmgr::ReplicationOrigin
            | Rmgr::Generic
            | Rmgr::LogicalMessage => super::system::describe(self, &subject),
            Rmgr::Heap2 => super::heap2::describe(self, &subject),
            Rmgr::Heap => super::heap::describe(self, &subject),
            Rmgr::Btree => super::nbtree::describe(self, &subject),
            Rmgr::Hash => super::hash::describe(self, &subject),
            Rmgr::Gin => super::gin::describe(self, &subject),
            Rmgr::Gist => super::gist::describe(self, &subject),
            Rmgr::SpGist => super::spgist::describe(self, &subject),
            Rmgr::Brin => super::brin::describe(self, &subject),
            // pg_waldump can't load extensions either: it names the manager and says no more.
            Rmgr::Other(id) => {
                self.say("rmid: ", "rmid", u64::from(id));
                Some(())
            }
        };
    }

    /// Adds text that is no value.
    pub(crate) fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Adds a value after a text.
    pub(crate) fn say(&mut self, prefix: &str, name: &'static str, value: impl Into<Value>) {
        let value = value.into();
        self.text.push_str(prefix);
        // Writing to a string can't fail.
        let _ = write!(self.text, "{value}");
        self.fields.push((name, value));
    }

    /// Adds a yes or no after a text.
    pub(crate) fn say_whether(&mut self, prefix: &str, name: &'static str, value: bool, truth: Truth) {
        self.text.push_str(prefix);
        self.text.push_str(match (truth, value) {
            (Truth::Letter, true) => "T",
            (Truth::Letter, false) => "F",
            (Truth::Word, true) => "true",
            (Truth::Word, false) => "false",
            (Truth::Switch, true) => "on",
            (Truth::Switch, false) => "off",
        });
        self.fields.push((name, Value::Flag(value)));
    }

    /// Adds a mark that is only printed when it is set.
    pub(crate) fn mark(&mut self, text: &str, name: &'static str, value: bool) {
        if value {
            self.text.push_str(text);
        }
        self.fields.push((name, Value::Flag(value)));
    }

    /// Adds values, each after a text, with nothing around them.
    pub(crate) fn say_each<T: Into<Value>>(
        &mut self,
        each: &str,
        name: &'static str,
        values: impl IntoIterator<Item = T>,
    ) {
        let mut list = Vec::new();
        for value in values {
            let value = value.into();
            let _ = write!(self.text, "{each}{value}");
            list.push(value);
        }
        self.fields.push((name, Value::List(list)));
    }

    /// Adds values in brackets, as PostgreSQL 16 and later print arrays.
    pub(crate) fn say_array<T: Into<Value>>(
        &mut self,
        prefix: &str,
        name: &'static str,
        values: impl IntoIterator<Item = T>,
    ) {
        let list: Vec<Value> = values.into_iter().map(Into::into).collect();
        self.text.push_str(prefix);
        self.text.push_str(" [");
        for (index, value) in list.iter().enumerate() {
            let _ = write!(self.text, "{}{value}", if index == 0 { "" } else { ", " });
        }
        self.text.push(']');
        self.fields.push((name, Value::List(list)));
    }
}

impl<'r> Subject<'r> {
    /// The operation, without the general flags.
    pub(crate) fn operation(&self) -> u8 {
        self.record.header.operation()
    }

    pub(crate) fn version(&self) -> WalVersion {
        self.record.version
    }

    /// The main data.
    pub(crate) fn main(&self) -> Payload<'r> {
        Payload(self.record.slice(&self.parts.main))
    }

    /// The data of a block; `None` if there is none.
    pub(crate) fn block_data(&self, id: u8) -> Option<Payload<'r>> {
        let block = self.parts.block(id)?;
        if block.data.is_empty() { None } else { Some(Payload(self.record.slice(&block.data))) }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number(number) => write!(f, "{number}"),
            Value::Signed(number) => write!(f, "{number}"),
            Value::Flags(flags) => write!(f, "0x{flags:02X}"),
            Value::Flag(flag) => write!(f, "{flag}"),
            Value::Real(number) => f.write_str(&general(*number)),
            Value::Relation(relation) => write!(f, "{relation}"),
            Value::FullXid(xid) => write!(f, "{}:{}", xid >> 32, xid & 0xFFFF_FFFF),
            Value::Lsn(lsn) => write!(f, "{lsn}"),
            Value::Time(time) => f.write_str(&utc(*time)),
            Value::Text(text) => f.write_str(text),
            Value::List(list) => list.iter().try_for_each(|value| write!(f, " {value}")),
        }
    }
}

macro_rules! number_values {
    ($($type:ty),*) => {
        $(impl From<$type> for Value {
            fn from(number: $type) -> Self {
                Value::Number(u64::from(number))
            }
        })*
    };
}

number_values!(u8, u16, u32, u64);

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Value::Signed(i64::from(number))
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Value::Signed(number)
    }
}

impl From<RelFile> for Value {
    fn from(relation: RelFile) -> Self {
        Value::Relation(relation)
    }
}

impl From<Lsn> for Value {
    fn from(lsn: Lsn) -> Self {
        Value::Lsn(lsn)
    }
}

impl From<PgTimestamp> for Value {
    fn from(time: PgTimestamp) -> Self {
        Value::Time(time)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text)
    }
}

/// `2024-05-01 10:00:00.000000 UTC`, as pg_waldump prints times where the time zone is UTC.
pub(crate) fn utc(time: PgTimestamp) -> String {
    time.to_string().replacen("+00", " UTC", 1)
}

/// C's `%g`: six significant digits, the shorter of plain and exponent form, no trailing zeros.
fn general(number: f64) -> String {
    if number == 0.0 || !number.is_finite() {
        return format!("{number}").to_lowercase();
    }
    let scientific = format!("{number:.5e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| {
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text.to_owned()
        }
    };
    if (-4..6).contains(&exponent) {
        let decimals = usize::try_from(5 - exponent).unwrap_or(0);
        return trim(&format!("{number:.decimals$}"));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trim(digits), exponent.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_real_numbers_as_c_does() {
        for (number, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (100_000.0, "100000"),
            (1_000_000.0, "1e+06"),
            (1_234_567.0, "1.23457e+06"),
            (0.5, "0.5"),
            (0.000_01, "1e-05"),
            (-2.25, "-2.25"),
        ] {
            assert_eq!(general(number), text);
        }
    }

    #[test]
    fn prints_times_with_the_zone() {
        assert_eq!(utc(PgTimestamp::from_micros(1)), "2000-01-01 00:00:00.000001 UTC");
    }
}
