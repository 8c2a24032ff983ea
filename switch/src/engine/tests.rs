//! The engine over memory ports, on a real epoll and a real thread.

use std::thread::JoinHandle;

use super::*;
use crate::bridge::{DropReason, FDB_SIZE_MAX, PortCounters, PortSettings, Refusal};
use crate::frame::FRAME_MIN;
use crate::offload::{GSO_TCPV4, NEEDS_CSUM, VnetHeader};
use crate::port::memory::{MemoryHandle, Sample, memory};
use crate::port::{Offloads, is_advised};

const LINK: Link = Link { up: true, mtu: 1500, offloads: Offloads::ALL };

/// A running engine with memory ports `0, 1, …`.
struct Rig {
    handle: Handle,
    thread: Option<JoinHandle<io::Result<Closed>>>,
    ports: Vec<MemoryHandle>,
}

impl Rig {
    fn new(links: &[Link], tuning: Tuning) -> Rig {
        let (engine, handle) = Engine::new(Settings::default(), tuning, [1, 2], None).unwrap();
        let thread = Some(std::thread::spawn(move || engine.run()));
        let mut rig = Rig { handle, thread, ports: Vec::new() };
        for (number, link) in (0u8..).zip(links) {
            let (port, other_end) = memory(*link).unwrap();
            let (id, settings) = (PortId::new(number), PortSettings::default());
            rig.handle
                .ask(|reply| Command::AddPort { id, port: Some(Box::new(port)), settings, reply })
                .unwrap()
                .unwrap();
            rig.ports.push(other_end);
        }
        rig
    }

    fn read(&self) -> Snapshot {
        self.handle.ask(|reply| Command::Read { reply }).unwrap()
    }

    fn counters(&self, number: u8) -> PortCounters {
        let snapshot = self.read();
        let port = snapshot.ports.into_iter().find(|port| port.id == PortId::new(number));
        port.unwrap().counters
    }

    /// Returns once the switch has received `frames` in total on `number`.
    /// Each read is answered between two turns, so this is no busy loop of ours.
    fn await_rx(&self, number: u8, frames: u64) -> PortCounters {
        loop {
            let counters = self.counters(number);
            assert!(counters.balance(), "{counters:?}");
            if counters.rx >= frames {
                return counters;
            }
        }
    }

    fn stop(&mut self) -> Closed {
        self.handle.send(Command::Stop).unwrap();
        self.thread.take().unwrap().join().unwrap().unwrap()
    }
}

fn tuning() -> Tuning {
    Tuning { busy_poll: Duration::ZERO, pad_runts: false, fast_path: true }
}

fn frame(dst: u8, src: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xaa; len];
    bytes[..14].copy_from_slice(&[2, 0, 0, 0, 0, dst, 2, 0, 0, 0, 0, src, 0x08, 0x00]);
    bytes
}

#[test]
fn a_burst_reaches_its_ports_in_order() {
    let mut rig = Rig::new(&[LINK; 3], tuning());
    rig.ports[1].inject(&frame(9, 1, 60));
    rig.await_rx(1, 1);
    let sent: Vec<Vec<u8>> = (0..200usize).map(|n| frame(1, 7, 60 + n)).collect();
    rig.ports[0].inject_all(sent.iter().map(|bytes| (VnetHeader::PLAIN, &bytes[..])));
    rig.await_rx(0, 200);
    let closed = rig.stop();
    let got: Vec<Vec<u8>> = rig.ports[1].take_sent().into_iter().map(|sample| sample.bytes).collect();
    assert!(got == sent, "all 200, in order, byte for byte");
    assert_eq!(rig.ports[2].take_sent().len(), 1, "port 2 saw the flooded frame only");
    assert_eq!(closed.ports.len(), 3);
}

#[test]
fn what_does_not_fit_the_mtu_is_refused_for_that_egress_alone() {
    let jumbo = Link { mtu: 9000, ..LINK };
    let mut rig = Rig::new(&[jumbo, LINK, jumbo], tuning());
    let mut tagged = frame(9, 1, 1518);
    tagged[12..16].copy_from_slice(&[0x81, 0, 0, 5]);
    let mut service = tagged.clone();
    service[12..14].copy_from_slice(&[0x88, 0xa8]);
    for bytes in [&frame(9, 1, 1514), &frame(9, 1, 1515), &tagged, &service, &frame(9, 1, 9014)] {
        rig.ports[0].inject(bytes);
    }
    rig.await_rx(0, 5);
    rig.stop();
    let lens = |port: usize| -> Vec<usize> {
        rig.ports[port].take_sent().iter().map(|sample| sample.bytes.len()).collect()
    };
    assert_eq!(lens(1), [1514, 1518], "4 more for an outer 8100 tag only");
    assert_eq!(lens(2), [1514, 1515, 1518, 1518, 9014]);
}

#[test]
fn short_frames_are_padded_with_zeroes_if_asked() {
    let mut rig = Rig::new(&[LINK; 2], Tuning { pad_runts: true, ..tuning() });
    rig.ports[0].inject(&frame(9, 1, 14));
    rig.ports[0].inject(&frame(9, 1, 59));
    rig.ports[0].inject(&frame(9, 1, 61));
    rig.await_rx(0, 3);
    rig.stop();
    let sent = rig.ports[1].take_sent();
    assert_eq!(sent.iter().map(|sample| sample.bytes.len()).collect::<Vec<_>>(), [FRAME_MIN, FRAME_MIN, 61]);
    assert_eq!(sent[0].bytes[..14], frame(9, 1, 14)[..]);
    assert!(sent[0].bytes[14..].iter().all(|byte| *byte == 0));
}

#[test]
fn padding_follows_what_is_finished_here() {
    let plain = Link { offloads: Offloads::NONE, ..LINK };
    let mut rig = Rig::new(&[LINK, plain], Tuning { pad_runts: true, ..tuning() });
    let ack = super_frame(0);
    let vnet = VnetHeader { gso_type: 0, gso_size: 0, ..ack.vnet };
    rig.ports[0].inject_with(vnet, &ack.bytes);
    let tail = super_frame(1001);
    rig.ports[0].inject_with(tail.vnet, &tail.bytes);
    rig.await_rx(0, 2);
    let counters = rig.counters(1);
    rig.stop();
    let sent = rig.ports[1].take_sent();
    let lens: Vec<usize> = sent.iter().map(|sample| sample.bytes.len()).collect();
    assert_eq!(lens, [FRAME_MIN, 1054, FRAME_MIN]);
    assert_ne!(sent[0].bytes[50..52], ack.bytes[50..52], "the checksum is finished before the padding");
    assert_eq!(sent[0].bytes[54..], [0; 6]);
    assert_eq!(sent[2].bytes[55..], [0; 5]);
    assert_eq!((counters.tx, counters.segments), (2, 2));
}

/// A TCPv4 super-frame of `payload` bytes.
fn super_frame(payload: usize) -> Sample {
    let mut bytes = frame(9, 1, 54 + payload);
    let ip_len = u16::try_from(40 + payload).unwrap();
    bytes[14..34].copy_from_slice(&[0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    bytes[16..18].copy_from_slice(&ip_len.to_be_bytes());
    bytes[34..54].copy_from_slice(&[0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    let vnet = VnetHeader {
        flags: NEEDS_CSUM,
        gso_type: GSO_TCPV4,
        hdr_len: 54,
        gso_size: 1000,
        csum_start: 34,
        csum_offset: 16,
    };
    Sample { vnet, bytes, fault: None }
}

#[test]
fn super_frames_pass_whole_or_are_cut_by_what_the_egress_takes() {
    let plain = Link { offloads: Offloads::NONE, ..LINK };
    let mut rig = Rig::new(&[LINK, LINK, plain], tuning());
    let whole = super_frame(4500);
    rig.ports[0].inject_with(whole.vnet, &whole.bytes);
    rig.ports[0].inject(&frame(9, 1, 100));
    rig.await_rx(0, 2);
    let cut = rig.counters(2);
    rig.stop();
    let passed = rig.ports[1].take_sent();
    assert_eq!(passed[0], whole, "with its virtio-net header");
    let lens: Vec<usize> = rig.ports[2].take_sent().iter().map(|sample| sample.bytes.len()).collect();
    assert_eq!(lens, [1054, 1054, 1054, 1054, 554, 100], "in order with what came behind");
    assert_eq!((cut.copies, cut.tx, cut.segments), (2, 2, 5), "segments are counted apart");
}

#[test]
fn a_super_frame_cut_short_is_refused() {
    let plain = Link { offloads: Offloads::NONE, ..LINK };
    let mut rig = Rig::new(&[LINK, plain], tuning());
    rig.ports[1].set_room(Some(3));
    let whole = super_frame(4500);
    rig.ports[0].inject_with(whole.vnet, &whole.bytes);
    rig.await_rx(0, 1);
    let counters = rig.counters(1);
    rig.stop();
    assert_eq!((counters.copies, counters.tx, counters.segments), (1, 0, 3));
    assert_eq!(counters.refused[Refusal::Full.index()], 1);
    assert!(counters.balance());
}

#[test]
fn invariant_3_sums_hold_while_ports_fail_fill_and_go() {
    let mut rig = Rig::new(&[LINK; 4], tuning());
    let flood = Sample::plain(&frame(9, 1, 60));
    rig.ports[1].count_only();
    rig.ports[2].count_only();
    rig.ports[3].count_only();
    rig.ports[2].set_room(Some(1000));
    rig.ports[0].repeat(vec![flood], 20_000);
    rig.await_rx(0, 1);
    rig.ports[3].fail_transmit(Some(Fault::Down));
    let gone = rig.handle.ask(|reply| Command::RemovePort { id: PortId::new(1), reply }).unwrap();
    assert!(gone.is_some());
    let end = rig.await_rx(0, 20_000);
    let snapshot = rig.read();
    rig.stop();
    let mut total = snapshot.retired.clone();
    for port in &snapshot.ports {
        assert!(port.counters.balance(), "{port:?}");
        total.add(&port.counters);
    }
    assert!(snapshot.retired.balance() && total.balance());
    assert_eq!((end.rx, total.rx), (20_000, 20_000));
    assert_eq!(total.tx, rig.ports.iter().map(|port| port.sent_totals().0).sum::<u64>());
    let full = snapshot.ports.iter().find(|port| port.id == PortId::new(2)).unwrap();
    assert_eq!(full.counters.refused[Refusal::Full.index()], 19_000);
}

#[test]
fn a_failed_device_takes_its_port_down_until_it_is_back() {
    let mut rig = Rig::new(&[LINK; 2], tuning());
    rig.ports[1].fail_transmit(Some(Fault::Down));
    rig.ports[0].inject(&frame(9, 1, 60));
    rig.await_rx(0, 1);
    let down = |rig: &Rig| rig.read().ports[1].link.is_some_and(|link| !link.up);
    assert!(down(&rig));
    let fault = Report::Fault { id: PortId::new(1), fault: Fault::Down };
    assert_eq!(rig.handle.report().unwrap(), Some(fault));
    rig.ports[0].inject(&frame(9, 1, 60));
    assert_eq!(rig.await_rx(0, 2).drops[DropReason::NoEgress.index()], 1);
    rig.ports[1].fail_transmit(None);
    rig.handle.send(Command::SetLink { id: PortId::new(1), up: true, mtu: 1500 }).unwrap();
    assert!(!down(&rig));
    rig.ports[0].inject(&frame(9, 1, 60));
    rig.await_rx(0, 3);
    rig.stop();
    assert_eq!(rig.ports[1].take_sent().len(), 1);
}

#[test]
fn a_port_whose_device_is_missing_stays_and_takes_another() {
    let mut rig = Rig::new(&[LINK; 2], tuning());
    let id = PortId::new(1);
    let old = rig.handle.ask(|reply| Command::SwapPort { id, port: None, reply }).unwrap().unwrap();
    assert!(old.is_some());
    assert!(rig.read().ports[1].link.is_none());
    rig.ports[0].inject(&frame(9, 1, 60));
    rig.await_rx(0, 1);
    let (port, other_end) = memory(LINK).unwrap();
    // A frame that is there before epoll watches is not forgotten.
    other_end.inject(&frame(1, 2, 60));
    let swap = |reply| Command::SwapPort { id, port: Some(Box::new(port)), reply };
    assert!(rig.handle.ask(swap).unwrap().unwrap().is_none());
    rig.await_rx(1, 1);
    rig.stop();
    assert_eq!(rig.ports[0].take_sent().len(), 1);
}

#[test]
fn losses_of_devices_and_ports_that_went_are_still_counted() {
    let mut rig = Rig::new(&[LINK; 2], tuning());
    let (id, losses) = (PortId::new(1), |rx_missed, tx_lost| Losses { rx_missed, tx_lost });
    rig.ports[1].set_losses(losses(3, 5));
    let (port, other_end) = memory(LINK).unwrap();
    other_end.set_losses(losses(1, 1));
    let swap = |reply| Command::SwapPort { id, port: Some(Box::new(port)), reply };
    rig.handle.ask(swap).unwrap().unwrap();
    // The new one's are asked for within a second.
    assert!([losses(3, 5), losses(4, 6)].contains(&rig.read().ports[1].losses));
    assert_eq!(rig.read().retired_losses, losses(0, 0));
    rig.handle.ask(|reply| Command::RemovePort { id, reply }).unwrap();
    assert_eq!(rig.read().retired_losses, losses(4, 6));
    rig.stop();
}

#[test]
fn stopping_forwards_what_has_arrived() {
    let mut rig = Rig::new(&[LINK; 2], tuning());
    let frames: Vec<Vec<u8>> = (0..500).map(|_| frame(9, 1, 60)).collect();
    rig.ports[0].inject_all(frames.iter().map(|bytes| (VnetHeader::PLAIN, &bytes[..])));
    let closed = rig.stop();
    assert_eq!(closed.snapshot.ports[0].counters.rx, 500);
    assert_eq!(rig.ports[1].take_sent().len(), 500);
    assert!(rig.handle.ask(|reply| Command::Read { reply }).is_err(), "the data thread has ended");
}

#[test]
fn the_largest_table_lies_in_huge_pages() {
    let settings = Settings { fdb_size: FDB_SIZE_MAX, ..Settings::default() };
    let (engine, _handle) = Engine::new(settings, tuning(), [1, 2], None).unwrap();
    for memory in engine.bridge.fdb_memory() {
        let middle = memory.start.wrapping_add((memory.end.addr() - memory.start.addr()) / 2);
        // None where the kernel has no huge pages.
        assert_ne!(is_advised(middle), Some(false));
    }
}
