//! `vswitch reload` on real devices: what it refuses it leaves as it was, down
//! to the number and the addresses of an interface.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::NamedTempFile;
use vswitch_tests::flow::Device;
use vswitch_tests::netns::{Netns, veth};
use vswitch_tests::process::Switch;
use vswitch_tests::require;

use crate::lifecycle::{name, start};

/// A switch with a configuration file, in a namespace.
struct Rig {
    switch: Switch,
    file: NamedTempFile,
    ns: Netns,
}

impl Rig {
    fn new(tag: &str, ports: &[&str]) -> Result<Rig> {
        Rig::on(Netns::new(tag)?, tag, ports)
    }

    fn on(ns: Netns, tag: &str, ports: &[&str]) -> Result<Rig> {
        let file = NamedTempFile::new()?;
        std::fs::write(file.path(), format!("ports = {ports:?}\n"))?;
        let switch = start(&ns, &name(tag), &format!("--config {}", file.path().display()))?;
        Ok(Rig { switch, file, ns })
    }

    /// Reloads a file with `ports`; what was changed.
    fn reload(&self, ports: &[&str]) -> Result<Value> {
        std::fs::write(self.file.path(), format!("ports = {ports:?}\n"))?;
        Ok(self.switch.json(&["reload"])?["changes"].clone())
    }

    /// The same with one that is refused; why.
    fn refused(&self, ports: &[&str]) -> Result<String> {
        std::fs::write(self.file.path(), format!("ports = {ports:?}\n"))?;
        let output = self.switch.client(&["reload"])?;
        ensure!(!output.status.success(), "{ports:?} was taken");
        Ok(String::from_utf8(output.stderr)?)
    }

    /// Names of the ports, sorted.
    fn ports(&self) -> Result<Vec<String>> {
        let show: vswitch::control::Show = serde_json::from_value(self.switch.json(&["show"])?)?;
        let mut names: Vec<String> = show.ports.into_iter().map(|port| port.name).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn mtu(&self, device: &str) -> Result<u64> {
        Ok(self.ns.device(device)?.mtu())
    }

    /// Number and addresses of an interface.
    fn identity(&self, device: &str) -> Result<String> {
        let shown: Value = serde_json::from_str(&self.ns.run(&format!("ip -j addr show dev {device}"))?)?;
        let found = shown.as_array().and_then(|list| list.iter().find(|it| it["ifname"] == device));
        let found = found.with_context(|| format!("no {device}"))?;
        Ok(format!("{} {}", found["ifindex"], found["addr_info"]))
    }
}

#[test]
fn a_refused_reload_leaves_every_device_as_it_was() -> Result<()> {
    require!(root, tun);
    let rig = Rig::new("refused", &["tap0", "tap:host0", "tap:host1"])?;
    rig.ns.address("host0", "10.9.0.1/24")?;
    rig.ns.address("host1", "10.9.1.1/24")?;
    let before = [rig.identity("host0")?, rig.identity("host1")?];
    ensure!(before[0].contains("10.9.0.1"), "{before:?}");
    for (ports, why) in [
        // A device that is not there; one that opens first is closed again.
        (["tap0", "t9", "netdev:absent"], "there is no interface absent"),
        // Another one behind the name of a port.
        (["tap0", "netdev:absent,name=host0", "tap:host1"], "there is no interface absent"),
        // A port that stays, and cannot do what it should.
        (["tap0,mtu=65535", "tap:host1", "t9"], "does not take mtu 65535"),
    ] {
        let told = rig.refused(&ports)?;
        ensure!(told.contains(why), "{told}");
        ensure!(rig.ports()? == ["host0", "host1", "tap0"] && !rig.ns.has("t9"), "{ports:?}");
        let now = [rig.identity("host0")?, rig.identity("host1")?];
        ensure!(now == before, "{ports:?}: {before:?}, now {now:?}");
    }
    // Nor does it cost a device anything to be told what it is.
    rig.switch.json(&["port", "set", "host0", "offloads=true", "address=none"])?;
    ensure!(rig.reload(&["tap0", "tap:host0,offloads=on", "tap:host1"])?.to_string() == "[]");
    ensure!(rig.identity("host0")? == before[0]);
    Ok(())
}

#[test]
fn what_gives_its_device_up_is_closed_before_it_is_opened_again() -> Result<()> {
    require!(root, tun);
    let ns = Netns::new("exchange")?;
    veth(&ns, "sw", &ns, "e0")?;
    let rig = Rig::on(ns, "exchange", &["netdev:sw,name=a", "tap0,name=b", "tap:h0,address=10.9.0.1/24"])?;
    // Devices are exchanged, and an address moves to another device.
    let changes = rig.reload(&["tap0,name=a", "netdev:sw,name=b", "tap:h1,address=10.9.0.1/24"])?;
    ensure!(changes.to_string().contains("port a: opened anew"), "{changes}");
    ensure!(rig.ports()? == ["a", "b", "h1"] && !rig.ns.has("h0"));
    ensure!(rig.identity("h1")?.contains("10.9.0.1"));
    ensure!(rig.switch.stop()?.status.success() && !rig.ns.has("tap0"));
    Ok(())
}

#[test]
fn many_ports_leave_at_once_and_none_is_left_behind_unsaid() -> Result<()> {
    require!(root, tun);
    let taps: Vec<String> = (0..40).map(|number| format!("t{number}")).collect();
    let ports: Vec<&str> = taps.iter().map(String::as_str).collect();
    let rig = Rig::new("many", &ports)?;
    let _guest = Device::tap(&rig.ns, "t7")?;
    std::fs::write(rig.file.path(), "ports = [\"t39\"]\n")?;
    let changed = rig.switch.json(&["reload"])?;
    let notes = changed["notes"].as_array().context("notes")?;
    ensure!(notes.len() == 1 && notes[0].to_string().contains("t7: left, "), "{changed}");
    let left: Vec<&str> = ports.iter().copied().filter(|tap| rig.ns.has(tap)).collect();
    ensure!(left == ["t7", "t39"] && rig.ports()? == ["t39"], "{left:?}");
    Ok(())
}

#[test]
fn an_mtu_lasts_as_long_as_the_port_wants_it() -> Result<()> {
    require!(root, tun);
    let ns = Netns::new("mtu")?;
    for number in 0..3 {
        veth(&ns, &format!("sw{number}"), &ns, &format!("e{number}"))?;
    }
    ns.run("ip link set sw0 mtu 1400")?;
    ns.run("ip tuntap add kept mode tap")?;
    let rig = Rig::on(ns, "mtu", &["tap0", "tap1", "netdev:sw0", "netdev:sw1,mtu=9000", "tap:kept"])?;
    let plain = ["tap0", "tap1", "netdev:sw0", "netdev:sw1", "tap:kept"];
    ensure!(rig.mtu("sw1")? == 9_000);
    // Of two ports that stay, the second refuses.
    let told = rig.refused(&["tap0,mtu=9000", "tap1,mtu=65535", "netdev:sw0", "netdev:sw1,mtu=9000"])?;
    ensure!(told.contains("port tap1: its device does not take mtu 65535"), "{told}");
    ensure!((rig.mtu("tap0")?, rig.mtu("tap1")?, rig.mtu("sw1")?) == (1_500, 1_500, 9_000));
    // What a client set and the file does not say, over two steps.
    for mtu in ["mtu=9000", "mtu=2000"] {
        for port in ["sw0", "kept"] {
            rig.switch.json(&["port", "set", port, mtu])?;
        }
    }
    ensure!((rig.mtu("sw0")?, rig.mtu("kept")?) == (2_000, 2_000));
    let changes = rig.reload(&plain)?.to_string();
    ensure!(
        changes.contains("sw0: mtu 2000 -> auto") && changes.contains("sw1: mtu 9000 -> auto"),
        "{changes}"
    );
    ensure!((rig.mtu("sw0")?, rig.mtu("sw1")?, rig.mtu("kept")?) == (1_400, 1_500, 1_500));
    ensure!(rig.switch.json(&["port", "show", "sw0"])?["ports"][0]["mtu"] == 1_400);
    // What somebody else has set since is theirs.
    rig.switch.json(&["port", "set", "sw0", "mtu=9000"])?;
    rig.ns.run("ip link set sw0 mtu 3000")?;
    rig.switch.json(&["port", "set", "sw0", "mtu=auto"])?;
    ensure!(rig.mtu("sw0")? == 3_000);
    // A port that is deleted, one that does not open, and the end.
    for port in ["sw0", "sw1", "kept"] {
        rig.switch.json(&["port", "set", port, "mtu=4000"])?;
    }
    rig.switch.json(&["port", "del", "sw0"])?;
    ensure!(rig.mtu("sw0")? == 3_000);
    let output = rig.switch.client(&["port", "add", "netdev:sw2,mtu=9000,name=sw1"])?;
    ensure!(!output.status.success() && rig.mtu("sw2")? == 1_500);
    let refused = rig.refused(&["netdev:sw2,mtu=9000", "netdev:absent"])?;
    ensure!(refused.contains("absent") && rig.mtu("sw2")? == 1_500, "{refused}");
    let ended = rig.switch.stop()?;
    ensure!(ended.status.success() && !ended.stderr.contains("MTU stays"), "{}", ended.stderr);
    let mtu = |device: &str| rig.ns.device(device).map(|shown| shown.mtu());
    ensure!((mtu("sw1")?, mtu("kept")?) == (1_500, 1_500));
    Ok(())
}
