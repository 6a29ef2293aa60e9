//! Read views: everything the store knows at one point of the log, unchanged while the view is held.
//!
//! [`record`] reads one record; here are listings, times and what the view is of.

mod record;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::apply::{self, Applied, Counts};
use crate::catalog::{Catalog, StoreInfo};
use crate::command::WrappedDek;
use crate::digest::{Buckets, StateDigest};
use crate::engine::{EngineView, KeyRange, Kind};
use crate::error::StoreError;
use crate::keyspace::collections::Collection;
use crate::keyspace::heads;
use crate::keyspace::meta::{self, AppliedRow};
use crate::keyspace::times::{self, TimesRow};
use crate::keyspace::versions::VersionOp;
use crate::keyspace::{decode_value, format};
use crate::quarantine::{Guarded, Held, Quarantine, Watch};
use crate::scrub::Scrub;

pub(crate) use record::decode_version;
pub use record::{At, StoredVersion};

pub(crate) struct ViewState {
    pub rows: Arc<dyn EngineView>,
    pub applied: Applied,
    pub counts: Counts,
    pub catalog: Arc<Catalog>,
    pub digests: Arc<BTreeMap<u64, [u8; 32]>>,
    pub buckets: Arc<BTreeMap<u64, Arc<Buckets>>>,
    pub quarantine: Arc<Quarantine>,
    /// Of rows that no store has open: what the node held back.
    pub was_held: Option<Arc<Held>>,
}

/// The store at one point of the log. Cheap to clone.
#[derive(Clone)]
pub struct View {
    pub(crate) state: Arc<ViewState>,
}

impl View {
    /// A view of rows that no store has open, such as a stopped node's.
    ///
    /// # Errors
    /// The rows are of a newer release or of a witness, one that says what the store is is damaged, or the engine
    /// failed.
    pub fn over(rows: Arc<dyn EngineView>) -> Result<View, StoreError> {
        format::read(&*rows)?;
        let row = match rows.get(Kind::Meta, meta::APPLIED)? {
            Some(value) => decode_value(Kind::Meta, meta::APPLIED, value)?,
            None => AppliedRow { revision: 1, ..AppliedRow::default() },
        };
        if row.log_ids_only {
            return Err(StoreError::NoRecords);
        }
        let membership = apply::membership(rows.get(Kind::Meta, meta::MEMBERSHIP)?)?;
        let quarantine = Quarantine::load(&*rows, Arc::new(Watch::default()))?;
        // Nobody is served by this view: it is for those who look at the damage.
        let was_held = quarantine.held();
        quarantine.hold(None);
        let state = ViewState {
            applied: apply::applied(&row, membership),
            counts: Counts { records: row.records, versions: row.versions, removed: row.removed },
            catalog: Arc::new(Catalog::load(&*rows)?),
            digests: Arc::default(),
            buckets: Arc::default(),
            quarantine: Arc::new(quarantine),
            was_held,
            rows,
        };
        Ok(View { state: Arc::new(state) })
    }

    /// What the node did not serve of this copy, and why; of a view by [`View::over`].
    pub fn held(&self) -> Option<Arc<Held>> {
        self.state.was_held.clone()
    }

    /// Reads all rows and says what is not as it was written.
    pub fn scrub(&self) -> Scrub {
        Scrub::new(self.clone())
    }

    /// The point of the log.
    pub fn applied(&self) -> Applied {
        self.state.applied.clone()
    }

    /// What the store is; none before the first command of the cluster.
    pub fn info(&self) -> Option<StoreInfo> {
        self.state.catalog.info.clone()
    }

    /// A collection by name.
    pub fn collection(&self, name: &str) -> Option<Collection> {
        self.state.catalog.collections.get(name).map(|collection| Collection::clone(collection))
    }

    /// All collections, by name.
    pub fn collections(&self) -> Vec<Collection> {
        self.state.catalog.collections.values().map(|collection| Collection::clone(collection)).collect()
    }

    /// A collection with its policy as the entry at `index` left it.
    pub fn collection_at(&self, name: &str, index: u64) -> Option<Collection> {
        self.state.catalog.collections_at(index).get(name).map(|shown| self.with_floor_of_now(shown))
    }

    /// All of them, by name.
    pub fn collections_at(&self, index: u64) -> Vec<Collection> {
        self.state.catalog.collections_at(index).values().map(|shown| self.with_floor_of_now(shown)).collect()
    }

    /// What was collected is gone from all views, and lies below what is shown.
    fn with_floor_of_now(&self, shown: &Collection) -> Collection {
        let now = self.state.catalog.collections.get(&shown.name);
        let collected_below = now.map_or(shown.collected_below, |now| now.collected_below);
        Collection { collected_below, ..shown.clone() }
    }

    /// The key ring, by DEK id.
    pub fn deks(&self) -> Vec<WrappedDek> {
        self.state.catalog.deks.values().cloned().collect()
    }

    /// Store-wide counts.
    pub fn counts(&self) -> Counts {
        self.state.counts
    }

    /// Records of a collection that are live at `revision`, in id order: those whose id begins with `prefix` and lies
    /// behind `after`, at most `limit`.
    ///
    /// # Errors
    /// The rows cannot be read, or [`StoreError::RevisionGone`].
    pub fn list(
        &self,
        collection: &Collection,
        prefix: &[u8],
        after: Option<&[u8]>,
        revision: u64,
        limit: usize,
    ) -> Result<Vec<StoredVersion>, StoreError> {
        self.noticed(self.look_through(collection, prefix, after, revision, limit))
    }

    fn look_through(
        &self,
        collection: &Collection,
        prefix: &[u8],
        after: Option<&[u8]>,
        revision: u64,
        limit: usize,
    ) -> Result<Vec<StoredVersion>, StoreError> {
        self.check_kept(collection, revision)?;
        let mut range = KeyRange::prefix(&heads::key(collection.number, prefix));
        if let Some(after) = after {
            range.start = range.start.max(heads::behind(collection.number, after));
        }
        let mut found = Vec::new();
        for row in self.rows().scan(Kind::Heads, range, false) {
            if found.len() >= limit {
                break;
            }
            let (key, value) = row?;
            let (_, id) = heads::decode_key(&key)?;
            let head = heads::decode(&key, value)?;
            if head.revision <= revision && !head.live() {
                continue;
            }
            let version = self.at_revision(collection, &id, &head, revision)?;
            found.extend(version.filter(|version| version.op != VersionOp::Delete));
        }
        Ok(found)
    }

    /// The greatest revision that had been recorded at a time (microseconds since 1970); 1 when there was none.
    pub fn revision_at_time(&self, time_us: u64) -> Result<u64, StoreError> {
        let behind = time_us.checked_add(1).map(|next| times::key(next).to_vec());
        let until = KeyRange { start: Vec::new(), end: behind.clone() };
        let Some((began_at, first)) = self.run(until, true)? else {
            // The store begins at revision 1, which nobody wrote.
            return Ok(1);
        };
        let next = match behind {
            Some(start) => self.run(KeyRange { start, end: None }, false)?,
            None => None,
        };
        let last = next.map(|(_, first)| first).map_or(self.state.applied.revision, |next| next.saturating_sub(1));
        Ok(first.saturating_add(time_us.saturating_sub(began_at)).min(last))
    }

    /// The state digest as apply has kept it.
    pub fn kept_digest(&self) -> Result<[u8; 32], StoreError> {
        Ok(StateDigest::load(&*self.state.rows)?.buckets().total())
    }

    /// The state digest as the rows give it; reads every row. A difference from the kept one is damage.
    pub fn recomputed_digest(&self) -> Result<[u8; 32], StoreError> {
        Ok(Buckets::recompute(&*self.state.rows)?.total())
    }

    /// The rows, as far as they may be served.
    fn rows(&self) -> Guarded<'_> {
        Guarded { rows: &*self.state.rows, quarantine: &self.state.quarantine }
    }

    /// Tells of damage that a read has met.
    fn noticed<T>(&self, read: Result<T, StoreError>) -> Result<T, StoreError> {
        read.inspect_err(|error| self.state.quarantine.notice(&self.state.catalog, error))
    }

    /// The greatest revision below which versions of some collection have been removed. It was the frontier's or older
    /// when that began, so everything up to it may be shown.
    pub fn collected_below(&self) -> u64 {
        let floors = self.state.catalog.collections.values().map(|collection| collection.collected_below);
        floors.max().unwrap_or(0)
    }

    /// Oldest revision that the change feed still has; one above the store's when it has none.
    pub fn oldest_change(&self) -> u64 {
        self.state.applied.changes_floor.saturating_add(1)
    }

    /// Refuses listings below what has been collected: a record may lack the version that they would show.
    fn check_kept(&self, collection: &Collection, revision: u64) -> Result<(), StoreError> {
        let oldest = self.floor_of(collection);
        match revision < oldest {
            true => Err(StoreError::RevisionGone { collection: collection.name.clone(), asked: revision, oldest }),
            false => Ok(()),
        }
    }

    /// Every version that policy has removed was followed by another one at or below this revision.
    fn floor_of(&self, collection: &Collection) -> u64 {
        // The caller may have taken the collection from an older view.
        let now = self.state.catalog.collections.get(&collection.name);
        let now = now.filter(|now| now.incarnation == collection.incarnation);
        now.map_or(collection.collected_below, |now| now.collected_below)
    }

    /// Time and first revision of the first run of a range, or of its last.
    fn run(&self, range: KeyRange, last: bool) -> Result<Option<(u64, u64)>, StoreError> {
        let Some(row) = self.rows().scan(Kind::Times, range, last).next() else { return Ok(None) };
        let (key, value) = row?;
        let row: TimesRow = decode_value(Kind::Times, &key, value)?;
        Ok(Some((times::decode_key(&key)?, row.revision)))
    }
}
