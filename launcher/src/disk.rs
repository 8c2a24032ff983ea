//! Disk images, by way of qemu-img.
//!
//! An image is made under another name beside its place and renamed when it is
//! whole, so that interrupted work leaves nothing that looks like a disk. What
//! is there is not overwritten unless asked, and a base that has clones never.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command as Child;

use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::Value;

use crate::command::Command;

/// The program that makes images.
pub const QEMU_IMG: &str = "qemu-img";

/// What an image is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Info {
    /// Its path, absolute.
    pub path: PathBuf,
    /// qcow2, raw…
    pub format: String,
    /// What the guest sees, in bytes.
    pub virtual_size: u64,
    /// What it takes on disk, in bytes.
    pub disk_size: u64,
    /// The image it is a clone of.
    pub base: Option<PathBuf>,
    /// Images that are clones of it, as far as they are known.
    pub clones: Vec<PathBuf>,
}

/// The command that makes `part` a linked clone of `base` (absolute).
pub fn clone_command(base: &Path, format: &str, part: &Path, size: Option<&str>) -> Command {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut argv: Vec<String> = [QEMU_IMG, "create", "-q", "-f", "qcow2", "-F", format, "-b"]
        .into_iter()
        .map(str::to_owned)
        .collect();
    argv.extend([text(base), text(part)]);
    argv.extend(size.map(str::to_owned));
    Command::new(argv)
}

/// What to do where an image is already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Leave it, and fail.
    Keep,
    /// Put the new one in its place.
    Replace,
}

/// Makes an empty qcow2 image of `size` (qemu-img's notation: `8G`).
///
/// # Errors
/// There is one already, or qemu-img fails.
pub fn create(path: &Path, size: &str, existing: Existing, known: &[PathBuf]) -> Result<()> {
    if !size.bytes().any(|byte| matches!(byte, b'1'..=b'9')) {
        bail!("`{size}` is no size for a disk: write 512M, 8G or 1T");
    }
    check_place(path, existing, known)?;
    let part = part_of(path);
    let argv = [QEMU_IMG, "create", "-q", "-f", "qcow2", &part.to_string_lossy(), size];
    make(&argv.map(str::to_owned), &part, path, existing)
}

/// Makes `path` a linked clone of `base`.
///
/// # Errors
/// There is one already, the base is no image, or qemu-img fails.
pub fn clone(base: &Path, path: &Path, existing: Existing, known: &[PathBuf]) -> Result<()> {
    check_place(path, existing, known)?;
    let base = fs::canonicalize(base).with_context(|| format!("the base {}", base.display()))?;
    if fs::canonicalize(path).is_ok_and(|path| path == base) {
        bail!("{} cannot be a clone of itself", path.display());
    }
    let part = part_of(path);
    let command = clone_command(&base, &format(&base)?, &part, None);
    make(&command.argv, &part, path, existing)
}

/// What the image at `path` is; of its clones those in `known` directories.
///
/// # Errors
/// It is no image, or cannot be read.
pub fn info(path: &Path, known: &[PathBuf]) -> Result<Info> {
    let json = query(path)?;
    let path = fs::canonicalize(path)?;
    let base = json["full-backing-filename"].as_str().or_else(|| json["backing-filename"].as_str());
    Ok(Info {
        format: json["format"].as_str().unwrap_or("raw").to_owned(),
        virtual_size: json["virtual-size"].as_u64().unwrap_or(0),
        disk_size: json["actual-size"].as_u64().unwrap_or(0),
        base: base.map(PathBuf::from),
        clones: clones_of(&path, known),
        path,
    })
}

/// The format of the image at `path`.
///
/// # Errors
/// It is no image, or cannot be read.
pub fn format(path: &Path) -> Result<String> {
    Ok(query(path)?["format"].as_str().unwrap_or("raw").to_owned())
}

fn query(path: &Path) -> Result<Value> {
    File::open(path).with_context(|| path.display().to_string())?;
    // -U: a running guest holds its disk's lock, and looking does no harm.
    let output = Child::new(QEMU_IMG)
        .args(["info", "-U", "--output=json", "--"])
        .arg(path)
        .output()
        .with_context(|| format!("cannot run {QEMU_IMG} (package qemu-utils)"))?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim().trim_start_matches("qemu-img: "));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Clones of `base` (absolute) among the files in `directories` and beside it,
/// by the backing file that qcow2 headers name.
pub fn clones_of(base: &Path, directories: &[PathBuf]) -> Vec<PathBuf> {
    let beside = base.parent().map(Path::to_owned);
    let mut clones: Vec<PathBuf> = directories
        .iter()
        .cloned()
        .chain(beside)
        .filter_map(|directory| fs::read_dir(directory).ok())
        .flat_map(Iterator::flatten)
        .map(|entry| entry.path())
        .filter(|path| {
            let backing = backing_file(path).ok().flatten();
            backing.and_then(|named| fs::canonicalize(path.parent()?.join(named)).ok()).as_deref()
                == Some(base)
        })
        .collect();
    clones.sort();
    clones.dedup();
    clones
}

/// The backing file that a qcow2 image names; `None` for none, or no qcow2.
fn backing_file(path: &Path) -> io::Result<Option<PathBuf>> {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    if !fs::symlink_metadata(path)?.is_file() {
        return Ok(None);
    }
    // Magic, version, offset (8 bytes) and length (4) of the name, big-endian.
    let mut header = [0; 20];
    let mut file = File::open(path)?;
    file.read_exact(&mut header)?;
    let number = |range: std::ops::Range<usize>| {
        header[range].iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte))
    };
    let (offset, len) = (number(8..16), number(16..20));
    if !header.starts_with(b"QFI\xfb") || offset == 0 || len > 1023 {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(offset))?;
    let mut name = Vec::new();
    file.take(len).read_to_end(&mut name)?;
    Ok(Some(OsString::from_vec(name).into()))
}

fn check_place(path: &Path, existing: Existing, known: &[PathBuf]) -> Result<()> {
    let Ok(there) = fs::canonicalize(path) else { return Ok(()) };
    if existing == Existing::Keep {
        bail!("{} is there already\n  put a new one in its place: --force", path.display());
    }
    if let Some(clone) = clones_of(&there, known).first() {
        bail!("{} is the base of {}: without it, that clone is lost", path.display(), clone.display());
    }
    // Without -U, qemu-img fails on an image that a guest writes.
    let output = Child::new(QEMU_IMG).args(["info", "--output=json", "--"]).arg(&there).output()?;
    if String::from_utf8_lossy(&output.stderr).contains("lock") {
        bail!("{} is in use by a running guest", path.display());
    }
    Ok(())
}

fn part_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.part", std::process::id()))
}

fn make(argv: &[String], part: &Path, path: &Path, existing: Existing) -> Result<()> {
    // Removed on every way out on which it was not renamed.
    struct Part<'p>(&'p Path);
    impl Drop for Part<'_> {
        fn drop(&mut self) {
            let _ = fs::remove_file(self.0);
        }
    }
    let _part = Part(part);
    run(argv)?;
    finish(part, path, existing)
}

/// Runs a qemu-img command to its end.
///
/// # Errors
/// It cannot be run, or what it said when it failed.
pub fn run(argv: &[String]) -> Result<()> {
    let output = Child::new(&argv[0])
        .args(&argv[1..])
        .output()
        .with_context(|| format!("cannot run {} (package qemu-utils)", argv[0]))?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim().trim_start_matches("qemu-img: "));
    }
    Ok(())
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

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn images_are_made_once_cloned_and_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let none: &[PathBuf] = &[];
        create(&at("base, one.qcow2"), "8M", Existing::Keep, none).unwrap();
        let again = create(&at("base, one.qcow2"), "8M", Existing::Keep, none).unwrap_err();
        assert!(again.to_string().contains("--force"), "{again}");

        clone(&at("base, one.qcow2"), &at("a.qcow2"), Existing::Keep, none).unwrap();
        let a = info(&at("a.qcow2"), none).unwrap();
        assert_eq!(a.base.as_deref(), Some(fs::canonicalize(at("base, one.qcow2")).unwrap().as_path()));
        assert_eq!((a.format.as_str(), a.virtual_size), ("qcow2", 8 << 20));
        let base = info(&at("base, one.qcow2"), none).unwrap();
        assert_eq!(base.clones, [at("a.qcow2")]);

        let force = create(&at("base, one.qcow2"), "8M", Existing::Replace, none).unwrap_err();
        assert!(force.to_string().contains("is the base of"), "{force}");
        create(&at("a.qcow2"), "4M", Existing::Replace, none).unwrap();
        assert_eq!(names(directory.path()), ["a.qcow2", "base, one.qcow2"], "no part is left");
    }

    #[test]
    fn failures_leave_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.qcow2");
        create(&path, "nonsense", Existing::Keep, &[]).unwrap_err();
        create(&path, "8Q", Existing::Keep, &[]).unwrap_err();
        let nothing = create(&path, "0G", Existing::Keep, &[]).unwrap_err();
        assert!(nothing.to_string().contains("no size for a disk"), "{nothing}");
        clone(&directory.path().join("absent"), &path, Existing::Keep, &[]).unwrap_err();
        info(&path, &[]).unwrap_err();
        assert_eq!(names(directory.path()), Vec::<String>::new());
    }
}
