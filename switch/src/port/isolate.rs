//! Keeps an interface of ours and the host's own network stack apart, both
//! ways: a packet socket copies frames, it does not take them, so without this
//! the host would answer ARP for its own addresses behind any port.
//!
//! Two programs of the kernel's traffic control do it. On ingress, everything
//! ends (after the packet socket has seen it). On egress, only frames with our
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
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::alias::Alias;
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

/// One instruction of the kernel's virtual machine (`struct bpf_insn`).
#[derive(Clone, Copy)]
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, registers: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers, offset, immediate }
}

/// TC_ACT_SHOT, which is TCX_DROP.
const DROP: i32 = 2;
/// TC_ACT_UNSPEC, which is TCX_NEXT: let the next program decide.
const NEXT: i32 = -1;

/// r0 = DROP; exit
const DROP_ALL: [Instruction; 2] = [instruction(0xb7, 0, 0, DROP), instruction(0x95, 0, 0, 0)];

/// r1 = skb->mark; r0 = NEXT; if r1 == MARK skip; r0 = DROP; exit
const PASS_MARKED: [Instruction; 5] = [
    instruction(0x61, 0x11, 8, 0),
    instruction(0xb7, 0, 0, NEXT),
    instruction(0x15, 0x01, 1, MARK.cast_signed()),
    instruction(0xb7, 0, 0, DROP),
    instruction(0x95, 0, 0, 0),
];

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
/// Attach in front of what is there; by default links go behind, and an
/// earlier program could end the chain.
const BPF_F_BEFORE: u32 = 1 << 3;

/// The part of `union bpf_attr` that BPF_PROG_LOAD reads.
#[repr(C)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// The part of `union bpf_attr` that BPF_LINK_CREATE reads for TCX.
#[repr(C)]
struct LinkAttr {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    padding: u32,
    expected_revision: u64,
}

/// The part of `union bpf_attr` that BPF_PROG_QUERY reads and writes for TCX.
#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// Gives the kernel `attr`, a part of `union bpf_attr`; returns its answer.
fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes `size_of::<T>()` bytes of `attr`, and
    // reads what its addresses name, which outlives the call.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

fn bpf_fd<T>(command: libc::c_long, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    let fd = i32::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: a new descriptor that nobody else holds.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let mut attr = LoadAttr {
        prog_type: BPF_PROG_TYPE_SCHED_CLS,
        insn_cnt: u32::try_from(program.len()).unwrap_or(0),
        insns: program.as_ptr() as u64,
        // Neither program calls a helper: any licence is good.
        license: c"Dual MIT/GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    bpf_fd(BPF_PROG_LOAD, &mut attr)
}

fn link(program: &OwnedFd, ifindex: u32, attach_type: u32) -> io::Result<OwnedFd> {
    let mut attr = LinkAttr {
        // A descriptor is not negative.
        prog_fd: program.as_raw_fd().cast_unsigned(),
        target_ifindex: ifindex,
        attach_type,
        flags: BPF_F_BEFORE,
        relative_fd: 0,
        padding: 0,
        expected_revision: 0,
    };
    bpf_fd(BPF_LINK_CREATE, &mut attr)
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
    ingress: String,
}

impl Drop for Clsact {
    fn drop(&mut self) {
        remove_clsact(self.ifindex, |mark| mark.to_string() == self.ingress);
    }
}

/// Marks of our filters: the rest says whether the qdisc is ours too.
const WITH_QDISC: &str = "qdisc";
const WITHOUT_QDISC: &str = "";

/// Removes the filters of `ifindex` whose mark `is_ours`, and their qdisc if it
/// was made for them and nobody else uses it now; says whether there were any.
fn remove_clsact(ifindex: u32, is_ours: impl Fn(&Alias<'_>) -> bool) -> bool {
    let (mut found, mut made, mut shared) = (false, false, false);
    for direction in Direction::BOTH {
        // A device that is gone has none.
        for filter in tc::filters(ifindex, direction).unwrap_or_default() {
            match Alias::parse(&filter.name).filter(&is_ours) {
                Some(mark) => {
                    found = true;
                    made |= mark.rest == WITH_QDISC;
                    let _ = tc::remove_filter(ifindex, direction, &filter);
                }
                None => shared = true,
            }
        }
    }
    if made && !shared {
        let _ = tc::remove_clsact(ifindex);
    }
    found
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
    /// said in `notes`.
    ///
    /// # Errors
    /// Out of descriptors or memory, or the interface is gone: a port that
    /// could be isolated is never opened without.
    pub fn attach(
        ifindex: u32,
        mode: IsolationMode,
        switch: &Alias<'_>,
        notes: &mut Vec<String>,
    ) -> io::Result<Isolation> {
        // What a killed run left, on an interface that was not there when this
        // one started.
        remove_clsact(ifindex, |mark| (mark.owner, mark.switch) == (switch.owner, switch.switch));
        let foreign = mode != IsolationMode::Off && has_ingress_filters(ifindex);
        let attached = match mode {
            IsolationMode::Off => return Ok(Isolation(Held::Nothing)),
            IsolationMode::Clsact => clsact(ifindex, switch),
            IsolationMode::Auto => tcx(ifindex).or_else(|error| match error.raw_os_error() {
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
    let mut query =
        QueryAttr { target_ifindex: ifindex, attach_type: BPF_TCX_INGRESS, ..QueryAttr::default() };
    let programs = bpf(BPF_PROG_QUERY, &mut query).is_ok() && query.count > 0;
    programs || tc::filters(ifindex, Direction::Ingress).is_ok_and(|filters| !filters.is_empty())
}

fn tcx(ifindex: u32) -> io::Result<Held> {
    let ingress = link(&load(&DROP_ALL)?, ifindex, BPF_TCX_INGRESS)?;
    let egress = link(&load(&PASS_MARKED)?, ifindex, BPF_TCX_EGRESS)?;
    Ok(Held::Tcx { _links: [ingress, egress] })
}

fn clsact(ifindex: u32, switch: &Alias<'_>) -> io::Result<Held> {
    let (ingress, egress) = (load(&DROP_ALL)?, load(&PASS_MARKED)?);
    let made = tc::add_clsact(ifindex)?;
    let rest = if made { WITH_QDISC } else { WITHOUT_QDISC };
    let mark = Alias { rest, ..*switch }.to_string();
    // From here on, a failure takes back what was done.
    let held = Clsact { ifindex, ingress: mark.clone() };
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
