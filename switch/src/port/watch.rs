//! Link events of the kernel, as one source for the control thread's epoll.
//!
//! An event says only that something about an interface changed; what it is
//! now is asked of the kernel, so that a lost event costs nothing but a second
//! question. A `tap:` port's interface may be in another network namespace,
//! whose events come over the same socket (`nsid`), or, without the right to
//! that, over one inside, which then keeps that namespace alive.
//!
//! Deliberately absent: deciding what a change means for a port (`supervisor`).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::event::epoll;

use super::nsid::{self, Receiver};
use super::rtnl::{Interface, next_message, socket_in};

/// RTMGRP_LINK.
const LINK_GROUP: u32 = 1;

/// Bytes of events that may wait: a thousand interfaces coming and going.
const BUFFER: usize = 1 << 20;

/// A network namespace, told from others by its inode.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct NamespaceId {
    device: u64,
    inode: u64,
}

impl NamespaceId {
    /// Of an open namespace.
    ///
    /// # Errors
    /// Whatever fstat says.
    pub fn of(namespace: BorrowedFd<'_>) -> io::Result<NamespaceId> {
        let stat = rustix::fs::fstat(namespace)?;
        Ok(NamespaceId { device: stat.st_dev, inode: stat.st_ino })
    }

    /// Of the calling thread.
    ///
    /// # Errors
    /// Without /proc.
    pub fn own() -> io::Result<NamespaceId> {
        let stat = rustix::fs::stat("/proc/thread-self/ns/net")?;
        Ok(NamespaceId { device: stat.st_dev, inode: stat.st_ino })
    }
}

/// What may have changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkEvent {
    /// Something about one interface.
    Interface {
        /// Where.
        namespace: NamespaceId,
        /// Its number there.
        ifindex: u32,
        /// Its name there.
        name: String,
    },
    /// Events were lost: anything.
    Overflow,
}

/// Sockets that hear of every interface in the namespaces that matter.
#[derive(Debug)]
pub struct Watcher {
    /// All sockets behind one descriptor.
    epoll: std::os::fd::OwnedFd,
    own: NamespaceId,
    sockets: BTreeMap<NamespaceId, Socket>,
    /// Namespaces whose events come over our own socket, by number; `None`
    /// without the right to that.
    numbered: Option<BTreeMap<i32, NamespaceId>>,
    receiver: Receiver,
}

impl Watcher {
    /// Watches the namespace of the calling thread.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn new() -> io::Result<Watcher> {
        let own = NamespaceId::own()?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let socket = Socket::new(NETLINK_ROUTE)?;
        let numbered = socket.set_listen_all_namespaces(true).ok().map(|()| BTreeMap::new());
        let receiver = Receiver::new();
        let mut watcher = Watcher { epoll, own, sockets: BTreeMap::new(), numbered, receiver };
        watcher.add(own, socket)?;
        Ok(watcher)
    }

    /// The namespace that the switch itself is in.
    pub fn own(&self) -> NamespaceId {
        self.own
    }

    fn add(&mut self, namespace: NamespaceId, mut socket: Socket) -> io::Result<()> {
        socket.bind(&SocketAddr::new(0, LINK_GROUP))?;
        socket.set_non_blocking(true)?;
        // More than the kernel gives everyone takes a right; less costs only a
        // look at every device now and then.
        if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER).is_err() {
            socket.set_rx_buf_sz(BUFFER)?;
        }
        // The number is not looked at: `events` reads every socket.
        let data = epoll::EventData::new_u64(0);
        // SAFETY: the socket is open as long as it is borrowed here.
        let fd = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
        epoll::add(&self.epoll, fd, data, epoll::EventFlags::IN)?;
        self.sockets.insert(namespace, socket);
        Ok(())
    }

    /// Watches another namespace too; false: it is watched already. What
    /// changed there before is not heard: ask once more after this.
    ///
    /// # Errors
    /// No right to enter it.
    pub fn follow(&mut self, namespace: BorrowedFd<'_>) -> io::Result<bool> {
        let id = NamespaceId::of(namespace)?;
        if self.sockets.contains_key(&id) {
            return Ok(false);
        }
        if let Some(numbered) = &mut self.numbered {
            if numbered.values().any(|known| *known == id) {
                return Ok(false);
            }
            if let Ok(number) = nsid::number(namespace) {
                numbered.insert(number, id);
                return Ok(true);
            }
        }
        self.add(id, socket_in(namespace)?).map(|()| true)
    }

    /// Stops watching namespaces that are not in `needed`, our own excepted.
    pub fn keep(&mut self, needed: &[NamespaceId]) {
        let own = self.own;
        self.sockets.retain(|id, _| *id == own || needed.contains(id));
        if let Some(numbered) = &mut self.numbered {
            numbered.retain(|_, id| needed.contains(id));
        }
    }

    /// Everything that has been heard since the last call.
    pub fn events(&mut self) -> Vec<LinkEvent> {
        let mut events = Vec::new();
        for (namespace, socket) in &mut self.sockets {
            loop {
                match self.receiver.receive(socket.as_fd()) {
                    Ok((bytes, None)) => read_events(*namespace, bytes, &mut events),
                    Ok((bytes, Some(number))) => {
                        // Others are none of our business.
                        if let Some(from) = self.numbered.as_ref().and_then(|known| known.get(&number)) {
                            read_events(*from, bytes, &mut events);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // The kernel had more to say than there was room for.
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                        events.push(LinkEvent::Overflow);
                    }
                    Err(_) => {
                        events.push(LinkEvent::Overflow);
                        break;
                    }
                }
            }
        }
        events
    }
}

fn read_events(namespace: NamespaceId, bytes: &[u8], events: &mut Vec<LinkEvent>) {
    let mut rest = bytes;
    while let Some((_, payload)) = next_message(&mut rest) {
        match payload {
            Some(NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link),
            )) => {
                let Interface { ifindex, name, .. } = Interface::parse(&link);
                events.push(LinkEvent::Interface { namespace, ifindex, name });
            }
            Some(_) => {}
            // An attribute that the crate cannot read may be in any message.
            None => events.push(LinkEvent::Overflow),
        }
    }
}

impl Source for Watcher {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.epoll.as_raw_fd()).register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.epoll.as_raw_fd()).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.epoll.as_raw_fd()).deregister(registry)
    }
}
