//! Clients that follow events: fast, slow, asleep, too many; none costs another
//! one anything, nor the switch memory.

use std::time::Duration;

use serde_json::{Value, json};
use vswitch::control::{CLIENTS_MAX, Client, ClientError, FOLLOWERS_MAX, Request};
use vswitch::events::{HISTORY_LEN, Happening};

use crate::rig::{Peer, Rig};

const FOLLOW: &str = r#"{"v":1,"id":9,"cmd":"events","follow":true}"#;

/// Long enough that a few hundred fill a socket's buffer.
fn long(number: u64) -> Happening {
    Happening::PortDown { port: number.to_string(), why: "x".repeat(2000) }
}

/// Numbers of the events of a reply.
fn numbers(reply: &Value) -> Vec<u64> {
    let events = reply["events"].as_array().unwrap();
    events.iter().map(|event| event["seq"].as_u64().unwrap()).collect()
}

#[test]
fn what_was_kept_comes_first_and_then_what_happens() {
    let rig = Rig::own();
    rig.happen(1, Happening::PortRemoved { port: "a".to_owned() });
    rig.happen(1, Happening::PortRemoved { port: "b".to_owned() });
    let mut peer = rig.connect();
    let first = peer.ask(r#"{"v":1,"id":9,"cmd":"events","after":1,"follow":true}"#);
    let event = json!({
        "seq": 2, "time": "1970-01-01T00:00:01.000Z", "uptime_ms": 1000, "event": "port_removed", "port": "b",
    });
    let expected = json!({
        "v": 1, "id": 9, "reply": "events", "uptime_ms": 7, "events": [event], "next": 2, "missed": 0,
    });
    assert_eq!(first, expected);
    for number in 3..6 {
        rig.happen(number, Happening::PortRemoved { port: "c".to_owned() });
        let reply = peer.reply().unwrap();
        assert_eq!((numbers(&reply), &reply["id"]), (vec![number], &json!(9)));
    }
    // It says nothing, and is not thrown out for that.
    rig.advance(Duration::from_secs(100_000));
    rig.wait_clients(1);
    // But a second request has no place here.
    peer.send(b"{\"v\":1,\"id\":10,\"cmd\":\"show\"}\n");
    assert_eq!(peer.refusal(), "this connection follows events");
    assert_eq!(rig.requests(), 1, "which was to follow");
}

#[test]
fn a_client_that_sleeps_learns_how_much_it_missed_and_harms_nobody() {
    let rig = Rig::own();
    let mut sleeper = rig.connect();
    assert_eq!(sleeper.ask(FOLLOW)["next"], 0);
    let mut awake = rig.connect();
    assert_eq!(awake.ask(FOLLOW)["next"], 0);
    // 10 MB of events: more than any socket's buffer, and than the journal keeps.
    let total = 5 * HISTORY_LEN as u64;
    for number in 1..=total {
        rig.happen(number, long(number));
        assert_eq!(numbers(&awake.reply().unwrap()), [number], "each at once");
    }
    let (mut seen, mut missed, mut last) = (0, 0, 0);
    while last < total {
        let reply = sleeper.reply().unwrap();
        let numbers = numbers(&reply);
        assert!(numbers.is_sorted() && numbers.first().is_none_or(|first| *first > last), "{numbers:?}");
        seen += numbers.len() as u64;
        missed += reply["missed"].as_u64().unwrap();
        last = reply["next"].as_u64().unwrap();
    }
    assert_eq!(seen + missed, total, "every event is seen or counted");
    assert!(missed > 0 && seen >= HISTORY_LEN as u64, "{seen} seen, {missed} missed");
}

#[test]
fn a_client_that_never_wakes_gives_its_place_back() {
    let rig = Rig::own();
    let mut sleeper = rig.connect();
    assert_eq!(sleeper.ask(FOLLOW)["next"], 0);
    let mut awake = rig.connect();
    assert_eq!(awake.ask(FOLLOW)["next"], 0);
    for number in 1..=HISTORY_LEN as u64 {
        rig.happen(number, long(number));
        // Whoever has it was served after the sleeper, whose time runs by now.
        assert_eq!(numbers(&awake.reply().unwrap()), [number]);
    }
    rig.advance(Duration::from_secs(30));
    rig.wait_clients(2);
    rig.advance(Duration::from_secs(31));
    rig.wait_clients(1);
}

/// Who is given up learns that, and does not take it for the switch's end.
#[test]
fn a_follower_that_was_too_slow_is_told_from_a_switch_that_has_ended() {
    let rig = Rig::own();
    let follow = || Client::connect(rig.path()).unwrap().follow(0).unwrap();
    let (mut sleeper, mut awake) = (follow(), follow());
    assert_eq!((sleeper.next_events().unwrap().next, awake.next_events().unwrap().next), (0, 0));
    for number in 1..=HISTORY_LEN as u64 {
        rig.happen(number, long(number));
        assert_eq!(awake.next_events().unwrap().next, number);
    }
    rig.advance(Duration::from_secs(61));
    rig.wait_clients(1);
    let mut last = 0;
    let end = loop {
        match sleeper.next_events() {
            Ok(events) => last = events.next,
            Err(error) => break error,
        }
    };
    assert!(last > 0 && matches!(end, ClientError::Dropped { next, .. } if next == last), "{last}: {end:?}");
    assert!(end.to_string().contains(&format!("vswitch events --follow --since {last}")), "{end}");
    drop(rig);
    assert!(matches!(awake.next_events(), Err(ClientError::Silent { .. })));
}

#[test]
fn those_who_follow_leave_places_for_those_who_ask() {
    let rig = Rig::own();
    let mut followers: Vec<Peer> = (0..FOLLOWERS_MAX).map(|_| rig.connect()).collect();
    for follower in &mut followers {
        assert_eq!(follower.ask(FOLLOW)["reply"], "events");
    }
    match Client::connect(rig.path()).unwrap().follow(0) {
        Err(ClientError::Refused(refused)) => assert_eq!(refused.error, "8 clients follow events already"),
        other => panic!("{other:?}"),
    }
    rig.wait_clients(FOLLOWERS_MAX);
    let mut askers: Vec<Client> =
        (FOLLOWERS_MAX..CLIENTS_MAX).map(|_| Client::connect(rig.path()).unwrap()).collect();
    for asker in &mut askers {
        asker.call(&Request::Show {}).unwrap();
    }
    drop(followers.pop());
    rig.wait_clients(CLIENTS_MAX - 1);
    let mut follower = Client::connect(rig.path()).unwrap().follow(0).unwrap();
    assert_eq!(follower.next_events().unwrap().next, 0);
    rig.happen(1, Happening::PortRemoved { port: "a".to_owned() });
    assert_eq!(follower.next_events().unwrap().next, 1);
}
