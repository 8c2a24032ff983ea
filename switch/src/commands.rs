//! The client commands: what was typed becomes a request, its reply becomes
//! text. Deliberately absent: printing, and the exit code.

use crate::cli::{ClientCommand, FdbCommand, Filter, PortCommand, Target};
use crate::config::{Invoker, Keys, Value};
use crate::control::{Client, ClientError, Fdb, FdbFilter, Request, Response};
use crate::output;

/// Asks the switch that `command` means, and returns the text for stdout.
///
/// # Errors
/// There is no such switch, or it refuses.
pub fn execute(command: &ClientCommand, invoker: &Invoker) -> Result<String, ClientError> {
    let target = command.target();
    let mut client = Client::find(invoker, target.name.as_deref(), target.control.as_deref())?;
    let request = command.request();
    let reply = match &request {
        Request::FdbShow { filter, .. } => Response::Fdb(Fdb { entries: client.fdb(filter)?, next: None }),
        Request::Stop {} => {
            let reply = client.call(&request)?;
            client.wait_end()?;
            reply
        }
        Request::Show {}
        | Request::Stats {}
        | Request::PortShow { .. }
        | Request::PortAdd { .. }
        | Request::PortDel { .. }
        | Request::PortSet { .. }
        | Request::Set { .. }
        | Request::Reload {}
        | Request::Events { .. }
        | Request::FdbAdd { .. }
        | Request::FdbDel { .. }
        | Request::FdbFlush { .. }
        | Request::Capture(_)
        | Request::Trace { .. } => client.call(&request)?,
    };
    if target.json { Ok(output::json(&reply)) } else { Ok(output::reply(&request, &reply)) }
}

/// An error as the switch itself would answer it: what is wrong, and on the
/// lines after the first what to do.
pub fn refusal(error: &anyhow::Error) -> Response {
    if let Some(ClientError::Refused(refused)) = error.downcast_ref() {
        return Response::Error(refused.clone());
    }
    let text = format!("{error:#}");
    let (what, fix) = text.split_once('\n').unwrap_or((&text, ""));
    Response::error(what, fix.lines().map(str::trim).collect::<Vec<_>>().join("\n"))
}

impl ClientCommand {
    /// Which switch is meant.
    pub fn target(&self) -> &Target {
        match self {
            ClientCommand::Show { target }
            | ClientCommand::Set { target, .. }
            | ClientCommand::Reload { target }
            | ClientCommand::Stats { target, .. }
            | ClientCommand::Stop { target }
            | ClientCommand::Port(
                PortCommand::Add { target, .. }
                | PortCommand::Del { target, .. }
                | PortCommand::Set { target, .. }
                | PortCommand::Show { target, .. },
            )
            | ClientCommand::Fdb(
                FdbCommand::Show { target, .. }
                | FdbCommand::Add { target, .. }
                | FdbCommand::Del { target, .. }
                | FdbCommand::Flush { target, .. },
            ) => target,
        }
    }

    /// What is asked of it.
    pub fn request(&self) -> Request {
        match self {
            ClientCommand::Show { .. } => Request::Show {},
            ClientCommand::Stats { .. } => Request::Stats {},
            ClientCommand::Stop { .. } => Request::Stop {},
            ClientCommand::Reload { .. } => Request::Reload {},
            ClientCommand::Set { keys, .. } => Request::Set { keys: keys_of(&keys.0) },
            ClientCommand::Port(port) => match port {
                PortCommand::Add { spec, keys, .. } => {
                    Request::PortAdd { spec: spec.clone(), keys: keys_of(keys) }
                }
                PortCommand::Del { port, .. } => Request::PortDel { name: port.clone() },
                PortCommand::Set { port, keys, .. } => {
                    Request::PortSet { name: port.clone(), keys: keys_of(&keys.0) }
                }
                PortCommand::Show { port, .. } => Request::PortShow { name: port.clone() },
            },
            ClientCommand::Fdb(fdb) => match fdb {
                FdbCommand::Show { filter, .. } => Request::FdbShow { filter: filter_of(filter), start: 0 },
                FdbCommand::Add { mac, port, vid, sticky, .. } => {
                    Request::FdbAdd { mac: *mac, port: port.clone(), vid: *vid, sticky: *sticky }
                }
                FdbCommand::Del { mac, vid, .. } => Request::FdbDel { mac: *mac, vid: *vid },
                FdbCommand::Flush { filter, statics, .. } => {
                    Request::FdbFlush { filter: filter_of(filter), statics: *statics }
                }
            },
        }
    }
}

fn keys_of(pairs: &[(String, String)]) -> Keys {
    pairs.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect()
}

fn filter_of(filter: &Filter) -> FdbFilter {
    FdbFilter { port: filter.port.clone(), vid: filter.vid, mac: filter.mac }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::control::{ErrorReply, encode};

    #[test]
    fn errors_are_answers_too() {
        let none = anyhow::Error::from(ClientError::NoneRunning);
        assert_eq!(refusal(&none), Response::error("no switch is running", "start one: vswitch run"));
        let refused = ErrorReply { error: "no".to_owned(), hint: "yes".to_owned() };
        let refused = anyhow::Error::from(ClientError::Refused(refused));
        assert_eq!(refusal(&refused), Response::error("no", "yes"));
        assert_eq!(refusal(&anyhow::anyhow!("disk full")), Response::error("disk full", ""));
    }

    #[test]
    fn commands_become_requests() {
        for (words, request) in [
            ("show", r#"{"cmd":"show"}"#),
            ("stats --name a", r#"{"cmd":"stats"}"#),
            ("stop", r#"{"cmd":"stop"}"#),
            (
                "set ageing=60s transparent=true",
                r#"{"cmd":"set","keys":{"ageing":"60s","transparent":"true"}}"#,
            ),
            ("set ageing 60s", r#"{"cmd":"set","keys":{"ageing":"60s"}}"#),
            ("reload", r#"{"cmd":"reload"}"#),
            ("port show", r#"{"cmd":"port_show"}"#),
            ("port show tap0 --json", r#"{"cmd":"port_show","name":"tap0"}"#),
            (
                "port add tap0,mtu=9000 name=a",
                r#"{"cmd":"port_add","spec":"tap0,mtu=9000","keys":{"name":"a"}}"#,
            ),
            ("port del a", r#"{"cmd":"port_del","name":"a"}"#),
            ("port set a mtu=1400", r#"{"cmd":"port_set","name":"a","keys":{"mtu":"1400"}}"#),
            (
                "fdb show --port a --mac 02:00:00:00:00:01 --vid 0",
                r#"{"cmd":"fdb_show","filter":{"port":"a","vid":0,"mac":"02:00:00:00:00:01"},"start":0}"#,
            ),
            (
                "fdb add 02:00:00:00:00:01 --port a --sticky",
                r#"{"cmd":"fdb_add","mac":"02:00:00:00:00:01","port":"a","sticky":true}"#,
            ),
            ("fdb del 02:00:00:00:00:01 --vid 3", r#"{"cmd":"fdb_del","mac":"02:00:00:00:00:01","vid":3}"#),
            ("fdb flush --statics", r#"{"cmd":"fdb_flush","filter":{},"statics":true}"#),
        ] {
            let words = ["vswitch"].into_iter().chain(words.split(' '));
            let Command::Client(command) = Cli::try_parse_from(words).unwrap().command else { panic!() };
            let line = String::from_utf8(encode(Some(1), command.request())).unwrap();
            assert_eq!(line, format!("{{\"v\":1,\"id\":1,{}\n", &request[1..]));
        }
    }
}
