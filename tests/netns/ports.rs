//! What a port does with frames on a real device: byte for byte, with their
//! tags and virtio-net headers, and by name where it cannot.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, ensure};
use vswitch::bridge::{DropReason, Refusal};
use vswitch::frame::{MacAddr, Piece, Wire};
use vswitch::offload::{GSO_TCPV4, NEEDS_CSUM, VnetHeader};
use vswitch::port::{DeviceState, Fault};
use vswitch_tests::clock::{wait_for, wait_until};
use vswitch_tests::flow::{Device, Flow};
use vswitch_tests::netns::{Netns, veth};
use vswitch_tests::require;

use crate::opened::{Opened, SOON, numbered, open, options, read_one, write_one};

/// A namespace with a veth pair `sw`–`e0` that is up.
fn pair(tag: &str) -> Result<Netns> {
    let ns = Netns::new(tag)?;
    veth(&ns, "sw", &ns, "e0")?;
    ns.up("sw")?;
    ns.up("e0")?;
    ns.wait_running("sw")?;
    Ok(ns)
}

/// A namespace with TAP `t0` up, and the descriptor that a guest would hold.
fn guest(tag: &str, with_header: bool) -> Result<(Netns, Device)> {
    let ns = Netns::new(tag)?;
    let fd = if with_header { Device::tap_with_offloads(&ns, "t0")? } else { Device::tap(&ns, "t0")? };
    ns.up("t0")?;
    ns.wait_running("t0")?;
    Ok((ns, fd))
}

/// A TCP super-frame of `len` bytes in all, and its header.
fn super_frame(len: usize, segment: u16) -> (VnetHeader, Vec<u8>) {
    let (to, from) = (MacAddr::new([2, 0, 0, 0, 0, 0xaa]), MacAddr::new([2, 0, 0, 0, 0, 0xbb]));
    let flow = Flow::new(1, to, from, len).with_segments(segment);
    (zerocopy::transmute!(*flow.vnet_header()), flow.blank())
}

/// `frame` with `tags` behind its addresses, and its header moved along.
fn tagged(tags: &[[u8; 4]], frame: &[u8], vnet: VnetHeader) -> (VnetHeader, Vec<u8>) {
    let more = u16::try_from(4 * tags.len()).unwrap_or(0);
    let moved = VnetHeader { hdr_len: vnet.hdr_len + more, csum_start: vnet.csum_start + more, ..vnet };
    let vnet = if vnet.is_plain() { vnet } else { moved };
    (vnet, [&frame[..12], &tags.concat(), &frame[12..]].concat())
}

const C_TAG: [u8; 4] = [0x81, 0x00, 0xa0, 0x05];
const S_TAG: [u8; 4] = [0x88, 0xa8, 0x00, 0x07];
const OLD_TAG: [u8; 4] = [0x91, 0x00, 0x00, 0x07];
const PRIORITY_TAG: [u8; 4] = [0x81, 0x00, 0xe0, 0x00];

#[test]
fn netdev_frames_cross_both_ways_byte_for_byte() -> Result<()> {
    require!(root);
    let ns = pair("cross")?;
    let mut port = open(&ns, "netdev:sw", &options("a"))?;
    let end = Device::packet(&ns, "e0")?;
    for (number, len) in (0u8..).zip([14, 15, 59, 60, 61, 255, 256, 257, 1513, 1514]) {
        let frame = numbered(number, len);
        write_one(&end, &VnetHeader::PLAIN, &frame)?;
        let got = port.receive(1)?.remove(0);
        ensure!((got.bytes, got.vnet, got.fault) == (frame.clone(), VnetHeader::PLAIN, None), "{len} in");
        ensure!(port.send(&[&frame]).refused.is_empty(), "{len} refused");
        ensure!(read_one(&end)?.1 == frame, "{len} out");
    }
    // A burst keeps its order both ways, and a frame in pieces its bytes.
    let frames: Vec<Vec<u8>> = (0..64).map(|n| numbered(n, 300 + usize::from(n))).collect();
    for frame in &frames {
        write_one(&end, &VnetHeader::PLAIN, frame)?;
    }
    let got: Vec<Vec<u8>> = port.receive(64)?.into_iter().map(|got| got.bytes).collect();
    ensure!(got == frames);
    for frame in &frames {
        let rest = [
            vswitch::frame::Piece::from_slice(&frame[100..150]),
            vswitch::frame::Piece::from_slice(&frame[150..]),
        ];
        let sent = port.port.transmit(&[Wire::plain(&frame[..100], &rest)]);
        ensure!(sent.refused.is_empty() && sent.fault.is_none(), "{sent:?}");
        ensure!(read_one(&end)?.1 == *frame);
    }
    Ok(())
}

#[test]
fn netdev_tags_are_put_back_with_their_offsets() -> Result<()> {
    require!(root, tun);
    let (ns, fd) = guest("tags", true)?;
    let mut port = open(&ns, "netdev:t0", &options("a"))?;
    let tags: [&[[u8; 4]]; 6] =
        [&[C_TAG], &[S_TAG], &[OLD_TAG], &[PRIORITY_TAG], &[S_TAG, C_TAG], &[C_TAG, C_TAG, S_TAG]];
    for tags in tags {
        // Complete, with an unfinished checksum, and as a super-frame.
        let (super_vnet, big) = super_frame(9_000, 1_448);
        let (_, small) = super_frame(700, 1_448);
        let unfinished = VnetHeader { gso_type: 0, gso_size: 0, hdr_len: 0, ..super_vnet };
        for (vnet, frame) in [(VnetHeader::PLAIN, numbered(1, 60)), (unfinished, small), (super_vnet, big)] {
            let (vnet, frame) = tagged(tags, &frame, vnet);
            let vnet = if vnet.gso_type == 0 { VnetHeader { hdr_len: 0, ..vnet } } else { vnet };
            write_one(&fd, &vnet, &frame)?;
            let got = port.receive(1)?.remove(0);
            ensure!(got.bytes == frame, "{tags:02x?}: {:02x?}", &got.bytes[..40.min(got.bytes.len())]);
            // A super-frame under a tag that the kernel does not know, or
            // three, is judged stricter here than there.
            if got.fault.is_none() {
                ensure!(got.vnet == vnet, "{tags:02x?}: {:?} is not {vnet:?}", got.vnet);
            } else {
                ensure!(got.fault == Some(DropReason::BadOffload) && !vnet.is_plain(), "{tags:02x?} {got:?}");
                ensure!(tags.len() > 1 || tags[0] == OLD_TAG, "{tags:02x?}: {:?}", got.fault);
                continue;
            }
            // The kernel segments nothing under a tag that it does not know,
            // and a guest's kernel sends no such thing.
            if vnet.gso_type != 0 && tags[0] == OLD_TAG {
                continue;
            }
            let sent = port.send_with(vnet, &frame);
            ensure!(sent.refused.is_empty(), "{tags:02x?}: {sent:?}");
            let (out, bytes) = read_one(&fd)?;
            ensure!(bytes == frame, "{tags:02x?} out");
            if vnet.gso_type != 0 {
                ensure!((out.gso_type, out.gso_size) == (GSO_TCPV4, 1_448), "{tags:02x?}: {out:?}");
            }
            if vnet.flags & NEEDS_CSUM != 0 && out.flags & NEEDS_CSUM != 0 {
                ensure!((out.csum_start, out.csum_offset) == (vnet.csum_start, 16), "{tags:02x?}: {out:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn netdev_super_frames_cross_whole() -> Result<()> {
    require!(root, tun);
    let (ns, fd) = guest("gso", true)?;
    let mut port = open(&ns, "netdev:t0", &options("a"))?;
    // The longest that IPv4 can say, alone and under two tags: nothing that is
    // valid is cut.
    for (len, tags) in
        [(2_000, &[][..]), (65_500, &[C_TAG]), (65_549, &[]), (65_549, &[C_TAG]), (65_549, &[S_TAG, C_TAG])]
    {
        let (vnet, frame) = super_frame(len, 1_400);
        let (vnet, frame) = tagged(tags, &frame, vnet);
        write_one(&fd, &vnet, &frame)?;
        let got = port.receive(1)?.remove(0);
        ensure!(got.bytes == frame && got.fault.is_none(), "{len} {tags:?}: {} bytes", got.bytes.len());
        ensure!(got.vnet == vnet, "{len} {tags:?}: {:?}", got.vnet);
        ensure!(port.send_with(vnet, &frame).refused.is_empty());
        // The kernel itself segments what is longer than its gso_max_size.
        let whole = frame.len() < 65_536;
        let (out, bytes) = read_one(&fd)?;
        ensure!((out.gso_size == 1_400) == whole && (bytes == frame) == whole, "{len} {tags:?}: {out:?}");
        while !whole && read_one(&fd)?.1.len() == bytes.len() {}
    }
    // The same over a veth.
    let ns = pair("gso-veth")?;
    let mut port = open(&ns, "netdev:sw", &options("a"))?;
    let end = Device::packet_with_offloads(&ns, "e0")?;
    let (vnet, frame) = super_frame(65_000, 1_448);
    write_one(&end, &vnet, &frame)?;
    let got = port.receive(1)?.remove(0);
    ensure!(got.bytes == frame && got.vnet == vnet);
    ensure!(port.send_with(vnet, &frame).refused.is_empty());
    let (out, bytes) = read_one(&end)?;
    ensure!(out.gso_size == 1_448 && bytes == frame);
    Ok(())
}

#[test]
fn a01_frames_longer_than_any_buffer_are_dropped_by_name() -> Result<()> {
    require!(root, tun);
    for with_header in [false, true] {
        let (ns, fd) = guest("a01", with_header)?;
        let mut port = open(&ns, "netdev:t0", &options("a"))?;
        for len in [70_000, 131_072] {
            ensure!(ns.device("t0")?.mtu() == 1_500);
            write_one(&fd, &VnetHeader::PLAIN, &numbered(1, len))?;
            write_one(&fd, &VnetHeader::PLAIN, &numbered(2, 60))?;
            let got = port.receive(2)?;
            ensure!(got[0].fault == Some(DropReason::Truncated), "{len}: {:?}", got[0].fault);
            ensure!(got[1].bytes == numbered(2, 60) && got[1].fault.is_none());
            // The slot that was full is as good as before.
            write_one(&fd, &VnetHeader::PLAIN, &numbered(3, 1_514))?;
            ensure!(port.receive(1)?[0].bytes == numbered(3, 1_514));
        }
    }
    Ok(())
}

#[test]
fn netdev_refuses_one_frame_and_sends_the_others() -> Result<()> {
    require!(root);
    let ns = pair("refuse")?;
    let mut port = open(&ns, "netdev:sw", &options("a"))?;
    let end = Device::packet(&ns, "e0")?;
    let frames = [numbered(0, 60), numbered(1, 1_600), numbered(2, 60), numbered(3, 1_519), numbered(4, 60)];
    let sent = port.send(&frames.each_ref().map(Vec::as_slice));
    ensure!(sent.refused[..] == [(1, Refusal::Oversize), (3, Refusal::Oversize)], "{sent:?}");
    // A header that cannot be true: it costs its own frame only, and no port.
    let lie = VnetHeader { flags: NEEDS_CSUM, csum_start: 60_000, ..VnetHeader::PLAIN };
    let small = numbered(5, 60);
    let wires =
        [Wire::plain(&small, &[]), Wire { vnet: lie, ..Wire::plain(&small, &[]) }, Wire::plain(&small, &[])];
    let sent_lie = port.port.transmit(&wires);
    ensure!(sent_lie.refused[..] == [(1, Refusal::Invalid)] && sent_lie.fault.is_none(), "{sent_lie:?}");
    for expected in [0, 2, 4, 5, 5] {
        ensure!(read_one(&end)?.1 == numbered(expected, 60), "{expected}");
    }
    Ok(())
}

/// Short frames leave from a ring of as many places as a burst has frames: round and round,
/// with all that they have, in order, and past a frame that the kernel refuses.
#[test]
fn netdev_bursts_of_short_frames_arrive_in_order_as_they_were() -> Result<()> {
    require!(root);
    let ns = pair("bursts")?;
    let mut port = open(&ns, "netdev:sw", &options("a"))?;
    let end = Device::packet_with_offloads(&ns, "e0")?;
    let unfinished = VnetHeader { flags: NEEDS_CSUM, csum_start: 34, csum_offset: 16, ..VnetHeader::PLAIN };
    let lens = [60, 14, 61, 1_514, 900];
    for (round, burst) in (0u8..).zip([2usize, 64, 63, 1, 64, 50, 64]) {
        let frames: Vec<Vec<u8>> =
            (round..).zip(lens.into_iter().cycle()).take(burst).map(|(n, len)| numbered(n, len)).collect();
        // In two pieces, as a frame of more than 256 bytes is lent.
        let pieces: Vec<[Piece<'_>; 1]> =
            frames.iter().map(|frame| [Piece::from_slice(&frame[14.max(frame.len() / 2)..])]).collect();
        let wires = frames.iter().zip(&pieces).map(|(frame, rest)| Wire {
            vnet: if frame.len() > 60 { unfinished } else { VnetHeader::PLAIN },
            ..Wire::plain(&frame[..14.max(frame.len() / 2)], rest)
        });
        let wires: Vec<Wire<'_>> = wires.collect();
        let sent = port.port.transmit(&wires);
        ensure!(sent.refused.is_empty() && sent.fault.is_none(), "round {round}: {sent:?}");
        for (at, frame) in frames.iter().enumerate() {
            let (vnet, got) = read_one(&end)?;
            ensure!(got == *frame, "round {round}, frame {at}: {} bytes came", got.len());
            let [flags, start, offset] = [u16::from(vnet.flags), vnet.csum_start, vnet.csum_offset];
            let expected = if frame.len() > 60 { [u16::from(NEEDS_CSUM), 34, 16] } else { [0; 3] };
            ensure!(
                [flags & u16::from(NEEDS_CSUM), start, offset] == expected,
                "round {round}, frame {at}: {vnet:?}"
            );
        }
        // It costs its own place only.
        let lie = VnetHeader { flags: NEEDS_CSUM, csum_start: 60_000, ..VnetHeader::PLAIN };
        let frame = numbered(round, 60);
        let mut wires = vec![Wire::plain(&frame, &[]); 40];
        wires[20].vnet = lie;
        let sent = port.port.transmit(&wires);
        ensure!(
            sent.refused[..] == [(20, Refusal::Invalid)] && sent.fault.is_none(),
            "round {round}: {sent:?}"
        );
        for at in 0..39 {
            ensure!(read_one(&end)?.1 == frame, "round {round}: {at} came");
        }
    }
    Ok(())
}

/// Sends `bursts` of 64 numbered frames, and checks that those which were not refused
/// arrive in order, and nothing else; returns how many were refused.
fn send_behind_a_shaper(port: &mut Opened<'_>, end: &Device, bursts: usize) -> Result<usize> {
    let mut accepted = Vec::new();
    let mut refusals = 0;
    for burst in 0..bursts {
        let frames: Vec<Vec<u8>> = (0..64).map(|at| numbered(at, 60 + burst)).collect();
        let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        let sent = port.send(&frames);
        ensure!(
            sent.refused.iter().all(|(_, why)| *why == Refusal::Full) && sent.fault.is_none(),
            "{sent:?}"
        );
        let is_refused = |at: &usize| sent.refused.iter().any(|(index, _)| usize::from(*index) == *at);
        refusals += sent.refused.len();
        accepted.extend((0..64).filter(|at| !is_refused(at)).map(|at| frames[at].to_vec()));
    }
    for (at, frame) in accepted.iter().enumerate() {
        let got = read_one(end)?.1;
        ensure!(got == *frame, "{at} of {} accepted: {:02x?} came", accepted.len(), &got[14..20]);
    }
    Ok(refusals)
}

/// What the memory holds that this process shares with packet sockets: the places of rings.
fn shared_with_sockets() -> Result<Vec<Vec<u8>>> {
    let memory = File::open("/proc/self/mem")?;
    let mut shared = Vec::new();
    for line in std::fs::read_to_string("/proc/self/maps")?.lines().filter(|line| line.contains("socket:[")) {
        let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
        let (from, to) = range.context("a range of addresses")?;
        let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
        let mut bytes = vec![0; usize::try_from(to - from)?];
        // Tests beside this one close ports: theirs may be gone by now.
        if memory.read_exact_at(&mut bytes, from).is_ok() {
            shared.push(bytes);
        }
    }
    Ok(shared)
}

#[test]
fn netdev_sends_bursts_of_short_frames_from_the_ring_and_no_others() -> Result<()> {
    require!(root);
    let ns = pair("byring")?;
    let mut port = open(&ns, "netdev:sw", &options("a"))?;
    let end = Device::packet(&ns, "e0")?;
    // No other test has frames with this at their end.
    let signed = |number: u8, len: usize| [&numbered(number, len)[..], b"by the ring?"].concat();
    let mut holds = |frames: &[Vec<u8>]| -> Result<usize> {
        let sent = port.send(&frames.iter().map(Vec::as_slice).collect::<Vec<_>>());
        ensure!(sent.refused.is_empty() && sent.fault.is_none(), "{sent:?}");
        for frame in frames {
            ensure!(read_one(&end)?.1 == *frame);
        }
        let shared = shared_with_sockets()?;
        let is_there = |frame: &&Vec<u8>| {
            shared.iter().any(|bytes| bytes.windows(frame.len()).any(|window| window == &frame[..]))
        };
        Ok(frames.iter().filter(is_there).count())
    };
    let short: Vec<Vec<u8>> = (0..64).map(|number| signed(number, 300)).collect();
    ensure!(holds(&short)? == 64, "all are in the ring's places");
    ns.run("ip link set sw mtu 9000")?;
    ns.run("ip link set e0 mtu 9000")?;
    let mixed: Vec<Vec<u8>> =
        (64..96).map(|number| signed(number, if number == 80 { 4_000 } else { 300 })).collect();
    ensure!(holds(&mixed)? == 0, "one is too long");
    Ok(())
}

/// A place of the ring is not free before its frame has left the device's queue: what finds
/// none goes another way, behind it.
#[test]
fn netdev_keeps_the_order_while_the_device_has_frames_queued() -> Result<()> {
    require!(root, "tc");
    let ns = pair("shaped")?;
    let mut port = open(&ns, "netdev:sw", &options("a"))?;
    let sockets = ns.enter(|| std::fs::read_to_string("/proc/thread-self/net/packet"))?;
    ensure!(sockets.lines().count() == 3, "a heading, and one socket each to receive and to send: {sockets}");
    let end = Device::packet(&ns, "e0")?;
    ns.run("tc qdisc add dev sw root tbf rate 4mbit burst 2000 limit 100000")?;
    ensure!(send_behind_a_shaper(&mut port, &end, 5)? == 0, "there was room for all");
    // Now most find the queue full, each by itself.
    ns.run("tc qdisc replace dev sw root tbf rate 1mbit burst 1600 limit 2400")?;
    let refused = send_behind_a_shaper(&mut port, &end, 5)?;
    ensure!(refused > 64, "{refused} were refused");
    ns.run("tc qdisc del dev sw root")?;
    ensure!(send_behind_a_shaper(&mut port, &end, 5)? == 0);
    Ok(())
}

/// A packet socket tells the next caller, whoever it is, that the device went
/// down: a healthy port must not believe it.
#[test]
fn netdev_survives_the_memory_of_being_down() -> Result<()> {
    require!(root);
    let ns = pair("netdown")?;
    let mut port = open(&ns, "netdev:sw", &options("a"))?;
    let end = Device::packet(&ns, "e0")?;
    for round in 0..3 {
        ns.run("ip link set sw down")?;
        ns.up("sw")?;
        ns.wait_running("sw")?;
        let sent = port.send(&[&numbered(round, 60), &numbered(round, 61)]);
        ensure!(sent.refused.is_empty() && sent.fault.is_none(), "{sent:?}");
        let mut lens = Vec::new();
        while lens.len() < 2 {
            lens.push(read_one(&end)?.1.len());
        }
        ensure!(lens == [60, 61]);
    }
    // The same for a read.
    ns.run("ip link set sw down")?;
    ns.up("sw")?;
    ns.wait_running("sw")?;
    write_one(&end, &VnetHeader::PLAIN, &numbered(9, 60))?;
    ensure!(port.receive(1)?[0].bytes == numbered(9, 60) && port.fault.is_none());
    // While it is down, the fault has that name; no frame is sent twice.
    ns.run("ip link set sw down")?;
    let sent = port.send(&[&numbered(9, 60), &numbered(9, 60)]);
    ensure!(sent.refused[..] == [(0, Refusal::Down), (1, Refusal::Down)], "{sent:?}");
    ensure!(sent.fault == Some(Fault::Down));
    port.burst();
    ensure!(matches!(port.examine()?, DeviceState::Present { up: false, .. }));
    ns.run("ip link del sw")?;
    let sent = port.send(&[&numbered(9, 60)]);
    ensure!(sent.fault == Some(Fault::Gone), "{sent:?}");
    ensure!(port.examine()? == DeviceState::Gone);
    Ok(())
}

#[test]
fn netdev_counts_what_a_guest_that_does_not_read_loses() -> Result<()> {
    require!(root, tun);
    let (ns, fd) = guest("lost", false)?;
    let mut port = open(&ns, "netdev:t0", &options("a"))?;
    let frame = numbered(1, 100);
    let burst = [frame.as_slice(); 64];
    let mut refused = 0;
    for _ in 0..50 {
        refused += port.send(&burst).refused.len() as u64;
    }
    // The queue empties on its own processor: what the guest finds is all that
    // was not lost.
    let mut read = 0;
    let mut buffer = [0; 2048];
    wait_until("every frame to be accounted for", SOON, || {
        while matches!(fd.read(&mut buffer), Ok(Some(_))) {
            read += 1;
        }
        port.losses().tx_lost + refused + read == 50 * 64
    })?;
    ensure!(port.losses().tx_lost + refused > 1_000, "{read} of 3200 were read");
    Ok(())
}

/// A `tap:` port `t0`, up, with the other end that the host's stack has.
fn tap<'n>(ns: &'n Netns, spec: &str) -> Result<(Opened<'n>, Device)> {
    let port = open(ns, spec, &options("a"))?;
    ns.wait_running("t0")?;
    let end = Device::packet_with_offloads(ns, "t0")?;
    Ok((port, end))
}

#[test]
fn tap_carries_frames_and_super_frames_both_ways() -> Result<()> {
    require!(root, tun);
    let ns = Netns::new("tap")?;
    let (mut port, end) = tap(&ns, "tap:t0")?;
    for (number, len) in (0u8..).zip([14, 60, 256, 257, 1_514]) {
        let frame = numbered(number, len);
        write_one(&end, &VnetHeader::PLAIN, &frame)?;
        ensure!(port.receive(1)?[0].bytes == frame, "{len} in");
        ensure!(port.send(&[&frame]).refused.is_empty(), "{len} refused");
        ensure!(read_one(&end)?.1 == frame, "{len} out");
    }
    let (vnet, frame) = super_frame(65_000, 1_448);
    write_one(&end, &vnet, &frame)?;
    let got = port.receive(1)?.remove(0);
    ensure!(got.bytes == frame && got.vnet == vnet, "{:?}", got.vnet);
    ensure!(port.send_with(vnet, &frame).refused.is_empty());
    let (out, bytes) = read_one(&end)?;
    ensure!((out.gso_size, &bytes) == (1_448, &frame), "{out:?}");
    // Under 14 bytes the kernel finds a frame invalid: one refusal, no fault.
    let sent = port.send(&[&frame[..10], &numbered(1, 60)]);
    ensure!(sent.refused[..] == [(0, Refusal::Invalid)] && sent.fault.is_none(), "{sent:?}");
    ensure!(read_one(&end)?.1 == numbered(1, 60));
    Ok(())
}

/// A TAP that was used with offloads before, and outlived that, must bring a
/// plain port nothing unfinished.
#[test]
fn tap_without_offloads_gets_finished_frames() -> Result<()> {
    require!(root, tun);
    let ns = Netns::new("plain")?;
    ns.run("ip tuntap add t0 mode tap")?;
    ns.up("t0")?;
    let (vnet, frame) = super_frame(54 + 4 * 1_000 + 1, 1_000);
    {
        let (mut port, end) = tap(&ns, "tap:t0")?;
        write_one(&end, &vnet, &frame)?;
        ensure!(port.receive(1)?[0].vnet.gso_size == 1_000);
        let _ = port.close();
    }
    let (mut port, end) = tap(&ns, "tap:t0,offloads=off")?;
    write_one(&end, &vnet, &frame)?;
    let got = port.receive(5)?;
    let lens: Vec<usize> = got.iter().map(|got| got.bytes.len()).collect();
    ensure!(lens == [1_054, 1_054, 1_054, 1_054, 55], "{lens:?}");
    ensure!(got.iter().all(|got| got.vnet == VnetHeader::PLAIN && got.fault.is_none()));
    let payload: Vec<u8> = got.iter().flat_map(|got| got.bytes[54..].to_vec()).collect();
    ensure!(payload == frame[54..]);
    let reply = numbered(1, 60);
    ensure!(port.send(&[&reply]).refused.is_empty());
    ensure!(read_one(&end)?.1 == reply);
    let wrong = crate::opened::refusal(&ns, "tap:t0,offloads=maybe", &options("a"))?;
    ensure!(wrong.contains("on or off"), "{wrong}");
    Ok(())
}

/// The host's own leg: its address comes and goes with the port.
#[test]
fn tap_has_the_address_that_it_is_made_with() -> Result<()> {
    require!(root, tun);
    let ns = Netns::with_ipv6("leg")?;
    let addresses = || ns.run("ip -o addr show");
    let refusal = |spec| crate::opened::refusal(&ns, spec, &options("a"));
    // Not before the last descriptor is closed, and a child that another test is about
    // to start may have one, too.
    let gone = |otherwise| wait_until(otherwise, SOON, || !ns.has("t0"));
    ns.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
    let text = refusal("tap:t0,address=fd07::1/64")?;
    ensure!(text.contains("IPv6 is switched off there") && !ns.has("t0"), "{text}");
    ns.sysctl("net/ipv6/conf/default/disable_ipv6", "0")?;
    for address in ["192.168.7.1/24", "fd07::1/64"] {
        let (port, _) = tap(&ns, &format!("tap:t0,address={address}"))?;
        let shown = addresses()?;
        ensure!(shown.lines().any(|line| line.contains("t0") && line.contains(address)), "{shown}");
        let _ = port.close();
        gone("it outlived its port")?;
    }
    ensure!(refusal("tap:t0,address=all")? == "address=all: write ADDRESS/PREFIX");
    // The loopback's alone, says the kernel; nothing is left of the attempt.
    let text = refusal("tap:t0,address=::1/128")?;
    ensure!(text.starts_with("giving t0 the address ::1/128"), "{text}");
    gone("half a port was left")?;
    // An address that we gave to somebody else's TAP would outlive us.
    ns.run("ip tuntap add t0 mode tap")?;
    let text = refusal("tap:t0,address=192.168.7.1/24")?;
    ensure!(
        text.contains("is there already") && text.contains("ip addr add 192.168.7.1/24 dev t0"),
        "{text}"
    );
    ensure!(!addresses()?.contains("t0"), "{}", addresses()?);
    Ok(())
}

#[test]
fn tap_names_who_holds_it() -> Result<()> {
    require!(root, tun, "socat");
    let ns = Netns::new("busy")?;
    let refusal = |spec| crate::opened::refusal(&ns, spec, &options("a"));
    // Somebody else's process, as QEMU would be.
    let mut command = ns.command("socat");
    command.args(["-u", "TUN,tun-type=tap,tun-name=t0,iff-up", "PIPE"]);
    let mut holder = Held(vswitch_tests::start::spawn(&mut command)?);
    ns.wait_running("t0")?;
    let text = refusal("tap:t0")?;
    let wanted = format!("socat {} holds t0; did you mean --port t0?", holder.0.id());
    ensure!(text == wanted, "{text}");
    ensure!(refusal("tap:t0,offloads=off")? == wanted);
    holder.0.kill()?;
    holder.0.wait()?;
    // What is no TAP says so.
    veth(&ns, "sw", &ns, "e0")?;
    ensure!(refusal("tap:sw")? == "sw is no TAP: did you mean --port netdev:sw?");
    ns.run("ip tuntap add u0 mode tun")?;
    for spec in ["tap:u0", "tap:u0,offloads=off"] {
        ensure!(
            refusal(spec)?.starts_with("u0 is a TUN, or a TAP with several queues"),
            "{}",
            refusal(spec)?
        );
    }
    ns.run("ip tuntap add m0 mode tap multi_queue")?;
    ensure!(refusal("tap:m0")?.contains("several queues"));
    ensure!(refusal("u0")?.contains("carries no Ethernet"), "{}", refusal("u0")?);
    Ok(())
}

/// A child that ends with its test.
struct Held(std::process::Child);

impl Drop for Held {
    fn drop(&mut self) {
        vswitch_tests::process::end_child(&mut self.0);
    }
}

#[test]
fn tap_follows_its_device_into_a_namespace_and_back() -> Result<()> {
    require!(root, tun);
    let (ns, other) = (Netns::new("home")?, Netns::new("away")?);
    let (mut port, _) = tap(&ns, "tap:t0")?;
    for (from, to) in [(&ns, &other), (&other, &ns), (&ns, &other)] {
        from.move_to("t0", to)?;
        // It arrives set down.
        ensure!(matches!(port.examine()?, DeviceState::Present { up: false, .. }));
        let sent = port.send(&[&numbered(1, 60)]);
        ensure!(sent.fault == Some(Fault::Down) && sent.refused[..] == [(0, Refusal::Down)], "{sent:?}");
        to.run("ip link set t0 mtu 1400")?;
        to.up("t0")?;
        ensure!(port.examine()? == DeviceState::Present { up: true, mtu: 1_400 });
        let end = Device::packet(to, "t0")?;
        ensure!(port.send(&[&numbered(2, 60)]).refused.is_empty());
        ensure!(read_one(&end)?.1 == numbered(2, 60));
        write_one(&end, &VnetHeader::PLAIN, &numbered(3, 60))?;
        ensure!(port.receive(1)?[0].bytes == numbered(3, 60));
        ensure!(port.fault.is_none());
    }
    // The control thread may change its MTU there, too.
    port.set_mtu(1_300)?;
    ensure!(other.device("t0")?.mtu() == 1_300);
    other.run("ip link set t0 name renamed")?;
    ensure!(matches!(port.examine()?, DeviceState::Present { mtu: 1_300, .. }));
    ensure!(port.device().name() == "renamed");
    other.run("ip link del renamed")?;
    ensure!(port.examine()? == DeviceState::Gone);
    let sent = port.send(&[&numbered(1, 60)]);
    ensure!(sent.fault == Some(Fault::Gone) && sent.refused[..] == [(0, Refusal::Gone)], "{sent:?}");
    ensure!(port.burst().is_empty() && port.fault == Some(Fault::Gone), "{:?}", port.fault);
    Ok(())
}

#[test]
fn tap_counts_what_we_did_not_read_in_time() -> Result<()> {
    require!(root, tun);
    let ns = Netns::new("missed")?;
    let (mut port, end) = tap(&ns, "tap:t0")?;
    let frame = [&[0; 10][..], &numbered(1, 100)].concat();
    let mut sent = 0;
    for _ in 0..3_000 {
        sent += u64::from(end.write(&frame)?);
    }
    let mut read = 0;
    wait_for("every frame to be accounted for", SOON, || {
        read += port.burst().len() as u64;
        (read + port.losses().rx_missed >= sent).then_some(())
    })?;
    ensure!(read + port.losses().rx_missed == sent && port.losses().tx_lost == 0);
    Ok(())
}

#[test]
fn names_of_fifteen_bytes_and_no_more() -> Result<()> {
    require!(root, tun);
    let ns = Netns::new("names")?;
    let longest = "vswitch-15bytes";
    for spec in [longest.to_owned(), format!("tap:{longest}"), format!("tap:{longest},offloads=off")] {
        let port = open(&ns, &spec, &options("a"))?;
        ensure!(ns.has(longest) && port.device().name() == longest, "{spec}");
        let _ = port.close();
        wait_until(&format!("{spec} to be gone"), SOON, || !ns.has(longest))?;
        let longer = spec.replace(longest, "vswitch-16-bytes");
        ensure!(crate::opened::refusal(&ns, &longer, &options("a"))?.contains("1 to 15 bytes"), "{longer}");
    }
    Ok(())
}
