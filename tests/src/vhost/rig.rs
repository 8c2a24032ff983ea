//! A switch's data thread with vhost-user ports, two honest memory ports beside
//! them, and a count of what the process holds.

#![expect(clippy::unwrap_used, reason = "what cannot be set up has failed the test")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use vswitch::bridge::{PortId, PortSettings, Settings};
use vswitch::engine::{Command, Engine, Handle, PortSnapshot, Tuning};
use vswitch::port::memory::{MemoryHandle, memory};
use vswitch::port::{Device, Holders, IsolationMode, Link, Offloads, OpenOptions, Port, open};

use crate::clock::wait_until;

/// Time in which anything that should happen has happened.
pub const LIMIT: Duration = Duration::from_secs(20);

/// A running engine. Its ports: vhost-user ones from 0 on, then two in memory.
#[derive(Debug)]
pub struct Rig {
    /// Commands the engine.
    pub handle: Handle,
    /// The other ends of the two ports in memory.
    pub honest: [MemoryHandle; 2],
    devices: Vec<Device>,
    paths: Vec<PathBuf>,
    thread: Option<std::thread::JoinHandle<()>>,
    tid: i32,
    _dir: TempDir,
}

impl Rig {
    /// A switch with one vhost-user port for each of `options`, as `queues=2`.
    pub fn new(options: &[&str]) -> Rig {
        let tuning = Tuning { busy_poll: Duration::from_micros(50), pad_runts: false, fast_path: true };
        let (engine, handle) = Engine::new(Settings::default(), tuning, [1, 2], None).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            tell.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            drop(engine.run().unwrap());
        });
        let tid = told.recv().unwrap();
        let dir = tempfile::Builder::new().prefix("vv-").tempdir().unwrap();
        let (mut devices, mut paths) = (Vec::new(), Vec::new());
        for (number, options) in options.iter().enumerate() {
            let path = dir.path().join(format!("{number}.sock"));
            let spec = format!(
                "vhost-user:{}{}{options}",
                path.display(),
                if options.is_empty() { "" } else { "," }
            );
            let opened = open(&spec.parse().unwrap(), &open_options()).unwrap();
            let port = opened.port.expect("a vhost-user port is there from the start");
            add(&handle, u8::try_from(number).unwrap(), port);
            devices.push(opened.device);
            paths.push(path);
        }
        let honest = [100, 101].map(|number| memory_port(&handle, number));
        Rig { handle, honest, devices, paths, thread: Some(thread), tid, _dir: dir }
    }

    /// The socket of port `number`.
    pub fn path(&self, number: usize) -> &Path {
        &self.paths[number]
    }

    /// The counters and link of port `number`.
    pub fn port(&self, number: u8) -> PortSnapshot {
        let snapshot = self.handle.ask(|reply| Command::Read { reply }).unwrap();
        snapshot.ports.into_iter().find(|port| port.id == PortId::new(number)).unwrap()
    }

    /// Waits until port `number` is up, or down.
    pub fn wait_link(&self, number: u8, up: bool) {
        let is = || self.port(number).link.is_some_and(|link| link.up == up);
        wait_until("the link", LIMIT, is).unwrap();
    }

    /// A further port in memory, which is number `number`.
    pub fn memory_port(&self, number: u8) -> MemoryHandle {
        memory_port(&self.handle, number)
    }

    /// The data thread's number.
    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// Nanoseconds that the data thread has run.
    pub fn data_ns(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/self/task/{}/schedstat", self.tid)).unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    }

    /// What `show` says of port `number`.
    pub fn note(&self, number: usize) -> String {
        self.devices[number].note()
    }

    /// Who is at the other end of port `number`.
    pub fn peer(&self, number: usize) -> Option<String> {
        self.devices[number].peer(&Holders::default())
    }

    /// Waits until nobody is connected to port `number`; returns its note.
    pub fn wait_gone(&self, number: usize) -> String {
        wait_until("the front end to go", LIMIT, || self.peer(number).is_none()).unwrap();
        self.note(number)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.handle.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the data thread panicked");
        }
        self.devices.clear();
        for path in &self.paths {
            assert!(!path.exists() || std::thread::panicking(), "{} was left", path.display());
        }
    }
}

fn memory_port(handle: &Handle, number: u8) -> MemoryHandle {
    let link = Link { up: true, mtu: 1500, offloads: Offloads::NONE };
    let (port, end) = memory(link).unwrap();
    add(handle, number, Box::new(port));
    end
}

fn open_options() -> OpenOptions {
    OpenOptions {
        switch: "test".to_owned(),
        name: "guest".to_owned(),
        run_id: "0".to_owned(),
        owner: rustix::process::geteuid().as_raw(),
        mtu: None,
        takeover: false,
        isolation: IsolationMode::Off,
        fast: None,
    }
}

fn add(handle: &Handle, number: u8, port: Box<dyn Port>) {
    let (id, port, settings) = (PortId::new(number), Some(port), PortSettings::default());
    handle.ask(|reply| Command::AddPort { id, port, settings, reply }).unwrap().unwrap();
}

/// A broadcast of station `number` that carries `text`.
pub fn frame(number: u8, text: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff; 6];
    bytes.extend([2, 0, 0, 0, 0, number, 0x88, 0xb5]);
    bytes.extend(text);
    bytes.resize(bytes.len().max(60), 0);
    bytes
}

/// Open descriptors of this process, and mappings of guest memory.
pub fn held() -> (usize, usize) {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    (fds, maps.lines().filter(|line| line.contains("/memfd:guest")).count())
}
