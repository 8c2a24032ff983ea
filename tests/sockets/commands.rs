//! The program's client commands against a server: text, JSON, exit codes, and
//! a pipe that hangs up.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};

use vswitch_tests::process::binary;

use crate::rig::Rig;

fn vswitch(args: &[&str]) -> Command {
    let mut command = Command::new(binary("vswitch").unwrap());
    command.args(args).env_remove("VSWITCH_LOG").stdin(Stdio::null());
    command
}

/// Exit code, stdout, stderr.
fn outcome(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn ask(rig: &Rig, args: &[&str]) -> (Option<i32>, String, String) {
    outcome(vswitch(args).arg("--control").arg(rig.path()).output().unwrap())
}

#[test]
fn answers_come_as_text_or_json() {
    let rig = Rig::own();
    let done = |text: &str| (Some(0), text.to_owned(), String::new());
    assert_eq!(ask(&rig, &["fdb", "flush"]), done("flushed 1 entry\n"));
    assert_eq!(ask(&rig, &["port", "del", "tap0"]), done("tap0: removed\n"));
    assert_eq!(ask(&rig, &["set", "ageing=60s"]), done("done\n"));
    let (code, stdout, _) = ask(&rig, &["set", "ageing=60s", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, json), (Some(0), serde_json::json!({"reply": "done", "count": 4})));
    let (code, stdout, _) = ask(&rig, &["fdb", "show"]);
    assert_eq!((code, stdout.lines().count()), (Some(0), 1 + 3 * 4096));
    assert!(stdout.starts_with("MAC                PORT  AGE\n02:00:00:00:00:00  tap0  0s\n"));
}

#[test]
fn whoever_wants_json_gets_errors_as_json() {
    let show = ["show", "--json", "--control", "/nonexistent/x.sock"];
    let (code, stdout, stderr) = outcome(vswitch(&show).output().unwrap());
    assert_eq!((code, stderr.as_str()), (Some(1), ""));
    let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(json["reply"], "error");
    assert!(
        json["error"].as_str().unwrap().starts_with("no switch listens on /nonexistent/x.sock"),
        "{json}"
    );
    assert_eq!(json["hint"], "start one: vswitch run --control /nonexistent/x.sock");
    let (code, stdout, stderr) =
        outcome(vswitch(&["show", "--control", "/nonexistent/x.sock"]).output().unwrap());
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.starts_with("error: no switch listens on "), "{stderr}");
}

#[test]
fn a_pipe_that_hangs_up_ends_the_command_quietly() {
    let rig = Rig::own();
    let mut command = vswitch(&["fdb", "show", "--control"]);
    let mut child = command.arg(rig.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    // 400 KiB are on their way; the pipe holds 64 and the reader 8.
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "MAC                PORT  AGE\n");
    assert_eq!(outcome(child.wait_with_output().unwrap()), (Some(0), String::new(), String::new()));
}

#[test]
fn failures_say_what_to_do_and_have_their_exit_code() {
    let (code, stdout, stderr) = outcome(vswitch(&["show", "--name", "no such"]).output().unwrap());
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.starts_with("error: no switch called `no such` is running\n  "), "{stderr}");

    let (code, _, stderr) = outcome(vswitch(&["show", "--control", "/nowhere/a.sock"]).output().unwrap());
    assert_eq!(
        (code, stderr.as_str()),
        (
            Some(1),
            "error: no switch listens on /nowhere/a.sock: No such file or directory (os error 2)\n  \
             start one: vswitch run --control /nowhere/a.sock\n"
        )
    );
    assert_eq!(outcome(vswitch(&["show", "--nonsense"]).output().unwrap()).0, Some(2));
    let (code, _, stderr) = outcome(vswitch(&["show", "--log", "a=b=c"]).output().unwrap());
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.starts_with("error: --log a=b=c: "), "{stderr}");
}

#[test]
fn a_capture_that_cannot_be_is_refused_before_any_switch_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("kept.pcapng");
    std::fs::write(&file, "of yesterday").unwrap();
    let huge = "99999999999999999999";
    for (flag, values) in [
        ("--snaplen", ["0", "13", "-1", "262145", huge]),
        ("--count", ["0", "-1", "1.5", "x", huge]),
        ("--duration", ["0s", "-1s", "5", "18446744073709551615s", &format!("{huge}h")]),
        ("--last", ["0s", "-1s", "5", "18446744073709551615s", &format!("{huge}h")]),
        ("--rotate", ["0", "-1M", "1M,keep 0", "17179869184G", &format!("{huge}s")]),
        ("--direction", ["", "sideways", "In", "in,out", "-"]),
    ] {
        for value in values {
            let argument = format!("{flag}={value}");
            let mut command = vswitch(&["capture", "--control", "/nowhere/a.sock", &argument, "-w"]);
            let (code, stdout, stderr) = outcome(command.arg(&file).output().unwrap());
            assert_eq!((code, stdout.as_str()), (Some(2), ""), "{argument}: {stderr}");
            let said = stderr.contains(&format!("'{value}' for '{flag} ")) || value.is_empty();
            assert!(stderr.starts_with("error: ") && said, "{argument}: {stderr}");
            assert_eq!(std::fs::read_to_string(&file).unwrap(), "of yesterday", "{argument}");
        }
    }
}

#[test]
fn completions_and_man_pages_are_made() {
    let (code, stdout, _) = outcome(vswitch(&["completions", "bash"]).output().unwrap());
    assert!(code == Some(0) && stdout.contains("_vswitch()") && stdout.contains("--statics"));
    let dir = tempfile::tempdir().unwrap();
    let man = dir.path().join("man1");
    assert!(vswitch(&["man"]).arg(&man).status().unwrap().success());
    for page in ["vswitch.1", "vswitch-show.1", "vswitch-port-add.1", "vswitch-fdb-flush.1"] {
        let text = std::fs::read_to_string(man.join(page)).unwrap();
        assert!(text.contains(".SH NAME"), "{page}");
    }
}

#[test]
fn captures_are_judged_once_more_without_a_switch() {
    let kept = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("replays/conversation.pcapng");
    let file = kept.to_str().unwrap();
    let done = outcome(vswitch(&["replay", file]).output().unwrap());
    assert_eq!(done, (Some(0), format!("{file}: 9 verdicts reproduced\n"), String::new()));

    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("a.toml");
    let ports =
        "ports = [{ spec = 'tap0', isolated = true }, { spec = 'tap1', isolated = true }, 'vm2', 'eth3']";
    std::fs::write(&config, ports).unwrap();
    let with = ["replay", file, "--config", config.to_str().unwrap()];
    let (code, stdout, stderr) = outcome(vswitch(&with).output().unwrap());
    assert_eq!((code, stderr.as_str()), (Some(1), ""));
    let first = "frame 1 by tap0: to eth3 vm2, recorded to eth3 tap1 vm2\n";
    assert!(stdout.starts_with(first) && stdout.contains("isolated, as the ingress is"), "{stdout}");
    let (code, stdout, _) = outcome(vswitch(&with).arg("--json").output().unwrap());
    let lines: Vec<serde_json::Value> =
        stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (sums, frames) = lines.split_last().unwrap();
    assert_eq!(
        (code, sums["compared"].as_u64(), sums["different"].as_u64()),
        (Some(1), Some(9), Some(frames.len() as u64))
    );
    assert_eq!(frames[0]["recorded"]["to"], serde_json::json!(["eth3", "tap1", "vm2"]));

    // Somebody else's: one interface without a name, and one frame.
    let header = [0xa1b2_c3d4u32, 0, 0, 0, 0, 1].map(u32::to_ne_bytes).concat();
    let frame = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1, 8, 6], &[0; 46]].concat();
    let record = [1u32, 2, 60, 60].map(u32::to_ne_bytes).concat();
    let foreign = dir.path().join("a.pcap");
    std::fs::write(&foreign, [header, record, frame].concat()).unwrap();
    let foreign = foreign.to_str().unwrap();
    let done = outcome(vswitch(&["replay", foreign, "--port", "a", "--port", "b"]).output().unwrap());
    let text = "frame 1 by a: learned a; flooded to b\n";
    let sums = format!("{foreign}: 1 of 1 frames judged, no verdicts to compare with\n");
    assert_eq!(done, (Some(0), format!("{text}{sums}"), String::new()));
    let (code, _, stderr) = outcome(vswitch(&["replay", config.to_str().unwrap()]).output().unwrap());
    assert_eq!(code, Some(1));
    assert!(stderr.contains("neither pcapng nor pcap"), "{stderr}");
}
