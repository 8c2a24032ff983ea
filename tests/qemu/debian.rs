//! A Debian guest as distributions make them, with systemd, cloud-init and an
//! ssh server: it learns everything from its seed.

use anyhow::{Result, ensure};
use vswitch_tests::netns::run;
use vswitch_tests::qemu::{Turn, debian};
use vswitch_tests::require;

use crate::rig::Lab;

#[test]
#[ignore = "boots two Debian guests under TCG: --long"]
fn debian_guests_are_configured_by_their_seeds_alone() -> Result<()> {
    require!(root, tun, "qemu-system-x86_64", "ssh");
    let _turn = Turn::take();
    let base = debian()?;
    let lab = Lab::of(
        "debian",
        &format!(
            r#"
[networks.lan]
subnet = "192.168.1.0/24"

[defaults]
base = "{}"
configure = "cloud-init"
memory = "512M"
accel = "tcg"
timeout = "15m"

[guests.zero]
nics = [{{ network = "lan", address = "192.168.1.150" }}]

[guests.one]
hostname = "uno"
user_data = "user-data"
nics = [{{ network = "lan", address = "192.168.1.151" }}]
"#,
            base.display()
        ),
    )?;
    std::fs::write(lab.path("user-data"), "#!/bin/sh\necho ours >/etc/said-by-user-data\n")?;
    let before = lab.traces()?;
    lab.vlab("up")?;

    let ask = |guest: &str, line: &str| lab.words(&["exec", guest, "--", "sh", "-c", line]);
    ensure!(ask("zero", "uname -n")? == "zero\n" && ask("one", "uname -n")? == "uno\n");
    let ids = [ask("zero", "cat /etc/machine-id")?, ask("one", "cat /etc/machine-id")?];
    ensure!(ids[0] != ids[1] && ids[0].len() == 33, "{ids:?}");
    let keys = ["zero", "one"].map(|guest| ask(guest, "cat /etc/ssh/ssh_host_ed25519_key.pub"));
    let [Ok(zero), Ok(one)] = keys else { anyhow::bail!("host keys: {keys:?}") };
    ensure!(zero != one, "one host key for both: {zero}");
    let addresses = ask("zero", "ip -4 -br address")?;
    ensure!(addresses.contains("192.168.1.150/24") && addresses.contains("10.0.2.15/24"), "{addresses}");
    // By name, over the switch.
    let ping = ask("zero", "ping -c 3 one")?;
    ensure!(ping.contains(" 0% packet loss") && ping.contains("192.168.1.151"), "{ping}");
    // Scripts run last, when the ssh server has long been up.
    let said = ask("one", "cloud-init status --wait >/dev/null; cat /etc/said-by-user-data")?;
    ensure!(said == "ours\n", "the user's own data was not run: {said}");

    // Exit codes, words, and files both ways.
    let output = lab.try_words(&["exec", "zero", "sh", "-c", "exit 7"])?;
    ensure!(output.status.code() == Some(7), "{output:?}");
    ensure!(lab.words(&["ssh", "zero", "--", "echo", "a", "b"])? == "a b\n");
    let there = lab.path("there");
    std::fs::write(&there, "there and back")?;
    let (there, back) = (there.display().to_string(), lab.path("back").display().to_string());
    lab.words(&["cp", &there, "zero:/root/x"])?;
    lab.words(&["cp", "zero:/root/x", &back])?;
    ensure!(std::fs::read_to_string(back)? == "there and back");

    known_to_other_programs(&lab)?;
    lab.vlab("down --disks")?;
    ensure!(lab.traces()? == before, "{:?} before, {:?} after", before, lab.traces()?);
    Ok(())
}

/// What ssh itself and Ansible are told, and a lab among others.
fn known_to_other_programs(lab: &Lab) -> Result<()> {
    let config = lab.path("ssh_config");
    std::fs::write(&config, lab.vlab("ssh-config")?)?;
    let mut ssh = lab.ns.command("ssh");
    ssh.arg("-F").arg(&config).args(["one", "uname -n"]);
    ensure!(run(&mut ssh)? == "uno\n");
    let inventory = lab.vlab("inventory")?;
    let (group, hosts) = inventory.split_once('\n').unwrap_or_default();
    ensure!(group == format!("[{}]", lab.name.replace('-', "_")), "{inventory}");
    for (line, guest) in hosts.lines().zip(["zero", "one"]) {
        ensure!(line.starts_with(&format!("{guest} ansible_host=127.0.0.1 ")), "{inventory}");
        ensure!(line.contains(" ansible_user=root"), "{inventory}");
    }
    let all = run(lab.command("vlab")?.args(["status", "--all"]))?;
    let line = all.lines().find(|line| line.starts_with(&lab.name)).unwrap_or_default();
    ensure!(line.contains("2 of 2 up") && line.contains("1 of 1 up"), "{all}");
    Ok(())
}
