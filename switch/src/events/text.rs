//! Events as lines for people, and times in UTC.
//!
//! Deliberately absent: time zones. A line that was copied into a report means
//! the same there.

use std::time::Duration;

use super::{Event, Happening};

/// `2026-11-25T02:50:16.123Z` of a time since 1970.
pub fn utc(wall: Duration) -> String {
    let secs = wall.as_secs();
    let (days, second) = (secs / 86_400, secs % 86_400);
    // Years that begin in March put the leap day last; 719,468 days before 1970
    // began such a year, and an era of 400 of them (146,097 days).
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        wall.subsec_millis()
    )
}

/// One line: when, what kind, and the particulars. It may hold whatever a
/// process calls itself; who prints it sees to that.
pub fn line(event: &Event) -> String {
    format!("{}  {:15}  {}", event.time, event.what.kind(), particulars(&event.what))
}

fn particulars(what: &Happening) -> String {
    let of_vlan = |vid: u16| if vid == 0 { String::new() } else { format!(" in VLAN {vid}") };
    let because = |why: &str| if why.is_empty() { String::new() } else { format!(": {why}") };
    match what {
        Happening::PortAdded { port, spec } => format!("{port}: {spec}"),
        Happening::PortRemoved { port } => port.clone(),
        Happening::PortUp { port, mtu, peer } if peer.is_empty() => format!("{port}: mtu {mtu}"),
        Happening::PortUp { port, mtu, peer } => format!("{port}: mtu {mtu}, {peer}"),
        Happening::PortDown { port, why } => format!("{port}{}", because(why)),
        Happening::PeerCame { port, peer } => format!("{port}{}", because(peer)),
        Happening::PeerGone { port, why } => format!("{port}{}", because(why)),
        Happening::DeviceFault { port, fault } => format!("{port}{}", because(fault)),
        Happening::MacLearned { mac, vid, port } => format!("{mac}{} on {port}", of_vlan(*vid)),
        Happening::MacMoved { mac, vid, from, port } => {
            format!("{mac}{} from {from} to {port}", of_vlan(*vid))
        }
        Happening::MacAged { mac, vid, port } => format!("{mac}{} was on {port}", of_vlan(*vid)),
        Happening::MacFlapping { mac, vid, from, port, moves } => format!(
            "{mac}{} moved {moves} times, now from {from} to {port}: two guests share a MAC",
            of_vlan(*vid)
        ),
        Happening::PortFull { port, mac, vid } => {
            format!("{port} has max_macs addresses: {mac}{} was not learned", of_vlan(*vid))
        }
        Happening::TableFull { port, mac, vid } => {
            format!("no place for another address of {port}: {mac}{} was not learned", of_vlan(*vid))
        }
        Happening::ConfigChanged { changes } => changes.join("; "),
        Happening::ConfigReloaded { file, changes } if changes.is_empty() => format!("{file}: no change"),
        Happening::ConfigReloaded { file, changes } => format!("{file}: {}", changes.join("; ")),
        Happening::ReloadRefused { file, error } => format!("{file}: {error}"),
        Happening::CaptureStarted { capture } => capture.clone(),
        Happening::CaptureStopped { capture, why, frames, lost } => {
            format!("{capture}: {why}; {frames} frames, {lost} lost")
        }
        Happening::CaptureLost { capture, lost } => format!("{capture}: {lost} frames until now"),
        Happening::Suppressed { of, count } => format!("{count} more {of} within a second"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;
    use crate::frame::MacAddr;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (secs, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_795_575_016, "2026-11-25T02:50:16.000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799, "9999-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(utc(Duration::from_secs(secs)), text);
        }
        assert_eq!(utc(Duration::from_millis(1234)), "1970-01-01T00:00:01.234Z");
    }

    #[test]
    fn lines_say_what_where_and_why() {
        let mac = MacAddr::new([2, 0, 0, 0, 0, 1]);
        let port = || "tap0".to_owned();
        for (what, text) in [
            (
                Happening::PortUp { port: port(), mtu: 1500, peer: "qemu 7".to_owned() },
                "port_up          tap0: mtu 1500, qemu 7",
            ),
            (Happening::PortDown { port: port(), why: String::new() }, "port_down        tap0"),
            (
                Happening::MacMoved { mac, vid: 5, from: port(), port: "b".to_owned() },
                "mac_moved        02:00:00:00:00:01 in VLAN 5 from tap0 to b",
            ),
            (
                Happening::ConfigReloaded { file: "a.toml".to_owned(), changes: Vec::new() },
                "config_reloaded  a.toml: no change",
            ),
            (
                Happening::Suppressed { of: Kind::MacLearned, count: 9 },
                "suppressed       9 more mac_learned within a second",
            ),
        ] {
            let event = Event { seq: 1, time: utc(Duration::ZERO), uptime_ms: 0, what };
            assert_eq!(line(&event), format!("1970-01-01T00:00:00.000Z  {text}"));
        }
    }
}
