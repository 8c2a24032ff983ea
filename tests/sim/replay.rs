//! Captures judged once more: every verdict reproduced, a changed configuration
//! shown by exactly the frames that it treats differently, and captures that are
//! kept in `tests/replays/`.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;
use std::time::Duration;

use vswitch::bridge::{PortSettings, Settings};
use vswitch::config::{Config, Flags, Invoker};
use vswitch::frame::MacAddr;
use vswitch::pcap::Reader;
use vswitch::replay::{Judged, Totals, Wanted, replay};
use vswitch_tests::replays::{Event, Stage};
use vswitch_tests::scenario::Random;

const PORTS: [&str; 4] = ["tap0", "tap1", "vm2", "eth3"];

fn ports(flags: PortSettings) -> [(&'static str, PortSettings); 4] {
    PORTS.map(|name| (name, flags))
}

/// Stations 1 … `stations`, and group addresses of each sort.
fn mac(random: &mut Random, stations: u64) -> MacAddr {
    MacAddr::from_u64(match random.next_u64() % 16 {
        0 => 0xffff_ffff_ffff,
        1 => 0x0100_5e00_0001,
        2 => 0x0180_c200_000e,
        _ => 0x0200_0000_0000 + random.next_u64() % stations,
    })
}

fn frame(random: &mut Random, stations: u64) -> Event {
    let len = if random.next_u64().is_multiple_of(50) { 12 } else { 60 };
    let mut bytes = vec![0; 60];
    bytes[..6].copy_from_slice(&mac(random, stations).octets());
    bytes[6..12].copy_from_slice(&mac(random, stations).octets());
    bytes[12] = 0x88;
    bytes.truncate(len);
    Event::Frame { ingress: below(random, 4), bytes }
}

fn below(random: &mut Random, end: u64) -> u8 {
    u8::try_from(random.next_u64() % end).expect("small")
}

fn flags(random: &mut Random) -> PortSettings {
    let mut one_in = |n: u64| random.next_u64().is_multiple_of(n);
    PortSettings {
        learning: !one_in(6),
        flood: !one_in(6),
        mcast_flood: !one_in(6),
        bcast_flood: !one_in(6),
        isolated: one_in(3),
        locked: one_in(8),
        transparent: one_in(8),
        max_macs: one_in(3).then_some(5),
    }
}

/// Mostly frames; now and then anything else that can happen to a bridge.
fn event(random: &mut Random, stations: u64, changes: bool) -> Event {
    let number = random.next_u64() % 1000;
    match number {
        0..40 => Event::Pass { nanos: random.next_u64() % 500_000_000 },
        40 if changes => Event::Set { port: below(random, 4), flags: flags(random) },
        41 if changes => Event::Link { port: below(random, 4), up: !random.next_u64().is_multiple_of(3) },
        42 if changes => {
            let ageing = Duration::from_millis(random.next_u64() % 20_000);
            let fdb_size = 4 + u32::from(below(random, 60));
            Event::Configure(Settings { ageing, fdb_size, transparent: random.next_u64().is_multiple_of(4) })
        }
        43 if changes => {
            let mac = MacAddr::from_u64(0x0200_0000_0000 + random.next_u64() % stations);
            Event::Pin { port: below(random, 4), mac }
        }
        44 if changes => Event::Delete { mac: mac(random, stations) },
        45 if changes => Event::Flush { port: below(random, 4) },
        46 | 47 => Event::Sweep,
        _ => frame(random, stations),
    }
}

/// Replays the file at `path`; the frames that differ, and the sums.
fn replayed(path: &Path, config: Option<Config>) -> (Vec<Judged>, Totals) {
    let mut reader = Reader::open(path).unwrap();
    let mut different = Vec::new();
    let wanted = Wanted { config, ports: Vec::new() };
    let totals = replay(&mut reader, &wanted, false, |judged| different.push(judged)).unwrap();
    (different, totals)
}

#[track_caller]
fn assert_reproduced(path: &Path, frames: u64) {
    let (different, totals) = replayed(path, None);
    assert!(different.is_empty(), "{:#?}", &different[..different.len().min(3)]);
    assert_eq!(totals, Totals { frames, judged: frames, compared: frames, ..Totals::default() });
}

#[test]
fn a_million_frames_come_to_the_recorded_verdicts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("million.pcapng");
    let mut random = Random::new(11);
    let mut frames = 0;
    let settings = Settings { ageing: Duration::from_secs(10), fdb_size: 30, transparent: false };
    let mut stage = Stage::new(settings, &ports(PortSettings::default()));
    let events = std::iter::from_fn(|| {
        (frames < 1_000_000).then(|| {
            let event = event(&mut random, 60, true);
            frames += u64::from(matches!(event, Event::Frame { .. }));
            event
        })
    });
    stage.capture(events, &mut BufWriter::new(File::create(&path).unwrap())).unwrap();
    assert_reproduced(&path, 1_000_000);
}

#[test]
fn a_capture_that_began_late_knows_who_was_where() {
    let dir = tempfile::tempdir().unwrap();
    for seed in 0..20 {
        let path = dir.path().join("late.pcapng");
        let mut random = Random::new(seed);
        let settings = Settings { ageing: Duration::from_secs(10), ..Settings::default() };
        let mut stage = Stage::new(settings, &ports(PortSettings::default()));
        for _ in 0..2000 {
            let event = event(&mut random, 60, false);
            stage.apply(&event);
        }
        let events: Vec<Event> = (0..2000).map(|_| event(&mut random, 60, false)).collect();
        let frames = events.iter().filter(|event| matches!(event, Event::Frame { .. })).count();
        stage.capture(events, &mut File::create(&path).unwrap()).unwrap();
        assert_reproduced(&path, frames as u64);
    }
}

/// A configuration of our four ports, with `more` in the file.
fn config(dir: &Path, more: &str) -> Config {
    let file = dir.join("vswitch.toml");
    std::fs::write(&file, more).unwrap();
    let invoker = Invoker { uid: 0, owner: 0, run_dir: "/run/vswitch".into(), search: Vec::new(), cores: 2 };
    let flags = Flags { file: Some(file), ports: Vec::new(), keys: Vec::new() };
    Config::from_flags(&flags, &invoker).unwrap()
}

#[test]
fn another_configuration_shows_exactly_the_frames_that_it_treats_differently() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.pcapng");
    let settings = Settings { ageing: Duration::from_secs(10), ..Settings::default() };
    let mut random = Random::new(5);
    let events: Vec<Event> = (0..20_000).map(|_| event(&mut random, 60, false)).collect();
    Stage::new(settings, &ports(PortSettings::default()))
        .capture(events.iter().cloned(), &mut BufWriter::new(File::create(&path).unwrap()))
        .unwrap();

    let same = "ports = ['tap0', 'tap1', 'vm2', 'eth3']\n[switch]\nageing = '10s'\n";
    let (different, _) = replayed(&path, Some(config(dir.path(), same)));
    assert_eq!(different, [], "the same configuration in other words");

    let isolated = "ports = [{ spec = 'tap0', isolated = true }, 'tap1', { spec = 'vm2', isolated = true },
                    { spec = 'eth3', max_macs = 3 }]\n[switch]\nageing = '2s'\ntransparent = true\n";
    let (different, totals) = replayed(&path, Some(config(dir.path(), isolated)));
    // The same history on two bridges, without any capture between them.
    let mut before = Stage::new(settings, &ports(PortSettings::default()));
    let flags = [
        PortSettings { isolated: true, ..PortSettings::default() },
        PortSettings::default(),
        PortSettings { isolated: true, ..PortSettings::default() },
        PortSettings { max_macs: Some(3), ..PortSettings::default() },
    ];
    let changed = Settings { ageing: Duration::from_secs(2), transparent: true, ..Settings::default() };
    let named: Vec<_> = PORTS.into_iter().zip(flags).collect();
    let mut after = Stage::new(changed, &named);
    let verdicts = events.iter().filter_map(|event| {
        let (before, after) = (before.verdict(event), after.verdict(event));
        Some((before?, after?))
    });
    let expected: Vec<u64> =
        (1..).zip(verdicts).filter(|(_, (old, new))| old != new).map(|(number, _)| number).collect();
    assert!(expected.len() > 1000, "{} differences are no test", expected.len());
    let wrong = different.iter().map(|judged| judged.frame).zip(&expected).find(|(got, want)| got != *want);
    assert_eq!(wrong, None, "the first that is not as expected");
    assert_eq!(different.len(), expected.len());
    assert_eq!(totals.different, expected.len() as u64);
    let why = different.iter().flat_map(|judged| &judged.steps).any(|step| step.text.contains("isolated"));
    assert!(why, "and says why");
}

#[test]
fn a_wrong_verdict_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.pcapng");
    let mut random = Random::new(3);
    let mut file = Vec::new();
    let events: Vec<Event> = (0..200).map(|_| frame(&mut random, 6)).collect();
    Stage::new(Settings::default(), &ports(PortSettings::default())).capture(events, &mut file).unwrap();
    let recorded = b"dropped: filtered";
    let at = file.windows(recorded.len()).position(|bytes| bytes == recorded).unwrap();
    file[at..at + recorded.len()].copy_from_slice(b"dropped: reserved");
    std::fs::write(&path, &file).unwrap();
    let (different, totals) = replayed(&path, None);
    assert_eq!((different.len(), totals.different, totals.compared), (1, 1, 200));
    assert_eq!(different[0].verdict.to_string(), "dropped: filtered");
    assert_eq!(different[0].recorded.as_ref().map(ToString::to_string).as_deref(), Some("dropped: reserved"));
    // A file that ends in the middle says so.
    let mut reader = Reader::new(BufReader::new(&file[..file.len() - 5])).unwrap();
    let error = replay(&mut reader, &Wanted::default(), false, drop).unwrap_err().to_string();
    assert!(error.starts_with("cut short at byte "), "{error}");
}

/// What the files in `tests/replays/` are of.
fn kept() -> [(&'static str, Settings, [PortSettings; 4], Vec<Event>); 2] {
    let send = |ingress: u8, src: u8, dst: u64| {
        let mut bytes = vec![0; 60];
        bytes[..6].copy_from_slice(&MacAddr::from_u64(dst).octets());
        bytes[6..12].copy_from_slice(&[2, 0, 0, 0, 0, src]);
        bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
        Event::Frame { ingress, bytes }
    };
    let station = |number: u64| 0x0200_0000_0000 + number;
    let all = 0xffff_ffff_ffff;
    let wait = |secs: u64| Event::Pass { nanos: secs * 1_000_000_000 };
    let conversation = vec![
        send(0, 1, all),
        send(1, 2, station(1)),
        send(0, 1, station(2)),
        wait(299),
        send(0, 1, station(2)),
        wait(2),
        send(1, 2, station(1)),
        send(2, 1, all),
        send(1, 2, station(1)),
        Event::Link { port: 2, up: false },
        send(1, 2, station(1)),
        send(2, 1, station(2)),
    ];
    let isolated = PortSettings { isolated: true, ..PortSettings::default() };
    let limits = vec![
        send(0, 1, all),
        send(0, 2, all),
        send(0, 3, station(9)),
        Event::Pin { port: 1, mac: MacAddr::from_u64(station(4)) },
        send(0, 4, station(4)),
        send(0, 1, station(4)),
        send(2, 5, station(1)),
        send(2, 5, 0x0180_c200_0000),
        Event::Set { port: 2, flags: PortSettings { transparent: true, locked: true, ..isolated } },
        send(2, 5, 0x0180_c200_0000),
        send(2, 6, all),
        Event::Flush { port: 0 },
        send(2, 5, station(1)),
    ];
    let default = PortSettings::default();
    let limited = PortSettings { max_macs: Some(2), ..isolated };
    [
        ("conversation", Settings::default(), [default; 4], conversation),
        (
            "limits",
            Settings { fdb_size: 4, ..Settings::default() },
            [limited, default, isolated, default],
            limits,
        ),
    ]
}

/// `VSWITCH_BLESS=1` writes them anew.
#[test]
fn captures_that_are_kept_hold() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("replays");
    for (name, settings, flags, events) in kept() {
        let path = dir.join(name).with_extension("pcapng");
        let frames = events.iter().filter(|event| matches!(event, Event::Frame { .. })).count();
        let mut file = Vec::new();
        let named: Vec<_> = PORTS.into_iter().zip(flags).collect();
        Stage::new(settings, &named).capture(events, &mut file).unwrap();
        if std::env::var_os("VSWITCH_BLESS").is_some() {
            std::fs::write(&path, &file).unwrap();
        }
        assert_reproduced(&path, frames as u64);
        assert!(std::fs::read(&path).unwrap() == file, "{name}: the format, or a verdict, has changed");
    }
    let files = std::fs::read_dir(&dir).unwrap().count();
    assert_eq!(files, kept().len(), "every file is of something");
}
