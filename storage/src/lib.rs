//! Everything of a node that touches its disk: the Raft log and the state machine, with their formats, and the sealing
//! of values. It knows no Raft, no network, no clock; randomness and time come in as arguments. It refuses to guess: what
//! a disk says is checked, damage is named and never skipped. The register of all formats is `README.md` beside `src`.
//!
//! In reading order:
//! - [`types`], [`command`]: log ids, what entries carry and what comes of it; [`payload`], [`member`]: entries' bytes;
//! - [`disk`], [`log`]: files, and the durable log on them;
//! - [`engine`], [`keyspace`]: where rows live, and the register of their keys and values;
//! - [`collection`], [`chain`], [`digest`]: ids, the chain of versions, the state digest;
//! - `apply`, `catalog`, [`retention`], [`protection`], [`failover`], [`goal`], [`epoch`]: the state machine, a pure function from entries to rows and outcomes;
//! - [`store`], `read`: its owner, and the views that it gives;
//! - [`export`], [`import`], [`heal`]: a whole state on its way, received, and put in place of a damaged one;
//! - `fork`: the folder of a node in a lineage of its own, made of such a state;
//! - [`outline`], `difference`: the same where the receiver has a similar one: only what it lacks is sent;
//! - [`orphan`]: writes of a side that was left behind, kept as a file for people;
//! - [`scrub`], [`quarantine`], `ruin`: finding damage, not serving it, and doing without a copy that cannot be used;
//! - [`seal`], [`kek`], [`keyring`]: sealed values, a site's key pair, the data keys;
//! - [`promotion`]: the plan of a forced promotion, and who approved it;
//! - [`failpoint`]: moments, in this crate and in `saola-raft`, at which simulated nodes lose power;
//! - [`folder`], [`release`], [`error`]: a node's folder, which release wrote what, what can go wrong.

mod apply;
mod catalog;
pub mod chain;
pub mod collection;
pub mod command;
mod difference;
pub mod digest;
pub mod disk;
pub mod engine;
pub mod epoch;
pub mod error;
pub mod export;
pub mod failover;
pub mod failpoint;
pub mod folder;
#[cfg(feature = "rocksdb")]
pub mod fork;
pub mod goal;
pub mod heal;
pub mod import;
pub mod kek;
pub mod keyring;
pub mod keyspace;
pub mod log;
pub mod member;
mod named;
pub mod orphan;
pub mod outline;
pub mod payload;
#[doc(hidden)]
pub mod planted;
pub mod promotion;
pub mod protection;
pub mod quarantine;
mod read;
pub mod release;
pub mod retention;
mod ruin;
pub mod scrub;
pub mod seal;
pub mod store;
pub mod types;
