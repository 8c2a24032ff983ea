//! Ctrl-C and SIGTERM set a flag; whatever waits looks at it and returns an
//! error, so that every guard on the way out removes what it made.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail, ensure};

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_signal: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

/// Starts to listen.
pub(crate) fn watch() -> Result<()> {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let handler: extern "C" fn(libc::c_int) = note;
        // SAFETY: the handler only stores to an atomic, which signal-safety(7)
        // allows.
        let before = unsafe { libc::signal(signal, handler as libc::sighandler_t) };
        ensure!(before != libc::SIG_ERR, "signal({signal}): {}", std::io::Error::last_os_error());
    }
    Ok(())
}

/// An error if somebody wants us to end.
pub(crate) fn check() -> Result<()> {
    if STOP.load(Ordering::Relaxed) {
        bail!("interrupted; everything made was removed");
    }
    Ok(())
}
