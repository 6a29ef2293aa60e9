//! What is done when the site that leads is lost, what the witness still vouches for, and what the cluster is declared
//! to survive; a row each, beside the protection.

use bytes::Bytes;
use prost::Message;

use super::{decode_value, encode_value};
use crate::command::{ReleaseFloor, SetFailover, SetGoal};
use crate::engine::Kind;
use crate::error::StoreError;
use crate::failover::{Failover, FailoverState};
use crate::goal::{self, Goal};

/// Key of the row.
pub const KEY: &[u8] = b"failover";

/// Value of the row.
#[derive(Clone, PartialEq, Message)]
pub struct FailoverRow {
    /// The rule, as the command that set it.
    #[prost(message, optional, tag = "1")]
    pub rule: Option<SetFailover>,
    /// When sites took over by themselves since then, microseconds since 1970.
    #[prost(uint64, repeated, tag = "2")]
    pub done_us: Vec<u64>,
    /// Leadership has not been back at home since that site was lost, or since somebody moved it.
    #[prost(bool, tag = "3")]
    pub away: bool,
    /// Where leadership is.
    #[prost(string, tag = "4")]
    pub led_from: String,
}

/// Key of the row that says from where on the witness vouches; its value is the command that set it.
pub const RELEASED: &[u8] = b"released";

/// Value of that row.
pub fn encode_released(next: u64) -> Bytes {
    encode_value(&ReleaseFloor { next })
}

/// Reads it.
pub fn decode_released(value: Bytes) -> Result<u64, StoreError> {
    let row: ReleaseFloor = decode_value(Kind::Protection, RELEASED, value)?;
    Ok(row.next)
}

/// Key of the row that says what the cluster is declared to survive; its value is the command that set it.
pub const GOAL: &[u8] = b"goal";

/// Value of that row.
pub fn encode_goal(goal: Option<Goal>) -> Bytes {
    encode_value(&SetGoal { survive: goal::to_command(goal).into() })
}

/// Reads it.
pub fn decode_goal(value: Bytes) -> Result<Option<Goal>, StoreError> {
    let row: SetGoal = decode_value(Kind::Protection, GOAL, value)?;
    let unknown = |_| StoreError::corrupt(Kind::Protection, GOAL, "there is no such goal");
    goal::of_command(row.survive).map_err(unknown)
}

/// Value of the row.
pub fn encode(state: &FailoverState) -> Bytes {
    let FailoverState { rule, done_us, away, led_from } = state.clone();
    encode_value(&FailoverRow { rule: Some(rule.to_command()), done_us, away, led_from })
}

/// Reads the row.
pub fn decode(value: Bytes) -> Result<FailoverState, StoreError> {
    let row: FailoverRow = decode_value(Kind::Protection, KEY, value)?;
    let unknown = || StoreError::corrupt(Kind::Protection, KEY, "there is no such policy");
    let rule = Failover::of_command(row.rule.unwrap_or_default()).ok_or_else(unknown)?;
    Ok(FailoverState { rule, done_us: row.done_us, away: row.away, led_from: row.led_from })
}
