//! Guests that start by UEFI: a kernel that QEMU hands over, and a disk from
//! which the firmware itself starts what it finds.

use std::process::Command;

use anyhow::{Result, ensure};
use vswitch_tests::netns::run;
use vswitch_tests::qemu::{Turn, images};
use vswitch_tests::require;

use crate::rig::{LIMIT, Lab};

#[test]
fn guests_start_by_uefi_and_keep_what_it_remembers() -> Result<()> {
    require!(root, tun, "qemu-system-x86_64", "mkfs.fat", "mcopy", "/usr/share/OVMF/OVMF_CODE_4M.fd");
    let _turn = Turn::take();
    let (kernel, initrd) = images()?;
    let lab = Lab::of(
        "uefi",
        &format!(
            r#"
[networks.lan]
subnet = "192.168.1.0/24"

[defaults]
firmware = "uefi"
memory = "256M"
accel = "tcg"
configure = "none"
ready = "console:guest: ready"
timeout = "5m"

[guests.zero]
kernel = "{}"
initrd = "{}"
cmdline = "console=ttyS0 quiet no_timer_check hostname={{name}} ip={{lan.address}} labmac={{lan.mac}}"
nics = [{{ network = "lan", address = "192.168.1.150" }}]

[guests.one]
base = "esp.img"
nics = [{{ network = "lan", address = "192.168.1.151", mac = "02:00:00:00:00:01" }}]
"#,
            kernel.display(),
            initrd.display()
        ),
    )?;
    // What the firmware's own shell runs where it finds no boot entry.
    let line = "ip=192.168.1.151 labmac=02:00:00:00:00:01 hostname=one";
    let script = format!("vmlinuz.efi initrd=\\initrd console=ttyS0 quiet no_timer_check {line}\r\n");
    let (disk, startup) = (lab.path("esp.img"), lab.path("startup.nsh"));
    std::fs::write(&startup, script)?;
    run(Command::new("truncate").args(["-s", "64M"]).arg(&disk))?;
    run(Command::new("mkfs.fat").arg(&disk).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"))?;
    let copy = |from: &std::path::Path, to: &str| {
        run(Command::new("mcopy").arg("-i").arg(&disk).arg(from).arg(format!("::{to}")))
    };
    copy(&kernel, "vmlinuz.efi")?;
    copy(&initrd, "initrd")?;
    copy(&startup, "startup.nsh")?;

    let before = lab.traces()?;
    lab.vlab("up")?;
    let mut consoles = Vec::new();
    for (guest, peer) in [("zero", "192.168.1.151"), ("one", "192.168.1.150")] {
        let mut console = lab.console(guest)?;
        ensure!(console.run("hostname", LIMIT)?.trim() == guest);
        console.run("[ -d /sys/firmware/efi ]", LIMIT)?;
        let ping = console.run(&format!("ping -c 3 {peer}"), LIMIT)?;
        ensure!(ping.contains(" 0% packet loss"), "{ping}");
        consoles.push(console);
    }
    // With what the firmware remembers; the kernel's guest has no disk for it.
    let one = &mut consoles[1];
    one.run("echo kept >/run/x", LIMIT)?;
    lab.words(&["snapshot", "save", "before", "one"])?;
    one.run("rm /run/x", LIMIT)?;
    lab.words(&["snapshot", "restore", "before", "one"])?;
    ensure!(one.run("cat /run/x; ping -c 1 192.168.1.150", LIMIT)?.starts_with("kept"));
    drop(consoles);
    let refused = lab.try_words(&["snapshot", "save", "before", "zero"])?;
    let stderr = String::from_utf8_lossy(&refused.stderr);
    ensure!(!refused.status.success() && stderr.contains("no qcow2 disk"), "{stderr}");

    let data = std::path::Path::new("/var/lib/vlab").join(&lab.name);
    let kept = ["zero", "one"].map(|guest| data.join(format!("{guest}.uefi.qcow2")));
    let said = lab.vlab("down")?;
    ensure!(said.contains("1 clone ("), "it is no clone of anything: {said}");
    ensure!(kept.iter().all(|path| path.is_file()), "it was forgotten");
    ensure!(lab.traces()? == before, "{:?} before, {:?} after", before, lab.traces()?);
    lab.vlab("down --disks")?;
    ensure!(!kept.iter().any(|path| path.exists()), "it outlived its clone");
    Ok(())
}
