//! What `vlab install` boots a guest from, once. Passive, and the check of a
//! download's sum.
//!
//! QEMU's command line for it is in `guest`, its steps in `plan`.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::lab::Display;

/// One installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Install {
    /// The image in the drive.
    pub iso: PathBuf,
    /// The ISO's own kernel with a command line of ours, instead of its boot
    /// menu.
    pub kernel: Option<Kernel>,
    /// User data for the cloud-init of the live system.
    pub seed: Option<String>,
    /// Where its screen is seen.
    pub display: Display,
}

/// A kernel and what it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// The kernel.
    pub kernel: PathBuf,
    /// Its initramfs.
    pub initrd: PathBuf,
    /// Its command line.
    pub cmdline: String,
}

/// The SHA-256 of a file, in hexadecimal digits.
///
/// # Errors
/// It cannot be read.
pub fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let mut bytes = vec![0; 1 << 20];
    loop {
        let len = file.read(&mut bytes)?;
        if len == 0 {
            return Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        digest.update(&bytes[..len]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(
            sha256(&path).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
