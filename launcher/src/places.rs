//! Whose lab it is, and where its files are.
//!
//! RUN holds what dies with the lab (lock, sockets, the switches'
//! configuration), STATE what is needed to take it down and its logs, DATA what
//! survives: clones. Under sudo all three are the invoking user's, so that
//! `vlab status` and `vlab down` need no sudo later.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Longest path of a unix socket, in bytes: `sun_path` less its NUL.
pub const SOCKET_PATH_LEN_MAX: usize = 107;

/// How files with a guest's UEFI variables end: images, like the clones beside
/// them, so that snapshots hold them as well.
pub const VARIABLES: &str = ".uefi.qcow2";

/// What QEMU has to do not to be root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drop {
    /// An ordinary user: nothing.
    Nothing,
    /// Under sudo: started as the user who typed it.
    To {
        /// The user.
        uid: u32,
        /// The user's group.
        gid: u32,
    },
    /// Plain root: QEMU opens its files and TAPs, then becomes nobody itself.
    Nobody,
}

/// The user behind this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Whose the lab is.
    pub uid: u32,
    /// How QEMU sheds root.
    pub drop: Drop,
}

impl User {
    /// From the real uid and what sudo left in the environment.
    ///
    /// # Errors
    /// `SUDO_UID` or `SUDO_GID` is no number.
    pub fn from_env() -> Result<User, String> {
        let number = |name: &str| match std::env::var(name) {
            Ok(text) => text.parse().map(Some).map_err(|_| format!("{name} is `{text}`, not a number")),
            Err(_) => Ok(None),
        };
        let uid = rustix::process::getuid().as_raw();
        Ok(User::of(uid, number("SUDO_UID")?, number("SUDO_GID")?))
    }

    /// Whether the RUN directories let others pass who know a name in them: QEMU
    /// as nobody comes back to its ports' sockets there. All else in them is
    /// root's alone by its own mode.
    pub fn has_passable_run(&self) -> bool {
        self.drop == Drop::Nobody
    }

    fn of(uid: u32, sudo_uid: Option<u32>, sudo_gid: Option<u32>) -> User {
        match (uid, sudo_uid) {
            (0, Some(sudo)) if sudo != 0 => {
                User { uid: sudo, drop: Drop::To { uid: sudo, gid: sudo_gid.unwrap_or(sudo) } }
            }
            (0, _) => User { uid: 0, drop: Drop::Nobody },
            _ => User { uid, drop: Drop::Nothing },
        }
    }
}

/// The directories of one user's labs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// `…/vlab` for what dies with the lab.
    pub run: PathBuf,
    /// `…/vlab` for state and logs.
    pub state: PathBuf,
    /// `…/vlab` for clones.
    pub data: PathBuf,
}

impl Roots {
    /// Asks the environment; under sudo only what belongs to the user counts.
    ///
    /// # Errors
    /// The user has no home to keep state in.
    pub fn from_env(user: &User) -> Result<Roots, String> {
        let owned = |path: &Path| std::fs::metadata(path).is_ok_and(|meta| meta.uid() == user.uid);
        let sudo = matches!(user.drop, Drop::To { .. });
        let variable = |name: &str| {
            std::env::var_os(name).filter(|value| !value.is_empty()).filter(|value| {
                // sudo may hand root's variables, or the user's.
                Path::new(value).is_absolute() && (!sudo || owned(Path::new(value)))
            })
        };
        let home = match user.drop {
            Drop::To { uid, .. } => home_of(uid),
            Drop::Nothing => variable("HOME").map(PathBuf::from).or_else(|| home_of(user.uid)),
            Drop::Nobody => None,
        };
        let session = PathBuf::from(format!("/run/user/{}", user.uid));
        Roots::of(user, variable, home, owned(&session).then_some(session))
    }

    fn of(
        user: &User,
        variable: impl Fn(&str) -> Option<OsString>,
        home: Option<PathBuf>,
        session: Option<PathBuf>,
    ) -> Result<Roots, String> {
        if user.uid == 0 {
            let state = PathBuf::from("/var/lib/vlab");
            return Ok(Roots { run: "/run/vlab".into(), data: state.clone(), state });
        }
        let run = variable("XDG_RUNTIME_DIR").map(PathBuf::from).or(session);
        let run = run.map_or_else(|| format!("/tmp/vlab-{}", user.uid).into(), |dir| dir.join("vlab"));
        let under_home = |name: &str, default: &str| {
            variable(name)
                .map(PathBuf::from)
                .or_else(|| Some(home.as_ref()?.join(default)))
                .map(|dir| dir.join("vlab"))
                .ok_or_else(|| format!("there is no home directory of uid {}: set {name}", user.uid))
        };
        Ok(Roots {
            run,
            state: under_home("XDG_STATE_HOME", ".local/state")?,
            data: under_home("XDG_DATA_HOME", ".local/share")?,
        })
    }

    /// The places of lab `name`.
    pub fn lab(&self, name: &str) -> Places {
        Places { run: self.run.join(name), state: self.state.join(name), data: self.data.join(name) }
    }
}

/// The home directory in /etc/passwd. Read by hand: the C library's look-up
/// would bring `unsafe` here.
fn home_of(uid: u32) -> Option<PathBuf> {
    let text = std::fs::read("/etc/passwd").ok()?;
    String::from_utf8_lossy(&text).lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2)?.parse::<u32>().ok()? == uid)
            .then(|| PathBuf::from(fields.get(5).copied().unwrap_or("/")))
    })
}

/// The directories of one lab. On root's machine STATE and DATA are one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Lock, sockets, the switches' configuration.
    pub run: PathBuf,
    /// `state.json` and logs.
    pub state: PathBuf,
    /// Clones.
    pub data: PathBuf,
}

impl Places {
    /// Held by whoever changes the lab.
    pub fn lock(&self) -> PathBuf {
        self.run.join("lock")
    }

    /// What was made.
    pub fn state_file(&self) -> PathBuf {
        self.state.join("state.json")
    }

    /// Whose clones are in DATA: the path of a lab file.
    pub fn owner(&self) -> PathBuf {
        self.data.join("lab-file")
    }

    /// The configuration of the switch of `network`.
    pub fn switch_config(&self, network: &str) -> PathBuf {
        self.run.join(format!("{network}.toml"))
    }

    /// What the switch of `network` writes to stdout: its `ready:` line.
    pub fn switch_out(&self, network: &str) -> PathBuf {
        self.run.join(format!("{network}.out"))
    }

    /// What the switch of `network` writes to stderr.
    pub fn switch_log(&self, network: &str) -> PathBuf {
        self.state.join(format!("switch-{network}.log"))
    }

    /// The QMP socket of `guest`.
    pub fn qmp(&self, guest: &str) -> PathBuf {
        self.run.join(format!("{guest}.qmp"))
    }

    /// The switch's socket for the NIC called `nic` on `network`.
    pub fn port(&self, nic: &str, network: &str) -> PathBuf {
        self.run.join(format!("{nic}.{network}.port"))
    }

    /// The serial console of `guest`.
    pub fn serial(&self, guest: &str) -> PathBuf {
        self.run.join(format!("{guest}.serial"))
    }

    /// What came out of the serial console of `guest`.
    pub fn console_log(&self, guest: &str) -> PathBuf {
        self.state.join(format!("{guest}.console.log"))
    }

    /// What QEMU wrote to stderr for `guest`.
    pub fn qemu_log(&self, guest: &str) -> PathBuf {
        self.state.join(format!("{guest}.qemu.log"))
    }

    /// The screen of `guest`, by VNC.
    pub fn vnc(&self, guest: &str) -> PathBuf {
        self.run.join(format!("{guest}.vnc"))
    }

    /// A file out of an ISO that `guest` boots from once.
    pub fn boot_file(&self, guest: &str, what: &str) -> PathBuf {
        self.run.join(format!("{guest}.boot.{what}"))
    }

    /// The drive from which cloud-init in `guest` reads.
    pub fn seed(&self, guest: &str) -> PathBuf {
        self.run.join(format!("{guest}.seed"))
    }

    /// The `index`th credential of `guest`.
    pub fn credential(&self, guest: &str, index: usize) -> PathBuf {
        self.run.join(format!("{guest}.credential.{index}"))
    }

    /// What is needed once, to write into the clone of `guest`.
    pub fn inject(&self, guest: &str, what: impl std::fmt::Display) -> PathBuf {
        self.run.join(format!("{guest}.inject.{what}"))
    }

    /// The private key that opens the lab's guests.
    pub fn ssh_key(&self) -> PathBuf {
        self.data.join("ssh_key")
    }

    /// The host keys that the lab's guests showed.
    pub fn known_hosts(&self) -> PathBuf {
        self.data.join("known_hosts")
    }

    /// What UEFI remembers for `guest`: its boot entries.
    pub fn variables(&self, guest: &str) -> PathBuf {
        self.data.join(format!("{guest}{VARIABLES}"))
    }

    /// The linked clone of `guest`.
    pub fn clone_of(&self, guest: &str) -> PathBuf {
        self.data.join(format!("{guest}.qcow2"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roots(user: &User, variables: &[(&str, &str)], home: &str, session: Option<&str>) -> Roots {
        let find = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        };
        Roots::of(user, find, Some(home.into()), session.map(PathBuf::from)).unwrap()
    }

    #[test]
    fn users_have_xdg_and_root_has_the_system() {
        let root = roots(&User::of(0, None, None), &[], "/root", None);
        assert_eq!(root.lab("ping").state_file(), Path::new("/var/lib/vlab/ping/state.json"));
        assert_eq!(root.lab("ping").lock(), Path::new("/run/vlab/ping/lock"));

        let alice = User::of(1000, None, None);
        let plain = roots(&alice, &[("XDG_RUNTIME_DIR", "/run/user/1000")], "/home/alice", None);
        assert_eq!(plain.run, Path::new("/run/user/1000/vlab"));
        assert_eq!(plain.state, Path::new("/home/alice/.local/state/vlab"));
        assert_eq!(plain.data, Path::new("/home/alice/.local/share/vlab"));
        let set = roots(&alice, &[("XDG_STATE_HOME", "/s"), ("XDG_DATA_HOME", "/d")], "/home/alice", None);
        assert_eq!((set.state.as_path(), set.data.as_path()), (Path::new("/s/vlab"), Path::new("/d/vlab")));
        assert_eq!(set.run, Path::new("/tmp/vlab-1000"));
    }

    #[test]
    fn under_sudo_the_lab_is_the_users() {
        let user = User::of(0, Some(1000), Some(100));
        assert_eq!(user, User { uid: 1000, drop: Drop::To { uid: 1000, gid: 100 } });
        let sudo = roots(&user, &[], "/home/alice", Some("/run/user/1000"));
        let alice =
            roots(&User::of(1000, None, None), &[("XDG_RUNTIME_DIR", "/run/user/1000")], "/home/alice", None);
        assert_eq!(sudo, alice);
        // A root shell opened by root's own sudo is plain root.
        assert_eq!(User::of(0, Some(0), Some(0)).drop, Drop::Nobody);
    }
}
