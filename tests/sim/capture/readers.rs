//! Readers of captures: slow, gone, or left behind by the switch. Each costs its own
//! capture, and nobody else.
//!
//! Deliberately absent: sockets of a whole switch, which are in `sockets`.

use std::io::Write as _;
use std::os::unix::net::UnixStream;

use vswitch::capture::session::Spec;
use vswitch::port::memory::Sample;
use vswitch_tests::clock::wait_until;

use super::{begin, end, everything, frame, labels, read, start, total};
use crate::engine::{LIMIT, Rig};

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
                captures.hand_over(id, Some(theirs.into()));
            }
            _ => {
                captures.hand_over(id, Some(theirs.into()));
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
