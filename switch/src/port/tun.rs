//! The ioctls of /dev/net/tun.
//!
//! Read first: Documentation/networking/tuntap.rst, and `__tun_chr_ioctl` of
//! drivers/net/tun.c. A TAP has two sides: this descriptor, which only one
//! process can hold, and a network interface.
//!
//! Deliberately absent: frames (`tap`), and the interface (`rtnl`).

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Attach as a TAP without the packet information header.
pub(super) const PLAIN: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI;
/// The same, with a virtio-net header before each frame.
pub(super) const VNET: libc::c_int = PLAIN | libc::IFF_VNET_HDR;
/// The same, if there was no such interface before.
pub(super) const NEW: libc::c_int = PLAIN | libc::IFF_TUN_EXCL;

/// Super-frames that every kernel with virtio-net headers can pass us.
pub(super) const OFFLOADS: libc::c_uint =
    libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
/// UDP super-frames: Linux 6.2.
pub(super) const OFFLOADS_USO: libc::c_uint = OFFLOADS | libc::TUN_F_USO4 | libc::TUN_F_USO6;

fn done(rc: libc::c_int) -> io::Result<libc::c_int> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc) }
}

/// Opens the device that makes TAPs and attaches to them.
///
/// # Errors
/// ENOENT without the driver; EACCES where only root may.
pub(super) fn open() -> io::Result<OwnedFd> {
    Ok(OwnedFd::from(File::options().read(true).write(true).open("/dev/net/tun")?))
}

/// Attaches to TAP `name`, which is made if missing; the descriptor does not
/// block.
///
/// # Errors
/// As `open`; EPERM without the right; EBUSY if somebody holds it, or, with
/// `NEW`, if it exists; EINVAL if `name` is no TAP.
pub(super) fn attach(name: &str, flags: libc::c_int) -> io::Result<OwnedFd> {
    let fd = open()?;
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // One byte stays zero, so that the name ends: the kernel would cut it.
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    #[expect(clippy::cast_possible_truncation, reason = "sixteen bits, of which the last is a sign to C")]
    let short = flags as libc::c_short;
    request.ifr_ifru.ifru_flags = short;
    // SAFETY: the kernel reads and writes one ifreq.
    done(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    set_nonblocking(&fd)?;
    Ok(fd)
}

/// Makes reads and writes return instead of waiting.
pub(super) fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    rustix::io::ioctl_fionbio(fd, true)?;
    Ok(())
}

fn set(fd: impl AsFd, request: libc::Ioctl, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: these requests take a number in place of a pointer.
    done(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, value) }).map(drop)
}

/// Whether the interface outlives its descriptor.
pub(super) fn set_persistent(fd: &OwnedFd, persistent: bool) -> io::Result<()> {
    set(fd, libc::TUNSETPERSIST, libc::c_ulong::from(persistent))
}

/// Who may attach without CAP_NET_ADMIN.
pub(super) fn set_owner(fd: &OwnedFd, uid: u32) -> io::Result<()> {
    set(fd, libc::TUNSETOWNER, libc::c_ulong::from(uid))
}

/// What the kernel may leave unfinished in frames that we read.
pub(super) fn set_offloads(fd: impl AsFd, offloads: libc::c_uint) -> io::Result<()> {
    set(fd, libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads))
}

/// Bytes of the virtio-net header.
pub(super) fn set_vnet_header_len(fd: &OwnedFd, len: libc::c_int) -> io::Result<()> {
    // SAFETY: the kernel reads one int.
    done(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const len) }).map(drop)
}

/// What the kernel says of the interface.
fn request(fd: &OwnedFd) -> io::Result<libc::ifreq> {
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // SAFETY: the kernel writes one ifreq.
    done(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &raw mut request) })?;
    Ok(request)
}

/// Whether the interface outlives `fd`.
///
/// # Errors
/// EBADFD if it was deleted.
pub(super) fn is_persistent(fd: &OwnedFd) -> io::Result<bool> {
    let request = request(fd)?;
    // SAFETY: the kernel wrote the flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(libc::c_int::from(flags) & libc::IFF_PERSIST != 0)
}

/// The interface's name now, in whatever namespace it is.
///
/// # Errors
/// EBADFD if it was deleted.
pub(super) fn name(fd: &OwnedFd) -> io::Result<String> {
    let request = request(fd)?;
    // SAFETY: the kernel ends the name with a zero byte within the field.
    let name = unsafe { CStr::from_ptr(request.ifr_name.as_ptr()) };
    Ok(name.to_string_lossy().into_owned())
}

/// The network namespace that the interface is in.
///
/// # Errors
/// EBADFD if it was deleted; EPERM without CAP_NET_ADMIN there.
pub(super) fn namespace(fd: &OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let namespace = done(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETDEVNETNS) })?;
    // SAFETY: a new descriptor that nobody else holds.
    Ok(unsafe { OwnedFd::from_raw_fd(namespace) })
}
