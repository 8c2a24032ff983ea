//! The example of a guest as router, as it is shipped: three Debian guests, two
//! networks, and nothing but their seeds.

use std::path::Path;

use anyhow::{Result, ensure};
use vswitch_tests::qemu::{Turn, debian};
use vswitch_tests::require;

use crate::rig::Lab;

#[test]
#[ignore = "boots three Debian guests under TCG: --long"]
fn the_router_example_routes() -> Result<()> {
    require!(root, tun, "qemu-system-x86_64", "ssh");
    let _turn = Turn::take();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/router");
    let mut text = std::fs::read_to_string(example.join("lab.toml"))?;
    let lab = Lab::of("router", "")?;
    for (from, to) in [
        ("\"router\"", format!("\"{}\"", lab.name)),
        ("\"debian.qcow2\"", format!("\"{}\"", debian()?.display())),
        // Three at a time, without KVM.
        ("memory = \"512M\"", "memory = \"384M\"\naccel = \"tcg\"\ntimeout = \"15m\"".to_owned()),
    ] {
        ensure!(text.contains(from), "the example has no {from} any more");
        text = text.replace(from, &to);
    }
    std::fs::write(&lab.file, text)?;
    for name in ["gate.yml", "left.yml", "right.yml"] {
        std::fs::copy(example.join(name), lab.path(name))?;
    }
    let before = lab.traces()?;
    lab.vlab("up")?;

    let ask = |guest: &str, line: &str| lab.words(&["exec", guest, "--", "sh", "-c", line]);
    for (guest, peer, gate) in [("left", "10.1.2.20", "10.0.1.1"), ("right", "10.0.1.20", "10.1.2.1")] {
        ask(guest, "cloud-init status --wait >/dev/null || true")?;
        let ping = ask(guest, &format!("ping -c 3 {peer}"))?;
        ensure!(ping.contains(" 0% packet loss") && ping.contains("ttl=63"), "not by the router: {ping}");
        let route = ask(guest, &format!("ip route get {peer}"))?;
        ensure!(route.contains(&format!("via {gate} ")), "{route}");
        // Each knows the router by its address on the network that both are on.
        let known = ask(guest, "getent hosts gate")?;
        ensure!(known.starts_with(gate), "{known}");
    }
    lab.vlab("down --disks")?;
    ensure!(lab.traces()? == before, "{:?} before, {:?} after", before, lab.traces()?);
    Ok(())
}
