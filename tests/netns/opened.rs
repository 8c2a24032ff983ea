//! A port by itself on a real device, driven by hand: what the data thread
//! does with it, one call at a time.

use std::time::Duration;

use anyhow::{Context as _, Result};
use vswitch::bridge::DropReason;
use vswitch::frame::Wire;
use vswitch::offload::VnetHeader;
use vswitch::port::{
    self, Burst, CloseOutcome, Device, DeviceState, Fault, IsolationMode, Losses, OpenError, OpenOptions,
    Port, Rx, Sent, Slots, gather,
};
use vswitch_tests::clock::wait_for;
use vswitch_tests::flow;
use vswitch_tests::netns::Netns;
use vswitch_tests::start;

/// Time for anything that is bound to happen.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// A frame as a port gave it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Got {
    pub(crate) bytes: Vec<u8>,
    pub(crate) vnet: VnetHeader,
    pub(crate) fault: Option<DropReason>,
}

/// An open port with its device, in a namespace that outlives both.
#[derive(Debug)]
pub(crate) struct Opened<'n> {
    ns: &'n Netns,
    pub(crate) port: Box<dyn Port>,
    device: Device,
    slots: Slots,
    pub(crate) notes: Vec<String>,
    /// The last fault that a `receive` ended with.
    pub(crate) fault: Option<Fault>,
}

/// Options for switch `switch`, whose name the test makes its own.
pub(crate) fn options(switch: &str) -> OpenOptions {
    OpenOptions {
        switch: switch.to_owned(),
        name: "port".to_owned(),
        run_id: "0123abcd".to_owned(),
        owner: 0,
        mtu: None,
        takeover: false,
        isolation: IsolationMode::Auto,
        fast: None,
    }
}

/// Opens `spec` in `ns`.
pub(crate) fn open<'n>(ns: &'n Netns, spec: &str, options: &OpenOptions) -> Result<Opened<'n>, OpenError> {
    let spec = spec.parse().map_err(|error| OpenError::Option(format!("{error}")))?;
    let opened = ns.enter(|| port::open(&spec, options))?;
    let port::Opened { port, device, notes, .. } = opened;
    let port = port.expect("an interface is a port from the start");
    Ok(Opened { ns, port, device, slots: Slots::new(), notes, fault: None })
}

/// The refusal of `spec` in `ns`, as the user reads it.
pub(crate) fn refusal(ns: &Netns, spec: &str, options: &OpenOptions) -> Result<String> {
    match open(ns, spec, options) {
        Ok(_) => anyhow::bail!("{spec} was opened"),
        Err(error) => Ok(error.to_string()),
    }
}

impl Opened<'_> {
    /// What one burst brings, which may be nothing.
    pub(crate) fn burst(&mut self) -> Vec<Got> {
        let mut burst = Burst::new(&mut self.slots);
        if let Rx::Fault(fault) = self.port.receive(&mut burst) {
            self.fault = Some(fault);
        }
        let got = burst.frames.iter().map(|frame| {
            let mut bytes = vec![0; usize::try_from(frame.len()).unwrap_or(0)];
            let len = gather(&Wire::of(frame), &mut bytes);
            bytes.truncate(len);
            Got { bytes, vnet: *frame.vnet(), fault: frame.fault() }
        });
        let got = got.collect();
        drop(burst);
        self.port.release();
        got
    }

    /// Receives until `count` frames have come.
    pub(crate) fn receive(&mut self, count: usize) -> Result<Vec<Got>> {
        let mut got = Vec::new();
        wait_for(&format!("{count} frames"), SOON, || {
            got.extend(self.burst());
            (got.len() >= count).then_some(())
        })
        .with_context(|| format!("{} came, {:?}", got.len(), self.fault))?;
        Ok(got)
    }

    /// Sends complete frames.
    pub(crate) fn send(&mut self, frames: &[&[u8]]) -> Sent {
        let wires: Vec<Wire<'_>> = frames.iter().map(|bytes| Wire::plain(bytes, &[])).collect();
        self.port.transmit(&wires)
    }

    /// Sends one frame with its virtio-net header.
    pub(crate) fn send_with(&mut self, vnet: VnetHeader, bytes: &[u8]) -> Sent {
        self.port.transmit(&[Wire { head: bytes, rest: &[], vnet }])
    }

    /// What the kernel says of the device now.
    pub(crate) fn examine(&mut self) -> Result<DeviceState> {
        let (ns, device) = (self.ns, &mut self.device);
        Ok(ns.enter(|| device.examine())?)
    }

    /// Losses at the device and of the port.
    pub(crate) fn losses(&mut self) -> Losses {
        let (at_port, device) = (self.port.losses(), &mut self.device);
        let at_device = self.ns.enter(|| device.losses());
        Losses {
            rx_missed: at_port.rx_missed + at_device.rx_missed,
            tx_lost: at_port.tx_lost + at_device.tx_lost,
        }
    }

    /// Changes the device's MTU as the control thread does.
    pub(crate) fn set_mtu(&mut self, mtu: u32) -> std::io::Result<()> {
        let device = &mut self.device;
        self.ns.enter(|| device.set_mtu(Some(mtu)))
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Closes the port, then the device, as the switch does.
    pub(crate) fn close(self) -> CloseOutcome {
        let Opened { ns, port, device, .. } = self;
        drop(port);
        start::settled();
        let outcome = ns.enter(|| device.close());
        start::settled();
        outcome
    }
}

/// Reads the next frame from the other end, with its virtio-net header if the
/// end has one.
pub(crate) fn read_one(from: &flow::Device) -> Result<(VnetHeader, Vec<u8>)> {
    let mut buffer = vec![0; 140_000];
    let len = wait_for("a frame at the other end", SOON, || from.read(&mut buffer).ok().flatten())?;
    let (prefix, frame) = buffer[..len].split_at(from.prefix_len());
    let vnet = prefix
        .first_chunk::<{ VnetHeader::LEN }>()
        .map_or(VnetHeader::PLAIN, |bytes| zerocopy::transmute!(*bytes));
    Ok((vnet, frame.to_vec()))
}

/// Writes one frame at the other end, behind `vnet` if the end has a header.
pub(crate) fn write_one(to: &flow::Device, vnet: &VnetHeader, frame: &[u8]) -> Result<()> {
    let prefix = &zerocopy::IntoBytes::as_bytes(vnet)[..to.prefix_len()];
    let bytes = [prefix, frame].concat();
    wait_for("room for a frame", SOON, || match to.write(&bytes) {
        Ok(true) => Some(Ok(())),
        Ok(false) => None,
        Err(error) => Some(Err(error)),
    })??;
    Ok(())
}

/// A frame of `len` bytes that no stack answers: EtherType 88b5, numbered.
pub(crate) fn numbered(number: u8, len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|at| at.to_le_bytes()[0] ^ number).collect();
    let header = [2, 0, 0, 0, 0, 0xaa, 2, 0, 0, 0, 0, 0xbb, 0x88, 0xb5];
    frame[..14].copy_from_slice(&header);
    frame
}
