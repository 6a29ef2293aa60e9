//! Promises of the command `saola` that need no cluster, and of the tree as a whole.
//!
//! - `cli`: every verb parses, and failures end with their exit code and a next step;
//! - `certificates`: what the development authority issues;
//! - `import`: what is applied when a line is wrong or a run is cut short;
//! - `launch`: local clusters, with a stand-in for the node;
//! - `offline`: a stopped node's folder is read, never changed, and its values stay sealed without a key;
//! - `tidy`: house rules that a machine can check.

#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]

mod certificates;
mod cli;
mod import;
mod launch;
#[cfg(feature = "offline")]
mod offline;
mod tidy;
