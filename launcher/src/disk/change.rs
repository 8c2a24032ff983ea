//! Changing an image in place: its size, and snapshots inside it.
//!
//! A base that has clones is never written, nor is an image that a guest uses.
//! qcow2 keeps its own order of writes, so a change cut short leaves the image
//! as it was (at worst with leaked clusters, which `qemu-img check -r` frees).

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::{QEMU_IMG, check_size, check_writable, info, make::run, text};

/// Gives the image another size: `16G`, or `+8G` for so much more. Making it
/// smaller cuts off what is behind the new end; it has to be `forced`.
///
/// # Errors
/// It is in use, has clones, would shrink, or qemu-img fails.
pub fn resize(path: &Path, size: &str, forced: bool, known: &[PathBuf]) -> Result<()> {
    check_size(size.strip_prefix('+').unwrap_or(size))?;
    check_writable(path, known)?;
    let format = super::format(path)?;
    let command = |shrink: bool| {
        let mut argv: Vec<String> = [QEMU_IMG, "resize", "-q", "-f", &format].map(str::to_owned).to_vec();
        argv.extend(shrink.then(|| "--shrink".to_owned()));
        argv.extend([text(path), size.to_owned()]);
        argv
    };
    match run(&command(forced)) {
        Err(e) if !forced && format!("{e:#}").contains("--shrink") => bail!(
            "{size} is smaller than {} is, and what is behind the new end would be lost\n  shrink its file system first, then: --force",
            path.display()
        ),
        other => other,
    }
}

/// What to do about snapshots inside an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Snapshot {
    /// Keep what is there now under this name.
    Save(String),
    /// Go back to this one; what was written since is lost.
    Restore(String),
    /// Drop this one.
    Delete(String),
}

/// Makes, applies or drops a snapshot inside the image at `path`.
///
/// # Errors
/// It is in use, has clones, is no qcow2, has no such snapshot (or has it
/// already), or qemu-img fails.
pub fn snapshot(path: &Path, what: &Snapshot, known: &[PathBuf]) -> Result<()> {
    check_writable(path, known)?;
    let info = info(path, known)?;
    if info.format != "qcow2" {
        bail!("{} is {}, and only qcow2 holds snapshots", path.display(), info.format);
    }
    let (flag, tag, wanted) = match what {
        Snapshot::Save(tag) => ("-c", tag, false),
        Snapshot::Restore(tag) => ("-a", tag, true),
        Snapshot::Delete(tag) => ("-d", tag, true),
    };
    match (info.snapshots.contains(tag), wanted) {
        (true, false) => bail!("{} has a snapshot {tag} already", path.display()),
        (false, true) if info.snapshots.is_empty() => bail!("{} has no snapshots", path.display()),
        (false, true) => {
            bail!("{} has no snapshot {tag}; it has {}", path.display(), info.snapshots.join(", "))
        }
        (true, true) | (false, false) => {}
    }
    run(&[QEMU_IMG, "snapshot", "-q", flag, tag, &text(path)].map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::super::{Existing, Kind, clone, create};
    use super::*;

    #[test]
    fn sizes_grow_freely_and_shrink_when_forced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.qcow2");
        create(&path, "8M", Existing::Keep, &[]).unwrap();
        let size = || info(&path, &[]).unwrap().virtual_size >> 20;
        resize(&path, "+8M", false, &[]).unwrap();
        assert_eq!(size(), 16);
        let refused = resize(&path, "4M", false, &[]).unwrap_err().to_string();
        assert!(refused.contains("would be lost") && size() == 16, "{refused}");
        resize(&path, "4M", true, &[]).unwrap();
        assert_eq!(size(), 4);
        for bad in ["-1M", "0", "x", "4MB", "++1M", ""] {
            assert!(resize(&path, bad, true, &[]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_base_with_clones_is_never_written() {
        let folder = tempfile::tempdir().unwrap();
        let (base, linked, full) =
            (folder.path().join("b"), folder.path().join("l"), folder.path().join("f"));
        create(&base, "8M", Existing::Keep, &[]).unwrap();
        clone(&base, &full, Kind::Full, Existing::Keep, &[]).unwrap();
        snapshot(&base, &Snapshot::Save("before".to_owned()), &[]).unwrap();
        clone(&base, &linked, Kind::Linked, Existing::Keep, &[]).unwrap();
        assert_eq!(info(&full, &[]).unwrap().base, None);
        let bytes = std::fs::read(&base).unwrap();
        for refused in [
            resize(&base, "+8M", true, &[]),
            snapshot(&base, &Snapshot::Restore("before".to_owned()), &[]),
            create(&base, "8M", Existing::Replace, &[]),
            clone(&full, &base, Kind::Full, Existing::Replace, &[]),
        ] {
            assert!(refused.unwrap_err().to_string().contains("is the base of"));
        }
        assert_eq!(std::fs::read(&base).unwrap(), bytes);
        resize(&linked, "+8M", false, &[]).unwrap();
    }

    #[test]
    fn snapshots_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.qcow2");
        create(&path, "8M", Existing::Keep, &[]).unwrap();
        let of = |what: fn(String) -> Snapshot, tag: &str| snapshot(&path, &what(tag.to_owned()), &[]);
        assert!(of(Snapshot::Restore, "x").unwrap_err().to_string().contains("no snapshots"));
        of(Snapshot::Save, "x").unwrap();
        assert!(of(Snapshot::Save, "x").unwrap_err().to_string().contains("already"));
        of(Snapshot::Restore, "x").unwrap();
        assert!(of(Snapshot::Delete, "y").unwrap_err().to_string().contains("it has x"));
        of(Snapshot::Delete, "x").unwrap();
        assert_eq!(info(&path, &[]).unwrap().snapshots, Vec::<String>::new());
    }
}
