//! The flight recorder, through the real seam and the real capture thread: what was
//! before anybody asked, what had to be forgotten, and that the sums are exact
//! whoever reads.

use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use vswitch::bridge::PortId;
use vswitch::capture::Captures;
use vswitch::capture::session::{Label, Spec};
use vswitch::capture::state::State;
use vswitch::engine::Command;
use vswitch::pcap::Reader;
use vswitch::port::memory::Sample;
use vswitch::replay::{Wanted, replay};
use vswitch_tests::capture::{Capture, Way};
use vswitch_tests::clock::wait_until;

use super::capture::{begin, end, everything, frame, read, said, start, total};
use super::engine::{LIMIT, Rig};

/// A switch of two ports that remembers, in `limit` bytes.
fn recording(limit: usize) -> (Rig, Captures) {
    let mut rig = Rig::new(&[]);
    let mut captures = start(&mut rig);
    captures.record(limit, None).unwrap();
    for n in 0..2 {
        add(&mut rig, &mut captures, n, &format!("p{n}"));
    }
    (rig, captures)
}

fn add(rig: &mut Rig, captures: &mut Captures, number: u8, name: &str) {
    captures.name(PortId::new(number), Label { name: name.to_owned(), description: String::new() });
    rig.add(number, false);
}

fn last(time: Duration) -> Spec {
    Spec { last: Some(time), ..everything() }
}

/// What is kept is what is always kept, whoever has frames explained meanwhile.
#[test]
fn a_live_trace_beside_it_changes_nothing() {
    let (rig, mut captures) = recording(8 << 20);
    let live = begin(&rig, &mut captures, Spec { steps: true, ..everything() });
    for bytes in [frame(0xff, 1), frame(1, 1)] {
        rig.ports[0].inject(&bytes);
        rig.settle();
    }
    let (live, past) = (end(&live), read(&begin(&rig, &mut captures, last(EVER))));
    let told =
        |capture: &Capture| capture.states.iter().filter(|state| matches!(state, State::Trace(_))).count();
    assert_eq!((told(&live), told(&past)), (2, 0));
    assert_eq!(said(&past.frames), said(&live.frames));
    drop(rig);
    captures.join();
}

/// Longer than any test.
const EVER: Duration = Duration::from_secs(3600);

/// Frames of 60 bytes from 64 stations to everybody, `frames` of them, from port 0.
fn flood(rig: &Rig, frames: u64) {
    for port in &rig.ports {
        port.count_only();
    }
    let before = rig.ports[1].sent_totals().0;
    rig.ports[0].repeat((1..=64).map(|n| Sample::plain(&frame(0xff, n))).collect(), frames);
    wait_until("the frames", LIMIT, || rig.ports[1].sent_totals().0 == before + frames).unwrap();
}

#[test]
fn what_was_before_it_was_asked_is_told_with_its_verdicts() {
    let (mut rig, mut captures) = recording(8 << 20);
    for bytes in [frame(0xff, 1), frame(1, 1)] {
        rig.ports[0].inject(&bytes);
        rig.settle();
    }
    let first = [
        (0, "p0", Way::Inbound, "learned p0; flooded to p1"),
        (0, "p1", Way::Outbound, "from p0"),
        (1, "p0", Way::Inbound, "dropped: filtered"),
    ];
    let past = read(&begin(&rig, &mut captures, last(EVER)));
    assert_eq!(said(&past.frames), first);
    assert_eq!(past.frames[0].bytes, frame(0xff, 1));
    assert_eq!((past.end().why.as_str(), past.end().missed, past.start().complete), ("recorded", 0, false));
    assert_eq!(total(past.end(), |p| p.forwarded), (1, 1));
    assert_eq!(total(past.end(), |p| p.dropped), (1, 1));
    assert_eq!(total(past.end(), |p| p.sent), (1, 1));

    // Asked again, it is there still; the choices are those of any capture.
    let drops = Spec { kinds: [false, true, false, true], ..last(EVER) };
    assert_eq!(said(&read(&begin(&rig, &mut captures, drops)).frames), first[2..]);
    let one = read(&begin(&rig, &mut captures, Spec { count: Some(1), ..last(EVER) }));
    assert_eq!((said(&one.frames), one.end().why.as_str()), (first[..1].to_vec(), "count"));
    assert_eq!(read(&begin(&rig, &mut captures, last(Duration::ZERO))).frames, []);

    // A replay has the frames, and nothing to compare them with: who was where before is
    // not in the file.
    let (mut bytes, mut judged) = (Vec::new(), Vec::new());
    begin(&rig, &mut captures, last(EVER)).read_to_end(&mut bytes).unwrap();
    let mut reader = Reader::new(bytes.as_slice()).unwrap();
    let totals =
        replay(&mut reader, &Wanted::default(), true, |frame| judged.push((frame.port, frame.comment)))
            .unwrap();
    assert_eq!((totals.judged, totals.early, totals.compared, totals.partial), (2, 2, 0, true));
    let words = [("p0", "learned p0; flooded to p1"), ("p0", "dropped: filtered")];
    assert_eq!(judged, words.map(|(port, comment)| (port.to_owned(), comment.to_owned())));

    // A port of the same number and another name is another one.
    drop(rig.handle.ask(|reply| Command::RemovePort { id: PortId::new(1), reply }).unwrap());
    rig.ports.truncate(1);
    captures.name(PortId::new(1), Label { name: "refused".to_owned(), description: String::new() });
    captures.unname(PortId::new(1));
    add(&mut rig, &mut captures, 1, "late");
    rig.ports[0].inject(&frame(0xff, 1));
    rig.settle();
    // A capture of what comes has no part of it, nor takes any.
    let live = begin(&rig, &mut captures, everything());
    rig.settle();
    let past = read(&begin(&rig, &mut captures, last(EVER)));
    assert_eq!(said(&past.frames)[..3], first);
    let then = [(2, "p0", Way::Inbound, "flooded to late"), (2, "late", Way::Outbound, "from p0")];
    assert_eq!(said(&past.frames)[3..], then);
    let live = end(&live);
    assert!(live.frames.is_empty() && live.start().complete);
    drop(rig);
    captures.join();
}

#[test]
fn of_more_than_fits_the_last_are_kept() {
    let (rig, mut captures) = recording(4 << 20);
    flood(&rig, 200_000);
    rig.ports[1].inject(&frame(0xff, 77));
    rig.settle();
    let past = read(&begin(&rig, &mut captures, last(EVER)));
    let newest = &said(&past.frames)[past.frames.len() - 2..];
    assert_eq!(newest[0], (200_000, "p1", Way::Inbound, "learned p1; flooded to p0"));
    let oldest = past.frames[0].id;
    assert!(past.frames.len() > 1_000, "{} frames", past.frames.len());
    // Between the oldest and the newest, all are there or said to be missing.
    let (counted, written) = total(past.end(), |p| p.forwarded);
    assert!(counted >= 200_001 - oldest, "{counted} frames since {oldest}");
    // Each of 26 bytes takes 16 more.
    assert!(written <= (4 << 20) / 42, "{written} frames in 4 MiB");
    assert_eq!((counted - written) * 2, past.end().missed);
    drop(rig);
    captures.join();
}

#[test]
fn who_does_not_read_holds_nothing_and_is_told_what_it_missed() {
    let (rig, mut captures) = recording(8 << 20);
    flood(&rig, 20_000);
    // Not read, until all of it is forgotten; a second one behaves.
    let slow = begin(&rig, &mut captures, last(EVER));
    let first = read(&begin(&rig, &mut captures, last(EVER)));
    assert_eq!(total(first.end(), |p| p.forwarded).0, 20_000);
    assert_eq!(total(first.end(), |p| p.sent).0, 20_000);
    flood(&rig, 200_000);
    rig.settle();
    let after = read(&begin(&rig, &mut captures, last(EVER)));
    assert!(after.frames[0].id >= 20_000, "frame {} should be forgotten", after.frames[0].id);

    let slow = read(&slow);
    assert_eq!(total(slow.end(), |p| p.forwarded).0, 20_000);
    assert_eq!(total(slow.end(), |p| p.sent).0, 20_000);
    assert_eq!(slow.end().missed + slow.frames.len() as u64, 40_000);
    assert!(slow.frames.iter().all(|frame| frame.id < 20_000), "what came later is none of it");
    let too_slow: u64 = slow.end().ports.iter().map(|port| port.forwarded.slow + port.sent.slow).sum();
    assert!(too_slow > 1_000, "{too_slow} frames forgotten are no test");
    assert_eq!(slow.end().why, "recorded");
    drop(rig);
    captures.join();
}

#[test]
fn a_recall_ends_when_its_reader_wants_it_and_outlives_the_switch() {
    let (rig, mut captures) = recording(16 << 20);
    flood(&rig, 40_000);
    let asked = begin(&rig, &mut captures, last(EVER));
    let mut some = vec![0; 64 << 10];
    (&asked).read_exact(&mut some).unwrap();
    let rest = rest_of(&asked);
    let asked = Capture::parse(&[some, rest].concat()).unwrap();
    assert_eq!(asked.end().why, "asked");
    assert!(asked.frames.len() < 80_000, "it ended before its end");

    let reader = begin(&rig, &mut captures, last(EVER));
    let mut some = vec![0; 64 << 10];
    (&reader).read_exact(&mut some).unwrap();
    let rest = std::thread::spawn(move || {
        let mut rest = Vec::new();
        (&reader).read_to_end(&mut rest).unwrap();
        rest
    });
    drop(rig);
    captures.join();
    let past = Capture::parse(&[some, rest.join().unwrap()].concat()).unwrap();
    assert_eq!(past.end().why, "recorded");
    assert_eq!(total(past.end(), |p| p.forwarded).0, 40_000);
}

/// Ends the capture, and reads what was not read yet.
fn rest_of(mut stream: &UnixStream) -> Vec<u8> {
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    rest
}
