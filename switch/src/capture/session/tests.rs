//! What a capture holds while its reader takes nothing.

use super::interface::INTERFACES_MAX;
use super::*;
use crate::bridge::{DropReason, Learning, LookUp, PortSettings};
use crate::capture::pcapng::{Blocks, FRAME, INTERFACE, STATE, STATISTICS, json_of};
use crate::capture::sink::WAITING_MAX;
use crate::capture::state::Sums;
use crate::frame::Frame;

fn added(session: &mut Session, labels: &Labels, id: PortId) {
    let settings = PortSettings::default();
    session.change(Time::START, &Change::PortAdded { id, settings }, labels, Blame::Switch);
}

fn removed(session: &mut Session, labels: &Labels, id: PortId) {
    let (counters, lost) = (Box::new(PortCounters::ZERO), Lost::default());
    session.change(Time::START, &Change::PortRemoved { id, counters, lost }, labels, Blame::Switch);
}

/// The kinds of the blocks that wait, and the sums at their end.
fn drain(session: &mut Session) -> (Vec<(u32, Vec<u8>)>, Summary) {
    let (mut bytes, mut blocks, mut all) = (Vec::new(), Blocks::default(), Vec::new());
    session.sink.write_to(&mut bytes).unwrap();
    blocks.feed(&bytes);
    while let Some((kind, block)) = blocks.next_block().unwrap() {
        all.push((kind, block.to_vec()));
    }
    let last = json_of(&all.last().unwrap().1).map(serde_json::from_slice).unwrap();
    let Ok(State::End(summary)) = last else { panic!("{last:?}") };
    (all, summary)
}

#[test]
fn ports_that_come_and_go_cost_a_reader_that_has_stopped_no_memory() {
    let filter_text = "arp or ".repeat(9_000);
    let mut session = Session::new(Spec { filter_text, ..Spec::everything("", "") });
    let id = PortId::new(1);
    let label = Label { name: "tap1".to_owned(), description: "vswitch port tap1".to_owned() };
    let labels = Labels::from([(id, label)]);
    for _ in 0..100_000 {
        added(&mut session, &labels, id);
        removed(&mut session, &labels, id);
    }
    assert!(session.sink.len() < WAITING_MAX + (128 << 10), "{} bytes wait", session.sink.len());
    assert!(session.interfaces.len() <= INTERFACES_MAX);
    session.end(None, Time::START, "asked");
    assert!(session.sink.len() < WAITING_MAX + (4 << 20), "{} bytes wait", session.sink.len());

    let (blocks, summary) = drain(&mut session);
    assert!(summary.changes_missed > 100_000, "{} changes missed", summary.changes_missed);
    let len = |kind| blocks.iter().filter(|(found, _)| *found == kind).count();
    assert_eq!(len(INTERFACE), INTERFACES_MAX);
    assert_eq!((len(STATISTICS), summary.ports.len()), (INTERFACES_MAX, INTERFACES_MAX));
}

/// What is described late is described before anything is said of it.
#[test]
fn interfaces_are_described_in_order_once_there_is_room() {
    let mut session = Session::new(Spec::everything("", ""));
    session.sink.append(|out| {
        let fill = FrameRecord {
            interface: 0,
            date_ns: 0,
            len: 0,
            bytes: &[],
            way: Way::Inbound,
            id: 0,
            drops: 0,
            comment: "",
        };
        while out.len() < WAITING_MAX {
            pcapng::frame(out, &fill);
        }
    });
    let labels: Labels = (0..3u8)
        .map(|n| (PortId::new(n), Label { name: format!("p{n}"), description: String::new() }))
        .collect();
    for id in labels.keys() {
        added(&mut session, &labels, *id);
    }
    assert_eq!(session.changes_missed, 3);
    session.sink.write_to(&mut std::io::sink()).unwrap();
    removed(&mut session, &labels, PortId::new(1));
    session.end(None, Time::START, "asked");
    let (blocks, summary) = drain(&mut session);
    let kinds: Vec<u32> = blocks.iter().map(|(kind, _)| *kind).collect();
    let expected = [INTERFACE, INTERFACE, INTERFACE, STATE, STATISTICS, STATISTICS, STATISTICS, STATE];
    assert_eq!(kinds, expected);
    for (number, name) in ["p0", "p1", "p2"].into_iter().enumerate() {
        assert!(blocks[number].1.windows(2).any(|two| two == name.as_bytes()), "{name}");
    }
    assert_eq!((summary.changes_missed, summary.ports.len()), (3, 3));
    assert!(!kinds.contains(&FRAME));
}

/// Explaining a frame takes many times as long as writing it down.
#[test]
fn what_others_would_miss_meanwhile_is_not_put_into_words() {
    let id = PortId::new(1);
    let label = Label { name: "p1".to_owned(), description: String::new() };
    let labels = Labels::from([(id, label)]);
    let verdict = Verdict::Drop(DropReason::Runt);
    let story = Story { learning: Learning::NotReached, bound: None, look_up: LookUp::NotReached, verdict };
    let block = Block::of_one(Time::START, id, story, &Frame::new(&[0; 9], &[], VnetHeader::PLAIN));
    for (steps, is_behind, expected) in [(true, false, (1, 0)), (true, true, (0, 1)), (false, true, (1, 0))] {
        let mut session = Session::new(Spec { steps, ..Spec::everything("", "") });
        added(&mut session, &labels, id);
        assert!(session.block(&block, Blame::Switch, || is_behind));
        session.end(None, Time::START, "asked");
        let (_, summary) = drain(&mut session);
        let Sums { lost, slow, written, .. } = summary.ports[0].dropped;
        assert_eq!(((written, lost), slow), (expected, 0), "steps {steps}, behind {is_behind}");
    }
}
