//! openraft's log storage over the durable log.
//!
//! `append` only encodes and enqueues; the log's writer syncs and completes callbacks in order. Votes and
//! truncations are awaited, so they are durable before openraft goes on (reference: openraft's I/O ordering).

use std::fmt::Debug;
use std::io;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};

use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::type_config::alias::{LogIdOf, VoteOf};
use openraft::{OptionalSend, RaftLogReader};
use saola_storage::log::{Log, LogEntry, LogError, LogOp};
use tokio::sync::oneshot;

use crate::payload;
use crate::types::{Entry, Runtime, Takes, TypeConfig, log_id_from, log_id_to, vote_from, vote_to};

/// Entries handed to one replication request or one apply batch stop at this many payload bytes.
const READ_BYTES: usize = 1 << 20;

/// The log as openraft sees it. Clones share the log.
pub(crate) struct LogStore<RT> {
    log: Log,
    runtime: PhantomData<fn() -> RT>,
}

impl<RT> Clone for LogStore<RT> {
    fn clone(&self) -> Self {
        Self { log: self.log.clone(), runtime: PhantomData }
    }
}

fn to_io(error: LogError) -> io::Error {
    io::Error::other(error)
}

impl<RT: Runtime> LogStore<RT> {
    pub(crate) fn new(log: Log) -> Self {
        Self { log, runtime: PhantomData }
    }

    async fn durable(&self, op: LogOp) -> io::Result<()> {
        let (done, synced) = oneshot::channel();
        self.log.submit(
            op,
            Some(Box::new(move |result| {
                // The receiver is gone only when Raft itself has been stopped.
                let _receiver_gone = done.send(result);
            })),
        );
        match synced.await {
            Ok(result) => result.map_err(to_io),
            Err(_) => Err(io::Error::other("the log's writer has ended")),
        }
    }

    async fn read(&self, start: u64, end: u64, max_bytes: usize) -> io::Result<Vec<Entry<RT>>> {
        let state = self.log.state();
        let end = end.min(state.last.map_or(0, |last| last.index + 1));
        let mut start = start.max(state.last_purged.map_or(0, |purged| purged.index + 1));
        // A log may begin above index 0 before anything was purged; what is asked for below its start is not in it.
        while start < end && self.log.log_id_at(start).is_none() {
            start += 1;
        }
        if start >= end {
            return Ok(Vec::new());
        }
        let entries = match self.log.entries_in_memory(start..end, max_bytes) {
            Some(entries) => entries,
            // A read from a slow disk must not hold up what else this thread has to do.
            None => {
                let log = self.log.clone();
                RT::disk(Takes::Long, move || log.entries(start..end, max_bytes)).await.map_err(to_io)?
            }
        };
        entries
            .into_iter()
            .map(|entry| {
                let index = entry.log_id.index;
                let payload = payload::decode::<RT>(entry.payload)
                    .map_err(|error| io::Error::other(format!("log entry {index}: {error}")))?;
                Ok(openraft::Entry { log_id: log_id_to::<RT>(&entry.log_id), payload })
            })
            .collect()
    }
}

impl<RT: Runtime> RaftLogReader<TypeConfig<RT>> for LogStore<RT> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<RT>>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, usize::MAX).await
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<TypeConfig<RT>>>, io::Error> {
        Ok(self.log.state().vote.as_ref().map(vote_to::<RT>))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry<RT>>, io::Error> {
        self.read(start, end, READ_BYTES).await
    }
}

impl<RT: Runtime> RaftLogStorage<TypeConfig<RT>> for LogStore<RT> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig<RT>>, io::Error> {
        let state = self.log.state();
        Ok(LogState {
            last_purged_log_id: state.last_purged.as_ref().map(log_id_to::<RT>),
            last_log_id: state.last.as_ref().map(log_id_to::<RT>),
        })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<TypeConfig<RT>>) -> Result<(), io::Error> {
        self.durable(LogOp::Vote(vote_from::<RT>(vote))).await
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf<TypeConfig<RT>>>) -> Result<(), io::Error> {
        self.log.submit(LogOp::Committed(committed.as_ref().map(log_id_from::<RT>)), None);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogIdOf<TypeConfig<RT>>>, io::Error> {
        Ok(self.log.state().committed.as_ref().map(log_id_to::<RT>))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig<RT>>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry<RT>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries
            .into_iter()
            .map(|entry| LogEntry {
                log_id: log_id_from::<RT>(&entry.log_id),
                payload: payload::encode::<RT>(&entry.payload),
            })
            .collect();
        let done = Box::new(move |result: Result<(), LogError>| callback.io_completed(result.map_err(to_io)));
        self.log.submit(LogOp::Append(entries), Some(done));
        // What was appended must be there to be read, and a log that has ended took nothing: openraft would hold entries for
        // applied that nobody could give it.
        self.log.ended().map_or(Ok(()), |error| Err(to_io(error)))
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogIdOf<TypeConfig<RT>>>) -> Result<(), io::Error> {
        self.durable(LogOp::TruncateAfter(last_log_id.as_ref().map(log_id_from::<RT>))).await
    }

    async fn purge(&mut self, log_id: LogIdOf<TypeConfig<RT>>) -> Result<(), io::Error> {
        self.log.submit(LogOp::Purge(log_id_from::<RT>(&log_id)), None);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use openraft::entry::RaftEntry as _;
    use saola_storage::disk::RealDisk;
    use saola_storage::log::LogSettings;

    use super::*;
    use crate::types::TokioRuntime;

    /// Else openraft would hold an entry for applied that nobody could give it (`make sim SEED=15` found it).
    #[tokio::test]
    async fn a_log_that_has_ended_says_so_to_whoever_appends() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let disk = Arc::new(RealDisk::open(folder.path()).expect("it is there"));
        let (log, writer) = Log::open(disk, LogSettings::default()).expect("an empty folder");
        drop(writer);
        let mut store = LogStore::<TokioRuntime>::new(log);
        let leader = saola_storage::types::LeaderId { term: 1, node_id: 1 };
        let log_id = log_id_to::<TokioRuntime>(&saola_storage::types::LogId { leader, index: 0 });
        let appended = store.append([Entry::<TokioRuntime>::new_blank(log_id)], IOFlushed::noop()).await;
        assert!(appended.is_err(), "nothing was appended");
        let (log, _writer) =
            Log::open(Arc::new(RealDisk::open(folder.path()).expect("it is there")), LogSettings::default())
                .expect("the same folder");
        log.close();
        let appended = LogStore::<TokioRuntime>::new(log)
            .append([Entry::<TokioRuntime>::new_blank(log_id)], IOFlushed::noop())
            .await;
        assert!(appended.is_err(), "a log that was closed takes nothing either");
    }
}
