//! The receiving side of peer messages: has the header checked, then hands the message to Raft or to the replica.
//!
//! Without being part of its cluster a node may, under its own certified name, ask who this node is and how it is, and
//! adopt it while it is fresh. All else must pass `admission`.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::raft::TransferLeaderError;
use openraft::storage::{Snapshot, SnapshotMeta};
use prost::Message;
use saola_storage::log::LogEntry;
use saola_storage::types::{NodeId, Vote};

use crate::admission::{check_caller, check_speaks_for_itself};
use crate::convert::{
    place_in_log, raft_append, raft_ballot, raft_log_id, raft_vote, wire_append_result, wire_ballot_reply, wire_log_id,
    wire_vote,
};
use crate::member::{MembershipRecord, membership_from_record};
use crate::repair::PIECE_BYTES;
use crate::replica::{RaftOf, Replica, Shared};
use crate::state_machine::SnapshotBody;
use crate::transport::Caller;
use crate::types::{Runtime, Takes, TokioRuntime};
use crate::wire::{
    Answer, AppendReply, AppendRequest, AppendResult, BallotReply, Barrier, EntriesFrom, EntriesReply, Header, Members,
    Nothing, PeerReply, PeerRequest, Question, Refusal, RefusalCode, SnapshotChunk, TakeOver, TakeOverReply, WireEntry,
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
                let reply = raft.vote(raft_ballot::<RT>(ballot)?).await.map_err(|e| stopped(&e))?;
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
                self.take_over(&raft, take_over).await
            }
            Question::Greet(Nothing {}) => Ok(Answer::Done(Nothing {})),
            Question::Propose(command) => self.replica.propose_here(command).await.map(Answer::Outcome),
            Question::ReadBarrier(Nothing {}) => {
                let frontier_next = self.replica.barrier_here().await?;
                Ok(Answer::Barrier(Barrier { frontier_next }))
            }
            Question::Digest(at) => {
                let digest = self.shared().store.digest_at(at.index);
                Ok(Answer::Digest(digest.map(|d| Bytes::copy_from_slice(&d)).unwrap_or_default()))
            }
            Question::Admin(verb) => {
                let members = self.replica.admin_here(verb).await?;
                Ok(Answer::Members(Members { members }))
            }
            Question::Identify(_) | Question::Adopt(_) | Question::Status(_) | Question::Entries(_) => {
                unreachable!("answered before the header check")
            }
        }
    }

    /// Entries for a member whose log is damaged.
    async fn entries(&self, which: EntriesFrom) -> Result<EntriesReply, Refusal> {
        let shared = self.shared();
        let before = shared.log.state().vote;
        let (log, bytes) = (shared.log.clone(), PIECE_BYTES.min(which.max_bytes as usize));
        let read = RT::disk(Takes::Long, move || log.entries(which.from..which.end, bytes)).await;
        let entries = read.map_err(|error| Refusal::new(RefusalCode::Stopped, error.to_string()))?;
        let state = shared.log.state();
        // A log changes otherwise than by growing only under a new vote.
        let own = |vote: &Vote| vote.committed && vote.leader.node_id == shared.claim.node_id;
        let leads = before == state.vote && state.vote.as_ref().is_some_and(own) && shared.is_leader();
        let wire = |entry: LogEntry| WireEntry { log_id: Some(entry.log_id.into()), payload: entry.payload };
        Ok(EntriesReply {
            entries: entries.into_iter().map(wire).collect(),
            committed: state.committed.map(Into::into),
            vote: state.vote.map(Into::into),
            leads,
            purged: state.last_purged.map(Into::into),
            last: state.last.map(Into::into),
        })
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
        let request = openraft::raft::TransferLeaderRequest::new(
            raft_vote::<RT>(ask.from_leader)?,
            ask.to,
            ask.last.map(raft_log_id::<RT>),
        );
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
                let quorum_age_ms = request.quorum_age_ms;
                let admitted = async {
                    let (header, caller) = &*sender;
                    shared.admit(header, caller).await?;
                    check_speaks_for_itself(header, request.vote.as_ref())?;
                    raft_append::<RT>(request)
                };
                match admitted.await {
                    Ok(rpc) => {
                        shared.heard_leader(rpc.vote.leader_id.term, frontier_next, needed_from, quorum_age_ms);
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
            Ok(result) => AppendReply {
                result: Some(wire_append_result::<RT>(result)),
                free_bytes: free.free_bytes(),
                clock_us: free.now_us(),
                min_free_bytes: free.min_free_bytes(),
            },
            Err(fatal) => refused(Refusal::new(RefusalCode::Stopped, fatal.to_string())),
        });
        let end = futures::stream::once(bad_seen).filter_map(|seen| async move { seen.ok().map(refused) });
        replies.chain(end).boxed()
    }

    /// Receives a snapshot and installs it.
    pub async fn snapshot(
        &self,
        caller: &Caller,
        mut chunks: impl Stream<Item = SnapshotChunk> + Send + Unpin,
    ) -> PeerReply {
        match self.receive_snapshot(caller, &mut chunks).await {
            Ok(reply) => Answer::Ballot(reply).into(),
            Err(refusal) => refusal.into(),
        }
    }

    async fn receive_snapshot(
        &self,
        caller: &Caller,
        chunks: &mut (impl Stream<Item = SnapshotChunk> + Send + Unpin),
    ) -> Result<BallotReply, Refusal> {
        let bad = |message: String| Refusal::new(RefusalCode::BadMessage, message);
        let begin = chunks
            .next()
            .await
            .and_then(|chunk| chunk.begin)
            .ok_or_else(|| bad("snapshot without a beginning".into()))?;
        let header = header_of(begin.header)?;
        self.shared().admit(&header, caller).await?;
        check_speaks_for_itself(&header, begin.vote.as_ref())?;
        let is_data = self.shared().role().is_data();
        if begin.full != is_data {
            return Err(bad(format!(
                "snapshot {} records offered to a node that keeps {}",
                if begin.full { "with" } else { "without" },
                if is_data { "records" } else { "log ids only" }
            )));
        }
        let record = MembershipRecord::decode(begin.membership).map_err(|e| bad(format!("membership: {e}")))?;
        let membership = membership_from_record(record).map_err(bad)?;
        let meta = SnapshotMeta {
            last_log_id: begin.last.map(place_in_log::<RT>).transpose()?,
            last_membership: openraft::StoredMembership::new(
                begin.membership_at.map(place_in_log::<RT>).transpose()?,
                membership,
            ),
        };
        let snapshot = match begin.full {
            false => SnapshotBody::LogIdsOnly,
            true => {
                let failed = |error: saola_storage::error::StoreError| bad(format!("receive snapshot: {error}"));
                let store = self.shared().store.clone();
                let mut import = RT::disk(Takes::Long, move || store.import()).await.map_err(failed)?;
                while let Some(chunk) = chunks.next().await {
                    import = RT::disk(Takes::Long, move || import.write(&chunk.data).map(|()| import))
                        .await
                        .map_err(failed)?;
                    self.shared().heard_something();
                }
                SnapshotBody::received::<RT>(import, &meta).map_err(bad)?
            }
        };
        let vote = raft_vote::<RT>(begin.vote)?;
        // Again: a transfer takes long enough for the sender to be removed meanwhile.
        let raft = self.shared().admit(&header, caller).await?;
        let response = raft
            .install_full_snapshot(vote, Snapshot { meta, snapshot })
            .await
            .map_err(|error| Refusal::new(RefusalCode::Stopped, error.to_string()))?;
        Ok(BallotReply { vote: Some(wire_vote::<RT>(&response.vote)), granted: true, last: None })
    }
}

fn header_of(header: Option<Header>) -> Result<Header, Refusal> {
    header.ok_or_else(|| Refusal::new(RefusalCode::BadMessage, "peer message without a header"))
}

fn refused(refusal: Refusal) -> AppendReply {
    AppendReply { result: Some(AppendResult::Refused(refusal)), ..AppendReply::default() }
}
