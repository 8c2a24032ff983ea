//! The two programs of the fast path, which the kernel runs on each frame that
//! comes in by a port.
//!
//! The first decides, as the packet socket's filter: it sees a frame before
//! anything is copied. A frame that it takes is not given to the socket, and
//! carries where to go in its `cb`; one that it does not take waits in the
//! socket for the engine. The second runs right behind, on the TCX ingress: it
//! sends what the first took, and ends everything else, as the isolation does.
//! So a frame goes exactly one way, however the maps change between the two.
//!
//! A frame is taken if all of this holds: both ports are open to the fast path
//! and not both isolated; it is no runt, and fits the egress; its source is
//! known on this port, its destination on another; nothing earlier of its flow
//! is still on the slow way (`Shared` says how that is known).
//!
//! Deliberately absent: learning, flooding, dropping by a reason, and frames of
//! which one of these would have to be judged by more than that: group
//! addresses, service tags, super-frames other than plain TCP. They are the
//! engine's. Read first: `packet_rcv` of net/packet/af_packet.c, and
//! `sch_handle_ingress` of net/core/dev.c.

use std::io;
use std::os::fd::OwnedFd;

use super::shared::{self, PORT_LEN, Shared, Station, port_at};
use super::{SLOTS, Slot};
use crate::port::bpf::{self, Alu, Assembler, Helper, If, Instruction, Label, ProgramType, Reg, Size};
use crate::port::packet::MARK;

use Reg::{R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10};

/// Fields of `struct __sk_buff` (include/uapi/linux/bpf.h), in bytes.
mod skb {
    pub const LEN: i16 = 0;
    pub const MARK: i16 = 8;
    pub const VLAN_PRESENT: i16 = 20;
    pub const VLAN_PROTO: i16 = 28;
    /// Five words that stay with the frame between the two programs.
    pub const CB: i16 = 48;
    pub const GSO_SIZE: i16 = 176;
}

/// The first word of `cb` in a frame that is taken ("vsfp"). The kernel clears
/// the words before a filter that uses them runs; no guest can set them.
const TAKEN: i32 = 0x7673_6670;

/// Where the rest of the message lies.
const CB_IFINDEX: i16 = skb::CB + 4;
const CB_SLOT: i16 = skb::CB + 8;

/// TC_ACT_SHOT, which is TCX_DROP.
const DROP: i32 = 2;

/// A socket filter's words for all of the frame and for nothing of it.
const ALL: i32 = -1;
const NOTHING: i32 = 0;

/// A source's time is written when it is older than this, in ns: two to the
/// power of 27, 134 ms, so that a line is not written for each frame.
const SEEN_AGE: i32 = 1 << 27;

/// A frame waits until so many more than its source's last slow one are done with,
/// or all: two processors may have given frames to the socket in another order than
/// they were numbered, by as many frames as one of them gives on between the two
/// steps of the other: some hundred nanoseconds.
const SLACK: i32 = 16;

/// Super-frames of smaller segments are left to the engine, which bounds what a
/// frame may become (see `offload`).
const GSO_SIZE_MIN: i32 = 256;

const ETHERTYPE_IPV4: i32 = 0x0800u16.to_be() as i32;
const ETHERTYPE_IPV6: i32 = 0x86ddu16.to_be() as i32;
const TPID_C: i32 = 0x8100u16.to_be() as i32;
const TCP: i32 = 6;

// The stack, below the frame pointer.
/// Both addresses, as they come.
const ADDRESSES: i16 = -16;
/// Keys of the stations map.
const DST: i16 = -24;
const SRC: i16 = -32;
/// What must outlive a call: the egress slot.
const EGRESS: i16 = -40;
/// Twelve bytes from the EtherType on.
const NETWORK: i16 = -56;
/// One byte of TCP's header.
const TCP_OFFSET: i16 = -64;

/// Loads the filter for the packet socket of the port in `slot`.
///
/// # Errors
/// EPERM without CAP_BPF; EINVAL if the kernel lacks what it uses.
pub(super) fn load_filter(slot: Slot, shared: &Shared) -> io::Result<OwnedFd> {
    bpf::load(ProgramType::SocketFilter, &filter(slot, shared))
}

/// Loads the program for the TCX ingress of the port in `slot`.
///
/// # Errors
/// As [`load_filter`], and EPERM without CAP_NET_ADMIN.
pub(super) fn load_sender(slot: Slot, shared: &Shared) -> io::Result<OwnedFd> {
    bpf::load(ProgramType::SchedCls, &sender(slot, shared))
}

/// A slot's number as an immediate: at most 256.
fn number(slot: Slot) -> i32 {
    i32::from(slot.get())
}

/// Throughout: R6 the frame, R8 the shared words, R9 the source.
fn filter(slot: Slot, shared: &Shared) -> Vec<Instruction> {
    let own = port_at(slot);
    let mut text = Assembler::default();
    let text = &mut text;
    let (slow, gated, behind, plain, taken) =
        (text.label(), text.label(), text.label(), text.label(), text.label());

    text.reg(Alu::Move, R6, R1);
    text.value(R8, shared.words(), 0);
    text.load(Size::Word, R1, R8, own + shared::FLAGS);
    text.imm(Alu::And, R1, shared::ENABLED);
    text.jump_imm(If::Equal, R1, 0, slow);
    load_bytes(text, R6, 0, ADDRESSES, 12, slow);
    // Six bytes of address and two of zero each, as a little-endian machine
    // sees twelve bytes.
    text.load(Size::Double, R1, R10, ADDRESSES);
    text.load(Size::Word, R2, R10, ADDRESSES + 8);
    text.reg(Alu::Move, R3, R1);
    text.imm(Alu::ShiftLeft, R3, 16);
    text.imm(Alu::ShiftRight, R3, 16);
    text.store(Size::Double, R10, DST, R3);
    text.imm(Alu::ShiftRight, R1, 48);
    text.imm(Alu::ShiftLeft, R2, 16);
    text.reg(Alu::Or, R1, R2);
    text.store(Size::Double, R10, SRC, R1);

    look_up(text, shared, SRC, slow);
    text.reg(Alu::Move, R9, R0);
    text.load(Size::Word, R1, R9, Station::SLOT);
    text.jump_imm(If::NotEqual, R1, number(slot), slow);
    look_up(text, shared, DST, slow);
    text.load(Size::Word, R1, R0, Station::SLOT);
    text.jump_imm(If::Equal, R1, number(slot), slow);
    text.jump_imm(If::GreaterOrEqual, R1, number(Slot::END), slow);
    text.store(Size::Double, R10, EGRESS, R1);
    // R5 = the younger of the two entries.
    text.load(Size::Double, R5, R0, Station::GENERATION);
    text.load(Size::Double, R2, R9, Station::GENERATION);
    let younger = text.label();
    text.jump_reg(If::GreaterOrEqual, R5, R2, younger);
    text.reg(Alu::Move, R5, R2);
    text.place(younger);

    egress(text, R1);
    text.load(Size::Word, R2, R1, shared::FLAGS);
    text.load(Size::Word, R3, R8, own + shared::FLAGS);
    text.reg(Alu::And, R3, R2);
    text.jump_imm(If::AnyBit, R3, shared::ISOLATED, slow);
    text.imm(Alu::And, R2, shared::ENABLED);
    text.jump_imm(If::Equal, R2, 0, slow);
    text.load(Size::Word, R4, R1, shared::LONGEST);
    text.store(Size::Double, R10, DST, R5); // the key has been used

    // From here on the frame belongs to a flow that may be taken: if it is not,
    // what follows must wait behind it.
    text.load(Size::Word, R7, R6, skb::LEN);
    text.load(Size::Word, R1, R8, shared::SHORTEST);
    text.jump_reg(If::Less, R7, R1, behind);
    // The tag is out of the frame's bytes by now; only a customer tag may make
    // a frame longer than the MTU says.
    text.load(Size::Word, R1, R6, skb::VLAN_PRESENT);
    text.jump_imm(If::Equal, R1, 0, plain);
    text.load(Size::Word, R1, R6, skb::VLAN_PROTO);
    text.jump_imm(If::NotEqual, R1, TPID_C, behind);
    text.place(plain);
    text.load(Size::Word, R2, R6, skb::GSO_SIZE);
    let whole = text.label();
    text.jump_imm(If::Equal, R2, 0, whole);
    text.jump_imm(If::Less, R2, GSO_SIZE_MIN, behind);
    segment_len(text, behind);
    text.place(whole);
    text.jump_reg(If::Greater, R7, R4, behind);

    // Is anything of the flow still on the slow way?
    text.load(Size::Double, R1, R8, own + shared::DONE);
    text.load(Size::Double, R2, R9, Station::GATED);
    text.imm(Alu::Add, R2, SLACK);
    text.load(Size::Double, R5, R8, own + shared::SLOW);
    text.load(Size::Double, R3, R10, DST);
    text.load(Size::Double, R4, R8, shared::SETTLED);
    let (all, settled) = (text.label(), text.label());
    text.jump_reg(If::Less, R4, R3, all);
    text.jump_reg(If::Less, R2, R5, settled);
    text.place(all);
    text.reg(Alu::Move, R2, R5);
    text.place(settled);
    text.jump_reg(If::Less, R1, R2, gated);

    // The source was heard of.
    text.call(Helper::CoarseClock);
    text.load(Size::Double, R1, R9, Station::SEEN);
    text.reg(Alu::Move, R2, R0);
    text.reg(Alu::Sub, R2, R1);
    text.jump_imm(If::Less, R2, SEEN_AGE, taken);
    text.store(Size::Double, R9, Station::SEEN, R0);
    text.place(taken);
    text.imm(Alu::Move, R1, TAKEN);
    text.store(Size::Word, R6, skb::CB, R1);
    text.load(Size::Double, R2, R10, EGRESS);
    text.store(Size::Word, R6, CB_SLOT, R2);
    egress(text, R1);
    text.load(Size::Word, R1, R1, shared::IFINDEX);
    text.store(Size::Word, R6, CB_IFINDEX, R1);
    text.imm(Alu::Move, R0, NOTHING);
    text.exit();

    text.place(gated);
    text.load(Size::Word, R1, R8, own + shared::DRAINING);
    text.jump_imm(If::Equal, R1, 0, behind);
    text.imm(Alu::Move, R1, 1);
    text.fetch_add(R8, own + shared::MISSED, R1);
    text.imm(Alu::Move, R0, NOTHING);
    text.exit();
    text.place(behind);
    text.imm(Alu::Move, R1, 1);
    text.fetch_add(R8, own + shared::SLOW, R1);
    text.imm(Alu::Add, R1, 1);
    let later = text.label();
    text.load(Size::Double, R2, R9, Station::GATED);
    text.jump_reg(If::GreaterOrEqual, R2, R1, later);
    text.store(Size::Double, R9, Station::GATED, R1);
    text.place(later);
    text.imm(Alu::Move, R0, ALL);
    text.exit();

    text.place(slow);
    text.value(R8, shared.words(), 0);
    text.imm(Alu::Move, R1, 1);
    text.fetch_add(R8, own + shared::SLOW, R1);
    text.imm(Alu::Move, R0, ALL);
    text.exit();
    std::mem::take(text).finish()
}

/// R7 = what the longest segment of a TCP super-frame has, headers included, or
/// `other` if it is none; R2 is its gso_size, and R4 is kept.
fn segment_len(text: &mut Assembler, other: Label) {
    let (v6, tcp) = (text.label(), text.label());
    text.reg(Alu::Move, R7, R2);
    text.store(Size::Double, R10, SRC, R4); // the key has been used
    load_bytes(text, R6, 12, NETWORK, 12, other);
    text.load(Size::Word, R1, R10, NETWORK);
    text.imm(Alu::And, R1, 0xffff);
    text.jump_imm(If::Equal, R1, ETHERTYPE_IPV6, v6);
    text.jump_imm(If::NotEqual, R1, ETHERTYPE_IPV4, other);
    text.load(Size::Byte, R1, R10, NETWORK + 11);
    text.jump_imm(If::NotEqual, R1, TCP, other);
    text.load(Size::Byte, R2, R10, NETWORK + 2);
    text.imm(Alu::And, R2, 0x0f);
    text.imm(Alu::ShiftLeft, R2, 2);
    text.jump_imm(If::Less, R2, 20, other);
    text.imm(Alu::Add, R2, 14);
    text.jump(tcp);
    text.place(v6);
    text.load(Size::Byte, R1, R10, NETWORK + 8);
    text.jump_imm(If::NotEqual, R1, TCP, other);
    text.imm(Alu::Move, R2, 14 + 40);
    text.place(tcp);
    text.reg(Alu::Add, R7, R2);
    text.imm(Alu::Add, R2, 12);
    text.reg(Alu::Move, R1, R6);
    text.reg(Alu::Move, R3, R10);
    text.imm(Alu::Add, R3, i32::from(TCP_OFFSET));
    text.imm(Alu::Move, R4, 1);
    text.call(Helper::LoadBytes);
    text.jump_imm(If::NotEqual, R0, 0, other);
    text.load(Size::Byte, R1, R10, TCP_OFFSET);
    text.imm(Alu::ShiftRight, R1, 4);
    text.imm(Alu::ShiftLeft, R1, 2);
    text.reg(Alu::Add, R7, R1);
    text.load(Size::Double, R4, R10, SRC);
}

/// Copies `len` bytes at `from` of the frame onto the stack; `slow` if it has
/// fewer.
fn load_bytes(text: &mut Assembler, frame: Reg, from: i32, to: i16, len: i32, slow: Label) {
    text.reg(Alu::Move, R1, frame);
    text.imm(Alu::Move, R2, from);
    text.reg(Alu::Move, R3, R10);
    text.imm(Alu::Add, R3, i32::from(to));
    text.imm(Alu::Move, R4, len);
    text.call(Helper::LoadBytes);
    text.jump_imm(If::NotEqual, R0, 0, slow);
}

/// R0 = the station whose key is on the stack; `slow` if it is unknown.
fn look_up(text: &mut Assembler, shared: &Shared, key: i16, slow: Label) {
    text.map(R1, shared.stations());
    text.reg(Alu::Move, R2, R10);
    text.imm(Alu::Add, R2, i32::from(key));
    text.call(Helper::MapLookup);
    text.jump_imm(If::Equal, R0, 0, slow);
}

/// `to` = the egress port's words.
fn egress(text: &mut Assembler, to: Reg) {
    text.load(Size::Double, to, R10, EGRESS);
    // Read back from the stack, it is any number to older verifiers.
    text.imm(Alu::And, to, i32::from(SLOTS) - 1);
    text.imm(Alu::ShiftLeft, to, PORT_LEN.trailing_zeros().cast_signed());
    text.reg(Alu::Add, to, R8);
    text.imm(Alu::Add, to, i32::from(port_at(Slot::FIRST)));
}

/// Throughout: R6 the frame, R7 the egress slot.
fn sender(slot: Slot, shared: &Shared) -> Vec<Instruction> {
    let mut text = Assembler::default();
    let text = &mut text;
    let (drop, untagged) = (text.label(), text.label());

    text.reg(Alu::Move, R6, R1);
    text.load(Size::Word, R1, R6, skb::CB);
    text.jump_imm(If::NotEqual, R1, TAKEN, drop);
    text.load(Size::Word, R7, R6, CB_SLOT);
    text.jump_imm(If::GreaterOrEqual, R7, number(Slot::END), drop);

    // One more frame of this pair, in this processor's square.
    text.call(Helper::CpuNumber);
    text.imm(Alu::And, R0, shared.square_mask());
    text.imm(Alu::ShiftLeft, R0, shared::SQUARE_LEN.trailing_zeros().cast_signed());
    text.imm(Alu::ShiftLeft, R7, shared::PAIR_LEN.trailing_zeros().cast_signed());
    text.value(R1, shared.pairs(), shared::pairs_from(slot));
    text.reg(Alu::Add, R1, R0);
    text.reg(Alu::Add, R1, R7);
    text.load(Size::Word, R3, R6, skb::LEN);
    text.load(Size::Word, R2, R6, skb::VLAN_PRESENT);
    text.jump_imm(If::Equal, R2, 0, untagged);
    text.imm(Alu::Add, R3, 4);
    text.place(untagged);
    text.imm(Alu::Move, R2, 1);
    if shared.is_crowded() {
        text.fetch_add(R1, 0, R2);
        text.fetch_add(R1, 8, R3);
    } else {
        for (at, more) in [(0, R2), (8, R3)] {
            text.load(Size::Double, R4, R1, at);
            text.reg(Alu::Add, R4, more);
            text.store(Size::Double, R1, at, R4);
        }
    }

    // Without the mark the egress program of the other port would stop it.
    text.imm(Alu::Move, R1, MARK.cast_signed());
    text.store(Size::Word, R6, skb::MARK, R1);
    text.load(Size::Word, R1, R6, CB_IFINDEX);
    text.imm(Alu::Move, R2, 0);
    text.call(Helper::Redirect);
    text.exit();
    text.place(drop);
    text.imm(Alu::Move, R0, DROP);
    text.exit();
    std::mem::take(text).finish()
}
