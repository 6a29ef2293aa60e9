//! Newest version of each record: decides conditions, and leads to the version.

use bytes::Bytes;
use prost::Message;

use super::versions::VersionOp;
use super::{array, decode_value};
use crate::engine::Kind;
use crate::error::StoreError;

/// What the newest version of a record is.
#[derive(Clone, PartialEq, Message)]
pub struct Head {
    /// Its generation.
    #[prost(uint64, tag = "1")]
    pub generation: u64,
    /// The revision that wrote it.
    #[prost(uint64, tag = "2")]
    pub revision: u64,
    /// When, microseconds since 1970.
    #[prost(uint64, tag = "3")]
    pub recorded_at_us: u64,
    /// What it did.
    #[prost(enumeration = "VersionOp", tag = "4")]
    pub op: i32,
    /// Chain hash up to it, 32 bytes.
    #[prost(bytes = "bytes", tag = "5")]
    pub chain: Bytes,
}

impl Head {
    /// False when the newest version is a deletion.
    pub fn live(&self) -> bool {
        self.op != VersionOp::Delete as i32
    }
}

/// Key of a record's head; with a part of an id, the prefix of all ids that begin with it.
pub fn key(collection: u32, id: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(4 + id.len());
    key.extend_from_slice(&collection.to_be_bytes());
    key.extend_from_slice(id);
    key
}

/// The smallest key behind a record's.
pub fn behind(collection: u32, id: &[u8]) -> Vec<u8> {
    let mut behind = key(collection, id);
    behind.push(0);
    behind
}

/// Collection and id of a head's key.
pub fn decode_key(key: &Bytes) -> Result<(u32, Bytes), StoreError> {
    match key.split_first_chunk::<4>() {
        Some((collection, _)) => Ok((u32::from_be_bytes(*collection), key.slice(4..))),
        None => Err(StoreError::corrupt(Kind::Heads, key, "the key is too short")),
    }
}

/// Reads a head.
pub fn decode(key: &[u8], value: Bytes) -> Result<Head, StoreError> {
    let head: Head = decode_value(Kind::Heads, key, value)?;
    array::<32>(Kind::Heads, key, "chain", &head.chain)?;
    VersionOp::try_from(head.op).map_err(|error| StoreError::corrupt(Kind::Heads, key, error))?;
    Ok(head)
}
