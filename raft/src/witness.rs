//! The witness's part in elections.
//!
//! A witness votes and keeps the log, but openraft never lets it campaign by itself. When it alone holds the newest
//! log, no data node can win an election; then it campaigns, back-fills a data voter and hands leadership over.
//! [`decide`] is a pure function of what it sees.

use std::time::Duration;

use openraft::Instant as _;
use saola_storage::types::{LogId, NodeId};

use crate::member::Role;
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
    /// Number of voters, itself included.
    pub voters: usize,
    /// Other voters that answered, with the ends of their logs and whether they know a leader.
    pub reachable: Vec<ReachableVoter>,
    /// While it leads: data voters with the highest index that each has flushed.
    pub matched: Vec<(NodeId, Option<u64>)>,
}

/// A voter that answered the witness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReachableVoter {
    /// End of its log.
    pub last: Option<LogId>,
    /// It knows a leader.
    pub knows_leader: bool,
}

/// What a witness does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WitnessAction {
    /// Nothing.
    Wait,
    /// Campaign: it is leaderless, and ahead of all that it reaches, and they are a quorum with it.
    Campaign,
    /// Hand leadership to this data voter, which holds the whole log.
    HandOver(NodeId),
}

/// Decides what a witness does. `patience_ms` is how long data voters get to elect one of theirs.
pub fn decide(view: &WitnessView, patience_ms: u64) -> WitnessAction {
    if view.leading {
        let own_index = view.own_last.map(|last| last.index);
        return match view.matched.iter().find(|(_, matched)| *matched == own_index) {
            Some((node_id, _)) => WitnessAction::HandOver(*node_id),
            None => WitnessAction::Wait,
        };
    }
    let quorum = view.voters / 2 + 1;
    let alone_ahead = view.reachable.iter().all(|voter| voter.last < view.own_last && !voter.knows_leader);
    if !view.leader_known
        && view.leaderless_ms >= patience_ms
        && !view.reachable.is_empty()
        && view.reachable.len() + 1 >= quorum
        && alone_ahead
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
            voters: members.iter().filter(|member| member.role_value().votes()).count(),
            reachable,
            matched: members
                .iter()
                .filter(|member| member.role_value() == Role::Voter)
                .filter_map(|member| shared.matched_index(member.node_id).map(|matched| (member.node_id, matched)))
                .collect(),
        };
        let result = match decide(&view, patience_ms) {
            WitnessAction::Wait => Ok(()),
            WitnessAction::Campaign => {
                tracing::warn!("this witness alone holds the newest log: it campaigns, to hand over to a data node");
                raft.trigger().elect(false).await.map_err(|error| error.to_string())
            }
            WitnessAction::HandOver(to) => {
                tracing::info!(to, "the witness hands leadership to a data node");
                replica.transfer_here(to).await.map_err(|error| error.to_string())
            }
        };
        if let Err(error) = result {
            tracing::warn!("witness: {error}; it tries again");
        }
    }
}

async fn reachable_voters<RT: Runtime>(replica: &Replica<RT>) -> Vec<ReachableVoter> {
    let own = replica.shared.claim.node_id;
    let voters =
        replica.shared.members().into_iter().filter(|member| member.role_value().votes() && member.node_id != own);
    // All are waited for, and some are probably lost: every moment here is one without a leader.
    let limit = Duration::from_millis(replica.shared.election_max_ms());
    let questions =
        voters.map(|member| async move { replica.ask(&member, Question::Identify(Nothing {}), limit).await });
    let answered = |answer| match answer {
        Ok(Answer::Identity(identity)) => {
            Some(ReachableVoter { last: identity.last.map(LogId::from), knows_leader: identity.leader != 0 })
        }
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

    fn voter(last: Option<LogId>) -> ReachableVoter {
        ReachableVoter { last, knows_leader: false }
    }

    fn leaderless() -> WitnessView {
        WitnessView {
            leading: false,
            leader_known: false,
            leaderless_ms: 1000,
            own_last: at(1, 10),
            voters: 5,
            reachable: vec![voter(at(1, 9)), voter(at(1, 8))],
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
        waits(|view| view.reachable.truncate(1));
        waits(|view| view.reachable.clear());
    }

    #[test]
    fn leading_witness_hands_over_only_to_a_voter_with_the_whole_log() {
        let mut view = WitnessView { leading: true, leader_known: true, ..leaderless() };
        view.matched = vec![(3, Some(9)), (4, None)];
        assert_eq!(decide(&view, 900), WitnessAction::Wait);
        view.matched[1].1 = Some(10);
        assert_eq!(decide(&view, 900), WitnessAction::HandOver(4));
    }
}
