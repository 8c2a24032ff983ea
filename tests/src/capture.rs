//! A capture of ours, read back without any of the code that wrote it but the
//! JSON: blocks are parsed here as the pcapng draft lays them out, in the byte
//! order of the machine.

use anyhow::{Context as _, Result, bail, ensure};
use vswitch::capture::state::{Changed, Start, State, Summary};

pub use vswitch::capture::pcapng::{Totals, Way};

/// A whole capture.
#[derive(Debug, Default)]
pub struct Capture {
    /// Names of the interfaces.
    pub interfaces: Vec<String>,
    /// The frames, in order.
    pub frames: Vec<FrameRead>,
    /// What is said beside them, in order.
    pub states: Vec<State>,
    /// The last totals of each interface.
    pub totals: Vec<Totals>,
}

/// One frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FrameRead {
    /// Name of its interface.
    pub interface: String,
    /// Nanoseconds since 1970.
    pub date_ns: u64,
    /// Bytes as it crossed.
    pub len: usize,
    /// Those that were kept.
    pub bytes: Vec<u8>,
    /// Which way.
    pub way: Way,
    /// Joins the records of one frame.
    pub id: u64,
    /// Records missed before it at its interface.
    pub drops: u64,
    /// In words.
    pub comment: String,
}

impl Capture {
    /// Reads a whole file.
    ///
    /// # Errors
    /// It is no pcapng as the draft says, or ends in the middle of a block.
    pub fn parse(mut bytes: &[u8]) -> Result<Capture> {
        let mut capture = Capture::default();
        while !bytes.is_empty() {
            let (kind, len) = (word(bytes, 0)?, word(bytes, 4)? as usize);
            ensure!(len >= 12 && len % 4 == 0 && len <= bytes.len(), "a block of {len} bytes");
            ensure!(word(bytes, len - 4)? as usize == len, "its second length differs");
            capture.take(kind, &bytes[8..len - 4]).with_context(|| format!("block of kind {kind:#x}"))?;
            bytes = &bytes[len..];
        }
        Ok(capture)
    }

    fn take(&mut self, kind: u32, body: &[u8]) -> Result<()> {
        match kind {
            0x0a0d_0d0a => {
                ensure!(word(body, 0)? == 0x1a2b_3c4d, "not of this machine");
                ensure!(self.interfaces.is_empty(), "one section only");
            }
            1 => {
                ensure!(word(body, 0)? == 1, "not Ethernet");
                let options = options(&body[8..])?;
                ensure!(find(&options, 9) == Some(&[9]), "times are in nanoseconds");
                // Behind the byte that says that it is text.
                let filter = find(&options, 11).map(|filter| std::str::from_utf8(&filter[1..]));
                ensure!(filter.is_none_or(|text| text.is_ok()), "the filter's text is cut in a character");
                let name = find(&options, 2).context("no name")?;
                self.interfaces.push(String::from_utf8(name.to_vec())?);
                self.totals.push(Totals::default());
            }
            6 => self.frames.push(self.frame(body)?),
            5 => {
                let options = options(&body[12..])?;
                let number =
                    |code| find(&options, code).and_then(|v| v.try_into().ok()).map_or(0, u64::from_ne_bytes);
                self.totals[word(body, 0)? as usize] = Totals {
                    received: number(4),
                    dropped: number(5),
                    accepted: number(6),
                    os_dropped: number(7),
                    delivered: number(8),
                };
            }
            0x8056_5357 => {
                let len = word(body, 0)? as usize;
                self.states.push(serde_json::from_slice(&body[4..4 + len])?);
            }
            _ => bail!("an unknown block"),
        }
        Ok(())
    }

    fn frame(&self, body: &[u8]) -> Result<FrameRead> {
        let captured = word(body, 12)? as usize;
        let options = options(&body[20 + captured.next_multiple_of(4)..])?;
        let number = |code| find(&options, code).and_then(|v| v.try_into().ok()).map(u64::from_ne_bytes);
        let flags = find(&options, 2).context("no flags")?;
        let comment = find(&options, 1).context("no comment")?;
        let interface = self.interfaces.get(word(body, 0)? as usize).context("an unknown interface")?;
        Ok(FrameRead {
            interface: interface.clone(),
            date_ns: u64::from(word(body, 4)?) << 32 | u64::from(word(body, 8)?),
            len: word(body, 16)? as usize,
            bytes: body[20..20 + captured].to_vec(),
            way: match flags {
                [1, 0, 0, 0] => Way::Inbound,
                [2, 0, 0, 0] => Way::Outbound,
                _ => bail!("flags {flags:?}"),
            },
            id: number(5).context("no number")?,
            drops: number(4).unwrap_or(0),
            comment: String::from_utf8(comment.to_vec())?,
        })
    }

    /// What was said before the first frame.
    ///
    /// # Panics
    /// Nothing was.
    pub fn start(&self) -> &Start {
        match self.states.first() {
            Some(State::Start(start)) => start,
            other => panic!("{other:?}"),
        }
    }

    /// The sums.
    ///
    /// # Panics
    /// There are none.
    pub fn end(&self) -> &Summary {
        match self.states.last() {
            Some(State::End(summary)) => summary,
            other => panic!("{other:?}"),
        }
    }

    /// What changed besides frames.
    pub fn changes(&self) -> impl Iterator<Item = &Changed> {
        self.states.iter().filter_map(|state| match state {
            State::Change(changed) => Some(changed),
            State::Start(_) | State::Fdb(_) | State::Trace(_) | State::End(_) => None,
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let word = bytes.get(at..at + 4).context("cut short")?;
    Ok(u32::from_ne_bytes(word.try_into()?))
}

/// Codes and values, up to the end that must be there.
fn options(mut bytes: &[u8]) -> Result<Vec<(u16, &[u8])>> {
    let mut options = Vec::new();
    loop {
        let head = word(bytes, 0)?.to_ne_bytes();
        let (code, len) =
            (u16::from_ne_bytes([head[0], head[1]]), usize::from(u16::from_ne_bytes([head[2], head[3]])));
        if code == 0 {
            ensure!(bytes.len() == 4, "bytes behind the last option");
            return Ok(options);
        }
        options.push((code, bytes.get(4..4 + len).context("an option cut short")?));
        bytes = &bytes[4 + len.next_multiple_of(4)..];
    }
}

fn find<'o>(options: &[(u16, &'o [u8])], code: u16) -> Option<&'o [u8]> {
    options.iter().find(|(found, _)| *found == code).map(|(_, value)| *value)
}
