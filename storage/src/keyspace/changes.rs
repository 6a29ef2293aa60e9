//! Which version each of the newer revisions wrote: the change feed. Older rows are removed by
//! [`crate::command::CompactChanges`].

use bytes::Bytes;
use prost::Message;

use super::number;
use crate::engine::Kind;
use crate::error::StoreError;

/// One revision.
#[derive(Clone, PartialEq, Message)]
pub struct ChangeRow {
    /// When, microseconds since 1970; grows with every revision.
    #[prost(uint64, tag = "1")]
    pub recorded_at_us: u64,
    /// Number of the record's collection.
    #[prost(uint32, tag = "2")]
    pub collection: u32,
    /// The record's id.
    #[prost(bytes = "bytes", tag = "3")]
    pub id: Bytes,
    /// Generation of the version that it wrote.
    #[prost(uint64, tag = "4")]
    pub generation: u64,
}

/// Key of a revision.
pub fn key(revision: u64) -> [u8; 8] {
    revision.to_be_bytes()
}

/// Revision of a key.
pub fn decode_key(key: &[u8]) -> Result<u64, StoreError> {
    Ok(u64::from_be_bytes(number(Kind::Changes, key)?))
}
