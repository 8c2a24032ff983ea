//! Guests that write whatever comes to mind: into their rings, and on the
//! socket. Nothing may crash, hang or reach beyond their memory, and the others
//! go on.
//!
//! A few seconds always, and for as long as VSWITCH_FUZZ_SECONDS says
//! (`./dev fuzz`).

use std::io::Write as _;
use std::time::{Duration, Instant};

use vswitch_tests::clock::wait_until;
use vswitch_tests::scenario::Random;
use vswitch_tests::vhost::{Descriptor, FrontEnd, Guest, LIMIT, Request, Rig, frame};

/// How long each goes on.
fn limit() -> Duration {
    let seconds = std::env::var("VSWITCH_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(2))
}

#[expect(clippy::disallowed_methods, reason = "how long to go on, and a seed")]
fn rounds(mut round: impl FnMut(&mut Random)) {
    let end = Instant::now() + limit();
    let mut seed = u64::from(std::process::id());
    while Instant::now() < end {
        seed += 1;
        eprintln!("seed {seed}");
        round(&mut Random::new(seed));
    }
}

/// One of `choices`.
fn pick<T: Copy>(random: &mut Random, choices: &[T]) -> T {
    let index = usize::try_from(random.next_u64() % choices.len() as u64).unwrap();
    choices[index]
}

fn word(random: &mut Random) -> u64 {
    match random.next_u64() % 4 {
        0 => random.next_u64(),
        1 => random.next_u64() % 64,
        _ => pick(random, &[0, 1, 16, 255, 256, 4096, 65_535, 4 << 20, (4 << 20) - 1, 1 << 32, u64::MAX]),
    }
}

fn low(word: u64) -> u16 {
    u16::try_from(word & 0xffff).unwrap()
}

/// Two honest ports still hear each other.
fn goes_on(rig: &Rig) {
    rig.honest[1].take_sent();
    rig.honest[0].inject(&frame(9, b"alive"));
    let arrived = || rig.honest[1].take_sent().iter().any(|sample| sample.bytes == frame(9, b"alive"));
    wait_until("an honest frame", LIMIT, arrived).unwrap();
}

#[test]
fn random_descriptors_break_nothing() {
    let rig = Rig::new(&["", ""]);
    let victim = Guest::connect(rig.path(1)).unwrap();
    rounds(|random| {
        let mut guest = Guest::connect(rig.path(0)).unwrap();
        for _ in 0..200 {
            let index = usize::try_from(random.next_u64() % 2).unwrap();
            let number = low(random.next_u64() % 256);
            let near = random.next_u64() % 4 != 0;
            let descriptor = Descriptor {
                addr: if near { Guest::buffer(low(random.next_u64() % 256)) } else { word(random) },
                len: if near { pick(random, &[1, 12, 60, 72, 400, 1526]) } else { low(word(random)).into() },
                flags: low(random.next_u64() % 8),
                next: if near { low(random.next_u64() % 256) } else { low(word(random)) },
            };
            match random.next_u64() % 8 {
                0 => guest.write_descriptor(word(random) % ((4 << 20) - 16), descriptor),
                1 => guest.push(index, low(word(random))),
                2 => guest.push(index, number),
                3 => rig.honest[0].inject(&frame(8, &vec![1; usize::from(low(random.next_u64() % 1400))])),
                4 if random.next_u64() % 20 == 0 => guest.lie_about_available(index, low(word(random))),
                _ => guest.describe(index, number, descriptor),
            }
            if random.next_u64() % 8 == 0 {
                let _ = guest.kick(1);
            }
        }
        let _ = guest.kick(1);
        goes_on(&rig);
        assert!(rig.port(1).link.unwrap().up, "the victim went down: {}", rig.note(1));
        drop(guest);
        rig.wait_gone(0);
    });
    drop(victim);
    assert!(rig.port(0).counters.balance() && rig.port(1).counters.balance());
}

#[test]
fn random_messages_break_nothing() {
    let rig = Rig::new(&["queues=2"]);
    rounds(|random| {
        let connected = if random.next_u64() % 2 == 0 { FrontEnd::connect(rig.path(0)).ok() } else { None };
        let mut guest = None;
        let mut alone = connected;
        let front_end = match &mut alone {
            Some(front_end) => front_end,
            None => &mut guest.insert(Guest::connect(rig.path(0)).unwrap()).front_end,
        };
        for _ in 0..30 {
            let len = usize::try_from(random.next_u64() % 9).unwrap();
            let body: Vec<u8> = (0..len).flat_map(|_| word(random).to_ne_bytes()).collect();
            // Header and body by hand: any request, any flags, any size.
            let size = if random.next_u64() % 8 == 0 { word(random) } else { body.len() as u64 };
            let header = [random.next_u64() % 48, 1 | (random.next_u64() & 8), size];
            let mut bytes: Vec<u8> = header
                .iter()
                .flat_map(|word| u32::try_from(word & 0xffff_ffff).unwrap().to_ne_bytes())
                .collect();
            bytes.extend(&body);
            if front_end.stream().write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = front_end.send(Request::SetOwner, &[], &[]);
        goes_on(&rig);
        drop((guest, alone));
        rig.wait_gone(0);
    });
}
