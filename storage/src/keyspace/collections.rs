//! Collections by number; the number stands in record keys and is given in order of creation, from 1.

use bytes::Bytes;
use prost::Message;

use super::{array, decode_value, encode_value, number};
use crate::command::KeyStyle;
use crate::engine::Kind;
use crate::error::StoreError;
use crate::retention::Retention;

/// A named set of records: the unit of policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collection {
    /// Number in record keys, from 1.
    pub number: u32,
    /// Unique name.
    pub name: String,
    /// 16 random bytes, new each time a collection is created.
    pub incarnation: [u8; 16],
    /// Largest value in bytes.
    pub max_value_bytes: u64,
    /// Which ids are allowed.
    pub key_style: KeyStyle,
    /// Free text.
    pub owner: String,
    /// Free text.
    pub label: String,
    /// The store's revision when it was created.
    pub created_revision: u64,
    /// How long versions are kept.
    pub retention: Retention,
    /// Listings as of an earlier revision are refused: versions that they would show may have been removed. 0: none were.
    pub collected_below: u64,
}

/// A collection as it is stored; its number stands in the key.
#[derive(Clone, PartialEq, Message)]
pub struct CollectionRow {
    /// Unique name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// 16 bytes.
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
    /// The store's revision when it was created.
    #[prost(uint64, tag = "7")]
    pub created_revision: u64,
    /// How long versions are kept; none: all of them.
    #[prost(message, optional, tag = "8")]
    pub retention: Option<Retention>,
    /// Listings as of an earlier revision are refused.
    #[prost(uint64, tag = "9")]
    pub collected_below: u64,
}

/// Key of a collection.
pub fn key(number: u32) -> [u8; 4] {
    number.to_be_bytes()
}

/// Value of a collection.
pub fn encode(collection: &Collection) -> Bytes {
    encode_value(&CollectionRow {
        name: collection.name.clone(),
        incarnation: Bytes::copy_from_slice(&collection.incarnation),
        max_value_bytes: collection.max_value_bytes,
        key_style: collection.key_style as i32,
        owner: collection.owner.clone(),
        label: collection.label.clone(),
        created_revision: collection.created_revision,
        retention: (collection.retention != Retention::default()).then(|| collection.retention.clone()),
        collected_below: collection.collected_below,
    })
}

/// Reads a collection.
pub fn decode(key: &[u8], value: Bytes) -> Result<Collection, StoreError> {
    let number = u32::from_be_bytes(number(Kind::Collections, key)?);
    let row: CollectionRow = decode_value(Kind::Collections, key, value)?;
    Ok(Collection {
        number,
        incarnation: array(Kind::Collections, key, "incarnation", &row.incarnation)?,
        key_style: KeyStyle::try_from(row.key_style)
            .map_err(|error| StoreError::corrupt(Kind::Collections, key, error))?,
        name: row.name,
        max_value_bytes: row.max_value_bytes,
        owner: row.owner,
        label: row.label,
        created_revision: row.created_revision,
        retention: row.retention.unwrap_or_default(),
        collected_below: row.collected_below,
    })
}
