//! What readers see: where every entry is, and the newest payloads themselves.
//!
//! The same code follows live operations and replays segments at a start. During a replay the log may begin
//! before or after its purged entries; [`Index::missing`] says at the end whether everything is there.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

use super::format::{Record, record_bytes};
use super::{LogEntry, LogError, LogState};
use crate::types::{LeaderId, LogId, Vote};

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Submitted by this operation, not yet durable; its payload is in the tail.
    Pending { op: u64 },
    /// Durable.
    At(Location),
}

/// A record in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub segment: u64,
    pub offset: u32,
}

/// An entry that became durable: its index, the operation that brought it, and where it is.
pub(super) struct Placed {
    pub index: u64,
    pub op: u64,
    pub location: Location,
}

struct Slot {
    leader: LeaderId,
    bytes: u32,
    place: Place,
}

impl Slot {
    fn record_bytes(&self) -> u64 {
        record_bytes(self.bytes).into()
    }
}

/// An entry for a reader.
pub(super) enum Found {
    InMemory(LogEntry),
    OnDisk { log_id: LogId, bytes: u32, location: Location },
}

/// The log in memory.
pub(super) struct Index {
    purged: Option<LogId>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    /// The log id before the first slot; the purged one, except during a replay.
    base: Option<LogId>,
    /// Index of the first slot; means nothing while there is none.
    first: u64,
    slots: VecDeque<Slot>,
    /// Bytes that the slots' records take on the disk.
    slots_bytes: u64,
    /// Payloads of the last slots, as many as there are; every slot that is pending has one.
    tail: VecDeque<Bytes>,
    tail_used: usize,
    tail_budget: usize,
}

impl Index {
    /// A log that continues from `state` and whose earlier entries are not known (yet).
    pub fn new(state: LogState, tail_budget: usize) -> Index {
        let LogState { last_purged, last, vote, committed } = state;
        Index {
            purged: last_purged,
            vote,
            committed,
            base: last,
            first: 0,
            slots: VecDeque::new(),
            slots_bytes: 0,
            tail: VecDeque::new(),
            tail_used: 0,
            tail_budget,
        }
    }

    pub fn state(&self) -> LogState {
        LogState {
            last_purged: self.purged,
            last: match self.slots.back() {
                Some(slot) => Some(LogId { leader: slot.leader, index: self.end() - 1 }),
                None => self.base,
            },
            vote: self.vote,
            committed: self.committed,
        }
    }

    pub fn set_vote(&mut self, vote: Vote) {
        self.vote = Some(vote);
    }

    pub fn set_committed(&mut self, committed: Option<LogId>) {
        self.committed = committed;
    }

    /// Appends an entry of operation `op`, with its payload.
    pub fn append(&mut self, entry: &LogEntry, op: u64) -> Result<(), LogError> {
        self.push(entry.log_id, entry.payload.len() as u32, Place::Pending { op })?;
        self.tail_used += entry.payload.len();
        self.tail.push_back(entry.payload.clone());
        self.evict();
        Ok(())
    }

    /// Appends an entry that was found in a segment.
    pub fn restore(&mut self, log_id: LogId, bytes: u32, location: Location) -> Result<(), LogError> {
        self.push(log_id, bytes, Place::At(location))
    }

    fn push(&mut self, log_id: LogId, bytes: u32, place: Place) -> Result<(), LogError> {
        let expected = self.next_index().unwrap_or(log_id.index);
        if log_id.index != expected || log_id.index == u64::MAX {
            return Err(LogError::Hole { expected, got: log_id.index });
        }
        if self.slots.is_empty() {
            self.first = log_id.index;
        }
        self.slots.push_back(Slot { leader: log_id.leader, bytes, place });
        self.slots_bytes += u64::from(record_bytes(bytes));
        Ok(())
    }

    /// The index that an append must have; `None`: a log that never held anything begins anywhere.
    pub fn next_index(&self) -> Option<u64> {
        if self.slots.is_empty() { self.base.map(|base| base.index.saturating_add(1)) } else { Some(self.end()) }
    }

    /// One past the index of the last slot.
    fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    pub fn truncate_after(&mut self, last: Option<LogId>) {
        let keep = last.map_or(0, |id| id.index.saturating_add(1));
        while !self.slots.is_empty() && self.end() > keep {
            let slot = self.slots.pop_back();
            self.slots_bytes -= slot.map_or(0, |slot| slot.record_bytes());
            if let Some(payload) = self.tail.pop_back() {
                self.tail_used -= payload.len();
            }
        }
        if self.slots.is_empty() && self.base.is_some_and(|base| base.index >= keep) {
            self.base = later(last, self.purged);
        }
    }

    pub fn purge(&mut self, upto: LogId) {
        self.purged = later(self.purged, Some(upto));
        while !self.slots.is_empty() && self.first <= upto.index {
            let slot = self.slots.pop_front();
            self.slots_bytes -= slot.map_or(0, |slot| slot.record_bytes());
            self.first += 1;
            if self.tail.len() > self.slots.len() {
                self.pop_tail_front();
            }
        }
        self.base = later(self.base, Some(upto));
    }

    /// Entries are durable now, unless they have been replaced or removed meanwhile.
    pub fn placed(&mut self, placed: &[Placed]) {
        for p in placed {
            let slot = p.index.checked_sub(self.first).and_then(|i| self.slots.get_mut(i as usize));
            if let Some(slot) = slot.filter(|slot| slot.place == (Place::Pending { op: p.op })) {
                slot.place = Place::At(p.location);
            }
        }
        self.evict();
    }

    /// Drops payloads over the budget, oldest first, if they can be read from the disk.
    fn evict(&mut self) {
        while self.tail_used > self.tail_budget {
            let oldest = self.slots.len() - self.tail.len();
            match self.slots.get(oldest) {
                Some(Slot { place: Place::At(_), .. }) => self.pop_tail_front(),
                _ => break,
            }
        }
    }

    fn pop_tail_front(&mut self) {
        if let Some(payload) = self.tail.pop_front() {
            self.tail_used -= payload.len();
        }
    }

    fn slot(&self, index: u64) -> Option<&Slot> {
        index.checked_sub(self.first).and_then(|i| self.slots.get(usize::try_from(i).ok()?))
    }

    /// The log id at an index; of the purged ones only the last is known.
    pub fn log_id_at(&self, index: u64) -> Option<LogId> {
        match self.slot(index) {
            Some(slot) => Some(LogId { leader: slot.leader, index }),
            None => self.purged.filter(|purged| purged.index == index),
        }
    }

    /// Entries from the start of `range` on, until one is absent or `max_bytes` of payload are reached; the
    /// first is given whatever its size.
    pub fn find(&self, range: Range<u64>, max_bytes: usize) -> Vec<Found> {
        let mut found = Vec::new();
        let mut budget = max_bytes;
        let evicted = self.slots.len() - self.tail.len();
        for index in range {
            let Some(slot) = self.slot(index) else { break };
            if slot.bytes as usize > budget && !found.is_empty() {
                break;
            }
            budget = budget.saturating_sub(slot.bytes as usize);
            let log_id = LogId { leader: slot.leader, index };
            let in_tail = ((index - self.first) as usize).checked_sub(evicted).and_then(|i| self.tail.get(i));
            found.push(match (in_tail, slot.place) {
                (Some(payload), _) => Found::InMemory(LogEntry { log_id, payload: payload.clone() }),
                (None, Place::At(location)) => Found::OnDisk { log_id, bytes: slot.bytes, location },
                (None, Place::Pending { .. }) => break,
            });
        }
        found
    }

    /// The first index from which on the entries' records take at most so many bytes on the disk.
    pub fn first_within(&self, bytes: u64) -> u64 {
        let mut over = self.slots_bytes.saturating_sub(bytes);
        let mut index = self.next_index().map_or(0, |next| next - self.slots.len() as u64);
        for slot in &self.slots {
            if over == 0 {
                break;
            }
            over = over.saturating_sub(slot.record_bytes());
            index += 1;
        }
        index
    }

    /// Bytes that the records of the entries from `from` on take on the disk.
    pub fn bytes_from(&self, from: u64) -> u64 {
        let older = from.saturating_sub(self.first).min(self.slots.len() as u64) as usize;
        let bytes = |slots: Range<usize>| self.slots.range(slots).map(Slot::record_bytes).sum::<u64>();
        // The shorter side is counted.
        match older <= self.slots.len() / 2 {
            true => self.slots_bytes - bytes(0..older),
            false => bytes(older..self.slots.len()),
        }
    }

    /// Whether an entry is (still) at this place on the disk.
    pub fn is_at(&self, index: u64, location: Location) -> bool {
        self.slot(index).is_some_and(|slot| slot.place == Place::At(location))
    }

    /// Highest index up to which everything is durable or purged.
    pub fn flushed_index(&self) -> Option<u64> {
        // Operations become durable in order, so the durable slots are the first ones.
        match self.slots.partition_point(|slot| matches!(slot.place, Place::At(_))) as u64 {
            0 => self.base.map(|base| base.index),
            n => Some(self.first + n - 1),
        }
    }

    /// After a replay: the first index that should be there and is not.
    pub fn missing(&self) -> Option<u64> {
        let purged = self.purged.map(|id| id.index);
        (self.base.map(|id| id.index) > purged).then(|| purged.map_or(0, |index| index.saturating_add(1)))
    }
}

impl LogState {
    /// The state after one more record.
    pub(super) fn follow<P>(&mut self, record: &Record<P>) {
        match *record {
            Record::Entry(id, _) => self.last = Some(id),
            Record::Vote(vote) | Record::Mark(Some(vote)) => self.vote = Some(vote),
            Record::TruncateAfter(last) if last.map(|id| id.index) < self.last.map(|id| id.index) => {
                self.last = later(last, self.last_purged);
            }
            Record::Purge(upto) => {
                self.last_purged = later(self.last_purged, Some(upto));
                self.last = later(self.last, Some(upto));
            }
            Record::Committed(committed) => self.committed = committed,
            Record::TruncateAfter(_) | Record::Mark(None) => {}
        }
    }
}

/// The one with the higher index.
pub(super) fn later(a: Option<LogId>, b: Option<LogId>) -> Option<LogId> {
    if b.map(|id| id.index) > a.map(|id| id.index) { b } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(term: u64, index: u64) -> LogId {
        LogId { leader: LeaderId { term, node_id: 1 }, index }
    }

    fn entry(term: u64, index: u64) -> LogEntry {
        LogEntry { log_id: id(term, index), payload: Bytes::from(vec![term as u8; 10]) }
    }

    fn at(offset: u32) -> Location {
        Location { segment: 1, offset }
    }

    #[test]
    fn bytes_are_counted_from_any_index() {
        let mut index = Index::new(LogState::default(), 0);
        for i in 5..8 {
            index.append(&entry(1, i), i).unwrap();
        }
        let one = u64::from(record_bytes(10));
        let counted = [0, 5, 6, 7, 8, u64::MAX].map(|from| index.bytes_from(from));
        assert_eq!(counted, [3 * one, 3 * one, 2 * one, one, 0, 0]);
    }

    #[test]
    fn a_late_flush_never_marks_an_entry_that_replaced_the_flushed_one() {
        let mut index = Index::new(LogState::default(), 0);
        index.append(&entry(1, 0), 1).unwrap();
        index.append(&entry(1, 1), 1).unwrap();
        index.truncate_after(Some(id(1, 0)));
        index.append(&entry(2, 1), 3).unwrap();
        index.placed(&[Placed { index: 0, op: 1, location: at(8) }, Placed { index: 1, op: 1, location: at(16) }]);
        assert_eq!(index.flushed_index(), Some(0));
        assert_eq!(index.log_id_at(1), Some(id(2, 1)));
    }

    #[test]
    fn payloads_stay_in_memory_until_they_are_durable() {
        let mut index = Index::new(LogState::default(), 0);
        index.append(&entry(1, 5), 1).unwrap();
        index.append(&entry(1, 6), 2).unwrap();
        index.placed(&[Placed { index: 5, op: 1, location: at(8) }]);
        let found = index.find(0..9, usize::MAX);
        assert!(found.is_empty(), "index 0 is absent, so nothing follows it");
        let found = index.find(5..9, usize::MAX);
        assert!(matches!(found[..], [Found::OnDisk { .. }, Found::InMemory(_)]));
        assert_eq!(index.find(5..9, 1).len(), 1, "the first entry comes whatever its size");
    }

    #[test]
    fn a_budget_of_bytes_is_counted_from_the_end_through_every_change() {
        let mut index = Index::new(LogState::default(), 100);
        assert_eq!(index.first_within(0), 0);
        for i in 3..9 {
            index.append(&entry(1, i), i).unwrap();
        }
        // A record of 10 bytes of payload takes 56.
        assert_eq!([0, 55, 56, 111, 112, 6 * 56, u64::MAX].map(|b| index.first_within(b)), [9, 9, 8, 8, 7, 3, 3]);
        index.truncate_after(Some(id(1, 7)));
        index.purge(id(1, 4));
        assert_eq!([0, 56, 3 * 56 - 1, 3 * 56].map(|b| index.first_within(b)), [8, 7, 6, 5]);
        index.purge(id(1, 20));
        assert_eq!(index.first_within(0), 21);
    }

    #[test]
    fn a_purge_beyond_the_end_empties_the_log_and_it_goes_on_after_it() {
        let mut index = Index::new(LogState::default(), 100);
        index.append(&entry(1, 0), 1).unwrap();
        index.purge(id(2, 9));
        assert_eq!(index.state().last, Some(id(2, 9)));
        assert!(matches!(index.append(&entry(2, 11), 2), Err(LogError::Hole { expected: 10, got: 11 })));
        index.append(&entry(2, 10), 2).unwrap();
        index.truncate_after(None);
        assert_eq!(index.state().last, Some(id(2, 9)), "a truncation stops at the purged entries");
        assert_eq!(index.missing(), None);
    }
}
