//! The receiving side of peer messages: has the header checked, then hands the message to Raft or to the replica.
//!
//! Without being part of its cluster a node may, under its own certified name, ask who this node is and how it is, and
//! adopt it while it is fresh. All else must pass `admission`.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use openraft::Instant as _;
use openraft::raft::TransferLeaderError;
use saola_storage::failpoint::{Failpoint, reach};
use saola_storage::keyspace::epochs::ApproverList;
use saola_storage::log::{LogEntry, LogState};
use saola_storage::types::{NodeId, Vote};

use crate::admission::{check_caller, check_speaks_for_itself};
use crate::convert::{
    raft_append, raft_ballot, raft_log_id, raft_vote, wire_append_result, wire_ballot_reply, wire_log_id, wire_vote,
};
use crate::member::Role;
use crate::pins::Announcement;
use crate::repair::PIECE_BYTES;
use crate::replica::{RaftOf, Replica, Shared};
use crate::transport::Caller;
use crate::types::{Runtime, Takes, TokioRuntime};
use crate::wire::{
    Answer, AppendReply, AppendRequest, AppendResult, Barrier, EntriesFrom, EntriesReply, FetchPart, FetchReply,
    FetchRequest, Header, Members, Nothing, PeerReply, PeerRequest, Question, Refusal, RefusalCode, TakeOver,
    TakeOverReply, WireEntry,
};

/// Answers peers on behalf of one node. Clones share the node.
pub struct PeerService<RT: Runtime = TokioRuntime> {
    replica: Replica<RT>,
}

impl<RT: Runtime> Clone for PeerService<RT> {
    fn clone(&self) -> Self {
        Self { replica: self.replica.clone() }
    }
}

impl<RT: Runtime> PeerService<RT> {
    pub(crate) fn new(replica: Replica<RT>) -> Self {
        Self { replica }
    }

    fn shared(&self) -> &Arc<Shared<RT>> {
        &self.replica.shared
    }

    /// Answers one question. `caller` is who the certificate of its connection says.
    pub async fn call(&self, caller: &Caller, request: PeerRequest) -> PeerReply {
        match self.answer(caller, request).await {
            Ok(answer) => answer.into(),
            Err(refusal) => refusal.into(),
        }
    }

    async fn answer(&self, caller: &Caller, request: PeerRequest) -> Result<Answer, Refusal> {
        let header = header_of(request.header)?;
        check_caller(&header, caller)?;
        let question =
            request.question.ok_or_else(|| Refusal::new(RefusalCode::BadMessage, "peer message without a question"))?;
        match question {
            Question::Identify(Nothing {}) => return Ok(Answer::Identity(self.shared().describe_self())),
            Question::Adopt(adopt) => {
                tracing::info!(by = header.from_name, "asked to become part of a cluster");
                self.replica.adopt(adopt).await?;
                return Ok(Answer::Done(Nothing {}));
            }
            Question::Status(Nothing {}) => return Ok(Answer::Status(self.shared().status_bytes())),
            Question::Lineage(ask) => return self.replica.answer_about_lineage(&header, ask).await,
            Question::Entries(which) => {
                self.shared().admit_reader(&header)?;
                return self.entries(which).await.map(Answer::Entries);
            }
            _ => {}
        }
        let raft = self.shared().admit(&header, caller).await?;
        if matches!(question, Question::Propose(_) | Question::ReadBarrier(_) | Question::Admin(_)) {
            self.check_still_member(header.from)?;
        }
        let stopped = |error: &dyn std::fmt::Display| Refusal::new(RefusalCode::Stopped, error.to_string());
        match question {
            Question::Vote(ballot) => {
                check_speaks_for_itself(&header, ballot.vote.as_ref())?;
                reach(Failpoint::VoteBefore);
                let reply = raft.vote(raft_ballot::<RT>(ballot)?).await.map_err(|e| stopped(&e))?;
                reach(Failpoint::VoteAfter);
                Ok(Answer::Ballot(wire_ballot_reply::<RT>(&reply)))
            }
            Question::PreVote(ballot) => {
                check_speaks_for_itself(&header, ballot.vote.as_ref())?;
                let reply = raft.pre_vote(raft_ballot::<RT>(ballot)?).await.map_err(|e| stopped(&e))?;
                Ok(Answer::Ballot(wire_ballot_reply::<RT>(&reply)))
            }
            Question::Append(request) => {
                let prev = request.prev;
                let requests = futures::stream::iter([request]).boxed();
                let mut replies = self.run_appends(raft, (header, caller.clone()), requests);
                match replies.next().await {
                    Some(reply) => Ok(Answer::Append(reply)),
                    None => Err(stopped(&format!("no answer to an append after {prev:?}"))),
                }
            }
            Question::TransferLeader(take_over) => {
                check_speaks_for_itself(&header, take_over.from_leader.as_ref())?;
                reach(Failpoint::TakeOverAsked);
                self.take_over(&raft, take_over).await
            }
            Question::Greet(Nothing {}) => Ok(Answer::Done(Nothing {})),
            Question::LastVote(Nothing {}) => {
                let vote = self.shared().log.state().vote.unwrap_or_default();
                Ok(Answer::LastVote(vote.into()))
            }
            Question::OfferSnapshot(offer) => {
                check_speaks_for_itself(&header, offer.vote.as_ref())?;
                self.shared().take_offer(header, caller.clone(), &raft, offer).await.map(Answer::Ballot)
            }
            Question::Propose(command) => self.replica.propose_here(command).await.map(Answer::Outcome),
            Question::ReadBarrier(Nothing {}) => {
                let frontier_next = self.replica.barrier_here().await?;
                Ok(Answer::Barrier(Barrier { frontier_next }))
            }
            Question::Digest(at) => {
                let digest = self.shared().store.digest_at(at.index);
                Ok(Answer::Digest(digest.map(|d| Bytes::copy_from_slice(&d)).unwrap_or_default()))
            }
            Question::Copy(ask) => self.replica.answer_about_copy(ask),
            Question::Admin(verb) => {
                let members = self.replica.admin_here(verb).await?;
                Ok(Answer::Members(Members { members }))
            }
            Question::Identify(_)
            | Question::Adopt(_)
            | Question::Status(_)
            | Question::Lineage(_)
            | Question::Entries(_) => {
                unreachable!("answered before the header check")
            }
        }
    }

    /// Entries for a member whose log is damaged.
    async fn entries(&self, which: EntriesFrom) -> Result<EntriesReply, Refusal> {
        let shared = self.shared();
        let before = shared.log.state();
        let (log, bytes) = (shared.log.clone(), PIECE_BYTES.min(which.max_bytes as usize));
        let read = RT::disk(Takes::Long, move || log.entries(which.from..which.end, bytes)).await;
        let entries = read.map_err(|error| Refusal::new(RefusalCode::Stopped, error.to_string()))?;
        let reply = entries_between(&before, entries, &shared.log.state(), shared.claim.node_id, shared.is_leader());
        let (at, members) = shared.store.applied().membership.unzip();
        let approvers = shared.store.approvers().iter().map(ApproverList::from).collect();
        Ok(EntriesReply { members_at: at.map(Into::into), members: members.unwrap_or_default(), approvers, ..reply })
    }

    /// Votes and appends may come from a node that joined while this one was away; what a leader does for others is
    /// for members only, and it knows them.
    fn check_still_member(&self, from: NodeId) -> Result<(), Refusal> {
        let shared = self.shared();
        if shared.is_leader() && shared.member(from).is_none() {
            return Err(Refusal::new(
                RefusalCode::UnknownSender,
                format!(
                    "node {from} is not a member of this cluster any more: stop it, and give it an empty data folder \
                     and a new node id to add it again"
                ),
            ));
        }
        Ok(())
    }

    async fn take_over(&self, raft: &RaftOf<RT>, ask: TakeOver) -> Result<Answer, Refusal> {
        let from = raft_vote::<RT>(ask.from_leader)?;
        let request = openraft::raft::TransferLeaderRequest::new(from, ask.to, ask.last.map(raft_log_id::<RT>));
        let result = raft
            .handle_transfer_leader(request)
            .await
            .map_err(|error| Refusal::new(RefusalCode::Stopped, error.to_string()))?;
        Ok(Answer::TakeOver(match result {
            Ok(()) => TakeOverReply { refused: String::new(), vote: None, flushed: None },
            Err(error) => {
                let refused = error.to_string();
                match error {
                    TransferLeaderError::VoteChanged { actual, .. } => {
                        TakeOverReply { refused, vote: Some(wire_vote::<RT>(&actual)), flushed: None }
                    }
                    TransferLeaderError::LogNotFlushed { actual, .. } => {
                        TakeOverReply { refused, vote: None, flushed: actual.as_ref().map(wire_log_id::<RT>) }
                    }
                }
            }
        }))
    }

    /// Answers a stream of appends, in order. The header of the first message speaks for all, but is checked again for
    /// each: a stream ends when its sender is not let in any more.
    pub async fn append(
        &self,
        caller: Caller,
        mut requests: BoxStream<'static, AppendRequest>,
    ) -> BoxStream<'static, AppendReply> {
        let Some(mut first) = requests.next().await else {
            return futures::stream::empty().boxed();
        };
        let admitted = async {
            let header = header_of(first.header.take())?;
            let raft = self.shared().admit(&header, &caller).await?;
            Ok((raft, header))
        };
        match admitted.await {
            Ok((raft, header)) => {
                let all = futures::stream::iter([first]).chain(requests).boxed();
                self.run_appends(raft, (header, caller), all)
            }
            Err(refusal) => futures::stream::iter([refused(refusal)]).boxed(),
        }
    }

    fn run_appends(
        &self,
        raft: RaftOf<RT>,
        sender: (Header, Caller),
        requests: BoxStream<'static, AppendRequest>,
    ) -> BoxStream<'static, AppendReply> {
        let shared = self.shared().clone();
        let (bad, bad_seen) = tokio::sync::oneshot::channel::<Refusal>();
        let inner = (shared.clone(), Arc::new(sender));
        let decoded = futures::stream::unfold((requests, Some(bad)), move |(mut requests, mut bad)| {
            let (shared, sender) = inner.clone();
            async move {
                let request = requests.next().await?;
                let (frontier_next, needed_from) = (request.frontier_next, request.needed_from);
                let (quorum_age_ms, witness_keeps_from) = (request.quorum_age_ms, request.witness_keeps_from);
                let (heard_answer, acknowledged_age_ms) = (request.heard_answer, request.acknowledged_age_ms);
                let (round, collection, below) =
                    (request.collect_round, request.collect_collection, request.collect_below);
                let (header, caller) = &*sender;
                let admitted = async {
                    shared.admit(header, caller).await?;
                    check_speaks_for_itself(header, request.vote.as_ref())?;
                    raft_append::<RT>(request)
                };
                match admitted.await {
                    Ok(rpc) => {
                        if !rpc.entries.is_empty() {
                            reach(Failpoint::AppendBefore);
                        }
                        let term = rpc.vote.leader_id.term;
                        shared.heard_leader(header.from_role, term, frontier_next, needed_from);
                        shared.heard_confirmed(term, frontier_next, quorum_age_ms, heard_answer);
                        shared.links.set_witness_keeps_from(witness_keeps_from);
                        shared.heard_back(heard_answer, acknowledged_age_ms);
                        shared.pins.hear(Announcement { term, round, collection, below }, RT::Instant::now());
                        Some((rpc, (requests, bad)))
                    }
                    Err(refusal) => {
                        if let Some(bad) = bad.take() {
                            let _answer_stream_gone = bad.send(refusal);
                        }
                        None
                    }
                }
            }
        });
        let results = raft.stream_append(decoded.boxed());
        let free = shared.clone();
        let replies = results.map(move |result| match result {
            Ok(result) => {
                let said = free.pins.confirm(RT::Instant::now());
                let holding = free.own_holding();
                let flushed_last = free.log.flushed_last().map(Into::into);
                AppendReply {
                    result: Some(wire_append_result::<RT>(result)),
                    free_bytes: free.free_bytes(),
                    clock_us: free.now_us(),
                    min_free_bytes: free.min_free_bytes(),
                    collect_term: said.term,
                    collect_round: said.round,
                    lowest_pin: said.lowest_pin,
                    state_next: holding.state_next,
                    room_from: holding.room_from,
                    log_from: holding.log_from,
                    flushed_last,
                    last_vote: free.log.state().vote.map(Into::into),
                    answer: free.next_answer(),
                }
            }
            Err(fatal) => refused(Refusal::new(RefusalCode::Stopped, fatal.to_string())),
        });
        let end = futures::stream::once(bad_seen).filter_map(|seen| async move { seen.ok().map(refused) });
        replies.chain(end).boxed()
    }

    /// Answers a request for this node's records with the export stream, or the rest of it.
    pub async fn fetch(&self, caller: &Caller, mut request: FetchRequest) -> BoxStream<'static, FetchReply> {
        let admitted = async {
            let header = header_of(request.header.take())?;
            self.shared().admit(&header, caller).await?;
            self.check_still_member(header.from)?;
            for (role, which) in
                [(Role::try_from(header.from_role).ok(), "asks"), (Some(self.shared().role()), "is asked")]
            {
                if !role.is_some_and(Role::is_data) {
                    let message = format!("a node that keeps no records {which} for records: ask a data node");
                    return Err(Refusal::new(RefusalCode::Invalid, message));
                }
            }
            Ok(header.from)
        };
        match admitted.await {
            Ok(receiver) => self.shared().serve_export(receiver, request).await,
            Err(refusal) => futures::stream::iter([FetchPart::Refused(refusal).into()]).boxed(),
        }
    }
}

fn header_of(header: Option<Header>) -> Result<Header, Refusal> {
    header.ok_or_else(|| Refusal::new(RefusalCode::BadMessage, "peer message without a header"))
}

/// Entries that were read while the log went from one state to another. Those at or below what was committed *before*
/// cannot have changed meanwhile, and a log changes otherwise than by growing only under a new vote.
fn entries_between(
    before: &LogState,
    entries: Vec<LogEntry>,
    after: &LogState,
    own: NodeId,
    is_leader: bool,
) -> EntriesReply {
    let is_own = |vote: &Vote| vote.committed && vote.leader.node_id == own;
    let leads = before.vote == after.vote && after.vote.as_ref().is_some_and(is_own) && is_leader;
    let wire = |entry: LogEntry| WireEntry { log_id: Some(entry.log_id.into()), payload: entry.payload };
    EntriesReply {
        entries: entries.into_iter().map(wire).collect(),
        committed: before.committed.map(Into::into),
        vote: after.vote.map(Into::into),
        leads,
        purged: after.last_purged.map(Into::into),
        last: after.last.map(Into::into),
        ..EntriesReply::default()
    }
}

fn refused(refusal: Refusal) -> AppendReply {
    AppendReply { result: Some(AppendResult::Refused(refusal)), ..AppendReply::default() }
}

#[cfg(test)]
mod tests {
    use saola_storage::types::{LeaderId, LogId};

    use super::*;

    fn id(term: u64, index: u64) -> LogId {
        LogId { leader: LeaderId { term, node_id: 1 }, index }
    }

    fn at(term: u64, committed: u64) -> LogState {
        let vote = Vote { leader: LeaderId { term, node_id: 1 }, committed: true };
        LogState { vote: Some(vote), committed: Some(id(1, committed)), last: Some(id(1, 9)), last_purged: None }
    }

    #[test]
    fn what_was_committed_only_after_the_entries_were_read_does_not_vouch_for_them() {
        let entries = || vec![LogEntry { log_id: id(1, 7), payload: Bytes::new() }];
        let reply = entries_between(&at(1, 5), entries(), &at(1, 8), 1, true);
        assert_eq!(reply.committed.map(LogId::from), Some(id(1, 5)));
        assert!(reply.leads && reply.entries.len() == 1);
        assert!(!entries_between(&at(1, 5), entries(), &at(2, 8), 1, true).leads, "it led anew meanwhile");
        assert!(!entries_between(&at(1, 5), entries(), &at(1, 8), 1, false).leads, "it leads no more");
        assert!(!entries_between(&at(1, 5), entries(), &at(1, 8), 2, true).leads, "the vote is another node's");
    }
}
