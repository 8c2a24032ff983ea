//! A live trace beside what `trace` says of the same frames: before each frame the
//! engine is asked what would become of it, and when it has come, the capture tells
//! what did. Both must be the same, step by step and egress by egress.
//!
//! Deliberately absent: sockets and processes, which are in `sockets`.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use vswitch::bridge::{EntryKind, PortId, PortSettings, Refusal};
use vswitch::capture::Captures;
use vswitch::capture::pcapng::{Blocks, json_of};
use vswitch::capture::session::Spec;
use vswitch::capture::state::{State, Told};
use vswitch::control::{Explained, Trace};
use vswitch::engine::Command;
use vswitch::form::{self, Typed};
use vswitch::frame::{HEAD_MAX, MacAddr, VlanId};
use vswitch::offload::VnetHeader;
use vswitch_tests::capture::Capture;
use vswitch_tests::clock::wait_until;
use vswitch_tests::scenario::Random;

use super::capture::{everything, labels};
use super::engine::LIMIT;
use super::trace::{FRAMES, Rig};

const NAMES: [&str; 4] = ["p0", "p1", "p2", "p3"];

/// A capture of frames that come in, explained, and a thread that reads it.
struct Live {
    captures: Captures,
    stream: UnixStream,
    reader: JoinHandle<Capture>,
    /// Frames that were explained until now.
    told: Arc<AtomicUsize>,
}

impl Live {
    fn start(rig: &mut Rig, spec: Spec) -> Live {
        let observation = rig.handle.take_observation().unwrap();
        let mut captures = Captures::start(observation, rig.handle.orders(), None).unwrap();
        let (stream, theirs) = UnixStream::pair().unwrap();
        let id = captures.begin(spec, labels(rig.ports.len())).unwrap();
        captures.hand_over(id, Some(theirs.into()));
        let told = Arc::new(AtomicUsize::new(0));
        let (theirs, count) = (stream.try_clone().unwrap(), Arc::clone(&told));
        let reader = std::thread::spawn(move || read_counting(theirs, &count));
        Live { captures, stream, reader, told }
    }

    /// Waits until all of `sent` frames but a few are told: of a capture that cannot
    /// keep up, frames are missing.
    fn keep_up(&self, sent: usize) {
        let is_near = || sent < self.told.load(Ordering::SeqCst) + 8;
        wait_until("frames to be explained", LIMIT, is_near).unwrap();
    }

    /// Waits until `count` frames are told.
    fn wait_for(&self, count: usize) {
        wait_until("frames to be explained", LIMIT, || self.told.load(Ordering::SeqCst) >= count).unwrap();
    }

    /// All that was told, in order.
    fn end(self, rig: Rig) -> Vec<Told> {
        self.stream.shutdown(Shutdown::Write).unwrap();
        let capture = self.reader.join().unwrap();
        assert_eq!(capture.end().missed, 0);
        let told = capture.states.into_iter().filter_map(|state| match state {
            State::Trace(told) => Some(told),
            State::Start(_) | State::Fdb(_) | State::Change(_) | State::End(_) => None,
        });
        let told = told.collect();
        drop(rig);
        self.captures.join();
        told
    }
}

/// Reads a capture to its end, and counts the frames that are explained in it.
fn read_counting(mut stream: UnixStream, count: &AtomicUsize) -> Capture {
    let (mut bytes, mut chunk, mut blocks) = (Vec::new(), vec![0; 64 << 10], Blocks::default());
    loop {
        let len = stream.read(&mut chunk).unwrap();
        if len == 0 {
            return Capture::parse(&bytes).unwrap();
        }
        bytes.extend_from_slice(&chunk[..len]);
        blocks.feed(&chunk[..len]);
        while let Some((_, block)) = blocks.next_block().unwrap() {
            let json = json_of(block).unwrap_or_default();
            count.fetch_add(usize::from(json.starts_with(br#"{"state":"trace""#)), Ordering::SeqCst);
        }
    }
}

fn explained() -> Spec {
    Spec { kinds: [true, true, false, false], snaplen: 14, steps: true, ..everything() }
}

/// What `trace` says of a frame now.
fn foretold(rig: &Rig, ingress: PortId, typed: &Typed) -> Trace {
    let traced = rig.trace(ingress, typed);
    let head = &typed.bytes[..typed.bytes.len().min(HEAD_MAX)];
    let len = u32::try_from(typed.bytes.len()).unwrap();
    let (account, egress) = (&traced.account, traced.egress.as_slice());
    Explained { ingress, head, len, account, egress }.in_words(&NAMES.as_slice())
}

/// Changes something, so that not all frames go as the ones before.
fn change(rig: &Rig, random: &mut Random) {
    let id = PortId::new(u8::try_from(random.below(4)).unwrap());
    match random.below(4) {
        0 => {
            let (up, mtu) = (!random.one_in(3), random.pick(&[600, 1500, 9000]));
            rig.handle.send(Command::SetLink { id, up, mtu }).unwrap();
        }
        1 => {
            let (vid, mac) = (VlanId::UNAWARE, MacAddr::from_u64(0x0200_0000_0000 + random.below(8)));
            let kind = EntryKind::Static;
            // A group cannot be bound.
            let _ = rig.handle.ask(|reply| Command::FdbAdd { vid, mac, port: id, kind, reply }).unwrap();
        }
        _ => {
            let settings = PortSettings {
                learning: !random.one_in(4),
                flood: !random.one_in(4),
                mcast_flood: !random.one_in(4),
                bcast_flood: !random.one_in(4),
                isolated: random.one_in(2),
                locked: random.one_in(6),
                transparent: random.one_in(4),
                max_macs: random.one_in(3).then(|| u32::try_from(random.below(3)).unwrap()),
            };
            rig.handle.send(Command::SetPort { id, settings }).unwrap();
        }
    }
}

/// A frame of any sort, between few stations.
fn frame(random: &mut Random) -> Typed {
    if random.one_in(2) {
        return form::read(random.pick(&FRAMES)).unwrap();
    }
    let station = |n: u64| MacAddr::from_u64(0x0200_0000_0000 + n);
    let group = [0xffff_ffff_ffff, 0x0180_c200_0000, 0x0180_c200_0001, 0x0100_5e00_0001, 0];
    let mut address = |groups| {
        if random.one_in(groups) { MacAddr::from_u64(random.pick(&group)) } else { station(random.below(8)) }
    };
    let (dst, src) = (address(3), address(9));
    let mut bytes = [dst.octets(), src.octets()].concat();
    bytes.extend(random.pick(&[[0x08, 0x00, 0, 0], [0x81, 0x00, 0, 7], [0x88, 0xa8, 0, 9]]));
    bytes.resize(usize::try_from(random.pick(&[13, 15, 40, 60, 255, 256, 257, 1_000, 1_514])).unwrap(), 7);
    Typed { bytes, vnet: VnetHeader::PLAIN }
}

#[test]
fn what_a_live_trace_tells_is_what_trace_says_of_the_same_frame() {
    let (mut steps, mut fates, mut reasons) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (seed, pad_runts) in [(1, false), (2, true), (3, true)] {
        let mut rig = Rig::new(pad_runts);
        let live = Live::start(&mut rig, explained());
        let mut random = Random::new(seed);
        let mut expected = Vec::new();
        for _ in 0..600 {
            if random.one_in(5) {
                change(&rig, &mut random);
            }
            let ingress = PortId::new(u8::try_from(random.below(4)).unwrap());
            let typed = frame(&mut random);
            expected.push(foretold(&rig, ingress, &typed));
            rig.send(ingress, &typed);
            live.keep_up(expected.len());
        }
        let told = live.end(rig);
        assert_eq!(told.len(), expected.len());
        for (number, (told, expected)) in (0u64..).zip(told.into_iter().zip(expected)) {
            assert_eq!(told.frame, number);
            assert_eq!(told.trace, expected, "seed {seed}, frame {number}");
            steps.extend(expected.steps.into_iter().map(|step| step.step));
            reasons.extend(expected.reason);
            fates.extend(expected.egress.into_iter().map(|egress| {
                let words = egress.text.split_whitespace().filter(|word| word.parse::<u32>().is_err());
                words.take(3).collect::<Vec<_>>().join(" ")
            }));
        }
    }
    let all = ["destination", "egress", "frame", "learn", "lock", "port", "source", "verdict", "vlan"];
    assert_eq!(steps.iter().map(String::as_str).collect::<Vec<_>>(), all);
    for reason in ["bad_source", "filtered", "locked", "malformed_tag", "no_egress", "reserved", "runt"] {
        assert!(reasons.contains(reason), "{reason} is not among {reasons:?}");
    }
    for fate in ["sent, bytes", "sent, padded to", "sent, cut here", "refused: oversize (1515"] {
        assert!(fates.iter().any(|told| told.starts_with(fate)), "{fate} is not among {fates:?}");
    }
}

/// Frames that come together are told one by one, each with its own copies.
#[test]
fn a_burst_is_told_frame_by_frame() {
    let mut rig = Rig::new(true);
    let ingress = PortId::new(0);
    // Without the last one, which is from whom the others are for.
    let frames: Vec<Typed> = FRAMES[..16].iter().map(|text| form::read(text).unwrap()).collect();
    // From here on they teach nothing more.
    frames.iter().for_each(|typed| rig.send(ingress, typed));
    rig.ports[2].refuse(Some(Refusal::Full));
    let live = Live::start(&mut rig, explained());
    let mut expected: Vec<Trace> = frames.iter().map(|typed| foretold(&rig, ingress, typed)).collect();
    rig.ports[0].inject_all(frames.iter().map(|typed| (typed.vnet, typed.bytes.as_slice())));
    // What no trace can know: a port that takes nothing more.
    let full = |egress: &&mut vswitch::control::TraceEgress| egress.port == "p2" && egress.refused.is_none();
    let copies: Vec<_> = expected.iter_mut().flat_map(|trace| &mut trace.egress).filter(full).collect();
    assert!(copies.len() > 5, "{} copies are no test", copies.len());
    for egress in copies {
        (egress.refused, egress.text) = (Some("full".to_owned()), "refused: full".to_owned());
    }
    // What comes when the capture has ended is not in it.
    live.wait_for(expected.len());
    let told: Vec<Trace> = live.end(rig).into_iter().map(|told| told.trace).collect();
    assert_eq!(told, expected);
}

#[test]
fn only_frames_that_are_wanted_are_explained_and_others_are_as_ever() {
    let mut rig = Rig::new(false);
    let ports = Arc::new(["p1".to_owned()].into());
    let spec = Spec { ports: Some(ports), count: Some(2), ..explained() };
    let live = Live::start(&mut rig, spec);
    let typed = |text| form::read(text).unwrap();
    for ingress in [0, 1, 2, 1, 1] {
        rig.send(PortId::new(ingress), &typed("icmp 10.0.0.1 > 10.0.0.2 len 1514"));
    }
    let told = live.end(rig);
    let seen: Vec<_> = told.iter().map(|told| (told.frame, told.trace.port.as_str())).collect();
    assert_eq!(seen, [(1, "p1"), (3, "p1")]);
    // All of its egresses are there, though the capture is of one port.
    assert_eq!(told[1].trace.comment, "moved from p2 to p1; flooded to p0 p2 p3");
    assert_eq!(told[1].trace.egress.len(), 3);
    assert_eq!(told[1].trace.egress[2].text, "refused: oversize (1514 bytes; its MTU allows 614)");
}
