//! One reading of a switch, and a thread that takes them: a switch that answers
//! late does not keep the keyboard waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};

use crate::cli::Target;
use crate::config::Invoker;
use crate::control::{Client, ClientError, Events, Fdb, FdbFilter, Show, Stats};

/// What a switch said of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Look {
    /// Identity and ports.
    pub show: Show,
    /// Every counter.
    pub stats: Stats,
    /// The first addresses of the FDB: a page, however large it is.
    pub fdb: Fdb,
    /// What happened since the look before.
    pub events: Events,
}

/// Up to where a run of a switch was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Seen {
    pid: u32,
    uptime_ms: u64,
    /// Number of the last event.
    event: u64,
}

impl Seen {
    /// What `look` has seen.
    pub const fn of(look: &Look) -> Seen {
        Seen { pid: look.show.pid, uptime_ms: look.show.uptime_ms, event: look.events.next }
    }

    /// Whether `show` is of another run: the switch was started again. Its events
    /// are numbered from 1 again, and in a container it may have the same pid.
    pub const fn is_other_than(&self, show: &Show) -> bool {
        self.pid != show.pid || show.uptime_ms < self.uptime_ms
    }
}

/// Reads the switch that `target` means; of its events those that were not `seen`.
pub(super) fn look(target: &Target, invoker: &Invoker, seen: Seen) -> Result<Look, ClientError> {
    let mut client = Client::find(invoker, target.name.as_deref(), target.control.as_deref())?;
    let (show, stats) = (client.show()?, client.stats()?);
    let fdb = client.fdb_page(&FdbFilter::default(), 0)?;
    let after = if seen.is_other_than(&show) { 0 } else { seen.event };
    Ok(Look { show, stats, fdb, events: client.events(after)? })
}

/// What came of a look.
pub(super) type Heard = Result<Box<Look>, String>;

/// A thread that looks again and again.
#[derive(Debug)]
pub(super) struct Looker {
    looks: Receiver<Heard>,
    interval_ms: Arc<AtomicU64>,
}

impl Looker {
    /// Looks every `interval` from now on. It ends with the process, or when
    /// nobody takes its looks any more.
    pub fn start(target: Target, invoker: Invoker, interval: Duration, mut seen: Seen) -> Looker {
        let (give, looks) = bounded(1);
        let interval_ms = Arc::new(AtomicU64::new(millis(interval)));
        let pause = Arc::clone(&interval_ms);
        thread::spawn(move || {
            loop {
                thread::sleep(Duration::from_millis(pause.load(Ordering::Relaxed)));
                let heard = look(&target, &invoker, seen).map(Box::new).map_err(|error| {
                    // What to do about it is on the lines after the first.
                    error.to_string().lines().next().unwrap_or_default().to_owned()
                });
                if let Ok(look) = &heard {
                    seen = Seen::of(look);
                }
                if give.send(heard).is_err() {
                    return;
                }
            }
        });
        Looker { looks, interval_ms }
    }

    /// The next look, if there is one.
    pub fn next(&self) -> Option<Heard> {
        self.looks.try_recv().ok()
    }

    /// Looks every `interval` after the next look.
    pub fn set_interval(&self, interval: Duration) {
        self.interval_ms.store(millis(interval), Ordering::Relaxed);
    }
}

fn millis(interval: Duration) -> u64 {
    u64::try_from(interval.as_millis()).unwrap_or(u64::MAX)
}
