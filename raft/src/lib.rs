//! One replica of a Saola cluster: consensus over the durable log and the state machine of `saola-storage`.
//!
//! What it does: proposes commands and answers their outcomes, gives linearizable read points on every data node,
//! moves the log and snapshots between peers, changes the membership, runs the witness. What it refuses: it does not
//! know records, keys or the public API, treats a command as sealed bytes, and shows no openraft type. Time,
//! randomness and spawning go through [`types::Runtime`], messages through [`transport::Transport`]: with the feature
//! `sim` a whole cluster runs in one thread, decided by a seed.
//!
//! Reading order: [`member`], [`timing`], [`folder`], [`replica`] (the facade), then what it stands on: `types` and
//! `payload` (openraft's types, bytes of a log payload), `log_store` and `state_machine` (adapters), [`frontier`],
//! `acknowledgements`, [`protection`] and [`failover`] (how the sites stand to each other, who takes over), `shrink` and `goal` (whose votes are
//! taken for a while, what a membership bears), [`promotion`] and `heard_back` (how a site goes on without the other by force, and what that loses), [`asking`] (whether a node that was
//! away takes part again),
//! [`wire`] and `convert` (peer messages), `network` with `log_end` (sending), [`peer`] (receiving), `admission` (who may speak as whom),
//! [`repair`] (a start on a damaged log), [`transport`], [`witness`], `links` and [`round_trips`], `pins` (revisions that stay readable),
//! `verdict` (which copy is wrong), [`clock`], `sim`.

mod acknowledgements;
mod admission;
pub mod asking;
pub mod clock;
mod convert;
pub mod failover;
pub mod frontier;
mod goal;
mod heard_back;
mod links;
mod log_end;
mod log_store;
pub mod member;
mod network;
mod payload;
pub mod peer;
mod pins;
pub mod promotion;
pub mod protection;
pub mod repair;
pub mod replica;
pub mod round_trips;
mod shrink;
mod state_machine;
pub mod timing;
pub mod transport;
pub mod types;
mod verdict;
pub mod wire;
pub mod witness;

#[cfg(test)]
mod conformance;
#[cfg(feature = "sim")]
pub mod sim;

pub use saola_storage::folder;

pub use folder::{DataFolder, FolderClaim, FolderError, NodeIdentity};
pub use member::{Member, Role};
pub use peer::PeerService;
pub use pins::PinError;
#[cfg(feature = "rocksdb")]
pub use replica::ReplicaLimits;
pub use replica::{
    AdminError, Begun, CollectorSettings, FailoverStatus, Former, FormerStanding, GoalStatus, Missing, ORPHANS,
    ProposeError, ProtectionStatus, ReadError, ReadPoint, Replica, ReplicaParts, ReplicaSettings, ReplicaStatus,
    ScrubSettings, ScrubStatus, StartError, Told,
};
pub use timing::Timing;
pub use types::TokioRuntime;
