//! Waiting until a guest is really up.
//!
//! Started is not up. By default a guest is up when the switch saw its first
//! frame; other criteria look at the console, the ssh banner or QEMU. A guest
//! that ends meanwhile is not waited for.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use regex_lite::Regex;
use vswitch::control::{Client, FdbFilter};

use crate::clock;
use crate::lab::Ready;
use crate::qmp::Qmp;
use crate::runner;
use crate::state::{GuestRecord, State};

/// Between two looks. A guest takes seconds; nobody sees a fifth of one.
const PAUSE: Duration = Duration::from_millis(200);

/// How waiting for one guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is up, after this long.
    Up(Duration),
    /// It is not, and why.
    Failed(String),
    /// The waiting was stopped.
    Interrupted,
}

/// Waits for `guest` until it is up, ends, runs out of time, or `stop` says so.
pub fn wait(guest: &GuestRecord, state: &State, stop: impl Fn() -> bool) -> Outcome {
    let start = clock::now();
    let timeout = Duration::from_millis(guest.timeout_ms);
    let criterion = Criterion::of(guest, state);
    loop {
        if stop() {
            return Outcome::Interrupted;
        }
        // Looked at before the criterion: a dead guest's console may match.
        let alive = guest.process.is_some_and(|process| process.alive());
        if alive && criterion.is_met() {
            return Outcome::Up(start.elapsed());
        }
        if !alive {
            return Outcome::Failed(format!("QEMU ended{}", post_mortem(guest)));
        }
        if start.elapsed() >= timeout {
            let awaited = criterion.awaited();
            let after = clock::short(timeout);
            return Outcome::Failed(format!("{awaited} within {after}{}", console_tail(guest)));
        }
        std::thread::sleep(PAUSE);
    }
}

enum Criterion<'g> {
    Frame(Vec<(PathBuf, FdbFilter)>),
    Ssh(u16),
    Console(Option<PathBuf>, Box<Regex>, &'g str),
    Running(&'g GuestRecord),
}

impl<'g> Criterion<'g> {
    fn of(guest: &'g GuestRecord, state: &State) -> Criterion<'g> {
        // Where the cable is out, no frame comes.
        let plugged = || guest.nics.iter().filter(|nic| nic.carrier);
        let frame = || {
            let macs = plugged().filter_map(|nic| {
                let switch = state.switches.iter().find(|switch| switch.name == nic.switch)?;
                Some((switch.control.clone()?, FdbFilter { mac: Some(nic.mac), ..FdbFilter::default() }))
            });
            Criterion::Frame(macs.collect())
        };
        match &guest.ready {
            Ready::Auto if plugged().next().is_none() => Criterion::Running(guest),
            Ready::Auto | Ready::Frame => frame(),
            Ready::Running => Criterion::Running(guest),
            Ready::Ssh => Criterion::Ssh(guest.ssh_port.unwrap_or(0)),
            Ready::Console(pattern) => match Regex::new(pattern) {
                Ok(regex) => Criterion::Console(guest.console_log.clone(), Box::new(regex), pattern),
                // The lab file was checked; a state written by hand was not.
                Err(_) => Criterion::Running(guest),
            },
        }
    }

    fn is_met(&self) -> bool {
        match self {
            Criterion::Frame(macs) => macs.iter().any(|(control, filter)| {
                let entries = Client::connect(control).and_then(|mut client| client.fdb(filter));
                entries.is_ok_and(|entries| entries.iter().any(|entry| !entry.is_static))
            }),
            Criterion::Ssh(port) => has_ssh_banner(*port),
            Criterion::Console(log, regex, _) => {
                let bytes = log.as_ref().and_then(|log| std::fs::read(log).ok()).unwrap_or_default();
                regex.is_match(&String::from_utf8_lossy(&bytes))
            }
            Criterion::Running(guest) => Qmp::connect(&guest.qmp, &guest.uuid)
                .and_then(|mut qmp| qmp.status())
                .is_ok_and(|status| status == "running"),
        }
    }

    fn awaited(&self) -> String {
        match self {
            Criterion::Frame(_) => "the switch saw no frame of it".to_owned(),
            Criterion::Ssh(port) => format!("no ssh server answered on 127.0.0.1:{port}"),
            Criterion::Console(_, _, pattern) => format!("`{pattern}` was not on its console"),
            Criterion::Running(_) => "QEMU did not say that it runs".to_owned(),
        }
    }
}

/// Whether an ssh server greets on `port`. QEMU accepts for the guest before
/// anybody there listens, so a connection alone says nothing.
fn has_ssh_banner(port: u16) -> bool {
    const LIMIT: Duration = Duration::from_secs(2);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let Ok(mut stream) = TcpStream::connect_timeout(&address, LIMIT) else { return false };
    let mut banner = [0; 4];
    stream.set_read_timeout(Some(LIMIT)).is_ok()
        && stream.read_exact(&mut banner).is_ok()
        && banner == *b"SSH-"
}

/// What QEMU and the console said last.
pub fn post_mortem(guest: &GuestRecord) -> String {
    let qemu = runner::tail(&guest.qemu_log, 8);
    let said = if qemu.is_empty() { String::new() } else { format!(":\n  {}", qemu.join("\n  ")) };
    said + &console_tail(guest)
}

fn console_tail(guest: &GuestRecord) -> String {
    let Some(log) = &guest.console_log else { return String::new() };
    let lines = runner::tail(log, 8);
    if lines.is_empty() {
        return format!("\n  its console ({}) is empty", log.display());
    }
    format!("\n  last on its console ({}):\n    {}", log.display(), lines.join("\n    "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;

    use crate::accel::Accel;
    use crate::state::{Process, VERSION};

    fn guest(directory: &std::path::Path, ready: Ready, timeout_ms: u64) -> GuestRecord {
        let own = i32::try_from(std::process::id()).unwrap();
        GuestRecord {
            name: "zero".to_owned(),
            uuid: "u".to_owned(),
            process: Some(Process::of(own).unwrap()),
            accel: Accel::Tcg,
            accel_reason: None,
            argv: Vec::new(),
            told: String::new(),
            disk: None,
            qmp: directory.join("qmp"),
            serial: None,
            console_log: Some(directory.join("console.log")),
            qemu_log: directory.join("qemu.log"),
            ssh_port: None,
            ssh_user: "root".to_owned(),
            ssh_key: None,
            internet: None,
            nics: Vec::new(),
            ready,
            timeout_ms,
        }
    }

    fn state() -> State {
        State {
            version: VERSION,
            lab: "ping".to_owned(),
            file: "/l".into(),
            digest: String::new(),
            boot_id: String::new(),
            complete: false,
            images: Vec::new(),
            files: Vec::new(),
            clones: Vec::new(),
            keys: Vec::new(),
            switches: Vec::new(),
            guests: Vec::new(),
        }
    }

    #[test]
    fn the_console_is_searched_by_line_and_pattern() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("console.log");
        std::fs::write(&log, "booting\r\nzero login: ").unwrap();
        let matching = guest(directory.path(), Ready::Console("l[o0]gin: $".to_owned()), 5_000);
        assert!(matches!(wait(&matching, &state(), || false), Outcome::Up(_)));
        let other = guest(directory.path(), Ready::Console("^nothing".to_owned()), 1);
        let Outcome::Failed(why) = wait(&other, &state(), || false) else {
            panic!("it must run out of time")
        };
        assert!(why.contains("`^nothing` was not on its console") && why.contains("zero login:"), "{why}");
    }

    #[test]
    fn a_guest_that_ended_is_reported_with_its_last_words() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("console.log"), "login: \nKernel panic\n").unwrap();
        std::fs::write(directory.path().join("qemu.log"), "qemu: no such device\n").unwrap();
        let mut dead = guest(directory.path(), Ready::Console("login".to_owned()), 60_000);
        dead.process = dead.process.map(|own| Process { start_ticks: own.start_ticks + 1, ..own });
        let Outcome::Failed(why) = wait(&dead, &state(), || false) else { panic!("it is not up") };
        for expected in ["QEMU ended", "no such device", "Kernel panic"] {
            assert!(why.contains(expected), "{why}");
        }
    }

    #[test]
    fn waiting_stops_when_told() {
        let directory = tempfile::tempdir().unwrap();
        let waiting = guest(directory.path(), Ready::Console("never".to_owned()), 60_000);
        assert_eq!(wait(&waiting, &state(), || true), Outcome::Interrupted);
    }

    #[test]
    fn an_open_port_is_no_ssh_server() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            drop(listener.accept().unwrap());
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"SSH-2.0-test\r\n").unwrap();
        });
        assert!(!has_ssh_banner(port), "accepted and closed, as QEMU does for a guest that does not listen");
        assert!(has_ssh_banner(port));
        server.join().unwrap();
        assert!(!has_ssh_banner(port), "nobody listens");
    }
}
