//! What an acknowledgement waits for: one row, replaced by each change.

use std::sync::Arc;

use bytes::Bytes;

use super::draft::Draft;
use super::{Machine, Place};
use crate::command::{Decision, Done, MoveGate, OtherState, Reseal, SetProtection};
use crate::digest::Item;
use crate::engine::Kind;
use crate::error::StoreError;
use crate::keyspace::protection;
use crate::protection::{Beginning, Mode, Protection, ProtectionState};

impl Machine {
    pub(super) fn set_protection(
        &mut self,
        draft: &mut Draft<'_>,
        set: &SetProtection,
        place: Place,
    ) -> Result<Decision, StoreError> {
        // The mode of a newer release rules what may be acknowledged: nobody may go past it without knowing it.
        let rule = Protection::of_command(set).ok_or(StoreError::UnknownCommand { index: place.index })?;
        // An older release gave states no id: their entry's index tells them apart.
        let id = <[u8; 16]>::try_from(&set.state_id[..]).unwrap_or(u128::from(place.index).to_be_bytes());
        let next = self.protection().with_rule(rule, self.beginning(id, place));
        self.replace_protection(draft, next);
        Ok(Decision::Done(Done {}))
    }

    /// Opens the gate, or closes it.
    pub(super) fn move_gate(
        &mut self,
        draft: &mut Draft<'_>,
        to_closed: bool,
        change: MoveGate,
        place: Place,
    ) -> Decision {
        let present = self.protection();
        let Ok(id) = <[u8; 16]>::try_from(&change.to[..]) else {
            return Decision::Reseal(Reseal {});
        };
        let fits = present.id[..] == change.from[..] && present.is_closed != to_closed;
        if !fits || present.rule.mode != Mode::MaximumAvailability {
            return Decision::OtherState(OtherState {});
        }
        let at = self.beginning(id, place);
        let next = if to_closed { present.synchronized(at) } else { present.degraded(at) };
        self.replace_protection(draft, next);
        Decision::Done(Done {})
    }

    fn protection(&self) -> ProtectionState {
        self.catalog.protection.clone().unwrap_or_default()
    }

    fn beginning(&self, id: [u8; 16], place: Place) -> Beginning {
        Beginning { id, index: place.index, now_us: place.stamp_us.max(self.applied.clock_us) }
    }

    fn replace_protection(&mut self, draft: &mut Draft<'_>, next: ProtectionState) {
        let before = self.catalog.protection.as_ref().map(protection::encode);
        let written = before.map(|before| Item::new(Kind::Protection, protection::KEY, &before));
        let key = Bytes::from_static(protection::KEY);
        draft.replace_row(Kind::Protection, key, written, protection::encode(&next));
        Arc::make_mut(&mut self.catalog).protection = Some(next);
    }
}
