//! What of this copy must not be served, and the damage that reads have met.
//!
//! A copy that is known to be bad serves nothing. While it is open which of several copies is right, only the rows in
//! the buckets that differ are held back; and since a row that is missing there shows in no listing, no range of rows is
//! served either. Views of one database share its quarantine, so that it takes effect on those taken before.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::catalog::Catalog;
use crate::digest::{BucketSet, bucket_of};
use crate::engine::{EngineView, KeyRange, Kind, Row};
use crate::error::StoreError;
use crate::keyspace::meta::{self, QuarantineRow};
use crate::keyspace::{changes, decode_value, heads, versions};

/// Most damaged rows that are named.
pub const MOST_NAMED: usize = 10;

/// What is held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Everything.
    pub whole: bool,
    /// The rows in these buckets; of a copy that is held back as a whole, those that were found to differ.
    pub buckets: BucketSet,
    /// What was found.
    pub why: String,
}

impl Held {
    pub(crate) fn row(&self) -> QuarantineRow {
        QuarantineRow { whole: self.whole, buckets: self.buckets.to_bytes().into(), why: self.why.clone() }
    }

    /// This and what was held back before: what is found later never makes served again what was found earlier.
    pub fn with(mut self, before: &Held) -> Held {
        self.buckets.extend(&before.buckets);
        if before.whole && !self.whole {
            (self.whole, self.why) = (true, before.why.clone());
        }
        self
    }

    fn refusal(&self) -> StoreError {
        let part = if self.whole { "at all" } else { "where it differs from others" };
        StoreError::Quarantined { part, why: self.why.clone() }
    }
}

/// Rows that could not be read as they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// How often a read met one since the start.
    pub reads: u64,
    /// The newest of them, each once.
    pub rows: Vec<String>,
}

type Hook = Box<dyn Fn() + Send + Sync>;

/// Damage that reads have met, over all databases of a process.
#[derive(Default)]
pub(crate) struct Watch {
    damage: Mutex<Damage>,
    hook: Mutex<Option<Arc<Hook>>>,
}

impl Watch {
    pub fn on_damage(&self, hook: Hook) {
        *self.hook.lock() = Some(Arc::new(hook));
    }

    pub fn damage(&self) -> Damage {
        self.damage.lock().clone()
    }
}

/// What of one database must not be served.
pub(crate) struct Quarantine {
    held: ArcSwapOption<Held>,
    watch: Arc<Watch>,
}

impl Quarantine {
    /// As the database itself says.
    pub fn load(view: &dyn EngineView, watch: Arc<Watch>) -> Result<Quarantine, StoreError> {
        let held = match view.get(Kind::Meta, meta::QUARANTINE)? {
            None => None,
            Some(value) => {
                let QuarantineRow { whole, buckets, why } = decode_value(Kind::Meta, meta::QUARANTINE, value)?;
                let damaged = || StoreError::corrupt(Kind::Meta, meta::QUARANTINE, "its buckets have not 512 bytes");
                Some(Arc::new(Held { whole, buckets: BucketSet::from_bytes(&buckets).ok_or_else(damaged)?, why }))
            }
        };
        Ok(Quarantine { held: ArcSwapOption::from(held), watch })
    }

    pub fn held(&self) -> Option<Arc<Held>> {
        self.held.load_full()
    }

    pub fn hold(&self, held: Option<Held>) {
        self.held.store(held.map(Arc::new));
    }

    /// Whether this row may be served.
    fn check(&self, kind: Kind, key: &[u8]) -> Result<(), StoreError> {
        match &*self.held.load() {
            Some(held) if held.whole || held.buckets.contains(bucket_of(kind, key)) => Err(held.refusal()),
            _ => Ok(()),
        }
    }

    /// Whether all rows may be served.
    pub fn check_all(&self) -> Result<(), StoreError> {
        self.held.load().as_ref().map_or(Ok(()), |held| Err(held.refusal()))
    }

    /// Counts and names damage that a read has met, and tells who waits for it.
    pub fn notice(&self, catalog: &Catalog, error: &StoreError) {
        let StoreError::Corrupt { kind, key, .. } = error else { return };
        let name = name_of_hex(catalog, kind, key);
        tracing::error!("a read met a damaged row, {name}: {error}");
        {
            let mut damage = self.watch.damage.lock();
            damage.reads += 1;
            damage.rows.retain(|known| *known != name);
            damage.rows.push(name);
            let surplus = damage.rows.len().saturating_sub(MOST_NAMED);
            damage.rows.drain(..surplus);
        }
        let hook = self.watch.hook.lock().clone();
        if let Some(hook) = hook {
            hook();
        }
    }
}

/// The rows of a view as far as they may be served. What the engine cannot read is damage of that row.
pub(crate) struct Guarded<'v> {
    pub rows: &'v dyn EngineView,
    pub quarantine: &'v Quarantine,
}

impl<'v> Guarded<'v> {
    pub fn get(&self, kind: Kind, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.quarantine.check(kind, key)?;
        self.rows.get(kind, key).map_err(|error| StoreError::corrupt(kind, key, error))
    }

    pub fn scan(
        &self,
        kind: Kind,
        range: KeyRange,
        reverse: bool,
    ) -> Box<dyn Iterator<Item = Result<Row, StoreError>> + 'v> {
        if let Err(error) = self.quarantine.check_all() {
            return Box::new(std::iter::once(Err(error)));
        }
        let (rows, quarantine, start) = (self.rows, self.quarantine, range.start.clone());
        Box::new(rows.scan(kind, range, reverse).map(move |row| {
            quarantine.check_all()?;
            row.map_err(|error| StoreError::corrupt(kind, &start, format!("at or behind this key: {error}")))
        }))
    }
}

/// A row in words: `collection/id`, with its generation if it is a version.
pub(crate) fn name_row(catalog: &Catalog, kind: Kind, key: &[u8]) -> String {
    let record = |number: u32, id: &[u8]| {
        let collection = catalog.collections.values().find(|collection| collection.number == number);
        let collection = collection.map_or_else(|| format!("collection {number}"), |found| found.name.clone());
        format!("{collection}/{}", String::from_utf8_lossy(id).escape_debug())
    };
    let named = match kind {
        Kind::Heads => heads::decode_key(&Bytes::copy_from_slice(key)).ok().map(|(number, id)| record(number, &id)),
        Kind::Versions => versions::decode_key(key)
            .ok()
            .map(|(number, id, generation)| format!("{} g{generation}", record(number, &id))),
        Kind::Changes => changes::decode_key(key).ok().map(|revision| format!("change of revision {revision}")),
        _ => None,
    };
    named.unwrap_or_else(|| format!("{} key {}", kind.name(), hex(key)))
}

fn hex(key: &[u8]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The same for a row as [`StoreError::Corrupt`] has it.
pub(crate) fn name_of_hex(catalog: &Catalog, kind: &str, key: &str) -> String {
    let found = Kind::ALL.into_iter().find(|known| known.name() == kind);
    let digits = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = key.as_bytes().chunks(2).map(digits).collect();
    match (found, bytes) {
        (Some(kind), Some(key)) => name_row(catalog, kind, &key),
        _ => format!("{kind} key {key}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_later_never_narrows_what_is_held_back() {
        let held = |whole, bucket: u16, why: &str| Held {
            whole,
            buckets: BucketSet::from_iter([bucket]),
            why: why.to_owned(),
        };
        let both = BucketSet::from_iter([1, 2]);
        let tie = held(false, 2, "later").with(&held(false, 1, "earlier"));
        assert_eq!(tie, Held { whole: false, buckets: both.clone(), why: "later".into() });
        let still_whole = held(false, 2, "later").with(&held(true, 1, "earlier"));
        assert_eq!(still_whole, Held { whole: true, buckets: both.clone(), why: "earlier".into() });
        let now_whole = held(true, 2, "later").with(&held(false, 1, "earlier"));
        assert_eq!(now_whole, Held { whole: true, buckets: both, why: "later".into() });
    }
}
