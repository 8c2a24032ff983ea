//! From a lab and what is known of the machine to the steps of `up`, in order.
//! Pure: nothing is looked up or made here.
//!
//! `vlab plan` prints exactly these steps, `vlab up` carries out exactly these.

mod script;
mod switch;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::accel::Accel;
use crate::command::Command;
use crate::firmware::Uefi;
use crate::guest::{self, GuestFacts, Qemu};
use crate::install::Install;
use crate::lab::{Address, Boot, Configure, FIRST_LAB_SLOT, Firmware, Guest, INTERNET_SLOT, Lab, Ready};
use crate::link::Attachment;
use crate::names;
use crate::places::{Places, SOCKET_PATH_LEN_MAX, User};
use crate::state::{GuestRecord, NicRecord, SwitchRecord};

pub use script::script;

/// What is known of the machine.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Whose lab it is.
    pub user: User,
    /// Where its files go.
    pub places: Places,
    /// The `vswitch` program.
    pub vswitch: PathBuf,
    /// The QEMU to run.
    pub qemu: Qemu,
    /// Each guest's accelerator, and why `auto` fell back to it.
    pub accels: BTreeMap<String, (Accel, Option<String>)>,
    /// Each guest's host port for ssh.
    pub ssh_ports: BTreeMap<String, u16>,
    /// UEFI, where a guest wants it.
    pub uefi: Option<Uefi>,
    /// The format of each image that a guest boots from.
    pub formats: BTreeMap<PathBuf, String>,
    /// What a guest sees of each base, in bytes.
    pub sizes: BTreeMap<PathBuf, u64>,
    /// Guests that run, or are to run, whatever `autostart` says.
    pub started: BTreeSet<String>,
    /// Clones, and UEFI's variables, that are there already.
    pub clones: BTreeSet<PathBuf>,
    /// Why the switch cannot have TAPs; `None`: it can.
    pub no_taps: Option<String>,
    /// Whether the lab has its ssh key already.
    pub has_ssh_key: bool,
    /// The users' own cloud-init data, by file.
    pub user_data: BTreeMap<PathBuf, String>,
    /// Where the file system begins, in bytes, in each base whose clone is
    /// written into.
    pub roots: BTreeMap<PathBuf, u64>,
}

/// One thing that `up` makes.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// A directory of the user's alone.
    Directory {
        /// Its path.
        path: PathBuf,
        /// Who knows a name in it may use it, as far as the file allows.
        passable: bool,
    },
    /// A pair of ssh keys, made under another name and renamed when whole.
    Key {
        /// The private one; `.pub` is added for the other.
        path: PathBuf,
        /// Its name while it is being made.
        part: PathBuf,
        /// Makes it.
        command: Command,
    },
    /// A linked clone, made under another name and renamed when whole.
    Clone {
        /// Where it goes.
        path: PathBuf,
        /// Its name while it is being made.
        part: PathBuf,
        /// Make it, one after the other.
        commands: Vec<Command>,
        /// Needed only meanwhile.
        scratch: Vec<PathBuf>,
    },
    /// A file.
    File {
        /// Its path.
        path: PathBuf,
        /// All of it.
        text: String,
        /// The private key whose public half stands for `@SSH_KEY@` in it.
        key: Option<PathBuf>,
    },
    /// A FAT image labelled CIDATA, from which cloud-init reads.
    Seed {
        /// Its path.
        path: PathBuf,
        /// Its files: name and text.
        files: Vec<(String, String)>,
        /// As for a file.
        key: Option<PathBuf>,
    },
    /// A switch, awaited by its `ready:` line.
    Switch {
        /// What is remembered of it.
        record: Box<SwitchRecord>,
        /// Starts it.
        command: Command,
    },
    /// A guest.
    Guest {
        /// What is remembered of it.
        record: Box<GuestRecord>,
        /// Starts it.
        command: Command,
    },
}

impl Step {
    /// The switch that it starts.
    pub fn switch(&self) -> Option<&SwitchRecord> {
        if let Step::Switch { record, .. } = self { Some(record) } else { None }
    }

    /// The guest that it starts.
    pub fn guest(&self) -> Option<&GuestRecord> {
        if let Step::Guest { record, .. } = self { Some(record) } else { None }
    }
}

/// A lab that cannot be, on this machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A unix socket's path does not fit.
    #[error("the socket path {} has {} bytes, and at most {SOCKET_PATH_LEN_MAX} fit: shorten the lab's or the guest's name, or set XDG_RUNTIME_DIR to a shorter path", .0.display(), .0.as_os_str().len())]
    SocketPath(PathBuf),
    /// QEMU has no such network device yet.
    #[error("link {link} needs QEMU {}.{}, and this is {}.{}: choose another `link`, or a newer QEMU (QEMU=PATH)", needs.0, needs.1, has.0, has.1)]
    OldQemu {
        /// The link.
        link: &'static str,
        /// The first version that has it.
        needs: (u32, u32),
        /// This version.
        has: (u32, u32),
    },
    /// The host's leg is an interface.
    #[error("network {network} has `host`, and the host's own leg takes an interface: {why}")]
    HostLeg {
        /// The network.
        network: String,
        /// Why there can be none.
        why: String,
    },
}

/// The steps that bring `lab` up. A guest without `autostart` has its port on
/// the switch, and is started by `vlab restart`.
///
/// # Errors
/// A socket path is too long.
pub fn plan(lab: &Lab, facts: &Facts) -> Result<Vec<Step>, PlanError> {
    let places = &facts.places;
    let mut steps: Vec<Step> = Vec::new();
    let mut directories = vec![places.run.clone(), places.state.clone()];
    for network in lab.networks.iter().filter(|network| network.host.is_some()) {
        if let Some(why) = facts.no_taps.clone() {
            return Err(PlanError::HostLeg { network: network.name.clone(), why });
        }
    }
    if lab.guests.iter().any(keeps_something) && places.data != places.state {
        directories.push(places.data.clone());
    }
    steps.extend(directories.into_iter().map(|path| directory_step(path, facts)));
    steps.extend(told::key_step(lab, facts));
    for guest in &lab.guests {
        steps.extend(told::steps(lab, guest, facts));
        steps.extend(clone_step(guest, facts));
        steps.extend(variables_step(guest, facts));
    }
    for network in &lab.networks {
        let path = places.switch_config(&network.name);
        steps.push(Step::File { path, text: switch::switch_toml(lab, network, facts), key: None });
    }
    for network in &lab.networks {
        steps.push(switch::switch_step(lab, network, facts));
    }
    for guest in &lab.guests {
        let links = guest.nics.iter().map(|nic| Attachment::of(lab, guest, nic, facts));
        let links: Vec<Attachment> = links.collect();
        for link in &links {
            link.check(&facts.qemu)?;
        }
        check_sockets(places, &guest.name, &links)?;
        if guest.autostart || facts.started.contains(&guest.name) {
            steps.push(guest_step(lab, guest, (&links, None), facts));
        }
    }
    Ok(steps)
}

/// Whether something in DATA outlives the lab for `guest`: a clone, keys, UEFI's variables.
pub fn keeps_something(guest: &Guest) -> bool {
    matches!(guest.boot, Boot::Base(..)) || guest.keyed() || guest.firmware == Firmware::Uefi
}

/// The steps that boot `guest` once from an ISO, to install into the image that
/// it has, or that it will have a clone of.
///
/// # Errors
/// A socket path is too long.
pub fn install(lab: &Lab, guest: &Guest, facts: &Facts, install: &Install) -> Result<Vec<Step>, PlanError> {
    let places = &facts.places;
    let mut directories = vec![places.run.clone(), places.state.clone()];
    if guest.firmware == Firmware::Uefi && places.data != places.state {
        directories.push(places.data.clone());
    }
    let mut steps: Vec<Step> = directories.into_iter().map(|path| directory_step(path, facts)).collect();
    steps.extend(variables_step(guest, facts));
    if let Some(user_data) = &install.seed {
        let files = vec![
            ("meta-data".to_owned(), format!("instance-id: {}\n", names::uuid(&lab.name, &guest.name))),
            ("user-data".to_owned(), user_data.clone()),
        ];
        steps.push(Step::Seed { path: places.seed(&guest.name), files, key: None });
    }
    check_sockets(places, &guest.name, &[])?;
    steps.push(guest_step(lab, guest, (&[], Some(install)), facts));
    Ok(steps)
}

fn directory_step(path: PathBuf, facts: &Facts) -> Step {
    let passable = path == facts.places.run && facts.user.has_passable_run();
    Step::Directory { path, passable }
}

fn check_sockets(places: &Places, guest: &str, links: &[Attachment]) -> Result<(), PlanError> {
    let own = [places.qmp(guest), places.serial(guest), places.vnc(guest)];
    let mut sockets = own.into_iter().chain(links.iter().flat_map(Attachment::sockets));
    match sockets.find(|socket| socket.as_os_str().len() > SOCKET_PATH_LEN_MAX) {
        Some(socket) => Err(PlanError::SocketPath(socket)),
        None => Ok(()),
    }
}

/// The switch of `network`.
pub fn switch_name(lab: &str, network: &str) -> String {
    format!("{lab}-{network}")
}

fn format_of<'f>(facts: &'f Facts, path: &Path) -> &'f str {
    // The facts name the format of every image; raw is what QEMU would guess
    // least harm from, as it takes nothing in the image for instructions.
    facts.formats.get(path).map_or("raw", String::as_str)
}

fn clone_step(guest: &Guest, facts: &Facts) -> Option<Step> {
    let Boot::Base(base, size) = &guest.boot else { return None };
    let path = facts.places.clone_of(&guest.name);
    if facts.clones.contains(&path) {
        return None;
    }
    let part = path.with_extension("qcow2.part");
    let format = format_of(facts, base);
    // A clone that is smaller than its base has lost the end of it.
    let base_size = facts.sizes.get(base).copied().unwrap_or(0);
    let is_larger = |size: &&String| crate::disk::bytes_of(size).is_none_or(|bytes| bytes > base_size);
    let size = size.as_ref().filter(is_larger);
    if guest.configure == Configure::Offline {
        let raw = path.with_extension("qcow2.raw");
        let scratch = vec![raw.clone(), crate::identity::offline::written(&raw)];
        let commands =
            told::offline_commands(guest, (base, format), &raw, &part, size.map(String::as_str), facts);
        return Some(Step::Clone { path, part, commands, scratch });
    }
    let command = crate::disk::clone_command(base, format, &part, size.map(String::as_str));
    Some(Step::Clone { path, part, commands: vec![command], scratch: Vec::new() })
}

/// What UEFI remembers, made from the distribution's blank.
fn variables_step(guest: &Guest, facts: &Facts) -> Option<Step> {
    let uefi = facts.uefi.as_ref().filter(|_| guest.firmware == Firmware::Uefi)?;
    let path = facts.places.variables(&guest.name);
    if facts.clones.contains(&path) {
        return None;
    }
    let part = path.with_extension("qcow2.part");
    let command = crate::disk::copy_command(&uefi.variables, "raw", &part);
    Some(Step::Clone { path, part, commands: vec![command], scratch: Vec::new() })
}

/// `links` are those of the guest's NICs; none of them is there in an install.
fn guest_step(
    lab: &Lab,
    guest: &Guest,
    (links, install): (&[Attachment], Option<&Install>),
    facts: &Facts,
) -> Step {
    let places = &facts.places;
    let name = guest.name.as_str();
    let (accel, accel_reason) = facts.accels.get(name).cloned().unwrap_or((Accel::Tcg, None));
    let disk = match &guest.boot {
        Boot::Base(base, _) if install.is_some() => Some((base.clone(), format_of(facts, base))),
        Boot::Base(..) => Some((places.clone_of(name), "qcow2")),
        Boot::Disk(path) => Some((path.clone(), format_of(facts, path))),
        Boot::Kernel { .. } => None,
    };
    let ssh_port = guest.internet.then(|| facts.ssh_ports.get(name).copied()).flatten();
    let guest_facts = GuestFacts {
        links,
        drop: &facts.user.drop,
        places,
        qemu: &facts.qemu,
        accel,
        uefi: facts.uefi.as_ref().filter(|_| guest.firmware == Firmware::Uefi),
        ssh_port,
        disk: disk.as_ref().map(|(path, format)| (path.as_path(), *format)),
        credentials: told::credentials(lab, guest).len(),
        install,
    };
    let command = guest::command(lab, guest, &guest_facts);
    let nics = guest.nics.iter().zip(links).enumerate().map(|(position, (nic, link))| NicRecord {
        network: nic.network.clone(),
        switch: switch_name(&lab.name, &nic.network),
        port: names::numbered(name, nic.index),
        interface: link.place(),
        mac: nic.mac,
        carrier: nic.carrier,
        address: match nic.address {
            Address::Static(address) => Some(address.to_string()),
            Address::Dhcp => Some("dhcp".to_owned()),
            Address::Auto | Address::None => None,
        },
        guest_interface: guest.interface_name(FIRST_LAB_SLOT + position),
    });
    let record = GuestRecord {
        name: name.to_owned(),
        uuid: names::uuid(&lab.name, name),
        process: None,
        accel,
        accel_reason,
        argv: command.argv.clone(),
        told: told::digest(lab, guest, facts),
        disk: disk.map(|(path, _)| path),
        qmp: places.qmp(name),
        serial: guest.serial.then(|| places.serial(name)),
        console_log: guest.serial.then(|| places.console_log(name)),
        qemu_log: places.qemu_log(name),
        ssh_port,
        ssh_user: guest.ssh_user.clone(),
        ssh_key: guest.ssh_key.clone().or_else(|| guest.keyed().then(|| places.ssh_key())),
        internet: guest.internet.then(|| guest.interface_name(INTERNET_SLOT)),
        nics: nics.collect(),
        ready: match (&guest.ready, guest.configure) {
            // What is said to have cloud-init has an ssh server as well.
            (Ready::Auto, Configure::CloudInit) if guest.internet => Ready::Ssh,
            (ready, _) => ready.clone(),
        },
        timeout_ms: u64::try_from(guest.timeout.as_millis()).unwrap_or(u64::MAX),
    };
    Step::Guest { record: Box::new(record), command }
}
