//! The hash that links every version of a record to all earlier ones.
//!
//! `chain = SHA-256(previous chain ‖ metadata ‖ digest)`: 32 zero bytes stand before the first version, and `digest`
//! is the SHA-256 of the version's envelope (of no bytes for a deletion).
//! The metadata are, in this order: incarnation of the collection, record id (byte strings); generation, revision,
//! recorded_at_us (numbers); op (one byte: 1 put, 2 delete, 3 undelete, 4 rollback); content type, source system,
//! actor, reason (byte strings; those of a missing provenance are empty). A byte string is its length as u32
//! little-endian and its bytes; a number is u64 little-endian.

use sha2::{Digest, Sha256};

use crate::command::Provenance;
use crate::keyspace::versions::VersionOp;

/// What the chain says about a version.
pub struct Link<'a> {
    /// Incarnation of the collection.
    pub incarnation: &'a [u8; 16],
    /// Record id.
    pub id: &'a [u8],
    /// The record's own counter.
    pub generation: u64,
    /// Store-wide counter.
    pub revision: u64,
    /// Microseconds since 1970.
    pub recorded_at_us: u64,
    /// What the version did.
    pub op: VersionOp,
    /// Media type.
    pub content_type: &'a str,
    /// Where it came from.
    pub provenance: Option<&'a Provenance>,
    /// SHA-256 of the envelope.
    pub digest: &'a [u8; 32],
}

impl Link<'_> {
    /// The chain hash of this version, given the one of the version before it.
    pub fn after(&self, previous: &[u8]) -> [u8; 32] {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(previous);
        push(&mut bytes, self.incarnation);
        push(&mut bytes, self.id);
        for number in [self.generation, self.revision, self.recorded_at_us] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.push(self.op as u8);
        push(&mut bytes, self.content_type.as_bytes());
        let [source, actor, reason] = match self.provenance {
            Some(from) => [from.source_system.as_str(), &from.actor, &from.reason],
            None => [""; 3],
        };
        for text in [source, actor, reason] {
            push(&mut bytes, text.as_bytes());
        }
        bytes.extend_from_slice(self.digest);
        Sha256::digest(&bytes).into()
    }
}

fn push(bytes: &mut Vec<u8>, field: &[u8]) {
    bytes.extend_from_slice(&(field.len() as u32).to_le_bytes());
    bytes.extend_from_slice(field);
}
