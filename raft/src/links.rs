//! What a node knows of its links to peers, besides what openraft keeps.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use saola_storage::types::NodeId;

use crate::wire::Refusal;

/// Counts and refusals per peer, and the purge floor. Shared by all links of a node.
#[derive(Debug, Default)]
pub(crate) struct Links {
    counted: Mutex<BTreeMap<NodeId, Counted>>,
    refusals: Mutex<BTreeMap<NodeId, Refusal>>,
    clock_offsets_us: Mutex<BTreeMap<NodeId, i64>>,
    needed_from: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
struct Counted {
    term: u64,
    next: u64,
}

impl Links {
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
        self.refusals.lock().remove(&peer);
    }

    /// Highest index, plus one, counted as flushed at `peer` in leadership term `term`.
    pub(crate) fn counted_next(&self, peer: NodeId, term: u64) -> u64 {
        match self.counted.lock().get(&peer) {
            Some(counted) if counted.term == term => counted.next,
            _ => 0,
        }
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
        let links = Links::default();
        links.count_flushed(2, 5, 10);
        links.count_flushed(2, 5, 7);
        assert_eq!(links.counted_next(2, 5), 10);
        assert_eq!(links.counted_next(2, 6), 0);
        links.count_flushed(2, 6, 3);
        assert_eq!(links.counted_next(2, 6), 3);
    }
}
