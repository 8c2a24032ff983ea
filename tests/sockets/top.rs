//! `vswitch top` in a terminal, tmux's: what is on the screen at two sizes, what
//! keys do, and that the terminal is given back however it ends.
//!
//! With `VSWITCH_SCREENS=DIR` the screens are written there, for docs/top.md.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use vswitch_tests::clock::wait_until;
use vswitch_tests::guest_socket::GuestSocket;
use vswitch_tests::process::binary;
use vswitch_tests::require;

use crate::ports::{Rig, SOON, UNKNOWN, connects, frame};

/// A tmux server of our own; ends with the value.
struct Screen {
    socket: PathBuf,
    _dir: TempDir,
}

impl Screen {
    /// A terminal of that size in which `command` runs, and then a shell waits.
    fn new(width: u16, height: u16, command: &str) -> Result<Screen> {
        let dir = tempfile::Builder::new().prefix("vt-").tempdir()?;
        let screen = Screen { socket: dir.path().join("tmux"), _dir: dir };
        let (width, height) = (width.to_string(), height.to_string());
        // What comes after it shows that the terminal was given back.
        let command = format!("{command}; echo \"ended: $?\"; exec cat");
        let args = ["-f", "/dev/null", "new-session", "-d", "-x", &width, "-y", &height, &command];
        screen.tmux(&args)?;
        Ok(screen)
    }

    fn tmux(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new("tmux");
        command.arg("-u").arg("-S").arg(&self.socket).args(args).env("LC_ALL", "C.UTF-8").env_remove("TMUX");
        let Output { status, stdout, stderr } = command.output()?;
        ensure!(status.success(), "tmux {args:?}: {}", String::from_utf8_lossy(&stderr));
        Ok(String::from_utf8(stdout)?)
    }

    /// What is on it now.
    fn text(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p"])
    }

    fn wait(&self, wanted: &str) -> Result<String> {
        let shows = || self.text().is_ok_and(|text| text.contains(wanted));
        wait_until(&format!("`{wanted}` on the screen"), SOON, shows)
            .with_context(|| self.text().unwrap_or_default())?;
        self.text()
    }

    fn press(&self, key: &str) -> Result<()> {
        self.tmux(&["send-keys", key]).map(drop)
    }

    /// Whether a program has the screen for itself.
    fn is_taken(&self) -> Result<bool> {
        Ok(self.tmux(&["display-message", "-p", "#{alternate_on}"])?.trim() == "1")
    }

    /// The process of `vswitch top`, the child of the pane's shell.
    fn program(&self) -> Result<Pid> {
        let shell = self.tmux(&["display-message", "-p", "#{pane_pid}"])?;
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", shell.trim()))?;
        let pid = children.split_whitespace().next().context("it has no child")?.parse()?;
        Pid::from_raw(pid).context("pid")
    }

    /// Waits for the shell's word, and that the screen is its own again.
    fn wait_ended(&self, status: &str) -> Result<()> {
        self.wait(&format!("ended: {status}"))?;
        ensure!(!self.is_taken()?, "the screen was not given back");
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]);
    }
}

/// A switch with guests that talk, and the command that watches it.
fn rig() -> Result<(Rig, [GuestSocket; 2], String)> {
    let rig = Rig::new(&["stream", "stream", "stream"])?;
    let guests = [rig.stream(0)?, rig.stream(1)?];
    let program = binary("vswitch")?;
    let command =
        format!("{} top --interval 200ms --control {}", program.display(), rig.switch().control().display());
    Ok((rig, guests, command))
}

/// Sends frames from one guest to the other until `is_done`.
fn talk(rig: &Rig, guests: &mut [GuestSocket; 2], is_done: impl Fn() -> bool) -> Result<()> {
    let [a, b] = guests;
    let start = std::time::Duration::from_millis(2);
    wait_until("the screen", SOON, || {
        let sent = connects((a, &rig.path(0)), b, &frame(UNKNOWN, 0x0a, 600))
            .and_then(|()| connects((b, &rig.path(1)), a, &frame(0x0a, 0x0b, 60)));
        std::thread::sleep(start);
        sent.is_err() || is_done()
    })
}

/// Keeps a screen for the documentation, if that is wanted.
fn keep(name: &str, text: &str) -> Result<()> {
    if let Some(dir) = std::env::var_os("VSWITCH_SCREENS") {
        std::fs::write(PathBuf::from(dir).join(name), text)?;
    }
    Ok(())
}

#[test]
fn it_looks_right_at_80_by_24_and_wide() -> Result<()> {
    require!(root, "tmux");
    let (rig, mut guests, command) = rig()?;
    let small = Screen::new(80, 24, &command)?;
    let wide = Screen::new(200, 50, &command)?;
    // Rates, a history, and what happened.
    let has_history = |screen: &Screen| {
        screen.text().is_ok_and(|text| {
            let busy = text
                .lines()
                .find(|line| line.starts_with("p0 "))
                .map_or(0, |line| line.matches(['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█']).count());
            busy >= 8 && text.contains("mac_learned")
        })
    };
    talk(&rig, &mut guests, || has_history(&small) && has_history(&wide))?;
    let (at_80, at_200) = (small.text()?, wide.text()?);
    keep("80x24.txt", &at_80)?;
    keep("200x50.txt", &at_200)?;
    for (text, width, height) in [(&at_80, 80, 24), (&at_200, 200, 50)] {
        ensure!(text.lines().count() == height, "{text}");
        ensure!(text.lines().all(|line| line.chars().count() <= width), "{text}");
        ensure!(text.lines().next().is_some_and(|line| line.contains(": 3 ports, 2 of 8192 MACs")), "{text}");
        let state = |port: &str| {
            text.lines().find(|line| line.starts_with(port)).and_then(|line| line.split_whitespace().nth(1))
        };
        ensure!((state("p0"), state("p1"), state("p2")) == (Some("up"), Some("up"), Some("down")), "{text}");
        ensure!(text.lines().last().is_some_and(|line| line.starts_with("q quit")), "{text}");
    }
    ensure!(!at_80.contains("Addresses") && at_200.contains("Addresses: 2"), "{at_80}{at_200}");
    // Keys: the other list, a search, sorting, help, the end.
    small.press("Tab")?;
    small.wait("Addresses: 2")?;
    for key in ["/", "p", "1", "Enter"] {
        small.press(key)?;
    }
    let found = small.wait("with `p1`")?;
    ensure!(
        found.lines().any(|line| line.starts_with("p1 "))
            && !found.lines().any(|line| line.starts_with("p0 ")),
        "{found}"
    );
    small.press("Escape")?;
    small.wait("p0 ")?;
    small.press("s")?;
    small.wait("Ports by name")?;
    small.press("?")?;
    small.wait("Any key closes this")?;
    small.press("x")?;
    small.press("q")?;
    small.wait_ended("0")?;
    // A terminal that changes its size is drawn anew.
    wide.tmux(&["resize-window", "-x", "100", "-y", "30"])?;
    wait_until("the new size", SOON, || {
        wide.text().is_ok_and(|text| {
            text.lines().count() == 30 && text.lines().last().is_some_and(|line| line.starts_with("q quit"))
        })
    })?;
    wide.press("C-c")?;
    wide.wait_ended("0")
}

#[test]
fn signals_and_a_switch_that_ends_leave_the_terminal_in_order() -> Result<()> {
    require!(root, "tmux");
    let (mut rig, guests, command) = rig()?;
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let screen = Screen::new(80, 24, &command)?;
        screen.wait("q quit")?;
        ensure!(screen.is_taken()?);
        kill_process(screen.program()?, signal)?;
        screen.wait_ended("0")?;
    }
    // A path that leads to whichever switch runs.
    let dir = tempfile::Builder::new().prefix("vt-").tempdir()?;
    let path = dir.path().join("now.sock");
    symlink(rig.switch().control(), &path)?;
    let screen = Screen::new(
        80,
        24,
        &command.replace(&rig.switch().control().display().to_string(), &path.display().to_string()),
    )?;
    screen.wait("q quit")?;
    drop(guests);
    let Some(switch) = rig.switch.take() else { return Ok(()) };
    ensure!(switch.stop()?.status.success());
    // It says so, keeps the last picture, and looks again.
    let text = screen.wait("looking again")?;
    ensure!(text.contains("p0 "), "{text}");
    // Started again, it is shown from its first event on, although fewer have
    // happened than in the run before.
    rig.start()?;
    std::fs::remove_file(&path)?;
    symlink(rig.switch().control(), &path)?;
    let is_new = |text: &str| !text.contains("looking again") && text.contains("port_added");
    wait_until("the new switch's events", SOON, || screen.text().is_ok_and(|text| is_new(&text)))
        .with_context(|| screen.text().unwrap_or_default())?;
    screen.press("q")?;
    screen.wait_ended("0")?;
    let Some(switch) = rig.switch.take() else { return Ok(()) };
    ensure!(switch.stop()?.status.success());
    // A switch that is not there is told in words, and the screen not taken.
    let screen = Screen::new(80, 24, &command)?;
    screen.wait("error: no switch listens on")?;
    screen.wait_ended("1")
}

#[test]
fn without_a_terminal_it_prints_one_look() -> Result<()> {
    require!(root);
    let (rig, mut guests, _) = rig()?;
    let [a, b] = &mut guests;
    connects((a, &rig.path(0)), b, &frame(UNKNOWN, 0x0a, 60))?;
    let output = rig.switch().client(&["top", "--interval", "100ms"])?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success() && !text.contains('\u{1b}'), "{text}");
    for wanted in
        ["3 ports, 1 of 8192 MACs", "\nPORT   RX/S", "\ntotal", "port_added       p0: stream:", "mac_learned"]
    {
        ensure!(text.contains(wanted), "{wanted}: {text}");
    }
    let json = rig.switch().json(&["top", "--interval", "100ms"])?;
    ensure!(json["show"]["ports"][0]["name"] == "p0" && json["total"]["rx"] == 0, "{json}");
    ensure!(json["interval_ms"].as_u64().is_some_and(|ms| ms >= 100), "{json}");
    // The same for a terminal that can do nothing.
    let screen = Screen::new(
        80,
        40,
        &format!(
            "TERM=dumb {} top --interval 100ms --control {}",
            binary("vswitch")?.display(),
            rig.switch().control().display()
        ),
    )?;
    screen.wait_ended("0")
}

#[test]
fn stats_are_watched_line_by_line() -> Result<()> {
    require!(root);
    let (rig, mut guests, _) = rig()?;
    let mut command = Command::new(binary("vswitch")?);
    command.args(["stats", "--watch", "100ms", "--control"]).arg(rig.switch().control());
    let mut child = command.stdout(std::process::Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().context("stdout")?;
    let lines = std::thread::spawn(move || {
        use std::io::BufRead as _;
        let lines = std::io::BufReader::new(stdout).lines().map_while(Result::ok);
        // The reader then hangs up, which ends it.
        lines.take(60).collect::<Vec<String>>()
    });
    talk(&rig, &mut guests, || lines.is_finished())?;
    let lines = lines.join().map_err(|_| anyhow::anyhow!("it panicked"))?;
    wait_until(
        "the end",
        Duration::from_secs(20),
        || matches!(child.try_wait(), Ok(Some(status)) if status.success()),
    )?;
    ensure!(lines[0].split_whitespace().take(3).eq(["UP", "PORT", "RX/S"]), "{lines:?}");
    ensure!(
        lines.iter().filter(|line| line.starts_with("UP ")).count() >= 2,
        "a heading now and then: {lines:?}"
    );
    let busy = |port: &str| {
        lines.iter().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words[1] == port && words[2] != "0" && words[3] != "0"
        })
    };
    ensure!(busy("p0") && busy("p1") && busy("total") && !busy("p2"), "{lines:?}");
    Ok(())
}

#[test]
fn it_ends_with_its_terminal() -> Result<()> {
    require!(root, "tmux");
    let (_rig, _guests, command) = rig()?;
    let screen = Screen::new(80, 24, &command)?;
    screen.wait("q quit")?;
    let pid = screen.program()?;
    screen.tmux(&["kill-server"])?;
    let is_gone = || !std::path::Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists();
    wait_until("top to end", SOON, is_gone)
}
