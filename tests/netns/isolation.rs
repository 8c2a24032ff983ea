//! A15: a port's peer and the host's own network stack never speak to each
//! other through the port, whatever holds them apart, and nothing of it is
//! left behind.
//!
//! Each check is made twice, with isolation and without: what does not answer
//! when isolated must answer when not, or the check shows nothing.

use std::time::Duration;

use anyhow::{Result, ensure};
use vswitch::offload::VnetHeader;
use vswitch::port::{CloseOutcome, IsolationKind, IsolationMode, OpenOptions};
use vswitch_tests::bpf;
use vswitch_tests::clock::{Deadline, wait_for};
use vswitch_tests::flow::Device;
use vswitch_tests::netns::{Netns, veth};
use vswitch_tests::require;

use crate::opened::{Opened, SOON, numbered, open, options, read_one, write_one};

/// The host's address: once on the port's interface, once on another.
const HOST: [u8; 4] = [10, 99, 0, 1];
/// The guest behind the port.
const GUEST: [u8; 4] = [10, 99, 0, 2];
const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x99];

/// How long the host is given to break its silence.
const SILENCE: Duration = Duration::from_millis(300);

fn arp_request() -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &GUEST_MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
    frame.extend([&GUEST_MAC[..], &GUEST, &[0; 6], &HOST, &[0; 18]].concat());
    frame
}

/// An ICMP echo request to the host's address, to hardware address `to`.
fn echo_request(to: [u8; 6]) -> Vec<u8> {
    let mut ip = [0x45, 0, 0, 32, 0, 1, 0, 0, 64, 1, 0, 0].to_vec();
    ip.extend([GUEST, HOST].concat());
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum);
    let mut icmp = [8, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0].to_vec();
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum);
    [&to[..], &GUEST_MAC, &[8, 0], &ip, &icmp].concat()
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u32 = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    [!(sum >> 8).to_le_bytes()[0], !sum.to_le_bytes()[0]]
}

fn is_arp_reply(frame: &[u8]) -> bool {
    frame[12..14] == [8, 6] && frame[20..22] == [0, 2] && frame[..6] == GUEST_MAC
}

fn is_echo_reply(frame: &[u8]) -> bool {
    frame[12..14] == [8, 0] && frame[23] == 1 && frame[34] == 0
}

/// A host whose port is `sw`, and the guest's end `e0` in a namespace of its
/// own, so that the host's stack has one way to it only.
struct Host {
    ns: Netns,
    _guest: Netns,
    end: Device,
}

impl Host {
    /// With the host's address on `owner`: `sw` itself, or an interface beside.
    fn new(owner: &str) -> Result<Host> {
        let (ns, guest) = (Netns::new("host")?, Netns::new("guest")?);
        veth(&ns, "sw", &guest, "e0")?;
        veth(&ns, "other", &ns, "peer")?;
        ns.address(owner, "10.99.0.1/24")?;
        for device in ["sw", "other", "peer"] {
            ns.up(device)?;
            // The guest may ask by an interface that is not the way back.
            ns.sysctl(&format!("net/ipv4/conf/{device}/rp_filter"), "0")?;
        }
        ns.sysctl("net/ipv4/conf/all/rp_filter", "0")?;
        guest.up("e0")?;
        ns.wait_running("sw")?;
        let end = Device::packet(&guest, "e0")?;
        Ok(Host { ns, _guest: guest, end })
    }

    fn mac(&self) -> Result<[u8; 6]> {
        Ok(self.ns.device("sw")?.mac().parse::<vswitch::frame::MacAddr>()?.octets())
    }

    /// Whether the host answers `request` with something that `is_answer`.
    fn answers(&self, request: &[u8], is_answer: fn(&[u8]) -> bool) -> Result<bool> {
        write_one(&self.end, &VnetHeader::PLAIN, request)?;
        self.hears(SILENCE, is_answer)
    }

    /// Whether a frame that is `wanted` arrives at the guest within `limit`.
    fn hears(&self, limit: Duration, wanted: impl Fn(&[u8]) -> bool) -> Result<bool> {
        let deadline = Deadline::after(limit);
        let mut buffer = [0; 2048];
        loop {
            // A look after the deadline still counts.
            let late = deadline.passed();
            while let Some(len) = self.end.read(&mut buffer)? {
                if wanted(&buffer[..len]) {
                    return Ok(true);
                }
            }
            if late {
                return Ok(false);
            }
            self.end.wait_readable(deadline.left())?;
        }
    }
}

fn isolated(mode: IsolationMode) -> OpenOptions {
    OpenOptions { isolation: mode, takeover: true, ..options("iso") }
}

const MODES: [(IsolationMode, IsolationKind); 2] =
    [(IsolationMode::Auto, IsolationKind::Tcx), (IsolationMode::Clsact, IsolationKind::Clsact)];

/// Frames cross the open port in both directions, whatever holds it apart.
fn check_carries(port: &mut Opened<'_>, end: &Device) -> Result<()> {
    let (there, back) = (numbered(1, 60), numbered(2, 60));
    write_one(end, &VnetHeader::PLAIN, &there)?;
    wait_for("the frame", SOON, || port.burst().iter().any(|got| got.bytes == there).then_some(()))?;
    ensure!(port.send(&[&back]).refused.is_empty());
    wait_for("the answer", SOON, || read_one(end).ok().filter(|(_, bytes)| *bytes == back))?;
    Ok(())
}

#[test]
fn a15_the_host_answers_no_arp_for_an_address_elsewhere() -> Result<()> {
    require!(root);
    let host = Host::new("other")?;
    ensure!(host.answers(&arp_request(), is_arp_reply)?, "without a port the host does answer");
    {
        let off = OpenOptions { isolation: IsolationMode::Off, ..options("iso") };
        let _port = open(&host.ns, "netdev:sw", &off)?;
        ensure!(host.answers(&arp_request(), is_arp_reply)?, "without isolation too");
    }
    for (mode, kind) in MODES {
        let mut port = open(&host.ns, "netdev:sw", &isolated(mode))?;
        ensure!(port.device().isolation() == kind && port.notes.is_empty(), "{:?}", port.notes);
        ensure!(!host.answers(&arp_request(), is_arp_reply)?, "{kind:?}");
        let request = arp_request();
        wait_for("the port to see the request", SOON, || {
            port.burst().iter().any(|got| got.bytes == request).then_some(())
        })?;
        check_carries(&mut port, &host.end)?;
        ensure!(port.close() == CloseOutcome::Clean);
        ensure!(host.answers(&arp_request(), is_arp_reply)?, "{kind:?} is gone after the port");
        ensure!(!host.ns.run("tc qdisc show dev sw")?.contains("clsact"));
    }
    Ok(())
}

#[test]
fn a15_neither_side_speaks_to_the_other_on_a_port_with_an_address() -> Result<()> {
    require!(root, "ping");
    let host = Host::new("sw")?;
    let echo = echo_request(host.mac()?);
    let arp_from_host = |frame: &[u8]| frame[12..14] == [8, 6];
    host.ns.run("ip neigh replace 10.99.0.2 lladdr 02:00:00:00:00:99 dev sw nud permanent")?;
    ensure!(host.answers(&echo, is_echo_reply)?, "without a port the host does answer");
    for (mode, kind) in MODES {
        let mut port = open(&host.ns, "netdev:sw", &isolated(mode))?;
        ensure!(!host.answers(&arp_request(), is_arp_reply)?, "{kind:?}: arp");
        ensure!(!host.answers(&echo, is_echo_reply)?, "{kind:?}: icmp");
        // The host asks for a neighbour, and pings the one it knows.
        ensure!(host.ns.ping("10.99.0.3", 1)? == 0 && host.ns.ping("10.99.0.2", 1)? == 0);
        let own = host.mac()?;
        let heard = host.hears(SILENCE, |frame| arp_from_host(frame) || frame[6..12] == own)?;
        ensure!(!heard, "{kind:?}: the host's own frames got out");
        check_carries(&mut port, &host.end)?;
        let _ = port.close();
        let _ = host.ns.ping("10.99.0.3", 1)?;
        ensure!(host.hears(SILENCE, arp_from_host)?, "{kind:?}: without the port they do");
    }
    Ok(())
}

/// An interface that comes up makes IPv6 announce itself; through a port it
/// must not.
#[test]
fn a15_the_hosts_own_ipv6_stays_off_the_port() -> Result<()> {
    require!(root);
    let (ns, guest) = (Netns::with_ipv6("host6")?, Netns::new("guest6")?);
    veth(&ns, "sw", &guest, "e0")?;
    ns.run("ip addr add 192.0.2.1/32 dev lo")?;
    guest.up("e0")?;
    let host = Host { end: Device::packet(&guest, "e0")?, ns, _guest: guest };
    let ipv6 = |frame: &[u8]| frame[12..14] == [0x86, 0xdd];
    let bounce = || {
        host.ns.run("ip link set sw down")?;
        host.ns.up("sw")?;
        host.ns.wait_running("sw")
    };
    bounce()?;
    ensure!(host.hears(SOON, ipv6)?, "without a port it does announce itself");
    for (mode, kind) in MODES {
        // What was under way is done once the address is no longer tentative.
        wait_for("duplicate address detection", SOON, || {
            let text = host.ns.run("ip -6 addr show dev sw").ok()?;
            (text.contains("fe80") && !text.contains("tentative")).then_some(())
        })?;
        let mut port = open(&host.ns, "netdev:sw", &isolated(mode))?;
        host.hears(SILENCE, |_| false)?;
        bounce()?;
        ensure!(!host.hears(Duration::from_millis(1_500), ipv6)?, "{kind:?}");
        check_carries(&mut port, &host.end)?;
    }
    Ok(())
}

/// A program that lets frames pass ends the chain: one that a user attached
/// earlier must not come before ours.
#[test]
fn an_earlier_tcx_program_does_not_defeat_ours() -> Result<()> {
    require!(root);
    let host = Host::new("other")?;
    let ifindex = host.ns.device("sw")?.json()["ifindex"].as_u64().unwrap_or_default();
    let users = host.ns.enter(|| bpf::attach_ingress(u32::try_from(ifindex).unwrap_or(0), bpf::PASS))?;
    let mut port = open(&host.ns, "netdev:sw", &isolated(IsolationMode::Auto))?;
    ensure!(port.device().isolation() == IsolationKind::Tcx);
    ensure!(port.notes.iter().any(|note| note.contains("ingress filters")), "{:?}", port.notes);
    ensure!(!host.answers(&arp_request(), is_arp_reply)?);
    check_carries(&mut port, &host.end)?;
    let _ = port.close();
    ensure!(host.answers(&arp_request(), is_arp_reply)?);
    drop(users);
    Ok(())
}

/// A filter of the user's: everything matches, and passes.
const USERS_FILTER: &str = "tc filter add dev sw ingress pref PREF protocol all bpf bytecode 1,6\u{a0}0\u{a0}0\u{a0}4294967295 flowid 1:1";

fn add_users_filter(ns: &Netns, preference: u16) -> Result<()> {
    let mut words: Vec<String> = USERS_FILTER.split(' ').map(|word| word.replace('\u{a0}', " ")).collect();
    words.iter_mut().filter(|word| *word == "PREF").for_each(|word| *word = preference.to_string());
    vswitch_tests::netns::run(ns.command(&words[0]).args(&words[1..])).map(drop)
}

fn users_filters(ns: &Netns) -> Result<Vec<String>> {
    let shown = ns.run("tc filter show dev sw ingress")?;
    Ok(shown.lines().filter(|line| line.contains("handle")).map(str::to_owned).collect())
}

#[test]
fn a_users_own_clsact_survives_with_its_filters() -> Result<()> {
    require!(root, "tc");
    let host = Host::new("other")?;
    host.ns.run("tc qdisc add dev sw clsact")?;
    add_users_filter(&host.ns, 5)?;
    add_users_filter(&host.ns, 49_152)?;
    let before = users_filters(&host.ns)?;
    ensure!(before.len() == 2, "{before:?}");
    for (mode, kind) in MODES {
        let mut port = open(&host.ns, "netdev:sw", &isolated(mode))?;
        ensure!(port.device().isolation() == kind, "{:?}", port.notes);
        ensure!(port.notes.iter().any(|note| note.contains("ingress filters")), "{:?}", port.notes);
        ensure!(!host.answers(&arp_request(), is_arp_reply)?, "{kind:?}: ours run first");
        check_carries(&mut port, &host.end)?;
        let _ = port.close();
        ensure!(users_filters(&host.ns)? == before, "{kind:?}");
        ensure!(host.ns.run("tc qdisc show dev sw")?.contains("clsact"), "{kind:?}");
    }
    // Nothing can run before the first preference: it is said, not pretended.
    add_users_filter(&host.ns, 1)?;
    let port = open(&host.ns, "netdev:sw", &isolated(IsolationMode::Clsact))?;
    ensure!(port.device().isolation() == IsolationKind::None);
    ensure!(port.notes.iter().any(|note| note.contains("isolation: none")), "{:?}", port.notes);
    let _ = port.close();
    ensure!(users_filters(&host.ns)?.len() == 3);
    Ok(())
}

/// A qdisc that we made stays as long as somebody else uses it by then.
#[test]
fn our_clsact_stays_for_the_users_filter() -> Result<()> {
    require!(root, "tc");
    let host = Host::new("other")?;
    let port = open(&host.ns, "netdev:sw", &isolated(IsolationMode::Clsact))?;
    add_users_filter(&host.ns, 49_152)?;
    ensure!(!host.answers(&arp_request(), is_arp_reply)?);
    let _ = port.close();
    ensure!(users_filters(&host.ns)?.len() == 1);
    ensure!(host.answers(&arp_request(), is_arp_reply)?);
    Ok(())
}
