//! The kernel as a finisher of frames: in by a packet socket, out by the fd of
//! a TAP that can do nothing itself.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use vswitch::offload::VnetHeader;
use vswitch_tests::flow::Device;
use vswitch_tests::netns::Netns;
use zerocopy::IntoBytes as _;

/// EtherType of the frame that says "these were all" (local experimental).
const END: [u8; 2] = [0x88, 0xb5];

/// A TAP in a namespace of its own.
pub(super) struct Cutter {
    _ns: Netns,
    input: Device,
    output: Device,
}

impl Cutter {
    pub(super) fn new(name: &str) -> Result<Cutter> {
        let ns = Netns::new(name)?;
        let output = Device::tap(&ns, name)?;
        // Larger than any frame here, as the kernel cuts where told, not at the MTU.
        ns.run(&format!("ip link set {name} mtu 9000 txqueuelen 5000 up"))?;
        let input = Device::packet_with_offloads(&ns, name)?;
        Ok(Cutter { _ns: ns, input, output })
    }

    /// The frames that the kernel makes of one.
    pub(super) fn cut(&self, vnet: &VnetHeader, frame: &[u8]) -> Result<Vec<Vec<u8>>> {
        ensure!(self.input.write(&[vnet.as_bytes(), frame].concat()).with_context(|| format!("{vnet:?}"))?);
        let mut end = [2u8; 60];
        end[12..14].copy_from_slice(&END);
        ensure!(self.input.write(&[VnetHeader::PLAIN.as_bytes(), &end].concat())?);
        let mut out = Vec::new();
        let mut buffer = vec![0; 10_000];
        loop {
            match self.output.read(&mut buffer)? {
                Some(len) if buffer[12..14] == END && len == end.len() => return Ok(out),
                Some(len) => out.push(buffer[..len].to_vec()),
                None => {
                    self.output.wait_readable(Duration::from_secs(5))?;
                    ensure!(out.len() < 1000, "an endless frame");
                }
            }
        }
    }
}
