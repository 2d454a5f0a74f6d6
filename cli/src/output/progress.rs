//! Telling how far something is: a bar on a terminal, a line every few seconds elsewhere, nothing when quiet.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use super::{Output, lock, text};

/// How often a line is written where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// How far something is, in bytes. Any thread may advance it.
#[derive(Debug)]
pub struct Progress {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Silent,
    Bar(ProgressBar),
    Lines(Box<Lines>),
}

#[derive(Debug)]
struct Lines {
    output: Output,
    label: String,
    done: AtomicU64,
    /// Zero while unknown.
    total: AtomicU64,
    started: Instant,
    last: Mutex<Instant>,
}

impl Progress {
    pub(super) fn silent() -> Self {
        Progress { kind: Kind::Silent }
    }

    pub(super) fn bar(label: &str, total: Option<u64>) -> Self {
        let bar = match total {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::no_length(),
        };
        bar.set_style(style(total));
        bar.set_message(label.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        Progress { kind: Kind::Bar(bar) }
    }

    pub(super) fn lines(output: Output, label: &str, total: Option<u64>) -> Self {
        let now = Instant::now();
        Progress {
            kind: Kind::Lines(Box::new(Lines {
                output,
                label: label.to_owned(),
                done: AtomicU64::new(0),
                total: AtomicU64::new(total.unwrap_or(0)),
                started: now,
                last: Mutex::new(now),
            })),
        }
    }

    pub(super) fn as_bar(&self) -> Option<ProgressBar> {
        match &self.kind {
            Kind::Bar(bar) => Some(bar.clone()),
            Kind::Silent | Kind::Lines(_) => None,
        }
    }

    /// The total in bytes has become known, or better known.
    pub fn set_total(&self, total: u64) {
        match &self.kind {
            Kind::Silent => {}
            Kind::Bar(bar) => {
                bar.set_style(style(Some(total)));
                bar.set_length(total);
            }
            Kind::Lines(lines) => lines.total.store(total, Ordering::Relaxed),
        }
    }

    /// So many bytes more are done.
    pub fn advance(&self, bytes: u64) {
        match &self.kind {
            Kind::Silent => {}
            Kind::Bar(bar) => bar.inc(bytes),
            Kind::Lines(lines) => {
                lines.done.fetch_add(bytes, Ordering::Relaxed);
                lines.tell_now_and_then();
            }
        }
    }

    /// So many bytes are done in all.
    pub fn set_done(&self, bytes: u64) {
        match &self.kind {
            Kind::Silent => {}
            Kind::Bar(bar) => bar.set_position(bytes),
            Kind::Lines(lines) => {
                lines.done.store(bytes, Ordering::Relaxed);
                lines.tell_now_and_then();
            }
        }
    }

    /// Another stage has begun; `label` says which.
    pub fn set_label(&self, label: &str) {
        if let Kind::Bar(bar) = &self.kind {
            bar.set_message(label.to_owned());
        }
    }

    /// It is over, well or badly; the bar goes away. Dropping does the same.
    pub fn finish(&self) {
        if let Kind::Bar(bar) = &self.kind {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Lines {
    fn tell_now_and_then(&self) {
        let now = Instant::now();
        {
            let mut last = lock(&self.last);
            if now.duration_since(*last) < LINE_INTERVAL {
                return;
            }
            *last = now;
        }
        self.output.to_stderr(&format!("{}\n", self.line(now)));
    }

    fn line(&self, now: Instant) -> String {
        let done = self.done.load(Ordering::Relaxed);
        let total = self.total.load(Ordering::Relaxed);
        let seconds = now.duration_since(self.started).as_secs_f64();
        let rate = if seconds > 0.0 { done as f64 / seconds } else { 0.0 };
        let mut line = format!("{}: {}", self.label, text::size_u64(done));
        if total > 0 {
            let percent = (done as f64 / total as f64 * 100.0).min(100.0);
            line.push_str(&format!(" of {} ({percent:.0}%)", text::size_u64(total)));
        }
        line.push_str(&format!(", {}/s", text::size(rate)));
        if total > done && rate > 0.0 {
            let left = Duration::try_from_secs_f64((total - done) as f64 / rate).unwrap_or_default();
            line.push_str(&format!(", {} left", text::duration(left)));
        }
        line
    }
}

fn style(total: Option<u64>) -> ProgressStyle {
    let template = match total {
        Some(_) => "{msg} [{bar:30}] {size} of {whole} {percent}%  {rate}/s  {eta} left",
        None => "{msg} {spinner} {size}  {rate}/s",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style
        .progress_chars("=> ")
        .with_key("size", |state: &ProgressState, w: &mut dyn fmt::Write| {
            let _ = w.write_str(&text::size_u64(state.pos()));
        })
        .with_key("whole", |state: &ProgressState, w: &mut dyn fmt::Write| {
            let _ = w.write_str(&text::size_u64(state.len().unwrap_or(0)));
        })
        .with_key("rate", |state: &ProgressState, w: &mut dyn fmt::Write| {
            let _ = w.write_str(&text::size(state.per_sec()));
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Style;

    #[test]
    fn a_line_tells_share_rate_and_time_left() {
        let progress = Progress::lines(Output::new(Style::default()), "Copying", Some(4 << 20));
        progress.set_done(1 << 20);
        let Kind::Lines(lines) = &progress.kind else { panic!("asked for lines") };
        let line = lines.line(lines.started + Duration::from_secs(1));
        assert_eq!(line, "Copying: 1.0 MiB of 4.0 MiB (25%), 1.0 MiB/s, 3 seconds left");
        progress.set_total(0);
        let line = lines.line(lines.started + Duration::from_secs(2));
        assert_eq!(line, "Copying: 1.0 MiB, 512.0 KiB/s");
    }
}
