//! Read views: everything the store knows at one point of the log, unchanged while the view is held.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::apply::{self, Applied, Counts};
use crate::catalog::{Catalog, StoreInfo};
use crate::command::{Provenance, WrappedDek};
use crate::digest::{Buckets, StateDigest};
use crate::engine::{EngineView, KeyRange, Kind};
use crate::error::StoreError;
use crate::keyspace::collections::Collection;
use crate::keyspace::heads::{self, Head};
use crate::keyspace::meta::{self, AppliedRow};
use crate::keyspace::times::{self, TimesRow};
use crate::keyspace::versions::{self, VersionOp, VersionRow};
use crate::keyspace::{array, decode_value, format};
use crate::quarantine::{Guarded, Held, Quarantine, Watch};
use crate::scrub::Scrub;

/// Which version of a record to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The one with this generation, whatever its revision: the caller compares that with what it may show.
    Generation(u64),
    /// The newest one at this revision.
    Revision(u64),
}

/// One version of a record, still sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredVersion {
    /// Record id.
    pub id: Bytes,
    /// The record's own counter, from 1.
    pub generation: u64,
    /// Store-wide counter.
    pub revision: u64,
    /// Replicated clock, microseconds since 1970.
    pub recorded_at_us: u64,
    /// What it did.
    pub op: VersionOp,
    /// Media type of the value.
    pub content_type: String,
    /// Where it came from.
    pub provenance: Option<Provenance>,
    /// Sealed value; empty for a deletion.
    pub envelope: Bytes,
    /// SHA-256 of the envelope.
    pub digest: [u8; 32],
    /// Links it to all earlier versions of the record ([`crate::chain`]).
    pub chain: [u8; 32],
    /// Length of the value before sealing.
    pub value_bytes: u64,
}

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

    /// The key ring, by DEK id.
    pub fn deks(&self) -> Vec<WrappedDek> {
        self.state.catalog.deks.values().cloned().collect()
    }

    /// Store-wide counts.
    pub fn counts(&self) -> Counts {
        self.state.counts
    }

    /// One version of a record, which may be a deletion; none when there is no such version.
    ///
    /// # Errors
    /// The rows cannot be read, or [`StoreError::RevisionGone`], [`StoreError::GenerationGone`].
    pub fn get(&self, collection: &Collection, id: &[u8], at: At) -> Result<Option<StoredVersion>, StoreError> {
        self.noticed(self.look_up(collection, id, at))
    }

    fn look_up(&self, collection: &Collection, id: &[u8], at: At) -> Result<Option<StoredVersion>, StoreError> {
        let revision = match at {
            At::Generation(generation) => return self.generation(collection, id, generation),
            At::Revision(revision) => revision,
        };
        self.check_kept(collection, revision)?;
        let key = heads::key(collection.number, id);
        match self.rows().get(Kind::Heads, &key)? {
            Some(value) => self.at_revision(collection, id, &heads::decode(&key, value)?, revision),
            None => Ok(None),
        }
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

    /// All kept versions of a record up to a revision, oldest or newest first. Reads while it is walked. What policy has
    /// removed is missing at the old end. The chain then verifies from the second version on: the link of the oldest one
    /// to what was removed cannot be recomputed any more, all later links can.
    pub fn history(
        &self,
        collection: &Collection,
        id: &[u8],
        upto_revision: u64,
        newest_first: bool,
    ) -> impl Iterator<Item = Result<StoredVersion, StoreError>> + use<'_> {
        let range = KeyRange::prefix(&versions::prefix(collection.number, id));
        self.rows()
            .scan(Kind::Versions, range, newest_first)
            .map(|row| {
                let (key, value) = row?;
                let (_, id, generation) = versions::decode_key(&key)?;
                decode_version(&key, value, &id, generation)
            })
            .map(|version| self.noticed(version))
            // Later versions come first when walking backwards, and end the walk otherwise.
            .skip_while(move |version| newest_first && later(version, upto_revision))
            .take_while(move |version| newest_first || !later(version, upto_revision))
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

    /// Refuses revisions below what has been collected.
    fn check_kept(&self, collection: &Collection, revision: u64) -> Result<(), StoreError> {
        // The caller may have taken the collection from an older view.
        let now = self.state.catalog.collections.get(&collection.name);
        let now = now.filter(|now| now.incarnation == collection.incarnation);
        let oldest = now.map_or(collection.collected_below, |now| now.collected_below);
        match revision < oldest {
            true => Err(StoreError::RevisionGone { collection: collection.name.clone(), asked: revision, oldest }),
            false => Ok(()),
        }
    }

    /// A version by generation; one that the record has had is there or is gone.
    fn generation(
        &self,
        collection: &Collection,
        id: &[u8],
        generation: u64,
    ) -> Result<Option<StoredVersion>, StoreError> {
        let found = self.version(collection, id, generation)?;
        if found.is_some() || generation == 0 {
            return Ok(found);
        }
        match self.history(collection, id, u64::MAX, false).next().transpose()? {
            Some(oldest) if generation < oldest.generation => Err(StoreError::GenerationGone {
                collection: collection.name.clone(),
                asked: generation,
                oldest: oldest.generation,
            }),
            _ => Ok(None),
        }
    }

    /// Time and first revision of the first run of a range, or of its last.
    fn run(&self, range: KeyRange, last: bool) -> Result<Option<(u64, u64)>, StoreError> {
        let Some(row) = self.rows().scan(Kind::Times, range, last).next() else { return Ok(None) };
        let (key, value) = row?;
        let row: TimesRow = decode_value(Kind::Times, &key, value)?;
        Ok(Some((times::decode_key(&key)?, row.revision)))
    }

    fn version(
        &self,
        collection: &Collection,
        id: &[u8],
        generation: u64,
    ) -> Result<Option<StoredVersion>, StoreError> {
        let key = versions::key(collection.number, id, generation);
        match self.rows().get(Kind::Versions, &key)? {
            Some(value) => decode_version(&key, value, id, generation).map(Some),
            None => Ok(None),
        }
    }

    fn at_revision(
        &self,
        collection: &Collection,
        id: &[u8],
        head: &Head,
        revision: u64,
    ) -> Result<Option<StoredVersion>, StoreError> {
        if head.revision > revision {
            return self.history(collection, id, revision, true).next().transpose();
        }
        match self.version(collection, id, head.generation)? {
            Some(version) => Ok(Some(version)),
            None => {
                let key = versions::key(collection.number, id, head.generation);
                Err(StoreError::corrupt(Kind::Versions, &key, "the row is missing"))
            }
        }
    }
}

fn later(version: &Result<StoredVersion, StoreError>, revision: u64) -> bool {
    version.as_ref().is_ok_and(|version| version.revision > revision)
}

/// Reads a version; its envelope must be the one that its digest is of.
pub(crate) fn decode_version(
    key: &[u8],
    value: Bytes,
    id: &[u8],
    generation: u64,
) -> Result<StoredVersion, StoreError> {
    let row: VersionRow = decode_value(Kind::Versions, key, value)?;
    if Sha256::digest(&row.envelope)[..] != row.digest[..] {
        return Err(StoreError::corrupt(Kind::Versions, key, "its envelope does not give its digest"));
    }
    Ok(StoredVersion {
        id: Bytes::copy_from_slice(id),
        generation,
        revision: row.revision,
        recorded_at_us: row.recorded_at_us,
        op: VersionOp::try_from(row.op).map_err(|error| StoreError::corrupt(Kind::Versions, key, error))?,
        content_type: row.content_type,
        provenance: row.provenance,
        envelope: row.envelope,
        digest: array(Kind::Versions, key, "digest", &row.digest)?,
        chain: array(Kind::Versions, key, "chain", &row.chain)?,
        value_bytes: row.value_bytes,
    })
}
