//! Disk images, by way of qemu-img.
//!
//! Read [`make`] first: an image is made under another name beside its place and
//! renamed when it is whole, so that interrupted work leaves nothing that looks
//! like a disk. What is there is not overwritten unless asked; what is written in
//! place ([`change`]) is neither in use nor the base of a clone ([`chain`]).

mod chain;
mod change;
mod make;
mod partition;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command as Child;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command::Command;

pub use chain::clones_of;
pub use change::{Snapshot, resize, snapshot};
pub use make::{Existing, finish, run};
pub use partition::root_partition;

/// The program that makes images.
pub const QEMU_IMG: &str = "qemu-img";
/// The program that writes into ext file systems.
pub const DEBUGFS: &str = "debugfs";

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
    /// Snapshots inside it.
    pub snapshots: Vec<String>,
}

/// The command that makes `part` a linked clone of `base` (absolute).
pub fn clone_command(base: &Path, format: &str, part: &Path, size: Option<&str>) -> Command {
    let mut argv: Vec<String> = [QEMU_IMG, "create", "-q", "-f", "qcow2", "-F", format, "-b"]
        .into_iter()
        .map(str::to_owned)
        .collect();
    argv.extend([text(base), text(part)]);
    argv.extend(size.map(str::to_owned));
    Command::new(argv)
}

/// The command that makes `part` a copy of `from`, as a qcow2 image.
pub fn copy_command(from: &Path, format: &str, part: &Path) -> Command {
    let words = [QEMU_IMG, "convert", "-q", "-f", format, "-O", "qcow2", &text(from), &text(part)];
    Command::new(words.map(str::to_owned).to_vec())
}

/// Makes an empty qcow2 image of `size` (qemu-img's notation: `8G`).
///
/// # Errors
/// There is one already, or qemu-img fails.
pub fn create(path: &Path, size: &str, existing: Existing, known: &[PathBuf]) -> Result<()> {
    check_size(size)?;
    check_place(path, existing, known)?;
    make::image(path, existing, |part| {
        [QEMU_IMG, "create", "-q", "-f", "qcow2", &text(part), size].map(str::to_owned).to_vec()
    })
}

/// Fetches `url` to `path`; what comes must have the SHA-256 `sum`.
///
/// # Errors
/// There is an image already, it cannot be fetched, or it is another file.
pub fn fetch(url: &str, sum: &str, path: &Path, existing: Existing, known: &[PathBuf]) -> Result<()> {
    check_place(path, existing, known)?;
    let command = |part: &Path| {
        // Nothing but these: a redirect must not read files of ours.
        let protocols = if url.starts_with("file:") { "=file" } else { "=http,https" };
        ["curl", "-fsSL", "--proto", protocols, "--proto-redir", "=http,https", "-o", &text(part), "--", url]
            .map(str::to_owned)
            .to_vec()
    };
    make::checked_image(path, existing, command, |part| {
        let found = crate::install::sha256(part)?;
        if found != sum.to_ascii_lowercase() {
            bail!("{url} is not what it should be:\n  SHA-256 {found}\n  expected {sum}");
        }
        Ok(())
    })
}

/// Fails on what is no size: `512M`, `8G`, `1T`.
///
/// # Errors
/// It is none.
pub fn check_size(size: &str) -> Result<()> {
    let digits = size.trim_end_matches(['K', 'M', 'G', 'T']);
    let plain = size.len() - digits.len() <= 1 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !plain || !digits.bytes().any(|byte| byte != b'0') {
        bail!("`{size}` is no size for a disk: write 512M, 8G or 1T");
    }
    Ok(())
}

/// The bytes of a size that [`check_size`] passes; `None` for what is none, or too much.
pub fn bytes_of(size: &str) -> Option<u64> {
    check_size(size).ok()?;
    let digits = size.trim_end_matches(['K', 'M', 'G', 'T']);
    let shift = match size.strip_prefix(digits)? {
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => 0,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// How a clone holds what its base holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// By pointing at the base, which must not change any more.
    Linked,
    /// By a copy of its own.
    Full,
}

/// Makes `path` a clone of `base`.
///
/// # Errors
/// There is one already, the base is no image, or qemu-img fails.
pub fn clone(base: &Path, path: &Path, kind: Kind, existing: Existing, known: &[PathBuf]) -> Result<()> {
    check_place(path, existing, known)?;
    let base = fs::canonicalize(base).with_context(|| format!("the base {}", base.display()))?;
    if fs::canonicalize(path).is_ok_and(|path| path == base) {
        bail!("{} cannot be a clone of itself", path.display());
    }
    let format = format(&base)?;
    make::image(path, existing, |part| match kind {
        Kind::Linked => clone_command(&base, &format, part, None).argv,
        Kind::Full => copy_command(&base, &format, part).argv,
    })
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
        snapshots: json["snapshots"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|snapshot| snapshot["name"].as_str().map(str::to_owned))
            .collect(),
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

/// Fails where a guest writes the image at `path`, or clones hang on it.
///
/// # Errors
/// It is in use, or the base of a clone.
pub fn check_writable(path: &Path, known: &[PathBuf]) -> Result<()> {
    let there = fs::canonicalize(path).with_context(|| path.display().to_string())?;
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

fn check_place(path: &Path, existing: Existing, known: &[PathBuf]) -> Result<()> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    if existing == Existing::Keep {
        bail!("{} is there already\n  put a new one in its place: --force", path.display());
    }
    // A link that leads nowhere is nobody's disk.
    if path.exists() { check_writable(path, known) } else { Ok(()) }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
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

        clone(&at("base, one.qcow2"), &at("a.qcow2"), Kind::Linked, Existing::Keep, none).unwrap();
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
    fn what_is_fetched_has_its_sum_or_is_not_kept() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        fs::write(&from, "abc").unwrap();
        let url = format!("file://{}", from.display());
        let sum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let wrong = fetch(&url, &"0".repeat(64), &to, Existing::Keep, &[]).unwrap_err();
        assert!(wrong.to_string().contains("is not what it should be"), "{wrong}");
        assert_eq!(names(directory.path()), ["from"]);
        fetch(&url, sum, &to, Existing::Keep, &[]).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"abc");
        let again = fetch(&url, sum, &to, Existing::Keep, &[]).unwrap_err();
        assert!(again.to_string().contains("--force"), "{again}");
    }

    /// Answers one request at a time with what `answer` says to its path.
    fn serve(answer: impl Fn(&str) -> String + Send + 'static) -> u16 {
        use std::io::{BufRead, BufReader, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
                let request = lines.next().unwrap_or_default();
                while lines.next().is_some_and(|line| !line.is_empty()) {}
                let reply = answer(request.split(' ').nth(1).unwrap_or_default());
                // A client that hangs up early is its own loss.
                let _ = stream.write_all(reply.as_bytes());
            }
        });
        port
    }

    #[test]
    fn a_server_may_send_elsewhere_but_not_to_files_of_ours() {
        let directory = tempfile::tempdir().unwrap();
        let (secret, to) = (directory.path().join("secret"), directory.path().join("to"));
        fs::write(&secret, "abc").unwrap();
        let file = format!("file://{}", secret.display());
        let port = serve(move |path| {
            let to = |place: &str| format!("HTTP/1.0 302 Found\r\nLocation: {place}\r\n\r\n");
            match path {
                "/image" => "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc".to_owned(),
                "/moved" => to("/image"),
                "/stolen" => to(&file),
                _ => "HTTP/1.0 404 Not Found\r\nContent-Length: 3\r\n\r\nabc".to_owned(),
            }
        });
        let sum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let fetch =
            |path: &str| fetch(&format!("http://127.0.0.1:{port}{path}"), sum, &to, Existing::Replace, &[]);
        fetch("/image").unwrap();
        fetch("/moved").unwrap();
        fs::remove_file(&to).unwrap();
        for path in ["/stolen", "/absent"] {
            // Its sum would be right.
            fetch(path).unwrap_err();
            assert_eq!(names(directory.path()), ["secret"], "{path}");
        }
    }

    #[test]
    fn failures_leave_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.qcow2");
        create(&path, "nonsense", Existing::Keep, &[]).unwrap_err();
        create(&path, "8Q", Existing::Keep, &[]).unwrap_err();
        let nothing = create(&path, "0G", Existing::Keep, &[]).unwrap_err();
        assert!(nothing.to_string().contains("no size for a disk"), "{nothing}");
        clone(&directory.path().join("absent"), &path, Kind::Linked, Existing::Keep, &[]).unwrap_err();
        info(&path, &[]).unwrap_err();
        assert_eq!(names(directory.path()), Vec::<String>::new());
    }
}
