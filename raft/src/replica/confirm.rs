//! Does this node still lead? The quorum round of a linearizable read (Ongaro, *Consensus: Bridging Theory and
//! Practice*, §6.4).
//!
//! Each voter is asked which leadership it has voted for last. A later leader needs the votes of a quorum, and a vote
//! stands in a voter's log before it is given: so if a quorum has voted for nobody later when it answers, nobody later led
//! when the question was sent. openraft's own round is its heartbeat, of which one at a time is under way to each voter: a
//! read that meets one waits for two rounds, which on a wide link is the difference between 40 and 80 ms.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use openraft::Instant as _;
use saola_storage::planted::{self, Bug};
use saola_storage::types::{LeaderId, NodeId, Vote};

use super::propose::TimeLeft;
use super::{InstantOf, Shared};
use crate::member::is_quorum;
use crate::transport::{Lane, PeerAddress};
use crate::types::Runtime;
use crate::wire::{Answer, Nothing, PeerRequest, Question, Refusal, RefusalCode};

/// What one voter said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Heard {
    voter: NodeId,
    /// Round in which it was asked: an answer says nothing about reads that arrived later.
    round: u64,
    /// Its last vote; `None`: no answer.
    vote: Option<LeaderId>,
}

/// What an answer is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Worth {
    /// The voter confirms the leadership.
    Confirms,
    /// It was asked before this round, or did not answer: ask it again.
    AskAgain,
    /// It has voted for a later leadership.
    Deposes,
}

fn worth(heard: Heard, round: u64, leadership: LeaderId) -> Worth {
    match heard.vote {
        Some(vote) if vote > leadership => Worth::Deposes,
        Some(_) if heard.round == round || planted::is(Bug::OldAnswerConfirms) => Worth::Confirms,
        _ => Worth::AskAgain,
    }
}

/// The rounds of one node. A voter is owed one answer at most; who is slower than the quorum is asked again when its answer
/// to an earlier round has come.
#[derive(Default)]
pub(super) struct Rounds {
    round: u64,
    questions: FuturesUnordered<BoxFuture<'static, Heard>>,
    asked: BTreeSet<NodeId>,
}

impl Rounds {
    /// Confirms that this node, which must lead, leads, as of some moment after this call; answers as which leader.
    pub(super) async fn confirm<RT: Runtime>(
        &mut self,
        shared: &Arc<Shared<RT>>,
        limit: Duration,
    ) -> Result<LeaderId, Refusal> {
        let until = InstantOf::<RT>::now() + limit;
        let own_id = shared.claim.node_id;
        let leadership = shared.leadership()?;
        let sets = shared.voter_sets();
        let mut confirmed = BTreeSet::from([own_id]);
        self.round += 1;
        // Answers that came since the last round make room for this one's questions.
        while let Some(Some(late)) = self.questions.next().now_or_never() {
            self.asked.remove(&late.voter);
            if planted::is(Bug::OldAnswerConfirms) && late.vote.is_some_and(|vote| vote <= leadership) {
                confirmed.insert(late.voter);
            }
        }
        for voter in sets.iter().flatten().filter(|voter| **voter != own_id) {
            self.ask(shared, *voter, leadership, limit / 4);
        }
        while !is_quorum(&sets, |voter| confirmed.contains(&voter)) {
            let next = RT::timeout(until.saturating_duration_since_now(), self.questions.next());
            let heard = match next.await {
                Ok(Some(heard)) => heard,
                Ok(None) => return Err(shared.leads_no_more()),
                Err(_) => return Err(Refusal::new(RefusalCode::NotLeader, shared.no_quorum(limit))),
            };
            self.asked.remove(&heard.voter);
            if !sets.iter().any(|set| set.contains(&heard.voter)) {
                // It was asked when it still had a vote.
                continue;
            }
            match worth(heard, self.round, leadership) {
                Worth::Confirms => drop(confirmed.insert(heard.voter)),
                Worth::AskAgain => self.ask(shared, heard.voter, leadership, limit / 4),
                Worth::Deposes => return Err(shared.leads_no_more()),
            }
        }
        // A vote of its own for somebody later may have come between.
        match shared.leadership()? == leadership {
            true => Ok(leadership),
            false => Err(shared.leads_no_more()),
        }
    }

    fn ask<RT: Runtime>(&mut self, shared: &Arc<Shared<RT>>, voter: NodeId, leadership: LeaderId, limit: Duration) {
        if !self.asked.insert(voter) {
            return;
        }
        let (shared, round) = (shared.clone(), self.round);
        self.questions.push(Box::pin(async move {
            let vote = shared.ask_vote(voter, leadership, limit).await;
            if vote.is_none() {
                // Who cannot be reached is not asked without a pause.
                RT::sleep(shared.pause()).await;
            }
            Heard { voter, round, vote }
        }));
    }
}

impl<RT: Runtime> Shared<RT> {
    /// The leadership of this node by its own log, which knows of each vote that it has given.
    pub(super) fn leadership(&self) -> Result<LeaderId, Refusal> {
        let own = |vote: &Vote| vote.committed && vote.leader.node_id == self.claim.node_id;
        let vote = self.log.state().vote.filter(own).filter(|_| self.is_leader());
        vote.map(|vote| vote.leader).ok_or_else(|| self.leads_no_more())
    }

    fn leads_no_more(&self) -> Refusal {
        Refusal::new(RefusalCode::NotLeader, format!("node {} does not lead any more", self.claim.node_id))
    }

    /// For whom a voter has voted last; `None` if it does not say.
    async fn ask_vote(&self, voter: NodeId, leadership: LeaderId, limit: Duration) -> Option<LeaderId> {
        let member = self.member(voter)?;
        let header = Some(self.header(&member, leadership.term));
        let request = PeerRequest { header, question: Some(Question::LastVote(Nothing {})) };
        let address = PeerAddress { address: member.peer_address.clone(), name: member.name.clone() };
        // A voter that refuses says so to heartbeats too, and is told of in the status by those.
        match self.transport.call(&address, Lane::Control, request, limit).await.ok()?.answer? {
            Answer::LastVote(vote) => Some(Vote::from(vote).leader),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: LeaderId = LeaderId { term: 4, node_id: 2 };

    fn said(round: u64, term: u64, node_id: NodeId) -> Worth {
        worth(Heard { voter: 3, round, vote: Some(LeaderId { term, node_id }) }, 7, OWN)
    }

    #[test]
    fn only_an_answer_to_this_rounds_question_confirms() {
        assert_eq!(said(7, 4, 2), Worth::Confirms);
        assert_eq!(said(6, 4, 2), Worth::AskAgain, "reads that arrived since are not covered by it");
        assert_eq!(worth(Heard { voter: 3, round: 7, vote: None }, 7, OWN), Worth::AskAgain);
    }

    #[test]
    fn a_voter_that_has_voted_for_nobody_later_confirms_and_one_that_has_deposes() {
        assert_eq!(said(7, 3, 9), Worth::Confirms, "it has not heard of this leadership yet");
        assert_eq!(said(7, 0, 0), Worth::Confirms, "it has never voted");
        assert_eq!(said(7, 4, 3), Worth::Deposes, "in one term the higher node id is the later leader");
        assert_eq!(said(7, 5, 1), Worth::Deposes);
        assert_eq!(said(6, 5, 1), Worth::Deposes, "a vote is not taken back");
    }
}
