//! Whole clusters in one thread: the real log, state machine and replica over a simulated disk, network and clock.
//!
//! - [`Cluster`]: nodes that start, crash, lose their folders; [`FolderCopy`]: an older copy of a folder;
//! - [`records`]: the collection that simulated clients use; [`Clerk`]: a client that checks what it was promised;
//! - [`swarm`]: random lives with every kind of fault, judged by their histories; `saola-sim` runs them by the thousand.
//!
//! The seed decides all, so a run repeats itself. `tests/it/scenarios` are runs with a plot.

pub mod act;
mod clerk;
mod cluster;
mod copy;
pub mod promote;
pub mod records;
pub mod sites;
pub mod swarm;

pub use clerk::{CALL, Clerk};
pub use cluster::{Cluster, PATIENCE, Running};
pub use copy::FolderCopy;
