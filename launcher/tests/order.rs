//! The order of things, with a machine that only remembers: what `up` writes
//! down before it makes it, what `down` takes away and when, and that a lab cut
//! short at any step can be taken down.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use vlab::accel::Accel;
use vlab::changes::between;
use vlab::down::{Options, take_down};
use vlab::guest::Qemu;
use vlab::lab;
use vlab::places::{Drop, Places, Roots, User};
use vlab::plan::{Facts, Step, plan, script};
use vlab::runner::{Ask, Runner};
use vlab::state::{GuestRecord, Process, State, Store, SwitchRecord, VERSION};
use vlab::up::bring_up;

const LAB: &str = r#"
name = "ping"
[networks.lan]
subnet = "192.168.1.0/24"
[defaults]
base = "arch.qcow2"
[guests.zero]
nics = ["lan"]
[guests.one]
nics = [{ network = "lan", address = "192.168.1.151" }]
[guests.probe]
kernel = "vmlinuz"
nics = ["lan"]
"#;

fn places(directory: &Path) -> Places {
    let at = |name: &str| directory.join(name);
    Roots { run: at("run"), state: at("state"), data: at("data") }.lab("ping")
}

fn steps(places: &Places) -> Vec<Step> {
    steps_of(LAB, places)
}

fn steps_of(text: &str, places: &Places) -> Vec<Step> {
    let lab = lab::parse(text, Path::new("lab.toml"), Path::new("/l")).unwrap();
    let names: Vec<String> = lab.guests.iter().map(|guest| guest.name.clone()).collect();
    let facts = Facts {
        user: User { uid: 1000, drop: Drop::Nothing },
        places: places.clone(),
        vswitch: "/bin/vswitch".into(),
        qemu: Qemu { program: "qemu-system-x86_64".into(), version: (10, 0) },
        accels: names.iter().map(|name| (name.clone(), (Accel::Tcg, None))).collect(),
        uefi: None,
        ssh_ports: names.iter().cloned().zip(20_000..).collect(),
        formats: BTreeMap::from([(PathBuf::from("/l/arch.qcow2"), "qcow2".to_owned())]),
        sizes: BTreeMap::from([(PathBuf::from("/l/arch.qcow2"), 8 << 30)]),
        clones: BTreeSet::new(),
        no_taps: None,
        has_ssh_key: false,
        started: BTreeSet::new(),
        user_data: BTreeMap::new(),
        roots: BTreeMap::new(),
    };
    plan(&lab, &facts).unwrap()
}

fn store(places: &Places) -> Store {
    std::fs::create_dir_all(&places.state).unwrap();
    let state = State {
        version: VERSION,
        lab: "ping".to_owned(),
        file: "/l/lab.toml".into(),
        digest: String::new(),
        boot_id: "this".to_owned(),
        complete: false,
        images: Vec::new(),
        files: Vec::new(),
        clones: Vec::new(),
        keys: Vec::new(),
        switches: Vec::new(),
        guests: Vec::new(),
    };
    Store::new(places.state_file(), state)
}

/// How a guest takes being asked to end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manners {
    /// It powers down.
    Acpi,
    /// It only heeds QMP quit.
    Quit,
    /// It has to be killed.
    Deaf,
}

/// Remembers what it was told, and which processes that leaves.
struct Recording {
    state_file: PathBuf,
    log: Vec<String>,
    running: BTreeMap<i32, String>,
    /// Started, but "vlab was killed before it wrote the number down".
    fail_at: Option<usize>,
    executed: usize,
    manners: Manners,
}

impl Recording {
    fn new(places: &Places, manners: Manners) -> Recording {
        Recording {
            state_file: places.state_file(),
            log: Vec::new(),
            running: BTreeMap::new(),
            fail_at: None,
            executed: 0,
            manners,
        }
    }

    fn start(&mut self, path: &Path) -> Process {
        let pid = 100 + i32::try_from(self.running.len()).unwrap();
        self.running.insert(pid, path.to_string_lossy().into_owned());
        Process { pid, start_ticks: 1 }
    }

    fn end(&mut self, path: &Path) {
        self.running.retain(|_, of| Path::new(of) != path);
    }
}

impl Runner for Recording {
    fn execute(&mut self, step: &Step) -> Result<Option<Process>> {
        // The law: the state on disk names the thing before it is made.
        if !matches!(step, Step::Directory { .. }) {
            let state = Store::load(&self.state_file)?.expect("the state is written first").state;
            let named = match step {
                Step::Directory { .. } => true,
                Step::Clone { path, part, .. } => state.clones.contains(path) && state.files.contains(part),
                Step::Key { path, part, .. } => state.keys.contains(path) && state.files.contains(part),
                Step::File { path, .. } | Step::Seed { path, .. } => state.files.contains(path),
                Step::Switch { record, .. } => state.switches.contains(record),
                Step::Guest { record, .. } => state.guests.contains(record),
            };
            assert!(named, "{step:?} is made before it is written down");
        }
        let started = match step {
            Step::Directory { .. } => None,
            Step::Clone { path, .. } => {
                self.log.push(format!("clone {}", path.file_name().unwrap().display()));
                None
            }
            Step::Key { path, .. } => {
                self.log.push(format!("key {}", path.file_name().unwrap().display()));
                None
            }
            Step::File { path, .. } if path.to_string_lossy().contains(".credential.") => None,
            Step::File { path, .. } | Step::Seed { path, .. } => {
                self.log.push(format!("write {}", path.file_name().unwrap().display()));
                None
            }
            Step::Switch { record, .. } => {
                self.log.push(format!("start switch {}", record.name));
                Some(self.start(&record.config))
            }
            Step::Guest { record, .. } => {
                self.log.push(format!("start guest {}", record.name));
                Some(self.start(&record.qmp))
            }
        };
        self.executed += 1;
        if self.fail_at == Some(self.executed) {
            bail!("cut short here");
        }
        Ok(started)
    }

    fn await_switch(&mut self, switch: &SwitchRecord) -> Result<PathBuf> {
        assert!(switch.process.is_some());
        self.log.push(format!("await {}", switch.name));
        Ok("/run/vswitch/ping-lan.sock".into())
    }

    fn find(&mut self, path: &Path) -> Vec<Process> {
        let found = self.running.iter().filter(|(_, of)| Path::new(of) == path);
        found.map(|(pid, _)| Process { pid: *pid, start_ticks: 1 }).collect()
    }

    fn ask(&mut self, guest: &GuestRecord, ask: Ask) -> Result<()> {
        self.log.push(format!("{ask:?} {}", guest.name).to_lowercase());
        let heeds = match ask {
            Ask::PowerDown => self.manners == Manners::Acpi,
            Ask::Quit => self.manners != Manners::Deaf,
        };
        if heeds {
            self.end(&guest.qmp);
        }
        Ok(())
    }

    fn stop_switch(&mut self, switch: &SwitchRecord, _: Process) -> Result<()> {
        assert!(!self.running.values().any(|of| of.ends_with(".qmp")), "a guest still holds its TAP");
        self.log.push(format!("stop switch {}", switch.name));
        self.end(&switch.config);
        Ok(())
    }

    fn kill(&mut self, process: Process) -> Result<()> {
        self.log.push("kill".to_owned());
        self.running.remove(&process.pid);
        Ok(())
    }

    fn wait_gone(&mut self, processes: &[Process], _: Duration) -> Vec<Process> {
        processes.iter().copied().filter(|process| self.running.contains_key(&process.pid)).collect()
    }

    fn sweep(&mut self, _: &SwitchRecord) -> Vec<String> {
        Vec::new()
    }

    fn remove(&mut self, path: &Path) -> Result<()> {
        if path.to_string_lossy().contains(".credential.") {
            return Ok(());
        }
        self.log.push(format!("remove {}", path.file_name().unwrap().display()));
        Ok(())
    }
}

fn options(disks: bool, boot_id: &str) -> Options {
    Options { grace: Duration::from_secs(10), disks, boot_id: boot_id.to_owned() }
}

#[test]
fn up_makes_things_in_order_and_down_undoes_them() {
    let directory = tempfile::tempdir().unwrap();
    let places = places(directory.path());
    let mut runner = Recording::new(&places, Manners::Acpi);
    let mut store = store(&places);
    bring_up(&steps(&places), &mut store, &mut runner).unwrap();
    assert_eq!(
        runner.log,
        [
            "key ssh_key",
            "write zero.seed",
            "clone zero.qcow2",
            "write one.seed",
            "clone one.qcow2",
            "write lan.toml",
            "start switch ping-lan",
            "await ping-lan",
            "start guest zero",
            "start guest one",
            "start guest probe",
        ]
    );
    let saved = Store::load(&places.state_file()).unwrap().unwrap();
    assert!(saved.state.guests.iter().all(|guest| guest.process.is_some()));
    assert!(saved.state.switches[0].control.is_some());

    runner.log.clear();
    let report =
        take_down(&saved, std::slice::from_ref(&places.run), &options(false, "this"), &mut runner).unwrap();
    assert_eq!(
        runner.log,
        [
            "powerdown probe",
            "powerdown one",
            "powerdown zero",
            "stop switch ping-lan",
            "remove ssh_key.part",
            "remove ssh_key.part.pub",
            "remove zero.seed",
            "remove zero.qcow2.part",
            "remove one.seed",
            "remove one.qcow2.part",
            "remove lan.toml",
            "remove ping",
        ]
    );
    assert_eq!(report.stopped, ["probe", "one", "zero", "lan"]);
    assert!(report.forced.is_empty() && runner.running.is_empty());
    assert!(!places.state_file().exists(), "the state goes last");
}

#[test]
fn guests_are_asked_ever_less_politely() {
    for (manners, expected) in [
        // Without a disk there is nothing to lose: told to quit early.
        (Manners::Quit, ["powerdown", "powerdown", "powerdown", "quit probe", "quit one", "quit zero"]),
        (Manners::Deaf, ["quit probe", "quit one", "quit zero", "kill", "kill", "kill"]),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let places = places(directory.path());
        let mut runner = Recording::new(&places, manners);
        let mut store = store(&places);
        bring_up(&steps(&places), &mut store, &mut runner).unwrap();
        runner.log.clear();
        let report = take_down(&store, &[], &options(true, "this"), &mut runner).unwrap();
        let asked: Vec<&str> =
            runner.log.iter().map(String::as_str).take_while(|line| !line.starts_with("stop")).collect();
        let end = &asked[asked.len() - expected.len()..];
        assert!(end.iter().zip(expected).all(|(line, start)| line.starts_with(start)), "{asked:?}");
        let forced: &[&str] =
            if manners == Manners::Deaf { &["probe", "one", "zero"] } else { &["one", "zero"] };
        assert_eq!(report.forced, forced);
        assert_eq!(report.removed.len(), 2, "the clones, as asked");
    }
}

#[test]
fn a_lab_cut_short_at_any_step_comes_down_whole() {
    for fail_at in 1..=30 {
        let directory = tempfile::tempdir().unwrap();
        let places = places(directory.path());
        let mut runner = Recording::new(&places, Manners::Acpi);
        runner.fail_at = Some(fail_at);
        let steps = steps(&places);
        let mut lab = store(&places);
        let failed = bring_up(&steps, &mut lab, &mut runner).is_err();
        assert_eq!(failed, fail_at <= steps.len(), "step {fail_at}");
        // As if vlab were killed: only the file is left, without the number of
        // what was started last.
        let left = Store::load(&places.state_file()).unwrap().unwrap();
        take_down(&left, &[], &options(false, "this"), &mut runner).unwrap();
        assert_eq!(runner.running, BTreeMap::new(), "cut short at step {fail_at}");
        // And once more, with everything gone already.
        take_down(&left, &[], &options(false, "this"), &mut runner).unwrap();
    }
}

#[test]
fn after_a_restart_only_files_are_removed() {
    let directory = tempfile::tempdir().unwrap();
    let places = places(directory.path());
    let mut runner = Recording::new(&places, Manners::Acpi);
    let mut store = store(&places);
    bring_up(&steps(&places), &mut store, &mut runner).unwrap();
    runner.log.clear();
    take_down(&store, std::slice::from_ref(&places.run), &options(false, "another"), &mut runner).unwrap();
    assert!(runner.log.iter().all(|line| line.starts_with("remove ")), "{:?}", runner.log);
    assert!(!places.state_file().exists());
}

#[test]
fn the_plan_is_a_script_and_the_switch_reads_its_part() {
    let places = places(Path::new("/p"));
    let steps = steps(&places);
    let text = script(&steps);
    for expected in [
        "mkdir -p -m 700 /p/run/ping\n",
        "qemu-img create -q -f qcow2 -F qcow2 -b /l/arch.qcow2 /p/data/ping/zero.qcow2.part && mv -n /p/data/ping/zero.qcow2.part /p/data/ping/zero.qcow2\n",
        "cat <<'END' >/p/run/ping/lan.toml\n",
        "setsid /bin/vswitch run --config /p/run/ping/lan.toml --name ping-lan </dev/null >/p/run/ping/lan.out 2>/p/state/ping/switch-lan.log &\n",
        "-netdev tap,id=lab0,ifname=vl-zero-",
    ] {
        assert!(text.contains(expected), "{expected} is not in:\n{text}");
    }
    let parsed = std::process::Command::new("sh").args(["-n", "-c", &text]).status().unwrap();
    assert!(parsed.success(), "a shell reads it");

    let is_config = |step: &&Step| matches!(step, Step::File { path, .. } if path.ends_with("lan.toml"));
    let Some(Step::File { text: config, .. }) = steps.iter().find(is_config) else {
        panic!("the plan writes the switch's configuration");
    };
    let table: toml::Table = config.parse().unwrap();
    let ports = table["ports"].as_array().unwrap();
    let names: Vec<&str> = ports.iter().map(|port| port["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["zero", "one", "probe"]);
    assert_eq!(table["switch"]["name"].as_str(), Some("ping-lan"));
    assert_eq!(table["switch"]["owner"].as_str(), Some("1000"));
}

#[test]
fn a_changed_file_names_what_differs_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let places = places(directory.path());
    let mut runner = Recording::new(&places, Manners::Acpi);
    let mut store = store(&places);
    bring_up(&steps(&places), &mut store, &mut runner).unwrap();
    let changes = |text: &str, dead: &[&str]| {
        let dead = dead.iter().map(|name| (*name).to_owned()).collect();
        between(&store.state, &dead, &steps_of(text, &places))
    };
    let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    };
    assert!(changes(LAB, &[]).is_empty());

    let dead = changes(LAB, &["one", "ping-lan"]);
    assert_eq!((dead.start, dead.start_switches), (vec!["one".to_owned()], vec!["ping-lan".to_owned()]));

    let forward = changes(&LAB.replace("kernel =", "forwards = [\"8080:80\"]\nkernel ="), &[]);
    assert_eq!(forward.add_forwards, pairs(&[("probe", "tcp:127.0.0.1:8080-:80")]));
    assert!(forward.recreate.is_empty());

    let more = format!("{LAB}[guests.two]\nkernel = \"vmlinuz\"\nnics = [\"lan\"]\n");
    let more = changes(&more, &[]);
    assert_eq!((more.start, more.add_ports), (vec!["two".to_owned()], pairs(&[("ping-lan", "two")])));
    assert!(more.recreate.is_empty(), "its name is told at the others' next start: {:?}", more.recreate);

    let fewer = changes(&LAB[..LAB.find("[guests.probe]").unwrap()], &[]);
    assert_eq!((fewer.stop, fewer.del_ports), (vec!["probe".to_owned()], pairs(&[("ping-lan", "probe")])));

    let renamed = changes(&LAB.replace("[guests.zero]", "[guests.zero]\nhostname = \"nil\""), &[]);
    assert_eq!(renamed.recreate, pairs(&[("zero", "what it is told at its start differs")]));

    let larger = changes(&LAB.replace("kernel =", "memory = \"2G\"\nkernel ="), &[]);
    assert_eq!(larger.recreate, pairs(&[("probe", "2048 instead of 1024")]));

    let aged = changes(&LAB.replace("subnet =", "switch = { ageing = \"9s\" }\nsubnet ="), &[]);
    assert_eq!(aged.restart_switches, ["ping-lan"]);

    let legged = changes(&LAB.replace("subnet =", "host = \"192.168.1.1\"\nsubnet ="), &[]);
    assert_eq!(legged.add_ports, pairs(&[("ping-lan", "host")]));
    assert!(legged.recreate.is_empty() && legged.restart_switches.is_empty(), "{legged:?}");

    let relinked = changes(&LAB.replace("subnet =", "link = \"stream\"\nsubnet ="), &[]);
    let ports: BTreeSet<&str> = relinked.add_ports.iter().map(|(_, port)| port.as_str()).collect();
    assert_eq!((&relinked.del_ports, ports), (&relinked.add_ports, BTreeSet::from(["one", "probe", "zero"])));
    assert!(relinked.restart_switches.is_empty(), "{relinked:?}");
    let (guests, why): (Vec<_>, Vec<_>) = relinked.recreate.into_iter().unzip();
    assert_eq!(guests, ["zero", "one", "probe"]);
    assert!(why.iter().all(|why| why.contains("stream,id=lab0") && why.contains("tap,id=lab0")), "{why:?}");
}

#[test]
fn a_clone_is_as_large_as_it_says_and_never_smaller_than_its_base() {
    let directory = tempfile::tempdir().unwrap();
    let places = places(directory.path());
    let words = |size: &str| {
        let text = format!("name = \"ping\"\n[guests.zero]\nbase = \"arch.qcow2\"\nsize = \"{size}\"\n");
        let steps = steps_of(&text, &places);
        let clone = steps.into_iter().find_map(|step| {
            let Step::Clone { commands, .. } = step else { return None };
            commands.into_iter().next()
        });
        clone.unwrap().argv
    };
    // The base has 8 GiB.
    for (size, has_size) in [("16G", true), ("8193M", true), ("8G", false), ("512M", false)] {
        assert_eq!(words(size).contains(&size.to_owned()), has_size, "{size}: {:?}", words(size));
    }
}
