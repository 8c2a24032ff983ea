//! The tutorial from its first command to its last, with a small installation
//! ISO: a disk, an installation, a system that boots from it, clones with
//! identities of their own, a network of two guests, and nothing left.

use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use vswitch_tests::clock::{now_nanos, wait_for};
use vswitch_tests::process::proportional_bytes;
use vswitch_tests::qemu::{Turn, installation_iso};
use vswitch_tests::require;

use crate::internet::Internet;
use crate::rig::Lab;

const LIMIT: Duration = Duration::from_secs(120);

/// What is typed in the tutorial, for this ISO. `tar` stands in for pacstrap, a
/// line of `blkid` for genfstab.
pub(crate) const DIALOGUE: &str = r"
within 5m
wait live#
# one Linux partition of the whole disk
type /usr/bin/fdisk /dev/vda
wait Command \(m for help\):
type n
wait Select \(default p\):
type
wait Partition number
type
wait First sector
type
wait [{]K,M,G,T,P[}]
type
wait Command \(m for help\):
type w
wait live#
run mkfs.ext4 -q /dev/vda1
run mount -t ext4 /dev/vda1 /mnt
run tar -xf /base.tar -C /mnt
run echo $(/usr/bin/blkid -o export /dev/vda1 | grep ^UUID=) / ext4 defaults 0 1 >>/mnt/etc/fstab
run echo {name} >>/mnt/etc/hostname
run grub-install --target=i386-pc --boot-directory=/mnt/boot /dev/vda
run umount /mnt
run echo installation: done
type poweroff -f
";

/// A lab file with these guests.
pub(crate) fn lab_file(boot: &str) -> String {
    format!(
        r#"
[networks.lan]
subnet = "192.168.1.0/24"

[defaults]
memory = "256M"
accel = "tcg"
ready = "console:guest: ready"
timeout = "5m"
{boot}
"#
    )
}

/// Installs into `0.img`, the disk of guest `zero`; returns its path.
fn install(lab: &Lab) -> Result<String> {
    let iso = installation_iso()?.display().to_string();
    let disk = lab.path("0.img").display().to_string();
    lab.words(&["disk", "create", &disk, "--size", "8G"])?;
    let dialogue = lab.path("dialogue");
    std::fs::write(&dialogue, DIALOGUE)?;
    let dialogue = dialogue.display().to_string();
    let sum = std::process::Command::new("sha256sum").arg(&iso).output()?.stdout;
    let sum = String::from_utf8(sum)?.split(' ').next().unwrap_or_default().to_owned();
    let words = ["install", "zero", "--iso", &iso, "--sha256", &sum, "--dialogue", &dialogue];
    lab.words(&[&words[..], &["--timeout", "15m", "--done", "installation: done"]].concat())?;
    Ok(disk)
}

/// Installs with no more words than `words` and ends QEMU by a signal as soon as it is there,
/// or nothing does; returns what was said.
fn failed_install(lab: &Lab, words: &str, is_killed: bool) -> Result<String> {
    let mut command = lab.command("vlab")?;
    command.arg("--lab").arg(&lab.file).args(["install", "zero", "--iso"]).arg(lab.path("empty.iso"));
    command.args(words.split_whitespace()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn()?;
    if is_killed {
        let is_qemu = |pid: &i32| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.starts_with("qemu-system")
        };
        // Its console, too: only then is it waited for.
        let serial = lab.run_dir().join("zero.serial");
        let found = wait_for("QEMU", LIMIT, || {
            lab.processes().ok()?.into_iter().find(is_qemu).filter(|_| serial.exists())
        })?;
        kill_process(Pid::from_raw(found).context("a pid")?, Signal::KILL)?;
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
    Ok(said)
}

#[test]
fn an_installer_that_does_not_end_well_has_installed_nothing() -> Result<()> {
    require!(root, tun, "qemu-system-x86_64", "qemu-img");
    let _turn = Turn::take();
    let text = "[guests.zero]\ndisk = \"zero.qcow2\"\naccel = \"tcg\"\nmemory = \"64M\"\n";
    let lab = Lab::of("dies", text)?;
    let before = lab.traces()?;
    let disk = lab.path("zero.qcow2").display().to_string();
    lab.words(&["disk", "create", &disk, "--size", "8M"])?;
    std::fs::write(lab.path("empty.iso"), vec![0; 1 << 20])?;
    let said = failed_install(&lab, "", true)?;
    ensure!(said.contains("signal 9") && said.contains("as the installer left it"), "{said}");
    let said = failed_install(&lab, "--timeout 2s", false)?;
    ensure!(said.contains("did not power down within 2s"), "{said}");
    std::fs::write(lab.path("dialogue"), "wait never\n")?;
    let dialogue = lab.path("dialogue").display().to_string();
    let said = failed_install(&lab, &format!("--timeout 2s --dialogue {dialogue}"), false)?;
    ensure!(said.contains("did not power down within 2s") && said.contains("line 1"), "{said}");
    ensure!(lab.traces()? == before, "{:?} before, {:?} after", before, lab.traces()?);
    Ok(())
}

#[test]
#[ignore = "installs a system under TCG and boots it five times: --long"]
fn the_tutorial_from_an_empty_disk_to_nothing_left() -> Result<()> {
    require!(root, tun, "qemu-system-x86_64", "debugfs", "sha256sum");
    let _turn = Turn::take();
    let iso = installation_iso()?.display().to_string();

    // Install, and boot from the disk.
    let lab = Lab::of("install", &lab_file("[guests.zero]\ndisk = \"0.img\"\nconfigure = \"none\"\n"))?;
    let before = lab.traces()?;
    let wrong = lab.try_words(&["install", "zero", "--iso", &iso, "--sha256", &"0".repeat(64)])?;
    ensure!(
        String::from_utf8_lossy(&wrong.stderr).contains("is missing"),
        "before there is a disk: {wrong:?}"
    );
    let disk = install(&lab)?;
    let wrong = lab.try_words(&["install", "zero", "--iso", &iso, "--sha256", &"0".repeat(64)])?;
    let stderr = String::from_utf8_lossy(&wrong.stderr);
    ensure!(!wrong.status.success() && stderr.contains("is not what it should be"), "{stderr}");
    ensure!(lab.traces()? == before, "the installation left {:?}", lab.traces()?);

    lab.vlab("up").context("from its own disk")?;
    let mut console = lab.console("zero")?;
    ensure!(console.run("hostname", LIMIT)?.trim() == "zero");
    ensure!(console.run("grep ' / ' /proc/mounts", LIMIT)?.contains("/dev/vda1 / ext4 rw"));
    drop(console);
    lab.vlab("down")?;

    // Two clones on one switch.
    let clones = lab_file(
        r#"base = "0.img"
configure = "offline"
renderer = "ifupdown"
[guests.zero]
nics = [{ network = "lan", address = "192.168.1.150" }]
[guests.one]
nics = [{ network = "lan", address = "192.168.1.151", model = "e1000" }]
"#,
    );
    std::fs::write(&lab.file, format!("name = \"{}\"\n{clones}", lab.name))?;
    let base = std::fs::read(&disk)?;
    lab.vlab("up").context("two clones")?;
    let internet = Internet::new(&lab.ns)?;
    let mut ids = Vec::new();
    let mut consoles = Vec::new();
    for (guest, peer) in [("zero", "192.168.1.151"), ("one", "192.168.1.150")] {
        let mut console = lab.console(guest)?;
        ensure!(console.run("hostname", LIMIT)?.trim() == guest);
        ids.push(console.run("cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub", LIMIT)?);
        let ping = console.run(&format!("ping -c 3 {peer}"), LIMIT)?;
        ensure!(ping.contains(" 0% packet loss"), "{ping}");
        let other = if guest == "zero" { "one" } else { "zero" };
        ensure!(console.run(&format!("ping -c 1 {other}"), LIMIT)?.contains(peer), "by its name");
        internet.fetched(&console.run(&internet.fetch(), LIMIT)?)?;
        consoles.push(console);
    }
    ensure!(ids[0] != ids[1] && ids.iter().all(|id| id.contains("ssh-ed25519")), "{ids:?}");

    // There and back, with memory: a file in it, and a shell that goes on.
    let zero = &mut consoles[0];
    zero.run("echo kept >/run/x", LIMIT)?;
    lab.words(&["snapshot", "save", "before", "zero"])?;
    zero.run("rm /run/x", LIMIT)?;
    lab.words(&["snapshot", "restore", "before", "zero"])?;
    ensure!(zero.run("cat /run/x", LIMIT)?.trim() == "kept");
    drop(consoles);

    lab.vlab("down --disks")?;
    ensure!(lab.traces()? == before, "{:?} before, {:?} after", before, lab.traces()?);

    // The same again without vlab: keys, clones and what is written into them.
    lab.paste(&lab.vlab("plan")?)?;
    for (guest, peer) in [("zero", "192.168.1.151"), ("one", "192.168.1.150")] {
        let mut console = lab.console(guest)?;
        ensure!(console.run("hostname", LIMIT)?.trim() == guest);
        ids.push(console.run("cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub", LIMIT)?);
        let ping = console.run(&format!("ping -c 3 {peer}"), LIMIT)?;
        ensure!(ping.contains(" 0% packet loss"), "{ping}");
    }
    // Machine ids follow from the names; keys are made anew.
    let machine = |of: usize| ids[of].lines().next().unwrap_or_default().to_owned();
    ensure!(machine(0) == machine(2) && machine(1) == machine(3) && ids[0] != ids[2], "{ids:?}");
    lab.end_by_hand()?;
    ensure!(lab.traces()? == before, "{:?} before, {:?} after", before, lab.traces()?);
    ensure!(std::fs::read(&disk)? == base, "the base was written to");
    Ok(())
}

#[test]
#[ignore = "boots ten guests under TCG: --long"]
fn ten_guests_of_one_base_all_reach_each_other() -> Result<()> {
    require!(root, tun, "qemu-system-x86_64", "debugfs", "sha256sum");
    let _turn = Turn::take();
    let lab = Lab::of("ten", &lab_file("[guests.zero]\ndisk = \"0.img\"\nconfigure = \"none\"\n"))?;
    let before = lab.traces()?;
    let disk = install(&lab)?;
    let names: Vec<String> = (0..10).map(|index| format!("g{index}")).collect();
    let mut keys = "base = \"0.img\"\nconfigure = \"offline\"\nrenderer = \"ifupdown\"\n".to_owned();
    for (index, name) in names.iter().enumerate() {
        let address = format!("192.168.1.{}", 10 + index);
        keys.push_str(&format!(
            "[guests.{name}]\nmemory = \"128M\"\nnics = [{{ network = \"lan\", address = \"{address}\" }}]\n"
        ));
    }
    std::fs::write(&lab.file, format!("name = \"{}\"\n{}", lab.name, lab_file(&keys)))?;

    let start = now_nanos();
    lab.vlab("up")?;
    let up = Duration::from_nanos(now_nanos() - start);
    let mut memory = 0;
    for pid in lab.processes()? {
        // A process that ended meanwhile takes nothing.
        memory += proportional_bytes(pid.unsigned_abs()).unwrap_or(0);
    }
    for name in &names {
        let mut console = lab.console(name)?;
        let others = (0..10).map(|index| format!("192.168.1.{}", 10 + index)).collect::<Vec<_>>().join(" ");
        let ping = format!("for a in {others}; do ping -c 1 -W 5 $a >/dev/null || echo no $a; done");
        let missed = console.run(&ping, LIMIT)?;
        ensure!(!missed.contains("no "), "{name} does not reach: {missed}");
    }
    let info = lab.words(&["disk", "info", &disk, "--json"])?;
    let clones = serde_json::from_str::<serde_json::Value>(&info)?["clones"].as_array().map_or(0, Vec::len);
    ensure!(clones == 10, "{info}");
    lab.vlab("down --disks")?;
    ensure!(lab.traces()? == before, "{:?} before, {:?} after", before, lab.traces()?);
    // Past the harness, which keeps what tests that pass print.
    let _ = writeln!(
        std::io::stderr(),
        "ten guests: up in {:.1} s, {} MiB with their switch",
        up.as_secs_f64(),
        memory >> 20
    );
    Ok(())
}
