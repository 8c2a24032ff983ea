//! The command lines of `ssh` and `scp` for a guest. Pure.
//!
//! A guest's host keys are remembered for the lab alone, under the lab's and the
//! guest's name: ports are reused by other labs, and clones are made anew.

use std::collections::BTreeMap;
use std::path::Path;

use crate::state::GuestRecord;

/// How a guest is reached.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Access {
    /// What it is called in `ssh-config`: the guest's name.
    pub name: String,
    /// `LAB.GUEST`, under which its host key is remembered.
    pub alias: String,
    /// The host's port.
    pub port: u16,
    /// The user in the guest.
    pub user: String,
    /// The private key, where one is known.
    pub key: Option<String>,
    /// The file of host keys.
    pub known_hosts: String,
}

impl Access {
    /// How `guest` of `lab` is reached; `None` without an internet NIC.
    pub fn of(lab: &str, guest: &GuestRecord, known_hosts: &Path) -> Option<Access> {
        Some(Access {
            name: guest.name.clone(),
            alias: format!("{lab}.{}", guest.name),
            port: guest.ssh_port?,
            user: guest.ssh_user.clone(),
            key: guest.ssh_key.as_ref().map(|key| key.to_string_lossy().into_owned()),
            known_hosts: known_hosts.to_string_lossy().into_owned(),
        })
    }

    /// Options, as `ssh_config` has them.
    fn options(&self) -> Vec<(&'static str, String)> {
        let quoted = |path: &str| if path.contains(' ') { format!("\"{path}\"") } else { path.to_owned() };
        let mut options = vec![
            ("HostName", "127.0.0.1".to_owned()),
            ("Port", self.port.to_string()),
            ("User", self.user.clone()),
            ("HostKeyAlias", self.alias.clone()),
            ("UserKnownHostsFile", quoted(&self.known_hosts)),
            ("StrictHostKeyChecking", "accept-new".to_owned()),
            ("LogLevel", "ERROR".to_owned()),
        ];
        if let Some(key) = &self.key {
            options.extend([("IdentityFile", quoted(key)), ("IdentitiesOnly", "yes".to_owned())]);
        }
        options
    }

    /// A block of `ssh_config`.
    pub fn config(&self) -> String {
        let mut text = format!("Host {}\n", self.name);
        for (key, value) in self.options() {
            text.push_str(&format!("    {key} {value}\n"));
        }
        text
    }

    /// Variables of an Ansible inventory.
    pub fn ansible(&self) -> BTreeMap<&'static str, String> {
        let mut variables = BTreeMap::from([
            ("ansible_host", "127.0.0.1".to_owned()),
            ("ansible_port", self.port.to_string()),
            ("ansible_user", self.user.clone()),
            (
                "ansible_ssh_common_args",
                format!(
                    "-o HostKeyAlias={} -o UserKnownHostsFile={} -o StrictHostKeyChecking=accept-new",
                    self.alias,
                    crate::command::quote(&self.known_hosts)
                ),
            ),
        ]);
        if let Some(key) = &self.key {
            variables.insert("ansible_ssh_private_key_file", key.clone());
        }
        variables
    }

    fn flags(&self) -> Vec<String> {
        self.options()
            .into_iter()
            .flat_map(|(key, value)| ["-o".to_owned(), format!("{key}={value}")])
            .collect()
    }

    /// `ssh`, running `command`; without one, a shell.
    pub fn ssh(&self, command: &[String]) -> Vec<String> {
        let mut argv = vec!["ssh".to_owned()];
        argv.extend(self.flags());
        argv.extend([self.name.clone(), "--".to_owned()]);
        argv.extend(command.iter().cloned());
        argv
    }

    /// The same for a program: no questions, no terminal, and each word of
    /// `command` a word in the guest.
    pub fn exec(&self, command: &[String]) -> Vec<String> {
        let mut argv = vec!["ssh".to_owned(), "-T".to_owned(), "-o".to_owned(), "BatchMode=yes".to_owned()];
        argv.extend(self.flags());
        argv.extend([self.name.clone(), "--".to_owned()]);
        let quoted: Vec<String> = command.iter().map(|word| crate::command::quote(word)).collect();
        argv.push(quoted.join(" "));
        argv
    }

    /// `scp`; `paths` of the guest begin with its name and a colon.
    pub fn copy(&self, recursive: bool, paths: &[String]) -> Vec<String> {
        let mut argv = vec!["scp".to_owned()];
        argv.extend(recursive.then(|| "-r".to_owned()));
        argv.extend(self.flags());
        argv.push("--".to_owned());
        // A colon in a path of ours would be taken for a host.
        argv.extend(paths.iter().map(|path| match place(path) {
            Some(guest) if guest != self.name => format!("./{path}"),
            Some(_) | None => path.clone(),
        }));
        argv
    }
}

/// The guest that `path` of `scp` is in, if it is in one: what is before a colon before any
/// slash.
pub fn place(path: &str) -> Option<&str> {
    path.split_once(':').map(|(name, _)| name).filter(|name| !name.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        Access {
            name: "zero".to_owned(),
            alias: "ping.zero".to_owned(),
            port: 20_022,
            user: "arch".to_owned(),
            key: Some("/d/ping/ssh_key".to_owned()),
            known_hosts: "/d/a b/known_hosts".to_owned(),
        }
    }

    #[test]
    fn a_block_of_ssh_config() {
        assert_eq!(
            access().config(),
            "Host zero\n    HostName 127.0.0.1\n    Port 20022\n    User arch\n    HostKeyAlias ping.zero\n    \
             UserKnownHostsFile \"/d/a b/known_hosts\"\n    StrictHostKeyChecking accept-new\n    LogLevel ERROR\n    \
             IdentityFile /d/ping/ssh_key\n    IdentitiesOnly yes\n"
        );
    }

    #[test]
    fn words_stay_words() {
        let argv = access().exec(&["echo".to_owned(), "a  b".to_owned(), "$x".to_owned()]);
        assert_eq!(argv.last().unwrap(), "echo 'a  b' '$x'");
        let argv = access().copy(true, &["a:b".to_owned(), "zero:/tmp".to_owned()]);
        assert_eq!(argv[argv.len() - 2..], ["./a:b", "zero:/tmp"]);
        let argv = access().copy(true, &["12:30/x".to_owned(), "d/a:b".to_owned(), "zero:/tmp".to_owned()]);
        assert_eq!(argv[argv.len() - 3..], ["./12:30/x", "d/a:b", "zero:/tmp"]);
        assert_eq!(argv[1], "-r");
    }
}
