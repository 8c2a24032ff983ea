//! Who started the program, and where that user's switches are found.
//!
//! The only part of the configuration that reads the environment.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// The system's place for switches that root runs, whoever asked for them.
const SYSTEM_DIR: &str = "/run/vswitch";

/// The spin after the last frame: longer than the answer of a busy guest
/// takes, short beside a timer tick.
const BUSY_POLL: Duration = Duration::from_micros(50);

/// The user behind this process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Invoker {
    /// Effective uid of the process.
    pub uid: u32,
    /// Who asked: under sudo the user who typed it.
    pub owner: u32,
    /// Where `NAME.sock` and `NAME.lock` of new switches go.
    pub run_dir: PathBuf,
    /// Where clients look for running switches, in order.
    pub search: Vec<PathBuf>,
    /// Cores this process may use.
    pub cores: usize,
}

impl Invoker {
    /// Reads uid, `SUDO_UID` and `XDG_RUNTIME_DIR`.
    pub fn from_env() -> Invoker {
        let uid = rustix::process::geteuid().as_raw();
        let sudo = std::env::var("SUDO_UID").ok().and_then(|text| text.parse().ok());
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute());
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Invoker::of(uid, sudo, runtime, cores)
    }

    fn of(uid: u32, sudo: Option<u32>, runtime: Option<PathBuf>, cores: usize) -> Invoker {
        let system = PathBuf::from(SYSTEM_DIR);
        if uid == 0 {
            let owner = sudo.unwrap_or(0);
            let mut search = vec![system.clone()];
            // Under sudo, the user's own switches are within reach too.
            search.extend(runtime.map(|dir| dir.join("vswitch")));
            if let Some(sudo) = sudo {
                search.push(PathBuf::from(format!("/run/user/{sudo}/vswitch")));
            }
            search.dedup();
            return Invoker { uid, owner, run_dir: system, search, cores };
        }
        let session = runtime.unwrap_or_else(|| PathBuf::from(format!("/run/user/{uid}")));
        // Without a session (cron, containers) /tmp serves: the lock refuses a
        // directory that somebody else made there.
        let run_dir = if session.is_dir() {
            session.join("vswitch")
        } else {
            PathBuf::from(format!("/tmp/vswitch-{uid}"))
        };
        Invoker { uid, owner: uid, search: vec![run_dir.clone(), system], run_dir, cores }
    }

    /// The control socket of a switch called `name`, unless told otherwise.
    pub fn control(&self, name: &str) -> PathBuf {
        self.run_dir.join(format!("{name}.sock"))
    }

    /// The lock that a switch called `name` holds for life.
    pub fn lock(&self, name: &str) -> PathBuf {
        self.run_dir.join(format!("{name}.lock"))
    }

    /// The spin that suits this machine: none on one core, where it would keep
    /// the guest from answering.
    pub fn busy_poll(&self) -> Duration {
        if self.cores > 1 { BUSY_POLL } else { Duration::ZERO }
    }
}

/// The uid of a user in /etc/passwd.
pub fn uid_of_user(user: &str) -> Option<u32> {
    passwd(Path::new("/etc/passwd")).into_iter().find(|(name, _)| name == user).map(|(_, uid)| uid)
}

/// The name of a user in /etc/passwd.
pub fn user_of_uid(uid: u32) -> Option<String> {
    passwd(Path::new("/etc/passwd")).into_iter().find(|(_, of)| *of == uid).map(|(name, _)| name)
}

/// Names and uids. Read by hand, since the C library's look-up would bring
/// `unsafe` here; users known elsewhere only are given by uid.
fn passwd(path: &Path) -> Vec<(String, u32)> {
    let text = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            Some((name.to_owned(), fields.nth(1)?.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_of_root_and_of_users_have_their_places() {
        let root = Invoker::of(0, None, None, 2);
        assert_eq!(root.control("a"), Path::new("/run/vswitch/a.sock"));
        assert_eq!(root.lock("a"), Path::new("/run/vswitch/a.lock"));
        assert_eq!((root.owner, root.search.len()), (0, 1));

        let sudo = Invoker::of(0, Some(1000), None, 2);
        assert_eq!((sudo.owner, sudo.run_dir.as_path()), (1000, Path::new("/run/vswitch")));
        assert_eq!(sudo.search, [Path::new("/run/vswitch"), Path::new("/run/user/1000/vswitch")]);

        let user = Invoker::of(1000, None, Some("/tmp".into()), 2);
        assert_eq!(user.control("a"), Path::new("/tmp/vswitch/a.sock"));
        assert_eq!(user.search, [Path::new("/tmp/vswitch"), Path::new("/run/vswitch")]);

        let bare = Invoker::of(4_000_000, None, None, 1);
        assert_eq!(bare.run_dir, Path::new("/tmp/vswitch-4000000"));
        assert_eq!((user.busy_poll(), bare.busy_poll()), (BUSY_POLL, Duration::ZERO));
    }

    #[test]
    fn root_is_a_user() {
        assert_eq!(uid_of_user("root"), Some(0));
        assert_eq!(user_of_uid(0).as_deref(), Some("root"));
        assert_eq!(uid_of_user("no such user"), None);
    }
}
