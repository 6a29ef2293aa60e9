//! Handing leadership over: to whom, and how.

use std::sync::Arc;
use std::time::Duration;

use openraft::Instant as _;
use saola_storage::types::NodeId;

use super::admin::invalid;
use super::propose::TimeLeft;
use super::{AdminError, InstantOf, Replica, Shared};
use crate::member::{Member, Role};
use crate::types::Runtime;
use crate::wire::{Answer, Nothing, Question};

/// Who takes over may lag so many entries: what is on its way while writes go on.
const HAND_OVER_LAG: u64 = 16;
/// A node that lags gets so long to catch up.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(2);

/// Leadership that is not on its way to another site within so long stays.
const SWITCH_LIMIT: Duration = Duration::from_secs(5);

/// What becomes of the writes under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writes {
    /// Each has its outcome before leadership goes; else it stays.
    Settled,
    /// As many as can be. The next leader completes the others, and their callers ask it again.
    MayBeUnderWay,
}

/// While it lives, this leader's writes wait in its queue.
struct Paused<RT: Runtime>(Arc<Shared<RT>>);

impl<RT: Runtime> Paused<RT> {
    fn begin(shared: &Arc<Shared<RT>>) -> Self {
        shared.paused.send_modify(|times| *times += 1);
        Self(shared.clone())
    }
}

impl<RT: Runtime> Drop for Paused<RT> {
    fn drop(&mut self) {
        self.0.paused.send_modify(|times| *times -= 1);
    }
}

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
    /// leader for a while. New writes wait meanwhile, and go to the next leader.
    pub(crate) async fn transfer_here(&self, to: NodeId, writes: Writes) -> Result<(), AdminError> {
        if to == self.shared.claim.node_id {
            return Ok(());
        }
        let _paused = self.prepare(to, writes).await?;
        self.hand_over(to).await
    }

    /// The same to the first of these that can take over, all writes settled; begun within [`SWITCH_LIMIT`] or not at
    /// all.
    pub(super) async fn transfer_to_any(&self, candidates: Vec<NodeId>) -> Result<(), AdminError> {
        let until = InstantOf::<RT>::now() + SWITCH_LIMIT;
        let mut refused = invalid("nobody there could lead");
        for to in candidates {
            let left = until.saturating_duration_since_now();
            match RT::timeout(left, self.prepare(to, Writes::Settled)).await {
                Ok(Ok(_paused)) => return self.hand_over(to).await,
                Ok(Err(error)) => refused = error,
                Err(_) => {
                    let limit = SWITCH_LIMIT.as_secs();
                    let said =
                        format!("node {to} was not ready within {limit} s, so leadership stays here: `saola status`");
                    return Err(invalid(said));
                }
            }
        }
        Err(refused)
    }

    /// Waits until `to` can take over at once. While what is answered lives, no write is begun here.
    async fn prepare(&self, to: NodeId, writes: Writes) -> Result<Paused<RT>, AdminError> {
        let shared = &self.shared;
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
        if !self.answers(&member).await {
            return Err(invalid(format!(
                "node {to} ({}) at {} does not answer, takes no part or repairs its copy, so it cannot lead: start it, or choose another node",
                member.name, member.peer_address
            )));
        }
        let matched_next = |shared: &Shared<RT>| shared.matched_index(to).flatten().map_or(0, |matched| matched + 1);
        let near = |shared: &Shared<RT>| is_near(matched_next(shared), shared.flushed_next());
        if !self.within(CATCH_UP_LIMIT, near).await {
            return Err(invalid(format!(
                "node {to} ({}) has not caught up; `saola status` shows its lag, try again when it is small",
                member.name
            )));
        }
        let paused = Paused::begin(shared);
        // A witness takes no writes and shows nothing.
        let settled = |shared: &Shared<RT>| {
            let end = shared.flushed_next();
            !shared.role().is_data() || (matched_next(shared) >= end && shared.frontier.next() >= end)
        };
        let limit = Duration::from_millis(2 * shared.timing.election_max_ms);
        if !self.within(limit, settled).await && writes == Writes::Settled {
            return Err(invalid(format!(
                "the writes under way were not settled within {} ms, so leadership stays here: `saola why` shows what they \
                 wait for",
                limit.as_millis()
            )));
        }
        Ok(paused)
    }

    async fn hand_over(&self, to: NodeId) -> Result<(), AdminError> {
        let shared = &self.shared;
        let raft = shared.raft().ok_or_else(|| invalid("Raft does not run on this node"))?;
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

    /// Voters with records at a site that have room for writes, the one that has most first.
    pub(super) fn candidates_at(&self, site: &str) -> Vec<NodeId> {
        let shared = &self.shared;
        let has_room = |id: NodeId| shared.links.last_answer(id).is_some_and(|(_, room)| !room.is_low());
        let there = shared.members().into_iter().filter(|it| {
            let votes = it.role_value() == Role::Voter && shared.has_vote(it.node_id);
            it.site == site && votes && has_room(it.node_id)
        });
        let mut there: Vec<NodeId> = there.map(|it| it.node_id).collect();
        there.sort_by_key(|id| std::cmp::Reverse(shared.matched_index(*id).flatten()));
        there
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
