//! Huge pages for DPDK, asked of the kernel and given back.
//!
//! Where the pages are mounted is a directory whose name says who made it and
//! how many pages the kernel kept before: what a killed run left is undone by
//! the next one.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use vswitch_tests::netns::run;

const COUNT: &str = "/proc/sys/vm/nr_hugepages";
const PREFIX: &str = "vbench-huge-";

/// Pages that are there until this is dropped, and a mount of their file system.
#[derive(Debug)]
pub(crate) struct HugePages {
    dir: PathBuf,
    before: u64,
}

impl HugePages {
    /// Makes sure that `mebibytes` of huge pages are free.
    ///
    /// # Errors
    /// No right to, or the memory is not there in one piece.
    pub(crate) fn reserve(mebibytes: u64) -> Result<HugePages> {
        HugePages::reserve_in(Path::new("/run"), mebibytes)
    }

    fn reserve_in(parent: &Path, mebibytes: u64) -> Result<HugePages> {
        sweep(parent);
        let before = count()?;
        let page_kib = meminfo("Hugepagesize:").context("this kernel has no huge pages")?;
        let wanted = (mebibytes * 1024).div_ceil(page_kib);
        let dir = parent.join(format!("{PREFIX}{}-{before}", std::process::id()));
        std::fs::create_dir(&dir).with_context(|| dir.display().to_string())?;
        // From here on, dropping gives back.
        let pages = HugePages { dir, before };
        let options = ["-t", "hugetlbfs", "-o", "mode=0700", "none"];
        run(Command::new("mount").args(options).arg(&pages.dir))?;
        let free = meminfo("HugePages_Free:").unwrap_or(0);
        if free < wanted {
            std::fs::write(COUNT, (before + wanted - free).to_string()).context(COUNT)?;
        }
        let free = meminfo("HugePages_Free:").unwrap_or(0);
        ensure!(free >= wanted, "only {free} huge pages of {page_kib} KiB are free, {wanted} are needed");
        Ok(pages)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        undo(&self.dir, self.before);
    }
}

fn count() -> Result<u64> {
    let text = std::fs::read_to_string(COUNT).context("this kernel has no huge pages")?;
    text.trim().parse().context(COUNT)
}

/// A number of /proc/meminfo.
fn meminfo(key: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Takes away `dir`, and all pages but `before`. Pages that somebody else still
/// uses stay until they are done.
fn undo(dir: &Path, before: u64) {
    // Not mounted is as good.
    let _ = run(Command::new("umount").arg(dir));
    let outcome = std::fs::remove_dir(dir).and_then(|()| std::fs::write(COUNT, before.to_string()));
    if let Err(error) = outcome {
        use std::io::Write as _;
        // Drop cannot fail; whoever reads this can do it by hand.
        let _ = writeln!(std::io::stderr(), "{}: {error}: {COUNT} was {before}", dir.display());
    }
}

/// Undoes what dead processes left in `parent`.
fn sweep(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some((pid, before)) = name.to_str().and_then(owner) else { continue };
        if !Path::new("/proc").join(pid.to_string()).exists() {
            undo(&entry.path(), before);
        }
    }
}

/// Process and former count of pages that the name of a directory tells.
fn owner(name: &str) -> Option<(u32, u64)> {
    let (pid, before) = name.strip_prefix(PREFIX)?.split_once('-')?;
    Some((pid.parse().ok()?, before.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_given_back_also_after_a_kill() {
        vswitch_tests::require!(root);
        let parent = tempfile::tempdir().unwrap();
        let before = count().unwrap();
        let pages = HugePages::reserve_in(parent.path(), 4).unwrap();
        let dir = pages.dir.clone();
        let mounts = || std::fs::read_to_string("/proc/self/mounts").unwrap();
        let mount = format!(" {} hugetlbfs", dir.display());
        assert!(mounts().contains(&mount) && count().unwrap() >= 2);
        // As if the process were killed here: nothing is dropped, and its pid is
        // that of nobody (the kernel's greatest is 2^22).
        std::mem::forget(pages);
        run(Command::new("umount").arg(&dir)).unwrap();
        let dead = parent.path().join(format!("{PREFIX}4194305-{before}"));
        std::fs::rename(&dir, &dead).unwrap();
        run(Command::new("mount").args(["-t", "hugetlbfs", "none"]).arg(&dead)).unwrap();
        let again = HugePages::reserve_in(parent.path(), 4).unwrap();
        assert!(!dead.exists());
        drop(again);
        assert!(!mounts().contains(&parent.path().display().to_string()) && count().unwrap() == before);
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_directories_of_ours_have_an_owner() {
        assert_eq!(owner("vbench-huge-12-1500"), Some((12, 1500)));
        for other in ["vbench-huge-12", "vbench-huge-x-1", "huge-1-2", "vbench-huge-1-"] {
            assert_eq!(owner(other), None, "{other}");
        }
    }
}
