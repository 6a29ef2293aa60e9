//! What a node knows of its links to peers, besides what openraft keeps.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use saola_storage::types::NodeId;

use crate::pins::Confirmation;
use crate::round_trips::{RoundTrip, RoundTrips};
use crate::wire::Refusal;

/// Counts, refusals and answers per peer, and the purge floor. Shared by all links of a node. `I` is a point in time.
#[derive(Debug)]
pub(crate) struct Links<I> {
    counted: Mutex<BTreeMap<NodeId, Counted>>,
    refusals: Mutex<BTreeMap<NodeId, Refusal>>,
    clock_offsets_us: Mutex<BTreeMap<NodeId, i64>>,
    answers: Mutex<BTreeMap<NodeId, (I, DiskRoom)>>,
    confirmations: Mutex<BTreeMap<NodeId, Confirmation>>,
    needed_from: AtomicU64,
    holdings: Mutex<BTreeMap<NodeId, Holding>>,
    witness_keeps_from: AtomicU64,
    round_trips: Mutex<BTreeMap<NodeId, RoundTrips>>,
    /// Numbers of the newest answers to appends.
    heard_answers: Mutex<BTreeMap<NodeId, u64>>,
}

/// What a peer last said of what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holding {
    /// Of a data node: first index that is not in its flushed state machine.
    pub(crate) state_next: u64,
    /// Of a witness whose log is larger than it may be: first index within what it may hold; 0: there is room.
    pub(crate) room_from: u64,
    /// Of a witness: first index that its log has.
    pub(crate) log_from: u64,
}

#[derive(Clone, Copy, Debug)]
struct Counted {
    term: u64,
    next: u64,
}

impl<I> Default for Links<I> {
    fn default() -> Self {
        Self {
            counted: Mutex::default(),
            refusals: Mutex::default(),
            clock_offsets_us: Mutex::default(),
            answers: Mutex::default(),
            confirmations: Mutex::default(),
            needed_from: AtomicU64::default(),
            holdings: Mutex::default(),
            witness_keeps_from: AtomicU64::default(),
            round_trips: Mutex::default(),
            heard_answers: Mutex::default(),
        }
    }
}

/// Free space of a node's disk, and its mark: below that it has no room for writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DiskRoom {
    pub(crate) free_bytes: u64,
    pub(crate) mark_bytes: u64,
}

impl DiskRoom {
    pub(crate) fn is_low(&self) -> bool {
        self.free_bytes < self.mark_bytes
    }
}

impl<I: Copy + PartialOrd> Links<I> {
    /// A follower said that its log is flushed up to below `next`; it counts in leadership term `term`.
    pub(crate) fn count_flushed(&self, peer: NodeId, term: u64, next: u64) {
        let mut counted = self.counted.lock();
        let entry = counted.entry(peer).or_insert(Counted { term, next });
        if entry.term == term {
            entry.next = entry.next.max(next);
        } else {
            *entry = Counted { term, next };
        }
        drop(counted);
        self.accepted(peer);
    }

    /// A peer let this node in.
    pub(crate) fn accepted(&self, peer: NodeId) {
        self.refusals.lock().remove(&peer);
    }

    /// Highest index, plus one, counted as flushed at `peer` in leadership term `term`.
    pub(crate) fn counted_next(&self, peer: NodeId, term: u64) -> u64 {
        match self.counted.lock().get(&peer) {
            Some(counted) if counted.term == term => counted.next,
            _ => 0,
        }
    }

    /// A follower's answer to an append has come.
    pub(crate) fn hear_answer(&self, peer: NodeId, number: u64) {
        self.heard_answers.lock().insert(peer, number);
    }

    /// Number of the newest one; 0: none has.
    pub(crate) fn heard_answer(&self, peer: NodeId) -> u64 {
        self.heard_answers.lock().get(&peer).copied().unwrap_or(0)
    }

    /// A follower's clock showed `clock_us` when this node's showed about `own_us`.
    pub(crate) fn heard_clock(&self, peer: NodeId, clock_us: u64, own_us: u64) {
        if clock_us != 0 {
            let offset_us = i64::try_from(i128::from(clock_us) - i128::from(own_us)).unwrap_or(i64::MAX);
            self.clock_offsets_us.lock().insert(peer, offset_us);
        }
    }

    /// How far each of these peers' clocks is ahead of this node's, as last heard.
    pub(crate) fn clock_offsets_us(&self, peers: impl Iterator<Item = NodeId>) -> Vec<i64> {
        let offsets = self.clock_offsets_us.lock();
        peers.filter_map(|peer| offsets.get(&peer).copied()).collect()
    }

    /// The same of all peers.
    pub(crate) fn clocks_ahead_us(&self) -> BTreeMap<NodeId, i64> {
        self.clock_offsets_us.lock().clone()
    }

    /// A follower answered this leader at `at`, and said how much room its disk has.
    pub(crate) fn answered(&self, peer: NodeId, at: I, room: DiskRoom) {
        self.answers.lock().insert(peer, (at, room));
    }

    /// When a peer last answered this node as its leader, and the room it had then.
    pub(crate) fn last_answer(&self, peer: NodeId) -> Option<(I, DiskRoom)> {
        self.answers.lock().get(&peer).copied()
    }

    /// A follower said this about what the leader wants to collect.
    pub(crate) fn confirmed(&self, peer: NodeId, said: Confirmation) {
        self.confirmations.lock().insert(peer, said);
    }

    /// What a peer last said about it; nothing yet is a confirmation of nothing.
    pub(crate) fn confirmation(&self, peer: NodeId) -> Confirmation {
        self.confirmations.lock().get(&peer).copied().unwrap_or_default()
    }

    /// Remembers, and logs once, that a peer refuses this node.
    pub(crate) fn refused(&self, peer: NodeId, refusal: Refusal) {
        let mut refusals = self.refusals.lock();
        if refusals.get(&peer) != Some(&refusal) {
            tracing::warn!(peer, code = ?refusal.kind(), "peer refuses this node: {}", refusal.message);
            refusals.insert(peer, refusal);
        }
    }

    /// What peers refuse at present.
    pub(crate) fn refusals(&self) -> BTreeMap<NodeId, Refusal> {
        self.refusals.lock().clone()
    }

    /// A peer answered a heartbeat after so many microseconds.
    pub(crate) fn took(&self, peer: NodeId, us: u64) {
        self.round_trips.lock().entry(peer).or_default().record(us);
    }

    /// How long peers take to answer heartbeats of this node.
    pub(crate) fn round_trips(&self) -> Vec<(NodeId, RoundTrip)> {
        self.round_trips.lock().iter().map(|(peer, all)| (*peer, all.summary())).collect()
    }

    /// A follower said what it holds.
    pub(crate) fn holds(&self, peer: NodeId, holding: Holding) {
        self.holdings.lock().insert(peer, holding);
    }

    /// What a peer last said that it holds; nothing yet is nothing.
    pub(crate) fn holding(&self, peer: NodeId) -> Holding {
        self.holdings.lock().get(&peer).copied().unwrap_or_default()
    }

    /// First index that a witness must keep, as the leader says; it never goes back.
    pub(crate) fn witness_keeps_from(&self) -> u64 {
        self.witness_keeps_from.load(Ordering::Acquire)
    }

    pub(crate) fn set_witness_keeps_from(&self, index: u64) {
        self.witness_keeps_from.fetch_max(index, Ordering::AcqRel);
    }

    /// First index that some member may still need from a log, as the leader says.
    pub(crate) fn needed_from(&self) -> u64 {
        self.needed_from.load(Ordering::Acquire)
    }

    pub(crate) fn set_needed_from(&self, index: u64) {
        self.needed_from.store(index, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_leadership_counts_afresh() {
        let links = Links::<()>::default();
        links.count_flushed(2, 5, 10);
        links.count_flushed(2, 5, 7);
        assert_eq!(links.counted_next(2, 5), 10);
        assert_eq!(links.counted_next(2, 6), 0);
        links.count_flushed(2, 6, 3);
        assert_eq!(links.counted_next(2, 6), 3);
    }
}
