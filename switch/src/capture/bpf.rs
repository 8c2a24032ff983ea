//! Filters: programs of the classic BPF machine, checked once and run over the
//! bytes of a capture, never on the data thread.
//!
//! Read first: McCanne and Jacobson, "The BSD Packet Filter" (1993), and
//! `net/core/filter.c` of the kernel, whose checks are ours too: jumps only go
//! forward and stay inside, every path ends in a return, so that a program of N
//! instructions takes at most N steps.
//!
//! Deliberately absent: compiling text (`libpcap`), and the kernel's extensions
//! at negative offsets.

use serde::{Deserialize, Serialize};

/// The most instructions of a program (BPF_MAXINSNS).
pub const LEN_MAX: usize = 4096;

/// A filter may look so far into a frame, whatever is kept of it, and no further:
/// what it accepts must not depend on how much a capture or the recorder keeps.
pub const REACH: u32 = 2048;

/// Words of scratch memory.
const MEMORY: usize = 16;

/// One instruction, as `struct bpf_insn`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(from = "(u16, u8, u8, u32)", into = "(u16, u8, u8, u32)")]
pub struct Insn {
    /// Operation and addressing mode.
    pub code: u16,
    /// Instructions to skip if a condition holds.
    pub jt: u8,
    /// And if it does not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

impl From<(u16, u8, u8, u32)> for Insn {
    fn from((code, jt, jf, k): (u16, u8, u8, u32)) -> Insn {
        Insn { code, jt, jf, k }
    }
}

impl From<Insn> for (u16, u8, u8, u32) {
    fn from(insn: Insn) -> (u16, u8, u8, u32) {
        (insn.code, insn.jt, insn.jf, insn.k)
    }
}

/// Why a program is not run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProgramError {
    /// It has none, or too many instructions.
    #[error("a filter has 1 to {LEN_MAX} instructions, this one {0}")]
    Length(usize),
    /// An instruction that there is not.
    #[error("instruction {0} of the filter is unknown")]
    Unknown(usize),
    /// A jump or a memory word out of bounds.
    #[error("instruction {0} of the filter leads out of it")]
    Bounds(usize),
    /// A division by the constant zero.
    #[error("instruction {0} of the filter divides by zero")]
    Zero(usize),
    /// The last instruction does not return.
    #[error("the filter does not end in a return")]
    End,
}

const LD: u16 = 0x00;
const LDX: u16 = 0x01;
const ST: u16 = 0x02;
const STX: u16 = 0x03;
const ALU: u16 = 0x04;
const JMP: u16 = 0x05;
const RET: u16 = 0x06;
const MISC: u16 = 0x07;

/// A program that was checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program(Vec<Op>);

/// An instruction that exists, with operands that are in bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Op {
    /// A = the word, half or byte at k, or k behind X.
    Load {
        size: u8,
        indexed: bool,
        k: u32,
    },
    /// A = the length, a constant, a memory word.
    LoadLen,
    LoadConst(u32),
    LoadMemory(usize),
    /// The same for X.
    XLen,
    XConst(u32),
    XMemory(usize),
    /// X = four times the low half of the byte at k: an IP header's length.
    XHeader(u32),
    Store(usize),
    StoreX(usize),
    Alu {
        op: Alu,
        operand: Operand,
    },
    Negate,
    Jump(usize),
    Branch {
        test: Test,
        operand: Operand,
        yes: usize,
        no: usize,
    },
    ReturnConst(u32),
    ReturnA,
    Tax,
    Txa,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operand {
    K(u32),
    X,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Alu {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    And,
    Or,
    Xor,
    Lsh,
    Rsh,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Test {
    Equal,
    Greater,
    GreaterEqual,
    AnyBit,
}

impl Program {
    /// Checks a program.
    ///
    /// # Errors
    /// The first instruction that cannot be run safely.
    pub fn new(insns: &[Insn]) -> Result<Program, ProgramError> {
        if insns.is_empty() || insns.len() > LEN_MAX {
            return Err(ProgramError::Length(insns.len()));
        }
        let ops = insns.iter().enumerate().map(|(at, insn)| op(at, insn, insns.len()));
        let ops = ops.collect::<Result<Vec<Op>, ProgramError>>()?;
        match ops.last() {
            Some(Op::ReturnConst(_) | Op::ReturnA) => Ok(Program(ops)),
            _ => Err(ProgramError::End),
        }
    }

    /// Whether a frame of `len` bytes, the first of which are `bytes`, is
    /// accepted. A program that reads beyond them, or beyond its [`REACH`], rejects.
    pub fn accepts(&self, bytes: &[u8], len: u32) -> bool {
        let bytes = &bytes[..bytes.len().min(REACH as usize)];
        self.run(bytes, len).is_some_and(|snaplen| snaplen != 0)
    }

    /// `None` if it read beyond the bytes, or divided by zero.
    fn run(&self, bytes: &[u8], len: u32) -> Option<u32> {
        let (mut a, mut x, mut memory) = (0u32, 0u32, [0u32; MEMORY]);
        let mut pc = 0;
        loop {
            // The check saw that every jump goes forward and stays inside.
            let op = *self.0.get(pc)?;
            pc += 1;
            match op {
                Op::Load { size, indexed, k } => {
                    let at = if indexed { k.checked_add(x)? } else { k };
                    a = load(bytes, at, size)?;
                }
                Op::LoadLen => a = len,
                Op::LoadConst(k) => a = k,
                Op::LoadMemory(n) => a = memory[n],
                Op::XLen => x = len,
                Op::XConst(k) => x = k,
                Op::XMemory(n) => x = memory[n],
                Op::XHeader(k) => x = (load(bytes, k, 1)? & 0xf) * 4,
                Op::Store(n) => memory[n] = a,
                Op::StoreX(n) => memory[n] = x,
                Op::Alu { op, operand } => a = compute(op, a, value(operand, x))?,
                Op::Negate => a = a.wrapping_neg(),
                Op::Jump(by) => pc += by,
                Op::Branch { test, operand, yes, no } => {
                    let operand = value(operand, x);
                    let holds = match test {
                        Test::Equal => a == operand,
                        Test::Greater => a > operand,
                        Test::GreaterEqual => a >= operand,
                        Test::AnyBit => a & operand != 0,
                    };
                    pc += if holds { yes } else { no };
                }
                Op::ReturnConst(k) => return Some(k),
                Op::ReturnA => return Some(a),
                Op::Tax => x = a,
                Op::Txa => a = x,
            }
        }
    }
}

fn value(operand: Operand, x: u32) -> u32 {
    match operand {
        Operand::K(k) => k,
        Operand::X => x,
    }
}

fn load(bytes: &[u8], at: u32, size: u8) -> Option<u32> {
    let from = bytes.get(at as usize..)?;
    match size {
        4 => from.first_chunk().map(|word| u32::from_be_bytes(*word)),
        2 => from.first_chunk().map(|half| u16::from_be_bytes(*half).into()),
        _ => from.first().map(|byte| u32::from(*byte)),
    }
}

fn compute(op: Alu, a: u32, b: u32) -> Option<u32> {
    match op {
        Alu::Add => Some(a.wrapping_add(b)),
        Alu::Sub => Some(a.wrapping_sub(b)),
        Alu::Mul => Some(a.wrapping_mul(b)),
        Alu::Div => a.checked_div(b),
        Alu::Mod => a.checked_rem(b),
        Alu::And => Some(a & b),
        Alu::Or => Some(a | b),
        Alu::Xor => Some(a ^ b),
        Alu::Lsh => Some(a.checked_shl(b).unwrap_or(0)),
        Alu::Rsh => Some(a.checked_shr(b).unwrap_or(0)),
    }
}

/// What `insn`, number `at` of `len`, means.
fn op(at: usize, insn: &Insn, len: usize) -> Result<Op, ProgramError> {
    let unknown = Err(ProgramError::Unknown(at));
    let word = || {
        let n = insn.k as usize;
        if n < MEMORY { Ok(n) } else { Err(ProgramError::Bounds(at)) }
    };
    let target = |by: u32| {
        let by = by as usize;
        if at + 1 + by < len { Ok(by) } else { Err(ProgramError::Bounds(at)) }
    };
    let operand = if insn.code & 0x08 == 0 { Operand::K(insn.k) } else { Operand::X };
    let code = insn.code;
    match code & 0x07 {
        LD => Ok(match (code >> 5, code >> 3 & 3) {
            (1, 0) => Op::Load { size: 4, indexed: false, k: insn.k },
            (1, 1) => Op::Load { size: 2, indexed: false, k: insn.k },
            (1, 2) => Op::Load { size: 1, indexed: false, k: insn.k },
            (2, 0) => Op::Load { size: 4, indexed: true, k: insn.k },
            (2, 1) => Op::Load { size: 2, indexed: true, k: insn.k },
            (2, 2) => Op::Load { size: 1, indexed: true, k: insn.k },
            (0, 0) => Op::LoadConst(insn.k),
            (3, 0) => Op::LoadMemory(word()?),
            (4, 0) => Op::LoadLen,
            _ => return unknown,
        }),
        LDX => Ok(match (code >> 5, code >> 3 & 3) {
            (0, 0) => Op::XConst(insn.k),
            (3, 0) => Op::XMemory(word()?),
            (4, 0) => Op::XLen,
            (5, 2) => Op::XHeader(insn.k),
            _ => return unknown,
        }),
        ST if code == ST => Ok(Op::Store(word()?)),
        STX if code == STX => Ok(Op::StoreX(word()?)),
        ALU => {
            let op = match code >> 4 {
                0x0 => Alu::Add,
                0x1 => Alu::Sub,
                0x2 => Alu::Mul,
                0x3 => Alu::Div,
                0x4 => Alu::Or,
                0x5 => Alu::And,
                0x6 => Alu::Lsh,
                0x7 => Alu::Rsh,
                0x8 if code == 0x84 => return Ok(Op::Negate),
                0x9 => Alu::Mod,
                0xa => Alu::Xor,
                _ => return unknown,
            };
            if matches!(op, Alu::Div | Alu::Mod) && operand == Operand::K(0) {
                return Err(ProgramError::Zero(at));
            }
            Ok(Op::Alu { op, operand })
        }
        JMP => {
            let test = match code >> 4 {
                0x0 if code == JMP => return Ok(Op::Jump(target(insn.k)?)),
                0x1 => Test::Equal,
                0x2 => Test::Greater,
                0x3 => Test::GreaterEqual,
                0x4 => Test::AnyBit,
                _ => return unknown,
            };
            let (yes, no) = (target(insn.jt.into())?, target(insn.jf.into())?);
            Ok(Op::Branch { test, operand, yes, no })
        }
        RET => match code {
            0x06 => Ok(Op::ReturnConst(insn.k)),
            0x16 => Ok(Op::ReturnA),
            _ => unknown,
        },
        MISC => match code {
            0x07 => Ok(Op::Tax),
            0x87 => Ok(Op::Txa),
            _ => unknown,
        },
        _ => unknown,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn insns(list: &[(u16, u8, u8, u32)]) -> Vec<Insn> {
        list.iter().copied().map(Insn::from).collect()
    }

    /// `ip proto \udp and port 53`, as `tcpdump -dd` prints it.
    fn dns() -> Program {
        Program::new(&insns(&[
            (0x28, 0, 0, 12),
            (0x15, 0, 10, 0x0800),
            (0x30, 0, 0, 23),
            (0x15, 0, 8, 17),
            (0x28, 0, 0, 20),
            (0x45, 6, 0, 0x1fff),
            (0xb1, 0, 0, 14),
            (0x48, 0, 0, 14),
            (0x15, 2, 0, 53),
            (0x48, 0, 0, 16),
            (0x15, 0, 1, 53),
            (0x06, 0, 0, 262_144),
            (0x06, 0, 0, 0),
        ]))
        .unwrap()
    }

    fn udp(to: u16) -> Vec<u8> {
        let mut frame = vec![0; 60];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x46; // one word of options
        frame[23] = 17;
        frame[40..42].copy_from_slice(&to.to_be_bytes());
        frame
    }

    #[test]
    fn a_program_of_libpcap_does_what_it_says() {
        let program = dns();
        assert!(program.accepts(&udp(53), 60));
        assert!(!program.accepts(&udp(54), 60));
        assert!(!program.accepts(&[0xff; 60], 60));
        assert!(!program.accepts(&udp(53)[..41], 60), "what is read is not there");
    }

    #[test]
    fn what_is_kept_beyond_its_reach_is_not_read() {
        let frame = [7; 3000];
        for (at, accepted) in [(2047, true), (2048, false)] {
            let program = Program::new(&insns(&[(0x30, 0, 0, at), (0x16, 0, 0, 0)])).unwrap();
            assert_eq!(program.accepts(&frame, 3000), accepted, "{at}");
            assert_eq!(program.accepts(&frame[..2048], 3000), accepted, "{at}");
        }
    }

    #[test]
    fn arithmetic_memory_and_lengths() {
        let run =
            |list: &[(u16, u8, u8, u32)], bytes: &[u8]| Program::new(&insns(list)).unwrap().run(bytes, 99);
        assert_eq!(
            run(&[(0x80, 0, 0, 0), (0x02, 0, 0, 3), (0x61, 0, 0, 3), (0x0c, 0, 0, 0), (0x16, 0, 0, 0)], &[]),
            Some(198)
        );
        assert_eq!(
            run(&[(0x00, 0, 0, 7), (0x07, 0, 0, 0), (0x00, 0, 0, 3), (0x1c, 0, 0, 0), (0x16, 0, 0, 0)], &[]),
            Some(3u32.wrapping_sub(7))
        );
        assert_eq!(run(&[(0x00, 0, 0, 1), (0x64, 0, 0, 40), (0x16, 0, 0, 0)], &[]), Some(0));
        assert_eq!(run(&[(0x00, 0, 0, 1), (0x3c, 0, 0, 0), (0x16, 0, 0, 0)], &[]), None, "X is zero");
        assert_eq!(run(&[(0x20, 0, 0, 1), (0x16, 0, 0, 0)], &[9, 1, 2, 3, 4]), Some(0x0102_0304));
        assert_eq!(run(&[(0x00, 0, 0, 5), (0x84, 0, 0, 0), (0x16, 0, 0, 0)], &[]), Some(5u32.wrapping_neg()));
        assert_eq!(run(&[(0x05, 0, 0, 1), (0x06, 0, 0, 1), (0x06, 0, 0, 2)], &[]), Some(2));
    }

    #[test]
    fn what_could_leave_its_bounds_is_refused() {
        let end = (0x06, 0, 0, 0);
        for (program, error) in [
            (vec![], ProgramError::Length(0)),
            (vec![end; LEN_MAX + 1], ProgramError::Length(LEN_MAX + 1)),
            (vec![(0x00, 0, 0, 0)], ProgramError::End),
            (vec![(0x05, 0, 0, 1), end], ProgramError::Bounds(0)),
            (vec![(0x05, 0, 0, u32::MAX), end], ProgramError::Bounds(0)),
            (vec![(0x15, 0, 1, 0), end], ProgramError::Bounds(0)),
            (vec![(0x60, 0, 0, 16), end], ProgramError::Bounds(0)),
            (vec![(0x02, 0, 0, 16), end], ProgramError::Bounds(0)),
            (vec![(0x34, 0, 0, 0), end], ProgramError::Zero(0)),
            (vec![(0xffff, 0, 0, 0), end], ProgramError::Unknown(0)),
            (vec![(0x54, 0, 0, 1), (0xf4, 0, 0, 0), end], ProgramError::Unknown(1)),
        ] {
            assert_eq!(Program::new(&insns(&program)), Err(error));
        }
    }

    proptest! {
        /// Whatever is accepted ends, and reads nothing that is not there.
        #[test]
        fn random_programs_end(
            code in prop::collection::vec((any::<u16>(), any::<u8>(), any::<u8>(), 0u32..64), 1..40),
            bytes in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            // Most random codes are unknown: keep those that mean something.
            let mut list: Vec<Insn> = code.into_iter()
                .map(|(code, jt, jf, k)| Insn { code: code & 0xff, jt: jt % 4, jf: jf % 4, k })
                .filter(|insn| op(0, insn, usize::MAX).is_ok())
                .collect();
            list.extend([Insn { code: 0x16, jt: 0, jf: 0, k: 0 }; 66]);
            if let Ok(program) = Program::new(&list) {
                let _ = program.accepts(&bytes, 1514);
            }
        }
    }
}
