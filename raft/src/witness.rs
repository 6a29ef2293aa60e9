//! The witness's part in elections.
//!
//! A witness votes and keeps the log, but openraft never lets it campaign by itself. When it alone holds the newest
//! log, no data node can win an election; then it campaigns, back-fills a data voter and hands leadership over. Whether
//! that voter may take over is told by the log it now has: the newest entries may be the ones that forbid it. If so the
//! witness stands down, and nobody leads until the lost site answers or somebody decides; but nothing is at the witness
//! alone any more.
//! [`decide`] is a pure function of what it sees.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::Instant as _;
use openraft::raft::VoteRequest;
use saola_storage::log::LogState;
use saola_storage::types::{LeaderId, LogId, NodeId, Vote};

use crate::member::{Member, Role, is_quorum};
use crate::replica::{RaftOf, Replica, Shared, Writes};
use crate::types::{Runtime, log_id_to, vote_to};
use crate::wire::{Answer, Nothing, Question};

/// What a witness sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessView {
    /// It leads itself.
    pub leading: bool,
    /// Some node leads.
    pub leader_known: bool,
    /// Milliseconds since a leader last spoke.
    pub leaderless_ms: u64,
    /// End of its own log.
    pub own_last: Option<LogId>,
    /// Its own number.
    pub own_id: NodeId,
    /// Sets of voters, itself included; two while the membership is joint.
    pub voter_sets: Vec<BTreeSet<NodeId>>,
    /// Other voters that answered, with the ends of their logs and whether they know a leader.
    pub reachable: Vec<ReachableVoter>,
    /// While it leads: for how long, milliseconds.
    pub led_ms: u64,
    /// While it leads: data voters that have flushed all that it has.
    pub heirs: Vec<Heir>,
}

/// A data voter that a leading witness could hand over to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heir {
    /// Its number.
    pub node_id: NodeId,
    /// First index that it has not applied: who may take over is known only up to there.
    pub applied_next: u64,
    /// By what it has applied it may take over: nobody holds its site back, or the site that led is not lost.
    pub may_lead: bool,
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
}

/// What a witness does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WitnessAction {
    /// Nothing.
    Wait,
    /// Campaign: it is leaderless, and ahead of all that it reaches, and they are a quorum with it.
    Campaign,
    /// Hand leadership to the first of these data voters that takes it: they have applied the whole log.
    HandOver(Vec<NodeId>),
    /// Lead no more: these have applied the whole log, and no site is to take over by itself.
    StandDown(Vec<NodeId>),
}

/// Decides what a witness does. `patience_ms` is how long data voters get to elect one of theirs.
pub fn decide(view: &WitnessView, patience_ms: u64) -> WitnessAction {
    if view.leading {
        let has_applied = |heir: &&Heir| view.own_last.is_none_or(|last| heir.applied_next > last.index);
        let (may_lead, held): (Vec<&Heir>, Vec<&Heir>) =
            view.heirs.iter().filter(has_applied).partition(|heir| heir.may_lead);
        let ids = |heirs: Vec<&Heir>| heirs.into_iter().map(|heir| heir.node_id).collect();
        return match (may_lead.is_empty(), held.is_empty()) {
            (false, _) => WitnessAction::HandOver(ids(may_lead)),
            // The site that led has had time to answer it: an election maximum.
            (true, false) if view.led_ms >= patience_ms / 3 => WitnessAction::StandDown(ids(held)),
            (true, _) => WitnessAction::Wait,
        };
    }
    let votes = |id| id == view.own_id || view.reachable.iter().any(|voter| voter.node_id == id);
    let alone_ahead = view.reachable.iter().all(|voter| voter.last < view.own_last && !voter.knows_leader);
    if !view.leader_known
        && view.leaderless_ms >= patience_ms
        && !view.reachable.is_empty()
        && is_quorum(&view.voter_sets, votes)
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
    // Its own word counts too.
    let mut led_until = <RT as openraft::AsyncRuntime>::Instant::now();
    let mut leads_since = None;
    loop {
        RT::sleep(Duration::from_millis(election_max_ms / 4)).await;
        let Some(raft) = shared.raft() else { return };
        if shared.has_stopped() {
            return;
        }
        let leading = shared.is_leader();
        leads_since = leading.then(|| leads_since.unwrap_or_else(<RT as openraft::AsyncRuntime>::Instant::now));
        if leading {
            led_until = <RT as openraft::AsyncRuntime>::Instant::now();
        } else if shared.leader().is_some() {
            continue;
        }
        let leaderless = || shared.last_word().map_or(led_until, |at| at.max(led_until)).elapsed().as_millis() as u64;
        // Whoever is lost answers by silence: that is waited for beside the patience, not behind it.
        let reachable = match !leading && leaderless() + election_max_ms >= patience_ms {
            true => reachable_voters(&replica).await,
            false => Vec::new(),
        };
        let state = shared.log.state();
        let view = WitnessView {
            leading,
            leader_known: shared.leader().is_some(),
            leaderless_ms: leaderless(),
            own_last: state.last.max(state.last_purged),
            own_id: shared.claim.node_id,
            voter_sets: shared.voter_sets(),
            reachable,
            led_ms: leads_since.map_or(0, |since| since.elapsed().as_millis() as u64),
            heirs: if leading { heirs(&replica, state.last).await } else { Vec::new() },
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
                    result = replica.transfer_here(to, Writes::MayBeUnderWay).await.map_err(|error| error.to_string());
                    if result.is_ok() {
                        break;
                    }
                }
                result
            }
            WitnessAction::StandDown(held) => stand_down(&shared, &raft, &held, &state).await,
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
        Ok(Answer::Identity(identity)) if identity.runs => {
            Some(ReachableVoter { node_id, last: identity.last.map(LogId::from), knows_leader: identity.leader != 0 })
        }
        _ => None,
    };
    futures::future::join_all(questions).await.into_iter().filter_map(answered).collect()
}

/// Ends this leadership without a successor: the vote of the next term goes to a node that has everything, which uses it
/// as soon as it may campaign.
async fn stand_down<RT: Runtime>(
    shared: &Shared<RT>,
    raft: &RaftOf<RT>,
    held: &[NodeId],
    log: &LogState,
) -> Result<(), String> {
    let (Some(to), Some(vote)) = (held.first().and_then(|id| shared.member(*id)), log.vote) else { return Ok(()) };
    tracing::error!(
        nodes = ?held,
        "the newest entries are at these nodes too now, and by the rule of failover their site does not take over by \
         itself: nobody leads until a voter of the site that led answers; if it stays away, `saola auto-failover override \
         --site {}`",
        to.site
    );
    let next = LeaderId { term: vote.leader.term + 1, node_id: held[0] };
    let request = VoteRequest {
        vote: vote_to::<RT>(&Vote { leader: next, committed: false }),
        last_log_id: log.last.map(|last| log_id_to::<RT>(&last)),
        leadership_transfer: true,
    };
    let reply = raft.vote(request).await.map_err(|error| error.to_string())?;
    match reply.vote_granted {
        true => Ok(()),
        false => Err("it could not stand down".into()),
    }
}

/// Data voters that have flushed what this leading witness has, and whether they may take over.
async fn heirs<RT: Runtime>(replica: &Replica<RT>, own_last: Option<LogId>) -> Vec<Heir> {
    let shared = &replica.shared;
    let limit = Duration::from_millis(shared.election_max_ms());
    let voters: Vec<Member> = shared.members().into_iter().filter(|it| it.role_value() == Role::Voter).collect();
    let answers = |id| shared.links.last_answer(id).is_some_and(|(at, _)| at.elapsed() < limit);
    let is_lost = |site: &str| !voters.iter().any(|member| member.site == site && answers(member.node_id));
    let own_index = own_last.map(|last| last.index);
    let has_all = |id| shared.has_vote(id) && shared.matched_index(id).flatten() == own_index;
    // The others are not asked: some are probably lost, and every moment here is one without service.
    let whole = voters.iter().filter(|member| has_all(member.node_id));
    let asked = whole.map(|member| async {
        let Ok(Answer::Identity(identity)) = replica.ask(member, Question::Identify(Nothing {}), limit).await else {
            return None;
        };
        let holds_back = !identity.holds_back_for.is_empty() && is_lost(&identity.holds_back_for);
        // An older release does not say what it has applied.
        let applied_next = identity.applied_next.unwrap_or(u64::MAX);
        Some(Heir { node_id: member.node_id, applied_next, may_lead: !holds_back })
    });
    futures::future::join_all(asked).await.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(term: u64, index: u64) -> Option<LogId> {
        Some(LogId { leader: LeaderId { term, node_id: 1 }, index })
    }

    fn voter(node_id: NodeId, last: Option<LogId>) -> ReachableVoter {
        ReachableVoter { node_id, last, knows_leader: false }
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
            led_ms: 0,
            heirs: vec![],
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
        waits(|view| view.reachable[1].node_id = 6);
        waits(|view| view.voter_sets.push(BTreeSet::from([1, 2, 5])));
    }

    #[test]
    fn leading_witness_hands_over_only_to_a_voter_that_has_applied_the_whole_log_and_may_lead() {
        let heir = |node_id, applied_next| Heir { node_id, applied_next, may_lead: true };
        let leads = |heirs: &[Heir]| {
            let (leading, leader_known, led_ms) = (true, true, 300);
            let view = WitnessView { leading, leader_known, led_ms, heirs: heirs.to_vec(), ..leaderless() };
            assert_eq!(decide(&WitnessView { heirs: vec![], ..view.clone() }, 900), WitnessAction::Wait);
            let young = decide(&WitnessView { led_ms: 299, ..view.clone() }, 900);
            assert!(!matches!(young, WitnessAction::StandDown(_)), "the site that led may still answer");
            decide(&view, 900)
        };
        assert_eq!(leads(&[]), WitnessAction::Wait);
        assert_eq!(leads(&[heir(3, 10)]), WitnessAction::Wait, "the rule that it goes by may be an older one");
        let (third, fourth) = (heir(3, 11), heir(4, 11));
        assert_eq!(leads(&[heir(3, 10), fourth]), WitnessAction::HandOver(vec![4]));
        assert_eq!(leads(&[third, fourth]), WitnessAction::HandOver(vec![3, 4]), "the first may be dead by now");
        let held = |heir| Heir { may_lead: false, ..heir };
        assert_eq!(leads(&[held(third), fourth]), WitnessAction::HandOver(vec![4]));
        assert_eq!(leads(&[held(third), heir(4, 10)]), WitnessAction::StandDown(vec![3]));
    }
}
