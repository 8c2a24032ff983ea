//! What the switch makes, adopts, leaves and removes: TAPs and filters over
//! starts, ends and kills, and never a thing that is not its own.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use vswitch::control::PortState;
use vswitch_tests::clock::wait_until;
use vswitch_tests::flow::Device;
use vswitch_tests::netns::{Netns, veth};
use vswitch_tests::process::Switch;
use vswitch_tests::require;

use crate::opened::{SOON, numbered, read_one, write_one};
use vswitch::offload::VnetHeader;

/// A switch's name that no other test has.
pub(crate) fn name(tag: &str) -> String {
    format!("vt-{}-{tag}", std::process::id())
}

/// Starts switch `name` with `args`, split at spaces.
pub(crate) fn start(ns: &Netns, name: &str, args: &str) -> Result<Switch> {
    let args: Vec<&str> = ["--name", name].into_iter().chain(args.split_whitespace()).collect();
    Switch::start(ns, &args)
}

/// State of port `port`.
pub(crate) fn state(switch: &Switch, port: &str) -> Result<PortState> {
    let show: vswitch::control::Show = serde_json::from_value(switch.json(&["show"])?)?;
    let found = show.ports.into_iter().find(|line| line.name == port);
    Ok(found.with_context(|| format!("no port {port}"))?.state)
}

pub(crate) fn wait_state(switch: &Switch, port: &str, wanted: PortState) -> Result<()> {
    wait_until(&format!("port {port} to be {}", wanted.name()), SOON, || {
        state(switch, port).is_ok_and(|found| found == wanted)
    })
    .with_context(|| switch.stderr())
}

/// What `ip` shows in detail of `device`.
fn details(ns: &Netns, device: &str) -> Result<Value> {
    Ok(ns.device(device)?.json().clone())
}

#[test]
fn a_bare_name_makes_a_tap_that_goes_with_the_switch() -> Result<()> {
    require!(root, tun);
    let ns = Netns::with_ipv6("made")?;
    let name = name("made");
    let switch = start(&ns, &name, "--owner 4242 --port t0 --port t1,mtu=1400")?;
    for (device, mtu) in [("t0", 1_500), ("t1", 1_400)] {
        let shown = ns.device(device)?;
        ensure!(shown.is_up() && !shown.is_running() && shown.mtu() == mtu, "{shown:?}");
        let alias = shown.alias();
        let run = alias.strip_prefix(&format!("vswitch:4242:{name}:")).unwrap_or_default();
        ensure!(run.len() == 8 && run.bytes().all(|byte| byte.is_ascii_hexdigit()), "{alias}");
        let shown = details(&ns, device)?;
        ensure!(shown["inet6_addr_gen_mode"] == "none", "{shown}");
        let tun = &shown["linkinfo"]["info_data"];
        ensure!(tun["persist"] == true && tun["user"].to_string().contains("4242"), "{tun}");
        ensure!(state(&switch, device)? == PortState::Down);
    }
    switch.wait_stderr("t0: created for uid 4242, down (no guest yet)", SOON)?;
    // A guest comes, and no address of the host's with it.
    let fd = Device::tap(&ns, "t0")?;
    wait_state(&switch, "t0", PortState::Up)?;
    ensure!(ns.run("ip addr show dev t0")?.matches("inet").count() == 0);
    drop(fd);
    wait_state(&switch, "t0", PortState::Down)?;
    let ended = switch.stop()?;
    ensure!(ended.status.success() && !ns.has("t0") && !ns.has("t1"), "{}", ended.stderr);
    Ok(())
}

/// The owner opens the TAP without any privilege, as QEMU does, and nobody else.
#[test]
fn a_tap_is_its_owners() -> Result<()> {
    require!(root, tun);
    let ns = Netns::new("owner")?;
    let switch = start(&ns, &name("owner"), "--owner 4242 --port t0")?;
    let refused = Device::tap_without_rights(&ns, "t0").err().and_then(|error| error.raw_os_error());
    ensure!(refused == Some(libc::EPERM), "uid 0 is not 4242: {refused:?}");
    let _ = switch.stop()?;
    let switch = start(&ns, &name("owner"), "--owner 0 --port t0")?;
    let _guest = Device::tap_without_rights(&ns, "t0")?;
    wait_state(&switch, "t0", PortState::Up)?;
    let shown = switch.json(&["port", "show", "t0"])?.to_string();
    ensure!(shown.contains(&format!(" {}\"", std::process::id())), "its holder is named: {shown}");
    Ok(())
}

#[test]
fn a_held_tap_is_left_said_adopted_and_removed_in_the_end() -> Result<()> {
    require!(root, tun);
    let ns = Netns::new("held")?;
    let name = name("held");
    let switch = start(&ns, &name, "--port t0 --port t1")?;
    let guest = Device::tap(&ns, "t0")?;
    wait_state(&switch, "t0", PortState::Up)?;
    // Set down it is still held: IFF_LOWER_UP is cleared, the guest's NIC is
    // not to be.
    ns.run("ip link set t0 down")?;
    wait_state(&switch, "t0", PortState::Down)?;
    let ended = switch.stop()?;
    ensure!(ns.has("t0") && !ns.has("t1"));
    let pid = std::process::id().to_string();
    ensure!(ended.stderr.contains("t0: left, ") && ended.stderr.contains(&pid), "{}", ended.stderr);

    // With another list it is in nobody's way, and stays as long as it is held.
    let switch = start(&ns, &name, "--port t1")?;
    switch.wait_stderr("t0: left by an earlier run, and ", SOON)?;
    // Adopted by name while the switch runs, it works with the guest as it is.
    switch.json(&["port", "add", "t0"])?;
    wait_state(&switch, "t0", PortState::Up)?;
    let other = Device::tap(&ns, "t1")?;
    wait_state(&switch, "t1", PortState::Up)?;
    for (from, to, number) in [(&guest, &other, 1), (&other, &guest, 2)] {
        write_one(from, &VnetHeader::PLAIN, &numbered(number, 60))?;
        ensure!(read_one(to)?.1 == numbered(number, 60));
    }
    // An adopted TAP is like one of this run in all else.
    switch.json(&["port", "set", "t0", "mtu=1300"])?;
    ensure!(ns.device("t0")?.mtu() == 1_300);
    drop(other);
    let _ = switch.stop()?;
    ensure!(ns.has("t0") && !ns.has("t1"));

    // Adopted at the start, with a mark of the new run; the guest has gone.
    let before = ns.device("t0")?.alias();
    let switch = start(&ns, &name, "--port t0")?;
    switch.wait_stderr("t0: adopted, an earlier run of this switch made it", SOON)?;
    ensure!(ns.device("t0")?.alias() != before);
    wait_state(&switch, "t0", PortState::Up)?;
    drop(guest);
    wait_state(&switch, "t0", PortState::Down)?;
    let ended = switch.stop()?;
    ensure!(!ns.has("t0") && !ended.stderr.contains("t0: left"), "{}", ended.stderr);
    Ok(())
}

#[test]
fn a_tap_without_carrier_is_still_its_guests() -> Result<()> {
    require!(root, tun);
    let ns = Netns::new("carrier")?;
    let name = name("carrier");
    let switch = start(&ns, &name, "--port t0")?;
    let guest = Device::tap(&ns, "t0")?;
    wait_state(&switch, "t0", PortState::Up)?;
    // As somebody does who wants to see what the guest makes of it.
    ns.run("ip link set t0 carrier off")?;
    wait_state(&switch, "t0", PortState::Down)?;
    let ended = switch.stop()?;
    ensure!(ns.has("t0") && ended.stderr.contains("t0: left, "), "{}", ended.stderr);

    // Nor does a start that does not want it take it away.
    let switch = start(&ns, &name, "--port t1")?;
    switch.wait_stderr("t0: left by an earlier run, and ", SOON)?;
    let _ = switch.stop()?;
    ensure!(ns.has("t0"));

    drop(guest);
    let switch = start(&ns, &name, "--port t1")?;
    switch.wait_stderr("t0: removed, an earlier run left it", SOON)?;
    let _ = switch.stop()?;
    ensure!(!ns.has("t0") && !ns.has("t1"));
    Ok(())
}

#[test]
fn a16_what_a_killed_switch_left_is_removed_by_its_next_start() -> Result<()> {
    require!(root, tun);
    let ns = Netns::new("killed")?;
    let name = name("killed");
    let switch = start(&ns, &name, "--port t0 --port t1 --port t2")?;
    let guest = Device::tap(&ns, "t1")?;
    wait_state(&switch, "t1", PortState::Up)?;
    switch.kill()?;
    ensure!(["t0", "t1", "t2"].iter().all(|device| ns.has(device)));
    let switch = start(&ns, &name, "--port t2")?;
    // The last of its lines that are looked at.
    switch.wait_stderr("t2: adopted", SOON)?;
    let said = switch.stderr();
    ensure!(!ns.has("t0") && said.contains("t0: removed, an earlier run left it"), "{said}");
    ensure!(ns.has("t1") && said.contains("t1: left by an earlier run, and "), "{said}");
    ensure!(ns.has("t2") && said.contains("t2: adopted"), "{said}");
    switch.kill()?;
    drop(guest);
    let switch = start(&ns, &name, "--port t3")?;
    ensure!(["t0", "t1", "t2"].iter().all(|device| !ns.has(device)) && ns.has("t3"));
    ensure!(switch.stop()?.status.success() && !ns.has("t3"));
    Ok(())
}

/// Where a `tap:` port is to be now, the TAP that was left is not its user's.
#[test]
fn a_leftover_does_not_stay_as_the_tap_of_another_kind_of_port() -> Result<()> {
    require!(root, tun);
    let ns = Netns::new("kinds")?;
    let name = name("kinds");
    start(&ns, &name, "--port t0")?.kill()?;
    ensure!(ns.has("t0"));
    let switch = start(&ns, &name, "--port tap:t0,address=10.9.0.1/24")?;
    switch.wait_stderr("t0: removed, an earlier run left it", SOON)?;
    ensure!(ns.device("t0")?.alias().is_empty() && ns.run("ip addr show dev t0")?.contains("10.9.0.1"));
    ensure!(switch.stop()?.status.success() && !ns.has("t0"));
    Ok(())
}

#[test]
fn what_is_not_ours_is_never_touched() -> Result<()> {
    require!(root, tun);
    let ns = Netns::new("foreign")?;
    let name = name("foreign");
    let others = [
        ("f0", String::new()),
        ("f1", "uplink of the lab".to_owned()),
        ("f2", format!("vswitch:0:{name}-2:01234567")),
        ("f3", format!("vswitch:77:{name}:01234567")),
        ("f4", format!("vswitch:0:{name}")),
    ];
    for (device, alias) in &others {
        ns.run(&format!("ip tuntap add {device} mode tap"))?;
        if !alias.is_empty() {
            vswitch_tests::netns::run(ns.command("ip").args(["link", "set", device, "alias", alias]))?;
        }
    }
    let shown = || -> Result<Vec<Value>> {
        // Counters apart, everything.
        others
            .iter()
            .map(|(device, _)| {
                let mut shown = details(&ns, device)?;
                shown.as_object_mut().map(|object| (object.remove("stats64"), object.remove("stats")));
                Ok(shown)
            })
            .collect()
    };
    let before = shown()?;
    // Killed, started, stopped: as leftovers they are none of ours.
    start(&ns, &name, "--port t0")?.kill()?;
    ensure!(start(&ns, &name, "--port t1")?.stop()?.status.success());
    ensure!(shown()? == before, "{:?}", shown());
    // As ports: those of nobody are used and stay, those of others are refused.
    let switch = start(&ns, &name, "--port f0 --port f1 --port f4")?;
    for device in ["f2", "f3"] {
        let output = switch.client(&["port", "add", device])?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && text.contains("belongs to switch"), "{text}");
    }
    let guest = Device::tap(&ns, "f0")?;
    ns.up("f0")?;
    wait_state(&switch, "f0", PortState::Up)?;
    drop(guest);
    ns.run("ip link set f0 down")?;
    ensure!(switch.stop()?.status.success());
    let after = shown()?;
    for (before, after) in before.iter().zip(&after) {
        for key in ["ifindex", "ifalias", "mtu", "inet6_addr_gen_mode", "linkinfo", "flags"] {
            ensure!(before[key] == after[key], "{key}: {before} then {after}");
        }
    }
    Ok(())
}

/// A TAP whose mark somebody changed while the switch ran is theirs by then.
#[test]
fn a_tap_given_another_alias_is_left_to_whoever_gave_it() -> Result<()> {
    require!(root, tun);
    let ns = Netns::new("given")?;
    let switch = start(&ns, &name("given"), "--port t0 --port t1")?;
    ns.run("ip link set t0 alias mine")?;
    ensure!(switch.stop()?.status.success());
    ensure!(ns.has("t0") && !ns.has("t1"));
    Ok(())
}

/// Deleted by its user, a TAP is not made again; one that the user then makes
/// is used, and is the user's.
#[test]
fn a_deleted_tap_is_taken_back_when_somebody_makes_it() -> Result<()> {
    require!(root, tun);
    let ns = Netns::new("deleted")?;
    let switch = start(&ns, &name("deleted"), "--port t0 --port t1")?;
    let other = Device::tap(&ns, "t1")?;
    wait_state(&switch, "t1", PortState::Up)?;
    for _ in 0..3 {
        ns.run("ip link del t0")?;
        wait_state(&switch, "t0", PortState::Fault)?;
        ensure!(!ns.has("t0"));
        ns.run("ip tuntap add t0 mode tap")?;
        let guest = Device::tap(&ns, "t0")?;
        ns.up("t0")?;
        wait_state(&switch, "t0", PortState::Up)?;
        write_one(&guest, &VnetHeader::PLAIN, &numbered(1, 60))?;
        ensure!(read_one(&other)?.1 == numbered(1, 60));
    }
    ensure!(switch.stop()?.status.success() && ns.has("t0"));
    Ok(())
}

#[test]
fn a16_filters_of_a_killed_switch() -> Result<()> {
    require!(root, "tc");
    let ns = Netns::new("filters")?;
    veth(&ns, "sw", &ns, "e0")?;
    veth(&ns, "sw2", &ns, "e2")?;
    ns.run("tc qdisc add dev sw2 clsact")?;
    let name = name("filters");
    let filters = |device: &str| -> Result<usize> {
        let shown = ["ingress", "egress"].map(|side| ns.run(&format!("tc filter show dev {device} {side}")));
        let [ingress, egress] = shown;
        Ok((ingress? + &egress?).matches("handle").count())
    };
    let qdisc =
        |device: &str| ns.run(&format!("tc qdisc show dev {device}")).map(|text| text.contains("clsact"));
    // With TCX nothing outlives the process.
    start(&ns, &name, "--port netdev:sw --port netdev:sw2")?.kill()?;
    ensure!(filters("sw")? == 0 && !qdisc("sw")? && filters("sw2")? == 0);
    let ports = "--port netdev:sw --port netdev:sw2 --isolation clsact";
    start(&ns, &name, ports)?.kill()?;
    ensure!(filters("sw")? == 2 && filters("sw2")? == 2, "left by a killed one");
    // Another switch leaves them alone; the next of this name, whatever its
    // ports, removes them, and the qdisc that it made.
    ensure!(start(&ns, &format!("{name}-2"), "")?.stop()?.status.success());
    ensure!(filters("sw")? == 2 && filters("sw2")? == 2);
    let switch = start(&ns, &name, "")?;
    ensure!(filters("sw")? == 0 && !qdisc("sw")?, "{}", switch.stderr());
    ensure!(filters("sw2")? == 0 && qdisc("sw2")?, "the qdisc of sw2 is the user's");
    switch.wait_stderr("sw: filters removed", SOON)?;
    ensure!(switch.stop()?.status.success());
    // Opened again at once, they are replaced, not doubled.
    start(&ns, &name, ports)?.kill()?;
    let switch = start(&ns, &name, ports)?;
    ensure!(filters("sw")? == 2 && filters("sw2")? == 2);
    ensure!(switch.stop()?.status.success());
    ensure!(filters("sw")? == 0 && !qdisc("sw")? && filters("sw2")? == 0 && qdisc("sw2")?);
    Ok(())
}

/// A start that fails leaves nothing of itself.
#[test]
fn a_failed_start_takes_back_what_it_made() -> Result<()> {
    require!(root, tun);
    let ns = Netns::new("failed")?;
    let error = start(&ns, &name("failed"), "--port t0 --port netdev:absent").err().context("it started")?;
    ensure!(format!("{error:#}").contains("there is no interface absent"), "{error:#}");
    ensure!(!ns.has("t0"));
    // And a change that fails in a running switch: nothing half applied.
    let switch = start(&ns, &name("failed"), "--port t0")?;
    let output = switch.client(&["port", "add", "netdev:absent"])?;
    ensure!(!output.status.success());
    ensure!(state(&switch, "t0")? == PortState::Down && state(&switch, "absent").is_err());
    let ended = switch.stop()?;
    ensure!(ended.status.success() && !ns.has("t0"));
    Ok(())
}

/// A device that leaves for another namespace takes its port down with its
/// addresses, and brings it back.
#[test]
fn a17_a_device_that_moves_away_comes_back() -> Result<()> {
    require!(root, tun);
    let (ns, away) = (Netns::new("stay")?, Netns::new("away")?);
    veth(&ns, "sw", &ns, "e0")?;
    ns.up("sw")?;
    ns.up("e0")?;
    let switch = start(&ns, &name("moves"), "--port netdev:sw --port t0")?;
    let guest = Device::tap(&ns, "t0")?;
    wait_state(&switch, "t0", PortState::Up)?;
    for _ in 0..3 {
        wait_state(&switch, "sw", PortState::Up)?;
        let end = Device::packet(&ns, "e0")?;
        write_one(&end, &VnetHeader::PLAIN, &numbered(1, 60))?;
        ensure!(read_one(&guest)?.1 == numbered(1, 60));
        ensure!(switch.json(&["fdb", "show", "--port", "sw"])?.to_string().contains("02:00:00:00:00:bb"));
        ns.move_to("sw", &away)?;
        wait_state(&switch, "sw", PortState::Fault)?;
        ensure!(!switch.json(&["fdb", "show"])?.to_string().contains("02:00:00:00:00:bb"));
        // There, nothing of ours holds it.
        ensure!(!away.run("tc qdisc show dev sw")?.contains("clsact"));
        ensure!(away.device("sw")?.json()["promiscuity"] == 0);
        away.move_to("sw", &ns)?;
        ns.up("sw")?;
    }
    // A TAP that we made, taken into a namespace, is its user's from then on.
    ns.move_to("t0", &away)?;
    wait_state(&switch, "t0", PortState::Fault)?;
    drop(guest);
    ensure!(switch.stop()?.status.success() && away.has("t0"));
    Ok(())
}

/// The kernel gives a device that comes back the number that it had, and a user
/// may give it to another: the port must not take the one for the other.
#[test]
fn a17_a_device_that_is_back_before_anybody_looked_is_opened_again() -> Result<()> {
    require!(root, tun);
    let (ns, away) = (Netns::new("quick")?, Netns::new("quick-away")?);
    veth(&ns, "sw", &ns, "e0")?;
    ns.up("sw")?;
    ns.up("e0")?;
    let switch = start(&ns, &name("quick"), "--port netdev:sw --port t0 --port t1")?;
    let guest = Device::tap(&ns, "t0")?;
    wait_state(&switch, "t0", PortState::Up)?;
    let number = |device: &str| Ok::<_, anyhow::Error>(ns.device(device)?.json()["ifindex"].clone());
    let frozen = |work: &dyn Fn() -> Result<()>| -> Result<()> {
        let pid = switch.pid();
        ns.run(&format!("kill -STOP {pid}"))?;
        let done = work();
        ns.run(&format!("kill -CONT {pid}"))?;
        done
    };
    let works = || -> Result<()> {
        wait_until("a frame to cross", SOON, || {
            let end = Device::packet(&ns, "e0");
            let written = end.is_ok_and(|end| write_one(&end, &VnetHeader::PLAIN, &numbered(1, 60)).is_ok());
            written && read_now(&guest).is_some_and(|frame| frame == numbered(1, 60))
        })
        .with_context(|| switch.stderr())
    };
    works()?;
    let before = number("sw")?;
    frozen(&|| {
        ns.move_to("sw", &away)?;
        away.move_to("sw", &ns)?;
        ns.up("sw")
    })?;
    ensure!(number("sw")? == before, "or the test shows nothing");
    works()?;
    frozen(&|| {
        ns.run("ip link del sw")?;
        ns.run(&format!("ip link add index {before} sw type veth peer name e0"))?;
        ns.up("sw")?;
        ns.up("e0")
    })?;
    ensure!(number("sw")? == before);
    works()?;
    // Another interface that has the number of a TAP of ours is not removed.
    let tap = number("t1")?;
    frozen(&|| {
        ns.run("ip link del t1")?;
        ns.run(&format!("ip link add index {tap} name other type veth peer name peer")).map(drop)
    })?;
    wait_state(&switch, "t1", PortState::Fault)?;
    ensure!(switch.stop()?.status.success() && ns.has("other"));
    Ok(())
}

/// A frame that is there now, or soon.
fn read_now(from: &Device) -> Option<Vec<u8>> {
    let mut buffer = [0; 2048];
    let limit = std::time::Duration::from_millis(100);
    let len =
        vswitch_tests::clock::wait_for("a frame", limit, || from.read(&mut buffer).ok().flatten()).ok()?;
    Some(buffer[..len].to_vec())
}

/// Events that overflow the socket's buffer lead to a new look at everything.
#[test]
fn lost_events_are_made_up_for() -> Result<()> {
    require!(root);
    let ns = Netns::new("storm")?;
    for number in 0..2 {
        veth(&ns, &format!("sw{number}"), &ns, &format!("e{number}"))?;
        ns.up(&format!("sw{number}"))?;
        ns.up(&format!("e{number}"))?;
    }
    let switch = start(&ns, &name("storm"), "--port netdev:sw0 --port netdev:sw1")?;
    wait_state(&switch, "sw0", PortState::Up)?;
    let pid = switch.pid().to_string();
    ns.run(&format!("kill -STOP {pid}"))?;
    let storm: String = (0..3_000).map(|n| format!("link set e1 mtu {}\n", 1_400 + n % 100)).collect();
    let storm = storm + "link set sw0 down\nlink set sw1 mtu 1234\n";
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), storm)?;
    let stormed = ns.run(&format!("ip -batch {}", file.path().display()));
    let lost = ns.enter(|| std::fs::read_to_string("/proc/thread-self/net/netlink"));
    ns.run(&format!("kill -CONT {pid}"))?;
    stormed?;
    // sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode
    let drops =
        lost?.lines().filter_map(|line| line.split_whitespace().nth(8)?.parse::<u64>().ok()).sum::<u64>();
    ensure!(drops > 0, "the storm was too small to show anything");
    wait_state(&switch, "sw0", PortState::Down)?;
    wait_until("the MTU", SOON, || {
        let shown = switch.json(&["port", "show", "sw1"]).unwrap_or_default();
        shown.to_string().contains("1234")
    })?;
    ns.up("sw0")?;
    wait_state(&switch, "sw0", PortState::Up)?;
    Ok(())
}
