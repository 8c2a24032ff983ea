//! `vlab install`: a guest booted once from an ISO, by hand or unattended.

use std::fs;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use regex_lite::Regex;
use serde_json::json;
use vlab::console::{self, End};
use vlab::dialogue::Dialogue;
use vlab::down::{Options, take_down};
use vlab::install::{Install, Kernel, sha256};
use vlab::lab::{Display, Guest, Lab};
use vlab::lock::Lock;
use vlab::places::Places;
use vlab::plan;
use vlab::process;
use vlab::runner::{self, Machine};
use vlab::say;
use vlab::state::{GuestRecord, Store};
use vlab::up::bring_up;
use vlab::{clock, disk, facts, iso9660, ready};

use super::target::Target;
use super::up::begin;
use super::{print, print_json};
use crate::cli::InstallArgs;

/// Installs into the image of a guest.
pub fn run(target: &Target, args: &InstallArgs) -> Result<()> {
    let (mut lab, file) = target.lab()?;
    // Only this guest matters: the others' images may not be there yet.
    lab.guests.retain(|guest| guest.name == args.guest);
    lab.networks.clear();
    let Some(guest) = lab.guests.first_mut() else {
        bail!("there is no guest {} in {}", args.guest, file.display());
    };
    guest.nics.clear();
    guest.serial = true;
    let guest = guest.clone();
    let places = target.roots.lab(&lab.name);
    check_disk(target, &guest)?;
    let iso = checked_iso(args, &guest)?;
    let dialogue = args.dialogue.as_deref().map(|path| read_dialogue(path, &guest)).transpose()?;
    let done = args.done.as_deref().map(Regex::new).transpose().context("--done")?;

    runner::run_directory(&places.run, &target.user)?;
    runner::private_directory(&places.state)?;
    let _lock = Lock::take(&places.lock())?;
    if let Some(store) = Store::load(&places.state_file())? {
        bail!("lab {} is up, or was left so\n  take it down first: vlab down", store.state.lab);
    }
    let mut machine = Machine::new(target.user.clone());
    let prepared = prepare(args, &guest, &places, iso).and_then(|install| {
        let facts = facts::gather(&lab, &target.user, places.clone(), None)?;
        Ok((plan::install(&lab, &guest, &facts, &install)?, facts))
    });
    let (steps, facts) = match prepared {
        Ok(prepared) => prepared,
        Err(e) => {
            fs::remove_dir_all(&places.run)?;
            return Err(e);
        }
    };
    let mut state = begin(&lab, &file, String::new(), &facts)?;
    state.clones.clear();
    state.keys.clear();
    let mut store = Store::new(places.state_file(), state);
    let outcome = bring_up(&steps, &mut store, &mut machine).and_then(|()| {
        let record = store.state.guests.first().context("the guest was not started")?;
        attend(record, dialogue.as_ref(), args, target.global.json)
    });
    let options = Options { grace: Duration::from_secs(2), disks: false, boot_id: process::boot_id()? };
    let log = places.console_log(&guest.name);
    take_down(&store, std::slice::from_ref(&places.run), &options, &mut machine)?;
    outcome.and_then(|took| report(target, &lab, &guest, took, done.as_ref(), &log))
}

fn check_disk(target: &Target, guest: &Guest) -> Result<()> {
    let Some(image) = guest.image() else {
        bail!("guest {} boots from a kernel: there is no disk to install to", guest.name);
    };
    if !image.exists() {
        bail!("{0} is missing\n  make it: vlab disk create {0} --size 8G", image.display());
    }
    disk::check_writable(image, &target.clone_folders())
}

fn checked_iso(args: &InstallArgs, guest: &Guest) -> Result<PathBuf> {
    let given = args.iso.as_ref().map(fs::canonicalize).transpose();
    let given = given.with_context(|| args.iso.clone().unwrap_or_default().display().to_string())?;
    let iso =
        given.or_else(|| guest.iso.clone()).context("which ISO? --iso FILE, or `iso` in the lab file")?;
    fs::File::open(&iso).with_context(|| iso.display().to_string())?;
    // The file's sum is that of the file's ISO.
    let expected = args.sha256.clone().or_else(|| args.iso.is_none().then(|| guest.iso_sha256.clone())?);
    if let Some(expected) = expected.map(|sum| sum.to_ascii_lowercase()) {
        let found = sha256(&iso)?;
        if found != expected {
            bail!("{} is not what it should be:\n  SHA-256 {found}\n  expected {expected}", iso.display());
        }
    }
    Ok(iso)
}

fn read_dialogue(path: &Path, guest: &Guest) -> Result<Dialogue> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Dialogue::parse(&text, &guest.hostname).map_err(|e| anyhow!("{}: {e}", path.display()))
}

fn prepare(args: &InstallArgs, guest: &Guest, places: &Places, iso: PathBuf) -> Result<Install> {
    let seed = args.seed.as_deref().map(fs::read_to_string).transpose().context("--seed")?;
    let kernel = match (&args.kernel, &args.initrd) {
        (Some(kernel), Some(initrd)) => Some(Kernel {
            kernel: boot_file(&iso, kernel, &places.boot_file(&guest.name, "kernel"))?,
            initrd: boot_file(&iso, initrd, &places.boot_file(&guest.name, "initrd"))?,
            cmdline: args.append.clone().unwrap_or_default(),
        }),
        _ => None,
    };
    let display = args.display.unwrap_or(guest.display);
    Ok(Install { iso, kernel, seed, display })
}

/// `iso:PATH` is taken out of the ISO; anything else is a file here.
fn boot_file(iso: &Path, named: &str, out: &Path) -> Result<PathBuf> {
    match named.strip_prefix("iso:") {
        Some(inside) => {
            fs::write(out, iso9660::read(iso, inside)?)?;
            Ok(out.to_owned())
        }
        None => Ok(fs::canonicalize(named).with_context(|| named.to_owned())?),
    }
}

/// Talks to the installer until its QEMU ends; returns how long that took.
fn attend(
    guest: &GuestRecord,
    dialogue: Option<&Dialogue>,
    args: &InstallArgs,
    json: bool,
) -> Result<Duration> {
    let start = clock::now();
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let path = guest.serial.as_ref().context("an installation needs a console")?;
    let alive = || guest.process.is_some_and(|process| process.alive());
    let console = clock::poll(Duration::from_secs(20), || match UnixStream::connect(path) {
        Ok(stream) => Some(Ok(stream)),
        Err(_) if alive() => None,
        Err(e) => Some(Err(failure(guest).unwrap_or_else(|| anyhow!("{e}{}", ready::post_mortem(guest))))),
    });
    let console = console.context("QEMU does not open the console")??;
    // Progress goes where messages go; stdout is for the result.
    let show = |bytes: &[u8]| {
        if !json {
            let _ = std::io::stderr().write_all(bytes);
        }
    };
    let late = || start.elapsed() >= args.timeout;
    let stop = || interrupted.load(Ordering::Relaxed) || late();
    match dialogue {
        Some(dialogue) => dialogue.hold(&console, stop, show).map_err(|e| {
            if late() {
                return anyhow!("{}\n  {e:#}", too_late(args));
            }
            let said = runner::tail(&guest.qemu_log, 8);
            let said =
                if said.is_empty() { String::new() } else { format!("\n  QEMU: {}", said.join("\n  ")) };
            anyhow!("{e:#}{said}")
        })?,
        None if std::io::stdin().is_terminal() && !json => {
            say!("on the console of the installer; Ctrl-] leaves it to itself");
            if console::attach(&console, Some(args.timeout))? == End::Left {
                say!("\nwaiting until the installer powers down; Ctrl-C ends it");
            }
        }
        None => {}
    }
    // A console that nobody reads would hold the guest up.
    console.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut bytes = [0; 4096];
    loop {
        match (&console).read(&mut bytes) {
            Ok(0) => break,
            Ok(len) => show(&bytes[..len]),
            Err(e)
                if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) => {}
            Err(_) => break,
        }
        if interrupted.load(Ordering::Relaxed) {
            bail!("interrupted: the disk is as the installer left it");
        }
        if late() {
            bail!(too_late(args));
        }
    }
    let left = guest.process.map(|process| process::wait_gone(&[process], Duration::from_secs(20)));
    if left.is_some_and(|left| !left.is_empty()) {
        bail!("QEMU closed the console and does not end");
    }
    if let Some(failure) = failure(guest) {
        return Err(failure);
    }
    let said = runner::tail(&guest.qemu_log, 8);
    if !said.is_empty() && start.elapsed() < Duration::from_secs(5) {
        bail!("QEMU ended at once:\n  {}", said.join("\n  "));
    }
    Ok(start.elapsed())
}

/// That QEMU has not ended well, if so: killed, out of memory, a bug of its own.
fn failure(guest: &GuestRecord) -> Option<anyhow::Error> {
    let how = guest.process.and_then(process::failure)?;
    let said = runner::last_words(&guest.qemu_log);
    Some(anyhow!("QEMU ended with {how}, and the disk is as the installer left it{said}"))
}

fn too_late(args: &InstallArgs) -> String {
    format!("the installer did not power down within {} (--timeout)", clock::short(args.timeout))
}

fn report(
    target: &Target,
    lab: &Lab,
    guest: &Guest,
    took: Duration,
    done: Option<&Regex>,
    log: &Path,
) -> Result<()> {
    if let Some(done) = done {
        let said = fs::read(log).unwrap_or_default();
        if !done.is_match(&String::from_utf8_lossy(&said)) {
            bail!(
                "the installer ended, and `{done}` was not on its console ({}):\n    {}",
                log.display(),
                runner::tail(log, 8).join("\n    ")
            );
        }
    }
    let image = guest.image().unwrap_or(Path::new("")).display().to_string();
    if target.global.json {
        return print_json(&json!({
            "lab": lab.name, "guest": guest.name, "image": image, "took_s": took.as_secs(), "log": log,
        }));
    }
    print(&format!("installed into {image} in {}; next: vlab up\n", clock::short(took)));
    Ok(())
}

impl InstallArgs {
    /// Where the screen is seen, by default.
    pub fn parse_display(text: &str) -> Result<Display, String> {
        let found = Display::ALL.into_iter().find(|(name, _)| *name == text);
        found.map(|(_, display)| display).ok_or_else(|| "it is one of none, window, vnc".to_owned())
    }
}
