//! Whole clusters in one thread on virtual time: a runtime and a network that a seed decides.
//!
//! Run inside [`run`], which seeds tokio's scheduler and pauses its clock; the same seed then gives the same run.
//! A node's tasks carry its id, so that [`kill`] ends them all at one instant, as a crash does; [`lose_power_at`] ends them
//! between two steps that belong together.

#![expect(clippy::disallowed_methods, reason = "this is the one place where the simulator's time and tasks come from")]

mod clock;
mod failpoints;
mod network;
mod runtime;

pub use clock::set_clock_rate;
pub use failpoints::{Visits, lose_power_at, lose_power_no_more, unpowered, visits};
pub use network::{Befallen, Fetched, SimNetwork, SimTransport, Weather};
pub use runtime::{
    SimRuntime, as_node, hang_disk, kill, pause, pause_after, paused, random_u64, release_disk, resume, run, spawn_on,
};
