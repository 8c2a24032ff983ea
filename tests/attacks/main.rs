//! A thousand attacks of all kinds on one vhost-user port, beside two other ports
//! that talk: a process of its own, since what it holds at the end must be what
//! it held at the beginning.

#![expect(clippy::unwrap_used, reason = "what cannot be set up has failed the test")]

mod flow;

use std::time::{Duration, Instant};

use vswitch_tests::clock::wait_until;
use vswitch_tests::vhost::{LIMIT, Rig, attacks, held};

use flow::Flow;

const ATTACKS: usize = 1000;

/// Time in which a port has gone down after its guest broke a rule.
const REACTION: Duration = Duration::from_millis(100);

#[test]
#[expect(clippy::disallowed_methods, reason = "the time that it takes is what is tested")]
fn a12_a_thousand_attacks_of_all_kinds_disturb_nobody_and_leave_nothing() {
    let kinds = attacks::all();
    let rig = Rig::new(&[""]);
    let flow = Flow::start(&rig);
    // Once each: whatever is made once in a process is there then.
    let mut base = None;
    let mut reactions = Vec::with_capacity(ATTACKS);
    for attack in kinds.iter().cycle().take(kinds.len() + ATTACKS) {
        if reactions.len() == kinds.len() {
            base.get_or_insert_with(held);
        }
        let mut start = Instant::now();
        let mut attacker = attack.run(&rig, || start = Instant::now());
        rig.wait_link(0, false);
        reactions.push(start.elapsed());
        attacker.wait_end();
        let note = rig.wait_gone(0);
        assert!(note.contains(attack.reason), "`{note}` instead of `{}`", attack.reason);
        for honest in &rig.honest {
            honest.take_sent();
        }
    }
    let base = base.unwrap();
    wait_until("descriptors and mappings to go", LIMIT, || held() == base).unwrap();
    let sent = flow.stop();

    reactions.sort_unstable();
    let (median, worst) = (reactions[reactions.len() / 2], reactions[reactions.len() - 1]);
    eprintln!("{ATTACKS} attacks of {} kinds: down after {median:?}, at worst {worst:?}", kinds.len());
    eprintln!("{sent} frames beside them arrived, each once and in order");
    // Scheduling is not ours: one in a hundred may be late on a busy machine.
    assert!(reactions[reactions.len() * 99 / 100] < REACTION, "{median:?}, {worst:?}");
    for number in [0, flow::FROM, flow::TO] {
        assert!(rig.port(number).counters.balance(), "port {number}");
    }
}
