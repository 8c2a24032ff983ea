//! `--metrics`: what Prometheus reads of a whole switch, and what hostile clients
//! get.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use vswitch_tests::clock::wait_until;
use vswitch_tests::guest_socket::GuestSocket;
use vswitch_tests::process::Switch;
use vswitch_tests::require;
use vswitch_tests::user::Ordinary;

use crate::ports::{SOON, UNKNOWN, connects, frame};

/// A switch with two ports and a metrics address. Fields are dropped in this
/// order.
struct Rig {
    switch: Switch,
    user: Ordinary,
    address: SocketAddr,
}

impl Rig {
    fn new() -> Result<Rig> {
        let user = Ordinary::new()?;
        let ports = ["a", "b"].map(|name| format!("stream:{}/{name}.sock", user.home().display()));
        let args = ["--metrics", "127.0.0.1:0", "--port", &ports[0], "--port", &ports[1]];
        let switch = Switch::start_as(&user, &args)?;
        // It is ready by its other stream.
        switch.wait_stderr("/metrics\n", SOON)?;
        let stderr = switch.stderr();
        let line = stderr.lines().find_map(|line| line.strip_prefix("metrics: http://"));
        let address = line.and_then(|line| line.strip_suffix("/metrics")).context(stderr.clone())?.parse()?;
        Ok(Rig { switch, user, address })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.user.home().join(format!("{name}.sock"))
    }

    fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.set_write_timeout(Some(SOON))?;
        Ok(stream)
    }

    /// Head and body of the answer to `request`.
    fn ask(&self, request: &str) -> Result<(String, String)> {
        let mut stream = self.connect()?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").with_context(|| answer.clone())?;
        Ok((head.to_owned(), body.to_owned()))
    }

    fn open_metrics(&self) -> Result<String> {
        let accept = "application/openmetrics-text; version=1.0.0";
        let (head, body) =
            self.ask(&format!("GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\r\n"))?;
        ensure!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        ensure!(head.contains(&format!("Content-Type: {accept}; charset=utf-8\r\n")), "{head}");
        ensure!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
        ensure!(body.ends_with("\n# EOF\n"), "{body}");
        Ok(body)
    }

    fn fds_len(&self) -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.switch.pid()))?.count())
    }
}

/// Samples by their name and labels.
fn samples(text: &str) -> Result<BTreeMap<String, f64>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
            Ok((name.to_owned(), value.parse()?))
        })
        .collect()
}

fn sum(samples: &BTreeMap<String, f64>, name: &str) -> f64 {
    samples.iter().filter(|(of, _)| of.split('{').next() == Some(name)).map(|(_, value)| value).sum()
}

#[test]
fn what_is_read_is_what_stats_say_and_the_sums_hold() -> Result<()> {
    require!(root);
    let rig = Rig::new()?;
    let (mut a, mut b) = (GuestSocket::stream(&rig.path("a"))?, GuestSocket::stream(&rig.path("b"))?);
    let up = || {
        rig.open_metrics().is_ok_and(|text| {
            text.matches("vswitch_port_up{").count() == 2
                && !text.contains("vswitch_port_up{port=\"a\"} 0")
                && !text.contains("vswitch_port_up{port=\"b\"} 0")
        })
    };
    wait_until("both ports", SOON, up)?;
    let first = samples(&rig.open_metrics()?)?;
    for _ in 0..100 {
        connects((&mut a, &rig.path("a")), &mut b, &frame(UNKNOWN, 0x0a, 60))?;
    }
    // To itself: dropped.
    a.send(&frame(0x0a, 0x0a, 60), &rig.path("a"))?;
    let has = |name: &str, value: f64| {
        rig.open_metrics()
            .and_then(|text| samples(&text))
            .is_ok_and(|samples| samples.get(name) == Some(&value))
    };
    let filtered = "vswitch_port_dropped_frames_total{port=\"a\",reason=\"filtered\"}";
    wait_until("the last frame", SOON, || has(filtered, 1.0))?;
    let samples = samples(&rig.open_metrics()?)?;
    let stats = rig.switch.json(&["stats"])?;
    for (name, field) in [
        ("vswitch_port_receive_frames_total{port=\"a\"}", &stats["ports"][0]["rx"]),
        ("vswitch_port_transmit_bytes_total{port=\"b\"}", &stats["ports"][1]["tx_bytes"]),
        ("vswitch_port_learned_macs_total{port=\"a\"}", &stats["ports"][0]["learned"]),
    ] {
        ensure!(samples.get(name).copied() == field.as_f64() && field != 0, "{name}: {samples:?}");
    }
    let total = |name: &str| sum(&samples, &format!("vswitch_port_{name}_total"));
    ensure!(total("receive_frames") == total("forwarded_frames") + total("dropped_frames"));
    ensure!(total("copies") == total("transmit_frames") + total("refused_frames"));
    let told = |name: &str| samples.get(name).copied().with_context(|| format!("{name}: {samples:?}"));
    let turns = told("vswitch_turn_seconds_count")?;
    ensure!(turns > 0.0 && turns <= 101.0, "{turns}");
    ensure!(told("vswitch_turn_seconds_bucket{le=\"+Inf\"}")? == turns);
    let spent = told("vswitch_turn_seconds_sum")?;
    ensure!(spent > 0.0 && spent < 60.0, "{spent}");
    let started = told("process_start_time_seconds")?;
    let age = std::fs::metadata(rig.switch.control())?.created()?.duration_since(std::time::UNIX_EPOCH)?;
    ensure!((started - age.as_secs_f64()).abs() < 5.0, "{started}");
    ensure!(first.get("process_start_time_seconds") == Some(&started), "a start does not move: {first:?}");
    ensure!(rig.switch.stop()?.status.success());
    Ok(())
}

#[test]
fn slow_and_hostile_clients_wait_for_themselves() -> Result<()> {
    require!(root);
    let rig = Rig::new()?;
    let before = rig.fds_len()?;
    let mut halves = Vec::new();
    for _ in 0..16 {
        let mut half = rig.connect()?;
        half.write_all(b"GET /metr")?;
        halves.push(half);
    }
    // One too many, which is told so, or closed on while it speaks.
    let refused = || match rig.ask("GET /metrics HTTP/1.1\r\n\r\n") {
        Ok((head, _)) => head.starts_with("HTTP/1.1 503 "),
        Err(_) => false,
    };
    wait_until("the refusal", SOON, refused)?;
    // Commands and frames are served as ever.
    ensure!(rig.switch.json(&["show"])?["ports"].as_array().is_some_and(|ports| ports.len() == 2));
    let (mut a, mut b) = (GuestSocket::stream(&rig.path("a"))?, GuestSocket::stream(&rig.path("b"))?);
    wait_until("both ports", SOON, || {
        rig.switch
            .json(&["show"])
            .is_ok_and(|show| show["ports"][0]["state"] == "up" && show["ports"][1]["state"] == "up")
    })?;
    connects((&mut a, &rig.path("a")), &mut b, &frame(UNKNOWN, 0x0a, 60))?;
    drop((a, b));
    // After five seconds those who said half are closed on.
    for half in &mut halves {
        ensure!(matches!(half.read(&mut [0; 1]), Ok(0)), "it was closed");
    }
    drop(halves);
    for (request, status) in [
        ("GET /etc/passwd HTTP/1.1\r\n\r\n".to_owned(), "404"),
        ("POST /metrics HTTP/1.1\r\n\r\n".to_owned(), "405"),
        ("\0\u{1}\r\n\r\n".to_owned(), "400"),
        (format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(8192)), "431"),
    ] {
        let (head, _) = rig.ask(&request)?;
        ensure!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    }
    // 1,000 come and go, some without a word, some without an ear.
    for n in 0..1000 {
        let mut stream = rig.connect()?;
        if n % 3 != 0 {
            let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n");
        }
        if n % 3 == 1 {
            match stream.read_to_end(&mut Vec::new()) {
                Err(error) if error.kind() != ErrorKind::ConnectionReset => bail!(error),
                Ok(_) | Err(_) => {}
            }
        }
    }
    let left = || rig.fds_len().is_ok_and(|len| len <= before);
    wait_until("the descriptors to be closed", Duration::from_secs(20), left)?;
    rig.open_metrics()?;
    ensure!(rig.switch.stop()?.status.success());
    Ok(())
}

#[test]
fn a_taken_address_is_told_with_what_to_do() -> Result<()> {
    require!(root);
    let rig = Rig::new()?;
    let port = format!("stream:{}", rig.path("c").display());
    let Err(error) = Switch::start_as(&rig.user, &["--metrics", &rig.address.to_string(), "--port", &port])
    else {
        bail!("it started");
    };
    let text = format!("{error:#}");
    ensure!(
        text.contains(&format!("error: --metrics {}: Address", rig.address))
            && text.contains("choose another"),
        "{text}"
    );
    Ok(())
}

/// Runs promtool with `text` at its standard input.
fn promtool(args: &[&str], text: &str) -> Result<()> {
    let mut child = Command::new("promtool")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("stdin")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    // A word about style is a failure too.
    ensure!(output.status.success(), "promtool {args:?}: {told}");
    Ok(())
}

#[test]
fn promtool_finds_no_fault() -> Result<()> {
    require!(root, "promtool");
    let rig = Rig::new()?;
    let (head, text) = rig.ask("GET /metrics HTTP/1.1\r\n\r\n")?;
    ensure!(head.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
    ensure!(!text.contains("# EOF"), "{text}");
    promtool(&["check", "metrics"], &text)?;
    ensure!(promtool(&["check", "metrics"], "a_total{ 1\n").is_err(), "it would find one");
    Ok(())
}

/// Where dashboard and rules are.
fn monitoring() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/monitoring")
}

#[test]
fn alert_rules_are_rules_and_fire_when_they_should() -> Result<()> {
    require!("promtool");
    for (what, file) in [("check", "alerts.yml"), ("test", "alerts.test.yml")] {
        let path = monitoring().join(file);
        promtool(&[what, "rules", path.to_str().context("path")?], "")?;
    }
    Ok(())
}

#[test]
fn dashboard_and_rules_use_metrics_that_there_are() -> Result<()> {
    require!(root);
    let rig = Rig::new()?;
    let told = samples(&rig.open_metrics()?)?;
    let names: Vec<&str> = told.keys().filter_map(|name| name.split('{').next()).collect();
    for file in ["dashboard.json", "alerts.yml"] {
        let text = std::fs::read_to_string(monitoring().join(file))?;
        if file.ends_with("json") {
            serde_json::from_str::<serde_json::Value>(&text).context(file)?;
        }
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let used: Vec<&str> =
            text.split(|c| !is_name(c)).filter(|word| word.starts_with("vswitch_")).collect();
        ensure!(used.len() > 5, "{file}: {used:?}");
        for name in used {
            ensure!(names.contains(&name), "{file} uses {name}, which no switch tells");
        }
    }
    Ok(())
}
