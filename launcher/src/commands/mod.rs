//! The commands: each puts the library's parts together and prints.

mod access;
mod change;
mod down;
mod images;
mod install;
mod live;
mod target;
mod up;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::CommandFactory;
use serde_json::json;
use vlab::console::{self, End};
use vlab::facts;
use vlab::lab;
use vlab::names;
use vlab::places::{Roots, User};
use vlab::plan;
use vlab::privilege;
use vlab::qmp::Qmp;
use vlab::say;
use vlab::state::GuestRecord;
use vlab::status;

use crate::cli::{Cli, Command, Global, UpOrDown};
use crate::commands::target::Target;

/// Runs what was typed.
///
/// # Errors
/// What to tell the user.
pub fn run(cli: &Cli) -> Result<ExitCode> {
    match &cli.command {
        Command::Completions { shell } => return completions(*shell, cli.global.json).map(done),
        Command::Man { folder } => return man(folder.as_deref(), cli.global.json).map(done),
        Command::Schema => {
            print(lab::SCHEMA);
            return Ok(done(()));
        }
        Command::Init
        | Command::Up { .. }
        | Command::Down { .. }
        | Command::Status { .. }
        | Command::Inventory
        | Command::Plan
        | Command::Console { .. }
        | Command::Logs { .. }
        | Command::Ssh { .. }
        | Command::Exec { .. }
        | Command::Cp { .. }
        | Command::SshConfig
        | Command::Restart { .. }
        | Command::Monitor { .. }
        | Command::Link { .. }
        | Command::Snapshot(_)
        | Command::Open { .. }
        | Command::Install(_)
        | Command::GuestConfig { .. }
        | Command::Disk(_) => {}
    }
    let user = User::from_env().map_err(anyhow::Error::msg)?;
    let roots = Roots::from_env(&user).map_err(anyhow::Error::msg)?;
    privilege::enter(&user.drop).context("cannot lay root's rights aside")?;
    let target = Target { global: cli.global.clone(), user, roots };
    let json = cli.global.json;
    match &cli.command {
        // Their exit code is the guest's.
        Command::Ssh { guest, command } => return access::ssh(&target, guest, command),
        Command::Exec { guest, command } => return access::exec(&target, guest, command),
        Command::Cp { recursive, paths } => return access::copy(&target, *recursive, paths),
        Command::Install(args) => install::run(&target, args),
        Command::SshConfig => access::config(&target),
        Command::GuestConfig { guest, format } => access::guest_config(&target, guest, *format),
        Command::Init => init(&cli.global),
        Command::Up { keep, recreate } => up::run(&target, *keep, *recreate),
        Command::Restart { guests } => live::restart(&target, guests),
        Command::Monitor { guest, command } => live::monitor(&target, guest, command),
        Command::Link { guest, network, to } => {
            live::link(&target, guest, network.as_deref(), matches!(to, UpOrDown::Up))
        }
        Command::Snapshot(what) => live::snapshot(&target, what),
        Command::Open { guest } => live::open(&target, guest),
        Command::Down { disks, grace } => down::run(&target, *disks, *grace),
        Command::Status { all: true } => all_labs(&target),
        Command::Status { all: false } => show_status(&target),
        Command::Inventory => access::inventory(&target),
        Command::Plan => show_plan(&target),
        Command::Console { guest } => attach(&target.guest(guest)?, json),
        Command::Logs { guest, qemu, follow } => logs(&target.guest(guest)?, *qemu, *follow, json),
        Command::Disk(disk) => images::run(disk, &target),
        Command::Completions { .. } | Command::Man { .. } | Command::Schema => Ok(()),
    }
    .map(done)
}

fn done((): ()) -> ExitCode {
    ExitCode::SUCCESS
}

/// Writes to stdout. A reader that went away is no error of ours.
pub fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Prints a value as JSON.
///
/// # Errors
/// It cannot be written as JSON.
fn print_json(value: &impl serde::Serialize) -> Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"));
    Ok(())
}

fn init(global: &Global) -> Result<()> {
    let path = global.lab.clone().unwrap_or_else(|| "lab.toml".into());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = fs::canonicalize(folder).with_context(|| folder.display().to_string())?;
    let name = names::to_name(&folder.file_name().unwrap_or_default().to_string_lossy());
    let text = format!(
        r#"name = "{name}"

[networks.lan]
subnet = "192.168.1.0/24"

[defaults]
base = "arch.qcow2"     # read-only; each guest gets a linked clone

[guests.zero]
nics = [{{ network = "lan", address = "192.168.1.150" }}]
[guests.one]
nics = [{{ network = "lan", address = "192.168.1.151" }}]
"#
    );
    let mut file = match fs::File::create_new(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            bail!("{} is there already; nothing was written", path.display())
        }
        Err(e) => return Err(e).with_context(|| path.display().to_string()),
    };
    file.write_all(text.as_bytes())?;
    let lab = lab::parse(&text, &path, &folder)?;
    for warning in facts::overlapping_routes(&lab) {
        say!("warning: {warning}");
    }
    if global.json {
        return print_json(
            &json!({ "file": path, "lab": lab.name, "guests": ["zero", "one"], "networks": ["lan"] }),
        );
    }
    print(&format!("wrote {}: guests zero, one; network lan 192.168.1.0/24\n", path.display()));
    Ok(())
}

fn show_plan(target: &Target) -> Result<()> {
    let (lab, _) = target.lab()?;
    let places = target.roots.lab(&lab.name);
    let recorded = target.store()?.map(|store| store.state);
    let facts = facts::gather(&lab, &target.user, places, recorded.as_ref())?;
    let steps = plan::plan(&lab, &facts)?;
    if target.global.json {
        return print_json(&json!({ "lab": lab.name, "steps": steps }));
    }
    print(&plan::script(&steps));
    Ok(())
}

fn show_status(target: &Target) -> Result<()> {
    let Some(store) = target.store()? else {
        let name = target.name_for_humans();
        if target.global.json {
            return print_json(&json!({ "lab": name, "up": false, "switches": [], "guests": [] }));
        }
        print(&format!("lab {name} is not up\n"));
        return Ok(());
    };
    let status = status::look(&store.state);
    if target.global.json {
        return print_json(&status);
    }
    print(&status::table(&status));
    Ok(())
}

/// A line for each lab of this user.
fn all_labs(target: &Target) -> Result<()> {
    let all: Vec<status::Status> = target.all().iter().map(|store| status::look(&store.state)).collect();
    if target.global.json {
        return print_json(&all);
    }
    if all.is_empty() {
        print("no lab is up\n");
        return Ok(());
    }
    let mut rows = vec![["LAB", "GUESTS", "SWITCHES", "FILE"].map(str::to_owned).to_vec()];
    for lab in &all {
        let up = |count: usize, of: usize| format!("{count} of {of} up");
        let guests = lab.guests.iter().filter(|guest| guest.state == status::GuestState::Up).count();
        let switches = lab.switches.iter().filter(|switch| switch.up).count();
        rows.push(vec![
            lab.lab.clone(),
            up(guests, lab.guests.len()),
            up(switches, lab.switches.len()),
            lab.file.display().to_string(),
        ]);
    }
    print(&status::columns(&rows));
    Ok(())
}

fn attach(guest: &GuestRecord, json: bool) -> Result<()> {
    let name = &guest.name;
    let path =
        guest.serial.as_ref().with_context(|| format!("guest {name} has no console: serial = false"))?;
    if json {
        return print_json(&json!({ "guest": name, "socket": path, "log": guest.console_log }));
    }
    let mut qmp =
        Qmp::connect(&guest.qmp, &guest.uuid).with_context(|| format!("guest {name} is not running"))?;
    // QEMU would let a second client wait in silence.
    if qmp.is_attached("serial")? {
        bail!("somebody is on the console of {name} already");
    }
    drop(qmp);
    let stream = std::os::unix::net::UnixStream::connect(path)?;
    say!("on the console of {name}; Ctrl-] leaves");
    let end = console::attach(&stream, None)?;
    say!();
    match end {
        End::Left => Ok(()),
        End::Closed => bail!("guest {name} ended"),
    }
}

fn logs(guest: &GuestRecord, qemu: bool, follow: bool, json: bool) -> Result<()> {
    let path = if qemu { Some(&guest.qemu_log) } else { guest.console_log.as_ref() };
    let path = path.with_context(|| format!("guest {} has no console: serial = false", guest.name))?;
    if json {
        return print_json(&json!({ "guest": guest.name, "log": path }));
    }
    let mut file = fs::File::open(path).with_context(|| path.display().to_string())?;
    loop {
        // Looked at first: what comes while we read is read in the next turn.
        let alive = follow && guest.process.is_some_and(|process| process.alive());
        if std::io::copy(&mut file, &mut std::io::stdout()).is_err() || std::io::stdout().flush().is_err() {
            // Whoever read it has gone.
            return Ok(());
        }
        if !alive {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

fn completions(shell: clap_complete::Shell, json: bool) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "vlab", &mut text);
    let text = String::from_utf8(text)?;
    if json {
        return print_json(&json!({ "shell": shell.to_string(), "script": text }));
    }
    print(&text);
    Ok(())
}

fn man(folder: Option<&Path>, json: bool) -> Result<()> {
    let Some(folder) = folder else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page)?;
        let page = String::from_utf8(page)?;
        if json {
            return print_json(&json!({ "page": page }));
        }
        print(&page);
        return Ok(());
    };
    clap_mangen::generate_to(Cli::command(), folder)?;
    if json {
        return print_json(&json!({ "folder": folder }));
    }
    Ok(())
}
