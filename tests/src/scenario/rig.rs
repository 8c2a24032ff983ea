//! Two bridges and the model on the same steps: one bridge frame by frame, the
//! other, with another secret, in bursts as long as the steps allow.

use arrayvec::ArrayVec;
use vswitch::bridge::{
    BURST, Bridge, DropReason, FdbEntry, PortCounters, PortId, PortSet, Refusal, Time, Verdict,
};
use vswitch::frame::{Frame, HEAD_MAX, Piece, VlanId};
use vswitch::offload::VnetHeader;

use super::{Expect, Sent, Step};
use crate::model::Model;

/// Ports that a scenario can name.
pub const PORTS: u8 = 26;

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// It was refused, by bridge and model alike.
    Refused,
    /// A frame was judged.
    Judged(Verdict),
}

/// Bridges and model after some steps.
#[derive(Debug)]
pub struct Rig {
    single: Bridge,
    burst: Bridge,
    model: Model,
    now: Time,
    /// Frames that the second bridge has yet to see, and what the first said.
    waiting: Vec<(Sent, Verdict)>,
    /// Number of steps, so that some copies are sent and some refused.
    steps: usize,
}

impl Rig {
    /// No ports, default settings. `secret` must not matter to any verdict.
    pub fn new(secret: [u64; 2]) -> Rig {
        let other = [!secret[0], secret[1].rotate_left(17) ^ 0x5555];
        Rig {
            single: Bridge::new(Default::default(), secret),
            burst: Bridge::new(Default::default(), other),
            model: Model::default(),
            now: Time::START,
            waiting: Vec::new(),
            steps: 0,
        }
    }

    /// The bridge that judges frame by frame.
    pub fn bridge(&self) -> &Bridge {
        &self.single
    }

    /// Does one step everywhere, and compares.
    ///
    /// # Errors
    /// What differs, or the invariant that does not hold.
    pub fn step(&mut self, step: &Step) -> Result<Outcome, String> {
        self.steps += 1;
        let Step::Send(sent) = step else {
            self.catch_up()?;
            let done = [change(&mut self.single, self.now, step), change(&mut self.burst, self.now, step)];
            let modelled = self.model.step(step);
            if done != [modelled; 2] {
                return Err(format!("the bridges did it: {done:?}, the model: {modelled}"));
            }
            if let Step::After(time) = step {
                self.now = self.now.after(*time);
            }
            self.compare_tables()?;
            return Ok(if modelled { Outcome::Done } else { Outcome::Refused });
        };
        let verdict = with_frames([sent], |frames| self.single.forward(self.now, sent.port, &frames[0]));
        let expected = self.model.send(sent);
        self.check_verdict(sent, verdict)?;
        if verdict != expected.as_ref().map_or_else(|reason| Verdict::Drop(*reason), forward) {
            return Err(format!("the bridge says {verdict:?}, the model {expected:?}"));
        }
        count_sent(&mut self.single, verdict, self.steps);
        self.compare_counters(sent.port)?;
        if self.waiting.first().is_some_and(|(first, _)| first.port != sent.port)
            || self.waiting.len() == BURST
        {
            self.catch_up()?;
        }
        self.waiting.push((sent.clone(), verdict));
        Ok(Outcome::Judged(verdict))
    }

    /// Lets the second bridge see, in one burst, what the first has seen; it
    /// must come to the same.
    ///
    /// # Errors
    /// What differs.
    pub fn catch_up(&mut self) -> Result<(), String> {
        let Some((first, _)) = self.waiting.first() else { return Ok(()) };
        let port = first.port;
        let mut verdicts = ArrayVec::new();
        with_frames(self.waiting.iter().map(|(sent, _)| sent), |frames| {
            self.burst.forward_burst(self.now, port, frames, &mut verdicts);
        });
        let expected: Vec<Verdict> = self.waiting.drain(..).map(|(_, verdict)| verdict).collect();
        if verdicts.as_slice() != expected {
            return Err(format!("frame by frame {expected:?}, in a burst {verdicts:?}"));
        }
        Ok(())
    }

    /// Invariants 2 and 4, which need no model.
    fn check_verdict(&self, sent: &Sent, verdict: Verdict) -> Result<(), String> {
        let Verdict::Forward { to, copies, vid } = verdict else { return Ok(()) };
        let is_isolated = |port: PortId| self.single.port(port).isolated;
        if to.contains(sent.port) {
            return Err("invariant 2: the frame goes back where it came from".to_owned());
        }
        if to.is_empty() || u32::from(copies) != to.len() {
            return Err(format!("{copies} copies for {to:?}"));
        }
        if vid != VlanId::UNAWARE {
            return Err(format!("invariant 4: the frame came to VLAN {vid}"));
        }
        if is_isolated(sent.port) && to.iter().any(is_isolated) {
            return Err("invariant 4: the frame crosses an isolation".to_owned());
        }
        Ok(())
    }

    /// Invariant 3, and the model's counters.
    fn compare_counters(&mut self, ingress: PortId) -> Result<(), String> {
        for port in
            (0..PORTS).map(PortId::new).filter(|port| *port == ingress || self.steps.is_multiple_of(16))
        {
            let real = self.single.counters().port(port);
            if !real.balance() {
                return Err(format!("invariant 3: the sums of port {port} do not hold: {real:?}"));
            }
            let judged = PortCounters { tx: 0, refused: PortCounters::ZERO.refused, ..real.clone() };
            let modelled = self.model.counters(port.get());
            if judged != *modelled {
                return Err(format!("counters of port {port}: bridge {judged:?}, model {modelled:?}"));
            }
        }
        Ok(())
    }

    /// All entries and totals, of both bridges.
    fn compare_tables(&mut self) -> Result<(), String> {
        let mut real: Vec<FdbEntry> = self.single.fdb_entries(self.now).collect();
        if !self.burst.fdb_entries(self.now).eq(real.iter().copied()) {
            return Err("invariant 8: the secret decides what is in the FDB".to_owned());
        }
        real.sort_by_key(|entry| entry.mac);
        let model = self.model.fdb.iter().filter(|(_, entry)| self.model.is_live(entry));
        let model: Vec<_> = model.map(|(mac, entry)| (*mac, entry.port, entry.kind)).collect();
        let real: Vec<_> = real.iter().map(|entry| (entry.mac, entry.port.get(), entry.kind)).collect();
        if real != model || self.single.fdb_len() as usize != self.model.fdb.len() {
            return Err(format!("the FDB: bridge {real:?}, model {model:?}"));
        }
        for port in (0..PORTS).map(PortId::new) {
            let untold = |counters: &PortCounters| PortCounters {
                tx: 0,
                refused: PortCounters::ZERO.refused,
                ..counters.clone()
            };
            if untold(self.single.counters().port(port)) != untold(self.burst.counters().port(port)) {
                return Err(format!("invariant 8: bursts count otherwise on port {port}"));
            }
        }
        if !self.single.counters().retired.balance() {
            return Err("invariant 3: the sums of retired ports do not hold".to_owned());
        }
        Ok(())
    }

    /// Whether what a line expects is so.
    ///
    /// # Errors
    /// What is so instead.
    pub fn expect(&mut self, expect: &Expect, outcome: &Outcome) -> Result<(), String> {
        let entry = |mac| self.single.fdb_entries(self.now).find(|entry| entry.mac == mac);
        let (is_so, instead) = match (expect, outcome) {
            (Expect::Leaves(to), Outcome::Judged(Verdict::Forward { to: real, .. })) => {
                (to == real, format!("it leaves by {real:?}"))
            }
            (Expect::Drops(reason), Outcome::Judged(Verdict::Drop(real))) => {
                (reason == real, format!("it is dropped: {real}"))
            }
            (Expect::Leaves(_) | Expect::Drops(_), outcome) => (false, format!("{outcome:?}")),
            (Expect::On(mac, port), _) => {
                (entry(*mac).map(|entry| entry.port) == *port, format!("it is {:?}", entry(*mac)))
            }
            (Expect::Len(len), _) => {
                (*len == self.single.fdb_len(), format!("there are {}", self.single.fdb_len()))
            }
            (Expect::Count(port, name, value), _) => {
                let real = counter(self.single.counters().port(*port), name)
                    .ok_or_else(|| format!("no counter is called {name}"))?;
                (real == *value, format!("it is {real}"))
            }
        };
        if is_so { Ok(()) } else { Err(instead) }
    }
}

/// Runs `steps` from the beginning.
///
/// # Errors
/// The number of the step and what differs there.
pub fn compare(steps: &[Step], secret: [u64; 2]) -> Result<(), (usize, String)> {
    let mut rig = Rig::new(secret);
    for (number, step) in steps.iter().enumerate() {
        rig.step(step).map_err(|error| (number, error))?;
    }
    rig.catch_up().map_err(|error| (steps.len().saturating_sub(1), error))
}

/// What a burst of frames with these contents is to the bridge.
fn with_frames<'a, T>(sent: impl IntoIterator<Item = &'a Sent>, work: impl FnOnce(&[Frame<'_>]) -> T) -> T {
    let bytes: Vec<(Vec<u8>, Option<DropReason>)> =
        sent.into_iter().map(|sent| (sent.bytes(), sent.fault)).collect();
    let parts: Vec<(&[u8], [Piece<'_>; 1])> = bytes
        .iter()
        .map(|(bytes, _)| bytes.split_at(bytes.len().min(HEAD_MAX)))
        .map(|(head, rest)| (head, [Piece::from_slice(rest)]))
        .collect();
    let frames: Vec<Frame<'_>> = parts
        .iter()
        .zip(&bytes)
        .map(|((head, rest), (_, fault))| match fault {
            Some(reason) => Frame::broken(head, *reason),
            None => Frame::new(head, if rest[0].is_empty() { &[] } else { rest }, VnetHeader::PLAIN),
        })
        .collect();
    work(&frames)
}

fn forward(to: &std::collections::BTreeSet<u8>) -> Verdict {
    let to: PortSet = to.iter().copied().map(PortId::new).collect();
    Verdict::Forward { to, copies: u16::try_from(to.len()).unwrap_or(u16::MAX), vid: VlanId::UNAWARE }
}

/// Counts what an engine would: each copy is sent, or refused by some name.
fn count_sent(bridge: &mut Bridge, verdict: Verdict, steps: usize) {
    let Verdict::Forward { to, .. } = verdict else { return };
    for (number, port) in to.iter().enumerate() {
        let counters = bridge.counters_mut().port_mut(port);
        match (steps + number) % 5 {
            0 => counters.refused[(steps + number) % Refusal::COUNT] += 1,
            _ => counters.tx += 1,
        }
    }
}

/// Any step but a frame; false if the bridge refuses it.
fn change(bridge: &mut Bridge, now: Time, step: &Step) -> bool {
    match step {
        Step::Switch(settings) => return bridge.configure(now, *settings).is_ok(),
        Step::Port(port, settings) if bridge.ports().contains(*port) => bridge.set_port(*port, *settings),
        Step::Port(port, settings) => {
            bridge.add_port(*port, *settings);
            bridge.set_link(*port, true);
        }
        Step::Delete(port) => bridge.remove_port(*port),
        Step::Link(port, up) => bridge.set_link(*port, *up),
        Step::Sweep => {
            bridge.sweep(now);
        }
        Step::Fix(kind, mac, port) => {
            return bridge.fdb_add(now, VlanId::UNAWARE, *mac, *port, *kind).is_ok();
        }
        Step::Forget(mac) => return bridge.fdb_del(VlanId::UNAWARE, *mac).is_ok(),
        Step::Flush(scope) => {
            bridge.fdb_flush(scope);
        }
        Step::Send(_) | Step::After(_) => {}
    }
    true
}

/// A counter by its name; drop reasons are counters.
fn counter(counters: &PortCounters, name: &str) -> Option<u64> {
    let plain = match name {
        "rx" => counters.rx,
        "rx_bytes" => counters.rx_bytes,
        "forwarded" => counters.forwarded,
        "copies" => counters.copies,
        "learned" => counters.learned,
        "moved" => counters.moved,
        "not_learned" => counters.not_learned,
        "spoofed" => counters.spoofed,
        _ => {
            if let Some(last) = name.strip_prefix("reserved.") {
                return counters.reserved.get(usize::from_str_radix(last, 16).ok()?).copied();
            }
            let reason = DropReason::ALL.iter().find(|reason| reason.name() == name)?;
            counters.drops[reason.index()]
        }
    };
    Some(plain)
}
