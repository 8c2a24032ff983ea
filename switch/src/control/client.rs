//! The other end of the control socket: one request, one reply. The command
//! line and vlab use it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::connection::FOLLOW_PATIENCE;
use super::live::{Changed, Events};
use super::lock::Lock;
use super::protocol::{Envelope, FdbFilter, Request, Response, encode};
use super::reply::{ErrorReply, Fdb, FdbLine, Show};
use super::stats::Stats;
use crate::config::{Invoker, Keys};

/// How long a switch may take to answer: opening a port waits for the kernel.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest reply, in bytes.
const REPLY_MAX: u64 = 16 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody runs a switch.
    #[error("no switch is running\n  start one: vswitch run")]
    NoneRunning,
    /// Not under this name.
    #[error("no switch called `{}` is running\n  {}", .name.escape_debug(), running_hint(.running))]
    NotRunning {
        /// The name.
        name: String,
        /// Those that run.
        running: Vec<String>,
    },
    /// Which one?
    #[error("several switches are running: {}\n  choose one: --name {}", .0.join(", "), .0[0])]
    Several(Vec<String>),
    /// The socket is not ours.
    #[error("{} belongs to uid {owner}\n  use sudo, or start your own: vswitch run", path.display())]
    Denied {
        /// The socket.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// No switch listens there.
    #[error("no switch listens on {}: {cause}\n  start one: vswitch run --control {}", path.display(), path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// It was there, and does not answer.
    #[error("the switch on {} does not answer: {cause}\n  look at its output, or end it: kill its pid", path.display())]
    Silent {
        /// The socket.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// It takes its time.
    #[error("the switch on {} has not answered for {} s\n  it may be busy with a large change, which goes on: see vswitch show; if that is not answered for long, look at its output", path.display(), TIMEOUT.as_secs())]
    Slow {
        /// The socket.
        path: PathBuf,
    },
    /// It runs on, without us.
    #[error("the switch on {} runs, and tells us nothing any more: what it had sent was not read for {} s\n  go on where it stopped: vswitch events --follow --since {next}", path.display(), FOLLOW_PATIENCE.as_secs())]
    Dropped {
        /// The socket.
        path: PathBuf,
        /// The number of the last event that came.
        next: u64,
    },
    /// It answers something else.
    #[error("the switch on {} answers something unknown: {what}\n  use the client of the same version", path.display())]
    Unknown {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// It says no.
    #[error("{}{}{}", .0.error, if .0.hint.is_empty() { "" } else { "\n  " }, .0.hint)]
    Refused(ErrorReply),
}

fn running_hint(running: &[String]) -> String {
    if running.is_empty() {
        "none is; start one: vswitch run --name NAME".to_owned()
    } else {
        format!("running: {}", running.join(", "))
    }
}

/// A switch that runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Running {
    /// Its name.
    pub name: String,
    /// Its process, as it wrote itself down.
    pub pid: String,
    /// Its control socket.
    pub control: PathBuf,
}

/// The switches that `invoker` can reach, by name. Of two with one name, the
/// one in the directory that is searched first.
pub fn running(invoker: &Invoker) -> Vec<Running> {
    let mut found = BTreeMap::new();
    for dir in &invoker.search {
        let Ok(entries) = fs::read_dir(dir) else { continue };
        for path in entries.flatten().map(|entry| entry.path()) {
            let Some(name) = path.file_stem().filter(|_| path.extension().is_some_and(|e| e == "lock"))
            else {
                continue;
            };
            // A lock that we may not read is another user's.
            if let Ok(Some(holder)) = Lock::holder(&path) {
                let name = name.to_string_lossy().into_owned();
                let running = Running { name: name.clone(), pid: holder.pid, control: holder.control };
                found.entry(name).or_insert(running);
            }
        }
    }
    found.into_values().collect()
}

/// A connection to a running switch.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
    next_id: u64,
}

impl Client {
    /// Connects to the switch that `control` or `name` chooses, or else to the
    /// only one there is.
    ///
    /// # Errors
    /// None or several are running, or it belongs to somebody else.
    pub fn find(
        invoker: &Invoker,
        name: Option<&str>,
        control: Option<&Path>,
    ) -> Result<Client, ClientError> {
        if let Some(control) = control {
            return Client::connect(control);
        }
        let running = running(invoker);
        let names = || running.iter().map(|running| running.name.clone()).collect();
        let chosen = match name {
            Some(name) => running
                .iter()
                .find(|running| running.name == name)
                .ok_or_else(|| ClientError::NotRunning { name: name.to_owned(), running: names() })?,
            None => match running.as_slice() {
                [] => return Err(ClientError::NoneRunning),
                [only] => only,
                [_, _, ..] => return Err(ClientError::Several(names())),
            },
        };
        Client::connect(&chosen.control)
    }

    /// Connects to the control socket at `path`.
    ///
    /// # Errors
    /// Nobody listens there, or it belongs to somebody else.
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        let fault = |cause: io::Error| {
            let owner = fs::symlink_metadata(path).map(|found| found.uid());
            match (cause.kind(), owner) {
                (io::ErrorKind::PermissionDenied, Ok(owner)) => {
                    ClientError::Denied { path: path.to_owned(), owner }
                }
                _ => ClientError::Connect { path: path.to_owned(), cause },
            }
        };
        let stream = UnixStream::connect(path).map_err(fault)?;
        stream.set_read_timeout(Some(TIMEOUT)).map_err(fault)?;
        stream.set_write_timeout(Some(TIMEOUT)).map_err(fault)?;
        Ok(Client { stream: BufReader::new(stream), path: path.to_owned(), next_id: 1 })
    }

    /// Sends `request` and waits for its reply, at most ten seconds for each
    /// part of it. A refusal is an error.
    ///
    /// # Errors
    /// The switch refuses, or does not answer.
    pub fn call(&mut self, request: &Request) -> Result<Response, ClientError> {
        let silent = |cause| ClientError::Silent { path: self.path.clone(), cause };
        let id = self.next_id;
        self.next_id += 1;
        let sent = self.stream.get_mut().write_all(&encode(Some(id), request));
        if let Err(e) = sent {
            // A switch that refuses our connection says why before it closes.
            if !matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) {
                return Err(silent(e));
            }
        }
        self.reply(id)
    }

    /// The next reply to request `id`.
    fn reply(&mut self, id: u64) -> Result<Response, ClientError> {
        let silent = |cause| ClientError::Silent { path: self.path.clone(), cause };
        let unknown = |what: String| ClientError::Unknown { path: self.path.clone(), what };
        let mut line = Vec::new();
        let read = (&mut self.stream).take(REPLY_MAX).read_until(b'\n', &mut line);
        match read {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                return Err(ClientError::Slow { path: self.path.clone() });
            }
            Err(e) => return Err(silent(e)),
            Ok(_) if !line.ends_with(b"\n") => {
                return Err(silent(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection")));
            }
            Ok(_) => {}
        }
        let reply: Envelope<Response> = serde_json::from_slice(&line).map_err(|e| unknown(e.to_string()))?;
        // A refused connection or line is answered without an id.
        if let Response::Error(refusal) = reply.body {
            return Err(ClientError::Refused(refusal));
        }
        if reply.id != Some(id) {
            return Err(unknown(format!("reply {:?} to request {id}", reply.id)));
        }
        Ok(reply.body)
    }

    /// Changes keys of the running switch, all or none; its state afterwards.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn set(&mut self, keys: Keys) -> Result<Show, ClientError> {
        let Response::Show(show) = self.call(&Request::Set { keys })? else { return Err(self.unexpected()) };
        Ok(show)
    }

    /// Has the switch read its configuration file again; what that changed.
    ///
    /// # Errors
    /// As [`call`](Self::call): nothing was changed then.
    pub fn reload(&mut self) -> Result<Changed, ClientError> {
        let Response::Changed(changed) = self.call(&Request::Reload {})? else {
            return Err(self.unexpected());
        };
        Ok(changed)
    }

    /// The events after number `after`; 0: all that are kept.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn events(&mut self, after: u64) -> Result<Events, ClientError> {
        let Response::Events(events) = self.call(&Request::Events { after, follow: false })? else {
            return Err(self.unexpected());
        };
        Ok(events)
    }

    /// Follows events from the one after number `after` on: those that are kept,
    /// and then each as it happens.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn follow(mut self, after: u64) -> Result<Follower, ClientError> {
        let id = self.next_id;
        let Response::Events(first) = self.call(&Request::Events { after, follow: true })? else {
            return Err(self.unexpected());
        };
        let waits = self.stream.get_ref().set_read_timeout(None);
        waits.map_err(|cause| ClientError::Silent { path: self.path.clone(), cause })?;
        Ok(Follower { client: self, id, next: first.next, uptime_ms: first.uptime_ms, first: Some(first) })
    }

    /// Every counter, at one instant.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn stats(&mut self) -> Result<Stats, ClientError> {
        let Response::Stats(stats) = self.call(&Request::Stats {})? else { return Err(self.unexpected()) };
        Ok(*stats)
    }

    /// Identity, state, totals.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn show(&mut self) -> Result<Show, ClientError> {
        let Response::Show(show) = self.call(&Request::Show {})? else { return Err(self.unexpected()) };
        Ok(show)
    }

    /// A reply that answers another request.
    pub(crate) fn unexpected(&self) -> ClientError {
        ClientError::Unknown { path: self.path.clone(), what: "not what it was asked for".to_owned() }
    }

    /// The connection itself, behind the last reply, with what was read of it
    /// already. It waits for ever.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn into_stream(self) -> io::Result<(UnixStream, Vec<u8>)> {
        let rest = self.stream.buffer().to_vec();
        let stream = self.stream.into_inner();
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(None)?;
        Ok((stream, rest))
    }

    /// Waits until the switch has closed the connection: it has ended.
    ///
    /// # Errors
    /// It is still there after ten seconds.
    pub fn wait_end(mut self) -> Result<(), ClientError> {
        let mut rest = Vec::new();
        match (&mut self.stream).take(REPLY_MAX).read_to_end(&mut rest) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let what = format!("it still runs after {} s", TIMEOUT.as_secs());
                Err(ClientError::Silent {
                    path: self.path,
                    cause: io::Error::new(io::ErrorKind::TimedOut, what),
                })
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// One page of the FDB: the entries that match `filter` from `start` on, and
    /// where the next page starts.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn fdb_page(&mut self, filter: &FdbFilter, start: u64) -> Result<Fdb, ClientError> {
        let Response::Fdb(page) = self.call(&Request::FdbShow { filter: filter.clone(), start })? else {
            return Err(self.unexpected());
        };
        Ok(page)
    }

    /// All FDB entries that match `filter`, page by page. Frames go on
    /// meanwhile, so an entry that moves between two pages may be missed.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn fdb(&mut self, filter: &FdbFilter) -> Result<Vec<FdbLine>, ClientError> {
        let mut entries = Vec::new();
        let mut start = 0;
        loop {
            let page = self.fdb_page(filter, start)?;
            entries.extend(page.entries);
            match page.next {
                Some(next) if next > start => start = next,
                Some(_) | None => break,
            }
        }
        // Each page is in order, the pages are not.
        entries.sort_unstable_by_key(|entry| (entry.vid, entry.mac));
        Ok(entries)
    }
}

/// A connection on which a switch tells what happens.
#[derive(Debug)]
pub struct Follower {
    client: Client,
    id: u64,
    /// What came with the reply to the request.
    first: Option<Events>,
    /// The number of the last event that came.
    next: u64,
    /// When that was, in the switch's life.
    uptime_ms: u64,
}

impl Follower {
    /// Waits for what happens next: one event or several.
    ///
    /// # Errors
    /// `Silent` when the switch has ended; `Dropped` when only we were too slow.
    pub fn next_events(&mut self) -> Result<Events, ClientError> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        let reply = match self.client.reply(self.id) {
            Err(ClientError::Silent { path, .. }) if self.has_survived(&path) => {
                return Err(ClientError::Dropped { path, next: self.next });
            }
            reply => reply?,
        };
        let Response::Events(events) = reply else { return Err(self.client.unexpected()) };
        (self.next, self.uptime_ms) = (events.next, events.uptime_ms);
        Ok(events)
    }

    /// Whether the switch is still there. A younger one is another.
    fn has_survived(&self, path: &Path) -> bool {
        match Client::connect(path).and_then(|mut client| client.events(self.next)) {
            Ok(events) => events.uptime_ms >= self.uptime_ms,
            // It says so itself.
            Err(ClientError::Refused(_)) => true,
            Err(_) => false,
        }
    }
}
