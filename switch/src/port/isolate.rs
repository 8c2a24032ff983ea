//! Keeps an interface of ours and the host's own network stack apart, both
//! ways: a packet socket copies frames, it does not take them, so without this
//! the host would answer ARP for its own addresses behind any port.
//!
//! Two programs of the kernel's traffic control do it. On ingress, everything
//! ends (after the packet socket has seen it). On egress, only frames with our
//! mark pass. Attached by TCX links (Linux 6.6) they vanish with the process,
//! even a killed one; on older kernels a clsact qdisc holds them, which is
//! removed at the end, or by the next start.
//!
//! Deliberately absent: any touch of the host's addresses or sysctls
//! (`disable_ipv6` deletes static addresses for good). Read first: bpf(2), and
//! `tcx_run` of net/core/dev.c.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::packet::MARK;
use super::tc;

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

fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of `attr`, and what its
    // addresses name, which outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    match i32::try_from(fd) {
        // SAFETY: a new descriptor that nobody else holds.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let attr = LoadAttr {
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
    bpf(BPF_PROG_LOAD, &attr)
}

fn link(program: &OwnedFd, ifindex: u32, attach_type: u32) -> io::Result<OwnedFd> {
    let attr = LinkAttr {
        // A descriptor is not negative.
        prog_fd: program.as_raw_fd().cast_unsigned(),
        target_ifindex: ifindex,
        attach_type,
        flags: BPF_F_BEFORE,
        relative_fd: 0,
        padding: 0,
        expected_revision: 0,
    };
    bpf(BPF_LINK_CREATE, &attr)
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

/// Our filters on a clsact qdisc, and the qdisc if nobody else's.
#[derive(Debug)]
struct Clsact {
    ifindex: u32,
    remove_qdisc: bool,
}

impl Drop for Clsact {
    fn drop(&mut self) {
        tc::remove_filters(self.ifindex);
        if self.remove_qdisc {
            // The device may be gone, and its qdisc with it.
            let _ = tc::remove_clsact(self.ifindex);
        }
    }
}

impl Isolation {
    /// Isolates interface `ifindex` in the namespace of the calling thread, as
    /// far as `mode` and the kernel allow; what falls short is said in `notes`.
    pub fn attach(ifindex: u32, mode: IsolationMode, notes: &mut Vec<String>) -> Isolation {
        // What a killed run on an older kernel left.
        let leftover = tc::remove_filters(ifindex);
        let attached = match mode {
            IsolationMode::Off => Ok(Held::Nothing),
            IsolationMode::Clsact => clsact(ifindex, leftover),
            IsolationMode::Auto => tcx(ifindex).or_else(|error| match error.raw_os_error() {
                // EINVAL: the kernel knows no such attach type (before 6.6).
                Some(libc::EINVAL | libc::EOPNOTSUPP) => clsact(ifindex, leftover),
                _ => Err(error),
            }),
        };
        Isolation(attached.unwrap_or_else(|error| {
            let right = if error.raw_os_error() == Some(libc::EPERM) {
                ": grant cap_bpf and cap_net_admin to close it"
            } else {
                ""
            };
            notes.push(format!("isolation: none ({error}), the host's own stack sees these frames{right}"));
            Held::Nothing
        }))
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

fn tcx(ifindex: u32) -> io::Result<Held> {
    let ingress = link(&load(&DROP_ALL)?, ifindex, BPF_TCX_INGRESS)?;
    let egress = link(&load(&PASS_MARKED)?, ifindex, BPF_TCX_EGRESS)?;
    Ok(Held::Tcx { _links: [ingress, egress] })
}

/// `leftover`: a qdisc that is there was left by us.
fn clsact(ifindex: u32, leftover: bool) -> io::Result<Held> {
    let (ingress, egress) = (load(&DROP_ALL)?, load(&PASS_MARKED)?);
    let made = tc::add_clsact(ifindex)?;
    // From here on, a failure takes back what was done.
    let held = Clsact { ifindex, remove_qdisc: made || leftover };
    tc::add_filter(ifindex, tc::Direction::Ingress, &ingress)?;
    tc::add_filter(ifindex, tc::Direction::Egress, &egress)?;
    Ok(Held::Clsact(held))
}
