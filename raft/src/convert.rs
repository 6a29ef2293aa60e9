//! Between openraft's messages and those of `wire`.

use openraft::raft::{AppendEntriesRequest, StreamAppendError, VoteRequest, VoteResponse};
use openraft::type_config::alias::LogIdOf;
use saola_storage::types::{LogId, Vote};

use crate::payload;
use crate::types::{Runtime, TypeConfig, log_id_from, log_id_to, vote_from, vote_to};
use crate::wire::{
    AppendRequest, AppendResult, Ballot, BallotReply, Flushed, Refusal, RefusalCode, WireEntry, WireLogId, WireVote,
};

type Id<RT> = LogIdOf<TypeConfig<RT>>;

pub(crate) fn wire_log_id<RT: Runtime>(id: &Id<RT>) -> WireLogId {
    log_id_from::<RT>(id).into()
}

pub(crate) fn raft_log_id<RT: Runtime>(id: WireLogId) -> Id<RT> {
    log_id_to::<RT>(&LogId::from(id))
}

/// A log id that names a place in a log: no log reaches the last index, and what is counted on from it must not wrap.
pub(crate) fn place_in_log<RT: Runtime>(id: WireLogId) -> Result<Id<RT>, Refusal> {
    match id.index {
        u64::MAX => Err(Refusal::new(RefusalCode::BadMessage, "peer message with a log index that no log reaches")),
        _ => Ok(raft_log_id::<RT>(id)),
    }
}

fn missing(what: &str) -> Refusal {
    Refusal::new(RefusalCode::BadMessage, format!("peer message without {what}: run the same release on all nodes"))
}

pub(crate) fn raft_vote<RT: Runtime>(
    vote: Option<WireVote>,
) -> Result<<TypeConfig<RT> as openraft::RaftTypeConfig>::Vote, Refusal> {
    vote.map(|vote| vote_to::<RT>(&Vote::from(vote))).ok_or_else(|| missing("a vote"))
}

pub(crate) fn wire_vote<RT: Runtime>(vote: &<TypeConfig<RT> as openraft::RaftTypeConfig>::Vote) -> WireVote {
    vote_from::<RT>(vote).into()
}

/// The header, frontier and purge floor are filled in by the sender.
pub(crate) fn wire_append<RT: Runtime>(rpc: &AppendEntriesRequest<TypeConfig<RT>>) -> AppendRequest {
    AppendRequest {
        header: None,
        vote: Some(wire_vote::<RT>(&rpc.vote)),
        prev: rpc.prev_log_id.as_ref().map(wire_log_id::<RT>),
        entries: rpc
            .entries
            .iter()
            .map(|entry| WireEntry {
                log_id: Some(wire_log_id::<RT>(&entry.log_id)),
                payload: payload::encode::<RT>(&entry.payload),
            })
            .collect(),
        leader_commit: rpc.leader_commit.as_ref().map(wire_log_id::<RT>),
        frontier_next: 0,
        needed_from: 0,
        quorum_age_ms: u64::MAX,
        collect_round: 0,
        collect_collection: 0,
        collect_below: 0,
        witness_keeps_from: 0,
        heard_answer: 0,
        acknowledged_age_ms: 0,
    }
}

pub(crate) fn raft_append<RT: Runtime>(
    request: AppendRequest,
) -> Result<AppendEntriesRequest<TypeConfig<RT>>, Refusal> {
    let mut entries = Vec::with_capacity(request.entries.len());
    let mut previous = request.prev.map(|id| id.index);
    for entry in request.entries {
        let log_id = entry.log_id.ok_or_else(|| missing("a log id"))?;
        if previous.is_some_and(|index| index.checked_add(1) != Some(log_id.index)) {
            return Err(Refusal::new(RefusalCode::BadMessage, "append with a hole between its entries"));
        }
        previous = Some(log_id.index);
        let payload = payload::decode::<RT>(entry.payload)
            .map_err(|error| Refusal::new(RefusalCode::BadMessage, error.to_string()))?;
        entries.push(openraft::Entry { log_id: place_in_log::<RT>(log_id)?, payload });
    }
    Ok(AppendEntriesRequest {
        vote: raft_vote::<RT>(request.vote)?,
        prev_log_id: request.prev.map(place_in_log::<RT>).transpose()?,
        entries,
        leader_commit: request.leader_commit.map(place_in_log::<RT>).transpose()?,
    })
}

pub(crate) type StreamResult<RT> = Result<Option<Id<RT>>, StreamAppendError<TypeConfig<RT>>>;

pub(crate) fn wire_append_result<RT: Runtime>(result: StreamResult<RT>) -> AppendResult {
    match result {
        Ok(flushed) => AppendResult::Flushed(Flushed { log_id: flushed.as_ref().map(wire_log_id::<RT>) }),
        Err(StreamAppendError::Conflict(id)) => AppendResult::Conflict(wire_log_id::<RT>(&id)),
        Err(StreamAppendError::HigherVote(vote)) => AppendResult::HigherVote(wire_vote::<RT>(&vote)),
    }
}

pub(crate) fn raft_append_result<RT: Runtime>(result: Option<AppendResult>) -> Result<StreamResult<RT>, Refusal> {
    Ok(match result.ok_or_else(|| missing("a result"))? {
        AppendResult::Flushed(Flushed { log_id }) => Ok(log_id.map(raft_log_id::<RT>)),
        AppendResult::Conflict(id) => Err(StreamAppendError::Conflict(raft_log_id::<RT>(id))),
        AppendResult::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote_to::<RT>(&Vote::from(vote)))),
        AppendResult::Refused(refusal) => return Err(refusal),
    })
}

pub(crate) fn wire_ballot<RT: Runtime>(rpc: &VoteRequest<TypeConfig<RT>>) -> Ballot {
    Ballot {
        vote: Some(wire_vote::<RT>(&rpc.vote)),
        last: rpc.last_log_id.as_ref().map(wire_log_id::<RT>),
        leadership_transfer: rpc.leadership_transfer,
    }
}

pub(crate) fn raft_ballot<RT: Runtime>(ballot: Ballot) -> Result<VoteRequest<TypeConfig<RT>>, Refusal> {
    Ok(VoteRequest {
        vote: raft_vote::<RT>(ballot.vote)?,
        last_log_id: ballot.last.map(raft_log_id::<RT>),
        leadership_transfer: ballot.leadership_transfer,
    })
}

pub(crate) fn wire_ballot_reply<RT: Runtime>(reply: &VoteResponse<TypeConfig<RT>>) -> BallotReply {
    BallotReply {
        vote: Some(wire_vote::<RT>(&reply.vote)),
        granted: reply.vote_granted,
        last: reply.last_log_id.as_ref().map(wire_log_id::<RT>),
    }
}

pub(crate) fn raft_ballot_reply<RT: Runtime>(reply: BallotReply) -> Result<VoteResponse<TypeConfig<RT>>, Refusal> {
    Ok(VoteResponse {
        vote: raft_vote::<RT>(reply.vote)?,
        vote_granted: reply.granted,
        last_log_id: reply.last.map(raft_log_id::<RT>),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::types::TokioRuntime;
    use crate::wire::{FetchReply, FetchRequest, PeerReply, PeerRequest, Question};

    #[test]
    fn an_index_that_would_wrap_is_refused() {
        let last = WireLogId { term: 1, node_id: 1, index: u64::MAX };
        let vote = Some(WireVote { term: 1, node_id: 1, committed: true });
        let request = AppendRequest { vote, prev: Some(last), ..AppendRequest::default() };
        assert_eq!(raft_append::<TokioRuntime>(request).unwrap_err().kind(), RefusalCode::BadMessage);
        let entries = vec![WireEntry { log_id: Some(last), payload: bytes::Bytes::from_static(&[0]) }];
        let request = AppendRequest { vote, entries, ..AppendRequest::default() };
        assert_eq!(raft_append::<TokioRuntime>(request).unwrap_err().kind(), RefusalCode::BadMessage);
    }

    proptest! {
        /// Whatever arrives, a peer message is taken or refused.
        #[test]
        fn peer_messages_of_any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(request) = AppendRequest::decode(bytes.as_slice()) {
                let _taken_or_refused = raft_append::<TokioRuntime>(request);
            }
            if let Ok(PeerRequest { question: Some(Question::Vote(ballot)), .. }) = PeerRequest::decode(bytes.as_slice()) {
                let _taken_or_refused = raft_ballot::<TokioRuntime>(ballot);
            }
            let _reply = PeerReply::decode(bytes.as_slice());
            let _request = FetchRequest::decode(bytes.as_slice());
            let _part = FetchReply::decode(bytes.as_slice());
        }

        #[test]
        fn log_payloads_of_any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(payload) = payload::decode::<TokioRuntime>(bytes.into()) {
                let _readable_or_not = payload::to_apply::<TokioRuntime>(&payload);
            }
        }
    }
}
