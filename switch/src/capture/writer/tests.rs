//! The capture thread's state without its thread: what it is told, and what comes of
//! it.

use super::super::session::SNAPLEN_MAX;
use super::*;
use crate::bridge::{PortSet, Settings};
use crate::engine::observe::Want;
use crate::engine::{Engine, Tuning};

#[test]
fn a_thread_that_ends_has_the_data_thread_record_no_more() {
    let tuning = Tuning { busy_poll: Duration::ZERO, pad_runts: false, fast_path: true };
    let (engine, mut handle) = Engine::new(Settings::default(), tuning, [1, 2], None).unwrap();
    let data = std::thread::spawn(move || drop(engine.run().unwrap()));
    let observation = handle.take_observation().unwrap();
    let told = observation.told.clone();
    let poll = Poll::new().unwrap();
    let (orders, inbox) = crossbeam_channel::bounded(8);
    let (news, _) = crossbeam_channel::bounded(8);
    let spec = || Spec {
        switch: String::new(),
        config: String::new(),
        ports: None,
        kinds: [true; 4],
        filter: None,
        filter_text: String::new(),
        snaplen: SNAPLEN_MAX,
        count: None,
        segment: false,
        last: None,
    };
    let writer = Writer {
        poll,
        observation,
        inbox,
        engine: handle.orders(),
        held: Arc::default(),
        news,
        control: None,
        names: VecDeque::new(),
        names_len: 0,
        labels: Labels::new(),
        recorder: None,
        watch: None,
        clients: vec![Client::new(1, spec(), Labels::new(), 0, now())],
    };
    // One that it holds, and one that it has not heard of yet.
    let want = Want { ports: PortSet::ALL, snaplen: SNAPLEN_MAX };
    for id in [1, 2] {
        handle.send(Command::Observe { id, want: Some(want) }).unwrap();
    }
    let begin = Order::Begin { id: 2, spec: Box::new(spec()), labels: Labels::new() };
    orders.send(begin).unwrap();
    drop(writer);
    let mut marks = Vec::new();
    while marks.len() < 4 {
        match told.recv_timeout(Duration::from_secs(20)).unwrap() {
            Told::Mark(mark) => marks.push((mark.id, mark.edge)),
            Told::Block(_) | Told::Change { .. } | Told::Fdb { .. } => {}
        }
    }
    marks.sort_by_key(|(id, _)| *id);
    assert_eq!(marks, [(1, Edge::Start), (1, Edge::End), (2, Edge::Start), (2, Edge::End)]);
    handle.send(Command::Stop).unwrap();
    data.join().unwrap();
}
