//! Making an image: under another name first, renamed when it is whole.
//!
//! A signal ends qemu-img and removes the part. A kill of `vlab` itself leaves
//! the part, hidden beside the place; the next work on that place removes it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command as Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, RenameFlags, renameat_with};

/// What to do where an image is already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Leave it, and fail.
    Keep,
    /// Put the new one in its place.
    Replace,
}

/// Makes the image at `path` by the command that `command` builds for the part.
pub fn image(path: &Path, existing: Existing, command: impl Fn(&Path) -> Vec<String>) -> Result<()> {
    checked_image(path, existing, command, |_| Ok(()))
}

/// The same, where `check` has to be content with the part.
pub fn checked_image(
    path: &Path,
    existing: Existing,
    command: impl Fn(&Path) -> Vec<String>,
    check: impl Fn(&Path) -> Result<()>,
) -> Result<()> {
    // Removed on every way out on which it was not renamed.
    struct Part(PathBuf);
    impl Drop for Part {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }
    sweep(path);
    let part = Part(part_of(path, std::process::id()));
    run(&command(&part.0))?;
    check(&part.0)?;
    finish(&part.0, path, existing)
}

fn part_of(path: &Path, pid: u32) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{pid}.part"))
}

/// Removes the parts of `path` whose maker has ended.
fn sweep(path: &Path) {
    let Some(name) = path.file_name() else { return };
    let start = format!(".{}.", name.to_string_lossy());
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(&start).and_then(|rest| rest.strip_suffix(".part")?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Runs a command to its end; a signal to us ends it early.
///
/// # Errors
/// It cannot be run, what it said when it failed, or the interruption.
pub fn run(argv: &[String]) -> Result<()> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let mut handlers = Vec::new();
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        handlers.push(signal_hook::flag::register(signal, Arc::clone(&interrupted))?);
    }
    let outcome = run_until(argv, &interrupted);
    for handler in handlers {
        signal_hook::low_level::unregister(handler);
    }
    outcome
}

fn run_until(argv: &[String], interrupted: &AtomicBool) -> Result<()> {
    let mut child = Child::new(&argv[0])
        .args(&argv[1..])
        // Ordinary users have no sbin in their PATH, where debugfs lives.
        .env("PATH", path_with_sbin())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}{}", argv[0], package_of(&argv[0])))?;
    let stderr = child.stderr.take();
    let said = std::thread::spawn(move || {
        let mut said = Vec::new();
        // What cannot be read is not shown.
        let _ = stderr.map(|mut pipe| pipe.read_to_end(&mut said));
        said
    });
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if interrupted.load(Ordering::Relaxed) {
            child.kill()?;
            child.wait()?;
            bail!("interrupted");
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    if interrupted.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    let said = said.join().unwrap_or_default();
    if !status.success() {
        let said = String::from_utf8_lossy(&said);
        let said = said.trim().trim_start_matches("qemu-img: ");
        bail!("{}", if said.is_empty() { format!("{}: {status}", argv[0]) } else { said.to_owned() });
    }
    Ok(())
}

fn path_with_sbin() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    std::env::join_paths(all).unwrap_or(path)
}

fn package_of(program: &str) -> &'static str {
    match program {
        "qemu-img" => " (package qemu-utils)",
        "debugfs" => " (package e2fsprogs)",
        "curl" => " (package curl)",
        _ => "",
    }
}

/// Gives the finished `part` its name.
///
/// # Errors
/// Something took the name meanwhile, and is to be kept.
pub fn finish(part: &Path, path: &Path, existing: Existing) -> Result<()> {
    let flags = match existing {
        Existing::Keep => RenameFlags::NOREPLACE,
        Existing::Replace => RenameFlags::empty(),
    };
    File::open(part)?.sync_all()?;
    renameat_with(CWD, part, CWD, path, flags).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn an_interruption_ends_the_work() {
        let argv = ["sleep", "60"].map(str::to_owned);
        let error = run_until(&argv, &AtomicBool::new(true)).unwrap_err();
        assert_eq!(error.to_string(), "interrupted");
    }

    #[test]
    fn parts_of_the_dead_are_swept_and_those_of_the_living_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.qcow2");
        let mut dead = Child::new("true").spawn().unwrap();
        dead.wait().unwrap();
        fs::write(part_of(&path, dead.id()), "half").unwrap();
        fs::write(part_of(&path, std::process::id()), "at work").unwrap();
        fs::write(folder.path().join(".a.qcow2.part"), "not ours").unwrap();
        sweep(&path);
        assert_eq!(count(folder.path()), 2);
        assert!(!part_of(&path, dead.id()).exists());
    }

    #[test]
    fn a_name_taken_meanwhile_is_kept_and_no_part_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "first").unwrap();
        let touch = |part: &Path| vec!["cp".to_owned(), "/dev/null".to_owned(), part.display().to_string()];
        image(&path, Existing::Keep, touch).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"first");
        image(&path, Existing::Replace, touch).unwrap();
        assert_eq!((fs::read(&path).unwrap().len(), count(folder.path())), (0, 1));
    }
}
