//! One record: the version at a generation or a revision, and all that are kept.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::View;
use crate::command::Provenance;
use crate::engine::{KeyRange, Kind};
use crate::error::StoreError;
use crate::keyspace::collections::Collection;
use crate::keyspace::heads::{self, Head};
use crate::keyspace::versions::{self, VersionOp, VersionRow};
use crate::keyspace::{array, decode_value};

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

impl View {
    /// One version of a record, which may be a deletion; none when there is no such version, or was none at the
    /// revision. What policy has removed of other records is no reason to refuse.
    ///
    /// # Errors
    /// The rows cannot be read, or [`StoreError::RecordGone`], [`StoreError::GenerationGone`].
    pub fn get(&self, collection: &Collection, id: &[u8], at: At) -> Result<Option<StoredVersion>, StoreError> {
        self.noticed(match at {
            At::Generation(generation) => self.generation(collection, id, generation),
            At::Revision(revision) => self.as_of(collection, id, revision),
        })
    }

    fn as_of(&self, collection: &Collection, id: &[u8], revision: u64) -> Result<Option<StoredVersion>, StoreError> {
        let key = heads::key(collection.number, id);
        match self.rows().get(Kind::Heads, &key)? {
            Some(value) => self.at_revision(collection, id, &heads::decode(&key, value)?, revision),
            // A record keeps its newest version whatever policy says: without one it has never been written.
            None => Ok(None),
        }
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
        let key = heads::key(collection.number, id);
        let Some(value) = self.rows().get(Kind::Heads, &key)? else { return Ok(None) };
        if heads::decode(&key, value)?.generation < generation {
            return Ok(None);
        }
        match self.history(collection, id, u64::MAX, false).next().transpose()? {
            Some(oldest) if generation < oldest.generation && oldest.revision <= self.floor_of(collection) => {
                Err(StoreError::GenerationGone {
                    collection: collection.name.clone(),
                    asked: generation,
                    oldest: oldest.generation,
                })
            }
            _ => Err(missing(collection, id, generation)),
        }
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

    /// The newest version at a revision, of a record that has this head.
    pub(super) fn at_revision(
        &self,
        collection: &Collection,
        id: &[u8],
        head: &Head,
        revision: u64,
    ) -> Result<Option<StoredVersion>, StoreError> {
        let missing = |generation| missing(collection, id, generation);
        if head.revision <= revision {
            let version = self.version(collection, id, head.generation)?;
            return version.map(Some).ok_or_else(|| missing(head.generation));
        }
        // Generations have no gap and only the oldest go: the place between two neighbours is searched by generation, from the
        // newest on in steps that double, for what is asked for is most often close to it.
        let (mut found, mut followed_by, mut step) = (None::<StoredVersion>, head.generation, 1u64);
        loop {
            let below = found.as_ref().map_or(0, |it| it.generation);
            if followed_by.saturating_sub(below) <= 1 {
                break;
            }
            let probe = followed_by.saturating_sub(step).max(below.midpoint(followed_by));
            step = step.saturating_mul(2);
            let version = match self.version(collection, id, probe)? {
                Some(version) => version,
                None => self.oldest_after(collection, id, (probe, followed_by), revision)?,
            };
            match version.revision <= revision {
                true => found = Some(version),
                false => followed_by = version.generation,
            }
        }
        if followed_by == head.generation
            && self.version(collection, id, followed_by)?.ok_or_else(|| missing(followed_by))?.revision != head.revision
        {
            let key = heads::key(collection.number, id);
            return Err(StoreError::corrupt(Kind::Heads, &key, "its newest version has another revision"));
        }
        Ok(found)
    }

    /// The oldest version that policy has left of a record, if `removed`, which is not there, lies before it.
    fn oldest_after(
        &self,
        collection: &Collection,
        id: &[u8],
        (removed, followed_by): (u64, u64),
        revision: u64,
    ) -> Result<StoredVersion, StoreError> {
        let missing = |generation| missing(collection, id, generation);
        let oldest = self.history(collection, id, u64::MAX, false).next().transpose()?;
        let oldest = oldest.filter(|it| it.generation > removed).ok_or_else(|| missing(removed))?;
        match oldest.revision <= revision {
            _ if oldest.generation > followed_by => Err(missing(followed_by)),
            true => Ok(oldest),
            // What policy has removed was followed by another version at or below the floor.
            false if oldest.revision > self.floor_of(collection) => Err(missing(oldest.generation.saturating_sub(1))),
            false => Err(StoreError::RecordGone {
                collection: collection.name.clone(),
                asked: revision,
                oldest: oldest.revision,
            }),
        }
    }
}

fn missing(collection: &Collection, id: &[u8], generation: u64) -> StoreError {
    let key = versions::key(collection.number, id, generation);
    StoreError::corrupt(Kind::Versions, &key, "the row is missing")
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
