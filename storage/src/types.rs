//! Plain values that the log, the state machine and the layers above share.

use std::fmt;

/// Number of a node within its cluster. Never reused.
pub type NodeId = u64;

/// A Raft leader: its term and node id. Ordered by term, then node id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaderId {
    /// Raft's period.
    pub term: u64,
    /// The node that led in it.
    pub node_id: NodeId,
}

/// A place in the log: index and the leader that wrote it. Ordered by leader, then index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// Leader that proposed the entry.
    pub leader: LeaderId,
    /// Position in the log, from 0.
    pub index: u64,
}

/// A vote that a node has given, or (committed) the leadership it has accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vote {
    /// Candidate or leader.
    pub leader: LeaderId,
    /// True once a quorum granted it.
    pub committed: bool,
}

/// Which lineage of the cluster. People who approve two plans for one epoch begin two of that number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpochId {
    /// 1 for the first one, +1 with each forced promotion; 0: no cluster yet.
    pub number: u64,
    /// The first 8 bytes, big-endian, of the hash of the plan that began it ([`crate::promotion::plan_hash`]); 0: none did, or
    /// it is not known.
    pub plan: u64,
}

impl EpochId {
    /// Whether both have one number, and two plans began them.
    pub fn is_twin_of(self, other: EpochId) -> bool {
        self.number == other.number && self.plan != 0 && other.plan != 0 && self.plan != other.plan
    }
}

impl fmt::Display for EpochId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.plan {
            0 => write!(f, "epoch {}", self.number),
            plan => write!(f, "epoch {} (plan {plan:016x})", self.number),
        }
    }
}

impl fmt::Display for LeaderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "T{}-N{}", self.term, self.node_id)
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.leader, self.index)
    }
}

impl fmt::Display for Vote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.leader, if self.committed { " committed" } else { "" })
    }
}
