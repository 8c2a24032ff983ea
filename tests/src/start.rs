//! Starting processes beside tests that close descriptors.
//!
//! Between fork and exec a child has a copy of every descriptor of the test
//! process, other tests' TAPs and BPF links among them: what a test has just
//! closed may live on for a moment. [`settled`] waits until no child is in that
//! state.
//!
//! Deliberately absent: ending processes (`process`).

use std::io;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{PoisonError, RwLock};

static STARTING: RwLock<()> = RwLock::new(());

/// `command.spawn()`, which returns once the child runs its program.
///
/// # Errors
/// As `spawn`.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    let _starting = STARTING.read().unwrap_or_else(PoisonError::into_inner);
    command.spawn()
}

/// `command.output()`.
///
/// # Errors
/// As `output`.
pub fn output(command: &mut Command) -> io::Result<Output> {
    spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?.wait_with_output()
}

/// Returns when every child that was being started runs its program: what was
/// closed before is closed everywhere.
pub fn settled() {
    drop(STARTING.write().unwrap_or_else(PoisonError::into_inner));
}
