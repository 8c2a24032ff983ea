//! What the client commands print: tables for people, JSON for machines.
//! Pure text, without escape codes, so that a pipe gets what a terminal gets.

use std::fmt::Write as _;

use crate::control::{Changed, FdbLine, PortDetail, PortLine, PortStats, Request, Response, Show, Stats};
use crate::events::{Event, line};

/// A reply as JSON, one field a line.
pub fn json(reply: &Response) -> String {
    // Every reply serialises: maps have text for keys, and no number is a float.
    serde_json::to_string_pretty(reply).unwrap_or_default() + "\n"
}

/// What `vswitch run --json` prints when it is ready: one line.
pub fn ready_json(name: &str, ports: usize, control: &std::path::Path) -> String {
    let pid = std::process::id();
    serde_json::json!({ "event": "ready", "name": name, "ports": ports, "control": control, "pid": pid })
        .to_string()
}

/// What `vswitch run --json` prints at its end: one line.
pub fn summary_json(stats: &Stats) -> String {
    let mut summary = serde_json::json!({ "event": "summary" });
    // Every part of it serialises; see `json`.
    if let (Some(summary), Ok(serde_json::Value::Object(stats))) =
        (summary.as_object_mut(), serde_json::to_value(stats))
    {
        summary.extend(stats);
    }
    summary.to_string()
}

/// The reply to `request` for people.
pub fn reply(request: &Request, reply: &Response) -> String {
    match reply {
        Response::Show(answer) if matches!(request, Request::Set { .. }) => settings(answer),
        Response::Show(answer) => show(answer),
        Response::Stats(answer) => stats(answer),
        Response::Ports(answer) => answer.ports.iter().map(port).collect::<Vec<_>>().join("\n"),
        Response::Fdb(answer) => fdb(&answer.entries),
        Response::Events(answer) => events(&answer.events),
        Response::Changed(answer) => changed(answer),
        Response::Trace(answer) => crate::trace::text(answer),
        Response::Capture { capture } => format!("capture {capture}\n"),
        Response::Done { count } => done(request, *count),
        Response::Error(refusal) => format!("{}\n", plain(&refusal.error)),
    }
}

/// What `vswitch show` prints, and `vswitch run` at its end.
pub fn show(show: &Show) -> String {
    let mut text = format!(
        "{}: {}, {} of {} MACs, ageing {}, up {}\n",
        plain(&show.name),
        count_of(show.ports.len() as u64, "port", "ports"),
        show.fdb_len,
        show.fdb_size,
        plain(&show.ageing),
        uptime(show.uptime_ms),
    );
    text += &port_table(&show.ports);
    for port in &show.ports {
        if !port.note.is_empty() {
            let _ = writeln!(text, "{}: {}", plain(&port.name), plain(&port.note));
        }
        if port.isolation == "none" {
            let _ = writeln!(text, "{}: isolation: none", plain(&port.name));
        }
    }
    for warning in &show.warnings {
        let _ = writeln!(text, "warning: {}", plain(warning));
    }
    text
}

/// What `vswitch set` may change, as it is now.
fn settings(show: &Show) -> String {
    let rows = vec![
        ["ageing".to_owned(), plain(&show.ageing)],
        ["transparent".to_owned(), show.transparent.to_string()],
        ["pad_runts".to_owned(), show.pad_runts.to_string()],
        ["busy_poll".to_owned(), plain(&show.busy_poll)],
        ["fast_path".to_owned(), show.fast_path.to_string()],
    ];
    format!("{}\n{}", plain(&show.name), indent(&table(rows)))
}

/// One line a port.
pub fn port_table(ports: &[PortLine]) -> String {
    if ports.is_empty() {
        return String::new();
    }
    let head = ["PORT", "KIND", "STATE", "MTU", "RX", "TX", "DROPS", "PEER"];
    let rows = ports.iter().map(|port| {
        [
            plain(&port.name),
            plain(&port.kind),
            port.state.name().to_owned(),
            port.mtu.to_string(),
            port.rx.to_string(),
            port.tx.to_string(),
            port.drops.to_string(),
            plain(&port.peer),
        ]
    });
    table(std::iter::once(head.map(str::to_owned)).chain(rows).collect())
}

fn port(port: &PortDetail) -> String {
    let line = &port.line;
    let state = if line.note.is_empty() {
        line.state.name().to_owned()
    } else {
        format!("{}, {}", line.state.name(), plain(&line.note))
    };
    let mut rows = vec![
        ["spec".to_owned(), plain(&port.spec)],
        ["kind".to_owned(), plain(&line.kind)],
        ["state".to_owned(), state],
        ["peer".to_owned(), plain(&line.peer)],
        ["isolation".to_owned(), plain(&line.isolation)],
        ["fast_path".to_owned(), line.fast_path.to_string()],
        ["offloads".to_owned(), plain(&port.offloads)],
        ["macs".to_owned(), port.macs.to_string()],
        ["rx".to_owned(), line.rx.to_string()],
        ["tx".to_owned(), line.tx.to_string()],
        ["drops".to_owned(), line.drops.to_string()],
    ];
    for (key, value) in port.keys.iter().filter(|(key, _)| *key != "name") {
        // `auto` alone would not say what came of it.
        let value = if key == "mtu" { format!("{} ({value})", line.mtu) } else { value.to_string() };
        rows.push([key.clone(), plain(&value)]);
    }
    rows.retain(|[_, value]| !value.is_empty());
    format!("{}\n{}", plain(&line.name), indent(&table(rows)))
}

fn fdb(entries: &[FdbLine]) -> String {
    let mut entries: Vec<&FdbLine> = entries.iter().collect();
    entries.sort_by_key(|entry| (entry.vid, entry.mac));
    // VLANs are of no interest where there are none.
    let vlans = entries.iter().any(|entry| entry.vid != 0);
    let mut rows = vec![["MAC", "VLAN", "PORT", "AGE"].map(str::to_owned)];
    for entry in &entries {
        let age = match (entry.sticky, entry.is_static, entry.age_ms) {
            (true, _, _) => "sticky".to_owned(),
            (_, true, _) => "static".to_owned(),
            (_, _, Some(ms)) => format!("{}s", ms / 1000),
            (_, _, None) => String::new(),
        };
        rows.push([entry.mac.to_string(), entry.vid.to_string(), plain(&entry.port), age]);
    }
    if vlans {
        table(rows)
    } else {
        table(rows.into_iter().map(|[mac, _, port, age]| [mac, port, age]).collect())
    }
}

fn stats(stats: &Stats) -> String {
    let mut text = format!("{}: up {}\n", plain(&stats.name), uptime(stats.uptime_ms));
    let gone = &stats.retired;
    let retired = (gone.rx != 0 || gone.copies != 0 || gone.rx_missed != 0).then_some(gone);
    for port in stats.ports.iter().chain(retired).chain([&stats.total]) {
        let _ = write!(text, "\n{}\n{}", plain(&port.name), indent(&counters(port)));
    }
    text
}

/// Every counter, and of the reasons those that happened.
fn counters(port: &PortStats) -> String {
    let mut rows: Vec<[String; 2]> = Vec::new();
    for (name, number) in port.numbers() {
        rows.push([name.to_owned(), number.to_string()]);
        let (sum, number, reasons) = match name {
            "forwarded" => ("dropped", port.dropped(), &port.drops),
            "tx_bytes" => ("refused", port.refused(), &port.refused),
            _ => continue,
        };
        rows.push([sum.to_owned(), number.to_string()]);
        for (reason, number) in reasons.iter().filter(|(_, number)| **number != 0) {
            rows.push([format!("  {}", plain(reason)), number.to_string()]);
            if reason == "reserved" {
                let last = port.reserved.iter().filter(|(_, number)| **number != 0);
                rows.extend(last.map(|(last, number)| {
                    [format!("    01:80:c2:00:00:{}", plain(last)), number.to_string()]
                }));
            }
        }
    }
    table(rows)
}

fn done(request: &Request, count: u64) -> String {
    match request {
        Request::PortDel { name } => format!("{}: removed\n", plain(name)),
        Request::FdbAdd { mac, port, .. } => format!("{mac}: bound to {}\n", plain(port)),
        Request::FdbDel { mac, .. } => format!("{mac}: removed\n"),
        Request::FdbFlush { .. } => format!("flushed {}\n", count_of(count, "entry", "entries")),
        Request::Stop {} => "stopped\n".to_owned(),
        Request::Show {}
        | Request::Stats {}
        | Request::PortShow { .. }
        | Request::PortAdd { .. }
        | Request::PortSet { .. }
        | Request::Set { .. }
        | Request::Reload {}
        | Request::Events { .. }
        | Request::Capture(_)
        | Request::FdbShow { .. }
        | Request::Trace { .. } => "done\n".to_owned(),
    }
}

/// One line an event.
pub fn events(events: &[Event]) -> String {
    events.iter().map(|event| plain(&line(event)) + "\n").collect()
}

/// What a reload changed.
pub fn changed(changed: &Changed) -> String {
    let file = plain(&changed.file);
    let mut text = match changed.changes.len() as u64 {
        0 => format!("{file}: no change\n"),
        len => format!("{file}: {}\n", count_of(len, "change", "changes")),
    };
    for line in changed.changes.iter().chain(&changed.notes) {
        let _ = writeln!(text, "  {}", plain(line));
    }
    text
}

/// Columns as wide as their widest cell, two spaces apart.
pub fn table<const N: usize>(rows: Vec<[String; N]>) -> String {
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

fn count_of(count: u64, one: &str, more: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {more}") }
}

/// The largest unit that counts: `59s`, `2m`, `3h`, `4d`.
pub fn uptime(ms: u64) -> String {
    let secs = ms / 1000;
    match secs {
        0..60 => format!("{secs}s"),
        60..3600 => format!("{}m", secs / 60),
        3600..86_400 => format!("{}h", secs / 3600),
        86_400.. => format!("{}d", secs / 86_400),
    }
}

/// `text` without characters that would move a terminal's cursor: a process
/// may choose its own name, and we print it.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{PortState, examples};

    #[test]
    fn show_is_what_the_user_guide_shows() {
        let (mut answer, ..) = examples();
        answer.warnings = vec!["52:54:00:12:34:57 moved".to_owned()];
        assert_eq!(
            show(&answer),
            "default: 2 ports, 1 of 8192 MACs, ageing 300s, up 2m\n\
             PORT  KIND    STATE  MTU   RX   TX   DROPS  PEER\n\
             tap0  netdev  up     1500  412  398  0      qemu-system-x86 4242\n\
             tap1  netdev  up     1500  399  411  0      qemu-system-x86 4242\n\
             warning: 52:54:00:12:34:57 moved\n"
        );
        answer.warnings.clear();
        answer.ports.pop();
        answer.ports[0] = PortLine {
            state: PortState::Down,
            note: "no guest yet".to_owned(),
            peer: String::new(),
            isolation: "none".to_owned(),
            ..answer.ports[0].clone()
        };
        assert_eq!(
            show(&answer),
            "default: 1 port, 1 of 8192 MACs, ageing 300s, up 2m\n\
             PORT  KIND    STATE  MTU   RX   TX   DROPS  PEER\n\
             tap0  netdev  down   1500  412  398  0\n\
             tap0: no guest yet\n\
             tap0: isolation: none\n"
        );
        answer.ports.clear();
        assert_eq!(show(&answer), "default: 0 ports, 1 of 8192 MACs, ageing 300s, up 2m\n");
    }

    #[test]
    fn stats_print_every_counter_and_the_reasons_that_happened() {
        let (_, answer, ..) = examples();
        let text = stats(&answer);
        let tap0 = "default: up 2m\n\ntap0\n  rx                     10\n  rx_bytes               1000\n  \
                    forwarded              7\n  dropped                3\n    filtered             2\n    \
                    reserved             1\n      01:80:c2:00:00:0e  1\n  copies                 0\n";
        assert!(text.starts_with(tap0), "{text}");
        assert!(text.contains("\nretired\n") && text.contains("    full       1\n"), "{text}");
        let total = text.split("\ntotal\n").nth(1).unwrap();
        for (name, _) in answer.total.numbers() {
            assert!(total.contains(&format!("  {name} ")), "{name}");
        }
        let mut quiet = answer.clone();
        quiet.retired = PortStats { rx: 0, copies: 0, ..quiet.retired };
        assert!(!stats(&quiet).contains("\nretired\n"), "nothing was deleted");
    }

    #[test]
    fn set_says_what_is_set_now() {
        let (answer, ..) = examples();
        let request = Request::Set { keys: Default::default() };
        let text = reply(&request, &Response::Show(answer));
        let expected = "default\n  ageing       300s\n  transparent  false\n  pad_runts    false\n  busy_poll    50us\n  fast_path    true\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_reload_says_what_changed() {
        let mut answer = Changed { file: "a.toml".to_owned(), changes: Vec::new(), notes: Vec::new() };
        let text = |answer: &Changed| reply(&Request::Reload {}, &Response::Changed(answer.clone()));
        assert_eq!(text(&answer), "a.toml: no change\n");
        answer.changes = vec!["ageing: 300s -> 60s".to_owned(), "port b: added".to_owned()];
        answer.notes = vec!["b: created for alice".to_owned()];
        assert_eq!(
            text(&answer),
            "a.toml: 2 changes\n  ageing: 300s -> 60s\n  port b: added\n  b: created for alice\n"
        );
    }

    #[test]
    fn ports_and_addresses() {
        let (_, _, ports, answer) = examples();
        assert_eq!(
            reply(&Request::PortShow { name: None }, &Response::Ports(ports)),
            "tap0\n  spec       tap0\n  kind       netdev\n  state      up\n  peer       qemu-system-x86 4242\n  \
             isolation  tcx\n  fast_path  true\n  offloads   csum tso4\n  macs       1\n  rx         412\n  tx         398\n  \
             drops      0\n  isolated   false\n"
        );
        let mut entries = answer.entries;
        entries.push(FdbLine {
            is_static: true,
            age_ms: None,
            mac: "02:00:00:00:00:00".parse().unwrap(),
            ..entries[0].clone()
        });
        assert_eq!(
            fdb(&entries),
            "MAC                PORT  AGE\n02:00:00:00:00:00  tap0  static\n02:00:00:00:00:01  tap0  1s\n"
        );
        entries[0].vid = 5;
        entries[0].sticky = true;
        assert_eq!(
            fdb(&entries),
            "MAC                VLAN  PORT  AGE\n02:00:00:00:00:00  0     tap0  static\n\
             02:00:00:00:00:01  5     tap0  sticky\n"
        );
    }

    #[test]
    fn nothing_printed_moves_the_cursor() {
        let (mut answer, ..) = examples();
        answer.ports[0].peer = "evil\u{1b}[2J\n\u{9b}31m 1".to_owned();
        answer.warnings[0] = "a\rb".to_owned();
        let text = show(&answer);
        assert!(text.contains("evil?[2J??31m 1\n") && text.contains("warning: a?b\n"), "{text}");
    }

    #[test]
    fn times_have_one_unit() {
        for (ms, text) in
            [(0, "0s"), (59_999, "59s"), (125_000, "2m"), (7_200_000, "2h"), (400_000_000, "4d")]
        {
            assert_eq!(uptime(ms), text);
        }
    }
}
