//! Captures, as the control thread sees them: what is asked for is checked and
//! made into a [`Spec`], and its reader's connection handed to the capture thread.
//!
//! Deliberately absent: frames.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::bridge::PortId;
use crate::capture::bpf::Program;
use crate::capture::session::{Kinds, Label, Labels, SNAPLEN_MAX, Spec};
use crate::capture::{CAPTURES_MAX, Captures, News, Reader};
use crate::config::PortConfig;
use crate::control::{Capture, Direction, ErrorReply, Response};
use crate::events::Happening;

use super::{ApplyError, Supervisor};

impl Supervisor {
    /// Begins a capture; its reader comes by [`hand_over`](Self::hand_over).
    pub(super) fn begin_capture(&mut self, wanted: Capture) -> Result<Response, ApplyError> {
        let spec = match self.spec(wanted) {
            Ok(spec) => spec,
            Err(refusal) => return Ok(Response::Error(refusal)),
        };
        if self.captures.as_ref().is_some_and(|captures| !captures.is_alive()) {
            self.captures = None;
        }
        if let Err(error) = self.start_captures() {
            return Ok(Response::error(format!("no capture thread: {error}"), ""));
        }
        let labels = self.labels();
        let Some(captures) = self.captures.as_mut() else {
            return Ok(Response::error("there is no capture thread: see the log", "start the switch again"));
        };
        if !captures.has_room() {
            let error = format!("{CAPTURES_MAX} captures are under way already");
            return Ok(Response::error(error, "end one of them"));
        }
        Ok(Response::Capture { capture: captures.begin(spec, labels)? })
    }

    /// Starts the capture thread, if it does not run.
    pub(super) fn start_captures(&mut self) -> io::Result<()> {
        if self.captures.is_none()
            && let Some(observation) = self.engine.take_observation()
        {
            let (orders, waker) = (self.engine.orders(), self.engine.control_waker());
            self.captures = Some(Captures::start(observation, orders, waker)?);
        }
        Ok(())
    }

    /// What is wanted, or why it cannot be.
    fn spec(&self, wanted: Capture) -> Result<Spec, ErrorReply> {
        let Capture { ports, directions, filter, snaplen, count, last_ms, steps, segment } = wanted;
        if steps && last_ms.is_some() {
            let hint = "leave out `last_ms`, and have what comes explained";
            return Err(refusal("`steps` are not kept of what is past", hint));
        }
        if last_ms.is_some() && self.config.recorder == 0 {
            return Err(refusal("this switch has no recorder", "restart it with vswitch run --recorder 64M"));
        }
        for name in &ports {
            if let Err(error) = self.config.known_port(name) {
                return Err(refusal(error.message(), error.fix()));
            }
        }
        let filter_text = filter.as_ref().map_or_else(String::new, |filter| filter.text.clone());
        let program = filter.map(|filter| Program::new(&filter.program)).transpose();
        let filter = program.map_err(|error| {
            refusal(error.to_string(), "use the client of the same version, or another filter")
        })?;
        let snaplen = snaplen.unwrap_or(SNAPLEN_MAX);
        if !(14..=SNAPLEN_MAX).contains(&snaplen) {
            let hint = format!("write a number of bytes from 14 to {SNAPLEN_MAX}");
            return Err(refusal(format!("`snaplen` cannot be `{snaplen}`"), hint));
        }
        if count == Some(0) {
            return Err(refusal("`count` cannot be `0`", "write at least 1, or leave it out"));
        }
        Ok(Spec {
            switch: self.config.name.clone(),
            config: self.config.to_toml(),
            ports: (!ports.is_empty()).then(|| Arc::new(ports.into_iter().collect())),
            kinds: kinds(&directions),
            filter,
            filter_text,
            snaplen,
            count,
            segment,
            steps,
            last: last_ms.map(Duration::from_millis),
        })
    }

    /// Every port, as captures describe it.
    pub(super) fn labels(&self) -> Labels {
        let label = |name: &str| self.config.port(name).map(label);
        self.ports.iter().filter_map(|held| Some((held.id, label(&held.name)?))).collect()
    }

    /// Tells captures what the port is called that is about to be added.
    pub(super) fn name_port(&mut self, id: PortId, port: &PortConfig) {
        if let Some(captures) = &mut self.captures {
            captures.name(id, label(port));
        }
    }

    /// Gives captures their readers, or the news that they have none.
    pub fn hand_over(&mut self, readers: Vec<(u64, Option<Reader>)>) {
        for (capture, reader) in readers {
            if let Some(captures) = &self.captures {
                captures.hand_over(capture, reader);
            }
        }
    }

    /// Writes down what happened to captures.
    pub fn take_capture_news(&mut self) {
        while let Some(news) = self.captures.as_ref().and_then(Captures::news) {
            let capture = |id: u64| self.name_of_capture(id);
            let happening = match news {
                News::Triggered => {
                    self.write_recorded();
                    continue;
                }
                News::Started { id } => Happening::CaptureStarted { capture: capture(id) },
                News::Missing { id, missed } => Happening::CaptureLost { capture: capture(id), lost: missed },
                News::Stopped { id, why, written, missed } => {
                    let capture = capture(id);
                    self.forget_capture(id);
                    Happening::CaptureStopped { capture, why, frames: written, lost: missed }
                }
            };
            self.happened(happening);
        }
    }

    /// Waits until the capture thread has ended, after the data thread.
    pub fn end_captures(&mut self) {
        if let Some(captures) = self.captures.take() {
            captures.join();
        }
        self.end_files();
    }
}

fn refusal(error: impl Into<String>, hint: impl Into<String>) -> ErrorReply {
    ErrorReply { error: error.into(), hint: hint.into() }
}

fn label(port: &PortConfig) -> Label {
    Label { name: port.name.clone(), description: format!("vswitch port {port}") }
}

/// The kinds of records that `directions` name; all if none does.
fn kinds(directions: &[Direction]) -> Kinds {
    let has = |direction| directions.is_empty() || directions.contains(&direction);
    let (came, left, dropped) = (has(Direction::In), has(Direction::Out), has(Direction::Dropped));
    [came, came || dropped, left, dropped]
}
