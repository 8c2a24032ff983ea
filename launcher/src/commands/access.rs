//! `vlab ssh`, `exec`, `cp`, `ssh-config` and `guest-config`.

use std::process::{Command as Child, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::json;
use vlab::command::quote;
use vlab::identity::{self, Content, render::Renderer};
use vlab::places::Drop;
use vlab::privilege;
use vlab::ssh::{Access, place};

use super::target::Target;
use super::{print, print_json};

/// How all guests of the lab are reached.
fn all(target: &Target) -> Result<Vec<Access>> {
    let store = target.up()?;
    let known_hosts = target.roots.lab(&store.state.lab).known_hosts();
    let guests = store.state.guests.iter();
    Ok(guests.filter_map(|guest| Access::of(&store.state.lab, guest, &known_hosts)).collect())
}

fn one(target: &Target, guest: &str) -> Result<Access> {
    target.guest(guest)?;
    let found = all(target)?.into_iter().find(|access| access.name == guest);
    found.with_context(|| {
        format!("guest {guest} has no internet NIC, through which ssh goes: internet = true")
    })
}

/// A command as the lab's user, with root's rights laid aside for good.
fn child(target: &Target, argv: &[String]) -> Child {
    let mut words: Vec<String> = Vec::new();
    if let Drop::To { uid, gid } = target.user.drop {
        words.extend(["setpriv".to_owned(), format!("--reuid={uid}"), format!("--regid={gid}")]);
        words.push("--init-groups".to_owned());
    }
    words.extend(argv.iter().cloned());
    let mut child = Child::new(&words[0]);
    child.args(&words[1..]);
    child
}

/// Runs `argv` on our terminal; its exit code is ours.
fn run(target: &Target, argv: &[String]) -> Result<ExitCode> {
    let mut child = child(target, argv);
    let status = privilege::with_root(&target.user.drop, || child.status())?
        .with_context(|| format!("cannot run {} (package openssh-client)", argv[0]))?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(255)))
}

/// A shell in the guest, or a command on its terminal.
pub fn ssh(target: &Target, guest: &str, command: &[String]) -> Result<ExitCode> {
    let access = one(target, guest)?;
    let argv = access.ssh(command);
    if target.global.json {
        print_json(&json!({ "access": access, "command": argv }))?;
        return Ok(ExitCode::SUCCESS);
    }
    run(target, &argv)
}

/// A command in the guest, for programs.
pub fn exec(target: &Target, guest: &str, command: &[String]) -> Result<ExitCode> {
    let argv = one(target, guest)?.exec(command);
    if !target.global.json {
        return run(target, &argv);
    }
    let mut child = child(target, &argv);
    child.stdin(Stdio::inherit()).stderr(Stdio::piped());
    let output = privilege::with_root(&target.user.drop, || child.output())?
        .context("cannot run ssh (package openssh-client)")?;
    print_json(&json!({
        "guest": guest,
        "status": output.status.code(),
        "stdout": String::from_utf8_lossy(&output.stdout),
        "stderr": String::from_utf8_lossy(&output.stderr),
    }))?;
    Ok(ExitCode::from(output.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(255)))
}

/// The guest that `path` names. What is there under the whole of it is a file of ours.
fn guest_of(path: &str) -> Option<&str> {
    place(path).filter(|_| std::fs::symlink_metadata(path).is_err())
}

/// Copies files to or from one guest.
pub fn copy(target: &Target, recursive: bool, paths: &[String]) -> Result<ExitCode> {
    let mut names: Vec<&str> = paths.iter().filter_map(|path| guest_of(path)).collect();
    names.sort_unstable();
    names.dedup();
    match names.as_slice() {
        [name] => {
            let access =
                one(target, name).with_context(|| format!("{name}: (what is here is written ./{name}:…)"))?;
            let code = run(target, &access.copy(recursive, paths))?;
            if target.global.json && code == ExitCode::SUCCESS {
                print_json(&json!({ "guest": access.name, "paths": paths }))?;
            }
            Ok(code)
        }
        [] => bail!("none of the paths is in a guest: write GUEST:PATH"),
        _ => bail!("copying goes to or from one guest at a time"),
    }
}

/// Prints what `ssh -F` reads.
pub fn config(target: &Target) -> Result<()> {
    let all = all(target)?;
    if target.global.json {
        return print_json(&all);
    }
    print(&all.iter().map(Access::config).collect::<Vec<_>>().join("\n"));
    Ok(())
}

/// Prints an Ansible inventory.
pub fn inventory(target: &Target) -> Result<()> {
    let lab = target.up()?.state.lab;
    let all = all(target)?;
    if target.global.json {
        let hosts: Vec<&str> = all.iter().map(|access| access.name.as_str()).collect();
        let variables: serde_json::Map<String, serde_json::Value> =
            all.iter().map(|access| (access.name.clone(), json!(access.ansible()))).collect();
        return print_json(
            &json!({ lab.replace('-', "_"): { "hosts": hosts }, "_meta": { "hostvars": variables } }),
        );
    }
    print(&format!("[{}]\n", lab.replace('-', "_")));
    for access in all {
        let words: Vec<String> =
            access.ansible().iter().map(|(key, value)| format!("{key}={}", quote(value))).collect();
        print(&format!("{} {}\n", access.name, words.join(" ")));
    }
    Ok(())
}

/// Prints the files that configure a guest's networks.
pub fn guest_config(target: &Target, guest: &str, renderer: Renderer) -> Result<()> {
    let (lab, _) = target.lab()?;
    let names: Vec<&str> = lab.guests.iter().map(|guest| guest.name.as_str()).collect();
    let found = lab.guests.iter().find(|it| it.name == guest);
    let found =
        found.with_context(|| format!("there is no guest {guest}; there are: {}", names.join(", ")))?;
    let files = identity::render::files(&identity::of(&lab, found), renderer);
    if target.global.json {
        return print_json(&files);
    }
    for file in files {
        print(&match file.content {
            Content::Text(text) => format!("# {} (mode {:04o})\n{text}\n", file.path, file.mode),
            Content::Link(to) => format!("# {} -> {to}\n\n", file.path),
        });
    }
    Ok(())
}
