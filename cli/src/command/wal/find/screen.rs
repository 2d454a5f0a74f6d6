//! `wal find --tui`: the timeline on the whole terminal.
//!
//! [`model`] is what is shown and what keys do, [`draw`] puts it on the screen; here is the terminal itself, which is given
//! back as it was whatever happens.

mod draw;
mod model;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ratatui::crossterm::event::{self, KeyEventKind};
use signal_hook::consts::{SIGHUP, SIGTERM};

use super::super::Stop;
use super::event::{Event, Point};
use crate::error::CommandError;
use model::{Flow, Model, Moment};

/// How often a signal to end is looked for.
const TICK: Duration = Duration::from_millis(200);

/// Whether there is a terminal to draw on, asked before minutes of WAL are read.
///
/// # Errors
/// When there is none.
pub(super) fn check(json: bool) -> Result<(), Stop> {
    if json {
        return Err(CommandError::new("--tui draws for people; with -f json there is nobody to look")
            .hint("leave out one of the two")
            .into());
    }
    if io::stdin().is_terminal() && io::stdout().is_terminal() {
        return Ok(());
    }
    Err(CommandError::new("--tui needs a terminal, and standard input or output is none")
        .hint("the same is listed without --tui; --commits lists ordinary commits, too")
        .into())
}

/// Shows what was found until the user has seen enough; the command that was picked, if one was.
///
/// # Errors
/// When the terminal fails.
pub(super) fn show(
    title: String,
    events: Vec<Event>,
    points: Vec<Point>,
    more: bool,
) -> Result<Option<String>, Stop> {
    let mut moments: Vec<Moment> = events.into_iter().map(|event| Moment::Commit(Box::new(event))).collect();
    moments.extend(points.into_iter().map(Moment::Point));
    moments.sort_by_key(Moment::lsn);
    let mut model = Model::new(title, moments, more);
    let ended = Arc::new(AtomicBool::new(false));
    let failed = |error: io::Error| Stop::Failed(CommandError::because("The terminal can't be used", &error));
    for signal in [SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&ended)).map_err(failed)?;
    }
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let shown = run(&mut terminal, &mut model, &ended);
    ratatui::try_restore().map_err(failed)?;
    shown.map_err(failed)
}

fn run(
    terminal: &mut ratatui::DefaultTerminal,
    model: &mut Model,
    ended: &AtomicBool,
) -> io::Result<Option<String>> {
    while !ended.load(Ordering::Relaxed) {
        terminal.draw(|frame| draw::draw(frame, model))?;
        while !ended.load(Ordering::Relaxed) && !event::poll(TICK)? {}
        if ended.load(Ordering::Relaxed) {
            break;
        }
        // Of anything else, like a new size, the picture is drawn anew.
        let event::Event::Key(key) = event::read()? else { continue };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        match model.key(key) {
            Flow::On => {}
            Flow::Quit => return Ok(None),
            Flow::Pick(command) => return Ok(Some(command)),
        }
    }
    Ok(None)
}
