//! Since when no quorum has confirmed the leader: this node, or the one that it follows.

use std::time::Duration;

use openraft::Instant as _;
use saola_storage::planted::{self, Bug};
use saola_storage::types::LeaderId;

use super::{InstantOf, Shared};
use crate::types::Runtime;

impl<RT: Runtime> Shared<RT> {
    /// A leader that is cut off goes on speaking to those that are cut off with it: what counts is its quorum. To be called
    /// after [`Shared::heard_leader`], or a read in between would call an older state that young.
    ///
    /// The message may have been under way for long: it was sent after the answer that the leader had received by then.
    pub(crate) fn heard_confirmed(&self, term: u64, frontier_next: u64, quorum_age_ms: u64, heard_answer: u64) {
        let current = self.with_metrics(|metrics| metrics.current_term).unwrap_or(0);
        if quorum_age_ms == u64::MAX || term < current {
            return;
        }
        let Some(mut sent) = self.heard_back.lock().sent(heard_answer).map(|it| it.steady) else { return };
        if planted::is(Bug::StaleAgeFromArrival) {
            sent = InstantOf::<RT>::now();
        }
        // The wire carries whole milliseconds, rounded down.
        let before = Duration::from_millis(quorum_age_ms.saturating_add(1));
        let applied_next = *self.applied_next.borrow();
        {
            let mut heard = self.quorum_heard.lock();
            let age = |(at, before): (InstantOf<RT>, Duration)| at.elapsed().saturating_add(before);
            if heard.is_none_or(|known| age((sent, before)) <= age(known)) {
                *heard = Some((sent, before));
            }
        }
        self.staleness.lock().hear(sent, frontier_next, before, applied_next);
    }

    /// Since when no quorum has confirmed this node as leader. `None` if none has, and while its frontier may not cover
    /// what former leaders acknowledged.
    pub(crate) fn quorum_age(&self) -> Option<Duration> {
        let takes_part = self.refused.lock().is_none();
        let (leader, age) = self.confirmed_age().filter(|_| takes_part)?;
        self.frontier.is_covered(leader).then_some(age)
    }

    /// Since when no quorum has confirmed this node as leader, and its leadership, whatever its frontier covers.
    pub(crate) fn confirmed_age(&self) -> Option<(LeaderId, Duration)> {
        self.with_metrics(|metrics| {
            let own = self.claim.node_id;
            if metrics.current_leader != Some(own) {
                return None;
            }
            let leader = LeaderId { term: metrics.current_term, node_id: own };
            let (now, sets) = (InstantOf::<RT>::now(), metrics.membership_config.membership().get_joint_config());
            let confirmed = self.acknowledgements.lock().confirmed(leader.term, sets, own, now);
            Some((leader, now - confirmed?))
        })
        .flatten()
    }

    /// The same of another leader, as far as it has told.
    pub(super) fn heard_quorum_age(&self) -> Option<Duration> {
        self.quorum_heard.lock().map(|(at, before)| at.elapsed().saturating_add(before))
    }
}
