//! The time index, written with the versions: see [`crate::keyspace::times`].

use bytes::Bytes;

use super::draft::Draft;
use crate::engine::{EngineView, KeyRange, Kind};
use crate::error::StoreError;
use crate::keyspace::times::{self, TimesRow};
use crate::keyspace::{decode_value, encode_value};

/// When the newest revision of the store was recorded, so that a run is known to go on.
pub(crate) struct Newest(Option<u64>);

impl Newest {
    /// From the last run; `revision` is the store's.
    pub fn load(view: &dyn EngineView, revision: u64) -> Result<Newest, StoreError> {
        let Some(row) = view.scan(Kind::Times, KeyRange::all(), true).next() else {
            return Ok(Newest(None));
        };
        let (key, value) = row?;
        let first: TimesRow = decode_value(Kind::Times, &key, value)?;
        let later = revision.checked_sub(first.revision);
        let newest = later.and_then(|later| times::decode_key(&key).ok()?.checked_add(later));
        match newest {
            Some(newest) => Ok(Newest(Some(newest))),
            None => Err(StoreError::corrupt(Kind::Times, &key, "the store has not reached that revision")),
        }
    }

    /// Notes that a revision, the next one, is recorded at a time.
    pub(super) fn record(&mut self, draft: &mut Draft<'_>, revision: u64, recorded_at_us: u64) {
        // Not later at all is a clock that has reached its last microsecond.
        let goes_on = self.0.is_some_and(|newest| recorded_at_us <= newest.saturating_add(1));
        self.0 = Some(recorded_at_us);
        if !goes_on {
            let key = Bytes::copy_from_slice(&times::key(recorded_at_us));
            draft.add_row(Kind::Times, key, encode_value(&TimesRow { revision }));
        }
    }
}
