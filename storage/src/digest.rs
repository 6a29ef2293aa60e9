//! The state digest: one number per replica and log index by which replicas are compared (DESIGN section 6).
//!
//! A row's bucket is the first 12 bits of SHA-256(kind ‖ key); a bucket is the wrapping 128-bit sum, over its rows, of
//! the first 16 bytes (big-endian) of SHA-256(kind ‖ key length as u32 little-endian ‖ key ‖ value). Every kind but
//! `meta` counts. The digest is the SHA-256 of all buckets in order, 16 bytes big-endian each.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use crate::engine::{Batch, EngineView, KeyRange, Kind};
use crate::error::StoreError;
use crate::keyspace::{array, meta};

/// Number of buckets.
pub const BUCKETS: usize = 4096;

/// What one row adds to the digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    bucket: u16,
    sum: u128,
}

impl Item {
    /// The part of a row.
    pub fn new(kind: Kind, key: &[u8], value: &[u8]) -> Item {
        let mut place = Sha256::new();
        place.update([kind.tag()]);
        place.update(key);
        let place: [u8; 32] = place.finalize().into();
        let mut sum = Sha256::new();
        sum.update([kind.tag()]);
        sum.update((key.len() as u32).to_le_bytes());
        sum.update(key);
        sum.update(value);
        let sum: [u8; 32] = sum.finalize().into();
        let (sum, _) = sum.split_first_chunk().expect("a SHA-256 has more than 16 bytes");
        Item { bucket: u16::from_be_bytes([place[0], place[1]]) >> 4, sum: u128::from_be_bytes(*sum) }
    }
}

/// The buckets, and which of them have changed since they were last written.
#[derive(Clone, Debug)]
pub struct StateDigest {
    buckets: Vec<u128>,
    changed: BTreeSet<u16>,
}

impl Default for StateDigest {
    fn default() -> StateDigest {
        StateDigest { buckets: vec![0; BUCKETS], changed: BTreeSet::new() }
    }
}

impl StateDigest {
    /// Counts a row that has been written.
    pub fn add(&mut self, item: Item) {
        let bucket = &mut self.buckets[usize::from(item.bucket)];
        *bucket = bucket.wrapping_add(item.sum);
        self.changed.insert(item.bucket);
    }

    /// No longer counts a row that has been replaced or deleted.
    pub fn remove(&mut self, item: Item) {
        let bucket = &mut self.buckets[usize::from(item.bucket)];
        *bucket = bucket.wrapping_sub(item.sum);
        self.changed.insert(item.bucket);
    }

    /// The digest over all buckets.
    pub fn total(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for bucket in &self.buckets {
            hash.update(bucket.to_be_bytes());
        }
        hash.finalize().into()
    }

    /// Puts the changed buckets into the batch that changed them.
    pub fn write(&mut self, batch: &mut Batch) {
        for bucket in std::mem::take(&mut self.changed) {
            let sum = self.buckets[usize::from(bucket)];
            batch.put(Kind::Meta, meta::bucket_key(bucket), sum.to_be_bytes().to_vec());
        }
    }

    /// The buckets as apply kept them.
    pub fn load(view: &dyn EngineView) -> Result<StateDigest, StoreError> {
        let mut digest = StateDigest::default();
        for row in view.scan(Kind::Meta, KeyRange::prefix(meta::BUCKET), false) {
            let (key, value) = row?;
            let bucket: [u8; 2] = array(Kind::Meta, &key, "the bucket's number", &key[meta::BUCKET.len()..])?;
            let sum = digest.buckets.get_mut(usize::from(u16::from_be_bytes(bucket)));
            let sum = sum.ok_or_else(|| StoreError::corrupt(Kind::Meta, &key, "there is no such bucket"))?;
            *sum = u128::from_be_bytes(array(Kind::Meta, &key, "the bucket", &value)?);
        }
        Ok(digest)
    }

    /// The buckets as the rows themselves give them; reads everything.
    pub fn recompute(view: &dyn EngineView) -> Result<StateDigest, StoreError> {
        let mut digest = StateDigest::default();
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Meta) {
            for row in view.scan(kind, KeyRange::all(), false) {
                let (key, value) = row?;
                digest.add(Item::new(kind, &key, &value));
            }
        }
        Ok(digest)
    }
}
