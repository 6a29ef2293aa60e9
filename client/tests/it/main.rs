//! Promises of the client library, checked against nodes that fail on purpose.

#![allow(clippy::unwrap_used)]

mod calls;
mod fake;
mod reads;
