//! What an acknowledgement waits for; one row.

use bytes::Bytes;
use prost::Message;

use super::{array, decode_value, encode_value};
use crate::command::SetProtection;
use crate::engine::Kind;
use crate::error::StoreError;
use crate::protection::{Mode, Protection, ProtectionState, WaitsFor};

/// Key of the row.
pub const KEY: &[u8] = b"protection";

/// Value of the row. The first two fields are those of the command `SetProtection`, which was the whole row once; the
/// others are missing there.
#[derive(Clone, PartialEq, Message)]
pub struct ProtectionRow {
    /// See [`SetProtection`].
    #[prost(enumeration = "crate::command::ProtectionMode", tag = "1")]
    pub mode: i32,
    /// See [`SetProtection`].
    #[prost(uint32, tag = "2")]
    pub acks: u32,
    /// See [`SetProtection`].
    #[prost(uint64, tag = "3")]
    pub degrade_ms: u64,
    /// See [`SetProtection`].
    #[prost(uint64, tag = "4")]
    pub return_ms: u64,
    /// See [`SetProtection`].
    #[prost(uint64, tag = "5")]
    pub parity_ms: u64,
    /// Id of the state, 16 bytes.
    #[prost(bytes = "bytes", tag = "6")]
    pub state_id: Bytes,
    /// Under maximum availability: the gate is closed. The other modes say so themselves.
    #[prost(bool, tag = "7")]
    pub synchronized: bool,
    /// Entry that began the state.
    #[prost(uint64, tag = "8")]
    pub at_index: u64,
    /// When it began, microseconds since 1970.
    #[prost(uint64, tag = "9")]
    pub since_us: u64,
    /// When the gate was opened because the other site did not answer.
    #[prost(uint64, repeated, tag = "10")]
    pub losses_us: Vec<u64>,
    /// How long it had been open, in the quarter in which the state began.
    #[prost(uint64, tag = "11")]
    pub open_us: u64,
    /// See [`ProtectionState::former_degrade_ms`].
    #[prost(uint64, tag = "12")]
    pub former_degrade_ms: u64,
    /// Under maximum availability: the witness stands in for the other site. Never with `synchronized`.
    #[prost(bool, tag = "13")]
    pub waits_for_witness: bool,
    /// See [`SetProtection`].
    #[prost(uint64, tag = "14")]
    pub shrink_ms: u64,
}

/// Value of the row.
pub fn encode(state: &ProtectionState) -> Bytes {
    let SetProtection { mode, acks, degrade_ms, return_ms, parity_ms, state_id, shrink_ms } =
        state.rule.to_command(state.id);
    let moves = state.rule.mode == Mode::MaximumAvailability;
    encode_value(&ProtectionRow {
        mode,
        acks,
        degrade_ms,
        return_ms,
        parity_ms,
        // So that a row of old is encoded as it was: its digest is known by its bytes.
        state_id: if state.id == [0; 16] { Bytes::new() } else { state_id },
        synchronized: moves && state.is_closed(),
        at_index: state.at_index,
        since_us: state.since_us,
        losses_us: state.losses_us.clone(),
        open_us: state.open_us,
        former_degrade_ms: state.former_degrade_ms,
        waits_for_witness: moves && state.waits_for == WaitsFor::Witness,
        shrink_ms,
    })
}

/// Reads the row.
pub fn decode(value: Bytes) -> Result<ProtectionState, StoreError> {
    let row: ProtectionRow = decode_value(Kind::Protection, KEY, value)?;
    let unknown = || StoreError::corrupt(Kind::Protection, KEY, format!("there is no mode {}", row.mode));
    let ProtectionRow { mode, acks, degrade_ms, return_ms, parity_ms, shrink_ms, .. } = row;
    let set = SetProtection { mode, acks, degrade_ms, return_ms, parity_ms, state_id: Bytes::new(), shrink_ms };
    let rule = Protection::of_command(&set).ok_or_else(unknown)?;
    let id = match row.state_id.is_empty() {
        true => [0; 16],
        false => array(Kind::Protection, KEY, "the state's id", &row.state_id)?,
    };
    Ok(ProtectionState {
        rule,
        waits_for: match rule.mode {
            Mode::MaximumPerformance => WaitsFor::Nobody,
            Mode::MaximumAvailability if row.synchronized => WaitsFor::OtherSite,
            Mode::MaximumAvailability if row.waits_for_witness => WaitsFor::Witness,
            Mode::MaximumAvailability => WaitsFor::Nobody,
            Mode::MaximumProtection => WaitsFor::OtherSite,
        },
        id,
        at_index: row.at_index,
        since_us: row.since_us,
        losses_us: row.losses_us,
        open_us: row.open_us,
        former_degrade_ms: row.former_degrade_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protection::Timers;

    #[test]
    fn a_row_of_the_first_form_is_read_and_encoded_as_it_was() {
        // Version 1, mode 3, 2 acknowledgements; and mode 1, which is not written out, 1 acknowledgement.
        for (bytes, mode, acks) in
            [(&[1, 8, 3, 16, 2][..], Mode::MaximumProtection, 2), (&[1, 16, 1], Mode::MaximumPerformance, 1)]
        {
            let state = decode(Bytes::from_static(bytes)).expect("an older release wrote it");
            assert_eq!(state.rule, Protection { mode, acks, timers: Timers::default() });
            assert_eq!(state.is_closed(), mode == Mode::MaximumProtection);
            assert_eq!(encode(&state), bytes);
        }
    }

    #[test]
    fn a_state_survives_its_row() {
        for (mode, waits_for) in [
            (Mode::MaximumAvailability, WaitsFor::OtherSite),
            (Mode::MaximumAvailability, WaitsFor::Witness),
            (Mode::MaximumAvailability, WaitsFor::Nobody),
            (Mode::MaximumPerformance, WaitsFor::Nobody),
            (Mode::MaximumProtection, WaitsFor::OtherSite),
        ] {
            let timers = Timers { degrade_ms: 800, return_ms: 30_000, parity_ms: 10_000, shrink_ms: 600_000 };
            let rule = Protection { mode, acks: 2, timers };
            let (id, losses_us) = ([3; 16], vec![5, 6]);
            let (at_index, since_us, former_degrade_ms, open_us) = (7, 8, 9, 10);
            let state =
                ProtectionState { rule, waits_for, id, at_index, since_us, losses_us, former_degrade_ms, open_us };
            assert_eq!(decode(encode(&state)).expect("its own"), state);
        }
    }
}
