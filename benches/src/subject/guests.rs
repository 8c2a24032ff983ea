//! Switches with two QEMU guests, and how each guest's network card is joined
//! to them.
//!
//! The words are those of docs/vlab.md; where a link needs no switch (QEMU's
//! own pair of datagram sockets) there is none.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use vswitch_tests::clock::wait_until;
use vswitch_tests::netns::Netns;
use vswitch_tests::process::Switch;
use vswitch_tests::qemu::reconnect;

use super::vhost::CORE;
use super::{Running, Subject, bridge, ovs, vde, vhost};

/// TAPs in the switch's namespace.
const TAPS: [&str; 2] = ["t0", "t1"];

/// QEMU's options of each guest's card, whose `-netdev` is called `t0`.
pub(crate) type Cards = [Vec<String>; 2];

/// Starts `subject` in `ns`; `run` are further words for our own.
pub(crate) fn start(subject: Subject, ns: &Netns, run: &[String]) -> Result<(Running, Cards)> {
    match subject {
        Subject::Vswitch => {
            let (running, sockets) = vhost::ours(ns, None, run)?;
            Ok((running, sockets.map(|path| vhost_user(&path))))
        }
        Subject::OvsDpdk => {
            let (running, sockets) = ovs::start_dpdk(ns, CORE)?;
            for socket in &sockets {
                wait_until(&socket.display().to_string(), Duration::from_secs(10), || socket.exists())?;
            }
            Ok((running, sockets.map(|path| vhost_user(&path))))
        }
        Subject::Tap => {
            let switch = ours(ns, &TAPS.map(String::from), run)?;
            Ok((Running::ours(switch), TAPS.map(tap)))
        }
        Subject::Stream => {
            let (running, sockets) = by_sockets(ns, "stream", run)?;
            let words = "stream,id=t0,server=off,addr.type=unix,addr.path=";
            Ok((running, sockets.map(|path| netdev(&format!("{words}{}", path.display())))))
        }
        Subject::Dgram => {
            let (running, sockets) = by_sockets(ns, "dgram", run)?;
            Ok((running, sockets.map(|path| dgram(&path.with_extension("guest"), &path))))
        }
        Subject::Bridge => {
            for name in TAPS {
                ns.run(&format!("ip tuntap add dev {name} mode tap"))?;
            }
            Ok((bridge::start(ns, &TAPS)?, TAPS.map(tap)))
        }
        Subject::Vde => {
            let (running, control) = vde::start(ns, &[])?;
            let words = format!("vde,id=t0,sock={}", control.display());
            Ok((running, [netdev(&words), netdev(&words)]))
        }
        Subject::Qemu => {
            let directory = tempfile::Builder::new().prefix("vbench-dgram-").tempdir()?;
            let [a, b] = ["a", "b"].map(|name| directory.path().join(name));
            let cards = [dgram(&a, &b), dgram(&b, &a)];
            Ok((Running { _directory: Some(directory), ..Running::default() }, cards))
        }
        Subject::Engine | Subject::Ovs | Subject::DpdkVhost => bail!("{} has no guests", subject.name()),
    }
}

fn ours(ns: &Netns, ports: &[String; 2], run: &[String]) -> Result<Switch> {
    let ports: Vec<String> = ports.iter().map(|port| format!("--port={port}")).collect();
    let args: Vec<&str> = ports.iter().chain(run).map(String::as_str).collect();
    Switch::start(ns, &args)
}

/// Ours with two ports of `kind` on unix sockets.
fn by_sockets(ns: &Netns, kind: &str, run: &[String]) -> Result<(Running, [PathBuf; 2])> {
    let directory = tempfile::Builder::new().prefix("vbench-sockets-").tempdir()?;
    let sockets = ["0.sock", "1.sock"].map(|name| directory.path().join(name));
    let ports = [0, 1].map(|number: usize| format!("{kind}:{}", sockets[number].display()));
    let switch = ours(ns, &ports, run)?;
    Ok((Running { _directory: Some(directory), ..Running::ours(switch) }, sockets))
}

fn netdev(words: &str) -> Vec<String> {
    vec!["-netdev".into(), words.into()]
}

fn tap(name: &str) -> Vec<String> {
    netdev(&format!("tap,id=t0,ifname={name},script=no,downscript=no"))
}

fn dgram(local: &Path, remote: &Path) -> Vec<String> {
    let [local, remote] = [local, remote].map(Path::display);
    netdev(&format!("dgram,id=t0,local.type=unix,local.path={local},remote.type=unix,remote.path={remote}"))
}

fn vhost_user(socket: &Path) -> Vec<String> {
    let chardev = format!("socket,id=c0,path={},{}", socket.display(), reconnect());
    let words = [
        ["-object", "memory-backend-memfd,id=ram,size=256M,share=on"],
        ["-machine", "memory-backend=ram"],
        ["-chardev", &chardev],
        ["-netdev", "vhost-user,id=t0,chardev=c0"],
    ];
    words.concat().into_iter().map(String::from).collect()
}
