//! rtnetlink, as far as ports need it: interfaces listed, changed and deleted,
//! and what the host does with them.
//!
//! Everything here waits for the kernel's answer, and the kernel for its RTNL
//! lock: it belongs on the control thread, never on the data thread. Netlink
//! and not sysfs or /proc, because those show the namespace that was mounted,
//! not the one that the thread is in.
//!
//! Deliberately absent: events (`watch`), making TAPs (`tun`).
//! Read first: rtnetlink(7).
#![expect(clippy::wildcard_enum_match_arm, reason = "the kernel's messages are an open set")]

use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressProtocol};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType,
    LinkMessage,
};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// A socket to the kernel's routing side, in one network namespace.
#[derive(Debug)]
pub(super) struct Rtnl {
    socket: Socket,
    sequence: u32,
}

/// Kinds of interfaces that take frames from the one they are made upon.
const UPPER: [&str; 7] = ["vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec", "hsr"];

/// What the kernel says of one interface.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Interface {
    /// Its number, unique in its namespace for ever.
    pub ifindex: u32,
    /// Its name now; it may be renamed.
    pub name: String,
    /// `tun`, `veth`, …; empty for hardware.
    pub kind: String,
    /// `ip link set NAME alias TEXT`.
    pub alias: String,
    /// Set up by an administrator.
    pub admin_up: bool,
    /// Somebody is at the other end; also while it is set down.
    pub carrier: bool,
    /// Payload bytes of a frame.
    pub mtu: u32,
    /// Number of the bridge or bond that it belongs to.
    pub master: Option<u32>,
    /// Number of the interface of this namespace that it is made upon, or the
    /// other end of a veth.
    pub lower: Option<u32>,
    /// It is the loopback interface.
    pub loopback: bool,
    /// Its frames have Ethernet headers.
    pub ethernet: bool,
    /// Frames that the host sent to it and it dropped.
    pub tx_dropped: u64,
}

impl Interface {
    /// Whether frames pass.
    pub fn up(&self) -> bool {
        self.admin_up && self.carrier
    }

    pub(super) fn parse(message: &LinkMessage) -> Interface {
        let flags = message.header.flags;
        let mut interface = Interface {
            ifindex: message.header.index,
            admin_up: flags.contains(LinkFlags::Up),
            carrier: flags.contains(LinkFlags::LowerUp),
            loopback: flags.contains(LinkFlags::Loopback),
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            ..Interface::default()
        };
        let mut elsewhere = false;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => interface.name.clone_from(name),
                LinkAttribute::IfAlias(alias) => interface.alias.clone_from(alias),
                // The flag is cleared while the interface is set down.
                LinkAttribute::Carrier(carrier) => interface.carrier = *carrier != 0,
                LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
                LinkAttribute::Controller(master) => interface.master = (*master != 0).then_some(*master),
                LinkAttribute::Link(lower) => interface.lower = Some(*lower),
                LinkAttribute::LinkNetNsId(_) => elsewhere = true,
                LinkAttribute::Stats64(stats) => interface.tx_dropped = stats.tx_dropped,
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        if let LinkInfo::Kind(kind) = info {
                            interface.kind = kind_name(kind);
                        }
                    }
                }
                _ => {}
            }
        }
        if elsewhere {
            interface.lower = None;
        }
        interface
    }
}

fn kind_name(kind: &InfoKind) -> String {
    kind.to_string().to_lowercase()
}

/// One change to an interface.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change<'a> {
    /// Set up.
    Up,
    /// Payload bytes of a frame.
    Mtu(u32),
    /// Whose it is.
    Alias(&'a str),
    /// No IPv6 address by itself.
    NoAutomaticAddress,
}

fn os(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

/// A routing socket in `namespace`, which outlives the short thread that makes
/// it there.
pub(super) fn socket_in(namespace: BorrowedFd<'_>) -> io::Result<Socket> {
    std::thread::scope(|scope| {
        let inside = std::thread::Builder::new().spawn_scoped(scope, || {
            rustix::thread::move_into_link_name_space(
                namespace,
                Some(rustix::thread::LinkNameSpaceType::Network),
            )?;
            Socket::new(NETLINK_ROUTE)
        })?;
        inside.join().unwrap_or_else(|_| Err(os(libc::ESRCH)))
    })
}

impl Rtnl {
    /// A socket in the namespace of the calling thread.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn open() -> io::Result<Rtnl> {
        Rtnl::over(Socket::new(NETLINK_ROUTE)?)
    }

    /// A socket in another namespace.
    ///
    /// # Errors
    /// No right to enter it.
    pub fn open_in(namespace: BorrowedFd<'_>) -> io::Result<Rtnl> {
        Rtnl::over(socket_in(namespace)?)
    }

    fn over(mut socket: Socket) -> io::Result<Rtnl> {
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Rtnl { socket, sequence: 0 })
    }

    /// Sends `message` and collects the answers up to the acknowledgement.
    pub fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        self.answers(flags)
    }

    fn answers(&mut self, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut answers = Vec::new();
        loop {
            let bytes = match self.socket.recv_from_full() {
                Ok((bytes, _)) => bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let mut rest = &bytes[..];
            while let Some((header, message)) = next_message(&mut rest) {
                if header.sequence_number != self.sequence {
                    continue; // left from a request that failed half-way
                }
                match message {
                    Some(NetlinkPayload::Done(_)) => return Ok(answers),
                    Some(NetlinkPayload::Error(error)) => match error.code {
                        None => return Ok(answers),
                        Some(_) => return Err(error.to_io()),
                    },
                    Some(NetlinkPayload::InnerMessage(answer)) => answers.push(answer),
                    // In a list, a record that the crate cannot read is one of
                    // an interface that is none of ours; alone, it is the
                    // answer, and "there is none" would be a lie.
                    None if flags & NLM_F_DUMP != NLM_F_DUMP => return Err(os(libc::EBADMSG)),
                    // The others cannot follow a request.
                    Some(NetlinkPayload::Noop | NetlinkPayload::Overrun(_) | _) | None => {}
                }
            }
        }
    }

    /// The interface called `name`.
    ///
    /// # Errors
    /// Whatever the kernel says; that there is none is `Ok(None)`.
    pub fn find(&mut self, name: &str) -> io::Result<Option<Interface>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.find_by(message)
    }

    /// The interface numbered `ifindex`.
    ///
    /// # Errors
    /// As `find`.
    pub fn find_index(&mut self, ifindex: u32) -> io::Result<Option<Interface>> {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        self.find_by(message)
    }

    fn find_by(&mut self, message: LinkMessage) -> io::Result<Option<Interface>> {
        match self.request(RouteNetlinkMessage::GetLink(message), NLM_F_ACK) {
            Ok(answers) => Ok(answers.iter().find_map(as_interface)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every interface of the namespace.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn list(&mut self) -> io::Result<Vec<Interface>> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        Ok(self.request(request, NLM_F_DUMP)?.iter().filter_map(as_interface).collect())
    }

    /// Applies `changes` to an interface.
    ///
    /// # Errors
    /// Whatever the kernel says; changes before the failing one may be made.
    pub fn change(&mut self, ifindex: u32, changes: &[Change<'_>]) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        for change in changes {
            match *change {
                Change::Up => {
                    message.header.flags |= LinkFlags::Up;
                    message.header.change_mask |= LinkFlags::Up;
                }
                Change::Mtu(mtu) => message.attributes.push(LinkAttribute::Mtu(mtu)),
                Change::Alias(alias) => message.attributes.push(LinkAttribute::IfAlias(alias.to_owned())),
                Change::NoAutomaticAddress => {
                    let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
                    let spec = AfSpecUnspec::Inet6(vec![mode]);
                    message.attributes.push(LinkAttribute::AfSpecUnspec(vec![spec]));
                }
            }
        }
        self.request(RouteNetlinkMessage::SetLink(message), NLM_F_ACK).map(drop)
    }

    /// Deletes an interface.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn delete(&mut self, ifindex: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        self.request(RouteNetlinkMessage::DelLink(message), NLM_F_ACK).map(drop)
    }

    /// Addresses that somebody gave to the host on interface `ifindex`: all but
    /// the link-local one that comes by itself as soon as a device is up.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn addresses(&mut self, ifindex: u32) -> io::Result<Vec<AddressMessage>> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.request(request, NLM_F_DUMP)?.into_iter();
        let all: Vec<AddressMessage> = answers
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewAddress(address) => Some(address),
                _ => None,
            })
            .collect();
        // Linux 5.18 and newer say who made an address, of those that the kernel
        // made. Where none says so, a link-local one may be either.
        let tells = all.iter().any(|address| maker(address).is_some());
        let by_itself = |address: &AddressMessage| match maker(address) {
            Some(maker) => maker == AddressProtocol::LinkLocal,
            None => !tells && address_text(address).starts_with("fe80:"),
        };
        Ok(all.into_iter().filter(|address| address.header.index == ifindex && !by_itself(address)).collect())
    }

    /// An interface that is made upon interface `ifindex` and takes frames from
    /// it: a VLAN, a macvlan, …
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn upper(&mut self, ifindex: u32) -> io::Result<Option<Interface>> {
        let is_upper = |other: &Interface| {
            other.lower == Some(ifindex) && other.ifindex != ifindex && UPPER.contains(&other.kind.as_str())
        };
        Ok(self.list()?.into_iter().find(is_upper))
    }

    /// Gives the host `address` on interface `ifindex`.
    ///
    /// # Errors
    /// Whatever the kernel says: EADDRNOTAVAIL of an address that no host can have.
    pub fn add_address(&mut self, ifindex: u32, (address, prefix_len): (IpAddr, u8)) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = match address {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        message.header.prefix_len = prefix_len;
        message.header.index = ifindex;
        message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        self.request(RouteNetlinkMessage::NewAddress(message), flags).map(drop)
    }

    /// Routes through interface `ifindex` that somebody set; those that the
    /// kernel derives from addresses are left out.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn routes(&mut self, ifindex: u32) -> io::Result<Vec<RouteMessage>> {
        let request = RouteNetlinkMessage::GetRoute(RouteMessage::default());
        let answers = self.request(request, NLM_F_DUMP)?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(route) => Some(route),
                _ => None,
            })
            .filter(|route| route.header.protocol != RouteProtocol::Kernel && leaves_by(route, ifindex))
            .collect())
    }
}

fn leaves_by(route: &RouteMessage, ifindex: u32) -> bool {
    route.attributes.iter().any(|attribute| match attribute {
        RouteAttribute::Oif(index) => *index == ifindex,
        RouteAttribute::MultiPath(hops) => hops.iter().any(|hop| hop.interface_index == ifindex),
        _ => false,
    })
}

fn as_interface(answer: &RouteNetlinkMessage) -> Option<Interface> {
    match answer {
        RouteNetlinkMessage::NewLink(link) => Some(Interface::parse(link)),
        _ => None,
    }
}

/// Who in the kernel made an address, if it says so.
fn maker(message: &AddressMessage) -> Option<AddressProtocol> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Protocol(protocol) => Some(*protocol),
        _ => None,
    })
}

/// Address text of `message`, as `ip addr` prints it.
pub(super) fn address_text(message: &AddressMessage) -> String {
    let mut text = String::from("?");
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => return format!("{ip}/{}", message.header.prefix_len),
            AddressAttribute::Address(ip) => text = format!("{ip}/{}", message.header.prefix_len),
            _ => {}
        }
    }
    text
}

/// Cuts the next message off `bytes`; its payload is `None` if it cannot be
/// read.
pub(super) fn next_message(
    bytes: &mut &[u8],
) -> Option<(NetlinkHeader, Option<NetlinkPayload<RouteNetlinkMessage>>)> {
    let len = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let this = bytes.get(..len).filter(|this| this.len() >= 16)?;
    *bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    let field = |at: usize| this[at..].first_chunk().map_or(0, |chunk| u32::from_ne_bytes(*chunk));
    let mut header = NetlinkHeader::default();
    header.sequence_number = field(8);
    match NetlinkMessage::deserialize(this) {
        Ok(message) => {
            let (header, payload) = message.into_parts();
            Some((header, Some(payload)))
        }
        Err(_) => Some((header, None)),
    }
}
