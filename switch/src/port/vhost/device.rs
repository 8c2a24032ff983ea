//! A port's other end as the supervisor sees it: who is connected, and how to
//! end it all.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

use super::serve::{self, Shared, Status};

/// The message thread, from outside; ends it when dropped.
#[derive(Debug)]
pub(in crate::port) struct VhostDevice {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    mtu: AtomicU32,
}

impl VhostDevice {
    pub(super) fn new(shared: Arc<Shared>, thread: JoinHandle<()>, mtu: u32) -> VhostDevice {
        VhostDevice { shared, thread: Some(thread), mtu: AtomicU32::new(mtu) }
    }

    fn status(&self) -> Status {
        self.shared.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `NAME PID` of the front end.
    pub fn peer(&self) -> Option<String> {
        self.status().peer
    }

    /// How the last connection ended, if it was not a good end.
    pub fn note(&self) -> String {
        self.status().note
    }

    /// Payload bytes of the longest frame.
    pub fn mtu(&self) -> u32 {
        self.mtu.load(Ordering::Relaxed)
    }

    /// Changes the MTU; the engine is told with the next look at the device.
    pub fn set_mtu(&self, mtu: u32) {
        self.mtu.store(mtu, Ordering::Relaxed);
    }
}

impl Drop for VhostDevice {
    fn drop(&mut self) {
        serve::close(&self.shared);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed, and has no other consequence.
            let _ = thread.join();
        }
    }
}
