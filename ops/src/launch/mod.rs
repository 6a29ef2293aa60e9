//! A cluster of real nodes on this machine: `saola-node` child processes on loopback, ended with their owner.
//!
//! [`plan`] says which nodes; [`files`] writes their folders: certificates, keys, settings; [`ports`] keeps their ports; [`process`] is one child;
//! [`cluster`] starts them, makes the cluster, kills and restarts nodes; [`wait`] waits for a condition.

pub mod cluster;
pub mod files;
pub mod plan;
pub mod ports;
pub mod process;
pub mod wait;

pub use cluster::{LocalCluster, Place};
pub use files::NodeFiles;
pub use plan::{OwnNetwork, Plan, PlannedNode};
pub use process::node_binary;
pub use wait::wait_until;
