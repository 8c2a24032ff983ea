//! Captures of an engine with ports in memory, through the real seam and the real
//! capture thread: what is recorded, and what is said of it. What is lost on the way,
//! and what readers do, is in `lost` and `readers`.

mod lost;
mod readers;

use std::io::Read as _;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use vswitch::bridge::{EntryKind, PortId, PortSettings, Refusal, Settings};
use vswitch::capture::Captures;
use vswitch::capture::bpf::{Insn, Program};
use vswitch::capture::session::{Label, Labels, Names, Spec};
use vswitch::capture::state::{PortSums, State, Summary, What};
use vswitch::engine::{Command, Tuning};
use vswitch::frame::{MacAddr, VlanId};
use vswitch_tests::capture::{Capture, FrameRead, Way};

use super::engine::{LIMIT, Rig};

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
    captures.hand_over(id, Some(theirs.into()));
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
