//! The daemon of one Saola node: the only place that wires storage, consensus, keys, ports and the public API.
//!
//! What it does: reads settings, opens the data folder and the site's key, runs the replica, serves clients, peers and
//! metrics, and hands leadership over when it stops. What it refuses: it knows no column family, no openraft type and
//! no cipher; a handler reads as check, seal, propose, convert.
//!
//! Reading order: [`cli`] and [`settings`]; [`lifecycle`] (start and stop), [`waiting`] (a start that is held up); [`node`] (what the services share) with
//! [`keys`]; [`api`] (the services); [`listen`], [`bounded`] and [`tls`] (ports); [`metrics`] and [`events`] (what operators see);
//! [`drill`] (what a drill does to the node), [`failure`], [`entropy`] and [`process`].

pub mod api;
pub mod bounded;
pub mod cli;
pub mod drill;
pub mod entropy;
pub mod events;
pub mod failure;
pub mod keys;
#[cfg(feature = "rocksdb")]
pub mod lifecycle;
pub mod listen;
pub mod metrics;
pub mod node;
pub mod process;
pub mod settings;
pub mod tls;
#[cfg(feature = "rocksdb")]
pub mod waiting;
