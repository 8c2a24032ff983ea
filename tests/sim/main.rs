//! The core without a device: scenarios, and the model beside the bridge.

#[cfg(test)]
mod capture;
#[cfg(test)]
mod engine;
#[cfg(test)]
mod invariants;
#[cfg(test)]
mod live;
#[cfg(test)]
mod model;
#[cfg(test)]
mod recorder;
#[cfg(test)]
mod replay;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod trace;
