//! Tests that judge a whole cluster by its histories.
//!
//! A harness runs clients against a cluster while faults happen to it, and writes down every call: a *history*.
//! Checkers then judge the history alone, so an old one can be judged again. They read what a user could read,
//! nothing internal, and share no code with the product.
//!
//! - [`operation`]: one call of one client and what came of it;
//! - [`history`]: how histories are recorded and kept (JSON Lines, documented there);
//! - [`check`]: the checkers: linearizable per record, revision order, once only, durable;
//! - [`sim`]: whole clusters in one thread on virtual time, decided by a seed.
//!
//! The harnesses are this crate's integration tests: `tests/it/live.rs` runs five real processes,
//! `tests/it/simulation.rs` the simulated clusters.
//! A call without an answer is *unknown*, never *failed*: its effect may come later or never.

pub mod check;
pub mod history;
pub mod operation;
pub mod sim;
