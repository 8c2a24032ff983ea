//! `vswitch extcap`: every port of every running switch as an interface of
//! Wireshark and tshark.
//!
//! Read first: Wireshark's extcap(4). Wireshark runs a program in its extcap folder
//! again and again, each time with one question; `--install` puts a script there
//! that asks us. `vswitch:SWITCH` is a whole switch, `vswitch:SWITCH:PORT` a port.
//!
//! Deliberately absent: a second way to capture. It is `vswitch capture` into the
//! pipe that Wireshark made.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::command::compile;
use super::reader::{self, Job};
use crate::cli::{ExtcapArgs, Shown};
use crate::config::Invoker;
use crate::control::{Capture, Client, Direction, Request, Response, Running, running};

/// What begins the name of each of our interfaces.
const PREFIX: &str = "vswitch:";

/// By this line we know our own script.
const MARK: &str = "# Written by `vswitch extcap --install`, removed by --uninstall.";

/// Answers one question; the text for stdout.
///
/// # Errors
/// The switch refuses, a file cannot be written, or nothing was asked.
pub fn run(args: &ExtcapArgs, invoker: &Invoker) -> anyhow::Result<String> {
    if args.install || args.uninstall {
        let done = if args.install { install()? } else { uninstall()? };
        return Ok(report(args, &done));
    }
    if args.extcap_interfaces {
        return Ok(interfaces(&running(invoker)));
    }
    let name = args.extcap_interface.as_deref().unwrap_or_default();
    if args.extcap_dlts {
        return Ok("dlt {number=1}{name=EN10MB}{display=Ethernet}\n".to_owned());
    }
    if args.extcap_config {
        return Ok(CONFIG.to_owned());
    }
    let filter = args.extcap_capture_filter.as_deref().filter(|text| !text.is_empty());
    if !args.capture {
        // Wireshark colours its filter line by whether we say anything.
        return match filter.map(compile) {
            Some(Err(error)) => Ok(format!("{error}\n")),
            Some(Ok(_)) => Ok(String::new()),
            None => bail!("nothing is asked\n  vswitch extcap --install, and then tshark -D or wireshark"),
        };
    }
    let (switch, port) =
        parse_interface(name).with_context(|| format!("`{name}` is no interface of ours"))?;
    let path = args.fifo.as_deref().context("--capture needs --fifo PATH")?;
    let client = Client::find(invoker, Some(switch), None)?;
    let capture = Capture {
        ports: port.map(str::to_owned).into_iter().collect(),
        directions: match args.direction {
            Shown::All => Vec::new(),
            Shown::In => vec![Direction::In],
            Shown::Out => vec![Direction::Out],
            Shown::Dropped => vec![Direction::Dropped],
        },
        filter: filter.map(compile).transpose()?,
        snaplen: args.snaplen,
        count: None,
        last_ms: None,
        steps: false,
        segment: args.segment,
    };
    // How it ended, Wireshark knows itself.
    reader::run(client, Job { capture, path, rotation: None, duration: None })?;
    Ok(String::new())
}

/// What can be chosen for an interface.
const CONFIG: &str = "\
arg {number=0}{call=--direction}{display=Direction}{type=selector}{tooltip=What crosses the port, or does not}
value {arg=0}{value=all}{display=Everything}{default=true}
value {arg=0}{value=in}{display=What comes in}{default=false}
value {arg=0}{value=out}{display=What goes out}{default=false}
value {arg=0}{value=dropped}{display=What is dropped or refused}{default=false}
arg {number=1}{call=--segment}{display=As on a wire}{type=boolflag}{default=false}{tooltip=Finish checksums and cut super-frames}
";

/// Every port that can be captured now.
fn interfaces(running: &[Running]) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!("extcap {{version={version}}}{{display=vswitch}}\n");
    for Running { name, control, .. } in running {
        // One that we may not ask, or that ends now, has no interfaces for us.
        let Ok(Response::Show(show)) = Client::connect(control).and_then(|mut c| c.call(&Request::Show {}))
        else {
            continue;
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "interface {{value={PREFIX}{name}}}{{display=switch {name}, all ports}}");
        for port in show.ports {
            let port = port.name;
            let _ = writeln!(
                text,
                "interface {{value={PREFIX}{name}:{port}}}{{display=switch {name}, port {port}}}"
            );
        }
    }
    text
}

/// Switch and port; names have no colons.
fn parse_interface(name: &str) -> Option<(&str, Option<&str>)> {
    let rest = name.strip_prefix(PREFIX).filter(|rest| !rest.is_empty())?;
    Some(match rest.split_once(':') {
        Some((switch, port)) => (switch, Some(port)),
        None => (rest, None),
    })
}

/// The user's own extcap folders: of Wireshark up to 4.0, and since.
fn folders() -> anyhow::Result<[PathBuf; 2]> {
    let home = |variable: &str| std::env::var_os(variable).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let user =
        home("HOME").context("HOME is not set\n  set it to the folder of the user who runs Wireshark")?;
    let config = home("XDG_CONFIG_HOME").unwrap_or_else(|| user.join(".config"));
    Ok([config.join("wireshark/extcap"), user.join(".local/lib/wireshark/extcap")])
}

fn install() -> anyhow::Result<Vec<PathBuf>> {
    let program = std::env::current_exe().context("our own program")?;
    let script = script(&program);
    let mut done = Vec::new();
    for folder in folders()? {
        let file = folder.join("vswitch");
        let write = || -> io::Result<()> {
            std::fs::create_dir_all(&folder)?;
            if std::fs::read(&file).is_ok_and(|found| !is_ours(&found)) {
                return Err(io::Error::other("somebody else's file is there; move it away"));
            }
            // Written beside it and put in its place: Wireshark may run it now.
            let new = folder.join(format!(".vswitch.{}", std::process::id()));
            std::fs::write(&new, &script)?;
            std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755))?;
            std::fs::rename(&new, &file)
        };
        write().with_context(|| file.display().to_string())?;
        done.push(file);
    }
    Ok(done)
}

fn uninstall() -> anyhow::Result<Vec<PathBuf>> {
    let mut done = Vec::new();
    for folder in folders()? {
        let file = folder.join("vswitch");
        if std::fs::read(&file).is_ok_and(|found| is_ours(&found)) {
            std::fs::remove_file(&file).with_context(|| file.display().to_string())?;
            done.push(file);
        }
    }
    Ok(done)
}

fn is_ours(script: &[u8]) -> bool {
    script.windows(MARK.len()).any(|found| found == MARK.as_bytes())
}

/// A shell script that runs `program`, whatever is in its path.
fn script(program: &Path) -> Vec<u8> {
    let mut script = OsString::from(format!("#!/bin/sh\n{MARK}\nexec '"));
    for (n, part) in program.as_os_str().as_encoded_bytes().split(|byte| *byte == b'\'').enumerate() {
        if n > 0 {
            script.push("'\\''");
        }
        script.push(String::from_utf8_lossy(part).as_ref());
    }
    script.push("' extcap \"$@\"\n");
    script.into_encoded_bytes()
}

fn report(args: &ExtcapArgs, files: &[PathBuf]) -> String {
    if args.json {
        let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
        return serde_json::json!({ "files": files }).to_string() + "\n";
    }
    let word = if args.install { "installed" } else { "removed" };
    let mut text: String = files.iter().map(|file| format!("{word} {}\n", file.display())).collect();
    if args.install {
        text.push_str("every port of every running switch is now an interface: tshark -D, or wireshark\n");
    } else if files.is_empty() {
        text.push_str("nothing was installed\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_name_switch_and_port() {
        assert_eq!(parse_interface("vswitch:lan:tap0"), Some(("lan", Some("tap0"))));
        assert_eq!(parse_interface("vswitch:lan"), Some(("lan", None)));
        for bad in ["", "eth0", "vswitch:", "vswitch"] {
            assert_eq!(parse_interface(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_script_survives_any_path() {
        let script = script(Path::new("/opt/it's here/vswitch"));
        let text = String::from_utf8(script.clone()).unwrap();
        assert!(text.ends_with("exec '/opt/it'\\''s here/vswitch' extcap \"$@\"\n"), "{text}");
        assert!(is_ours(&script) && !is_ours(b"#!/bin/sh\nexec other\n"));
    }
}
