//! Commands about forced promotions: see [`crate::epoch`].

use bytes::Bytes;
use prost::Message;

/// Say who may approve a forced promotion, and how many of them must: in the place of what was said before.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SetApprovers {
    /// All of them.
    #[prost(message, repeated, tag = "1")]
    pub approvers: Vec<Approver>,
    /// So many must approve.
    #[prost(uint32, tag = "2")]
    pub needed: u32,
}

/// Somebody who may approve.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Approver {
    /// Unique name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Ed25519 public key, 32 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub public_key: Bytes,
}

/// First command of an epoch that a forced promotion began. Acknowledgements wait for nobody any more, and leadership
/// belongs to the promoted site.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct BeginEpoch {
    /// The epoch; one that is known already begins nothing.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// The approved plan, opaque here.
    #[prost(bytes = "bytes", tag = "2")]
    pub record: Bytes,
    /// The promoted site.
    #[prost(string, tag = "3")]
    pub site: String,
    /// 16 random bytes: the id of the state of the protection that begins.
    #[prost(bytes = "bytes", tag = "4")]
    pub state_id: Bytes,
}
