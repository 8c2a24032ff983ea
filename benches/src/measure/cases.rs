//! Every case by name: which belong to a quick look, how often a full run measures
//! each, and how long that takes.

use std::time::Duration;

use super::{captured, core, frames, guests, hosts, idle, ports, queues};
use crate::rig::{Rig, Variant};
use crate::subject::Subject;

/// The case that idle and busy switches have in common.
pub(super) const RESIDENT: &str = "resident memory";

/// What a quick look looks at, if nobody says what: the command line promises less
/// than five minutes on two cores.
const HEADLINES: [&str; 22] = [
    "TCP, 1 stream, offloads on",
    "ping round trip",
    "60 B saturated",
    "60 B saturated, virtio-net header",
    "IMIX saturated",
    "round trip",
    "64 B, split rings",
    "1518 B, split rings",
    "TCP, first to second guest, offloads on",
    "known unicast, 2 ports, 10 stations",
    "known unicast, 2 ports, 1000000 stations",
    "known unicast, 256 ports, 10 stations",
    "known unicast, 256 ports, 1000000 stations",
    "new stations learned",
    "broadcast to 255 ports, a copy",
    "sweep of aged stations, an entry",
    ports::MESH,
    ports::CONGESTION,
    ports::BROADCAST,
    "60 B saturated, between two of 2 ports",
    "60 B saturated, between two of 64 ports",
    "60 B saturated, 10000 stations",
];

/// How many of the turns measure a case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Often {
    /// Both of each round.
    EveryTurn,
    /// One of each round, in alternating direction.
    OnceARound,
    /// One of every second round, in alternating direction.
    EverySecondRound,
}

/// Parts of names of cases that are details: there are many of them, or one takes
/// long.
const DETAILS: [&str; 14] = [
    "offloads off",
    "4 streams",
    "UDP, 64 B",
    "UDP, 1400 B",
    "124 B saturated",
    "252 B saturated",
    "508 B saturated",
    "1020 B saturated",
    "1276 B saturated",
    "packed rings",
    "without loss",
    "loss up to",
    "one-way latency",
    "full capture",
];

/// The same of what has to be seen less often still.
const RARE: [&str; 2] = ["mrg_rxbuf off", "e1000"];

pub(super) fn often(rig: Rig, case: &str) -> Often {
    let is_one_of = |parts: &[&str]| parts.iter().any(|part| case.contains(part));
    match rig {
        // A turn of all of it takes seconds.
        Rig::Core => Often::OnceARound,
        Rig::Ports => Often::EverySecondRound,
        // Guests are booted for each turn.
        Rig::Guests if !case.contains("TCP") || is_one_of(&RARE) => Often::EverySecondRound,
        Rig::Guests => Often::OnceARound,
        Rig::Direct | Rig::Queues if is_one_of(&RARE) => Often::EverySecondRound,
        Rig::Netns | Rig::OwnedTaps | Rig::Direct | Rig::Queues if is_one_of(&DETAILS) => Often::OnceARound,
        Rig::Netns | Rig::OwnedTaps | Rig::Direct | Rig::Queues => Often::EveryTurn,
    }
}

pub(super) fn is_headline(case: &str) -> bool {
    HEADLINES.contains(&case)
}

/// Every case of `rig` that is set up as `variant`.
pub(crate) fn of(rig: Rig, variant: Variant) -> Vec<String> {
    match variant {
        Variant::Offloads(offloads) => {
            let mut cases = match rig {
                Rig::Direct => frames::cases(offloads),
                Rig::Netns | Rig::OwnedTaps | Rig::Queues | Rig::Guests | Rig::Core | Rig::Ports => {
                    hosts::cases(offloads)
                }
            };
            if offloads {
                cases.extend([idle::CASE, RESIDENT].map(String::from));
            }
            cases
        }
        Variant::Queues(queues) => queues::cases(queues),
        Variant::Guests(card) => guests::cases(card),
        Variant::Core => core::cases(),
        Variant::Ports(count) => ports::cases(count),
    }
}

/// Whether `case` is a figure of `subject`. Who has offloads is never in a row with who
/// has none.
pub(crate) fn is_of(case: &str, subject: Subject) -> bool {
    if case.contains("offloads on") && !subject.has_offloads() {
        return false;
    }
    match subject {
        // No process.
        Subject::Bridge => ![idle::CASE, RESIDENT].contains(&case) && captured::is_of(case, subject),
        Subject::Vswitch
        | Subject::Engine
        | Subject::Tap
        | Subject::Stream
        | Subject::Dgram
        | Subject::Ovs
        | Subject::OvsDpdk
        | Subject::DpdkVhost
        | Subject::Vde
        | Subject::Qemu => queues::is_of(case, subject),
    }
}

/// What a turn of `subject` takes beside its figures, seen on two cores: building
/// the topology, starting the switch, looking at it idle, taking all of it down.
pub(crate) fn set_up(rig: Rig, variant: Variant, subject: Subject, run: Duration) -> Duration {
    let starting = if matches!(subject, Subject::Ovs | Subject::OvsDpdk) { 800 } else { 0 };
    let milliseconds = starting
        + match (rig, variant) {
            (Rig::Core, _) => 0,
            (Rig::Guests, _) => 9_000,
            (Rig::Queues, _) => 4_000,
            (_, Variant::Ports(count)) => 1_500 + 20 * u64::try_from(count).unwrap_or(0),
            _ => 1_500,
        };
    let is_watched = matches!(rig, Rig::Netns | Rig::OwnedTaps | Rig::Direct | Rig::Ports);
    Duration::from_millis(milliseconds) + if is_watched { run } else { Duration::ZERO }
}

/// What one figure of `case` takes, seen on two cores.
pub(crate) fn length(rig: Rig, case: &str, run: Duration) -> Duration {
    // iperf3 counts in seconds.
    let run = if matches!(rig, Rig::Netns | Rig::OwnedTaps) { run.max(Duration::from_secs(1)) } else { run };
    let (runs, milliseconds) = match case {
        idle::CASE | RESIDENT => (0.0, 0),
        _ if rig == Rig::Core => (0.2, 400),
        // From the same trial as the other percentile.
        _ if case.contains("latency p99") => (0.0, 0),
        _ if rig == Rig::Guests => (2.0, 500),
        _ if case.contains("full capture") => (4.0, 1_500),
        _ if case.starts_with("idle CPU after") => (1.0, 1_200),
        _ if case.contains("without loss") => (11.0, 5_000),
        _ if case.contains("loss up to") => (3.0, 1_500),
        ports::LEARNING => (0.0, 14_000),
        _ if case.ends_with("1000000 stations") => (1.0, 8_000),
        ports::CAPACITY => (0.0, 7_500),
        _ => (1.0, 400),
    };
    run.mul_f64(runs) + Duration::from_millis(milliseconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::RIGS;

    fn all() -> Vec<(Rig, String)> {
        let cases = |rig: Rig| rig.variants().into_iter().flat_map(move |variant| of(rig, variant));
        RIGS.into_iter().flat_map(|rig| cases(rig).map(move |case| (rig, case))).collect()
    }

    #[test]
    fn every_headline_and_every_part_of_a_name_is_of_a_case() {
        let all = all();
        for headline in HEADLINES {
            assert!(all.iter().any(|(_, case)| case == headline), "{headline}");
        }
        for part in DETAILS.iter().chain(&RARE) {
            assert!(all.iter().any(|(_, case)| case.contains(part)), "{part}");
        }
    }

    #[test]
    fn a_case_of_a_rig_has_one_name() {
        let all = all();
        for (at, (rig, case)) in all.iter().enumerate() {
            assert!(!all[..at].iter().any(|(r, c)| r == rig && c == case), "{case} twice in {rig:?}");
        }
    }

    #[test]
    fn a_row_has_either_those_with_offloads_or_those_without() {
        for (rig, case) in all().into_iter().filter(|(_, case)| case.contains("offloads o")) {
            let is_here = |subject: &Subject| subject.belongs_to(rig) && is_of(&case, *subject);
            let all: Vec<Subject> = Subject::ALL.into_iter().filter(is_here).collect();
            // Who has them can be told to use none.
            let is_off = case.ends_with("offloads off");
            assert!(is_off || all.iter().all(|subject| subject.has_offloads()), "{rig:?}: {case}");
            assert!(all.contains(&Subject::Vswitch), "{rig:?}: {case}");
        }
    }

    #[test]
    fn details_are_measured_once_a_round() {
        assert_eq!(often(Rig::Direct, "60 B saturated"), Often::EveryTurn);
        assert_eq!(often(Rig::Direct, "60 B without loss"), Often::OnceARound);
        assert_eq!(often(Rig::Queues, "64 B, packed rings, mrg_rxbuf off"), Often::EverySecondRound);
        assert_eq!(often(Rig::Core, "new stations learned"), Often::OnceARound);
    }
}
