//! Programs that run beside us: to their end within a limit, or until dropped.

use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use vswitch_tests::clock::Deadline;
use vswitch_tests::process::end_child;

use crate::interrupt;

/// Has `command` killed by the kernel when the thread that starts it ends: should
/// we be killed, nothing goes on without us.
pub(crate) fn die_with_us(command: &mut Command) {
    // SAFETY: between fork and exec only prctl(2) is called, which
    // signal-safety(7) does not list but which only enters the kernel.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

/// A child that ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
}

impl Daemon {
    /// Starts `command` out of reach of the terminal's Ctrl-C, silent, with a
    /// standard input that stays open (a closed one ends some switches).
    pub(crate) fn start(mut command: Command) -> Result<Daemon> {
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        die_with_us(&mut command);
        let child = command.spawn().with_context(|| format!("{command:?}"))?;
        Ok(Daemon { child })
    }

    /// Its pid.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error if it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        let ended = self.child.try_wait()?;
        ensure!(ended.is_none(), "a peer ended by itself: {ended:?}");
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        end_child(&mut self.child);
    }
}

/// Runs `command` to its end, at most `limit`, and returns its standard output.
pub(crate) fn output(mut command: Command, limit: Duration) -> Result<String> {
    let shown = format!("{command:?}");
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().with_context(|| shown.clone())?;
    let mut pipe = child.stdout.take().context("no pipe")?;
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        pipe.read_to_string(&mut text).map(|_| text)
    });
    let deadline = Deadline::after(limit);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Ok(status);
        }
        if let Err(stop) = interrupt::check() {
            break Err(stop);
        }
        if deadline.passed() {
            break Err(anyhow::anyhow!("{shown} took longer than {limit:?}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    if status.is_err() {
        end_child(&mut child);
    }
    let text = reader.join().map_err(|_| anyhow::anyhow!("reading {shown}"))??;
    let status = status?;
    if !status.success() {
        bail!("{shown}: {status}: {}", text.trim());
    }
    Ok(text)
}
