//! Which image is whose clone, by the backing file that qcow2 headers name.
//!
//! Only folders that labs clone into, and the base's own, are looked at: a clone
//! elsewhere is the user's to remember.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

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
