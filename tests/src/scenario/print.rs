//! Steps to text that reads back as the same steps.

use std::fmt::{Display, Formatter, Result};
use std::time::Duration;

use vswitch::bridge::{EntryKind, FlushKinds, PortId, PortSettings, Settings};
use vswitch::frame::MacAddr;

use super::{Sent, Step};

struct Name(PortId);

impl Display for Name {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}", char::from(b'a' + self.0.get()))
    }
}

struct Address(MacAddr);

impl Display for Address {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self.0.octets() {
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] => f.write_str("*"),
            [0, 0, 0, 0, 0, 0] => f.write_str("zero"),
            [0x02, 0, 0, 0, 0, last] => write!(f, "{last:02x}"),
            [0x01, 0x00, 0x5e, 0, 0, last] => write!(f, "m{last:02x}"),
            [0x01, 0x80, 0xc2, 0, 0, last] => write!(f, "r{last:02x}"),
            _ => write!(f, "{}", self.0),
        }
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Step::Switch(settings) => switch(settings, f),
            Step::Port(port, settings) => port_settings(*port, settings, f),
            Step::Delete(port) => write!(f, "delete {}", Name(*port)),
            Step::Link(port, true) => write!(f, "up     {}", Name(*port)),
            Step::Link(port, false) => write!(f, "down   {}", Name(*port)),
            Step::Send(sent) => write!(f, "{sent}"),
            Step::After(time) => write!(f, "after  {}", Time(*time)),
            Step::Sweep => write!(f, "sweep"),
            Step::Fix(kind, mac, port) => {
                let word = if *kind == EntryKind::Sticky { "sticky" } else { "static" };
                write!(f, "{word} {} on {}", Address(*mac), Name(*port))
            }
            Step::Forget(mac) => write!(f, "forget {}", Address(*mac)),
            Step::Flush(scope) => {
                write!(f, "flush ")?;
                scope.port.map_or(Ok(()), |port| write!(f, " port={}", Name(port)))?;
                scope.mac.map_or(Ok(()), |mac| write!(f, " mac={}", Address(mac)))?;
                scope.vid.map_or(Ok(()), |vid| write!(f, " vid={vid}"))?;
                f.write_str(if scope.kinds == FlushKinds::All { " all" } else { "" })
            }
        }
    }
}

impl Display for Sent {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "send   {}  {} > {}", Name(self.port), Address(self.src), Address(self.dst))?;
        if self.size != 60 {
            write!(f, " size={}", self.size)?;
        }
        for (tpid, tci) in &self.tags {
            write!(f, " tag={tpid:04x}:{tci:04x}")?;
        }
        self.fault.map_or(Ok(()), |fault| write!(f, " fault={fault}"))
    }
}

struct Time(Duration);

impl Display for Time {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        if self.0.subsec_millis() == 0 {
            write!(f, "{}s", self.0.as_secs())
        } else {
            write!(f, "{}ms", self.0.as_millis())
        }
    }
}

fn switch(settings: &Settings, f: &mut Formatter<'_>) -> Result {
    write!(f, "switch ageing={} fdb_size={}", Time(settings.ageing), settings.fdb_size)?;
    f.write_str(if settings.transparent { " transparent" } else { "" })
}

fn port_settings(port: PortId, settings: &PortSettings, f: &mut Formatter<'_>) -> Result {
    write!(f, "port   {}", Name(port))?;
    for (name, value, default) in [
        ("learning", settings.learning, true),
        ("flood", settings.flood, true),
        ("mcast_flood", settings.mcast_flood, true),
        ("bcast_flood", settings.bcast_flood, true),
        ("isolated", settings.isolated, false),
        ("locked", settings.locked, false),
        ("transparent", settings.transparent, false),
    ] {
        if value != default {
            write!(f, " {}{name}", if default { "-" } else { "" })?;
        }
    }
    settings.max_macs.map_or(Ok(()), |max| write!(f, " max_macs={max}"))
}

#[cfg(test)]
mod tests {
    use super::super::{Random, parse, random_steps};

    #[test]
    fn steps_read_back_what_they_print() {
        for seed in 0..50 {
            let steps = random_steps(&mut Random::new(seed), 200);
            let text: String = steps.iter().map(|step| format!("{step}\n")).collect();
            let lines = parse::lines(&text).unwrap();
            let read: Vec<_> = lines.into_iter().flat_map(|line| line.steps).collect();
            assert_eq!(read, steps);
        }
    }
}
