//! System calls that the tests need and the switch's library does not offer:
//! namespaces, TAPs with a virtio-net header, packet sockets, CPU pinning.
//!
//! Read first: tun(4) in the kernel's Documentation/networking/tuntap.rst,
//! packet(7).

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Moves the calling thread into the network namespace behind `ns`.
pub(crate) fn enter_net(ns: BorrowedFd<'_>) -> io::Result<()> {
    move_into_link_name_space(ns, Some(LinkNameSpaceType::Network)).map_err(io::Error::from)
}

/// Gives the calling thread a new network namespace.
pub(crate) fn unshare_net() -> io::Result<()> {
    // SAFETY: a new network namespace touches no memory and no descriptor.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map(drop)
}

/// Takes every capability from the calling thread, and no other.
pub(crate) fn drop_capabilities() -> io::Result<()> {
    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(())
}

/// Pins the calling thread to one CPU.
pub(crate) fn pin(cpu: usize) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).map_err(io::Error::from)
}

/// The CPUs that the calling thread may use.
pub(crate) fn cpus() -> io::Result<Vec<usize>> {
    let set = rustix::thread::sched_getaffinity(None)?;
    Ok((0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}

/// Lets the calling thread run before every ordinary one, as soon as it is woken.
pub(crate) fn run_first() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: sched_setscheduler reads one sched_param.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) }).map(drop)
}

/// Lets sleeps of the calling thread end within microseconds of their time
/// (the default slack is 50 us).
pub(crate) fn wake_promptly() -> io::Result<()> {
    rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1)).map_err(io::Error::from)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

// include/uapi/linux/if_tun.h
const TUN_F_ALL: libc::c_ulong = 0x01 | 0x02 | 0x04 | 0x08 | 0x20 | 0x40; // CSUM TSO4 TSO6 ECN USO4 USO6
const TUN_F_BEFORE_6_2: libc::c_ulong = 0x01 | 0x02 | 0x04 | 0x08;

/// Opens (or makes) TAP `name` in the thread's namespace, without blocking;
/// with `vnet_hdr` every frame carries a virtio-net header of 10 bytes and may
/// be a super-frame.
pub(crate) fn open_tap(name: &str, vnet_hdr: bool) -> io::Result<OwnedFd> {
    let file = std::fs::File::options().read(true).write(true).open("/dev/net/tun")?;
    let fd = OwnedFd::from(file);
    // SAFETY: an ifreq of zeroes is valid: a name of no bytes and no flags.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    put_name(&mut request, name)?;
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | if vnet_hdr { libc::IFF_VNET_HDR } else { 0 };
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: TUNSETIFF reads and writes one ifreq.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    if vnet_hdr {
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        let all = check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, TUN_F_ALL) });
        if all.is_err() {
            // SAFETY: as above; kernels before 6.2 have no USO.
            check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, TUN_F_BEFORE_6_2) })?;
        }
    }
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(fd)
}

fn put_name(request: &mut libc::ifreq, name: &str) -> io::Result<()> {
    // One byte stays zero: the name's end.
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an interface name has at most 15 bytes"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(())
}

/// Opens a packet socket on `interface` of the thread's namespace that neither
/// blocks nor sees what it sent itself.
pub(crate) fn open_packet(interface: &str, vnet_hdr: bool) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket(2) takes no pointer.
    let raw = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
    // SAFETY: the descriptor is new, so nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    set_option(fd.as_fd(), libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
    if vnet_hdr {
        set_option(fd.as_fd(), libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
    }
    // Without the right to force it the default has to do.
    let _ = set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 16 << 20);
    let _ = set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 4 << 20);
    let name = std::ffi::CString::new(interface)?;
    // SAFETY: a C string that lives over the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a sockaddr_ll of zeroes is valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    address.sll_protocol = u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?.to_be();
    address.sll_ifindex = index.cast_signed();
    // SAFETY: the pointer and length are those of `address`.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len_of::<libc::sockaddr_ll>()) })?;
    Ok(fd)
}

fn set_option(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let value_len = len_of::<libc::c_int>();
    // SAFETY: the pointer and length are those of `value`.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), value_len) })
        .map(drop)
}

fn len_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0)
}
