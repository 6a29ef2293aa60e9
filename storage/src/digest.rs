//! The state digest: one number per replica and log index by which replicas are compared.
//!
//! A row's bucket is the first 12 bits of SHA-256(kind ‖ key); a bucket is the wrapping 128-bit sum, over its rows, of
//! the first 16 bytes (big-endian) of SHA-256(kind ‖ key length as u32 little-endian ‖ key ‖ value). Every kind but
//! `meta` counts. The digest is the SHA-256 of all buckets in order, 16 bytes big-endian each.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::engine::{Batch, EngineView, KeyRange, Kind};
use crate::error::StoreError;
use crate::keyspace::meta;

/// Number of buckets.
pub const BUCKETS: usize = 4096;

/// Bucket of a row.
pub fn bucket_of(kind: Kind, key: &[u8]) -> u16 {
    let mut place = Sha256::new();
    place.update([kind.tag()]);
    place.update(key);
    let place: [u8; 32] = place.finalize().into();
    u16::from_be_bytes([place[0], place[1]]) >> 4
}

/// Some of the buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketSet(Box<[u64; BUCKETS / 64]>);

impl Default for BucketSet {
    fn default() -> BucketSet {
        BucketSet(Box::new([0; BUCKETS / 64]))
    }
}

impl BucketSet {
    /// Every bucket.
    pub fn all() -> BucketSet {
        BucketSet(Box::new([u64::MAX; BUCKETS / 64]))
    }

    /// Adds a bucket; a number that is none is left out.
    pub fn insert(&mut self, bucket: u16) {
        if let Some(word) = self.0.get_mut(usize::from(bucket / 64)) {
            *word |= 1 << (bucket % 64);
        }
    }

    /// Whether a bucket is among them.
    pub fn contains(&self, bucket: u16) -> bool {
        self.0.get(usize::from(bucket / 64)).is_some_and(|word| word & (1 << (bucket % 64)) != 0)
    }

    /// How many.
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Adds all of another set.
    pub fn extend(&mut self, other: &BucketSet) {
        for (word, more) in self.0.iter_mut().zip(other.0.iter()) {
            *word |= more;
        }
    }

    /// Whether the other one has all of these.
    pub fn is_within(&self, other: &BucketSet) -> bool {
        let mut both = other.clone();
        both.extend(self);
        both == *other
    }

    /// Whether some bucket is in both.
    pub fn meets(&self, other: &BucketSet) -> bool {
        self.0.iter().zip(other.0.iter()).any(|(one, two)| one & two != 0)
    }

    /// 512 bytes: words of 64 buckets, little-endian, the lowest bucket in the lowest bit.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Reads [`BucketSet::to_bytes`]; none when the length is another.
    pub fn from_bytes(bytes: &[u8]) -> Option<BucketSet> {
        let (words, rest) = bytes.as_chunks::<8>();
        let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let words: Box<[u64; BUCKETS / 64]> = words.into_boxed_slice().try_into().ok()?;
        rest.is_empty().then_some(BucketSet(words))
    }
}

impl FromIterator<u16> for BucketSet {
    fn from_iter<I: IntoIterator<Item = u16>>(buckets: I) -> BucketSet {
        let mut set = BucketSet::default();
        buckets.into_iter().for_each(|bucket| set.insert(bucket));
        set
    }
}

/// What one row adds to the digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    bucket: u16,
    sum: u128,
}

impl Item {
    /// The part of a row.
    pub fn new(kind: Kind, key: &[u8], value: &[u8]) -> Item {
        let mut sum = Sha256::new();
        sum.update([kind.tag()]);
        sum.update((key.len() as u32).to_le_bytes());
        sum.update(key);
        sum.update(value);
        let sum: [u8; 32] = sum.finalize().into();
        let (sum, _) = sum.split_first_chunk().expect("a SHA-256 has more than 16 bytes");
        Item { bucket: bucket_of(kind, key), sum: u128::from_be_bytes(*sum) }
    }
}

/// The sums of all rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buckets(Vec<u128>);

impl Default for Buckets {
    fn default() -> Buckets {
        Buckets(vec![0; BUCKETS])
    }
}

impl Buckets {
    /// Counts a row that has been written.
    pub fn add(&mut self, item: Item) {
        let sum = &mut self.0[usize::from(item.bucket)];
        *sum = sum.wrapping_add(item.sum);
    }

    /// No longer counts a row that has been replaced or deleted.
    pub fn remove(&mut self, item: Item) {
        let sum = &mut self.0[usize::from(item.bucket)];
        *sum = sum.wrapping_sub(item.sum);
    }

    /// The digest.
    pub fn total(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for sum in &self.0 {
            hash.update(sum.to_be_bytes());
        }
        hash.finalize().into()
    }

    /// The buckets whose sums are others here than there.
    pub fn differing(&self, other: &Buckets) -> BucketSet {
        let pairs = (0..).zip(self.0.iter().zip(&other.0));
        pairs.filter(|(_, (one, two))| one != two).map(|(bucket, _)| bucket).collect()
    }

    /// All sums in order, 16 bytes big-endian each: 64 KiB.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|sum| sum.to_be_bytes()).collect()
    }

    /// Reads [`Buckets::to_bytes`]; none when the length is another.
    pub fn from_bytes(bytes: &[u8]) -> Option<Buckets> {
        let (sums, rest) = bytes.as_chunks::<16>();
        let whole = sums.len() == BUCKETS && rest.is_empty();
        whole.then(|| Buckets(sums.iter().map(|sum| u128::from_be_bytes(*sum)).collect()))
    }

    /// The sums as the rows themselves give them; reads everything.
    pub fn recompute(view: &dyn EngineView) -> Result<Buckets, StoreError> {
        let mut buckets = Buckets::default();
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Meta) {
            for row in view.sweep(kind, KeyRange::all(), false) {
                let (key, value) = row?;
                buckets.add(Item::new(kind, &key, &value));
            }
        }
        Ok(buckets)
    }
}

/// Batches between two rows that hold all buckets.
const BASE_EVERY: u64 = 128;

/// The buckets as apply keeps them, and which have changed since they were last written.
///
/// Most batches touch few buckets: each writes those in one row, in one of [`BASE_EVERY`] places that are used in
/// turn, and when the turn is over one row with all buckets takes their stead.
#[derive(Debug, Default)]
pub struct StateDigest {
    buckets: Buckets,
    changed: Vec<u16>,
    /// Counts the batches that were written.
    sequence: u64,
}

impl StateDigest {
    /// Counts a row that has been written.
    pub fn add(&mut self, item: Item) {
        self.buckets.add(item);
        self.changed.push(item.bucket);
    }

    /// No longer counts a row that has been replaced or deleted.
    pub fn remove(&mut self, item: Item) {
        self.buckets.remove(item);
        self.changed.push(item.bucket);
    }

    /// The sums.
    pub fn buckets(&self) -> &Buckets {
        &self.buckets
    }

    /// Puts the changed buckets into the batch that changed them.
    pub fn write(&mut self, batch: &mut Batch) {
        let mut changed = std::mem::take(&mut self.changed);
        if changed.is_empty() {
            return;
        }
        self.sequence += 1;
        let mut value = self.sequence.to_be_bytes().to_vec();
        if self.sequence.is_multiple_of(BASE_EVERY) {
            value.extend(self.buckets.to_bytes());
            batch.put(Kind::Meta, meta::BUCKETS, value);
            return;
        }
        changed.sort_unstable();
        changed.dedup();
        for bucket in changed {
            value.extend_from_slice(&bucket.to_be_bytes());
            value.extend_from_slice(&self.buckets.0[usize::from(bucket)].to_be_bytes());
        }
        batch.put(Kind::Meta, meta::changed_key(self.sequence % BASE_EVERY), value);
    }

    /// The buckets as apply kept them.
    pub fn load(view: &dyn EngineView) -> Result<StateDigest, StoreError> {
        let mut digest = StateDigest::default();
        if let Some(value) = view.get(Kind::Meta, meta::BUCKETS)? {
            let (sequence, sums) = split_sequence(meta::BUCKETS, &value)?;
            let not_all = || StoreError::corrupt(Kind::Meta, meta::BUCKETS, "it does not hold all buckets");
            digest.sequence = sequence;
            digest.buckets = Buckets::from_bytes(sums).ok_or_else(not_all)?;
        }
        let mut later = BTreeMap::new();
        for row in view.scan(Kind::Meta, KeyRange::prefix(meta::CHANGED), false) {
            let (key, value) = row?;
            let (sequence, _) = split_sequence(&key, &value)?;
            if sequence > digest.sequence {
                later.insert(sequence, (key, value));
            }
        }
        for (sequence, (key, value)) in later {
            digest.sequence += 1;
            if sequence != digest.sequence {
                return Err(StoreError::corrupt(Kind::Meta, &key, "a row of changed buckets before it is missing"));
            }
            let (_, changed) = split_sequence(&key, &value)?;
            let (changed, rest) = changed.as_chunks::<18>();
            for [high, low, sum @ ..] in changed {
                let place = digest.buckets.0.get_mut(usize::from(u16::from_be_bytes([*high, *low])));
                *place.ok_or_else(|| StoreError::corrupt(Kind::Meta, &key, "there is no such bucket"))? =
                    u128::from_be_bytes(*sum);
            }
            if !rest.is_empty() {
                return Err(StoreError::corrupt(Kind::Meta, &key, "it ends within a bucket"));
            }
        }
        Ok(digest)
    }
}

fn split_sequence<'v>(key: &[u8], value: &'v [u8]) -> Result<(u64, &'v [u8]), StoreError> {
    let (sequence, rest) =
        value.split_first_chunk().ok_or_else(|| StoreError::corrupt(Kind::Meta, key, "it is too short"))?;
    Ok((u64::from_be_bytes(*sequence), rest))
}
