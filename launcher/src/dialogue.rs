//! A conversation with a serial console, line by line from a file: for
//! installers that can be asked in no other way.
//!
//! ```text
//! # what the console is to say (a regular expression), and what is then typed
//! wait login:
//! type root
//! within 10m          # for every `wait` from here on; 2m at first
//! wait \n# $
//! run mkfs.ext4 /dev/vda1
//! ```
//!
//! `type` ends its line with Return; `send` does not. `run` is `type` for a
//! shell: the command must then exit with 0. `{name}` is the guest's host name.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use regex_lite::Regex;

use crate::clock;
use crate::lab::parse_duration;

/// Between two looks at whether to stop.
const PAUSE: Duration = Duration::from_millis(200);

/// One line of a dialogue.
#[derive(Debug, Clone)]
struct Line {
    number: usize,
    act: Act,
}

#[derive(Debug, Clone)]
enum Act {
    Wait(Regex),
    Send(String),
    Run(String),
    Within(Duration),
}

/// A dialogue, read and checked.
#[derive(Debug, Clone)]
pub struct Dialogue(Vec<Line>);

impl Dialogue {
    /// Reads `text`, in which `{name}` is `name`.
    ///
    /// # Errors
    /// The number of the line that is none, and what is wrong with it.
    pub fn parse(text: &str, name: &str) -> Result<Dialogue, String> {
        let mut lines = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
            let filled = rest.replace("{name}", name);
            let fault = |why: String| format!("line {}: {why}", index + 1);
            let act = match verb {
                "wait" => Act::Wait(Regex::new(rest).map_err(|e| fault(format!("`{rest}`: {e}")))?),
                "type" => Act::Send(filled + "\r"),
                "send" => Act::Send(filled),
                "run" => Act::Run(filled),
                "within" => Act::Within(
                    parse_duration(rest.trim())
                        .ok_or_else(|| fault(format!("`{rest}` is no duration: write 10s or 2m")))?,
                ),
                _ => return Err(fault(format!("`{verb}` is none of wait, type, send, run, within"))),
            };
            lines.push(Line { number: index + 1, act });
        }
        Ok(Dialogue(lines))
    }

    /// Carries it out on `console`; what is said there goes to `seen` as well.
    ///
    /// # Errors
    /// What did not come in time, or which command failed, with its line.
    pub fn hold(&self, console: &UnixStream, stop: impl Fn() -> bool, seen: impl FnMut(&[u8])) -> Result<()> {
        let mut talk = Talk { console, text: String::new(), at: 0, stop, seen };
        let mut limit = Duration::from_secs(120);
        for Line { number, act } in &self.0 {
            let done = match act {
                Act::Within(within) => {
                    limit = *within;
                    Ok(())
                }
                Act::Send(text) => talk.send(text),
                Act::Wait(regex) => talk.wait(regex, limit).map(drop),
                Act::Run(command) => talk.run(command, *number, limit),
            };
            done.with_context(|| format!("line {number} of the dialogue"))?;
        }
        Ok(())
    }
}

struct Talk<'c, P, S> {
    console: &'c UnixStream,
    /// What was said, of which `at` bytes were waited for.
    text: String,
    at: usize,
    stop: P,
    seen: S,
}

impl<P: Fn() -> bool, S: FnMut(&[u8])> Talk<'_, P, S> {
    fn send(&mut self, text: &str) -> Result<()> {
        Ok((&mut self.console).write_all(text.as_bytes())?)
    }

    /// Waits until `regex` matches behind what was waited for before.
    fn wait(&mut self, regex: &Regex, limit: Duration) -> Result<String> {
        let start = clock::now();
        loop {
            if let Some(found) = regex.find(&self.text[self.at..]) {
                let said = found.as_str().to_owned();
                self.at += found.end();
                return Ok(said);
            }
            let left = limit.saturating_sub(start.elapsed());
            if left.is_zero() {
                bail!("`{regex}` did not come within {}{}", clock::short(limit), self.last());
            }
            if (self.stop)() {
                bail!("interrupted");
            }
            self.listen(left.clamp(Duration::from_millis(1), PAUSE))
                .with_context(|| format!("while waiting for `{regex}`{}", self.last()))?;
        }
    }

    fn listen(&mut self, limit: Duration) -> io::Result<()> {
        let mut bytes = [0; 4096];
        self.console.set_read_timeout(Some(limit))?;
        match self.console.read(&mut bytes) {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the guest ended")),
            Ok(len) => {
                (self.seen)(&bytes[..len]);
                let said = String::from_utf8_lossy(&bytes[..len]);
                self.text.extend(said.chars().filter(|c| *c != '\r'));
                Ok(())
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// The mark is split where it is typed, so that the echo does not have it.
    fn run(&mut self, command: &str, number: usize, limit: Duration) -> Result<()> {
        self.send(&format!("{command}; echo \"=vlab\"-{number}-$?=\r"))?;
        let mark = Regex::new(&format!("=vlab-{number}-([0-9]+)=")).context("the mark")?;
        let said = self.wait(&mark, limit)?;
        if said != format!("=vlab-{number}-0=") {
            bail!("`{command}` failed{}", self.last());
        }
        Ok(())
    }

    /// The end of what was said, for a fault.
    fn last(&self) -> String {
        let lines: Vec<&str> = self.text.lines().filter(|line| !line.trim().is_empty()).collect();
        if lines.is_empty() {
            return "; the console said nothing".to_owned();
        }
        format!(":\n    {}", lines[lines.len().saturating_sub(6)..].join("\n    "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest that says `login: `, takes a name, and then is a shell.
    fn guest() -> (UnixStream, std::thread::JoinHandle<String>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let handle = std::thread::spawn(move || {
            let mut console = &theirs;
            console.write_all(b"welcome\r\nlogin: ").unwrap();
            let mut typed = String::new();
            let mut byte = [0];
            let mut line = String::new();
            while console.read(&mut byte).unwrap_or(0) == 1 {
                typed.push(char::from(byte[0]));
                line.push(char::from(byte[0]));
                if byte[0] == b'\r' {
                    let code = i32::from(line.starts_with("false"));
                    // A terminal echoes what is typed.
                    let echo = line.trim_end().to_owned();
                    let mark = echo.rsplit_once("\"-").map_or(String::new(), |(_, rest)| {
                        format!("=vlab-{}\r\n", rest.replace("$?", &code.to_string()))
                    });
                    console.write_all(format!("{echo}\r\n{mark}# ").as_bytes()).unwrap();
                    line.clear();
                }
            }
            typed
        });
        (ours, handle)
    }

    #[test]
    fn it_waits_types_and_runs() {
        let text = "# a comment\nwait login: $\ntype {name}\nwithin 10s\nwait # $\nrun true\nsend x\n";
        let dialogue = Dialogue::parse(text, "root").unwrap();
        let (console, guest) = guest();
        let mut seen = Vec::new();
        dialogue.hold(&console, || false, |bytes| seen.extend_from_slice(bytes)).unwrap();
        drop(console);
        assert_eq!(guest.join().unwrap(), "root\rtrue; echo \"=vlab\"-6-$?=\rx");
        assert!(String::from_utf8(seen).unwrap().starts_with("welcome\r\nlogin: "));
    }

    #[test]
    fn failures_name_the_line_and_what_was_said() {
        let (console, _guest) = guest();
        let failing = Dialogue::parse("wait login:\nrun false\n", "x").unwrap();
        let error = format!("{:#}", failing.hold(&console, || false, |_| ()).unwrap_err());
        assert!(error.starts_with("line 2 of the dialogue: `false` failed"), "{error}");
        let late = Dialogue::parse("within 50ms\nwait never\n", "x").unwrap();
        let error = format!("{:#}", late.hold(&console, || false, |_| ()).unwrap_err());
        assert!(error.contains("`never` did not come within"), "{error}");
        for (text, why) in
            [("wait (", "line 1: `(`"), ("\nsay x", "line 2: `say`"), ("within 5", "no duration")]
        {
            let error = Dialogue::parse(text, "x").map(drop).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
