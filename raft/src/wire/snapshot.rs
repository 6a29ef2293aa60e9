//! A state on its way to another node: the leader offers it, the receiver fetches it.

use bytes::Bytes;
use prost::{Message, Oneof};
use saola_storage::keyspace::epochs::ApproverList;
use saola_storage::outline::Span;

use super::{Header, Nothing, Refusal, WireLogId, WireVote};
use crate::member::Member;

/// The leader tells a node that the log cannot bring it up to date, and where to get a state that can.
#[derive(Clone, PartialEq, Message)]
pub struct SnapshotOffer {
    /// Leader's vote.
    #[prost(message, optional, tag = "1")]
    pub vote: Option<WireVote>,
    /// Entry that the state must reach.
    #[prost(message, optional, tag = "2")]
    pub last: Option<WireLogId>,
    /// For a witness: entry that set the membership.
    #[prost(message, optional, tag = "3")]
    pub membership_at: Option<WireLogId>,
    /// For a witness: `MembershipRecord`.
    #[prost(bytes = "bytes", tag = "4")]
    pub membership: Bytes,
    /// False: log ids only, for a witness, which has them from this message; true: all records.
    #[prost(bool, tag = "5")]
    pub full: bool,
    /// Who has the records, the first to ask first.
    #[prost(message, repeated, tag = "6")]
    pub sources: Vec<Member>,
    /// For a witness: who may approve forced promotions, the newest list last.
    #[prost(message, repeated, tag = "7")]
    pub approvers: Vec<ApproverList>,
}

/// Asks for the export stream of a node's state, or for the rest of it.
#[derive(Clone, PartialEq, Message)]
pub struct FetchRequest {
    /// Who asks.
    #[prost(message, optional, tag = "1")]
    pub header: Option<Header>,
    /// Which export, 16 bytes; empty: begin a new one.
    #[prost(bytes = "bytes", tag = "2")]
    pub export_id: Bytes,
    /// First chunk to send: all before it have arrived.
    #[prost(uint64, tag = "3")]
    pub from_chunk: u64,
    /// Entry that a new export must reach.
    #[prost(message, optional, tag = "4")]
    pub at_least: Option<WireLogId>,
    /// The receiver has a similar state: a new export may send outlines in the place of rows.
    #[prost(bool, tag = "5")]
    pub outlined: bool,
    /// Send the rows of these spans of the export, and nothing else.
    #[prost(message, repeated, tag = "6")]
    pub spans: Vec<Span>,
}

/// Part of the answer to a [`FetchRequest`].
#[derive(Clone, PartialEq, Message)]
pub struct FetchReply {
    /// The part.
    #[prost(oneof = "FetchPart", tags = "1, 2, 3, 4")]
    pub part: Option<FetchPart>,
}

/// See [`FetchReply`].
#[derive(Clone, PartialEq, Oneof)]
pub enum FetchPart {
    /// Not to this node, or not now.
    #[prost(message, tag = "1")]
    Refused(Refusal),
    /// The export has this id; its chunks follow.
    #[prost(bytes = "bytes", tag = "2")]
    Began(Bytes),
    /// The next frame of the export stream.
    #[prost(bytes = "bytes", tag = "3")]
    Chunk(Bytes),
    /// The export is not kept any more, or not from that chunk on: begin a new one.
    #[prost(message, tag = "4")]
    Gone(Nothing),
}

impl From<FetchPart> for FetchReply {
    fn from(part: FetchPart) -> Self {
        Self { part: Some(part) }
    }
}
