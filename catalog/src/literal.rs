//! Python literals, the notation of some values in Barman's files: `[('ts1', 16386, '/srv/ts1')]`.
//!
//! Printing gives what Python's `repr` gives, so that a value read and written again keeps its bytes.

use std::fmt::{self, Write as _};

/// Deepest nesting accepted when reading.
const DEPTH_MAX: u32 = 16;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Literal {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// A number, by its text: floats keep the digits they were read with.
    Number(String),
    /// A text.
    Text(String),
    /// `[a, b]`.
    List(Vec<Literal>),
    /// `(a, b)`.
    Tuple(Vec<Literal>),
    /// `{a: b}`, in order.
    Dict(Vec<(Literal, Literal)>),
}

/// A text that is not a literal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a Python literal at byte {at}: expected {expected}")]
pub struct LiteralError {
    /// Where reading stopped, in bytes from the start.
    pub at: usize,
    /// What should have been there.
    pub expected: &'static str,
}

impl Literal {
    /// Reads a literal that makes up the whole of `text`.
    ///
    /// ```
    /// use barkeep_catalog::literal::Literal;
    /// let text = "{'copy_time': 1.70592, 'names': ['it\\'s', None]}";
    /// assert_eq!(Literal::parse(text)?.to_string(), text.replace("'it\\'s'", "\"it's\""));
    /// # Ok::<(), barkeep_catalog::literal::LiteralError>(())
    /// ```
    ///
    /// # Errors
    /// When it is something else, or nested too deeply.
    pub fn parse(text: &str) -> Result<Self, LiteralError> {
        let mut reader = Reader { text, at: 0 };
        let value = reader.value(0)?;
        reader.skip_space();
        if reader.at == text.len() { Ok(value) } else { Err(reader.expected("the end")) }
    }

    /// A float, printed as Python prints it.
    pub fn float(number: f64) -> Self {
        Literal::Number(float_repr(number))
    }

    /// A whole number.
    pub fn integer(number: impl Into<i128>) -> Self {
        Literal::Number(number.into().to_string())
    }

    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Literal::Text(text.into())
    }

    /// The text, when it is one.
    pub fn as_text(&self) -> Option<&str> {
        if let Literal::Text(text) = self { Some(text) } else { None }
    }

    /// The number, when it is one that fits.
    pub fn as_f64(&self) -> Option<f64> {
        if let Literal::Number(text) = self { text.parse().ok() } else { None }
    }

    /// The items of a list or tuple.
    pub fn items(&self) -> Option<&[Literal]> {
        if let Literal::List(items) | Literal::Tuple(items) = self { Some(items) } else { None }
    }

    /// The value of a text key in a dictionary.
    pub fn get(&self, key: &str) -> Option<&Literal> {
        let Literal::Dict(pairs) = self else { return None };
        pairs.iter().find(|(name, _)| name.as_text() == Some(key)).map(|(_, value)| value)
    }

    /// Whether Python takes it for false: Barman then writes `None` in its place.
    pub fn is_falsy(&self) -> bool {
        match self {
            Literal::None | Literal::Bool(false) => true,
            Literal::Bool(true) => false,
            Literal::Number(_) => self.as_f64() == Some(0.0),
            Literal::Text(text) => text.is_empty(),
            Literal::List(items) | Literal::Tuple(items) => items.is_empty(),
            Literal::Dict(pairs) => pairs.is_empty(),
        }
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, items: &[Literal]| {
            items.iter().enumerate().try_for_each(|(at, item)| {
                f.write_str(if at == 0 { "" } else { ", " })?;
                item.fmt(f)
            })
        };
        match self {
            Literal::None => f.write_str("None"),
            Literal::Bool(true) => f.write_str("True"),
            Literal::Bool(false) => f.write_str("False"),
            Literal::Number(text) => f.write_str(text),
            Literal::Text(text) => write_text(f, text),
            Literal::List(items) => {
                f.write_char('[')?;
                list(f, items)?;
                f.write_char(']')
            }
            Literal::Tuple(items) => {
                f.write_char('(')?;
                list(f, items)?;
                f.write_str(if items.len() == 1 { ",)" } else { ")" })
            }
            Literal::Dict(pairs) => {
                f.write_char('{')?;
                for (at, (key, value)) in pairs.iter().enumerate() {
                    write!(f, "{}{key}: {value}", if at == 0 { "" } else { ", " })?;
                }
                f.write_char('}')
            }
        }
    }
}

/// A float's shortest text that reads back the same, in Python's style: `1e-05` and `1e+16` where Rust would print all
/// digits, and always a mark that it is a float.
pub fn float_repr(number: f64) -> String {
    // Rust's shortest digits are Python's; only the choice of notation differs.
    let scientific = format!("{number:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific.to_lowercase() };
    let power: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&power) || number == 0.0 {
        return format!("{number:?}");
    }
    format!("{digits}e{}{:02}", if power < 0 { '-' } else { '+' }, power.abs())
}

fn write_text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    f.write_char(quote)?;
    for c in text.chars() {
        match c {
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            c if c == quote => write!(f, "\\{c}")?,
            ' '..='~' => f.write_char(c)?,
            c if is_printable(c) => f.write_char(c)?,
            c if (c as u32) < 0x100 => write!(f, "\\x{:02x}", c as u32)?,
            c if (c as u32) < 0x1_0000 => write!(f, "\\u{:04x}", c as u32)?,
            c => write!(f, "\\U{:08x}", c as u32)?,
        }
    }
    f.write_char(quote)
}

/// Python's `str.isprintable` for a character beyond ASCII. The standard library's debug form escapes the same
/// categories; the letter in front keeps it from also escaping combining marks.
fn is_printable(c: char) -> bool {
    let mut pair = String::from("a");
    pair.push(c);
    let mut shown = pair.escape_debug();
    shown.next();
    shown.next() == Some(c)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn expected(&self, expected: &'static str) -> LiteralError {
        LiteralError { at: self.at, expected }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn take(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        if found {
            self.at += c.len_utf8();
        }
        found
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = self.text[self.at..].starts_with(word);
        if found {
            self.at += word.len();
        }
        found
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(|c| c.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: u32) -> Result<Literal, LiteralError> {
        if depth > DEPTH_MAX {
            return Err(self.expected("less nesting"));
        }
        self.skip_space();
        match self.peek() {
            Some('\'' | '"') => self.string().map(Literal::Text),
            Some('[') => {
                self.at += 1;
                Ok(Literal::List(self.sequence(']', depth)?.0))
            }
            Some('(') => {
                self.at += 1;
                let (mut items, comma) = self.sequence(')', depth)?;
                match (items.pop(), items.is_empty() && !comma) {
                    (Some(only), true) => Ok(only),
                    (Some(last), false) => {
                        items.push(last);
                        Ok(Literal::Tuple(items))
                    }
                    (None, _) => Ok(Literal::Tuple(items)),
                }
            }
            Some('{') => {
                self.at += 1;
                self.dict(depth)
            }
            Some('-' | '+' | '.' | '0'..='9') => self.number(),
            _ if self.take_word("None") => Ok(Literal::None),
            _ if self.take_word("True") => Ok(Literal::Bool(true)),
            _ if self.take_word("False") => Ok(Literal::Bool(false)),
            // Written by Python 2.
            _ if self.take_word("u'") || self.take_word("u\"") => {
                self.at -= 1;
                self.string().map(Literal::Text)
            }
            _ => Err(self.expected("a value")),
        }
    }

    /// The items up to `close`, and whether a comma stood behind the last one.
    fn sequence(&mut self, close: char, depth: u32) -> Result<(Vec<Literal>, bool), LiteralError> {
        let mut items = Vec::new();
        let mut comma = true;
        loop {
            self.skip_space();
            if self.take(close) {
                return Ok((items, comma));
            }
            if !comma {
                return Err(self.expected("a comma or the closing bracket"));
            }
            items.push(self.value(depth + 1)?);
            self.skip_space();
            comma = self.take(',');
        }
    }

    fn dict(&mut self, depth: u32) -> Result<Literal, LiteralError> {
        let mut pairs = Vec::new();
        let mut comma = true;
        loop {
            self.skip_space();
            if self.take('}') {
                return Ok(Literal::Dict(pairs));
            }
            if !comma {
                return Err(self.expected("a comma or the closing brace"));
            }
            let key = self.value(depth + 1)?;
            self.skip_space();
            if !self.take(':') {
                return Err(self.expected("a colon"));
            }
            pairs.push((key, self.value(depth + 1)?));
            self.skip_space();
            comma = self.take(',');
        }
    }

    fn number(&mut self) -> Result<Literal, LiteralError> {
        let rest = &self.text[self.at..];
        let is_part = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E');
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let number = &rest[..end];
        if number.parse::<f64>().is_err() {
            return Err(self.expected("a number"));
        }
        self.at += end;
        Ok(Literal::Number(number.to_owned()))
    }

    fn string(&mut self) -> Result<String, LiteralError> {
        let Some(quote) = self.peek() else { return Err(self.expected("a quote")) };
        self.at += 1;
        let mut text = String::new();
        loop {
            let Some(c) = self.peek() else { return Err(self.expected("the closing quote")) };
            self.at += c.len_utf8();
            match c {
                c if c == quote => return Ok(text),
                '\\' => self.escape(&mut text)?,
                c => text.push(c),
            }
        }
    }

    fn escape(&mut self, text: &mut String) -> Result<(), LiteralError> {
        let Some(c) = self.peek() else { return Err(self.expected("an escape")) };
        self.at += c.len_utf8();
        match c {
            '\n' => {}
            'n' => text.push('\n'),
            'r' => text.push('\r'),
            't' => text.push('\t'),
            'a' => text.push('\x07'),
            'b' => text.push('\x08'),
            'f' => text.push('\x0c'),
            'v' => text.push('\x0b'),
            '\\' | '\'' | '"' => text.push(c),
            'x' => text.push(self.code(2, 16)?),
            'u' => text.push(self.code(4, 16)?),
            'U' => text.push(self.code(8, 16)?),
            '0'..='7' => {
                self.at -= 1;
                text.push(self.code(3, 8)?);
            }
            // Python keeps the backslash of an escape it does not know.
            other => text.extend(['\\', other]),
        }
        Ok(())
    }

    /// A character by up to `digits` digits of its number (exactly as many in hexadecimal).
    fn code(&mut self, digits: usize, radix: u32) -> Result<char, LiteralError> {
        let rest = &self.text[self.at..];
        let count = rest.chars().take(digits).take_while(|c| c.is_digit(radix)).count();
        let exact = count == digits || (radix == 8 && count > 0);
        let number = u32::from_str_radix(&rest[..count], radix).ok().filter(|_| exact);
        let c = number.and_then(char::from_u32).ok_or_else(|| self.expected("the number of a character"))?;
        self.at += count;
        Ok(c)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, canonical: &str) {
        assert_eq!(Literal::parse(text).unwrap().to_string(), canonical);
    }

    #[test]
    fn prints_what_python_prints() {
        for same in [
            "None",
            "True",
            "[('ts1', 16386, '/srv/pg/ts1')]",
            "{'a': 1.5, 'b': {'c': []}}",
            "('one',)",
            "()",
            "'plain'",
            "\"it's\"",
            "'both \\' and \"'",
            "'line\\n\\ttab\\\\'",
            "'\\x00\\x7f\\xa0\\u200b'",
            "-0.5",
        ] {
            check(same, same);
        }
        check("u'old'", "'old'");
        check("[ 1 ,2, ]", "[1, 2]");
        check("(1)", "1");
        check(r"'\101\q'", "'A\\\\q'");
        assert_eq!(Literal::text("caf\u{e9} e\u{301}").to_string(), "'caf\u{e9} e\u{301}'");
    }

    #[test]
    fn floats_are_pythons() {
        for (number, text) in [
            (0.0, "0.0"),
            (1.0, "1.0"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.25e-7, "1.25e-07"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1_795_342_542.366_670_6, "1795342542.3666706"),
            (-2.5, "-2.5"),
        ] {
            assert_eq!(float_repr(number), text);
        }
    }

    #[test]
    fn faults_say_where() {
        for (text, at) in
            [("", 0), ("[1", 2), ("{'a' 1}", 5), ("'open", 5), ("1 2", 2), ("__import__('os')", 0)]
        {
            assert_eq!(Literal::parse(text).unwrap_err().at, at, "{text}");
        }
        assert!(Literal::parse(&"[".repeat(100_000)).is_err());
    }

    fn any_literal() -> impl Strategy<Value = Literal> {
        let leaf = prop_oneof![
            Just(Literal::None),
            any::<bool>().prop_map(Literal::Bool),
            any::<i64>().prop_map(Literal::integer),
            any::<f64>().prop_filter("finite", |n| n.is_finite()).prop_map(Literal::float),
            any::<String>().prop_map(Literal::Text),
        ];
        leaf.prop_recursive(3, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Literal::List),
                prop::collection::vec(inner.clone(), 0..4).prop_map(Literal::Tuple),
                prop::collection::vec((inner.clone(), inner), 0..4).prop_map(Literal::Dict),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(value in any_literal()) {
            prop_assert_eq!(Literal::parse(&value.to_string()).unwrap(), value);
        }

        #[test]
        fn reading_never_panics(text: String) {
            let _ = Literal::parse(&text);
        }
    }
}
