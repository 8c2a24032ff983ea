//! Names and identities that follow from the lab file alone: the same on every
//! host and at every start, so that teardown and a guest's own configuration
//! find what they knew.
//!
//! Nothing is looked up here. Whether a name is free is found out by whoever
//! makes the thing.

use std::fmt::Write;
use std::net::Ipv4Addr;

use sha2::{Digest, Sha256};
use vswitch::frame::MacAddr;

/// Longest name of a lab or a guest, in bytes.
pub const NAME_LEN_MAX: usize = 20;
/// Longest name of a network, in bytes.
pub const NETWORK_LEN_MAX: usize = 10;

/// Whether `name` is `[a-z][a-z0-9-]*` of at most `len_max` bytes.
pub fn is_name(name: &str, len_max: usize) -> bool {
    (1..=len_max).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// The nearest thing to `text` that is a lab name; `lab` where nothing is left.
pub fn to_name(text: &str) -> String {
    let spelt: String = text
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .collect();
    let trimmed = spelt.trim_start_matches(|c: char| !c.is_ascii_lowercase());
    let cut = trimmed.get(..NAME_LEN_MAX).unwrap_or(trimmed).trim_end_matches('-');
    if cut.is_empty() { "lab".to_owned() } else { cut.to_owned() }
}

fn hash(parts: &[&str]) -> [u8; 32] {
    Sha256::digest(parts.join("/")).into()
}

/// How a guest's `index`th NIC (from 0) on `network` is called in hashes and
/// on the switch: the plain name first, then `name.1`, `name.2`.
pub fn numbered(name: &str, index: usize) -> String {
    if index == 0 { name.to_owned() } else { format!("{name}.{index}") }
}

/// A locally administered MAC: `02` and five bytes of SHA-256(lab/guest/net).
pub fn mac(lab: &str, guest: &str, net: &str) -> MacAddr {
    let digest = hash(&[lab, guest, net]);
    MacAddr::new([0x02, digest[0], digest[1], digest[2], digest[3], digest[4]])
}

/// An interface name of at most 15 bytes: `vl-`, five letters of the guest,
/// `-`, six base32 digits of SHA-256(uid/lab/guest/net). The letters are for
/// the reader; the digits keep guests apart whose names begin alike.
pub fn interface(uid: u32, lab: &str, guest: &str, net: &str) -> String {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let digest = hash(&[&uid.to_string(), lab, guest, net]);
    let word = u64::from_be_bytes([
        digest[0], digest[1], digest[2], digest[3], digest[4], digest[5], digest[6], digest[7],
    ]);
    let letters = guest.get(..5).unwrap_or(guest);
    let mut name = format!("vl-{letters}-");
    for place in 0..6 {
        let digit = (word >> (59 - 5 * place)) & 31;
        name.push(char::from(DIGITS[usize::from(u8::try_from(digit).unwrap_or(0))]));
    }
    name
}

/// The machine's UUID, from SHA-256(lab/guest); version 8, as RFC 9562 names
/// identifiers with a hash of one's own.
pub fn uuid(lab: &str, guest: &str) -> String {
    let mut bytes = hash(&[lab, guest]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (i, byte) in bytes[..16].iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The first port to try for a guest's ssh forward: below the kernel's
/// ephemeral range (32768), so that no outgoing connection sits on it.
pub fn ssh_port(uid: u32, lab: &str, guest: &str) -> u16 {
    let digest = hash(&[&uid.to_string(), lab, guest, "ssh"]);
    20_000 + u16::from_be_bytes([digest[0], digest[1]]) % 12_000
}

/// An IPv4 network in CIDR notation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Subnet {
    /// The network's address, host bits zero.
    pub network: Ipv4Addr,
    /// Bits of the prefix, 1 to 30.
    pub prefix_len: u8,
}

impl Subnet {
    /// Reads `192.168.1.0/24`; says what is wrong otherwise.
    pub fn parse(text: &str) -> Result<Subnet, String> {
        let form = || format!("`{text}` is not ADDRESS/PREFIX, as in 192.168.1.0/24");
        let (address, prefix_len) = text.split_once('/').ok_or_else(form)?;
        let network: Ipv4Addr = address.parse().map_err(|_| form())?;
        let prefix_len: u8 = prefix_len.parse().map_err(|_| form())?;
        if !(1..=30).contains(&prefix_len) {
            return Err(format!("the prefix of `{text}` must be between 1 and 30"));
        }
        let subnet = Subnet { network, prefix_len };
        let base = Ipv4Addr::from_bits(network.to_bits() & subnet.mask());
        if base != network {
            return Err(format!("`{text}` has host bits set: write {base}/{prefix_len}"));
        }
        Ok(subnet)
    }

    /// The netmask as a number.
    pub fn mask(&self) -> u32 {
        u32::MAX << (32 - u32::from(self.prefix_len))
    }

    /// Whether a host may have `address` here.
    pub fn holds(&self, address: Ipv4Addr) -> bool {
        let host = address.to_bits() & !self.mask();
        address.to_bits() & self.mask() == self.network.to_bits() && host != 0 && host != !self.mask()
    }

    /// Whether the two share an address.
    pub fn overlaps(&self, other: Subnet) -> bool {
        let mask = self.mask() & other.mask();
        self.network.to_bits() & mask == other.network.to_bits() & mask
    }

    /// An address for the owner of `mac` that `taken` does not hold: chosen by
    /// the MAC, so that it outlives edits of the file around it. `None` when
    /// the network is full.
    pub fn choose(&self, mac: MacAddr, taken: &[Ipv4Addr]) -> Option<Ipv4Addr> {
        let hosts = !self.mask() - 1;
        let [_, _, a, b, c, d] = mac.octets();
        let start = u32::from_be_bytes([a, b, c, d]);
        // Only as many candidates as can be taken, and one more.
        (0..=u32::try_from(taken.len()).unwrap_or(u32::MAX).min(hosts - 1))
            .map(|step| self.network.to_bits() + 1 + (start % hosts + step) % hosts)
            .map(Ipv4Addr::from_bits)
            .find(|address| !taken.contains(address))
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_are_the_documented_ones() {
        assert_eq!(mac("ping", "zero", "lan").to_string(), "02:bb:79:c6:45:9b");
        assert_eq!(mac("ping", "one", "lan").to_string(), "02:75:79:73:67:41");
    }

    #[test]
    fn interface_names_fit_and_differ() {
        let name = interface(1000, "ping", "zero", "lan");
        assert!(name.starts_with("vl-zero-") && name.len() == 14, "{name}");
        let long = interface(1000, "ping", "firewall-one", "lan");
        assert!(long.starts_with("vl-firew-") && long.len() == 15, "{long}");
        assert_ne!(long, interface(1000, "ping", "firewall-two", "lan"));
        assert_ne!(name, interface(1001, "ping", "zero", "lan"));
        assert_ne!(name, interface(1000, "ping", "zero", "lan.1"));
        assert!(long.parse::<vswitch::port::PortSpec>().is_ok());
    }

    #[test]
    fn uuids_have_their_form() {
        let id = uuid("ping", "zero");
        assert_eq!(id.len(), 36);
        assert_eq!(id.as_bytes()[14], b'8');
        assert!(matches!(id.as_bytes()[19], b'8' | b'9' | b'a' | b'b'), "{id}");
        assert_ne!(id, uuid("ping", "one"));
    }

    #[test]
    fn names() {
        for (text, good) in [
            ("a", true),
            ("ping-2", true),
            ("", false),
            ("2a", false),
            ("A", false),
            ("a_b", false),
            ("-", false),
        ] {
            assert_eq!(is_name(text, 20), good, "{text:?}");
        }
        assert!(!is_name("abcdefghijk", NETWORK_LEN_MAX));
        assert_eq!(to_name("My Lab (2)"), "my-lab--2");
        assert_eq!(to_name("2024"), "lab");
        assert!(is_name(&to_name("a-very-long-folder-name-indeed"), NAME_LEN_MAX));
    }

    #[test]
    fn subnets() {
        let lan = Subnet::parse("192.168.1.0/24").unwrap();
        assert!(lan.holds(Ipv4Addr::new(192, 168, 1, 150)));
        for outside in ["192.168.1.0", "192.168.1.255", "192.168.2.1"] {
            assert!(!lan.holds(outside.parse().unwrap()), "{outside}");
        }
        assert!(lan.overlaps(Subnet::parse("192.168.0.0/16").unwrap()));
        assert!(!lan.overlaps(Subnet::parse("192.168.2.0/24").unwrap()));
        assert!(Subnet::parse("192.168.1.1/24").unwrap_err().contains("write 192.168.1.0/24"));
        for bad in ["192.168.1.0", "x/24", "192.168.1.0/31", "0.0.0.0/0"] {
            assert!(Subnet::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn chosen_addresses_are_free_until_the_network_is_full() {
        let small = Subnet::parse("10.0.0.0/29").unwrap();
        let mut taken = Vec::new();
        for guest in 0..6 {
            let address = small.choose(mac("ping", &format!("g{guest}"), "lan"), &taken).unwrap();
            assert!(small.holds(address) && !taken.contains(&address));
            taken.push(address);
        }
        assert_eq!(small.choose(mac("ping", "last", "lan"), &taken), None);
    }
}
