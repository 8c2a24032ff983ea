//! `vswitch capture` on vhost-user ports. Their frames lie in memory that the guest
//! may write again as soon as the switch has taken them, which these guests do:
//! what is captured is what crossed.
//!
//! Deliberately absent: captures on devices of the kernel, which are in `netns`.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use vswitch::capture::state::{PortSums, Sums};
use vswitch::control::{PortState, PortStats};
use vswitch_tests::capture::{Capture, FrameRead, Way};
use vswitch_tests::capturing::{Capturing, check_sums};
use vswitch_tests::clock::{Deadline, wait_for, wait_until};
use vswitch_tests::process::binary;
use vswitch_tests::start;
use vswitch_tests::vhost::{Choice, Guest, PackedGuest, QUEUE_LEN, feature};

use crate::ports::{Rig, SOON, UNKNOWN, frame};

/// Stations of the guests at p0 and p1, of split queues, and at p2, of packed ones.
const A: u8 = 0x0a;
const B: u8 = 0x0b;
const C: u8 = 0x0c;

/// Around the head's 256 bytes, and up to the MTU.
const LENGTHS: [usize; 8] = [14, 15, 60, 255, 256, 257, 1000, 1514];

/// A virtio-net header that leaves nothing to anybody.
const PLAIN: [u8; 10] = [0; 10];

/// One record that a capture of everything must have.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Crossed {
    interface: String,
    way: Way,
    bytes: Vec<u8>,
    comment: String,
}

impl Crossed {
    fn of(read: &FrameRead) -> Crossed {
        let FrameRead { interface, way, bytes, comment, .. } = read.clone();
        Crossed { interface, way, bytes, comment }
    }
}

/// A switch of three guests, and what has crossed its ports.
struct Lan {
    rig: Rig,
    split: [Guest; 2],
    packed: PackedGuest,
    /// Frames sent by the guests of split queues.
    sent: [u16; 2],
    crossed: Vec<Crossed>,
    /// What p1's guest got.
    received: Vec<Vec<u8>>,
}

impl Lan {
    fn new() -> Result<Lan> {
        let rig = Rig::new(&["vhost-user"; 3])?;
        let choice = Choice::default().and(feature::CSUM);
        let split = [Guest::connect_as(&rig.path(0), choice)?, Guest::connect_as(&rig.path(1), choice)?];
        let packed = PackedGuest::connect(&rig.path(2), Choice::default())?;
        (0..3).try_for_each(|number| rig.wait_state(number, PortState::Up))?;
        Ok(Lan { rig, split, packed, sent: [0; 2], crossed: Vec::new(), received: Vec::new() })
    }

    /// Guest `from` sends a frame, and writes over it as soon as it was taken.
    fn send(&mut self, from: usize, header: &[u8; 10], bytes: &[u8]) -> Result<()> {
        let limit = Deadline::after(SOON);
        let (guest, place) = if let Some(guest) = self.split.get_mut(from) {
            guest.send_by(0, header, bytes)?;
            while guest.unsent() > 0 {
                ensure!(!limit.passed(), "p{from}'s frame is not taken");
                std::hint::spin_loop();
            }
            let place = self.sent[from] % (QUEUE_LEN / 2);
            self.sent[from] += 1;
            (&self.split[from], place)
        } else {
            self.packed.send_in(7, bytes)?;
            while self.packed.unsent()? > 0 {
                ensure!(!limit.passed(), "p{from}'s frame is not taken");
                std::hint::spin_loop();
            }
            // It sends one frame only.
            (&self.packed.guest, 0)
        };
        let buffer = Guest::buffer(QUEUE_LEN / 2 + place);
        ensure!(guest.read(buffer + 12, bytes.len()) == bytes, "that is where the frame was");
        guest.write(buffer, &vec![0xa5; 12 + bytes.len()]);
        Ok(())
    }

    /// The next frame that guest `to` gets, without its virtio-net header.
    fn next(&mut self, to: usize) -> Result<Vec<u8>> {
        let got = wait_for(&format!("a frame at p{to}"), SOON, || {
            let got = match self.split.get_mut(to) {
                Some(guest) => guest.receive(),
                None => self.packed.receive(),
            };
            got.transpose()
        })??;
        Ok(got.get(12..).context("a header")?.to_vec())
    }

    /// Notes that the frame came in by `from`, and what its comment is.
    fn came(&mut self, from: usize, bytes: &[u8], comment: &str) {
        let (interface, comment) = (format!("p{from}"), comment.to_owned());
        self.crossed.push(Crossed { interface, way: Way::Inbound, bytes: bytes.to_vec(), comment });
    }

    /// Notes its copy at `to`.
    fn left(&mut self, to: usize, bytes: &[u8], comment: String) {
        self.crossed.push(Crossed {
            interface: format!("p{to}"),
            way: Way::Outbound,
            bytes: bytes.to_vec(),
            comment,
        });
    }

    /// A frame crosses from `from` to each of `to`, where it is as it was sent.
    fn crosses(&mut self, from: usize, to: &[usize], bytes: &[u8], comment: &str) -> Result<()> {
        self.send(from, &PLAIN, bytes)?;
        self.came(from, bytes, comment);
        for to in to {
            let got = self.next(*to)?;
            ensure!(got == bytes, "{} bytes to p{to}: {got:02x?}", bytes.len());
            self.left(*to, bytes, format!("from p{from}"));
            if *to == 1 {
                self.received.push(got);
            }
        }
        Ok(())
    }

    /// A frame of p0's ends where `count` of a port counts it.
    fn ends(&mut self, bytes: &[u8], comment: &str, count: impl Fn(&Rig) -> Result<u64>) -> Result<()> {
        let before = count(&self.rig)?;
        self.send(0, &PLAIN, bytes)?;
        self.came(0, bytes, comment);
        wait_until(comment, SOON, || count(&self.rig).is_ok_and(|now| now == before + 1))
    }
}

/// UDP of IPv4 from A to B, `len` bytes, with the sum of the pseudo-header where its
/// checksum will be; and the virtio-net header that says so.
fn unfinished(len: usize) -> Result<([u8; 10], Vec<u8>)> {
    let mut bytes = frame(B, A, len);
    let (ip, udp) = (u16::try_from(len - 14)?, u16::try_from(len - 34)?);
    bytes[12..14].copy_from_slice(&[8, 0]);
    bytes[14..34].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    bytes[16..18].copy_from_slice(&ip.to_be_bytes());
    bytes[34..42].copy_from_slice(&[0x30, 0x39, 0x30, 0x39, 0, 0, 0, 0]);
    bytes[38..40].copy_from_slice(&udp.to_be_bytes());
    let sum = sum(&[&bytes[26..34], &[0, 17], &udp.to_be_bytes()].concat());
    bytes[40..42].copy_from_slice(&sum.to_be_bytes());
    // NEEDS_CSUM, the checksum begins at the UDP header, and is its bytes 6 and 7.
    Ok(([1, 0, 0, 0, 0, 0, 34, 0, 6, 0], bytes))
}

/// The one's complement sum of RFC 1071.
fn sum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

/// Everything that is to be captured.
fn talk(lan: &mut Lan) -> Result<()> {
    lan.crosses(0, &[1, 2], &frame(UNKNOWN, A, 60), "learned p0; flooded to p1 p2")?;
    lan.crosses(1, &[0], &frame(A, B, 300), "learned p1; forwarded to p0")?;
    lan.crosses(2, &[0], &frame(A, C, 700), "learned p2; forwarded to p0")?;
    for len in LENGTHS {
        lan.crosses(0, &[1], &frame(B, A, len), "forwarded to p1")?;
        lan.crosses(1, &[2], &frame(C, B, len), "forwarded to p2")?;
    }
    // p1's guest does not finish checksums: it gets this one finished.
    let (header, bytes) = unfinished(600)?;
    lan.send(0, &header, &bytes)?;
    let got = lan.next(1)?;
    let finished = sum(&[&got[26..34], &[0, 17], &got[38..40], &got[34..]].concat());
    ensure!(finished == 0xffff && got[..40] == bytes[..40] && got[42..] == bytes[42..], "{got:02x?}");
    lan.came(0, &bytes, "checksum unfinished; forwarded to p1");
    lan.left(1, &bytes, "from p0".to_owned());
    lan.received.push(got);

    let drops = |name: &'static str| move |rig: &Rig| Ok(rig.stats(0)?.drops[name]);
    lan.ends(&frame(B, A, 14)[..13], "dropped: runt", drops("runt"))?;
    lan.ends(&frame(A, A, 257), "dropped: filtered", drops("filtered"))?;
    let giant = frame(B, A, 1515);
    lan.ends(&giant, "forwarded to p1", |rig| Ok(rig.stats(1)?.refused["oversize"]))?;
    lan.left(1, &giant, "from p0; refused: oversize".to_owned());
    // And it is well afterwards.
    lan.crosses(0, &[1], &frame(B, A, 60), "forwarded to p1")
}

/// Frames of one kind are captured or lost, as many as the switch counted.
fn counted(what: &str, sums: &Sums, captured: usize, counter: u64) -> Result<()> {
    ensure!(captured as u64 + sums.lost == sums.counted, "{what}: {captured} captured, {sums:?}");
    ensure!(sums.counted == counter, "{what}: {counter} by vswitch stats, {sums:?}");
    Ok(())
}

/// The sums of a capture of everything, that began before the first frame, against
/// its frames and against the switch's counters.
fn check_counters(rig: &Rig, capture: &Capture) -> Result<()> {
    for (number, port) in capture.end().ports.iter().enumerate() {
        let PortSums { name, forwarded, dropped, sent, refused } = port;
        let stats: PortStats = rig.stats(number)?;
        ensure!(*name == stats.name, "{name}: {stats:?}");
        let captured = |way, words: &str| {
            let ends = |frame: &&FrameRead| {
                frame.interface == *name && frame.way == way && frame.comment.contains(words)
            };
            capture.frames.iter().filter(ends).count()
        };
        let (drops, refusals) = (captured(Way::Inbound, "dropped: "), captured(Way::Outbound, "refused: "));
        counted(name, dropped, drops, stats.drops.values().sum())?;
        counted(name, refused, refusals, stats.refused.values().sum())?;
        counted(name, forwarded, captured(Way::Inbound, "") - drops, stats.forwarded)?;
        counted(name, sent, captured(Way::Outbound, "") - refusals, stats.tx)?;
    }
    Ok(())
}

#[test]
fn frames_in_shared_memory_are_captured_as_they_crossed() -> Result<()> {
    let mut lan = Lan::new()?;
    let switch = lan.rig.switch();
    let mut all = Capturing::start(switch, &[])?;
    let mut cut = Capturing::start(switch, &["--snaplen", "300", "--direction", "in"])?;
    let mut finished = Capturing::start(switch, &["--segment", "--port", "p1", "--direction", "out"])?;
    talk(&mut lan)?;
    let (capture, cut, finished) = (all.end()?, cut.end()?, finished.end()?);
    [&capture, &cut, &finished].into_iter().try_for_each(check_sums)?;

    check_counters(&lan.rig, &capture)?;
    ensure!(capture.end().missed == 0 && capture.start().complete, "{:?}", capture.end());
    let read: Vec<Crossed> = capture.frames.iter().map(Crossed::of).collect();
    for (number, (read, crossed)) in read.iter().zip(&lan.crossed).enumerate() {
        ensure!(read == crossed, "record {number}: {read:02x?}\ninstead of {crossed:02x?}");
    }
    ensure!(read.len() == lan.crossed.len(), "{} records, not {}", read.len(), lan.crossed.len());
    // A copy follows its frame, and has its number.
    for pair in capture.frames.windows(2) {
        let is_copy = pair[1].way == Way::Outbound;
        ensure!((pair[0].id == pair[1].id) == is_copy, "{pair:?}");
    }

    let came = lan.crossed.iter().filter(|crossed| crossed.way == Way::Inbound);
    let came: Vec<_> = came.map(|crossed| (crossed.bytes.len(), &crossed.bytes)).collect();
    ensure!(cut.frames.len() == came.len(), "{} frames came in", came.len());
    for (read, (len, bytes)) in cut.frames.iter().zip(came) {
        ensure!(read.len == len && read.bytes == bytes[..len.min(300)], "{read:02x?} of {bytes:02x?}");
    }

    let readers: Vec<_> =
        finished.frames.iter().map(|frame| (&frame.bytes, frame.comment.as_str())).collect();
    let guests: Vec<_> = lan.received.iter().map(|bytes| (bytes, "from p0")).collect();
    ensure!(readers == guests, "{readers:02x?}\ninstead of {guests:02x?}");

    // Judged once more, they end as they did.
    let replayed = start::output(Command::new(binary("vswitch")?).arg("replay").arg(all.file()))?;
    let said = String::from_utf8(replayed.stdout)?;
    let frames = capture.frames.iter().filter(|frame| frame.way == Way::Inbound).count();
    ensure!(replayed.status.success() && said.contains(&format!(": {frames} verdicts reproduced")), "{said}");
    Ok(())
}
