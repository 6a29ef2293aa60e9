//! Checkers: pure functions from a history to the list of what is wrong with it.
//!
//! - [`linearizable`]: per record, every read and write fits one order that respects real time;
//! - [`revision`]: store-wide, revisions are unique and never run against real time;
//! - [`once`]: every kept version has one writer, and no write took effect twice or after it was refused;
//! - [`durability`]: every acknowledged write, and everything that a read has shown, is kept.
//!
//! An empty list is the only pass. There is no verdict "too hard to tell".

mod before;
pub mod durability;
pub mod linearizable;
mod matching;
pub mod once;
pub mod revision;

use std::fmt;

use crate::operation::Fingerprint;

/// Something that a correct cluster cannot have done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which checker found it.
    pub check: &'static str,
    /// The record, `collection/id`.
    pub record: String,
    /// The operations that cannot all be true.
    pub op_ids: Vec<u64>,
    /// What contradicts what.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {} (operations {:?})", self.check, self.record, self.what, self.op_ids)
    }
}

/// A version as a node gives it back after the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// `collection/id`.
    pub record: String,
    /// The record's own counter.
    pub generation: u64,
    /// The store's counter.
    pub revision: u64,
    /// Missing for a deletion.
    pub value: Option<Fingerprint>,
}
