//! Lineages of the cluster: who may approve a forced promotion, and which epochs such promotions began.

use bytes::Bytes;

use crate::command::{Approver, SetApprovers};

/// So many of the newest lists of approvers are kept: a plan is checked against the one that stood at its base.
pub(crate) const KEPT_LISTS: usize = 16;

/// Who may approve a forced promotion, from an entry on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approvers {
    /// All of them.
    pub list: Vec<Approver>,
    /// So many must approve.
    pub needed: u32,
    /// Entry that said so.
    pub at_index: u64,
}

impl Approvers {
    pub(crate) fn of_command(set: SetApprovers, at_index: u64) -> Approvers {
        Approvers { list: set.approvers, needed: set.needed, at_index }
    }

    pub(crate) fn to_command(&self) -> SetApprovers {
        SetApprovers { approvers: self.list.clone(), needed: self.needed }
    }
}

/// An epoch that a forced promotion began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// Its number.
    pub number: u64,
    /// The approved plan, opaque here.
    pub record: Bytes,
    /// Entry that began it in the state machine.
    pub at_index: u64,
    /// Store-wide revision by then.
    pub revision: u64,
    /// When, replicated clock, microseconds since 1970.
    pub began_us: u64,
}
