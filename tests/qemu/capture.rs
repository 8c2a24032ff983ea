//! `vswitch capture` beside two guests that talk TCP.

use anyhow::{Context as _, Result, ensure};
use vswitch_tests::capture::Way;
use vswitch_tests::capturing::{Capturing, check_sums, check_tshark};
use vswitch_tests::qemu::Turn;
use vswitch_tests::require;

use crate::rig::{LIMIT, Lab};

/// Exact sums, right ports, directions and verdicts, and nothing that tshark calls
/// malformed, while TCP fills the switch.
#[test]
fn a_capture_of_two_guests_under_load_adds_up_and_reads_well() -> Result<()> {
    require!(root, tun, "qemu-system-x86_64", "tshark");
    let _turn = Turn::take();
    let lab = Lab::told("seen", "role=iperf-server")?;
    lab.vlab("up")?;
    let mut zero = lab.console("zero")?;
    let mut command = lab.command("vswitch")?;
    command.args(["capture", "--name", &format!("{}-lan", lab.name)]);
    let mut capturing = Capturing::spawn(command)?;
    let said = zero.run("iperf3 -t 2 -c 192.168.1.151 && iperf3 -t 2 -R -c 192.168.1.151", LIMIT)?;
    ensure!(said.contains("receiver"), "{said}");
    let capture = capturing.end()?;

    check_sums(&capture)?;
    let large = capture.frames.iter().filter(|frame| frame.len > 1000);
    for frame in large.clone() {
        let verdict = frame.comment.rsplit("; ").next().context("no comment")?;
        let (from, to) = if frame.interface == "zero" { ("zero", "one") } else { ("one", "zero") };
        let expected = match frame.way {
            Way::Inbound => format!("forwarded to {to}"),
            Way::Outbound => format!("from {to}"),
        };
        ensure!(frame.interface == from && verdict == expected, "{frame:?}");
    }
    ensure!(large.count() > 1000, "{} frames are no load", capture.frames.len());
    check_tshark(capturing.file(), &capture)?;
    lab.vlab("down").map(drop)
}
