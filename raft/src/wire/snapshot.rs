//! A snapshot on its way.

use bytes::Bytes;
use prost::Message;

use super::{Header, WireLogId, WireVote};

/// A piece of a snapshot; the header comes first.
#[derive(Clone, PartialEq, Message)]
pub struct SnapshotChunk {
    /// First message only.
    #[prost(message, optional, tag = "1")]
    pub begin: Option<SnapshotBegin>,
    /// A frame of the export stream.
    #[prost(bytes = "bytes", tag = "2")]
    pub data: Bytes,
}

/// Opens a snapshot transfer.
#[derive(Clone, PartialEq, Message)]
pub struct SnapshotBegin {
    /// Who sends.
    #[prost(message, optional, tag = "1")]
    pub header: Option<Header>,
    /// Leader's vote.
    #[prost(message, optional, tag = "2")]
    pub vote: Option<WireVote>,
    /// Last entry that the snapshot contains.
    #[prost(message, optional, tag = "3")]
    pub last: Option<WireLogId>,
    /// Entry that set the membership.
    #[prost(message, optional, tag = "4")]
    pub membership_at: Option<WireLogId>,
    /// `MembershipRecord`.
    #[prost(bytes = "bytes", tag = "5")]
    pub membership: Bytes,
    /// False: log ids only, for a witness; true: all records.
    #[prost(bool, tag = "6")]
    pub full: bool,
}
