//! A02 and A03: what we make of virtio-net headers, asked of the kernel too.
//!
//! The kernel is a TAP whose two sides we hold. Its fd side takes a frame with a
//! virtio-net header and says EINVAL where the header is bad; a packet socket on
//! its netdev side makes the kernel finish a checksum or cut a super-frame,
//! since a TAP without IFF_VNET_HDR has no offloads, and the fd side then gives
//! the frames that a wire would have seen.

mod kernel;
mod sample;
mod vxlan;

use std::io;

use proptest::prelude::Rng as _;
use proptest::test_runner::{RngAlgorithm, TestRng};
use vswitch::bridge::Refusal;
use vswitch::frame::{Frame, HEAD_MAX, Piece, Wire};
use vswitch::offload::{GSO_ECN, GSO_TCPV4, GSO_TCPV6, NEEDS_CSUM, Offload, VnetHeader, check};
use vswitch::port::{Finisher, Offloads, gather};
use vswitch_tests::flow::Device;
use vswitch_tests::netns::Netns;
use vswitch_tests::require;
use zerocopy::IntoBytes as _;

use kernel::Cutter;
use sample::Sample;

/// Calls `work` with the frame as a port would hand it over.
fn with_frame<T>(vnet: VnetHeader, bytes: &[u8], work: impl FnOnce(&Frame<'_>) -> T) -> T {
    let (head, rest) = bytes.split_at(bytes.len().min(HEAD_MAX));
    let pieces = [Piece::from_slice(rest)];
    work(&Frame::new(head, if rest.is_empty() { &[] } else { &pieces }, vnet))
}

fn bytes_of(wire: &Wire<'_>) -> Vec<u8> {
    let mut out = vec![0; wire.len()];
    assert_eq!(gather(wire, &mut out), out.len());
    out
}

/// What we send of a frame to a port without offloads.
fn ours(finisher: &mut Finisher, vnet: VnetHeader, bytes: &[u8]) -> Result<Vec<Vec<u8>>, Refusal> {
    with_frame(vnet, bytes, |frame| {
        assert_eq!(frame.fault(), None, "{vnet:?}");
        let finished = finisher.finish(frame, Offloads::NONE)?;
        assert!(finished.wires().all(|wire| wire.vnet == VnetHeader::PLAIN));
        Ok(finished.wires().map(|wire| bytes_of(&wire)).collect())
    })
}

/// Whether the kernel takes a frame with this header; any answer but "yes",
/// "longer than the MTU" and "invalid" fails the test.
fn kernel_takes(device: &Device, vnet: &VnetHeader, frame: &[u8]) -> bool {
    match device.write(&[vnet.as_bytes(), frame].concat()) {
        Ok(taken) => {
            assert!(taken, "queues are kept empty");
            true
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => false,
        Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => true,
        Err(error) => panic!("{error}: {vnet:?}"),
    }
}

fn our_verdict(vnet: &VnetHeader, frame: &[u8]) -> Option<Offload> {
    check(vnet, &frame[..frame.len().min(HEAD_MAX)], u32::try_from(frame.len()).unwrap()).ok()
}

/// What we take, the kernel takes, with the header that we pass on; what the
/// kernel refuses, we refuse, unless the frame is complete: then its header is
/// not looked at, and not passed on.
#[test]
fn a02_our_verdict_is_the_kernels_or_stricter() {
    require!(root, tun);
    let ns = Netns::new("a02").unwrap();
    let device = Device::tap_with_offloads(&ns, "a02").unwrap();
    ns.up("a02").unwrap();
    let netdev = Device::packet_with_offloads(&ns, "a02").unwrap();
    let mut buffer = vec![0; 70_000];
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, b"a02: headers that nobody sends..");
    let samples = sample::all();
    let (mut both, mut neither, mut stricter) = (0u32, 0u32, 0u32);
    let mut ask = |vnet: VnetHeader, frame: &[u8]| {
        let kernel = kernel_takes(&device, &vnet, frame);
        match our_verdict(&vnet, frame) {
            None if kernel => stricter += 1,
            None => neither += 1,
            Some(offload) => {
                assert!(
                    kernel || vnet.is_plain(),
                    "{offload:?} of {vnet:?} on {:02x?}",
                    &frame[..80.min(frame.len())]
                );
                // As a `tap:` port sends it, and as a `netdev` port does.
                assert!(kernel_takes(&device, &vnet.checked(offload), frame), "{vnet:?} passed on");
                assert!(kernel_takes(&netdev, &vnet.checked(offload), frame), "{vnet:?} passed on");
                while device.read(&mut buffer).unwrap().is_some() {}
                both += 1;
            }
        }
    };
    for Sample { vnet, frame, .. } in &samples {
        for lie in sample::lies(*vnet, frame.len()) {
            ask(lie, frame);
            for cut in [14, 20, 33, 34, 40, 53, 54, 60, 66, 86] {
                ask(lie, &frame[..cut.min(frame.len())]);
            }
        }
    }
    // The kernel counts csum_start from its own headroom, in 16 bits.
    for csum_start in [0x7fff, 0x8000, 0x8001, 0xfe00, 0xfff0, 0xfffe, 0xffff] {
        ask(VnetHeader { flags: NEEDS_CSUM, csum_start, ..VnetHeader::PLAIN }, &vec![0; 66_000]);
    }
    for round in 0..300_000usize {
        let Sample { mut vnet, ref frame, .. } = samples[round % samples.len()];
        let mut frame = frame[..frame.len().min(400)].to_vec();
        let random = rng.next_u64().to_le_bytes();
        match random[0] % 8 {
            0 => rng.fill_bytes(vnet.as_mut_bytes()),
            1 => vnet.as_mut_bytes()[usize::from(random[1]) % VnetHeader::LEN] = random[2],
            2 => vnet.as_mut_bytes()[usize::from(random[1]) % VnetHeader::LEN] ^= 1 << (random[2] % 8),
            3 => rng.fill_bytes(&mut frame[12..]),
            4 => frame[12 + usize::from(random[1]) % 90] = random[2],
            5 => frame[12 + usize::from(random[1]) % 90] ^= 1 << (random[2] % 8),
            6 => frame.truncate(14 + usize::from(random[1])),
            _ => {
                vnet.as_mut_bytes()[usize::from(random[1]) % VnetHeader::LEN] = random[2];
                vnet.as_mut_bytes()[usize::from(random[3]) % VnetHeader::LEN] = random[4];
            }
        }
        ask(vnet, &frame);
    }
    // The test is worth nothing if one of the three is rare.
    assert!(both > 10_000 && neither > 10_000 && stricter > 1000, "{both} {neither} {stricter}");
}

#[test]
fn a03_64_kib_in_segments_of_1_to_8_bytes() {
    let mut finisher = Finisher::new();
    for gso_size in 1..=8 {
        let sample = Sample::tcp4(&[], 65_000, gso_size);
        assert_eq!(ours(&mut finisher, sample.vnet, &sample.frame), Err(Refusal::Segments), "{gso_size}");
    }
    let honest = Sample::tcp4(&[], 65_000, 536);
    assert_eq!(ours(&mut finisher, honest.vnet, &honest.frame).map(|all| all.len()), Ok(122));
}

/// Every sort of super-frame, in sizes that divide and that do not: our
/// segments are the kernel's, byte for byte, IPv4 identifiers included.
#[test]
fn segments_are_the_kernels() {
    require!(root, tun);
    let cutter = Cutter::new("seg").unwrap();
    let mut finisher = Finisher::new();
    let mut compared = 0;
    for (len, gso_size) in
        [(3000, 1000), (3001, 1000), (257, 256), (2999, 777), (20_000, 1448), (60_001, 1400), (63_000, 501)]
    {
        for tags in [&[][..], &[0x8100], &[0x88a8, 0x8100]] {
            for mut sample in Sample::each(tags, len, gso_size) {
                for ecn in [0, GSO_ECN] {
                    if ecn != 0 && !matches!(sample.vnet.gso_type, GSO_TCPV4 | GSO_TCPV6) {
                        continue;
                    }
                    sample.vnet.gso_type |= ecn;
                    let kernel = cutter.cut(&sample.vnet, &sample.frame).unwrap();
                    let own = ours(&mut finisher, sample.vnet, &sample.frame).unwrap();
                    assert_eq!(own.len(), len.div_ceil(usize::from(gso_size)), "{}", sample.name);
                    assert_eq!(own.len(), kernel.len(), "{} {tags:x?} {len} {gso_size}", sample.name);
                    for (index, (own, kernel)) in own.iter().zip(&kernel).enumerate() {
                        let differs = own.iter().zip(kernel).position(|(a, b)| a != b);
                        assert!(
                            own == kernel,
                            "{} {tags:x?} {len} by {gso_size}, segment {index}: byte {differs:?} of {} and {}",
                            sample.name,
                            own.len(),
                            kernel.len()
                        );
                        compared += 1;
                    }
                }
            }
        }
    }
    assert!(compared > 1000, "{compared} segments");
}

/// A checksum that comes out as zero is written as the kernel writes it.
#[test]
fn zero_checksums_are_the_kernels() {
    require!(root, tun);
    let cutter = Cutter::new("zero").unwrap();
    let mut finisher = Finisher::new();
    for mut sample in Sample::each(&[], 3000, 1000) {
        let check_at = usize::from(sample.vnet.csum_start + sample.vnet.csum_offset);
        let word = |frame: &[u8], at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        // What is missing to a sum of all ones is added to the payload.
        let missing = word(&ours(&mut finisher, sample.vnet, &sample.frame).unwrap()[0], check_at);
        let payload_at = usize::from(sample.vnet.hdr_len);
        let (sum, carry) = word(&sample.frame, payload_at).overflowing_add(missing);
        let word_made = sum + u16::from(carry);
        sample.frame[payload_at..payload_at + 2].copy_from_slice(&word_made.to_be_bytes());
        let own = ours(&mut finisher, sample.vnet, &sample.frame).unwrap();
        let expected = if sample.vnet.csum_offset == 6 { 0xffff } else { 0 };
        assert_eq!(word(&own[0], check_at), expected, "{}", sample.name);
        assert!(own == cutter.cut(&sample.vnet, &sample.frame).unwrap(), "{}", sample.name);
    }
}

/// Checksums in usual and unusual places, also behind the head.
#[test]
fn completed_checksums_are_the_kernels() {
    require!(root, tun);
    let cutter = Cutter::new("sum").unwrap();
    let mut finisher = Finisher::new();
    for len in [0, 1, 2, 31, 200, 1001, 1400] {
        for sample in Sample::each(&[], len, 1400) {
            let frame_len = u16::try_from(sample.frame.len()).unwrap();
            let honest = (sample.vnet.csum_start, sample.vnet.csum_offset);
            for (csum_start, csum_offset) in
                [honest, (20, 0), (34, 1), (35, 2), (honest.0, frame_len - honest.0 - 2), (frame_len - 2, 0)]
            {
                let vnet = VnetHeader { flags: NEEDS_CSUM, csum_start, csum_offset, ..VnetHeader::PLAIN };
                let kernel = cutter.cut(&vnet, &sample.frame).unwrap();
                let own = ours(&mut finisher, vnet, &sample.frame).unwrap();
                assert!(own == kernel, "{} {len} bytes, {csum_start} + {csum_offset}", sample.name);
            }
        }
    }
}
