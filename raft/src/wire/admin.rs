//! Joining, leaving, handing over, comparing.

use bytes::Bytes;
use prost::{Message, Oneof};

use super::WireLogId;
use crate::member::Member;

/// See [`Question::Adopt`].
#[derive(Clone, PartialEq, Message)]
pub struct Adopt {
    /// 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub cluster_id: Bytes,
    /// Lineage.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// What the node becomes; must fit its settings.
    #[prost(message, optional, tag = "3")]
    pub member: Option<Member>,
    /// The record that began the epoch; empty for the first one.
    #[prost(bytes = "bytes", tag = "4")]
    pub record: Bytes,
}

/// Answer to [`Question::Identify`].
#[derive(Clone, PartialEq, Message)]
pub struct Identity {
    /// Empty: not part of a cluster yet.
    #[prost(bytes = "bytes", tag = "1")]
    pub cluster_id: Bytes,
    /// What the node is set up to be.
    #[prost(message, optional, tag = "2")]
    pub member: Option<Member>,
    /// True while its log has never held anything.
    #[prost(bool, tag = "3")]
    pub fresh: bool,
    /// End of its log.
    #[prost(message, optional, tag = "4")]
    pub last: Option<WireLogId>,
    /// Leader it knows, 0: none.
    #[prost(uint64, tag = "5")]
    pub leader: u64,
    /// 16 bytes that the process drew when it started.
    #[prost(bytes = "bytes", tag = "6")]
    pub boot_id: Bytes,
    /// Raft runs there: false for a node that waits for its adoption, or is refused, or is stopping.
    #[prost(bool, tag = "7")]
    pub runs: bool,
    /// Its copy of the records is known to be bad: it should not lead.
    #[prost(bool, tag = "8")]
    pub copy_is_bad: bool,
    /// Were this site lost, it would not take over by itself; empty: it would. As of what it has applied. (Tag 9 was
    /// whether it holds back at present.)
    #[prost(string, tag = "10")]
    pub holds_back_for: String,
    /// First index that it has not applied.
    #[prost(uint64, optional, tag = "11")]
    pub applied_next: Option<u64>,
}

/// See [`Question::Digest`].
#[derive(Clone, Copy, PartialEq, Message)]
pub struct DigestAt {
    /// Index of the DIGEST entry.
    #[prost(uint64, tag = "1")]
    pub index: u64,
}

/// See [`Question::Admin`].
#[derive(Clone, PartialEq, Message)]
pub struct AdminVerb {
    /// Which.
    #[prost(oneof = "Admin", tags = "1, 2, 3, 4, 5, 6")]
    pub verb: Option<Admin>,
}

/// See [`AdminVerb`].
#[derive(Clone, PartialEq, Oneof)]
pub enum Admin {
    /// Hand leadership to this node.
    #[prost(uint64, tag = "1")]
    Transfer(u64),
    /// Add a fresh node.
    #[prost(message, tag = "2")]
    Add(Member),
    /// Remove a node for good.
    #[prost(uint64, tag = "3")]
    Remove(u64),
    /// Remove one, add another.
    #[prost(message, tag = "4")]
    Replace(ReplaceWith),
    /// Hand leadership to a voter of this site.
    #[prost(string, tag = "5")]
    TransferToSite(String),
    /// Have this member of a former epoch come back.
    #[prost(message, tag = "6")]
    Reinstate(Member),
}

/// See [`Admin::Replace`].
#[derive(Clone, PartialEq, Message)]
pub struct ReplaceWith {
    /// Node to remove.
    #[prost(uint64, tag = "1")]
    pub node_id: u64,
    /// Fresh node with a new id.
    #[prost(message, optional, tag = "2")]
    pub member: Option<Member>,
}

/// Answer to [`Question::Admin`].
#[derive(Clone, PartialEq, Message)]
pub struct Members {
    /// All members.
    #[prost(message, repeated, tag = "1")]
    pub members: Vec<Member>,
}
