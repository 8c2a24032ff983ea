//! What the switch answers to `trace`: the data thread's account of a frame, in
//! words. Nothing is changed.

use super::{ApplyError, Supervisor};
use crate::bridge::PORTS_MAX;
use crate::control::{Explained, Response, Unfinished};
use crate::engine::{Command, Traced};
use crate::frame::HEAD_MAX;

impl Supervisor {
    pub(super) fn trace(
        &self,
        port: &str,
        frame: &str,
        unfinished: Unfinished,
    ) -> Result<Response, ApplyError> {
        self.config.known_port(port)?;
        let Some(ingress) = self.ports.iter().find(|held| held.name == port).map(|held| held.id) else {
            return Ok(Response::error(format!("port `{port}` is being opened"), "ask again"));
        };
        let Some(bytes) = bytes(frame) else {
            return Ok(Response::error("`frame` is not hex", "write two digits a byte, nothing between"));
        };
        let head = bytes[..bytes.len().min(HEAD_MAX)].to_vec();
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let vnet = unfinished.into();
        let traced = self.engine.ask(|reply| Command::Trace { ingress, frame: bytes, vnet, reply })?;
        let names = self.names();
        let names = names.as_slice();
        let Traced { account, egress } = &*traced;
        let explained = Explained { ingress, head: &head, len, account, egress };
        Ok(Response::Trace(Box::new(explained.in_words(&names))))
    }

    /// The ports' names, by number.
    fn names(&self) -> Vec<&str> {
        let mut names = vec!["?"; PORTS_MAX];
        for held in &self.ports {
            names[held.id.index()] = &held.name;
        }
        names
    }
}

/// The bytes of `hex`, two digits each.
fn bytes(hex: &str) -> Option<Vec<u8>> {
    if !hex.len().is_multiple_of(2) || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()).collect()
}
