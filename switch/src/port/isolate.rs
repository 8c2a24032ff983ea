//! Keeps an interface of ours and the host's own network stack apart, both
//! ways: a packet socket copies frames, it does not take them, so without this
//! the host would answer ARP for its own addresses behind any port.
//!
//! Two programs of the kernel's traffic control do it. On ingress, everything
//! ends (after the packet socket has seen it), but for what the fast path sends
//! on. On egress, only frames with our
//! mark pass. Attached by TCX links (Linux 6.6) they vanish with the process,
//! even a killed one; on older kernels a clsact qdisc holds them, under a name
//! that says whose they are, until the end, or the switch's next start.
//!
//! Programs and filters that others attached before run after ours: those on
//! ingress not at all.
//!
//! Deliberately absent: any touch of the host's addresses or sysctls
//! (`disable_ipv6` deletes static addresses for good). Read first: bpf(2), and
//! `tcx_run` of net/core/dev.c.

use std::io;
use std::os::fd::OwnedFd;

use super::alias::Alias;
use super::bpf::{self, Alu, Assembler, Hook, If, Instruction, ProgramType, Reg, Size};
use super::packet::MARK;
use super::tc::{self, Direction};

/// How an interface is kept apart from the host's stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IsolationKind {
    /// By TCX links.
    Tcx,
    /// By a clsact qdisc.
    Clsact,
    /// Not at all: the host sees what crosses, and may answer.
    None,
    /// The port's kind shares nothing with the host's stack.
    NotNeeded,
}

impl IsolationKind {
    /// The word in `show`; empty where there is nothing to say.
    pub const fn name(self) -> &'static str {
        match self {
            IsolationKind::Tcx => "tcx",
            IsolationKind::Clsact => "clsact",
            IsolationKind::None => "none",
            IsolationKind::NotNeeded => "",
        }
    }
}

/// What the user allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IsolationMode {
    /// TCX, or clsact on kernels without it.
    #[default]
    Auto,
    /// Clsact, whatever the kernel has.
    Clsact,
    /// Nothing.
    Off,
}

/// TC_ACT_SHOT, which is TCX_DROP.
const DROP: i32 = 2;
/// TC_ACT_UNSPEC, which is TCX_NEXT: let the next program decide.
const NEXT: i32 = -1;

/// Ends every frame.
fn drop_all() -> Vec<Instruction> {
    let mut text = Assembler::default();
    text.imm(Alu::Move, Reg::R0, DROP);
    text.exit();
    text.finish()
}

/// Lets frames with our mark go on.
fn pass_marked() -> Vec<Instruction> {
    /// `mark` of `struct __sk_buff`, in bytes.
    const SKB_MARK: i16 = 8;
    let mut text = Assembler::default();
    let ours = text.label();
    text.load(Size::Word, Reg::R1, Reg::R1, SKB_MARK);
    text.imm(Alu::Move, Reg::R0, NEXT);
    text.jump_imm(If::Equal, Reg::R1, MARK.cast_signed(), ours);
    text.imm(Alu::Move, Reg::R0, DROP);
    text.place(ours);
    text.exit();
    text.finish()
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    bpf::load(ProgramType::SchedCls, program)
}

/// Holds the programs in place; dropping it takes them away.
#[derive(Debug)]
pub(super) struct Isolation(Held);

#[derive(Debug)]
enum Held {
    /// Closing these detaches the programs.
    Tcx {
        _links: [OwnedFd; 2],
    },
    Clsact(#[expect(dead_code, reason = "held for its Drop")] Clsact),
    Nothing,
}

/// Our filters on a clsact qdisc, and the qdisc if we made it.
#[derive(Debug)]
struct Clsact {
    ifindex: u32,
    mark: String,
    made: bool,
}

impl Drop for Clsact {
    fn drop(&mut self) {
        let Removed { shared, .. } = remove_filters(self.ifindex, |mark| mark.to_string() == self.mark);
        // If no filter was taken, none says that the qdisc is ours.
        if self.made && !shared {
            let _ = tc::remove_clsact(self.ifindex);
        }
    }
}

/// Marks of our filters: the rest says whether the qdisc is ours too.
const WITH_QDISC: &str = "qdisc";
const WITHOUT_QDISC: &str = "";

/// What was found where filters of ours were removed.
#[derive(Clone, Copy, Debug, Default)]
struct Removed {
    /// There were some.
    found: bool,
    /// Their qdisc was made for them.
    made: bool,
    /// Others have filters there.
    shared: bool,
}

/// Removes the filters of `ifindex` whose mark `is_ours`, and their qdisc if it
/// was made for them and nobody else uses it now; says whether there were any.
fn remove_clsact(ifindex: u32, is_ours: impl Fn(&Alias<'_>) -> bool) -> bool {
    let Removed { found, made, shared } = remove_filters(ifindex, is_ours);
    if made && !shared {
        let _ = tc::remove_clsact(ifindex);
    }
    found
}

/// Removes the filters of `ifindex` whose mark `is_ours`.
fn remove_filters(ifindex: u32, is_ours: impl Fn(&Alias<'_>) -> bool) -> Removed {
    let mut removed = Removed::default();
    for direction in Direction::BOTH {
        // A device that is gone has none.
        for filter in tc::filters(ifindex, direction).unwrap_or_default() {
            match Alias::parse(&filter.name).filter(&is_ours) {
                Some(mark) => {
                    removed.found = true;
                    removed.made |= mark.rest == WITH_QDISC;
                    let _ = tc::remove_filter(ifindex, direction, &filter);
                }
                None => removed.shared = true,
            }
        }
    }
    removed
}

/// Removes what a killed run of `switch` left of its isolation, on whatever
/// interface; returns the interfaces' numbers.
///
/// # Errors
/// If the kernel does not list its qdiscs.
pub(super) fn remove_leftovers(switch: &Alias<'_>) -> io::Result<Vec<u32>> {
    let mut interfaces = tc::interfaces()?;
    interfaces.retain(|ifindex| {
        remove_clsact(*ifindex, |mark| (mark.owner, mark.switch) == (switch.owner, switch.switch))
    });
    Ok(interfaces)
}

impl Isolation {
    /// Isolates interface `ifindex` in the namespace of the calling thread for
    /// `switch`, as far as `mode` and the kernel allow; what falls short is
    /// said in `notes`. Where it is by TCX, `sender` takes the place of the
    /// program that ends every frame that came in.
    ///
    /// # Errors
    /// Out of descriptors or memory, or the interface is gone: a port that
    /// could be isolated is never opened without.
    pub fn attach(
        ifindex: u32,
        mode: IsolationMode,
        switch: &Alias<'_>,
        sender: Option<&OwnedFd>,
        notes: &mut Vec<String>,
    ) -> io::Result<Isolation> {
        // What a killed run left, on an interface that was not there when this
        // one started.
        remove_clsact(ifindex, |mark| (mark.owner, mark.switch) == (switch.owner, switch.switch));
        let foreign = mode != IsolationMode::Off && has_ingress_filters(ifindex);
        let attached = match mode {
            IsolationMode::Off => return Ok(Isolation(Held::Nothing)),
            IsolationMode::Clsact => clsact(ifindex, switch),
            IsolationMode::Auto => tcx(ifindex, sender).or_else(|error| match error.raw_os_error() {
                // EINVAL: the kernel knows no such attach type (before 6.6).
                Some(libc::EINVAL | libc::EOPNOTSUPP) => clsact(ifindex, switch),
                _ => Err(error),
            }),
        };
        match attached {
            Ok(held) => {
                if foreign {
                    notes.push("its own ingress filters do not run while the switch has it".to_owned());
                }
                Ok(Isolation(held))
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENODEV | libc::ENOBUFS) => Err(error),
                errno => {
                    let right = if errno == Some(libc::EPERM) {
                        ": grant cap_bpf and cap_net_admin to close it"
                    } else {
                        ""
                    };
                    notes.push(format!(
                        "isolation: none ({error}), the host's own stack sees these frames{right}"
                    ));
                    Ok(Isolation(Held::Nothing))
                }
            },
        }
    }

    /// What is in force.
    pub fn kind(&self) -> IsolationKind {
        match self.0 {
            Held::Tcx { .. } => IsolationKind::Tcx,
            Held::Clsact(_) => IsolationKind::Clsact,
            Held::Nothing => IsolationKind::None,
        }
    }
}

/// Whether somebody filters what comes in by `ifindex`.
fn has_ingress_filters(ifindex: u32) -> bool {
    let programs = bpf::attached(ifindex, Hook::TcxIngress).is_ok_and(|count| count > 0);
    programs || tc::filters(ifindex, Direction::Ingress).is_ok_and(|filters| !filters.is_empty())
}

fn tcx(ifindex: u32, sender: Option<&OwnedFd>) -> io::Result<Held> {
    let ingress = match sender {
        Some(sender) => bpf::link(sender, ifindex, Hook::TcxIngress)?,
        None => bpf::link(&load(&drop_all())?, ifindex, Hook::TcxIngress)?,
    };
    let egress = bpf::link(&load(&pass_marked())?, ifindex, Hook::TcxEgress)?;
    Ok(Held::Tcx { _links: [ingress, egress] })
}

fn clsact(ifindex: u32, switch: &Alias<'_>) -> io::Result<Held> {
    let (ingress, egress) = (load(&drop_all())?, load(&pass_marked())?);
    let made = tc::add_clsact(ifindex)?;
    let rest = if made { WITH_QDISC } else { WITHOUT_QDISC };
    let mark = Alias { rest, ..*switch }.to_string();
    // From here on, a failure takes back what was done.
    let held = Clsact { ifindex, mark: mark.clone(), made };
    for (direction, program) in [(Direction::Ingress, ingress), (Direction::Egress, egress)] {
        let first = tc::filters(ifindex, direction)?.iter().map(|filter| filter.preference).min();
        let preference = before(first).ok_or_else(|| {
            io::Error::new(io::ErrorKind::AlreadyExists, "a filter of preference 1 would run before ours")
        })?;
        tc::add_filter(ifindex, direction, preference, &program, &mark)?;
    }
    Ok(Held::Clsact(held))
}

/// The preference for a filter that runs before those from `first` on.
const fn before(first: Option<u16>) -> Option<u16> {
    match first {
        None => Some(PREFERENCE),
        Some(0 | 1) => None,
        Some(first) if first <= PREFERENCE => Some(first - 1),
        Some(_) => Some(PREFERENCE),
    }
}

/// Low, so that filters which others add later run after ours.
const PREFERENCE: u16 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    /// As on a kernel that has the qdisc, and not the classifier for programs.
    #[test]
    fn a_qdisc_whose_first_filter_was_refused_goes_again() {
        // The loopback of a namespace of this thread's own.
        const LOOPBACK: u32 = 1;
        let apart = std::thread::spawn(|| {
            let flags = rustix::thread::UnshareFlags::NEWNET;
            // SAFETY: descriptors, which a namespace of processes may share, stay shared.
            if unsafe { rustix::thread::unshare_unsafe(flags) }.is_err() {
                return;
            }
            for made in [false, true] {
                let _ = tc::add_clsact(LOOPBACK).unwrap();
                drop(Clsact { ifindex: LOOPBACK, mark: "vswitch:0:a:qdisc".to_owned(), made });
                assert_eq!(tc::interfaces().unwrap().contains(&LOOPBACK), !made);
            }
        });
        apart.join().unwrap();
    }

    #[test]
    fn our_filter_runs_first_or_not_at_all() {
        for (first, ours) in [
            (None, Some(16)),
            (Some(49152), Some(16)),
            (Some(17), Some(16)),
            (Some(16), Some(15)),
            (Some(2), Some(1)),
            (Some(1), None),
        ] {
            assert_eq!(before(first), ours, "{first:?}");
        }
    }
}
