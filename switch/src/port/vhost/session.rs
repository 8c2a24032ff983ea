//! One front end's connection: what its messages say, kept until there is
//! enough of it to run a queue.
//!
//! The `vhost` crate reads and answers messages; this says what they do. Before
//! anything changes that the data thread uses, the rings are taken back
//! ([`Session::stop`]); afterwards they are made anew ([`Session::run`]).
//!
//! Read first: the vhost-user specification of QEMU (docs/interop), "Ring
//! states". Deliberately absent: migration (no dirty log is offered), in-flight
//! tracking, and the device's configuration space, which is the front end's.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};

use super::call::{Bell, Call};
use super::features::{Features, OFFERED};
use super::memory::{GuestMemory, REGIONS_MAX, RegionError, RegionSpec};
use super::ring::{Base, Queue as Ring, RingAddresses, SIZE_MAX};
use super::seam::{Closed, MessageSide, Pair, Rings};

/// The protocol's features: REPLY_ACK is the crate's own. Never RARP, MTU or
/// STATUS: the crate ends the connection on their messages.
const PROTOCOL: VhostUserProtocolFeatures =
    VhostUserProtocolFeatures::MQ.union(VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS);

/// What the front end did that ends its connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Offence {
    /// Bits that were not offered.
    #[error("it chose features that were not offered: {0:#x}")]
    Features(u64),
    /// Queue numbers beyond those that the port has.
    #[error("queue {0} does not exist: the port has {1}")]
    Queue(u32, usize),
    /// A queue that cannot be.
    #[error("a queue of {0} descriptors: it must be a power of two up to {SIZE_MAX}")]
    Size(u32),
    /// A ring outside the shared memory.
    #[error("the rings of queue {0} do not lie in the shared memory, or begin nowhere")]
    Rings(usize),
    /// Notifications by anything but an eventfd.
    #[error("queue {0} is to be kicked or called by something that is no eventfd")]
    NotEventFd(u8),
    /// A queue that nobody would wake us for.
    #[error("queue {0} has no descriptor to be kicked by")]
    NoKick(u8),
    /// A message that was not offered.
    #[error("it asked for {0}, which was not offered")]
    NotOffered(&'static str),
    /// Its memory cannot be used.
    #[error(transparent)]
    Memory(#[from] RegionError),
    /// A region that was never added.
    #[error("it removed a memory region that it never added")]
    NoRegion,
    /// The kernel's word.
    #[error("{0}")]
    Os(#[from] std::io::Error),
    /// The port goes away.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// A queue, as far as messages have told it.
#[derive(Debug, Default)]
struct Queue {
    size: u32,
    addresses: Option<RingAddresses>,
    base: Base,
    kick: Option<OwnedFd>,
    call: Option<Call>,
    /// As the front end said last; `None`: it said nothing yet.
    is_enabled: Option<bool>,
    /// The data thread has it, and its call.
    is_lent: bool,
}

/// State of one connection.
#[derive(Debug)]
pub(super) struct Session {
    seam: Arc<MessageSide>,
    /// `None` until they are chosen.
    chosen: Option<Features>,
    protocol: VhostUserProtocolFeatures,
    memory: Arc<GuestMemory>,
    queues: Vec<Queue>,
    /// What rings the queues' calls.
    bell: Option<Arc<Bell>>,
    /// The data thread has rings of ours.
    is_running: bool,
    /// What ended it, for the user.
    offence: Option<Offence>,
}

impl Session {
    /// A new front end of a port with `pairs` queue pairs, which are called by
    /// `bell`.
    pub fn new(seam: Arc<MessageSide>, pairs: usize, bell: Option<Arc<Bell>>) -> Session {
        Session {
            seam,
            chosen: None,
            protocol: VhostUserProtocolFeatures::empty(),
            memory: Arc::default(),
            queues: (0..2 * pairs).map(|_| Queue::default()).collect(),
            bell,
            is_running: false,
            offence: None,
        }
    }

    /// What the front end did wrong, if the last error was its doing.
    pub fn offence(&mut self) -> Option<Offence> {
        self.offence.take()
    }

    /// Whether features were chosen.
    pub fn has_features(&self) -> bool {
        self.chosen.is_some()
    }

    /// Whether messages that ask for an answer get one.
    pub fn replies(&self) -> bool {
        self.protocol.contains(VhostUserProtocolFeatures::REPLY_ACK)
    }

    /// What was chosen; nothing yet, at first.
    fn features(&self) -> Features {
        self.chosen.unwrap_or_default()
    }

    /// Ends the connection: nothing of the guest's is used from here on.
    pub fn end(&mut self) {
        // A closed port uses nothing, either.
        let _ = self.stop();
        let _ = self.seam.put(None);
        for queue in &mut self.queues {
            drop_kick(&self.seam, queue);
        }
        self.memory = Arc::default();
    }

    /// Takes the rings back, and notes where they stopped.
    fn stop(&mut self) -> std::result::Result<(), Offence> {
        if !std::mem::take(&mut self.is_running) {
            return Ok(());
        }
        let Some(rings) = self.seam.take()? else { return Ok(()) };
        for (number, pair) in rings.pairs.into_iter().enumerate() {
            for (index, ring) in [(2 * number, pair.rx), (2 * number + 1, pair.tx)] {
                if let Some(ring) = ring {
                    let queue = &mut self.queues[index];
                    queue.base = Base::Left(ring.base());
                    queue.call = ring.into_call();
                    queue.is_lent = false;
                }
            }
        }
        Ok(())
    }

    /// Gives the data thread the queues that can run.
    fn run(&mut self) -> std::result::Result<(), Offence> {
        let mut pairs = Vec::with_capacity(self.queues.len() / 2);
        let mut any = false;
        for number in 0..self.queues.len() / 2 {
            let (rx, tx) = (self.ring(2 * number)?, self.ring(2 * number + 1)?);
            any |= rx.is_some() || tx.is_some();
            let is_muted = !self.may_run(2 * number + 1);
            pairs.push(Pair { rx, tx, is_muted });
        }
        let (memory, features) = (Arc::clone(&self.memory), self.features());
        let rings = any.then(|| Box::new(Rings { memory, features, pairs, breach: None }));
        self.is_running = any;
        Ok(self.seam.put(rings)?)
    }

    /// Whether queue `index` may be used as far as it is enabled.
    fn may_run(&self, index: usize) -> bool {
        self.queues[index].is_enabled == Some(true) || !self.features().enables_queues()
    }

    /// Queue `index` as a ring, if it is started and enabled. One that sends and was disabled
    /// is one as well: what is in it is to be given back. (Before the front end said anything
    /// what is in it stays, and is sent as soon as it is enabled: so it is with a guest that
    /// was there before us.)
    fn ring(&mut self, index: usize) -> std::result::Result<Option<Ring>, Offence> {
        let features = self.features();
        let is_muted = index % 2 == 1 && self.queues[index].is_enabled == Some(false);
        let may_run = self.may_run(index) || is_muted;
        let queue = &mut self.queues[index];
        let Some(addresses) = queue.addresses.filter(|_| may_run && queue.kick.is_some()) else {
            return Ok(None);
        };
        let ring = Ring::new(&self.memory, features, queue.size, addresses, queue.base, queue.call.take());
        queue.is_lent = ring.is_some();
        ring.map(Some).ok_or(Offence::Rings(index))
    }

    /// Makes a change while the data thread is kept away.
    fn change(
        &mut self,
        change: impl FnOnce(&mut Session) -> std::result::Result<(), Offence>,
    ) -> Result<()> {
        let outcome = self.stop().and_then(|()| change(self)).and_then(|()| self.run());
        self.judge(outcome)
    }

    /// Keeps the reason of a failure, which the crate's error cannot carry.
    fn judge<T>(&mut self, outcome: std::result::Result<T, Offence>) -> Result<T> {
        outcome.map_err(|offence| {
            self.offence = Some(offence);
            Error::InvalidParam
        })
    }

    fn refuse<T>(&mut self, what: &'static str) -> Result<T> {
        self.judge(Err(Offence::NotOffered(what)))
    }

    /// Queue `index`, if there is one.
    fn queue(&mut self, index: u32) -> std::result::Result<&mut Queue, Offence> {
        let len = self.queues.len();
        self.queues.get_mut(index as usize).ok_or(Offence::Queue(index, len))
    }

    /// Calls queue `index` by `file` from now on. Front ends do so with each change of an
    /// interrupt's affinity: a queue in use goes on.
    fn exchange_call(&mut self, index: u8, file: Option<File>) -> std::result::Result<(), Offence> {
        let call = file.map(|file| eventfd(index, file)).transpose()?;
        let call = call.map(|call| Call::new(call, self.bell.clone()));
        let queue = self.queue(u32::from(index))?;
        if queue.is_lent {
            self.seam.call(usize::from(index), call)?;
        } else {
            // Of a switch before us, which ended between the two, perhaps.
            if let Some(call) = &call {
                call.ring();
            }
            queue.call = call;
        }
        Ok(())
    }

    fn stop_all(&mut self) -> Result<()> {
        self.change(|session| {
            for queue in &mut session.queues {
                drop_kick(&session.seam, queue);
                queue.is_enabled = None;
            }
            Ok(())
        })
    }

    /// Puts `memory` in the place of what there is: mapped before, so that a
    /// running guest stands still for no longer than the exchange.
    fn set_memory(&mut self, memory: std::result::Result<GuestMemory, Offence>) -> Result<()> {
        let memory = self.judge(memory)?;
        self.change(|session| {
            session.memory = Arc::new(memory);
            Ok(())
        })
    }
}

/// A stopped queue is not listened to.
fn drop_kick(seam: &MessageSide, queue: &mut Queue) {
    if let Some(kick) = queue.kick.take() {
        seam.remove_kick(&kick);
    }
}

/// The descriptor in `file` if it is an eventfd: writing to anything else could
/// make the data thread wait, or do who knows what.
fn eventfd(index: u8, file: File) -> std::result::Result<OwnedFd, Offence> {
    let link =
        rustix::fs::readlink(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)), Vec::new());
    let fd = OwnedFd::from(file);
    if link.map_or(true, |link| link.as_bytes() != b"anon_inode:[eventfd]") {
        return Err(Offence::NotEventFd(index));
    }
    let flags = rustix::fs::fcntl_getfl(fd.as_fd()).map_err(std::io::Error::from)?;
    rustix::fs::fcntl_setfl(fd.as_fd(), flags | rustix::fs::OFlags::NONBLOCK)
        .map_err(std::io::Error::from)?;
    Ok(fd)
}

fn region(region: &VhostUserMemoryRegion) -> RegionSpec {
    RegionSpec {
        guest: region.guest_phys_addr,
        user: region.user_addr,
        len: region.memory_size,
        offset: region.mmap_offset,
    }
}

impl VhostUserBackendReqHandlerMut for Session {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.stop_all()
    }

    fn reset_device(&mut self) -> Result<()> {
        self.refuse("a device reset")
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(OFFERED)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        self.change(|session| {
            session.chosen = Some(Features::new(features).ok_or(Offence::Features(features & !OFFERED))?);
            Ok(())
        })
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        let empty = GuestMemory::default();
        let memory = regions
            .iter()
            .zip(&files)
            .try_fold(empty, |memory, (spec, file)| memory.with(region(spec), file));
        self.set_memory(memory.map_err(Offence::from))?;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        self.change(|session| {
            if !num.is_power_of_two() || num > SIZE_MAX {
                return Err(Offence::Size(num));
            }
            session.queue(index)?.size = num;
            Ok(())
        })
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        descriptors: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        if !flags.is_empty() {
            return self.refuse("a dirty log");
        }
        self.change(|session| {
            session.queue(index)?.addresses = Some(RingAddresses { descriptors, available, used });
            Ok(())
        })
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.change(|session| {
            let queue = session.queue(index)?;
            // What it was told when it stopped the queue.
            if queue.base != Base::Left(base) {
                queue.base = Base::Said(base);
            }
            Ok(())
        })
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        self.change(|session| {
            let seam = Arc::clone(&session.seam);
            let queue = session.queue(index)?;
            drop_kick(&seam, queue);
            queue.call = None;
            Ok(())
        })?;
        let base = self.queue(index).map(|queue| queue.base.get());
        Ok(VhostUserVringState::new(index, self.judge(base)?))
    }

    fn set_vring_kick(&mut self, index: u8, file: Option<File>) -> Result<()> {
        self.change(|session| {
            let seam = Arc::clone(&session.seam);
            let kick = eventfd(index, file.ok_or(Offence::NoKick(index))?)?;
            let queue = session.queue(u32::from(index))?;
            drop_kick(&seam, queue);
            // A guest's receive queue never kicks for anything that we wait for.
            if index % 2 == 1 {
                seam.add_kick(&kick)?;
            }
            queue.kick = Some(kick);
            Ok(())
        })
    }

    fn set_vring_call(&mut self, index: u8, file: Option<File>) -> Result<()> {
        let exchanged = self.exchange_call(index, file);
        self.judge(exchanged)
    }

    fn set_vring_err(&mut self, index: u8, _file: Option<File>) -> Result<()> {
        // A queue that failed is told by the end of the connection.
        let known = self.queue(u32::from(index)).map(drop);
        self.judge(known)
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(PROTOCOL)
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        let offered = (PROTOCOL | VhostUserProtocolFeatures::REPLY_ACK).bits();
        if features & !offered != 0 {
            return self.judge(Err(Offence::Features(features & !offered)));
        }
        self.protocol = VhostUserProtocolFeatures::from_bits_truncate(features);
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        // Pairs, as DPDK and QEMU count them for a network device.
        Ok(self.queues.len() as u64 / 2)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.change(|session| {
            session.queue(index)?.is_enabled = Some(enable);
            Ok(())
        })
    }

    fn get_config(&mut self, _offset: u32, _size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        self.refuse("the configuration space")
    }

    fn set_config(&mut self, _offset: u32, _buf: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        self.refuse("the configuration space")
    }

    fn set_gpu_socket(&mut self, _gpu: GpuBackend) -> Result<()> {
        self.refuse("a display")
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        self.refuse("a shared object")
    }

    fn get_inflight_fd(&mut self, _inflight: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        self.refuse("in-flight tracking")
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        self.refuse("in-flight tracking")
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(REGIONS_MAX as u64)
    }

    fn add_mem_region(
        &mut self,
        spec: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        let memory = self.memory.with(region(spec), &file).map_err(Offence::from);
        self.set_memory(memory)?;
        Ok(None)
    }

    fn remove_mem_region(&mut self, spec: &VhostUserSingleMemoryRegion) -> Result<()> {
        let memory = self.memory.without(region(spec)).ok_or(Offence::NoRegion);
        self.set_memory(memory)
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _file: File,
    ) -> Result<Option<File>> {
        self.refuse("a transfer of its state")
    }

    fn check_device_state(&mut self) -> Result<()> {
        self.refuse("a transfer of its state")
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        self.refuse("shared memory of ours")
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        self.refuse("a dirty log")
    }
}
