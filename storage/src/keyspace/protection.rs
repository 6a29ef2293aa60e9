//! What an acknowledgement waits for; one row.

use bytes::Bytes;

use super::{decode_value, encode_value};
use crate::command::SetProtection;
use crate::engine::Kind;
use crate::error::StoreError;
use crate::protection::{Mode, Protection};

/// Key of the row. Its value is the command that set it.
pub const KEY: &[u8] = b"protection";

/// Value of the row.
pub fn encode(protection: Protection) -> Bytes {
    encode_value(&SetProtection::from(protection))
}

/// Reads the row.
pub fn decode(value: Bytes) -> Result<Protection, StoreError> {
    let row: SetProtection = decode_value(Kind::Protection, KEY, value)?;
    let unknown = || StoreError::corrupt(Kind::Protection, KEY, format!("there is no mode {}", row.mode));
    Ok(Protection { mode: Mode::of(row.mode).ok_or_else(unknown)?, acks: row.acks.max(1) })
}
