//! `vlab status`: the state says what was made; the kernel, QMP and the switch
//! say what is.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use vswitch::control::{Client, Request, Response};

use crate::clock;
use crate::process;
use crate::qmp::Qmp;
use crate::runner;
use crate::state::{GuestRecord, State, SwitchRecord};

/// What a guest is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GuestState {
    /// Its QEMU runs; `up` has not seen it ready.
    Booting,
    /// It runs.
    Up,
    /// It is paused, or was shut down.
    Stopped,
    /// Its QEMU ended with a complaint, or does not answer.
    Failed,
    /// The machine was restarted under it.
    Lost,
}

/// A guest, as it is.
#[derive(Debug, Clone, Serialize)]
pub struct GuestStatus {
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: GuestState,
    /// More about that, where there is more.
    pub note: Option<String>,
    /// Its QEMU.
    pub pid: Option<i32>,
    /// What runs its code.
    pub accel: &'static str,
    /// How long its QEMU has been running, in seconds.
    pub up_s: Option<u64>,
    /// Network, address and MAC of each lab NIC.
    pub nics: Vec<NicStatus>,
    /// Where the host reaches its ssh port.
    pub ssh: Option<String>,
}

/// A lab NIC.
#[derive(Debug, Clone, Serialize)]
pub struct NicStatus {
    /// The network.
    pub network: String,
    /// Its address, "dhcp", or nothing.
    pub address: Option<String>,
    /// Its MAC.
    pub mac: String,
    /// The TAP, or the path of the switch's socket.
    pub interface: String,
    /// What Linux calls it inside.
    pub guest_interface: String,
}

/// A switch, as it is.
#[derive(Debug, Clone, Serialize)]
pub struct SwitchStatus {
    /// Its name.
    pub name: String,
    /// Its network.
    pub network: String,
    /// Whether it answers.
    pub up: bool,
    /// Why not.
    pub note: Option<String>,
    /// Its control socket.
    pub control: Option<PathBuf>,
    /// Ports that are up, of all.
    pub ports_up: usize,
    /// Ports.
    pub ports: usize,
}

/// A lab, as it is.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Its name.
    pub lab: String,
    /// Its file.
    pub file: PathBuf,
    /// Whether there is anything of it.
    pub up: bool,
    /// Its switches.
    pub switches: Vec<SwitchStatus>,
    /// Its guests.
    pub guests: Vec<GuestStatus>,
}

/// Looks at everything that `state` names.
pub fn look(state: &State) -> Status {
    let lost = process::boot_id().is_ok_and(|boot_id| boot_id != state.boot_id);
    Status {
        lab: state.lab.clone(),
        file: state.file.clone(),
        up: true,
        switches: state.switches.iter().map(|switch| look_at_switch(switch, lost)).collect(),
        guests: state.guests.iter().map(|guest| look_at_guest(guest, state.complete, lost)).collect(),
    }
}

fn look_at_switch(switch: &SwitchRecord, lost: bool) -> SwitchStatus {
    let mut status = SwitchStatus {
        name: switch.name.clone(),
        network: switch.network.clone(),
        up: false,
        note: None,
        control: switch.control.clone(),
        ports_up: 0,
        ports: 0,
    };
    if lost {
        status.note = Some("the machine was restarted".to_owned());
        return status;
    }
    let Some(control) = &switch.control else {
        status.note = Some("it never was ready".to_owned());
        return status;
    };
    let answer = Client::connect(control).and_then(|mut client| client.call(&Request::Show {}));
    match answer {
        Ok(Response::Show(show)) => {
            status.up = true;
            status.ports = show.ports.len();
            let up = |port: &&vswitch::control::PortLine| port.state == vswitch::control::PortState::Up;
            status.ports_up = show.ports.iter().filter(up).count();
        }
        Ok(_) => status.note = Some("it answers something unknown".to_owned()),
        Err(e) => status.note = Some(e.to_string().lines().next().unwrap_or_default().to_owned()),
    }
    status
}

fn look_at_guest(guest: &GuestRecord, complete: bool, lost: bool) -> GuestStatus {
    let alive = guest.process.filter(|process| !lost && process.alive());
    let (state, note) = if lost {
        (GuestState::Lost, Some("the machine was restarted".to_owned()))
    } else if alive.is_none() {
        match runner::tail(&guest.qemu_log, 1).pop() {
            Some(line) => (GuestState::Failed, Some(line)),
            None => (GuestState::Stopped, None),
        }
    } else {
        match Qmp::connect(&guest.qmp, &guest.uuid).and_then(|mut qmp| qmp.status()) {
            Ok(status) if status == "running" && complete => (GuestState::Up, None),
            Ok(status) if status == "running" => (GuestState::Booting, None),
            Ok(status) => (GuestState::Stopped, Some(status)),
            Err(e) => (GuestState::Failed, Some(e.to_string())),
        }
    };
    GuestStatus {
        name: guest.name.clone(),
        state,
        note,
        pid: alive.map(|process| process.pid),
        accel: guest.accel.name(),
        up_s: alive.and_then(|process| process.age()).map(|age| age.as_secs()),
        nics: guest
            .nics
            .iter()
            .map(|nic| NicStatus {
                network: nic.network.clone(),
                address: nic.address.clone(),
                mac: nic.mac.to_string(),
                interface: nic.interface.clone(),
                guest_interface: nic.guest_interface.clone(),
            })
            .collect(),
        ssh: guest.ssh_port.map(|port| format!("127.0.0.1:{port}")),
    }
}

/// The table that `vlab status` prints.
pub fn table(status: &Status) -> String {
    let switches: Vec<&str> = status.switches.iter().map(|switch| switch.name.as_str()).collect();
    let file = status.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let switches = if switches.is_empty() { "none".to_owned() } else { switches.join(", ") };
    let mut text = format!("lab {}  {file}  switch {switches}\n", status.lab);
    let networks: Vec<&str> = status.switches.iter().map(|switch| switch.network.as_str()).collect();
    let mut rows: Vec<Vec<String>> = Vec::new();
    let single = networks.len() == 1;
    let address = if single { networks[0].to_uppercase() } else { "ADDRESS".to_owned() };
    rows.push(["GUEST", "STATE", &address, "MAC", "SSH", "UP"].map(str::to_owned).to_vec());
    for guest in &status.guests {
        let nic_columns = |nic: Option<&NicStatus>| {
            let Some(nic) = nic else { return ["-".to_owned(), "-".to_owned()] };
            let address = nic.address.clone().unwrap_or_else(|| "-".to_owned());
            [if single { address } else { format!("{} {address}", nic.network) }, nic.mac.clone()]
        };
        let [address, mac] = nic_columns(guest.nics.first());
        let state = format!("{:?}", guest.state).to_lowercase();
        let up = guest.up_s.map_or("-".to_owned(), |seconds| clock::short(Duration::from_secs(seconds)));
        let ssh = guest.ssh.clone().unwrap_or_else(|| "-".to_owned());
        rows.push(vec![guest.name.clone(), state, address, mac, ssh, up]);
        for nic in guest.nics.iter().skip(1) {
            let [address, mac] = nic_columns(Some(nic));
            rows.push(vec![String::new(), String::new(), address, mac, String::new(), String::new()]);
        }
    }
    text.push_str(&columns(&rows));
    for switch in &status.switches {
        if let Some(note) = &switch.note {
            text.push_str(&format!("switch {}: {note}\n", switch.name));
        }
    }
    for guest in &status.guests {
        if let Some(note) = &guest.note {
            text.push_str(&format!("{}: {note}\n", guest.name));
        }
    }
    text
}

/// Rows in columns two spaces apart.
pub fn columns(rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .enumerate()
            .map(|(column, cell)| format!("{cell:<width$}", width = width(column)))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        let nic = |network: &str, address: Option<&str>| NicStatus {
            network: network.to_owned(),
            address: address.map(str::to_owned),
            mac: "02:bb:79:c6:45:9b".to_owned(),
            interface: "vl-zero-abcdef".to_owned(),
            guest_interface: "ens4".to_owned(),
        };
        let guest = |name: &str, state, nics| GuestStatus {
            name: name.to_owned(),
            state,
            note: (state == GuestState::Failed).then(|| "qemu: no such device".to_owned()),
            pid: Some(42),
            accel: "tcg",
            up_s: (state == GuestState::Up).then_some(185),
            nics,
            ssh: Some("127.0.0.1:39469".to_owned()),
        };
        let switch = |network: &str| SwitchStatus {
            name: format!("ping-{network}"),
            network: network.to_owned(),
            up: true,
            note: None,
            control: None,
            ports_up: 1,
            ports: 1,
        };
        let mut status = Status {
            lab: "ping".to_owned(),
            file: "/l/lab.toml".into(),
            up: true,
            switches: vec![switch("lan")],
            guests: vec![
                guest("zero", GuestState::Up, vec![nic("lan", Some("192.168.1.150"))]),
                guest("one", GuestState::Failed, vec![]),
            ],
        };
        assert_eq!(
            table(&status),
            "lab ping  lab.toml  switch ping-lan\n\
             GUEST  STATE   LAN            MAC                SSH              UP\n\
             zero   up      192.168.1.150  02:bb:79:c6:45:9b  127.0.0.1:39469  3m\n\
             one    failed  -              -                  127.0.0.1:39469  -\n\
             one: qemu: no such device\n"
        );
        status.switches.push(switch("dmz"));
        status.guests.truncate(1);
        status.guests[0].nics.push(nic("dmz", None));
        assert_eq!(
            table(&status),
            "lab ping  lab.toml  switch ping-lan, ping-dmz\n\
             GUEST  STATE  ADDRESS            MAC                SSH              UP\n\
             zero   up     lan 192.168.1.150  02:bb:79:c6:45:9b  127.0.0.1:39469  3m\n\
             \x20             dmz -              02:bb:79:c6:45:9b\n"
        );
    }
}
