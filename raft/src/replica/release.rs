//! What a witness may forget, decided at the leader.
//!
//! A witness may be the only holder of an entry outside a lost site. So it keeps whatever some data node does not have in
//! its flushed state machine, however long that node is away. Only when its log is larger than it may be, an entry
//! (RELEASE_FLOOR) says first from where on it still vouches; from then on the loss of the site that leads may lose what
//! lies before, and the status says so until all data nodes have it.

use std::time::Duration;

use saola_storage::command::{Command, Op, ReleaseFloor};
use saola_storage::protection::{Mode, WaitsFor};

use super::protection::WITNESS_LOST_MS;
use super::{Replica, Shared};
use crate::frontier;
use crate::links::Holding;
use crate::member::{Member, Role};
use crate::types::Runtime;

/// The entry has so long to be committed and shown.
const LIMIT: Duration = Duration::from_secs(10);

/// What is known of the data nodes and the witness.
#[derive(Clone, Debug, PartialEq, Eq)]
struct View {
    /// First index that is not in the flushed state machine, of each data node of the membership.
    states: Vec<u64>,
    /// First index within what the witness may hold; 0: it has room.
    room_from: u64,
    /// First index that the witness's log has; 0: it has all, or has not said.
    witness_from: u64,
    /// The replicated floor.
    released_next: u64,
    /// What the witness has been told to keep last.
    announced: u64,
}

impl View {
    /// First index that some data node does not have safely.
    fn held_from(&self) -> u64 {
        self.states.iter().copied().min().unwrap_or(0)
    }

    /// First index that the witness must keep.
    fn keeps_from(&self) -> u64 {
        self.held_from().max(self.released_next)
    }

    /// The floor that has to be released for the witness to have room.
    fn to_release(&self) -> Option<u64> {
        (self.room_from > self.keeps_from().max(self.announced)).then_some(self.room_from)
    }

    /// The witness lacks entries that some data node lacks too, by a release or because its log was lost.
    fn lets_go(&self) -> bool {
        // A leader that has not heard all data nodes goes by what was announced.
        self.released_next > self.held_from() || self.witness_from > self.held_from().max(self.announced)
    }
}

impl<RT: Runtime> Shared<RT> {
    /// The other site may lack what is acknowledged: then the witness's log is what makes up for it. One that stood in for
    /// a site without votes and was given up lacks it, too.
    pub(super) fn witness_is_needed(&self) -> bool {
        let elsewhere = frontier::elsewhere(&self.claim.site, &self.members());
        let by_choice = self.store.protection().rule.mode == Mode::MaximumPerformance;
        let seen = *self.protection_seen.lock();
        let in_force = seen.is_some_and(|seen| seen.is_in_force);
        let is_open = self.store.protection().waits_for == WaitsFor::Nobody;
        let lost = |ms: u64| ms >= WITNESS_LOST_MS;
        let given_up =
            self.votes_are_taken() && is_open && seen.and_then(|seen| seen.witness_acknowledged_ms).is_some_and(lost);
        !elsewhere.is_empty() && !by_choice && !in_force && !given_up
    }

    /// What this node tells the leader.
    pub(crate) fn own_holding(&self) -> Holding {
        let is_data = self.claim.role.is_data();
        let state_next = if is_data { self.store.flushed().map_or(0, |last| last.index + 1) } else { 0 };
        let room_from = if is_data { 0 } else { self.log_room_from() };
        let log_from = if is_data { 0 } else { self.log_first() };
        Holding { state_next, room_from, log_from }
    }

    /// First index within what this log may hold, if it holds more.
    fn log_room_from(&self) -> u64 {
        let from = self.log.first_within(self.log_keep_bytes);
        if from > self.log_first() { from } else { 0 }
    }

    fn log_first(&self) -> u64 {
        self.log.state().last_purged.map_or(0, |purged| purged.index + 1)
    }

    fn release_view(&self) -> View {
        let holding = |member: &Member| match member.node_id == self.claim.node_id {
            true => self.own_holding(),
            false => self.links.holding(member.node_id),
        };
        let members = self.members();
        let data = members.iter().filter(|it| it.role_value().is_data());
        let witness = members.iter().find(|it| it.role_value() == Role::Witness);
        View {
            states: data.map(|it| holding(it).state_next).collect(),
            room_from: witness.map_or(0, |it| holding(it).room_from),
            witness_from: witness.map_or(0, |it| holding(it).log_from),
            released_next: if witness.is_some() { self.store.released_next() } else { 0 },
            announced: self.links.witness_keeps_from(),
        }
    }

    /// The witness does not have entries that some data node lacks: arithmetic alone protects nothing.
    pub(super) fn witness_lets_go(&self) -> bool {
        self.release_view().lets_go()
    }
}

impl<RT: Runtime> Replica<RT> {
    /// Says what the witness may forget, and releases more if it must.
    pub(super) async fn tend_witness(&self) {
        let shared = &self.shared;
        let view = shared.release_view();
        shared.links.set_witness_keeps_from(view.keeps_from());
        let Some(next) = view.to_release() else { return };
        let command = Command { request: None, op: Some(Op::ReleaseFloor(ReleaseFloor { next })) };
        match self.propose_within(command, LIMIT).await {
            Ok(_) => {
                tracing::error!(
                    next,
                    "the witness's log is as large as it may be (limits.log_keep_bytes): it forgets entries that a data \
                     node lacks; until that node has them the loss of the site that leads loses data: bring it back, or \
                     remove it"
                );
                shared.links.set_witness_keeps_from(shared.release_view().keeps_from());
            }
            Err(refusal) => tracing::warn!("release the witness's floor: {}; it is tried again", refusal.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_witness_keeps_what_some_data_node_lacks_until_that_is_released() {
        let view = |states: &[u64], room_from, released_next| View {
            states: states.to_vec(),
            room_from,
            released_next,
            witness_from: 0,
            announced: 0,
        };
        assert_eq!(view(&[90, 40, 70], 0, 0).keeps_from(), 40);
        assert_eq!(view(&[90, 0], 0, 0).keeps_from(), 0, "a node that has not said what it has");
        assert_eq!(view(&[], 0, 0).keeps_from(), 0);
        assert_eq!(view(&[90, 40], 30, 0).to_release(), None, "it may forget that anyway");
        assert_eq!(view(&[90, 40], 60, 0).to_release(), Some(60));
        assert_eq!(view(&[90, 40], 60, 60).to_release(), None);
        assert_eq!(view(&[90, 40], 0, 60).keeps_from(), 60);
        assert_eq!(view(&[90, 70], 0, 60).keeps_from(), 70, "all have what was released");
        let told = View { announced: 60, ..view(&[90, 0], 50, 0) };
        assert_eq!(told.to_release(), None, "a new leader that has not heard all yet: it may forget that anyway");
        assert!(view(&[90, 40], 0, 60).lets_go() && !view(&[90, 60], 0, 60).lets_go());
        let new = View { witness_from: 50, ..view(&[90, 40], 0, 0) };
        assert!(new.lets_go(), "a new witness has no log from before it came");
        assert!(!View { announced: 50, ..new }.lets_go(), "it was told that it may forget that");
    }
}
