//! What is on the screen, and what keys do to it. Knows no terminal.

use pgwal::{Lsn, PgTimestamp};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::super::event::{Event, Point};
use crate::output::text;

/// Longest text to search for, in characters.
const SEARCH_MAX: usize = 200;

/// One line of the list.
pub(super) enum Moment {
    Commit(Box<Event>),
    Point(Point),
}

impl Moment {
    pub(super) fn lsn(&self) -> Lsn {
        match self {
            Moment::Commit(event) => event.commit().lsn,
            Moment::Point(point) => point.lsn,
        }
    }

    pub(super) fn time(&self) -> PgTimestamp {
        match self {
            Moment::Commit(event) => event.commit().time,
            Moment::Point(point) => point.time,
        }
    }

    pub(super) fn is_destructive(&self) -> bool {
        matches!(self, Moment::Commit(event) if event.is_destructive())
    }

    pub(super) fn summary(&self) -> String {
        match self {
            Moment::Commit(event) => event.summary(),
            Moment::Point(point) => point.summary(),
        }
    }

    /// Transaction and bytes of WAL.
    pub(super) fn size(&self) -> (String, String) {
        match self {
            Moment::Commit(event) => (event.commit().xid.to_string(), text::size_u64(event.commit().bytes)),
            Moment::Point(_) => (String::new(), String::new()),
        }
    }

    /// What leads back, how, and behind an empty line all there is to tell: in this order, because that may be more than
    /// there is room for.
    pub(super) fn in_full(&self) -> Vec<String> {
        let (lines, way) = match self {
            Moment::Commit(event) => (event.details(), "To restore what was there just before:"),
            Moment::Point(point) => {
                let at = format!("Made at {}, LSN {}", point.time, point.lsn);
                (vec![point.summary(), at], "To restore to it:")
            }
        };
        let head = [way.to_owned(), self.command(), String::new()];
        head.into_iter().chain(lines).collect()
    }

    /// How to go back there.
    pub(super) fn command(&self) -> String {
        match self {
            Moment::Commit(event) => event.back(),
            Moment::Point(point) => point.back(),
        }
    }

    /// Whether all words are in what is told of it, in lower or upper case.
    fn has(&self, words: &[String]) -> bool {
        let (xid, _) = self.size();
        let told = format!("{} {xid} {} {}", self.time(), self.lsn(), self.summary()).to_lowercase();
        words.iter().all(|word| told.contains(word))
    }
}

/// What is in front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mode {
    List,
    /// A text to search for is being typed.
    Search(String),
    /// A moment in full.
    Detail,
    Help,
}

/// What a key leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Flow {
    On,
    Quit,
    /// Quit, and print this.
    Pick(String),
}

/// How many lines a page is, down and up, and the first line of the last page.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Steps {
    pub(super) down: usize,
    pub(super) up: usize,
    pub(super) last: usize,
}

/// All that is shown.
pub(super) struct Model {
    pub(super) title: String,
    /// Whether there was more than can be shown.
    pub(super) more: bool,
    pub(super) mode: Mode,
    pub(super) filter: String,
    pub(super) only_destructive: bool,
    /// What the last key had to say.
    pub(super) message: Option<&'static str>,
    /// The first line of the list that is on the screen.
    pub(super) top: usize,
    /// How many lines the list has on the screen; the drawing knows.
    pub(super) rows: usize,
    /// How many lines of a moment in full are above its window.
    pub(super) scroll: usize,
    /// How far it scrolls; the drawing knows.
    pub(super) steps: Steps,
    moments: Vec<Moment>,
    /// The places of those that pass the filter.
    shown: Vec<usize>,
    /// The one that is chosen, by its place in `shown`.
    at: usize,
}

impl Model {
    /// Everything, the first destructive moment chosen.
    pub(super) fn new(title: String, moments: Vec<Moment>, more: bool) -> Self {
        let shown: Vec<usize> = (0..moments.len()).collect();
        let at = moments.iter().position(Moment::is_destructive).unwrap_or(0);
        Model {
            title,
            more,
            mode: Mode::List,
            filter: String::new(),
            only_destructive: false,
            message: None,
            top: 0,
            rows: 1,
            scroll: 0,
            steps: Steps::default(),
            moments,
            shown,
            at,
        }
    }

    /// How many pass the filter, of how many, and how many of all destroyed something.
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        let destructive = self.moments.iter().filter(|moment| moment.is_destructive()).count();
        (self.shown.len(), self.moments.len(), destructive)
    }

    pub(super) fn chosen(&self) -> Option<&Moment> {
        self.moments.get(*self.shown.get(self.at)?)
    }

    /// The lines that are on the screen, the chosen one among them: each with whether it is that.
    pub(super) fn page(&mut self, rows: usize) -> impl Iterator<Item = (bool, &Moment)> {
        self.rows = rows.max(1);
        self.top = self.top.min(self.at).max((self.at + 1).saturating_sub(self.rows));
        let (at, moments) = (self.at, &self.moments);
        let page = self.shown.iter().enumerate().skip(self.top).take(self.rows);
        page.filter_map(move |(place, moment)| Some((place == at, moments.get(*moment)?)))
    }

    pub(super) fn key(&mut self, key: KeyEvent) -> Flow {
        self.message = None;
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Flow::Quit,
                KeyCode::Char('f') => self.key(KeyCode::PageDown.into()),
                KeyCode::Char('b') => self.key(KeyCode::PageUp.into()),
                _ => Flow::On,
            };
        }
        match &mut self.mode {
            Mode::Search(typed) => {
                match key.code {
                    KeyCode::Enter => {
                        let filter = std::mem::take(typed);
                        self.mode = Mode::List;
                        self.filter = filter.trim().to_owned();
                        self.sift();
                    }
                    KeyCode::Esc => self.mode = Mode::List,
                    KeyCode::Backspace => drop(typed.pop()),
                    KeyCode::Char(c) if typed.chars().count() < SEARCH_MAX => typed.push(c),
                    _ => {}
                }
                Flow::On
            }
            Mode::Detail => match key.code {
                KeyCode::Char('p') => self.chosen().map_or(Flow::On, |moment| Flow::Pick(moment.command())),
                KeyCode::Char('q') | KeyCode::Esc | KeyCode::Enter => {
                    self.mode = Mode::List;
                    Flow::On
                }
                other => self.scroll(other),
            },
            Mode::Help => {
                self.mode = Mode::List;
                Flow::On
            }
            Mode::List => self.list_key(key.code),
        }
    }

    fn list_key(&mut self, code: KeyCode) -> Flow {
        match code {
            KeyCode::Char('q') => return Flow::Quit,
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            KeyCode::Char('/') => self.mode = Mode::Search(self.filter.clone()),
            KeyCode::Char('d') => {
                self.only_destructive = !self.only_destructive;
                self.sift();
            }
            KeyCode::Esc => {
                self.filter.clear();
                self.only_destructive = false;
                self.sift();
            }
            KeyCode::Enter if self.chosen().is_some() => {
                self.mode = Mode::Detail;
                self.scroll = 0;
            }
            other => return self.turn(other),
        }
        Flow::On
    }

    /// Moves within a moment in full, or to another loss.
    fn scroll(&mut self, code: KeyCode) -> Flow {
        let Steps { down, up, last } = self.steps;
        let to = match code {
            KeyCode::Down | KeyCode::Char('j') => self.scroll + 1,
            KeyCode::Up | KeyCode::Char('k') => self.scroll.saturating_sub(1),
            KeyCode::PageDown | KeyCode::Char(' ') => self.scroll + down,
            KeyCode::PageUp => self.scroll.saturating_sub(up),
            KeyCode::Home | KeyCode::Char('g') => 0,
            KeyCode::End | KeyCode::Char('G') => last,
            KeyCode::Char('n' | 'N') => {
                self.scroll = 0;
                return self.turn(code);
            }
            _ => self.scroll,
        };
        self.scroll = to.min(last);
        Flow::On
    }

    /// Moves.
    fn turn(&mut self, code: KeyCode) -> Flow {
        let last = self.shown.len().saturating_sub(1);
        match code {
            KeyCode::Down | KeyCode::Char('j') => self.at = (self.at + 1).min(last),
            KeyCode::Up | KeyCode::Char('k') => self.at = self.at.saturating_sub(1),
            KeyCode::PageDown | KeyCode::Char(' ') => self.at = self.at.saturating_add(self.rows).min(last),
            KeyCode::PageUp => self.at = self.at.saturating_sub(self.rows),
            KeyCode::Home | KeyCode::Char('g') => self.at = 0,
            KeyCode::End | KeyCode::Char('G') => self.at = last,
            KeyCode::Char('n') => self.jump(true),
            KeyCode::Char('N') => self.jump(false),
            _ => {}
        }
        Flow::On
    }

    /// To the next loss, or the one before.
    fn jump(&mut self, forward: bool) {
        let is_loss = |place: &usize| {
            self.shown.get(*place).and_then(|at| self.moments.get(*at)).is_some_and(Moment::is_destructive)
        };
        let found = if forward {
            (self.at + 1..self.shown.len()).find(is_loss)
        } else {
            (0..self.at).rev().find(is_loss)
        };
        match found {
            Some(at) => self.at = at,
            None if forward => self.message = Some("nothing was destroyed later"),
            None => self.message = Some("nothing was destroyed earlier"),
        }
    }

    /// Applies the filter, and stays as near as can be.
    fn sift(&mut self) {
        let before = self.shown.get(self.at).copied().unwrap_or(0);
        let words: Vec<String> = self.filter.to_lowercase().split_whitespace().map(str::to_owned).collect();
        let passes = |(_, moment): &(usize, &Moment)| {
            (!self.only_destructive || moment.is_destructive()) && moment.has(&words)
        };
        self.shown = self.moments.iter().enumerate().filter(passes).map(|(place, _)| place).collect();
        self.at = self.shown.partition_point(|place| *place < before).min(self.shown.len().saturating_sub(1));
        self.top = 0;
        if self.shown.is_empty() {
            self.message = Some("nothing of the sort; Esc shows all");
        }
    }
}
