//! Plain values of the calls: what goes in and what comes back.

use bytes::Bytes;

use crate::proto;
pub use crate::proto::{Op, Provenance};

/// Condition of a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expect {
    /// No condition.
    #[default]
    Any,
    /// The record is not live: it never existed, or its newest version is a deletion.
    Absent,
    /// The record's newest version, live or deleted, has this generation.
    Generation(u64),
}

impl From<Expect> for proto::Expect {
    fn from(expect: Expect) -> proto::Expect {
        use proto::expect::Kind;
        let kind = match expect {
            Expect::Any => Kind::Any(true),
            Expect::Absent => Kind::Absent(true),
            Expect::Generation(generation) => Kind::Generation(generation),
        };
        proto::Expect { kind: Some(kind) }
    }
}

/// Which version to read, instead of the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The record's own n-th version.
    Generation(u64),
    /// As the store stood at this revision.
    Revision(u64),
    /// As the store stood at this time: microseconds since 1970-01-01T00:00:00Z, not in the future.
    TimeUs(u64),
}

impl From<At> for proto::At {
    fn from(at: At) -> proto::At {
        use proto::at::Kind;
        let kind = match at {
            At::Generation(generation) => Kind::Generation(generation),
            At::Revision(revision) => Kind::Revision(revision),
            At::TimeUs(time_us) => Kind::TimeUs(time_us),
        };
        proto::At { kind: Some(kind) }
    }
}

/// A read's result and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply<T> {
    /// What was asked for.
    pub value: T,
    /// Store-wide revision up to which the answer is complete.
    pub revision: u64,
    /// Lineage of the cluster.
    pub epoch: u64,
    /// Node that answered.
    pub node: u64,
    /// For stale reads: how old the answer is at most, milliseconds: it shows every write acknowledged earlier.
    pub age_ms: Option<u64>,
}

impl<T> Reply<T> {
    pub(crate) fn new(header: proto::Header, age_ms: Option<u64>, value: T) -> Reply<T> {
        Reply { value, revision: header.revision, epoch: header.epoch, node: header.node, age_ms }
    }
}

/// An acknowledged write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Generation of the version that it wrote.
    pub generation: u64,
    /// Its own revision.
    pub revision: u64,
    /// Its time on the replicated clock, microseconds since 1970.
    pub recorded_at_us: u64,
    /// True when a retry found that an earlier attempt had taken effect.
    pub replayed: bool,
    /// Lineage of the cluster.
    pub epoch: u64,
    /// Node that answered.
    pub node: u64,
    /// Id under which the write was sent.
    pub request: RequestId,
}

/// One version of a record.
#[derive(Clone, Debug, PartialEq)]
pub struct Version {
    /// Its collection.
    pub collection: String,
    /// Its record's id.
    pub id: Bytes,
    /// The record's own counter: 1, 2, 3 …
    pub generation: u64,
    /// Store-wide revision at which it was written.
    pub revision: u64,
    /// Time on the replicated clock, microseconds since 1970.
    pub recorded_at_us: u64,
    /// How it came about.
    pub op: Op,
    /// Media type of the value.
    pub content_type: String,
    /// Where it came from.
    pub provenance: Provenance,
    /// SHA-256 of the sealed envelope; empty for a deletion.
    pub digest: Bytes,
    /// Hash that links it to all earlier versions of the record.
    pub chain: Bytes,
    /// Length of the value, also when the value was left out.
    pub value_bytes: u64,
    /// The value; empty for a deletion and when only keys were asked for.
    pub value: Bytes,
}

impl Version {
    /// True for a deletion.
    pub fn is_deleted(&self) -> bool {
        self.op == Op::Delete
    }
}

impl From<proto::Version> for Version {
    fn from(version: proto::Version) -> Version {
        let info = version.info.unwrap_or_default();
        Version {
            op: info.op(),
            collection: info.collection,
            id: info.id,
            generation: info.generation,
            revision: info.revision,
            recorded_at_us: info.recorded_at_us,
            content_type: info.content_type,
            provenance: info.provenance.unwrap_or_default(),
            digest: info.digest,
            chain: info.chain,
            value_bytes: info.value_bytes,
            value: version.value,
        }
    }
}

/// Identifies one write of one client, over all its retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId {
    /// 16 random bytes of the client.
    pub client: [u8; 16],
    /// A log index that the client saw before its first write.
    pub since: u64,
    /// Counts the client's writes, from 1.
    pub sequence: u64,
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.client.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "/{}", self.sequence)
    }
}
