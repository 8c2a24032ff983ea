//! `vswitch reload` and SIGHUP: the file is read again, whole or not at all; and
//! `vswitch run --json`.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use vswitch_tests::clock::wait_until;
use vswitch_tests::process::{Switch, binary, end_child};
use vswitch_tests::require;
use vswitch_tests::user::Ordinary;

const SOON: Duration = Duration::from_secs(20);

/// A switch of an ordinary user with a configuration file. Fields are dropped in
/// this order.
struct Rig {
    switch: Switch,
    user: Ordinary,
    file: PathBuf,
}

impl Rig {
    fn new(switch: &str) -> Result<Rig> {
        let user = Ordinary::new()?;
        let file = user.home().join("vswitch.toml");
        std::fs::write(&file, text(&user, &["a", "b"], switch))?;
        user.give(&file)?;
        let path = file.display().to_string();
        let switch = Switch::start_as(&user, &["--log", "info", "--config", &path])?;
        Ok(Rig { switch, user, file })
    }

    fn write(&self, ports: &[&str], switch: &str) -> Result<()> {
        Ok(std::fs::write(&self.file, text(&self.user, ports, switch))?)
    }

    /// Names of the ports, sorted, and the ageing time.
    fn state(&self) -> Result<Value> {
        let show = self.switch.json(&["show"])?;
        let ports = show["ports"].as_array().context("ports")?;
        let mut names: Vec<&str> = ports.iter().filter_map(|port| port["name"].as_str()).collect();
        names.sort_unstable();
        Ok(json!([names, show["ageing"]]))
    }

    /// What the journal says of reloads.
    fn reloads(&self) -> Result<Vec<Value>> {
        let output = self.switch.client(&[
            "events",
            "--json",
            "--kind",
            "config_reloaded",
            "--kind",
            "reload_refused",
        ])?;
        let lines = String::from_utf8(output.stdout)?;
        lines.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}

fn text(user: &Ordinary, ports: &[&str], switch: &str) -> String {
    let port = |name: &&str| format!("\"stream:{}/{name}.sock\"", user.home().display());
    let ports: Vec<String> = ports.iter().map(port).collect();
    format!("ports = [{}]\n[switch]\n{switch}\n", ports.join(", "))
}

#[test]
fn a_reload_changes_what_the_file_changed_and_says_so() -> Result<()> {
    require!(root);
    let rig = Rig::new("ageing = \"300s\"")?;
    ensure!(rig.switch.json(&["reload"])?["changes"] == json!([]), "nothing to do");
    rig.write(&["b", "c"], "ageing = \"60s\"")?;
    let changed = rig.switch.json(&["reload"])?;
    ensure!(
        changed["changes"] == json!(["ageing: 300s -> 60s", "port a: removed", "port c: added"]),
        "{changed}"
    );
    ensure!(rig.state()? == json!([["b", "c"], "60s"]));
    // What a client changed and the file does not say is undone.
    rig.switch.json(&["set", "ageing", "9s"])?;
    let output = rig.switch.client(&["reload"])?;
    let expected = format!("{}: 1 change\n  ageing: 9s -> 60s\n", rig.file.display());
    ensure!(String::from_utf8(output.stdout)? == expected);
    let events = rig.reloads()?;
    ensure!(
        events.len() == 3 && events.iter().all(|event| event["event"] == "config_reloaded"),
        "{events:?}"
    );
    ensure!(rig.switch.stop()?.status.success());
    Ok(())
}

#[test]
fn a_file_with_a_fault_changes_nothing() -> Result<()> {
    require!(root);
    let rig = Rig::new("ageing = \"300s\"")?;
    let refused = |expected: &str, hint: &str| -> Result<()> {
        let output = rig.switch.client(&["reload", "--json"])?;
        let reply: Value = serde_json::from_slice(&output.stdout)?;
        ensure!(output.status.code() == Some(1) && reply["reply"] == "error", "{reply}");
        ensure!(reply["error"].as_str().is_some_and(|error| error.contains(expected)), "{reply}");
        ensure!(reply["hint"].as_str().is_some_and(|text| text.contains(hint)), "{reply}");
        ensure!(rig.state()? == json!([["a", "b"], "300s"]), "nothing is half applied");
        Ok(())
    };
    rig.write(&["b"], "agein = \"60s\"")?;
    refused("vswitch.toml:3:1: unknown key `agein`", "did you mean `ageing`?")?;
    rig.write(&["b"], "ageing = \"60s\"\nfdb_size = 9")?;
    refused("only a restart can change fdb_size: 8192 -> 9", "nothing was changed")?;
    // The file is in order, a device is not: what came before it is undone.
    rig.write(&["b", "no/such/dir/c"], "ageing = \"60s\"")?;
    refused("port c: ", "")?;
    std::fs::remove_file(&rig.file)?;
    refused("vswitch.toml: No such file", "")?;
    ensure!(rig.reloads()?.iter().all(|event| event["event"] == "reload_refused"));

    let plain = Switch::start_as(&rig.user, &["--port", "stream:/nonexistent"]);
    ensure!(plain.is_err());
    let path = rig.user.home().join("p.sock").display().to_string();
    let plain = Switch::start_as(&rig.user, &["--port", &format!("stream:{path}")])?;
    let stderr = String::from_utf8(plain.client(&["reload"])?.stderr)?;
    ensure!(
        stderr.starts_with("error: this switch was started without a configuration file\n  "),
        "{stderr}"
    );
    Ok(())
}

#[test]
fn sighup_reloads_a_switch_that_has_a_file() -> Result<()> {
    require!(root);
    let mut rig = Rig::new("ageing = \"300s\"")?;
    let hup = |rig: &Rig| -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(rig.switch.pid())?).context("pid")?;
        Ok(kill_process(pid, Signal::HUP)?)
    };
    rig.write(&["a"], "ageing = \"60s\"")?;
    hup(&rig)?;
    rig.switch.wait_stderr("port b: removed", SOON)?;
    ensure!(rig.state()? == json!([["a"], "60s"]));
    rig.write(&["a"], "agein = \"1s\"")?;
    hup(&rig)?;
    rig.switch.wait_stderr("unknown key `agein`", SOON)?;
    ensure!(rig.switch.is_running() && rig.state()? == json!([["a"], "60s"]));
    ensure!(rig.switch.stop()?.status.success());
    Ok(())
}

#[test]
fn run_speaks_json_to_machines() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let control = dir.path().join("c.sock");
    let run = |port: &str| -> Result<std::process::Child> {
        let mut command = Command::new(binary("vswitch")?);
        command.args(["run", "--json", "--name", &format!("json-{}", std::process::id()), "--port", port]);
        command.arg("--control").arg(&control);
        Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
    };
    let mut child = run(&format!("stream:{}", dir.path().join("p.sock").display()))?;
    if let Err(error) = wait_until("the switch", SOON, || control.exists()) {
        end_child(&mut child);
        return Err(error);
    }
    let pid = child.id();
    kill_process(Pid::from_raw(i32::try_from(pid)?).context("pid")?, Signal::TERM)?;
    let output = child.wait_with_output()?;
    let stdout = String::from_utf8(output.stdout)?;
    let lines: Vec<Value> = stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(output.status.success() && lines.len() == 2, "{stdout}");
    ensure!(lines[0]["event"] == "ready" && lines[0]["ports"] == 1 && lines[0]["pid"] == pid, "{}", lines[0]);
    ensure!(lines[0]["control"] == json!(control), "{}", lines[0]);
    ensure!(lines[1]["event"] == "summary" && lines[1]["ports"][0]["name"] == "p", "{}", lines[1]);
    ensure!(lines[1]["total"]["rx"] == 0, "{}", lines[1]);

    let output = run("nonsense:x")?.wait_with_output()?;
    let reply: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(output.status.code() == Some(2) && reply["reply"] == "error", "{reply}");
    Ok(())
}
