//! The capture thread's state without its thread: what it is told, and what comes of
//! it.

use super::super::session::{SNAPLEN_MAX, Session};
use super::*;
use crate::bridge::{
    DropReason, Learning, LookUp, PortCounters, PortSet, PortSettings, Settings, Story, Verdict,
};
use crate::engine::observe::Want;
use crate::engine::{Engine, Tuning};
use crate::frame::Frame;
use crate::offload::VnetHeader;

fn spec(last: Option<Duration>) -> Spec {
    Spec { last, ..Spec::everything("", "") }
}

fn writer(
    poll: Poll,
    observation: Observation,
    engine: Orders,
    inbox: Receiver<Order>,
    news: Sender<News>,
) -> Writer {
    Writer {
        poll,
        observation,
        inbox,
        engine,
        held: Arc::default(),
        news,
        control: None,
        names: VecDeque::new(),
        names_len: 0,
        labels: Labels::new(),
        recorder: None,
        watch: None,
        clients: Vec::new(),
    }
}

/// One with a recorder, that is told by its test, and what becomes of its news, of
/// which one has room.
fn recording(worth: Option<Worth>) -> (Writer, Receiver<News>) {
    let tuning = Tuning { busy_poll: Duration::ZERO, pad_runts: false, fast_path: true };
    let (_, mut handle) = Engine::new(Settings::default(), tuning, [1, 2], None).unwrap();
    let (_, inbox) = crossbeam_channel::bounded(1);
    let (news_in, news) = crossbeam_channel::bounded(1);
    let observation = handle.take_observation().unwrap();
    let mut writer = writer(Poll::new().unwrap(), observation, handle.orders(), inbox, news_in);
    writer.obey(Order::Record { limit: 1 << 20, worth });
    (writer, news)
}

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
    let mut writer = writer(poll, observation, handle.orders(), inbox, news);
    writer.clients.push(Client::new(1, spec(None), Labels::new(), 0, now()));
    // One that it holds, and one that it has not heard of yet.
    let want = Want { ports: PortSet::ALL, snaplen: SNAPLEN_MAX, accounts: false };
    for id in [1, 2] {
        handle.send(Command::Observe { id, want: Some(want) }).unwrap();
    }
    let begin = Order::Begin { id: 2, spec: Box::new(spec(None)), labels: Labels::new() };
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

#[test]
fn what_a_port_lost_before_it_was_removed_is_missing_from_the_past() {
    let (mut writer, _news) = recording(None);
    let id = PortId::new(3);
    let label = Label { name: "p3".to_owned(), description: String::new() };
    writer.obey(Order::Name { id, label });
    let settings = PortSettings::default();
    writer.take_change(Time::from_secs(1), &Change::PortAdded { id, settings });
    for lost in [Lost { forwarded: 5, refused: 2, ..Lost::default() }, Lost::default()] {
        let counters = Box::new(PortCounters::ZERO);
        writer.take_change(Time::from_secs(2), &Change::PortRemoved { id, counters, lost });
    }
    let mut session = Session::new(spec(Some(Duration::MAX)));
    let recorder = writer.recorder.as_ref().unwrap();
    let mut cursor = recorder.begin(&mut session);
    assert_eq!(recorder.recall(&mut cursor, &mut session), Some("recorded"));
    assert_eq!(session.missed(), 7);
}

#[test]
fn a_trigger_that_has_no_room_among_the_news_goes_off_with_the_next_frame() {
    let (mut writer, news) = recording(Some(Worth::Drop(DropReason::Runt)));
    let story = Story {
        learning: Learning::NotReached,
        bound: None,
        look_up: LookUp::NotReached,
        verdict: Verdict::Drop(DropReason::Runt),
    };
    let runt = Frame::new(&[0; 9], &[], VnetHeader::PLAIN);
    let at = |secs| Block::of_one(Time::from_secs(secs), PortId::new(1), story, &runt);
    writer.tell(News::Started { id: 1 });
    writer.take_block(&at(1));
    assert_eq!(news.try_iter().collect::<Vec<_>>(), [News::Started { id: 1 }]);
    writer.take_block(&at(2));
    assert_eq!(news.try_iter().collect::<Vec<_>>(), [News::Triggered]);
    writer.take_block(&at(3));
    assert_eq!(news.try_iter().collect::<Vec<_>>(), [], "of a storm one is enough");
    writer.take_block(&at(12));
    assert_eq!(news.try_iter().collect::<Vec<_>>(), [News::Triggered]);
}
