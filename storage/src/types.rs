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
