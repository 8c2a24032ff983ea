//! A switch of socket ports, run by an ordinary user, for `stream` and `dgram`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use vswitch::control::{PortLine, PortState, PortStats, Show, Stats};
use vswitch_tests::clock::wait_until;
use vswitch_tests::guest_socket::GuestSocket;
use vswitch_tests::process::Switch;
use vswitch_tests::user::Ordinary;

/// Time in which anything that should happen has happened.
pub const SOON: Duration = Duration::from_secs(20);

/// What every station here sends from: 02:00:00:00:00:N.
pub fn frame(to: u8, from: u8, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..=u8::MAX).cycle().take(len).collect();
    bytes[..14].copy_from_slice(&[2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 0x88, 0xb5]);
    bytes
}

/// The destination that floods.
pub const UNKNOWN: u8 = 0xee;

/// A switch and the user that runs it. Fields are dropped in this order.
#[derive(Debug)]
pub struct Rig {
    pub switch: Option<Switch>,
    pub user: Ordinary,
    specs: Vec<String>,
    flags: Vec<String>,
}

impl Rig {
    /// A switch with a port `pN` of each of `kinds` (`stream`, `dgram`, with
    /// further keys) at [`path`](Self::path) N.
    pub fn new(kinds: &[&str]) -> Result<Rig> {
        Rig::with_flags(kinds, &[])
    }

    /// The same with further flags of `vswitch run`.
    pub fn with_flags(kinds: &[&str], flags: &[&str]) -> Result<Rig> {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut rig = Rig { switch: None, user: Ordinary::new()?, specs: Vec::new(), flags };
        for (number, kind) in kinds.iter().enumerate() {
            let (kind, keys) = kind.split_once(',').map_or((*kind, String::new()), |(kind, keys)| {
                (kind, format!(",{keys}").replace("HOME", &rig.user.home().display().to_string()))
            });
            rig.specs.push(format!("{kind}:{}{keys}", rig.path(number).display()));
        }
        rig.start()?;
        Ok(rig)
    }

    /// Starts the switch, as before.
    pub fn start(&mut self) -> Result<()> {
        let mut args = vec!["--log", "info"];
        args.extend(self.specs.iter().flat_map(|spec| ["--port", spec]));
        args.extend(self.flags.iter().map(String::as_str));
        self.switch = Some(Switch::start_as(&self.user, &args)?);
        Ok(())
    }

    /// Where port `number` is in the file system.
    pub fn path(&self, number: usize) -> PathBuf {
        self.user.home().join(format!("p{number}.sock"))
    }

    /// The running switch.
    pub fn switch(&self) -> &Switch {
        self.switch.as_ref().expect("it runs between start and stop")
    }

    /// A guest at stream port `number`, up.
    pub fn stream(&self, number: usize) -> Result<GuestSocket> {
        let mut guest = GuestSocket::stream(&self.path(number))?;
        wait_until(&format!("p{number} to be up"), SOON, || {
            // A process that is just being started holds what this one has closed
            // for an instant, also a predecessor's end: whoever is turned away for
            // that comes again, as QEMU does.
            if guest.is_hung_up()
                && let Ok(again) = GuestSocket::stream(&self.path(number))
            {
                guest = again;
            }
            self.port(number).is_ok_and(|port| port.state == PortState::Up) && !guest.is_hung_up()
        })
        .with_context(|| self.switch().stderr())?;
        Ok(guest)
    }

    /// Where a guest at dgram port `number` is bound.
    pub fn own(&self, number: usize) -> PathBuf {
        self.user.home().join(format!("g{number}"))
    }

    /// A guest at dgram port `number`, that has not spoken.
    pub fn dgram(&self, number: usize) -> Result<GuestSocket> {
        let guest = GuestSocket::dgram(&self.own(number), &self.path(number))?;
        // Root's file, so that the switch may answer it.
        self.user.give(&self.own(number))?;
        Ok(guest)
    }

    /// `vswitch show` of port `number`.
    pub fn port(&self, number: usize) -> Result<PortLine> {
        let show: Show = serde_json::from_value(self.switch().json(&["show"])?)?;
        let name = format!("p{number}");
        show.ports.into_iter().find(|port| port.name == name).context("the port")
    }

    /// Waits until port `number` is in `state`.
    pub fn wait_state(&self, number: usize, state: PortState) -> Result<()> {
        wait_until(&format!("p{number} to be {}", state.name()), SOON, || {
            self.port(number).is_ok_and(|port| port.state == state)
        })
        .with_context(|| self.switch().stderr())
    }

    /// The counters of port `number`, which must add up.
    pub fn stats(&self, number: usize) -> Result<PortStats> {
        let stats: Stats = serde_json::from_value(self.switch().json(&["stats"])?)?;
        ensure!(stats.ports.iter().chain([&stats.total]).all(PortStats::balance), "{stats:?}");
        let name = format!("p{number}");
        stats.ports.into_iter().find(|port| port.name == name).context("the port")
    }

    /// Waits until port `number` has received `frames` in total.
    pub fn wait_rx(&self, number: usize, frames: u64) -> Result<PortStats> {
        wait_until(&format!("p{number} to receive {frames} frames"), SOON, || {
            self.stats(number).is_ok_and(|port| port.rx >= frames)
        })?;
        self.stats(number)
    }
}

/// Sends `frame` by one guest until the other has one that is the same: what a
/// port that is coming up still loses does not matter.
pub fn connects(from: (&mut GuestSocket, &Path), to: &mut GuestSocket, frame: &[u8]) -> Result<()> {
    from.0.send(frame, from.1)?;
    let got = to.receive()?;
    ensure!(got == frame, "{got:02x?}");
    Ok(())
}
