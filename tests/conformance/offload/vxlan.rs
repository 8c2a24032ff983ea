//! TCP inside VXLAN, as the kernel hands it over: labelled with the inner
//! offsets. A real transfer between two namespaces is watched where a port
//! would receive it; what we make of its frames must be valid on a wire, and
//! carry the stream.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use etherparse::checksum::Sum16BitWords;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use vswitch::offload::{Offload, VnetHeader};
use vswitch::port::Finisher;
use vswitch_tests::flow::Device;
use vswitch_tests::netns::{Netns, veth};
use vswitch_tests::require;
use zerocopy::FromBytes as _;

use super::{ours, with_frame};

/// Bytes that are sent through the tunnel.
const STREAM_LEN: usize = 2_000_000;

const VXLAN_HEADER_LEN: usize = 8;

fn stream() -> Vec<u8> {
    (0..STREAM_LEN).map(|i| u8::try_from(i * 7 % 253).unwrap()).collect()
}

#[test]
fn tcp_inside_vxlan_over_ipv4() {
    require!(root);
    transfer("10.8.0", "10.9.0.1/24", "10.9.0.2", "udpcsum").unwrap();
}

#[test]
fn tcp_inside_vxlan_over_ipv4_without_outer_checksum() {
    require!(root);
    transfer("10.8.0", "fd09::1/64", "fd09::2", "noudpcsum").unwrap();
}

#[test]
fn tcp_inside_vxlan_over_ipv6() {
    require!(root);
    transfer("fd08:", "fd09::1/64", "fd09::2", "noudp6zerocsumtx").unwrap();
}

#[test]
fn tcp_inside_vxlan_over_ipv6_without_outer_checksum() {
    require!(root);
    transfer("fd08:", "10.9.0.1/24", "10.9.0.2", "udp6zerocsumtx udp6zerocsumrx").unwrap();
}

/// Sends the stream from `inner_a` to `inner_b` through a tunnel between two
/// addresses that begin with `outer`.
fn transfer(outer: &str, inner_a: &str, inner_b: &str, checksum: &str) -> Result<()> {
    let (a, b) = (Netns::with_ipv6("vxa")?, Netns::with_ipv6("vxb")?);
    veth(&a, "e0", &b, "e0")?;
    let (outer, outer_prefix) =
        if outer.contains(':') { (format!("{outer}:"), 64) } else { (format!("{outer}."), 24) };
    let (_, inner_prefix) = inner_a.split_once('/').context("a prefix length")?;
    for (ns, own, other, inner) in [(&a, 1, 2, inner_a), (&b, 2, 1, &format!("{inner_b}/{inner_prefix}"))] {
        let nodad = |address: &str| if address.contains(':') { " nodad" } else { "" };
        ns.run(&format!("ip address add {outer}{own}/{outer_prefix} dev e0{}", nodad(&outer)))?;
        ns.up("e0")?;
        ns.run(&format!(
            "ip link add vx0 type vxlan id 42 dev e0 local {outer}{own} remote {outer}{other} dstport 4789 {checksum}"
        ))?;
        ns.run(&format!("ip address add {inner} dev vx0{}", nodad(inner)))?;
        ns.up("vx0")?;
    }
    a.wait_running("e0")?;
    b.wait_running("e0")?;
    let port = Device::packet_with_offloads(&b, "e0")?;

    let listener = b.enter(|| TcpListener::bind((inner_b, 7000)))?;
    let received = std::thread::scope(|scope| -> Result<Vec<u8>> {
        let receiver = scope.spawn(move || -> Result<Vec<u8>> {
            let (mut connection, _) = listener.accept()?;
            connection.set_read_timeout(Some(Duration::from_secs(20)))?;
            let mut received = Vec::new();
            connection.read_to_end(&mut received)?;
            Ok(received)
        });
        let limit = Duration::from_secs(10);
        let address =
            format!("{}:7000", if inner_b.contains(':') { format!("[{inner_b}]") } else { inner_b.into() });
        let mut sender =
            a.enter(|| TcpStream::connect_timeout(&address.parse().expect("an address"), limit))?;
        sender.set_write_timeout(Some(limit))?;
        sender.write_all(&stream())?;
        drop(sender);
        receiver.join().expect("the receiver only returns errors")
    })?;
    ensure!(received == stream(), "the tunnel works without us");
    watch(&port, !checksum.starts_with("noudpcsum") && !checksum.starts_with("udp6zero"))
}

/// Finishes every frame that waits in `port`, and puts the stream together.
fn watch(port: &Device, with_outer_checksum: bool) -> Result<()> {
    let mut finisher = Finisher::new();
    let mut buffer = vec![0; 70_000];
    let mut stream_seen = vec![None; STREAM_LEN];
    let mut first_seq = None;
    let (mut tunnelled, mut cut) = (0, 0);
    while let Some(len) = port.read(&mut buffer)? {
        let (vnet, frame) = VnetHeader::read_from_prefix(&buffer[..len]).expect("ten bytes and more");
        // ARP and neighbour discovery are not what we came for.
        if !matches!(SlicedPacket::from_ethernet(frame)?.transport, Some(TransportSlice::Udp(_))) {
            continue;
        }
        let offload = with_frame(vnet, frame, |frame| frame.offload());
        tunnelled += usize::from(matches!(offload, Offload::Tunnel(_)));
        let wires = ours(&mut finisher, vnet, frame).unwrap();
        if let Offload::Tunnel(sizes) = offload {
            ensure!(wires.len() == usize::try_from(sizes.segments)?, "{sizes:?}");
            ensure!(wires.iter().map(Vec::len).max() == Some(usize::try_from(sizes.wire_len)?), "{sizes:?}");
            cut += wires.len();
        }
        for wire in wires {
            let bridged = &valid_payload(&wire, Some(with_outer_checksum))?[VXLAN_HEADER_LEN..];
            let Some(TransportSlice::Tcp(tcp)) = SlicedPacket::from_ethernet(bridged)?.transport else {
                continue;
            };
            if tcp.syn() {
                first_seq = Some(tcp.sequence_number().wrapping_add(1));
                continue;
            }
            let at = tcp.sequence_number().wrapping_sub(first_seq.context("the SYN comes first")?);
            let payload = valid_payload(bridged, None)?;
            for (slot, &byte) in stream_seen.iter_mut().skip(usize::try_from(at)?).zip(payload) {
                *slot = Some(byte);
            }
        }
    }
    ensure!(tunnelled > 10 && cut > 200, "super-frames came: {tunnelled}, cut into {cut}");
    let whole: Option<Vec<u8>> = stream_seen.into_iter().collect();
    ensure!(whole == Some(stream()), "the segments carry the stream");
    Ok(())
}

/// The payload behind the transport header of a frame, all of whose lengths
/// and checksums are right; a UDP checksum is there only if it should be.
fn valid_payload(frame: &[u8], udp_checksum: Option<bool>) -> Result<&[u8]> {
    let packet = SlicedPacket::from_ethernet(frame)?;
    let (protocol, found, l4, payload) = match packet.transport.context("a transport header")? {
        TransportSlice::Udp(udp) => (17, udp.checksum(), udp.slice(), udp.payload()),
        TransportSlice::Tcp(tcp) => (6, tcp.checksum(), tcp.slice(), tcp.payload()),
        other @ (TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_) | TransportSlice::Igmp(_)) => {
            bail!("{other:?}")
        }
    };
    ensure!(payload.as_ptr_range().end == frame.as_ptr_range().end, "lengths reach the frame's end");
    let addresses = match packet.net.context("an IP header")? {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            ensure!(header.header_checksum == header.calc_header_checksum(), "IPv4 header checksum");
            [header.source, header.destination].concat()
        }
        NetSlice::Ipv6(ip) => [ip.header().source(), ip.header().destination()].concat(),
        other @ NetSlice::Arp(_) => bail!("{other:?}"),
    };
    let left_over = Sum16BitWords::new()
        .add_slice(&addresses)
        .add_2bytes([0, protocol])
        .add_2bytes(u16::try_from(l4.len())?.to_be_bytes())
        .add_slice(l4)
        .ones_complement();
    match udp_checksum {
        Some(false) => ensure!(found == 0, "a checksum nobody asked for"),
        Some(true) => ensure!(found != 0 && left_over == 0, "UDP checksum {found:04x}"),
        None => ensure!(left_over == 0, "TCP checksum {found:04x}"),
    }
    Ok(payload)
}
