//! The seam between the state machine and what keeps its rows.
//!
//! An [`Engine`] keeps rows of ten [`Kind`]s in key order, takes whole batches, gives views that never change, and
//! says what has reached stable storage. It keeps no log of its own: after a restart it may be at any earlier batch
//! boundary, at or after its last flush, and the Raft log replays the rest.
//! An [`EngineHome`] is the place where engines live: one is current, others are being filled or read to the end.
//!
//! - [`memory`]: an ordered map, for tests and simulation;
//! - `rocks`: RocksDB, for production (feature `rocksdb`).

pub mod memory;
#[cfg(feature = "rocksdb")]
pub mod rocks;

use std::sync::Arc;

use bytes::Bytes;

/// What a row is. Tags stand on disk and are never reused; the register is in [`crate::keyspace`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Newest version of each record, without its value.
    Heads = 1,
    /// Every version of every record, with its sealed value.
    Versions = 2,
    /// Which version each revision wrote.
    Changes = 3,
    /// Outcomes of recent calls, by client.
    Requests = 4,
    /// Wrapped data keys.
    KeyRing = 5,
    /// Claims of clients that expire; nothing writes them yet.
    Leases = 6,
    /// What this store is and how far it has applied.
    Meta = 7,
    /// Collections by number.
    Collections = 8,
    /// The site map.
    Sites = 9,
    /// When each revision was recorded.
    Times = 10,
    /// What an acknowledgement waits for.
    Protection = 11,
}

impl Kind {
    /// All kinds, by tag.
    pub const ALL: [Kind; 11] = [
        Kind::Heads,
        Kind::Versions,
        Kind::Changes,
        Kind::Requests,
        Kind::KeyRing,
        Kind::Leases,
        Kind::Meta,
        Kind::Collections,
        Kind::Sites,
        Kind::Times,
        Kind::Protection,
    ];

    /// The number on disk.
    pub fn tag(self) -> u8 {
        self as u8
    }

    /// The kind with a tag, if there is one.
    pub fn from_tag(tag: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.tag() == tag)
    }

    /// Name on disk and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Heads => "heads",
            Kind::Versions => "versions",
            Kind::Changes => "changes",
            Kind::Requests => "requests",
            Kind::KeyRing => "keyring",
            Kind::Leases => "leases",
            Kind::Meta => "meta",
            Kind::Collections => "collections",
            Kind::Sites => "sites",
            Kind::Times => "times",
            Kind::Protection => "protection",
        }
    }
}

/// The engine could not read or write.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct EngineError {
    /// What failed, on what, and what to do next.
    pub what: String,
    /// What the layer below said.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
    /// What stands there is wrong or gone, or the disk does not give it: no second attempt helps, another copy does.
    pub damage: bool,
}

/// One row: key and value.
pub type Row = (Bytes, Bytes);

/// Rows in key order, or in reverse.
pub type Rows<'a> = Box<dyn Iterator<Item = Result<Row, EngineError>> + 'a>;

/// A range of keys within one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRange {
    /// First key, inclusive.
    pub start: Vec<u8>,
    /// Last key, exclusive; none: to the end of the kind.
    pub end: Option<Vec<u8>>,
}

impl KeyRange {
    /// Every key.
    pub fn all() -> KeyRange {
        KeyRange::default()
    }

    /// Every key that begins with `prefix`.
    pub fn prefix(prefix: &[u8]) -> KeyRange {
        KeyRange { start: prefix.to_vec(), end: after_prefix(prefix) }
    }
}

/// The smallest key above all keys that begin with `prefix`; none when there is no such key.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// One row to write, or to delete when there is no value.
#[derive(Clone, Debug)]
pub struct Change {
    /// Kind of the row.
    pub kind: Kind,
    /// Its key.
    pub key: Bytes,
    /// Its new value; none deletes it.
    pub value: Option<Bytes>,
}

/// Changes that take effect together or not at all; of two changes to one key the later wins.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// In order.
    pub changes: Vec<Change>,
}

impl Batch {
    /// Adds a row.
    pub fn put(&mut self, kind: Kind, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.changes.push(Change { kind, key: key.into(), value: Some(value.into()) });
    }

    /// Removes a row.
    pub fn delete(&mut self, kind: Kind, key: impl Into<Bytes>) {
        self.changes.push(Change { kind, key: key.into(), value: None });
    }
}

/// Keeps rows.
pub trait Engine: Send + Sync {
    /// A view of all batches written so far; later batches do not change it.
    fn view(&self) -> Arc<dyn EngineView>;

    /// Writes a batch: at once visible to new views, on stable storage at the latest after the next flush.
    fn write(&self, batch: Batch) -> Result<(), EngineError>;

    /// Fills this engine, which nobody has written to, with rows that come in order.
    fn loader(&self) -> Box<dyn Loader>;

    /// Brings every batch written before the call to stable storage.
    fn flush(&self) -> Result<(), EngineError>;

    /// A row as stable storage has it.
    fn get_flushed(&self, kind: Kind, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Bytes that the rows take, roughly.
    fn size_bytes(&self) -> u64;
}

/// Fills a new engine, faster than batches do.
pub trait Loader: Send {
    /// Adds a row. Kinds come in the order of their tags, the rows of a kind in key order, each once.
    fn add(&mut self, kind: Kind, key: Bytes, value: Bytes) -> Result<(), EngineError>;

    /// Makes all rows visible; on stable storage at the latest after the next flush.
    fn finish(self: Box<Self>) -> Result<(), EngineError>;
}

/// All rows at one batch boundary.
pub trait EngineView: Send + Sync {
    /// One row's value.
    fn get(&self, kind: Kind, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// The rows of a range, in key order or from its end.
    fn scan(&self, kind: Kind, range: KeyRange, reverse: bool) -> Rows<'_>;

    /// As [`EngineView::scan`], for a reader of everything: what it reads takes nobody's place in a cache.
    fn sweep(&self, kind: Kind, range: KeyRange, reverse: bool) -> Rows<'_> {
        self.scan(kind, range, reverse)
    }
}

/// Where engines live. Each has a number that is never reused while it exists; one is current.
pub trait EngineHome: Send + Sync {
    /// Opens the current engine, unless it is condemned; makes the first one in an empty home.
    fn open_current(&self) -> Result<Arc<dyn Engine>, EngineError>;

    /// Makes an empty engine beside the current one.
    fn create_new(&self) -> Result<(u64, Arc<dyn Engine>), EngineError>;

    /// Makes a flushed engine the current one; survives a crash once this returns.
    fn switch_to(&self, generation: u64) -> Result<(), EngineError>;

    /// Removes engines that are neither current nor in use.
    fn discard_others(&self) -> Result<(), EngineError>;

    /// Has the current engine not be used again, because of what is wrong with it; survives a crash once this returns.
    /// The mark goes with the engine: another one that becomes current is not concerned.
    fn condemn(&self, why: &str) -> Result<(), EngineError>;

    /// Opens the current engine although it may be condemned: for a look at what it is worth. Never makes one.
    fn open_condemned(&self) -> Result<Arc<dyn Engine>, EngineError>;

    /// Takes the mark off the current engine; survives a crash once this returns.
    fn absolve(&self) -> Result<(), EngineError>;

    /// Keeps a few bytes beside the engines in place of those kept before; they survive a crash once this returns.
    fn keep_note(&self, note: &[u8]) -> Result<(), EngineError>;

    /// What was kept last.
    fn note(&self) -> Result<Option<Bytes>, EngineError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_range_ends_right_after_the_last_key_with_that_prefix() {
        assert_eq!(KeyRange::prefix(b"ab").end, Some(b"ac".to_vec()));
        assert_eq!(KeyRange::prefix(&[1, 0xff, 0xff]).end, Some(vec![2]));
        assert_eq!(KeyRange::prefix(&[0xff]).end, None);
        assert_eq!(KeyRange::prefix(b"").end, None);
    }

    #[test]
    fn every_kind_is_found_by_its_tag() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_tag(kind.tag()), Some(kind));
        }
        assert_eq!(Kind::from_tag(0), None);
        assert_eq!(Kind::from_tag(12), None);
    }
}
