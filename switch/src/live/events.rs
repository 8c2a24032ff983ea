//! `vswitch events`: what is kept of what happened, and with `--follow` what
//! happens, a line each.

use std::io::{self, Write as _};
use std::process::ExitCode;

use super::put;
use crate::cli::{EventsArgs, Since};
use crate::config::Invoker;
use crate::control::{Client, ClientError, Events};
use crate::events::Event;
use crate::output;

/// Prints events until there are no more, or for ever.
pub(super) fn run(args: &EventsArgs, invoker: &Invoker) -> anyhow::Result<ExitCode> {
    let mut client = Client::find(invoker, args.target.name.as_deref(), args.target.control.as_deref())?;
    let after = match args.since {
        Some(Since::Number(number)) => number,
        Some(Since::Ago(_)) | None => 0,
    };
    if !args.follow {
        put(&text(args, first(args, client.events(after)?)))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut follower = client.follow(after)?;
    let mut batch = first(args, follower.next_events()?);
    while put(&text(args, batch))? {
        batch = match follower.next_events() {
            Ok(batch) => batch,
            // With the switch, what happens to it has an end.
            Err(ClientError::Silent { .. }) => {
                let _ = writeln!(io::stderr(), "the switch has ended");
                break;
            }
            Err(other) => return Err(other.into()),
        };
    }
    Ok(ExitCode::SUCCESS)
}

/// The first events that came, without those from before the time asked for.
fn first(args: &EventsArgs, mut events: Events) -> Events {
    match args.since {
        Some(Since::Ago(ago)) => {
            let ago = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
            let start = events.uptime_ms.saturating_sub(ago);
            events.events.retain(|event| event.uptime_ms >= start);
            events.missed = 0;
        }
        // Whoever asks for all that is kept misses nothing.
        None => events.missed = 0,
        Some(Since::Number(_)) => {}
    }
    events
}

fn text(args: &EventsArgs, batch: Events) -> String {
    let wanted = |event: &Event| args.kinds.is_empty() || args.kinds.contains(&event.what.kind());
    let events: Vec<Event> = batch.events.into_iter().filter(wanted).collect();
    if args.target.json {
        return json(batch.missed, &events);
    }
    let missed = match batch.missed {
        0 => String::new(),
        missed => format!("({missed} events were not kept)\n"),
    };
    missed + &output::events(&events)
}

/// One object a line.
fn json(missed: u64, events: &[Event]) -> String {
    let mut text = match missed {
        0 => String::new(),
        missed => format!("{{\"missed\":{missed}}}\n"),
    };
    for event in events {
        // Every event serialises: text, numbers and lists of text.
        text += &serde_json::to_string(event).unwrap_or_default();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::Target;
    use crate::events::{Happening, Kind, utc};

    fn args() -> EventsArgs {
        EventsArgs { follow: false, since: None, kinds: Vec::new(), target: Target::default() }
    }

    fn batch() -> Events {
        let event = |seq: u64, what| Event { seq, time: utc(Duration::ZERO), uptime_ms: seq * 1000, what };
        let port = || "a\u{1b}[2J".to_owned();
        let events = vec![
            event(5, Happening::PortDown { port: port(), why: String::new() }),
            event(9, Happening::PortRemoved { port: port() }),
        ];
        Events { uptime_ms: 10_000, events, next: 9, missed: 3 }
    }

    #[test]
    fn lines_are_for_people_or_for_machines() {
        let expected = "(3 events were not kept)\n\
                        1970-01-01T00:00:00.000Z  port_down        a?[2J\n\
                        1970-01-01T00:00:00.000Z  port_removed     a?[2J\n";
        assert_eq!(text(&args(), batch()), expected);
        let mut machine = args();
        machine.target.json = true;
        let lines: Vec<serde_json::Value> =
            text(&machine, batch()).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(
            (&lines[0]["missed"], &lines[2]["event"], &lines[2]["seq"]),
            (&3.into(), &"port_removed".into(), &9.into())
        );
    }

    #[test]
    fn kinds_and_times_choose() {
        let mut chosen = args();
        chosen.kinds = vec![Kind::PortRemoved];
        assert_eq!(text(&chosen, first(&chosen, batch())).lines().count(), 1);
        let mut recent = args();
        recent.since = Some(Since::Ago(Duration::from_secs(1)));
        let left = first(&recent, batch());
        assert_eq!((left.events.len(), left.events[0].seq, left.missed), (1, 9, 0));
        recent.since = Some(Since::Number(1));
        assert_eq!(first(&recent, batch()).missed, 3);
    }
}
