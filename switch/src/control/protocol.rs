//! Requests and replies as lines of JSON. Pure: bytes in, values out.
//!
//! A request is `{"v":1,"id":7,"cmd":"show"}`, its reply
//! `{"v":1,"id":7,"reply":"show",…}` or
//! `{"v":1,"id":7,"reply":"error","error":"…","hint":"…"}`. Field names are
//! stable; new ones may be added to replies, so readers ignore what they do
//! not know. Requests with unknown fields are refused.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value as Json;

use super::capture::Capture;
use super::live::{Changed, Events};
use super::reply::{ErrorReply, Fdb, Ports, Show};
use super::stats::Stats;
use super::trace::{Trace, Unfinished};
use crate::config::Keys;
use crate::frame::MacAddr;

/// The version of the protocol.
pub const VERSION: u64 = 1;

/// The longest line of a request, in bytes, its newline included.
pub const LINE_MAX: usize = 1 << 20;

/// What can be asked of a running switch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Identity, state, totals. Answered by [`Response::Show`].
    Show {},
    /// Every counter. Answered by [`Response::Stats`].
    Stats {},
    /// Settings and state of one port, or of all. Answered by [`Response::Ports`].
    PortShow {
        /// The port; all if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// Opens a port. Answered by [`Response::Ports`] with the new one.
    PortAdd {
        /// `KIND:TARGET[,key=value]...`.
        spec: String,
        /// Further keys, which win.
        #[serde(default, skip_serializing_if = "Keys::is_empty")]
        keys: Keys,
    },
    /// Closes a port. Answered by [`Response::Done`].
    PortDel {
        /// The port.
        name: String,
    },
    /// Changes an open port. Answered by [`Response::Ports`] with it.
    PortSet {
        /// The port.
        name: String,
        /// Keys of a port.
        keys: Keys,
    },
    /// Changes the switch. Answered by [`Response::Show`].
    Set {
        /// Keys out of [`LIVE_KEYS`](crate::config::LIVE_KEYS).
        keys: Keys,
    },
    /// One page of the FDB. Answered by [`Response::Fdb`].
    FdbShow {
        /// Which entries.
        #[serde(default)]
        filter: FdbFilter,
        /// Where to go on: `next` of the page before.
        #[serde(default)]
        start: u64,
    },
    /// Binds an address to a port. Answered by [`Response::Done`].
    FdbAdd {
        /// A unicast address.
        mac: MacAddr,
        /// The port's name.
        port: String,
        /// The VLAN; absent on a VLAN-unaware switch.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "vid")]
        vid: Option<u16>,
        /// Never moved by a frame that claims it.
        #[serde(default)]
        sticky: bool,
    },
    /// Removes one entry, static or not. Answered by [`Response::Done`].
    FdbDel {
        /// Its address.
        mac: MacAddr,
        /// Its VLAN.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "vid")]
        vid: Option<u16>,
    },
    /// Removes dynamic entries. Answered by [`Response::Done`].
    FdbFlush {
        /// Which entries.
        #[serde(default)]
        filter: FdbFilter,
        /// Static ones too.
        #[serde(default)]
        statics: bool,
    },
    /// Reads the configuration file again. Answered by [`Response::Changed`].
    Reload {},
    /// What happened. Answered by [`Response::Events`].
    Events {
        /// Only events with a higher number.
        #[serde(default)]
        after: u64,
        /// Go on: a further reply under the same id whenever something happens,
        /// until the connection ends. It takes no further request.
        #[serde(default)]
        follow: bool,
    },
    /// What would become of a frame. Answered by [`Response::Trace`]; changes
    /// nothing.
    Trace {
        /// The port where it would come in.
        port: String,
        /// Its bytes, two hex digits each.
        frame: String,
        /// What its sender left to others.
        #[serde(default)]
        unfinished: Unfinished,
    },
    /// Begins a capture. Answered by [`Response::Capture`], behind whose newline
    /// the connection carries pcapng until the client shuts down its half.
    Capture(Capture),
    /// Ends the switch. Answered by [`Response::Done`] before it goes.
    Stop {},
}

/// Which FDB entries; every part that is given must match.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FdbFilter {
    /// Entries of this port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Entries of this VLAN.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "vid")]
    pub vid: Option<u16>,
    /// Entries of this address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
}

/// A VLAN as it is asked for: 4095 is reserved, and 12 bits end there.
fn vid<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    let vid = Option::<u16>::deserialize(deserializer)?;
    match vid {
        Some(4095..) => Err(D::Error::custom("`vid` is a number from 0 to 4094")),
        Some(_) | None => Ok(vid),
    }
}

/// What a switch answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Response {
    /// Identity, state, totals.
    Show(Show),
    /// Every counter.
    Stats(Box<Stats>),
    /// Ports with their settings.
    Ports(Ports),
    /// A page of the FDB.
    Fdb(Fdb),
    /// What happened.
    Events(Events),
    /// What a reload changed.
    Changed(Changed),
    /// What would become of a frame.
    Trace(Box<Trace>),
    /// The capture began.
    Capture {
        /// Its number.
        capture: u64,
    },
    /// It is done.
    Done {
        /// Things acted upon: entries flushed, ports closed.
        count: u64,
    },
    /// It is not, and nothing was changed.
    Error(ErrorReply),
}

impl Response {
    /// A refusal; `hint` says what to do instead, and may be empty.
    pub fn error(error: impl Into<String>, hint: impl Into<String>) -> Response {
        Response::Error(ErrorReply { error: error.into(), hint: hint.into() })
    }
}

impl From<crate::config::ConfigError> for Response {
    fn from(error: crate::config::ConfigError) -> Response {
        Response::Error(error.into())
    }
}

impl From<crate::config::ConfigError> for ErrorReply {
    fn from(error: crate::config::ConfigError) -> ErrorReply {
        ErrorReply { error: error.message(), hint: error.fix().to_owned() }
    }
}

/// A message with its version and the number that joins request and reply.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// [`VERSION`].
    pub v: u64,
    /// Chosen by the client; `null` in the reply to a line without one.
    pub id: Option<u64>,
    /// The message.
    #[serde(flatten)]
    pub body: T,
}

/// One request or reply as a line, with its newline.
pub fn encode<T: Serialize>(id: Option<u64>, body: T) -> Vec<u8> {
    let envelope = Envelope { v: VERSION, id, body };
    // Every type here serialises to JSON: maps have text for keys, and no
    // number is a float.
    let mut line = serde_json::to_vec(&envelope).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Reads a line, with or without its newline, as a request and its id.
///
/// # Errors
/// The id, if one could be read, and why the line is no request.
pub fn decode(line: &[u8]) -> Result<(Option<u64>, Request), (Option<u64>, ErrorReply)> {
    let refuse = |id, error: String, hint: &str| Err((id, ErrorReply { error, hint: hint.to_owned() }));
    let shape = r#"send one JSON object a line, as {"v":1,"id":1,"cmd":"show"}"#;
    let mut fields = match serde_json::from_slice(line) {
        Ok(Json::Object(fields)) => fields,
        Ok(_) => return refuse(None, "the request is not a JSON object".to_owned(), shape),
        Err(e) => return refuse(None, format!("the request is not JSON: {e}"), shape),
    };
    let id = match fields.remove("id") {
        None | Some(Json::Null) => None,
        Some(id) => match id.as_u64() {
            Some(id) => Some(id),
            None => return refuse(None, "`id` is not a whole number".to_owned(), shape),
        },
    };
    match fields.remove("v") {
        Some(v) if v == VERSION => {}
        Some(v) => {
            let error =
                format!("protocol version {v} is unknown; this is vswitch {}", env!("CARGO_PKG_VERSION"));
            return refuse(id, error, "use the client of the same version");
        }
        None => return refuse(id, "`v` is missing".to_owned(), shape),
    }
    Request::deserialize(Json::Object(fields))
        .map(|request| (id, request))
        .or_else(|e| refuse(id, format!("bad request: {e}"), shape))
}

#[cfg(test)]
mod tests {
    use super::super::reply::examples;
    use super::*;
    use crate::config::Value;

    fn mac() -> MacAddr {
        MacAddr::new([2, 0, 0, 0, 0, 1])
    }

    fn keys(pairs: &[(&str, Value)]) -> Keys {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
    }

    /// Every request with the line that asks for it.
    fn requests() -> Vec<(Request, &'static str)> {
        let filter = FdbFilter { port: Some("tap0".to_owned()), vid: None, mac: Some(mac()) };
        vec![
            (Request::Show {}, r#"{"v":1,"id":7,"cmd":"show"}"#),
            (Request::Stats {}, r#"{"v":1,"id":7,"cmd":"stats"}"#),
            (Request::PortShow { name: None }, r#"{"v":1,"id":7,"cmd":"port_show"}"#),
            (
                Request::PortShow { name: Some("a".to_owned()) },
                r#"{"v":1,"id":7,"cmd":"port_show","name":"a"}"#,
            ),
            (
                Request::PortAdd { spec: "tap0,mtu=9000".to_owned(), keys: Keys::new() },
                r#"{"v":1,"id":7,"cmd":"port_add","spec":"tap0,mtu=9000"}"#,
            ),
            (Request::PortDel { name: "a".to_owned() }, r#"{"v":1,"id":7,"cmd":"port_del","name":"a"}"#),
            (
                Request::PortSet {
                    name: "a".to_owned(),
                    keys: keys(&[("isolated", Value::Bool(true)), ("mtu", Value::Number(9000))]),
                },
                r#"{"v":1,"id":7,"cmd":"port_set","name":"a","keys":{"isolated":true,"mtu":9000}}"#,
            ),
            (
                Request::Set { keys: keys(&[("ageing", "300s".into())]) },
                r#"{"v":1,"id":7,"cmd":"set","keys":{"ageing":"300s"}}"#,
            ),
            (
                Request::FdbShow { filter: filter.clone(), start: 9 },
                r#"{"v":1,"id":7,"cmd":"fdb_show","filter":{"port":"tap0","mac":"02:00:00:00:00:01"},"start":9}"#,
            ),
            (
                Request::FdbAdd { mac: mac(), port: "a".to_owned(), vid: None, sticky: true },
                r#"{"v":1,"id":7,"cmd":"fdb_add","mac":"02:00:00:00:00:01","port":"a","sticky":true}"#,
            ),
            (
                Request::FdbDel { mac: mac(), vid: Some(5) },
                r#"{"v":1,"id":7,"cmd":"fdb_del","mac":"02:00:00:00:00:01","vid":5}"#,
            ),
            (
                Request::FdbFlush { filter: FdbFilter::default(), statics: false },
                r#"{"v":1,"id":7,"cmd":"fdb_flush","filter":{},"statics":false}"#,
            ),
            (Request::Reload {}, r#"{"v":1,"id":7,"cmd":"reload"}"#),
            (
                Request::Events { after: 5, follow: true },
                r#"{"v":1,"id":7,"cmd":"events","after":5,"follow":true}"#,
            ),
            (
                Request::Trace {
                    port: "a".to_owned(),
                    frame: "ffff".to_owned(),
                    unfinished: Unfinished { flags: 1, ..Unfinished::default() },
                },
                r#"{"v":1,"id":7,"cmd":"trace","port":"a","frame":"ffff","unfinished":{"flags":1,"gso_type":0,"hdr_len":0,"gso_size":0,"csum_start":0,"csum_offset":0}}"#,
            ),
            (Request::Capture(Capture::default()), r#"{"v":1,"id":7,"cmd":"capture"}"#),
            (Request::Stop {}, r#"{"v":1,"id":7,"cmd":"stop"}"#),
        ]
    }

    #[test]
    fn requests_read_back_what_they_print() {
        for (request, line) in requests() {
            let encoded = encode(Some(7), &request);
            assert_eq!(String::from_utf8(encoded.clone()).unwrap(), format!("{line}\n"));
            assert_eq!(decode(&encoded), Ok((Some(7), request)));
        }
    }

    #[test]
    fn replies_read_back_what_they_print() {
        let (show, stats, ports, fdb) = examples();
        for response in [
            Response::Show(show),
            Response::Stats(Box::new(stats)),
            Response::Ports(ports),
            Response::Fdb(fdb),
            Response::Trace(Box::new(Trace {
                port: "a".to_owned(),
                len: 60,
                steps: vec![crate::explain::Step { step: "port".to_owned(), text: "a is up".to_owned() }],
                verdict: "flooded".to_owned(),
                reason: None,
                comment: "flooded to b".to_owned(),
                egress: Vec::new(),
            })),
            Response::Capture { capture: 3 },
            Response::Done { count: u64::MAX },
            Response::error("no", "yes"),
        ] {
            let line = encode(Some(u64::MAX), &response);
            assert_eq!(line.iter().position(|b| *b == b'\n'), Some(line.len() - 1), "one line");
            let read: Envelope<Response> = serde_json::from_slice(&line).unwrap();
            assert_eq!(read, Envelope { v: 1, id: Some(u64::MAX), body: response });
        }
        let error = encode(None, Response::error("no", ""));
        assert_eq!(error, b"{\"v\":1,\"id\":null,\"reply\":\"error\",\"error\":\"no\",\"hint\":\"\"}\n");
    }

    #[test]
    fn hostile_lines_are_refused_by_name() {
        let deep = "[".repeat(100_000);
        for (line, id, error) in [
            ("", None, "the request is not JSON: EOF while parsing a value at line 1 column 0"),
            ("[]", None, "the request is not a JSON object"),
            ("\0", None, "the request is not JSON: expected value at line 1 column 1"),
            (deep.as_str(), None, "the request is not JSON: recursion limit exceeded at line 1 column 128"),
            (r#"{"cmd":"show"}"#, None, "`v` is missing"),
            (
                r#"{"v":2,"id":3,"cmd":"show"}"#,
                Some(3),
                concat!("protocol version 2 is unknown; this is vswitch ", env!("CARGO_PKG_VERSION")),
            ),
            (r#"{"v":1,"id":-1,"cmd":"show"}"#, None, "`id` is not a whole number"),
            (r#"{"v":1,"id":"a","cmd":"show"}"#, None, "`id` is not a whole number"),
            (r#"{"v":1,"id":3}"#, Some(3), "bad request: missing field `cmd`"),
            (
                r#"{"v":1,"id":3,"cmd":"show","all":true}"#,
                Some(3),
                "bad request: unknown field `all`, there are no fields",
            ),
            (r#"{"v":1,"cmd":"port_del"}"#, None, "bad request: missing field `name`"),
            (
                r#"{"v":1,"cmd":"fdb_del","mac":"2"}"#,
                None,
                "bad request: `2` is not a MAC address: write six pairs of hex digits, as 02:00:00:00:00:01",
            ),
            (
                r#"{"v":1,"cmd":"fdb_del","mac":"02:00:00:00:00:01","vid":4095}"#,
                None,
                "bad request: `vid` is a number from 0 to 4094",
            ),
            (
                r#"{"v":1,"cmd":"fdb_show","filter":{"vid":65535}}"#,
                None,
                "bad request: `vid` is a number from 0 to 4094",
            ),
            (
                r#"{"v":1,"cmd":"set","keys":{"ageing":[1]}}"#,
                None,
                "bad request: a value is true, false, a whole number or text",
            ),
        ] {
            let (read_id, refused) = decode(line.as_bytes()).unwrap_err();
            assert_eq!((read_id, refused.error.as_str()), (id, error));
        }
        assert!(decode(b"{\"v\":1,\"cmd\":\"show\xff\"}").is_err(), "not UTF-8");
    }
}
