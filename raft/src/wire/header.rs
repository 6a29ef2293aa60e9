//! Who sends to whom, and what is answered when that does not fit.

use bytes::Bytes;
use prost::{Enumeration, Message};
use saola_storage::types::EpochId;

use super::WireLogId;

/// Wire format version that this release speaks.
pub const WIRE_VERSION: u32 = 1;

/// Who sends to whom, and of which cluster.
#[derive(Clone, PartialEq, Message)]
pub struct Header {
    /// Always [`WIRE_VERSION`].
    #[prost(uint32, tag = "1")]
    pub wire_version: u32,
    /// Raft group within the process; there is one, number 0.
    #[prost(uint64, tag = "2")]
    pub group_id: u64,
    /// 16 bytes; empty: the sender is not part of a cluster yet.
    #[prost(bytes = "bytes", tag = "3")]
    pub cluster_id: Bytes,
    /// Lineage of the cluster, 0 before there is one.
    #[prost(uint64, tag = "4")]
    pub epoch: u64,
    /// Sender.
    #[prost(uint64, tag = "5")]
    pub from: u64,
    /// Receiver.
    #[prost(uint64, tag = "6")]
    pub to: u64,
    /// Folder id of the sender's data folder.
    #[prost(bytes = "bytes", tag = "7")]
    pub from_folder: Bytes,
    /// Folder id that the membership records for the receiver (empty: not recorded yet).
    #[prost(bytes = "bytes", tag = "8")]
    pub to_folder: Bytes,
    /// Sender's role.
    #[prost(enumeration = "crate::member::Role", tag = "9")]
    pub from_role: i32,
    /// Sender's site.
    #[prost(string, tag = "10")]
    pub from_site: String,
    /// Sender's name; its certificate must carry it.
    #[prost(string, tag = "11")]
    pub from_name: String,
    /// Highest log index, plus one, that the sender has counted as flushed at the receiver in its present leadership.
    #[prost(uint64, tag = "12")]
    pub counted_next: u64,
    /// Term of that leadership; 0 when the sender does not speak as leader.
    #[prost(uint64, tag = "13")]
    pub counted_term: u64,
    /// Entry of the sender's log that set the newest membership with the sender in it; missing: there is none yet.
    #[prost(message, optional, tag = "14")]
    pub member_at: Option<WireLogId>,
    /// 16 bytes that the sending process drew when it started.
    #[prost(bytes = "bytes", tag = "15")]
    pub from_boot: Bytes,
    /// Sender's release, for messages to people.
    #[prost(string, tag = "16")]
    pub release: String,
    /// See [`EpochId::plan`](saola_storage::types::EpochId::plan).
    #[prost(fixed64, tag = "17")]
    pub plan: u64,
}

impl Header {
    /// The sender's lineage.
    pub fn epoch_id(&self) -> EpochId {
        EpochId { number: self.epoch, plan: self.plan }
    }
}

/// Why a message was not taken, and what to do.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Refusal {
    /// Stable code.
    #[prost(enumeration = "RefusalCode", tag = "1")]
    pub code: i32,
    /// One sentence with the next step.
    #[prost(string, tag = "2")]
    pub message: String,
    /// For NotLeader: who is, 0: unknown.
    #[prost(uint64, tag = "3")]
    pub leader: u64,
    /// For WrongEpoch and TwinEpoch: the recovery record of the receiver's epoch, bytes of a `SignedPlan`; empty: it knows none.
    #[prost(bytes = "bytes", tag = "4")]
    pub record: Bytes,
}

/// Kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum RefusalCode {
    /// Unreadable or incomplete message, or another wire version.
    BadMessage = 0,
    /// The receiver is not part of a cluster yet.
    NotAdopted = 1,
    /// Another cluster.
    WrongCluster = 2,
    /// Addressed to another node id.
    WrongNode = 3,
    /// The receiver's data folder is not the one that the membership records.
    WrongFolder = 4,
    /// The sender's data folder, name, site or role is not the one that the membership records.
    UnknownSender = 5,
    /// Another epoch.
    WrongEpoch = 6,
    /// The receiver's log ends before what the leader has counted: an older copy of the folder was put back.
    FolderBehind = 7,
    /// Ask the leader.
    NotLeader = 8,
    /// Surely not applied: full queue.
    Busy = 9,
    /// Surely not applied: disk below the free-space mark.
    DiskFull = 10,
    /// May or may not have been applied.
    Unknown = 11,
    /// Raft has stopped on this node.
    Stopped = 12,
    /// The request makes no sense here; the message says why.
    Invalid = 13,
    /// The sender's certificate is another node's.
    WrongCertificate = 14,
    /// The sender was removed from the cluster.
    Removed = 15,
    /// Another process than the sender runs as this node at the address that the membership records.
    TwoProcesses = 16,
    /// Nothing answers at the address that the membership records for the sender.
    Unverified = 17,
    /// Surely not applied: the leader's disk hangs.
    DiskHangs = 18,
    /// Surely not applied: too much waits for the other site already.
    GateBusy = 19,
    /// May or may not count: it waits for the other site.
    GateWait = 20,
    /// An epoch of the same number, which another plan began.
    TwinEpoch = 21,
}

impl Refusal {
    /// A refusal without a leader hint.
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self { code: code as i32, message: message.into(), leader: 0, record: Bytes::new() }
    }

    /// Whether a command that was refused like this has surely not been proposed.
    pub fn was_not_taken(&self) -> bool {
        !matches!(self.kind(), RefusalCode::Unknown | RefusalCode::GateWait)
    }

    /// The code as a value; numbers of a newer release count as `BadMessage`.
    pub fn kind(&self) -> RefusalCode {
        RefusalCode::try_from(self.code).unwrap_or(RefusalCode::BadMessage)
    }
}

#[cfg(test)]
impl Header {
    /// Of a message from voter 1, main-1 at site main, to node 2, as tests of several modules send it.
    pub(crate) fn of_a_voter() -> Header {
        let id = |byte| Bytes::copy_from_slice(&[byte; 16]);
        Header {
            wire_version: super::WIRE_VERSION,
            cluster_id: id(1),
            epoch: 1,
            from: 1,
            to: 2,
            from_folder: id(7),
            to_folder: id(2),
            from_role: crate::member::Role::Voter as i32,
            from_site: "main".into(),
            from_name: "main-1".into(),
            from_boot: id(8),
            ..Header::default()
        }
    }
}
