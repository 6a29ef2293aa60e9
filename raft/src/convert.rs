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
        entries.push(openraft::Entry { log_id: raft_log_id::<RT>(log_id), payload });
    }
    Ok(AppendEntriesRequest {
        vote: raft_vote::<RT>(request.vote)?,
        prev_log_id: request.prev.map(raft_log_id::<RT>),
        entries,
        leader_commit: request.leader_commit.map(raft_log_id::<RT>),
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
