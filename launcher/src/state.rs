//! What `up` made, on disk: the only thing that `down` and `status` go by.
//!
//! It is written before each thing is made, whole, to another name, synced and
//! renamed, so that whoever is killed at any instant leaves a state that names
//! at least everything there is. It says what was made, never what is: that is
//! asked of the kernel, QMP and the switch.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vswitch::frame::MacAddr;

use crate::accel::Accel;
use crate::lab::Ready;

/// The version of the format.
pub const VERSION: u32 = 2;

/// A process that outlives the number it had: {pid, start time}, valid in the
/// boot that [`State::boot_id`] names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// When it began, in clock ticks since boot (field 22 of its stat).
    pub start_ticks: u64,
}

/// A switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchRecord {
    /// The network it is.
    pub network: String,
    /// `LAB-NET`.
    pub name: String,
    /// How guests are joined to it: `tap`, `stream`, `vhost-user+stream`.
    pub link: String,
    /// Absent: about to be started.
    pub process: Option<Process>,
    /// From its `ready:` line.
    pub control: Option<PathBuf>,
    /// What started it, and cleans up after it if it was killed.
    pub argv: Vec<String>,
    /// Its configuration, which its command line names.
    pub config: PathBuf,
    /// The interfaces it was told to make.
    pub interfaces: Vec<String>,
    /// The host's own place on it.
    pub host: Option<HostRecord>,
    /// Its guests' ports, and the host's: name, and what they are.
    pub ports: BTreeMap<String, PortRecord>,
    /// Everything else that its configuration says.
    pub settings: String,
    /// Its stdout.
    pub out: PathBuf,
    /// Its stderr.
    pub log: PathBuf,
}

/// The host's own leg on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// Its address there.
    pub address: Ipv4Addr,
    /// The interface, which lives as long as the switch.
    pub interface: String,
}

/// A port on a switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRecord {
    /// As in `vswitch.toml`.
    pub spec: String,
    /// Bytes.
    pub mtu: u16,
}

/// A NIC on a lab network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicRecord {
    /// The network.
    pub network: String,
    /// Its switch.
    pub switch: String,
    /// The port there.
    pub port: String,
    /// The TAP, or the path of the switch's socket.
    pub interface: String,
    /// The guest's MAC.
    pub mac: MacAddr,
    /// Whether its cable is plugged in at the start.
    pub carrier: bool,
    /// An address, "dhcp", or nothing.
    pub address: Option<String>,
    /// What Linux calls the NIC inside.
    pub guest_interface: String,
}

/// A guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestRecord {
    /// Its name.
    pub name: String,
    /// What its QEMU answers to query-uuid.
    pub uuid: String,
    /// Absent: about to be started.
    pub process: Option<Process>,
    /// What runs its code.
    pub accel: Accel,
    /// Why not KVM, where `auto` fell back.
    pub accel_reason: Option<String>,
    /// The command that started it.
    pub argv: Vec<String>,
    /// SHA-256 of what it was told of itself at its start.
    pub told: String,
    /// The image it writes to.
    pub disk: Option<PathBuf>,
    /// Its QMP socket.
    pub qmp: PathBuf,
    /// Its serial console.
    pub serial: Option<PathBuf>,
    /// What came out there.
    pub console_log: Option<PathBuf>,
    /// QEMU's stderr.
    pub qemu_log: PathBuf,
    /// The host's port that leads to its port 22.
    pub ssh_port: Option<u16>,
    /// The user to log in as.
    pub ssh_user: String,
    /// The private key for that.
    pub ssh_key: Option<PathBuf>,
    /// What Linux calls its internet NIC.
    pub internet: Option<String>,
    /// Its NICs on lab networks.
    pub nics: Vec<NicRecord>,
    /// When it counts as up.
    pub ready: Ready,
    /// How long that may take.
    pub timeout_ms: u64,
}

/// Everything that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// [`VERSION`].
    pub version: u32,
    /// The lab's name.
    pub lab: String,
    /// The lab file, absolute.
    pub file: PathBuf,
    /// SHA-256 of the lab as it was read.
    pub digest: String,
    /// The boot that the processes belong to.
    pub boot_id: String,
    /// Whether `up` came to its end.
    pub complete: bool,
    /// Images that guests boot from, for telling what is kept.
    pub images: Vec<PathBuf>,
    /// Files that die with the lab.
    pub files: Vec<PathBuf>,
    /// Clones, which survive `down`, made by this `up` or before.
    pub clones: Vec<PathBuf>,
    /// Keys, which go with the clones that know them.
    pub keys: Vec<PathBuf>,
    /// Switches, in the order of starting.
    pub switches: Vec<SwitchRecord>,
    /// Guests, in the order of starting.
    pub guests: Vec<GuestRecord>,
}

/// A state and the file that holds it.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// What the file says, or will after [`Store::save`].
    pub state: State,
}

impl Store {
    /// A store for `state` at `path`; nothing is written yet.
    pub fn new(path: PathBuf, state: State) -> Store {
        Store { path, state }
    }

    /// Reads `path`; `None` when there is no such file.
    ///
    /// # Errors
    /// It cannot be read, or is of another version.
    pub fn load(path: &Path) -> io::Result<Option<Store>> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let bad =
            |why: String| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", path.display()));
        let state: State = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        if state.version != VERSION {
            return Err(bad(format!("format {} is not this version's {VERSION}", state.version)));
        }
        Ok(Some(Store { path: path.to_owned(), state }))
    }

    /// Writes the state so that the file is the old one or the new one, whole,
    /// at every instant.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save(&self) -> io::Result<()> {
        let part = self.path.with_extension("json.part");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(&serde_json::to_vec_pretty(&self.state)?)?;
        file.sync_all()?;
        fs::rename(&part, &self.path)?;
        match self.path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }

    /// Removes the file: the lab is gone.
    ///
    /// # Errors
    /// What the file system says; that it is gone already is none.
    pub fn remove(&self) -> io::Result<()> {
        // A save that was cut short leaves a part.
        for path in [&self.path.with_extension("json.part"), &self.path] {
            match fs::remove_file(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(lab: &str) -> State {
        State {
            version: VERSION,
            lab: lab.to_owned(),
            file: "/l/lab.toml".into(),
            digest: "d".to_owned(),
            boot_id: "b".to_owned(),
            complete: false,
            images: Vec::new(),
            files: vec!["/run/x".into()],
            clones: Vec::new(),
            keys: Vec::new(),
            switches: Vec::new(),
            guests: Vec::new(),
        }
    }

    #[test]
    fn it_reads_back_what_it_wrote_and_is_gone_when_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        assert!(Store::load(&path).unwrap().is_none());
        let store = Store::new(path.clone(), state("ping"));
        store.save().unwrap();
        assert_eq!(Store::load(&path).unwrap().unwrap().state, state("ping"));
        store.remove().unwrap();
        store.remove().unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_writer_killed_half_way_leaves_the_old_state() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        Store::new(path.clone(), state("old")).save().unwrap();
        // What a write cut short leaves behind.
        fs::write(path.with_extension("json.part"), b"{\"version\": 1, \"la").unwrap();
        let mut store = Store::load(&path).unwrap().unwrap();
        assert_eq!(store.state.lab, "old");
        store.state.lab = "new".to_owned();
        store.save().unwrap();
        assert_eq!(Store::load(&path).unwrap().unwrap().state.lab, "new");
    }

    #[test]
    fn a_reader_never_sees_half_a_state() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        Store::new(path.clone(), state("lab-0")).save().unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for turn in 0..200 {
                    let mut next = state(&format!("lab-{turn}"));
                    next.files = vec![PathBuf::from("x".repeat(turn * 37 % 5000))];
                    Store::new(path.clone(), next).save().unwrap();
                }
                done.store(true, Ordering::Relaxed);
            });
            while !done.load(Ordering::Relaxed) {
                let read = Store::load(&path).unwrap().expect("there is always a state");
                assert!(read.state.lab.starts_with("lab-"));
            }
        });
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        Store::new(path.clone(), State { version: 99, ..state("ping") }).save().unwrap();
        let refused = Store::load(&path).unwrap_err().to_string();
        assert!(refused.contains("format 99") && refused.contains("state.json"), "{refused}");
    }
}
