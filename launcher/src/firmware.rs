//! UEFI for guests: which files of this machine they are, and what is said when
//! there are none.
//!
//! OVMF comes in two halves: the code, which all guests share and none writes,
//! and the variables, of which each guest has a copy of its own.
//!
//! Deliberately absent: secure boot. Its builds want SMM and keys, and bring a
//! lab nothing that it could not do without.

use std::path::{Path, PathBuf};

/// Where distributions put a pair of code and variables without secure boot,
/// the newer names first.
const PLACES: [(&str, &str); 8] = [
    // Debian and Ubuntu: package ovmf. 2 MiB before 2022.
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    // Arch Linux: package edk2-ovmf.
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.fd", "/usr/share/edk2/x64/OVMF_VARS.fd"),
    ("/usr/share/edk2-ovmf/x64/OVMF_CODE.fd", "/usr/share/edk2-ovmf/x64/OVMF_VARS.fd"),
    // Fedora: package edk2-ovmf.
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    // openSUSE: package qemu-ovmf-x86_64.
    ("/usr/share/qemu/ovmf-x86_64-4m-code.bin", "/usr/share/qemu/ovmf-x86_64-4m-vars.bin"),
    ("/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"),
];

/// What to say when none of them is there.
pub const MISSING: &str = "firmware \"uefi\" is not on this machine\n  \
    install OVMF: package ovmf (Debian, Ubuntu), edk2-ovmf (Fedora, Arch Linux) or qemu-ovmf-x86_64 (openSUSE)";

/// The two halves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uefi {
    /// Read by all guests.
    pub code: PathBuf,
    /// Copied for each guest.
    pub variables: PathBuf,
}

impl Uefi {
    /// The first pair of which both halves are `there`.
    pub fn find(there: impl Fn(&Path) -> bool) -> Option<Uefi> {
        let (code, variables) = PLACES
            .into_iter()
            .find(|(code, variables)| there(Path::new(code)) && there(Path::new(variables)))?;
        Some(Uefi { code: code.into(), variables: variables.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_whole_pair_is_taken() {
        let fedora = ["/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"];
        // Half a pair is none.
        let half = "/usr/share/OVMF/OVMF_CODE.fd";
        let found = Uefi::find(|path| path.to_str().is_some_and(|it| it == half || fedora.contains(&it)));
        let found = found.unwrap();
        assert_eq!([found.code.as_path(), found.variables.as_path()], fedora.map(Path::new));
        assert_eq!(Uefi::find(|path| path == Path::new(half)), None);
    }
}
