//! Single questions and their answers.

use bytes::Bytes;
use prost::{Message, Oneof};
use saola_storage::command::{Command, Outcome};

use super::{
    AdminVerb, Adopt, AppendReply, AppendRequest, Ballot, BallotReply, CopyAsk, CopyState, DigestAt, EntriesFrom,
    EntriesReply, Header, Identity, LineageAsk, Members, Refusal, SnapshotOffer, Standing, TakeOver, TakeOverReply,
    WireVote,
};

/// A single question to a peer.
#[derive(Clone, PartialEq, Message)]
pub struct PeerRequest {
    /// Who asks.
    #[prost(message, optional, tag = "1")]
    pub header: Option<Header>,
    /// What.
    #[prost(oneof = "Question", tags = "10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26")]
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
    /// Do you let me in?
    #[prost(message, tag = "21")]
    Greet(Nothing),
    /// Which entries do you hold? Asked by a member whose log is damaged, before its Raft runs.
    #[prost(message, tag = "22")]
    Entries(EntriesFrom),
    /// About your copy of the records.
    #[prost(message, tag = "23")]
    Copy(CopyAsk),
    /// The log cannot bring you up to date; this can.
    #[prost(message, tag = "24")]
    OfferSnapshot(SnapshotOffer),
    /// For whom have you voted last?
    #[prost(message, tag = "25")]
    LastVote(Nothing),
    /// About epochs. Answered across epochs, and by nodes that take no part.
    #[prost(message, tag = "26")]
    Lineage(LineageAsk),
}

/// Nothing to say.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Nothing {}

/// Answer to a [`PeerRequest`].
#[derive(Clone, PartialEq, Message)]
pub struct PeerReply {
    /// The answer.
    #[prost(oneof = "Answer", tags = "1, 10, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24")]
    pub answer: Option<Answer>,
}

/// See [`PeerReply`].
#[derive(Clone, PartialEq, Oneof)]
pub enum Answer {
    /// Not for this node, or not now.
    #[prost(message, tag = "1")]
    Refused(Refusal),
    /// Answer to a vote, a pre-vote or the offer of a snapshot.
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
    /// Entries of this node's log.
    #[prost(message, tag = "21")]
    Entries(EntriesReply),
    /// What a node knows of its copy.
    #[prost(message, tag = "22")]
    Copy(CopyState),
    /// The newest vote in this node's log; zeros: none.
    #[prost(message, tag = "23")]
    LastVote(WireVote),
    /// How a node stands.
    #[prost(message, boxed, tag = "24")]
    Standing(Box<Standing>),
}

/// Answer to [`Question::ReadBarrier`].
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Barrier {
    /// First index that may not be shown yet.
    #[prost(uint64, tag = "1")]
    pub frontier_next: u64,
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
