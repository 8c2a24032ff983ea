//! The packet socket under a `netdev` port: made, configured and asked here;
//! frames pass in `netdev`.
//!
//! Read first: packet(7), and `packet_snd`/`packet_rcv` of net/packet/af_packet.c.
//!
//! Deliberately absent: PACKET_QDISC_BYPASS (super-frames towards a device
//! without TSO fail with ENOBUFS, where the normal path segments), and rings to
//! receive from: a copy and a system call less here are a copy more in the sender's
//! place (TPACKET_V2), or a block timer adds 0.4 to 4 ms of latency (TPACKET_V3).

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::Fault;

/// Mark of the frames that we send: the egress program of `isolate` lets only
/// these through. An arbitrary number ("vswi").
pub(super) const MARK: u32 = 0x7673_7769;

/// The default receive buffer cost 114,849 TCP retransmits in 2 s where this
/// one cost 428.
const RECEIVE_BYTES: libc::c_int = 8 << 20;

/// Two turns of super-frames may be on their way out.
const SEND_BYTES: libc::c_int = 4 << 20;

/// Size of a C structure as the socket calls want it.
#[expect(clippy::cast_possible_truncation, reason = "no structure here is longer than 4 GiB")]
const fn socklen<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

/// A constant of the kernel's headers, for a field of 16 bits.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "constants below 65,536")]
const fn small(constant: libc::c_int) -> u16 {
    constant as u16
}

/// Sets a socket option whose value is `value`'s bytes.
pub(super) fn set_option<T: Copy>(
    fd: &OwnedFd,
    level: libc::c_int,
    name: libc::c_int,
    value: T,
) -> io::Result<()> {
    // SAFETY: the kernel reads no more than `value`.
    let rc =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), socklen::<T>()) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A packet socket bound to interface `ifindex`, with remarks for the user.
/// It gets what `filter` leaves to it, from the first frame on.
///
/// # Errors
/// EPERM without CAP_NET_RAW; ENODEV if the interface is gone.
pub(super) fn open(ifindex: u32, filter: Option<&OwnedFd>, notes: &mut Vec<String>) -> io::Result<OwnedFd> {
    let fd = socket()?;
    // What `open_sender`'s sockets send, too, would come back here.
    set_option(&fd, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1 as libc::c_int)?;
    set_option(&fd, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1 as libc::c_int)?;
    if set_option(&fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BYTES).is_err() {
        // The most that an unprivileged socket gets; failing that is no reason
        // to refuse the port.
        let _ = set_option(&fd, libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_BYTES);
        notes.push("the receive buffer is small (CAP_NET_ADMIN is missing): expect losses".to_owned());
    }
    if let Some(filter) = filter {
        set_option(&fd, libc::SOL_SOCKET, libc::SO_ATTACH_BPF, filter.as_raw_fd())?;
    }
    bind(&fd, ifindex, libc::ETH_P_ALL)?;
    promiscuous(&fd, ifindex)?;
    Ok(fd)
}

/// A packet socket that sends to interface `ifindex` and receives nothing.
///
/// # Errors
/// As `open`.
pub(super) fn open_sender(ifindex: u32) -> io::Result<OwnedFd> {
    let fd = socket()?;
    bind(&fd, ifindex, 0)?;
    Ok(fd)
}

/// A packet socket on no interface yet, whose frames have virtio-net headers before them
/// and are ours on their way out.
fn socket() -> io::Result<OwnedFd> {
    let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // Protocol 0: nothing arrives before `bind` names one.
    // SAFETY: no memory is passed; the result is checked.
    let fd = unsafe { libc::socket(libc::AF_PACKET, flags, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else holds.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    set_option(&fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1 as libc::c_int)?;
    if set_option(&fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BYTES).is_err() {
        let _ = set_option(&fd, libc::SOL_SOCKET, libc::SO_SNDBUF, SEND_BYTES);
    }
    // Without the mark the egress program would stop us too; but who may not
    // set it may attach no program either.
    let _ = set_option(&fd, libc::SOL_SOCKET, libc::SO_MARK, MARK);
    Ok(fd)
}

fn index(ifindex: u32) -> io::Result<libc::c_int> {
    libc::c_int::try_from(ifindex).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))
}

/// Binds to an interface, and to what comes there by `protocol`; 0 is nothing.
fn bind(fd: &OwnedFd, ifindex: u32, protocol: libc::c_int) -> io::Result<()> {
    // SAFETY: all-zero is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = small(libc::AF_PACKET);
    address.sll_protocol = small(protocol).to_be();
    address.sll_ifindex = index(ifindex)?;
    let size = socklen::<libc::sockaddr_ll>();
    // SAFETY: `address` is a sockaddr_ll of `size` bytes.
    let rc = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes frames for every destination; ends with the socket.
fn promiscuous(fd: &OwnedFd, ifindex: u32) -> io::Result<()> {
    let request = libc::packet_mreq {
        mr_ifindex: index(ifindex)?,
        mr_type: small(libc::PACKET_MR_PROMISC),
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set_option(fd, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, request)
}

/// Frames lost for want of room since the last call: reading clears it.
pub(super) fn take_drops(fd: &OwnedFd) -> u32 {
    let mut stats = MaybeUninit::<libc::tpacket_stats>::zeroed();
    let mut size = socklen::<libc::tpacket_stats>();
    // SAFETY: the kernel writes at most `size` bytes into `stats`.
    let rc = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            stats.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    // SAFETY: all-zero is valid, and so is what the kernel wrote.
    if rc == 0 { unsafe { stats.assume_init() }.tp_drops } else { 0 }
}

/// Bytes of memory that the frames take which wait in the socket; 0 if the kernel does
/// not say.
pub(super) fn waiting_bytes(fd: &OwnedFd) -> u32 {
    /// SO_MEMINFO of include/uapi/asm-generic/socket.h (Linux 4.12).
    const MEMINFO: libc::c_int = 55;
    // SK_MEMINFO_RMEM_ALLOC is the first.
    let mut info = [0u32; 1];
    let mut size = socklen::<[u32; 1]>();
    // SAFETY: the kernel writes at most `size` bytes into `info`.
    let rc = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, MEMINFO, info.as_mut_ptr().cast(), &raw mut size)
    };
    if rc == 0 { info[0] } else { 0 }
}

/// Whether the socket still has its interface: one that was deleted, or moved
/// to another namespace, is lost to it for ever, even if it comes back under
/// the same number.
fn is_bound(fd: &OwnedFd, ifindex: libc::c_int) -> bool {
    // SAFETY: all-zero is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    let mut size = socklen::<libc::sockaddr_ll>();
    // SAFETY: the kernel writes at most `size` bytes into `address`.
    let rc = unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut address).cast(), &raw mut size) };
    rc == 0 && address.sll_ifindex == ifindex
}

/// Whether the interface is really down or gone. A packet socket remembers an
/// ENETDOWN until somebody reads it, so the error alone proves nothing.
pub(super) fn probe(fd: &OwnedFd, ifindex: u32) -> Option<Fault> {
    let Ok(ifindex) = index(ifindex) else { return Some(Fault::Gone) };
    if !is_bound(fd, ifindex) {
        return Some(Fault::Gone);
    }
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    request.ifr_ifru.ifru_ifindex = ifindex;
    // SAFETY: the kernel reads and writes one ifreq.
    if unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFNAME, &raw mut request) } != 0 {
        return Some(Fault::Gone);
    }
    // SAFETY: as above; the name is the one just written.
    if unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) } != 0 {
        return Some(Fault::Gone);
    }
    // SAFETY: SIOCGIFFLAGS wrote the flags.
    let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
    if flags & libc::IFF_UP == 0 { Some(Fault::Down) } else { None }
}
