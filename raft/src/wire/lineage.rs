//! Epochs: how a node stands when one may have to end, and the steps by which another begins.

use bytes::Bytes;
use prost::{Message, Oneof};
use saola_storage::command::SetApprovers;
use saola_storage::keyspace::meta::LogIdRow;

use super::{Nothing, WireLogId};
use crate::member::{Member, MembershipRecord, VoterSet};

/// See [`Question::Lineage`](super::Question::Lineage).
#[derive(Clone, PartialEq, Message)]
pub struct LineageAsk {
    /// What.
    #[prost(oneof = "LineageVerb", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
    pub verb: Option<LineageVerb>,
    /// The record that began the sender's epoch; empty: it has none to show.
    #[prost(bytes = "bytes", tag = "9")]
    pub record: Bytes,
}

/// See [`LineageAsk`].
#[derive(Clone, PartialEq, Oneof)]
pub enum LineageVerb {
    /// How do you stand?
    #[prost(message, tag = "1")]
    Stand(Nothing),
    /// Take no part in your epoch any more, for the sake of this approved plan (bytes of a `SignedPlan`).
    #[prost(bytes = "bytes", tag = "2")]
    Promise(Bytes),
    /// Begin the epoch of this plan: all that answered have promised.
    #[prost(bytes = "bytes", tag = "3")]
    Begin(Bytes),
    /// Take no part any more, and say why.
    #[prost(string, tag = "4")]
    Fence(String),
    /// Take part again, if nothing but a fence stands in the way.
    #[prost(message, tag = "5")]
    Unfence(Nothing),
    /// Forget the promise of this plan, which has not begun.
    #[prost(bytes = "bytes", tag = "6")]
    Abandon(Bytes),
    /// Which epoch are you in? The answer is a standing without what stands in log and rows.
    #[prost(message, tag = "7")]
    AskEpoch(Nothing),
    /// You were left behind: come back as another node.
    #[prost(message, tag = "8")]
    Reinstate(ReinstateAs),
}

/// See [`LineageVerb::Reinstate`].
#[derive(Clone, PartialEq, Message)]
pub struct ReinstateAs {
    /// The record of the epoch that goes on.
    #[prost(bytes = "bytes", tag = "1")]
    pub record: Bytes,
    /// A number that nobody has had.
    #[prost(uint64, tag = "2")]
    pub node_id: u64,
    /// 16 bytes that nobody has had either.
    #[prost(bytes = "bytes", tag = "3")]
    pub folder_id: Bytes,
    /// Who is a member.
    #[prost(message, optional, tag = "4")]
    pub members: Option<MembershipRecord>,
    /// All of the node's log up to this entry goes on.
    #[prost(message, optional, tag = "5")]
    pub base: Option<LogIdRow>,
    /// Store-wide revision there.
    #[prost(uint64, tag = "6")]
    pub base_revision: u64,
    /// The epoch that began there.
    #[prost(uint64, tag = "7")]
    pub left_by_epoch: u64,
}

/// What a data node knows of the gate, as of what it has applied.
#[derive(Clone, PartialEq, Message)]
pub struct GateSeen {
    /// Acknowledgements wait for data nodes of the other site.
    #[prost(bool, tag = "1")]
    pub is_closed: bool,
    /// Under maximum protection.
    #[prost(bool, tag = "2")]
    pub is_maximum: bool,
    /// So many of them must have a write.
    #[prost(uint32, tag = "3")]
    pub acks: u32,
    /// It opens by itself when they have not acknowledged for so long.
    #[prost(uint64, tag = "4")]
    pub degrade_ms: u64,
    /// The log says nothing of the gate behind what is applied.
    #[prost(bool, tag = "5")]
    pub is_newest: bool,
    /// So long ago, milliseconds, the leader counted an acknowledgement: until the degrade time after that no leader has
    /// opened the gate by itself. Missing: it cannot say.
    #[prost(uint64, optional, tag = "6")]
    pub acknowledged_age_ms: Option<u64>,
}

/// How a node stands.
#[derive(Clone, PartialEq, Message)]
pub struct Standing {
    /// Who it is.
    #[prost(message, optional, tag = "1")]
    pub member: Option<Member>,
    /// 16 bytes; empty: not part of a cluster yet.
    #[prost(bytes = "bytes", tag = "2")]
    pub cluster_id: Bytes,
    /// Its epoch.
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    /// The record that began it; empty for the first epoch.
    #[prost(bytes = "bytes", tag = "4")]
    pub record: Bytes,
    /// The approved plan that it waits for; empty: none.
    #[prost(bytes = "bytes", tag = "5")]
    pub promised: Bytes,
    /// Why it is fenced; empty: it is not.
    #[prost(string, tag = "6")]
    pub fenced: String,
    /// Raft runs there.
    #[prost(bool, tag = "7")]
    pub runs: bool,
    /// The leader that it knows, 0: none.
    #[prost(uint64, tag = "8")]
    pub leader: u64,
    /// How long ago a quorum confirmed that leader, milliseconds; `u64::MAX`: unknown.
    #[prost(uint64, tag = "9")]
    pub quorum_age_ms: u64,
    /// End of its log.
    #[prost(message, optional, tag = "10")]
    pub last: Option<WireLogId>,
    /// What it knows to be committed.
    #[prost(message, optional, tag = "11")]
    pub committed: Option<WireLogId>,
    /// What it has purged.
    #[prost(message, optional, tag = "12")]
    pub purged: Option<WireLogId>,
    /// Highest term that it has voted in.
    #[prost(uint64, tag = "13")]
    pub vote_term: u64,
    /// The newest membership of its log.
    #[prost(message, optional, tag = "14")]
    pub membership: Option<MembershipRecord>,
    /// Entry that set it.
    #[prost(message, optional, tag = "15")]
    pub membership_at: Option<WireLogId>,
    /// Sets of voters of the newest membership that it has applied.
    #[prost(message, repeated, tag = "16")]
    pub applied_voters: Vec<VoterSet>,
    /// Missing: it keeps no records.
    #[prost(message, optional, tag = "17")]
    pub gate: Option<GateSeen>,
    /// Who may approve a forced promotion, as far as its log goes; missing: nobody was ever named in it.
    #[prost(message, optional, tag = "18")]
    pub approvers: Option<SetApprovers>,
    /// Store-wide revision of what it has applied.
    #[prost(uint64, tag = "19")]
    pub revision: u64,
    /// Its copy of the records is known to be bad.
    #[prost(bool, tag = "20")]
    pub copy_is_bad: bool,
    /// The cluster's name; empty where no records are kept.
    #[prost(string, tag = "21")]
    pub cluster_name: String,
    /// Entry that set those approvers.
    #[prost(uint64, tag = "22")]
    pub approvers_at: u64,
    /// Plans that it waited for before the present one: each may have begun elsewhere.
    #[prost(bytes = "bytes", repeated, tag = "23")]
    pub outbid: Vec<Bytes>,
    /// It promises no plan for an epoch up to this one any more.
    #[prost(uint64, tag = "24")]
    pub given_up: u64,
    /// What came when it came back, since it was started.
    #[prost(message, optional, tag = "25")]
    pub came: Option<Came>,
    /// It comes back, and has not got the records of its epoch yet.
    #[prost(bool, tag = "26")]
    pub reinstating: bool,
    /// The epochs that forced promotions began, as far as it is in them, the newest last.
    #[prost(message, repeated, tag = "27")]
    pub epochs: Vec<EpochBegan>,
}

/// An epoch that a forced promotion began.
#[derive(Clone, PartialEq, Message)]
pub struct EpochBegan {
    /// Its number.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// See [`EpochId::plan`](saola_storage::types::EpochId::plan).
    #[prost(fixed64, tag = "2")]
    pub plan: u64,
    /// The epoch that ended.
    #[prost(uint64, tag = "3")]
    pub former: u64,
    /// The newest entry of that one which goes on.
    #[prost(message, optional, tag = "4")]
    pub base: Option<LogIdRow>,
    /// Store-wide revision there, or an earlier one.
    #[prost(uint64, tag = "5")]
    pub revision: u64,
}

/// What a node was sent that came back.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Came {
    /// Bytes that were sent.
    #[prost(uint64, tag = "1")]
    pub bytes: u64,
    /// Bytes of all records, which a node without any would have been sent.
    #[prost(uint64, tag = "2")]
    pub of_bytes: u64,
    /// Writes that it alone had, kept in an orphan bundle in its folder.
    #[prost(uint64, tag = "3")]
    pub orphans: u64,
}
