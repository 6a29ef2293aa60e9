//! Commands about what an acknowledgement waits for: see [`crate::protection`].

use bytes::Bytes;
use prost::{Enumeration, Message};

/// Change the rule: of this command's own entry on.
#[derive(Clone, PartialEq, Message)]
pub struct SetProtection {
    /// When a write counts as safe.
    #[prost(enumeration = "ProtectionMode", tag = "1")]
    pub mode: i32,
    /// So many data nodes of other sites must have flushed it, at least 1.
    #[prost(uint32, tag = "2")]
    pub acks: u32,
    /// See [`crate::protection::Timers::degrade_ms`].
    #[prost(uint64, tag = "3")]
    pub degrade_ms: u64,
    /// See [`crate::protection::Timers::return_ms`].
    #[prost(uint64, tag = "4")]
    pub return_ms: u64,
    /// See [`crate::protection::Timers::parity_ms`].
    #[prost(uint64, tag = "5")]
    pub parity_ms: u64,
    /// 16 random bytes: the id of the state that begins.
    #[prost(bytes = "bytes", tag = "6")]
    pub state_id: Bytes,
    /// See [`crate::protection::Timers::shrink_ms`].
    #[prost(uint64, tag = "7")]
    pub shrink_ms: u64,
}

/// See [`crate::protection::Mode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum ProtectionMode {
    /// Once it is committed.
    MaximumPerformance = 1,
    /// Once other sites have it too, as long as they answer.
    MaximumAvailability = 2,
    /// Once other sites have it too.
    MaximumProtection = 3,
}

/// Have acknowledgements wait for somebody else under maximum availability, if the state is still the one that was
/// looked at.
#[derive(Clone, PartialEq, Message)]
pub struct MoveGate {
    /// Id of the state that ends.
    #[prost(bytes = "bytes", tag = "1")]
    pub from: Bytes,
    /// 16 random bytes: the id of the state that begins.
    #[prost(bytes = "bytes", tag = "2")]
    pub to: Bytes,
}

/// Leadership is at another site than before.
#[derive(Clone, PartialEq, Message)]
pub struct LeadFrom {
    /// Where it is now.
    #[prost(string, tag = "1")]
    pub site: String,
    /// How it came there.
    #[prost(enumeration = "CameBy", tag = "2")]
    pub came_by: i32,
}

/// See [`LeadFrom::came_by`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum CameBy {
    /// An election, while the site before was there.
    Election = 0,
    /// Somebody has moved it.
    Request = 1,
    /// The site before was lost, and this one has taken over by itself.
    Loss = 2,
}

/// Change what is done when the site that leads is lost.
#[derive(Clone, PartialEq, Message)]
pub struct SetFailover {
    /// Whether another site takes over by itself.
    #[prost(enumeration = "FailoverPolicy", tag = "1")]
    pub policy: i32,
    /// So many times within six hours; 0: always.
    #[prost(uint32, tag = "2")]
    pub limit: u32,
    /// The site where leadership belongs; empty: anywhere.
    #[prost(string, tag = "3")]
    pub home: String,
    /// It goes back there by itself even after that site was lost.
    #[prost(bool, tag = "4")]
    pub returns: bool,
}

/// Declare what the cluster survives.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct SetGoal {
    /// What may be lost while everything goes on by itself.
    #[prost(enumeration = "SurvivalGoal", tag = "1")]
    pub survive: i32,
}

/// See [`crate::goal::Goal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum SurvivalGoal {
    /// Nothing is declared.
    Nothing = 0,
    /// Any one node.
    Node = 1,
    /// Any one site.
    Site = 2,
}

/// The witness vouches only for entries from here on: it has no room for older ones that a data node lacks.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct ReleaseFloor {
    /// First index that it keeps.
    #[prost(uint64, tag = "1")]
    pub next: u64,
}

/// See [`crate::failover::Policy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum FailoverPolicy {
    /// Another site takes over by itself.
    Automatic = 0,
    /// It votes and does not campaign.
    ObserveOnly = 1,
}
