//! openraft's network over a [`Transport`]: one client per peer and lane.
//!
//! Replication streams are pipelined; heartbeats and votes are single questions on a lane of their own.

#![expect(clippy::result_large_err, reason = "openraft's traits prescribe these errors")]

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, v2::RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::{SnapshotOf, VoteOf};
use openraft::{Instant as _, OptionalSend};
use parking_lot::Mutex;
use prost::Message;
use saola_storage::keyspace::epochs::ApproverList;
use saola_storage::types::{LeaderId, LogId, NodeId, Vote};

use crate::convert::{
    StreamResult, raft_append_result, raft_ballot_reply, raft_log_id, raft_vote, wire_append, wire_ballot, wire_log_id,
    wire_vote,
};
use crate::links::{DiskRoom, Holding};
use crate::log_end::{LogEnd, Says, says};
use crate::member::{Member, Role, membership_to_record};
use crate::pins::Confirmation;
use crate::replica::Shared;
use crate::state_machine::SnapshotBody;
use crate::transport::{Lane, PeerAddress, TransportError};
use crate::types::{Runtime, TypeConfig, log_id_from};
use crate::wire::{
    Answer, AppendReply, AppendRequest, PeerRequest, Question, Refusal, RefusalCode, SnapshotOffer, TakeOver,
};

/// An offer of a snapshot is answered when the records have been installed. One that takes longer is repeated, and joins
/// the transfer under way.
const OFFER_LIMIT: Duration = Duration::from_secs(30);
/// Before an offer is repeated.
const OFFER_PAUSE: Duration = Duration::from_millis(100);

/// Makes the clients that openraft asks for.
pub(crate) struct Network<RT: Runtime> {
    shared: Arc<Shared<RT>>,
}

impl<RT: Runtime> Network<RT> {
    pub(crate) fn new(shared: Arc<Shared<RT>>) -> Self {
        Self { shared }
    }

    fn client(&self, target: NodeId, member: &Member, lane: Lane) -> PeerClient<RT> {
        let member = Member { node_id: target, ..member.clone() };
        PeerClient { shared: self.shared.clone(), member, lane, log_end: Arc::default() }
    }
}

impl<RT: Runtime> RaftNetworkFactory<TypeConfig<RT>> for Network<RT> {
    type Network = PeerClient<RT>;

    async fn new_client(&mut self, target: NodeId, node: &Member) -> PeerClient<RT> {
        self.client(target, node, Lane::Append)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &Member) -> PeerClient<RT> {
        self.client(target, node, Lane::Control)
    }

    async fn new_snapshot_client(&mut self, target: NodeId, node: &Member) -> PeerClient<RT> {
        self.client(target, node, Lane::Snapshot)
    }
}

/// One peer on one lane.
pub(crate) struct PeerClient<RT: Runtime> {
    shared: Arc<Shared<RT>>,
    member: Member,
    lane: Lane,
    /// Where the peer's log ends, as it last said.
    log_end: Arc<Mutex<Option<LogEnd<RT::Instant>>>>,
}

impl<RT: Runtime> Clone for PeerClient<RT> {
    fn clone(&self) -> Self {
        let (shared, member) = (self.shared.clone(), self.member.clone());
        Self { shared, member, lane: self.lane, log_end: self.log_end.clone() }
    }
}

type RpcError<RT> = RPCError<TypeConfig<RT>>;
type Responses<'s, RT> = BoxStream<'s, Result<StreamResult<RT>, RpcError<RT>>>;

fn rpc_error<RT: Runtime>(error: &TransportError) -> RpcError<RT> {
    match error {
        TransportError::Unreachable { .. } => RPCError::Unreachable(Unreachable::new(error)),
        TransportError::Broken { .. } => RPCError::Network(NetworkError::new(error)),
    }
}

impl<RT: Runtime> PeerClient<RT> {
    fn address(&self) -> PeerAddress {
        PeerAddress { address: self.member.peer_address.clone(), name: self.member.name.clone() }
    }

    /// A refused message backs off like an unreachable peer: asking again at once would not help.
    fn refused(&self, refusal: Refusal) -> RpcError<RT> {
        let error = RPCError::Unreachable(Unreachable::from_string(&refusal.message));
        self.shared.heard_refusal(self.member.node_id, refusal);
        error
    }

    fn unexpected(&self) -> RpcError<RT> {
        self.refused(Refusal::new(
            RefusalCode::BadMessage,
            format!("node {} gave an answer of the wrong kind: run the same release on all nodes", self.member.node_id),
        ))
    }

    async fn ask(&self, term: u64, question: Question, timeout: Duration) -> Result<Answer, RpcError<RT>> {
        let header = Some(self.shared.header(&self.member, term));
        let request = PeerRequest { header, question: Some(question) };
        let lane = if self.lane == Lane::Append { Lane::Control } else { self.lane };
        let reply = self.shared.transport.call(&self.address(), lane, request, timeout).await;
        match reply.map_err(|error| rpc_error::<RT>(&error))?.answer {
            Some(Answer::Refused(refusal)) => Err(self.refused(refusal)),
            Some(answer) => {
                // An answer to an append may be a refusal all the same.
                if !matches!(answer, Answer::Append(_)) {
                    self.shared.links.accepted(self.member.node_id);
                }
                Ok(answer)
            }
            None => Err(self.unexpected()),
        }
    }

    /// The request as it is sent, and when that was.
    fn prepare(&self, rpc: &AppendEntriesRequest<TypeConfig<RT>>, with_header: bool) -> (AppendRequest, RT::Instant) {
        let mut request = wire_append::<RT>(rpc);
        if with_header {
            request.header = Some(self.shared.header(&self.member, rpc.vote.leader_id.term));
        }
        // In this order, for other threads go on: the peer counts the age from when it sent that answer, which must have come
        // when the age is taken; and a confirmation that comes after that says nothing about a frontier that was read before.
        request.heard_answer = self.shared.links.heard_answer(self.member.node_id);
        request.quorum_age_ms = self.shared.quorum_age().map_or(u64::MAX, |age| age.as_millis() as u64);
        request.frontier_next = self.shared.frontier.next();
        request.needed_from = self.shared.links.needed_from();
        let announced = self.shared.announcement(rpc.vote.leader_id.term);
        request.collect_round = announced.round;
        request.collect_collection = announced.collection;
        request.collect_below = announced.below;
        request.witness_keeps_from = self.shared.links.witness_keeps_from();
        request.acknowledged_age_ms = self.shared.acknowledged_age_ms(rpc.vote.leader_id.term);
        let sent = RT::Instant::now();
        let (node_id, own_next) = (self.member.node_id, self.shared.flushed_next());
        self.shared.acknowledgements.lock().sent(node_id, rpc.vote.leader_id.term, sent, own_next);
        (request, sent)
    }

    fn received(&self, term: u64, sent: RT::Instant, reply: AppendReply) -> Result<StreamResult<RT>, RpcError<RT>> {
        self.shared.links.heard_clock(self.member.node_id, reply.clock_us, self.shared.now_us());
        let room = DiskRoom { free_bytes: reply.free_bytes, mark_bytes: reply.min_free_bytes };
        let result = raft_append_result::<RT>(reply.result).map_err(|refusal| self.refused(refusal))?;
        let last_vote = reply.last_vote.map(|vote| Vote::from(vote).leader);
        let log_end = self.hear_log_end(term, sent, &result, (reply.flushed_last.map(LogId::from), last_vote));
        let AppendReply { state_next, room_from, log_from, .. } = reply;
        let holding = Holding { state_next, room_from, log_from };
        self.shared.links.holds(self.member.node_id, holding);
        let AppendReply { collect_term, collect_round, lowest_pin, .. } = reply;
        let said = Confirmation { term: collect_term, round: collect_round, lowest_pin };
        self.shared.links.answered(self.member.node_id, RT::Instant::now(), room);
        self.shared.links.hear_answer(self.member.node_id, reply.answer);
        self.shared.links.confirmed(self.member.node_id, said);
        if !matches!(result, Err(StreamAppendError::HigherVote(_))) {
            self.shared.acknowledgements.lock().followed(self.member.node_id, term, sent);
        }
        if let Ok(Some(flushed)) = &result {
            let next = flushed.index.max(log_end.unwrap_or(0)).saturating_add(1);
            self.shared.links.count_flushed(self.member.node_id, term, next);
            self.shared.frontier.flushed(self.member.node_id, term, next);
            self.shared.acknowledgements.lock().answered(self.member.node_id, term, sent, next);
        }
        Ok(result)
    }

    /// Remembers where the peer's log ends, if this node's log has that entry; answers its index.
    fn hear_log_end(
        &self,
        term: u64,
        asked: RT::Instant,
        result: &StreamResult<RT>,
        (last, voted_for): (Option<LogId>, Option<LeaderId>),
    ) -> Option<u64> {
        // By then it follows this leader still: a later one may have changed its log after the append.
        let follows = voted_for == Some(LeaderId { term, node_id: self.shared.claim.node_id });
        let matched = result.as_ref().ok().and_then(|flushed| flushed.as_ref().map(|flushed| flushed.index));
        let is_end = |last: &LogId| last.index >= matched.unwrap_or(0);
        let is_equal = |last: &LogId| self.shared.log.log_id_at(last.index) == Some(*last);
        let last = last.filter(|last| follows && is_end(last) && is_equal(last));
        *self.log_end.lock() = last.map(|last| LogEnd { term, last, asked });
        last.map(|last| last.index)
    }

    /// The peer's answer, if it is known without asking. openraft takes it for a sign of life of this moment; nothing here
    /// goes by openraft's.
    fn known_answer(&self, rpc: &AppendEntriesRequest<TypeConfig<RT>>) -> Option<StreamResult<RT>> {
        let recent = Duration::from_millis(self.shared.election_min_ms() / 2);
        let known = *self.log_end.lock();
        let end = known.filter(|it| it.term == rpc.vote.leader_id.term && it.asked.elapsed() < recent)?;
        let last = rpc.entries.last()?.log_id;
        // The newest entries are sent in any case: the peer hears with them what is committed.
        let more_follow = self.shared.log.state().last.is_some_and(|newest| newest.index > last.index);
        let answer =
            match says(end.last, rpc.prev_log_id.as_ref().map(log_id_from::<RT>), Some(log_id_from::<RT>(&last))) {
                Says::HasThem => Ok(Some(last)),
                Says::LacksTheOneBefore => Err(StreamAppendError::Conflict(rpc.prev_log_id?)),
                Says::Unknown => return None,
            };
        if !more_follow {
            return None;
        }
        Some(answer)
    }

    async fn append_once(
        &self,
        rpc: AppendEntriesRequest<TypeConfig<RT>>,
        timeout: Duration,
    ) -> Result<StreamResult<RT>, RpcError<RT>> {
        let term = rpc.vote.leader_id.term;
        let (request, sent) = self.prepare(&rpc, true);
        match self.ask(term, Question::Append(request), timeout).await? {
            Answer::Append(reply) => {
                if rpc.entries.is_empty() {
                    self.shared.links.took(self.member.node_id, sent.elapsed().as_micros() as u64);
                }
                self.received(term, sent, reply)
            }
            _ => Err(self.unexpected()),
        }
    }

    async fn open_stream<S>(&self, input: S) -> Result<Responses<'_, RT>, RpcError<RT>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig<RT>>> + OptionalSend + Unpin + 'static,
    {
        // Sending times of the requests that are not answered yet.
        let owed = Arc::new(Mutex::new(VecDeque::new()));
        let term = Arc::new(AtomicU64::new(0));
        let sender = self.clone();
        let (owed_by_input, term_of_input) = (owed.clone(), term.clone());
        // Openraft hands the next payload to whichever request stream asks first: one that a transport still holds after its
        // session has ended would send it into a dead connection, and nobody would send it again.
        let (session, session_ended) = tokio::sync::oneshot::channel::<()>();
        let mut is_first = true;
        let requests = input.map(move |rpc| {
            term_of_input.store(rpc.vote.leader_id.term, Ordering::Release);
            let (request, sent) = sender.prepare(&rpc, std::mem::take(&mut is_first));
            owed_by_input.lock().push_back(sent);
            request
        });
        let requests = requests.take_until(session_ended);
        let stall = self.shared.stall_limit();
        let hangs = move |what: &str| TransportError::Broken {
            peer: self.member.name.clone(),
            reason: format!("no answer to {what} for {} ms", stall.as_millis()),
        };
        let replies = RT::timeout(stall, self.shared.transport.append(&self.address(), requests.boxed()))
            .await
            .unwrap_or_else(|_| Err(hangs("the opening of a stream")))
            .map_err(|error| rpc_error::<RT>(&error))?;
        let state = Some((replies, session));
        let responses = futures::stream::unfold(state, move |state| {
            let (owed, term) = (owed.clone(), term.clone());
            async move {
                let (mut replies, session) = state?;
                loop {
                    let item = match RT::timeout(stall, replies.next()).await {
                        Ok(item) => item?,
                        // A silent stream is fine while nothing is owed; else the connection hangs and is given up.
                        Err(_) if owed.lock().is_empty() => continue,
                        Err(_) => return Some((Err(rpc_error::<RT>(&hangs("an append"))), None)),
                    };
                    // Answers come in the order of the requests.
                    let sent = owed.lock().pop_front();
                    let result = match (item, sent) {
                        (Ok(reply), Some(sent)) => self.received(term.load(Ordering::Acquire), sent, reply),
                        (Ok(_), None) => Err(self.unexpected()),
                        (Err(error), _) => Err(rpc_error::<RT>(&error)),
                    };
                    let end = !matches!(result, Ok(Ok(_)));
                    return Some((result, if end { None } else { Some((replies, session)) }));
                }
            }
        });
        Ok(responses.boxed())
    }
}

impl<RT: Runtime> PeerClient<RT> {
    /// Offers a snapshot until the peer answers or has been silent for too long. The same one again, so that the pull
    /// that the first offer began answers the later ones too.
    async fn offer(&self, term: u64, mut offer: SnapshotOffer, offered: u64) -> Result<Answer, RpcError<RT>> {
        let began = RT::Instant::now();
        let mut said = String::new();
        loop {
            if offer.full {
                offer.sources = self.shared.sources_for(&self.member, offered);
            }
            let question = Some(Question::OfferSnapshot(offer.clone()));
            let request = PeerRequest { header: Some(self.shared.header(&self.member, term)), question };
            let reply = self.shared.transport.call(&self.address(), self.lane, request, OFFER_LIMIT).await;
            let error = match reply.map(|reply| reply.answer) {
                Err(error) => error,
                Ok(Some(Answer::Refused(refusal))) => return Err(self.refused(refusal)),
                Ok(Some(answer)) => {
                    self.shared.links.accepted(self.member.node_id);
                    return Ok(answer);
                }
                Ok(None) => return Err(self.unexpected()),
            };
            let heard = self.shared.links.last_answer(self.member.node_id).map_or(began, |(at, _)| at.max(began));
            if heard.elapsed() > OFFER_LIMIT {
                return Err(rpc_error::<RT>(&error));
            }
            if said != error.reason() {
                said = error.reason().to_owned();
                tracing::warn!(
                    peer = self.member.name,
                    "an offered snapshot was not answered, it is offered again: {error}"
                );
            }
            RT::sleep(OFFER_PAUSE).await;
        }
    }
}

impl<RT: Runtime> RaftNetworkV2<TypeConfig<RT>> for PeerClient<RT> {
    type SnapshotData = SnapshotBody;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig<RT>>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig<RT>>, RpcError<RT>> {
        let last = rpc.entries.last().map(|entry| entry.log_id).or(rpc.prev_log_id);
        Ok(match self.append_once(rpc, option.hard_ttl()).await? {
            Ok(flushed) if flushed == last => AppendEntriesResponse::Success,
            Ok(flushed) => AppendEntriesResponse::PartialSuccess(flushed),
            Err(StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
            Err(StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
        })
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<Responses<'s, RT>, RpcError<RT>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig<RT>>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            if self.lane != Lane::Control {
                let Some(first) = input.next().await else { return Ok(futures::stream::empty().boxed()) };
                return match self.known_answer(&first) {
                    Some(result) => Ok(futures::stream::iter([Ok(result)]).boxed()),
                    None => self.open_stream(futures::stream::iter([first]).chain(input)).await,
                };
            }
            // A heartbeat is one question; a stream of its own would only cost more messages.
            let responses: Responses<'s, RT> = match input.next().await {
                None => futures::stream::empty().boxed(),
                Some(rpc) => {
                    let result = self.append_once(rpc, option.hard_ttl()).await?;
                    futures::stream::iter([Ok(result)]).boxed()
                }
            };
            Ok(responses)
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig<RT>>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig<RT>>, RpcError<RT>> {
        match self.ask(0, Question::Vote(wire_ballot::<RT>(&rpc)), option.hard_ttl()).await? {
            Answer::Ballot(reply) => raft_ballot_reply::<RT>(reply).map_err(|refusal| self.refused(refusal)),
            _ => Err(self.unexpected()),
        }
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig<RT>>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig<RT>>, RpcError<RT>> {
        match self.ask(0, Question::PreVote(wire_ballot::<RT>(&rpc)), option.hard_ttl()).await? {
            Answer::Ballot(reply) => raft_ballot_reply::<RT>(reply).map_err(|refusal| self.refused(refusal)),
            _ => Err(self.unexpected()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig<RT>>,
        snapshot: SnapshotOf<TypeConfig<RT>, SnapshotBody>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig<RT>>, StreamingError<TypeConfig<RT>>> {
        let refuse = |why: &str| StreamingError::Unreachable(Unreachable::from_string(why));
        let full = self.member.role_value().is_data();
        if full && !self.shared.role().is_data() {
            // A witness has no records: its snapshot would empty a data node.
            return Err(refuse(
                "a witness cannot send a snapshot to a data node; leadership moves to a data node first",
            ));
        }
        if full && let Some(held) = self.shared.store.held() {
            return Err(refuse(&format!("this node's copy goes to nobody, it is being repaired: {}", held.why)));
        }
        let offered = snapshot.meta.last_log_id.as_ref().map_or(0, |log_id| log_id.index);
        let mut offer = SnapshotOffer {
            vote: Some(wire_vote::<RT>(&vote)),
            last: snapshot.meta.last_log_id.as_ref().map(wire_log_id::<RT>),
            full,
            ..SnapshotOffer::default()
        };
        if !full {
            offer.membership_at = snapshot.meta.last_membership.log_id().as_ref().map(wire_log_id::<RT>);
            offer.membership = membership_to_record(snapshot.meta.last_membership.membership()).encode_to_vec().into();
            offer.approvers = self.shared.store.approvers().iter().map(ApproverList::from).collect();
        }
        // Whoever sends the records pins its own state.
        drop(snapshot);
        let cancel: Pin<Box<dyn Future<Output = ReplicationClosed> + Send>> = Box::pin(cancel);
        let offering = Box::pin(self.offer(vote.leader_id.term, offer, offered));
        let answer = match futures::future::select(offering, cancel).await {
            futures::future::Either::Left((answer, _)) => answer.map_err(|error| refuse(&error.to_string()))?,
            futures::future::Either::Right((closed, _)) => return Err(StreamingError::Closed(closed)),
        };
        match answer {
            Answer::Ballot(ballot) => {
                let vote = raft_vote::<RT>(ballot.vote).map_err(|refusal| refuse(&refusal.message))?;
                Ok(SnapshotResponse { vote })
            }
            _ => Err(refuse("answer of the wrong kind to a snapshot")),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig<RT>>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig<RT>>, RpcError<RT>> {
        let question = Question::TransferLeader(TakeOver {
            from_leader: Some(wire_vote::<RT>(req.from_leader())),
            to: *req.to_node_id(),
            last: req.last_log_id().map(wire_log_id::<RT>),
        });
        let Answer::TakeOver(reply) = self.ask(0, question, option.hard_ttl()).await? else {
            return Err(self.unexpected());
        };
        Ok(match (reply.refused.is_empty(), reply.vote) {
            (true, _) => Ok(()),
            (false, Some(vote)) => Err(TransferLeaderError::VoteChanged {
                expected: *req.from_leader(),
                actual: raft_vote::<RT>(Some(vote)).map_err(|refusal| self.refused(refusal))?,
            }),
            (false, None) => Err(TransferLeaderError::LogNotFlushed {
                expected: req.last_log_id().copied(),
                actual: reply.flushed.map(raft_log_id::<RT>),
            }),
        })
    }
}

impl<RT: Runtime> Shared<RT> {
    pub(crate) fn role(&self) -> Role {
        self.claim.role
    }
}
