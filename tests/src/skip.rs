//! What a test needs of its host, and a loud way to do without.
//!
//! `require!(root, tun);` as the first line of a test returns from it when the
//! host lacks one of them, after writing `SKIP test: needs ...` on the real
//! standard error (not the one that the test harness swallows), where `./dev
//! test` counts it. With VSWITCH_NO_SKIP set in the environment (and not empty)
//! a skip is a failure.

use std::io::Write as _;
use std::path::Path;

/// What a host may lack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// Effective uid 0, and the right to make network namespaces.
    Root,
    /// /dev/net/tun.
    Tun,
    /// A program in PATH.
    Program(&'static str),
    /// Ports of this kind in the switch.
    Port(&'static str),
}

impl Need {
    /// Whether the host has it.
    pub fn is_met(self) -> bool {
        match self {
            Need::Root => rustix::process::geteuid().is_root() && may_make_namespaces(),
            Need::Tun => Path::new("/dev/net/tun").exists(),
            Need::Program(name) => find_program(name),
            Need::Port(kind) => format!("{kind}:/x").parse::<vswitch::port::PortSpec>().is_ok(),
        }
    }
}

/// Whether `name` is in PATH or where Debian keeps system programs.
pub fn find_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(Into::into))
        .any(|dir| dir.join(name).is_file())
}

/// Makes a namespace in a thread that then ends: containers may forbid it even
/// to root.
fn may_make_namespaces() -> bool {
    use std::sync::OnceLock;
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        std::thread::scope(|scope| scope.spawn(|| crate::sys::unshare_net().is_ok()).join()).unwrap_or(false)
    })
}

/// What a skipped test returns.
pub trait Skipped {
    /// A value that does not fail the test.
    fn skipped() -> Self;
}

impl Skipped for () {
    fn skipped() {}
}

impl<E> Skipped for Result<(), E> {
    fn skipped() -> Self {
        Ok(())
    }
}

/// Names the first of `needs` that the host lacks, and says so for `test`.
///
/// # Panics
/// Something is missing and `VSWITCH_NO_SKIP` is set.
pub fn is_missing(test: &str, needs: &[Need]) -> bool {
    let Some(missing) = needs.iter().find(|need| !need.is_met()) else {
        return false;
    };
    let text = match missing {
        Need::Root => "root and network namespaces".to_owned(),
        Need::Tun => "/dev/net/tun".to_owned(),
        Need::Program(name) => format!("the program {name}"),
        Need::Port(kind) => format!("{kind} ports"),
    };
    let forbidden = std::env::var_os("VSWITCH_NO_SKIP").is_some_and(|value| !value.is_empty());
    assert!(!forbidden, "{test} needs {text}");
    // If standard error is closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "SKIP {test}: needs {text}");
    true
}

/// Name of the enclosing function, for messages.
#[doc(hidden)]
pub fn name_of<T>(_: T) -> &'static str {
    let full = std::any::type_name::<T>();
    full.strip_suffix("::here").unwrap_or(full)
}

/// Returns from the test, counted as skipped, unless the host has everything
/// named: `root`, `tun`, a program's name as a string, or `(port "KIND")`.
#[macro_export]
macro_rules! require {
    ($($need:tt),+ $(,)?) => {{
        fn here() {}
        let needs = [$($crate::require!(@one $need)),+];
        if $crate::skip::is_missing($crate::skip::name_of(here), &needs) {
            return $crate::skip::Skipped::skipped();
        }
    }};
    (@one root) => { $crate::skip::Need::Root };
    (@one tun) => { $crate::skip::Need::Tun };
    (@one (port $kind:literal)) => { $crate::skip::Need::Port($kind) };
    (@one $program:literal) => { $crate::skip::Need::Program($program) };
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_missing_program_is_seen() {
        assert!(super::find_program("sh"));
        assert!(!super::find_program("no-such-program-here"));
        assert!(super::name_of(|| ()).contains("a_missing_program_is_seen"));
    }
}
