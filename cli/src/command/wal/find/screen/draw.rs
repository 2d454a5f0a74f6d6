//! Draws the model. What is not wide enough for a column goes without it.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Wrap};

use super::model::{Mode, Model, Moment, Steps};

/// With fewer columns there is no room for transactions and sizes.
const WIDE_COLUMNS: u16 = 80;
/// With fewer columns the date goes, too.
const DATE_COLUMNS: u16 = 50;
/// With fewer lines, what is chosen is shown in full only when asked for.
const PANEL_LINES: u16 = 18;
/// Lines of that panel, its frame included.
const PANEL_SHARE: u16 = 9;
/// Fewer columns or lines can't be drawn on.
const COLUMNS_MIN: u16 = 20;
const LINES_MIN: u16 = 4;
/// Where the command is among the lines of a moment in full.
const COMMAND_LINE: usize = 1;

const HELP: [&str; 11] = [
    "Up Down j k     the moment before, after",
    "PgUp PgDn       a page; also Ctrl-B, Ctrl-F, space",
    "Home End g G    the first, the last",
    "n N             the next that destroyed something, the one before",
    "d               only these, or all again",
    "/ text Enter    only what has all these words: a table,",
    "                DROP, a time, a transaction",
    "Esc             all again",
    "Enter           how to restore to just before; p prints it and quits,",
    "                the keys of the first three lines scroll, n N go on",
    "q               quit",
];

pub(super) fn draw(frame: &mut Frame<'_>, model: &mut Model) {
    let area = frame.area();
    if area.width < COLUMNS_MIN || area.height < LINES_MIN {
        frame.render_widget(Paragraph::new("too small; q quits").wrap(Wrap { trim: true }), area);
        return;
    }
    let panel = if area.height >= PANEL_LINES { PANEL_SHARE } else { 0 };
    let [head, list, detail, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(panel),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(heading(model)).style(Modifier::REVERSED), head);
    let lines: Vec<Line<'_>> = model
        .page(usize::from(list.height))
        .map(|(chosen, moment)| {
            let line = line(moment, list.width);
            if chosen { line.style(Style::new().add_modifier(Modifier::REVERSED)) } else { line }
        })
        .collect();
    frame.render_widget(Paragraph::new(lines), list);
    if panel > 0 {
        let block = Block::bordered();
        frame.render_widget(in_full(model, 0).block(block), detail);
    }
    frame.render_widget(Paragraph::new(footing(model)), foot);
    match model.mode {
        Mode::Detail => {
            let place = inset(area);
            frame.render_widget(Clear, place);
            let lines = model.chosen().map_or_else(Vec::new, Moment::in_full);
            let block = Block::bordered()
                .title(" p prints the command and quits, Enter goes back ")
                .title_bottom(format!(" Down, PgDn: from line {} of {} ", model.scroll + 1, lines.len()));
            model.steps = steps(&lines, model.scroll, block.inner(place));
            frame.render_widget(in_full(model, model.scroll).block(block), place);
        }
        Mode::Help => {
            let place = inset(area);
            frame.render_widget(Clear, place);
            let help = Paragraph::new(HELP.map(Line::from).to_vec()).wrap(Wrap { trim: false });
            frame.render_widget(help.block(Block::bordered().title(" Keys ")), place);
        }
        Mode::List | Mode::Search(_) => {}
    }
}

fn heading(model: &Model) -> String {
    let (shown, all, destructive) = model.counts();
    let mut heading = format!(" {}: {all} moments, {destructive} destroyed something", model.title);
    if model.more {
        heading.push_str(" (and later ones: narrow it with --between)");
    }
    if shown < all {
        heading.push_str(&format!("; {shown} shown"));
    }
    heading
}

fn footing(model: &Model) -> String {
    match (&model.mode, model.message) {
        (Mode::Search(typed), _) => format!("/{typed}_"),
        (_, Some(message)) => message.to_owned(),
        _ if !model.filter.is_empty() => format!("only: {}   (Esc shows all)", model.filter),
        _ => "Enter restore options  n next loss  / search  d losses only  ? keys  q quit".to_owned(),
    }
}

/// A moment as a line of the list.
fn line(moment: &Moment, width: u16) -> Line<'static> {
    let time = moment.time().to_string();
    // "2026-11-26 05:14:20.123456+00": the fraction of a second tells nobody anything.
    let second = time.get(..19).unwrap_or(&time);
    let time = if width < DATE_COLUMNS { second.get(11..).unwrap_or(second) } else { second };
    let mut spans = vec![Span::raw(format!("{time} "))];
    if width >= WIDE_COLUMNS {
        let (xid, size) = moment.size();
        spans.push(Span::raw(format!("{xid:>10} {size:>10} ")));
    }
    let style = match moment {
        _ if moment.is_destructive() => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        Moment::Point(_) => Style::new().fg(Color::Cyan),
        Moment::Commit(_) => Style::new(),
    };
    // Without colours, too.
    let mark = if moment.is_destructive() { "! " } else { "  " };
    spans.push(Span::styled(format!("{mark}{}", moment.summary()), style));
    Line::from(spans)
}

/// How far the keys scroll in this window, so that no line is passed over.
fn steps(lines: &[String], scroll: usize, window: Rect) -> Steps {
    let width = usize::from(window.width).max(1);
    // Two rows that a line is wrapped into hold more than one's width together.
    let rows = |line: &String| match Line::from(line.as_str()).width() {
        wide if wide <= width => 1,
        wide => 2 * wide.div_ceil(width),
    };
    let fitting = |lines: &mut dyn Iterator<Item = &String>| {
        let mut free = usize::from(window.height);
        let fits = lines.map(rows).take_while(|rows| {
            let fits = *rows <= free;
            free = free.saturating_sub(*rows);
            fits
        });
        fits.count().max(1)
    };
    Steps {
        down: fitting(&mut lines.iter().skip(scroll)),
        up: fitting(&mut lines.iter().take(scroll).rev()),
        last: lines.len().saturating_sub(fitting(&mut lines.iter().rev())),
    }
}

/// The chosen moment, but for the first lines; the command in bold.
fn in_full(model: &Model, skipped: usize) -> Paragraph<'static> {
    let lines = model.chosen().map_or_else(Vec::new, Moment::in_full).into_iter().enumerate().skip(skipped);
    let lines = lines.map(|(number, line)| {
        let style = if number == COMMAND_LINE { Modifier::BOLD } else { Modifier::empty() };
        Line::from(line).style(style)
    });
    Paragraph::new(lines.collect::<Vec<_>>()).wrap(Wrap { trim: false })
}

/// Most of the screen.
fn inset(area: Rect) -> Rect {
    let (across, down) =
        (if area.width >= WIDE_COLUMNS { 4 } else { 0 }, u16::from(area.height >= PANEL_LINES));
    area.inner(ratatui::layout::Margin { horizontal: across, vertical: down })
}

#[cfg(test)]
mod tests;
