//! The short forms, word by word.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use super::build::{Layer3, Options, build};
use super::{FormError, Typed};
use crate::frame::{MacAddr, VlanId};

/// The port that answers, and one that asks, where none is given.
const ASKED_PORT: u16 = 7;
const ASKING_PORT: u16 = 49152;

const ARP: &str = "arp who-has 192.168.1.2 tell 192.168.1.1";
const ICMP: &str = "icmp 10.0.0.1 > 10.0.0.2";
const UDP: &str = "udp 10.0.0.1:1000 > 10.0.0.2:53 len 300";
const ETHER: &str = "ether 02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff vlan 5 type 0800 len 60";

/// The words that are left, and the form that they should have.
struct Words<'t, I> {
    words: I,
    example: &'static str,
    _text: std::marker::PhantomData<&'t str>,
}

impl<'t, I: Iterator<Item = &'t str>> Words<'t, I> {
    fn fail<T>(&self, what: String) -> Result<T, FormError> {
        Err(FormError::words(what, self.example))
    }

    /// The next word, which stands for `what`.
    fn value<T: FromStr>(&mut self, what: &str) -> Result<T, FormError> {
        match self.words.next() {
            None => self.fail(format!("{what} is missing at the end")),
            Some(word) => word.parse().or_else(|_| self.fail(format!("`{word}` is not {what}"))),
        }
    }

    fn expect(&mut self, wanted: &str) -> Result<(), FormError> {
        match self.words.next() {
            Some(word) if word == wanted => Ok(()),
            Some(word) => self.fail(format!("`{word}` where `{wanted}` belongs")),
            None => self.fail(format!("`{wanted}` is missing at the end")),
        }
    }

    fn options(&mut self) -> Result<Options, FormError> {
        let mut options = Options::default();
        while let Some(word) = self.words.next() {
            match word {
                "src" => options.src = Some(self.value("a MAC address")?),
                "dst" => options.dst = Some(self.value("a MAC address")?),
                "vlan" => match self.value("a VLAN")? {
                    vid @ 0..=4095u16 => options.vlans.push(VlanId::new(vid)),
                    vid => return self.fail(format!("VLAN {vid} is beyond 4095")),
                },
                "type" => options.ethertype = Some(self.value::<EtherType>("an EtherType in hex")?.0),
                "len" => options.len = Some(self.value("a number of bytes")?),
                "mss" => options.mss = Some(self.value("a number of bytes")?),
                other => return self.fail(format!("`{other}` is no option")),
            }
        }
        Ok(options)
    }
}

/// The frame that a short form means, whose first word is `kind`.
pub(super) fn short<'t>(kind: &str, words: impl Iterator<Item = &'t str>) -> Result<Typed, FormError> {
    let example = match kind {
        "arp" => ARP,
        "icmp" => ICMP,
        "ether" => ETHER,
        _ => UDP,
    };
    let mut words = Words { words, example, _text: std::marker::PhantomData };
    let layer3 = match kind {
        "arp" => arp(&mut words)?,
        "icmp" => {
            let from: IpAddr = words.value("an IP address")?;
            words.expect(">")?;
            Layer3::Icmp { from, to: words.value("an IP address")? }
        }
        "ether" => {
            let src: MacAddr = words.value("a MAC address")?;
            words.expect(">")?;
            let dst: MacAddr = words.value("a MAC address")?;
            let mut options = words.options()?;
            options.src.get_or_insert(src);
            options.dst.get_or_insert(dst);
            return build(&Layer3::None, &options).or_else(|what| words.fail(what));
        }
        kind => {
            let from = words.value::<Socket>("an IP address, or IP:PORT")?.or_port(ASKING_PORT);
            words.expect(">")?;
            let to = words.value::<Socket>("an IP address, or IP:PORT")?.or_port(ASKED_PORT);
            if kind == "udp" { Layer3::Udp { from, to } } else { Layer3::Tcp { from, to } }
        }
    };
    let options = words.options()?;
    build(&layer3, &options).or_else(|what| words.fail(what))
}

fn arp<'t>(words: &mut Words<'t, impl Iterator<Item = &'t str>>) -> Result<Layer3, FormError> {
    let first: String = words.value("`who-has`, or an IPv4 address")?;
    if first == "who-has" {
        let whom: Ipv4Addr = words.value("an IPv4 address")?;
        words.expect("tell")?;
        return Ok(Layer3::ArpRequest { whom, tell: words.value("an IPv4 address")? });
    }
    let Ok(who) = first.parse::<Ipv4Addr>() else {
        return words.fail(format!("`{first}` is neither `who-has` nor an IPv4 address"));
    };
    words.expect("is-at")?;
    Ok(Layer3::ArpReply { who, at: words.value("a MAC address")? })
}

/// An address with or without a port.
struct Socket(IpAddr, Option<u16>);

impl Socket {
    fn or_port(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.0, self.1.unwrap_or(port))
    }
}

impl FromStr for Socket {
    type Err = std::net::AddrParseError;

    fn from_str(word: &str) -> Result<Socket, Self::Err> {
        match word.parse::<SocketAddr>() {
            Ok(socket) => Ok(Socket(socket.ip(), Some(socket.port()))),
            Err(_) => word.parse().map(|ip| Socket(ip, None)),
        }
    }
}

/// In hex, with or without 0x.
struct EtherType(u16);

impl FromStr for EtherType {
    type Err = std::num::ParseIntError;

    fn from_str(word: &str) -> Result<EtherType, Self::Err> {
        u16::from_str_radix(word.strip_prefix("0x").unwrap_or(word), 16).map(EtherType)
    }
}

#[cfg(test)]
mod tests {
    use super::super::read;

    #[test]
    fn what_is_wrong_is_said_with_a_form_that_is_right() {
        for (text, words) in [
            ("arp", "`who-has`, or an IPv4 address is missing at the end"),
            ("arp who-has ::1 tell 10.0.0.1", "`::1` is not an IPv4 address"),
            ("arp who-has 10.0.0.2 say", "`say` where `tell` belongs"),
            ("arp who-is", "`who-is` is neither `who-has` nor an IPv4 address"),
            ("icmp 10.0.0.1", "`>` is missing at the end"),
            ("icmp 10.0.0.1 > ::1", "IPv4 and IPv6"),
            ("udp 10.0.0.1:x > 10.0.0.2", "`10.0.0.1:x` is not an IP address, or IP:PORT"),
            ("ether 02:00:00:00:00:01 > x", "`x` is not a MAC address"),
            ("ether 02:00:00:00:00:01 > 02:00:00:00:00:02 vlan 4096", "VLAN 4096 is beyond 4095"),
            ("icmp 10.0.0.1 > 10.0.0.2 size 3", "`size` is no option"),
            ("icmp 10.0.0.1 > 10.0.0.2 len 20", "at least 42 bytes"),
            ("icmp 10.0.0.1 > 10.0.0.2 len 70000", "IP packets end at 65535 bytes"),
            ("icmp 10.0.0.1 > 10.0.0.2 mss 1000", "`mss` is for tcp and udp"),
            ("tcp 10.0.0.1 > 10.0.0.2 mss 0", "`mss` is at least 1"),
            ("icmp 10.0.0.1 > 10.0.0.2 type 0806", "`type` is for ether"),
            ("ether 02:00:00:00:00:01 > 02:00:00:00:00:02 len 999999", "at most 131072"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
            let example = error.rsplit("form: ").next().unwrap();
            assert!(read(example).is_ok(), "{example}");
        }
    }
}
