//! The recorder, as the control thread sees it: it is started with the switch, and
//! when its trigger goes off, what it has kept becomes a file.
//!
//! Deliberately absent: frames, and writing, which would keep the control thread
//! from its clients.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;

use super::Supervisor;
use crate::bridge::Time;
use crate::capture::bpf::Program;
use crate::capture::session::{HOLD_OFF, Spec};
use crate::capture::{self, Worth, command, dump};
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
    /// Threads that write.
    writing: Vec<JoinHandle<Written>>,
}

/// A file that is whole, or else the one that would have given way to it.
type Written = Result<PathBuf, Option<PathBuf>>;

impl Files {
    /// Takes note of files that are whole by now, or never will be.
    fn collect(&mut self) {
        let (done, under_way) = self.writing.drain(..).partition(JoinHandle::is_finished);
        self.writing = under_way;
        let done: Vec<JoinHandle<Written>> = done;
        for thread in done {
            match thread.join() {
                Ok(Ok(new)) => self.kept.push_back(new),
                Ok(Err(Some(old))) => self.kept.push_front(old),
                // A panic there has been reported.
                Ok(Err(None)) | Err(_) => {}
            }
        }
    }

    /// Starts to write what comes by `stream` to a file at `path`, which takes the
    /// place of the oldest if there are as many as are kept.
    fn begin(&mut self, stream: UnixStream, path: PathBuf, owner: u32) -> io::Result<()> {
        let is_full = self.kept.len() + self.writing.len() >= FILES_MAX;
        let old = self.kept.front().filter(|_| is_full).cloned();
        let thread = std::thread::Builder::new().name("recorded".to_owned());
        let thread = thread.spawn(move || {
            if dump::write(stream, &path, owner, old.as_deref()) { Ok(path) } else { Err(old) }
        })?;
        if is_full {
            // The thread has it now.
            self.kept.pop_front();
        }
        self.writing.push(thread);
        Ok(())
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
        let spec =
            Spec { last: Some(Duration::MAX), ..Spec::everything(&self.config.name, self.config.to_toml()) };
        let labels = self.labels();
        let captures = self.captures.as_mut().filter(|captures| captures.has_room());
        let captures = captures.context("there are too many captures under way")?;
        let (ours, theirs) = UnixStream::pair()?;
        self.files.begin(ours, path, owner)?;
        let id = captures.begin(spec, labels)?;
        captures.hand_over(id, Some(theirs.into()));
        self.files.names.insert(id, name);
        Ok(())
    }

    /// What capture `id` is called in the journal.
    pub(super) fn name_of_capture(&self, id: u64) -> String {
        self.files.names.get(&id).cloned().unwrap_or_else(|| capture::name(id))
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::capture::pcapng;
    use crate::capture::state::{State, Summary};

    /// Writes to `path`, and waits for the end of it.
    fn write(files: &mut Files, path: PathBuf, bytes: &[u8]) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        files.begin(ours, path, rustix::process::geteuid().as_raw()).unwrap();
        theirs.write_all(bytes).unwrap();
        drop(theirs);
        while !files.writing.is_empty() {
            files.collect();
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_newest_files_stay_and_one_that_fails_takes_no_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = |number: usize| dir.path().join(format!("{number:02}"));
        let mut whole = Vec::new();
        pcapng::state(&mut whole, &serde_json::to_vec(&State::End(Summary::default())).unwrap());
        let mut files = Files::default();
        for number in 0..FILES_MAX + 2 {
            write(&mut files, path(number), &whole);
        }
        for half in 100..103 {
            write(&mut files, path(half), &whole[..8]);
        }
        let newest: Vec<_> = (2..FILES_MAX + 2).map(path).collect();
        assert_eq!(files.kept, newest);
        write(&mut files, path(50), &whole);
        let mut there: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path()).collect();
        there.sort();
        assert_eq!(there, [&newest[1..], &[path(50)]].concat());
        assert_eq!(files.kept, there);
    }
}
