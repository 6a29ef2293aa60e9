//! What can go wrong with the log, each with what to do next.

use std::io;
use std::sync::Arc;

use thiserror::Error;

use crate::types::EpochId;

/// An error of the log. All but [`LogError::Closed`] end the life of this log in this process: what was
/// acknowledged is safe, what was not is unknown until it is opened again.
#[derive(Clone, Debug, Error)]
pub enum LogError {
    /// The disk failed. After a failed write or sync nothing more is written: what such a sync left behind is
    /// unknown until the log is opened again.
    #[error("{what} {file}: {source}; check the disk and its free space, then start the node again")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file of the log folder.
        file: String,
        /// The error of the operating system.
        source: Arc<io::Error>,
    },
    /// The disk has no room for the next segment, and the reserve is used up.
    #[error(
        "the disk is full: log segment {file} needs {bytes} bytes, and no reserve is left; nothing acknowledged is lost: \
         make room on the disk of the data folder, then start the node again"
    )]
    Full {
        /// File of the log folder.
        file: String,
        /// The least that it needs.
        bytes: u64,
    },
    /// Bytes that were durable have changed or are gone, or the disk does not give them.
    #[error(
        "log segment {segment:016x} {} byte {offset} (log index {index} or near it); the disk has lost data: a start of \
         this node repairs it from its peers",
        if *.unreadable { "is unreadable (EIO) at" } else { "was synced and is damaged at" }
    )]
    Rot {
        /// Segment id.
        segment: u64,
        /// Byte in the segment file.
        offset: u64,
        /// The first log index that cannot be trusted.
        index: u64,
        /// A bad sector: the disk gives an error (EIO) in place of bytes.
        unreadable: bool,
    },
    /// A whole segment file is missing.
    #[error(
        "log segment {segment:016x} is missing, and with it log index {index} and following; put the file back, \
         or let a start of this node repair it from its peers"
    )]
    Missing {
        /// Segment id.
        segment: u64,
        /// The first log index that is missing.
        index: u64,
    },
    /// The segment was written by a release that knows more.
    #[error(
        "log segment {segment:016x} was written by Saola {release} in format version {version}, which this release ({}) does \
         not know; install Saola {release} or newer and start that",
        crate::release::RELEASE
    )]
    UnknownVersion {
        /// Segment id.
        segment: u64,
        /// Format version found.
        version: u32,
        /// The release that wrote it.
        release: String,
    },
    /// The segment belongs to another Raft group or was renamed by hand.
    #[error(
        "log segment {segment:016x} says it is segment {found_segment:016x} of group {found_group}, not of group {group}; \
         put the right log folder in place"
    )]
    Foreign {
        /// Segment id by file name.
        segment: u64,
        /// Group id expected.
        group: u64,
        /// Segment id in the head.
        found_segment: u64,
        /// Group id in the head.
        found_group: u64,
    },
    /// The log goes on in an epoch that the node's identity does not know.
    #[error(
        "log segment {segment:016x} was written in {found}, and the folder's identity file says {own}: an older identity file \
         was put back beside this log; put back the one that belongs to it, or replace this node with \
         `saola cluster replace`"
    )]
    OtherEpoch {
        /// Segment id.
        segment: u64,
        /// Of the segment.
        found: EpochId,
        /// Of the identity.
        own: EpochId,
    },
    /// A damaged log cannot be made whole.
    #[error("the damaged log cannot be repaired: {reason}; replace this node with `saola cluster replace`")]
    Unrepaired {
        /// Why.
        reason: String,
    },
    /// An entry was appended that does not follow the one before it.
    #[error(
        "entry {got} was appended where index {expected} must follow; this is a defect: report it with the node's log"
    )]
    Hole {
        /// Index that had to come.
        expected: u64,
        /// Index that came.
        got: u64,
    },
    /// An entry over the limit of 1 GiB.
    #[error(
        "entry {index} has {bytes} bytes, more than a log record takes; refuse such requests before proposing them"
    )]
    TooLarge {
        /// Log index.
        index: u64,
        /// Payload bytes.
        bytes: usize,
    },
    /// The settings cannot work.
    #[error("log segments of {segment_bytes} bytes do not work; choose from 8 KiB to 1 GiB")]
    Settings {
        /// The segment size asked for.
        segment_bytes: u64,
    },
    /// The log was closed, or its writer is gone.
    #[error("the log is closed; open it again")]
    Closed,
}

impl LogError {
    pub(super) fn repair(reason: &str) -> LogError {
        LogError::Unrepaired { reason: reason.to_owned() }
    }

    /// For `map_err`: says what was tried on which file.
    pub(super) fn io(what: &'static str, file: &str) -> impl FnOnce(io::Error) -> LogError {
        let file = file.to_owned();
        move |source| LogError::Io { what, file, source: Arc::new(source) }
    }
}
