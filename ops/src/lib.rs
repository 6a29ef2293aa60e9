//! What the command `saola` is made of; also used by tests that need a live cluster on this machine.
//!
//! It knows a running cluster only through `saola_client`: an operator can do nothing here that a program could not do.
//! To read the code: [`cli`] is the command line and [`run`](run::run) takes it to its verb; [`verbs`] are the short
//! ones; [`import`] writes records from lines of JSON; [`certificates`] makes a development authority; [`launch`]
//! starts nodes as child processes; [`demo`] is the five-node proof; `offline` reads a stopped node's folder, `dr` makes a
//! site go on without the other, `drill` rehearses bad days: these alone know the storage, whose files and keys they read. What they share: [`connect`] makes the client,
//! [`output`] and [`show`] print, [`time`] reads and writes moments, [`gap`] measures interruptions, [`progress`] shows long work, [`topology`] reads
//! the file that `saola cluster init` takes, [`signals`] hears Ctrl-C, and [`exit`] says how it ended.

pub mod certificates;
pub mod cli;
pub mod connect;
pub mod demo;
#[cfg(feature = "offline")]
pub mod dr;
#[cfg(feature = "offline")]
pub mod drill;
pub mod exit;
pub mod gap;
pub mod import;
pub mod launch;
#[cfg(feature = "offline")]
pub mod offline;
pub mod output;
pub mod progress;
pub mod run;
pub mod show;
pub mod signals;
pub mod time;
pub mod topology;
pub mod verbs;
