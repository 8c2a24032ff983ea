//! What a decision tells beside what it does, on random histories.

use super::*;
use crate::frame::{Frame, MacAddr, VlanId};
use crate::offload::VnetHeader;
use proptest::prelude::*;
use std::time::Duration;

const PORTS: u8 = 4;

fn port(number: u8) -> PortId {
    PortId::new(number)
}

/// One thing that happens to a bridge.
#[derive(Clone, Debug)]
enum Event {
    Burst { ingress: u8, frames: Vec<(u64, u64, usize)> },
    Pin { port: u8, mac: u64 },
    Set { port: u8, settings: PortSettings },
    Link { port: u8, up: bool },
    Pass { millis: u64 },
}

fn settings() -> impl Strategy<Value = PortSettings> {
    (any::<[bool; 4]>(), any::<bool>(), any::<bool>(), any::<bool>(), prop::option::of(0..4u32)).prop_map(
        |([learning, flood, mcast_flood, bcast_flood], isolated, locked, transparent, max_macs)| {
            PortSettings {
                learning,
                flood,
                mcast_flood,
                bcast_flood,
                isolated,
                locked,
                transparent,
                max_macs,
            }
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    let frames = prop::collection::vec((0..14u64, 0..14u64, 10..18usize), 1..12);
    prop_oneof![
        12 => (0..=PORTS, frames).prop_map(|(ingress, frames)| Event::Burst { ingress, frames }),
        1 => (0..PORTS, 1..12u64).prop_map(|(port, mac)| Event::Pin { port, mac }),
        1 => (0..PORTS, settings()).prop_map(|(port, settings)| Event::Set { port, settings }),
        1 => (0..PORTS, any::<bool>()).prop_map(|(port, up)| Event::Link { port, up }),
        3 => (0..4000u64).prop_map(|millis| Event::Pass { millis }),
    ]
}

/// Addresses of every sort, few enough to meet again.
fn mac(number: u64) -> MacAddr {
    MacAddr::from_u64(match number {
        12 => 0x0180_c200_0000,
        13 => 0xffff_ffff_ffff,
        11 => 0x0180_c200_0001,
        10 => 0x0100_5e00_0001,
        station => station,
    })
}

fn bytes(dst: u64, src: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; 18];
    bytes[..6].copy_from_slice(&mac(dst).octets());
    bytes[6..12].copy_from_slice(&mac(src).octets());
    bytes[12..14].copy_from_slice(&[0x81, 0x00]);
    bytes.truncate(len);
    bytes
}

fn bridge(fdb_size: u32) -> Bridge {
    let settings = Settings { fdb_size, ageing: Duration::from_secs(5), transparent: false };
    let mut bridge = Bridge::new(settings, [3, 5]);
    for number in 0..PORTS {
        bridge.add_port(port(number), PortSettings::default());
        bridge.set_link(port(number), true);
    }
    bridge
}

/// Everything that can be seen of a bridge.
fn seen(bridge: &mut Bridge, now: Time) -> (Vec<FdbEntry>, u32, Vec<PortCounters>, Vec<Move>, usize) {
    (
        bridge.fdb_entries(now).collect(),
        bridge.fdb_len(),
        (0..=PORTS).map(|number| bridge.counters().port(port(number)).clone()).collect(),
        bridge.moves().to_vec(),
        bridge.take_recalled().count(),
    )
}

proptest! {
    /// A trace says what the frame would come to, and the frame then comes to
    /// that; a bridge that was asked before each frame is the same as one that
    /// never was, to the last age and counter. What a bridge tells of a whole burst
    /// while it forwards it is what was said of each of its frames.
    #[test]
    fn a_trace_says_what_then_happens_and_changes_nothing(
        events in prop::collection::vec(event(), 1..40),
        fdb_size in 1..10u32,
    ) {
        let (mut asked, mut unasked) = (bridge(fdb_size), bridge(fdb_size));
        let mut telling = bridge(fdb_size);
        let mut now = Time::START;
        for event in events {
            match event {
                Event::Burst { ingress, frames } => {
                    let ingress = port(ingress);
                    let bytes: Vec<Vec<u8>> =
                        frames.iter().map(|(dst, src, len)| bytes(*dst, *src, *len)).collect();
                    let frames: Vec<Frame<'_>> =
                        bytes.iter().map(|bytes| Frame::new(bytes, &[], VnetHeader::PLAIN)).collect();
                    let (mut told, mut stories, mut verdicts) = Default::default();
                    unasked.forward_burst(now, ingress, &frames, &mut verdicts);
                    let mut accounts = Vec::new();
                    let each = |account| accounts.push(account);
                    telling.forward_burst_explained(now, ingress, &frames, &mut told, each);
                    prop_assert_eq!(&told[..], &verdicts[..]);
                    prop_assert_eq!(accounts.len(), frames.len());
                    for ((frame, verdict), explained) in frames.iter().zip(&verdicts).zip(&accounts) {
                        let account = asked.trace(now, ingress, frame);
                        prop_assert_eq!(account.story.verdict, *verdict);
                        prop_assert_eq!(&account, explained);
                        asked.forward_burst_told(now, ingress, &[*frame], &mut told, &mut stories);
                        prop_assert_eq!(&told[..], &[*verdict]);
                        prop_assert_eq!(&stories[..], &[account.story]);
                        if let Some((vid, mac)) = account.victim {
                            prop_assert_eq!(asked.station(now, vid, mac), None);
                        }
                        every_port_is_accounted_for(&asked, ingress, &account)?;
                    }
                    let one_by_one = seen(&mut asked, now);
                    prop_assert_eq!(&one_by_one, &seen(&mut unasked, now));
                    prop_assert_eq!(one_by_one, seen(&mut telling, now));
                }
                Event::Pin { port: number, mac } => {
                    for bridge in [&mut asked, &mut unasked, &mut telling] {
                        let (vid, mac) = (VlanId::UNAWARE, MacAddr::from_u64(mac));
                        let _ = bridge.fdb_add(now, vid, mac, port(number), EntryKind::Static);
                    }
                }
                Event::Set { port: number, settings } => {
                    for bridge in [&mut asked, &mut unasked, &mut telling] {
                        bridge.set_port(port(number), settings);
                    }
                }
                Event::Link { port: number, up } => {
                    for bridge in [&mut asked, &mut unasked, &mut telling] {
                        bridge.set_link(port(number), up);
                    }
                }
                Event::Pass { millis } => now = now.after(Duration::from_millis(millis)),
            }
        }
    }

    /// Stories of a burst are those of its frames one by one.
    #[test]
    fn a_burst_tells_what_single_frames_tell(
        bursts in prop::collection::vec(
            (0..PORTS, prop::collection::vec((0..14u64, 0..14u64, 10..18usize, 1..6usize), 1..=BURST)), 1..8,
        ),
        fdb_size in 1..10u32,
    ) {
        let (mut single, mut burst) = (bridge(fdb_size), bridge(fdb_size));
        for (ingress, frames) in bursts {
            let bytes: Vec<Vec<u8>> = frames
                .iter()
                .flat_map(|(dst, src, len, times)| std::iter::repeat_n(bytes(*dst, *src, *len), *times))
                .take(BURST)
                .collect();
            let frames: Vec<Frame<'_>> =
                bytes.iter().map(|bytes| Frame::new(bytes, &[], VnetHeader::PLAIN)).collect();
            let (mut verdicts, mut stories) = Default::default();
            burst.forward_burst_told(Time::START, port(ingress), &frames, &mut verdicts, &mut stories);
            let expected: Vec<Story> = frames
                .iter()
                .map(|frame| {
                    let account = single.trace(Time::START, port(ingress), frame);
                    single.forward(Time::START, port(ingress), frame);
                    account.story
                })
                .collect();
            prop_assert_eq!(&stories[..], &expected[..]);
            prop_assert!(verdicts.iter().eq(stories.iter().map(|story| &story.verdict)));
        }
    }
}

/// What was flooded goes to each port, or is withheld from it for one reason.
fn every_port_is_accounted_for(
    bridge: &Bridge,
    ingress: PortId,
    account: &Account,
) -> Result<(), TestCaseError> {
    let story = &account.story;
    if !matches!(story.look_up, LookUp::Broadcast | LookUp::Multicast | LookUp::Unknown) {
        return Ok(());
    }
    let to = match story.verdict {
        Verdict::Forward { to, .. } => to,
        Verdict::Drop(_) => PortSet::EMPTY,
    };
    let sets = [
        to,
        account.withheld(Withheld::Down),
        account.withheld(Withheld::Closed),
        account.withheld(Withheld::Isolated),
    ];
    let all = sets.iter().fold(PortSet::EMPTY, |all, set| all | *set);
    prop_assert_eq!(all, bridge.ports().without(PortSet::one(ingress)));
    prop_assert_eq!(sets.iter().map(PortSet::len).sum::<u32>(), all.len());
    Ok(())
}
