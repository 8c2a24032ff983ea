//! A04 and A05 as far as the bridge decides them, and A06 where an operator has
//! bound the victim's address.

use vswitch::bridge::{Bridge, PortId, PortSet, PortSettings, Settings, Time, Verdict};
use vswitch::frame::{Frame, MacAddr, VlanId};
use vswitch::offload::VnetHeader;
use vswitch_tests::scenario::{Random, check};

const ATTACKER: PortId = PortId::new(0);

fn send(bridge: &mut Bridge, now: Time, port: PortId, src: MacAddr, dst: MacAddr) -> Verdict {
    let bytes = [&dst.octets()[..], &src.octets(), &[0x08, 0x00]].concat();
    bridge.forward(now, port, &Frame::new(&bytes, &[], VnetHeader::PLAIN))
}

fn bridge(ports: u8, fdb_size: u32, secret: [u64; 2]) -> Bridge {
    let mut bridge = Bridge::new(Settings { fdb_size, ..Settings::default() }, secret);
    for port in (0..ports).map(PortId::new) {
        bridge.add_port(port, PortSettings::default());
        bridge.set_link(port, true);
    }
    bridge
}

fn random_mac(random: &mut Random) -> MacAddr {
    MacAddr::from_u64(random.next_u64() & 0x00ff_ffff_ffff | 0x0600_0000_0000)
}

/// A million random sources on one port, 32 stations on four others, each of
/// which talks every 8 ms of a minute's attack; some come only when the table
/// is full.
#[test]
fn a04_a_flood_of_sources_evicts_nobody() {
    const FULL: u64 = 20_480;
    for fdb_size in [256, 8192] {
        let mut bridge = bridge(5, fdb_size, [17, 19]);
        let mut random = Random::new(4);
        let victim = |number: u8| (MacAddr::new([2, 0, 0, 0, 0, number]), PortId::new(1 + number % 4));
        for frame in 0..1_000_000u64 {
            let now = Time::from_nanos(frame * 60_000);
            let src = random_mac(&mut random);
            send(&mut bridge, now, ATTACKER, src, MacAddr::BROADCAST);
            if frame % 16_384 == 0 {
                bridge.sweep(now);
            }
            if frame % 4 != 0 {
                continue;
            }
            let number = u8::try_from(frame / 4 % 32).unwrap();
            // Half of them are there before the flood, half come when it has
            // filled the table.
            if frame < FULL && number % 2 == 1 {
                continue;
            }
            let (mac, port) = victim(number);
            let (peer, peer_port) = victim((number + 1) % 32);
            let verdict = send(&mut bridge, now, port, mac, peer);
            if frame > FULL + 4 * 64 {
                let expected =
                    Verdict::Forward { to: PortSet::one(peer_port), copies: 1, vid: VlanId::UNAWARE };
                assert_eq!(verdict, expected, "frame {frame}, victim {number}: to its peer, and no other");
            }
        }
        assert_eq!(bridge.fdb_len(), fdb_size, "the table was full");
        let now = Time::from_secs(60);
        let victims = bridge.fdb_entries(now).filter(|entry| entry.mac.octets()[0] == 2).count();
        assert_eq!(victims, 32);
        for port in (1..5).map(PortId::new) {
            assert_eq!(bridge.counters().port(port).learned, 8, "each was learned once");
            assert_eq!(bridge.counters().port(port).not_learned, 0);
        }
    }
}

/// 10,000 addresses that fall into one place of 1,024 under a hash that anybody
/// can compute: under ours, with any secret, they lie as random ones do.
#[test]
fn a05_chosen_addresses_cost_what_random_ones_do() {
    fn fnv(mac: MacAddr) -> u64 {
        mac.octets().iter().fold(0xcbf2_9ce4_8422_2325, |hash, octet| {
            (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3)
        })
    }
    fn golden(mac: MacAddr) -> u64 {
        mac.to_u64().wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
    /// Our own, with a secret that the attacker supposes.
    #[expect(clippy::cast_possible_truncation, reason = "both halves are wanted")]
    fn folded(mac: MacAddr) -> u64 {
        let fold = |a: u64, b: u64| {
            let product = u128::from(a) * u128::from(b);
            product as u64 ^ (product >> 64) as u64
        };
        fold(fold((1 << 63) | mac.to_u64() ^ 23, 29), 0x9e37_79b9_7f4a_7c15)
    }
    let choose = |hash: fn(MacAddr) -> u64, random: &mut Random| -> Vec<MacAddr> {
        let macs = std::iter::repeat_with(|| random_mac(random));
        macs.filter(|mac| hash(*mac) >> 54 == 5).take(10_000).collect()
    };
    let mut random = Random::new(5);
    let cost = |macs: &[MacAddr], secret| {
        let mut bridge = bridge(2, 16_384, secret);
        for mac in macs {
            send(&mut bridge, Time::START, ATTACKER, *mac, MacAddr::BROADCAST);
        }
        let spread = bridge.fdb_spread();
        assert_eq!(spread.len, 10_000);
        spread.probes
    };
    let honest: Vec<MacAddr> = (0..10_000).map(|_| random_mac(&mut random)).collect();
    for hash in [fnv, golden, folded] {
        let chosen = choose(hash, &mut random);
        for _ in 0..20 {
            let secret = [random.next_u64(), random.next_u64()];
            let (honest, chosen) = (cost(&honest, secret), cost(&chosen, secret));
            assert!(
                chosen < honest * 11 / 10,
                "{chosen} cache lines for chosen addresses, {honest} for random"
            );
        }
    }
    // The choice is a real one: who guesses the secret makes every look-up long.
    let chosen = choose(folded, &mut random);
    assert!(cost(&chosen, [23, 29]) > 10 * cost(&honest, [23, 29]));
}

#[test]
fn a06_a_bound_address_is_not_diverted() {
    for bound in ["static 0b on b", "sticky 0b on b"] {
        let claims = "send d 0b > *  expect a b c\n".repeat(1000);
        check(&format!(
            "ports a b c d
             {bound}
             {claims}send a 0a > 0b expect b
             count d spoofed 1000
             port d locked
             send d 0b > *  drop locked
             send a 0a > 0b expect b
             count d spoofed 1001"
        ));
    }
}
