//! Bytes of a log entry's payload (format version 1): one kind byte, then the body.
//!
//! | kind | body |
//! |---|---|
//! | 0 blank | empty |
//! | 1 commands | `CommandBatch`, prost |
//! | 2 membership | `MembershipRecord`, prost |
//!
//! Kinds are never reused.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use saola_storage::command::CommandBatch;
use saola_storage::store::ApplyPayload;

use crate::member::{MembershipRecord, membership_from_record, membership_to_record};
use crate::types::{Proposal, Runtime, TypeConfig};

const BLANK: u8 = 0;
const COMMANDS: u8 = 1;
const MEMBERSHIP: u8 = 2;

type PayloadOf<RT> = <TypeConfig<RT> as openraft::RaftTypeConfig>::Payload;

/// Why a payload could not be read.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// No kind byte.
    #[error("log payload is empty")]
    Empty,
    /// A kind that this release does not know.
    #[error("log payload of unknown kind {0}: it was written by a newer release; run that release or a newer one")]
    UnknownKind(u8),
    /// The body does not decode.
    #[error("log payload does not decode: {0}")]
    Body(String),
}

fn with_kind(kind: u8, message: &impl Message) -> Bytes {
    let mut buffer = BytesMut::with_capacity(1 + message.encoded_len());
    buffer.put_u8(kind);
    message.encode(&mut buffer).expect("a BytesMut grows: encoding into it cannot run out of room");
    buffer.freeze()
}

/// Encodes commands once, for the log and for every peer.
pub(crate) fn encode_commands(batch: &CommandBatch) -> Proposal {
    Proposal(with_kind(COMMANDS, batch))
}

pub(crate) fn encode<RT: Runtime>(payload: &PayloadOf<RT>) -> Bytes {
    match payload {
        openraft::EntryPayload::Blank => Bytes::from_static(&[BLANK]),
        openraft::EntryPayload::Normal(proposal) => proposal.0.clone(),
        openraft::EntryPayload::Membership(membership) => with_kind(MEMBERSHIP, &membership_to_record(membership)),
    }
}

pub(crate) fn decode<RT: Runtime>(bytes: Bytes) -> Result<PayloadOf<RT>, PayloadError> {
    match *bytes.first().ok_or(PayloadError::Empty)? {
        BLANK => Ok(openraft::EntryPayload::Blank),
        COMMANDS => Ok(openraft::EntryPayload::Normal(Proposal(bytes))),
        MEMBERSHIP => {
            let record = MembershipRecord::decode(bytes.slice(1..)).map_err(|e| PayloadError::Body(e.to_string()))?;
            let membership = membership_from_record(record).map_err(PayloadError::Body)?;
            Ok(openraft::EntryPayload::Membership(membership))
        }
        kind => Err(PayloadError::UnknownKind(kind)),
    }
}

/// What the state machine applies for a payload.
pub(crate) fn to_apply<RT: Runtime>(payload: &PayloadOf<RT>) -> Result<ApplyPayload, PayloadError> {
    Ok(match payload {
        openraft::EntryPayload::Blank => ApplyPayload::Blank,
        openraft::EntryPayload::Normal(Proposal(bytes)) => {
            let batch = CommandBatch::decode(bytes.slice(1..)).map_err(|e| PayloadError::Body(e.to_string()))?;
            ApplyPayload::Commands(batch)
        }
        openraft::EntryPayload::Membership(membership) => {
            ApplyPayload::Membership(membership_to_record(membership).encode_to_vec().into())
        }
    })
}
