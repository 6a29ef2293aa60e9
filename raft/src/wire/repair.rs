//! Entries for a member whose log is damaged.

use bytes::Bytes;
use prost::Message;
use saola_storage::keyspace::epochs::ApproverList;

use super::{WireEntry, WireLogId, WireVote};

/// Which entries do you hold? It changes nothing at the one who is asked.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct EntriesFrom {
    /// First index.
    #[prost(uint64, tag = "1")]
    pub from: u64,
    /// One past the last index.
    #[prost(uint64, tag = "2")]
    pub end: u64,
    /// Payload bytes after which the answer may stop; the one who is asked has a limit of its own.
    #[prost(uint64, tag = "3")]
    pub max_bytes: u64,
}

/// Answer to [`EntriesFrom`].
#[derive(Clone, PartialEq, Message)]
pub struct EntriesReply {
    /// The entries from the first index on, as many as there are and as fit; none if the first is not there.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<WireEntry>,
    /// Newest entry that is known to be committed.
    #[prost(message, optional, tag = "2")]
    pub committed: Option<WireLogId>,
    /// The vote in force while the entries were read.
    #[prost(message, optional, tag = "3")]
    pub vote: Option<WireVote>,
    /// The node leads by that vote: it holds all that was committed by it or before.
    #[prost(bool, tag = "4")]
    pub leads: bool,
    /// Newest entry that was purged.
    #[prost(message, optional, tag = "5")]
    pub purged: Option<WireLogId>,
    /// Newest entry.
    #[prost(message, optional, tag = "6")]
    pub last: Option<WireLogId>,
    /// Entry that set the newest membership that the node has applied.
    #[prost(message, optional, tag = "7")]
    pub members_at: Option<WireLogId>,
    /// That membership: a [`MembershipRecord`](crate::member::MembershipRecord).
    #[prost(bytes = "bytes", tag = "8")]
    pub members: Bytes,
    /// Who may approve forced promotions, as far as the node has applied its log; the newest list last.
    #[prost(message, repeated, tag = "9")]
    pub approvers: Vec<ApproverList>,
}
