//! What a command says, to people or to programs.
//!
//! On the console, information goes to standard output, warnings and errors to standard error. With `-f json`, all of it
//! is collected into one object with sorted keys that is printed at the end. With `-q`, only warnings and errors are
//! told. Passwords are blotted out everywhere.
//!
//! An [`Output`] is a cheap handle: clones speak through the same mouth, from any thread.

mod progress;
mod redact;
pub mod text;

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indicatif::ProgressBar;
use serde_json::{Map, Value};

pub use progress::Progress;
pub use redact::redact;

/// How a command answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Text for people.
    #[default]
    Console,
    /// One JSON object.
    Json,
}

/// How an [`Output`] behaves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Style {
    /// The format.
    pub format: Format,
    /// Tell warnings and errors only; with JSON, nothing at all.
    pub quiet: bool,
    /// Tell debug messages too.
    pub debug: bool,
    /// Colour statuses.
    pub color: bool,
}

/// A result that can be told both ways.
pub trait Report {
    /// The server it is about: the key of its place in the JSON object.
    fn server(&self) -> &str;
    /// The value for programs.
    fn json(&self) -> Value;
    /// The text for people, newline-terminated lines; empty to print nothing.
    fn console(&self, style: Style) -> String;
}

/// The one place that prints.
#[derive(Debug, Clone)]
pub struct Output {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    style: Style,
    failed: AtomicBool,
    document: Mutex<Map<String, Value>>,
    bar: Mutex<Option<ProgressBar>>,
}

impl Output {
    /// An output of this style.
    pub fn new(style: Style) -> Self {
        Output {
            shared: Arc::new(Shared {
                style,
                failed: AtomicBool::new(false),
                document: Mutex::default(),
                bar: Mutex::default(),
            }),
        }
    }

    /// Its style.
    pub fn style(&self) -> Style {
        self.shared.style
    }

    /// Whether an error was told.
    pub fn failed(&self) -> bool {
        self.shared.failed.load(Ordering::Relaxed)
    }

    /// Makes the errors told so far count for nothing in the exit code.
    pub fn forget_failures(&self) {
        self.shared.failed.store(false, Ordering::Relaxed);
    }

    /// Tells a line of information.
    pub fn info(&self, line: impl AsRef<str>) {
        let line = redact(line.as_ref());
        tracing::info!("{line}");
        match self.style().format {
            Format::Console => self.to_stdout(&format!("{line}\n")),
            Format::Json => self.collect("_INFO", &line),
        }
    }

    /// Tells the answer itself, which is text already, passwords blotted out. It does not go into the log.
    pub(crate) fn answer(&self, text: &str) {
        match self.style().format {
            Format::Console => self.to_stdout(&format!("{text}\n")),
            Format::Json => self.collect("_INFO", text),
        }
    }

    /// Tells a warning: something is odd, the command goes on.
    pub fn warning(&self, line: impl AsRef<str>) {
        let line = redact(line.as_ref());
        tracing::warn!("{line}");
        match self.style().format {
            Format::Console => self.to_stderr(&format!("WARNING: {line}\n")),
            Format::Json => self.collect("_WARNING", &line),
        }
    }

    /// Tells an error. The command may go on, and will exit with code 1 at the end.
    pub fn error(&self, line: impl AsRef<str>) {
        self.shared.failed.store(true, Ordering::Relaxed);
        let line = redact(line.as_ref());
        tracing::error!("{line}");
        match self.style().format {
            Format::Console => self.to_stderr(&format!("ERROR: {line}\n")),
            Format::Json => self.collect("_ERROR", &line),
        }
    }

    /// Tells a detail, under `-d` only.
    pub fn debug(&self, line: impl AsRef<str>) {
        let line = redact(line.as_ref());
        tracing::debug!("{line}");
        match self.style().format {
            _ if !self.style().debug => {}
            Format::Console => self.to_stderr(&format!("DEBUG: {line}\n")),
            Format::Json => self.collect("_DEBUG", &line),
        }
    }

    /// Makes the exit code 1 without a message, when the report itself tells of the failure.
    pub fn mark_failed(&self) {
        self.shared.failed.store(true, Ordering::Relaxed);
    }

    /// Tells a result. Reports about the same server are merged into one object.
    pub fn report(&self, report: &dyn Report) {
        match self.style().format {
            Format::Console => self.to_stdout(&redact(&report.console(self.style()))),
            Format::Json => self.set(report.server(), report.json()),
        }
    }

    /// Puts a value into the JSON object; nothing on the console. Objects and arrays under the same key are merged.
    pub fn set(&self, key: &str, mut value: Value) {
        redact_json(&mut value);
        let mut document = lock(&self.shared.document);
        match (document.get_mut(key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => old.extend(new),
            (Some(Value::Array(old)), Value::Array(new)) => old.extend(new),
            (_, value) => {
                document.insert(key.to_owned(), value);
            }
        }
    }

    /// Starts telling how far something is: `total` in bytes, if known.
    pub fn progress(&self, label: &str, total: Option<u64>) -> Progress {
        let silent = self.style().quiet || self.style().format == Format::Json;
        let progress = match (silent, io::stderr().is_terminal()) {
            (true, _) => Progress::silent(),
            (false, true) => Progress::bar(label, total),
            (false, false) => Progress::lines(self.clone(), label, total),
        };
        *lock(&self.shared.bar) = progress.as_bar();
        progress
    }

    /// Prints the JSON object. Call it once, last; the console has been told already.
    pub fn finish(&self) {
        if self.style().format == Format::Json && !self.style().quiet {
            let document = std::mem::take(&mut *lock(&self.shared.document));
            let mut text = String::new();
            text::json(&Value::Object(document), &mut text);
            write_quietly(&mut io::stdout().lock(), &text);
        }
    }

    fn collect(&self, key: &str, line: &str) {
        let mut document = lock(&self.shared.document);
        let list = document.entry(key).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(lines) = list {
            lines.push(Value::String(line.to_owned()));
        }
    }

    fn to_stdout(&self, text: &str) {
        if !self.style().quiet {
            self.around_bar(|| write_quietly(&mut io::stdout().lock(), text));
        }
    }

    /// Quiet is about answers: trouble is told all the same.
    fn to_stderr(&self, text: &str) {
        self.around_bar(|| write_quietly(&mut io::stderr().lock(), text));
    }

    /// Writes with the progress bar out of the way.
    fn around_bar(&self, write: impl FnOnce()) {
        let bar = lock(&self.shared.bar).clone();
        match bar {
            Some(bar) if !bar.is_finished() => bar.suspend(write),
            _ => write(),
        }
    }
}

/// A reader that has gone away (`barkeep list-backups all | head -1`) is no reason to stop working, nor to panic.
fn write_quietly(stream: &mut impl Write, text: &str) {
    let _ = stream.write_all(text.as_bytes()).and_then(|()| stream.flush());
}

/// Blots out the passwords in a value.
pub(crate) fn redact_json(value: &mut Value) {
    match value {
        Value::String(text) => *text = redact(text),
        Value::Array(values) => values.iter_mut().for_each(redact_json),
        Value::Object(map) => map.values_mut().for_each(redact_json),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
