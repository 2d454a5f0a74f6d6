//! Barman's way of writing sizes, times, and JSON.

use std::time::Duration;

use serde_json::Value;

/// A number of bytes as people read it: `1023 B`, `1.0 KiB`, `117.7 MiB`.
///
/// ```
/// use barkeep::output::text::size;
/// assert_eq!(size(26_739_507.0), "25.5 MiB");
/// ```
pub fn size(bytes: f64) -> String {
    const UNITS: [&str; 9] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"];
    let mut value = bytes;
    let mut unit = 0;
    while value.abs() >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{value:.0} {}", UNITS[unit]) } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// [`size`] of a whole number of bytes.
pub fn size_u64(bytes: u64) -> String {
    size(bytes as f64)
}

/// A length of time as people read it: `1 day, 1 hour, 1 minute, 1 second`; fractions of a second are dropped.
///
/// ```
/// use barkeep::output::text::duration;
/// use std::time::Duration;
/// assert_eq!(duration(Duration::from_millis(3_661_900)), "1 hour, 1 minute, 1 second");
/// assert_eq!(duration(Duration::from_millis(900)), "less than one second");
/// ```
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let units = [("day", seconds / 86_400), ("hour", seconds / 3600 % 24), ("minute", seconds / 60 % 60)];
    let units = units.into_iter().chain([("second", seconds % 60)]);
    let parts: Vec<String> = units
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{count} {name}{}", if count == 1 { "" } else { "s" }))
        .collect();
    if parts.is_empty() { "less than one second".to_owned() } else { parts.join(", ") }
}

/// A length of time that may be negative, as the age of something that the clocks place in the future: `2 hours ago`, as
/// Barman has it.
///
/// ```
/// use barkeep::output::text::age;
/// assert_eq!(age(jiff::SignedDuration::from_secs(90)), "1 minute, 30 seconds");
/// assert_eq!(age(jiff::SignedDuration::from_secs(-7200)), "2 hours ago");
/// ```
pub fn age(time: jiff::SignedDuration) -> String {
    let text = duration(time.unsigned_abs());
    if time.is_negative() { text + " ago" } else { text }
}

/// Appends a value as Python's `json.dumps(value, sort_keys=True)` writes it: a space after each comma and colon, and
/// everything beyond ASCII escaped.
pub fn json(value: &Value, text: &mut String) {
    match value {
        Value::Array(values) => {
            text.push('[');
            for (index, value) in values.iter().enumerate() {
                text.push_str(if index == 0 { "" } else { ", " });
                json(value, text);
            }
            text.push(']');
        }
        Value::Object(map) => {
            text.push('{');
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            for (index, (key, value)) in entries.into_iter().enumerate() {
                text.push_str(if index == 0 { "" } else { ", " });
                json_string(key, text);
                text.push_str(": ");
                json(value, text);
            }
            text.push('}');
        }
        Value::String(string) => json_string(string, text),
        Value::Null | Value::Bool(_) | Value::Number(_) => text.push_str(&value.to_string()),
    }
}

/// Appends a value as Python's `json.dumps(value, sort_keys=True, indent=4)` writes it, `depth` levels deep.
pub fn json_indented(value: &Value, depth: usize, text: &mut String) {
    let line = |text: &mut String, depth: usize| {
        text.push('\n');
        text.extend(std::iter::repeat_n("    ", depth));
    };
    match value {
        Value::Array(values) if !values.is_empty() => {
            for (index, value) in values.iter().enumerate() {
                text.push_str(if index == 0 { "[" } else { "," });
                line(text, depth + 1);
                json_indented(value, depth + 1, text);
            }
            line(text, depth);
            text.push(']');
        }
        Value::Object(map) if !map.is_empty() => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            for (index, (key, value)) in entries.into_iter().enumerate() {
                text.push_str(if index == 0 { "{" } else { "," });
                line(text, depth + 1);
                json_string(key, text);
                text.push_str(": ");
                json_indented(value, depth + 1, text);
            }
            line(text, depth);
            text.push('}');
        }
        other => json(other, text),
    }
}

fn json_string(string: &str, text: &mut String) {
    text.push('"');
    for c in string.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            ' '..='~' => text.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    text.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_as_barman_writes_them() {
        let check = |bytes: f64, text: &str| assert_eq!(size(bytes), text);
        check(0.0, "0 B");
        check(1023.0, "1023 B");
        check(1024.0, "1.0 KiB");
        check(123_456_789.0, "117.7 MiB");
        check(-2048.0, "-2.0 KiB");
        check(5_497_558_138_880.0, "5.0 TiB");
    }

    #[test]
    fn durations_as_barman_writes_them() {
        let check = |seconds: u64, text: &str| assert_eq!(duration(Duration::from_secs(seconds)), text);
        check(0, "less than one second");
        check(1, "1 second");
        check(90_061, "1 day, 1 hour, 1 minute, 1 second");
        check(7200, "2 hours");
    }

    #[test]
    fn json_as_python_writes_it() {
        let mut text = String::new();
        json(
            &serde_json::json!({"b": [1, null, true], "a": "x\n\u{e9}\u{1F600}\u{7f}\"", "c": {}}),
            &mut text,
        );
        let expected = r#"{"a": "x\n\u00e9\ud83d\ude00\u007f\"", "b": [1, null, true], "c": {}}"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn indented_json_as_python_writes_it() {
        let mut text = String::new();
        json_indented(&serde_json::json!({"b": [1, {}], "a": {"c": []}}), 0, &mut text);
        let lines = [
            "{",
            "    \"a\": {",
            "        \"c\": []",
            "    },",
            "    \"b\": [",
            "        1,",
            "        {}",
            "    ]",
            "}",
        ];
        assert_eq!(text, lines.join("\n"));
    }

    proptest! {
        #[test]
        fn json_strings_read_back(string: String) {
            let mut text = String::new();
            json(&Value::String(string.clone()), &mut text);
            prop_assert!(text.is_ascii());
            prop_assert_eq!(serde_json::from_str::<String>(&text).unwrap(), string);
        }
    }
}
