//! The end of many ports at once.

use std::thread;

use super::Port;

/// Threads that close ports.
const CLOSERS: usize = 32;

/// Closes `ports`, some of them at a time: the kernel waits at each socket until no
/// processor looks at it any more, and those who wait at once wait for the same.
pub fn close_together(mut ports: Vec<Box<dyn Port>>) {
    // One has nobody to wait with.
    if ports.len() < 2 {
        return;
    }
    let share = ports.len().div_ceil(CLOSERS);
    thread::scope(|scope| {
        while !ports.is_empty() {
            let some = ports.split_off(ports.len() - share.min(ports.len()));
            // Without a thread they are closed here.
            let _ = thread::Builder::new().spawn_scoped(scope, move || drop(some));
        }
    });
}
