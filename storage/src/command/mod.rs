//! What a Raft entry carries and what applying it answers: the bytes of the log's payloads.
//!
//! Format version 1, prost encoding. Tags are never reused; the register stands in `storage/README.md`.
//! A command holds everything that apply needs: sealed values, ids, random bytes and the leader's time stamp
//! are chosen before it enters the log, so that apply uses no clock, no randomness and no key.

use bytes::Bytes;
use prost::{Enumeration, Message, Oneof};

mod epoch;
mod outcome;
mod protection;

pub use epoch::{Approver, BeginEpoch, SetApprovers};
pub use outcome::*;
pub use protection::{
    CameBy, FailoverPolicy, LeadFrom, MoveGate, ProtectionMode, ReleaseFloor, SetFailover, SetGoal, SetProtection,
    SurvivalGoal,
};

/// The commands of one log entry, in order, with the time at which the leader proposed them.
#[derive(Clone, PartialEq, Message)]
pub struct CommandBatch {
    /// Leader's clock when proposing, microseconds since 1970.
    #[prost(uint64, tag = "1")]
    pub stamp_us: u64,
    /// Each has its own outcome and, if it changes a record, its own revision.
    #[prost(message, repeated, tag = "2")]
    pub commands: Vec<Command>,
}

/// One change, with the id under which a retry is recognised.
#[derive(Clone, PartialEq, Message)]
pub struct Command {
    /// Missing for commands that are idempotent by themselves (time marks, digests).
    #[prost(message, optional, tag = "1")]
    pub request: Option<RequestId>,
    /// What to do.
    #[prost(oneof = "Op", tags = "10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30")]
    pub op: Option<Op>,
}

/// Identifies one call of one client.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct RequestId {
    /// 16 random bytes, one per client instance.
    #[prost(bytes = "bytes", tag = "1")]
    pub client: Bytes,
    /// A log index that the client saw in an answer before its first call.
    #[prost(uint64, tag = "2")]
    pub since: u64,
    /// Counts the client's calls, from 1.
    #[prost(uint64, tag = "3")]
    pub sequence: u64,
    /// All lower sequences are settled and will not be asked for again.
    #[prost(uint64, tag = "4")]
    pub done_below: u64,
}

/// The kinds of change.
#[derive(Clone, PartialEq, Oneof)]
pub enum Op {
    /// Write a version of a record.
    #[prost(message, tag = "10")]
    Put(PutRecord),
    /// Write a deletion of a record.
    #[prost(message, tag = "11")]
    Delete(DeleteRecord),
    /// Create a collection with its first data key.
    #[prost(message, tag = "12")]
    CreateCollection(CreateCollection),
    /// First command of a new cluster: store uuid, cluster name, site map.
    #[prost(message, tag = "13")]
    Bootstrap(Bootstrap),
    /// Record the state digest at this log index.
    #[prost(message, tag = "14")]
    TakeDigest(TakeDigest),
    /// Move the replicated clock to the entry's stamp.
    #[prost(message, tag = "15")]
    TimeMark(TimeMark),
    /// Add a site to the site map, together with wraps of every existing data key for it.
    #[prost(message, tag = "16")]
    AddSite(AddSite),
    /// Use a node id, once and for all.
    #[prost(message, tag = "17")]
    ClaimNodeId(ClaimNodeId),
    /// Change how long a collection keeps versions.
    #[prost(message, tag = "18")]
    SetRetention(SetRetention),
    /// Remove versions that a collection's policy lets go.
    #[prost(message, tag = "19")]
    Collect(Collect),
    /// Remove the oldest rows of the change feed.
    #[prost(message, tag = "20")]
    CompactChanges(CompactChanges),
    /// Change what an acknowledgement waits for.
    #[prost(message, tag = "21")]
    SetProtection(SetProtection),
    /// Acknowledgements wait for the other site no more: it does not answer. All that waited is acknowledged.
    #[prost(message, tag = "22")]
    Degrade(MoveGate),
    /// They wait again, from this command's own entry on.
    #[prost(message, tag = "23")]
    Synchronize(MoveGate),
    /// Change what is done when the site that leads is lost.
    #[prost(message, tag = "24")]
    SetFailover(SetFailover),
    /// Let the witness forget entries that a data node lacks.
    #[prost(message, tag = "25")]
    ReleaseFloor(ReleaseFloor),
    /// Say that leadership is at another site.
    #[prost(message, tag = "26")]
    LeadFrom(LeadFrom),
    /// Declare what the cluster survives.
    #[prost(message, tag = "27")]
    SetGoal(SetGoal),
    /// Acknowledgements wait for the witness, which stands in for the other site, from this command's own entry on.
    #[prost(message, tag = "28")]
    WaitForWitness(MoveGate),
    /// Say who may approve a forced promotion.
    #[prost(message, tag = "29")]
    SetApprovers(SetApprovers),
    /// Begin the epoch that a forced promotion made.
    #[prost(message, tag = "30")]
    BeginEpoch(BeginEpoch),
}

/// Condition of a write, decided on applied state.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Expect {
    /// Which condition.
    #[prost(enumeration = "ExpectKind", tag = "1")]
    pub kind: i32,
    /// For `Generation`.
    #[prost(uint64, tag = "2")]
    pub generation: u64,
}

/// Kinds of condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum ExpectKind {
    /// No condition.
    Any = 0,
    /// The record is not live.
    Absent = 1,
    /// The newest version, live or deleted, has the given generation.
    Generation = 2,
}

/// Where a version came from; clear text.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Provenance {
    /// System that delivered the value.
    #[prost(string, tag = "1")]
    pub source_system: String,
    /// Who acted.
    #[prost(string, tag = "2")]
    pub actor: String,
    /// Why.
    #[prost(string, tag = "3")]
    pub reason: String,
}

/// Write a version.
#[derive(Clone, PartialEq, Message)]
pub struct PutRecord {
    /// Collection by name.
    #[prost(string, tag = "1")]
    pub collection: String,
    /// Record id, checked against the collection's key style at the ingress node.
    #[prost(bytes = "bytes", tag = "2")]
    pub id: Bytes,
    /// Sealed value (`seal::Envelope` bytes).
    #[prost(bytes = "bytes", tag = "3")]
    pub envelope: Bytes,
    /// Media type of the value.
    #[prost(string, tag = "4")]
    pub content_type: String,
    /// Condition; missing means any.
    #[prost(message, optional, tag = "5")]
    pub expect: Option<Expect>,
    /// Where it came from.
    #[prost(message, optional, tag = "6")]
    pub provenance: Option<Provenance>,
    /// Length before sealing.
    #[prost(uint64, tag = "7")]
    pub value_bytes: u64,
}

/// Delete a record.
#[derive(Clone, PartialEq, Message)]
pub struct DeleteRecord {
    /// Collection by name.
    #[prost(string, tag = "1")]
    pub collection: String,
    /// Record id.
    #[prost(bytes = "bytes", tag = "2")]
    pub id: Bytes,
    /// Condition; missing means any.
    #[prost(message, optional, tag = "3")]
    pub expect: Option<Expect>,
    /// Why it was deleted.
    #[prost(message, optional, tag = "4")]
    pub provenance: Option<Provenance>,
}

/// Create a collection.
#[derive(Clone, PartialEq, Message)]
pub struct CreateCollection {
    /// Unique name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// 16 random bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub incarnation: Bytes,
    /// Largest value in bytes.
    #[prost(uint64, tag = "3")]
    pub max_value_bytes: u64,
    /// Which ids are allowed.
    #[prost(enumeration = "KeyStyle", tag = "4")]
    pub key_style: i32,
    /// Free text.
    #[prost(string, tag = "5")]
    pub owner: String,
    /// Free text.
    #[prost(string, tag = "6")]
    pub label: String,
    /// Its first data key, wrapped for every site of the site map.
    #[prost(message, optional, tag = "7")]
    pub dek: Option<WrappedDek>,
}

/// Which record ids a collection takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum KeyStyle {
    /// UTF-8 NFC, 1 to 512 bytes, no control characters.
    Ordered = 0,
    /// Any 1 to 4096 bytes.
    Bytes = 1,
}

/// A data encryption key as the key ring keeps it: never in clear.
#[derive(Clone, PartialEq, Message)]
pub struct WrappedDek {
    /// 16 random bytes, never reused.
    #[prost(bytes = "bytes", tag = "1")]
    pub id: Bytes,
    /// Collection incarnation that it may seal for.
    #[prost(bytes = "bytes", tag = "2")]
    pub incarnation: Bytes,
    /// One per site of the site map that holds keys.
    #[prost(message, repeated, tag = "3")]
    pub wraps: Vec<Wrap>,
}

/// A data key encrypted to one site's KEK with HPKE.
#[derive(Clone, PartialEq, Message)]
pub struct Wrap {
    /// Site by name.
    #[prost(string, tag = "1")]
    pub site: String,
    /// The KEK public key that it was wrapped for, 32 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub kek_public: Bytes,
    /// HPKE encapsulated key, 32 bytes.
    #[prost(bytes = "bytes", tag = "3")]
    pub encapsulated: Bytes,
    /// HPKE ciphertext with its tag.
    #[prost(bytes = "bytes", tag = "4")]
    pub ciphertext: Bytes,
}

/// A site of the site map.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Site {
    /// Unique name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// X25519 public key, 32 bytes; empty where no data node may be.
    #[prost(bytes = "bytes", tag = "2")]
    pub kek_public: Bytes,
}

/// First command of a cluster.
#[derive(Clone, PartialEq, Message)]
pub struct Bootstrap {
    /// 16 random bytes, made at init; survives restore and forks.
    #[prost(bytes = "bytes", tag = "1")]
    pub store_uuid: Bytes,
    /// Name that destructive verbs ask for.
    #[prost(string, tag = "2")]
    pub cluster_name: String,
    /// Site map.
    #[prost(message, repeated, tag = "3")]
    pub sites: Vec<Site>,
    /// 16 random bytes; new after a restore or fork.
    #[prost(bytes = "bytes", tag = "4")]
    pub cluster_id: Bytes,
    /// Node ids of the first voters.
    #[prost(uint64, repeated, tag = "5")]
    pub node_ids: Vec<u64>,
    /// The rule that it begins with; none: written by an older release.
    #[prost(message, optional, tag = "6")]
    pub protection: Option<SetProtection>,
    /// What it does when a site is lost; none: written by an older release.
    #[prost(message, optional, tag = "7")]
    pub failover: Option<SetFailover>,
}

/// Add a site to the site map.
#[derive(Clone, PartialEq, Message)]
pub struct AddSite {
    /// The new site.
    #[prost(message, optional, tag = "1")]
    pub site: Option<Site>,
    /// Wraps for it, `WrappedDek.wraps` holding only the new one; must cover every data key in the ring.
    #[prost(message, repeated, tag = "2")]
    pub deks: Vec<WrappedDek>,
}

/// Use a node id: the answer is [`Decision::Done`] for the first data folder that claims it, however often, and
/// [`Decision::NodeIdUsed`] for every other. Without a folder id it is given up: then no folder has it any more.
#[derive(Clone, PartialEq, Message)]
pub struct ClaimNodeId {
    /// The id.
    #[prost(uint64, tag = "1")]
    pub node_id: u64,
    /// The random id of the data folder that the node runs on, 16 bytes; none when the node was removed.
    #[prost(bytes = "bytes", tag = "2")]
    pub folder_id: Bytes,
}

/// Record the state digest.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct TakeDigest {}

/// Move the replicated clock.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct TimeMark {}

/// Change a part of a collection's policy.
#[derive(Clone, PartialEq, Message)]
pub struct SetRetention {
    /// Collection by name.
    #[prost(string, tag = "1")]
    pub collection: String,
    /// The part.
    #[prost(oneof = "RetentionChange", tags = "2, 3, 4")]
    pub change: Option<RetentionChange>,
}

/// See [`SetRetention`].
#[derive(Clone, PartialEq, Oneof)]
pub enum RetentionChange {
    /// Both limits anew.
    #[prost(message, tag = "2")]
    Limits(RetentionLimits),
    /// Nothing is removed any more, for this reason.
    #[prost(string, tag = "3")]
    Hold(String),
    /// The hold ends; the limits rule again.
    #[prost(message, tag = "4")]
    Release(Release),
}

/// See [`crate::retention::Retention`].
#[derive(Clone, Copy, PartialEq, Message)]
pub struct RetentionLimits {
    /// So many newest generations stay; 0: all.
    #[prost(uint64, tag = "1")]
    pub max_generations: u64,
    /// Superseded versions stay for so many milliseconds; 0: for ever.
    #[prost(uint64, tag = "2")]
    pub max_age_ms: u64,
}

/// See [`RetentionChange::Release`].
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Release {}

/// Remove versions that a collection's policy lets go. First all reads of it as of a revision below `up_to_revision`
/// are refused for good.
#[derive(Clone, PartialEq, Message)]
pub struct Collect {
    /// Of each record the newest version at or below it stays, and everything above it.
    #[prost(uint64, tag = "1")]
    pub up_to_revision: u64,
    /// Number of the collection.
    #[prost(uint32, tag = "2")]
    pub collection: u32,
    /// Its incarnation, 16 bytes.
    #[prost(bytes = "bytes", tag = "3")]
    pub incarnation: Bytes,
    /// Only records behind this id; empty: from the first.
    #[prost(bytes = "bytes", tag = "4")]
    pub after_id: Bytes,
    /// At most so many records.
    #[prost(uint64, tag = "5")]
    pub max_records: u64,
}

/// Remove the oldest rows of the change feed. Versions stay.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct CompactChanges {
    /// Rows of later revisions stay.
    #[prost(uint64, tag = "1")]
    pub up_to_revision: u64,
    /// At most so many.
    #[prost(uint64, tag = "2")]
    pub max_rows: u64,
}
