//! The tutorial from its first command to its last, with a small installation
//! ISO: a disk, an installation, a system that boots from it, clones with
//! identities of their own, a network of two guests, and nothing left.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use vswitch_tests::qemu::{Turn, installation_iso};
use vswitch_tests::require;

use crate::internet::Internet;
use crate::rig::Lab;

const LIMIT: Duration = Duration::from_secs(120);

/// What is typed in the tutorial, for this ISO. `tar` stands in for pacstrap, a
/// line of `blkid` for genfstab.
const DIALOGUE: &str = r"
within 5m
wait live#
# one Linux partition of the whole disk
type fdisk /dev/vda
wait Command \(m for help\):
type n
wait Select \(default p\):
type
wait Partition number
type
wait First sector
type
wait Last sector
type
wait Command \(m for help\):
type w
wait live#
run mkfs.ext4 -q /dev/vda1
run mount -t ext4 /dev/vda1 /mnt
run tar -xf /base.tar -C /mnt
run echo $(blkid -o export /dev/vda1 | grep ^UUID=) / ext4 defaults 0 1 >>/mnt/etc/fstab
run echo {name} >>/mnt/etc/hostname
run grub-install --target=i386-pc --boot-directory=/mnt/boot /dev/vda
run umount /mnt
run echo installation: done
type poweroff -f
";

fn lab_file(boot: &str) -> String {
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

#[test]
#[ignore = "installs a system under TCG and boots it three times: --long"]
fn the_tutorial_from_an_empty_disk_to_nothing_left() -> Result<()> {
    require!(root, tun, "qemu-system-x86_64", "debugfs", "sha256sum");
    let _turn = Turn::take();
    let iso = installation_iso()?.display().to_string();

    // Install, and boot from the disk.
    let first = lab_file("[guests.zero]\ndisk = \"0.img\"\nconfigure = \"none\"\n");
    let lab = Lab::of("install", &first)?;
    let before = lab.traces()?;
    let disk = lab.path("0.img").display().to_string();
    lab.words(&["disk", "create", &disk, "--size", "8G"])?;
    let dialogue = lab.path("dialogue");
    std::fs::write(&dialogue, DIALOGUE)?;
    let dialogue = dialogue.display().to_string();
    let install = ["install", "zero", "--iso", &iso, "--dialogue", &dialogue, "--timeout", "15m"];

    let wrong = lab.try_words(&[&install[..], &["--sha256", &"0".repeat(64)]].concat())?;
    let stderr = String::from_utf8_lossy(&wrong.stderr);
    ensure!(!wrong.status.success() && stderr.contains("is not what it should be"), "{stderr}");
    let sum = std::process::Command::new("sha256sum").arg(&iso).output()?.stdout;
    let sum = String::from_utf8(sum)?.split(' ').next().unwrap_or_default().to_owned();
    lab.words(&[&install[..], &["--sha256", &sum, "--done", "installation: done"]].concat())?;
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
    for (guest, peer) in [("zero", "192.168.1.151"), ("one", "192.168.1.150")] {
        let mut console = lab.console(guest)?;
        ensure!(console.run("hostname", LIMIT)?.trim() == guest);
        ids.push(console.run("cat /etc/machine-id /etc/ssh/ssh_host_ed25519_key.pub", LIMIT)?);
        let ping = console.run(&format!("ping -c 3 {peer}"), LIMIT)?;
        ensure!(ping.contains(" 0% packet loss"), "{ping}");
        let other = if guest == "zero" { "one" } else { "zero" };
        ensure!(console.run(&format!("ping -c 1 {other}"), LIMIT)?.contains(peer), "by its name");
        internet.fetched(&console.run(&internet.fetch(), LIMIT)?)?;
    }
    ensure!(ids[0] != ids[1] && ids.iter().all(|id| id.contains("ssh-ed25519")), "{ids:?}");

    lab.vlab("down --disks")?;
    ensure!(lab.traces()? == before, "{:?} before, {:?} after", before, lab.traces()?);
    ensure!(std::fs::read(&disk)? == base, "the base was written to");
    Ok(())
}
