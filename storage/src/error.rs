//! What can go wrong in the state machine.

use crate::engine::{EngineError, Kind};
use crate::import::ImportError;
use crate::release::UnknownFormat;

/// The state machine could not read, write or install its state. Refused commands are no errors: they are
/// outcomes ([`crate::command::Decision`]).
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The engine below failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Stored bytes are not what this release writes.
    #[error(
        "stored bytes under {kind} key {key} cannot be read: {why}; its peers hold the same row, and a data node repairs \
         itself from them (saola scrub status); if a newer release has run here, install that one"
    )]
    Corrupt {
        /// Kind of the row.
        kind: &'static str,
        /// Its key in hex.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// Apply, a flush or a start has met damage: this copy is not used any more.
    #[error(
        "this node's records are damaged and not used any more ({why}); start the node again: it takes them from another \
         data node before it takes part"
    )]
    Ruined {
        /// What was found.
        why: String,
    },
    /// The rows are of a format that this release does not read.
    #[error("the state machine's database {format}")]
    Newer {
        /// What was found, and who reads it.
        format: UnknownFormat,
    },
    /// Records were asked for where a witness lived.
    #[error("this is the state of a witness, which holds no records; read a data node's folder")]
    NoRecords,
    /// This part of the copy is not served: it differs from others, or does not verify.
    #[error(
        "this node's copy is not served {part}: {why}; another data node answers, and `saola scrub status` shows the repair"
    )]
    Quarantined {
        /// How much of it.
        part: &'static str,
        /// What was found.
        why: String,
    },
    /// An entry came again, or too late.
    #[error("log entry {index} cannot be applied: entry {applied} has been applied already; restart the node")]
    OutOfOrder {
        /// Index of the entry.
        index: u64,
        /// Newest index that was applied.
        applied: u64,
    },
    /// The log holds a command that this release does not know.
    #[error(
        "log entry {index} holds a command that this release does not know; install the release that the other nodes run"
    )]
    UnknownCommand {
        /// Index of the entry.
        index: u64,
    },
    /// An earlier failure left the state machine behind what the log says.
    #[error("the state machine has stopped: {reason}; restart the node")]
    Stopped {
        /// The earlier failure.
        reason: String,
    },
    /// A data folder was opened in another role.
    #[error(
        "this data folder was made by a node that {found}, but it was opened by one that {asked}; give the node its own folder"
    )]
    WrongRole {
        /// What the folder holds.
        found: &'static str,
        /// What was asked for.
        asked: &'static str,
    },
    /// A listing as of a revision whose versions policy may have removed. Nothing is wrong with the store.
    #[error(
        "collection {collection:?} cannot be listed as of revision {asked} any more: its retention policy has removed \
         versions that stood then; the oldest revision that can be listed is {oldest}"
    )]
    RevisionGone {
        /// Name of the collection.
        collection: String,
        /// What was asked for.
        asked: u64,
        /// Oldest revision that can be listed.
        oldest: u64,
    },
    /// A read of a record as of a revision at which policy has removed its version. Nothing is wrong with the store.
    #[error(
        "what stood in this record at revision {asked} is gone: the retention policy of collection {collection:?} has \
         removed it; the oldest kept version is of revision {oldest}"
    )]
    RecordGone {
        /// Name of the collection.
        collection: String,
        /// What was asked for.
        asked: u64,
        /// Revision of the record's oldest kept version.
        oldest: u64,
    },
    /// A read of a generation that policy has removed. Nothing is wrong with the store.
    #[error(
        "generation {asked} of this record is gone: the retention policy of collection {collection:?} has removed it; \
         the oldest kept generation is {oldest}"
    )]
    GenerationGone {
        /// Name of the collection.
        collection: String,
        /// What was asked for.
        asked: u64,
        /// Oldest generation that is kept.
        oldest: u64,
    },
    /// A received state was refused; the old one stays.
    #[error(transparent)]
    Import(#[from] ImportError),
}

impl StoreError {
    /// Whether stored bytes are wrong or gone: no second attempt helps, another copy does.
    pub fn is_damage(&self) -> bool {
        match self {
            StoreError::Engine(error) => error.damage,
            StoreError::Corrupt { .. } => true,
            _ => false,
        }
    }

    /// Stored bytes under a key that make no sense.
    pub(crate) fn corrupt(kind: Kind, key: &[u8], why: impl ToString) -> StoreError {
        let key = key.iter().map(|byte| format!("{byte:02x}")).collect();
        StoreError::Corrupt { kind: kind.name(), key, why: why.to_string() }
    }
}
