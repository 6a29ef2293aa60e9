//! The time index: when each revision was recorded, one row per run of revisions that follow each other by exactly
//! 1 µs, as all writes of one entry do. The revision `k` after a row's was recorded `k` µs after the row's time.

use prost::Message;

use super::number;
use crate::engine::Kind;
use crate::error::StoreError;

/// The first revision of a run; when it was recorded stands in the key.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct TimesRow {
    /// The revision.
    #[prost(uint64, tag = "1")]
    pub revision: u64,
}

/// Key of the run whose first revision was recorded at a time, microseconds since 1970.
pub fn key(recorded_at_us: u64) -> [u8; 8] {
    recorded_at_us.to_be_bytes()
}

/// Time of a key.
pub fn decode_key(key: &[u8]) -> Result<u64, StoreError> {
    Ok(u64::from_be_bytes(number(Kind::Times, key)?))
}
