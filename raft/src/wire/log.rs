//! Votes, entries and what is said about them.

use bytes::Bytes;
use prost::{Message, Oneof};
use saola_storage::types::{LeaderId, LogId, Vote};

use super::{Header, Refusal};

/// A log id on the wire.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct WireLogId {
    /// Leader's term.
    #[prost(uint64, tag = "1")]
    pub term: u64,
    /// Leader's node id.
    #[prost(uint64, tag = "2")]
    pub node_id: u64,
    /// Index.
    #[prost(uint64, tag = "3")]
    pub index: u64,
}

impl From<LogId> for WireLogId {
    fn from(id: LogId) -> Self {
        Self { term: id.leader.term, node_id: id.leader.node_id, index: id.index }
    }
}
impl From<WireLogId> for LogId {
    fn from(id: WireLogId) -> Self {
        Self { leader: LeaderId { term: id.term, node_id: id.node_id }, index: id.index }
    }
}

/// A vote on the wire.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct WireVote {
    /// Term.
    #[prost(uint64, tag = "1")]
    pub term: u64,
    /// Candidate.
    #[prost(uint64, tag = "2")]
    pub node_id: u64,
    /// Granted by a quorum.
    #[prost(bool, tag = "3")]
    pub committed: bool,
}

impl From<Vote> for WireVote {
    fn from(vote: Vote) -> Self {
        Self { term: vote.leader.term, node_id: vote.leader.node_id, committed: vote.committed }
    }
}
impl From<WireVote> for Vote {
    fn from(vote: WireVote) -> Self {
        Self { leader: LeaderId { term: vote.term, node_id: vote.node_id }, committed: vote.committed }
    }
}

/// A log entry on the wire; the payload's bytes are those of the log.
#[derive(Clone, PartialEq, Message)]
pub struct WireEntry {
    /// Place in the log.
    #[prost(message, optional, tag = "1")]
    pub log_id: Option<WireLogId>,
    /// See `payload`.
    #[prost(bytes = "bytes", tag = "2")]
    pub payload: Bytes,
}

/// Entries for a follower, or a heartbeat without any.
#[derive(Clone, PartialEq, Message)]
pub struct AppendRequest {
    /// Checked on the first message of a stream.
    #[prost(message, optional, tag = "1")]
    pub header: Option<Header>,
    /// Leader's vote.
    #[prost(message, optional, tag = "2")]
    pub vote: Option<WireVote>,
    /// Entry just before the first one sent.
    #[prost(message, optional, tag = "3")]
    pub prev: Option<WireLogId>,
    /// The entries.
    #[prost(message, repeated, tag = "4")]
    pub entries: Vec<WireEntry>,
    /// Leader's commit.
    #[prost(message, optional, tag = "5")]
    pub leader_commit: Option<WireLogId>,
    /// Leader's frontier: first index that may not be shown yet.
    #[prost(uint64, tag = "6")]
    pub frontier_next: u64,
    /// First index that some member may still need from a log.
    #[prost(uint64, tag = "7")]
    pub needed_from: u64,
    /// Milliseconds since a quorum last confirmed the leader; `u64::MAX`: none has yet in this leadership.
    #[prost(uint64, tag = "8")]
    pub quorum_age_ms: u64,
    /// Counts what the leader announces before it has old versions removed, from 1; 0: nothing is announced.
    #[prost(uint64, tag = "9")]
    pub collect_round: u64,
    /// Number of the collection that it is about.
    #[prost(uint32, tag = "10")]
    pub collect_collection: u32,
    /// Below this revision nothing more is to be promised of it.
    #[prost(uint64, tag = "11")]
    pub collect_below: u64,
    /// First index that a witness must keep; 0: everything.
    #[prost(uint64, tag = "12")]
    pub witness_keeps_from: u64,
    /// Number of the newest answer that the leader has received from this follower; 0: none.
    #[prost(uint64, tag = "13")]
    pub heard_answer: u64,
    /// Age of the newest acknowledgement of the other site that the leader counts, or of its quorum's confirmation if that
    /// is older, milliseconds, rounded up; 0: there is none.
    #[prost(uint64, tag = "14")]
    pub acknowledged_age_ms: u64,
}

/// Answer to one [`AppendRequest`], in order.
#[derive(Clone, PartialEq, Message)]
pub struct AppendReply {
    /// What happened.
    #[prost(oneof = "AppendResult", tags = "1, 2, 3, 4")]
    pub result: Option<AppendResult>,
    /// Free bytes on the follower's disk.
    #[prost(uint64, tag = "10")]
    pub free_bytes: u64,
    /// Follower's wall clock when it answered, microseconds since 1970; 0: not told.
    #[prost(uint64, tag = "11")]
    pub clock_us: u64,
    /// Below so many free bytes the follower has no room for writes; 0: it always has.
    #[prost(uint64, tag = "12")]
    pub min_free_bytes: u64,
    /// Term of the newest announcement that the follower has heard; 0: none.
    #[prost(uint64, tag = "13")]
    pub collect_term: u64,
    /// Its round.
    #[prost(uint64, tag = "14")]
    pub collect_round: u64,
    /// Lowest revision of its collection that the follower has promised to keep readable; `u64::MAX`: none.
    #[prost(uint64, tag = "15")]
    pub lowest_pin: u64,
    /// Of a data node: first index that is not in its flushed state machine.
    #[prost(uint64, tag = "16")]
    pub state_next: u64,
    /// Of a witness whose log is larger than it may be: first index within what it may hold; 0: there is room.
    #[prost(uint64, tag = "17")]
    pub room_from: u64,
    /// Of a witness: first index that its log has.
    #[prost(uint64, tag = "18")]
    pub log_from: u64,
    /// The newest entry of the follower's log that is flushed, with all before it.
    #[prost(message, optional, tag = "19")]
    pub flushed_last: Option<WireLogId>,
    /// The follower's last vote, read after `flushed_last`: a later leader may have changed its log since the append.
    #[prost(message, optional, tag = "20")]
    pub last_vote: Option<WireVote>,
    /// Counts the follower's answers from a random number on; 0: not told.
    #[prost(uint64, tag = "21")]
    pub answer: u64,
}

/// See [`AppendReply`].
#[derive(Clone, PartialEq, Oneof)]
pub enum AppendResult {
    /// Flushed up to here.
    #[prost(message, tag = "1")]
    Flushed(Flushed),
    /// The log does not hold this entry.
    #[prost(message, tag = "2")]
    Conflict(WireLogId),
    /// A higher vote is in force.
    #[prost(message, tag = "3")]
    HigherVote(WireVote),
    /// The message was not for this node.
    #[prost(message, tag = "4")]
    Refused(Refusal),
}

/// See [`AppendResult::Flushed`].
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Flushed {
    /// Missing: the log is empty.
    #[prost(message, optional, tag = "1")]
    pub log_id: Option<WireLogId>,
}

/// A candidate's request.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Ballot {
    /// The vote asked for.
    #[prost(message, optional, tag = "1")]
    pub vote: Option<WireVote>,
    /// Candidate's last entry.
    #[prost(message, optional, tag = "2")]
    pub last: Option<WireLogId>,
    /// The leader asked the candidate to take over: leases do not count.
    #[prost(bool, tag = "3")]
    pub leadership_transfer: bool,
}

/// Answer to a [`Ballot`].
#[derive(Clone, Copy, PartialEq, Message)]
pub struct BallotReply {
    /// Voter's vote now.
    #[prost(message, optional, tag = "1")]
    pub vote: Option<WireVote>,
    /// Granted?
    #[prost(bool, tag = "2")]
    pub granted: bool,
    /// Voter's last entry.
    #[prost(message, optional, tag = "3")]
    pub last: Option<WireLogId>,
}

/// Leader asks a follower to campaign at once.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct TakeOver {
    /// Leader's vote.
    #[prost(message, optional, tag = "1")]
    pub from_leader: Option<WireVote>,
    /// Who is to lead.
    #[prost(uint64, tag = "2")]
    pub to: u64,
    /// Leader's last entry, which the follower must have flushed.
    #[prost(message, optional, tag = "3")]
    pub last: Option<WireLogId>,
}

/// Answer to a [`TakeOver`].
#[derive(Clone, PartialEq, Message)]
pub struct TakeOverReply {
    /// Empty: accepted.
    #[prost(string, tag = "1")]
    pub refused: String,
    /// For a changed vote: the voter's.
    #[prost(message, optional, tag = "2")]
    pub vote: Option<WireVote>,
    /// For a log that is behind: its flushed end.
    #[prost(message, optional, tag = "3")]
    pub flushed: Option<WireLogId>,
}
