//! The table beside a map that cannot be wrong: `hashbrown` under the same
//! operations.

use super::*;
use hashbrown::HashMap;
use proptest::prelude::*;

const SECRET: [u64; 2] = [0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321];
const HOUR: Duration = Duration::from_secs(3600);

fn table(capacity: u32) -> Fdb {
    Fdb::new(capacity, HOUR, SECRET)
}

fn key(fdb: &Fdb, mac: u64) -> Key {
    fdb.key(VlanId::UNAWARE, MacAddr::from_u64(mac))
}

fn learn(fdb: &mut Fdb, mac: u64, port: u8, now: u64) -> Learned {
    let key = key(fdb, mac);
    fdb.learn(key, PortId::new(port), u32::MAX, now)
}

fn look_up(fdb: &Fdb, mac: u64, now: u64) -> Option<u8> {
    fdb.look_up(key(fdb, mac), now).map(PortId::get)
}

#[derive(Clone, Debug)]
enum Op {
    Learn { vid: u16, mac: u64, port: u8 },
    Pin { vid: u16, mac: u64, port: u8 },
    Delete { vid: u16, mac: u64 },
    FlushPort { port: u8 },
    Resize { capacity: u32 },
}

fn op() -> impl Strategy<Value = Op> {
    let (vid, mac, port) = (0..3u16, 1..200u64, 0..4u8);
    prop_oneof![
        20 => (vid.clone(), mac.clone(), port.clone()).prop_map(|(vid, mac, port)| Op::Learn { vid, mac, port }),
        2 => (vid.clone(), mac.clone(), port.clone()).prop_map(|(vid, mac, port)| Op::Pin { vid, mac, port }),
        8 => (vid, mac).prop_map(|(vid, mac)| Op::Delete { vid, mac }),
        1 => port.prop_map(|port| Op::FlushPort { port }),
        1 => (600..2000u32).prop_map(|capacity| Op::Resize { capacity }),
    ]
}

proptest! {
    /// Nothing is ever full here: what is left is look-up, insertion, deletion
    /// with its shifting back, and the lists.
    #[test]
    fn the_table_holds_what_a_map_holds(ops in prop::collection::vec(op(), 1..400), secret in any::<[u64; 2]>()) {
        let mut fdb = Fdb::new(1000, HOUR, secret);
        let mut oracle: HashMap<(u16, u64), (u8, bool)> = HashMap::new();
        for op in ops {
            match op {
                Op::Learn { vid, mac, port } => {
                    let key = fdb.key(VlanId::new(vid), MacAddr::from_u64(mac));
                    fdb.learn(key, PortId::new(port), u32::MAX, 0);
                    let entry = oracle.entry((vid, mac)).or_insert((port, false));
                    if !entry.1 {
                        entry.0 = port;
                    }
                }
                Op::Pin { vid, mac, port } => {
                    let key = fdb.key(VlanId::new(vid), MacAddr::from_u64(mac));
                    fdb.set_fixed(key, EntryKind::Sticky, PortId::new(port), 0).unwrap();
                    oracle.insert((vid, mac), (port, true));
                }
                Op::Delete { vid, mac } => {
                    let deleted = fdb.delete(fdb.key(VlanId::new(vid), MacAddr::from_u64(mac)));
                    prop_assert_eq!(deleted, oracle.remove(&(vid, mac)).is_some());
                }
                Op::FlushPort { port } => {
                    let scope = FlushScope { port: Some(PortId::new(port)), ..FlushScope::default() };
                    let before = oracle.len();
                    oracle.retain(|_, entry| entry.0 != port || entry.1);
                    prop_assert_eq!(fdb.flush(&scope), before - oracle.len());
                }
                Op::Resize { capacity } => fdb.resize(capacity, 0).unwrap(),
            }
            for vid in 0..3 {
                for mac in 1..200 {
                    let key = fdb.key(VlanId::new(vid), MacAddr::from_u64(mac));
                    let port = fdb.look_up(key, 0).map(PortId::get);
                    prop_assert_eq!(port, oracle.get(&(vid, mac)).map(|entry| entry.0));
                }
            }
            prop_assert_eq!(fdb.len() as usize, oracle.len());
            prop_assert_eq!(fdb.entries(0).count(), oracle.len());
            let (mut paged, mut next) = (Vec::new(), Some(0));
            while let Some(start) = next {
                let (page, after) = fdb.page(0, start, 7);
                paged.extend(page.iter().map(|entry| (entry.vid.get(), entry.mac.to_u64())));
                next = after;
            }
            paged.sort_unstable();
            let mut all: Vec<(u16, u64)> = oracle.keys().copied().collect();
            all.sort_unstable();
            prop_assert_eq!(paged, all, "each entry in one page");
            let by_port: u32 = (0..4).map(|port| fdb.port_len(PortId::new(port))).sum();
            prop_assert_eq!(by_port, fdb.len());
        }
    }
}

#[test]
fn age_is_compared_at_look_up() {
    let mut fdb = Fdb::new(10, Duration::from_secs(10), SECRET);
    learn(&mut fdb, 1, 3, 500);
    assert_eq!(look_up(&fdb, 1, 10_499), Some(3));
    assert_eq!(look_up(&fdb, 1, 10_500), None);
    assert_eq!(fdb.len(), 1, "the sweep has not been");
    assert_eq!(look_up(&fdb, 1, 400), Some(3), "a clock that lags makes nothing old");
    fdb.set_ageing(Duration::from_secs(20));
    assert_eq!(look_up(&fdb, 1, 10_500), Some(3), "a longer ageing counts from the same refresh");
}

#[test]
fn the_sweep_is_bounded_and_says_when_to_come_again() {
    let mut fdb = Fdb::new(5000, Duration::from_secs(10), SECRET);
    assert_eq!(fdb.sweep(0, |_, _, _| None, |_, _, _| {}), None);
    for mac in 1..=3000 {
        learn(&mut fdb, mac, u8::try_from(mac % 7).unwrap(), 0);
    }
    assert_eq!(fdb.sweep(9_999, |_, _, _| None, |_, _, _| {}), Some(1));
    assert_eq!(fdb.len(), 3000);
    learn(&mut fdb, 1, 1, 10_500);
    for sweeps in 1..=11 {
        assert_eq!(fdb.sweep(11_000, |_, _, _| None, |_, _, _| {}), Some(0));
        assert_eq!(fdb.len(), 3000 - 256 * sweeps);
    }
    assert_eq!(fdb.sweep(11_000, |_, _, _| None, |_, _, _| {}), Some(9_500));
    assert_eq!(fdb.len(), 1);
    assert_eq!(fdb.sweep(30_000, |_, _, _| None, |_, _, _| {}), None);
    assert_eq!(fdb.len(), 0);
}

#[test]
fn before_a_lent_entry_ages_out_whoever_has_the_copy_is_asked() {
    let mut fdb = Fdb::new(10, Duration::from_secs(10), SECRET);
    for mac in 1..=4 {
        learn(&mut fdb, mac, 1, 0);
        if mac != 4 {
            let key = key(&fdb, mac);
            fdb.set_lent(key, Lent::Yes);
        }
    }
    // One spoke two seconds ago, one before it was lent, of one nothing is known.
    let heard = |_, mac: MacAddr, port| {
        assert_eq!(port, PortId::new(1));
        [None, Some(2_000), Some(11_000), None].get(usize::try_from(mac.to_u64()).unwrap()).copied().flatten()
    };
    let mut gone = Vec::new();
    assert_eq!(fdb.sweep(10_500, heard, |_, mac, _| gone.push(mac.to_u64())), Some(8_000));
    assert_eq!(gone, [2, 3, 4]);
    assert_eq!(look_up(&fdb, 1, 18_499), Some(1));
    assert_eq!(look_up(&fdb, 1, 18_500), None);
    assert_eq!(fdb.take_recalled().count(), 2, "of what went, two were lent");
    let gone = fdb.sweep(18_500, |_, _, _| None, |_, _, _| {});
    assert_eq!((gone, fdb.len(), fdb.take_recalled().count()), (None, 0, 1));
}

#[test]
fn a_newcomer_on_a_quiet_port_replaces_the_oldest_of_the_fullest() {
    let mut fdb = table(10);
    fdb.share_among(2);
    for mac in 1..=10 {
        assert_eq!(learn(&mut fdb, mac, 0, mac), Learned::New);
    }
    assert_eq!(
        learn(&mut fdb, 11, 0, 20),
        Learned::Refused(Limit::Table),
        "the fullest port gets nothing more"
    );
    // A refresh in a later tick (of 32,768 ms) makes 1 the youngest; one in the same tick
    // leaves 2 the oldest.
    learn(&mut fdb, 1, 0, 40_000);
    learn(&mut fdb, 2, 0, 30);
    assert_eq!(learn(&mut fdb, 21, 1, 40_001), Learned::New);
    assert_eq!((look_up(&fdb, 1, 40_001), look_up(&fdb, 2, 40_001)), (Some(0), None));
    for mac in 22..=25 {
        assert_eq!(learn(&mut fdb, mac, 1, 40_002), Learned::New);
    }
    assert_eq!(
        learn(&mut fdb, 26, 1, 40_003),
        Learned::Refused(Limit::Table),
        "the fair share is five of ten"
    );
    assert_eq!((fdb.dynamic_len(PortId::new(0)), fdb.dynamic_len(PortId::new(1))), (5, 5));
}

#[test]
fn what_has_aged_gives_its_place_before_the_sweep_comes() {
    let mut fdb = Fdb::new(4, Duration::from_secs(10), SECRET);
    for mac in 1..=4 {
        learn(&mut fdb, mac, 0, mac);
    }
    assert_eq!(learn(&mut fdb, 5, 0, 9_000), Learned::Refused(Limit::Table));
    assert_eq!(learn(&mut fdb, 5, 0, 10_001), Learned::New);
    assert_eq!(look_up(&fdb, 1, 10_001), None);
    let six = key(&fdb, 6);
    assert_eq!(
        fdb.learn(six, PortId::new(1), 0, 10_001),
        Learned::Refused(Limit::Port),
        "a limit of none is none"
    );
}

#[test]
fn static_entries_take_places_from_learned_ones_but_not_from_each_other() {
    let mut fdb = table(2);
    learn(&mut fdb, 1, 0, 0);
    learn(&mut fdb, 2, 0, 0);
    for mac in [3, 4] {
        let key = key(&fdb, mac);
        fdb.set_fixed(key, EntryKind::Static, PortId::new(1), 0).unwrap();
    }
    let five = key(&fdb, 5);
    assert_eq!(fdb.set_fixed(five, EntryKind::Static, PortId::new(1), 0), Err(FdbError::Full(2)));
    assert_eq!(learn(&mut fdb, 3, 0, 0), Learned::Foreign(PortId::new(1)));
    assert_eq!(learn(&mut fdb, 3, 1, 0), Learned::Known);
    assert_eq!(learn(&mut fdb, 9, 1, 0), Learned::Refused(Limit::Table));
    assert_eq!(fdb.resize(1, 0), Err(FdbError::TooSmall { size: 1, fixed: 2 }));
    assert_eq!(look_up(&fdb, 3, u64::MAX >> 30), Some(1), "static entries do not age");
}

#[test]
fn a_smaller_table_keeps_the_young_and_their_ages() {
    let mut fdb = Fdb::new(100, Duration::from_secs(10), SECRET);
    for mac in 1..=50 {
        learn(&mut fdb, mac, 0, mac * 100);
    }
    fdb.resize(10, 6_000).unwrap();
    assert_eq!((fdb.len(), fdb.capacity()), (10, 10));
    let macs: Vec<u64> = fdb.entries(6_000).map(|entry| entry.mac.to_u64()).collect();
    assert_eq!(macs, (41..=50).collect::<Vec<u64>>());
    assert_eq!(look_up(&fdb, 41, 14_099), Some(0));
    assert_eq!(look_up(&fdb, 41, 14_100), None);
}

#[test]
fn the_largest_and_the_smallest_table_fill_up() {
    for capacity in [1, 2, FDB_SIZE_MAX] {
        let mut fdb = table(capacity);
        for mac in 1..=u64::from(capacity) {
            assert_eq!(learn(&mut fdb, mac, 0, 0), Learned::New);
        }
        assert_eq!(learn(&mut fdb, 1 << 40, 0, 0), Learned::Refused(Limit::Table));
        assert_eq!(fdb.len(), capacity);
        assert!((1..=u64::from(capacity)).all(|mac| look_up(&fdb, mac, 0) == Some(0)));
        let spread = fdb.spread();
        assert_eq!(spread.len, capacity);
        assert!(spread.probes <= u64::from(capacity) * 11 / 10 + 1, "{spread:?}");
    }
}

/// Structured addresses under many secrets, weak ones among them: as evenly
/// spread as random ones.
#[test]
fn no_pattern_of_addresses_lies_unevenly() {
    let patterns: [fn(u64) -> u64; 6] = [
        |i| 0x0200_0000_0000 | i,
        |i| 0x0200_0000_0000 | i << 8,
        |i| 0x0200_0000_0000 | i << 24,
        |i| i << 34,
        |i| ((i % 100) << 40) | (i / 100),
        |i| i.reverse_bits() >> 16,
    ];
    let mut secrets = vec![[0, 0], [u64::MAX, 1], [1, 2], SECRET];
    secrets.extend(
        (1..60u64).map(|i| [i.wrapping_mul(0x9e6c_63d0_676a_9a99), i.wrapping_mul(0xd1b5_4a32_d192_ed03)]),
    );
    for secret in secrets {
        for (number, pattern) in patterns.iter().enumerate() {
            let mut fdb = Fdb::new(16_384, HOUR, secret);
            for i in 0..10_000 {
                learn(&mut fdb, pattern(i), 0, 0);
            }
            let spread = fdb.spread();
            assert!(spread.probes < 10_200, "pattern {number}, secret {secret:x?}: {spread:?}");
        }
    }
}

#[test]
fn the_order_is_loaded_ahead_of_those_refreshes_that_change_it() {
    let mut fdb = table(10);
    learn(&mut fdb, 1, 0, 10);
    learn(&mut fdb, 2, 0, 10);
    let (one, two, stranger) = (key(&fdb, 1), key(&fdb, 2), key(&fdb, 3));
    let fixed = key(&fdb, 4);
    fdb.set_fixed(fixed, EntryKind::Static, PortId::new(0), 10).unwrap();
    // A tick has 32,768 ms.
    assert_eq!(fdb.touch_order(one, 32_767), None, "the same tick");
    assert_eq!(fdb.touch_order(one, 32_768), Some(0));
    assert_eq!(fdb.touch_order(two, 32_768), Some(1));
    assert_eq!(fdb.touch_order(stranger, 32_768), None);
    assert_eq!(fdb.touch_order(fixed, 32_768), None, "static entries stay where they are");
    for node in [0, 1] {
        fdb.touch_neighbours(node);
    }
    learn(&mut fdb, 1, 0, 32_768);
    assert_eq!(fdb.touch_order(one, 32_769), None, "it is in its place already");
}

#[test]
fn the_order_is_loaded_ahead_only_of_many_changes_in_a_large_table() {
    for (stations, relinks, expected) in [
        (NODES_NEAR + 1, RELINKS_MANY, true),
        (NODES_NEAR + 1, RELINKS_MANY - 1, false),
        (NODES_NEAR, RELINKS_MANY, false),
    ] {
        let mut fdb = table(100_000);
        for mac in 1..=u64::from(stations) {
            learn(&mut fdb, mac, 0, 0);
        }
        assert!(!fdb.is_reordering(), "new stations change no order");
        for mac in 1..=u64::from(relinks) {
            learn(&mut fdb, mac, 0, 40_000);
        }
        assert_eq!(fdb.is_reordering(), expected, "{stations} stations, {relinks} relinks");
        assert!(!fdb.is_reordering(), "each burst is judged by the one before alone");
    }
}
