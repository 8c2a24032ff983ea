//! Text to steps.

use std::fmt::Display;
use std::time::Duration;

use vswitch::bridge::{
    DropReason, EntryKind, FlushKinds, FlushScope, PortId, PortSet, PortSettings, Settings,
};
use vswitch::frame::MacAddr;

use super::{Expect, Line, Sent, Step};

type Result<T> = std::result::Result<T, String>;

/// The lines of a scenario that say something.
pub fn lines(text: &str) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for (index, text) in text.lines().enumerate() {
        let number = index + 1;
        let words: Vec<&str> = text.split('#').next().unwrap_or_default().split_whitespace().collect();
        if words.is_empty() {
            continue;
        }
        let (steps, expect) = line(&words).map_err(|error| format!("line {number}: {text}\n{error}"))?;
        lines.push(Line { number, steps, expect });
    }
    Ok(lines)
}

fn line(words: &[&str]) -> Result<(Vec<Step>, Option<Expect>)> {
    let step = |step| Ok((vec![step], None));
    match *words {
        ["switch", ref settings @ ..] => step(Step::Switch(switch(settings)?)),
        ["ports", ref names @ ..] => {
            let add = |name: &&str| Ok(Step::Port(port(name)?, PortSettings::default()));
            Ok((names.iter().map(add).collect::<Result<_>>()?, None))
        }
        ["port", name, ref flags @ ..] => step(Step::Port(port(name)?, port_settings(flags)?)),
        ["delete", name] => step(Step::Delete(port(name)?)),
        ["up", name] => step(Step::Link(port(name)?, true)),
        ["down", name] => step(Step::Link(port(name)?, false)),
        ["after", time] => step(Step::After(duration(time)?)),
        ["sweep"] => step(Step::Sweep),
        ["static", address, "on", name] => step(Step::Fix(EntryKind::Static, mac(address)?, port(name)?)),
        ["sticky", address, "on", name] => step(Step::Fix(EntryKind::Sticky, mac(address)?, port(name)?)),
        ["forget", address] => step(Step::Forget(mac(address)?)),
        ["flush", ref scope @ ..] => step(Step::Flush(flush(scope)?)),
        ["send", name, src, ">", dst, ref rest @ ..] => send(name, src, dst, rest),
        ["fdb", "len", len] => Ok((vec![], Some(Expect::Len(number(len)?)))),
        ["fdb", address, "absent"] => Ok((vec![], Some(Expect::On(mac(address)?, None)))),
        ["fdb", address, "on", name] => Ok((vec![], Some(Expect::On(mac(address)?, Some(port(name)?))))),
        ["count", name, what, value] => {
            Ok((vec![], Some(Expect::Count(port(name)?, what.to_owned(), number(value)?))))
        }
        _ => Err("no such line".to_owned()),
    }
}

fn send(name: &str, src: &str, dst: &str, rest: &[&str]) -> Result<(Vec<Step>, Option<Expect>)> {
    let mut sent =
        Sent { port: port(name)?, src: mac(src)?, dst: mac(dst)?, size: 60, tags: vec![], fault: None };
    let mut expect = None;
    for (index, word) in rest.iter().enumerate() {
        match (*word, word.split_once('=')) {
            ("expect", _) => {
                let to = rest[index + 1..].iter().map(|name| port(name)).collect::<Result<PortSet>>()?;
                expect = Some(Expect::Leaves(to));
                break;
            }
            ("drop", _) => {
                expect = Some(Expect::Drops(reason(rest.get(index + 1).copied().unwrap_or_default())?));
                break;
            }
            (_, Some(("size", size))) => sent.size = number(size)?,
            (_, Some(("tag", tag))) => {
                let (tpid, tci) = tag.split_once(':').ok_or("a tag is TPID:TCI, in hex")?;
                sent.tags.push((hex(tpid)?, hex(tci)?));
            }
            (_, Some(("fault", fault))) => sent.fault = Some(reason(fault)?),
            (word, _) => return Err(format!("what is {word}?")),
        }
    }
    Ok((vec![Step::Send(sent)], expect))
}

fn switch(words: &[&str]) -> Result<Settings> {
    let mut settings = Settings::default();
    for word in words {
        match word.split_once('=') {
            Some(("ageing", time)) => settings.ageing = duration(time)?,
            Some(("fdb_size", size)) => settings.fdb_size = number(size)?,
            None if *word == "transparent" => settings.transparent = true,
            _ => return Err(format!("what is {word}?")),
        }
    }
    Ok(settings)
}

fn port_settings(words: &[&str]) -> Result<PortSettings> {
    let mut settings = PortSettings::default();
    for word in words {
        if let Some(max) = word.strip_prefix("max_macs=") {
            settings.max_macs = Some(number(max)?);
            continue;
        }
        let (name, value) = word.strip_prefix('-').map_or((*word, true), |name| (name, false));
        let flag = match name {
            "learning" => &mut settings.learning,
            "flood" => &mut settings.flood,
            "mcast_flood" => &mut settings.mcast_flood,
            "bcast_flood" => &mut settings.bcast_flood,
            "isolated" => &mut settings.isolated,
            "locked" => &mut settings.locked,
            "transparent" => &mut settings.transparent,
            _ => return Err(format!("what is {word}?")),
        };
        *flag = value;
    }
    Ok(settings)
}

fn flush(words: &[&str]) -> Result<FlushScope> {
    let mut scope = FlushScope::default();
    for word in words {
        match word.split_once('=') {
            Some(("port", name)) => scope.port = Some(port(name)?),
            Some(("mac", address)) => scope.mac = Some(mac(address)?),
            Some(("vid", vid)) => scope.vid = Some(vswitch::frame::VlanId::new(number(vid)?)),
            None if *word == "all" => scope.kinds = FlushKinds::All,
            _ => return Err(format!("what is {word}?")),
        }
    }
    Ok(scope)
}

fn port(name: &str) -> Result<PortId> {
    match name.as_bytes() {
        [letter @ b'a'..=b'z'] => Ok(PortId::new(letter - b'a')),
        _ => Err(format!("ports are a … z, not {name}")),
    }
}

fn mac(text: &str) -> Result<MacAddr> {
    let octets = |prefix: [u8; 5], last: &str| {
        let [a, b, c, d, e] = prefix;
        Ok(MacAddr::new([
            a,
            b,
            c,
            d,
            e,
            u8::from_str_radix(last, 16).map_err(|error| format!("{text}: {error}"))?,
        ]))
    };
    match text {
        "*" => Ok(MacAddr::BROADCAST),
        "zero" => Ok(MacAddr::ZERO),
        _ if text.contains(':') => {
            text.parse().map_err(|error: vswitch::frame::ParseMacError| error.to_string())
        }
        _ => match text.as_bytes() {
            [b'm', ..] => octets([0x01, 0x00, 0x5e, 0, 0], &text[1..]),
            [b'r', ..] => octets([0x01, 0x80, 0xc2, 0, 0], &text[1..]),
            _ => octets([0x02, 0, 0, 0, 0], text),
        },
    }
}

fn reason(name: &str) -> Result<DropReason> {
    let found = DropReason::ALL.iter().find(|reason| reason.name() == name);
    found.copied().ok_or_else(|| format!("no drop reason is called `{name}`"))
}

fn duration(text: &str) -> Result<Duration> {
    match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(millis), _) => Ok(Duration::from_millis(number(millis)?)),
        (None, Some(secs)) => Ok(Duration::from_secs(number(secs)?)),
        (None, None) => Err(format!("{text} needs its unit: s or ms")),
    }
}

fn number<T: std::str::FromStr<Err: Display>>(text: &str) -> Result<T> {
    text.parse().map_err(|error| format!("{text}: {error}"))
}

fn hex(text: &str) -> Result<u16> {
    u16::from_str_radix(text, 16).map_err(|error| format!("{text}: {error}"))
}
