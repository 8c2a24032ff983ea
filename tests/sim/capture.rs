//! Captures of an engine with ports in memory, through the real seam and the real
//! capture thread: what is recorded, what is said of it, and that the sums are
//! exact whatever is lost.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use vswitch::bridge::{EntryKind, PortId, PortSet, PortSettings, Refusal, Settings};
use vswitch::capture::Captures;
use vswitch::capture::bpf::{Insn, Program};
use vswitch::capture::session::{Label, Labels, Names, SNAPLEN_MAX, Spec};
use vswitch::capture::state::{PortSums, State, Summary, What};
use vswitch::engine::observe::{Block, Change, Edge, Lost, Told, Want};
use vswitch::engine::{Command, Tuning};
use vswitch::frame::{MacAddr, VlanId};
use vswitch::offload::VnetHeader;
use vswitch::port::memory::Sample;
use vswitch_tests::capture::{Capture, FrameRead, Way};
use vswitch_tests::clock::wait_until;
use vswitch_tests::scenario::Random;

use super::engine::{LIMIT, Rig, numbered};

/// Everything, of a switch called `sim`.
pub(super) fn everything() -> Spec {
    Spec::everything("sim", "")
}

pub(super) fn labels(ports: usize) -> Labels {
    let label = |n: u8| (PortId::new(n), Label { name: format!("p{n}"), description: String::new() });
    (0..u8::try_from(ports).unwrap()).map(label).collect()
}

/// The choice of one port.
fn only(name: &str) -> Option<Arc<Names>> {
    Some(Arc::new([name.to_owned()].into()))
}

pub(super) fn start(rig: &mut Rig) -> Captures {
    let observation = rig.handle.take_observation().unwrap();
    Captures::start(observation, rig.handle.orders(), None).unwrap()
}

/// A capture that begins before anything else is ordered; the end that reads it.
pub(super) fn begin(rig: &Rig, captures: &mut Captures, spec: Spec) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(LIMIT)).unwrap();
    let id = captures.begin(spec, labels(rig.ports.len())).unwrap();
    captures.hand_over(id, Some(theirs));
    ours
}

/// Ends it, and reads all of it.
pub(super) fn end(stream: &UnixStream) -> Capture {
    stream.shutdown(Shutdown::Write).unwrap();
    read(stream)
}

pub(super) fn read(mut stream: &UnixStream) -> Capture {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    Capture::parse(&bytes).unwrap()
}

pub(super) fn frame(to: u8, from: u8) -> Vec<u8> {
    let mut bytes = vec![0; 60];
    bytes[..6].copy_from_slice(&if to == 0xff { [0xff; 6] } else { [2, 0, 0, 0, 0, to] });
    bytes[6..12].copy_from_slice(&[2, 0, 0, 0, 0, from]);
    bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
    bytes
}

pub(super) fn said(frames: &[FrameRead]) -> Vec<(u64, &str, Way, &str)> {
    frames.iter().map(|f| (f.id, f.interface.as_str(), f.way, f.comment.as_str())).collect()
}

/// That every record of each kind is accounted for, and how many there are.
pub(super) fn total(
    summary: &Summary,
    kind: impl Fn(&PortSums) -> vswitch::capture::state::Sums,
) -> (u64, u64) {
    let sums: Vec<_> = summary.ports.iter().map(kind).collect();
    assert!(sums.iter().all(vswitch::capture::state::Sums::balance), "{summary:#?}");
    (sums.iter().map(|sums| sums.counted).sum(), sums.iter().map(|sums| sums.written).sum())
}

#[test]
fn each_frame_is_recorded_with_what_became_of_it() {
    let mut rig = Rig::new(&[false; 3]);
    let mut captures = start(&mut rig);
    let all = begin(&rig, &mut captures, everything());
    let one = begin(
        &rig,
        &mut captures,
        Spec { ports: only("p1"), kinds: [false, false, true, false], ..everything() },
    );
    let drops = begin(&rig, &mut captures, Spec { kinds: [false, true, false, true], ..everything() });
    let two = begin(&rig, &mut captures, Spec { count: Some(2), snaplen: 20, ..everything() });

    for bytes in [frame(0xff, 1), frame(1, 1)] {
        rig.ports[0].inject(&bytes);
        rig.settle();
    }
    rig.ports[1].inject(&frame(1, 2));
    rig.settle();
    rig.ports[2].refuse(Some(Refusal::Full));
    rig.ports[0].inject(&frame(9, 1));
    rig.settle();

    let all = end(&all);
    assert_eq!(
        said(&all.frames),
        [
            (0, "p0", Way::Inbound, "learned p0; flooded to p1 p2"),
            (0, "p1", Way::Outbound, "from p0"),
            (0, "p2", Way::Outbound, "from p0"),
            (1, "p0", Way::Inbound, "dropped: filtered"),
            (2, "p1", Way::Inbound, "learned p1; forwarded to p0"),
            (2, "p0", Way::Outbound, "from p1"),
            (3, "p0", Way::Inbound, "flooded to p1 p2"),
            (3, "p1", Way::Outbound, "from p0"),
            (3, "p2", Way::Outbound, "from p0; refused: full"),
        ]
    );
    assert!(all.frames.iter().all(|frame| frame.bytes.len() == 60 && frame.len == 60));
    assert_eq!(all.frames[5].bytes, frame(1, 2));
    let start = all.start();
    assert_eq!((start.ports.len(), start.complete, start.switch.as_str()), (3, true, "sim"));
    let summary = all.end();
    assert_eq!((summary.written, summary.missed, summary.why.as_str()), (9, 0, "asked"));
    assert_eq!(total(summary, |p| p.forwarded), (3, 3));
    assert_eq!(total(summary, |p| p.dropped), (1, 1));
    assert_eq!(total(summary, |p| p.sent), (4, 4));
    assert_eq!(total(summary, |p| p.refused), (1, 1));
    assert_eq!(all.totals.iter().map(|totals| totals.received).collect::<Vec<_>>(), [4, 3, 2]);

    let one = end(&one);
    assert_eq!(said(&one.frames), [(0, "p1", Way::Outbound, "from p0"), (3, "p1", Way::Outbound, "from p0")]);
    assert!(!one.start().complete);
    let drops = end(&drops);
    let expected =
        [(1, "p0", Way::Inbound, "dropped: filtered"), (3, "p2", Way::Outbound, "from p0; refused: full")];
    assert_eq!(said(&drops.frames), expected);
    let two = read(&two);
    assert_eq!(two.end().why, "count");
    assert_eq!(
        two.frames.iter().map(|f| (f.id, f.bytes.len(), f.len)).collect::<Vec<_>>(),
        [(0, 20, 60), (0, 20, 60)]
    );
    drop(rig);
    captures.join();
}

/// Invariant 3 for captures: recorded + lost = counted, for each port and kind,
/// while most blocks are not given back.
#[test]
fn recorded_and_lost_frames_are_the_counted_ones() {
    let mut rig = Rig::new(&[false, true, true, false]);
    let observation = rig.handle.take_observation().unwrap();
    for port in &rig.ports {
        port.count_only();
    }
    rig.ports[2].set_room(Some(3_000));
    observation.empty.send(Block::new()).unwrap();
    observation.empty.send(Block::new()).unwrap();
    let want = Want { ports: PortSet::ALL, snaplen: 64, accounts: false };
    rig.handle.send(Command::Observe { id: 1, want: Some(want) }).unwrap();
    let mut random = Random::new(9);
    let mut held = Vec::new();
    let mut marks = Vec::new();
    let mut recorded = [[0u64; 4]; 4];
    let mut lost = [Lost::default(); 4];
    let mut take = |told: Told, held: &mut Vec<Block>| match told {
        Told::Block(block) => {
            add_lost(&mut lost, &block.lost);
            for turn in block.turns() {
                for seen in turn.frames {
                    let dropped = matches!(seen.story.verdict, vswitch::bridge::Verdict::Drop(_));
                    recorded[turn.ingress.index()][usize::from(dropped)] += 1;
                }
                for copies in turn.copies {
                    let refused = u64::from(copies.refused_len);
                    recorded[copies.egress.index()][3] += refused;
                    recorded[copies.egress.index()][2] += u64::from(copies.chosen.count_ones()) - refused;
                }
            }
            held.push(block);
        }
        Told::Mark(mark) => {
            add_lost(&mut lost, &mark.lost);
            marks.push(mark);
        }
        Told::Change { .. } | Told::Fdb { .. } => {}
    };
    for round in 0..600 {
        let port = usize::from(random.next_u64().to_be_bytes()[0] % 4);
        let frames: Vec<_> = (0..50).map(|n| numbered(&mut random, 50 * round + n)).collect();
        rig.ports[port].inject_all(frames.iter().map(|frame| (VnetHeader::PLAIN, frame.as_slice())));
        rig.settle();
        while let Ok(told) = observation.told.try_recv() {
            take(told, &mut held);
        }
        // Blocks come back now and then: turns in between find none.
        if round % 4 < 2
            && let Some(mut block) = held.pop()
        {
            block.clear();
            observation.empty.send(block).unwrap();
        }
    }
    rig.settle();
    rig.handle.send(Command::Observe { id: 1, want: None }).unwrap();
    rig.settle();
    while let Ok(told) = observation.told.try_recv() {
        take(told, &mut held);
    }
    let [start, end] = marks.try_into().expect("two marks");
    assert_eq!((start.edge, end.edge), (Edge::Start, Edge::End));
    let mut missed = 0;
    for (index, (before, after)) in start.snapshot.ports.iter().zip(&end.snapshot.ports).enumerate() {
        let (before, after) = (&before.counters, &after.counters);
        let counted = [
            after.forwarded - before.forwarded,
            after.dropped() - before.dropped(),
            after.tx - before.tx,
            after.refused() - before.refused(),
        ];
        let Lost { forwarded, dropped, sent, refused } = lost[index];
        let lost = [forwarded, dropped, sent, refused];
        for kind in 0..4 {
            assert_eq!(recorded[index][kind] + lost[kind], counted[kind], "port {index}, kind {kind}");
            missed += lost[kind];
        }
    }
    let all: u64 = recorded.iter().flatten().sum();
    assert!(missed > 1_000 && all > 1_000, "{missed} missed and {all} recorded are no test");
    assert!(end.snapshot.ports[2].counters.refused() > 0, "port 2 refused");
}

fn add_lost(sums: &mut [Lost; 4], more: &[(PortId, Lost)]) {
    for (port, more) in more {
        let sum = &mut sums[port.index()];
        sum.forwarded += more.forwarded;
        sum.dropped += more.dropped;
        sum.sent += more.sent;
        sum.refused += more.refused;
    }
}

/// A table of more than one part is told one part after the other, as its reader
/// takes them.
#[test]
fn a_large_fdb_is_told_in_parts_to_its_end() {
    let mut rig = Rig::new(&[false]);
    let mut captures = start(&mut rig);
    let settings = Settings { fdb_size: 100_000, ..Settings::default() };
    let tuning = Tuning { busy_poll: Duration::ZERO, pad_runts: false, fast_path: true };
    rig.handle.ask(|reply| Command::Configure { settings, tuning, reply }).unwrap().unwrap();
    let (vid, port, kind) = (VlanId::UNAWARE, PortId::new(0), EntryKind::Static);
    for n in 1..=20_000 {
        let mac = MacAddr::from_u64(0x0200_0000_0000 + n);
        rig.handle.ask(|reply| Command::FdbAdd { vid, mac, port, kind, reply }).unwrap().unwrap();
    }
    let stream = begin(&rig, &mut captures, everything());
    let (mut bytes, mut chunk) = (Vec::new(), vec![0; 64 << 10]);
    let is_last = |bytes: &[u8]| bytes.windows(12).any(|text| text == b"\"last\":true}");
    loop {
        let len = (&stream).read(&mut chunk).unwrap();
        assert!(len > 0, "it ended before its last part");
        let seen = bytes.len().saturating_sub(12);
        bytes.extend_from_slice(&chunk[..len]);
        if is_last(&bytes[seen..]) {
            break;
        }
    }
    stream.shutdown(Shutdown::Write).unwrap();
    (&stream).read_to_end(&mut bytes).unwrap();
    let capture = Capture::parse(&bytes).unwrap();
    assert!(!capture.start().fdb_complete);
    let parts = capture.states.iter().filter_map(|state| match state {
        State::Fdb(fdb) => Some(fdb.entries.len()),
        State::Start(_) | State::Change(_) | State::Trace(_) | State::End(_) => None,
    });
    assert_eq!(capture.start().fdb.len() + parts.sum::<usize>(), 20_000);
    assert_eq!(capture.end().changes_missed, 0);
    drop(rig);
    captures.join();
}

/// What a port lost is said when it goes, and not of the next one of its number.
#[test]
fn what_a_port_lost_goes_with_it() {
    let mut rig = Rig::new(&[false; 2]);
    // It gets no block.
    let observation = rig.handle.take_observation().unwrap();
    let want = Want { ports: PortSet::ALL, snaplen: 64, accounts: false };
    rig.handle.send(Command::Observe { id: 1, want: Some(want) }).unwrap();
    for _ in 0..3 {
        rig.ports[0].inject(&frame(0xff, 1));
    }
    rig.settle();
    let id = PortId::new(1);
    drop(rig.handle.ask(|reply| Command::RemovePort { id, reply }).unwrap());
    rig.handle.send(Command::Observe { id: 1, want: None }).unwrap();
    rig.settle();
    let told: Vec<Told> = observation.told.try_iter().collect();
    let removed = told.iter().find_map(|told| match told {
        Told::Change { change: Change::PortRemoved { id: gone, counters, lost }, .. } => {
            Some((*gone, counters.tx, lost.sent))
        }
        Told::Change { .. } | Told::Block(_) | Told::Mark(_) | Told::Fdb { .. } => None,
    });
    assert_eq!(removed, Some((id, 3, 3)));
    let Some(Told::Mark(end)) = told.last() else { panic!("{told:?}") };
    let lost = Lost { forwarded: 3, ..Lost::default() };
    assert_eq!((end.edge, end.lost.as_slice()), (Edge::End, [(PortId::new(0), lost)].as_slice()));
}

/// Marks have room whatever else is told, and say how many changes had none.
#[test]
fn changes_that_find_no_room_are_counted() {
    let mut rig = Rig::new(&[false]);
    let observation = rig.handle.take_observation().unwrap();
    let want = Want { ports: PortSet::ALL, snaplen: 64, accounts: false };
    rig.handle.send(Command::Observe { id: 1, want: Some(want) }).unwrap();
    let (id, settings) = (PortId::new(0), PortSettings::default());
    for _ in 0..3_000 {
        rig.handle.send(Command::SetPort { id, settings }).unwrap();
    }
    rig.handle.send(Command::Observe { id: 1, want: None }).unwrap();
    rig.settle();
    let (mut changes, mut marks) = (0, Vec::new());
    for told in observation.told.try_iter() {
        match told {
            Told::Change { change: Change::PortSet { .. }, .. } => changes += 1,
            Told::Mark(mark) => marks.push(mark),
            Told::Change { .. } | Told::Block(_) | Told::Fdb { .. } => {}
        }
    }
    let [start, end] = marks.try_into().expect("two marks");
    assert_eq!((start.edge, start.untold, end.edge), (Edge::Start, 0, Edge::End));
    // A sweep may have been among them.
    assert!((3_000..3_010).contains(&(changes + end.untold)), "{changes} and {}", end.untold);
    assert!(end.untold > 1_000 && changes > 500, "{changes} and {}", end.untold);
}

#[test]
fn a_slow_reader_loses_its_own_frames_and_nobody_elses() {
    let mut rig = Rig::new(&[false; 2]);
    let mut captures = start(&mut rig);
    for port in &rig.ports {
        port.count_only();
    }
    let slow = begin(&rig, &mut captures, everything());
    let few = begin(&rig, &mut captures, Spec { count: Some(1_000), ..everything() });
    let samples = (1..=64).map(|n| Sample::plain(&[frame(0xff, n), vec![n; 1_400]].concat())).collect();
    rig.ports[0].repeat(samples, 100_000);
    wait_until("100,000 frames", LIMIT, || rig.ports[1].sent_totals().0 == 100_000).unwrap();
    assert_eq!(read(&few).end().written, 1_000, "the other reader is served");
    let slow = end(&slow);
    let summary = slow.end();
    assert_eq!(total(summary, |p| p.forwarded).0, 100_000);
    assert_eq!(total(summary, |p| p.sent).0, 100_000);
    assert!(summary.missed > 0, "200,000 records of 1,460 bytes do not fit into its sink");
    assert_eq!(summary.missed + slow.frames.len() as u64, 200_000);
    let missed: u64 = slow.frames.iter().map(|frame| frame.drops).sum();
    assert!(missed <= summary.missed, "what was missed before a frame is said with it");
    drop(rig);
    captures.join();
}

#[test]
fn what_changes_besides_frames_is_told_in_its_place() {
    let mut rig = Rig::new(&[false; 2]);
    let mut captures = start(&mut rig);
    let stream = begin(&rig, &mut captures, everything());
    rig.ports[0].inject(&frame(0xff, 1));
    rig.settle();
    let id = PortId::new(1);
    let settings = PortSettings { isolated: true, ..PortSettings::default() };
    rig.handle.send(Command::SetPort { id, settings }).unwrap();
    rig.handle.send(Command::SetLink { id, up: false, mtu: 1500 }).unwrap();
    rig.settle();
    rig.ports[0].inject(&frame(0xff, 1));
    rig.settle();
    captures.name(PortId::new(2), Label { name: "late".to_owned(), description: String::new() });
    rig.add(2, false);
    rig.ports[0].inject(&frame(0xff, 1));
    rig.settle();
    drop(rig.handle.ask(|reply| Command::RemovePort { id: PortId::new(2), reply }).unwrap());
    let capture = end(&stream);
    let comments: Vec<_> =
        capture.frames.iter().map(|f| (f.interface.as_str(), f.comment.as_str())).collect();
    assert_eq!(
        comments,
        [
            ("p0", "learned p0; flooded to p1"),
            ("p1", "from p0"),
            ("p0", "dropped: no_egress"),
            ("p0", "flooded to late"),
            ("late", "from p0"),
        ]
    );
    let changes: Vec<_> = capture.changes().filter(|change| !matches!(change.what, What::Swept)).collect();
    assert!(
        matches!(&changes[0].what, What::PortSet { interface: 1, flags } if flags.isolated),
        "{changes:?}"
    );
    assert_eq!(changes[1].what, What::Link { interface: 1, up: false });
    assert!(matches!(&changes[2].what, What::PortAdded(port) if port.name == "late" && port.interface == 2));
    assert_eq!(changes[3].what, What::Link { interface: 2, up: true });
    assert_eq!(changes[4].what, What::PortRemoved { interface: 2 });
    let late = &capture.end().ports[2];
    assert_eq!((late.name.as_str(), late.sent.counted, late.sent.balance()), ("late", 1, true));
    drop(rig);
    captures.join();
}

#[test]
fn a_chosen_port_is_known_by_its_name_and_not_by_its_number() {
    let mut rig = Rig::new(&[false; 3]);
    let mut captures = start(&mut rig);
    let stream = begin(&rig, &mut captures, Spec { ports: only("p1"), ..everything() });
    let speak = |rig: &Rig| {
        rig.ports[0].inject(&frame(0xff, 1));
        rig.settle();
    };
    let add = |rig: &mut Rig, captures: &mut Captures, number: u8, name: &str| {
        captures.name(PortId::new(number), Label { name: name.to_owned(), description: String::new() });
        rig.add(number, false);
    };
    let remove = |rig: &Rig, number| {
        let id = PortId::new(number);
        drop(rig.handle.ask(|reply| Command::RemovePort { id, reply }).unwrap());
    };
    speak(&rig);
    // Its number goes to another, and its name to another number.
    remove(&rig, 1);
    add(&mut rig, &mut captures, 1, "other");
    speak(&rig);
    add(&mut rig, &mut captures, 3, "p1");
    speak(&rig);
    remove(&rig, 3);
    speak(&rig);
    let capture = end(&stream);
    let ids: Vec<_> = capture.frames.iter().map(|frame| (frame.id, frame.interface.as_str())).collect();
    assert_eq!(ids, [(0, "p1"), (2, "p1")]);
    assert_eq!(capture.interfaces, ["p1", "p1"], "one for each that had the name");
    assert_eq!(total(capture.end(), |p| p.sent), (2, 2));
    drop(rig);
    captures.join();
}

#[test]
fn a_filter_sees_as_much_whatever_others_keep() {
    let mut rig = Rig::new(&[false; 2]);
    let mut captures = start(&mut rig);
    let all = begin(&rig, &mut captures, everything());
    // Accepts a frame if it has a byte there.
    let has = |at| {
        let insn = |code, k| Insn { code, jt: 0, jf: 0, k };
        Some(Program::new(&[insn(0x30, at), insn(0x06, 1)]).unwrap())
    };
    let seen = begin(&rig, &mut captures, Spec { filter: has(2047), ..everything() });
    let unseen = begin(&rig, &mut captures, Spec { filter: has(2048), ..everything() });
    rig.ports[0].inject(&[frame(0xff, 1), vec![7; 4_000]].concat());
    rig.settle();
    assert_eq!(end(&all).frames[0].bytes.len(), 4_060);
    let (seen, unseen) = (end(&seen), end(&unseen));
    assert_eq!((seen.end().written, unseen.end().written), (2, 0));
    assert_eq!(unseen.end().ports[0].forwarded.passed, 1);
    drop(rig);
    captures.join();
}

#[test]
fn a_capture_ends_with_its_sums_when_the_switch_does() {
    let mut rig = Rig::new(&[false; 2]);
    let mut captures = start(&mut rig);
    let stream = begin(&rig, &mut captures, everything());
    rig.ports[0].inject(&frame(0xff, 1));
    rig.settle();
    drop(rig);
    captures.join();
    let capture = read(&stream);
    assert_eq!((capture.end().why.as_str(), capture.frames.len()), ("stopped", 2));
    assert_eq!(total(capture.end(), |p| p.sent), (1, 1));
}

#[test]
fn readers_that_vanish_leave_nothing_behind() {
    let mut rig = Rig::new(&[false; 2]);
    let mut captures = start(&mut rig);
    for round in 0..40 {
        let (ours, theirs) = UnixStream::pair().unwrap();
        wait_until("room for another", LIMIT, || captures.has_room()).unwrap();
        let id = captures.begin(everything(), labels(2)).unwrap();
        match round % 3 {
            0 => captures.hand_over(id, None),
            1 => {
                drop(ours);
                captures.hand_over(id, Some(theirs));
            }
            _ => {
                captures.hand_over(id, Some(theirs));
                rig.ports[0].inject(&frame(0xff, 1));
                (&ours).write_all(b"no more\n").unwrap();
                drop(ours);
            }
        }
    }
    // All of them are over: another still works.
    wait_until("room for another", LIMIT, || captures.has_room()).unwrap();
    rig.settle();
    let stream = begin(&rig, &mut captures, everything());
    rig.ports[0].inject(&frame(0xff, 7));
    rig.settle();
    assert_eq!(end(&stream).frames.len(), 2);
    drop(rig);
    captures.join();
}

#[test]
fn invariant_6_a_capture_allocates_nothing_on_the_data_thread() {
    let mut rig = Rig::new(&[false; 4]);
    let observation = rig.handle.take_observation().unwrap();
    for port in &rig.ports {
        port.count_only();
    }
    for _ in 0..8 {
        observation.empty.send(Block::new()).unwrap();
    }
    let reader = std::thread::spawn(move || {
        let mut frames = 0;
        while let Ok(told) = observation.told.recv() {
            if let Told::Block(mut block) = told {
                frames += block.frames_len();
                block.clear();
                let _ = observation.empty.send(block);
            }
        }
        frames
    });
    let want = Want { ports: PortSet::ALL, snaplen: SNAPLEN_MAX, accounts: false };
    rig.handle.send(Command::Observe { id: 1, want: Some(want) }).unwrap();
    let mut random = Random::new(6);
    let mut to_nobody = |number| {
        let mut bytes = numbered(&mut random, number);
        bytes[5] |= 0x80;
        Sample::plain(&bytes)
    };
    rig.ports[0].repeat((0..64).map(&mut to_nobody).collect(), 1_000);
    let sent = || rig.ports[1..].iter().map(|port| port.sent_totals().0).sum::<u64>();
    wait_until("a thousand frames", LIMIT, || sent() == 3_000).unwrap();
    // The channels' first sleepers have been noted by now.
    let before = rig.allocated.load(Ordering::Relaxed);
    rig.ports[0].repeat_more(300_000);
    wait_until("300,000 frames", LIMIT, || sent() == 903_000).unwrap();
    let allocated = rig.allocated.load(Ordering::Relaxed) - before;
    drop(rig);
    let frames = reader.join().unwrap();
    // A tick tells of its sweep once a second, which is no frame.
    assert_eq!(allocated, 0, "allocations while {frames} frames were recorded");
    assert!(frames > 10_000, "{frames} frames recorded are no test");
}

/// The change that a test here waits for exists.
#[test]
fn sweeps_are_told_once_a_second() {
    let mut rig = Rig::new(&[false; 2]);
    let observation = rig.handle.take_observation().unwrap();
    let want = Want { ports: PortSet::ALL, snaplen: 64, accounts: false };
    rig.handle.send(Command::Observe { id: 1, want: Some(want) }).unwrap();
    let mut sweeps = 0;
    wait_until("two sweeps", Duration::from_secs(20), || {
        while let Ok(told) = observation.told.try_recv() {
            sweeps += u32::from(matches!(told, Told::Change { change: Change::Swept, .. }));
        }
        sweeps >= 2
    })
    .unwrap();
}
