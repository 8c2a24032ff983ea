//! Blocks of a pcapng file, written into memory, and found again in a stream.
//!
//! Read first: draft-ietf-opsawg-pcapng, sections 3 (blocks and options) and 4
//! (their kinds). Numbers are in the machine's own byte order, as the section
//! header says.
//!
//! Deliberately absent: what the frames mean (`session`), and files (`keep`).

/// Section header block.
pub const SECTION: u32 = 0x0a0d_0d0a;
/// Interface description block.
pub const INTERFACE: u32 = 1;
/// Interface statistics block.
pub const STATISTICS: u32 = 5;
/// Enhanced packet block: a frame.
pub const FRAME: u32 = 6;
/// Our own, out of the range for local use: readers that do not know it pass
/// over it. (They show a Custom Block as if it were a frame.)
pub const STATE: u32 = 0x8056_5357;

/// No block of ours is longer: a frame of 128 KiB, or an FDB part of 8,192
/// entries.
pub const BLOCK_MAX: usize = 16 << 20;

/// The most bytes of an option's value.
const OPTION_MAX: usize = u16::MAX as usize;

const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const LINK_ETHERNET: u16 = 1;
/// Times are in nanoseconds.
const RESOLUTION_NS: u8 = 9;

const OPT_END: u16 = 0;
const OPT_COMMENT: u16 = 1;
const SECTION_APPLICATION: u16 = 4;
const INTERFACE_NAME: u16 = 2;
const INTERFACE_DESCRIPTION: u16 = 3;
const INTERFACE_RESOLUTION: u16 = 9;
const INTERFACE_FILTER: u16 = 11;
const FRAME_FLAGS: u16 = 2;
const FRAME_DROPS: u16 = 4;
const FRAME_ID: u16 = 5;
const STATISTICS_START: u16 = 2;
const STATISTICS_END: u16 = 3;
const STATISTICS_RECEIVED: u16 = 4;
const STATISTICS_DROPPED: u16 = 5;
const STATISTICS_ACCEPTED: u16 = 6;
const STATISTICS_OS_DROPPED: u16 = 7;
const STATISTICS_DELIVERED: u16 = 8;

/// Which way a frame crossed its interface (bits 0 and 1 of `epb_flags`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Into the switch.
    Inbound = 1,
    /// Out of it.
    Outbound = 2,
}

/// A frame as it is written.
#[derive(Clone, Copy, Debug)]
pub struct FrameRecord<'r> {
    /// Number of its interface.
    pub interface: u32,
    /// Nanoseconds since 1970.
    pub date_ns: u64,
    /// Bytes as it crossed.
    pub len: u32,
    /// The first of them.
    pub bytes: &'r [u8],
    /// Which way.
    pub way: Way,
    /// Joins the records of one frame.
    pub id: u64,
    /// Frames of this interface that were missed since the last one.
    pub drops: u64,
    /// In words.
    pub comment: &'r str,
}

/// Totals of one interface, as `isb_` options.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Frames that crossed it.
    pub received: u64,
    /// Of them, those that the capture missed.
    pub dropped: u64,
    /// Of the rest, those that the filter accepted.
    pub accepted: u64,
    /// Of these, those that the reader was too slow for.
    pub os_dropped: u64,
    /// And those that were written.
    pub delivered: u64,
}

/// Writes a section header.
pub fn section(out: &mut Vec<u8>, application: &str) {
    let block = Open::new(out, SECTION);
    put_u32(out, BYTE_ORDER);
    put_u16(out, 1);
    put_u16(out, 0);
    // The length of the section is not known yet.
    put_u64(out, u64::MAX);
    option(out, SECTION_APPLICATION, application.as_bytes());
    block.close_options(out);
}

/// Writes the description of the next interface.
pub fn interface(out: &mut Vec<u8>, name: &str, description: &str, filter: &str, snaplen: u32) {
    let block = Open::new(out, INTERFACE);
    put_u16(out, LINK_ETHERNET);
    put_u16(out, 0);
    put_u32(out, snaplen);
    option(out, INTERFACE_NAME, name.as_bytes());
    option(out, INTERFACE_DESCRIPTION, description.as_bytes());
    option(out, INTERFACE_RESOLUTION, &[RESOLUTION_NS]);
    if !filter.is_empty() {
        // Its first byte says that the filter is text.
        let filter = whole_chars(filter, OPTION_MAX - 1);
        option(out, INTERFACE_FILTER, &[&[0], filter.as_bytes()].concat());
    }
    block.close_options(out);
}

/// Writes a frame. There are millions a second: lengths are known beforehand, and
/// what is always there is written at once.
pub fn frame(out: &mut Vec<u8>, record: &FrameRecord<'_>) {
    let FrameRecord { interface, date_ns, len, bytes, way, id, drops, comment } = *record;
    let comment = &comment.as_bytes()[..comment.len().min(OPTION_MAX)];
    let options = FLAGS_AND_ID + if drops > 0 { 12 } else { 0 } + 4 + padded(comment.len()) + 4;
    let whole = len_u32(FRAME_HEAD + padded(bytes.len()) + options + 4);
    out.reserve(whole as usize);
    let mut head = [0; FRAME_HEAD];
    let [high, low] = halves(date_ns);
    let words = [FRAME, whole, interface, high, low, len_u32(bytes.len()), len];
    for (to, word) in head.as_chunks_mut().0.iter_mut().zip(words) {
        *to = word.to_ne_bytes();
    }
    out.extend_from_slice(&head);
    out.extend_from_slice(bytes);
    pad_behind(out, bytes.len());
    let mut options = [0; FLAGS_AND_ID];
    let (flags, rest) = options.split_at_mut(8);
    put_option_head(flags, FRAME_FLAGS, 4);
    flags[4..].copy_from_slice(&(way as u32).to_ne_bytes());
    put_option_head(rest, FRAME_ID, 8);
    rest[4..].copy_from_slice(&id.to_ne_bytes());
    out.extend_from_slice(&options);
    if drops > 0 {
        option(out, FRAME_DROPS, &drops.to_ne_bytes());
    }
    put_u16(out, OPT_COMMENT);
    // It is no longer than that.
    put_u16(out, u16::try_from(comment.len()).unwrap_or(u16::MAX));
    out.extend_from_slice(comment);
    pad_behind(out, comment.len());
    // The end of options, which is all zeroes.
    put_u32(out, u32::from(OPT_END));
    put_u32(out, whole);
}

/// What a frame's bytes stand behind.
const FRAME_HEAD: usize = 28;

/// Two options that each frame has.
const FLAGS_AND_ID: usize = 8 + 12;

const fn padded(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// Pads what has `len` bytes.
fn pad_behind(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&[0; 3][..padded(len) - len]);
}

fn put_option_head(out: &mut [u8], code: u16, len: u16) {
    out[..2].copy_from_slice(&code.to_ne_bytes());
    out[2..4].copy_from_slice(&len.to_ne_bytes());
}

/// Writes the totals of an interface from `start_ns` to `end_ns`.
pub fn statistics(out: &mut Vec<u8>, interface: u32, start_ns: u64, end_ns: u64, totals: &Totals) {
    let block = Open::new(out, STATISTICS);
    put_u32(out, interface);
    put_date(out, end_ns);
    for (code, date) in [(STATISTICS_START, start_ns), (STATISTICS_END, end_ns)] {
        let mut bytes = Vec::with_capacity(8);
        put_date(&mut bytes, date);
        option(out, code, &bytes);
    }
    for (code, number) in [
        (STATISTICS_RECEIVED, totals.received),
        (STATISTICS_DROPPED, totals.dropped),
        (STATISTICS_ACCEPTED, totals.accepted),
        (STATISTICS_OS_DROPPED, totals.os_dropped),
        (STATISTICS_DELIVERED, totals.delivered),
    ] {
        option(out, code, &number.to_ne_bytes());
    }
    block.close_options(out);
}

/// Writes a block of our own: its length, and `json`.
pub fn state(out: &mut Vec<u8>, json: &[u8]) {
    let block = Open::new(out, STATE);
    put_u32(out, len_u32(json.len()));
    out.extend_from_slice(json);
    pad(out);
    block.close(out);
}

/// The JSON in a block of our own, as [`Blocks`] found it.
pub fn json_of(block: &[u8]) -> Option<&[u8]> {
    let len = u32::from_ne_bytes(*block.get(8..)?.first_chunk()?) as usize;
    block.get(12..12 + len)
}

/// A block whose length is not known yet.
struct Open {
    start: usize,
}

impl Open {
    fn new(out: &mut Vec<u8>, kind: u32) -> Open {
        let start = out.len();
        put_u32(out, kind);
        put_u32(out, 0);
        Open { start }
    }

    fn close_options(self, out: &mut Vec<u8>) {
        put_u16(out, OPT_END);
        put_u16(out, 0);
        self.close(out);
    }

    fn close(self, out: &mut Vec<u8>) {
        let len = len_u32(out.len() + 4 - self.start);
        out[self.start + 4..self.start + 8].copy_from_slice(&len.to_ne_bytes());
        put_u32(out, len);
    }
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    // Longer ones are cut: a comment that names 256 ports still fits.
    let value = &value[..value.len().min(OPTION_MAX)];
    put_u16(out, code);
    put_u16(out, u16::try_from(value.len()).unwrap_or(u16::MAX));
    out.extend_from_slice(value);
    pad(out);
}

/// As much of `text` as `room` bytes hold, without a part of a character: texts are
/// UTF-8, as the draft says.
fn whole_chars(text: &str, room: usize) -> &str {
    let mut len = text.len().min(room);
    while !text.is_char_boundary(len) {
        len -= 1;
    }
    &text[..len]
}

fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_ne_bytes());
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_ne_bytes());
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_ne_bytes());
}

/// A date, its high half first whatever the byte order.
fn put_date(out: &mut Vec<u8>, date: u64) {
    let [high, low] = halves(date);
    put_u32(out, high);
    put_u32(out, low);
}

fn halves(date: u64) -> [u32; 2] {
    [date >> 32, date & u64::from(u32::MAX)].map(|half| u32::try_from(half).unwrap_or(u32::MAX))
}

fn pad(out: &mut Vec<u8>) {
    // Every block starts at a multiple of four: so do they all within `out`
    // only if it did, which is why lengths are rounded, not positions.
    while !out.len().is_multiple_of(4) {
        out.push(0);
    }
}

/// Lengths are bounded by [`BLOCK_MAX`].
fn len_u32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Whole blocks out of a stream that comes in pieces.
#[derive(Debug, Default)]
pub struct Blocks {
    bytes: Vec<u8>,
    start: usize,
}

/// A stream that is no pcapng of this machine's byte order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a block of {0} bytes: the stream is damaged")]
pub struct Damaged(u32);

impl Blocks {
    /// Takes more of the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next block, its kind and all of its bytes, if it is there.
    ///
    /// # Errors
    /// Its length cannot be.
    pub fn next_block(&mut self) -> Result<Option<(u32, &[u8])>, Damaged> {
        let rest = &self.bytes[self.start..];
        let Some(&[a, b, c, d, e, f, g, h]) = rest.first_chunk::<8>() else { return Ok(None) };
        let (kind, len) = (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]));
        let whole = len as usize;
        if whole < 12 || !whole.is_multiple_of(4) || whole > BLOCK_MAX {
            return Err(Damaged(len));
        }
        if rest.len() < whole {
            return Ok(None);
        }
        let from = self.start;
        self.start += whole;
        Ok(Some((kind, &self.bytes[from..from + whole])))
    }

    /// Whether a part of a block waits for the rest.
    pub fn is_between_blocks(&self) -> bool {
        self.start == self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Vec<u8> {
        let mut out = Vec::new();
        section(&mut out, "vswitch test");
        interface(&mut out, "tap0", "netdev tap0", "arp", 262_144);
        frame(
            &mut out,
            &FrameRecord {
                interface: 0,
                date_ns: 1_700_000_000_000_000_005,
                len: 1514,
                bytes: &[7; 61],
                way: Way::Inbound,
                id: 9,
                drops: 3,
                comment: "to tap1",
            },
        );
        state(&mut out, b"{}x");
        statistics(&mut out, 0, 1, 2, &Totals { received: 5, dropped: 3, ..Totals::default() });
        out
    }

    #[test]
    fn blocks_are_found_again_however_they_come() {
        let file = file();
        for step in [1, 7, file.len()] {
            let mut blocks = Blocks::default();
            let mut kinds = Vec::new();
            for piece in file.chunks(step) {
                blocks.feed(piece);
                while let Some((kind, block)) = blocks.next_block().unwrap() {
                    assert_eq!(block[block.len() - 4..], block[4..8], "both lengths");
                    if kind == STATE {
                        assert_eq!(json_of(block), Some(&b"{}x"[..]));
                    }
                    kinds.push(kind);
                }
            }
            assert_eq!(kinds, [SECTION, INTERFACE, FRAME, STATE, STATISTICS]);
            assert!(blocks.is_between_blocks());
        }
    }

    /// What is written at once is what its parts would be, one after the other.
    #[test]
    fn frames_of_all_lengths_are_blocks_with_their_options() {
        for (len, drops) in (0..9u8).flat_map(|len| [(len, 0), (len, 7)]) {
            let bytes = vec![len; len.into()];
            let comment = &"to tap12"[..usize::from(8 - len)];
            let date_ns = 0x1234_5678_9abc_def0;
            let way = Way::Outbound;
            let record =
                FrameRecord { interface: 3, date_ns, len: 1514, bytes: &bytes, way, id: 9, drops, comment };
            // Behind another, whose length is no matter.
            let (mut written, mut expected) = (vec![1; 4 * usize::from(len)], vec![1; 4 * usize::from(len)]);
            frame(&mut written, &record);

            let block = Open::new(&mut expected, FRAME);
            for word in [3, 0x1234_5678, 0x9abc_def0, u32::from(len), 1514] {
                put_u32(&mut expected, word);
            }
            let put_padded = |out: &mut Vec<u8>, bytes: &[u8]| {
                out.extend_from_slice(bytes);
                out.resize(out.len() + bytes.len().next_multiple_of(4) - bytes.len(), 0);
            };
            put_padded(&mut expected, &bytes);
            let flags = u32::from(2u8).to_ne_bytes();
            let (id, drops_bytes) = (9u64.to_ne_bytes(), drops.to_ne_bytes());
            let options = [(2, &flags[..]), (5, &id), (4, &drops_bytes), (1, comment.as_bytes())];
            for (code, value) in options.into_iter().filter(|(code, _)| *code != 4 || drops > 0) {
                put_u16(&mut expected, code);
                put_u16(&mut expected, u16::try_from(value.len()).unwrap());
                put_padded(&mut expected, value);
            }
            block.close_options(&mut expected);
            assert_eq!(written, expected, "{len} bytes, {drops} drops");
        }
    }

    #[test]
    fn lengths_that_cannot_be_are_refused() {
        for len in [0u32, 8, 13, 1 << 30] {
            let mut blocks = Blocks::default();
            blocks.feed(&[&FRAME.to_ne_bytes()[..], &len.to_ne_bytes()].concat());
            assert_eq!(blocks.next_block(), Err(Damaged(len)));
        }
    }

    #[test]
    fn a_filter_that_is_too_long_is_cut_between_characters() {
        // 65,534 bytes are room for 21,844 of three bytes, and two more.
        let mut out = Vec::new();
        interface(&mut out, "a", "", &"\u{20ac}".repeat(30_000), 96);
        let text = "\u{20ac}".repeat(21_844);
        let at = out.windows(4).position(|four| four == &text.as_bytes()[..4]).unwrap();
        let len = u16::from_ne_bytes(*out[at - 3..].first_chunk().unwrap());
        assert_eq!(usize::from(len), 1 + text.len());
        assert_eq!(out[at..at + text.len()], *text.as_bytes());
        assert_eq!(whole_chars("arp", 9), "arp");
    }

    #[test]
    fn a_frame_is_laid_out_as_the_draft_says() {
        let file = file();
        let at = file.windows(4).position(|four| four == FRAME.to_ne_bytes()).unwrap();
        let word = |n: usize| u32::from_ne_bytes(*file[at + 4 * n..].first_chunk().unwrap());
        let date = 1_700_000_000_000_000_005u64;
        assert_eq!(u64::from(word(3)) << 32 | u64::from(word(4)), date);
        assert_eq!((word(2), word(5), word(6)), (0, 61, 1514));
        // 61 bytes and three of padding, then the flags.
        assert_eq!(
            word(7 + 16),
            u32::from_ne_bytes([FRAME_FLAGS.to_ne_bytes(), [4, 0]].concat().try_into().unwrap())
        );
        assert_eq!(word(7 + 17), Way::Inbound as u32);
    }
}
