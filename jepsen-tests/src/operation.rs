//! One call of one client, as the history keeps it.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// One call on one record: what was asked, when, and what came back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Unique in the history.
    pub op_id: u64,
    /// The harness's client that called; each has one call in flight.
    pub client: u32,
    /// `collection/id`.
    pub record: String,
    /// What was asked.
    #[serde(flatten)]
    pub action: Action,
    /// Harness clock just before the call, nanoseconds.
    pub inv_ns: u64,
    /// Harness clock when the client stopped waiting. An unknown write may take effect later than this.
    pub ret_ns: u64,
    /// What came back.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Node that the harness sent the call to, if it chose one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_asked: Option<u64>,
    /// Node that answered, if it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_answered: Option<u64>,
    /// Epoch in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
}

/// What a client asks for. Every written value is unique in its history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "f", rename_all = "snake_case")]
pub enum Action {
    /// Write a value, whatever is there.
    Put {
        /// The value written.
        value: Fingerprint,
    },
    /// Write a value if the newest version has this generation.
    Cas {
        /// The expected generation.
        expect: u64,
        /// The value written.
        value: Fingerprint,
    },
    /// Delete the record, which must be live.
    Delete,
    /// Read the newest version, linearizably.
    Get,
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Outcome {
    /// The write was acknowledged.
    Written {
        /// Generation of the version that it made.
        generation: u64,
        /// Its store-wide revision.
        revision: u64,
    },
    /// The read was answered.
    Seen {
        /// Generation of the version seen; 0: the record never existed.
        generation: u64,
        /// Its value; missing for a deletion and for a record that never existed.
        seen: Option<Fingerprint>,
        /// Revision up to which the answer is complete.
        revision: u64,
    },
    /// The write took no effect and never will.
    Refused {
        /// The product's reason code.
        reason: String,
        /// What the refusal says about the record.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        found: Option<Found>,
    },
    /// No answer, or one that leaves the fate of the call open.
    Unknown {
        /// The product's reason code, or the harness's.
        reason: String,
    },
}

/// What a refused write tells about the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Found {
    /// It has a value, at this generation.
    Live(u64),
    /// It is deleted at this generation; 0: it never existed.
    Gone(u64),
    /// It has no value; the generation was not told.
    NotLive,
}

impl Action {
    /// The value that a put or cas writes.
    pub fn value(&self) -> Option<Fingerprint> {
        match self {
            Action::Put { value } | Action::Cas { value, .. } => Some(*value),
            Action::Delete | Action::Get => None,
        }
    }

    /// True for all but reads.
    pub fn is_write(&self) -> bool {
        !matches!(self, Action::Get)
    }
}

/// How many operations were acknowledged writes, answered reads, refused, and unknown.
pub fn count(operations: &[Operation]) -> [u64; 4] {
    let mut calls = [0; 4];
    for operation in operations {
        calls[match operation.outcome {
            Outcome::Written { .. } => 0,
            Outcome::Seen { .. } => 1,
            Outcome::Refused { .. } => 2,
            Outcome::Unknown { .. } => 3,
        }] += 1;
    }
    calls
}

/// Stands for a value in a history: the first eight bytes of its SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Fingerprint(pub u64);

impl Fingerprint {
    /// Fingerprint of a value's bytes.
    pub fn of(value: &[u8]) -> Fingerprint {
        let digest: [u8; 32] = Sha256::digest(value).into();
        let [a, b, c, d, e, f, g, h, ..] = digest;
        Fingerprint(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Fingerprint> for String {
    fn from(value: Fingerprint) -> String {
        value.to_string()
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Fingerprint, Self::Error> {
        u64::from_str_radix(&text, 16).map(Fingerprint)
    }
}
