//! `--json` on every command of `vlab`: whatever it is asked, and whether it
//! succeeds or fails, what it writes to stdout can be read by a program.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::os::unix::net::UnixStream;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Deserializer, Value};
use vswitch_tests::qemu::{Turn, images};
use vswitch_tests::require;

use crate::rig::{LIMIT, Lab};

/// Runs `words` with `--json`; each value that was written, and the exit code.
fn ask(lab: &Lab, words: &[&str]) -> Result<(Vec<Value>, i32)> {
    let output = lab.try_words(&[&["--json"], words].concat())?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let values: Result<Vec<Value>, _> = Deserializer::from_str(&stdout).into_iter().collect();
    let values = values.with_context(|| format!("{words:?} wrote {stdout}"))?;
    Ok((values, output.status.code().context("it was killed")?))
}

/// The commands that `vlab help` lists, the help itself aside.
fn commands(lab: &Lab) -> Result<BTreeSet<String>> {
    let help = lab.vlab("help")?;
    let (_, list) = help.split_once("Commands:\n").context("no list of commands")?;
    let (list, _) = list.split_once("\n\n").context("no end of the list")?;
    let starts = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = starts.filter_map(|line| line.split_whitespace().next().map(str::to_owned));
    Ok(names.filter(|name| name != "help").collect())
}

#[test]
fn every_command_speaks_json() -> Result<()> {
    require!(root, tun, "qemu-system-x86_64");
    let _turn = Turn::take();
    let (kernel, initrd) = images()?;
    let lab = Lab::of(
        "json",
        &format!(
            r#"
[networks.lan]
subnet = "192.168.1.0/24"

[guests.zero]
kernel = "{}"
initrd = "{}"
cmdline = "console=ttyS0 quiet no_timer_check hostname={{name}} ip={{lan.address}} labmac={{lan.mac}}"
memory = "256M"
accel = "tcg"
display = "vnc"
ready = "console:guest: ready"
nics = [{{ network = "lan", address = "192.168.1.150" }}]
"#,
            kernel.display(),
            initrd.display()
        ),
    )?;
    let before = lab.traces()?;
    let (image, clone) = (lab.path("a.qcow2"), lab.path("b.qcow2"));
    let (image, clone) = (image.display().to_string(), clone.display().to_string());
    let (url, none) = (format!("file://{image}"), "0".repeat(64));
    let iso = lab.file.display().to_string();

    // Words, the exit code, and a key of the answer. What fails has `error`.
    let table: &[(&[&str], i32, &str)] = &[
        (&["init"], 1, "error"),
        (&["schema"], 0, "properties"),
        (&["plan"], 0, "steps"),
        (&["guest-config", "zero", "--format", "netplan"], 0, "path"),
        (&["guest-config", "one", "--format", "netplan"], 1, "error"),
        (&["disk", "create", &image, "--size", "8M"], 0, "virtual_size"),
        (&["disk", "create", &image, "--size", "8M"], 1, "error"),
        (&["disk", "clone", &image, &clone], 0, "base"),
        (&["disk", "info", &image], 0, "clones"),
        (&["disk", "resize", &clone, "16M"], 0, "virtual_size"),
        (&["disk", "snapshot", &clone, "--save", "one"], 0, "snapshots"),
        (&["disk", "snapshot", &clone], 0, "snapshots"),
        (&["disk", "fetch", &url, &clone, "--sha256", &none], 1, "error"),
        (&["install", "zero", "--iso", &iso], 1, "error"),
        (&["status"], 0, "up"),
        (&["console", "zero"], 1, "error"),
        (&["up"], 0, "guests"),
        (&["up"], 0, "guests"),
        (&["status"], 0, "switches"),
        (&["console", "zero"], 0, "socket"),
        (&["logs", "zero"], 0, "log"),
        (&["monitor", "zero", "info", "version"], 0, "said"),
        (&["link", "zero", "down"], 0, "up"),
        (&["link", "zero", "up"], 0, "nics"),
        (&["snapshot", "save", "one", "zero"], 1, "error"),
        (&["open", "zero"], 0, "vnc"),
        (&["ssh", "zero"], 0, "command"),
        // There is no ssh server in this guest.
        (&["exec", "zero", "true"], 255, "status"),
        (&["cp", "a", "b"], 1, "error"),
        (&["ssh-config"], 0, "port"),
        (&["inventory"], 0, "_meta"),
        (&["restart", "zero"], 0, "guests"),
        (&["down"], 0, "report"),
        (&["down", "--disks"], 0, "report"),
    ];
    for (words, code, key) in table {
        let (values, exit) = ask(&lab, words)?;
        ensure!(exit == *code, "{words:?} exits with {exit}: {values:?}");
        let answer = values.last().with_context(|| format!("{words:?} says nothing"))?;
        let first = answer.get(0).unwrap_or(answer);
        ensure!(first.get(key).is_some(), "{words:?} says nothing of {key}: {answer}");
        if words[0] == "open" {
            answers_as_vnc(answer)?;
        }
    }
    let tried: BTreeSet<String> = table.iter().map(|(words, ..)| words[0].to_owned()).collect();
    ensure!(tried == commands(&lab)?, "{tried:?} were tried of {:?}", commands(&lab)?);
    ensure!(lab.traces()? == before, "{:?} before, {:?} after", before, lab.traces()?);
    Ok(())
}

/// The screen that `vlab open` names is there.
fn answers_as_vnc(answer: &Value) -> Result<()> {
    let mut stream = UnixStream::connect(answer["vnc"].as_str().context("no socket")?)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut greeting = [0; 12];
    stream.read_exact(&mut greeting)?;
    ensure!(greeting.starts_with(b"RFB 003."), "{greeting:?}");
    Ok(())
}
