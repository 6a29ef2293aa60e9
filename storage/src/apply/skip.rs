//! A witness goes on behind entries that nobody gives it any more.

use bytes::Bytes;

use super::draft::Draft;
use super::{Applying, Machine, membership_value};
use crate::engine::{EngineView, Kind};
use crate::epoch::Approvers;
use crate::error::StoreError;
use crate::keyspace::meta;
use crate::types::LogId;

/// What a witness is told of the state at an entry in the place of all entries up to it.
#[derive(Clone, Debug)]
pub struct SkipTo {
    /// That entry.
    pub last: LogId,
    /// The membership in force there, with the entry that set it; none: the one that it knows.
    pub membership: Option<(LogId, Bytes)>,
    /// The lists of approvers, the newest last. Those that a later entry set come with it: that entry may never be this
    /// node's, if a promotion goes on without it.
    pub approvers: Vec<Approvers>,
}

impl Machine {
    /// Changes nothing when the entry has been applied: it may come again, or too late.
    pub fn skip_to(&mut self, view: &dyn EngineView, to: SkipTo) -> Result<Applying, StoreError> {
        let mut digest = std::mem::take(&mut self.digest);
        let mut draft = Draft::new(view, &mut digest);
        if Some(to.last) > self.applied.log_id {
            let known = self.applied.membership.as_ref().map(|(at, _)| *at);
            if let Some((at, membership)) = to.membership.filter(|(at, _)| *at <= to.last && Some(*at) > known) {
                draft.batch.put(Kind::Meta, meta::MEMBERSHIP, membership_value(at, &membership));
                self.applied.membership = Some((at, membership));
            }
            for list in to.approvers.into_iter().filter(|list| list.at_index <= to.last.index) {
                self.learn_approvers(&mut draft, list);
            }
            self.applied.log_id = Some(to.last);
            draft.batch.put(Kind::Meta, meta::APPLIED, self.applied_value());
        }
        let batch = draft.finish();
        self.digest = digest;
        Ok(Applying { batch, outcomes: Vec::new(), trail: Vec::new() })
    }
}
