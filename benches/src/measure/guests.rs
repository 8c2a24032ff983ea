//! Figures between two QEMU guests: what their users see.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use vswitch_hot::stats::spread;
use vswitch_tests::clock::Deadline;
use vswitch_tests::iperf::is_between_tests;
use vswitch_tests::netns::Netns;
use vswitch_tests::qemu::{Boot, Guest};

use super::hosts::{ping_times, state, tcp_figure, udp_figure};
use super::{Effort, Meter, approximate};
use crate::interrupt;
use crate::record::{Figure, Unit};
use crate::rig::Card;
use crate::subject::{Subject, guests};

const ADDRESS: &str = "10.99.0.2";

/// For a guest to boot: 5 s on a machine that does nothing else.
const BOOT: Duration = Duration::from_secs(120);

/// Between two looks at whether somebody wants us to end.
const LOOK: Duration = Duration::from_millis(250);

/// Beyond the length of a run.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often a server that is between two tests is tried.
const TRIES: u32 = 20;

const PING: &str = "ping round trip";
const TCP: &str = "TCP, first to second guest";
const TCP_BACK: &str = "TCP, second to first guest";
const UDP: &str = "UDP, 64 B, first to second guest";

/// `work` with `card`; virtio-net goes without saying.
fn case(work: &str, card: Card) -> String {
    match card {
        Card::Virtio => format!("{work}, {}", state(true)),
        Card::Plain => format!("{work}, {}", state(false)),
        Card::E1000 => format!("{}, {work}", card.name()),
    }
}

/// Every case there is.
pub(super) fn cases(card: Card) -> Vec<String> {
    [PING, TCP, TCP_BACK, UDP].map(|work| case(work, card)).into()
}

/// Every figure of `subject` between two guests, which are booted for it.
pub(crate) fn all(subject: Subject, card: Card, run: &[String], effort: Effort<'_>) -> Result<Vec<Figure>> {
    let ns = Netns::new("sw")?;
    let boot = |net: &[String], mac, address, append| boot(&ns, card, net, mac, address, append);
    let (mut running, cards) = guests::start(subject, &ns, run)?;
    // Both boot at once.
    let [a, b] = &cards;
    let mut first = boot(a, "02:00:00:00:00:01", "10.99.0.1/24", "")?;
    let mut second = boot(b, "02:00:00:00:00:02", "10.99.0.2/24", "role=iperf-server")?;
    wait_ready(&mut first)?;
    wait_ready(&mut second)?;
    running.check()?;
    // The first answer teaches addresses to everybody.
    first.run(&format!("ping -c 1 -w 30 {ADDRESS}"))?;
    // Guests without traffic sleep, and so does a machine of ours; what a switch
    // burns all the same belongs to it.
    let meter = Meter { idle_share: 0.0 };
    let mut figures = Vec::new();
    let wanted = |work| Some(case(work, card)).filter(|case| effort.wants(case));
    if let Some(case) = wanted(PING) {
        figures.push(ping(&case, &mut first, effort)?);
    }
    for (work, more) in [(TCP, ""), (TCP_BACK, "-R")] {
        if let Some(case) = wanted(work) {
            let (report, cpu) = meter.time(|| iperf(&mut first, more, effort))?;
            figures.push(tcp_figure(&case, &report, cpu)?);
        }
    }
    if let Some(case) = wanted(UDP) {
        let (report, cpu) = meter.time(|| iperf(&mut first, "-u -b 0 -l 64", effort))?;
        figures.push(udp_figure(&case, &report, cpu)?);
    }
    running.check()?;
    Ok(figures)
}

fn boot(ns: &Netns, card: Card, net: &[String], mac: &str, address: &str, append: &str) -> Result<Guest> {
    // On a busy machine an emulated timer may seem to stand still.
    let append = &format!("no_timer_check {append}");
    let boot = Boot { tap: "guest", model: card.model(), mac, address, append };
    let net: Vec<&str> = net.iter().map(String::as_str).collect();
    Guest::start_with(ns, &boot, &net)
}

/// Waits until `guest` has its address and a shell, or somebody wants us to end.
fn wait_ready(guest: &mut Guest) -> Result<()> {
    let deadline = Deadline::after(BOOT);
    loop {
        interrupt::check()?;
        match guest.console().wait("guest: ready ", LOOK) {
            Ok(_) => return guest.console().log_in(),
            // A console that closed says so at once, again and again.
            Err(error) if deadline.passed() || error.to_string().contains("closed") => bail!(error),
            Err(_) => {}
        }
    }
}

/// Emulated guests take longer than the host to come to speed.
fn length(effort: Effort<'_>) -> Duration {
    effort.run * 2
}

fn ping(case: &str, guest: &mut Guest, effort: Effort<'_>) -> Result<Figure> {
    let count = length(effort).as_millis() / 20;
    let text = guest.console().run(&format!("ping -c {count} -i 0.02 {ADDRESS}"), PATIENCE)?;
    let times = ping_times(&text);
    let p99 = times.get(times.len() * 99 / 100).copied().context("no ping was answered")?;
    let lost = approximate(u64::try_from(count)?) - approximate(u64::try_from(times.len())?);
    let median = spread(times).context("no ping was answered")?.median;
    Ok(Figure::new(case, Unit::Microseconds, median).with("p99", p99).with("lost", lost))
}

/// What iperf3 reports of a run from `guest`.
fn iperf(guest: &mut Guest, more: &str, effort: Effort<'_>) -> Result<Value> {
    let secs = length(effort).as_secs().max(1);
    let line = format!("iperf3 -c {ADDRESS} -J -i 0 -t {secs} --connect-timeout 5000 {more}");
    for _ in 0..TRIES {
        interrupt::check()?;
        // Its exit code says no more than its report.
        let text = guest.console().run(&format!("{line} || true"), length(effort) + PATIENCE)?;
        let json = text.find('{').zip(text.rfind('}')).map(|(from, to)| &text[from..=to]);
        let report: Value = serde_json::from_str(json.unwrap_or_default()).with_context(|| text.clone())?;
        match report["error"].as_str() {
            None => return Ok(report),
            Some(error) if is_between_tests(error) => std::thread::sleep(Duration::from_millis(100)),
            Some(error) => bail!("iperf3: {error}"),
        }
    }
    bail!("iperf3's server never came back")
}
