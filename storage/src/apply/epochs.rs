//! Who may approve a forced promotion, and the first command of the epoch that one begins.

use std::sync::Arc;

use bytes::Bytes;

use super::draft::Draft;
use super::{Machine, Place};
use crate::command::{BeginEpoch, Decision, Done, OtherState, SetApprovers};
use crate::digest::Item;
use crate::engine::Kind;
use crate::epoch::{Approvers, Epoch, KEPT_LISTS};
use crate::keyspace::epochs;

impl Machine {
    pub(super) fn set_approvers(&mut self, draft: &mut Draft<'_>, set: SetApprovers, place: Place) -> Decision {
        self.add_approvers(draft, Approvers::of_command(set, place.index));
        Decision::Done(Done {})
    }

    /// The same on a witness, which may know the list from a node that it heard before.
    pub(super) fn learn_approvers(&mut self, draft: &mut Draft<'_>, list: Approvers) {
        if self.catalog.approvers.last().is_none_or(|newest| newest.at_index < list.at_index) {
            self.add_approvers(draft, list);
        }
    }

    fn add_approvers(&mut self, draft: &mut Draft<'_>, list: Approvers) {
        let lists = &mut Arc::make_mut(&mut self.catalog).approvers;
        let before = (!lists.is_empty()).then(|| epochs::encode_approvers(lists));
        lists.push(list);
        if lists.len() > KEPT_LISTS {
            lists.remove(0);
        }
        let after = epochs::encode_approvers(lists);
        replace(draft, epochs::APPROVERS, before, after);
    }

    pub(super) fn begin_epoch(&mut self, draft: &mut Draft<'_>, begin: BeginEpoch, place: Place) -> Decision {
        let newest = self.catalog.epochs.last().map_or(1, |epoch| epoch.number);
        let Ok(state_id) = <[u8; 16]>::try_from(&begin.state_id[..]) else {
            return Decision::OtherState(OtherState {});
        };
        if begin.epoch <= newest {
            return Decision::OtherState(OtherState {});
        }
        self.stand_alone(draft, state_id, begin.site, place);
        let revision = self.applied.revision;
        let began_us = place.stamp_us.max(self.applied.clock_us);
        let known = &mut Arc::make_mut(&mut self.catalog).epochs;
        let before = (!known.is_empty()).then(|| epochs::encode_epochs(known));
        known.push(Epoch { number: begin.epoch, record: begin.record, at_index: place.index, revision, began_us });
        let after = epochs::encode_epochs(known);
        replace(draft, epochs::EPOCHS, before, after);
        Decision::Done(Done {})
    }
}

fn replace(draft: &mut Draft<'_>, key: &'static [u8], before: Option<Bytes>, after: Bytes) {
    let written = before.map(|before| Item::new(Kind::Protection, key, &before));
    draft.replace_row(Kind::Protection, Bytes::from_static(key), written, after);
}
