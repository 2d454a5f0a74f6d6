use std::collections::BTreeSet;

use pgwal::activity::{Commit, Loss, LossKind, Object, TableChange};
use pgwal::{Lsn, PgTimestamp, TimelineId};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::super::model::{Flow, Model, Moment};
use super::*;

fn object(name: &str) -> Object {
    Object {
        schema: Some("public".into()),
        name: Some(name.into()),
        relation_kind: Some(b'r'),
        ..Object::default()
    }
}

fn commit(number: u64, table: &str, dropped: bool) -> Moment {
    let change =
        TableChange { table: object(table), is_new: false, inserted: number, updated: 0, deleted: 0 };
    let loss = Loss { kind: LossKind::DropRelation, object: object(table) };
    Moment::Commit(Box::new(super::super::super::event::tests::event(
        Commit {
            lsn: Lsn::from_u64(number << 24),
            end: Lsn::from_u64((number << 24) + 64),
            before: Lsn::from_u64(number << 24),
            time: PgTimestamp::from_micros(i64::try_from(number).unwrap() * 60_000_000),
            xid: 700 + u32::try_from(number).unwrap(),
            bytes: 4096,
            database: None,
            tables: if dropped { Vec::new() } else { vec![change] },
            losses: if dropped { vec![loss] } else { Vec::new() },
        },
        TimelineId::FIRST,
    )))
}

/// A hundred commits; of `orders`, dropped, are the 30th and the 60th.
fn model() -> Model {
    let moments = (1..=100).map(|number| match number {
        30 | 60 => commit(number, "orders", true),
        number => commit(number, "log", false),
    });
    Model::new("main".to_owned(), moments.collect(), false)
}

fn press(model: &mut Model, code: KeyCode) -> Flow {
    model.key(KeyEvent::new(code, KeyModifiers::NONE))
}

fn screen(model: &mut Model, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn begins_at_the_first_loss_and_tells_the_way_back() {
    let mut model = model();
    let shown = screen(&mut model, 100, 30);
    assert!(shown.starts_with(" main: 100 moments, 2 destroyed something"), "{shown}");
    let line = "2000-01-01 00:30:00        730    4.0 KiB ! DROP TABLE public.orders";
    assert!(shown.contains(line), "{shown}");
    assert!(shown.contains("--target-lsn 0/1E000000 --exclusive --target-tli 1"), "{shown}");
}

#[test]
fn the_chosen_moment_is_always_on_the_screen() {
    let mut model = model();
    for code in [KeyCode::End, KeyCode::PageUp, KeyCode::Up, KeyCode::Home, KeyCode::PageDown, KeyCode::Down]
    {
        press(&mut model, code);
        for (width, height) in [(100, 30), (40, 10), (20, 4)] {
            screen(&mut model, width, height);
            let rows = model.rows;
            assert!(model.page(rows).any(|(chosen, _)| chosen), "{code:?} {width}x{height}");
        }
    }
}

#[test]
fn jumps_from_loss_to_loss_and_says_when_there_is_none() {
    let mut model = model();
    press(&mut model, KeyCode::Char('n'));
    assert_eq!(model.chosen().unwrap().lsn(), Lsn::from_u64(60 << 24));
    press(&mut model, KeyCode::Char('n'));
    assert!(screen(&mut model, 80, 24).ends_with("nothing was destroyed later"));
    press(&mut model, KeyCode::Char('N'));
    press(&mut model, KeyCode::Char('N'));
    assert_eq!(model.chosen().unwrap().lsn(), Lsn::from_u64(30 << 24));
    assert!(screen(&mut model, 80, 24).ends_with("nothing was destroyed earlier"));
}

#[test]
fn filters_by_words_in_any_case_and_shows_all_again() {
    let mut model = model();
    let search = |model: &mut Model, text: &str| {
        press(model, KeyCode::Char('/'));
        text.chars().for_each(|c| drop(press(model, KeyCode::Char(c))));
        press(model, KeyCode::Enter);
    };
    search(&mut model, "Orders drop");
    assert_eq!(model.counts(), (2, 100, 2));
    press(&mut model, KeyCode::Esc);
    assert_eq!(model.counts(), (100, 100, 2));
    search(&mut model, "742");
    assert_eq!(model.counts().0, 1);
    press(&mut model, KeyCode::Esc);
    search(&mut model, "nowhere");
    assert_eq!(model.counts().0, 0);
    assert!(screen(&mut model, 80, 24).contains("nothing of the sort; Esc shows all"));
    // Nothing is chosen, and nothing breaks.
    for key in ['n', 'N', 'j', 'k', 'G', 'g', ' '] {
        assert_eq!(press(&mut model, KeyCode::Char(key)), Flow::On);
    }
    assert_eq!(press(&mut model, KeyCode::Enter), Flow::On);
    assert_eq!(model.mode, Mode::List);
    press(&mut model, KeyCode::Esc);
    press(&mut model, KeyCode::Char('d'));
    assert_eq!(model.counts().0, 2);
}

#[test]
fn enter_shows_the_restore_options_and_p_prints_them() {
    let mut model = model();
    press(&mut model, KeyCode::Enter);
    let shown = screen(&mut model, 60, 12);
    assert!(shown.contains("To restore what was there just before:"), "{shown}");
    assert!(shown.contains("--target-lsn 0/1E000000 --exclusive"), "{shown}");
    let options = "--target-lsn 0/1E000000 --exclusive --target-tli 1";
    assert_eq!(press(&mut model, KeyCode::Char('p')), Flow::Pick(options.to_owned()));
    press(&mut model, KeyCode::Enter);
    assert_eq!(model.mode, Mode::List);
    assert_eq!(press(&mut model, KeyCode::Char('q')), Flow::Quit);
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(model.key(interrupt), Flow::Quit);
}

/// One commit that dropped very many tables.
fn of_many() -> Model {
    let Moment::Commit(one) = commit(30, "orders", true) else { panic!("a commit") };
    let mut told = one.commit().clone();
    let losses =
        |number| Loss { kind: LossKind::DropRelation, object: object(&format!("table_{number}_end")) };
    told.losses.extend((0..60).map(losses));
    let event = super::super::super::event::tests::event(told, TimelineId::FIRST);
    Model::new("main".to_owned(), vec![Moment::Commit(Box::new(event)), commit(60, "last", true)], false)
}

#[test]
fn the_command_is_seen_however_much_was_destroyed() {
    let mut model = of_many();
    for (width, height) in [(100, 30), (40, 12)] {
        model.mode = Mode::Detail;
        let shown = screen(&mut model, width, height);
        assert!(shown.contains("--target-lsn 0/1E000000 --exclusive"), "{shown}");
        assert!(shown.contains("--target-tli 1"), "{shown}");
    }
}

#[test]
fn all_that_was_destroyed_is_seen_by_scrolling() {
    for (width, height) in [(100, 30), (40, 12), (40, 4)] {
        for code in [KeyCode::Down, KeyCode::PageDown] {
            let mut model = of_many();
            press(&mut model, KeyCode::Enter);
            let mut seen = BTreeSet::new();
            for _ in 0..70 {
                let shown = screen(&mut model, width, height);
                seen.extend((0..60).filter(|number| shown.contains(&format!("table_{number}_end"))));
                press(&mut model, code);
            }
            assert_eq!(seen.len(), 60, "{width}x{height} {code:?}");
        }
    }
}

#[test]
fn scrolling_ends_with_the_last_line_and_begins_anew_for_another_moment() {
    let mut model = of_many();
    press(&mut model, KeyCode::Enter);
    assert!(screen(&mut model, 100, 30).contains("from line 1 of 66"));
    press(&mut model, KeyCode::End);
    let end = screen(&mut model, 100, 30);
    assert!(end.contains("from line 41 of 66") && end.contains("table_59_end"), "{end}");
    press(&mut model, KeyCode::Down);
    assert_eq!(screen(&mut model, 100, 30), end);
    press(&mut model, KeyCode::PageUp);
    let shown = screen(&mut model, 100, 30);
    assert!(shown.contains("from line 15 of 66") && !shown.contains("To restore"), "{shown}");
    press(&mut model, KeyCode::Char('n'));
    let shown = screen(&mut model, 100, 30);
    assert!(shown.contains("To restore") && shown.contains("public.last"), "{shown}");
    // Nothing is chosen, and nothing breaks.
    let mut empty = Model::new("main".to_owned(), Vec::new(), false);
    empty.mode = Mode::Detail;
    press(&mut empty, KeyCode::End);
    screen(&mut empty, 100, 30);
}

#[test]
fn narrow_terminals_lose_columns_and_not_what_happened() {
    let mut model = model();
    let narrow = screen(&mut model, 40, 10);
    assert!(narrow.contains("00:30:00 ! DROP TABLE public.orders"), "{narrow}");
    for (width, height) in [(1, 1), (5, 2), (19, 30), (20, 4), (300, 100)] {
        for mode in [Mode::List, Mode::Detail, Mode::Help, Mode::Search("x".repeat(200))] {
            model.mode = mode;
            screen(&mut model, width, height);
        }
    }
    let mut empty = Model::new("main".to_owned(), Vec::new(), true);
    assert!(screen(&mut empty, 90, 24).contains("0 moments"));
    assert_eq!(press(&mut empty, KeyCode::End), Flow::On);
}
