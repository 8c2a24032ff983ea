//! Measured flows: frames with a number and a time on each, sent by a
//! generator and counted one by one by a sink.
//!
//! Read in this order: [`frame`] (what is on the wire), [`device`] (TAPs and
//! packet sockets, where it enters and leaves), [`generator`], [`received`],
//! [`sink`].
//!
//! A sink that saw every number once, in order and unharmed is the only proof
//! that a switch works; device counters are not.
//!
//! Deliberately absent: batches. A TAP takes and gives one frame a call, as it
//! does to QEMU.

pub mod device;
pub mod frame;
pub mod generator;
pub mod received;
pub mod sink;

pub use device::Device;
pub use frame::{Flow, read_stamp};
pub use generator::{Pace, Sent, Until, generate, generate_in_turn, two_cpus};
pub use received::Received;
pub use sink::Sink;

use std::time::Duration;

use anyhow::Result;

/// Quiet time after which the rest of a flow counts as lost: on a machine that
/// is busy with other things a switch or a sink may not run for a second.
pub const QUIET: Duration = Duration::from_secs(2);

/// Sends `flow` from `from` and counts it at `to`.
///
/// # Errors
/// Either device failed.
pub fn run(from: &Device, to: &Device, flow: &Flow, pace: Pace, until: Until) -> Result<(Sent, Received)> {
    let sink = Sink::start(to.clone(), std::slice::from_ref(flow), None)?;
    let sent = generate(from, flow, pace, until, None)?;
    let mut received = sink.finish(sent.frames, QUIET)?;
    // One flow went in, so one count comes out.
    Ok((sent, received.remove(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::{Netns, veth};
    use vswitch::frame::MacAddr;

    fn flow(id: u16, len: usize) -> Flow {
        Flow::new(id, MacAddr::new([2, 0, 0, 0, 0, 1]), MacAddr::new([2, 0, 0, 0, 0, 2]), len)
    }

    #[test]
    fn packet_sockets_over_a_veth_lose_nothing_at_a_modest_rate() {
        crate::require!(root);
        let (a, b) = (Netns::new("a").unwrap(), Netns::new("b").unwrap());
        veth(&a, "e0", &b, "e0").unwrap();
        a.up("e0").unwrap();
        b.up("e0").unwrap();
        a.wait_running("e0").unwrap();
        let (from, to) = (Device::packet(&a, "e0").unwrap(), Device::packet(&b, "e0").unwrap());
        let (sent, received) =
            run(&from, &to, &flow(1, 60), Pace::Rate(5_000.0), Until::Count(2_000)).unwrap();
        received.assert_clean(&sent);
        assert_eq!(received.frames, 2_000);
        assert!(received.latency_ns.value_at_quantile(0.5) > 0);
    }

    /// A bridge joins two TAPs; each end is held as QEMU would.
    #[test]
    fn taps_carry_plain_frames_and_whole_super_frames() {
        crate::require!(root, tun);
        for vnet_hdr in [false, true] {
            let ns = Netns::new("t").unwrap();
            let open = |name| {
                if vnet_hdr { Device::tap_with_offloads(&ns, name) } else { Device::tap(&ns, name) }.unwrap()
            };
            let (from, to) = (open("t0"), open("t1"));
            ns.run("ip link add br0 type bridge").unwrap();
            for name in ["t0", "t1", "br0"] {
                if name != "br0" {
                    ns.run(&format!("ip link set {name} master br0")).unwrap();
                }
                ns.up(name).unwrap();
            }
            ns.wait_running("br0").unwrap();
            let (sent, received) =
                run(&from, &to, &flow(7, 512), Pace::Rate(5_000.0), Until::Count(500)).unwrap();
            received.assert_clean(&sent);
            if vnet_hdr {
                let big = flow(8, 65_000).with_segments(1_448);
                let (sent, received) = run(&from, &to, &big, Pace::Rate(1_000.0), Until::Count(200)).unwrap();
                received.assert_clean(&sent);
                assert_eq!(received.super_frames, 200, "crossed whole");
            }
        }
    }

    /// Three ends of a bridge, each sending to the other two by turns.
    #[test]
    fn one_generator_and_one_sink_serve_many_devices() {
        crate::require!(root, tun);
        let ns = Netns::new("m").unwrap();
        ns.run("ip link add br0 type bridge").unwrap();
        let names = ["t0", "t1", "t2"];
        let devices = names.map(|name| {
            let device = Device::tap(&ns, name).unwrap();
            ns.run(&format!("ip link set {name} master br0 up")).unwrap();
            device
        });
        ns.up("br0").unwrap();
        ns.wait_running("br0").unwrap();
        let station = |at: u8| MacAddr::new([2, 0, 0, 0, 0, at + 1]);
        let flow = |from: u8, to: u8| Flow::new(u16::from(10 * from + to), station(to), station(from), 60);
        let pairs = [(0, 1), (1, 2), (2, 0), (0, 2), (1, 0), (2, 1)];
        let flows = pairs.map(|(from, to)| flow(from, to));
        let lanes: Vec<(&Device, &Flow)> =
            pairs.iter().zip(&flows).map(|((from, _), flow)| (&devices[usize::from(*from)], flow)).collect();
        let ends = [0, 1, 2].map(|at: u8| {
            let here = pairs.iter().zip(&flows).filter(|((_, to), _)| *to == at);
            (devices[usize::from(at)].clone(), here.map(|(_, flow)| flow.clone()).collect())
        });
        let sink = Sink::start_many(ends.into(), None).unwrap();
        let sent = generate_in_turn(&lanes, Pace::Rate(5_000.0), Until::Count(600), None).unwrap();
        let received = sink.finish(sent.frames, QUIET).unwrap();
        assert_eq!(received.len(), 6);
        for of_one in received {
            of_one.assert_clean(&Sent { frames: 100, ..sent.clone() });
        }
    }

    #[test]
    fn a_sink_that_runs_first_is_no_ordinary_thread() {
        crate::require!(root, tun);
        let ns = Netns::new("f").unwrap();
        let device = Device::tap(&ns, "t0").unwrap();
        let [here, there] = two_cpus().unwrap();
        assert!(here != there || here.is_none(), "{here:?} {there:?}");
        let sink = Sink::start_first(vec![(device, vec![flow(1, 60)])], there).unwrap();
        // Field 41 of proc_pid_stat(5); 1 is SCHED_FIFO. The name, in brackets, is the second.
        let runs_first = |stat: &str| {
            let behind = stat.rsplit_once(") ").map(|(_, fields)| fields);
            stat.contains("(sink)") && behind.and_then(|fields| fields.split(' ').nth(38)) == Some("1")
        };
        crate::clock::wait_until("a sink that runs first", QUIET, || {
            let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
            threads
                .filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok())
                .any(|stat| runs_first(&stat))
        })
        .unwrap();
        sink.finish(0, Duration::ZERO).unwrap();
    }

    #[test]
    fn a_sink_sees_loss_and_harm() {
        crate::require!(root, tun);
        let ns = Netns::new("l").unwrap();
        let from = Device::tap(&ns, "t0").unwrap();
        let to = Device::tap(&ns, "t1").unwrap();
        ns.up("t0").unwrap();
        ns.up("t1").unwrap();
        // Nothing joins them.
        let (sent, received) = run(&from, &to, &flow(1, 60), Pace::Saturate, Until::Count(10)).unwrap();
        assert_eq!((sent.frames, received.frames, received.lost(&sent)), (10, 0, 10));
    }
}
