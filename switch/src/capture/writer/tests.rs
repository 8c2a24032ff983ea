//! The capture thread's state without its thread: what it is told, and what comes of
//! it.

use rtrb::{Consumer, RingBuffer};

use super::super::session::{SNAPLEN_MAX, Session};
use super::super::sink::WAITING_MAX;
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
        kept: VecDeque::new(),
        has_waited: false,
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
    writer.take_block(&at(1), Blame::Switch);
    assert_eq!(news.try_iter().collect::<Vec<_>>(), [News::Started { id: 1 }]);
    writer.take_block(&at(2), Blame::Switch);
    assert_eq!(news.try_iter().collect::<Vec<_>>(), [News::Triggered]);
    writer.take_block(&at(3), Blame::Switch);
    assert_eq!(news.try_iter().collect::<Vec<_>>(), [], "of a storm one is enough");
    writer.take_block(&at(12), Blame::Switch);
    assert_eq!(news.try_iter().collect::<Vec<_>>(), [News::Triggered]);
}

/// One with two captures under way, the means to tell it of a block, and those that it
/// gives back.
fn told_by_hand() -> (Writer, Sender<Told>, Consumer<Block>) {
    let (mut writer, _) = recording(None);
    writer.recorder = None;
    let (told_in, told) = crossbeam_channel::bounded(2 * BLOCKS);
    let (empty, empty_out) = RingBuffer::new(BLOCKS);
    writer.observation = Observation { told, empty, sleeper: Arc::default() };
    let (id, settings) = (PortId::new(1), PortSettings::default());
    for number in [1, 2] {
        let mut client = Client::new(number, spec(None), Labels::new(), 0, now());
        client.stage = Stage::Running;
        client.session.change(
            Time::START,
            &Change::PortAdded { id, settings },
            &Labels::new(),
            Blame::Switch,
        );
        writer.clients.push(client);
    }
    (writer, told_in, empty_out)
}

fn one_frame(told: &Sender<Told>, lost: u64) {
    let verdict = Verdict::Drop(DropReason::Runt);
    let story = Story { learning: Learning::NotReached, bound: None, look_up: LookUp::NotReached, verdict };
    let runt = Frame::new(&[0; 9], &[], VnetHeader::PLAIN);
    let id = PortId::new(1);
    let mut block = Block::of_one(Time::from_secs(1), id, story, &runt);
    if lost > 0 {
        block.lost.push((id, Lost { dropped: lost, ..Lost::default() }));
    }
    told.send(Told::Block(block)).unwrap();
}

fn fill(writer: &mut Writer, number: usize) {
    let room = WAITING_MAX - 1000 - writer.clients[number].session.sink.len();
    writer.clients[number].session.sink.append(|out| out.resize(out.len() + room, 0));
}

#[test]
fn blocks_wait_until_one_reader_has_room() {
    let (mut writer, told, given_back) = told_by_hand();
    fill(&mut writer, 0);
    one_frame(&told, 0);
    assert!(writer.take_told() && writer.take_told());
    assert_eq!(given_back.slots(), 1, "one reader that is slow holds up nobody");
    fill(&mut writer, 1);
    for _ in 0..3 {
        one_frame(&told, 0);
    }
    assert!(writer.take_told() && !writer.may_take_kept());
    assert_eq!((given_back.slots(), writer.kept.len()), (1, 3), "nobody has room");
    writer.clients[1].session.sink.write_to(&mut io::sink()).unwrap();
    assert!(writer.may_take_kept());
    for _ in 0..3 {
        assert!(writer.take_told());
    }
    assert_eq!(given_back.slots(), 4);
    assert_eq!(writer.clients[1].session.written(), 4);
}

#[test]
fn blocks_wait_for_no_reader_if_there_is_a_recorder_or_a_capture_that_begins_or_ends() {
    for case in 0..4 {
        let (mut writer, told, given_back) = told_by_hand();
        for number in [0, 1] {
            fill(&mut writer, number);
        }
        match case {
            0 => writer.clients[0].stage = Stage::Waiting,
            1 => writer.clients[0].stage = Stage::Ending,
            2 => writer.obey(Order::Record { limit: 1 << 20, worth: None }),
            _ => writer.clients.clear(),
        }
        one_frame(&told, 0);
        assert!(writer.take_told() && writer.take_told());
        assert_eq!(given_back.slots(), 1, "case {case}");
    }
}

#[test]
fn what_is_no_frame_waits_for_no_reader_and_comes_in_its_order() {
    let (mut writer, told, given_back) = told_by_hand();
    for number in [0, 1] {
        fill(&mut writer, number);
    }
    one_frame(&told, 0);
    one_frame(&told, 0);
    assert!(writer.take_told());
    assert_eq!(given_back.slots(), 0);
    let (time, change) = (Time::from_secs(2), Change::Swept);
    told.send(Told::Change { time, change }).unwrap();
    one_frame(&told, 0);
    assert!(writer.take_told());
    assert_eq!((given_back.slots(), writer.kept.len()), (2, 1), "those before it were taken");
    drop(told);
    assert!(!writer.take_told());
    assert_eq!(given_back.slots(), 3, "the last ones as well");
}

/// Blocks that waited for a live trace are there to be explained: that they are many
/// does not mean that anybody else would miss them.
#[test]
fn what_waited_for_a_live_trace_is_not_skipped_for_being_much() {
    let (mut writer, told, _given_back) = told_by_hand();
    writer.clients.truncate(1);
    let steps = Spec { steps: true, ..spec(None) };
    let (id, settings) = (PortId::new(1), PortSettings::default());
    let client = &mut writer.clients[0];
    client.session = Session::new(steps);
    client.session.change(Time::START, &Change::PortAdded { id, settings }, &Labels::new(), Blame::Switch);
    fill(&mut writer, 0);
    for _ in 0..BLOCKS {
        one_frame(&told, 0);
    }
    while writer.kept.len() < BLOCKS {
        assert!(writer.take_told());
    }
    writer.clients[0].session.sink.write_to(&mut io::sink()).unwrap();
    while !writer.kept.is_empty() {
        assert!(writer.take_told());
    }
    let sums = writer.clients[0].session.dropped_of(0);
    assert_eq!((sums.written, sums.lost, sums.slow), (BLOCKS as u64, 0, 0));
}

/// What the data thread had no block for comes with the first block that it has again,
/// and is the fault of readers that had no room, if blocks waited for them meanwhile.
#[test]
fn what_is_not_recorded_while_blocks_wait_the_readers_were_too_slow_for() {
    let (mut writer, told, _given_back) = told_by_hand();
    let read_all = |writer: &mut Writer| {
        for client in &mut writer.clients {
            client.session.sink.write_to(&mut io::sink()).unwrap();
        }
    };
    for number in [0, 1] {
        fill(&mut writer, number);
    }
    // Before anything waited.
    one_frame(&told, 1);
    for _ in 0..3 {
        one_frame(&told, 0);
    }
    assert!(writer.take_told() && writer.kept.len() == 4);
    read_all(&mut writer);
    while !writer.kept.is_empty() {
        assert!(writer.take_told());
    }
    // Meanwhile, said by the block that was found afterwards.
    one_frame(&told, 10);
    // And after that.
    one_frame(&told, 100);
    assert!(writer.take_told() && writer.take_told());
    // Each that waits says what was missed before it.
    for number in [0, 1] {
        fill(&mut writer, number);
    }
    one_frame(&told, 0);
    assert!(writer.take_told());
    for _ in 0..3 {
        one_frame(&told, 1_000);
        assert!(writer.take_told());
    }
    let (time, change) = (Time::from_secs(2), Change::Swept);
    told.send(Told::Change { time, change }).unwrap();
    assert!(writer.take_told() && writer.kept.is_empty());
    one_frame(&told, 10_000);
    assert!(writer.take_told());
    read_all(&mut writer);
    assert!(writer.take_told() && writer.kept.is_empty());
    for client in &mut writer.clients {
        client.session.end(None, Time::from_secs(3), "asked");
        let sums = client.session.dropped_of(0);
        assert_eq!((sums.lost, sums.slow), (101, 13_010));
    }
}
