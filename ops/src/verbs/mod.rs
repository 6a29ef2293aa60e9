//! The short verbs, each from its arguments to what it prints.
//!
//! Records: [`read`], [`mod@write`], [`collection`], [`export`]. The cluster: [`status`] with its [`verdict`] and [`links`],
//! [`cluster`] with [`change`], [`protection`] with [`why`], [`explain`], [`failover`], [`goal`], [`validate`] with its [`findings`], [`switchover`], [`mod@witness`] and [`scrub`], all from the same [`view`], and
//! [`dev`], a throwaway cluster of one node.

pub mod change;
pub mod cluster;
pub mod collection;
pub mod dev;
pub mod explain;
pub mod export;
pub mod failover;
pub mod findings;
pub mod goal;
pub mod links;
pub mod protection;
pub mod read;
pub mod scrub;
pub mod status;
pub mod switchover;
pub mod validate;
pub mod verdict;
pub mod view;
pub mod why;
pub mod witness;
pub mod write;
