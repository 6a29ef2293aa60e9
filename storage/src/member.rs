//! Who belongs to the cluster: the node entry of Raft's membership, and the membership's bytes.
//!
//! For the state machine a membership is opaque; its form stands here for those who read a stopped node's folder.

use bytes::Bytes;
use prost::{Enumeration, Message};

use crate::types::NodeId;

/// What a node does in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum Role {
    /// Votes and keeps records.
    Voter = 1,
    /// Keeps records, does not vote.
    Learner = 2,
    /// Votes and keeps the sealed log; holds no records and no key.
    Witness = 3,
}

impl Role {
    /// True for nodes that keep records.
    pub fn is_data(self) -> bool {
        self != Role::Witness
    }

    /// True for nodes whose vote counts.
    pub fn votes(self) -> bool {
        self != Role::Learner
    }

    /// The role's name in settings and on the screen.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Voter => "voter",
            Role::Learner => "learner",
            Role::Witness => "witness",
        }
    }
}

/// One node of the cluster, as the replicated membership records it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Member {
    /// Its number. Never reused.
    #[prost(uint64, tag = "1")]
    pub node_id: NodeId,
    /// Its name, which its certificate must carry.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Its site.
    #[prost(string, tag = "3")]
    pub site: String,
    /// What it does.
    #[prost(enumeration = "Role", tag = "4")]
    pub role: i32,
    /// host:port for other nodes.
    #[prost(string, tag = "5")]
    pub peer_address: String,
    /// host:port for clients.
    #[prost(string, tag = "6")]
    pub client_address: String,
    /// 16 random bytes that its data folder was given when it was new.
    #[prost(bytes = "bytes", tag = "7")]
    pub folder_id: Bytes,
    /// Its role votes, and its vote was taken from it while its site was lost: it gets it back once it has caught up.
    #[prost(bool, tag = "8")]
    pub demoted: bool,
}

impl Member {
    /// The role as a value; unknown numbers, which a newer release may write, count as learner: they never vote here.
    pub fn role_value(&self) -> Role {
        Role::try_from(self.role).unwrap_or(Role::Learner)
    }
}

/// Raft's membership as stored in the log and in the state machine (format version 1).
#[derive(Clone, PartialEq, Message)]
pub struct MembershipRecord {
    /// Sets of voters; two while a change is under way.
    #[prost(message, repeated, tag = "1")]
    pub configs: Vec<VoterSet>,
    /// All nodes, learners included.
    #[prost(message, repeated, tag = "2")]
    pub seats: Vec<Seat>,
}

/// A member under the number by which Raft knows it.
#[derive(Clone, PartialEq, Message)]
pub struct Seat {
    /// Raft's number of the node.
    #[prost(uint64, tag = "1")]
    pub node_id: NodeId,
    /// The member.
    #[prost(message, optional, tag = "2")]
    pub member: Option<Member>,
}

/// One set of voters.
#[derive(Clone, PartialEq, Message)]
pub struct VoterSet {
    /// Their numbers, ascending.
    #[prost(uint64, repeated, tag = "1")]
    pub node_ids: Vec<NodeId>,
}
