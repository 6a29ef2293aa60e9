//! The batch that one apply call builds, and the heads that it has changed so far.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::digest::{Buckets, Item, StateDigest};
use crate::engine::{Batch, EngineView, Kind};
use crate::error::StoreError;
use crate::keyspace::encode_value;
use crate::keyspace::heads::{self, Head};

/// A head that a command of this apply call has looked at.
struct Slot {
    /// The row as it is written.
    written: Option<Item>,
    head: Option<Head>,
    changed: bool,
}

/// Rows to be written; later commands of the same call see what earlier ones did.
pub(super) struct Draft<'a> {
    view: &'a dyn EngineView,
    pub batch: Batch,
    digest: &'a mut StateDigest,
    heads: BTreeMap<Bytes, Slot>,
}

impl<'a> Draft<'a> {
    pub fn new(view: &'a dyn EngineView, digest: &'a mut StateDigest) -> Draft<'a> {
        Draft { view, batch: Batch::default(), digest, heads: BTreeMap::new() }
    }

    /// The newest version of a record.
    pub fn head(&mut self, key: &Bytes) -> Result<Option<&Head>, StoreError> {
        if !self.heads.contains_key(key) {
            let value = self.view.get(Kind::Heads, key)?;
            let written = value.as_ref().map(|value| Item::new(Kind::Heads, key, value));
            let head = value.map(|value| heads::decode(key, value)).transpose()?;
            self.heads.insert(key.clone(), Slot { written, head, changed: false });
        }
        Ok(self.heads.get(key).and_then(|slot| slot.head.as_ref()))
    }

    /// Replaces a head that [`Draft::head`] has returned.
    pub fn set_head(&mut self, key: Bytes, head: Head) {
        let slot = self.heads.entry(key).or_insert(Slot { written: None, head: None, changed: false });
        slot.head = Some(head);
        slot.changed = true;
    }

    /// Writes a row whose key is new.
    pub fn add_row(&mut self, kind: Kind, key: impl Into<Bytes>, value: Bytes) {
        self.replace_row(kind, key.into(), None, value);
    }

    /// Writes a row in place of the one that is written, and returns what it adds to the digest.
    pub fn replace_row(&mut self, kind: Kind, key: Bytes, written: Option<Item>, value: Bytes) -> Item {
        let item = Item::new(kind, &key, &value);
        if let Some(written) = written {
            self.digest.remove(written);
        }
        self.digest.add(item);
        self.batch.put(kind, key, value);
        item
    }

    /// Removes a row that is written.
    pub fn remove_row(&mut self, kind: Kind, key: Bytes, written: Item) {
        self.digest.remove(written);
        self.batch.delete(kind, key);
    }

    /// Moves changed heads into the batch. What each row is in between does not matter to the digest.
    pub fn settle(&mut self) {
        let mut heads = std::mem::take(&mut self.heads);
        for (key, slot) in &mut heads {
            if let (true, Some(head)) = (slot.changed, &slot.head) {
                slot.written = Some(self.replace_row(Kind::Heads, key.clone(), slot.written, encode_value(head)));
                slot.changed = false;
            }
        }
        self.heads = heads;
    }

    /// The sums of what has been settled.
    pub fn buckets(&self) -> &Buckets {
        self.digest.buckets()
    }

    /// The finished batch, with the digest's own rows.
    pub fn finish(mut self) -> Batch {
        self.settle();
        self.digest.write(&mut self.batch);
        self.batch
    }
}
