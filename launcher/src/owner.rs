//! Whose clones they are. Labs are known by name, and two folders may hold labs of one
//! name: beside the clones lies the path of the lab file that they were made for, so that
//! another lab neither boots nor deletes them.
//!
//! A folder that was moved takes its lab along: a lab file that is not there any more owns
//! nothing.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::places::Places;

/// Fails where the clones at `places` are those of another lab than that of `file`
/// (absolute).
///
/// # Errors
/// They are, with what to do; or the note of it cannot be read.
pub fn check(places: &Places, file: &Path) -> Result<()> {
    let path = places.owner();
    let owner = match fs::read(&path) {
        Ok(bytes) => PathBuf::from(OsString::from_vec(bytes)),
        // Clones of an older vlab, or none at all.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).with_context(|| path.display().to_string()),
    };
    if owner == file || !owner.exists() || is_same(&owner, file) {
        return Ok(());
    }
    bail!(
        "the clones in {} are those of another lab of this name: {}\n  give this one another `name`, or delete them: vlab down --disks --lab {}",
        places.data.display(),
        owner.display(),
        crate::command::quote(&owner.to_string_lossy())
    )
}

fn is_same(one: &Path, other: &Path) -> bool {
    fs::canonicalize(one).is_ok_and(|one| fs::canonicalize(other).is_ok_and(|other| one == other))
}

/// Notes that the clones at `places`, whose DATA is there, are those of `file`.
///
/// # Errors
/// What the file system says.
pub fn claim(places: &Places, file: &Path) -> io::Result<()> {
    fs::write(places.owner(), file.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::places::Roots;

    #[test]
    fn clones_belong_to_the_lab_file_that_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let places = Roots { run: at("run"), state: at("state"), data: at("data") }.lab("test");
        fs::create_dir_all(&places.data).unwrap();
        let (one, other) = (at("one.toml"), at("other.toml"));
        fs::write(&one, "").unwrap();
        fs::write(&other, "").unwrap();
        check(&places, &one).unwrap();
        claim(&places, &one).unwrap();
        check(&places, &one).unwrap();
        let refused = check(&places, &other).unwrap_err().to_string();
        assert!(
            refused.contains(&one.display().to_string()) && refused.contains("another `name`"),
            "{refused}"
        );
        std::os::unix::fs::symlink(&one, at("link.toml")).unwrap();
        check(&places, &at("link.toml")).unwrap();
        fs::rename(&one, at("moved.toml")).unwrap();
        check(&places, &at("moved.toml")).unwrap();
        check(&places, &other).unwrap();
    }
}
