//! When other nodes last vouched for what this leader had.
//!
//! An *acknowledgement* is an answer by which a node has flushed the leader's last index as it was when a request was
//! sent; its time is that of sending. An idle node that is well renews it by heartbeats; one whose disk hangs does not,
//! nor one that answers heartbeats but takes no entries. Any other answer says at least that it followed this leader when
//! the request came. openraft keeps such times too, and an answer to one request then counts for a later one that ends
//! at the same entry.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use openraft::Instant;
use saola_storage::types::NodeId;

/// Requests to one node whose index it has not flushed. Of more every other one is forgotten, and fewer are noted from
/// then on: what counts is a request sent a little earlier.
const MOST: usize = 64;

/// A request that was sent.
#[derive(Clone, Copy, Debug)]
struct Probe<I> {
    sent: I,
    /// First index that the leader's log did not reach then.
    next: u64,
}

#[derive(Debug)]
struct Asked<I> {
    open: VecDeque<Probe<I>>,
    /// Requests that were sent closer to each other count as one.
    apart: Duration,
    /// Sending time of the newest request that has been acknowledged.
    newest: Option<I>,
    /// Sending time of the newest request that it followed this leader by.
    followed: Option<I>,
}

/// The acknowledgements of one leadership.
#[derive(Debug)]
pub(crate) struct Acknowledgements<I> {
    term: u64,
    asked: BTreeMap<NodeId, Asked<I>>,
    /// The closest that requests are noted.
    apart: Duration,
}

impl<I: Instant> Acknowledgements<I> {
    pub(crate) fn new(apart: Duration) -> Self {
        Self { term: 0, asked: BTreeMap::new(), apart }
    }

    /// A leader of `term` sends a request to a node while its log reaches to below `next`.
    pub(crate) fn sent(&mut self, node_id: NodeId, term: u64, sent: I, next: u64) {
        if term < self.term {
            return;
        }
        if term > self.term {
            (self.term, self.asked) = (term, BTreeMap::new());
        }
        let apart = self.apart;
        let asked = self.asked.entry(node_id).or_insert_with(|| Asked {
            open: VecDeque::new(),
            apart,
            newest: None,
            followed: None,
        });
        match asked.open.back() {
            None => asked.apart = apart,
            Some(last) if sent < last.sent + asked.apart => return,
            _ if asked.open.len() == MOST => {
                let mut keep = false;
                asked.open.retain(|_| {
                    keep = !keep;
                    keep
                });
                asked.apart *= 2;
            }
            _ => {}
        }
        asked.open.push_back(Probe { sent, next });
    }

    /// It answered the request that was sent then: it has flushed all below `flushed_next`.
    pub(crate) fn answered(&mut self, node_id: NodeId, term: u64, sent: I, flushed_next: u64) {
        let Some(asked) = self.asked.get_mut(&node_id).filter(|_| term == self.term) else { return };
        while let Some(probe) = asked.open.front().filter(|it| it.sent <= sent && it.next <= flushed_next) {
            asked.newest = Some(probe.sent);
            asked.open.pop_front();
        }
    }

    /// It answered the request that was sent then as this leader's follower, whatever it has flushed.
    pub(crate) fn followed(&mut self, node_id: NodeId, term: u64, sent: I) {
        if let Some(asked) = self.asked.get_mut(&node_id).filter(|_| term == self.term) {
            asked.followed = asked.followed.max(Some(sent));
        }
    }

    /// The latest moment at which a majority of each of these sets followed the leader of this term; it follows itself `now`.
    pub(crate) fn confirmed(&self, term: u64, sets: &[BTreeSet<NodeId>], own: NodeId, now: I) -> Option<I> {
        let followed = |id: &NodeId| match *id == own {
            true => Some(now),
            false => self.asked.get(id).filter(|_| term == self.term)?.followed,
        };
        let of_set = |set: &BTreeSet<NodeId>| {
            let mut times: Vec<I> = set.iter().filter_map(followed).collect();
            times.sort_unstable_by(|a, b| b.cmp(a));
            times.get(set.len() / 2).copied()
        };
        sets.iter().map(of_set).collect::<Option<Vec<I>>>()?.into_iter().min()
    }

    /// The time by which `count` of these nodes have acknowledged in this term; none: fewer have.
    pub(crate) fn newest(&self, term: u64, nodes: &[NodeId], count: usize) -> Option<I> {
        if term != self.term {
            return None;
        }
        let mut times: Vec<I> = nodes.iter().filter_map(|id| self.asked.get(id)?.newest).collect();
        times.sort_unstable_by(|a, b| b.cmp(a));
        times.get(count.checked_sub(1)?).copied()
    }
}

#[cfg(test)]
mod tests {
    use openraft_rt_tokio::TokioInstant;

    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn fresh() -> (TokioInstant, Acknowledgements<TokioInstant>) {
        (TokioInstant::now(), Acknowledgements::new(ms(10)))
    }

    #[test]
    fn a_majority_of_each_configuration_confirms_a_leader_from_the_sending_of_what_it_answered() {
        let (start, mut acks) = fresh();
        let (three, joint) = (BTreeSet::from([1, 2, 3]), BTreeSet::from([1, 4]));
        let confirmed = |acks: &Acknowledgements<_>, sets: &[&BTreeSet<NodeId>]| {
            let sets: Vec<BTreeSet<NodeId>> = sets.iter().map(|set| (*set).clone()).collect();
            acks.confirmed(1, &sets, 1, start + ms(100))
        };
        for (node, at) in [(2, 0), (2, 20), (3, 10), (4, 5)] {
            acks.sent(node, 1, start + ms(at), 5);
        }
        assert_eq!(confirmed(&acks, &[&three]), None);
        acks.followed(2, 1, start);
        assert_eq!(
            confirmed(&acks, &[&three]),
            Some(start),
            "the later request is not answered, though it has nothing more"
        );
        acks.followed(3, 1, start + ms(10));
        assert_eq!(confirmed(&acks, &[&three]), Some(start + ms(10)));
        assert_eq!(confirmed(&acks, &[&three, &joint]), None);
        acks.followed(4, 1, start + ms(5));
        assert_eq!(confirmed(&acks, &[&three, &joint]), Some(start + ms(5)));
        assert_eq!(confirmed(&acks, &[&BTreeSet::from([1])]), Some(start + ms(100)), "it needs nobody");
        assert_eq!(confirmed(&acks, &[&BTreeSet::from([2])]), Some(start), "a leader that is no voter");
        assert_eq!(acks.confirmed(2, &[three], 1, start + ms(100)), None, "of another term");
        assert_eq!(confirmed(&acks, &[]), None);
    }

    #[test]
    fn an_answer_counts_from_the_sending_of_a_request_whose_index_it_covers() {
        let (start, mut acks) = fresh();
        acks.sent(3, 1, start, 5);
        acks.sent(3, 1, start + ms(20), 9);
        acks.answered(3, 1, start + ms(20), 8);
        assert_eq!(acks.newest(1, &[3], 1), Some(start), "entry 8 is not flushed there");
        acks.sent(3, 1, start + ms(40), 9);
        acks.answered(3, 1, start + ms(20), 9);
        assert_eq!(acks.newest(1, &[3], 1), Some(start + ms(20)), "the later request is not answered yet");
        acks.answered(3, 1, start + ms(40), 9);
        assert_eq!(acks.newest(1, &[3], 1), Some(start + ms(40)));
    }

    #[test]
    fn heartbeats_renew_an_idle_node_and_not_one_that_takes_no_entries() {
        let (start, mut acks) = fresh();
        for beat in 0..200 {
            let sent = start + ms(50 * beat);
            acks.sent(3, 1, sent, 5);
            acks.answered(3, 1, sent, 5);
            acks.sent(4, 1, sent, 6);
            acks.answered(4, 1, sent, 5);
        }
        assert_eq!(acks.newest(1, &[3, 4], 1), Some(start + ms(50 * 199)));
        assert_eq!(acks.newest(1, &[3, 4], 2), None);
        assert!(acks.asked[&4].open.len() <= MOST);
        acks.answered(4, 1, start + ms(50 * 199), 6);
        let newest = acks.newest(1, &[4], 1);
        assert!(newest.is_some_and(|at| at >= start + ms(50 * 199 - 300)), "the newest is among those that were noted");
    }

    #[test]
    fn a_node_that_lags_far_and_steadily_is_not_taken_for_one_that_lags_farther() {
        // It answers each request six seconds later; another one is sent every ten milliseconds.
        let (start, mut acks) = fresh();
        for step in 0..3_000u64 {
            let now = start + ms(10 * step);
            acks.sent(3, 1, now, step);
            let Some(answered) = step.checked_sub(600) else { continue };
            acks.answered(3, 1, start + ms(10 * answered), answered);
            if let Some(newest) = acks.newest(1, &[3], 1).filter(|_| step > 1_300) {
                assert!(now - newest < ms(6_700), "{:?}", now - newest);
            }
        }
    }

    #[test]
    fn another_leadership_counts_afresh() {
        let (start, mut acks) = fresh();
        acks.sent(3, 1, start, 5);
        acks.answered(3, 1, start, 5);
        acks.sent(3, 2, start + ms(20), 6);
        assert_eq!((acks.newest(1, &[3], 1), acks.newest(2, &[3], 1)), (None, None));
        acks.answered(3, 1, start + ms(20), 9);
        assert_eq!(acks.newest(2, &[3], 1), None, "a late answer to the earlier leadership");
        acks.answered(3, 2, start + ms(20), 6);
        acks.sent(3, 1, start + ms(40), 6);
        assert_eq!(acks.newest(2, &[3], 1), Some(start + ms(20)));
    }
}
