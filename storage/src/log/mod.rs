//! The durable log: entries, votes, truncations, purges and the committed mark, in one order on one disk.
//!
//! Promises, in the order in which they are built on each other:
//! 1. An operation whose callback said `Ok` is on stable storage, and so is all that was submitted before it.
//! 2. What [`Log::open`] reports is on stable storage, however the process or the machine ended before.
//! 3. The log has no holes, and votes do not go back.
//! 4. Damage of what was durable is named ([`LogError::Rot`]), never repaired by forgetting: [`Salvage`] says what is
//!    certain and puts the rest back; what was being written when the power went is cut off.
//! 5. A disk that others have filled ends neither the log nor its next start before the reserve is used up.
//!
//! [`Log`] is the handle of those who submit and read; it never waits for the disk except to read old
//! entries. [`LogWriter`] is the one who writes: a step function that a thread ([`LogWriter::run`]) or the
//! simulator drives. One step is one write and one `fdatasync`, however many operations were waiting.
//!
//! To read in this order: `format` (the bytes), `memory` (what readers see), `segment` (files and their
//! order of creation), `batch` and `writer` (one step), `raw` (reading past bad sectors), `open` (what a start trusts),
//! `handle`, `examine` (all records and all damage, changing nothing), `salvage` and `rebuild` (a damaged log made whole).

mod batch;
mod error;
mod examine;
mod format;
mod handle;
mod memory;
mod open;
mod raw;
mod rebuild;
mod salvage;
mod segment;
mod writer;

use bytes::Bytes;

use crate::types::{EpochId, LogId, Vote};

pub use error::LogError;
pub use examine::{Damage, DamageKind, Examination, Item, examine};
pub use format::Record;
pub use format::VERSION as LOG_FORMAT;
pub use handle::Log;
pub use salvage::Salvage;
pub use writer::{LogWriter, Wait};

/// One entry: opaque bytes at a place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place.
    pub log_id: LogId,
    /// What stands there, at most 1 GiB.
    pub payload: Bytes,
}

/// A change of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOp {
    /// Entries that follow the last one without a hole. A log that never held anything may begin anywhere.
    Append(Vec<LogEntry>),
    /// The vote from now on.
    Vote(Vote),
    /// Removes all entries after this one; `None` removes all. Never reaches below the last purged one.
    TruncateAfter(Option<LogId>),
    /// Removes all entries up to and including this one, which may lie beyond the last: then the log is empty
    /// and continues after it.
    Purge(LogId),
    /// What is known to be committed. Without a callback it needs no sync of its own: it is written with the
    /// next operation that does, or with the idle mark. After a crash it may be older, never ahead of `last`.
    Committed(Option<LogId>),
}

/// Where the log stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// The last entry that was purged.
    pub last_purged: Option<LogId>,
    /// The last entry, or the last purged one if there is none.
    pub last: Option<LogId>,
    /// The vote.
    pub vote: Option<Vote>,
    /// What is known to be committed.
    pub committed: Option<LogId>,
}

/// How a log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// The Raft group whose log this is; stands in every segment.
    pub group_id: u64,
    /// The epoch that the node belongs to, which stands there too; [`Log::set_epoch`] changes it. Number 0: not known.
    pub epoch: EpochId,
    /// Length of a segment file, 8 KiB to 1 GiB. An entry that does not fit gets a longer one.
    pub segment_bytes: u64,
    /// Payload bytes of synced entries that are kept in memory for readers.
    pub tail_bytes: usize,
    /// Length of the reserve: a file that becomes a segment once the disk has no room for one. 0: none.
    pub reserve_bytes: u64,
}

impl Default for LogSettings {
    /// Group 0, segments of 64 MiB, a tail of 32 MiB, a reserve of 64 MiB.
    fn default() -> LogSettings {
        let epoch = EpochId::default();
        LogSettings { group_id: 0, epoch, segment_bytes: 64 << 20, tail_bytes: 32 << 20, reserve_bytes: 64 << 20 }
    }
}

/// Counters since the log was opened, and its present size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Calls of `fdatasync` on segments.
    pub syncs: u64,
    /// Bytes written to segments, heads included.
    pub bytes_written: u64,
    /// Segment files that hold live records.
    pub segments: u64,
    /// Operations submitted and not yet taken by the writer.
    pub queued: u64,
    /// Operations that wait for a sync, those included that the writer is at.
    pub waiting: u64,
    /// Highest index up to which every entry is durable (or purged).
    pub flushed_index: Option<u64>,
}

/// Called once, in submit order, when the operation is durable or never will be.
pub type Done = Box<dyn FnOnce(Result<(), LogError>) + Send>;
