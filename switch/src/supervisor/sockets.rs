//! Socket ports: peers connect, speak for the first time, hang up and come
//! back. Each look at a socket takes a peer that has gone from the data thread,
//! and gives it the one that is there now.
//!
//! The data thread never listens or connects; it has a port while there is a
//! peer, and none otherwise.
//!
//! Deliberately absent: trust in reports. A fault may be the last word of a
//! connection that was replaced meanwhile, so the socket itself is asked.

use std::io;

use mio::Token;

use crate::bridge::PORTS_MAX;
use crate::engine::{Command, Ended};
use crate::events::Happening;
use crate::port::{Device, Endpoint, Fault, Kind, Port, Visit};

use super::{Held, Supervisor};

/// Visitors that are seen to at one look.
const VISITS_MAX: usize = 64;

impl Supervisor {
    /// The first of the tokens by which sockets call; a port's is its number
    /// further.
    pub const DOORS: Token = Token(1 << 16);

    /// Whether `token` is that of a port's socket.
    pub fn owns(token: Token) -> bool {
        (Supervisor::DOORS.0..Supervisor::DOORS.0 + PORTS_MAX).contains(&token.0)
    }

    /// Looks at the socket that called by `token`.
    ///
    /// # Errors
    /// [`Ended`] when the data thread is gone.
    pub fn greet(&mut self, token: Token) -> Result<(), Ended> {
        let id = token.0.checked_sub(Supervisor::DOORS.0);
        match self.ports.iter().position(|held| Some(held.id.index()) == id) {
            Some(position) => self.look(position),
            // An event of a port that was deleted since.
            None => Ok(()),
        }
    }

    /// Has the port's socket, if it is one, call from now on, and looks once:
    /// its peer may be there already.
    pub(super) fn open_door(&mut self, position: usize) -> Result<io::Result<()>, Ended> {
        let held = &mut self.ports[position];
        let token = Token(Supervisor::DOORS.0 + held.id.index());
        let Some(endpoint) = endpoint(held) else { return Ok(Ok(())) };
        if let Err(error) = endpoint.register(&self.registry, token) {
            return Ok(Err(error));
        }
        held.note = endpoint.waits_for();
        self.look(position).map(Ok)
    }

    /// Sees whether the peer has gone, whether somebody is there, and tells the
    /// engine.
    pub(super) fn look(&mut self, position: usize) -> Result<(), Ended> {
        let held = &mut self.ports[position];
        held.unsure = false;
        if endpoint(held).is_some_and(|endpoint| endpoint.has_lost_peer()) {
            self.part(position, Fault::Down)?;
        }
        for _ in 0..VISITS_MAX {
            let held = &mut self.ports[position];
            let Some(endpoint) = endpoint(held) else { return Ok(()) };
            match endpoint.meet() {
                Ok(Visit::Nobody) => return self.tell_link(position),
                Ok(Visit::Met(port)) => self.join(position, port)?,
                Ok(Visit::TurnedAway(who)) => {
                    // QEMU comes again twice a second: it is said once.
                    if held.turned_away != who {
                        tracing::warn!("{}: {who} was turned away: a port has one peer", held.name);
                        held.turned_away = who;
                    }
                }
                Err(error) => {
                    let note = format!("no peer can be taken: {error}");
                    if held.note != note {
                        tracing::warn!("{}: {note}", held.name);
                        held.note = note;
                    }
                    held.unsure = true;
                    return Ok(());
                }
            }
        }
        // More may wait, and the event has been seen.
        self.ports[position].unsure = true;
        self.tell_link(position)
    }

    /// A peer's connection failed on the data thread.
    pub(super) fn take_fault(&mut self, position: usize, fault: Fault) -> Result<(), Ended> {
        let held = &mut self.ports[position];
        held.link.up = false;
        if endpoint(held).is_some_and(|endpoint| endpoint.has_lost_peer()) {
            self.part(position, fault)?;
        } else if let Fault::Os(errno) = fault {
            // It would fail again at once: it rests until the next retry.
            held.note = format!("its socket failed: {}", io::Error::from_raw_os_error(errno));
            held.unsure = true;
            tracing::warn!("{}: {}", held.name, held.note);
            self.tell_fault(position);
            return Ok(());
        }
        self.look(position)
    }

    /// Puts a peer's port into the switch.
    fn join(&mut self, position: usize, port: Box<dyn Port>) -> Result<(), Ended> {
        let id = self.ports[position].id;
        let swapped = self.engine.ask(|reply| Command::SwapPort { id, port: Some(port), reply })?;
        let held = &mut self.ports[position];
        let Some(endpoint) = endpoint(held) else { return Ok(()) };
        match swapped {
            Ok(_) => {
                let who = endpoint.peer_name().unwrap_or_default().to_owned();
                held.link = endpoint.link();
                held.note.clear();
                held.turned_away.clear();
                tracing::info!("{}: up, {who}", held.name);
                let port = held.name.clone();
                self.happened(Happening::PeerCame { port, peer: who });
                self.tell_state(position);
                Ok(())
            }
            Err(error) => self.part(position, Fault::Os(error.raw_os_error().unwrap_or(0))),
        }
    }

    /// Takes the peer's port out of the switch, and waits for the next peer.
    fn part(&mut self, position: usize, fault: Fault) -> Result<(), Ended> {
        let id = self.ports[position].id;
        // First: a datagram socket that is not connected takes from anybody.
        drop(self.engine.ask(|reply| Command::SwapPort { id, port: None, reply })?);
        let held = &mut self.ports[position];
        let Some(endpoint) = endpoint(held) else { return Ok(()) };
        let who = endpoint.peer_name().unwrap_or_default().to_owned();
        let parted = endpoint.part();
        let link = endpoint.link();
        held.link = link;
        held.note = match fault {
            Fault::Down | Fault::Gone => format!("{who} has gone; the port is back when it is"),
            Fault::Protocol(why) => format!("{who} was disconnected: {why}"),
            Fault::Os(errno) => format!("{who} was lost: {}", io::Error::from_raw_os_error(errno)),
        };
        match fault {
            Fault::Protocol(_) | Fault::Os(_) => tracing::warn!("{}: {}", held.name, held.note),
            Fault::Down | Fault::Gone => tracing::info!("{}: {}", held.name, held.note),
        }
        let gone = Happening::PeerGone { port: held.name.clone(), why: held.note.clone() };
        if let Err(error) = parted {
            held.note = format!("no peer can be taken: {error}");
            held.unsure = true;
            tracing::warn!("{}: {}", held.name, held.note);
        }
        self.happened(gone);
        self.tell_state(position);
        Ok(())
    }

    /// Tells the engine what the link is, if it should think otherwise.
    fn tell_link(&mut self, position: usize) -> Result<(), Ended> {
        let held = &mut self.ports[position];
        let Some(link) = endpoint(held).map(|endpoint| endpoint.link()) else { return Ok(()) };
        if link == held.link {
            return Ok(());
        }
        held.link = link;
        let id = held.id;
        self.tell_state(position);
        self.engine.send(Command::SetLink { id, up: link.up, mtu: link.mtu })
    }

    /// How QEMU reaches the first socket that waits for it.
    pub(super) fn socket_hint(&self) -> Option<String> {
        self.ports.iter().filter(|held| !held.link.up).find_map(|held| {
            let spec = &self.config.port(&held.name)?.spec;
            let path = spec.target.replace(',', ",,");
            let netdev = match spec.kind {
                Kind::Stream if spec.options.get("mode").is_some_and(|mode| mode == "client") => return None,
                Kind::Stream => {
                    format!("stream,id=n0,server=off,addr.type=unix,addr.path={path},reconnect-ms=500")
                }
                Kind::Dgram => {
                    let own = spec.options.get("peer").map_or_else(|| format!("{path}.g"), String::clone);
                    format!(
                        "dgram,id=n0,local.type=unix,local.path={own},remote.type=unix,remote.path={path}"
                    )
                }
                // Its line needs shared memory too, and is vlab's to write.
                Kind::Auto | Kind::Netdev | Kind::Tap | Kind::VhostUser => return None,
            };
            Some(format!(
                "guest: qemu-system-x86_64 … -netdev {netdev} -device virtio-net-pci,netdev=n0,mac=02:00:00:00:00:01"
            ))
        })
    }
}

/// The socket behind a port, if there is one.
fn endpoint(held: &mut Held) -> Option<&mut Endpoint> {
    held.device.as_mut().and_then(Device::endpoint_mut)
}
