//! The handle of those who submit operations and read entries, and what they share with the writer.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::format::MAX_PAYLOAD;
use super::memory::{Found, Index, Location};
use super::{Done, LogEntry, LogError, LogOp, LogSettings, LogState, LogStats, LogWriter, open, raw};
use crate::disk::{Disk, DiskFile};
use crate::types::{EpochId, LogId};

/// The log, for submitters and readers. Clones share it; when the last one is dropped the log closes.
#[derive(Clone)]
pub struct Log(Arc<Handle>);

struct Handle(Arc<Shared>);

/// What handles and writer share.
pub(super) struct Shared {
    pub inner: Mutex<Inner>,
    pub work: Condvar,
    on_work: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
}

pub(super) struct Inner {
    pub index: Index,
    pub queue: VecDeque<Queued>,
    /// How many of the queue want a sync.
    pub urgent: usize,
    /// How many operations that want a sync the writer has taken and not finished.
    pub writing: usize,
    next_op: u64,
    /// Set once: nothing is accepted and nothing written any more.
    pub stopped: Option<LogError>,
    /// The handles are gone or closed the log: the writer finishes what is queued.
    pub closed: bool,
    /// The live segments, for reading.
    pub files: BTreeMap<u64, Arc<dyn DiskFile>>,
    pub syncs: u64,
    pub bytes_written: u64,
    /// For the heads of segments that begin.
    pub epoch: EpochId,
}

/// An operation on its way to the writer.
pub(super) struct Queued {
    pub number: u64,
    pub op: LogOp,
    pub done: Option<Done>,
}

impl Queued {
    /// A committed mark that nobody waits for rides with the next sync.
    fn is_urgent(&self) -> bool {
        self.done.is_some() || !matches!(self.op, LogOp::Committed(_))
    }
}

impl Log {
    /// Opens the log in a folder, empty if there is none. When it returns, everything that it reports is on
    /// stable storage. Refuses damage ([`LogError::Rot`], [`LogError::Missing`]) and segments of another
    /// group or a newer release; cuts off what was being written when the power went.
    pub fn open<D: Disk>(disk: Arc<D>, settings: LogSettings) -> Result<(Log, LogWriter<D>), LogError> {
        let (shared, writer) = open::open(disk, settings)?;
        Ok((Log(Arc::new(Handle(shared))), writer))
    }

    /// The node belongs to a cluster from now on: segments that begin say so.
    pub fn set_epoch(&self, epoch: EpochId) {
        self.0.0.inner.lock().epoch = epoch;
    }

    /// Hands an operation to the writer. Readers see its effect when this returns; `done` is called once, in
    /// submit order, when it is durable, or with the error after which nothing will be. Never does I/O. The
    /// queue has no bound of its own: the caller limits what it has in flight ([`LogStats::queued`]).
    pub fn submit(&self, op: LogOp, done: Option<Done>) {
        let shared = &self.0.0;
        let mut inner = shared.inner.lock();
        let number = inner.next_op;
        if let Err(error) = inner.admit(number, &op) {
            shared.work.notify_one();
            drop(inner);
            if let Some(done) = done {
                done(Err(error));
            }
            return;
        }
        inner.next_op += 1;
        let queued = Queued { number, op, done };
        let urgent = queued.is_urgent();
        inner.queue.push_back(queued);
        if urgent {
            inner.urgent += 1;
            shared.work.notify_one();
            drop(inner);
            let hook = shared.on_work.lock().clone();
            if let Some(hook) = hook {
                hook();
            }
        }
    }

    /// Where the log stands, operations that are not durable yet included.
    pub fn state(&self) -> LogState {
        self.0.0.inner.lock().index.state()
    }

    /// Why the log takes nothing any more, if so.
    pub fn ended(&self) -> Option<LogError> {
        self.0.0.inner.lock().ended()
    }

    /// The entries from the start of `range` on, without a gap: all of them, or as many as fit `max_bytes` of
    /// payload (at least one), or up to the first that is not in the log. Empty if the first is not in it.
    /// Older entries come from the disk: then this waits for it, and fails with [`LogError::Rot`] if a
    /// record has changed there, which ends the log's life: the next start repairs it.
    pub fn entries(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<LogEntry>, LogError> {
        let found = self.0.0.inner.lock().index.find(range, max_bytes);
        let mut entries = Vec::with_capacity(found.len());
        for item in found {
            match item {
                Found::InMemory(entry) => entries.push(entry),
                Found::OnDisk { log_id, bytes, location } => match self.read(log_id, bytes, location) {
                    Ok(entry) => entries.push(entry),
                    // The segment may have been purged, and overwritten, since we looked.
                    Err(_) if !self.0.0.inner.lock().index.is_at(log_id.index, location) => break,
                    Err(error @ LogError::Rot { .. }) => return Err(self.0.0.poison(error)),
                    Err(error) => return Err(error),
                },
            }
        }
        Ok(entries)
    }

    /// Like [`Log::entries`], but `None` if that would have to wait for the disk.
    pub fn entries_in_memory(&self, range: Range<u64>, max_bytes: usize) -> Option<Vec<LogEntry>> {
        let found = self.0.0.inner.lock().index.find(range, max_bytes);
        let in_memory = |item| match item {
            Found::InMemory(entry) => Some(entry),
            Found::OnDisk { .. } => None,
        };
        found.into_iter().map(in_memory).collect()
    }

    /// The first index from which on all entries together take at most so many bytes on the disk.
    pub fn first_within(&self, bytes: u64) -> u64 {
        self.0.0.inner.lock().index.first_within(bytes)
    }

    /// Bytes that the entries from `index` on take on the disk.
    pub fn bytes_from(&self, index: u64) -> u64 {
        self.0.0.inner.lock().index.bytes_from(index)
    }

    fn read(&self, log_id: LogId, bytes: u32, location: Location) -> Result<LogEntry, LogError> {
        let Location { segment, offset } = location;
        let Some(file) = self.0.0.inner.lock().files.get(&segment).cloned() else {
            return Err(LogError::Rot { segment, offset: offset.into(), index: log_id.index, unreadable: false });
        };
        let payload = raw::read_entry(&*file, location, log_id, bytes)?;
        Ok(LogEntry { log_id, payload })
    }

    /// The log id at an index, if the entry is in the log or is the last purged one.
    pub fn log_id_at(&self, index: u64) -> Option<LogId> {
        self.0.0.inner.lock().index.log_id_at(index)
    }

    /// The newest entry of which it is known that it and all before it are durable; the last purged one if there is
    /// none behind it.
    pub fn flushed_last(&self) -> Option<LogId> {
        let inner = self.0.0.inner.lock();
        inner.index.log_id_at(inner.index.flushed_index()?)
    }

    /// Counters and sizes.
    pub fn stats(&self) -> LogStats {
        let inner = self.0.0.inner.lock();
        LogStats {
            syncs: inner.syncs,
            bytes_written: inner.bytes_written,
            segments: inner.files.len() as u64,
            queued: inner.queue.len() as u64,
            waiting: (inner.urgent + inner.writing) as u64,
            flushed_index: inner.index.flushed_index(),
        }
    }

    /// Calls `hook` after each submit that wants a sync, for a driver that steps the writer itself. Called
    /// on the submitter's thread; it must not block.
    pub fn on_work(&self, hook: Box<dyn Fn() + Send + Sync>) {
        *self.0.0.on_work.lock() = Some(Arc::from(hook));
    }

    /// Closes the log: the writer finishes what was submitted and ends. Later submits are refused.
    pub fn close(&self) {
        self.0.close();
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("state", &self.state()).finish_non_exhaustive()
    }
}

impl Handle {
    fn close(&self) {
        self.0.inner.lock().closed = true;
        self.0.work.notify_one();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    pub fn new(index: Index, files: BTreeMap<u64, Arc<dyn DiskFile>>, epoch: EpochId) -> Arc<Shared> {
        let inner = Inner {
            index,
            queue: VecDeque::new(),
            urgent: 0,
            writing: 0,
            next_op: 1,
            stopped: None,
            closed: false,
            files,
            syncs: 0,
            bytes_written: 0,
            epoch,
        };
        Arc::new(Shared { inner: Mutex::new(inner), work: Condvar::new(), on_work: Mutex::new(None) })
    }

    /// Has the writer end with this error, and the process with it: a start repairs what a reader found damaged.
    pub fn poison(&self, error: LogError) -> LogError {
        self.inner.lock().stopped.get_or_insert(error.clone());
        self.work.notify_one();
        let hook = self.on_work.lock().clone();
        if let Some(hook) = hook {
            hook();
        }
        error
    }

    /// Ends the life of the log and refuses what is queued. The first error is the one that all get; returns it.
    pub fn stop(&self, error: LogError) -> LogError {
        let mut inner = self.inner.lock();
        let error = inner.stopped.get_or_insert(error).clone();
        let refused = std::mem::take(&mut inner.queue);
        drop(inner);
        for done in refused.into_iter().filter_map(|queued| queued.done) {
            done(Err(error.clone()));
        }
        error
    }
}

impl Inner {
    /// Shows an operation to readers, or says why the log takes it no more. An operation that cannot follow
    /// what is there is a defect of the caller, after which nothing may be written.
    fn admit(&mut self, number: u64, op: &LogOp) -> Result<(), LogError> {
        match self.ended() {
            Some(error) => Err(error),
            None => self.show(number, op).inspect_err(|error| self.stopped = Some(error.clone())),
        }
    }

    fn ended(&self) -> Option<LogError> {
        self.stopped.clone().or_else(|| self.closed.then_some(LogError::Closed))
    }

    fn show(&mut self, number: u64, op: &LogOp) -> Result<(), LogError> {
        match op {
            LogOp::Append(entries) => {
                for entry in entries {
                    let (index, bytes) = (entry.log_id.index, entry.payload.len());
                    if bytes > MAX_PAYLOAD as usize {
                        return Err(LogError::TooLarge { index, bytes });
                    }
                    self.index.append(entry, number)?;
                }
            }
            LogOp::Vote(vote) => self.index.set_vote(*vote),
            LogOp::TruncateAfter(last) => self.index.truncate_after(*last),
            LogOp::Purge(upto) => self.index.purge(*upto),
            LogOp::Committed(committed) => self.index.set_committed(*committed),
        }
        Ok(())
    }

    /// Whether the writer has something to do at once.
    pub fn has_work(&self) -> bool {
        self.urgent > 0 || self.stopped.is_some()
    }
}
