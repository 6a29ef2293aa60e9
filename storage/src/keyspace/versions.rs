//! Every version of every record, with its sealed value.

use bytes::Bytes;
use prost::{Enumeration, Message};

use crate::command::Provenance;
use crate::engine::Kind;
use crate::error::StoreError;

/// What a version did to its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Enumeration)]
#[repr(i32)]
pub enum VersionOp {
    /// Wrote a value.
    Put = 1,
    /// Deleted it.
    Delete = 2,
    /// Brought back the value before a deletion.
    Undelete = 3,
    /// Brought back the value of an earlier version.
    Rollback = 4,
}

/// One version; generation, collection and id stand in the key.
#[derive(Clone, PartialEq, Message)]
pub struct VersionRow {
    /// The revision that wrote it.
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    /// When, microseconds since 1970.
    #[prost(uint64, tag = "2")]
    pub recorded_at_us: u64,
    /// What it did.
    #[prost(enumeration = "VersionOp", tag = "3")]
    pub op: i32,
    /// Media type of the value.
    #[prost(string, tag = "4")]
    pub content_type: String,
    /// Where it came from.
    #[prost(message, optional, tag = "5")]
    pub provenance: Option<Provenance>,
    /// Sealed value; empty for a deletion.
    #[prost(bytes = "bytes", tag = "6")]
    pub envelope: Bytes,
    /// SHA-256 of the envelope, 32 bytes.
    #[prost(bytes = "bytes", tag = "7")]
    pub digest: Bytes,
    /// Chain hash up to this version, 32 bytes.
    #[prost(bytes = "bytes", tag = "8")]
    pub chain: Bytes,
    /// Length of the value before sealing.
    #[prost(uint64, tag = "9")]
    pub value_bytes: u64,
}

/// What all versions of one record begin with.
pub fn prefix(collection: u32, id: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(4 + id.len() + 2 + 8);
    key.extend_from_slice(&collection.to_be_bytes());
    for byte in id {
        key.push(*byte);
        if *byte == 0 {
            key.push(0xff);
        }
    }
    key.extend_from_slice(&[0, 0]);
    key
}

/// Key of one version.
pub fn key(collection: u32, id: &[u8], generation: u64) -> Vec<u8> {
    let mut key = prefix(collection, id);
    key.extend_from_slice(&generation.to_be_bytes());
    key
}

/// Collection, id and generation of a version's key.
pub fn decode_key(key: &[u8]) -> Result<(u32, Vec<u8>, u64), StoreError> {
    let corrupt = |why: &str| StoreError::corrupt(Kind::Versions, key, why);
    let (collection, mut rest) = key.split_first_chunk::<4>().ok_or_else(|| corrupt("the key is too short"))?;
    let mut id = Vec::with_capacity(rest.len());
    loop {
        match rest {
            [0, 0, generation @ ..] => {
                let generation = generation.try_into().map_err(|_| corrupt("the generation has not 8 bytes"))?;
                return Ok((u32::from_be_bytes(*collection), id, u64::from_be_bytes(generation)));
            }
            [0, 0xff, tail @ ..] => {
                id.push(0);
                rest = tail;
            }
            [0, ..] => return Err(corrupt("the id holds a zero byte that is not escaped")),
            [byte, tail @ ..] => {
                id.push(*byte);
                rest = tail;
            }
            [] => return Err(corrupt("the id does not end")),
        }
    }
}
