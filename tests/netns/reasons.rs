//! Every name by which a frame can end, made to happen on a real switch, and found
//! under that name by whoever looks: `vswitch stats`, `vswitch trace` of the same
//! frame, and the comment that a capture has on it.
//!
//! The tables have a row for each [`DropReason`] and each [`Refusal`]: one that is
//! added without a case does not compile, or fails.
//!
//! What only a device knows when the frame is sent (`full`, `down`, `gone`,
//! `invalid`) no trace can foretell; there it is checked that it says `sent`. One
//! name is not made here: `error` is what a device's unforeseen error number is
//! called, and no device that can be made on a healthy machine gives one to a
//! send. `tests/sim/trace.rs` gives it by a port in memory.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use vswitch::bridge::{DropReason, Refusal};
use vswitch::control::{Client, PortState, Request, Response, Show, Stats, Trace, Unfinished};
use vswitch::frame::MacAddr;
use vswitch::offload::{GSO_TCPV4, GSO_UDP_L4, NEEDS_CSUM, VnetHeader};
use vswitch_tests::capture::{FrameRead, Way};
use vswitch_tests::capturing::Capturing;
use vswitch_tests::clock::wait_until;
use vswitch_tests::flow::Device;
use vswitch_tests::guest_socket::GuestSocket;
use vswitch_tests::netns::{Netns, veth};
use vswitch_tests::process::Switch;
use vswitch_tests::require;
use vswitch_tests::vhost::{Choice, Descriptor, Guest, INDIRECT, NEXT, feature};

use crate::lan::SOON;

/// Makes one reason happen, and looks for its name.
type Make = fn(&mut Rig) -> Result<()>;

/// How each frame that is not forwarded ends.
const DROPS: [(DropReason, Make); DropReason::COUNT] = [
    (DropReason::PortDown, port_down),
    (DropReason::Runt, |rig| rig.dropped(DropReason::Runt, &[2; 13])),
    (DropReason::Truncated, truncated),
    (DropReason::MalformedTag, |rig| rig.dropped(DropReason::MalformedTag, &frame(1, 0xee, 0x8100)[..17])),
    (DropReason::BadOffload, bad_offload),
    (DropReason::TunnelGso, tunnel_gso),
    (DropReason::BadSource, |rig| {
        let mut bytes = frame(1, 0xee, 0x88b5);
        bytes[6] |= 1;
        rig.dropped(DropReason::BadSource, &bytes)
    }),
    (DropReason::Locked, |rig| {
        rig.client(&["port", "set", "a", "locked=true"])?;
        rig.dropped(DropReason::Locked, &frame(1, 0xee, 0x88b5))
    }),
    (DropReason::Reserved, |rig| {
        let mut bytes = frame(1, 0xee, 0x88cc);
        bytes[..6].copy_from_slice(&[0x01, 0x80, 0xc2, 0, 0, 0x0e]);
        rig.dropped(DropReason::Reserved, &bytes)
    }),
    (DropReason::Filtered, |rig| rig.dropped(DropReason::Filtered, &frame(1, 1, 0x88b5))),
    (DropReason::NoEgress, |rig| {
        for port in ["b", "v", "sw"] {
            rig.client(&["port", "set", port, "flood=false"])?;
        }
        rig.dropped(DropReason::NoEgress, &frame(1, 0xee, 0x88b5))
    }),
];

/// How each copy that is not sent ends; `None` is said above.
const REFUSALS: [(Refusal, Option<Make>); Refusal::COUNT] = [
    (Refusal::Oversize, Some(oversize)),
    (Refusal::Full, Some(full)),
    (Refusal::Down, Some(down)),
    (Refusal::Gone, Some(gone)),
    (Refusal::Segments, Some(segments)),
    (Refusal::Offload, Some(offload)),
    (Refusal::Invalid, Some(invalid)),
    (Refusal::Error, None),
];

#[test]
fn each_drop_reason_is_made_and_named_alike_by_stats_trace_and_capture() -> Result<()> {
    require!(root);
    for (place, (reason, make)) in DROPS.into_iter().enumerate() {
        ensure!(DropReason::ALL[place] == reason, "the table is in the order of the reasons");
        named_alike(make, Way::Inbound, &format!("dropped: {reason}"))?;
    }
    Ok(())
}

#[test]
fn each_refusal_is_made_and_named_alike_by_stats_trace_and_capture() -> Result<()> {
    require!(root);
    for (place, (reason, make)) in REFUSALS.into_iter().enumerate() {
        ensure!(Refusal::ALL[place] == reason, "the table is in the order of the reasons");
        let Some(make) = make else { continue };
        named_alike(make, Way::Outbound, &format!("refused: {reason}"))?;
    }
    Ok(())
}

/// Makes one reason happen on a switch of its own, where stats and trace are looked
/// at; then the sums hold, and a capture has a frame whose comment ends in `words`.
fn named_alike(make: Make, way: Way, words: &str) -> Result<()> {
    let mut rig = Rig::new()?;
    let mut capturing = Capturing::start(&rig.switch, &[])?;
    make(&mut rig).with_context(|| format!("{words}\n{}", rig.switch.stderr()))?;
    rig.balanced().with_context(|| words.to_owned())?;
    let capture = capturing.end()?;
    let is_named = |frame: &FrameRead| {
        frame.way == way && frame.comment.rsplit("; ").next().is_some_and(|last| last == words)
    };
    ensure!(capture.frames.iter().any(is_named), "no frame `{words}` in {:?}", capture.frames);
    Ok(())
}

/// A switch with two guests on sockets, one with queues in memory, and a veth.
struct Rig {
    switch: Switch,
    a: GuestSocket,
    b: Option<GuestSocket>,
    v: Guest,
    e0: Device,
    path_a: PathBuf,
    ns: Netns,
    _dir: TempDir,
}

impl Rig {
    fn new() -> Result<Rig> {
        let dir = tempfile::Builder::new().prefix("vt-").tempdir()?;
        let path = |name: &str| dir.path().join(name);
        let ns = Netns::new("why")?;
        veth(&ns, "sw", &ns, "e0")?;
        ns.up("sw")?;
        ns.up("e0")?;
        ns.wait_running("sw")?;
        let specs = [
            format!("stream:{},name=a", path("a").display()),
            format!("stream:{},name=b", path("b").display()),
            format!("vhost-user:{},name=v", path("v").display()),
            "netdev:sw".to_owned(),
        ];
        let switch = Switch::with_ports(&ns, &specs.each_ref().map(String::as_str))?;
        let rig = Rig {
            a: GuestSocket::stream(&path("a"))?,
            b: Some(GuestSocket::stream(&path("b"))?),
            v: Guest::connect_as(&path("v"), Choice::default().and(feature::CSUM | feature::HOST_USO))?,
            e0: Device::packet(&ns, "e0")?,
            path_a: path("a"),
            switch,
            ns,
            _dir: dir,
        };
        rig.wait_up()?;
        Ok(rig)
    }

    fn wait_up(&self) -> Result<()> {
        wait_until("all ports to be up", SOON, || {
            self.show().is_ok_and(|show| show.ports.iter().all(|port| port.state == PortState::Up))
        })
        .with_context(|| self.switch.stderr())
    }

    fn show(&self) -> Result<Show> {
        serde_json::from_value(self.switch.json(&["show"])?).context("show --json")
    }

    fn stats(&self) -> Result<Stats> {
        serde_json::from_value(self.switch.json(&["stats"])?).context("stats --json")
    }

    fn client(&self, args: &[&str]) -> Result<()> {
        self.switch.json(args).map(drop)
    }

    /// Counts of one port by name: drops, and refusals.
    fn count(&self, port: &str, name: &str) -> Result<u64> {
        let stats = self.stats()?;
        let port = stats.ports.iter().find(|found| found.name == port).context("no such port")?;
        let count = port.drops.get(name).or_else(|| port.refused.get(name)).context("no such name")?;
        Ok(*count)
    }

    fn wait_count(&self, port: &str, name: &str) -> Result<()> {
        wait_until(&format!("{name} on {port}"), SOON, || self.count(port, name).is_ok_and(|count| count > 0))
            .with_context(|| format!("{:?}", self.stats()))
    }

    /// The sums hold, whatever has happened.
    fn balanced(&self) -> Result<()> {
        let stats = self.stats()?;
        ensure!(stats.ports.iter().chain([&stats.total]).all(|port| port.balance()), "{stats:?}");
        Ok(())
    }

    /// What the switch says would become of a frame.
    fn trace(&self, port: &str, bytes: &[u8], vnet: VnetHeader) -> Result<Trace> {
        let frame: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let request = Request::Trace { port: port.to_owned(), frame, unfinished: Unfinished::from(vnet) };
        let reply = Client::connect(self.switch.control())?.call(&request)?;
        let Response::Trace(trace) = reply else { anyhow::bail!("{reply:?}") };
        Ok(*trace)
    }

    /// The trace of a frame that comes in by `port` ends with that reason.
    fn traced_drop(&self, port: &str, bytes: &[u8], vnet: VnetHeader, reason: DropReason) -> Result<()> {
        let trace = self.trace(port, bytes, vnet)?;
        ensure!(trace.reason.as_deref() == Some(reason.name()), "{trace:?}");
        ensure!(trace.comment.ends_with(&format!("dropped: {reason}")), "{trace:?}");
        let last = trace.steps.last().context("no steps")?;
        ensure!(last.text == format!("dropped: {reason}"), "{trace:?}");
        Ok(())
    }

    /// The trace says that `egress` refuses its copy for that reason.
    fn traced_refusal(&self, bytes: &[u8], vnet: VnetHeader, egress: &str, reason: Refusal) -> Result<()> {
        let trace = self.trace("v", bytes, vnet)?;
        let found = trace.egress.iter().find(|found| found.port == egress).context("no egress")?;
        ensure!(found.refused.as_deref() == Some(reason.name()), "{trace:?}");
        ensure!(found.text.starts_with(&format!("refused: {reason}")), "{trace:?}");
        Ok(())
    }

    /// The trace says that the frame would be sent: nothing speaks against it yet.
    fn traced_sent(&self, port: &str, bytes: &[u8], egress: &str) -> Result<()> {
        let trace = self.trace(port, bytes, VnetHeader::PLAIN)?;
        let found = trace.egress.iter().find(|found| found.port == egress).context("no egress")?;
        ensure!(found.refused.is_none() && found.text.starts_with("sent"), "{trace:?}");
        Ok(())
    }

    /// A frame from `a` ends so, and a trace of it before says so.
    fn dropped(&mut self, reason: DropReason, bytes: &[u8]) -> Result<()> {
        self.traced_drop("a", bytes, VnetHeader::PLAIN, reason)?;
        ensure!(self.count("a", reason.name())? == 0, "asking counts nothing");
        self.send_a(bytes)?;
        self.wait_count("a", reason.name())
    }

    fn send_a(&mut self, bytes: &[u8]) -> Result<()> {
        self.a.send(bytes, &self.path_a.clone())
    }

    /// `v` sends a frame with a header of its own, in `pieces`: where each of them
    /// begins in the frame.
    fn send_v(&mut self, bytes: &[u8], vnet: VnetHeader, pieces: &[usize]) -> Result<()> {
        let data = Guest::buffer(200);
        let table = Guest::buffer(160);
        let VnetHeader { flags, gso_type, hdr_len, gso_size, csum_start, csum_offset } = vnet;
        let words = [hdr_len, gso_size, csum_start, csum_offset, 0].map(u16::to_le_bytes).concat();
        self.v.write(data, &[&[flags, gso_type][..], &words, bytes].concat());
        let ends = pieces.iter().skip(1).copied().chain([bytes.len()]);
        let mut runs = vec![(data, 12)];
        for (start, end) in pieces.iter().copied().zip(ends) {
            runs.push((data + 12 + u64::try_from(start)?, u32::try_from(end - start)?));
        }
        for (number, (addr, len)) in (0u16..).zip(&runs) {
            let last = usize::from(number) + 1 == runs.len();
            let (flags, next) = if last { (0, 0) } else { (NEXT, number + 1) };
            let descriptor = Descriptor { addr: *addr, len: *len, flags, next };
            self.v.write_descriptor(table + 16 * u64::from(number), descriptor);
        }
        let len = u32::try_from(16 * runs.len())?;
        self.v.describe(1, 0, Descriptor { addr: table, len, flags: INDIRECT, next: 0 });
        self.v.push(1, 0);
        self.v.kick(1).map(drop)
    }

    /// Does `work` while the switch stands still, so that it finds all of it at
    /// once when it goes on.
    fn while_stopped(&mut self, work: impl FnOnce(&mut Rig) -> Result<()>) -> Result<()> {
        let _paused = self.switch.pause()?;
        work(self)
    }
}

/// A frame of 60 bytes between stations 02:00:00:00:00:N.
fn frame(from: u8, to: u8, ethertype: u16) -> Vec<u8> {
    let mut bytes = vec![0; 60];
    bytes[..6].copy_from_slice(&MacAddr::new([2, 0, 0, 0, 0, to]).octets());
    bytes[6..12].copy_from_slice(&MacAddr::new([2, 0, 0, 0, 0, from]).octets());
    bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
    bytes
}

/// An IPv4 packet of `protocol` behind such a header, `len` bytes in all.
fn packet(protocol: u8, len: usize) -> Result<Vec<u8>> {
    let mut bytes = frame(1, 0xee, 0x0800);
    bytes.resize(len, 0);
    bytes[14] = 0x45;
    bytes[16..18].copy_from_slice(&u16::try_from(len - 14)?.to_be_bytes());
    bytes[22] = 64;
    bytes[23] = protocol;
    bytes[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    Ok(bytes)
}

/// A frame that waits behind the news that its port is down.
fn port_down(rig: &mut Rig) -> Result<()> {
    let bytes = frame(1, 0xee, 0x88b5);
    rig.while_stopped(|rig| {
        ensure!(rig.e0.write(&bytes)?, "the veth is full");
        rig.ns.run("ip link set sw down").map(drop)
    })?;
    rig.wait_count("sw", "port_down")?;
    rig.traced_drop("sw", &bytes, VnetHeader::PLAIN, DropReason::PortDown)
}

/// Longer than any buffer: the same 4,000 bytes, again and again.
fn truncated(rig: &mut Rig) -> Result<()> {
    let bytes = frame(1, 0xee, 0x88b5);
    let (data, table) = (Guest::buffer(200), Guest::buffer(160));
    rig.v.write(data, &[0; 12]);
    rig.v.write(data + 12, &bytes);
    for number in 0..20u16 {
        let (flags, next) = if number == 19 { (0, 0) } else { (NEXT, number + 1) };
        let descriptor = Descriptor { addr: data, len: 4000, flags, next };
        rig.v.write_descriptor(table + 16 * u64::from(number), descriptor);
    }
    rig.v.describe(1, 0, Descriptor { addr: table, len: 20 * 16, flags: INDIRECT, next: 0 });
    rig.v.push(1, 0);
    rig.v.kick(1)?;
    rig.wait_count("v", "truncated")?;
    let mut long = bytes;
    long.resize(20 * 4000 - 12, 0);
    rig.traced_drop("v", &long, VnetHeader::PLAIN, DropReason::Truncated)
}

/// A super-frame whose segments would have no payload.
fn bad_offload(rig: &mut Rig) -> Result<()> {
    let bytes = packet(6, 2000)?;
    let vnet = VnetHeader {
        flags: NEEDS_CSUM,
        gso_type: GSO_TCPV4,
        hdr_len: 54,
        gso_size: 0,
        csum_start: 34,
        csum_offset: 16,
    };
    rig.traced_drop("v", &bytes, vnet, DropReason::BadOffload)?;
    rig.send_v(&bytes, vnet, &[0])?;
    rig.wait_count("v", "bad_offload")
}

/// A super-frame in a tunnel that is none: UDP, with offsets of an inner header
/// that is not there.
fn tunnel_gso(rig: &mut Rig) -> Result<()> {
    let bytes = packet(17, 2000)?;
    let vnet = VnetHeader {
        flags: NEEDS_CSUM,
        gso_type: GSO_TCPV4,
        hdr_len: 116,
        gso_size: 1000,
        csum_start: 84,
        csum_offset: 16,
    };
    rig.traced_drop("v", &bytes, vnet, DropReason::TunnelGso)?;
    rig.send_v(&bytes, vnet, &[0])?;
    rig.wait_count("v", "tunnel_gso")
}

fn oversize(rig: &mut Rig) -> Result<()> {
    let mut bytes = frame(1, 0xee, 0x88b5);
    bytes.resize(1515, 0);
    rig.traced_refusal(&bytes, VnetHeader::PLAIN, "b", Refusal::Oversize)?;
    rig.send_v(&bytes, VnetHeader::PLAIN, &[0])?;
    rig.wait_count("b", "oversize")
}

/// `b` does not read: its socket fills up.
fn full(rig: &mut Rig) -> Result<()> {
    let mut bytes = frame(1, 0xee, 0x88b5);
    bytes.resize(1514, 0);
    wait_until("b to be full", SOON, || {
        (0..64).all(|_| rig.send_a(&bytes).is_ok()) && rig.count("b", "full").is_ok_and(|count| count > 0)
    })?;
    rig.traced_sent("a", &bytes, "b")
}

/// `b` hangs up; a frame for it is there before that is noticed.
fn down(rig: &mut Rig) -> Result<()> {
    let bytes = frame(1, 0xee, 0x88b5);
    rig.traced_sent("a", &bytes, "b")?;
    rig.while_stopped(|rig| {
        rig.send_a(&bytes)?;
        rig.b.take().context("b is there")?.hang_up()
    })?;
    rig.wait_count("b", "down")
}

/// The veth is deleted; a frame for it is there before that is noticed.
///
/// The control thread is told by the kernel besides, and may be the first of the two
/// to run: then no copy is made, and the next veth has its turn.
fn gone(rig: &mut Rig) -> Result<()> {
    let bytes = frame(1, 0xee, 0x88b5);
    for turn in 1..=20 {
        rig.traced_sent("a", &bytes, "sw")?;
        rig.while_stopped(|rig| {
            rig.send_a(&bytes)?;
            rig.ns.run("ip link del sw").map(drop)
        })?;
        wait_until("the frame to be judged", SOON, || {
            rig.stats().is_ok_and(|stats| stats.total.rx == turn && stats.total.balance())
        })?;
        if rig.count("sw", "gone")? > 0 {
            return Ok(());
        }
        veth(&rig.ns, "sw", &rig.ns, "e0")?;
        rig.ns.up("sw")?;
        rig.ns.up("e0")?;
        rig.wait_up()?;
    }
    anyhow::bail!("the control thread was first each time: {:?}", rig.stats()?)
}

/// Segments so small that cutting them would cost more than the sender paid.
fn segments(rig: &mut Rig) -> Result<()> {
    let bytes = packet(17, 2042)?;
    let vnet = VnetHeader {
        flags: NEEDS_CSUM,
        gso_type: GSO_UDP_L4,
        hdr_len: 42,
        gso_size: 100,
        csum_start: 34,
        csum_offset: 6,
    };
    rig.traced_refusal(&bytes, vnet, "b", Refusal::Segments)?;
    rig.send_v(&bytes, vnet, &[0])?;
    rig.wait_count("b", "segments")
}

/// SCTP whose checksum is left to us, and ends inside that field.
fn offload(rig: &mut Rig) -> Result<()> {
    let bytes = packet(132, 34 + 10)?;
    let vnet = VnetHeader { flags: NEEDS_CSUM, csum_start: 34, csum_offset: 8, ..VnetHeader::PLAIN };
    rig.traced_refusal(&bytes, vnet, "b", Refusal::Offload)?;
    rig.send_v(&bytes, vnet, &[0])?;
    rig.wait_count("b", "offload")
}

/// More pieces than the kernel takes in one call, with the length before them.
fn invalid(rig: &mut Rig) -> Result<()> {
    let mut bytes = frame(1, 0xee, 0x88b5);
    bytes.resize(300 + 1022, 0);
    rig.traced_sent("v", &bytes, "b")?;
    let pieces: Vec<usize> = [0].into_iter().chain(300..bytes.len()).collect();
    rig.send_v(&bytes, VnetHeader::PLAIN, &pieces)?;
    rig.wait_count("b", "invalid")
}
