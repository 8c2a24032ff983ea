//! From a specification to a port with its device.
//!
//! Everything here may wait for the kernel, and belongs to the control thread.
//!
//! Deliberately absent: retries. A device that is missing now is asked for
//! again when the kernel says that it is back (`supervisor`).

use std::io;
use std::net::IpAddr;
use std::path::Path;

use netlink_packet_route::AddressFamily;

use super::alias::Alias;
use super::device::{Device, Dropped, Side};
use super::endpoint::Endpoint;
use super::error::{NET_ADMIN, NET_RAW, OpenError, explain, missing};
use super::fast::{FastPath, FastPort, Programs};
use super::isolate::{Isolation, IsolationKind, IsolationMode};
use super::leftover::remove_tap;
use super::mtu::Mtu;
use super::netdev::NetdevPort;
use super::rtnl::{Change, Interface, Rtnl, address_text};
use super::tap::{Attached, TapPort};
use super::tun;
use super::{Kind, Link, Offloads, Port, PortSpec, parse_address};

/// What a port is opened for.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The switch's name.
    pub switch: String,
    /// The port's name, for the log.
    pub name: String,
    /// Marks what this run makes.
    pub run_id: String,
    /// Uid that owns the TAPs we make.
    pub owner: u32,
    /// Bytes; `None`: what the device has.
    pub mtu: Option<u32>,
    /// Take an interface although the host uses it.
    pub takeover: bool,
    /// How to keep it apart from the host's stack.
    pub isolation: IsolationMode,
    /// The kernel's fast path, if the switch uses it.
    pub fast: Option<FastPath>,
}

/// A port, and what the control thread must keep.
#[derive(Debug)]
pub struct Opened {
    /// For the data thread; `None` until a peer has come.
    pub port: Option<Box<dyn Port>>,
    /// For the control thread.
    pub device: Device,
    /// As it was found.
    pub link: Link,
    /// For the user: what was made, what falls short.
    pub notes: Vec<String>,
}

/// Opens the port that `spec` names.
///
/// # Errors
/// What is missing or in the way, with the fix; nothing is left behind.
pub fn open(spec: &PortSpec, options: &OpenOptions) -> Result<Opened, OpenError> {
    match spec.kind {
        Kind::Auto | Kind::Netdev => open_netdev(spec, options),
        Kind::Tap => open_tap(spec, options),
        Kind::Stream | Kind::Dgram => open_socket(spec, options),
        Kind::VhostUser => super::vhost::open(spec, options),
    }
}

impl OpenOptions {
    /// The mark of what this run makes.
    fn mark(&self) -> Alias<'_> {
        Alias { owner: self.owner, switch: &self.switch, rest: &self.run_id }
    }
}

fn open_netdev(spec: &PortSpec, options: &OpenOptions) -> Result<Opened, OpenError> {
    let name = &spec.target;
    let ask = || explain(format!("asking about {name}"), NET_ADMIN);
    let mut rtnl = Rtnl::open().map_err(ask())?;
    let mut notes = Vec::new();
    let (found, made) = match rtnl.find(name).map_err(ask())? {
        Some(found) => {
            let ours = options.mark().same_switch(&found.alias);
            if let Some(other) = Alias::parse(&found.alias).filter(|_| !ours) {
                let other = other.switch.to_owned();
                return Err(OpenError::OtherSwitch { name: name.clone(), other });
            }
            refuse_if_used(&mut rtnl, &found, options)?;
            if ours {
                let alias = options.mark().to_string();
                rtnl.change(found.ifindex, &[Change::Alias(&alias), Change::Up])
                    .map_err(explain(format!("adopting {name}"), NET_ADMIN))?;
                notes.push("adopted, an earlier run of this switch made it".to_owned());
            }
            (found, ours)
        }
        None if spec.kind == Kind::Auto => {
            let made = make_tap(&mut rtnl, name, options)?;
            notes.push(format!("created for {}", user_name(options.owner)));
            (made, true)
        }
        None => return Err(missing(name)),
    };
    // From here on a failure must not leave a TAP of this run behind.
    let outcome = with_mtu(&mut rtnl, &found, options, |rtnl, mtu| {
        attach_netdev(rtnl, &found, made, mtu, options, notes)
    });
    if outcome.is_err() && made {
        let _ = remove_tap(found.ifindex, &options.mark());
    }
    outcome
}

/// Goes on with `open` when `found` has the MTU that is wanted; if that fails, it
/// has its old one again.
fn with_mtu(
    rtnl: &mut Rtnl,
    found: &Interface,
    options: &OpenOptions,
    open: impl FnOnce(&mut Rtnl, Option<Mtu>) -> Result<Opened, OpenError>,
) -> Result<Opened, OpenError> {
    let Some(wanted) = options.mtu else { return open(rtnl, None) };
    let mtu = Mtu::change(rtnl, found, wanted, None)
        .map_err(explain(format!("setting {}'s MTU to {wanted}", found.name), NET_ADMIN))?;
    let outcome = open(rtnl, mtu);
    if let (Err(_), Some(mtu)) = (&outcome, mtu) {
        mtu.undo(rtnl, found.ifindex);
    }
    outcome
}

fn attach_netdev(
    rtnl: &mut Rtnl,
    found: &Interface,
    made: bool,
    mtu: Option<Mtu>,
    options: &OpenOptions,
    mut notes: Vec<String>,
) -> Result<Opened, OpenError> {
    let Interface { ifindex, name, .. } = found;
    let opening = || explain(format!("opening a packet socket on {name}"), NET_RAW);
    let mut fast = fast_port(options, &mut notes);
    let programs = fast.as_mut().and_then(FastPort::take_programs);
    let sender = programs.as_ref().map(|Programs { sender, .. }| sender);
    // Isolation first: the host must not answer the port's first frame.
    let isolation = Isolation::attach(*ifindex, options.isolation, &options.mark(), sender, &mut notes)
        .map_err(explain(format!("isolating {name} from the host"), NET_ADMIN))?;
    // Without its second program the fast path would lose what it takes.
    let fast = fast.filter(|_| isolation.kind() == IsolationKind::Tcx);
    let filter = programs.as_ref().filter(|_| fast.is_some()).map(|Programs { filter, .. }| filter);
    let is_fast = fast.is_some();
    let port = NetdevPort::open(*ifindex, fast, filter, &mut notes).map_err(opening())?;
    // Asked last: what changes from here on is told by an event.
    let now = rtnl.find_index(*ifindex).map_err(opening())?.ok_or_else(|| missing(name))?;
    let link = Link { up: now.up(), mtu: now.mtu, offloads: Offloads::ALL };
    let port = port.with_link(link);
    if !link.up {
        notes.push(if !now.admin_up {
            format!("down; ip link set {name} up starts it")
        } else if now.kind == "tun" {
            "down (no guest yet)".to_owned()
        } else {
            "down (no carrier)".to_owned()
        });
    }
    let device = Device {
        name: name.clone(),
        ifindex: *ifindex,
        side: Side::Netdev,
        made: made.then(|| options.mark().to_string()),
        mtu,
        isolation: Some(isolation),
        fast: is_fast,
        dropped: Dropped::since(&now),
    };
    Ok(Opened { port: Some(Box::new(port)), device, link, notes })
}

/// A place on the fast path; without one the port works, and every frame of it
/// goes through the engine.
fn fast_port(options: &OpenOptions, notes: &mut Vec<String>) -> Option<FastPort> {
    match options.fast.as_ref()?.add_port() {
        Ok(Some(fast)) => Some(fast),
        Ok(None) => {
            notes.push(
                "every place on the kernel's fast path is taken: its frames go through the switch".to_owned(),
            );
            None
        }
        Err(error) => {
            notes.push(format!("no fast path ({error}): its frames go through the switch"));
            None
        }
    }
}

/// What can be wrong with /dev/net/tun itself, apart from the TAP.
fn no_tun(error: io::Error) -> OpenError {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => {
            OpenError::Os { action: "opening /dev/net/tun".to_owned(), error }
        }
        _ => OpenError::NoTun { error },
    }
}

/// A persistent TAP that nobody had before.
fn make_tap(rtnl: &mut Rtnl, name: &str, options: &OpenOptions) -> Result<Interface, OpenError> {
    let creating = || explain(format!("creating {name}"), NET_ADMIN);
    drop(tun::open().map_err(no_tun)?);
    let fd = tun::attach(name, tun::NEW).map_err(creating())?;
    // Until it is persistent, it vanishes with `fd` if anything fails.
    let made = rtnl.find(name).map_err(creating())?.ok_or_else(|| missing(name))?;
    let alias = options.mark().to_string();
    rtnl.change(made.ifindex, &[Change::Alias(&alias)]).map_err(creating())?;
    match rtnl.change(made.ifindex, &[Change::NoAutomaticAddress]) {
        // A kernel without IPv6 gives no addresses either.
        Err(error) if error.raw_os_error() != Some(libc::EAFNOSUPPORT) => return Err(creating()(error)),
        Ok(()) | Err(_) => {}
    }
    tun::set_owner(&fd, options.owner).map_err(creating())?;
    rtnl.change(made.ifindex, &[Change::Up]).map_err(creating())?;
    tun::set_persistent(&fd, true).map_err(creating())?;
    Ok(made)
}

/// Our isolation would cut the host off from what it uses.
fn refuse_if_used(rtnl: &mut Rtnl, found: &Interface, options: &OpenOptions) -> Result<(), OpenError> {
    let name = &found.name;
    if found.loopback || !found.ethernet {
        return Err(OpenError::NotEthernet(name.clone()));
    }
    if options.takeover {
        return Ok(());
    }
    let in_use = |use_: String, fix: String| Err(OpenError::InUse { name: name.clone(), use_, fix });
    let asking = || explain(format!("asking about {name}"), NET_ADMIN);
    if let Some(master) = found.master {
        let master = rtnl.find_index(master).map_err(asking())?.map_or_else(String::new, |m| m.name);
        return in_use(format!("belongs to {master}"), format!("ip link set {name} nomaster"));
    }
    if let Some(upper) = rtnl.upper(found.ifindex).map_err(asking())? {
        return in_use(
            format!("carries {} {}", upper.kind, upper.name),
            format!("ip link del {}", upper.name),
        );
    }
    let addresses = rtnl.addresses(found.ifindex).map_err(asking())?;
    if let Some(address) = addresses.first().map(address_text) {
        return in_use(format!("has address {address}"), format!("ip addr flush dev {name}"));
    }
    if let Some(route) = rtnl.routes(found.ifindex).map_err(asking())?.first() {
        // `ip route` alone means IPv4.
        let family = if route.header.address_family == AddressFamily::Inet6 { "-6 " } else { "" };
        return in_use("carries a route".to_owned(), format!("ip {family}route flush dev {name}"));
    }
    Ok(())
}

fn open_tap(spec: &PortSpec, options: &OpenOptions) -> Result<Opened, OpenError> {
    let name = &spec.target;
    let plain = match spec.options.get("offloads").map(String::as_str) {
        None | Some("on") => false,
        Some("off") => true,
        Some(other) => return Err(OpenError::Option(format!("offloads={other}: write on or off"))),
    };
    let wrong = |text: &String| OpenError::Option(format!("address={text}: write ADDRESS/PREFIX"));
    let address = spec.options.get("address");
    let address = address.map(|text| parse_address(text).ok_or_else(|| wrong(text))).transpose()?;
    let mut rtnl = Rtnl::open().map_err(explain(format!("asking about {name}"), NET_ADMIN))?;
    let before = rtnl.find(name).map_err(explain(format!("asking about {name}"), NET_ADMIN))?;
    if before.as_ref().is_some_and(|found| found.kind != "tun") {
        return Err(OpenError::NotTap(name.clone()));
    }
    // What we give would outlive us there.
    if let (Some(_), Some((address, prefix_len))) = (&before, address) {
        let address = format!("{address}/{prefix_len}");
        return Err(OpenError::NotOurs { name: name.clone(), address });
    }
    drop(tun::open().map_err(no_tun)?);
    let attaching = |error: io::Error| match error.raw_os_error() {
        Some(libc::EBUSY) => {
            let holder = super::peer::holder(name).unwrap_or_else(|| "another process".to_owned());
            OpenError::Busy { name: name.clone(), holder }
        }
        Some(libc::EINVAL) if before.is_some() => OpenError::OtherTun(name.clone()),
        _ => explain(format!("opening {name}"), NET_ADMIN)(error),
    };
    let (tap, offloads) = if plain {
        (Attached::plain(name).map_err(attaching)?, Offloads::NONE)
    } else {
        Attached::vnet(name).map_err(attaching)?
    };
    let opening = || explain(format!("opening {name}"), NET_ADMIN);
    let found = rtnl.find(name).map_err(opening())?.ok_or_else(|| missing(name))?;
    let is_new = before.is_none();
    with_mtu(&mut rtnl, &found, options, |rtnl, mtu| {
        let mut notes = Vec::new();
        if is_new {
            rtnl.change(found.ifindex, &[Change::Up]).map_err(opening())?;
            notes.push("created; it vanishes with the switch".to_owned());
            if let Some(address) = address {
                give_address(rtnl, &found, address)?;
            }
        }
        let now = rtnl.find(name).map_err(opening())?.ok_or_else(|| missing(name))?;
        let link = Link { up: now.up(), mtu: now.mtu, offloads };
        if !link.up {
            notes.push(format!("down; ip link set {name} up starts it"));
        }
        let copy = tap.fd().try_clone_to_owned().map_err(opening())?;
        let device = Device {
            name: name.clone(),
            ifindex: now.ifindex,
            side: Side::Descriptor(copy),
            made: None,
            mtu,
            isolation: None,
            fast: false,
            dropped: Dropped::since(&now),
        };
        Ok(Opened { port: Some(Box::new(TapPort::new(tap, link))), device, link, notes })
    })
}

fn give_address(rtnl: &mut Rtnl, to: &Interface, address: (IpAddr, u8)) -> Result<(), OpenError> {
    let action = format!("giving {} the address {}/{}", to.name, address.0, address.1);
    rtnl.add_address(to.ifindex, address).map_err(|error| match error.raw_os_error() {
        // Not a matter of rights: the device was made by the same ones.
        Some(libc::EACCES) if address.0.is_ipv6() => {
            let why = format!("IPv6 is switched off there: sysctl net.ipv6.conf.{}.disable_ipv6=0", to.name);
            OpenError::Os { action, error: io::Error::other(why) }
        }
        _ => explain(action, NET_ADMIN)(error),
    })
}

/// Whose the file of a port's socket is to be, which says who may connect.
pub(super) fn socket_owner(spec: &PortSpec, options: &OpenOptions) -> Result<u32, OpenError> {
    let Some(text) = spec.options.get("owner") else { return Ok(options.owner) };
    if spec.options.get("mode").is_some_and(|mode| mode == "client") {
        let why = "owner: with mode=client the socket is made by the other side; leave it out";
        return Err(OpenError::Option(why.to_owned()));
    }
    text.parse().map_err(|_| OpenError::Option(format!("owner={text}: write a uid")))
}

/// A socket's peer comes later, or is found by the first look.
fn open_socket(spec: &PortSpec, options: &OpenOptions) -> Result<Opened, OpenError> {
    let path = Path::new(&spec.target);
    let option = |key: &str| spec.options.get(key).map(String::as_str);
    let owner = socket_owner(spec, options)?;
    let endpoint = match (spec.kind, option("mode")) {
        (Kind::Dgram, _) => Endpoint::dgram(path, option("peer").map(Path::new), owner),
        (_, Some("client")) => Ok(Endpoint::client(path)),
        (_, None | Some("server")) => Endpoint::server(path, owner),
        (_, Some(other)) => {
            return Err(OpenError::Option(format!("mode={other}: write server or client")));
        }
    };
    let mut endpoint = endpoint.map_err(|error| OpenError::Socket { path: spec.target.clone(), error })?;
    if let Some(mtu) = options.mtu {
        endpoint.set_mtu(mtu);
    }
    let (link, notes) = (endpoint.link(), vec![format!("down ({})", endpoint.waits_for())]);
    let device = Device {
        name: spec.target.clone(),
        ifindex: 0,
        side: Side::Socket(Box::new(endpoint)),
        made: None,
        mtu: None,
        isolation: None,
        fast: false,
        dropped: Dropped::default(),
    };
    Ok(Opened { port: None, device, link, notes })
}

fn user_name(uid: u32) -> String {
    crate::config::user_of_uid(uid).unwrap_or_else(|| format!("uid {uid}"))
}

/// Whether what `spec` names is there, to be opened again after it was lost.
pub fn exists(spec: &PortSpec) -> bool {
    let name = &spec.target;
    match spec.kind {
        Kind::Auto | Kind::Netdev | Kind::Tap => {
            Rtnl::open().and_then(|mut rtnl| rtnl.find(name)).is_ok_and(|found| found.is_some())
        }
        // Made by opening it.
        Kind::Stream | Kind::Dgram | Kind::VhostUser => true,
    }
}
