//! The parts of the screen, as lines.

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::model::{Glyphs, List, Mode, Model, Row};
use crate::control::{FdbLine, PortState, PortStats};
use crate::events::{Event, Kind, line};
use crate::live::{PortRates, short};
use crate::output::{plain, uptime};

/// Who it is, and how it is.
pub(super) fn head(model: &Model, width: usize) -> Line<'static> {
    let bold = Style::new().add_modifier(Modifier::BOLD | Modifier::REVERSED);
    let Some(look) = &model.look else { return Line::styled(" vswitch top ", bold) };
    let show = &look.show;
    let ports = if show.ports.len() == 1 { "port" } else { "ports" };
    let text = format!(
        " {}: {} {ports}, {} of {} MACs, ageing {}, up {}",
        plain(&show.name),
        show.ports.len(),
        show.fdb_len,
        show.fdb_size,
        plain(&show.ageing),
        uptime(show.uptime_ms)
    );
    let total = &model.rates.total;
    let right = format!("in {}/s {}bit/s ", short(total.rx), short(total.rx_bits));
    let gap = width.saturating_sub(text.chars().count() + right.len());
    Line::styled(if gap == 0 { format!("{text:width$}") } else { text + &" ".repeat(gap) + &right }, bold)
}

/// A heading and a line a port; the port that is described is among them.
pub(super) fn ports(model: &Model, width: usize, room: usize) -> Vec<Line<'static>> {
    let columns = Columns::of(model, width);
    let mut lines = vec![Line::styled(columns.heading(), Style::new().add_modifier(Modifier::DIM))];
    let rows = model.rows();
    let at = rows.iter().position(|row| row.line.name == model.selected).unwrap_or(0);
    let room = room.saturating_sub(1).max(1);
    let from = (at + 1).saturating_sub(room);
    for (row, index) in rows.iter().skip(from).take(room).zip(from..) {
        let mut style = match row.line.state {
            PortState::Up => Style::new(),
            PortState::Down => Style::new().add_modifier(Modifier::DIM),
            PortState::Fault => Style::new().fg(Color::Red),
        };
        if index == at {
            style = style.add_modifier(Modifier::REVERSED);
        }
        lines.push(Line::styled(columns.row(model, row), style));
    }
    lines
}

/// How wide the columns are that have no width of their own.
struct Columns {
    name: usize,
    kind: usize,
    peer: usize,
    spark: usize,
}

impl Columns {
    /// What the fixed columns take, the gaps before them included.
    const FIXED: usize = 7 + 7 + 7 + 9 + 9 + 7 + 7 + 7;

    fn of(model: &Model, width: usize) -> Columns {
        let rows = model.rows();
        let longest = |of: fn(&Row<'_>) -> usize, least: usize, most: usize| {
            rows.iter().map(of).max().unwrap_or(0).clamp(least, most)
        };
        let name = longest(|row| row.line.name.chars().count(), 4, if width < 100 { 10 } else { 24 });
        let is_wide = width >= 130;
        let kind = if is_wide { longest(|row| row.line.kind.len(), 4, 12) + 2 } else { 0 };
        let peer = if is_wide { longest(|row| row.line.peer.chars().count(), 4, 28) + 2 } else { 0 };
        let spark = width.saturating_sub(name + kind + peer + Columns::FIXED + 2).min(60);
        Columns { name, kind, peer, spark }
    }

    fn line(&self, cells: [&str; 9], kind: &str, peer: &str, spark: &str) -> String {
        let [name, state, rx, tx, rx_bits, tx_bits, drops, refused, lost] = cells;
        let Columns { name: wide, .. } = *self;
        let cut = |text: &str, wide: usize| text.chars().take(wide).collect::<String>();
        let mut line = format!(
            "{:wide$}  {state:5}{rx:>7}{tx:>7}{rx_bits:>9}{tx_bits:>9}{drops:>7}{refused:>7}{lost:>7}",
            cut(name, wide)
        );
        for (text, wide) in [(kind, self.kind), (peer, self.peer)] {
            if wide != 0 {
                line += &format!("  {:wide$}", cut(text, wide - 2), wide = wide - 2);
            }
        }
        if self.spark != 0 {
            line += "  ";
            line += &format!("{:>wide$}", cut(spark, self.spark), wide = self.spark);
        }
        line
    }

    fn heading(&self) -> String {
        let cells = ["PORT", "STATE", "RX/S", "TX/S", "RXBIT/S", "TXBIT/S", "DROP/S", "REF/S", "LOST/S"];
        self.line(cells, "KIND", "PEER", "FRAMES")
    }

    fn row(&self, model: &Model, row: &Row<'_>) -> String {
        let quiet = PortRates::default();
        let rates = row.rates.unwrap_or(&quiet);
        let numbers =
            [rates.rx, rates.tx, rates.rx_bits, rates.tx_bits, rates.drops, rates.refused, rates.lost];
        let [rx, tx, rx_bits, tx_bits, drops, refused, lost] = numbers.map(short);
        let name = plain(&row.line.name);
        let cells = [&name, row.line.state.name(), &rx, &tx, &rx_bits, &tx_bits, &drops, &refused, &lost];
        let history: Vec<u64> = model.history.get(&row.line.name).into_iter().flatten().copied().collect();
        let spark = sparkline(&history, self.spark, model.glyphs);
        self.line(cells, &plain(&row.line.kind), &plain(&row.line.peer), &spark)
    }
}

/// The youngest `len` of `values` as bars, the highest of them full.
pub(super) fn sparkline(values: &[u64], len: usize, glyphs: Glyphs) -> String {
    let bars: [char; 9] = match glyphs {
        Glyphs::Unicode => [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'],
        Glyphs::Ascii => [' ', '.', '.', ':', ':', '+', '+', '#', '#'],
    };
    let values = &values[values.len().saturating_sub(len)..];
    let most = u128::from(values.iter().copied().max().unwrap_or(0).max(1));
    let bar = |value: &u64| {
        // Whatever is not nothing has a bar.
        let eighths = (u128::from(*value) * 8).div_ceil(most);
        bars[usize::try_from(eighths).unwrap_or(8).min(8)]
    };
    values.iter().map(bar).collect()
}

/// The port that is described: who is there, what was dropped and refused, and
/// how full its queues were.
pub(super) fn port(model: &Model) -> Vec<Line<'static>> {
    let rows = model.rows();
    let Some(row) = rows.iter().find(|row| row.line.name == model.selected) else { return Vec::new() };
    let (port, quiet) = (row.line, PortRates::default());
    let rates = row.rates.unwrap_or(&quiet);
    let mut facts = vec![plain(&port.kind), port.state.name().to_owned(), format!("mtu {}", port.mtu)];
    facts.extend([plain(&port.note), plain(&port.peer)]);
    if port.fast_path {
        facts.push("fast path".to_owned());
    }
    facts.retain(|fact| !fact.is_empty());
    let mut lines = vec![Line::raw(format!("  {}", facts.join(", ")))];
    if let Some(stats) = row.stats {
        let counts = |of: &std::collections::BTreeMap<String, u64>| {
            of.iter().map(|(name, count)| (plain(name), *count)).collect::<Vec<_>>()
        };
        lines.push(reasons("dropped", &counts(&stats.drops), rates));
        lines.push(reasons("refused", &counts(&stats.refused), rates));
        lines.push(reasons("queues", &queues(stats), rates));
    }
    lines
}

/// What of a port's counters tells of full queues, here and behind it.
fn queues(stats: &PortStats) -> Vec<(String, u64)> {
    let full = stats.refused.get("full").copied().unwrap_or(0);
    [("full", full), ("rx_missed", stats.rx_missed), ("tx_lost", stats.tx_lost), ("segments", stats.segments)]
        .map(|(name, count)| (name.to_owned(), count))
        .into()
}

/// Reasons that happened, and how many more there were since the last look.
fn reasons(what: &str, counts: &[(String, u64)], rates: &PortRates) -> Line<'static> {
    let mut spans = vec![Span::raw(format!("  {what:8}"))];
    for (name, count) in counts.iter().filter(|(_, count)| *count != 0) {
        let more = rates.reasons.iter().find(|(reason, _)| reason == name).map_or(0, |(_, more)| *more);
        let (text, style) = match more {
            0 => (format!(" {name} {}", short(*count)), Style::new()),
            more => (format!(" {name} {} +{}", short(*count), short(more)), Style::new().fg(Color::Yellow)),
        };
        spans.push(Span::styled(text, style));
    }
    if spans.len() == 1 {
        spans.push(Span::styled(" none", Style::new().add_modifier(Modifier::DIM)));
    }
    Line::from(spans)
}

/// Who is where.
pub(super) fn addresses(model: &Model, from: usize, room: usize) -> (String, Vec<Line<'static>>) {
    let all = model.addresses();
    let known = model.look.as_ref().map_or(0, |look| u64::from(look.show.fdb_len));
    let is_part = model.look.as_ref().is_some_and(|look| look.fdb.next.is_some());
    let title = if is_part {
        format!(" Addresses: some of {known}{} ", shown(model, List::Addresses))
    } else {
        format!(" Addresses: {}{} ", all.len(), shown(model, List::Addresses))
    };
    let row = |entry: &&FdbLine| {
        let age = match (entry.sticky, entry.is_static, entry.age_ms) {
            (true, _, _) => "sticky".to_owned(),
            (_, true, _) => "static".to_owned(),
            (_, _, Some(ms)) => format!("{}s", ms / 1000),
            (_, _, None) => String::new(),
        };
        let vlan = if entry.vid == 0 { String::new() } else { format!("  vlan {}", entry.vid) };
        Line::raw(format!("  {}  {:14}  {age:>7}{vlan}", entry.mac, plain(&entry.port)))
    };
    (title, all.iter().skip(from).take(room).map(row).collect())
}

/// What happened, the youngest first.
pub(super) fn events(model: &Model, from: usize, room: usize) -> (String, Vec<Line<'static>>) {
    let all = model.found_events();
    let title = format!(" Events: {}{} ", all.len(), shown(model, List::Events));
    let row = |event: &&Event| {
        let text = plain(&line(event));
        // The day is the same as on the wall.
        let text = match (text.get(11..19), text.get(24..)) {
            (Some(time), Some(rest)) => format!("  {time}{rest}"),
            _ => text,
        };
        Line::styled(text, style_of(event.what.kind()))
    };
    (title, all.iter().skip(from).take(room).map(row).collect())
}

fn style_of(kind: Kind) -> Style {
    match kind {
        Kind::DeviceFault | Kind::ReloadRefused => Style::new().fg(Color::Red),
        Kind::PortDown
        | Kind::PeerGone
        | Kind::MacFlapping
        | Kind::PortFull
        | Kind::TableFull
        | Kind::CaptureLost
        | Kind::Suppressed => Style::new().fg(Color::Yellow),
        Kind::PortUp | Kind::PeerCame => Style::new().fg(Color::Green),
        Kind::PortAdded
        | Kind::PortRemoved
        | Kind::MacLearned
        | Kind::MacMoved
        | Kind::MacAged
        | Kind::ConfigChanged
        | Kind::ConfigReloaded
        | Kind::CaptureStarted
        | Kind::CaptureStopped => Style::new(),
    }
}

/// What is searched for, and how far the list is scrolled.
fn shown(model: &Model, list: List) -> String {
    let search =
        if model.search.is_empty() { String::new() } else { format!(" with `{}`", plain(&model.search)) };
    let scroll = if model.list == list && model.scroll != 0 {
        format!(", from {}", model.scroll + 1)
    } else {
        String::new()
    };
    search + &scroll
}

/// What the keys do, or what is being typed, or what is wrong.
pub(super) fn foot(model: &Model) -> Line<'static> {
    if model.mode == Mode::Typing {
        return Line::raw(format!("search: {}_   Enter keeps it, Esc clears it", plain(&model.search)));
    }
    if let Some(trouble) = &model.trouble {
        return Line::styled(format!("looking again: {}", plain(trouble)), Style::new().fg(Color::Red));
    }
    let held = if model.paused { "HELD  " } else { "" };
    let every = crate::config::duration_text(model.interval);
    Line::raw(format!("{held}q quit  ? help  s sort  / search  Tab list  PgUp/Dn  p hold  +- every {every}"))
}

/// Every key.
pub(super) fn help() -> Vec<Line<'static>> {
    [
        "  up down k j   choose the port that is described",
        "  s S           sort ports: as created, by name, rx, tx, drops",
        "  /             search ports, addresses and events",
        "  Tab           addresses or events; the list that scrolls",
        "  PgUp PgDn     scroll it",
        "  p, space      hold the picture, and go on",
        "  + -           look more often, less often",
        "  Esc           end the search, or quit",
        "  q, Ctrl-C     quit",
        "",
        "  REF/S: copies refused; LOST/S: lost outside the switch.",
        "  +N behind a reason: so many since the last look.",
        "  Any key closes this.",
    ]
    .map(Line::raw)
    .into()
}
