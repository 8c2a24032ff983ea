//! The seam between the data thread and whoever records: what is told and what was
//! lost add up, marks and changes have their room, and nothing is allocated.
//!
//! Deliberately absent: the capture thread; these tests are it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use vswitch::bridge::{PortId, PortSet, PortSettings};
use vswitch::capture::session::SNAPLEN_MAX;
use vswitch::engine::Command;
use vswitch::engine::observe::{Block, Change, Edge, Lost, Told, Want};
use vswitch::offload::VnetHeader;
use vswitch::port::memory::Sample;
use vswitch_tests::clock::wait_until;
use vswitch_tests::scenario::Random;

use super::frame;
use crate::engine::{LIMIT, Rig, numbered};

/// Invariant 3 for captures: recorded + lost = counted, for each port and kind,
/// while most blocks are not given back.
#[test]
fn recorded_and_lost_frames_are_the_counted_ones() {
    let mut rig = Rig::new(&[false, true, true, false]);
    let mut observation = rig.handle.take_observation().unwrap();
    for port in &rig.ports {
        port.count_only();
    }
    rig.ports[2].set_room(Some(3_000));
    observation.empty.push(Block::new()).unwrap();
    observation.empty.push(Block::new()).unwrap();
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
                for seen in turn.frames() {
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
            observation.empty.push(block).unwrap();
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
fn invariant_6_a_capture_allocates_nothing_on_the_data_thread() {
    for accounts in [false, true] {
        allocates_nothing(accounts);
    }
}

/// Whether each frame is explained as well, or not.
fn allocates_nothing(accounts: bool) {
    let mut rig = Rig::new(&[false; 4]);
    let mut observation = rig.handle.take_observation().unwrap();
    for port in &rig.ports {
        port.count_only();
    }
    for _ in 0..8 {
        observation.empty.push(Block::new()).unwrap();
    }
    let reader = std::thread::spawn(move || {
        let mut frames = 0;
        while let Ok(told) = observation.told.recv() {
            if let Told::Block(mut block) = told {
                frames += block.frames_len();
                block.clear();
                let _ = observation.empty.push(block);
            }
        }
        frames
    });
    let want = Want { ports: PortSet::ALL, snaplen: SNAPLEN_MAX, accounts };
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
