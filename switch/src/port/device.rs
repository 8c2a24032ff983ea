//! What is behind a port, as the control thread holds it: the interface, what
//! was done to it, and how to undo that.
//!
//! Deliberately absent: frames. The data thread owns the [`Port`](super::Port)
//! that was opened together with a device.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::Losses;
use super::alias::Alias;
use super::endpoint::{self, Endpoint};
use super::isolate::{Isolation, IsolationKind};
use super::leftover::remove_tap;
use super::mtu::Mtu;
use super::peer::{self, Holders};
use super::rtnl::{Interface, Rtnl};
use super::tun;
use super::vhost::VhostDevice;
use super::watch::NamespaceId;

/// How often a moving interface is asked for: a user types one move.
const MOVES_MAX: u32 = 100;

/// The interface of a port, and what the switch did to it.
#[derive(Debug)]
pub struct Device {
    pub(super) name: String,
    pub(super) ifindex: u32,
    pub(super) side: Side,
    /// Our mark, if we made the TAP (or an earlier run of this switch did).
    pub(super) made: Option<String>,
    /// What the port made of the interface's MTU.
    pub(super) mtu: Option<Mtu>,
    pub(super) isolation: Option<Isolation>,
    /// The kernel may forward its frames.
    pub(super) fast: bool,
    /// What it has lost.
    pub(super) dropped: Dropped,
}

/// What of the interface's `tx_dropped` is the port's.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Dropped {
    /// Not yet: it was there when the port was opened.
    before: u64,
    /// As it was last read.
    last: u64,
}

impl Dropped {
    /// None of what `found` has.
    pub fn since(found: &Interface) -> Dropped {
        Dropped { before: found.tx_dropped, last: found.tx_dropped }
    }
}

/// Which side of the interface the port holds.
#[derive(Debug)]
pub(super) enum Side {
    /// The network interface, in our own namespace.
    Netdev,
    /// The descriptor, of which this is a second copy; the interface may be in
    /// any namespace.
    Descriptor(OwnedFd),
    /// A unix socket, and no interface at all.
    Socket(Box<Endpoint>),
    /// None: a guest's virtqueues, by a socket.
    Vhost(VhostDevice),
}

/// What an interface is right now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceState {
    /// It is there.
    Present {
        /// Frames pass.
        up: bool,
        /// Payload bytes of a frame.
        mtu: u32,
    },
    /// It was deleted, or is in a namespace where the port cannot follow.
    Gone,
}

/// How a device was left behind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CloseOutcome {
    /// Nothing of ours is left.
    Clean,
    /// Something is, for the reason given.
    Left(String),
}

impl Device {
    /// The interface's name when it was last looked at, or the socket's path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number in its namespace.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// How it is kept apart from the host's stack.
    pub fn isolation(&self) -> IsolationKind {
        self.isolation.as_ref().map_or(IsolationKind::NotNeeded, Isolation::kind)
    }

    /// Whether the kernel may forward frames between this port and others.
    pub fn has_fast_path(&self) -> bool {
        self.fast
    }

    /// Whether it is a guest's virtqueues: whether frames pass there, the port
    /// itself says.
    pub fn is_vhost(&self) -> bool {
        matches!(self.side, Side::Vhost(_))
    }

    /// Another namespace than ours that must be watched for it.
    pub fn namespace(&self) -> Option<OwnedFd> {
        match &self.side {
            Side::Netdev | Side::Socket(_) | Side::Vhost(_) => None,
            Side::Descriptor(fd) => tun::namespace(fd).ok(),
        }
    }

    /// Whether the interface `ifindex` of `namespace` is this one. `own` is
    /// the switch's namespace.
    pub fn is(&self, namespace: NamespaceId, own: NamespaceId, ifindex: u32) -> bool {
        if self.ifindex != ifindex {
            return false;
        }
        match &self.side {
            Side::Netdev => namespace == own,
            // It may have been moved: the event that says so comes from the
            // namespace that it left.
            Side::Descriptor(_) => true,
            Side::Socket(_) | Side::Vhost(_) => false,
        }
    }

    /// The socket, if it is one.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        match &self.side {
            Side::Socket(endpoint) => Some(endpoint),
            Side::Netdev | Side::Descriptor(_) | Side::Vhost(_) => None,
        }
    }

    /// The same, to look for a peer.
    pub fn endpoint_mut(&mut self) -> Option<&mut Endpoint> {
        match &mut self.side {
            Side::Socket(endpoint) => Some(endpoint),
            Side::Netdev | Side::Descriptor(_) | Side::Vhost(_) => None,
        }
    }

    fn interface(&self) -> io::Result<Option<Interface>> {
        match &self.side {
            Side::Vhost(_) => Ok(None),
            Side::Netdev => Rtnl::open()?.find_index(self.ifindex),
            Side::Descriptor(fd) => {
                // Between the questions where it is and what it is there, it
                // may move or be renamed. As long as its descriptor has a name
                // it is not gone, and the first question is asked again.
                for _ in 0..MOVES_MAX {
                    let place = tun::name(fd).and_then(|name| Ok((name, tun::namespace(fd)?)));
                    let found = match place.map_err(|error| (error.raw_os_error(), error)) {
                        Ok((name, namespace)) => Rtnl::open_in(namespace.as_fd())?.find(&name)?,
                        // Deleted, or where we may not look.
                        Err((Some(libc::EBADFD | libc::EPERM), _)) => return Ok(None),
                        Err((_, error)) => return Err(error),
                    };
                    if found.is_some() {
                        return Ok(found);
                    }
                    std::thread::yield_now();
                }
                Err(io::Error::other("it moves faster than it can be followed"))
            }
            Side::Socket(_) => Ok(None),
        }
    }

    /// Asks the kernel what the interface is now. One that was moved keeps its
    /// port only if the port holds the descriptor.
    ///
    /// # Errors
    /// The kernel gave no answer (out of descriptors, say): nothing is known.
    pub fn examine(&mut self) -> io::Result<DeviceState> {
        if let Side::Socket(endpoint) = &self.side {
            let up = endpoint.has_peer() && !endpoint.has_lost_peer();
            return Ok(DeviceState::Present { up, mtu: endpoint.mtu() });
        }
        if let Side::Vhost(vhost) = &self.side {
            return Ok(DeviceState::Present { up: vhost.peer().is_some(), mtu: vhost.mtu() });
        }
        Ok(match self.interface()? {
            Some(found) => {
                let state = DeviceState::Present { up: found.up(), mtu: found.mtu };
                (self.ifindex, self.name) = (found.ifindex, found.name);
                state
            }
            None => DeviceState::Gone,
        })
    }

    /// Frames lost at the device since it was opened, of which the port was not
    /// told: a TAP whose guest does not read drops what we send in silence, and
    /// one whose descriptor we do not read in time what the host sends. Of one
    /// that is gone it is what was known last: the number never goes back.
    pub fn losses(&mut self) -> Losses {
        let now = self.interface().ok().flatten().map_or(0, |found| found.tx_dropped);
        self.dropped.last = self.dropped.last.max(now);
        let lost = self.dropped.last.saturating_sub(self.dropped.before);
        match self.side {
            Side::Netdev => Losses { tx_lost: lost, rx_missed: 0 },
            Side::Descriptor(_) => Losses { rx_missed: lost, tx_lost: 0 },
            Side::Socket(_) | Side::Vhost(_) => Losses::default(),
        }
    }

    /// Changes the MTU; the link event that follows tells the engine. `None`: to
    /// what the interface had before the port changed it.
    ///
    /// # Errors
    /// Whatever the kernel says of it.
    pub fn set_mtu(&mut self, mtu: Option<u32>) -> io::Result<()> {
        let mut rtnl = match &mut self.side {
            Side::Vhost(vhost) => {
                vhost.set_mtu(mtu.unwrap_or(endpoint::MTU));
                return Ok(());
            }
            Side::Socket(endpoint) => {
                endpoint.set_mtu(mtu.unwrap_or(endpoint::MTU));
                return Ok(());
            }
            // Nothing to take back.
            Side::Netdev | Side::Descriptor(_) if mtu.is_none() && self.mtu.is_none() => return Ok(()),
            Side::Netdev => Rtnl::open()?,
            Side::Descriptor(fd) => Rtnl::open_in(tun::namespace(fd)?.as_fd())?,
        };
        let gone = || io::Error::from_raw_os_error(libc::ENODEV);
        let found = self.interface()?.ok_or_else(gone)?;
        self.mtu = match (mtu, self.mtu) {
            (Some(mtu), earlier) => Mtu::change(&mut rtnl, &found, mtu, earlier)?,
            (None, Some(changed)) => {
                changed.restore(&mut rtnl, &found)?;
                None
            }
            (None, None) => None,
        };
        Ok(())
    }

    /// The interface whose descriptor may have a holder: who, [`Holders`] finds.
    pub fn held_by_others(&self) -> Option<&str> {
        match &self.side {
            Side::Netdev => Some(&self.name),
            Side::Descriptor(_) | Side::Socket(_) | Side::Vhost(_) => None,
        }
    }

    /// Name and number of the process at the other end, if one can be found
    /// (among `holders`, which costs a search through all processes).
    pub fn peer(&self, holders: &Holders) -> Option<String> {
        match &self.side {
            Side::Netdev => holders.of(&self.name).map(str::to_owned),
            Side::Descriptor(_) => None,
            Side::Socket(endpoint) => endpoint.peer_name().map(str::to_owned),
            Side::Vhost(vhost) => vhost.peer(),
        }
    }

    /// Why nobody is at the other end, if that is worth a word.
    pub fn note(&self) -> String {
        match &self.side {
            Side::Netdev | Side::Descriptor(_) | Side::Socket(_) => String::new(),
            Side::Vhost(vhost) => vhost.note(),
        }
    }

    /// Takes back what was done: the programs, the MTU, and the TAP if we made it
    /// and nobody holds its descriptor (a guest's NIC would be dead until QEMU is
    /// started again).
    pub fn close(mut self) -> CloseOutcome {
        self.isolation = None;
        if self.made.is_none() {
            return self.take_back_mtu();
        }
        let outcome = self.remove_made();
        if outcome != CloseOutcome::Clean {
            // That it is left is said already.
            let _ = self.take_back_mtu();
        }
        outcome
    }

    fn take_back_mtu(&mut self) -> CloseOutcome {
        let vanishes = match &self.side {
            Side::Netdev => false,
            // What cannot be asked is gone.
            Side::Descriptor(fd) => !tun::is_persistent(fd).unwrap_or(false),
            Side::Socket(_) | Side::Vhost(_) => true,
        };
        let Some(mtu) = self.mtu.filter(|_| !vanishes) else { return CloseOutcome::Clean };
        match self.set_mtu(None) {
            Err(error) if error.raw_os_error() != Some(libc::ENODEV) => {
                let (name, Mtu { before, set }) = (&self.name, mtu);
                let fix = format!("ip link set {name} mtu {before} takes it back");
                CloseOutcome::Left(format!("its MTU stays {set} ({error}): {fix}"))
            }
            Ok(()) | Err(_) => CloseOutcome::Clean,
        }
    }

    fn remove_made(&self) -> CloseOutcome {
        let Device { name, ifindex, made, .. } = self;
        let Some(mark) = made.as_deref().and_then(Alias::parse) else { return CloseOutcome::Clean };
        match remove_tap(*ifindex, &mark) {
            Ok(true) => CloseOutcome::Clean,
            Ok(false) => {
                let holder = peer::holder(name).unwrap_or_else(|| "a guest".to_owned());
                CloseOutcome::Left(format!(
                    "left, {holder} holds it; the next start of this switch adopts it, ip link del {name} removes it"
                ))
            }
            Err(error) => CloseOutcome::Left(format!("not removed ({error}): ip link del {name} does it")),
        }
    }
}
