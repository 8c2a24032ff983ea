//! `vswitch run`: the control thread's loop, from the first line to the summary.
//!
//! Everything that can wake this thread is one `match`: the control socket and
//! its clients, link events of the kernel, reports of the data thread, and
//! signals.
//!
//! Deliberately absent: frames. The data thread starts here and is joined here.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook_mio::v1_0::Signals;

use crate::config::{Config, Invoker, Isolation};
use crate::control::{Lock, Server};
use crate::engine::{Closed, Engine};
use crate::metrics;
use crate::output;
use crate::port::watch::Watcher;
use crate::port::{FastPath, FastTable, Kind, PortSpec, close_together};
use crate::supervisor::{self, Source, Supervisor};

const SIGNALS: Token = Token(0);
const REPORTS: Token = Token(1);
const LINKS: Token = Token(2);
/// The server's listener has this token, its clients those above.
const SERVER: Token = Token(16);
/// The same for those who read metrics.
const METRICS: Token = Token(64);

/// How often a missing device is asked for, beside the kernel's events.
const RETRY: Duration = Duration::from_millis(500);

/// How the ready line and the summary are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// For people: the summary is a table on stderr.
    Text,
    /// Each one line of JSON on stdout.
    Json,
}

/// Raises the soft limit of open descriptors to the hard one: a port has up to four, and
/// the usual 1,024 would be the end at some 250 ports.
fn allow_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // If that is refused, whoever wants the last descriptor says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Runs the switch that `source` describes until a signal or `vswitch stop`.
///
/// # Errors
/// What is wrong with the configuration or could not be opened, with the fix;
/// nothing is left behind then.
pub fn run(source: Source, form: Form) -> anyhow::Result<ExitCode> {
    let config = source.read()?;
    allow_descriptors();
    let terminal = Terminal::of_this_process();
    let mut poll = Poll::new().context("no epoll instance")?;
    let mut signals = Signals::new([libc::SIGINT, libc::SIGTERM, libc::SIGHUP]).context("no signal pipe")?;
    poll.registry().register(&mut signals, SIGNALS, Interest::READABLE)?;
    let waker = Arc::new(Waker::new(poll.registry(), REPORTS)?);
    // Before the first port is opened, so that no change of a link is missed.
    let mut links = Watcher::new().context("no netlink socket")?;
    poll.registry().register(&mut links, LINKS, Interest::READABLE)?;
    let _lock = Lock::take(&Invoker::from_env().lock(&config.name), &config.control, config.owner)?;
    let server = Server::bind(&config.control, config.owner, poll.registry(), SERVER)?;

    let metrics = config.metrics.map(|at| metrics::Server::bind(at, poll.registry(), METRICS)).transpose()?;
    if let Some(at) = metrics.as_ref().map(metrics::Server::address) {
        let whom = if at.ip().is_loopback() { "" } else { ", by anybody who can reach it" };
        say(&format!("metrics: http://{at}/metrics{whom}"));
    }
    let mut servers = Servers { control: server, metrics };

    let tuning = supervisor::tuning(&config);
    let (engine, handle) = Engine::new(config.settings, tuning, secret(), Some(Arc::clone(&waker)))?;
    let (engine, fast) = match fast_path(&config) {
        Some((fast, table)) => (engine.with_fast_path(table), Some(fast)),
        None => (engine, None),
    };
    let data = thread::Builder::new().name("data".to_owned()).spawn(move || {
        // Dropped last: this thread then learns that the data thread is gone.
        let _wake = WakeAtEnd(waker);
        engine.run()
    })?;
    let mut supervisor =
        Supervisor::new(&config, run_id(), handle, fast, poll.registry().try_clone()?).with_source(source);

    let outcome = start(&mut supervisor, &mut links, config, form)
        .and_then(|()| serve(&mut poll, &mut signals, terminal, &mut links, &mut servers, &mut supervisor));
    // Whatever happened, the devices are closed and what was made is removed.
    let _ = supervisor.stop();
    let joined = data.join();
    let closed = match joined {
        Ok(Ok(closed)) => Some(closed),
        Ok(Err(error)) => {
            tracing::error!("the data thread ended: {error}");
            None
        }
        Err(_) => None,
    };
    // The last marks are told: captures end with their sums.
    supervisor.end_captures();
    let failed = closed.is_none();
    if let Some(Closed { snapshot, ports }) = closed {
        if outcome.is_ok() {
            match form {
                Form::Text => say(&supervisor.summary(&snapshot)),
                Form::Json => print(&output::summary_json(&supervisor.stats_of(&snapshot))),
            }
        }
        close_together(ports);
    }
    for line in supervisor.close() {
        say(&line);
    }
    // Last: a client that asked for the end waits for this socket to close.
    drop(servers);
    outcome?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Who may ask the switch something.
#[derive(Debug)]
struct Servers {
    control: Server,
    metrics: Option<metrics::Server>,
}

/// Opens what the configuration names, and says that the switch is ready.
fn start(supervisor: &mut Supervisor, links: &mut Watcher, config: Config, form: Form) -> anyhow::Result<()> {
    // A `tap:` port makes its own, which goes with it.
    let adopts = |spec: &&PortSpec| matches!(spec.kind, Kind::Auto | Kind::Netdev);
    let specs = config.ports.iter().map(|port| &port.spec).filter(adopts);
    let keep: Vec<&str> = specs.map(|spec| spec.target.as_str()).collect();
    match crate::port::remove_leftovers(config.owner, &config.name, &keep) {
        Ok(said) => said.iter().for_each(|line| say(line)),
        // Without netlink no port opens either, and says so.
        Err(error) => tracing::warn!("what an earlier run left: {error}"),
    }
    // Before the first port, so that nothing is missed.
    supervisor.start_recorder(&config)?;
    for note in supervisor.apply(config)? {
        say(&note);
    }
    supervisor.watch_namespaces(links)?;
    if let Some(hint) = supervisor.hints() {
        say(&hint);
    }
    let config = supervisor.config();
    let ports = config.ports.len();
    let plural = if ports == 1 { "" } else { "s" };
    print(&match form {
        Form::Text => format!("ready: {ports} port{plural}, control {}", config.control.display()),
        Form::Json => output::ready_json(&config.name, ports, &config.control),
    });
    // Without a service manager this does nothing.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    Ok(())
}

/// The loop; ends when the switch is told to stop.
fn serve(
    poll: &mut Poll,
    signals: &mut Signals,
    terminal: Terminal,
    links: &mut Watcher,
    servers: &mut Servers,
    supervisor: &mut Supervisor,
) -> anyhow::Result<()> {
    let mut events = Events::with_capacity(64);
    let mut next_retry = now();
    loop {
        let retry = supervisor.is_waiting().then(|| next_retry.saturating_duration_since(now()));
        let Servers { control: server, metrics } = servers;
        let asked = metrics.as_ref().and_then(|metrics| metrics.timeout(now()));
        let waits = [server.timeout(now()), asked, retry, supervisor.journal_timeout()];
        let wait = waits.into_iter().flatten().min();
        match poll.poll(&mut events, wait) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("epoll"),
        }
        for event in &events {
            match event.token() {
                SIGNALS => {
                    for signal in signals.pending() {
                        // A terminal that closed ends what ran in it, cleanly;
                        // somebody else's SIGHUP asks for the file to be read.
                        if signal != libc::SIGHUP || !supervisor.has_file() || terminal.has_gone() {
                            return Ok(());
                        }
                        match supervisor.reload() {
                            Ok(changed) => say(&output::changed(&changed)),
                            Err(refused) => tracing::error!("SIGHUP: {}", refused.error),
                        }
                        supervisor.watch_namespaces(links)?;
                    }
                }
                REPORTS => {
                    supervisor.take_reports()?;
                    supervisor.take_notes();
                    supervisor.take_capture_news();
                }
                LINKS => supervisor.follow(links)?,
                token if Supervisor::owns(token) => supervisor.greet(token)?,
                token if !server.owns(token) => {
                    if let Some(metrics) = metrics {
                        let clients = server.clients_len();
                        metrics.ready(token, now(), &mut || supervisor.reading(clients));
                    }
                }
                token => {
                    server.ready(token, now(), &mut |request| supervisor.answer(request));
                    supervisor.hand_over(server.take_readers());
                    // A port that came or went may need another namespace.
                    supervisor.watch_namespaces(links)?;
                }
            }
        }
        // By the clock: clients that keep asking must not put it off.
        if supervisor.is_waiting() && now() >= next_retry {
            supervisor.retry()?;
            supervisor.watch_namespaces(links)?;
            next_retry = now() + RETRY;
        }
        supervisor.settle_journal();
        server.publish(now(), supervisor.journal(), supervisor.uptime_ms());
        server.expire(now());
        if let Some(metrics) = metrics {
            metrics.expire(now());
        }
        supervisor.hand_over(server.take_readers());
        if supervisor.is_stopping() {
            return Ok(());
        }
    }
}

/// The control thread's own clock: how long clients may take.
#[expect(clippy::disallowed_methods, reason = "no frame is judged by it")]
fn now() -> Instant {
    Instant::now()
}

/// Whether this process has a terminal that it is controlled by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Terminal {
    /// It had one when it started.
    Some,
    /// A service has none.
    None,
}

impl Terminal {
    fn of_this_process() -> Terminal {
        if std::fs::File::open("/dev/tty").is_ok() { Terminal::Some } else { Terminal::None }
    }

    /// Whether there was one, and it was closed.
    fn has_gone(self) -> bool {
        self == Terminal::Some && Terminal::of_this_process() == Terminal::None
    }
}

/// Wakes the control thread when the data thread ends, however it ends.
#[derive(Debug)]
struct WakeAtEnd(Arc<Waker>);

impl Drop for WakeAtEnd {
    fn drop(&mut self) {
        // If even this fails, the next command finds out.
        let _ = self.0.wake();
    }
}

/// The kernel's fast path, if this kernel and our rights allow it. Without it
/// everything works, and every frame comes through here.
fn fast_path(config: &Config) -> Option<(FastPath, FastTable)> {
    // Its programs take the place of the isolation's.
    if config.isolation != Isolation::Auto {
        return None;
    }
    FastPath::new(config.settings.fdb_size)
        .inspect_err(|error| tracing::debug!("no fast path in the kernel: {error}"))
        .ok()
}

/// Keys the FDB's hash: nobody who sends frames can know it.
fn secret() -> [u64; 2] {
    // The standard library seeds each `RandomState` from the kernel.
    [RandomState::new().build_hasher().finish(), RandomState::new().build_hasher().finish()]
}

/// Marks what this run makes.
fn run_id() -> String {
    format!("{:08x}", secret()[0] >> 32)
}

/// Writes a line to stdout.
fn print(text: &str) {
    // A reader that hung up does not stop the switch.
    let _ = writeln!(io::stdout(), "{}", text.trim_end());
    let _ = io::stdout().flush();
}

fn say(text: &str) {
    // A closed stderr does not stop the switch.
    let _ = writeln!(io::stderr(), "{}", text.trim_end());
}
