//! The site map, in the order in which sites were added.

use super::number;
use crate::engine::Kind;
use crate::error::StoreError;

/// Key of the site at a position, from 0.
pub fn key(position: u32) -> [u8; 4] {
    position.to_be_bytes()
}

/// Position of a key.
pub fn decode_key(key: &[u8]) -> Result<u32, StoreError> {
    Ok(u32::from_be_bytes(number(Kind::Sites, key)?))
}
