//! The receiving side of peer messages: checks the header, then hands the message to Raft or to the replica.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::raft::TransferLeaderError;
use openraft::storage::{Snapshot, SnapshotMeta};
use prost::Message;

use crate::convert::{
    place_in_log, raft_append, raft_ballot, raft_log_id, raft_vote, wire_append_result, wire_ballot_reply, wire_log_id,
    wire_vote,
};
use crate::folder::hex;
use crate::member::{MembershipRecord, membership_from_record};
use crate::replica::{RaftOf, Replica, Shared};
use crate::state_machine::SnapshotBody;
use crate::types::{Runtime, TokioRuntime};
use crate::wire::{
    Answer, AppendReply, AppendRequest, AppendResult, BallotReply, Barrier, Header, Members, Nothing, PeerReply,
    PeerRequest, Question, Refusal, RefusalCode, SnapshotChunk, TakeOver, TakeOverReply, WIRE_VERSION,
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

/// Decides whether a message with this header may reach Raft. `own_next` is the first index not flushed here.
pub(crate) fn check_header(
    header: &Header,
    own: &crate::folder::NodeIdentity,
    sender_folder: Option<&Bytes>,
    own_next: u64,
) -> Result<(), Refusal> {
    let refuse = |code, message: String| Err(Refusal::new(code, message));
    if header.cluster_id != own.cluster_id[..] {
        return refuse(
            RefusalCode::WrongCluster,
            format!(
                "node {} belongs to cluster {}, the sender to {}: correct the peer addresses or the data folder",
                own.node_id,
                hex(&own.cluster_id),
                hex(&header.cluster_id)
            ),
        );
    }
    if header.to != own.node_id {
        return refuse(
            RefusalCode::WrongNode,
            format!(
                "this is node {} ({}), the message is for node {}: correct the peer addresses",
                own.node_id, own.name, header.to
            ),
        );
    }
    if header.epoch != own.epoch {
        return refuse(
            RefusalCode::WrongEpoch,
            format!("node {} is in epoch {}, the sender in epoch {}", own.node_id, own.epoch, header.epoch),
        );
    }
    if !header.to_folder.is_empty() && header.to_folder != own.folder_id[..] {
        return refuse(RefusalCode::WrongFolder, wrong_folder(own.node_id));
    }
    if let Some(known) = sender_folder
        && *known != header.from_folder
    {
        return refuse(
            RefusalCode::UnknownSender,
            format!(
                "node {} sends from a data folder that is not the one it joined with: \
                 put its own folder back, or replace it with `saola cluster replace {}`",
                header.from, header.from
            ),
        );
    }
    if header.counted_next > own_next {
        return refuse(
            RefusalCode::FolderBehind,
            format!(
                "node {} has its log up to index {}, but the leader has counted it up to {}: an older copy of its data \
                 folder was put back; put the newest back, or replace the node with `saola cluster replace {}`",
                own.node_id,
                own_next.saturating_sub(1),
                header.counted_next - 1,
                own.node_id
            ),
        );
    }
    Ok(())
}

pub(crate) fn wrong_folder(node_id: u64) -> String {
    format!(
        "node {node_id} is known to its cluster with another data folder than the one it runs on: \
         put its own folder back, or replace it with `saola cluster replace {node_id}`"
    )
}

impl<RT: Runtime> PeerService<RT> {
    pub(crate) fn new(replica: Replica<RT>) -> Self {
        Self { replica }
    }

    fn shared(&self) -> &Arc<Shared<RT>> {
        &self.replica.shared
    }

    /// Checks the header and returns Raft.
    fn admit(&self, header: Option<&Header>) -> Result<RaftOf<RT>, Refusal> {
        let shared = self.shared();
        let header = header.ok_or_else(|| Refusal::new(RefusalCode::BadMessage, "peer message without a header"))?;
        if header.wire_version != WIRE_VERSION {
            return Err(Refusal::new(
                RefusalCode::BadMessage,
                format!("wire version {} is not spoken here ({WIRE_VERSION} is)", header.wire_version),
            ));
        }
        let Some(identity) = shared.identity() else {
            if header.to == shared.claim.node_id && !header.to_folder.is_empty() {
                shared.set_refused(wrong_folder(header.to));
                return Err(Refusal::new(RefusalCode::WrongFolder, wrong_folder(header.to)));
            }
            return Err(Refusal::new(
                RefusalCode::NotAdopted,
                format!("node {} is not part of a cluster yet", shared.claim.node_id),
            ));
        };
        let sender = shared.member(header.from);
        let sender_folder = sender.as_ref().map(|member| &member.folder_id);
        // What a deposed leader counted may lawfully have been truncated since; Raft refuses it by its vote.
        let vote = shared.log.state().vote.unwrap_or_default().leader;
        let own_next = match (header.counted_term, header.from) >= (vote.term, vote.node_id) {
            true => shared.flushed_next(),
            false => u64::MAX,
        };
        if let Err(refusal) = check_header(header, &identity, sender_folder, own_next) {
            if matches!(refusal.kind(), RefusalCode::FolderBehind | RefusalCode::WrongFolder) {
                shared.refuse_to_run(refusal.message.clone());
            }
            return Err(refusal);
        }
        shared.raft().ok_or_else(|| {
            Refusal::new(RefusalCode::Stopped, format!("Raft does not run on node {}", identity.node_id))
        })
    }

    /// Answers one question.
    pub async fn call(&self, request: PeerRequest) -> PeerReply {
        match self.answer(request).await {
            Ok(answer) => answer.into(),
            Err(refusal) => refusal.into(),
        }
    }

    async fn answer(&self, request: PeerRequest) -> Result<Answer, Refusal> {
        let question =
            request.question.ok_or_else(|| Refusal::new(RefusalCode::BadMessage, "peer message without a question"))?;
        match question {
            Question::Identify(Nothing {}) => return Ok(Answer::Identity(self.shared().describe_self())),
            Question::Adopt(adopt) => {
                self.replica.adopt(adopt).await?;
                return Ok(Answer::Done(Nothing {}));
            }
            Question::Status(Nothing {}) => return Ok(Answer::Status(self.shared().status_bytes())),
            _ => {}
        }
        let raft = self.admit(request.header.as_ref())?;
        if matches!(question, Question::Propose(_) | Question::ReadBarrier(_) | Question::Admin(_)) {
            self.check_still_member(request.header.as_ref())?;
        }
        let stopped = |error: &dyn std::fmt::Display| Refusal::new(RefusalCode::Stopped, error.to_string());
        match question {
            Question::Vote(ballot) => {
                let reply = raft.vote(raft_ballot::<RT>(ballot)?).await.map_err(|e| stopped(&e))?;
                Ok(Answer::Ballot(wire_ballot_reply::<RT>(&reply)))
            }
            Question::PreVote(ballot) => {
                let reply = raft.pre_vote(raft_ballot::<RT>(ballot)?).await.map_err(|e| stopped(&e))?;
                Ok(Answer::Ballot(wire_ballot_reply::<RT>(&reply)))
            }
            Question::Append(request) => {
                let prev = request.prev;
                let requests = futures::stream::iter([request]).boxed();
                let mut replies = self.run_appends(raft, requests);
                match replies.next().await {
                    Some(reply) => Ok(Answer::Append(reply)),
                    None => Err(stopped(&format!("no answer to an append after {prev:?}"))),
                }
            }
            Question::TransferLeader(take_over) => self.take_over(&raft, take_over).await,
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
            Question::Identify(_) | Question::Adopt(_) | Question::Status(_) => {
                unreachable!("answered before the header check")
            }
        }
    }

    /// Votes and appends may come from a node that joined while this one was away; what a leader does for others is
    /// for members only, and it knows them.
    fn check_still_member(&self, header: Option<&Header>) -> Result<(), Refusal> {
        let shared = self.shared();
        let from = header.map_or(0, |header| header.from);
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

    /// Answers a stream of appends, in order. The header of the first message speaks for all.
    pub async fn append(&self, mut requests: BoxStream<'static, AppendRequest>) -> BoxStream<'static, AppendReply> {
        let Some(first) = requests.next().await else {
            return futures::stream::empty().boxed();
        };
        match self.admit(first.header.as_ref()) {
            Ok(raft) => self.run_appends(raft, futures::stream::iter([first]).chain(requests).boxed()),
            Err(refusal) => futures::stream::iter([refused(refusal)]).boxed(),
        }
    }

    fn run_appends(
        &self,
        raft: RaftOf<RT>,
        requests: BoxStream<'static, AppendRequest>,
    ) -> BoxStream<'static, AppendReply> {
        let shared = self.shared().clone();
        let (bad, bad_seen) = tokio::sync::oneshot::channel::<Refusal>();
        let inner = shared.clone();
        let decoded = futures::stream::unfold((requests, Some(bad)), move |(mut requests, mut bad)| {
            let shared = inner.clone();
            async move {
                let request = requests.next().await?;
                let (frontier_next, needed_from) = (request.frontier_next, request.needed_from);
                let quorum_age_ms = request.quorum_age_ms;
                match raft_append::<RT>(request) {
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
            },
            Err(fatal) => refused(Refusal::new(RefusalCode::Stopped, fatal.to_string())),
        });
        let end = futures::stream::once(bad_seen).filter_map(|seen| async move { seen.ok().map(refused) });
        replies.chain(end).boxed()
    }

    /// Receives a snapshot and installs it.
    pub async fn snapshot(&self, mut chunks: impl Stream<Item = SnapshotChunk> + Send + Unpin) -> PeerReply {
        match self.receive_snapshot(&mut chunks).await {
            Ok(reply) => Answer::Ballot(reply).into(),
            Err(refusal) => refusal.into(),
        }
    }

    async fn receive_snapshot(
        &self,
        chunks: &mut (impl Stream<Item = SnapshotChunk> + Send + Unpin),
    ) -> Result<BallotReply, Refusal> {
        let bad = |message: String| Refusal::new(RefusalCode::BadMessage, message);
        let begin = chunks
            .next()
            .await
            .and_then(|chunk| chunk.begin)
            .ok_or_else(|| bad("snapshot without a beginning".into()))?;
        let raft = self.admit(begin.header.as_ref())?;
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
                let mut import = self.shared().store.import().map_err(failed)?;
                while let Some(chunk) = chunks.next().await {
                    import.write(&chunk.data).map_err(failed)?;
                    self.shared().heard_something();
                }
                if !import.is_complete() {
                    return Err(bad("snapshot stream ended before its manifest: the sender will start again".into()));
                }
                SnapshotBody::Incoming(Box::new(import))
            }
        };
        let vote = raft_vote::<RT>(begin.vote)?;
        let response = raft
            .install_full_snapshot(vote, Snapshot { meta, snapshot })
            .await
            .map_err(|error| Refusal::new(RefusalCode::Stopped, error.to_string()))?;
        Ok(BallotReply { vote: Some(wire_vote::<RT>(&response.vote)), granted: true, last: None })
    }
}

fn refused(refusal: Refusal) -> AppendReply {
    AppendReply { result: Some(AppendResult::Refused(refusal)), free_bytes: 0, clock_us: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::NodeIdentity;
    use crate::member::Role;

    fn own() -> NodeIdentity {
        NodeIdentity {
            cluster_id: [1; 16],
            epoch: 1,
            node_id: 2,
            folder_id: [2; 16],
            role: Role::Voter,
            site: "main".into(),
            name: "main-2".into(),
            group_id: 0,
        }
    }

    fn header() -> Header {
        Header {
            wire_version: WIRE_VERSION,
            cluster_id: Bytes::copy_from_slice(&[1; 16]),
            epoch: 1,
            from: 1,
            to: 2,
            from_folder: Bytes::copy_from_slice(&[7; 16]),
            to_folder: Bytes::copy_from_slice(&[2; 16]),
            ..Header::default()
        }
    }

    fn code(header: Header) -> Option<RefusalCode> {
        let known = Bytes::copy_from_slice(&[7; 16]);
        check_header(&header, &own(), Some(&known), 10).err().map(|refusal| refusal.kind())
    }

    #[test]
    fn only_a_fitting_header_reaches_raft() {
        let id = |byte| Bytes::copy_from_slice(&[byte; 16]);
        assert_eq!(code(header()), None);
        assert_eq!(code(Header { cluster_id: id(9), ..header() }), Some(RefusalCode::WrongCluster));
        assert_eq!(code(Header { to: 3, ..header() }), Some(RefusalCode::WrongNode));
        assert_eq!(code(Header { epoch: 2, ..header() }), Some(RefusalCode::WrongEpoch));
        assert_eq!(code(Header { to_folder: id(9), ..header() }), Some(RefusalCode::WrongFolder));
        assert_eq!(code(Header { from_folder: id(9), ..header() }), Some(RefusalCode::UnknownSender));
        assert_eq!(code(Header { counted_next: 10, ..header() }), None);
        assert_eq!(code(Header { counted_next: 11, ..header() }), Some(RefusalCode::FolderBehind));
    }
}
