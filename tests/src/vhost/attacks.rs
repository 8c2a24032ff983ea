//! What a hostile guest or front end can do, kind by kind (row A12 of the
//! conformance table), and what is said of it when its port goes down.
//!
//! Deliberately absent: judgement. Tests run these and look at what happens.

#![expect(clippy::unwrap_used, reason = "what cannot be set up has failed the test")]

use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use super::{
    Choice, Descriptor, FrontEnd, Guest, INDIRECT, MEMORY_LEN, NEXT, PackedGuest, QUEUE_LEN, Request, Rig,
    USER, WRITE, frame,
};

/// One kind of attack on port 0 of a rig.
pub struct Attack {
    /// Part of what is said of the port afterwards.
    pub reason: &'static str,
    act: Act,
}

/// Done by a guest that is connected.
type By<G> = Box<dyn Fn(&Rig, &mut G)>;

/// By whom.
enum Act {
    Split(By<Guest>),
    Packed(By<PackedGuest>),
    Messages(Box<dyn Fn(&Path) -> FrontEnd>),
}

impl fmt::Debug for Attack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = match self.act {
            Act::Split(_) => "split",
            Act::Packed(_) => "packed",
            Act::Messages(_) => "messages",
        };
        f.debug_struct("Attack").field("reason", &self.reason).field("act", &who).finish()
    }
}

/// Who attacked: to be kept until the port has hung up.
#[derive(Debug)]
pub enum Attacker {
    /// A guest by split queues.
    Split(Guest),
    /// A guest by packed queues.
    Packed(PackedGuest),
    /// Only messages.
    Messages(FrontEnd),
}

impl Attacker {
    /// Waits until the port has hung up.
    pub fn wait_end(&mut self) {
        let front_end = match self {
            Attacker::Split(guest) => &mut guest.front_end,
            Attacker::Packed(guest) => &mut guest.guest.front_end,
            Attacker::Messages(front_end) => front_end,
        };
        front_end.wait_end().unwrap();
    }
}

impl Attack {
    fn split(reason: &'static str, act: impl Fn(&Rig, &mut Guest) + 'static) -> Attack {
        Attack { reason, act: Act::Split(Box::new(act)) }
    }

    fn packed(reason: &'static str, act: impl Fn(&Rig, &mut PackedGuest) + 'static) -> Attack {
        Attack { reason, act: Act::Packed(Box::new(act)) }
    }

    fn messages(reason: &'static str, act: impl Fn(&Path) -> FrontEnd + 'static) -> Attack {
        Attack { reason, act: Act::Messages(Box::new(act)) }
    }

    /// Connects to port 0, which is free, and does it. A guest's link is up
    /// before, and `ready` is called then.
    pub fn run(&self, rig: &Rig, ready: impl FnOnce()) -> Attacker {
        match &self.act {
            Act::Split(act) => {
                let mut guest = Guest::connect(rig.path(0)).unwrap();
                rig.wait_link(0, true);
                ready();
                act(rig, &mut guest);
                // It may be over already.
                let _ = guest.kick(1);
                Attacker::Split(guest)
            }
            Act::Packed(act) => {
                let mut guest = PackedGuest::connect(rig.path(0), Choice::default()).unwrap();
                rig.wait_link(0, true);
                ready();
                act(rig, &mut guest);
                let _ = guest.kick(1);
                Attacker::Packed(guest)
            }
            Act::Messages(act) => {
                ready();
                Attacker::Messages(act(rig.path(0)))
            }
        }
    }
}

/// Every kind there is.
pub fn all() -> Vec<Attack> {
    [descriptors(), receive_buffers(), packed(), messages(), cuts()].into_iter().flatten().collect()
}

/// A buffer that holds a frame.
pub fn good() -> Descriptor {
    Descriptor { addr: Guest::buffer(200), len: 100, flags: 0, next: 0 }
}

/// Sends the chain at descriptor 0.
pub fn chain(guest: &mut Guest, descriptors: &[Descriptor]) {
    for (number, descriptor) in (0..).zip(descriptors) {
        guest.describe(1, number, *descriptor);
    }
    guest.push(1, 0);
}

/// Descriptors of the transmit queue that lie.
pub fn descriptors() -> Vec<Attack> {
    let next = |next| Descriptor { flags: NEXT, next, ..good() };
    let at = |addr| Descriptor { addr, ..good() };
    let table = Guest::buffer(210);
    let indirect = move |len| Descriptor { addr: table, len, flags: INDIRECT, next: 0 };
    let chains = [
        ("has a loop", vec![next(1), next(0)]),
        ("has a loop", vec![next(0)]),
        ("outside its table", vec![next(QUEUE_LEN)]),
        ("outside its table", vec![next(u16::MAX)]),
        ("outside the shared memory", vec![at(MEMORY_LEN)]),
        ("outside the shared memory", vec![at(u64::MAX - 10)]),
        ("outside the shared memory", vec![Descriptor { len: u32::MAX, ..good() }]),
        ("length 0", vec![Descriptor { len: 0, ..good() }]),
        ("length 0", vec![next(1), Descriptor { len: 0, ..good() }]),
        ("wrong direction", vec![Descriptor { flags: WRITE, ..good() }]),
        (
            "nested or has a successor",
            vec![Descriptor { flags: INDIRECT | NEXT, next: 1, ..indirect(16) }, good()],
        ),
        ("indirect table has a wrong length", vec![indirect(0)]),
        ("indirect table has a wrong length", vec![indirect(8)]),
        ("indirect table has a wrong length", vec![indirect(17)]),
        ("indirect table has a wrong length", vec![indirect(16 * 1025)]),
        ("outside the shared memory", vec![Descriptor { addr: MEMORY_LEN - 16, ..indirect(32) }]),
    ];
    let mut attacks: Vec<Attack> = chains
        .into_iter()
        .map(|(reason, descriptors)| Attack::split(reason, move |_, guest| chain(guest, &descriptors)))
        .collect();
    attacks.push(Attack::split("outside its table", |_, guest| guest.push(1, QUEUE_LEN)));
    for (reason, inner) in [
        ("nested", indirect(16)),
        ("outside its table", next(1)),
        ("wrong direction", Descriptor { flags: WRITE, ..good() }),
    ] {
        attacks.push(Attack::split(reason, move |_, guest| {
            guest.write_descriptor(table, inner);
            chain(guest, &[indirect(16)]);
        }));
    }
    for ahead in [QUEUE_LEN + 1, 32_768, u16::MAX] {
        attacks.push(Attack::split("ran ahead", move |_, guest| guest.lie_about_available(1, ahead)));
    }
    attacks
}

/// Buffers of the receive queue that lie; somebody else sends a frame there.
pub fn receive_buffers() -> Vec<Attack> {
    let good = Descriptor { addr: Guest::buffer(0), len: 4096, flags: WRITE, next: 0 };
    let single = [
        ("wrong direction", Descriptor { flags: 0, ..good }),
        ("outside the shared memory", Descriptor { addr: 1 << 40, ..good }),
        ("length 0", Descriptor { len: 0, ..good }),
        ("has a loop", Descriptor { len: 10, flags: WRITE | NEXT, ..good }),
    ];
    let mut attacks: Vec<Attack> = single
        .into_iter()
        .map(|(reason, descriptor)| {
            Attack::split(reason, move |rig, guest| {
                guest.describe(0, 0, descriptor);
                rig.honest[0].inject(&frame(8, b"for a liar"));
            })
        })
        .collect();
    attacks.push(Attack::split("ran ahead", |rig, guest| {
        guest.lie_about_available(0, QUEUE_LEN);
        // It is looked at when those that were seen before are gone.
        (0..QUEUE_LEN).for_each(|_| rig.honest[0].inject(&frame(8, b"for a liar")));
    }));
    attacks
}

/// The same by packed queues.
pub fn packed() -> Vec<Attack> {
    let on = Descriptor { flags: NEXT, ..good() };
    let table = Guest::buffer(210);
    let indirect = move |len| Descriptor { addr: table, len, flags: INDIRECT, next: 0 };
    let chains = [
        ("outside the shared memory", vec![Descriptor { addr: MEMORY_LEN, ..good() }]),
        ("outside the shared memory", vec![on, Descriptor { len: u32::MAX, ..good() }]),
        ("length 0", vec![on, Descriptor { len: 0, ..good() }]),
        ("wrong direction", vec![on, Descriptor { flags: WRITE, ..good() }]),
        // All slots, each of which goes on.
        ("has a loop", vec![on; usize::from(QUEUE_LEN)]),
        ("nested or has a successor", vec![on, indirect(16)]),
        ("nested or has a successor", vec![Descriptor { flags: NEXT | INDIRECT, ..indirect(16) }, good()]),
        ("indirect table has a wrong length", vec![indirect(0)]),
        ("indirect table has a wrong length", vec![indirect(17)]),
        ("indirect table has a wrong length", vec![indirect(16 * 1025)]),
        ("outside the shared memory", vec![Descriptor { addr: MEMORY_LEN - 16, ..indirect(32) }]),
    ];
    let mut attacks: Vec<Attack> = chains
        .into_iter()
        .map(|(reason, descriptors)| Attack::packed(reason, move |_, guest| guest.push(1, 0, &descriptors)))
        .collect();
    // A table's flags are the last two bytes here; a lone WRITE has the wrong
    // direction, and INDIRECT is nested.
    for (reason, flags) in [("wrong direction", WRITE), ("nested", INDIRECT)] {
        attacks.push(Attack::packed(reason, move |_, guest| {
            let Descriptor { addr, len, .. } = good();
            let inner = Descriptor { addr, len, flags: 0, next: flags };
            guest.guest.write_descriptor(table, inner);
            guest.push(1, 0, &[indirect(16)]);
        }));
    }
    for (reason, descriptor) in [
        ("wrong direction", Descriptor { addr: Guest::buffer(0), len: 4096, flags: 0, next: 0 }),
        ("outside the shared memory", Descriptor { addr: 1 << 40, len: 4096, flags: WRITE, next: 0 }),
    ] {
        attacks.push(Attack::packed(reason, move |rig, guest| {
            // Over slot 0, which is next, and was made available in this lap.
            let start = [&descriptor.addr.to_le_bytes()[..], &descriptor.len.to_le_bytes()].concat();
            guest.guest.write(0, &start);
            guest.guest.write(14, &(descriptor.flags | 1 << 7).to_le_bytes());
            rig.honest[0].inject(&frame(8, b"for a liar"));
        }));
    }
    attacks
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn state(index: u32, value: u32) -> Vec<u8> {
    [index.to_ne_bytes(), value.to_ne_bytes()].concat()
}

/// Messages that lie, and descriptors of other things with them.
pub fn messages() -> Vec<Attack> {
    let bodies = [
        ("features that were not offered", Request::SetFeatures, words(&[1 << 5])),
        ("features that were not offered", Request::SetProtocolFeatures, words(&[1 << 4])),
        ("power of two", Request::SetVringNum, state(0, 100)),
        ("power of two", Request::SetVringNum, state(0, 0)),
        ("power of two", Request::SetVringNum, state(0, 1 << 16)),
        ("queue 2 does not exist", Request::SetVringNum, state(2, 256)),
        ("queue 4294967295 does not exist", Request::SetVringBase, state(u32::MAX, 0)),
        ("no descriptor to be kicked by", Request::SetVringKick, words(&[0x101])),
        ("its message was refused", Request::SendRarp, words(&[0])),
        ("its message was refused", Request::SetVringNum, vec![0; 3]),
        ("its message was refused", Request::SetMemTable, words(&[1, 0, 4096, 0, 0])),
        ("its message was refused", Request::SetMemTable, words(&[u64::from(u32::MAX)])),
    ];
    let mut attacks: Vec<Attack> = bodies
        .into_iter()
        .map(|(reason, request, body)| {
            Attack::messages(reason, move |path| {
                let mut front_end = FrontEnd::connect(path).unwrap();
                front_end.send(request, &body, &[]).unwrap();
                front_end
            })
        })
        .collect();

    // Descriptors that are something else.
    let pipe = || OwnedFd::from(std::io::pipe().unwrap().0);
    let zero = || OwnedFd::from(File::open("/dev/zero").unwrap());
    let short = || rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let table = || words(&[1, 0, 4096, 0, 0]);
    let things: [(_, _, _, fn() -> OwnedFd); 5] = [
        ("no eventfd", Request::SetVringKick, words(&[1]), pipe),
        ("no eventfd", Request::SetVringCall, words(&[0]), zero),
        ("must be a memfd", Request::SetMemTable, table(), zero),
        ("must be a memfd", Request::SetMemTable, table(), pipe),
        ("beyond the end of its file", Request::SetMemTable, table(), short),
    ];
    attacks.extend(things.into_iter().map(|(reason, request, body, thing)| {
        Attack::messages(reason, move |path| {
            let mut front_end = FrontEnd::connect(path).unwrap();
            front_end.send(request, &body, &[thing().as_fd()]).unwrap();
            front_end
        })
    }));

    // Rings outside the memory that was shared.
    let end = USER + MEMORY_LEN;
    for [descriptors, used, available] in
        [[0x1000, end, end], [end - 4096, end - 4096, end - 100], [end - 16, 0, 0]]
    {
        attacks.push(Attack::messages("do not lie in the shared memory", move |path| {
            let mut guest = Guest::with_memory(path, Choice::default()).unwrap();
            guest.start_queue(1, 256).unwrap();
            let body = words(&[1, descriptors, used, available, 0]);
            guest.front_end.send(Request::SetVringAddr, &body, &[]).unwrap();
            guest.front_end
        }));
    }

    // Half a message, and then nothing.
    for half in [vec![8, 0, 0, 0, 1, 0], words(&[8 | 1 << 32, 8])[..12].to_vec()] {
        attacks.push(Attack::messages("half a message", move |path| {
            let mut front_end = FrontEnd::connect(path).unwrap();
            front_end.stream().write_all(&half).unwrap();
            front_end
        }));
    }
    attacks
}

/// Memory that goes away under queues that run.
pub fn cuts() -> Vec<Attack> {
    let cut = Attack::split("cut short", |rig, guest| {
        // The rings stay, so that this process may go on using them.
        guest.file().set_len(Guest::buffer(0)).unwrap();
        // Somebody must look there: the data thread, to send this.
        rig.honest[0].inject(&frame(8, b"to the void"));
    });
    let moved = Attack::split("outside the shared memory", |_, guest| {
        guest.send(&frame(1, &[1; 400])).unwrap();
        // The rings go by other addresses than the buffers, and stay.
        guest.share(1 << 32).unwrap();
        // Answered: the switch has done it. No answer: it has seen enough already, in
        // the buffers that lie outside now.
        let _ = guest.front_end.ask_u64(Request::GetQueueNum);
        let _ = guest.send(&frame(1, &[1; 400]));
    });
    vec![cut, moved]
}
