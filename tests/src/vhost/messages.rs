//! Messages on the socket, and their descriptors.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// Requests, by their numbers in the specification.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
#[expect(missing_docs, reason = "the specification's names")]
pub enum Request {
    GetFeatures = 1,
    SetFeatures = 2,
    SetOwner = 3,
    SetMemTable = 5,
    SetVringNum = 8,
    SetVringAddr = 9,
    SetVringBase = 10,
    GetVringBase = 11,
    SetVringKick = 12,
    SetVringCall = 13,
    GetProtocolFeatures = 15,
    SetProtocolFeatures = 16,
    GetQueueNum = 17,
    SetVringEnable = 18,
    SendRarp = 19,
    AddMemReg = 37,
}

/// Version 1.
const VERSION: u32 = 1;
const REPLY: u32 = 4;

/// Time in which an answer, or the end of a connection, has come.
const LIMIT: Duration = Duration::from_secs(5);

/// A connection to a port.
#[derive(Debug)]
pub struct FrontEnd {
    stream: UnixStream,
}

impl FrontEnd {
    /// Connects to the port at `path`.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn connect(path: &Path) -> Result<FrontEnd> {
        FrontEnd::of(UnixStream::connect(path).with_context(|| path.display().to_string())?)
    }

    /// A connection that is there: the port came to us.
    ///
    /// # Errors
    /// It is over already.
    pub fn of(stream: UnixStream) -> Result<FrontEnd> {
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok(FrontEnd { stream })
    }

    /// The connection itself, to write whatever one likes.
    pub fn stream(&mut self) -> &mut UnixStream {
        &mut self.stream
    }

    /// Sends a request with its body and descriptors.
    ///
    /// # Errors
    /// The connection is over.
    pub fn send(&mut self, request: Request, body: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let size = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let header: Vec<u8> =
            [request as u32, VERSION, size].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let bytes = [IoSlice::new(&header), IoSlice::new(body)];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        sendmsg(&self.stream, &bytes, &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Sends a request and returns the body of its answer.
    ///
    /// # Errors
    /// No answer, or to something else.
    pub fn ask(&mut self, request: Request, body: &[u8]) -> Result<Vec<u8>> {
        self.send(request, body, &[])?;
        let mut header = [0; 12];
        io::Read::read_exact(&mut self.stream, &mut header).context("no answer")?;
        let [r0, r1, r2, r3, f0, f1, f2, f3, s0, s1, s2, s3] = header;
        ensure!(u32::from_ne_bytes([r0, r1, r2, r3]) == request as u32, "an answer to something else");
        ensure!(u32::from_ne_bytes([f0, f1, f2, f3]) & REPLY != 0, "no answer");
        let mut body = vec![0; u32::from_ne_bytes([s0, s1, s2, s3]) as usize];
        io::Read::read_exact(&mut self.stream, &mut body)?;
        Ok(body)
    }

    /// Asks for one number.
    ///
    /// # Errors
    /// No answer.
    pub fn ask_u64(&mut self, request: Request) -> Result<u64> {
        let body = self.ask(request, &[])?;
        Ok(u64::from_ne_bytes(body.as_slice().try_into().context("not a number")?))
    }

    /// Waits for the port to hang up.
    ///
    /// # Errors
    /// It did not, within 5 s.
    pub fn wait_end(&mut self) -> Result<()> {
        let mut rest = Vec::new();
        match io::Read::read_to_end(&mut self.stream, &mut rest) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
            Err(error) => Err(error).context("the connection was left open"),
        }
    }
}
