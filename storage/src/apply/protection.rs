//! What an acknowledgement waits for, and what is done when a site is lost: a row each, replaced by each change.

use std::sync::Arc;

use bytes::Bytes;

use super::draft::Draft;
use super::{Machine, Place};
use crate::command::{
    CameBy, Decision, Done, LeadFrom, MoveGate, OtherState, ReleaseFloor, Reseal, SetFailover, SetGoal, SetProtection,
};
use crate::digest::Item;
use crate::engine::Kind;
use crate::error::StoreError;
use crate::failover::{Failover, FailoverState};
use crate::goal;
use crate::keyspace::{failover, protection};
use crate::protection::{Beginning, Mode, Protection, ProtectionState, WaitsFor};

impl Machine {
    pub(super) fn set_protection(
        &mut self,
        draft: &mut Draft<'_>,
        set: &SetProtection,
        place: Place,
    ) -> Result<Decision, StoreError> {
        // The mode of a newer release rules what may be acknowledged: nobody may go past it without knowing it.
        let rule = Protection::of_command(set).ok_or(StoreError::UnknownCommand { index: place.index })?;
        let next = match <[u8; 16]>::try_from(&set.state_id[..]) {
            Ok(id) => self.protection().with_rule(rule, self.beginning(id, place)),
            Err(_) => ProtectionState::of_old(rule),
        };
        self.replace_protection(draft, next);
        Ok(Decision::Done(Done {}))
    }

    /// Has acknowledgements wait for somebody else.
    pub(super) fn move_gate(
        &mut self,
        draft: &mut Draft<'_>,
        waits_for: WaitsFor,
        change: MoveGate,
        place: Place,
    ) -> Decision {
        let present = self.protection();
        let Ok(id) = <[u8; 16]>::try_from(&change.to[..]) else {
            return Decision::Reseal(Reseal {});
        };
        let fits = present.id[..] == change.from[..] && present.waits_for != waits_for;
        if !fits || present.rule.mode != Mode::MaximumAvailability {
            return Decision::OtherState(OtherState {});
        }
        self.replace_protection(draft, present.waiting_for(waits_for, self.beginning(id, place)));
        Decision::Done(Done {})
    }

    pub(super) fn set_failover(
        &mut self,
        draft: &mut Draft<'_>,
        set: SetFailover,
        place: Place,
    ) -> Result<Decision, StoreError> {
        // A newer release's policy says who may lead: nobody may go past it without knowing it.
        let rule = Failover::of_command(set).ok_or(StoreError::UnknownCommand { index: place.index })?;
        let next = self.catalog.failover.clone().unwrap_or_default().with_rule(rule);
        self.replace_failover(draft, next);
        Ok(Decision::Done(Done {}))
    }

    pub(super) fn lead_from(&mut self, draft: &mut Draft<'_>, lead: LeadFrom, place: Place) -> Decision {
        let (came_by, now_us) = (lead.came_by(), self.beginning([0; 16], place).now_us);
        let next = self.catalog.failover.clone().unwrap_or_default().led_from(lead.site, came_by, now_us);
        self.replace_failover(draft, next);
        Decision::Done(Done {})
    }

    /// It never goes back: what was forgotten is not there any more.
    pub(super) fn release_floor(&mut self, draft: &mut Draft<'_>, release: ReleaseFloor) -> Decision {
        let before = self.catalog.released_next;
        if release.next > before {
            let written = (before > 0)
                .then(|| Item::new(Kind::Protection, failover::RELEASED, &failover::encode_released(before)));
            let key = Bytes::from_static(failover::RELEASED);
            draft.replace_row(Kind::Protection, key, written, failover::encode_released(release.next));
            Arc::make_mut(&mut self.catalog).released_next = release.next;
        }
        Decision::Done(Done {})
    }

    pub(super) fn set_goal(
        &mut self,
        draft: &mut Draft<'_>,
        set: SetGoal,
        place: Place,
    ) -> Result<Decision, StoreError> {
        // A newer release's goal says which nodes may go: nobody may go past it without knowing it.
        let goal = goal::of_command(set.survive).map_err(|_| StoreError::UnknownCommand { index: place.index })?;
        let before = self.catalog.goal.map(failover::encode_goal);
        let written = before.map(|before| Item::new(Kind::Protection, failover::GOAL, &before));
        let key = Bytes::from_static(failover::GOAL);
        draft.replace_row(Kind::Protection, key, written, failover::encode_goal(goal));
        Arc::make_mut(&mut self.catalog).goal = Some(goal);
        Ok(Decision::Done(Done {}))
    }

    /// No other site is there any more: nothing waits for one, and leadership belongs to `site`.
    pub(super) fn stand_alone(&mut self, draft: &mut Draft<'_>, state_id: [u8; 16], site: String, place: Place) {
        let present = self.protection();
        let at = self.beginning(state_id, place);
        let now_us = at.now_us;
        self.replace_protection(draft, present.alone(at));
        let before = self.catalog.failover.clone().unwrap_or_default();
        let rule = Failover { home: site.clone(), ..before.rule.clone() };
        self.replace_failover(draft, before.with_rule(rule).led_from(site, CameBy::Request, now_us));
    }

    fn replace_failover(&mut self, draft: &mut Draft<'_>, next: FailoverState) {
        let before = self.catalog.failover.as_ref().map(failover::encode);
        let written = before.map(|before| Item::new(Kind::Protection, failover::KEY, &before));
        let key = Bytes::from_static(failover::KEY);
        draft.replace_row(Kind::Protection, key, written, failover::encode(&next));
        Arc::make_mut(&mut self.catalog).failover = Some(next);
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
