//! Peer messages (wire format version 1, prost). Tags are never reused.
//!
//! Every message carries or is preceded by a [`Header`]; a node answers a message whose header does not fit with a
//! [`Refusal`] that names the next step, and never lets it reach Raft.

use bytes::Bytes;
use prost::{Enumeration, Message, Oneof};
use saola_storage::command::{Command, Outcome};
use saola_storage::types::{LeaderId, LogId, Vote};

use crate::member::Member;

/// Wire format version that this release speaks.
pub const WIRE_VERSION: u32 = 1;

/// Who sends to whom, and of which cluster.
#[derive(Clone, PartialEq, Message)]
pub struct Header {
    /// Always [`WIRE_VERSION`].
    #[prost(uint32, tag = "1")]
    pub wire_version: u32,
    /// Raft group within the process; there is one, number 0.
    #[prost(uint64, tag = "2")]
    pub group_id: u64,
    /// 16 bytes.
    #[prost(bytes = "bytes", tag = "3")]
    pub cluster_id: Bytes,
    /// Lineage of the cluster.
    #[prost(uint64, tag = "4")]
    pub epoch: u64,
    /// Sender.
    #[prost(uint64, tag = "5")]
    pub from: u64,
    /// Receiver.
    #[prost(uint64, tag = "6")]
    pub to: u64,
    /// Folder id of the sender's data folder.
    #[prost(bytes = "bytes", tag = "7")]
    pub from_folder: Bytes,
    /// Folder id that the membership records for the receiver (empty: not recorded yet).
    #[prost(bytes = "bytes", tag = "8")]
    pub to_folder: Bytes,
    /// Sender's role.
    #[prost(enumeration = "crate::member::Role", tag = "9")]
    pub from_role: i32,
    /// Sender's site.
    #[prost(string, tag = "10")]
    pub from_site: String,
    /// Sender's name; its certificate must carry it.
    #[prost(string, tag = "11")]
    pub from_name: String,
    /// Highest log index, plus one, that the sender has counted as flushed at the receiver in its present leadership.
    #[prost(uint64, tag = "12")]
    pub counted_next: u64,
    /// Term of that leadership; 0 when the sender does not speak as leader.
    #[prost(uint64, tag = "13")]
    pub counted_term: u64,
}

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

/// A single question to a peer.
#[derive(Clone, PartialEq, Message)]
pub struct PeerRequest {
    /// Who asks.
    #[prost(message, optional, tag = "1")]
    pub header: Option<Header>,
    /// What.
    #[prost(oneof = "Question", tags = "10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20")]
    pub question: Option<Question>,
}

/// See [`PeerRequest`].
#[derive(Clone, PartialEq, Oneof)]
pub enum Question {
    /// Will you vote for me?
    #[prost(message, tag = "10")]
    Vote(Ballot),
    /// Would you vote for me?
    #[prost(message, tag = "11")]
    PreVote(Ballot),
    /// Heartbeat, or entries outside a stream.
    #[prost(message, tag = "12")]
    Append(AppendRequest),
    /// Take over leadership.
    #[prost(message, tag = "13")]
    TransferLeader(TakeOver),
    /// Leader, propose this.
    #[prost(message, tag = "14")]
    Propose(Command),
    /// Leader, up to where may I read?
    #[prost(message, tag = "15")]
    ReadBarrier(Nothing),
    /// Who are you? Needs no membership.
    #[prost(message, tag = "16")]
    Identify(Nothing),
    /// Become part of this cluster. Only a fresh node agrees.
    #[prost(message, tag = "17")]
    Adopt(Adopt),
    /// How are you?
    #[prost(message, tag = "18")]
    Status(Nothing),
    /// Your digest at this log index?
    #[prost(message, tag = "19")]
    Digest(DigestAt),
    /// Leader, change the membership or hand over.
    #[prost(message, tag = "20")]
    Admin(AdminVerb),
}

/// Nothing to say.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Nothing {}

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
    #[prost(oneof = "Admin", tags = "1, 2, 3, 4")]
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

/// Answer to a [`PeerRequest`] or a snapshot.
#[derive(Clone, PartialEq, Message)]
pub struct PeerReply {
    /// The answer.
    #[prost(oneof = "Answer", tags = "1, 10, 12, 13, 14, 15, 16, 17, 18, 19, 20")]
    pub answer: Option<Answer>,
}

/// See [`PeerReply`].
#[derive(Clone, PartialEq, Oneof)]
pub enum Answer {
    /// Not for this node, or not now.
    #[prost(message, tag = "1")]
    Refused(Refusal),
    /// Answer to a vote or pre-vote.
    #[prost(message, tag = "10")]
    Ballot(BallotReply),
    /// Answer to an append.
    #[prost(message, tag = "12")]
    Append(AppendReply),
    /// Will take over, or why not.
    #[prost(message, tag = "13")]
    TakeOver(TakeOverReply),
    /// Outcome of a proposal.
    #[prost(message, tag = "14")]
    Outcome(Outcome),
    /// Frontier to read at.
    #[prost(message, tag = "15")]
    Barrier(Barrier),
    /// Who this node is.
    #[prost(message, tag = "16")]
    Identity(Identity),
    /// Done.
    #[prost(message, tag = "17")]
    Done(Nothing),
    /// Bytes of the status source.
    #[prost(bytes = "bytes", tag = "18")]
    Status(Bytes),
    /// 32 bytes; empty: not applied up to there, or no longer kept.
    #[prost(bytes = "bytes", tag = "19")]
    Digest(Bytes),
    /// Members after an admin verb.
    #[prost(message, tag = "20")]
    Members(Members),
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

/// Answer to [`Question::ReadBarrier`].
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Barrier {
    /// First index that may not be shown yet.
    #[prost(uint64, tag = "1")]
    pub frontier_next: u64,
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
}

/// Answer to [`Question::Admin`].
#[derive(Clone, PartialEq, Message)]
pub struct Members {
    /// All members.
    #[prost(message, repeated, tag = "1")]
    pub members: Vec<Member>,
}

/// Why a message was not taken, and what to do.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Refusal {
    /// Stable code.
    #[prost(enumeration = "RefusalCode", tag = "1")]
    pub code: i32,
    /// One sentence with the next step.
    #[prost(string, tag = "2")]
    pub message: String,
    /// For NotLeader: who is, 0: unknown.
    #[prost(uint64, tag = "3")]
    pub leader: u64,
}

/// Kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum RefusalCode {
    /// Unreadable or incomplete message, or another wire version.
    BadMessage = 0,
    /// The receiver is not part of a cluster yet.
    NotAdopted = 1,
    /// Another cluster.
    WrongCluster = 2,
    /// Addressed to another node id.
    WrongNode = 3,
    /// The receiver's data folder is not the one that the membership records.
    WrongFolder = 4,
    /// The sender's data folder is not the one that the membership records.
    UnknownSender = 5,
    /// Another epoch.
    WrongEpoch = 6,
    /// The receiver's log ends before what the leader has counted: an older copy of the folder was put back.
    FolderBehind = 7,
    /// Ask the leader.
    NotLeader = 8,
    /// Surely not applied: full queue.
    Busy = 9,
    /// Surely not applied: disk below the free-space mark.
    DiskFull = 10,
    /// May or may not have been applied.
    Unknown = 11,
    /// Raft has stopped on this node.
    Stopped = 12,
    /// The request makes no sense here; the message says why.
    Invalid = 13,
}

impl Refusal {
    /// A refusal without a leader hint.
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self { code: code as i32, message: message.into(), leader: 0 }
    }

    /// The code as a value; numbers of a newer release count as `BadMessage`.
    pub fn kind(&self) -> RefusalCode {
        RefusalCode::try_from(self.code).unwrap_or(RefusalCode::BadMessage)
    }
}

impl From<Refusal> for PeerReply {
    fn from(refusal: Refusal) -> Self {
        Self { answer: Some(Answer::Refused(refusal)) }
    }
}

impl From<Answer> for PeerReply {
    fn from(answer: Answer) -> Self {
        Self { answer: Some(answer) }
    }
}
