//! Revisions that this node has promised to keep readable for a while: page tokens name them.
//!
//! A read that runs needs no promise: it walks over one view of the store, which never changes. A page token does,
//! since its next page is read from a later view, at this or another node. Before the leader has versions collected it
//! announces up to which revision; from then on a node gives no new promise below it, and its answers name the oldest
//! one that is still open (`replica/collector.rs`). Under one lock, so that no promise slips in between.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

/// Most promises at a time.
const MAX_PINS: usize = 10_000;
/// Most announcements that are remembered; a leader makes one at a time.
const MAX_ANNOUNCED: usize = 10_000;
/// A promise holds for so long after its last use, at most.
const HOLDS: Duration = Duration::from_secs(60);

/// Up to which revision a leader wants versions of a collection to be collected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Announcement {
    /// The leader's term …
    pub(crate) term: u64,
    /// … and its count of announcements, from 1; 0: there is none.
    pub(crate) round: u64,
    /// Number of the collection.
    pub(crate) collection: u32,
    /// Versions that only reads as of earlier revisions show will go.
    pub(crate) below: u64,
}

/// What a node answers to the announcements it has heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Confirmation {
    /// Term and round of the newest announcement.
    pub(crate) term: u64,
    /// See `term`.
    pub(crate) round: u64,
    /// Lowest revision of its collection that is promised here; `u64::MAX`: none is.
    pub(crate) lowest_pin: u64,
}

/// Why a revision is not promised. It may be later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// Policy has removed versions that stood then.
    #[error("it is gone; the oldest readable revision is {oldest}")]
    Gone {
        /// Oldest revision that can be read.
        oldest: u64,
    },
    /// The leader is about to have it removed, unless another node has promised it.
    #[error("it is being collected")]
    BeingCollected,
    /// This node has heard no leader for long and cannot promise anything for the others.
    #[error("this node has been without a leader for too long")]
    CutOff,
    /// Too many promises are open.
    #[error("{MAX_PINS} other listings are under way")]
    TooMany,
}

/// The promises of one node. `I` is a point in time.
#[derive(Debug)]
pub(crate) struct Pins<I> {
    state: Mutex<State<I>>,
    /// What an earlier process has promised is forgotten: for so long nothing is confirmed.
    began: I,
    holds: Duration,
    /// A node that is silent for so long counts as dead.
    dead_after: Duration,
}

#[derive(Debug)]
struct State<I> {
    /// Last use, by collection and revision.
    pins: BTreeMap<(u32, u64), I>,
    /// Newest announcement and when it was heard last, by collection.
    announced: BTreeMap<u32, (u64, I)>,
    newest: Announcement,
}

impl<I: openraft::Instant> Pins<I> {
    pub(crate) fn new(now: I, dead_after: Duration) -> Self {
        let state = State { pins: BTreeMap::new(), announced: BTreeMap::new(), newest: Announcement::default() };
        Self { state: Mutex::new(state), began: now, holds: HOLDS.min(dead_after / 2), dead_after }
    }

    /// Promises a revision of a collection, or prolongs the promise. `silent`: since when no leader was heard; `oldest`
    /// answers the oldest revision that can be read now.
    pub(crate) fn pin(
        &self,
        collection: u32,
        revision: u64,
        now: I,
        silent: Duration,
        oldest: impl FnOnce() -> u64,
    ) -> Result<(), PinError> {
        let mut state = self.state.lock();
        state.forget(now, self.holds, self.dead_after);
        let oldest = oldest();
        if revision < oldest {
            return Err(PinError::Gone { oldest });
        }
        // The leader counts this node as dead, with no promise left, after twice as long at the earliest.
        if silent > self.dead_after / 2 {
            return Err(PinError::CutOff);
        }
        let known = state.pins.contains_key(&(collection, revision));
        if !known && state.announced.get(&collection).is_some_and(|(below, _)| revision < *below) {
            return Err(PinError::BeingCollected);
        }
        if !known && state.pins.len() >= MAX_PINS {
            return Err(PinError::TooMany);
        }
        state.pins.insert((collection, revision), now);
        Ok(())
    }

    /// Hears what a leader announces with each of its messages.
    pub(crate) fn hear(&self, announcement: Announcement, now: I) {
        let mut state = self.state.lock();
        state.forget(now, self.holds, self.dead_after);
        let room = state.announced.len() < MAX_ANNOUNCED || state.announced.contains_key(&announcement.collection);
        let newest = (state.newest.term, state.newest.round);
        // Messages come over two connections: an older one may come later.
        if announcement.round > 0 && (announcement.term, announcement.round) >= newest && room {
            state.newest = announcement;
            state.announced.insert(announcement.collection, (announcement.below, now));
        }
    }

    /// What to tell the leader.
    pub(crate) fn confirm(&self, now: I) -> Confirmation {
        let mut state = self.state.lock();
        state.forget(now, self.holds, self.dead_after);
        let Announcement { term, round, collection, .. } = state.newest;
        let lowest = state.pins.range((collection, 0)..=(collection, u64::MAX)).next().map(|((_, pin), _)| *pin);
        let lowest_pin = match now.saturating_duration_since(self.began) < self.holds {
            true => 0,
            false => lowest.unwrap_or(u64::MAX),
        };
        Confirmation { term, round, lowest_pin }
    }
}

impl<I: openraft::Instant> State<I> {
    fn forget(&mut self, now: I, holds: Duration, dead_after: Duration) {
        self.pins.retain(|_, used| now.saturating_duration_since(*used) <= holds);
        self.announced.retain(|_, (_, heard)| now.saturating_duration_since(*heard) <= dead_after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::TokioRuntime;

    type Now = <TokioRuntime as openraft::AsyncRuntime>::Instant;

    const DEAD: Duration = Duration::from_secs(120);
    const HEARD: Duration = Duration::ZERO;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// Promises of a node that has run for a while, and now.
    fn settled() -> (Pins<Now>, Now) {
        let began = <Now as openraft::Instant>::now();
        (Pins::new(began, DEAD), began + seconds(100))
    }

    fn announced(term: u64, round: u64, below: u64) -> Announcement {
        Announcement { term, round, collection: 1, below }
    }

    fn lowest(pins: &Pins<Now>, now: Now) -> u64 {
        pins.confirm(now).lowest_pin
    }

    #[test]
    fn nothing_new_is_promised_below_what_is_announced() {
        let (pins, now) = settled();
        pins.pin(1, 50, now, HEARD, || 0).expect("nothing is announced");
        pins.hear(announced(3, 1, 90), now);
        assert_eq!(pins.confirm(now), Confirmation { term: 3, round: 1, lowest_pin: 50 });
        assert_eq!(pins.pin(1, 60, now, HEARD, || 0), Err(PinError::BeingCollected));
        assert_eq!(pins.pin(1, 90, now, HEARD, || 0), Ok(()));
        assert_eq!(pins.pin(2, 60, now, HEARD, || 0), Ok(()), "another collection");
        assert_eq!(pins.pin(1, 50, now, HEARD, || 0), Ok(()), "it was promised before");
        assert_eq!(pins.pin(1, 50, now, HEARD, || 51), Err(PinError::Gone { oldest: 51 }));
        assert_eq!(lowest(&pins, now), 50);
    }

    #[test]
    fn a_promise_ends_a_minute_after_its_last_use() {
        let (pins, now) = settled();
        pins.pin(1, 50, now, HEARD, || 0).expect("nothing is announced");
        pins.hear(announced(3, 1, 90), now);
        pins.pin(1, 50, now + seconds(60), HEARD, || 0).expect("it is in use");
        assert_eq!(lowest(&pins, now + seconds(120)), 50);
        pins.hear(announced(3, 1, 90), now + seconds(120));
        assert_eq!(lowest(&pins, now + seconds(121)), u64::MAX);
        assert_eq!(pins.pin(1, 50, now + seconds(121), HEARD, || 0), Err(PinError::BeingCollected));
    }

    #[test]
    fn the_newest_announcement_counts_in_whatever_order_they_come() {
        let (pins, now) = settled();
        pins.hear(announced(3, 2, 40), now);
        pins.hear(announced(3, 1, 90), now);
        pins.hear(announced(2, 7, 90), now);
        pins.hear(Announcement::default(), now);
        assert_eq!(pins.confirm(now), Confirmation { term: 3, round: 2, lowest_pin: u64::MAX });
        assert_eq!(pins.pin(1, 40, now, HEARD, || 0), Ok(()));
        pins.hear(announced(4, 1, 50), now);
        assert_eq!(pins.pin(1, 41, now, HEARD, || 0), Err(PinError::BeingCollected));
    }

    #[test]
    fn an_announcement_counts_for_every_collection_until_the_leader_must_have_given_it_up() {
        let (pins, now) = settled();
        pins.hear(announced(3, 1, 90), now);
        pins.hear(Announcement { collection: 2, ..announced(3, 2, 70) }, now);
        assert_eq!(pins.pin(1, 80, now, HEARD, || 0), Err(PinError::BeingCollected));
        assert_eq!(pins.pin(1, 80, now + seconds(121), HEARD, || 0), Ok(()));
    }

    #[test]
    fn a_node_promises_nothing_without_a_leader_and_confirms_nothing_after_a_start() {
        let (pins, now) = settled();
        assert_eq!(pins.pin(1, 50, now, seconds(61), || 0), Err(PinError::CutOff));
        assert_eq!(pins.pin(1, 50, now, seconds(60), || 0), Ok(()));
        let fresh = Pins::new(now, DEAD);
        assert_eq!(lowest(&fresh, now + seconds(59)), 0);
        assert_eq!(lowest(&fresh, now + seconds(60)), u64::MAX);
    }
}
