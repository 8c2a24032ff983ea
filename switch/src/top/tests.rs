//! Screens of a model that nobody measured: what is drawn, and what keys do.
//!
//! The screens are files beside this one. A change of the picture shows there as
//! a difference; `VSWITCH_UPDATE=1` writes them anew.

use std::path::Path;
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::draw;
use super::look::Look;
use super::model::{Glyphs, Key, List, Mode, Model, Wish};
use super::sections::sparkline;
use crate::control::{Events, FdbLine, PortLine, PortState, PortStats, examples};
use crate::events::{Event, Happening, utc};
use crate::frame::MacAddr;

/// A look at second `second` of a switch with three busy ports and a sick one.
fn look(second: u64) -> Look {
    let (mut show, mut stats, _, mut fdb) = examples();
    show.name = "lan".to_owned();
    show.uptime_ms = 125_000 + second * 1000;
    let base = show.ports[0].clone();
    let port = |name: &str, peer: &str, state| PortLine {
        name: name.to_owned(),
        peer: peer.to_owned(),
        state,
        ..base.clone()
    };
    show.ports = vec![
        port("alice", "qemu-system-x86 4242", PortState::Up),
        port("bob", "qemu-system-x86 4250", PortState::Up),
        port("a-port-with-a-long-name", "", PortState::Down),
        PortLine { note: "eth1 is gone".to_owned(), ..port("uplink", "", PortState::Fault) },
    ];
    stats.uptime_ms = show.uptime_ms;
    let zero = PortStats::new("", &crate::bridge::PortCounters::ZERO, Default::default());
    let ports = show.ports.iter().zip([12_000, 300, 0, 1]).map(|(line, rate)| {
        // It swells and falls.
        let rx = rate * second + rate / 4 * (second % 5);
        let mut port =
            PortStats { name: line.name.clone(), rx, rx_bytes: rx * 800, tx: rx / 2, ..zero.clone() };
        port.forwarded = rx;
        port.copies = port.tx;
        *port.drops.get_mut("filtered").unwrap() = rate / 100 * second;
        *port.refused.get_mut("full").unwrap() = if line.name == "bob" { 17 } else { 0 };
        port.tx_lost = if line.name == "bob" { 3 * second } else { 0 };
        port
    });
    let retired = PortStats { name: "retired".to_owned(), ..zero.clone() };
    stats = crate::control::Stats::new("lan".to_owned(), stats.uptime_ms, ports.collect(), retired);
    fdb.next = None;
    fdb.entries = (1..=40)
        .map(|n: u64| FdbLine {
            mac: MacAddr::from_u64(0x0200_0000_0000 + n),
            port: if n.is_multiple_of(3) { "alice" } else { "bob" }.to_owned(),
            age_ms: Some(n * 700),
            ..fdb.entries[0].clone()
        })
        .collect();
    show.fdb_len = 40;
    let mac = MacAddr::new([2, 0, 0, 0, 0, 7]);
    let what = [
        Happening::PortUp { port: "alice".to_owned(), mtu: 1500, peer: "qemu-system-x86 4242".to_owned() },
        Happening::DeviceFault { port: "uplink".to_owned(), fault: "eth1 is gone".to_owned() },
        Happening::MacLearned { mac, vid: 0, port: "bob".to_owned() },
        Happening::MacFlapping { mac, vid: 0, from: "alice".to_owned(), port: "bob".to_owned(), moves: 4 },
    ];
    // One of each at first, and then one a second.
    let numbers = if second == 0 { 0..4 } else { second + 3..second + 4 };
    let events = numbers.map(|number| {
        let wall = Duration::from_secs(1_795_575_016 + number);
        let index = usize::try_from(number % 4).unwrap();
        Event { seq: number + 1, time: utc(wall), uptime_ms: number * 1000, what: what[index].clone() }
    });
    let events: Vec<Event> = events.collect();
    let next = events.last().unwrap().seq;
    Look { show, stats, fdb, events: Events { uptime_ms: 0, events, next, missed: 0 } }
}

fn model() -> Model {
    let mut model = Model::new(Duration::from_secs(1), Glyphs::Unicode);
    for second in 0..=72 {
        model.take(look(second));
    }
    model
}

/// The screen as text, without blanks at the ends of lines.
fn screen(model: &Model, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw::screen(frame, model)).unwrap();
    let buffer = terminal.backend().buffer();
    let line =
        |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned() + "\n";
    (0..height).map(line).collect()
}

#[track_caller]
fn check(name: &str, screen: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/top/screens").join(name);
    if std::env::var_os("VSWITCH_UPDATE").is_some() {
        std::fs::write(&path, screen).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(screen == expected, "not as in {}; VSWITCH_UPDATE=1 takes it over:\n{screen}", path.display());
}

#[test]
fn at_80_by_24_everything_has_its_place() {
    let mut model = model();
    check("80x24.txt", &screen(&model, 80, 24));
    model.press(Key::Tab);
    check("80x24-addresses.txt", &screen(&model, 80, 24));
    model.press(Key::Letter('?'));
    check("80x24-help.txt", &screen(&model, 80, 24));
}

#[test]
fn a_wide_terminal_shows_both_lists() {
    check("200x50.txt", &screen(&model(), 200, 50));
}

#[test]
fn a_terminal_without_unicode_gets_none() {
    let mut model = model();
    model.glyphs = Glyphs::Ascii;
    let text = screen(&model, 80, 24);
    assert!(text.is_ascii(), "{text}");
    check("80x24-ascii.txt", &text);
}

#[test]
fn no_size_is_too_small_to_draw() {
    let mut model = model();
    for (width, height) in [(1, 1), (10, 3), (40, 8), (80, 5), (400, 2)] {
        screen(&model, width, height);
    }
    model.press(Key::Letter('?'));
    screen(&model, 12, 4);
    screen(&Model::new(Duration::from_secs(1), Glyphs::Unicode), 80, 24);
}

fn names(model: &Model) -> Vec<&str> {
    model.rows().iter().map(|row| row.line.name.as_str()).collect()
}

fn type_word(model: &mut Model, word: &str) {
    model.press(Key::Letter('/'));
    for letter in word.chars() {
        model.press(Key::Letter(letter));
    }
    model.press(Key::Enter);
}

#[test]
fn ports_are_sorted_by_what_is_asked_for() {
    let mut model = model();
    let long = "a-port-with-a-long-name";
    for (sort, expected) in [
        ("as created", ["alice", "bob", long, "uplink"]),
        ("by name", [long, "alice", "bob", "uplink"]),
        ("by rx", ["alice", "bob", "uplink", long]),
        ("by tx", ["alice", "bob", "uplink", long]),
        ("by drops", ["alice", "bob", long, "uplink"]),
        ("as created", ["alice", "bob", long, "uplink"]),
    ] {
        assert_eq!((model.sort.name(), names(&model)), (sort, expected.to_vec()));
        model.press(Key::Letter('s'));
    }
    model.press(Key::Letter('S'));
    assert_eq!(model.sort.name(), "as created");
}

#[test]
fn a_search_leaves_what_matches_in_all_lists() {
    let mut model = model();
    type_word(&mut model, "UPLINK");
    assert_eq!((names(&model), model.selected.as_str()), (vec!["uplink"], "uplink"));
    assert_eq!(model.addresses().len(), 0);
    assert!(model.found_events().iter().all(|event| matches!(event.what, Happening::DeviceFault { .. })));
    assert_eq!((model.press(Key::Escape), model.rows().len()), (Wish::Nothing, 4));
    type_word(&mut model, "00:00:07");
    assert_eq!((model.addresses().len(), names(&model)), (1, vec![]));
    assert!(!model.found_events().is_empty());
    // Letters are text while it is typed, and mistakes can be mended.
    model.press(Key::Letter('/'));
    model.press(Key::Letter('q'));
    assert_eq!((model.mode, model.search.as_str()), (Mode::Typing, "00:00:07q"));
    model.press(Key::Backspace);
    model.press(Key::Escape);
    assert_eq!((model.mode, model.search.as_str()), (Mode::Watching, ""));
    assert_eq!(model.press(Key::Escape), Wish::Quit);
}

#[test]
fn keys_choose_scroll_and_end() {
    let mut model = model();
    assert_eq!(model.selected, "alice");
    model.press(Key::Down);
    model.press(Key::Letter('j'));
    assert_eq!(model.selected, "a-port-with-a-long-name");
    for _ in 0..9 {
        model.press(Key::Down);
    }
    assert_eq!(model.selected, "uplink");
    model.press(Key::Up);
    assert_eq!((model.selected.as_str(), model.list), ("a-port-with-a-long-name", List::Events));
    model.press(Key::PageDown);
    assert_eq!(model.scroll, 5);
    model.press(Key::Tab);
    assert_eq!((model.scroll, model.list), (0, List::Addresses));
    for _ in 0..100 {
        model.press(Key::PageDown);
    }
    assert_eq!(model.scroll, 39, "the last address stays");
    assert_eq!(model.press(Key::Letter('+')), Wish::Interval(Duration::from_millis(500)));
    assert_eq!(model.press(Key::Letter('-')), Wish::Interval(Duration::from_secs(1)));
    assert_eq!(model.press(Key::Letter('q')), Wish::Quit);
    assert_eq!(model.press(Key::Quit), Wish::Quit);
}

#[test]
fn a_held_picture_stays_and_goes_on_where_it_would_be() {
    let mut model = model();
    model.press(Key::Letter('p'));
    let held = screen(&model, 80, 24);
    assert!(held.contains("HELD"), "{held}");
    let seen = model.events.len();
    assert!(!model.hear(Ok(Box::new(look(73)))));
    assert_eq!(model.look.as_ref().unwrap().show.uptime_ms, 197_000);
    assert_eq!(model.events.len(), seen + 1, "nothing that happened is missed");
    model.press(Key::Letter(' '));
    assert!(model.hear(Ok(Box::new(look(74)))));
    assert_eq!(model.look.as_ref().unwrap().show.uptime_ms, 199_000);
}

#[test]
fn a_switch_that_ended_is_told_and_a_new_one_begins_anew() {
    let mut model = model();
    assert!(model.hear(Err("no switch called `lan` is running".to_owned())));
    let text = screen(&model, 80, 24);
    assert!(text.contains("looking again: no switch called `lan` is running"), "{text}");
    assert!(text.contains("alice"), "the last look stays");
    let mut other = look(0);
    other.show.pid += 1;
    model.take(other);
    assert_eq!((model.trouble.clone(), model.events.len(), model.history.len()), (None, 4, 0));
}

#[test]
fn bars_are_as_high_as_their_values() {
    assert_eq!(sparkline(&[0, 1, 4, 8], 4, Glyphs::Unicode), " ▁▄█");
    assert_eq!(sparkline(&[9, 0, 1, 4, 8], 4, Glyphs::Unicode), " ▁▄█", "the youngest");
    assert_eq!(sparkline(&[0, 0], 4, Glyphs::Unicode), "  ");
    assert_eq!(sparkline(&[u64::MAX, 1], 2, Glyphs::Ascii), "#.");
}
