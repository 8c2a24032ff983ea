//! docs/control.md beside the code: every request, reply, field and event is
//! there, and every example is what it says.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use super::protocol::{Envelope, Response, VERSION, decode};
use super::{Changed, Events, Trace, TraceEgress, examples};
use crate::events::{Event, Happening, Kind, utc};
use crate::explain::Step;
use crate::frame::MacAddr;

const DOC: &str = include_str!("../../../docs/control.md");

/// The part of the page under a heading.
fn section<'d>(text: &'d str, heading: &str) -> &'d str {
    let start =
        text.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("docs/control.md has no `{heading}`"));
    let rest = &text[start + 1 + heading.len()..];
    let level = heading.split(' ').next().unwrap().len();
    let is_next = |line: &str| line.starts_with('#') && line.split(' ').next().unwrap().len() <= level;
    let end = rest.lines().take_while(|line| !is_next(line)).map(|line| line.len() + 1).sum::<usize>();
    &rest[..end.min(rest.len())]
}

/// Its examples.
fn jsons(section: &str) -> Vec<&str> {
    section.split("```json\n").skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect()
}

/// Names that serde knows, which it lists when it meets another one.
fn variants(error: &str) -> Vec<&str> {
    let list = error.split("expected one of ").nth(1).unwrap_or_else(|| panic!("{error}"));
    list.split('`').skip(1).step_by(2).collect()
}

/// Names of all fields in `value`, except in maps whose keys are data.
fn fields(value: &Json, into: &mut BTreeSet<String>) {
    match value {
        Json::Object(fields_of) => {
            for (name, value) in fields_of {
                into.insert(name.clone());
                if !["drops", "refused", "reserved", "keys"].contains(&name.as_str()) {
                    fields(value, into);
                }
            }
        }
        Json::Array(values) => values.iter().for_each(|value| fields(value, into)),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {}
    }
}

fn assert_named(section: &str, fields: impl IntoIterator<Item = String>, place: &str) {
    for field in fields {
        assert!(
            section.contains(&format!("`{field}`")),
            "docs/control.md: {place} does not say what `{field}` is"
        );
    }
}

#[test]
fn every_request_is_there_with_an_example_and_its_fields() {
    let (_, refused) = decode(br#"{"v":1,"cmd":"?"}"#).unwrap_err();
    let names = variants(&refused.error);
    assert!(names.len() > 10, "{names:?}");
    let requests = section(DOC, "## Requests");
    for name in &names {
        let section = section(requests, &format!("### `{name}`"));
        let examples = jsons(section);
        assert!(!examples.is_empty(), "`{name}` has no example");
        for example in examples {
            let value: Json = serde_json::from_str(example).unwrap();
            assert_eq!(value["cmd"], *name, "{example}");
            let (id, request) = decode(example.as_bytes()).unwrap_or_else(|e| panic!("{example}: {e:?}"));
            assert_eq!(id, Some(1));
            // With those that the example leaves out.
            let mut all = BTreeSet::new();
            fields(&serde_json::to_value(&request).unwrap(), &mut all);
            all.remove("cmd");
            assert_named(section, all, &format!("request `{name}`"));
        }
    }
    assert_eq!(requests.matches("\n### `").count(), names.len(), "a request that there is not");
}

/// A reply of each shape, with every field that it can have.
fn replies() -> Vec<Response> {
    let (show, stats, ports, fdb) = examples();
    let what = Happening::PortRemoved { port: "a".to_owned() };
    let event = Event { seq: 1, time: utc(std::time::Duration::ZERO), uptime_ms: 0, what };
    vec![
        Response::Show(show),
        Response::Stats(Box::new(stats)),
        Response::Ports(ports),
        Response::Fdb(fdb),
        Response::Events(Events { uptime_ms: 1, events: vec![event], next: 1, missed: 0 }),
        Response::Changed(Changed { file: "a".to_owned(), changes: Vec::new(), notes: Vec::new() }),
        Response::Trace(Box::new(Trace {
            port: "a".to_owned(),
            len: 60,
            steps: vec![Step { step: "port".to_owned(), text: "a is up".to_owned() }],
            verdict: "dropped".to_owned(),
            reason: Some("runt".to_owned()),
            comment: "dropped: runt".to_owned(),
            egress: vec![TraceEgress {
                port: "b".to_owned(),
                refused: Some("full".to_owned()),
                text: "refused: full".to_owned(),
            }],
        })),
        Response::Capture { capture: 3 },
        Response::Done { count: 1 },
        Response::error("a", "b"),
    ]
}

#[test]
fn every_reply_is_there_with_an_example_and_its_fields() {
    let unknown = serde_json::from_str::<Response>(r#"{"reply":"?"}"#).unwrap_err().to_string();
    let names = variants(&unknown);
    let replies_of_doc = section(DOC, "## Replies");
    for name in &names {
        let section = section(replies_of_doc, &format!("### `{name}`"));
        let examples = jsons(section);
        assert!(!examples.is_empty(), "`{name}` has no example");
        for example in examples {
            let read: Envelope<Response> =
                serde_json::from_str(example).unwrap_or_else(|e| panic!("{example}: {e}"));
            assert_eq!((read.v, read.id), (VERSION, Some(1)));
            let again = serde_json::to_value(&read.body).unwrap();
            assert_eq!(again["reply"], *name);
            // Nothing in it that the code does not know, or knows by default.
            let mut example: Json = serde_json::from_str(example).unwrap();
            example.as_object_mut().unwrap().retain(|field, _| field != "v" && field != "id");
            assert_eq!(example, again);
        }
    }
    assert_eq!(replies_of_doc.matches("\n### `").count(), names.len(), "a reply that there is not");
    let shapes = replies();
    let known: BTreeSet<String> = shapes
        .iter()
        .map(|reply| serde_json::to_value(reply).unwrap()["reply"].as_str().unwrap().to_owned())
        .collect();
    for reply in &shapes {
        let value = serde_json::to_value(reply).unwrap();
        let name = value["reply"].as_str().unwrap();
        let mut all = BTreeSet::new();
        fields(&value, &mut all);
        all.remove("reply");
        // Told with each event, in the table of events.
        if name == "events" {
            all.remove("port");
        }
        assert_named(section(replies_of_doc, &format!("### `{name}`")), all, &format!("reply `{name}`"));
    }
    for name in names {
        assert!(known.contains(name), "`replies` above has no `{name}`");
    }
}

/// Whoever has begun a capture finds it in the events.
#[test]
fn events_call_a_capture_as_the_page_says() {
    let section = section(section(DOC, "## Replies"), "### `capture`");
    let example: Envelope<Response> = serde_json::from_str(jsons(section)[0]).unwrap();
    let Response::Capture { capture } = example.body else { panic!("{example:?}") };
    let name = format!("`{}`", crate::capture::name(capture));
    assert!(section.contains(&name), "docs/control.md: events call it {name}");
}

#[test]
fn every_event_is_there_with_its_fields() {
    let table = section(DOC, "## Events");
    let row = |kind: Kind| {
        let start = format!("| `{kind}` | ");
        table.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("no event `{kind}`"))
    };
    let (text, mac) = (String::new, MacAddr::new([2, 0, 0, 0, 0, 1]));
    let all = [
        Happening::PortAdded { port: text(), spec: text() },
        Happening::PortRemoved { port: text() },
        Happening::PortUp { port: text(), mtu: 0, peer: text() },
        Happening::PortDown { port: text(), why: text() },
        Happening::PeerCame { port: text(), peer: text() },
        Happening::PeerGone { port: text(), why: text() },
        Happening::DeviceFault { port: text(), fault: text() },
        Happening::MacLearned { mac, vid: 0, port: text() },
        Happening::MacMoved { mac, vid: 0, from: text(), port: text() },
        Happening::MacAged { mac, vid: 0, port: text() },
        Happening::MacFlapping { mac, vid: 0, from: text(), port: text(), moves: 0 },
        Happening::PortFull { port: text(), mac, vid: 0 },
        Happening::TableFull { port: text(), mac, vid: 0 },
        Happening::ConfigChanged { changes: Vec::new() },
        Happening::ConfigReloaded { file: text(), changes: Vec::new() },
        Happening::ReloadRefused { file: text(), error: text() },
        Happening::CaptureStarted { capture: text() },
        Happening::CaptureStopped { capture: text(), why: text(), frames: 0, lost: 0 },
        Happening::CaptureLost { capture: text(), lost: 0 },
        Happening::Suppressed { of: Kind::PortUp, count: 0 },
    ];
    for what in &all {
        let Json::Object(fields) = serde_json::to_value(what).unwrap() else { panic!() };
        let cell = row(what.kind()).split(" | ").nth(1).unwrap();
        let told: BTreeSet<&str> = cell.split('`').skip(1).step_by(2).collect();
        let has: BTreeSet<&str> = fields.keys().map(String::as_str).filter(|name| *name != "event").collect();
        assert_eq!(told, has, "{}", what.kind());
    }
    let kinds: BTreeSet<Kind> = all.iter().map(Happening::kind).collect();
    assert_eq!(kinds.len(), Kind::ALL.len(), "an event is missing above");
    let rows = table.lines().filter(|line| line.starts_with("| `") && !line.starts_with("| `event`"));
    assert_eq!(rows.count(), Kind::ALL.len(), "an event that there is not");
}
