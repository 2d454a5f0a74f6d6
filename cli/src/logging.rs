//! The log file, in Barman's line format.

use std::fmt::{self, Write as _};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormattedFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::args::LogLevel;
use crate::config::Global;
use crate::output::Output;

/// The form of a line, by Python's `logging` conventions, unless `log_format` says otherwise.
const DEFAULT_FORMAT: &str = "%(asctime)s [%(process)s] %(name)s %(levelname)s: %(message)s";

/// The word for one JSON object a line instead.
const JSON_FORMAT: &str = "json";

/// Starts logging to `log_file`; without one, to standard error under `-d`, else nowhere.
///
/// A log file that can't be written is told in a warning and no reason to fail: a backup is worth more than its log.
pub(crate) fn start(global: &Global, level: Option<LogLevel>, debug: bool, output: &Output) {
    let filter = match (level, debug) {
        (Some(level), _) => filter_of(level),
        (None, true) => LevelFilter::DEBUG,
        (None, false) => parse_level(&global.log_level).unwrap_or_else(|| {
            output.warning(format!("unknown log_level \"{}\": using INFO", global.log_level));
            LevelFilter::INFO
        }),
    };
    let format = match global.log_format.as_deref() {
        Some(JSON_FORMAT) => LineFormat::Json,
        other => LineFormat::Template(other.unwrap_or(DEFAULT_FORMAT).to_owned()),
    };
    let builder = tracing_subscriber::fmt().with_max_level(filter).with_ansi(false).event_format(format);
    // Setting the subscriber fails only when there is one already, in tests.
    match &global.log_file {
        Some(path) => match LogFile::open(path) {
            Ok(file) => {
                let _ = tracing::subscriber::set_global_default(builder.with_writer(file).finish());
            }
            Err(error) => output.warning(format!("cannot write log_file {}: {error}", path.display())),
        },
        None if debug => {
            // Messages that commands tell are on standard error already; this adds those of the libraries.
            let _ = tracing::subscriber::set_global_default(builder.with_writer(io::stderr).finish());
        }
        None => {}
    }
}

fn filter_of(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::NotSet | LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Error | LogLevel::Critical => LevelFilter::ERROR,
    }
}

/// Python's level names and numbers.
fn parse_level(text: &str) -> Option<LevelFilter> {
    Some(match text.to_uppercase().as_str() {
        "NOTSET" | "DEBUG" => LevelFilter::DEBUG,
        "INFO" => LevelFilter::INFO,
        "WARNING" | "WARN" => LevelFilter::WARN,
        "ERROR" | "CRITICAL" | "FATAL" => LevelFilter::ERROR,
        number => match number.parse::<u32>().ok()? {
            0..=10 => LevelFilter::DEBUG,
            11..=20 => LevelFilter::INFO,
            21..=30 => LevelFilter::WARN,
            _ => LevelFilter::ERROR,
        },
    })
}

/// How lines are written.
#[derive(Debug)]
enum LineFormat {
    /// By a template of Python's `logging`.
    Template(String),
    /// As JSON objects.
    Json,
}

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut message = String::new();
        if let Some(scope) = context.event_scope() {
            for span in scope.from_root() {
                write!(message, "{}", span.name())?;
                if let Some(fields) = span.extensions().get::<FormattedFields<N>>() {
                    write!(message, "{{{fields}}}")?;
                }
                message.push_str(": ");
            }
        }
        context.field_format().format_fields(Writer::new(&mut message), event)?;
        let level = *event.metadata().level();
        let name = event.metadata().target().replace("::", ".");
        let now = jiff::Zoned::now();
        writer.write_str(&match self {
            LineFormat::Template(template) => line(template, now, &name, level, &message),
            LineFormat::Json => json_line(&now, &name, level, &message),
        })?;
        writer.write_char('\n')
    }
}

/// A line by Python's template; names it doesn't know stay as they are.
fn line(template: &str, now: jiff::Zoned, name: &str, level: Level, message: &str) -> String {
    let mut line = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('%') {
        line.push_str(&rest[..at]);
        rest = &rest[at..];
        let field = rest.strip_prefix("%(").and_then(|inner| inner.split_once(')'));
        let (Some((field, after)), false) = (field, rest.starts_with("%%")) else {
            line.push('%');
            rest = rest.strip_prefix("%%").unwrap_or(&rest[1..]);
            continue;
        };
        match field {
            "asctime" => {
                let _ = write!(line, "{},{:03}", now.strftime("%Y-%m-%d %H:%M:%S"), now.millisecond());
            }
            "process" => {
                let _ = write!(line, "{}", std::process::id());
            }
            "name" | "module" => line.push_str(name),
            "levelname" => line.push_str(level_name(level)),
            "message" => line.push_str(message),
            other => {
                let _ = write!(line, "%({other})s");
            }
        }
        // The conversion letter: s, d, ...
        rest = after.get(1..).unwrap_or_default();
    }
    line.push_str(rest);
    line
}

/// A line as a JSON object: time with offset, process, name, level, message.
fn json_line(now: &jiff::Zoned, name: &str, level: Level, message: &str) -> String {
    serde_json::json!({
        "time": now.strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string(),
        "process": std::process::id(),
        "name": name,
        "level": level_name(level),
        "message": message,
    })
    .to_string()
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        Level::DEBUG | Level::TRACE => "DEBUG",
    }
}

/// An appended file that is opened anew when it was rotated away, as Python's `WatchedFileHandler` does.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    open: Mutex<Option<(File, (u64, u64))>>,
}

impl LogFile {
    fn open(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let file = append_to(path)?;
        Ok(LogFile { path: path.to_owned(), open: Mutex::new(Some(file)) })
    }
}

fn append_to(path: &Path) -> io::Result<(File, (u64, u64))> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let metadata = file.metadata()?;
    Ok((file, (metadata.dev(), metadata.ino())))
}

impl Write for &LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let there = std::fs::metadata(&self.path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
        if open.as_ref().map(|(_, identity)| *identity) != there {
            *open = append_to(&self.path).ok();
        }
        match open.as_mut() {
            Some((file, _)) => file.write(line),
            // Nowhere to write: the line is lost, the work goes on.
            None => Ok(line.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogFile {
    type Writer = &'a LogFile;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(template: &str, expected: &str) {
        let now: jiff::Zoned = "2026-11-22T10:15:39.411+00:00[UTC]".parse().unwrap();
        let line = line(template, now, "barkeep.command", Level::WARN, "100% done");
        assert_eq!(line, expected.replace("PID", &std::process::id().to_string()));
    }

    #[test]
    fn lines_follow_pythons_template() {
        check(DEFAULT_FORMAT, "2026-11-22 10:15:39,411 [PID] barkeep.command WARNING: 100% done");
        check("%(levelname)s %% %(thread)d %(message)s %", "WARNING % %(thread)s 100% done %");
    }

    #[test]
    fn lines_may_be_json() {
        let now: jiff::Zoned = "2026-11-22T10:15:39.411+02:00[+02:00]".parse().unwrap();
        let line = json_line(&now, "barkeep.command", Level::INFO, "one \"two\"\nthree");
        assert!(!line.contains('\n'));
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["time"], "2026-11-22T10:15:39.411+02:00");
        assert_eq!((&object["level"], &object["message"]), (&"INFO".into(), &"one \"two\"\nthree".into()));
    }

    #[test]
    fn a_rotated_log_file_is_begun_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log/barman.log");
        let log = LogFile::open(&path).unwrap();
        (&log).write_all(b"one\n").unwrap();
        std::fs::rename(&path, directory.path().join("barman.log.1")).unwrap();
        (&log).write_all(b"two\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
    }

    #[test]
    fn levels_by_name_and_number() {
        assert_eq!(parse_level("debug"), Some(LevelFilter::DEBUG));
        assert_eq!(parse_level("30"), Some(LevelFilter::WARN));
        assert_eq!(parse_level("LOUD"), None);
    }
}
