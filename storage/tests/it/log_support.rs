//! What the tests of the log share: a log on a simulated disk, and a model of what it must hold.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use proptest::prelude::*;
use saola_storage::disk::sim::SimDisk;
use saola_storage::log::{Log, LogEntry, LogError, LogOp, LogSettings, LogState, LogWriter};
use saola_storage::types::{EpochId, LeaderId, LogId, Vote};

/// Small segments, so that every test crosses some, a tail that soon sends readers to the disk, and a small reserve.
pub const SETTINGS: LogSettings = LogSettings {
    group_id: 7,
    epoch: EpochId { number: 0, plan: 0 },
    segment_bytes: 8 << 10,
    tail_bytes: 600,
    reserve_bytes: 16 << 10,
};

pub fn id(term: u64, index: u64) -> LogId {
    LogId { leader: LeaderId { term, node_id: 1 }, index }
}

pub fn vote(term: u64) -> Vote {
    Vote { leader: LeaderId { term, node_id: 1 }, committed: term.is_multiple_of(2) }
}

/// An entry whose payload tells its term and index.
pub fn entry(term: u64, index: u64, bytes: usize) -> LogEntry {
    let pattern = [term.to_le_bytes(), index.to_le_bytes()].concat();
    let payload: Vec<u8> = pattern.iter().copied().cycle().take(bytes).collect();
    LogEntry { log_id: id(term, index), payload: Bytes::from(payload) }
}

pub fn append(term: u64, indexes: std::ops::Range<u64>, bytes: usize) -> LogOp {
    LogOp::Append(indexes.map(|index| entry(term, index, bytes)).collect())
}

/// A log whose writer is stepped by the test, and how its operations ended.
pub struct Running {
    pub log: Log,
    pub writer: LogWriter<SimDisk>,
    ended: Arc<Mutex<Vec<Result<(), LogError>>>>,
}

impl Running {
    pub fn open(disk: &SimDisk) -> Result<Running, LogError> {
        Running::open_with(disk, SETTINGS)
    }

    pub fn open_with(disk: &SimDisk, settings: LogSettings) -> Result<Running, LogError> {
        let (log, writer) = Log::open(Arc::new(disk.clone()), settings)?;
        Ok(Running { log, writer, ended: Arc::default() })
    }

    pub fn submit(&self, op: LogOp) {
        let ended = self.ended.clone();
        self.log.submit(op, Some(Box::new(move |result| ended.lock().push(result))));
    }

    /// Submits and steps; panics if that was not durable.
    pub fn write(&mut self, op: LogOp) {
        self.submit(op);
        self.writer.step().unwrap();
    }

    /// How many operations were acknowledged. Acknowledgements come in order and end with the first error.
    pub fn acknowledged(&self) -> usize {
        let ended = self.ended.lock();
        let good = ended.iter().take_while(|result| result.is_ok()).count();
        assert!(ended[good..].iter().all(Result::is_err), "an operation was acknowledged after one that failed");
        good
    }

    /// How many callbacks came, good or bad.
    pub fn ended(&self) -> usize {
        self.ended.lock().len()
    }

    pub fn entries(&self) -> Vec<LogEntry> {
        entries_of(&self.log)
    }
}

/// Every entry of a log, read back.
pub fn entries_of(log: &Log) -> Vec<LogEntry> {
    let state = log.state();
    let Some(last) = state.last else { return Vec::new() };
    let mut first = state.last_purged.map_or(0, |purged| purged.index + 1);
    // A log that was never purged may begin anywhere.
    while state.last_purged.is_none() && first < last.index && log.log_id_at(first).is_none() {
        first += 1;
    }
    let entries = log.entries(first..last.index + 1, usize::MAX).unwrap();
    assert_eq!(entries.len() as u64, last.index + 1 - first, "the log has a hole");
    entries
}

/// What a log must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    pub purged: Option<LogId>,
    pub vote: Option<Vote>,
    pub entries: Vec<LogEntry>,
}

impl Model {
    /// The operation as the records that it becomes: a crash may keep some entries of one append.
    pub fn records(op: &LogOp) -> Vec<LogOp> {
        match op {
            LogOp::Append(entries) => entries.iter().map(|e| LogOp::Append(vec![e.clone()])).collect(),
            other => vec![other.clone()],
        }
    }

    pub fn apply(&mut self, op: &LogOp) {
        match op {
            LogOp::Append(entries) => self.entries.extend_from_slice(entries),
            LogOp::Vote(vote) => self.vote = Some(*vote),
            LogOp::TruncateAfter(last) => {
                self.entries.retain(|e| last.is_some_and(|last| e.log_id.index <= last.index));
            }
            LogOp::Purge(upto) => {
                if self.purged.is_none_or(|purged| purged.index < upto.index) {
                    self.purged = Some(*upto);
                }
                self.entries.retain(|e| e.log_id.index > upto.index);
            }
            LogOp::Committed(_) => {}
        }
    }

    pub fn last(&self) -> Option<LogId> {
        self.entries.last().map(|e| e.log_id).or(self.purged)
    }

    pub fn of(log: &Log) -> Model {
        let LogState { last_purged, vote, last, .. } = log.state();
        let model = Model { purged: last_purged, vote, entries: entries_of(log) };
        assert_eq!(model.last(), last);
        model
    }
}

/// A change as Raft makes it: truncations stop at what is committed, and a new term begins after each.
#[derive(Clone, Debug)]
pub enum Change {
    Append { count: u64, bytes: usize },
    Vote,
    Truncate,
    Commit { behind: u64 },
    Purge { behind: u64 },
    Mark,
}

pub fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        8 => (1..8u64, 0..400usize).prop_map(|(count, bytes)| Change::Append { count, bytes }),
        1 => Just(Change::Vote),
        1 => Just(Change::Truncate),
        4 => (0..6u64).prop_map(|behind| Change::Commit { behind }),
        1 => (0..30u64).prop_map(|behind| Change::Purge { behind }),
        1 => Just(Change::Mark),
    ]
}

/// A log as Raft writes it, and what it must hold.
pub struct History {
    pub model: Model,
    /// Every entry in force at its index, purged ones too.
    pub all: BTreeMap<u64, LogEntry>,
    pub committed: Option<LogId>,
    term: u64,
}

impl History {
    /// Begins with the vote of term 2.
    pub fn new(running: &mut Running) -> History {
        let mut history = History { model: Model::default(), all: BTreeMap::new(), committed: None, term: 2 };
        history.write(running, LogOp::Vote(vote(2)));
        history
    }

    /// The entries that would follow.
    pub fn next(&self, count: u64, bytes: usize) -> LogOp {
        let next = self.model.last().map_or(0, |last| last.index + 1);
        append(self.term, next..next + count, bytes)
    }

    pub fn add(&mut self, running: &mut Running, change: &Change) {
        let next = self.model.last().map_or(0, |last| last.index + 1);
        let upto = |behind: u64| next.checked_sub(behind + 1).and_then(|index| self.all.get(&index)).map(|e| e.log_id);
        let index = |id: Option<LogId>| id.map(|id| id.index);
        let op = match *change {
            Change::Append { count, bytes } => self.next(count, bytes),
            Change::Vote => {
                self.term += 2;
                LogOp::Vote(vote(self.term))
            }
            Change::Truncate => {
                self.term += 2;
                self.write(running, LogOp::Vote(vote(self.term)));
                LogOp::TruncateAfter(self.committed)
            }
            Change::Commit { behind } => match upto(behind) {
                id if index(id) > index(self.committed) => {
                    self.committed = id;
                    LogOp::Committed(id)
                }
                _ => return,
            },
            Change::Purge { behind } => match upto(behind) {
                Some(id) if Some(id.index) <= index(self.committed) && Some(id.index) > index(self.model.purged) => {
                    LogOp::Purge(id)
                }
                _ => return,
            },
            Change::Mark => return running.writer.idle_mark().unwrap(),
        };
        self.write(running, op);
    }

    fn write(&mut self, running: &mut Running, op: LogOp) {
        match &op {
            LogOp::Append(entries) => self.all.extend(entries.iter().map(|e| (e.log_id.index, e.clone()))),
            LogOp::TruncateAfter(last) => self.all.retain(|index, _| last.is_some_and(|last| *index <= last.index)),
            _ => {}
        }
        self.model.apply(&op);
        running.write(op);
    }
}
