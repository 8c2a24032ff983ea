//! The recorder, as the control thread sees it: it is started with the switch, and
//! when its trigger goes off, what it has kept becomes a file.
//!
//! Deliberately absent: frames, and writing, which would keep the control thread
//! from its clients.

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;

use super::Supervisor;
use crate::bridge::Time;
use crate::capture::bpf::Program;
use crate::capture::session::{HOLD_OFF, SNAPLEN_MAX, Spec};
use crate::capture::{Worth, command, dump};
use crate::config::{Config, Trigger};
use crate::events::{Happening, utc};

/// The newest files of a run are kept.
const FILES_MAX: usize = 16;

/// What the recorder writes by itself.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// When an event may be the next trigger.
    next: Time,
    /// Those that are kept, the oldest first.
    kept: VecDeque<PathBuf>,
    /// What captures are written to which, until they have stopped.
    names: BTreeMap<u64, String>,
    /// Threads that write; each gives the path of a file that is whole.
    writing: Vec<JoinHandle<Option<PathBuf>>>,
}

impl Files {
    /// Takes note of files that are whole by now.
    fn collect(&mut self) {
        let (done, under_way) = self.writing.drain(..).partition(JoinHandle::is_finished);
        self.writing = under_way;
        let done: Vec<JoinHandle<_>> = done;
        // A panic there has been reported.
        self.kept.extend(done.into_iter().filter_map(|thread| thread.join().ok().flatten()));
    }
}

impl Supervisor {
    /// Starts the recorder, if `config` has one, and its trigger.
    ///
    /// # Errors
    /// No thread is left, the data thread is gone, or the trigger's filter is none.
    pub fn start_recorder(&mut self, config: &Config) -> anyhow::Result<()> {
        if config.recorder == 0 {
            return Ok(());
        }
        let worth = match &config.recorder_trigger {
            Some(Trigger::Drop(reason)) => Some(Worth::Drop(*reason)),
            Some(Trigger::Refused(reason)) => Some(Worth::Refused(*reason)),
            Some(Trigger::Filter(expr)) => {
                let filter = command::compile(expr).context("recorder_trigger")?;
                Some(Worth::Accepted(Program::new(&filter.program).context("recorder_trigger")?))
            }
            // The journal is where events are seen.
            Some(Trigger::Event(_)) | None => None,
        };
        self.start_captures()?;
        if let Some(captures) = &self.captures {
            captures.record(usize::try_from(config.recorder).unwrap_or(usize::MAX), worth)?;
        }
        Ok(())
    }

    /// Writes a file if `what` happened is the trigger.
    pub(super) fn trigger_by(&mut self, what: &Happening) {
        if self.config.recorder_trigger != Some(Trigger::Event(what.kind())) {
            return;
        }
        let now = self.engine.now().0;
        if now >= self.files.next {
            self.files.next = now.after(HOLD_OFF);
            self.write_recorded();
        }
    }

    /// Has what is kept now written to a file.
    pub(super) fn write_recorded(&mut self) {
        self.files.collect();
        if let Err(error) = self.begin_file() {
            tracing::warn!("the recorder's trigger went off, and nothing is written: {error:#}");
        }
    }

    fn begin_file(&mut self) -> anyhow::Result<()> {
        let Config { recorder_trigger: Some(trigger), recorder_write: Some(dir), owner, .. } = &self.config
        else {
            return Ok(());
        };
        let (date, owner) = (utc(self.engine.now().1).replace(':', ""), *owner);
        let path = dir.join(format!("{}-{date}.pcapng", self.config.name));
        let name = format!("{} ({trigger})", path.display());
        let spec = Spec {
            switch: self.config.name.clone(),
            config: self.config.to_toml(),
            ports: None,
            kinds: [true; 4],
            filter: None,
            filter_text: String::new(),
            snaplen: SNAPLEN_MAX,
            count: None,
            segment: false,
            last: Some(Duration::MAX),
        };
        let labels = self.labels();
        let captures = self.captures.as_mut().filter(|captures| captures.has_room());
        let captures = captures.context("there are too many captures under way")?;
        let (ours, theirs) = UnixStream::pair()?;
        let old = if self.files.kept.len() < FILES_MAX { None } else { self.files.kept.pop_front() };
        let thread = std::thread::Builder::new().name("recorded".to_owned());
        let thread = thread.spawn(move || dump::write(ours, &path, owner, old.as_deref()).then_some(path))?;
        self.files.writing.push(thread);
        let id = captures.begin(spec, labels)?;
        captures.hand_over(id, Some(theirs));
        self.files.names.insert(id, name);
        Ok(())
    }

    /// What capture `id` is called in the journal.
    pub(super) fn name_of_capture(&self, id: u64) -> String {
        self.files.names.get(&id).cloned().unwrap_or_else(|| format!("capture {id}"))
    }

    /// Capture `id` has stopped.
    pub(super) fn forget_capture(&mut self, id: u64) {
        self.files.names.remove(&id);
    }

    /// Waits until the last files are whole, after the capture thread has ended.
    pub(super) fn end_files(&mut self) {
        for thread in self.files.writing.drain(..) {
            // A panic there has been reported.
            let _ = thread.join();
        }
    }
}
