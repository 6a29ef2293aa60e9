//! Rows as they are after the commands before this one, some of which are only in the batch.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::engine::{Batch, EngineView, KeyRange, Kind, Row};
use crate::error::StoreError;

/// The rows of one kind: those of a view, changed by a batch.
pub(super) struct Overlay<'a> {
    view: &'a dyn EngineView,
    kind: Kind,
    changed: BTreeMap<Bytes, Option<Bytes>>,
}

impl<'a> Overlay<'a> {
    pub fn new(view: &'a dyn EngineView, batch: &Batch, kind: Kind) -> Overlay<'a> {
        let changes = batch.changes.iter().filter(|change| change.kind == kind);
        // Of two changes to one key the later wins, in a map as in the batch.
        let changed = changes.map(|change| (change.key.clone(), change.value.clone())).collect();
        Overlay { view, kind, changed }
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match self.changed.get(key) {
            Some(value) => Ok(value.clone()),
            None => Ok(self.view.get(self.kind, key)?),
        }
    }

    /// The rows of a range, in key order.
    pub fn scan(&self, range: KeyRange) -> impl Iterator<Item = Result<Row, StoreError>> + use<'_> {
        let first: Bound<&[u8]> = Bound::Included(&range.start);
        let below_end = {
            let end = range.end.clone();
            move |key: &[u8]| end.as_ref().is_none_or(|end| key < &end[..])
        };
        let changed = self.changed.range::<[u8], _>((first, Bound::Unbounded));
        let mut changed = changed.take_while(move |(key, _)| below_end(key)).peekable();
        let mut kept = self.view.scan(self.kind, range, false).peekable();
        std::iter::from_fn(move || {
            loop {
                let kept_key = match kept.peek() {
                    Some(Ok((key, _))) => Some(key),
                    Some(Err(_)) => return kept.next().map(|row| row.map_err(StoreError::from)),
                    None => None,
                };
                let Some((key, value)) = changed.peek().copied() else {
                    return kept.next().map(|row| row.map_err(StoreError::from));
                };
                if kept_key.is_some_and(|kept_key| kept_key < key) {
                    return kept.next().map(|row| row.map_err(StoreError::from));
                }
                if kept_key == Some(key) {
                    kept.next();
                }
                changed.next();
                if let Some(value) = value {
                    return Some(Ok((key.clone(), value.clone())));
                }
            }
        })
    }
}
