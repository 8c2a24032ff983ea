//! Replays: the frames of a capture, judged once more by a bridge of their own.
//!
//! A capture of ours says what the switch was when it began and what changed it
//! besides frames, and has the verdict on each frame; the same bridge must come to
//! the same verdicts. With another configuration it shows which frames that
//! configuration treats differently. A capture of somebody else's is judged as if
//! its interfaces were ports of a new switch.
//!
//! Read in this order: [`recorded`] (what the file says of a frame), `stage` (the
//! bridge, and what happens to it), this file (frame by frame), `command` (what is
//! printed).
//!
//! Deliberately absent: devices. What a port does with its copy (`refused: …`) is
//! not judged again, and what was wrong with a frame before it was judged
//! (`truncated`, `bad_offload`, `tunnel_gso`) is taken from the file, which does
//! not keep what showed it.

mod command;
mod recorded;
mod stage;

pub use command::{Outcome, execute};
pub use recorded::Recorded;
pub use stage::Wanted;

use std::collections::BTreeSet;
use std::io::Read;

use crate::bridge::{PortSet, Verdict};
use crate::capture::state::State;
use crate::explain::{Comment, Names as _, Step, steps};
use crate::frame::{ETHER_HEADER_LEN, Frame, HEAD_MAX, TAG_LEN};
use crate::offload::VnetHeader;
use crate::pcap::{Captured, Item, ReadError, Reader, Way};
use stage::Stage;

/// Kind of the blocks in which a capture of ours describes the switch.
const STATE_BLOCK: u32 = 0x8056_5357;

/// Bytes of a frame without which it cannot be judged.
const JUDGED_LEN: usize = ETHER_HEADER_LEN + TAG_LEN;

/// Why a capture cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The file.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A block of ours that is not understood.
    #[error(
        "frame {frame}: a description of the switch that this version does not know: {cause}\n  use the version that captured it"
    )]
    State {
        /// The last frame before it.
        frame: u64,
        /// What is wrong with it.
        cause: String,
    },
    /// More interfaces than a switch has ports.
    #[error("the capture has more interfaces than a switch has ports (256)")]
    Ports,
}

/// One frame that was judged.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Judged {
    /// Its number in the file, as other tools count, from 1.
    pub frame: u64,
    /// Nanoseconds since 1970.
    pub date_ns: u64,
    /// The port where it came in.
    pub port: String,
    /// What the file says became of it; `None` if nothing.
    pub recorded: Option<Recorded>,
    /// What becomes of it here.
    pub verdict: Recorded,
    /// As a capture would comment it.
    pub comment: String,
    /// How that came about.
    pub steps: Vec<Step>,
}

impl Judged {
    /// Whether it is the recorded verdict.
    pub fn differs(&self) -> bool {
        self.recorded.as_ref().is_some_and(|recorded| *recorded != self.verdict)
    }
}

/// What a replay came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Totals {
    /// Frames in the file, copies included.
    pub frames: u64,
    /// Of them, those that came in and were judged.
    pub judged: u64,
    /// Of these, those whose verdict is recorded.
    pub compared: u64,
    /// Of these, those that came to another.
    pub different: u64,
    /// Frames that came in and were not judged, since too little of them was kept.
    pub cut: u64,
    /// Frames judged before the file had told the whole FDB, which one of the past never
    /// does, and not compared.
    pub early: u64,
    /// Frames that the capture missed; what they taught is not known here.
    pub missed: u64,
    /// Other changes that the capture missed, which are not known here either.
    pub changes_missed: u64,
    /// Whether the capture was of some frames only.
    pub partial: bool,
}

/// Judges every frame of a capture that came in, and gives `each` those that are
/// asked for: with `all`, or if the capture is not ours, every one, else those that
/// differ.
///
/// # Errors
/// The file is damaged, or is of another version.
pub fn replay<R: Read>(
    reader: &mut Reader<R>,
    wanted: &Wanted,
    all: bool,
    mut each: impl FnMut(Judged),
) -> Result<Totals, ReplayError> {
    let mut stage = Stage::new(wanted);
    let mut totals = Totals::default();
    while let Some(item) = reader.next_item()? {
        match item {
            Item::Interface(interface) => stage.interface(interface.name).ok_or(ReplayError::Ports)?,
            Item::Other { kind: STATE_BLOCK, body } => {
                let refuse = |cause: String| ReplayError::State { frame: totals.frames, cause };
                stage.state(read_state(&body).map_err(refuse)?).map_err(refuse)?;
            }
            Item::Other { .. } => {}
            Item::Frame(captured) => {
                totals.frames += 1;
                totals.missed += captured.drops;
                if captured.way == Way::Outbound {
                    continue;
                }
                if let Some(judged) = judge(&mut stage, &captured, &mut totals, all) {
                    each(judged);
                }
            }
        }
    }
    totals.partial = stage.is_partial();
    totals.changes_missed = stage.changes_missed();
    Ok(totals)
}

/// A block of ours: the length of its JSON, and that.
fn read_state(body: &[u8]) -> Result<State, String> {
    let json = body.split_first_chunk::<4>().and_then(|(len, rest)| {
        // In the writer's byte order. No block is so long that the smaller of both
        // readings would be the wrong one.
        let len = u32::from_le_bytes(*len).min(u32::from_be_bytes(*len));
        rest.get(..usize::try_from(len).ok()?)
    });
    serde_json::from_slice(json.ok_or("it is cut short")?).map_err(|error| error.to_string())
}

fn judge(stage: &mut Stage<'_>, captured: &Captured, totals: &mut Totals, all: bool) -> Option<Judged> {
    let recorded = Recorded::read(&captured.comments);
    if captured.bytes.len() < JUDGED_LEN.min(captured.len as usize) {
        totals.cut += 1;
        return None;
    }
    let head = &captured.bytes[..captured.bytes.len().min(HEAD_MAX)];
    let frame = match recorded.as_ref().and_then(Recorded::fault) {
        Some(reason) => Frame::broken(head, reason),
        None => Frame::new(head, &[], VnetHeader::PLAIN),
    };
    let (now, ingress) = stage.arrival(captured)?;
    // Asked before, because the frame itself changes what would be said.
    let account = stage.bridge.trace(now, ingress, &frame);
    let verdict = stage.bridge.forward(now, ingress, &frame);
    totals.judged += 1;
    let names = stage.names();
    let name = |ports: PortSet| -> BTreeSet<String> {
        ports.iter().map(|port| (&names).name(port).to_owned()).collect()
    };
    let verdict = match verdict {
        Verdict::Drop(reason) => Recorded::Dropped(reason.name().to_owned()),
        Verdict::Forward { to, .. } => Recorded::To(name(to)),
    };
    let mut judged = Judged {
        frame: totals.frames,
        date_ns: captured.date_ns,
        port: (&names).name(ingress).to_owned(),
        recorded,
        verdict,
        comment: String::new(),
        steps: Vec::new(),
    };
    if stage.is_early() {
        totals.early += u64::from(judged.recorded.is_some());
        judged.recorded = None;
    }
    totals.compared += u64::from(judged.recorded.is_some());
    totals.different += u64::from(judged.differs());
    if !all && !judged.differs() && !stage.is_foreign() {
        return None;
    }
    judged.comment = Comment { story: &account.story, ingress, names: &names }.to_string();
    judged.steps = steps(&account, ingress, head, &names);
    Some(judged)
}
