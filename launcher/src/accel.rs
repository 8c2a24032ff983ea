//! Which accelerator a guest gets, and why.
//!
//! `/dev/kvm` alone proves nothing: under the module `kvm_pvm` it opens, and a
//! stock kernel then hangs or QEMU aborts on an MSR. KVM counts as usable only
//! with `kvm_intel` or `kvm_amd` behind it.

use std::fs::OpenOptions;
use std::path::Path;

use crate::lab::AccelChoice;

/// What the machine says about KVM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvmFacts {
    /// Whether `/dev/kvm` opens for reading and writing, or the reason.
    pub device: Result<(), String>,
    /// `kvm_intel` is loaded.
    pub intel: bool,
    /// `kvm_amd` is loaded.
    pub amd: bool,
    /// `kvm_pvm` is loaded.
    pub pvm: bool,
}

impl KvmFacts {
    /// Asks this machine.
    pub fn probe() -> KvmFacts {
        let module = |name: &str| Path::new("/sys/module").join(name).exists();
        let device = OpenOptions::new().read(true).write(true).open("/dev/kvm");
        KvmFacts {
            device: device.map(drop).map_err(|e| {
                if e.kind() == std::io::ErrorKind::NotFound {
                    "there is no /dev/kvm".to_owned()
                } else if e.kind() == std::io::ErrorKind::PermissionDenied {
                    "/dev/kvm is not yours to open (group kvm)".to_owned()
                } else {
                    format!("/dev/kvm: {e}")
                }
            }),
            intel: module("kvm_intel"),
            amd: module("kvm_amd"),
            pvm: module("kvm_pvm"),
        }
    }

    /// Why KVM cannot be used; `None` when it can.
    pub fn obstacle(&self) -> Option<String> {
        if let Err(why) = &self.device {
            return Some(why.clone());
        }
        match (self.intel || self.amd, self.pvm) {
            (true, _) => None,
            (false, true) => Some("/dev/kvm is kvm_pvm's, which runs no stock kernel".to_owned()),
            (false, false) => Some("neither kvm_intel nor kvm_amd is loaded".to_owned()),
        }
    }
}

/// The accelerator that is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// The processor's virtualization.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

impl Accel {
    /// QEMU's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            Accel::Kvm => "kvm",
            Accel::Tcg => "tcg",
        }
    }

    /// The CPU model that `cpu = "auto"` means.
    pub const fn cpu(self) -> &'static str {
        match self {
            Accel::Kvm => "host",
            Accel::Tcg => "max",
        }
    }
}

/// What `choice` comes to on this machine; with the reason where `auto` fell
/// back.
///
/// # Errors
/// `kvm` was asked for and cannot be used.
pub fn decide(choice: AccelChoice, facts: &KvmFacts) -> Result<(Accel, Option<String>), String> {
    match (choice, facts.obstacle()) {
        (AccelChoice::Tcg, _) => Ok((Accel::Tcg, None)),
        (AccelChoice::Auto | AccelChoice::Kvm, None) => Ok((Accel::Kvm, None)),
        (AccelChoice::Auto, Some(why)) => Ok((Accel::Tcg, Some(why))),
        (AccelChoice::Kvm, Some(why)) => Err(format!("accel = \"kvm\" is not possible here: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pvm_alone_is_no_kvm() {
        let facts = |device: Result<(), &str>, intel, amd, pvm| KvmFacts {
            device: device.map_err(str::to_owned),
            intel,
            amd,
            pvm,
        };
        let auto = AccelChoice::Auto;
        for (given, expected) in [
            (facts(Ok(()), true, false, false), Accel::Kvm),
            (facts(Ok(()), false, true, false), Accel::Kvm),
            (facts(Ok(()), false, false, true), Accel::Tcg),
            (facts(Ok(()), false, false, false), Accel::Tcg),
            (facts(Err("no"), true, false, false), Accel::Tcg),
        ] {
            let (accel, why) = decide(auto, &given).unwrap();
            assert_eq!(accel, expected, "{given:?}");
            assert_eq!(why.is_some(), expected == Accel::Tcg, "falling back says why");
        }
        let pvm = facts(Ok(()), false, false, true);
        assert!(decide(AccelChoice::Kvm, &pvm).unwrap_err().contains("kvm_pvm"));
        assert_eq!(decide(AccelChoice::Tcg, &facts(Ok(()), true, false, false)), Ok((Accel::Tcg, None)));
    }
}
