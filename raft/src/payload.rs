//! Between Raft's payloads and the log's, whose form is [`saola_storage::payload`].

use bytes::Bytes;
use prost::Message;
use saola_storage::command::CommandBatch;
use saola_storage::payload::{self, BLANK, PayloadError, PayloadKind};
use saola_storage::store::ApplyPayload;

use crate::member::{MembershipRecord, membership_from_record, membership_to_record};
use crate::types::{Proposal, Runtime, TypeConfig};

type PayloadOf<RT> = <TypeConfig<RT> as openraft::RaftTypeConfig>::Payload;

/// Encodes commands once, for the log and for every peer.
pub(crate) fn encode_commands(batch: &CommandBatch) -> Proposal {
    Proposal(payload::encode(PayloadKind::Commands, batch))
}

pub(crate) fn encode<RT: Runtime>(payload: &PayloadOf<RT>) -> Bytes {
    match payload {
        openraft::EntryPayload::Blank => Bytes::from_static(BLANK),
        openraft::EntryPayload::Normal(proposal) => proposal.0.clone(),
        openraft::EntryPayload::Membership(membership) => {
            payload::encode(PayloadKind::Membership, &membership_to_record(membership))
        }
    }
}

pub(crate) fn decode<RT: Runtime>(bytes: Bytes) -> Result<PayloadOf<RT>, PayloadError> {
    let (kind, body) = payload::split(&bytes)?;
    match kind {
        PayloadKind::Blank => Ok(openraft::EntryPayload::Blank),
        PayloadKind::Commands => Ok(openraft::EntryPayload::Normal(Proposal(bytes))),
        PayloadKind::Membership => {
            let record = MembershipRecord::decode(body).map_err(|error| PayloadError::Body(error.to_string()))?;
            let membership = membership_from_record(record).map_err(PayloadError::Body)?;
            Ok(openraft::EntryPayload::Membership(membership))
        }
    }
}

/// What the state machine applies for a payload.
pub(crate) fn to_apply<RT: Runtime>(payload: &PayloadOf<RT>) -> Result<ApplyPayload, PayloadError> {
    match payload {
        openraft::EntryPayload::Blank => Ok(ApplyPayload::Blank),
        openraft::EntryPayload::Normal(Proposal(bytes)) => payload::decode(bytes),
        openraft::EntryPayload::Membership(membership) => {
            Ok(ApplyPayload::Membership(membership_to_record(membership).encode_to_vec().into()))
        }
    }
}
