//! What is not opened, and what the user reads then: each message names what is
//! in the way, and its line, typed as printed, takes it out of the way.

use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use vswitch::port::OpenOptions;
use vswitch_tests::netns::{Netns, veth};
use vswitch_tests::process::binary;
use vswitch_tests::require;

use crate::lifecycle::{name, start};
use crate::opened::{open, options, refusal};

/// A namespace with veth pair `sw`–`e0`, and a bridge where there is one.
fn host() -> Result<Netns> {
    let ns = Netns::with_ipv6("refuse")?;
    veth(&ns, "sw", &ns, "e0")?;
    ns.up("sw")?;
    ns.up("e0")?;
    ns.wait_running("sw")?;
    Ok(ns)
}

#[test]
fn an_interface_in_use_is_freed_by_the_line_that_is_printed() -> Result<()> {
    require!(root);
    let ns = host()?;
    let opts = options("refuse");
    let uses = [
        ("ip link add br0 type bridge; ip link set sw master br0", "sw belongs to br0"),
        ("ip addr add 192.0.2.1/24 dev sw", "sw has address 192.0.2.1/24"),
        ("ip addr add 2001:db8::1/64 dev sw nodad", "sw has address 2001:db8::1/64"),
        ("ip addr add fe80::99/64 dev sw nodad", "sw has address fe80::99/64"),
        ("ip link add link sw name upper type macvlan", "sw carries macvlan upper"),
        ("ip route add 198.51.100.0/24 dev sw", "sw carries a route"),
        ("ip -6 route add 2001:db8:1::/64 dev sw", "sw carries a route"),
    ];
    for (commands, why) in uses {
        // The address that comes by itself is no use of it.
        drop(open(&ns, "netdev:sw", &opts).with_context(|| format!("before {commands}"))?);
        for command in commands.split("; ") {
            ns.run(command)?;
        }
        for spec in ["netdev:sw", "sw"] {
            let text = refusal(&ns, spec, &opts)?;
            ensure!(text.starts_with(why) && text.contains("takeover=true"), "{commands}: {text}");
        }
        let taken = open(&ns, "netdev:sw", &OpenOptions { takeover: true, ..opts.clone() })?;
        drop(taken.close());
        let text = refusal(&ns, "netdev:sw", &opts)?;
        let (_, fix) = text.split_once("free it with ").context(text.clone())?;
        let (fix, _) = fix.split_once(", or").context(text.clone())?;
        ensure!(fix.starts_with("ip "), "{fix}");
        ns.run(fix)?;
        if ns.has("br0") {
            ns.run("ip link del br0")?;
        }
    }
    drop(open(&ns, "netdev:sw", &opts)?);
    Ok(())
}

#[test]
fn what_is_no_port() -> Result<()> {
    require!(root, tun);
    let ns = host()?;
    for (spec, words) in [
        ("lo", "lo carries no Ethernet frames"),
        ("netdev:lo", "lo carries no Ethernet frames"),
        ("netdev:absent", "there is no interface absent"),
        ("tap:sw", "did you mean --port netdev:sw?"),
    ] {
        let text = refusal(&ns, spec, &options("refuse"))?;
        ensure!(text.contains(words), "{spec}: {text}");
        // No way round it.
        let options = OpenOptions { takeover: true, ..options("refuse") };
        ensure!(refusal(&ns, spec, &options)? == text);
    }
    ensure!(!ns.has("absent"));
    // The user sees it behind the port's name, and the exit code says failed.
    let error = format!("{:#}", start(&ns, &name("refuse"), "--port lo,name=x").err().context("started")?);
    ensure!(error.contains("error: port x: lo carries no Ethernet"), "{error}");
    // The key does it, too.
    ns.run("ip addr add 192.0.2.1/24 dev sw")?;
    ensure!(start(&ns, &name("refuse"), "--port netdev:sw").is_err());
    let switch = start(&ns, &name("refuse"), "--port netdev:sw,takeover=true")?;
    ensure!(switch.stop()?.status.success());
    Ok(())
}

/// `vswitch run` without `capabilities`, or without any.
fn without(ns: &Netns, capabilities: &str, port: &str) -> Result<Output> {
    let dir = tempfile::tempdir()?;
    let mut command = ns.command("setpriv");
    command.args(["--bounding-set", capabilities, "--inh-caps", capabilities, "--"]);
    command.arg(binary("vswitch")?).args(["run", "--name", &name("rights"), "--port", port]);
    command.arg("--control").arg(dir.path().join("s"));
    // Should it start after all, it does not stay.
    command.env("XDG_RUNTIME_DIR", dir.path());
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    let mut child = vswitch_tests::start::spawn(&mut command)?;
    let ended = vswitch_tests::clock::wait_until("it to end", crate::opened::SOON, || {
        matches!(child.try_wait(), Ok(Some(_)))
    });
    vswitch_tests::process::end_child(&mut child);
    ended.with_context(|| format!("{capabilities} {port}"))?;
    Ok(child.wait_with_output()?)
}

#[test]
fn a_missing_capability_is_named_with_the_line_that_grants_it() -> Result<()> {
    require!(root, tun, "setpriv");
    let ns = host()?;
    // Another user's: one without an owner is everybody's.
    ns.run("ip tuntap add t9 mode tap user 4242")?;
    let setcap = "sudo setcap cap_net_admin,cap_net_raw,cap_bpf+ep $(command -v vswitch)";
    for (capabilities, port, words) in [
        ("-all", "t0", "error: port t0: creating t0 needs CAP_NET_ADMIN\n"),
        ("-net_admin", "t0", "creating t0 needs CAP_NET_ADMIN\n"),
        ("-all", "netdev:sw", "error: port sw: opening a packet socket on sw needs CAP_NET_RAW\n"),
        ("-net_raw", "netdev:sw", "opening a packet socket on sw needs CAP_NET_RAW\n"),
        ("-net_raw", "t0", "opening a packet socket on t0 needs CAP_NET_RAW\n"),
        ("-all", "tap:t9", "error: port t9: opening t9 needs CAP_NET_ADMIN\n"),
        ("-all", "tap:t0", "error: port t0: opening t0 needs CAP_NET_ADMIN\n"),
        ("-net_admin", "netdev:sw,mtu=1400", "setting sw's MTU to 1400 needs CAP_NET_ADMIN\n"),
    ] {
        let output = without(&ns, capabilities, port)?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(1), "{capabilities} {port}: {:?} {text}", output.status);
        ensure!(text.contains(words) && text.contains(setcap), "{capabilities} {port}: {text}");
        ensure!(!ns.has("t0"), "{capabilities} {port} left a TAP");
    }
    Ok(())
}
