//! A guest without QEMU at a socket port: a TAP in the host's namespace, whose
//! frames are carried to and from the socket as QEMU would between a virtio
//! queue without offloads and its `-netdev stream` or `dgram`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use vswitch_tests::flow::Device;
use vswitch_tests::guest_socket::GuestSocket;

/// How often the threads look whether they should end.
const LOOK: Duration = Duration::from_millis(50);

/// The longest frame.
const ROOM: usize = 1 << 16;

/// Threads that carry frames; they end when this is dropped.
#[derive(Debug)]
pub(crate) struct Pump {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Pump {
    /// Carries frames between `tap` and `socket`, whose switch is at `path`.
    pub(crate) fn start(tap: &Device, socket: &GuestSocket, path: PathBuf) -> Result<Pump> {
        let stop = Arc::new(AtomicBool::new(false));
        let (out_tap, mut out) = (tap.clone(), socket.try_clone()?);
        let (in_tap, mut inbound) = (tap.clone(), socket.try_clone()?);
        let (stop_out, stop_in) = (Arc::clone(&stop), Arc::clone(&stop));
        let outwards = std::thread::spawn(move || {
            let mut buffer = vec![0; ROOM];
            while !stop_out.load(Ordering::Relaxed) {
                // A device or a switch that is gone has nothing to carry.
                let _ = out_tap.wait_readable(LOOK);
                while let Ok(Some(len)) = out_tap.read(&mut buffer) {
                    if out.send(&buffer[..len], &path).is_err() {
                        break;
                    }
                }
            }
        });
        let inwards = std::thread::spawn(move || {
            while !stop_in.load(Ordering::Relaxed) {
                if !inbound.wait_readable(LOOK) {
                    continue;
                }
                match inbound.receive() {
                    // As into a guest: what does not fit is lost.
                    Ok(frame) => drop(in_tap.write(&frame)),
                    Err(_) => return,
                }
            }
        });
        Ok(Pump { stop, threads: vec![outwards, inwards] })
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a pump panicked");
        }
    }
}
