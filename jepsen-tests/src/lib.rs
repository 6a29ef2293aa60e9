//! Tests that judge a whole cluster by its histories.
//!
//! A harness runs clients against a cluster while faults happen to it, and writes down every call: a *history*.
//! Checkers then judge the history alone, so an old one can be judged again. They read what a user could read,
//! nothing internal, and share no code with the product.
//!
//! - [`operation`]: one call of one client and what came of it;
//! - [`history`]: how histories are recorded and kept (JSON Lines, documented there);
//! - [`check`]: the checkers: linearizable per record, revision order, once only, durable;
//! - [`workloads`]: what clients cannot do yet, counted by each run;
//! - [`sim`]: whole clusters in one thread on virtual time, decided by a seed;
//! - [`ledger`]: how many of them were lived, and what came of it.
//!
//! The harnesses are `saola-sim` (random lives of simulated clusters, by the thousand) and this crate's integration tests:
//! `tests/it/live.rs` runs five real processes, `tests/it/scenarios` simulated clusters with a plot.
//! A call without an answer is *unknown*, never *failed*: its effect may come later or never.

pub mod check;
pub mod history;
pub mod ledger;
pub mod operation;
pub mod sim;
pub mod workloads;
