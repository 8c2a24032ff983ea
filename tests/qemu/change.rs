//! A lab that is up and whose file changes: only what differs is touched. And
//! what can be done to guests that run.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use vswitch_tests::clock::wait_until;
use vswitch_tests::qemu::{Turn, images};
use vswitch_tests::require;

use crate::rig::{LIMIT, Lab};

/// The lab file's guests: name, address, further keys.
fn text(guests: &[(&str, &str, &str)]) -> Result<String> {
    let (kernel, initrd) = images()?;
    let mut text = format!(
        r#"
[networks.lan]
subnet = "192.168.1.0/24"

[defaults]
kernel = "{}"
initrd = "{}"
cmdline = "console=ttyS0 quiet no_timer_check hostname={{name}} ip={{lan.address}} labmac={{lan.mac}}"
memory = "256M"
accel = "tcg"
ready = "console:guest: ready"
"#,
        kernel.display(),
        initrd.display(),
    );
    for (name, address, keys) in guests {
        text.push_str(&format!(
            "[guests.{name}]\nnics = [{{ network = \"lan\", address = \"{address}\" }}]\n{keys}\n"
        ));
    }
    Ok(text)
}

fn edit(lab: &Lab, guests: &[(&str, &str, &str)]) -> Result<()> {
    Ok(std::fs::write(&lab.file, format!("name = \"{}\"\n{}", lab.name, text(guests)?))?)
}

/// Each guest's pid, as `status` has it.
fn pids(lab: &Lab) -> Result<BTreeMap<String, i64>> {
    let status: serde_json::Value = serde_json::from_str(&lab.vlab("status --json")?)?;
    let guests = status["guests"].as_array().context("guests")?.iter();
    Ok(guests
        .filter_map(|guest| Some((guest["name"].as_str()?.to_owned(), guest["pid"].as_i64()?)))
        .collect())
}

const ZERO: (&str, &str, &str) = ("zero", "192.168.1.150", "");
const ONE: (&str, &str, &str) = ("one", "192.168.1.151", "");

#[test]
fn only_what_differs_is_changed() -> Result<()> {
    require!(root, tun, "qemu-system-x86_64");
    let _turn = Turn::take();
    let lab = Lab::of("change", &text(&[ZERO, ONE])?)?;
    let before = lab.traces()?;
    lab.vlab("up")?;
    let first = pids(&lab)?;
    ensure!(first.len() == 2, "{first:?}");

    // A host port: while the guest runs.
    edit(&lab, &[("zero", "192.168.1.150", "forwards = [\"18080:80\"]"), ONE])?;
    lab.vlab("up")?;
    ensure!(pids(&lab)? == first, "a forward restarted something");
    let forwards = lab.words(&["monitor", "zero", "info", "usernet"])?;
    ensure!(forwards.contains("HOST_FORWARD") && forwards.contains("18080"), "{forwards}");
    edit(&lab, &[ZERO, ONE])?;
    lab.vlab("up")?;
    let forwards = lab.words(&["monitor", "zero", "info", "usernet"])?;
    ensure!(!forwards.contains("18080"), "still open: {forwards}");

    // One that fails half-way goes on from there.
    let zero = |port: &str| -> Result<()> {
        let keys = format!("forwards = [\"{port}:80\"]");
        edit(&lab, &[("zero", "192.168.1.150", &keys), ONE])
    };
    zero("18080")?;
    lab.vlab("up")?;
    let held = lab.ns.enter(|| TcpListener::bind("127.0.0.1:18081"))?;
    zero("18081")?;
    let refused = lab.try_vlab("up")?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(!refused.status.success() && said.contains("18081"), "{said}");
    zero("18082")?;
    lab.vlab("up")?;
    let forwards = lab.words(&["monitor", "zero", "info", "usernet"])?;
    let open = ["18080", "18081", "18082"].map(|port| forwards.contains(port));
    ensure!(open == [false, false, true] && pids(&lab)? == first, "{forwards}");
    drop(held);
    edit(&lab, &[ZERO, ONE])?;
    lab.vlab("up")?;

    // Another guest, which talks to those that were there.
    edit(&lab, &[ZERO, ONE, ("two", "192.168.1.152", "")])?;
    lab.vlab("up")?;
    let three = pids(&lab)?;
    ensure!(three.len() == 3 && first.iter().all(|(name, pid)| three[name] == *pid), "{first:?} {three:?}");
    let ping = lab.console("zero")?.run("ping -c 3 192.168.1.152", LIMIT)?;
    ensure!(ping.contains(" 0% packet loss"), "{ping}");

    // What takes a restart is refused as a whole, and done when asked for.
    edit(&lab, &[("zero", "192.168.1.150", "memory = \"320M\""), ONE])?;
    let refused = lab.try_vlab("up")?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(!refused.status.success() && said.contains("guest zero: 320 instead of 256"), "{said}");
    ensure!(pids(&lab)? == three, "a refused change changed something");
    lab.vlab("up --recreate")?;
    let after = pids(&lab)?;
    ensure!(after.len() == 2 && after["one"] == first["one"] && after["zero"] != first["zero"], "{after:?}");
    let ping = lab.console("one")?.run("ping -c 3 192.168.1.150", LIMIT)?;
    ensure!(ping.contains(" 0% packet loss"), "{ping}");

    lab.vlab("down")?;
    ensure!(lab.traces()? == before, "{:?} before, {:?} after", before, lab.traces()?);
    Ok(())
}

#[test]
fn guests_are_restarted_revived_and_unplugged() -> Result<()> {
    require!(root, tun, "qemu-system-x86_64");
    let _turn = Turn::take();
    let lab = Lab::of("live", &text(&[ZERO, ONE])?)?;
    let before = lab.traces()?;
    lab.vlab("up")?;
    let first = pids(&lab)?;

    let mut console = lab.console("zero")?;
    for (to, carrier) in [("down", "0"), ("up", "1")] {
        lab.words(&["link", "zero", to, "--network", "lan"])?;
        console
            .run(&format!("until [ $(cat /sys/class/net/ens4/carrier) = {carrier} ]; do :; done"), LIMIT)?;
    }
    let ping = console.run("ping -c 3 192.168.1.151", LIMIT)?;
    ensure!(ping.contains(" 0% packet loss"), "{ping}");
    drop(console);
    ensure!(lab.try_words(&["link", "zero", "down", "--network", "wan"])?.status.code() == Some(1));

    lab.vlab("restart one")?;
    let restarted = pids(&lab)?;
    ensure!(restarted["zero"] == first["zero"] && restarted["one"] != first["one"], "{restarted:?}");

    // What differs in another guest is still to be done.
    let more = "memory = \"320M\"";
    edit(&lab, &[("zero", "192.168.1.150", more), ("one", "192.168.1.151", more)])?;
    lab.vlab("restart one")?;
    let refused = lab.try_vlab("up")?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(said.contains("guest zero: 320 instead of 256") && !said.contains("guest one"), "{said}");
    edit(&lab, &[ZERO, ("one", "192.168.1.151", more)])?;
    ensure!(lab.vlab("up")?.contains("is up already"), "zero is as the file says again");
    let restarted = pids(&lab)?;
    ensure!(restarted["zero"] == first["zero"], "{restarted:?}");

    let pid = i32::try_from(first["zero"])?;
    kill_process(Pid::from_raw(pid).context("a pid")?, Signal::KILL)?;
    wait_until("the killed guest to be gone", Duration::from_secs(20), || {
        pids(&lab).is_ok_and(|pids| !pids.contains_key("zero"))
    })?;
    lab.vlab("up").context("the dead one is started again")?;
    let revived = pids(&lab)?;
    ensure!(revived["one"] == restarted["one"] && revived.contains_key("zero"), "{revived:?}");
    let mut console = lab.console("one")?;
    let ping = console.run("ping -c 3 192.168.1.150", LIMIT)?;
    ensure!(ping.contains(" 0% packet loss"), "{ping}");
    // The switch, under guests that go on.
    let is_switch = |pid: &i32| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "vswitch")
    };
    for pid in lab.processes()?.into_iter().filter(is_switch).filter_map(Pid::from_raw) {
        kill_process(pid, Signal::KILL)?;
    }
    wait_until("the killed switch to be gone", Duration::from_secs(20), || {
        lab.processes().is_ok_and(|left| !left.iter().any(is_switch))
    })?;
    lab.vlab("up").context("a switch is started again")?;
    ensure!(pids(&lab)? == revived, "its guests were touched");
    let ping = console.run("ping -c 3 192.168.1.150", LIMIT)?;
    ensure!(ping.contains(" 0% packet loss"), "{ping}");
    drop(console);
    let log = lab.vlab("logs zero")?;
    ensure!(log.contains("guest: ready 192.168.1.150"), "{log}");

    lab.vlab("down")?;
    ensure!(lab.traces()? == before, "{:?} before, {:?} after", before, lab.traces()?);
    Ok(())
}
