//! A stream port over a socket pair, its peer driven byte by byte.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use mio::{Events, Poll};

use super::inbound::{FRAME_LEN_MAX, PREFIX_LEN};
use super::*;
use crate::bridge::Refusal;
use crate::frame::{Piece, Wire};
use crate::port::{Offloads, Slots};

const LINK: Link = Link { up: true, mtu: 1500, offloads: Offloads::NONE };

fn pair() -> (StreamPort, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    (StreamPort::new(ours.into(), LINK), theirs)
}

fn framed(frames: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        bytes.extend(u32::try_from(frame.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(frame);
    }
    bytes
}

/// One turn: its frames, and how it ended.
fn receive(port: &mut StreamPort) -> (Vec<Vec<u8>>, Rx) {
    let mut slots = Slots::new();
    let mut burst = Burst::new(&mut slots);
    let rx = port.receive(&mut burst);
    let frames = burst.frames.iter().map(|frame| {
        let mut bytes = vec![0; frame.len() as usize];
        assert_eq!(crate::port::gather(&Wire::of(frame), &mut bytes), bytes.len());
        bytes
    });
    let frames = frames.collect();
    drop(burst);
    port.release();
    (frames, rx)
}

/// Reads one frame as QEMU would.
fn read_frame(peer: &mut UnixStream) -> Vec<u8> {
    let mut prefix = [0; PREFIX_LEN];
    peer.read_exact(&mut prefix).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(prefix) as usize];
    peer.read_exact(&mut frame).unwrap();
    frame
}

#[test]
fn a_frame_is_one_however_its_bytes_arrive() {
    let (mut port, mut peer) = pair();
    let stream = framed(&[&[1; 60], &[2; 1514]]);
    for (index, byte) in stream.iter().enumerate() {
        peer.write_all(&[*byte]).unwrap();
        let (frames, rx) = receive(&mut port);
        assert_eq!(rx, Rx::Drained);
        match index + 1 {
            64 => assert_eq!(frames, [vec![1; 60]]),
            len if len == stream.len() => assert_eq!(frames, [vec![2; 1514]]),
            _ => assert!(frames.is_empty(), "at byte {index}"),
        }
    }
}

#[test]
fn many_frames_come_by_one_read_64_at_a_turn() {
    let (mut port, mut peer) = pair();
    let frames: Vec<Vec<u8>> = (0..150u8).map(|n| vec![n; 60]).collect();
    let refs: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
    peer.write_all(&framed(&refs)).unwrap();
    drop(peer);
    let turns: Vec<_> = (0..3).map(|_| receive(&mut port)).collect();
    assert_eq!(turns.iter().map(|(frames, _)| frames.len()).collect::<Vec<_>>(), [64, 64, 22]);
    assert!(turns.iter().all(|(_, rx)| *rx == Rx::More), "what was read says nothing of what follows");
    assert!(turns.into_iter().flat_map(|(frames, _)| frames).eq(frames));
    assert_eq!(receive(&mut port), (Vec::new(), Rx::Fault(Fault::Down)), "and only then the end");
}

#[test]
fn a_peer_that_breaks_the_framing_is_hung_up_on() {
    for (prefix, word) in [([0, 0, 0, 0], "length 0"), ([0, 2, 0, 0], "longer than")] {
        let (mut port, mut peer) = pair();
        peer.write_all(&framed(&[&[7; 60]])).unwrap();
        peer.write_all(&prefix).unwrap();
        let (frames, rx) = receive(&mut port);
        assert_eq!(frames, [vec![7; 60]], "what came before is good");
        assert!(matches!(rx, Rx::Fault(Fault::Protocol(why)) if why.contains(word)), "{rx:?}");
        assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0, "the connection is over");
    }
}

#[test]
fn a_full_peer_costs_frames_and_never_half_a_frame() {
    let (mut port, mut peer) = pair();
    let mut sent = Vec::new();
    let mut refused = 0;
    let mut number = 0u32;
    // Bursts of odd lengths until nothing fits, twice, with some reading
    // between.
    for drained in [100, 40, usize::MAX] {
        loop {
            let frames: Vec<Vec<u8>> = (0..64)
                .map(|n| {
                    let mut frame = vec![0xaa; 61 + 37 * n];
                    frame[..4].copy_from_slice(&(number + u32::try_from(n).unwrap()).to_be_bytes());
                    frame
                })
                .collect();
            number += 64;
            let pieces: Vec<[Piece<'_>; 1]> =
                frames.iter().map(|frame| [Piece::from_slice(&frame[frame.len().min(50)..])]).collect();
            let wires: Vec<Wire<'_>> =
                frames.iter().zip(&pieces).map(|(frame, rest)| Wire::plain(&frame[..50], rest)).collect();
            let outcome = port.transmit(&wires);
            assert_eq!(outcome.fault, None);
            assert!(outcome.refused.iter().all(|(_, reason)| *reason == Refusal::Full));
            assert!(outcome.refused.is_sorted(), "in ascending order");
            let lost: Vec<usize> = outcome.refused.iter().map(|(index, _)| usize::from(*index)).collect();
            refused += lost.len();
            sent.extend(frames.into_iter().enumerate().filter(|(n, _)| !lost.contains(n)).map(|(_, f)| f));
            if !lost.is_empty() {
                break;
            }
        }
        let (now, later) = sent.split_at(drained.min(sent.len()));
        assert!(drained == usize::MAX || !later.is_empty(), "the socket holds more than that");
        // The last of all may need its second half to be sent first.
        for expected in &now[..now.len() - 1] {
            assert_eq!(read_frame(&mut peer), *expected);
        }
        receive(&mut port);
        assert_eq!(read_frame(&mut peer), now[now.len() - 1]);
        sent = later.to_vec();
    }
    assert!(refused > 0 && !port.outbound.is_cut());
    peer.set_nonblocking(true).unwrap();
    assert!(peer.read(&mut [0; 1]).is_err(), "nothing but the frames");
}

#[test]
fn a_cut_frame_goes_on_when_epoll_says_that_there_is_room() {
    let (mut port, mut peer) = pair();
    let mut poll = Poll::new().unwrap();
    let mut events = Events::with_capacity(8);
    port.register(poll.registry(), Token(7)).unwrap();
    let frame = vec![0x55; FRAME_LEN_MAX];
    let mut sent = 0;
    while port.transmit(&[Wire::plain(&frame, &[])]).refused.is_empty() {
        sent += 1;
        if port.outbound.is_cut() {
            break;
        }
    }
    assert!(port.outbound.is_cut() && port.is_armed, "a frame this long does not fit whole at the end");
    let read = std::thread::spawn(move || {
        (0..sent).for_each(|_| assert!(read_frame(&mut peer) == vec![0x55; FRAME_LEN_MAX]));
        peer
    });
    while port.outbound.is_cut() {
        poll.poll(&mut events, Some(Duration::from_secs(20))).unwrap();
        assert!(!events.is_empty(), "told of the room");
        receive(&mut port);
    }
    let mut peer = read.join().unwrap();
    assert!(!port.is_armed, "and of nothing more");
    // Each read of the peer makes room; none of them is of interest now.
    let _ = poll.poll(&mut events, Some(Duration::ZERO));
    assert!(port.transmit(&[Wire::plain(&frame[..60], &[])]).refused.is_empty());
    read_frame(&mut peer);
    poll.poll(&mut events, Some(Duration::from_millis(20))).unwrap();
    assert!(events.is_empty());
}

#[test]
fn no_frame_is_sent_to_a_peer_that_is_gone() {
    let (mut port, peer) = pair();
    drop(peer);
    let outcome = port.transmit(&[Wire::plain(&[1; 60], &[]), Wire::plain(&[2; 60], &[])]);
    assert_eq!(outcome.refused.as_slice(), [(0, Refusal::Down), (1, Refusal::Down)]);
    assert_eq!(outcome.fault, Some(Fault::Down));
}

#[test]
fn frames_of_any_shape_go_out_and_impossible_ones_are_refused_alone() {
    let (mut port, mut peer) = pair();
    let bytes = vec![9u8; 4000];
    let scattered: Vec<Piece<'_>> = (0..900).map(|n| Piece::from_slice(&bytes[2 * n..=2 * n])).collect();
    let hopeless: Vec<Piece<'_>> = (0..1100).map(|n| Piece::from_slice(&bytes[2 * n..=2 * n])).collect();
    let long = vec![1u8; FRAME_LEN_MAX + 1];
    let wires = [
        Wire::plain(&bytes[..60], &scattered),
        Wire::plain(&bytes[..60], &hopeless),
        Wire::plain(&bytes[..61], &scattered),
        Wire::plain(&long, &[]),
        Wire::plain(&bytes[..62], &[]),
    ];
    let outcome = port.transmit(&wires);
    assert_eq!(outcome.refused.as_slice(), [(1, Refusal::Invalid), (3, Refusal::Oversize)]);
    for len in [960, 961, 62] {
        assert_eq!(read_frame(&mut peer), vec![9; len]);
    }
}

/// A guest's memory whose file became shorter: to read it is a fault.
#[test]
fn memory_that_is_gone_is_its_senders_fault_and_not_the_peers() {
    let (mut port, mut peer) = pair();
    let gone = crate::port::gone::Gone::new();
    let rest = [Piece::new(gone.as_ptr(), 100)];
    let wires = [Wire::plain(&[1; 60], &[]), Wire::plain(&[2; 60], &rest), Wire::plain(&[3; 60], &[])];
    let sent = port.transmit(&wires);
    assert_eq!((&sent.refused[..], sent.fault), (&[(1, Refusal::Error)][..], None));
    assert_eq!([read_frame(&mut peer), read_frame(&mut peer)], [[1; 60], [3; 60]]);
}
