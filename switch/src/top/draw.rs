//! The screen: a pure function of the model, cut into sections.
//!
//! From top to bottom: who and how much; ports; the port that is selected; then
//! addresses and events, side by side where that fits and one of them where it
//! does not; keys.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::symbols::border;
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Clear, Paragraph};

use super::model::{Glyphs, List, Mode, Model};
use super::sections;

/// From this width on, addresses and events are side by side.
const WIDE: u16 = 130;

/// Lines of the section about one port, its heading included.
const PORT_LINES: u16 = 5;

/// Lines of the lower part, at least.
const LOWER_MIN: u16 = 6;

/// Draws everything.
pub(super) fn screen(frame: &mut Frame<'_>, model: &Model) {
    let rows = u16::try_from(model.rows().len()).unwrap_or(u16::MAX);
    let height = frame.area().height;
    // Every port if there is room, but never at the price of the rest.
    let most = height.saturating_sub(2 + PORT_LINES + LOWER_MIN).max(3);
    let ports = rows.saturating_add(2).clamp(3, most);
    let [head, table, port, lower, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(ports),
        Constraint::Length(PORT_LINES),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let whole = |area: Rect| usize::from(area.width);
    frame.render_widget(sections::head(model, whole(head)), head);
    let title = format!(" Ports {} ", model.sort.name());
    section(
        frame,
        model,
        table,
        &title,
        sections::ports(model, whole(table), usize::from(table.height.saturating_sub(1))),
    );
    let title =
        if model.selected.is_empty() { " No port ".to_owned() } else { format!(" {} ", model.selected) };
    section(frame, model, port, &title, sections::port(model));
    let lists = if lower.width >= WIDE {
        let [left, right] =
            Layout::horizontal([Constraint::Length(52), Constraint::Min(0)]).spacing(1).areas(lower);
        vec![(List::Addresses, left), (List::Events, right)]
    } else {
        vec![(model.list, lower)]
    };
    for (list, area) in lists {
        let room = usize::from(area.height.saturating_sub(1));
        // Only the list that keys mean is scrolled.
        let from = if list == model.list { model.scroll } else { 0 };
        let (title, lines) = match list {
            List::Addresses => sections::addresses(model, from, room),
            List::Events => sections::events(model, from, room),
        };
        section(frame, model, area, &title, lines);
    }
    frame.render_widget(sections::foot(model), foot);
    if model.mode == Mode::Helping {
        help(frame, model);
    }
}

/// Lines under a heading.
fn section(frame: &mut Frame<'_>, model: &Model, area: Rect, title: &str, lines: Vec<Line<'_>>) {
    let set = match model.glyphs {
        Glyphs::Unicode => border::PLAIN,
        Glyphs::Ascii => ASCII,
    };
    let title = Line::styled(title.to_owned(), Style::new().add_modifier(Modifier::BOLD));
    let block = Block::new().borders(Borders::TOP).border_set(set).title(title);
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

const ASCII: border::Set<'_> = border::Set {
    top_left: "+",
    top_right: "+",
    bottom_left: "+",
    bottom_right: "+",
    vertical_left: "|",
    vertical_right: "|",
    horizontal_top: "-",
    horizontal_bottom: "-",
};

fn help(frame: &mut Frame<'_>, model: &Model) {
    let lines = sections::help();
    let wide = u16::try_from(lines.iter().map(Line::width).max().unwrap_or(0)).unwrap_or(0) + 4;
    let high = u16::try_from(lines.len()).unwrap_or(0) + 2;
    let area = frame.area();
    let (wide, high) = (wide.min(area.width), high.min(area.height));
    let area = Rect { x: (area.width - wide) / 2, y: (area.height - high) / 2, width: wide, height: high };
    let set = match model.glyphs {
        Glyphs::Unicode => border::PLAIN,
        Glyphs::Ascii => ASCII,
    };
    frame.render_widget(Clear, area);
    let block = Block::bordered().border_set(set).title(" Keys ");
    frame.render_widget(Paragraph::new(lines).block(block), area);
}
