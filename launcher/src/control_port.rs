//! Ports of a running switch, opened and closed by its control socket.

use anyhow::{Context, Result};
use serde_json::json;
use vswitch::control::{Client, Request};

use crate::state::{PortRecord, State};

fn client(state: &State, switch: &str) -> Result<Client> {
    let record = state.switches.iter().find(|it| it.name == switch);
    let control = record.and_then(|it| it.control.as_ref());
    let control = control.with_context(|| format!("switch {switch} is not up"))?;
    Client::connect(control).with_context(|| format!("switch {switch}"))
}

/// Opens port `name` of `switch`.
///
/// # Errors
/// The switch does not answer, or refuses.
pub fn open(state: &State, switch: &str, name: &str, port: &PortRecord) -> Result<()> {
    let keys = [("name".to_owned(), json!(name)), ("mtu".to_owned(), json!(port.mtu))];
    let keys = serde_json::from_value(json!(std::collections::BTreeMap::from(keys)))?;
    let request = Request::PortAdd { spec: port.spec.clone(), keys };
    client(state, switch)?.call(&request).map(drop).with_context(|| format!("port {name} of {switch}"))
}

/// Closes port `name` of `switch`; that it is closed already is success.
///
/// # Errors
/// The switch does not answer, or refuses.
pub fn close(state: &State, switch: &str, name: &str) -> Result<()> {
    let mut client = client(state, switch)?;
    if !client.show()?.ports.iter().any(|port| port.name == name) {
        return Ok(());
    }
    let request = Request::PortDel { name: name.to_owned() };
    client.call(&request).map(drop).with_context(|| format!("port {name} of {switch}"))
}
