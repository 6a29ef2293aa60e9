//! Retention: policies are set, and versions and change rows are removed, by commands and nothing else.

use std::sync::Arc;

use bytes::Bytes;

use super::draft::Draft;
use super::overlay::Overlay;
use super::{Machine, Place};
use crate::command::{
    ChangesCompacted, Collect, Collected, CompactChanges, Decision, Done, OnHold, RetentionChange, SetRetention,
    UnknownCollection,
};
use crate::digest::Item;
use crate::engine::{KeyRange, Kind};
use crate::error::StoreError;
use crate::keyspace::collections::{self, Collection};
use crate::keyspace::heads::{self, Head};
use crate::keyspace::versions::{self, VersionRow};
use crate::keyspace::{changes, decode_value};
use crate::retention::Superseded;

/// Most records that one command looks at, whatever it asks for.
const MAX_RECORDS: u64 = 4096;
/// Most versions that one command looks at …
const MAX_VERSIONS: usize = 4096;
/// … and it stops once those it looked at had so many bytes.
const MAX_BYTES: usize = 4 << 20;
/// Most change rows that one command removes, whatever it asks for.
const MAX_CHANGES: u64 = 4096;

/// One command's walk over the records of a collection.
struct Walk<'a> {
    collection: &'a Collection,
    up_to_revision: u64,
    clock_us: u64,
    versions: Overlay<'a>,
    /// What it may still look at.
    versions_left: usize,
    bytes_left: usize,
    /// What goes.
    removed: Vec<(Bytes, Item)>,
}

impl Machine {
    /// Changes a part of a collection's policy. It rules the next [`Collect`]; nothing is removed here.
    pub(super) fn set_retention(&mut self, draft: &mut Draft<'_>, set: SetRetention, place: Place) -> Decision {
        let Some(collection) = self.catalog.collections.get(&set.collection).cloned() else {
            return Decision::UnknownCollection(UnknownCollection {});
        };
        let mut retention = collection.retention.clone();
        match set.change {
            Some(RetentionChange::Limits(limits)) => {
                retention.max_generations = limits.max_generations;
                retention.max_age_ms = limits.max_age_ms;
            }
            // The reason of a hold is evidence: it is released by name before another one takes its place.
            Some(RetentionChange::Hold(hold)) if !retention.hold.is_empty() && hold != retention.hold => {
                return Decision::OnHold(OnHold { reason: retention.hold });
            }
            Some(RetentionChange::Hold(hold)) => retention.hold = hold,
            Some(RetentionChange::Release(_)) => retention.hold.clear(),
            None => {}
        }
        if retention != collection.retention {
            Arc::make_mut(&mut self.catalog).collections_change_at(place.index);
            self.replace_collection(draft, &collection, Collection { retention, ..Collection::clone(&collection) });
        }
        Decision::Done(Done {})
    }

    /// Removes versions of a collection that its policy lets go, of so many records behind the cursor.
    pub(super) fn collect(&mut self, draft: &mut Draft<'_>, collect: Collect) -> Result<Decision, StoreError> {
        let same = |collection: &&Arc<Collection>| {
            collection.number == collect.collection && collection.incarnation[..] == collect.incarnation[..]
        };
        let Some(collection) = self.catalog.collections.values().find(same).cloned() else {
            return Ok(Decision::UnknownCollection(UnknownCollection {}));
        };
        if !collection.retention.hold.is_empty() {
            return Ok(Decision::OnHold(OnHold { reason: collection.retention.hold.clone() }));
        }
        if !collection.retention.removes() {
            return Ok(Decision::Collected(Collected { removed: 0, done: true, next_after: Bytes::new() }));
        }
        let up_to = collect.up_to_revision.min(self.applied.revision);
        draft.settle();
        let heads = draft.rows(Kind::Heads);
        let mut walk = Walk {
            collection: &collection,
            up_to_revision: up_to,
            clock_us: self.applied.clock_us,
            versions: draft.rows(Kind::Versions),
            versions_left: MAX_VERSIONS,
            bytes_left: MAX_BYTES,
            removed: Vec::new(),
        };
        let next_after = walk.run(&heads, collect.after_id, collect.max_records.clamp(1, MAX_RECORDS))?;
        let removed = walk.removed.len() as u64;
        let goes = walk.removed;
        // As long as nothing goes, all that stood earlier can be read.
        if removed > 0 && collection.collected_below < up_to {
            let raised = Collection { collected_below: up_to, ..Collection::clone(&collection) };
            self.replace_collection(draft, &collection, raised);
        }
        for (key, written) in goes {
            draft.remove_row(Kind::Versions, key, written);
        }
        self.counts.versions = self.counts.versions.saturating_sub(removed);
        self.counts.removed += removed;
        let done = next_after.is_none();
        Ok(Decision::Collected(Collected { removed, done, next_after: next_after.unwrap_or_default() }))
    }

    /// Removes the oldest change rows, at most so many.
    pub(super) fn compact_changes(
        &mut self,
        draft: &mut Draft<'_>,
        compact: CompactChanges,
    ) -> Result<Decision, StoreError> {
        let floor = self.applied.changes_floor;
        let up_to = compact.up_to_revision.min(self.applied.revision);
        let last = up_to.min(floor.saturating_add(compact.max_rows.clamp(1, MAX_CHANGES)));
        let written = draft.rows(Kind::Changes);
        for revision in floor + 1..=last {
            let key = Bytes::copy_from_slice(&changes::key(revision));
            let value = written.get(&key)?;
            let value = value.ok_or_else(|| StoreError::corrupt(Kind::Changes, &key, "the row is missing"))?;
            let item = Item::new(Kind::Changes, &key, &value);
            draft.remove_row(Kind::Changes, key, item);
        }
        self.applied.changes_floor = floor.max(last);
        Ok(Decision::ChangesCompacted(ChangesCompacted { floor: self.applied.changes_floor }))
    }

    fn replace_collection(&mut self, draft: &mut Draft<'_>, old: &Collection, new: Collection) {
        let key = Bytes::copy_from_slice(&collections::key(old.number));
        let written = Item::new(Kind::Collections, &key, &collections::encode(old));
        draft.replace_row(Kind::Collections, key, Some(written), collections::encode(&new));
        Arc::make_mut(&mut self.catalog).collections.insert(new.name.clone(), Arc::new(new));
    }
}

impl Walk<'_> {
    /// Looks at the records behind one, at most so many, and returns the record behind which to go on; none: that was all.
    fn run(&mut self, heads: &Overlay<'_>, after: Bytes, max_records: u64) -> Result<Option<Bytes>, StoreError> {
        let mut range = KeyRange::prefix(&heads::key(self.collection.number, b""));
        if !after.is_empty() {
            range.start = heads::behind(self.collection.number, &after);
        }
        let (mut after, mut left) = (after, max_records);
        for row in heads.scan(range) {
            if left == 0 || self.is_spent() {
                return Ok(Some(after));
            }
            let (key, value) = row?;
            let (_, id) = heads::decode_key(&key)?;
            let head = heads::decode(&key, value)?;
            // A record's first version is its newest too: there is nothing to look at.
            if head.generation > 1 && !self.look_at(&id, &head)? {
                return Ok(Some(after));
            }
            left -= 1;
            after = id;
        }
        Ok(None)
    }

    /// Looks at a record's versions, oldest first, up to one that stays. False: some went and there may be more.
    fn look_at(&mut self, id: &[u8], head: &Head) -> Result<bool, StoreError> {
        let before = self.removed.len();
        let mut older: Option<(Bytes, Item, u64)> = None;
        let range = KeyRange::prefix(&versions::prefix(self.collection.number, id));
        for row in self.versions.scan(range) {
            let (key, value) = row?;
            self.versions_left = self.versions_left.saturating_sub(1);
            self.bytes_left = self.bytes_left.saturating_sub(value.len());
            let item = Item::new(Kind::Versions, &key, &value);
            let (_, _, generation) = versions::decode_key(&key)?;
            let version: VersionRow = decode_value(Kind::Versions, &key, value)?;
            if let Some((older_key, older_item, older_generation)) = older {
                let superseded = Superseded {
                    newest_generation: head.generation,
                    generation: older_generation,
                    next_revision: version.revision,
                    next_recorded_at_us: version.recorded_at_us,
                };
                if !self.collection.retention.removable(superseded, self.up_to_revision, self.clock_us) {
                    return Ok(true);
                }
                self.removed.push((older_key, older_item));
            }
            if self.removed.len() > before && (self.versions_left == 0 || self.bytes_left == 0) {
                return Ok(false);
            }
            older = Some((key, item, generation));
        }
        Ok(true)
    }

    fn is_spent(&self) -> bool {
        self.versions_left == 0 || self.bytes_left == 0
    }
}
