//! Whole clusters in one thread: the real log, state machine and replica over a simulated disk, network and clock.
//!
//! [`smoke`] is one run: clients write through any node while nodes crash (losing what was not synced) and links are
//! cut; then everything heals and the cluster is judged. The seed decides all, so a run repeats itself.

mod cluster;
mod smoke;

pub use cluster::Cluster;
pub use smoke::{Report, smoke};
