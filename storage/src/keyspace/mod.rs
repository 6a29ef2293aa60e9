//! The register of what stands in the state machine's rows: kinds, keys and values.
//!
//! Tags are never reused. Numbers in keys are big-endian, so that rows sort by them. Every value but a digest's is
//! one byte of format version (now 1) and a prost message; `since` is the release that first wrote the kind.
//!
//! | kind | tag | key | value | since |
//! |---|---|---|---|---|
//! | heads | 1 | collection u32, record id as it is | [`heads::Head`]: newest version without its value | 0.1 |
//! | versions | 2 | collection u32, escaped record id, generation u64 | [`versions::VersionRow`] | 0.1 |
//! | changes | 3 | revision u64 | [`changes::ChangeRow`]: which version it wrote, and when | 0.1 |
//! | requests | 4 | client id | [`requests::RequestRow`]: outcomes of its recent calls | 0.1 |
//! | keyring | 5 | DEK id | [`crate::command::WrappedDek`] | 0.1 |
//! | leases | 6 | | none yet | 0.1 |
//! | meta | 7 | a name, see [`meta`] | what this store is and how far it has applied | 0.1 |
//! | collections | 8 | number u32 | [`collections::CollectionRow`] | 0.1 |
//! | sites | 9 | position u32 | [`crate::command::Site`] | 0.1 |
//! | times | 10 | time u64 | [`times::TimesRow`]: the revision that was recorded then | 0.1 |
//!
//! Record ids may hold any bytes. A head's key ends with the id, so it needs no escape. In a version's key each zero
//! byte of the id becomes `00 FF` and `00 00` ends the id; records stay in byte order and no key is a prefix of
//! another record's.

pub mod changes;
pub mod collections;
pub mod epochs;
pub mod failover;
pub mod format;
pub mod heads;
pub mod keyring;
pub mod meta;
pub mod protection;
pub mod requests;
pub mod sites;
pub mod times;
pub mod versions;

use bytes::{Buf, Bytes};
use prost::Message;

use crate::engine::Kind;
use crate::error::StoreError;

/// Format version of every value written by this release.
pub const FORMAT: u8 = 1;

/// A value's bytes.
pub fn encode_value(message: &impl Message) -> Bytes {
    let mut bytes = Vec::with_capacity(1 + message.encoded_len());
    bytes.push(FORMAT);
    message.encode_raw(&mut bytes);
    Bytes::from(bytes)
}

/// Reads a value that stands under `key`.
pub fn decode_value<M: Message + Default>(kind: Kind, key: &[u8], mut value: Bytes) -> Result<M, StoreError> {
    match value.first() {
        Some(&FORMAT) => value.advance(1),
        Some(other) => return Err(StoreError::corrupt(kind, key, format!("unknown format version {other}"))),
        None => return Err(StoreError::corrupt(kind, key, "the value is empty")),
    }
    M::decode(value).map_err(|error| StoreError::corrupt(kind, key, error))
}

/// Reads a field of fixed length.
pub(crate) fn array<const N: usize>(kind: Kind, key: &[u8], field: &str, bytes: &[u8]) -> Result<[u8; N], StoreError> {
    bytes
        .try_into()
        .map_err(|_| StoreError::corrupt(kind, key, format!("{field} has {} bytes instead of {N}", bytes.len())))
}

/// Reads a key that is one number.
pub(crate) fn number<const N: usize>(kind: Kind, key: &[u8]) -> Result<[u8; N], StoreError> {
    array(kind, key, "the key", key)
}
