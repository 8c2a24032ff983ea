//! A front end that says what the fuzzer likes, with whatever descriptors, to the
//! port's own message thread; a data thread uses the rings that come of it.
//!
//! Deliberately absent: messages that are cut short. Their rest is waited for, by
//! the clock; `tests/vhost` sends them.

use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::super::call::Bell;
use super::super::port::VhostPort;
use super::super::seam::{MessageSide, seam};
use super::super::serve::{Place, Server, Shared, Status};
use super::{Input, memory_file};
use crate::frame::Wire;
use crate::port::{Burst, Port as _, Slots};

/// Bytes of the memory that is shared.
const MEMORY_LEN: u64 = 0x1_0000;

/// The most messages of one input: they are all sent before the first is read.
const MESSAGES_MAX: usize = 64;

/// The most words of a body.
const WORDS_MAX: u8 = 48;

/// How often it is looked at what the process holds.
const CENSUS: u64 = 1024;

/// A message thread's parts, and a data thread.
struct Rig {
    server: Server,
    stop: Arc<AtomicBool>,
    data: Option<JoinHandle<()>>,
    /// Things to send along, by number.
    things: Vec<OwnedFd>,
    runs: AtomicU64,
    held: Mutex<Option<usize>>,
}

impl Rig {
    fn new() -> Rig {
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let alarm = Arc::new(event());
        let (messages, data) = seam(Arc::clone(&alarm)).unwrap();
        let shared = Arc::new(Shared {
            status: Mutex::new(Status::default()),
            alarm,
            is_closing: AtomicBool::new(false),
            connection: Mutex::new(None),
        });
        let seam: Arc<MessageSide> = Arc::new(messages);
        let place = Place::Client(PathBuf::new());
        let server = Server { place, seam, pairs: 2, shared, name: "fuzz".to_owned(), bell: Bell::new() };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let data = std::thread::spawn(move || serve_data(VhostPort::new(data, 1500), &stopped));
        let things = vec![
            memory_file(MEMORY_LEN).into(),
            event(),
            memory_file(MEMORY_LEN).into(),
            File::open("/dev/zero").unwrap().into(),
            memory_file(100).into(),
            std::io::pipe().unwrap().0.into(),
            event(),
        ];
        Rig { server, stop, data: Some(data), things, runs: AtomicU64::new(0), held: Mutex::new(None) }
    }

    /// Sends everything that `input` says by `stream`.
    fn say(&self, input: &mut Input<'_>, stream: &UnixStream) {
        for _ in 0..MESSAGES_MAX {
            if input.is_empty() {
                return;
            }
            // Requests end at 44; the crate knows those above as unknown.
            let (request, flags, fds) = (input.byte() % 48, input.byte(), input.byte());
            let len = 4 * usize::from(input.byte() % WORDS_MAX);
            let mut body = input.bytes(len).to_vec();
            body.resize(len, 0);
            // Beyond what is taken at all, it is refused by its size alone.
            let size = if flags & 0x80 == 0 { u32::try_from(len).unwrap() } else { 5000 };
            // Version 1, or another; no reply; an answer wanted or not.
            let flags = 1 ^ u32::from(flags & 0xf);
            let header: Vec<u8> =
                [u32::from(request), flags, size].iter().flat_map(|word| word.to_ne_bytes()).collect();
            // As many as the upper half says, and these.
            let first = usize::from(fds & 0xf);
            let things: Vec<BorrowedFd<'_>> = (0..usize::from(fds >> 4))
                .map(|number| self.things[(first + number) % self.things.len()].as_fd())
                .collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !things.is_empty() {
                assert!(control.push(SendAncillaryMessage::ScmRights(&things)), "room for 16");
            }
            let bytes = [IoSlice::new(&header), IoSlice::new(&body)];
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            if sendmsg(stream, &bytes, &mut control, flags).is_err() {
                return;
            }
        }
    }

    fn run(&self, bytes: &[u8]) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.say(&mut Input(bytes), &theirs);
        // Answers that nobody reads fit the socket's buffer.
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = self.server.serve(ours);
        drop(theirs);
        assert!(self.server.seam.take().unwrap().is_none(), "the data thread kept rings");
        if self.runs.fetch_add(1, Ordering::Relaxed).is_multiple_of(CENSUS) {
            let held = std::fs::read_dir("/proc/self/fd").unwrap().count()
                + std::fs::read_to_string("/proc/self/maps").unwrap().matches("/memfd:guest").count();
            let mut before = self.held.lock().unwrap();
            // A fuzzer's own files come and go: theirs are few.
            assert!(before.is_none_or(|before| held <= before + 8), "{before:?} held before, {held} now");
            before.get_or_insert(held);
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the data thread.
        let _ = self.server.seam.put(None);
        if let Some(data) = self.data.take() {
            let _ = data.join();
        }
    }
}

/// What the engine does with a port, and a frame for it now and then.
fn serve_data(mut port: VhostPort, stop: &AtomicBool) {
    let mut slots = Slots::new();
    let frame = [0xff; 300];
    while !stop.load(Ordering::Acquire) {
        let fd = port.fd();
        let _ = poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], None);
        for _ in 0..3 {
            port.receive(&mut Burst::new(&mut slots));
            port.release();
            if port.link().up {
                port.transmit(&[Wire::plain(&frame, &[])]);
            }
        }
        port.arm();
    }
}

/// Says what `bytes` say: each message its request, its flags, its descriptors,
/// the words of its body, and these.
pub fn messages(bytes: &[u8]) {
    thread_local! {
        static RIG: Rig = Rig::new();
    }
    RIG.with(|rig| rig.run(bytes));
}

/// One message, as `messages` reads it.
fn message(request: u8, fds: u8, words: &[u32]) -> Vec<u8> {
    let body: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    [&[request, 0, fds, u8::try_from(words.len()).unwrap()], body.as_slice()].concat()
}

/// Front ends to begin with: one that starts both queues of a pair, split and
/// packed, changes its memory and stops; and every request once.
pub fn messages_seeds() -> Vec<Vec<u8>> {
    let low = |bits: u64| u32::try_from(bits & 0xffff_ffff).unwrap();
    let start = |features: u64, base: u32| {
        let mut all = [
            message(1, 0, &[]),
            message(3, 0, &[]),
            message(15, 0, &[]),
            message(16, 0, &[0x8009, 0]),
            message(2, 0, &[low(features), low(features >> 32)]),
            // One region: guest 0, all of it, front end's 0, from its start.
            message(5, 0x10, &[1, 0, 0, 0, low(MEMORY_LEN), 0, 0, 0, 0, 0]),
        ]
        .concat();
        for index in 0..2u32 {
            let rings = index * 0x1000;
            all.extend(message(8, 0, &[index, 16]));
            all.extend(message(10, 0, &[index, base]));
            // Index, flags, descriptors, used, available, log.
            all.extend(message(9, 0, &[index, 0, rings, 0, rings + 0x800, 0, rings + 0x400, 0, 0, 0]));
            all.extend(message(13, 0x11, &[index, 0]));
            all.extend(message(12, 0x11, &[index, 0]));
            all.extend(message(18, 0, &[index, 1]));
        }
        all.extend(message(37, 0x12, &[0, 0, 0x10_0000, 0, 0x8000, 0, 0x10_0000, 0, 0, 0]));
        all.extend(message(38, 0, &[0, 0, 0x10_0000, 0, 0x8000, 0, 0x10_0000, 0, 0, 0]));
        all.extend(message(11, 0, &[1, 0]));
        all.extend(message(18, 0, &[0, 0]));
        all
    };
    let split = 1 << 32 | 1 << 30 | 1 << 28 | 1 << 15;
    let every = (0..46).map(|request| message(request, 0x10, &[0, 0]));
    [start(split, 0), start(split | 1 << 34, 0x8000), start(split | 1 << 29, 0)]
        .into_iter()
        .chain(every)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_honest_and_whatever_becomes_of_them_breaks_nothing() {
        let seeds = messages_seeds();
        let rig = Rig::new();
        for (number, seed) in seeds.iter().enumerate() {
            rig.run(seed);
            let (ours, theirs) = UnixStream::pair().unwrap();
            rig.say(&mut Input(seed), &theirs);
            theirs.shutdown(std::net::Shutdown::Write).unwrap();
            let end = format!("{:?}", rig.server.serve(ours));
            assert!(number >= 3 || end == "HungUp", "seed {number}: {end}");
        }
        for seed in &seeds[..2] {
            for index in (0..seed.len()).step_by(3) {
                let mut bytes = seed.clone();
                bytes[index] ^= 0x11;
                rig.run(&bytes);
            }
        }
    }
}
