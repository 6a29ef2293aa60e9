//! What applying a command answers.

use bytes::Bytes;
use prost::{Message, Oneof};

/// The answer to one command.
#[derive(Clone, PartialEq, Message)]
pub struct Outcome {
    /// Log index of the entry that decided it.
    #[prost(uint64, tag = "1")]
    pub index: u64,
    /// The write's own revision; for outcomes that changed nothing, the store's at that point.
    #[prost(uint64, tag = "2")]
    pub revision: u64,
    /// Replicated clock at that point, microseconds since 1970.
    #[prost(uint64, tag = "3")]
    pub recorded_at_us: u64,
    /// True when the request table answered: an earlier entry had decided it.
    #[prost(bool, tag = "4")]
    pub replayed: bool,
    /// What happened.
    #[prost(oneof = "Decision", tags = "10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25")]
    pub decision: Option<Decision>,
}

/// What happened to a command. Business failures are values: apply never fails for them.
#[derive(Clone, PartialEq, Oneof)]
pub enum Decision {
    /// A version was written.
    #[prost(message, tag = "10")]
    Written(Written),
    /// The condition did not hold; says what is there.
    #[prost(message, tag = "11")]
    Conflict(Conflict),
    /// Delete of a record that is not live.
    #[prost(message, tag = "12")]
    NotFound(NotFound),
    /// No collection of that name.
    #[prost(message, tag = "13")]
    UnknownCollection(UnknownCollection),
    /// A collection was created.
    #[prost(message, tag = "14")]
    CollectionCreated(CollectionCreated),
    /// The name is taken.
    #[prost(message, tag = "15")]
    CollectionExists(CollectionExists),
    /// The envelope's data key may not seal for this collection: seal anew.
    #[prost(message, tag = "16")]
    Reseal(Reseal),
    /// The client's row was evicted: whether the call took effect cannot be told.
    #[prost(message, tag = "17")]
    RequestExpired(RequestExpired),
    /// Done, nothing to say (bootstrap, time mark, add site, protection).
    #[prost(message, tag = "18")]
    Done(Done),
    /// State digest at this index.
    #[prost(message, tag = "19")]
    DigestTaken(DigestTaken),
    /// The node id belongs, or belonged, to a node of this cluster.
    #[prost(message, tag = "20")]
    NodeIdUsed(NodeIdUsed),
    /// Bootstrap of a store that has been made already; it stays what it is.
    #[prost(message, tag = "21")]
    StoreExists(StoreExists),
    /// The collection is on hold: nothing was changed.
    #[prost(message, tag = "22")]
    OnHold(OnHold),
    /// Versions were removed.
    #[prost(message, tag = "23")]
    Collected(Collected),
    /// Rows of the change feed were removed.
    #[prost(message, tag = "24")]
    ChangesCompacted(ChangesCompacted),
    /// The protection is in another state than the one that was to be left: nothing was changed.
    #[prost(message, tag = "25")]
    OtherState(OtherState),
}

/// See [`Decision::Written`].
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Written {
    /// Generation of the new version.
    #[prost(uint64, tag = "1")]
    pub generation: u64,
}

/// See [`Decision::Conflict`].
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Conflict {
    /// True when the record is live.
    #[prost(bool, tag = "1")]
    pub live: bool,
    /// Newest generation, 0 when the record never existed.
    #[prost(uint64, tag = "2")]
    pub generation: u64,
    /// Revision of that generation.
    #[prost(uint64, tag = "3")]
    pub revision: u64,
}

/// See [`Decision::NotFound`].
#[derive(Clone, Copy, PartialEq, Message)]
pub struct NotFound {}

/// See [`Decision::UnknownCollection`].
#[derive(Clone, Copy, PartialEq, Message)]
pub struct UnknownCollection {}

/// See [`Decision::CollectionCreated`].
#[derive(Clone, PartialEq, Message)]
pub struct CollectionCreated {
    /// Its incarnation.
    #[prost(bytes = "bytes", tag = "1")]
    pub incarnation: Bytes,
}

/// See [`Decision::CollectionExists`].
#[derive(Clone, PartialEq, Message)]
pub struct CollectionExists {
    /// Incarnation of the one that is there.
    #[prost(bytes = "bytes", tag = "1")]
    pub incarnation: Bytes,
}

/// See [`Decision::Reseal`].
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Reseal {}

/// See [`Decision::RequestExpired`].
#[derive(Clone, Copy, PartialEq, Message)]
pub struct RequestExpired {
    /// The table's floor: clients whose `since` is at or below it and who are unknown are refused.
    #[prost(uint64, tag = "1")]
    pub floor: u64,
}

/// See [`Decision::Done`].
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Done {}

/// See [`Decision::NodeIdUsed`].
#[derive(Clone, Copy, PartialEq, Message)]
pub struct NodeIdUsed {}

/// See [`Decision::StoreExists`].
#[derive(Clone, Copy, PartialEq, Message)]
pub struct StoreExists {}

/// See [`Decision::DigestTaken`].
#[derive(Clone, PartialEq, Message)]
pub struct DigestTaken {
    /// 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub digest: Bytes,
}

/// See [`Decision::OnHold`].
#[derive(Clone, PartialEq, Message)]
pub struct OnHold {
    /// Why it is.
    #[prost(string, tag = "1")]
    pub reason: String,
}

/// See [`Decision::Collected`].
#[derive(Clone, PartialEq, Message)]
pub struct Collected {
    /// So many versions.
    #[prost(uint64, tag = "1")]
    pub removed: u64,
    /// True when no record is left to look at.
    #[prost(bool, tag = "2")]
    pub done: bool,
    /// Else the `after_id` of the next command.
    #[prost(bytes = "bytes", tag = "3")]
    pub next_after: Bytes,
}

/// See [`Decision::ChangesCompacted`].
#[derive(Clone, Copy, PartialEq, Message)]
pub struct ChangesCompacted {
    /// Newest revision whose row is gone.
    #[prost(uint64, tag = "1")]
    pub floor: u64,
}

/// See [`Decision::OtherState`].
#[derive(Clone, Copy, PartialEq, Message)]
pub struct OtherState {}
