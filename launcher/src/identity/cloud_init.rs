//! What a guest's cloud-init reads: the three files of a NoCloud seed, which
//! [`crate::seed`] puts on a FAT image labelled CIDATA.
//!
//! Scalars are written as JSON strings, which YAML takes as they are.

use std::fmt::Write;

use super::{Assigned, Identity, SSH_KEY};

/// The files of the seed, by name. `user_data` is the user's own, which is
/// merged over ours by cloud-init itself.
pub fn seed(identity: &Identity, user_data: Option<&str>) -> Vec<(String, String)> {
    let user = match user_data {
        None => config(identity),
        Some(theirs) => merged(&config(identity), theirs),
    };
    vec![
        ("meta-data".to_owned(), meta_data(identity)),
        ("user-data".to_owned(), user),
        ("network-config".to_owned(), network_config(identity)),
    ]
}

fn string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn meta_data(identity: &Identity) -> String {
    format!("instance-id: {}\nlocal-hostname: {}\n", string(&identity.uuid), string(&identity.hostname))
}

fn config(identity: &Identity) -> String {
    let hostname = string(&identity.hostname);
    let mut text = format!(
        "#cloud-config\nhostname: {hostname}\npreserve_hostname: false\ndisable_root: false\nssh_authorized_keys:\n- \"{SSH_KEY}\"\n"
    );
    if identity.user != "root" {
        let _ = write!(
            text,
            "users:\n- default\n- name: {}\n  shell: /bin/bash\n  lock_passwd: true\n  sudo: \"ALL=(ALL) NOPASSWD:ALL\"\n  ssh_authorized_keys:\n  - \"{SSH_KEY}\"\n",
            string(&identity.user)
        );
    }
    // The seed is made anew at every start, and so is what it says of networks.
    text.push_str("updates:\n  network:\n    when: [boot-new-instance, boot]\n");
    if !identity.hosts.is_empty() {
        // At every start, as guests come and go; `write_files` is for the first.
        let lines = identity.hosts_lines().lines().map(|line| format!(" '{line}'")).collect::<String>();
        let _ = write!(
            text,
            "bootcmd:\n- {}\n- {}\n",
            string("sed -i '/ # vlab$/d' /etc/hosts"),
            string(&format!("printf '%s # vlab\\n'{lines} >>/etc/hosts"))
        );
    }
    text
}

/// Netplan's format, version 2, which cloud-init turns into whatever the guest
/// uses.
pub fn network_config(identity: &Identity) -> String {
    let mut text = "version: 2\nethernets:\n".to_owned();
    for interface in &identity.interfaces {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "  {}:\n    match:\n      macaddress: {}\n",
            string(&interface.name),
            string(&interface.mac.to_string())
        );
        let _ = match interface.address {
            Assigned::Dhcp => writeln!(text, "    dhcp4: true"),
            Assigned::Static(address, prefix_len) => {
                writeln!(text, "    dhcp4: false\n    addresses: [\"{address}/{prefix_len}\"]")
            }
            Assigned::None => writeln!(text, "    dhcp4: false\n    optional: true"),
        };
        if interface.mtu != 1500 {
            let _ = writeln!(text, "    mtu: {}", interface.mtu);
        }
    }
    text
}

const BOUNDARY: &str = "==vlab==";

/// Whether cloud-init takes `theirs`; returns the MIME type it goes under.
///
/// # Errors
/// It does not, and why.
pub fn check(theirs: &str) -> Result<&'static str, String> {
    let kinds = [
        ("#cloud-config-archive", "text/cloud-config-archive"),
        ("#cloud-config", "text/cloud-config"),
        ("#cloud-boothook", "text/cloud-boothook"),
        ("#include", "text/x-include-url"),
        ("## template: jinja", "text/jinja2"),
        ("#!", "text/x-shellscript"),
    ];
    let kind = kinds.iter().find(|(start, _)| theirs.starts_with(start)).ok_or(
        "begins with none of #cloud-config, #!, #include, #cloud-boothook: cloud-init would ignore it",
    )?;
    if theirs.contains(BOUNDARY) {
        return Err(format!("has `{BOUNDARY}` in it, which vlab uses itself"));
    }
    Ok(kind.1)
}

/// Both as the parts of one MIME message; lists and tables are merged. What
/// cloud-init does not know was refused by [`check`].
fn merged(ours: &str, theirs: &str) -> String {
    let kind = check(theirs).unwrap_or("text/cloud-config");
    let mut text = format!("Content-Type: multipart/mixed; boundary=\"{BOUNDARY}\"\nMIME-Version: 1.0\n\n");
    for (kind, part) in [("text/cloud-config", ours), (kind, theirs)] {
        let _ = write!(
            text,
            "--{BOUNDARY}\nContent-Type: {kind}; charset=\"utf-8\"\nMerge-Type: list(append)+dict(recurse_array,no_replace)+str()\n\n{}\n",
            part.trim_end()
        );
    }
    text.push_str(&format!("--{BOUNDARY}--\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    fn file<'s>(seed: &'s [(String, String)], name: &str) -> &'s str {
        &seed.iter().find(|(file, _)| file == name).unwrap().1
    }

    #[test]
    fn the_seed_of_the_example() {
        let zero = example();
        let seed = seed(&zero, None);
        assert_eq!(
            file(&seed, "meta-data"),
            format!("instance-id: \"{}\"\nlocal-hostname: \"zero\"\n", zero.uuid)
        );
        let mac = |index: usize| zero.interfaces[index].mac;
        assert_eq!(
            file(&seed, "network-config"),
            format!(
                "version: 2\nethernets:\n  \"internet\":\n    match:\n      macaddress: \"{}\"\n    dhcp4: true\n  \
                 \"lan\":\n    match:\n      macaddress: \"{}\"\n    dhcp4: false\n    addresses: [\"192.168.1.150/24\"]\n  \
                 \"dmz\":\n    match:\n      macaddress: \"{}\"\n    dhcp4: false\n    optional: true\n    mtu: 9000\n",
                mac(0),
                mac(1),
                mac(2)
            )
        );
        let user = file(&seed, "user-data");
        assert!(user.starts_with("#cloud-config\nhostname: \"zero\"\n") && user.contains(SSH_KEY), "{user}");
        assert!(
            user.contains(
                r#"- "printf '%s # vlab\\n' '192.168.1.150 zero.lan zero' '192.168.1.151 one.lan one' >>/etc/hosts""#
            ),
            "{user}"
        );
        assert!(!user.contains("users:"), "root needs no account: {user}");
    }

    #[test]
    fn the_users_data_is_a_part_of_its_own() {
        let arch = Identity { user: "arch".to_owned(), ..example() };
        let seed = seed(&arch, Some("#cloud-config\npackages: [git]\n"));
        let user = file(&seed, "user-data");
        for expected in ["multipart/mixed", "- name: \"arch\"", "packages: [git]", "--==vlab==--\n"] {
            assert!(user.contains(expected), "{expected}: {user}");
        }
        let script = super::seed(&arch, Some("#!/bin/sh\ntrue\n"));
        assert!(file(&script, "user-data").contains("text/x-shellscript"));
        assert!(check("packages: [git]\n").unwrap_err().contains("would ignore"));
    }
}
