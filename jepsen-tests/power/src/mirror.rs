//! What a node's records must be at a log index: the ordered map's, over the same entries.

use std::sync::Arc;

use prost::Message;
use saola_storage::engine::Kind;
use saola_storage::engine::memory::MemoryHome;
use saola_storage::error::StoreError;
use saola_storage::export::{Body, Chunk, Manifest};
use saola_storage::keyspace::meta;
use saola_storage::store::{ApplyEntry, Keeps, Store, StoreSettings};
use sha2::{Digest, Sha256};

/// Opens over the ordered map.
fn empty() -> Store {
    Store::open(Arc::new(MemoryHome::new()), Keeps::Records, StoreSettings::default())
        .expect("an empty ordered map opens")
}

/// SHA-256 over how far the log was applied and all rows, but for those that tell in which steps that was done.
///
/// # Errors
/// A row does not read.
pub fn fingerprint(store: &Store) -> Result<[u8; 32], String> {
    let failed = |error: StoreError| error.to_string();
    let (mut export, mut hash) = (store.export().map_err(failed)?, Sha256::new());
    while let Some(chunk) = export.next_chunk().map_err(failed)? {
        let chunk = Chunk::decode(chunk.slice(FRAME..)).map_err(|error| error.to_string())?;
        match chunk.body {
            Some(Body::Rows(list)) => {
                let is_own = |key: &[u8]| {
                    list.kind == u32::from(Kind::Meta.tag()) && (key.starts_with(meta::CHANGED) || key == meta::BUCKETS)
                };
                for row in list.rows.iter().filter(|row| !is_own(&row.key)) {
                    let lengths = [u64::from(list.kind), row.key.len() as u64, row.value.len() as u64];
                    lengths.iter().for_each(|length| hash.update(length.to_le_bytes()));
                    hash.update(&row.key);
                    hash.update(&row.value);
                }
            }
            Some(Body::Manifest(Manifest { log_id, revision, clock_us, epoch, .. })) => {
                hash.update(format!("{log_id:?} {revision} {clock_us} {epoch}"));
            }
            _ => {}
        }
    }
    Ok(hash.finalize().into())
}

/// Bytes before a chunk's message: its length and its CRC-32.
const FRAME: usize = 8;

/// The ordered map, as far as it was asked for.
pub struct Mirror(Store);

impl Default for Mirror {
    fn default() -> Self {
        Mirror(empty())
    }
}

impl Mirror {
    fn at(&self) -> u64 {
        self.0.applied().log_id.map_or(0, |last| last.index)
    }

    /// The fingerprint after the first `index` of these entries, the first of which has index 1.
    pub fn fingerprint_at(&mut self, index: u64, entries: &[ApplyEntry]) -> [u8; 32] {
        if self.at() > index {
            self.0 = empty();
        }
        let more = entries[self.at() as usize..index as usize].to_vec();
        if !more.is_empty() {
            self.0.apply(more).expect("the ordered map takes what the log holds");
        }
        fingerprint(&self.0).expect("the ordered map reads")
    }
}
