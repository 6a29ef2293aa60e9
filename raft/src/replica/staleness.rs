//! How old the state that a node shows may be: an upper bound, from what leaders said and what has been applied.
//!
//! A leader says up to where effects may be shown and how long ago a quorum confirmed it. A node that has applied that
//! much misses nothing that was acknowledged before the confirmation, however long ago it applied it.

use std::collections::VecDeque;
use std::time::Duration;

use openraft::Instant;

/// Samples not applied yet. More are thinned out: to forget one only makes the bound wider.
const MOST: usize = 64;

/// What a leader said.
#[derive(Clone, Copy, Debug)]
struct Sample<I> {
    /// First index that might not be shown then.
    frontier_next: u64,
    /// When it was said, at the earliest.
    said: I,
    /// How long before that a quorum had confirmed the leader.
    before: Duration,
}

impl<I: Instant> Sample<I> {
    fn age(&self, now: I) -> Duration {
        // It may have been said to another thread after `now` was asked for.
        let since = if now > self.said { now - self.said } else { Duration::ZERO };
        since.saturating_add(self.before)
    }

    fn is_fresher_than(&self, other: &Self) -> bool {
        let later = if self.said > other.said { self.said } else { other.said };
        self.age(later) <= other.age(later)
    }
}

/// The samples of one node.
#[derive(Debug)]
pub(super) struct Staleness<I> {
    /// The freshest one whose frontier this node has applied.
    applied: Option<Sample<I>>,
    /// Newer ones, in the order of hearing: one of every `stride`, and the newest.
    ahead: VecDeque<Sample<I>>,
    stride: u64,
    /// Samples heard since `ahead` was empty.
    heard: u64,
}

impl<I: Instant> Staleness<I> {
    pub(super) fn new() -> Self {
        Self { applied: None, ahead: VecDeque::new(), stride: 1, heard: 0 }
    }

    /// A leader said, at `said` at the earliest, that everything below `frontier_next` may be shown and that a quorum had confirmed it
    /// `before` ago. This node has applied everything below `applied_next`.
    pub(super) fn hear(&mut self, said: I, frontier_next: u64, before: Duration, applied_next: u64) {
        self.settle(applied_next);
        let sample = Sample { frontier_next, said, before };
        if frontier_next <= applied_next {
            self.take(sample);
            return;
        }
        if self.ahead.is_empty() {
            (self.stride, self.heard) = (1, 0);
        }
        let newest_may_go = self.heard > 0 && !(self.heard - 1).is_multiple_of(self.stride);
        if newest_may_go {
            self.ahead.pop_back();
        } else if self.ahead.len() == MOST {
            let mut keep = false;
            self.ahead.retain(|_| {
                keep = !keep;
                keep
            });
            self.stride *= 2;
        }
        self.heard += 1;
        self.ahead.push_back(sample);
    }

    /// How old the state below `applied_next` is at most; none before a leader was heard.
    pub(super) fn age(&mut self, now: I, applied_next: u64) -> Option<Duration> {
        self.settle(applied_next);
        self.applied.map(|sample| sample.age(now))
    }

    /// Takes in the samples that have been applied meanwhile.
    fn settle(&mut self, applied_next: u64) {
        let mut ahead = std::mem::take(&mut self.ahead);
        ahead.retain(|sample| {
            let reached = sample.frontier_next <= applied_next;
            if reached {
                self.take(*sample);
            }
            !reached
        });
        self.ahead = ahead;
    }

    fn take(&mut self, sample: Sample<I>) {
        if self.applied.is_none_or(|applied| sample.is_fresher_than(&applied)) {
            self.applied = Some(sample);
        }
    }
}

#[cfg(test)]
mod tests {
    use openraft_rt_tokio::TokioInstant;
    use proptest::prelude::*;

    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn age_grows_while_apply_stands_still_and_shrinks_as_it_catches_up() {
        let start = TokioInstant::now();
        let mut staleness = Staleness::new();
        assert_eq!(staleness.age(start, 0), None);
        staleness.hear(start, 10, ms(3), 10);
        assert_eq!(staleness.age(start, 10), Some(ms(3)));
        for beat in 1..=1000 {
            staleness.hear(start + ms(50 * beat), 10 + beat, ms(3), 10);
            assert!(staleness.ahead.len() <= MOST);
        }
        let now = start + ms(50_000);
        assert_eq!(staleness.age(now, 10), Some(ms(50_003)));
        let halfway = staleness.age(now, 510).expect("a leader was heard");
        assert!(halfway >= ms(25_003) && halfway < ms(40_000), "{halfway:?}");
        assert_eq!(staleness.age(now, 1010), Some(ms(3)));
    }

    #[test]
    fn a_leader_cut_off_from_its_quorum_makes_nothing_younger() {
        let start = TokioInstant::now();
        let mut staleness = Staleness::new();
        staleness.hear(start, 5, ms(1), 5);
        staleness.hear(start + ms(100), 5, ms(5_000), 5);
        assert_eq!(staleness.age(start + ms(100), 5), Some(ms(101)));
    }

    proptest! {
        #[test]
        fn the_bound_is_never_too_small(
            beats in proptest::collection::vec((0u64..40, 0u64..3, 0u64..200, 0u64..3), 1..300),
        ) {
            // Per beat: time since the last one, entries since then, the quorum's age, entries applied since then.
            let start = TokioInstant::now();
            let (mut now, mut frontier, mut applied) = (start, 1, 1);
            let mut said = Vec::new();
            let mut staleness = Staleness::new();
            for (step, more, before, reached) in beats {
                now += ms(step);
                frontier += more;
                applied = (applied + reached).min(frontier);
                staleness.hear(now, frontier, ms(before), applied);
                said.push((frontier, now, before));
                let exact = said.iter().filter(|(next, ..)| *next <= applied).map(|(_, at, before)| now - *at + ms(*before));
                let bound = staleness.age(now, applied);
                match exact.min() {
                    None => prop_assert_eq!(bound, None),
                    Some(exact) => prop_assert!(bound.is_none_or(|bound| bound >= exact)),
                }
            }
        }
    }
}
