//! The one who writes: drain the queue, one write, one `fdatasync`, callbacks in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::batch::Batch;
use super::format::{HEAD_BYTES, Head, Record, record_bytes};
use super::handle::{Inner, Queued, Shared};
use super::memory::{Location, Placed};
use super::segment::{Files, segment_name};
use super::{LogError, LogOp, LogState};
use crate::disk::{Disk, DiskFile};
use crate::failpoint::{Failpoint, reach};
use crate::planted::{self, Bug};
use crate::release::RELEASE;
use crate::types::LogId;

/// A log that rests this long gets its mark, so within a second of the last write everything is proven.
const IDLE: Duration = Duration::from_millis(500);
/// A busy log gets a mark after so many bytes of records: damage before it leaves no doubt about the vote.
pub(super) const MARK_EVERY_BYTES: u32 = 256 << 10;

/// What a writer should do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// [`LogWriter::step`].
    Work,
    /// Nothing came: [`LogWriter::idle_mark`].
    Idle,
    /// The log was closed and nothing is left to do.
    Closed,
}

/// The writing half of a log. Exactly one exists; drop it and all that waits is refused.
pub struct LogWriter<D> {
    shared: Arc<Shared>,
    files: Files<D>,
    group_id: u64,
    /// The segment that is being written, and its length.
    file: Arc<dyn DiskFile>,
    capacity: u32,
    batch: Batch,
    /// The log as its records say, up to the last one put into the batch.
    written: LogState,
    /// A committed mark that waits for the next batch.
    unwritten_committed: Option<Option<LogId>>,
    /// The newest record is a mark, so everything that matters is proven synced.
    marked: bool,
    /// Bytes of the records since the last mark or head.
    unmarked_bytes: u32,
    /// Entries of the step that are in the batch or synced, not yet shown as durable.
    placed: Vec<Placed>,
}

impl<D: Disk> LogWriter<D> {
    /// A writer that goes on at `end` of the newest segment, everything before it being synced and marked.
    pub(super) fn new(
        shared: Arc<Shared>,
        files: Files<D>,
        group_id: u64,
        (file, capacity): (Arc<dyn DiskFile>, u32),
        batch: Batch,
        written: LogState,
    ) -> LogWriter<D> {
        let (unwritten_committed, placed) = (None, Vec::new());
        LogWriter {
            shared,
            files,
            group_id,
            file,
            capacity,
            batch,
            written,
            unwritten_committed,
            marked: true,
            unmarked_bytes: 0,
            placed,
        }
    }

    /// Waits until there is work, the log is closed, or `timeout` is over.
    pub fn wait(&self, timeout: Duration) -> Wait {
        let mut inner = self.shared.inner.lock();
        let rests = |inner: &mut Inner| !inner.has_work() && !inner.closed;
        self.shared.work.wait_while_for(&mut inner, rests, timeout);
        if inner.has_work() {
            Wait::Work
        } else if inner.closed {
            Wait::Closed
        } else {
            Wait::Idle
        }
    }

    /// Makes everything that was submitted durable, calls the callbacks in order, and returns how many
    /// operations that were. After an error, which every callback gets too, this log writes no more.
    pub fn step(&mut self) -> Result<usize, LogError> {
        let mut queue = {
            let mut inner = self.shared.inner.lock();
            if let Some(error) = inner.stopped.clone() {
                drop(inner);
                return Err(self.shared.stop(error));
            }
            inner.writing = std::mem::take(&mut inner.urgent);
            std::mem::take(&mut inner.queue)
        };
        if planted::is(Bug::AcknowledgedEarly) {
            queue.iter_mut().filter_map(|queued| queued.done.take()).for_each(|done| done(Ok(())));
        }
        let result = self.write_all(&queue);
        self.shared.inner.lock().writing = 0;
        let count = queue.len();
        reach(Failpoint::LogBeforeAnswers);
        for done in queue.into_iter().filter_map(|queued| queued.done) {
            done(result.clone());
        }
        reach(Failpoint::LogAfterAnswers);
        match result {
            Ok(()) => self.tidy().map(|()| count),
            Err(error) => Err(self.shared.stop(error)),
        }
    }

    /// Writes and syncs a mark that proves everything before it, unless the newest record is one. For a log
    /// at rest; a driver calls it within a second of the last write.
    pub fn idle_mark(&mut self) -> Result<(), LogError> {
        self.step()?;
        if self.marked && self.unwritten_committed.is_none() {
            return Ok(());
        }
        self.put_committed()
            .and_then(|()| self.put_mark())
            .and_then(|_| self.flush())
            .map_err(|error| self.shared.stop(error))?;
        self.marked = true;
        Ok(())
    }

    /// The body of the writer's thread: returns when the log was closed, or calls `on_poison` once writing
    /// has failed. The process must end then: only a new start can tell what is durable.
    pub fn run(mut self, on_poison: impl FnOnce(LogError)) {
        loop {
            let result = match self.wait(IDLE) {
                Wait::Work => self.step().map(|_| ()),
                Wait::Idle => self.idle_mark(),
                Wait::Closed => match self.idle_mark() {
                    Ok(()) => return,
                    failed => failed,
                },
            };
            match result {
                Ok(()) => {}
                Err(LogError::Closed) => return,
                Err(error) => return on_poison(error),
            }
        }
    }

    fn write_all(&mut self, queue: &VecDeque<Queued>) -> Result<(), LogError> {
        let mut sync_committed = false;
        for Queued { number, op, done } in queue {
            match op {
                LogOp::Append(entries) => {
                    for entry in entries {
                        let location = self.put(&Record::Entry(entry.log_id, &entry.payload))?;
                        self.placed.push(Placed { index: entry.log_id.index, op: *number, location });
                    }
                }
                LogOp::Vote(vote) => {
                    reach(Failpoint::LogVote);
                    self.put(&Record::Vote(*vote))?;
                }
                LogOp::TruncateAfter(_) if planted::is(Bug::TruncationNotLogged) => {}
                LogOp::TruncateAfter(last) => {
                    reach(Failpoint::LogTruncation);
                    self.put(&Record::TruncateAfter(*last))?;
                }
                LogOp::Purge(upto) => {
                    reach(Failpoint::LogPurge);
                    self.put(&Record::Purge(*upto))?;
                }
                LogOp::Committed(committed) => {
                    self.unwritten_committed = Some(*committed);
                    sync_committed |= done.is_some();
                }
            }
        }
        if sync_committed || !self.batch.is_empty() {
            self.put_committed()?;
        }
        if planted::is(Bug::VoteNotSynced) && queue.iter().all(|it| matches!(it.op, LogOp::Vote(_))) {
            return self.write(false);
        }
        self.flush()
    }

    fn put_committed(&mut self) -> Result<(), LogError> {
        if let Some(committed) = self.unwritten_committed.take() {
            reach(Failpoint::LogCommitted);
            self.put(&Record::Committed(committed))?;
        }
        Ok(())
    }

    /// Puts a record into the batch, in a new segment if this one is full.
    fn put(&mut self, record: &Record<&Bytes>) -> Result<Location, LogError> {
        let bytes = record_bytes(match record {
            Record::Entry(_, payload) => payload.len() as u32,
            _ => 0,
        });
        if bytes > self.capacity.saturating_sub(self.batch.end()) {
            self.flush()?;
            self.rotate(bytes)?;
        }
        if let Record::Entry(id, _) = record {
            self.files.note_entry(self.batch.segment(), id.index);
        }
        self.written.follow(record);
        self.marked = false;
        let location = self.batch.push(record);
        self.unmarked_bytes = if matches!(record, Record::Mark(_)) { 0 } else { self.unmarked_bytes + bytes };
        if self.unmarked_bytes >= MARK_EVERY_BYTES {
            self.put_mark()?;
        }
        Ok(location)
    }

    /// What a mark says of the vote is certain even if all before it is damaged.
    fn put_mark(&mut self) -> Result<Location, LogError> {
        reach(Failpoint::LogMark);
        self.put(&Record::Mark(self.written.vote))
    }

    /// Writes and syncs the batch; then its entries are durable.
    fn flush(&mut self) -> Result<(), LogError> {
        self.write(!planted::is(Bug::SyncSkipped))
    }

    fn write(&mut self, sync: bool) -> Result<(), LogError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let name = || segment_name(self.batch.segment());
        reach(Failpoint::LogBeforeWrite);
        self.file
            .write_at(self.batch.start().into(), &self.batch.slices())
            .map_err(LogError::io("write log segment", &name()))?;
        reach(Failpoint::LogBeforeSync);
        match if sync { self.file.sync_data() } else { Ok(()) } {
            Err(_) if planted::is(Bug::FailedSyncIgnored) => {}
            synced => synced.map_err(LogError::io("sync log segment", &name()))?,
        }
        reach(Failpoint::LogAfterSync);
        let mut inner = self.shared.inner.lock();
        inner.index.placed(&self.placed);
        inner.syncs += 1;
        inner.bytes_written += u64::from(self.batch.end() - self.batch.start());
        drop(inner);
        self.placed.clear();
        self.batch.synced();
        Ok(())
    }

    /// Begins the next segment. The present one is synced: [`LogWriter::flush`] came before.
    fn rotate(&mut self, room: u32) -> Result<(), LogError> {
        let segment = self.batch.segment() + 1;
        let (group_id, previous_end, state) = (self.group_id, self.batch.end(), self.written);
        let epoch = self.shared.inner.lock().epoch;
        let head = Head { group_id, segment, previous_end, state, epoch, release: RELEASE.into() };
        (self.file, self.capacity) = self.files.create(&head, room)?;
        self.batch = Batch::at(segment, HEAD_BYTES);
        self.unmarked_bytes = 0;
        let mut inner = self.shared.inner.lock();
        inner.files.insert(segment, self.file.clone());
        inner.syncs += 1;
        inner.bytes_written += u64::from(HEAD_BYTES);
        Ok(())
    }

    /// What can wait until nobody waits for an answer.
    fn tidy(&mut self) -> Result<(), LogError> {
        self.release()?;
        self.files.make_reserve().map_err(|error| self.shared.stop(error))
    }

    /// Gives up segments that the records synced so far make needless.
    pub(super) fn release(&mut self) -> Result<(), LogError> {
        let released = self.files.release(self.written.last_purged).map_err(|error| self.shared.stop(error))?;
        if !released.is_empty() {
            let mut inner = self.shared.inner.lock();
            released.iter().for_each(|id| drop(inner.files.remove(id)));
        }
        Ok(())
    }
}

impl<D> Drop for LogWriter<D> {
    fn drop(&mut self) {
        // Nobody may wait for ever for a writer that is gone.
        self.shared.stop(LogError::Closed);
    }
}
