//! Single rows about the store as a whole. This kind alone is not part of the state digest.
//!
//! | key | value |
//! |---|---|
//! | `format` | [`super::format::FormatRow`]: format of all rows, and which releases wrote them; read first |
//! | `applied` | [`AppliedRow`]: how far the log has been applied, and counters; written with every batch |
//! | `membership` | [`MembershipRow`] |
//! | `info` | [`InfoRow`]: uuid, names, node ids ever used |
//! | `buckets` | all buckets of the state digest: u64 sequence, 4,096 times u128; no format version |
//! | `changed` and u8 | buckets changed by one batch: u64 sequence, pairs of u16 and u128; no format version |
//! | `quarantine` | [`QuarantineRow`]: what of this copy must not be served; each node's own |
//! | `digest` and log index u64 | the state digest taken there: 32 bytes, no format version |

use bytes::Bytes;
use prost::Message;

use crate::types::{LeaderId, LogId};

/// Key of [`AppliedRow`].
pub const APPLIED: &[u8] = b"applied";
/// Key of [`MembershipRow`].
pub const MEMBERSHIP: &[u8] = b"membership";
/// Key of [`InfoRow`].
pub const INFO: &[u8] = b"info";
/// Key of the row with all buckets.
pub const BUCKETS: &[u8] = b"buckets";
/// Key of [`QuarantineRow`].
pub const QUARANTINE: &[u8] = b"quarantine";
/// Prefix of the keys of rows with changed buckets.
pub const CHANGED: &[u8] = b"changed";
/// Prefix of a taken digest's key.
pub const DIGEST: &[u8] = b"digest";

/// A log id as it is stored.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct LogIdRow {
    /// Term of the leader.
    #[prost(uint64, tag = "1")]
    pub term: u64,
    /// The leader.
    #[prost(uint64, tag = "2")]
    pub node_id: u64,
    /// Index.
    #[prost(uint64, tag = "3")]
    pub index: u64,
}

impl From<LogId> for LogIdRow {
    fn from(id: LogId) -> LogIdRow {
        LogIdRow { term: id.leader.term, node_id: id.leader.node_id, index: id.index }
    }
}

impl From<LogIdRow> for LogId {
    fn from(row: LogIdRow) -> LogId {
        LogId { leader: LeaderId { term: row.term, node_id: row.node_id }, index: row.index }
    }
}

/// How far the log has been applied.
#[derive(Clone, PartialEq, Message)]
pub struct AppliedRow {
    /// Newest applied entry.
    #[prost(message, optional, tag = "1")]
    pub log_id: Option<LogIdRow>,
    /// Store-wide revision.
    #[prost(uint64, tag = "2")]
    pub revision: u64,
    /// Replicated clock, microseconds since 1970.
    #[prost(uint64, tag = "3")]
    pub clock_us: u64,
    /// Records that are live.
    #[prost(uint64, tag = "4")]
    pub records: u64,
    /// Versions that are kept.
    #[prost(uint64, tag = "5")]
    pub versions: u64,
    /// Unknown clients whose `since` is at or below it are refused.
    #[prost(uint64, tag = "6")]
    pub request_floor: u64,
    /// True on a witness: there are no rows but this one and the membership.
    #[prost(bool, tag = "7")]
    pub log_ids_only: bool,
    /// Newest revision whose change row has been removed; 0: none has been.
    #[prost(uint64, tag = "8")]
    pub changes_floor: u64,
    /// Versions that were removed by policy, ever.
    #[prost(uint64, tag = "9")]
    pub removed: u64,
}

/// The cluster's membership, opaque here.
#[derive(Clone, PartialEq, Message)]
pub struct MembershipRow {
    /// Entry that set it.
    #[prost(message, required, tag = "1")]
    pub log_id: LogIdRow,
    /// As the Raft layer wrote it.
    #[prost(bytes = "bytes", tag = "2")]
    pub membership: Bytes,
}

/// What the store is.
#[derive(Clone, PartialEq, Message)]
pub struct InfoRow {
    /// 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub store_uuid: Bytes,
    /// 16 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub cluster_id: Bytes,
    /// Name that destructive verbs ask for.
    #[prost(string, tag = "3")]
    pub cluster_name: String,
    /// Every node id that was ever used, ascending.
    #[prost(uint64, repeated, tag = "4")]
    pub node_ids: Vec<u64>,
    /// Who claimed those that were claimed after the cluster was made, ascending.
    #[prost(message, repeated, tag = "5")]
    pub claims: Vec<NodeClaim>,
}

/// What of this copy must not be served. It stands in the database that it is about, and goes with it.
#[derive(Clone, PartialEq, Message)]
pub struct QuarantineRow {
    /// True: nothing is served.
    #[prost(bool, tag = "1")]
    pub whole: bool,
    /// The buckets whose rows are not served, as [`crate::digest::BucketSet::to_bytes`] writes them.
    #[prost(bytes = "bytes", tag = "2")]
    pub buckets: Bytes,
    /// What was found.
    #[prost(string, tag = "3")]
    pub why: String,
}

/// A node id with the data folder that it was given to.
#[derive(Clone, PartialEq, Message)]
pub struct NodeClaim {
    /// The id.
    #[prost(uint64, tag = "1")]
    pub node_id: u64,
    /// The folder's random id.
    #[prost(bytes = "bytes", tag = "2")]
    pub folder_id: Bytes,
}

/// Key of the changed buckets of one batch, by its turn.
pub fn changed_key(turn: u64) -> Vec<u8> {
    [CHANGED, &[turn as u8]].concat()
}

/// Key of the digest taken at a log index.
pub fn digest_key(index: u64) -> Vec<u8> {
    [DIGEST, &index.to_be_bytes()].concat()
}
