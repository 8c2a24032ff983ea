//! The few messages of traffic control that `isolate` needs on kernels without
//! TCX: a clsact qdisc, and a program on each side of it.
//!
//! Written by hand, since the netlink crates know the qdisc but not the `bpf`
//! classifier's options. Read first: include/uapi/linux/pkt_cls.h.
//!
//! Deliberately absent: everything else that traffic control can do.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const CREATE_EXCL: u16 = 0x400 | 0x200;

/// TC_H_CLSACT, the parent of a clsact qdisc.
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;

/// Bytes of `nlmsghdr` and `tcmsg`.
const HEADER_LEN: usize = 16;
const TCMSG_LEN: usize = 20;

/// Which side of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Direction {
    /// Frames that come in by it.
    Ingress,
    /// Frames that leave by it.
    Egress,
}

impl Direction {
    /// Both.
    pub const BOTH: [Direction; 2] = [Direction::Ingress, Direction::Egress];

    /// TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS or TC_H_MIN_EGRESS).
    const fn parent(self) -> u32 {
        match self {
            Direction::Ingress => 0xffff_fff2,
            Direction::Egress => 0xffff_fff3,
        }
    }
}

/// A filter on one side of an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Filter {
    /// Its number among those of its preference.
    handle: u32,
    /// Filters with a lower one run before it.
    pub preference: u16,
    /// What its maker called it, if it is a program.
    pub name: String,
}

/// A message under construction: `nlmsghdr`, `tcmsg`, attributes.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16, ifindex: u32, handle: u32, parent: u32, info: u32) -> Message {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        for word in [0, ifindex, handle, parent, info] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        Message(bytes)
    }

    fn attribute(mut self, kind: u16, payload: &[u8]) -> Message {
        push_attribute(&mut self.0, kind, payload);
        self
    }

    /// Sends it, and collects what the kernel answers up to its last word.
    fn send(mut self) -> io::Result<Vec<Answer>> {
        let len = u32::try_from(self.0.len()).unwrap_or(0);
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.send(&self.0, 0)?;
        let mut answers = Vec::new();
        loop {
            let bytes = match socket.recv_from_full() {
                Ok((bytes, _)) => bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if read_answers(&bytes, &mut answers)? {
                return Ok(answers);
            }
        }
    }
}

/// A message that came back: a qdisc or a filter.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Answer {
    ifindex: u32,
    handle: u32,
    info: u32,
    kind: String,
    options: Vec<u8>,
}

fn push_attribute(bytes: &mut Vec<u8>, kind: u16, payload: &[u8]) {
    let len = u16::try_from(payload.len() + 4).unwrap_or(0);
    bytes.extend_from_slice(&len.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Reads the messages in `bytes`; true if the last one was among them.
///
/// # Errors
/// The kernel's refusal, or bytes that are no messages.
fn read_answers(mut bytes: &[u8], answers: &mut Vec<Answer>) -> io::Result<bool> {
    let broken = || io::Error::from_raw_os_error(libc::EBADMSG);
    while !bytes.is_empty() {
        let len = word(bytes, 0).and_then(|len| usize::try_from(len).ok()).ok_or_else(broken)?;
        let message = bytes.get(..len).filter(|_| len >= HEADER_LEN).ok_or_else(broken)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        match half(message, 4).ok_or_else(broken)? {
            // Both begin with an error number.
            NLMSG_ERROR | NLMSG_DONE => {
                return match word(message, HEADER_LEN).map_or(0, u32::cast_signed) {
                    0 => Ok(true),
                    code => Err(io::Error::from_raw_os_error(-code)),
                };
            }
            RTM_NEWQDISC | RTM_NEWTFILTER => answers.push(read_answer(message).ok_or_else(broken)?),
            _ => {}
        }
    }
    Ok(false)
}

fn read_answer(message: &[u8]) -> Option<Answer> {
    let tcmsg = message.get(HEADER_LEN..)?;
    let attributes = tcmsg.get(TCMSG_LEN..)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
    Some(Answer {
        ifindex: word(tcmsg, 4)?,
        handle: word(tcmsg, 8)?,
        info: word(tcmsg, 16)?,
        kind: attribute(attributes, TCA_KIND).map(text).unwrap_or_default(),
        options: attribute(attributes, TCA_OPTIONS).unwrap_or_default().to_vec(),
    })
}

/// The payload of the first attribute of `kind`.
fn attribute(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    while let (Some(len), Some(found)) = (half(bytes, 0), half(bytes, 2)) {
        let len = usize::from(len);
        let payload = bytes.get(4..len)?;
        // The two highest bits say how the payload is laid out.
        if found & 0x3fff == kind {
            return Some(payload);
        }
        bytes = bytes.get(len.next_multiple_of(4)..)?;
    }
    None
}

/// ETH_P_ALL in network order, behind the preference.
fn info(preference: u16) -> u32 {
    u32::from(preference) << 16 | u32::from(3u16.to_be())
}

/// Puts a clsact qdisc on `ifindex`; false if one is there already.
///
/// # Errors
/// EBUSY if an ingress qdisc is in its place; EPERM without the right.
pub(super) fn add_clsact(ifindex: u32) -> io::Result<bool> {
    let message = Message::new(RTM_NEWQDISC, ACK | CREATE_EXCL, ifindex, CLSACT_HANDLE, CLSACT, 0);
    match message.attribute(TCA_KIND, b"clsact\0").send() {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the clsact qdisc with all its filters.
///
/// # Errors
/// There is none, or the device is gone.
pub(super) fn remove_clsact(ifindex: u32) -> io::Result<()> {
    Message::new(RTM_DELQDISC, ACK, ifindex, CLSACT_HANDLE, CLSACT, 0).send().map(drop)
}

/// Interfaces of the namespace that have a clsact or an ingress qdisc.
///
/// # Errors
/// Whatever the kernel says.
pub(super) fn interfaces() -> io::Result<Vec<u32>> {
    let answers = Message::new(RTM_GETQDISC, DUMP, 0, 0, 0, 0).send()?;
    let ours = answers.into_iter().filter(|qdisc| matches!(qdisc.kind.as_str(), "clsact" | "ingress"));
    Ok(ours.map(|qdisc| qdisc.ifindex).collect())
}

/// The filters on one side of `ifindex`, programs or not.
///
/// # Errors
/// Whatever the kernel says; that the side has no qdisc is an empty list.
pub(super) fn filters(ifindex: u32, direction: Direction) -> io::Result<Vec<Filter>> {
    let answers = match Message::new(RTM_GETTFILTER, DUMP, ifindex, 0, direction.parent(), 0).send() {
        Ok(answers) => answers,
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    // A preference without a filter yet is listed with handle 0.
    let filters = answers.into_iter().filter(|answer| answer.handle != 0);
    let name = |options: &[u8]| {
        let bytes = attribute(options, TCA_BPF_NAME).unwrap_or_default();
        String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
    };
    // The high half of the word is the preference: it fits.
    let preference = |info: u32| u16::try_from(info >> 16).unwrap_or(u16::MAX);
    Ok(filters
        .map(|answer| Filter {
            handle: answer.handle,
            preference: preference(answer.info),
            name: name(&answer.options),
        })
        .collect())
}

/// Attaches `program`, called `name`; its return value is the verdict.
///
/// # Errors
/// Whatever the kernel says.
pub(super) fn add_filter(
    ifindex: u32,
    direction: Direction,
    preference: u16,
    program: &OwnedFd,
    name: &str,
) -> io::Result<()> {
    let mut options = Vec::new();
    push_attribute(&mut options, TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes());
    push_attribute(&mut options, TCA_BPF_NAME, format!("{name}\0").as_bytes());
    push_attribute(&mut options, TCA_BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes());
    let info = info(preference);
    Message::new(RTM_NEWTFILTER, ACK | CREATE_EXCL, ifindex, 0, direction.parent(), info)
        .attribute(TCA_KIND, b"bpf\0")
        .attribute(TCA_OPTIONS, &options)
        .send()
        .map(drop)
}

/// Removes one of the programs that `filters` listed.
///
/// # Errors
/// It is gone, or the right is missing.
pub(super) fn remove_filter(ifindex: u32, direction: Direction, filter: &Filter) -> io::Result<()> {
    let info = info(filter.preference);
    Message::new(RTM_DELTFILTER, ACK, ifindex, filter.handle, direction.parent(), info)
        .attribute(TCA_KIND, b"bpf\0")
        .send()
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_what_tc_sends() {
        let message = Message::new(RTM_NEWQDISC, ACK | CREATE_EXCL, 7, CLSACT_HANDLE, CLSACT, 0)
            .attribute(TCA_KIND, b"clsact\0");
        // As strace shows it of `tc qdisc add dev X clsact`, length and
        // sequence number apart.
        let words: Vec<u32> = message.0.chunks(4).map(|chunk| word(chunk, 0).unwrap()).collect();
        let kind = u32::from(RTM_NEWQDISC) | 0x605 << 16;
        assert_eq!(words[..9], [0, kind, 0, 0, 0, 7, 0xffff_0000, 0xffff_fff1, 0]);
        assert_eq!(message.0[36..], *b"\x0b\0\x01\0clsact\0\0");
        assert_eq!(info(0x7673), 0x7673_0000 | u32::from(3u16.to_be()));
    }

    /// A message as the kernel would write it.
    fn answer(kind: u16, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(HEADER_LEN + body.len()).unwrap();
        let mut bytes = len.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&[0; 10]);
        bytes.extend_from_slice(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn filter(handle: u32) -> Vec<u8> {
        let mut options = Vec::new();
        push_attribute(&mut options, TCA_BPF_FLAGS, &1u32.to_ne_bytes());
        push_attribute(&mut options, TCA_BPF_NAME, b"mine\0");
        let mut body: Vec<u8> = [0, 7, handle, 0xffff_fff2, 5 << 16].map(u32::to_ne_bytes).concat();
        push_attribute(&mut body, TCA_KIND, b"bpf\0");
        // With the flag that says "nested".
        push_attribute(&mut body, TCA_OPTIONS | 0x8000, &options);
        answer(RTM_NEWTFILTER, &body)
    }

    #[test]
    fn answers_are_read_up_to_the_last_word() {
        let mut answers = Vec::new();
        let bytes = [filter(0), filter(1)].concat();
        assert!(!read_answers(&bytes, &mut answers).unwrap());
        assert_eq!((answers.len(), answers[1].ifindex, answers[1].handle), (2, 7, 1));
        assert_eq!((answers[1].info >> 16, answers[1].kind.as_str()), (5, "bpf"));
        assert_eq!(attribute(&answers[1].options, TCA_BPF_NAME), Some(&b"mine\0"[..]));
        assert!(read_answers(&answer(NLMSG_DONE, &[0; 4]), &mut answers).unwrap());
        let refusal = answer(NLMSG_ERROR, &(-libc::EPERM).to_ne_bytes());
        let error = read_answers(&refusal, &mut answers).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn bytes_cut_anywhere_are_an_error_and_no_panic() {
        let whole = filter(1);
        for len in 1..whole.len() {
            assert!(read_answers(&whole[..len], &mut Vec::new()).is_err(), "{len}");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            let _ = read_answers(&bytes, &mut Vec::new());
        }
    }
}
