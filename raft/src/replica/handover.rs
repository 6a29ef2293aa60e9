//! Handing leadership over: to whom, and how.

use std::time::Duration;

use openraft::Instant as _;
use saola_storage::types::NodeId;

use super::admin::invalid;
use super::{AdminError, InstantOf, Replica, Shared};
use crate::member::{Member, Role};
use crate::types::Runtime;
use crate::wire::{Answer, Nothing, Question};

/// Who takes over may lag so many entries: what is on its way while writes go on.
const HAND_OVER_LAG: u64 = 16;
/// A node that lags gets so long to catch up.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(2);

/// A voter that keeps records, as the leader sees it before it hands over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Candidate {
    node_id: NodeId,
    /// It answered just now, as the member that it is.
    answers: bool,
    /// It is at the leader's site.
    same_site: bool,
    /// First index that it has not flushed, as the leader has counted.
    matched_next: u64,
}

/// Lacks no more than what is on its way.
fn is_near(matched_next: u64, own_next: u64) -> bool {
    own_next.saturating_sub(matched_next) <= HAND_OVER_LAG
}

/// Of those that answer and have nearly everything the one that has most, at the leader's own site if there is a choice.
fn choose(candidates: &[Candidate], own_next: u64) -> Option<NodeId> {
    let fit = candidates.iter().filter(|it| it.answers && is_near(it.matched_next, own_next));
    fit.max_by_key(|it| (it.matched_next, it.same_site, it.node_id)).map(|it| it.node_id)
}

impl<RT: Runtime> Shared<RT> {
    pub(super) fn is_at_own_site(&self, node_id: NodeId) -> bool {
        self.member(node_id).is_some_and(|member| member.site == self.claim.site)
    }
}

impl<RT: Runtime> Replica<RT> {
    /// Hands leadership to `to`, if it can take over now: nothing is begun that would leave the cluster without a
    /// leader for a while.
    pub(crate) async fn transfer_here(&self, to: NodeId) -> Result<(), AdminError> {
        let shared = &self.shared;
        if to == shared.claim.node_id {
            return Ok(());
        }
        let member = self.known_member(to)?;
        if member.role_value() != Role::Voter {
            return Err(invalid(format!(
                "node {to} ({}) is a {}: only a voter that is a data node can lead",
                member.name,
                member.role_value().as_str()
            )));
        }
        if member.demoted && !shared.has_vote(to) {
            return Err(invalid(format!(
                "node {to} ({}) has no vote: its site was lost, and it gets its vote back by itself once it has \
                 everything (saola why)",
                member.name
            )));
        }
        if !shared.has_vote(to) {
            return Err(invalid(format!(
                "node {to} ({}) has no vote yet: repeat the command that added it first",
                member.name
            )));
        }
        let raft = shared.raft().ok_or_else(|| invalid("Raft does not run on this node"))?;
        if !self.answers(&member).await {
            return Err(invalid(format!(
                "node {to} ({}) at {} does not answer, takes no part or repairs its copy, so it cannot lead: start it, or choose another node",
                member.name, member.peer_address
            )));
        }
        let near = |node_id| {
            let matched = shared.matched_index(node_id).flatten();
            matched.is_some_and(|matched| is_near(matched + 1, shared.flushed_next()))
        };
        if !self.within(CATCH_UP_LIMIT, |_| near(to)).await {
            return Err(invalid(format!(
                "node {to} ({}) has not caught up; `saola status` shows its lag, try again when it is small",
                member.name
            )));
        }
        raft.trigger().transfer_leader(to).await.map_err(|error| AdminError::NoLeader(error.to_string()))?;
        let limit = Duration::from_millis(4 * shared.timing.election_max_ms + 1000);
        self.within(limit, |shared| shared.leader().is_some_and(|leader| leader != shared.claim.node_id)).await;
        match shared.leader() {
            Some(leader) if leader == to => Ok(()),
            Some(leader) => Err(invalid(format!("node {leader} took over instead of node {to}; try again from there"))),
            // One that is no member any more is not told.
            None if shared.member(shared.claim.node_id).is_none() => Ok(()),
            None => Err(AdminError::Unknown(format!("no leader yet after handing over to node {to}"))),
        }
    }

    /// The data voter that should lead after this node; none when no one could at once. Never the witness: without any
    /// data voter that answers there is no quorum to lead, or it is elected by itself and hands over.
    pub(super) async fn successor(&self) -> Option<NodeId> {
        let shared = &self.shared;
        let until = InstantOf::<RT>::now() + CATCH_UP_LIMIT;
        let voters = || {
            shared.members().into_iter().filter(|member| {
                member.role_value() == Role::Voter
                    && member.node_id != shared.claim.node_id
                    && shared.has_vote(member.node_id)
            })
        };
        let asked = voters().map(|member| async move { (self.answers(&member).await, member) });
        let asked = futures::future::join_all(asked).await;
        if !asked.iter().any(|(answers, _)| *answers) {
            return None;
        }
        let chosen = || {
            let candidates: Vec<Candidate> = (asked.iter())
                .map(|(answers, member)| Candidate {
                    node_id: member.node_id,
                    answers: *answers,
                    same_site: member.site == shared.claim.site,
                    matched_next: shared.matched_index(member.node_id).flatten().map_or(0, |index| index + 1),
                })
                .collect();
            choose(&candidates, shared.flushed_next())
        };
        shared.until_deadline(until, || std::future::ready(chosen())).await
    }

    /// Whether a member answers at once, takes part, and has records fit to be served.
    async fn answers(&self, member: &Member) -> bool {
        let limit = Duration::from_millis(2 * self.shared.timing.election_max_ms);
        match self.ask(member, Question::Identify(Nothing {}), limit).await {
            Ok(Answer::Identity(identity)) => self.takes_part(member, &identity) && !identity.copy_is_bad,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(node_id: NodeId, matched_next: u64) -> Candidate {
        Candidate { node_id, answers: true, same_site: false, matched_next }
    }

    #[test]
    fn leadership_goes_to_one_that_answers_and_has_most() {
        let silent = Candidate { answers: false, ..candidate(2, 100) };
        let near = Candidate { same_site: true, ..candidate(3, 99) };
        assert_eq!(choose(&[silent, near, candidate(4, 98)], 100), Some(3));
        assert_eq!(choose(&[near, candidate(4, 100)], 100), Some(4), "what it has counts before its site");
        assert_eq!(choose(&[Candidate { same_site: true, ..candidate(3, 100) }, candidate(4, 100)], 100), Some(3));
        assert_eq!(choose(&[silent], 100), None);
        assert_eq!(choose(&[candidate(2, 99 - HAND_OVER_LAG)], 100), None);
        assert_eq!(choose(&[candidate(2, 100 - HAND_OVER_LAG)], 100), Some(2));
    }
}
