//! What `ip` shows of an interface: state and counters, as the user sees them.

use serde_json::Value;

/// State of an interface, from `ip -j -s -d link`.
#[derive(Clone, Debug)]
pub struct Device(Value);

impl Device {
    pub(crate) fn new(shown: Value) -> Device {
        Device(shown)
    }

    /// Administratively up.
    pub fn is_up(&self) -> bool {
        self.has_flag("UP")
    }

    /// Up with a carrier.
    pub fn is_running(&self) -> bool {
        self.is_up() && self.has_flag("LOWER_UP")
    }

    /// MTU in bytes.
    pub fn mtu(&self) -> u64 {
        self.0["mtu"].as_u64().unwrap_or_default()
    }

    /// MAC address as text.
    pub fn mac(&self) -> String {
        self.0["address"].as_str().unwrap_or_default().to_owned()
    }

    /// Alias, empty if none.
    pub fn alias(&self) -> String {
        self.0["ifalias"].as_str().unwrap_or_default().to_owned()
    }

    /// Frames that the device took from us and lost (`tx_dropped`).
    pub fn tx_dropped(&self) -> u64 {
        self.0["stats64"]["tx"]["dropped"].as_u64().unwrap_or_default()
    }

    /// Frames that came in by the device.
    pub fn rx_packets(&self) -> u64 {
        self.0["stats64"]["rx"]["packets"].as_u64().unwrap_or_default()
    }

    /// Frames that left by the device.
    pub fn tx_packets(&self) -> u64 {
        self.0["stats64"]["tx"]["packets"].as_u64().unwrap_or_default()
    }

    /// Everything `ip` printed.
    pub fn json(&self) -> &Value {
        &self.0
    }

    fn has_flag(&self, flag: &str) -> bool {
        self.0["flags"].as_array().is_some_and(|flags| flags.iter().any(|f| f == flag))
    }
}
