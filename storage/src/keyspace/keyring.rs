//! Wrapped data keys; the key is the DEK id.

use bytes::Bytes;

use super::{array, decode_value};
use crate::command::WrappedDek;
use crate::engine::Kind;
use crate::error::StoreError;

/// Reads a wrapped data key.
pub fn decode(key: &[u8], value: Bytes) -> Result<WrappedDek, StoreError> {
    let dek: WrappedDek = decode_value(Kind::KeyRing, key, value)?;
    array::<16>(Kind::KeyRing, key, "id", &dek.id)?;
    array::<16>(Kind::KeyRing, key, "incarnation", &dek.incarnation)?;
    if dek.id != key {
        return Err(StoreError::corrupt(Kind::KeyRing, key, "it holds another data key"));
    }
    Ok(dek)
}
