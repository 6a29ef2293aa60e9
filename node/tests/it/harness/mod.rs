//! What the tests stand on: [`certs`] (an authority of their own), [`process`] (programs that end with the test),
//! [`cluster`] (nodes in a temporary folder), [`wait`] (conditions with a deadline), [`http`] (probes), [`ports`].

pub mod certs;
pub mod cluster;
pub mod http;
pub mod ports;
pub mod process;
pub mod wait;

pub use certs::{Authority, Pair};
pub use cluster::{COLLECTION, Cluster};
