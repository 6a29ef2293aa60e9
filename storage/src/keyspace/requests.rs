//! Outcomes of recent calls, one row per client. The key is the client's id.

use prost::Message;

use crate::command::Outcome;

/// What is remembered of one client.
#[derive(Clone, PartialEq, Message)]
pub struct RequestRow {
    /// Newest log index that the client named as seen before its first call, below that of its newest call.
    #[prost(uint64, tag = "1")]
    pub since: u64,
    /// All lower sequences are settled.
    #[prost(uint64, tag = "2")]
    pub done_below: u64,
    /// Log index of its newest call; the client with the lowest is evicted first.
    #[prost(uint64, tag = "3")]
    pub last_used: u64,
    /// Outcomes at or above `done_below`, by sequence.
    #[prost(message, repeated, tag = "4")]
    pub calls: Vec<Call>,
}

/// One call and its outcome.
#[derive(Clone, PartialEq, Message)]
pub struct Call {
    /// The client's number for it.
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    /// What it was answered.
    #[prost(message, required, tag = "2")]
    pub outcome: Outcome,
}
