//! The witness's part in elections.
//!
//! A witness votes and keeps the log, but openraft never lets it campaign by itself. When it alone holds the newest
//! log, no data node can win an election; then it campaigns, back-fills a data voter and hands leadership over.
//! [`decide`] is a pure function of what it sees.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::Instant as _;
use saola_storage::types::{LogId, NodeId};

use crate::member::{Member, Role};
use crate::replica::Replica;
use crate::types::Runtime;
use crate::wire::{Answer, Nothing, Question};

/// What a witness sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessView {
    /// It leads itself.
    pub leading: bool,
    /// Some node leads.
    pub leader_known: bool,
    /// Milliseconds since it last knew a leader.
    pub leaderless_ms: u64,
    /// End of its own log.
    pub own_last: Option<LogId>,
    /// Its own number.
    pub own_id: NodeId,
    /// Sets of voters, itself included; two while the membership is joint.
    pub voter_sets: Vec<BTreeSet<NodeId>>,
    /// Other voters that answered, with the ends of their logs and whether they know a leader.
    pub reachable: Vec<ReachableVoter>,
    /// While it leads: data voters with the highest index that each has flushed.
    pub matched: Vec<(NodeId, Option<u64>)>,
}

/// A voter that answered the witness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReachableVoter {
    /// Its number.
    pub node_id: NodeId,
    /// End of its log.
    pub last: Option<LogId>,
    /// It knows a leader.
    pub knows_leader: bool,
    /// It does not campaign: no site is to take over by itself.
    pub holds_back: bool,
}

/// What a witness does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WitnessAction {
    /// Nothing.
    Wait,
    /// Campaign: it is leaderless, and ahead of all that it reaches, and they are a quorum with it.
    Campaign,
    /// Hand leadership to the first of these data voters that takes it: they hold the whole log.
    HandOver(Vec<NodeId>),
}

/// Decides what a witness does. `patience_ms` is how long data voters get to elect one of theirs.
pub fn decide(view: &WitnessView, patience_ms: u64) -> WitnessAction {
    if view.leading {
        let own_index = view.own_last.map(|last| last.index);
        let whole = view.matched.iter().filter(|(_, matched)| *matched == own_index);
        let whole: Vec<NodeId> = whole.map(|(node_id, _)| *node_id).collect();
        return if whole.is_empty() { WitnessAction::Wait } else { WitnessAction::HandOver(whole) };
    }
    let votes = |id: &&NodeId| **id == view.own_id || view.reachable.iter().any(|voter| voter.node_id == **id);
    let is_quorum = |set: &BTreeSet<NodeId>| set.iter().filter(votes).count() > set.len() / 2;
    let alone_ahead = view.reachable.iter().all(|voter| voter.last < view.own_last && !voter.knows_leader);
    if !view.leader_known
        && view.leaderless_ms >= patience_ms
        && !view.reachable.is_empty()
        && view.voter_sets.iter().all(is_quorum)
        && alone_ahead
        // Whom it would hand over to decides whether a site takes over.
        && !view.reachable.iter().any(|voter| voter.holds_back)
    {
        return WitnessAction::Campaign;
    }
    WitnessAction::Wait
}

pub(crate) async fn run<RT: Runtime>(replica: Replica<RT>) {
    let shared = replica.shared.clone();
    let election_max_ms = shared.election_max_ms();
    let patience_ms = 3 * election_max_ms;
    let mut leader_seen = <RT as openraft::AsyncRuntime>::Instant::now();
    loop {
        RT::sleep(Duration::from_millis(election_max_ms / 4)).await;
        let Some(raft) = shared.raft() else { return };
        if shared.has_stopped() {
            return;
        }
        let leader_known = shared.leader().is_some();
        let leading = shared.is_leader();
        if leader_known {
            leader_seen = <RT as openraft::AsyncRuntime>::Instant::now();
        }
        if leader_known && !leading {
            continue;
        }
        let leaderless_ms = leader_seen.elapsed().as_millis() as u64;
        let members = shared.members();
        let reachable = match !leading && leaderless_ms >= patience_ms {
            true => reachable_voters(&replica).await,
            false => Vec::new(),
        };
        let state = shared.log.state();
        let view = WitnessView {
            leading,
            leader_known,
            leaderless_ms,
            own_last: state.last.max(state.last_purged),
            own_id: shared.claim.node_id,
            voter_sets: shared.voter_sets(),
            reachable,
            matched: members
                .iter()
                .filter(|member| member.role_value() == Role::Voter && shared.has_vote(member.node_id))
                .filter_map(|member| shared.matched_index(member.node_id).map(|matched| (member.node_id, matched)))
                .collect(),
        };
        let result = match decide(&view, patience_ms) {
            WitnessAction::Wait => Ok(()),
            WitnessAction::Campaign => {
                tracing::warn!("this witness alone holds the newest log: it campaigns, to hand over to a data node");
                raft.trigger().elect(false).await.map_err(|error| error.to_string())
            }
            WitnessAction::HandOver(whole) => {
                let mut result = Ok(());
                for to in whole {
                    tracing::info!(to, "the witness hands leadership to a data node");
                    result = replica.transfer_here(to).await.map_err(|error| error.to_string());
                    if result.is_ok() {
                        break;
                    }
                }
                result
            }
        };
        if let Err(error) = result {
            tracing::warn!("witness: {error}; it tries again");
        }
    }
}

async fn reachable_voters<RT: Runtime>(replica: &Replica<RT>) -> Vec<ReachableVoter> {
    let own = replica.shared.claim.node_id;
    // A new node has its role before it has a vote.
    let votes = |member: &Member| member.node_id != own && replica.shared.has_vote(member.node_id);
    let voters = replica.shared.members().into_iter().filter(votes);
    // All are waited for, and some are probably lost: every moment here is one without a leader.
    let limit = Duration::from_millis(replica.shared.election_max_ms());
    let questions = voters.map(|member| async move {
        (member.node_id, replica.ask(&member, Question::Identify(Nothing {}), limit).await)
    });
    let answered = |(node_id, answer)| match answer {
        Ok(Answer::Identity(identity)) if identity.runs => Some(ReachableVoter {
            node_id,
            last: identity.last.map(LogId::from),
            knows_leader: identity.leader != 0,
            holds_back: identity.holds_back,
        }),
        _ => None,
    };
    futures::future::join_all(questions).await.into_iter().filter_map(answered).collect()
}

#[cfg(test)]
mod tests {
    use saola_storage::types::LeaderId;

    use super::*;

    fn at(term: u64, index: u64) -> Option<LogId> {
        Some(LogId { leader: LeaderId { term, node_id: 1 }, index })
    }

    fn voter(node_id: NodeId, last: Option<LogId>) -> ReachableVoter {
        ReachableVoter { node_id, last, knows_leader: false, holds_back: false }
    }

    fn leaderless() -> WitnessView {
        WitnessView {
            leading: false,
            leader_known: false,
            leaderless_ms: 1000,
            own_last: at(1, 10),
            own_id: 5,
            voter_sets: vec![BTreeSet::from([1, 2, 3, 4, 5])],
            reachable: vec![voter(3, at(1, 9)), voter(4, at(1, 8))],
            matched: vec![],
        }
    }

    #[test]
    fn witness_campaigns_only_when_alone_ahead_of_a_quorum() {
        assert_eq!(decide(&leaderless(), 900), WitnessAction::Campaign);
        let waits = |change: fn(&mut WitnessView)| {
            let mut view = leaderless();
            change(&mut view);
            assert_eq!(decide(&view, 900), WitnessAction::Wait, "{view:?}");
        };
        waits(|view| view.leaderless_ms = 899);
        waits(|view| view.leader_known = true);
        waits(|view| view.reachable[0].last = view.own_last);
        waits(|view| view.reachable[0].last = at(2, 1));
        waits(|view| view.reachable[0].knows_leader = true);
        waits(|view| view.reachable[0].holds_back = true);
        waits(|view| view.reachable.truncate(1));
        waits(|view| view.reachable.clear());
        waits(|view| view.reachable[1].node_id = 6);
        waits(|view| view.voter_sets.push(BTreeSet::from([1, 2, 5])));
    }

    #[test]
    fn leading_witness_hands_over_only_to_a_voter_with_the_whole_log() {
        let mut view = WitnessView { leading: true, leader_known: true, ..leaderless() };
        view.matched = vec![(3, Some(9)), (4, None)];
        assert_eq!(decide(&view, 900), WitnessAction::Wait);
        view.matched[1].1 = Some(10);
        assert_eq!(decide(&view, 900), WitnessAction::HandOver(vec![4]));
        view.matched[0].1 = Some(10);
        assert_eq!(decide(&view, 900), WitnessAction::HandOver(vec![3, 4]), "the first may be dead by now");
    }
}
