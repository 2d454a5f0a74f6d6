//! The configuration as Barman shows it: Python's values, and Python's text of them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::shown::on_off;
use crate::config::{ModelConfig, ServerConfig, Setting, Value as Typed, value};
use crate::output::text::duration;
use crate::verdicts;

/// Who asks: both show the same values, and write some of them in their own way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// `show-servers`: Python's text of its own objects.
    Show,
    /// `diagnose`: text that can be read back.
    Diagnose,
}

/// All keys of a server with the values that count.
pub(super) fn of_server(config: &ServerConfig, spelling: Spelling) -> BTreeMap<String, Value> {
    let mut values: BTreeMap<String, Value> = config
        .settings()
        .map(|(key, setting)| (key.to_owned(), of_setting(key, setting, spelling)))
        .collect();
    let mut put = |key: &str, value: Value| values.insert(key.to_owned(), value);
    put("name", json!(config.name()));
    put("disabled", json!(config.disabled()));
    put("minimum_redundancy", json!(config.minimum_redundancy()));
    put("bandwidth_limit", json!(config.bandwidth_limit()));
    put("tablespace_bandwidth_limit", tablespace_limits(config));
    put("retention_policy_mode", json!("auto"));
    match verdicts::policy(config) {
        Ok(Some(decree)) => {
            put("retention_policy", json!(decree.policy.to_string()));
            put("wal_retention_policy", json!(verdicts::wal_policy(config).to_string()));
        }
        // Barman looks at it only when there is a policy.
        Err(_) => {
            put("wal_retention_policy", json!("main"));
        }
        Ok(None) => {}
    }
    values
}

/// All keys that a model may have.
pub(super) fn of_model(model: &ModelConfig, spelling: Spelling) -> BTreeMap<String, Value> {
    let value = |(key, setting): (&str, &Setting)| {
        // What a model does not say is null, lists included.
        let value = if setting.is_set() { of_setting(key, setting, spelling) } else { Value::Null };
        (key.to_owned(), value)
    };
    let mut values: BTreeMap<String, Value> = model.settings().map(value).collect();
    values.insert("disabled".to_owned(), Value::Null);
    values.insert("model".to_owned(), json!(true));
    values
}

fn of_setting(key: &str, setting: &Setting, spelling: Spelling) -> Value {
    match (key, &setting.value) {
        // The words for nothing are no compressor and no cipher.
        ("compression" | "encryption", Typed::Text(text)) if text == "none" => Value::Null,
        ("backup_options", value) => options("BackupOptions", value, spelling),
        ("recovery_options", value) => options("RecoveryOptions", value, spelling),
        ("last_backup_maximum_age", Typed::Unset) if spelling == Spelling::Show => json!("None"),
        (_, Typed::Unset) => Value::Null,
        (_, Typed::Text(text)) => json!(text),
        (_, Typed::Integer(number)) => json!(number),
        (_, Typed::Boolean(on)) => json!(on),
        (_, Typed::Size(bytes)) => json!(bytes),
        (_, Typed::List(words)) => json!(words),
        (_, Typed::Interval(interval)) => match spelling {
            Spelling::Show => json!(timedelta(interval.duration())),
            Spelling::Diagnose => json!(duration(interval.duration())),
        },
    }
}

/// A set of words: as `Name({'a', 'b'})`, or as `a,b`.
fn options(name: &str, value: &Typed, spelling: Spelling) -> Value {
    let words: &[String] = if let Typed::List(words) = value { words } else { &[] };
    json!(match spelling {
        Spelling::Diagnose => words.join(","),
        Spelling::Show if words.is_empty() => format!("{name}()"),
        Spelling::Show => {
            let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
            format!("{name}({{{}}})", words.join(", "))
        }
    })
}

/// `tablespace_bandwidth_limit`: the rules that say anything of their own.
fn tablespace_limits(config: &ServerConfig) -> Value {
    let text = config.text("tablespace_bandwidth_limit").unwrap_or_default();
    let rule = |word: &str| {
        let (name, limit) = word.split_once(':')?;
        let limit = value::integer(limit)?;
        (Some(limit) != config.bandwidth_limit()).then(|| (name.to_owned(), json!(limit)))
    };
    let rules: serde_json::Map<String, Value> = text.split_whitespace().filter_map(rule).collect();
    if rules.is_empty() { Value::Null } else { Value::Object(rules) }
}

/// Python's text of a `timedelta`.
fn timedelta(time: Duration) -> String {
    let (days, seconds) = (time.as_secs() / 86_400, time.as_secs() % 86_400);
    let clock = format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    match days {
        0 => clock,
        1 => format!("1 day, {clock}"),
        days => format!("{days} days, {clock}"),
    }
}

/// Python's text of a value.
pub(super) fn python_text(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(on) => on_off(*on).to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => {
            format!("[{}]", values.iter().map(python_repr).collect::<Vec<_>>().join(", "))
        }
        Value::Object(values) => {
            let item = |(key, value): (&String, &Value)| format!("'{key}': {}", python_repr(value));
            format!("{{{}}}", values.iter().map(item).collect::<Vec<_>>().join(", "))
        }
        Value::Number(_) => value.to_string(),
    }
}

fn python_repr(value: &Value) -> String {
    match value {
        Value::String(text) => format!("'{text}'"),
        other => python_text(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_as_python_prints_them() {
        assert_eq!(python_text(&json!(null)), "None");
        assert_eq!(python_text(&json!(true)), "True");
        assert_eq!(python_text(&json!(["", "a"])), "['', 'a']");
        assert_eq!(python_text(&json!({"fast": 5})), "{'fast': 5}");
        assert_eq!(timedelta(Duration::from_secs(14 * 86_400)), "14 days, 0:00:00");
        assert_eq!(timedelta(Duration::from_secs(3600)), "1:00:00");
        let words = Typed::List(vec!["get-wal".into()]);
        assert_eq!(options("RecoveryOptions", &words, Spelling::Show), "RecoveryOptions({'get-wal'})");
        assert_eq!(options("RecoveryOptions", &Typed::Unset, Spelling::Show), "RecoveryOptions()");
        assert_eq!(options("RecoveryOptions", &words, Spelling::Diagnose), "get-wal");
    }
}
