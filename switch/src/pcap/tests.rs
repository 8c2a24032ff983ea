//! Files of either kind and byte order, and files that are damaged.

use super::*;
use proptest::prelude::*;

/// Writes numbers as a machine of the other, or the same, byte order does.
#[derive(Clone, Copy)]
struct Writer(Order);

impl Writer {
    fn u16(self, value: u16) -> Vec<u8> {
        if self.0 == Order::Big { value.to_be_bytes().into() } else { value.to_le_bytes().into() }
    }

    fn u32(self, value: u32) -> Vec<u8> {
        if self.0 == Order::Big { value.to_be_bytes().into() } else { value.to_le_bytes().into() }
    }

    fn block(self, kind: u32, body: &[u8]) -> Vec<u8> {
        let padded = body.len().next_multiple_of(4);
        let len = self.u32(u32::try_from(padded + 12).unwrap());
        let mut block = [self.u32(kind), len.clone(), body.to_vec()].concat();
        block.resize(padded + 8, 0);
        [block, len].concat()
    }

    fn option(self, code: u16, value: &[u8]) -> Vec<u8> {
        let mut option =
            [self.u16(code), self.u16(u16::try_from(value.len()).unwrap()), value.into()].concat();
        option.resize(option.len().next_multiple_of(4), 0);
        option
    }

    fn section(self) -> Vec<u8> {
        self.block(0x0a0d_0d0a, &[self.u32(0x1a2b_3c4d), self.u16(1), self.u16(0), vec![0xff; 8]].concat())
    }

    fn interface(self, name: &str, options: &[u8]) -> Vec<u8> {
        let fixed = [self.u16(1), self.u16(0), self.u32(0)].concat();
        self.block(1, &[fixed, self.option(2, name.as_bytes()), options.into(), vec![0; 4]].concat())
    }

    fn frame(self, interface: u32, date: u64, len: u32, bytes: &[u8], options: &[u8]) -> Vec<u8> {
        let captured_len = u32::try_from(bytes.len()).unwrap();
        let high = u32::try_from(date >> 32).unwrap();
        let low = u32::try_from(date & 0xffff_ffff).unwrap();
        let numbers = [interface, high, low, captured_len, len].map(|number| self.u32(number)).concat();
        let mut body = [numbers, bytes.into()].concat();
        body.resize(body.len().next_multiple_of(4), 0);
        self.block(6, &[body, options.into()].concat())
    }

    /// Two interfaces, three frames, a block of ours, and a second section.
    fn file(self) -> Vec<u8> {
        let inbound = [self.option(2, &self.u32(1)), self.option(1, b"learned a; flooded to b"), vec![0; 4]];
        [
            self.section(),
            self.interface("a", &self.option(9, &[9])),
            self.interface("b", &[]),
            self.frame(0, 1_700_000_000_000_000_005, 60, &[7; 60], &inbound.concat()),
            self.block(0x8056_5357, b"abcd"),
            self.block(5, &[0; 12]),
            self.frame(1, 1_700_000_000_000_002, 1514, &[8; 61], &[]),
            self.block(3, &[self.u32(3), vec![1, 2, 3]].concat()),
            self.section(),
            self.interface("c", &self.option(9, &[0x80 | 10])),
            self.frame(0, 1024 + 512, 1, &[9], &[]),
        ]
        .concat()
    }
}

fn items(file: &[u8]) -> Result<Vec<Item>, ReadError> {
    let mut reader = Reader::new(file)?;
    let mut items = Vec::new();
    while let Some(item) = reader.next_item()? {
        items.push(item);
    }
    Ok(items)
}

fn interface(name: &str) -> Item {
    Item::Interface(Interface { name: name.to_owned() })
}

#[test]
fn pcapng_of_either_byte_order() {
    for order in [Order::Little, Order::Big] {
        let frame = |interface, date_ns, len, bytes: &[u8]| Captured {
            interface,
            date_ns,
            len,
            bytes: bytes.to_vec(),
            ..Captured::default()
        };
        let first = Captured {
            way: Way::Inbound,
            comments: vec!["learned a; flooded to b".to_owned()],
            ..frame(0, 1_700_000_000_000_000_005, 60, &[7; 60])
        };
        assert_eq!(
            items(&Writer(order).file()).unwrap(),
            [
                interface("a"),
                interface("b"),
                Item::Frame(first),
                Item::Other { kind: 0x8056_5357, body: b"abcd".to_vec() },
                Item::Frame(frame(1, 1_700_000_000_000_002_000, 1514, &[8; 61])),
                Item::Frame(frame(0, 0, 3, &[1, 2, 3])),
                interface("c"),
                Item::Frame(frame(2, 1_500_000_000, 1, &[9])),
            ]
        );
    }
}

#[test]
fn pcap_of_either_byte_order_and_resolution() {
    for order in [Order::Little, Order::Big] {
        for (magic, fraction_ns) in [(0xa1b2_c3d4, 1000), (0xa1b2_3c4d, 1)] {
            let to = Writer(order);
            let header = [to.u32(magic), vec![0; 16], to.u32(1)].concat();
            let frame = [to.u32(10), to.u32(7), to.u32(3), to.u32(1500), vec![1, 2, 3]].concat();
            let expected = Captured {
                date_ns: 10_000_000_000 + 7 * fraction_ns,
                len: 1500,
                bytes: vec![1, 2, 3],
                ..Captured::default()
            };
            let file = [header.clone(), frame].concat();
            assert_eq!(items(&file).unwrap(), [interface(""), Item::Frame(expected)]);
            let error = items(&file[..file.len() - 1]).unwrap_err().to_string();
            assert_eq!(error, "cut short at byte 24: whoever wrote it was interrupted");
            let raw = [&header[..20], &to.u32(101)].concat();
            assert!(items(&raw).unwrap_err().to_string().starts_with("link type 101"));
        }
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let to = Writer(Order::Little);
    for (file, words) in [
        (Vec::new(), "neither pcapng nor pcap"),
        (b"GIF89a".to_vec(), "neither pcapng nor pcap"),
        ([to.section(), to.block(6, &[])].concat(), "damaged at byte 28: a block that is too short"),
        (
            [to.section(), to.frame(0, 0, 0, &[], &[])].concat(),
            "damaged at byte 28: a block that is too short",
        ),
        ([to.section(), to.u32(6), to.u32(13)].concat(), "damaged at byte 28: a block of an impossible"),
        ([to.section(), to.u32(6), to.u32(1 << 30)].concat(), "damaged at byte 28: a length of more"),
        ([to.section(), to.u32(6), to.u32(16), vec![0; 8]].concat(), "ends with another length"),
        ([to.u32(0x0a0d_0d0a), to.u32(28), vec![0; 20]].concat(), "a section without a byte order"),
    ] {
        let error = items(&file).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let whole = to.file();
    let last = whole.len() - to.frame(0, 0, 1, &[9], &[]).len();
    let error = items(&whole[..whole.len() - 2]).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cut short at byte {last}:")), "{error}");
}

proptest! {
    /// Damage is an error, never a panic, and never much memory.
    #[test]
    fn damaged_files_are_read_or_refused(
        flips in prop::collection::vec((0..600usize, any::<u8>()), 0..12),
        cut in 0..700usize,
        big in any::<bool>(),
    ) {
        let mut file = Writer(if big { Order::Big } else { Order::Little }).file();
        for (at, byte) in flips {
            if let Some(place) = file.get_mut(at) {
                *place = byte;
            }
        }
        file.truncate(cut);
        let _ = items(&file);
    }

    #[test]
    fn random_bytes_are_no_capture_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = items(&bytes);
        let _ = items(&[Writer(Order::Little).section(), bytes].concat());
    }
}
