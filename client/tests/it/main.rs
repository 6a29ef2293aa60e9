//! Promises of the client library, checked against nodes that fail on purpose.

mod calls;
mod fake;
mod reads;
