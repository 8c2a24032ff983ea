//! A control server on its own thread, with a clock that tests move forward.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token, Waker};
use serde_json::Value;
use tempfile::TempDir;
use vswitch::bridge::Time;
use vswitch::control::{BindError, Events as Told, Fdb, FdbLine, Request, Response, Server};
use vswitch::events::{Happening, Journal, Stamp};
use vswitch::frame::MacAddr;
use vswitch_tests::clock::wait_until;

/// Time in which anything that should happen has happened.
pub const LIMIT: Duration = Duration::from_secs(20);

/// The server's tokens start here, so that a confusion with others shows.
const FIRST: Token = Token(100);

#[derive(Debug, Default)]
struct Shared {
    /// Milliseconds that the server's clock is ahead.
    ahead_ms: AtomicU64,
    /// What of it the last turn saw.
    seen_ms: AtomicU64,
    stop: AtomicBool,
    clients: AtomicUsize,
    requests: AtomicUsize,
    journal: Mutex<Journal>,
}

impl Shared {
    fn journal(&self) -> std::sync::MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running server; ends with its thread when dropped.
#[derive(Debug)]
pub struct Rig {
    shared: Arc<Shared>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
    path: PathBuf,
    /// Removed last.
    pub dir: TempDir,
}

impl Rig {
    /// A server whose socket belongs to `owner`.
    pub fn start(owner: u32) -> Rig {
        let dir = tempfile::Builder::new().prefix("vc-").tempdir().unwrap();
        // Other users may reach the socket, so that its own mode is tested.
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let path = dir.path().join("a.sock");
        let (poll, waker, server) = bind(&path, owner).unwrap();
        let shared = Arc::new(Shared::default());
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || run(poll, server, &shared)
        });
        Rig { shared, waker, thread: Some(thread), path, dir }
    }

    /// The same for the user who runs the tests.
    pub fn own() -> Rig {
        Rig::start(rustix::process::geteuid().as_raw())
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A connection that gives up after [`LIMIT`].
    pub fn connect(&self) -> Peer {
        Peer::connect(&self.path)
    }

    /// Moves the server's clock forward, and waits for a turn that sees it.
    pub fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap();
        let ahead = by + self.shared.ahead_ms.fetch_add(by, Ordering::SeqCst);
        self.waker.wake().unwrap();
        let seen = || self.shared.seen_ms.load(Ordering::SeqCst) == ahead;
        wait_until("the server's clock", LIMIT, seen).unwrap();
    }

    /// Waits until exactly `len` clients are connected.
    pub fn wait_clients(&self, len: usize) {
        let now = || self.shared.clients.load(Ordering::SeqCst);
        let waited = wait_until("clients", LIMIT, || now() == len);
        assert!(waited.is_ok(), "{} clients instead of {len}", now());
    }

    /// Writes `what` into the journal, at second `secs` of the switch's life, and
    /// has it told.
    pub fn happen(&self, secs: u64, what: Happening) {
        let stamp = Stamp { uptime: Time::from_secs(secs), wall: Duration::from_secs(secs) };
        self.shared.journal().record(stamp, what);
        self.waker.wake().unwrap();
    }

    /// Requests that reached the switch.
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Sockets that the kernel knows under the server's path: the listener and
    /// the server's ends of its connections, nobody else's.
    pub fn sockets_len(&self) -> usize {
        let table = std::fs::read_to_string("/proc/net/unix").unwrap();
        let path = self.path.to_str().unwrap();
        table.lines().filter(|line| line.split(' ').next_back() == Some(path)).count()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let _ = self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the server panicked");
        }
    }
}

/// A server that nobody polls yet.
pub fn bind(path: &Path, owner: u32) -> Result<(Poll, Arc<Waker>, Server), BindError> {
    let poll = Poll::new().unwrap();
    let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
    let server = Server::bind(path, owner, poll.registry(), FIRST)?;
    Ok((poll, waker, server))
}

#[expect(clippy::disallowed_methods, reason = "the poll loop is where time comes from")]
fn run(mut poll: Poll, mut server: Server, shared: &Shared) {
    let start = Instant::now();
    let clock = |ahead| start + start.elapsed() + Duration::from_millis(ahead);
    let mut events = Events::with_capacity(8);
    while !shared.stop.load(Ordering::SeqCst) {
        match poll.poll(&mut events, server.timeout(clock(shared.ahead_ms.load(Ordering::SeqCst)))) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            polled => polled.unwrap(),
        }
        let ahead = shared.ahead_ms.load(Ordering::SeqCst);
        let now = clock(ahead);
        for event in &events {
            assert!(event.token() == Token(0) || server.owns(event.token()));
            server.ready(event.token(), now, &mut |request| answer(&request, shared));
        }
        server.publish(now, &shared.journal(), 7);
        server.expire(now);
        shared.clients.store(server.clients_len(), Ordering::SeqCst);
        shared.seen_ms.store(ahead, Ordering::SeqCst);
    }
}

/// A switch of few words: pages of the FDB are long, all else is done.
fn answer(request: &Request, shared: &Shared) -> Response {
    let count = shared.requests.fetch_add(1, Ordering::SeqCst) + 1;
    if let Request::Events { after, .. } = request {
        return Response::Events(Told::of(&shared.journal(), *after, usize::MAX, 7));
    }
    if let Request::FdbShow { start, .. } = request {
        let entry = FdbLine {
            mac: MacAddr::from_u64(0x0200_0000_0000 + start),
            vid: 0,
            port: "tap0".to_owned(),
            is_static: false,
            sticky: false,
            age_ms: Some(7),
        };
        let next = (*start < 2).then_some(start + 1);
        return Response::Fdb(Fdb { entries: vec![entry; Fdb::PAGE_LEN], next });
    }
    Response::Done { count: count as u64 }
}

/// A client made of a plain socket.
#[derive(Debug)]
pub struct Peer {
    pub stream: BufReader<UnixStream>,
}

impl Peer {
    pub fn connect(path: &Path) -> Peer {
        Peer::of(UnixStream::connect(path).unwrap())
    }

    pub fn of(stream: UnixStream) -> Peer {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        Peer { stream: BufReader::new(stream) }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    /// One reply; `None` when the server closed the connection.
    pub fn reply(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).unwrap()),
            // The server closed with bytes of ours unread.
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(e) => panic!("no reply: {e}"),
        }
    }

    /// Sends a line and returns its reply.
    pub fn ask(&mut self, line: &str) -> Value {
        self.send(format!("{line}\n").as_bytes());
        self.reply().expect("a reply")
    }

    /// The refusal that is the server's last word.
    pub fn refusal(&mut self) -> String {
        let reply = self.reply().expect("a refusal");
        assert_eq!(reply["reply"], "error", "{reply}");
        assert_eq!(self.reply(), None, "closed after it");
        reply["error"].as_str().unwrap().to_owned()
    }
}
