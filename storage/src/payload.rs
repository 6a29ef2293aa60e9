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

use crate::apply::ApplyPayload;
use crate::command::CommandBatch;

/// What a payload carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PayloadKind {
    /// Nothing: a new leader's first entry.
    Blank = 0,
    /// Commands.
    Commands = 1,
    /// A membership.
    Membership = 2,
}

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

/// The payload of a new leader's first entry.
pub const BLANK: &[u8] = &[PayloadKind::Blank as u8];

/// A payload's bytes.
pub fn encode(kind: PayloadKind, message: &impl Message) -> Bytes {
    let mut buffer = BytesMut::with_capacity(1 + message.encoded_len());
    buffer.put_u8(kind as u8);
    message.encode(&mut buffer).expect("a BytesMut grows: encoding into it cannot run out of room");
    buffer.freeze()
}

/// Kind and body of a payload.
///
/// # Errors
/// No bytes, or a kind that this release does not know.
pub fn split(payload: &Bytes) -> Result<(PayloadKind, Bytes), PayloadError> {
    let kind = match *payload.first().ok_or(PayloadError::Empty)? {
        0 => PayloadKind::Blank,
        1 => PayloadKind::Commands,
        2 => PayloadKind::Membership,
        kind => return Err(PayloadError::UnknownKind(kind)),
    };
    Ok((kind, payload.slice(1..)))
}

/// What the state machine applies for a payload. A membership stays as it is.
///
/// # Errors
/// As [`split`], or a body that does not decode.
pub fn decode(payload: &Bytes) -> Result<ApplyPayload, PayloadError> {
    let (kind, body) = split(payload)?;
    Ok(match kind {
        PayloadKind::Blank => ApplyPayload::Blank,
        PayloadKind::Commands => {
            ApplyPayload::Commands(CommandBatch::decode(body).map_err(|error| PayloadError::Body(error.to_string()))?)
        }
        PayloadKind::Membership => ApplyPayload::Membership(body),
    })
}
