//! What `vswitch top` shows: the last looks, and how the user wants to see them.
//! Pure: looks and keys in, a value to draw out.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::look::{Heard, Look, Seen};
use crate::control::{FdbLine, PortLine, PortStats};
use crate::events::{Event, line};
use crate::live::{PortRates, Rates};

/// Looks that a sparkline reaches back.
pub(super) const HISTORY_LEN: usize = 120;

/// Events that are kept.
const EVENTS_LEN: usize = 1024;

/// The choices of the time between two looks, in milliseconds.
const INTERVALS: [u64; 7] = [100, 200, 500, 1000, 2000, 5000, 10_000];

/// What lines and bars are made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Glyphs {
    Unicode,
    Ascii,
}

/// What ports are sorted by; all but the first two from high to low.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sort {
    Created,
    Name,
    Rx,
    Tx,
    Drops,
}

impl Sort {
    const ALL: [Sort; 5] = [Sort::Created, Sort::Name, Sort::Rx, Sort::Tx, Sort::Drops];

    pub const fn name(self) -> &'static str {
        match self {
            Sort::Created => "as created",
            Sort::Name => "by name",
            Sort::Rx => "by rx",
            Sort::Tx => "by tx",
            Sort::Drops => "by drops",
        }
    }
}

/// Which list has the lower part, where only one fits, and scrolls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum List {
    Addresses,
    Events,
}

/// What is pressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Key {
    Letter(char),
    Up,
    Down,
    PageUp,
    PageDown,
    Tab,
    Enter,
    Backspace,
    Escape,
    Quit,
}

/// What a key asks of others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wish {
    Nothing,
    Quit,
    Interval(Duration),
}

/// What the keys do: the letters change meaning while something is typed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    Watching,
    Typing,
    Helping,
}

/// Everything that is shown.
#[derive(Debug)]
pub(super) struct Model {
    pub look: Option<Look>,
    pub rates: Rates,
    /// Frames a second in and out of each port, the youngest last.
    pub history: BTreeMap<String, VecDeque<u64>>,
    pub events: VecDeque<Event>,
    /// Why the last look failed.
    pub trouble: Option<String>,
    pub interval: Duration,
    pub glyphs: Glyphs,
    pub sort: Sort,
    pub search: String,
    pub mode: Mode,
    pub list: List,
    /// Name of the port that is described.
    pub selected: String,
    /// Lines that the list is scrolled down.
    pub scroll: usize,
    pub paused: bool,
}

/// One row of ports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'m> {
    pub line: &'m PortLine,
    pub stats: Option<&'m PortStats>,
    pub rates: Option<&'m PortRates>,
}

impl Model {
    pub fn new(interval: Duration, glyphs: Glyphs) -> Model {
        Model {
            look: None,
            rates: Rates::default(),
            history: BTreeMap::new(),
            events: VecDeque::new(),
            trouble: None,
            interval,
            glyphs,
            sort: Sort::Created,
            search: String::new(),
            mode: Mode::Watching,
            list: List::Events,
            selected: String::new(),
            scroll: 0,
            paused: false,
        }
    }

    /// Takes a look, or that there is none; true if there is something to draw.
    pub fn hear(&mut self, heard: Heard) -> bool {
        match heard {
            Ok(look) => self.take(*look),
            Err(error) => self.trouble = Some(error),
        }
        !self.paused
    }

    /// Takes a look. While the picture is held, events are kept all the same.
    pub fn take(&mut self, mut look: Look) {
        self.trouble = None;
        let is_other = self.look.as_ref().is_some_and(|before| Seen::of(before).is_other_than(&look.show));
        if is_other {
            self.events.clear();
            self.history.clear();
        }
        self.events.extend(look.events.events.drain(..));
        let surplus = self.events.len().saturating_sub(EVENTS_LEN);
        self.events.drain(..surplus);
        if self.paused {
            return;
        }
        if let Some(rates) = self.look.as_ref().and_then(|before| Rates::between(&before.stats, &look.stats))
        {
            for port in &rates.ports {
                let history = self.history.entry(port.name.clone()).or_default();
                history.push_back(port.rx + port.tx);
                let surplus = history.len().saturating_sub(HISTORY_LEN);
                history.drain(..surplus);
            }
            self.history.retain(|name, _| rates.ports.iter().any(|port| port.name == *name));
            self.rates = rates;
        }
        self.look = Some(look);
        self.keep_selection();
    }

    /// The ports that the search leaves, in order.
    pub fn rows(&self) -> Vec<Row<'_>> {
        let Some(look) = &self.look else { return Vec::new() };
        let ports = look.show.ports.iter().map(|line| Row {
            line,
            stats: look.stats.ports.iter().find(|port| port.name == line.name),
            rates: self.rates.ports.iter().find(|port| port.name == line.name),
        });
        let mut rows: Vec<Row<'_>> =
            ports.filter(|row| self.is_found(&[&row.line.name, &row.line.kind, &row.line.peer])).collect();
        let down = |of: &dyn Fn(&PortRates) -> u64, row: &Row<'_>| std::cmp::Reverse(row.rates.map(of));
        match self.sort {
            Sort::Created => {}
            Sort::Name => rows.sort_by(|a, b| a.line.name.cmp(&b.line.name)),
            Sort::Rx => rows.sort_by_key(|row| down(&|rates| rates.rx, row)),
            Sort::Tx => rows.sort_by_key(|row| down(&|rates| rates.tx, row)),
            Sort::Drops => {
                rows.sort_by_key(|row| down(&|rates| rates.drops + rates.refused + rates.lost, row))
            }
        }
        rows
    }

    /// The addresses that the search leaves.
    pub fn addresses(&self) -> Vec<&FdbLine> {
        let Some(look) = &self.look else { return Vec::new() };
        let found = |entry: &&FdbLine| self.is_found(&[&entry.mac.to_string(), &entry.port]);
        look.fdb.entries.iter().filter(found).collect()
    }

    /// The events that the search leaves, youngest first.
    pub fn found_events(&self) -> Vec<&Event> {
        self.events.iter().rev().filter(|event| self.is_found(&[&line(event)])).collect()
    }

    fn is_found(&self, texts: &[&str]) -> bool {
        let wanted = self.search.to_lowercase();
        texts.iter().any(|text| text.to_lowercase().contains(&wanted))
    }

    /// What `key` does.
    pub fn press(&mut self, key: Key) -> Wish {
        if key == Key::Quit {
            return Wish::Quit;
        }
        match self.mode {
            Mode::Helping => self.mode = Mode::Watching,
            Mode::Typing => self.type_key(key),
            Mode::Watching => return self.watch_key(key),
        }
        Wish::Nothing
    }

    fn type_key(&mut self, key: Key) {
        match key {
            Key::Letter(letter) => self.search.push(letter),
            Key::Backspace => drop(self.search.pop()),
            Key::Enter => self.mode = Mode::Watching,
            Key::Escape => {
                self.search.clear();
                self.mode = Mode::Watching;
            }
            Key::Up | Key::Down | Key::PageUp | Key::PageDown | Key::Tab | Key::Quit => {}
        }
        self.scroll = 0;
        self.keep_selection();
    }

    fn watch_key(&mut self, key: Key) -> Wish {
        match key {
            Key::Letter('q') | Key::Quit => return Wish::Quit,
            Key::Escape if self.search.is_empty() => return Wish::Quit,
            Key::Escape => {
                self.search.clear();
                self.keep_selection();
            }
            Key::Letter('?' | 'h') => self.mode = Mode::Helping,
            Key::Letter('/') => self.mode = Mode::Typing,
            Key::Letter('s') => self.sort = step(&Sort::ALL, self.sort, 1),
            Key::Letter('S') => self.sort = step(&Sort::ALL, self.sort, Sort::ALL.len() - 1),
            Key::Letter('p' | ' ') => self.paused = !self.paused,
            Key::Letter('+') => return self.change_interval(|ms, now| ms < now),
            Key::Letter('-') => return self.change_interval(|ms, now| ms > now),
            Key::Up | Key::Letter('k') => self.select(|at, _| at.saturating_sub(1)),
            Key::Down | Key::Letter('j') => self.select(|at, len| (at + 1).min(len - 1)),
            Key::PageUp => self.scroll = self.scroll.saturating_sub(5),
            Key::PageDown => {
                let len = match self.list {
                    List::Addresses => self.addresses().len(),
                    List::Events => self.found_events().len(),
                };
                self.scroll = (self.scroll + 5).min(len.saturating_sub(1));
            }
            Key::Tab => {
                self.list = step(&[List::Addresses, List::Events], self.list, 1);
                self.scroll = 0;
            }
            Key::Letter(_) | Key::Enter | Key::Backspace => {}
        }
        Wish::Nothing
    }

    /// The nearest other interval that `is_next` finds.
    fn change_interval(&mut self, is_next: fn(u64, u64) -> bool) -> Wish {
        let now = u64::try_from(self.interval.as_millis()).unwrap_or(u64::MAX);
        let next = INTERVALS.into_iter().filter(|ms| is_next(*ms, now)).min_by_key(|ms| ms.abs_diff(now));
        let Some(next) = next else { return Wish::Nothing };
        self.interval = Duration::from_millis(next);
        Wish::Interval(self.interval)
    }

    fn select(&mut self, to: fn(usize, usize) -> usize) {
        let names: Vec<String> = self.rows().iter().map(|row| row.line.name.clone()).collect();
        if let Some(at) = names.iter().position(|name| *name == self.selected) {
            self.selected.clone_from(&names[to(at, names.len())]);
        }
    }

    /// Describes the first port if the one described is not to be seen.
    fn keep_selection(&mut self) {
        let rows = self.rows();
        if rows.iter().all(|row| row.line.name != self.selected) {
            self.selected = rows.first().map_or_else(String::new, |row| row.line.name.clone());
        }
    }
}

/// The element of `all` that is `by` further than `now`, round and round.
fn step<T: Copy + PartialEq>(all: &[T], now: T, by: usize) -> T {
    let at = all.iter().position(|other| *other == now).unwrap_or(0);
    all[(at + by) % all.len()]
}
