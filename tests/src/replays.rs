//! Captures without a switch: a bridge, what happens to it, and the file that a
//! capture of it would be, written by hand.
//!
//! Deliberately absent: the switch's own writer, which is tried on real traffic
//! elsewhere. This one is what the format says, so that both are held to it.

use std::io::Write;

use vswitch::bridge::{Bridge, EntryKind, FlushScope, PortId, PortSettings, Settings, Story, Time, Verdict};
use vswitch::capture::state::{self, Changed, State, What};
use vswitch::explain::Comment;
use vswitch::frame::{Frame, MacAddr, VlanId};
use vswitch::offload::VnetHeader;

/// Nanoseconds since 1970 at the bridge's start.
pub const EPOCH_NS: u64 = 1_700_000_000_000_000_000;

/// What happens to a bridge.
#[derive(Clone, Debug)]
pub enum Event {
    /// A frame comes in.
    Frame {
        /// By this port.
        ingress: u8,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// A port gets other flags.
    Set {
        /// Which.
        port: u8,
        /// These.
        flags: PortSettings,
    },
    /// A link goes up or down.
    Link {
        /// Which.
        port: u8,
        /// Whether up.
        up: bool,
    },
    /// The switch gets other settings.
    Configure(Settings),
    /// An address is bound.
    Pin {
        /// To this port.
        port: u8,
        /// The address.
        mac: MacAddr,
    },
    /// An entry is deleted.
    Delete {
        /// Its address.
        mac: MacAddr,
    },
    /// A port's learned entries go.
    Flush {
        /// The port.
        port: u8,
    },
    /// What has aged is taken out.
    Sweep,
    /// Time goes on.
    Pass {
        /// So many nanoseconds.
        nanos: u64,
    },
}

/// A bridge that is captured.
#[derive(Debug)]
pub struct Stage {
    bridge: Bridge,
    names: Vec<String>,
    now: Time,
}

impl Stage {
    /// Ports of these names and flags, all up.
    pub fn new(settings: Settings, ports: &[(&str, PortSettings)]) -> Stage {
        let mut bridge = Bridge::new(settings, [7, 9]);
        for (number, (_, flags)) in (0..).zip(ports) {
            bridge.add_port(PortId::new(number), *flags);
            bridge.set_link(PortId::new(number), true);
        }
        Stage { bridge, names: ports.iter().map(|(name, _)| (*name).to_owned()).collect(), now: Time::START }
    }

    /// Lets `event` happen; of a frame, how its verdict came about.
    pub fn apply(&mut self, event: &Event) -> Option<Story> {
        let (bridge, now, vid) = (&mut self.bridge, self.now, VlanId::UNAWARE);
        match event {
            Event::Frame { ingress, bytes } => {
                let frame = Frame::new(&bytes[..bytes.len().min(256)], &[], VnetHeader::PLAIN);
                let (mut verdicts, mut stories) = Default::default();
                let ingress = PortId::new(*ingress);
                bridge.forward_burst_told(now, ingress, &[frame], &mut verdicts, &mut stories);
                return stories.first().copied();
            }
            Event::Set { port, flags } => bridge.set_port(PortId::new(*port), *flags),
            Event::Link { port, up } => bridge.set_link(PortId::new(*port), *up),
            // What is refused was not changed, and changes nothing when replayed.
            Event::Configure(settings) => {
                let _ = bridge.configure(now, *settings);
            }
            Event::Pin { port, mac } => {
                let _ = bridge.fdb_add(now, vid, *mac, PortId::new(*port), EntryKind::Static);
            }
            Event::Delete { mac } => {
                let _ = bridge.fdb_del(vid, *mac);
            }
            Event::Flush { port } => {
                bridge.fdb_flush(&FlushScope { port: Some(PortId::new(*port)), ..FlushScope::default() });
            }
            Event::Sweep => {
                let _ = bridge.sweep(now);
            }
            Event::Pass { nanos } => self.now = now.after(std::time::Duration::from_nanos(*nanos)),
        }
        None
    }

    /// The verdict on a frame, if `event` is one.
    pub fn verdict(&mut self, event: &Event) -> Option<Verdict> {
        self.apply(event).map(|story| story.verdict)
    }

    /// Captures `events` as they happen.
    ///
    /// # Errors
    /// As `out` says.
    pub fn capture(
        &mut self,
        events: impl IntoIterator<Item = Event>,
        out: &mut dyn Write,
    ) -> std::io::Result<()> {
        out.write_all(&block(
            0x0a0d_0d0a,
            &[&0x1a2b_3c4du32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat(),
        ))?;
        for name in &self.names {
            let options = [option(2, name.as_bytes()), option(9, &[9]), vec![0; 4]].concat();
            out.write_all(&block(1, &[&[1, 0, 0, 0], &[0; 4][..], &options].concat()))?;
        }
        out.write_all(&said(&State::Start(self.start())))?;
        for event in events {
            let story = self.apply(&event);
            let written = match (&event, story) {
                (Event::Frame { ingress, bytes }, Some(story)) => self.frame(*ingress, bytes, &story),
                (Event::Pass { .. }, _) => Vec::new(),
                (other, _) => {
                    let what = self.what(other);
                    said(&State::Change(Changed { time_ns: self.now.as_nanos(), what }))
                }
            };
            out.write_all(&written)?;
        }
        out.flush()
    }

    fn start(&self) -> state::Start {
        let port = |(number, name): (u8, &String)| state::Port {
            interface: number.into(),
            id: number,
            name: name.clone(),
            up: true,
            flags: *self.bridge.port(PortId::new(number)),
        };
        let entry = |entry: vswitch::bridge::FdbEntry| state::Entry {
            mac: entry.mac,
            vid: entry.vid.get(),
            interface: entry.port.get().into(),
            kind: entry.kind,
            age_ms: u64::try_from(entry.age.as_millis()).unwrap_or(u64::MAX),
        };
        state::Start {
            version: state::VERSION,
            switch: "sim".to_owned(),
            program: "sim".to_owned(),
            epoch_ns: EPOCH_NS,
            time_ns: self.now.as_nanos(),
            complete: true,
            config: String::new(),
            settings: (*self.bridge.settings()).into(),
            ports: (0..).zip(&self.names).map(port).collect(),
            fdb: self.bridge.fdb_entries(self.now).map(entry).collect(),
            fdb_complete: true,
        }
    }

    fn frame(&self, ingress: u8, bytes: &[u8], story: &Story) -> Vec<u8> {
        let names = self.names.as_slice();
        let comment = Comment { story, ingress: PortId::new(ingress), names: &names }.to_string();
        let date = (EPOCH_NS + self.now.as_nanos()).to_le_bytes();
        let (low, high) = date.split_at(4);
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
        let mut body = [&u32::from(ingress).to_le_bytes(), high, low, &len, &len, bytes].concat();
        body.resize(body.len().next_multiple_of(4), 0);
        body.extend([option(2, &1u32.to_le_bytes()), option(1, comment.as_bytes()), vec![0; 4]].concat());
        block(6, &body)
    }

    fn what(&self, event: &Event) -> What {
        match event {
            Event::Set { port, flags } => What::PortSet { interface: (*port).into(), flags: *flags },
            Event::Link { port, up } => What::Link { interface: (*port).into(), up: *up },
            Event::Configure(settings) => What::Settings((*settings).into()),
            Event::Pin { port, mac } => What::EntrySet(state::Entry {
                mac: *mac,
                vid: 0,
                interface: (*port).into(),
                kind: EntryKind::Static,
                age_ms: 0,
            }),
            Event::Delete { mac } => What::EntryDeleted { mac: *mac, vid: 0 },
            Event::Flush { port } => {
                What::Flushed { interface: Some((*port).into()), vid: None, mac: None, statics: false }
            }
            Event::Sweep | Event::Frame { .. } | Event::Pass { .. } => What::Swept,
        }
    }
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let padded = body.len().next_multiple_of(4);
    let len = u32::try_from(padded + 12).unwrap_or(u32::MAX).to_le_bytes();
    let mut block = [&kind.to_le_bytes(), &len, body].concat();
    block.resize(padded + 8, 0);
    block.extend(len);
    block
}

fn option(code: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes();
    let mut option = [&code.to_le_bytes(), &len, value].concat();
    option.resize(option.len().next_multiple_of(4), 0);
    option
}

fn said(state: &State) -> Vec<u8> {
    // Texts and numbers: they serialise.
    let json = serde_json::to_vec(state).unwrap_or_default();
    let len = u32::try_from(json.len()).unwrap_or(u32::MAX).to_le_bytes();
    block(0x8056_5357, &[&len, &json[..]].concat())
}
