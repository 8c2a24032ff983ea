//! bpf(2), as far as ports need it: programs and maps made, programs attached.
//!
//! Programs are a few dozen instructions, written with [`Assembler`] rather
//! than compiled from C, so that neither clang nor a loader is needed to build
//! or to run the switch.
//!
//! Deliberately absent: what the programs decide (`isolate`, `fast`), BTF,
//! pinning. Read first: bpf(2), and Documentation/bpf/standardization of the
//! kernel for the instruction set.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const MAP_DELETE_ELEM: libc::c_long = 3;
const PROG_LOAD: libc::c_long = 5;
const PROG_QUERY: libc::c_long = 16;
const LINK_CREATE: libc::c_long = 28;

/// Attach in front of what is there; by default links go behind, and an
/// earlier program could end the chain.
const F_BEFORE: u32 = 1 << 3;

/// What a program may be attached to, and what it may call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum ProgramType {
    /// Says how much of a frame a socket gets.
    SocketFilter = 1,
    /// Traffic control's classifier and action.
    SchedCls = 3,
}

/// Where on an interface a TCX program runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum Hook {
    /// On frames that come in, behind packet sockets.
    TcxIngress = 46,
    /// On frames that leave, before packet sockets.
    TcxEgress = 47,
}

/// How a map is laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum MapType {
    /// Keys to values; memory is taken as entries come.
    Hash = 1,
    /// One value, which user space can map.
    Array = 2,
}

const F_NO_PREALLOC: u32 = 1;
const F_MMAPABLE: u32 = 1 << 10;

/// The part of `union bpf_attr` that BPF_MAP_CREATE reads.
#[repr(C)]
struct MapAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// The part of `union bpf_attr` for one element of a map.
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

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
    // reads and writes what its addresses name, which outlives the call.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

fn bpf_fd<T>(command: libc::c_long, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    let fd = i32::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: a new descriptor that nobody else holds.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor as the kernel's structures hold it.
fn word(fd: &OwnedFd) -> u32 {
    // A descriptor is not negative.
    fd.as_raw_fd().cast_unsigned()
}

fn small(len: usize) -> io::Result<u32> {
    u32::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))
}

/// Makes a map of `entries` values of `value_len` bytes; an array can be mapped.
///
/// # Errors
/// EPERM without CAP_BPF; ENOMEM.
pub(super) fn map(kind: MapType, key_len: usize, value_len: usize, entries: u32) -> io::Result<OwnedFd> {
    bpf_fd(
        MAP_CREATE,
        &mut MapAttr {
            map_type: kind as u32,
            key_size: small(key_len)?,
            value_size: small(value_len)?,
            max_entries: entries,
            map_flags: match kind {
                MapType::Hash => F_NO_PREALLOC,
                MapType::Array => F_MMAPABLE,
            },
        },
    )
}

fn element<K, V>(map: &OwnedFd, key: &K, value: *mut V) -> ElementAttr {
    let (key, value) = (std::ptr::from_ref(key) as u64, value as u64);
    ElementAttr { map_fd: word(map), padding: 0, key, value, flags: 0 }
}

/// Reads the value of `key`, whose sizes are the map's.
///
/// # Errors
/// ENOENT: there is none.
pub(super) fn look_up<K: Copy, V: Copy + Default>(map: &OwnedFd, key: &K) -> io::Result<V> {
    let mut value = V::default();
    bpf(MAP_LOOKUP_ELEM, &mut element(map, key, &raw mut value))?;
    Ok(value)
}

/// Sets the value of `key`, whose sizes are the map's.
///
/// # Errors
/// E2BIG: the map is full; ENOMEM.
pub(super) fn update<K: Copy, V: Copy>(map: &OwnedFd, key: &K, mut value: V) -> io::Result<()> {
    bpf(MAP_UPDATE_ELEM, &mut element(map, key, &raw mut value)).map(drop)
}

/// Takes `key` out.
///
/// # Errors
/// ENOENT: it is not there.
pub(super) fn delete<K: Copy>(map: &OwnedFd, key: &K) -> io::Result<()> {
    bpf(MAP_DELETE_ELEM, &mut element::<K, u8>(map, key, std::ptr::null_mut())).map(drop)
}

/// Loads a program.
///
/// # Errors
/// EPERM without CAP_BPF; what the verifier does not accept (EACCES, EINVAL)
/// carries the end of its log.
pub(super) fn load(kind: ProgramType, program: &[Instruction]) -> io::Result<OwnedFd> {
    let mut attr = LoadAttr {
        prog_type: kind as u32,
        insn_cnt: small(program.len())?,
        insns: program.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    match bpf_fd(PROG_LOAD, &mut attr) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EINVAL)) => {
            let mut log = vec![0u8; 64 << 10];
            (attr.log_level, attr.log_size, attr.log_buf) = (1, small(log.len())?, log.as_mut_ptr() as u64);
            // Once more, for its reasons.
            bpf_fd(PROG_LOAD, &mut attr).inspect_err(|_| {
                let log = String::from_utf8_lossy(&log);
                let lines: Vec<&str> = log.trim_end_matches('\0').lines().rev().take(4).collect();
                tracing::debug!("the verifier: {}", lines.into_iter().rev().collect::<Vec<_>>().join(" | "));
            })
        }
        outcome => outcome,
    }
}

/// Runs `program` at `hook` of interface `ifindex` of the thread's namespace,
/// before those that are there, until the link is dropped.
///
/// # Errors
/// EINVAL on kernels without TCX (before 6.6); ENODEV.
pub(super) fn link(program: &OwnedFd, ifindex: u32, hook: Hook) -> io::Result<OwnedFd> {
    bpf_fd(
        LINK_CREATE,
        &mut LinkAttr {
            prog_fd: word(program),
            target_ifindex: ifindex,
            attach_type: hook as u32,
            flags: F_BEFORE,
            relative_fd: 0,
            padding: 0,
            expected_revision: 0,
        },
    )
}

/// Number of programs at `hook` of interface `ifindex`.
///
/// # Errors
/// EINVAL on kernels without TCX.
pub(super) fn attached(ifindex: u32, hook: Hook) -> io::Result<u32> {
    let mut query = QueryAttr { target_ifindex: ifindex, attach_type: hook as u32, ..QueryAttr::default() };
    bpf(PROG_QUERY, &mut query)?;
    Ok(query.count)
}

/// One instruction of the kernel's virtual machine (`struct bpf_insn`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub(super) struct Instruction {
    code: u8,
    /// Destination in the low four bits, source in the high four.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// A register; R10 is the frame pointer, R0 the result of calls and of the
/// program, R1 … R5 arguments that a call destroys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
}

/// How many bytes a load or a store moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Size {
    /// Four bytes.
    Word = 0x00,
    /// One byte.
    Byte = 0x10,
    /// Eight bytes.
    Double = 0x18,
}

/// A 64-bit operation on a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Alu {
    Add = 0x00,
    Sub = 0x10,
    Or = 0x40,
    And = 0x50,
    ShiftLeft = 0x60,
    ShiftRight = 0x70,
    Move = 0xb0,
}

/// When a jump is taken; orders are of unsigned numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum If {
    Equal = 0x10,
    Greater = 0x20,
    GreaterOrEqual = 0x30,
    /// They have a bit in common.
    AnyBit = 0x40,
    NotEqual = 0x50,
    Less = 0xa0,
}

/// A place to jump to, forward only: programs here have no loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Label(usize);

/// The kernel's helper functions, by number (`enum bpf_func_id`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
pub(super) enum Helper {
    MapLookup = 1,
    CpuNumber = 8,
    Redirect = 23,
    LoadBytes = 26,
    CoarseClock = 160,
}

/// Writes a program, one method an instruction.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    program: Vec<Instruction>,
    /// Where each label stands, once it is placed.
    labels: Vec<Option<usize>>,
    /// Jumps to fill in, and where they go.
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    /// A new label, to be placed later.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// `label` is here.
    pub fn place(&mut self, label: Label) {
        self.labels[label.0] = Some(self.program.len());
    }

    fn push(&mut self, code: u8, dst: Reg, src: u8, offset: i16, immediate: i32) {
        self.program.push(Instruction { code, registers: dst as u8 | src << 4, offset, immediate });
    }

    /// `dst OP= src`
    pub fn reg(&mut self, op: Alu, dst: Reg, src: Reg) {
        self.push(0x0f | op as u8, dst, src as u8, 0, 0);
    }

    /// `dst OP= immediate`
    pub fn imm(&mut self, op: Alu, dst: Reg, immediate: i32) {
        self.push(0x07 | op as u8, dst, 0, 0, immediate);
    }

    /// `dst = *(src + offset)`
    pub fn load(&mut self, size: Size, dst: Reg, src: Reg, offset: i16) {
        self.push(0x61 | size as u8, dst, src as u8, offset, 0);
    }

    /// `*(dst + offset) = src`
    pub fn store(&mut self, size: Size, dst: Reg, offset: i16, src: Reg) {
        self.push(0x63 | size as u8, dst, src as u8, offset, 0);
    }

    /// `src = *(dst + offset), *(dst + offset) += src`, at once for all
    /// processors; eight bytes (Linux 5.12).
    pub fn fetch_add(&mut self, dst: Reg, offset: i16, src: Reg) {
        self.push(0xdb, dst, src as u8, offset, 0x01);
    }

    /// `if dst IF immediate goto label`; the immediate is sign-extended.
    pub fn jump_imm(&mut self, when: If, dst: Reg, immediate: i32, label: Label) {
        self.jumps.push((self.program.len(), label));
        self.push(0x05 | when as u8, dst, 0, 0, immediate);
    }

    /// `if dst IF src goto label`
    pub fn jump_reg(&mut self, when: If, dst: Reg, src: Reg, label: Label) {
        self.jumps.push((self.program.len(), label));
        self.push(0x0d | when as u8, dst, src as u8, 0, 0);
    }

    /// `goto label`
    pub fn jump(&mut self, label: Label) {
        self.jumps.push((self.program.len(), label));
        self.push(0x05, Reg::R0, 0, 0, 0);
    }

    /// `R0 = helper(R1, …)`
    pub fn call(&mut self, helper: Helper) {
        self.push(0x85, Reg::R0, 0, 0, helper as i32);
    }

    /// `return R0`
    pub fn exit(&mut self) {
        self.push(0x95, Reg::R0, 0, 0, 0);
    }

    /// `dst` = `map`, for a helper (BPF_PSEUDO_MAP_FD).
    pub fn map(&mut self, dst: Reg, map: &OwnedFd) {
        self.push(0x18, dst, 1, 0, map.as_raw_fd());
        self.push(0, Reg::R0, 0, 0, 0);
    }

    /// `dst` = address of the one value of `array`, `offset` bytes into it
    /// (BPF_PSEUDO_MAP_VALUE).
    pub fn value(&mut self, dst: Reg, array: &OwnedFd, offset: i32) {
        self.push(0x18, dst, 2, 0, array.as_raw_fd());
        self.push(0, Reg::R0, 0, 0, offset);
    }

    /// The whole program.
    ///
    /// # Panics
    /// A label was jumped to and never placed, or stands before the jump: a
    /// mistake in the program's text, which every test that loads it finds.
    pub fn finish(mut self) -> Vec<Instruction> {
        for (at, label) in self.jumps {
            let to = self.labels[label.0].expect("every label is placed");
            let distance = to.checked_sub(at + 1).expect("jumps go forward");
            self.program[at].offset = i16::try_from(distance).expect("programs are short");
        }
        self.program
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `llvm-objdump -d` prints the same instructions.
    #[test]
    fn instructions_are_encoded_as_the_kernel_reads_them() {
        let mut text = Assembler::default();
        let end = text.label();
        text.load(Size::Word, Reg::R1, Reg::R1, 8);
        text.imm(Alu::Move, Reg::R0, -1);
        text.jump_imm(If::Equal, Reg::R1, 7, end);
        text.imm(Alu::Move, Reg::R0, 2);
        text.place(end);
        text.exit();
        let bytes: Vec<[u8; 8]> = text
            .finish()
            .iter()
            .map(|i| {
                let ([o0, o1], [i0, i1, i2, i3]) = (i.offset.to_le_bytes(), i.immediate.to_le_bytes());
                [i.code, i.registers, o0, o1, i0, i1, i2, i3]
            })
            .collect();
        assert_eq!(
            bytes,
            [
                [0x61, 0x11, 8, 0, 0, 0, 0, 0],
                [0xb7, 0x00, 0, 0, 0xff, 0xff, 0xff, 0xff],
                [0x15, 0x01, 1, 0, 7, 0, 0, 0],
                [0xb7, 0x00, 0, 0, 2, 0, 0, 0],
                [0x95, 0x00, 0, 0, 0, 0, 0, 0],
            ]
        );
    }
}
