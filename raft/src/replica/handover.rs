//! Handing leadership over: to whom, and how.

use std::time::Duration;

use openraft::Instant as _;
use saola_storage::types::NodeId;

use super::admin::invalid;
use super::propose::{ENTRIES_IN_FLIGHT, TimeLeft};
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
type Paused = tokio::sync::OwnedRwLockWriteGuard<()>;

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
    /// First index that a member is not known to have flushed.
    fn matched_next(&self, node_id: NodeId) -> u64 {
        self.matched_index(node_id).flatten().map_or(0, |matched| matched + 1)
    }

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
        self.check_can_lead(to).await?;
        let _paused = self.settle(to, writes).await?;
        self.hand_over(to).await
    }

    /// Hands leadership to the first of these that can take over, each write settled, and says before that it is moved on
    /// purpose, if it is: unless that is where it belongs it stays there then. What is not under way within
    /// [`SWITCH_LIMIT`] is not begun. For callers that hold `Shared::admin`.
    pub(super) async fn transfer_to_any(&self, candidates: Vec<NodeId>, on_purpose: bool) -> Result<(), AdminError> {
        let shared = &self.shared;
        if candidates.contains(&shared.claim.node_id) {
            return Ok(());
        }
        let until = InstantOf::<RT>::now() + SWITCH_LIMIT;
        let late = |doing: &str| {
            let limit = SWITCH_LIMIT.as_secs();
            invalid(format!("{doing} took longer than {limit} s, so leadership stays here: see `saola status`"))
        };
        let mut refused = Vec::new();
        for to in candidates {
            match RT::timeout(until.saturating_duration_since_now(), self.check_can_lead(to)).await {
                Err(_) => refused.push(late(&format!("to ask whether node {to} can lead"))),
                Ok(Err(error)) => refused.push(error),
                Ok(Ok(())) => {
                    let site = shared.member(to).map(|it| it.site).filter(|site| *site != shared.claim.site);
                    let moved_to = site.filter(|_| on_purpose);
                    if let Some(site) = &moved_to {
                        self.say_moved(site.clone(), until.saturating_duration_since_now()).await;
                    }
                    let settled = RT::timeout(until.saturating_duration_since_now(), self.settle(to, Writes::Settled));
                    let settled = settled.await.unwrap_or_else(|_| Err(late("to settle the writes under way")));
                    if settled.is_err() && moved_to.is_some() {
                        self.say_moved(shared.claim.site.clone(), SWITCH_LIMIT).await;
                    }
                    let _paused = settled?;
                    return self.hand_over(to).await;
                }
            }
        }
        let said: Vec<String> = refused.iter().map(ToString::to_string).collect();
        Err(invalid(if said.is_empty() { "nobody there could lead".into() } else { said.join("; ") }))
    }

    /// Refuses what could not lead now, and waits for one that lacks a little.
    async fn check_can_lead(&self, to: NodeId) -> Result<(), AdminError> {
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
        if !self.within(CATCH_UP_LIMIT, |shared| is_near(shared.matched_next(to), shared.flushed_next())).await {
            return Err(invalid(format!(
                "node {to} ({}) has not caught up; `saola status` shows its lag, try again when it is small",
                member.name
            )));
        }
        Ok(())
    }

    /// Has new writes wait, and waits until those under way have their outcomes and `to` has the whole log. While what is
    /// answered lives, no write is begun here.
    async fn settle(&self, to: NodeId, writes: Writes) -> Result<Option<Paused>, AdminError> {
        let shared = &self.shared;
        if !shared.role().is_data() {
            // A witness takes no writes and shows nothing.
            return Ok(None);
        }
        let limit = Duration::from_millis(match writes {
            Writes::Settled => 2 * shared.timing.election_max_ms,
            // It leaves because it must, and what would settle the writes waits too.
            Writes::MayBeUnderWay => shared.timing.election_min_ms,
        });
        let until = InstantOf::<RT>::now() + limit;
        // None: a batch still waits for room among the entries under way.
        let paused = RT::timeout(limit, shared.proposing.clone().write_owned()).await.ok();
        let settled = |shared: &Shared<RT>| {
            let end = shared.flushed_next();
            let none_under_way = shared.in_flight.available_permits() == ENTRIES_IN_FLIGHT;
            none_under_way && shared.matched_next(to) >= end && shared.frontier.next() >= end
        };
        let is_settled = paused.is_some() && self.within(until.saturating_duration_since_now(), settled).await;
        if !is_settled && writes == Writes::Settled {
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

    /// Voters with records at a site that have room for writes as far as they have told, the one that has most first.
    pub(super) fn candidates_at(&self, site: &str) -> Vec<NodeId> {
        let shared = &self.shared;
        let has_room = |id: NodeId| shared.links.last_answer(id).is_none_or(|(_, room)| !room.is_low());
        let there = shared.members().into_iter().filter(|it| {
            let votes = it.role_value() == Role::Voter && shared.has_vote(it.node_id);
            it.site == site && votes && has_room(it.node_id)
        });
        let mut there: Vec<NodeId> = there.map(|it| it.node_id).collect();
        there.sort_by_key(|id| std::cmp::Reverse(shared.matched_next(*id)));
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
