//! A14: wrong uid, too many connections, half lines, endless lines, stray file
//! descriptors, hostile names; and who may take a name and a path.

use std::io::{IoSlice, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::Uid;
use rustix::thread::set_thread_res_uid;
use serde_json::json;
use vswitch::config::Invoker;
use vswitch::control::{
    CLIENTS_MAX, Client, ClientError, FdbFilter, LINE_MAX, Lock, PATIENCE, Request, Response, running,
};
use vswitch_tests::clock::wait_until;
use vswitch_tests::require;

use crate::rig::{LIMIT, Peer, Rig, bind};

const SHOW: &str = r#"{"v":1,"id":1,"cmd":"show"}"#;

/// A uid that is neither root's nor ours.
const STRANGER: u32 = 65_534;

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Runs `act` on a thread whose uid is [`STRANGER`]'s; needs root.
fn as_stranger<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let uid = Uid::from_raw(STRANGER);
            set_thread_res_uid(uid, uid, uid).unwrap();
            act()
        });
        thread.join().unwrap()
    })
}

#[test]
fn requests_are_answered_in_order_by_their_id() {
    let rig = Rig::own();
    let mut peer = rig.connect();
    assert_eq!(peer.ask(SHOW), json!({"v": 1, "id": 1, "reply": "done", "count": 1}));
    // Many in one write, the last one in two halves.
    let mut lines = String::new();
    for id in 2..=100 {
        lines += &format!("{{\"v\":1,\"id\":{id},\"cmd\":\"stats\"}}\n");
    }
    let (first, second) = lines.split_at(lines.len() - 9);
    peer.send(first.as_bytes());
    for id in 2..=99 {
        assert_eq!(peer.reply().unwrap()["id"], json!(id));
    }
    peer.send(second.as_bytes());
    assert_eq!(peer.reply(), Some(json!({"v": 1, "id": 100, "reply": "done", "count": 100})));
    // What is complete is answered even when the client has hung up its side.
    peer.send(format!("{SHOW}\n{SHOW}\n{{\"v\"").as_bytes());
    peer.stream.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(peer.reply().unwrap()["count"], 101);
    assert_eq!(peer.reply().unwrap()["count"], 102);
    assert_eq!(peer.reply(), None);
    rig.wait_clients(0);
}

#[test]
fn hostile_lines_are_refused_and_the_connection_lives_on() {
    let rig = Rig::own();
    let mut peer = rig.connect();
    let deep = "[".repeat(LINE_MAX - 2);
    for line in [
        "",
        "\0",
        "%d",
        "{}",
        "[]",
        "null",
        "\u{feff}",
        &deep,
        r#"{"v":1,"id":1,"cmd":"port_del"}"#,
        r#"{"v":1,"id":1,"cmd":"port_del","name":"a","name":5}"#,
        r#"{"v":1,"id":1,"cmd":"rm -rf"}"#,
        r#"{"v":18446744073709551616,"id":1,"cmd":"show"}"#,
    ] {
        assert_eq!(peer.ask(line)["reply"], "error", "{line:.40}");
    }
    peer.send(b"\xff\xfe\n");
    assert_eq!(peer.reply().unwrap()["reply"], "error");
    assert_eq!(rig.requests(), 0, "nothing reached the switch");
    assert_eq!(peer.ask(SHOW)["count"], 1);
}

#[test]
fn half_a_line_for_ever_hurts_nobody_else() {
    let rig = Rig::own();
    let mut halves: Vec<Peer> = (0..CLIENTS_MAX - 1).map(|_| rig.connect()).collect();
    for half in &mut halves {
        half.send(&SHOW.as_bytes()[..9]);
    }
    let mut good = rig.connect();
    assert_eq!(good.ask(SHOW)["count"], 1);
    rig.wait_clients(CLIENTS_MAX);
    rig.advance(PATIENCE / 2);
    // A byte now and then buys no time; a request does.
    halves[0].send(b" ");
    assert_eq!(good.ask(SHOW)["count"], 2);
    rig.advance(PATIENCE / 2);
    for half in &mut halves {
        assert_eq!(half.refusal(), "no whole request within 10 s");
    }
    rig.wait_clients(1);
    assert_eq!(good.ask(SHOW)["count"], 3);
}

#[test]
fn a_line_without_end_is_refused_at_one_mebibyte() {
    let rig = Rig::own();
    let mut peer = rig.connect();
    let chunk = [b'x'; 64 * 1024];
    let mut sent = 0;
    let fault = loop {
        match peer.stream.get_mut().write(&chunk) {
            Ok(n) => sent += n,
            Err(e) => break e,
        }
        assert!(sent < 1 << 30, "it took a line of 1 GiB");
    };
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    assert!(matches!(fault.kind(), BrokenPipe | ConnectionReset), "{fault}");
    // What the socket's buffers hold comes on top of what was read.
    assert!((LINE_MAX..LINE_MAX + (4 << 20)).contains(&sent), "{sent}");
    assert_eq!(peer.refusal(), "the line is longer than 1048576 bytes");
    // The longest line that is allowed.
    let mut peer = rig.connect();
    let padding = " ".repeat(LINE_MAX - SHOW.len() - 1);
    assert_eq!(peer.ask(&format!("{padding}{SHOW}"))["count"], 1);
}

#[test]
fn seventeen_clients_are_one_too_many() {
    let rig = Rig::own();
    let mut peers: Vec<Peer> = (0..CLIENTS_MAX).map(|_| rig.connect()).collect();
    for (n, peer) in peers.iter_mut().enumerate() {
        assert_eq!(peer.ask(SHOW)["count"], n + 1);
    }
    let error = rig.connect().refusal();
    assert_eq!(error, "16 clients are connected already");
    match Client::connect(rig.path()).unwrap().call(&Request::Show {}) {
        Err(ClientError::Refused(refused)) => assert_eq!(refused.error, error),
        other => panic!("{other:?}"),
    }
    assert_eq!(peers[3].ask(SHOW)["count"], CLIENTS_MAX + 1, "those who are in stay in");
    drop(peers.pop());
    rig.wait_clients(CLIENTS_MAX - 1);
    assert_eq!(rig.connect().ask(SHOW)["count"], CLIENTS_MAX + 2);
}

#[test]
fn ten_thousand_connections_leave_no_descriptor() {
    let rig = Rig::own();
    for n in 0..10_000 {
        let mut stream = UnixStream::connect(rig.path()).unwrap();
        if n % 3 == 0 {
            // Some speak and do not wait; the server may have closed already.
            let _ = stream.write_all(SHOW.as_bytes());
        }
    }
    assert_eq!(rig.connect().ask(SHOW)["reply"], "done");
    rig.wait_clients(0);
    wait_until("sockets to go", LIMIT, || rig.sockets_len() == 1).unwrap();
}

#[test]
fn a_client_that_does_not_read_waits_for_itself_only() {
    let rig = Rig::own();
    let mut lazy = rig.connect();
    const ASKED: usize = 200;
    for _ in 0..ASKED {
        lazy.send(b"{\"v\":1,\"id\":1,\"cmd\":\"fdb_show\"}\n");
    }
    // Each reply is longer than the socket's buffer: the first one is on its
    // way, and no second one is made before it has left.
    let mut good = rig.connect();
    for _ in 0..50 {
        assert_eq!(good.ask(SHOW)["reply"], "done");
    }
    assert_eq!(rig.requests(), 51, "one page and fifty others");
    for _ in 0..ASKED {
        let reply = lazy.reply().unwrap();
        assert_eq!(reply["entries"].as_array().map(Vec::len), Some(4096));
    }
    // Reading nothing at all ends like saying nothing.
    lazy.send(b"{\"v\":1,\"id\":1,\"cmd\":\"fdb_show\"}\n");
    wait_until("the request", LIMIT, || rig.requests() == 51 + ASKED).unwrap();
    rig.advance(PATIENCE);
    rig.wait_clients(0);
}

#[test]
fn stray_descriptors_are_closed_by_the_kernel() {
    let rig = Rig::own();
    let mut peer = rig.connect();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let fds = [writer.as_fd(); 8];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let line = format!("{SHOW}\n");
    sendmsg(peer.stream.get_ref(), &[IoSlice::new(line.as_bytes())], &mut control, SendFlags::empty())
        .unwrap();
    drop(writer);
    assert_eq!(peer.reply().unwrap()["count"], 1, "the request itself is fine");
    // Were the write end still open in the server, this would wait for ever.
    let end = std::thread::spawn(move || reader.read_to_end(&mut Vec::new()));
    wait_until("the pipe's end", LIMIT, || end.is_finished()).unwrap();
    assert_eq!(end.join().unwrap().unwrap(), 0);
}

#[test]
fn strangers_are_refused_by_their_uid() {
    require!(root);
    let rig = Rig::own();
    assert_eq!(std::fs::metadata(rig.path()).unwrap().mode() & 0o777, 0o600);
    let path = rig.path();
    let error = as_stranger(|| Client::connect(path).err().unwrap().to_string());
    assert_eq!(
        error,
        format!("{} belongs to uid 0\n  use sudo, or start your own: vswitch run", path.display())
    );
    // And where the file's mode does not keep them out.
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o666)).unwrap();
    let stream = as_stranger(|| UnixStream::connect(path).unwrap());
    assert_eq!(Peer::of(stream).refusal(), "uid 65534 may not control this switch; uid 0 may");
    let error =
        as_stranger(|| Client::connect(path).unwrap().call(&Request::Stop {}).unwrap_err().to_string());
    assert_eq!(
        error,
        "uid 65534 may not control this switch; uid 0 may\n  use sudo, or start your own: vswitch run"
    );
    assert_eq!(rig.requests(), 0);
}

#[test]
fn the_owner_needs_no_root() {
    require!(root);
    let rig = Rig::start(STRANGER);
    assert_eq!(std::fs::metadata(rig.path()).unwrap().uid(), STRANGER);
    let path = rig.path();
    let reply = as_stranger(|| Client::connect(path).unwrap().call(&Request::Show {}).unwrap());
    assert_eq!(reply, Response::Done { count: 1 });
    assert_eq!(rig.connect().ask(SHOW)["count"], 2, "root may, too");
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let rig = Rig::own();
    let error = bind(rig.path(), own_uid()).map(drop).unwrap_err().to_string();
    let expected = format!(
        "another process listens on {}, pid {}\n  choose another path: --control PATH",
        rig.path().display(),
        std::process::id()
    );
    assert_eq!(error, expected);
    assert_eq!(rig.connect().ask(SHOW)["reply"], "done", "the live one lives on");

    let stale = rig.dir.path().join("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    let (_poll, _waker, server) = bind(&stale, own_uid()).unwrap();
    assert!(UnixStream::connect(&stale).is_ok());
    drop(server);
    assert!(!stale.exists(), "removed at the end");

    // Another's socket in the place of ours is not ours to remove.
    let (_poll, _waker, server) = bind(&stale, own_uid()).unwrap();
    std::fs::remove_file(&stale).unwrap();
    let _other = UnixListener::bind(&stale).unwrap();
    drop(server);
    assert!(stale.exists());

    let file = rig.dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let error = bind(&file, own_uid()).map(drop).unwrap_err().to_string();
    assert!(error.contains("exists and is not a socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}

#[test]
fn clients_find_the_switch_that_is_meant() {
    let rig = Rig::own();
    let run_dir = rig.dir.path().join("run");
    let invoker = Invoker {
        uid: own_uid(),
        owner: own_uid(),
        run_dir: run_dir.clone(),
        search: vec![rig.dir.path().join("nowhere"), run_dir.clone()],
        cores: 2,
    };
    let find = |name: Option<&str>, control: Option<&Path>| {
        Client::find(&invoker, name, control)
            .and_then(|mut client| client.call(&Request::Show {}))
            .map_err(|e| e.to_string())
    };
    assert_eq!(find(None, None), Err("no switch is running\n  start one: vswitch run".to_owned()));
    let a = Lock::take(&invoker.lock("a"), rig.path(), own_uid()).unwrap();
    assert_eq!(find(None, None), Ok(Response::Done { count: 1 }));
    assert_eq!(find(Some("a"), None), Ok(Response::Done { count: 2 }));
    for name in ["b", "../x", "", "%d", "a\0"] {
        let expected = format!("no switch called `{}` is running\n  running: a", name.escape_debug());
        assert_eq!(find(Some(name), None), Err(expected));
    }
    let b = Lock::take(&invoker.lock("b"), &rig.dir.path().join("b.sock"), own_uid()).unwrap();
    assert_eq!(
        find(None, None),
        Err("several switches are running: a, b\n  choose one: --name a".to_owned())
    );
    assert_eq!(find(None, Some(rig.path())), Ok(Response::Done { count: 3 }));
    let names: Vec<_> = running(&invoker).into_iter().map(|r| (r.name, r.pid)).collect();
    let pid = std::process::id().to_string();
    assert_eq!(names, [("a".to_owned(), pid.clone()), ("b".to_owned(), pid)]);
    let error = find(Some("b"), None).unwrap_err();
    assert!(error.starts_with("no switch listens on") && error.contains("vswitch run --control"), "{error}");
    drop((a, b));
    assert_eq!(running(&invoker), []);
}

#[test]
fn all_pages_of_the_fdb_are_fetched() {
    let rig = Rig::own();
    let entries = Client::connect(rig.path()).unwrap().fdb(&FdbFilter::default()).unwrap();
    assert_eq!(entries.len(), 3 * 4096);
    assert_eq!(entries[8192].mac.to_string(), "02:00:00:00:00:02");
}

/// It may be busy with what it was asked for: nobody should kill it for that.
#[test]
fn a_switch_that_takes_its_time_is_not_to_be_killed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("slow.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let error = Client::connect(&path).unwrap().reload().unwrap_err();
    assert!(matches!(error, ClientError::Slow { .. }), "{error}");
    let error = error.to_string();
    assert!(error.contains("see vswitch show") && !error.contains("kill"), "{error}");
}

#[test]
fn a_switch_that_hangs_up_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mute.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let mut client = Client::connect(&path).unwrap();
    drop(listener.accept().unwrap());
    let error = client.call(&Request::Show {}).unwrap_err().to_string();
    assert!(error.starts_with(&format!("the switch on {} does not answer: ", path.display())), "{error}");
    // Another program's socket.
    let thread = std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        stream.write_all(b"220 hello\r\n").unwrap();
    });
    let error = Client::connect(&path).unwrap().call(&Request::Show {}).unwrap_err().to_string();
    assert!(error.contains("answers something unknown"), "{error}");
    thread.join().unwrap();
}
