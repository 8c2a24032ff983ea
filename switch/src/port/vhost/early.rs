//! One message that the `vhost` crate refuses and QEMU sends: a queue enabled
//! before the features are chosen.
//!
//! The crate asks for the *chosen* bit PROTOCOL_FEATURES, QEMU only for the
//! offered one (`vhost_user_set_vring_enable`), and sends it for each queue of a
//! network device as soon as it has connected. So until features are chosen,
//! this message is read here.
//!
//! Deliberately absent: every other message.

use std::io;
use std::os::unix::net::UnixStream;

use rustix::net::{RecvFlags, SendFlags, recv, send};

/// A message's header, as it stands on the socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub request: u32,
    pub flags: u32,
    /// Bytes behind the header.
    pub size: u32,
}

/// Bytes of the header.
pub(super) const HEADER_LEN: usize = 12;

/// VHOST_USER_SET_VRING_ENABLE, and the bytes of its body: index and value.
const SET_VRING_ENABLE: u32 = 18;
const BODY_LEN: usize = 8;

/// Version 1; set in every message.
const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

impl Header {
    /// Reads one, in the host's byte order.
    pub fn read(bytes: [u8; HEADER_LEN]) -> Header {
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Header { request: word(0), flags: word(4), size: word(8) }
    }

    /// Whether it is that message, as it should be.
    pub fn enables_a_queue(self) -> bool {
        self.request == SET_VRING_ENABLE
            && self.size as usize == BODY_LEN
            && self.flags & !NEED_REPLY == VERSION
    }

    /// Whether its sender waits for an answer, if that was agreed on.
    pub fn wants_reply(self) -> bool {
        self.flags & NEED_REPLY != 0
    }
}

/// Takes the message, all of which is there, from the socket: the queue's index
/// and whether it is to be enabled.
pub(super) fn read(stream: &UnixStream) -> io::Result<(u32, bool)> {
    let mut bytes = [0u8; HEADER_LEN + BODY_LEN];
    let (_, len) = recv(stream, &mut bytes, RecvFlags::DONTWAIT)?;
    let [.., i0, i1, i2, i3, e0, e1, e2, e3] = bytes;
    let enable = u32::from_ne_bytes([e0, e1, e2, e3]);
    if len < bytes.len() || enable > 1 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((u32::from_ne_bytes([i0, i1, i2, i3]), enable == 1))
}

/// Answers that it went well.
pub(super) fn reply(stream: &UnixStream) -> io::Result<()> {
    let mut bytes = [0u8; HEADER_LEN + BODY_LEN];
    for (place, word) in bytes.chunks_exact_mut(4).zip([SET_VRING_ENABLE, VERSION | REPLY, 8, 0, 0]) {
        place.copy_from_slice(&u32::to_ne_bytes(word));
    }
    send(stream, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
    Ok(())
}
