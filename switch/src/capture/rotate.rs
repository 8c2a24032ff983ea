//! Where a capture's bytes go: stdout, a file, or one file after the other, each of
//! them whole by itself.
//!
//! Deliberately absent: the connection that they come from (`reader`).

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use super::pcapng::{INTERFACE, SECTION, STATE, STATISTICS};
use crate::config::{parse_duration, parse_size};

/// When to begin another file, and how many to keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rotation {
    /// The limit of a file.
    pub limit: Limit,
    /// The most files of this capture that stay.
    pub keep: Option<usize>,
}

/// What a file may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// Bytes.
    Size(u64),
    /// Time.
    Age(Duration),
}

impl FromStr for Rotation {
    type Err = String;

    /// Reads `100M`, `10m` or `1G,keep 5`. A capital K, M or G is a size, what has
    /// a unit of time is one.
    fn from_str(text: &str) -> Result<Rotation, String> {
        let wrong = || "write a size as 100M or a time as 60s, then perhaps `,keep 5`".to_owned();
        let (limit, keep) = match text.split_once(',') {
            None => (text, None),
            Some((limit, rest)) => {
                let number = rest
                    .trim()
                    .strip_prefix("keep")
                    .and_then(|n| n.trim_start_matches('=').trim().parse().ok());
                (limit, Some(number.filter(|n| *n > 0).ok_or_else(wrong)?))
            }
        };
        let limit = match (parse_size(limit), parse_duration(limit)) {
            (Some(size), _) if size >= 4096 => Limit::Size(size),
            (None, Some(age)) if !age.is_zero() => Limit::Age(age),
            _ => return Err(wrong()),
        };
        Ok(Rotation { limit, keep })
    }
}

/// Where the bytes go.
#[derive(Debug)]
pub struct Output {
    target: Target,
    /// Headers that every file begins with.
    headers: Vec<u8>,
    /// The last sums of each interface, by its number; written at a file's end.
    sums: Vec<Option<Vec<u8>>>,
    /// Whole blocks that wait to be written together.
    waiting: Vec<u8>,
}

#[derive(Debug)]
enum Target {
    Stdout,
    File(OneFile),
    Files(Files),
}

#[derive(Debug)]
struct OneFile {
    path: PathBuf,
    file: File,
    len: u64,
}

#[derive(Debug)]
struct Files {
    path: PathBuf,
    rotation: Rotation,
    number: u64,
    kept: VecDeque<PathBuf>,
    current: Option<(OneFile, Instant)>,
}

impl Output {
    /// Opens `path`, or stdout for `-`.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn open(path: &Path, rotation: Option<Rotation>) -> io::Result<Output> {
        let target = match rotation {
            _ if path == Path::new("-") => Target::Stdout,
            None => Target::File(OneFile::create(path.to_owned())?),
            Some(rotation) => Target::Files(Files {
                path: path.to_owned(),
                rotation,
                number: 0,
                kept: VecDeque::new(),
                current: None,
            }),
        };
        Ok(Output { target, headers: Vec::new(), sums: Vec::new(), waiting: Vec::new() })
    }

    /// Another descriptor of what it writes to, to see whether its reader hangs up;
    /// files of a rotation have none.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn pipe(&self) -> io::Result<Option<OwnedFd>> {
        match &self.target {
            Target::Stdout => io::stdout().as_fd().try_clone_to_owned().map(Some),
            Target::File(one) => one.file.as_fd().try_clone_to_owned().map(Some),
            Target::Files(_) => Ok(None),
        }
    }

    /// Where it writes now, for messages.
    pub fn name(&self) -> String {
        match &self.target {
            Target::Stdout => "stdout".to_owned(),
            Target::File(one) => one.path.display().to_string(),
            Target::Files(files) => match &files.current {
                Some((one, _)) => one.path.display().to_string(),
                None => files.path.display().to_string(),
            },
        }
    }

    /// Takes one block. It is written by [`flush`](Self::flush).
    ///
    /// # Errors
    /// A file that was full could not be ended, or the next one made.
    pub fn take(&mut self, kind: u32, block: &[u8], now: Instant) -> io::Result<()> {
        match kind {
            STATISTICS => {
                let number =
                    block.get(8..12).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes);
                let number = number as usize;
                if self.sums.len() <= number {
                    self.sums.resize(number + 1, None);
                }
                self.sums[number] = Some(block.to_vec());
                return Ok(());
            }
            SECTION | INTERFACE => self.headers.extend_from_slice(block),
            _ => {}
        }
        self.make_room(kind, block, now)?;
        self.waiting.extend_from_slice(block);
        Ok(())
    }

    /// Begins another file if the block should not go into this one.
    fn make_room(&mut self, kind: u32, block: &[u8], now: Instant) -> io::Result<()> {
        let Target::Files(files) = &mut self.target else { return Ok(()) };
        match &files.current {
            None => return files.begin(now),
            // Headers and our own blocks go with the frames before them.
            Some(_) if matches!(kind, SECTION | INTERFACE | STATE) => return Ok(()),
            Some((one, since)) => {
                let is_full = match files.rotation.limit {
                    Limit::Size(size) => {
                        let len = one.len + self.waiting.len() as u64;
                        len > self.headers.len() as u64 && len + block.len() as u64 > size
                    }
                    Limit::Age(age) => now.duration_since(*since) >= age,
                };
                if !is_full {
                    return Ok(());
                }
            }
        }
        self.end_file()?;
        if let Target::Files(files) = &mut self.target {
            files.begin(now)?;
        }
        self.waiting.extend_from_slice(&self.headers);
        Ok(())
    }

    /// Writes what was taken.
    ///
    /// # Errors
    /// As the file or pipe says. A file then ends with its last whole block.
    pub fn flush(&mut self) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.waiting);
        let written = match &mut self.target {
            Target::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(&bytes).and_then(|()| stdout.flush())
            }
            Target::File(one) => one.write(&bytes),
            Target::Files(files) => match files.current.as_mut() {
                Some((one, _)) => one.write(&bytes),
                None => Ok(()),
            },
        };
        self.waiting = bytes;
        self.waiting.clear();
        written
    }

    /// Writes the sums, and what still waits: the end of the last file.
    ///
    /// # Errors
    /// As the file or pipe says.
    pub fn end_file(&mut self) -> io::Result<()> {
        for sums in self.sums.iter().flatten() {
            self.waiting.extend_from_slice(sums);
        }
        self.flush()
    }
}

impl OneFile {
    fn create(path: PathBuf) -> io::Result<OneFile> {
        let file = File::create(&path)?;
        Ok(OneFile { path, file, len: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut written = 0;
        while written < bytes.len() {
            match self.file.write(&bytes[written..]) {
                Ok(len) => written += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // Half a block would make readers complain of the whole file.
                    let whole = self.len + whole_blocks(&bytes[..written]) as u64;
                    let _ = self.file.set_len(whole);
                    self.len = whole;
                    return Err(error);
                }
            }
        }
        self.len += bytes.len() as u64;
        Ok(())
    }
}

/// Bytes of the whole blocks that `bytes` begins with.
fn whole_blocks(bytes: &[u8]) -> usize {
    let mut end = 0;
    while let Some(len) =
        bytes.get(end + 4..end + 8).and_then(|len| len.try_into().ok()).map(u32::from_ne_bytes)
        && len >= 12
        && end + len as usize <= bytes.len()
    {
        end += len as usize;
    }
    end
}

impl Files {
    fn begin(&mut self, now: Instant) -> io::Result<()> {
        self.number += 1;
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let name = match self.path.extension() {
            Some(extension) => format!("{stem}-{:05}.{}", self.number, extension.to_string_lossy()),
            None => format!("{stem}-{:05}", self.number),
        };
        let path = self.path.with_file_name(name);
        if let Some(keep) = self.rotation.keep {
            // The one before is whole; room is made before more is written.
            while self.kept.len() >= keep
                && let Some(oldest) = self.kept.pop_front()
            {
                match std::fs::remove_file(&oldest) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    Ok(()) | Err(_) => {}
                }
            }
        }
        self.kept.push_back(path.clone());
        self.current = Some((OneFile::create(path)?, now));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::pcapng::{self, Blocks, FrameRecord, Totals, Way};
    use super::*;

    #[test]
    fn rotations_read_as_they_are_meant() {
        let of = |text: &str| text.parse::<Rotation>();
        assert_eq!(of("100M"), Ok(Rotation { limit: Limit::Size(100 << 20), keep: None }));
        assert_eq!(of("10m"), Ok(Rotation { limit: Limit::Age(Duration::from_secs(600)), keep: None }));
        assert_eq!(of("1G,keep 5"), Ok(Rotation { limit: Limit::Size(1 << 30), keep: Some(5) }));
        assert_eq!(
            of("60s,keep=2"),
            Ok(Rotation { limit: Limit::Age(Duration::from_secs(60)), keep: Some(2) })
        );
        for bad in ["", "1", "M", "10x", "0s", "100M,", "100M,keep", "100M,keep 0", "100M,5", "99999999999G"]
        {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    /// Frames of 1,000 bytes, sums after each, through a rotation of `text`.
    fn write(dir: &Path, text: &str, frames: u64) -> Vec<PathBuf> {
        let mut output = Output::open(&dir.join("x.pcapng"), Some(text.parse().unwrap())).unwrap();
        let mut stream = Vec::new();
        pcapng::section(&mut stream, "test");
        pcapng::interface(&mut stream, "a", "", "", 100);
        for id in 0..frames {
            let record = FrameRecord {
                interface: 0,
                date_ns: id,
                len: 1000,
                bytes: &[0; 1000],
                way: Way::Inbound,
                id,
                drops: 0,
                comment: "to b",
            };
            pcapng::frame(&mut stream, &record);
            let totals = Totals { delivered: id + 1, ..Totals::default() };
            pcapng::statistics(&mut stream, 0, 0, id, &totals);
        }
        let mut blocks = Blocks::default();
        blocks.feed(&stream);
        #[expect(clippy::disallowed_methods, reason = "files have an age")]
        let now = Instant::now();
        while let Some((kind, block)) = blocks.next_block().unwrap() {
            output.take(kind, block, now).unwrap();
            output.flush().unwrap();
        }
        output.end_file().unwrap();
        let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    fn kinds(path: &Path) -> Vec<u32> {
        let mut blocks = Blocks::default();
        blocks.feed(&std::fs::read(path).unwrap());
        let mut kinds = Vec::new();
        while let Some((kind, _)) = blocks.next_block().unwrap() {
            kinds.push(kind);
        }
        assert!(blocks.is_between_blocks());
        kinds
    }

    #[test]
    fn each_file_is_whole_by_itself_and_the_oldest_go() {
        use pcapng::{FRAME, INTERFACE, SECTION, STATISTICS};
        let dir = tempfile::tempdir().unwrap();
        let files = write(dir.path(), "4096", 10);
        assert_eq!(files.len(), 4, "{files:?}");
        for file in &files[..3] {
            assert_eq!(
                kinds(file),
                [SECTION, INTERFACE, FRAME, FRAME, FRAME, STATISTICS],
                "{}",
                file.display()
            );
            assert!(std::fs::metadata(file).unwrap().len() < 4096 + 200);
        }
        assert_eq!(kinds(&files[3]), [SECTION, INTERFACE, FRAME, STATISTICS]);

        let dir = tempfile::tempdir().unwrap();
        let files = write(dir.path(), "4096,keep 2", 10);
        let names: Vec<_> = files.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["x-00003.pcapng", "x-00004.pcapng"]);
    }

    #[test]
    fn half_a_block_is_found() {
        let mut bytes = Vec::new();
        pcapng::section(&mut bytes, "test");
        let first = bytes.len();
        pcapng::state(&mut bytes, b"{}");
        assert_eq!(whole_blocks(&bytes), bytes.len());
        assert_eq!(whole_blocks(&bytes[..bytes.len() - 1]), first);
        assert_eq!(whole_blocks(&bytes[..first + 3]), first);
        assert_eq!(whole_blocks(&bytes[..5]), 0);
    }
}
