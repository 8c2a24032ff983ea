//! What the benches of the hot path share: a bridge among stations, an engine
//! among ports without devices, counts that were kept, and the spread of rounds.
//! Nothing here looks at a clock.

pub mod kept;
pub mod stations;
pub mod stats;
pub mod turns;
