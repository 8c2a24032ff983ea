//! QEMU's machine protocol: one JSON object a line, over a unix socket.
//!
//! Only what a launcher needs: who are you, are you running, power down, quit.
//! QEMU serves one client at a time and leaves others waiting without a
//! greeting, so everything has a time limit and no connection is kept.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// How long QEMU may take for one answer.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How the names of jobs that we start begin; our pid follows.
const JOB: &str = "vlab-";
/// The longest line that is read, in bytes.
const LINE_LEN_MAX: u64 = 1 << 20;

/// A connection to a guest's QEMU, after its greeting.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects, and checks that the QEMU there is the one with `uuid`.
    ///
    /// # Errors
    /// Nobody listens, nobody answers, or somebody else does.
    pub fn connect(path: &Path, uuid: &str) -> io::Result<Qmp> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let mut qmp = Qmp { stream: BufReader::new(stream) };
        let greeting = qmp.line()?;
        if greeting.get("QMP").is_none() {
            return Err(wrong(format!("{} does not speak QMP", path.display())));
        }
        qmp.call("qmp_capabilities")?;
        let answer = qmp.call("query-uuid")?;
        let found = answer["UUID"].as_str().unwrap_or_default();
        if found != uuid {
            return Err(wrong(format!("{} is machine {found}, not {uuid}", path.display())));
        }
        Ok(qmp)
    }

    /// Runs a command without arguments and returns what it returns. Events
    /// that come in between are skipped.
    ///
    /// # Errors
    /// QEMU refuses, hangs up or takes too long.
    pub fn call(&mut self, command: &str) -> io::Result<Value> {
        self.call_with(command, &json!({}))
    }

    /// Runs a command with arguments.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn call_with(&mut self, command: &str, arguments: &Value) -> io::Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments }).to_string() + "\n";
        self.stream.get_mut().write_all(request.as_bytes())?;
        loop {
            let mut answer = self.line()?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                return Err(wrong(format!("{command}: {}", error["desc"].as_str().unwrap_or("refused"))));
            }
        }
    }

    /// Runs a command of the human monitor and returns what it prints. QEMU
    /// reports its failures as text, too.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn human(&mut self, command: &str) -> io::Result<String> {
        let answer = self.call_with("human-monitor-command", &json!({ "command-line": command }))?;
        Ok(answer.as_str().unwrap_or_default().replace('\r', ""))
    }

    /// Plugs the cable of NIC `id` in, or pulls it.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn set_link(&mut self, id: &str, up: bool) -> io::Result<()> {
        self.call_with("set_link", &json!({ "name": id, "up": up })).map(drop)
    }

    /// Lets a running guest send again on links whose other side was lost and has
    /// come back: it is halted and goes on at once.
    ///
    /// QEMU's `-netdev stream` keeps the frame that a full socket did not take, and
    /// all behind it, for when the socket is writable. Where the socket is closed
    /// first, nothing ever tells it so, and the guest is mute for good although
    /// QEMU has connected again (net/stream.c; seen with 10.0.2). A halt drops what
    /// waits so.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn unblock_links(&mut self) -> io::Result<()> {
        if self.status()? == "running" {
            self.call("stop")?;
            self.call("cont")?;
        }
        Ok(())
    }

    /// Starts a job and waits for its end, at most `limit`. QEMU may answer nothing
    /// meanwhile: it saves and loads a guest's memory in the thread that answers.
    ///
    /// # Errors
    /// As [`call`](Self::call), or what the job failed with.
    pub fn job(&mut self, command: &str, mut arguments: Value, limit: Duration) -> io::Result<()> {
        self.dismiss_ended()?;
        // Another's job may be under way still: that of a `vlab` that was interrupted.
        let id = format!("{JOB}{}", std::process::id());
        arguments["job-id"] = json!(id);
        self.stream.get_ref().set_read_timeout(Some(limit))?;
        self.call_with(command, &arguments)?;
        let mut failure = None;
        let done = crate::clock::poll(limit, || {
            let jobs = match self.call("query-jobs") {
                Ok(jobs) => jobs,
                Err(e) => return Some(Err(e)),
            };
            let job = jobs.as_array().into_iter().flatten().find(|job| job["id"] == id)?;
            failure = job["error"].as_str().map(str::to_owned);
            (job["status"] == "concluded").then_some(Ok(()))
        });
        done.unwrap_or_else(|| {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("{command} takes too long")))
        })?;
        self.call_with("job-dismiss", &json!({ "id": id }))?;
        self.stream.get_ref().set_read_timeout(Some(TIMEOUT))?;
        failure.map_or(Ok(()), |why| Err(wrong(why)))
    }

    /// Forgets jobs of ours that have ended, and whose end nobody waited for.
    fn dismiss_ended(&mut self) -> io::Result<()> {
        let jobs = self.call("query-jobs")?;
        for job in jobs.as_array().into_iter().flatten().filter(|job| job["status"] == "concluded") {
            if job["id"].as_str().is_some_and(|id| id.starts_with(JOB)) {
                self.call_with("job-dismiss", &json!({ "id": job["id"] }))?;
            }
        }
        Ok(())
    }

    /// The machine's state: `running`, `paused`, `shutdown`…
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn status(&mut self) -> io::Result<String> {
        Ok(self.call("query-status")?["status"].as_str().unwrap_or_default().to_owned())
    }

    /// Whether a client is on the character device `id`.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn is_attached(&mut self, id: &str) -> io::Result<bool> {
        let devices = self.call("query-chardev")?;
        let device = devices.as_array().into_iter().flatten().find(|device| device["label"] == id);
        let filename = device.and_then(|device| device["filename"].as_str()).unwrap_or_default();
        Ok(!filename.starts_with("disconnected:"))
    }

    fn line(&mut self) -> io::Result<Value> {
        let mut line = Vec::new();
        let read = (&mut self.stream).take(LINE_LEN_MAX).read_until(b'\n', &mut line);
        match read {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "QEMU does not answer"))
            }
            Err(e) => Err(e),
            Ok(_) if !line.ends_with(b"\n") => {
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, "QEMU closed the connection"))
            }
            Ok(_) => Ok(serde_json::from_slice(&line)?),
        }
    }
}

fn wrong(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// A QEMU that follows a script: after each line it reads it sends the next.
    fn scripted(lines: &'static [&'static str]) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            for line in lines {
                reader.get_mut().write_all(line.as_bytes()).unwrap();
                let mut request = String::new();
                if reader.read_line(&mut request).unwrap_or(0) == 0 {
                    return;
                }
            }
        });
        (directory, path)
    }

    const GREETING: &str = "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\n";

    #[test]
    fn events_are_skipped_and_refusals_told() {
        let (_directory, path) = scripted(&[
            GREETING,
            "{\"return\": {}}\n",
            "{\"event\": \"RESUME\"}\n{\"return\": {\"UUID\": \"u\"}}\n",
            "{\"return\": {\"status\": \"running\", \"running\": true}}\n",
            "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no way\"}}\n",
        ]);
        let mut qmp = Qmp::connect(&path, "u").unwrap();
        assert_eq!(qmp.status().unwrap(), "running");
        assert_eq!(qmp.call("quit").unwrap_err().to_string(), "quit: no way");
    }

    #[test]
    fn a_job_that_was_left_does_not_stand_in_the_way() {
        let (_directory, path) = scripted(&[
            GREETING,
            "{\"return\": {}}\n",
            "{\"return\": {\"UUID\": \"u\"}}\n",
            "{\"return\": [{\"id\": \"vlab-0\", \"status\": \"concluded\"}, {\"id\": \"other\", \"status\": \"concluded\"}]}\n",
            "{\"return\": {}}\n",
            "{\"error\": {\"desc\": \"the job begins\"}}\n",
        ]);
        let mut qmp = Qmp::connect(&path, "u").unwrap();
        let begun = qmp.job("snapshot-save", json!({}), Duration::from_secs(5)).unwrap_err();
        // Its own was dismissed, the other was not: else an answer would be missing here.
        assert_eq!(begun.to_string(), "snapshot-save: the job begins");
    }

    #[test]
    fn another_machine_is_refused() {
        let (_directory, path) =
            scripted(&[GREETING, "{\"return\": {}}\n", "{\"return\": {\"UUID\": \"other\"}}\n"]);
        assert!(Qmp::connect(&path, "u").unwrap_err().to_string().contains("is machine other, not u"));
    }
}
