//! What the benches of the hot path share: a bridge among stations, an engine
//! among ports without devices, and counts that were kept. Nothing here looks at
//! a clock.

pub mod kept;
pub mod stations;
pub mod turns;
