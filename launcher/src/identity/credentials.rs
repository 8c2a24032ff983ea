//! What systemd in a guest reads from SMBIOS strings of type 11: credentials
//! (systemd.system-credentials(7), systemd-network-generator(8)).
//!
//! The root key is taken from systemd 252 on (seen), name and machine id from 254,
//! networks from 256 (by its manual); what a guest does not know it ignores.

use super::{Identity, SSH_KEY, render};

/// The strings, each for one `-smbios type=11`.
pub fn strings(identity: &Identity) -> Vec<String> {
    let credential = |name: &str, value: &str| format!("io.systemd.credential:{name}={value}");
    let mut strings = vec![
        credential("system.hostname", &identity.hostname),
        credential("system.machine_id", &identity.machine_id()),
        credential("ssh.authorized_keys.root", SSH_KEY),
    ];
    for (interface, text) in render::networkd::units(identity) {
        strings.push(credential(&format!("network.network.10-vlab-{}", interface.name), &text));
    }
    strings
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    #[test]
    fn one_string_a_credential() {
        let strings = strings(&example());
        assert_eq!(strings.len(), 6);
        assert_eq!(strings[0], "io.systemd.credential:system.hostname=zero");
        let lan = &strings[4];
        assert!(lan.starts_with("io.systemd.credential:network.network.10-vlab-lan=[Match]\nMACAddress=02:"));
        assert!(lan.ends_with("Address=192.168.1.150/24\n"), "{lan}");
    }
}
