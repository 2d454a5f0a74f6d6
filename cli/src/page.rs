//! The page that `windows --html` writes and the daemon serves: what can be restored, drawn. One self-contained document:
//! its style is in it, it has no script, and it loads nothing.

mod axis;
mod picture;

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use pgwal::PgTimestamp;

use crate::command::windows::end_in_words;
use crate::command::windows::gather::{Gathered, Shown};
use crate::output::text;

const STYLE: &str = include_str!("page/style.css");
/// Widths that the timeline is drawn in, in pixels: the style shows one of them.
const WIDE: f64 = 1160.0;
const NARROW: f64 = 360.0;
/// Most rows of a table of backups.
const ROWS_MAX: usize = 200;

/// A server on the page: what can be restored of it, or why that is not known.
pub(crate) type Entry = (String, Result<Gathered, String>);

/// The page.
pub(crate) fn render(servers: &[Entry], now: Timestamp) -> String {
    let mut page = String::with_capacity(32 << 10);
    let title = match servers {
        [(name, _)] => format!("{} - what can be restored", escape(name)),
        _ => "What can be restored".to_owned(),
    };
    let _ = write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <header><h1>What can be restored</h1><p>as of {} UTC</p></header>\n<main>\n",
        now.strftime("%Y-%m-%d %H:%M:%S")
    );
    if servers.is_empty() {
        page.push_str("<p>No servers are configured.</p>\n");
    }
    for (name, server) in servers {
        let _ = writeln!(page, "<section>\n<h2>{}</h2>", escape(name));
        match server {
            Ok(gathered) => section(&mut page, gathered),
            Err(why) => {
                let _ = writeln!(page, "<p class=\"bad\">{}</p>", escape(why));
            }
        }
        page.push_str("</section>\n");
    }
    page.push_str("</main>\n<footer>barkeep ");
    page.push_str(env!("CARGO_PKG_VERSION"));
    page.push_str("</footer>\n</body>\n</html>\n");
    page
}

fn section(page: &mut String, gathered: &Gathered) {
    tiles(page, gathered);
    faults(page, gathered);
    picture::draw(page, gathered, WIDE, "wide");
    picture::draw(page, gathered, NARROW, "narrow");
    legend(page);
    intervals(page, gathered);
    backups(page, gathered);
}

fn tiles(page: &mut String, gathered: &Gathered) {
    page.push_str("<dl class=\"tiles\">\n");
    let mut tile = |name: &str, value: String, note: String, class: &str| {
        let _ = writeln!(
            page,
            "<div class=\"{class}\"><dt>{name}</dt><dd>{}<small>{}</small></dd></div>",
            escape(&value),
            escape(&note)
        );
    };
    let loss = gathered.loss_seconds().map(|seconds| short(seconds.unsigned_abs()));
    let newest = gathered.newest.as_ref().and_then(|newest| newest.received.or(newest.archived));
    tile(
        "Lost if the server were lost now",
        loss.map_or_else(|| "not known".to_owned(), |loss| format!("at most {loss}")),
        newest.map_or_else(String::new, |commit| {
            format!("newest commit: {} at {}", commit.xid, seconds(commit.time))
        }),
        "",
    );
    let usable = gathered.backups.len();
    let last = gathered.backups.last().and_then(|backup| backup.start.end_time);
    tile(
        "Backups",
        usable.to_string(),
        last.map_or_else(String::new, |time| format!("the last at {}", seconds(time))),
        if usable == 0 { "bad" } else { "" },
    );
    let earliest = gathered.windows.timelines.iter().flat_map(|timeline| &timeline.intervals);
    let earliest = earliest.filter_map(|interval| interval.from_time).min();
    tile("Earliest moment", earliest.map_or_else(|| "none".to_owned(), seconds), String::new(), "");
    let missing: u64 = gathered.windows.gaps.iter().map(|gap| gap.segments).sum();
    let damaged = gathered.windows.damaged.len();
    tile(
        "WAL",
        match (missing, damaged) {
            (0, 0) => "unbroken".to_owned(),
            (missing, 0) => format!("{missing} missing"),
            (missing, damaged) => format!("{missing} missing, {damaged} damaged"),
        },
        String::new(),
        if missing > 0 || damaged > 0 { "bad" } else { "" },
    );
    page.push_str("</dl>\n");
}

/// What is wrong, in words.
fn faults(page: &mut String, gathered: &Gathered) {
    let windows = &gathered.windows;
    let mut faults: Vec<String> = Vec::new();
    faults.extend(windows.gaps.iter().map(|gap| match gap.segments {
        1 => format!("{} is missing", gap.first),
        count => format!("{} to {} are missing ({count} segments)", gap.first, gap.last),
    }));
    faults.extend(windows.damaged.iter().map(|(segment, note)| format!("{segment} is damaged: {note}")));
    faults.extend(windows.missing_histories.iter().map(|timeline| {
        format!(
            "{:08X}.history is missing: recovery would silently stay on an older timeline",
            timeline.as_u32()
        )
    }));
    faults.extend(windows.stranded.iter().map(|stranded| {
        format!("backup {} can't be restored: its WAL ends at {}", stranded.id, stranded.reach)
    }));
    if gathered.unindexed > 0 {
        faults.push(format!(
            "{} segments are not indexed, and what they hold is not known",
            gathered.unindexed
        ));
    }
    if faults.is_empty() {
        return;
    }
    page.push_str("<ul class=\"bad\">\n");
    for fault in faults.iter().take(ROWS_MAX) {
        let _ = writeln!(page, "<li>{}</li>", escape(fault));
    }
    page.push_str("</ul>\n");
}

fn legend(page: &mut String) {
    page.push_str(
        "<p class=\"legend\">\
         <span><i class=\"interval\"></i>can be restored</span> \
         <span><i class=\"gap\"></i>interrupted</span> \
         <span><i class=\"backup\"></i>backup</span> \
         <span><i class=\"obsolete\"></i>obsolete backup</span> \
         <span><i class=\"point\"></i>restore point</span> \
         <span><i class=\"rate\"></i>WAL written</span> \
         </p>\n",
    );
}

fn intervals(page: &mut String, gathered: &Gathered) {
    page.push_str(
        "<div class=\"scroll\"><table><caption>Intervals</caption><thead><tr><th>Timeline</th><th>From</th>\
         <th>Last commit</th><th>LSN</th><th>Transactions</th><th>Commits</th><th>Newest backup</th><th>Ends because</th>\
         </tr></thead><tbody>\n",
    );
    for timeline in &gathered.windows.timelines {
        for interval in timeline.intervals.iter().rev().take(ROWS_MAX) {
            let time = |time: Option<PgTimestamp>| time.map_or_else(|| "-".to_owned(), seconds);
            let xids = interval.xids.map_or_else(|| "-".to_owned(), |(low, high)| format!("{low} - {high}"));
            let _ = writeln!(
                page,
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{} - {}</td><td>{xids}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                timeline.timeline,
                time(interval.from_time),
                time(interval.last_commit),
                interval.from,
                interval.to,
                interval.commits,
                interval.backups.last().map(ToString::to_string).unwrap_or_default(),
                escape(
                    &end_in_words(&interval.ends).unwrap_or_else(|| "nothing newer is archived".to_owned())
                ),
            );
        }
    }
    page.push_str("</tbody></table></div>\n");
}

fn backups(page: &mut String, gathered: &Gathered) {
    page.push_str(
        "<div class=\"scroll\"><table><caption>Backups</caption><thead><tr><th>Backup</th><th>Timeline</th><th>Ended</th>\
         <th>Consistent at</th><th>Retention</th><th>Last drill</th></tr></thead><tbody>\n",
    );
    for Shown { start, verdict, drill } in gathered.backups.iter().rev().take(ROWS_MAX) {
        let drill = drill.as_ref().map_or_else(
            || "never".to_owned(),
            |drill| {
                let result = if drill.faults.is_empty() { "passed" } else { "failed" };
                format!("{result}, {}", drill.at.strftime("%Y-%m-%d %H:%M"))
            },
        );
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            start.id,
            start.timeline,
            start.end_time.map_or_else(|| "-".to_owned(), seconds),
            start.end,
            escape(&verdict.map_or_else(|| "-".to_owned(), |verdict| verdict.to_string())),
            drill,
        );
    }
    page.push_str("</tbody></table></div>\n");
}

/// A moment to the second.
fn seconds(time: PgTimestamp) -> String {
    let text = time.to_string();
    text.split('.').next().unwrap_or(&text).to_owned()
}

/// A length of time by its largest unit or two.
fn short(seconds: u64) -> String {
    let text = text::duration(Duration::from_secs(seconds));
    text.split(", ").take(2).collect::<Vec<_>>().join(", ")
}

/// Text for HTML and SVG.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() && c != '\n' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_are_called_can_do_no_harm() {
        let entry = ("<script>alert(1)</script>".to_owned(), Err("a & b\u{7}".to_owned()));
        let page = render(&[entry], Timestamp::UNIX_EPOCH);
        assert!(!page.contains("<script") && page.contains("&lt;script&gt;alert(1)"), "{page}");
        assert!(page.contains("a &amp; b\u{fffd}"), "{page}");
        assert!(!page.contains("http"), "the page loads nothing");
    }
}
