//! The leader has old versions removed: a pass over each collection that has a policy, one [`Collect`] command at a
//! time; and old rows of the change feed.
//!
//! Two steps, so that no page token loses its revision: first the leader announces with its appends up to which
//! revision it wants to collect, and every live data member confirms that it gives no new promise below it and says
//! which promises are still open (`pins.rs`). If one is in the way, what is announced goes down to it. Only then the
//! first command is proposed. A member that is silent for longer than `dead_after` has no promises left: it gives none
//! without a leader for half of that, and they hold no longer than the other half.
//! A new leader begins its passes anew, once it has applied what its predecessors proposed.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use openraft::Instant as _;
use saola_storage::command::{Collect, Command, CompactChanges, Decision, Op, TimeMark};
use saola_storage::error::StoreError;
use saola_storage::retention::Retention;
use saola_storage::store::{Collection, View};

use super::changes::COMMIT_LIMIT;
use super::{InstantOf, Replica, Shared};
use crate::pins::{Announcement, Confirmation};
use crate::types::{Runtime, Takes};

/// How old versions are removed. Each node's own setting; it counts while the node leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectorSettings {
    /// A collection is gone through so often, and at once when its policy has changed.
    pub pass_every: Duration,
    /// Between two commands.
    pub pause: Duration,
    /// Records that one command looks at, at most 4,096.
    pub records: u64,
    /// Newest revisions that the change feed keeps.
    pub change_window: u64,
}

impl Default for CollectorSettings {
    /// A pass an hour, 1,000 records a second, a million revisions of changes.
    fn default() -> CollectorSettings {
        let (pass_every, pause) = (Duration::from_secs(3600), Duration::from_secs(1));
        CollectorSettings { pass_every, pause, records: 1000, change_window: 1_000_000 }
    }
}

/// Rows of the change feed that one command removes.
const CHANGE_ROWS: u64 = 4096;
/// Such commands between two pauses.
const CHANGE_COMMANDS: usize = 8;

/// Up to which revision a policy lets versions go: the frontier's, but no later than `aged`, the revision that stood
/// `max_age_ms` ago, when age alone limits: reads as of a later time then stay.
pub(crate) fn target(retention: &Retention, frontier: u64, aged: u64) -> u64 {
    match retention.max_generations {
        0 => aged.min(frontier),
        _ => frontier,
    }
}

/// Whether a collection is to be gone through. `last`: how long ago the last pass ended, and the policy it followed.
pub(crate) fn is_due(retention: &Retention, last: Option<(Duration, &Retention)>, pass_every: Duration) -> bool {
    retention.removes() && last.is_none_or(|(ago, policy)| ago >= pass_every || policy != retention)
}

/// A data member, as the leader knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DataMember {
    /// Since when it has not answered.
    pub(crate) silent: Duration,
    /// What it said last.
    pub(crate) said: Confirmation,
}

/// What members say to an announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Agreement {
    /// Not all have heard it.
    Open,
    /// One does not answer and may have given promises; it is not dead yet.
    Missing,
    /// Promises are in the way; the lowest is this revision.
    Pinned(u64),
    /// Versions may go.
    Agreed,
}

/// Whether some member is silent and not yet dead.
pub(crate) fn one_is_missing(members: &[DataMember], answers_within: Duration, dead_after: Duration) -> bool {
    members.iter().any(|member| member.silent > answers_within && member.silent <= dead_after)
}

/// Whether what was announced may be collected.
pub(crate) fn agreement(
    announced: Announcement,
    members: &[DataMember],
    answers_within: Duration,
    dead_after: Duration,
) -> Agreement {
    if one_is_missing(members, answers_within, dead_after) {
        return Agreement::Missing;
    }
    let live = || members.iter().filter(|member| member.silent <= dead_after).map(|member| member.said);
    if live().any(|said| (said.term, said.round) != (announced.term, announced.round)) {
        return Agreement::Open;
    }
    match live().map(|said| said.lowest_pin).min() {
        Some(pin) if pin < announced.below => Agreement::Pinned(pin),
        _ => Agreement::Agreed,
    }
}

/// Newest revision whose change row may go, if it is time to remove some.
pub(crate) fn compact_up_to(frontier: u64, oldest_change: u64, window: u64) -> Option<u64> {
    frontier.checked_sub(window).filter(|up_to| *up_to >= oldest_change)
}

/// A pass that is under way.
struct Pass {
    collection: Collection,
    announced: Announcement,
    agreed: bool,
    after: Bytes,
}

/// What one leadership has done so far.
struct Passes<I> {
    term: u64,
    since: I,
    rounds: u64,
    current: Option<Pass>,
    /// When the last pass over a collection ended, and the policy it followed.
    ended: BTreeMap<u32, (I, Retention)>,
}

pub(super) async fn run<RT: Runtime>(replica: Replica<RT>) {
    let shared = &replica.shared;
    let mut leading: Option<Passes<InstantOf<RT>>> = None;
    loop {
        RT::sleep(shared.collector.pause).await;
        if shared.raft().is_none() || shared.has_stopped() {
            return;
        }
        let Some(term) = shared.settled_term() else {
            leading = None;
            shared.announce(Announcement::default());
            continue;
        };
        let mut passes = match leading.take().filter(|passes| passes.term == term) {
            Some(passes) => passes,
            None => {
                let since = InstantOf::<RT>::now();
                Passes { term, since, rounds: 0, current: None, ended: BTreeMap::new() }
            }
        };
        if let Err(error) = replica.collect_step(&mut passes).await {
            // A row that cannot be read; the message says what to do.
            tracing::error!("collect old versions: {error}");
        }
        leading = Some(passes);
    }
}

impl<RT: Runtime> Replica<RT> {
    /// One command of each sort at most.
    async fn collect_step(&self, passes: &mut Passes<InstantOf<RT>>) -> Result<(), StoreError> {
        let shared = &self.shared;
        let Some(frontier) = shared.frontier_revision() else { return Ok(()) };
        self.compact_changes(frontier).await;
        let view = shared.store.view();
        // Others hear it with every append.
        shared.pins.hear(shared.announcement(passes.term), InstantOf::<RT>::now());
        let Some(mut pass) = passes.current.take() else {
            self.keep_time(&view).await;
            passes.current = shared.next_pass(&view, frontier, passes).await?;
            return Ok(());
        };
        let policy = view.collection(&pass.collection.name).map(|now| (now.incarnation, now.retention));
        if policy != Some((pass.collection.incarnation, pass.collection.retention.clone())) {
            // Another policy wants another revision: begin again.
            shared.announce(Announcement::default());
            return Ok(());
        }
        if !pass.agreed {
            let members = shared.data_members(passes.since);
            match agreement(pass.announced, &members, shared.stall_limit(), shared.timing.dead_after()) {
                Agreement::Agreed => pass.agreed = true,
                Agreement::Pinned(pin) if pin > pass.collection.collected_below => {
                    pass.announced = shared.announce_next(passes, pass.collection.number, pin);
                }
                // What it has promised must be granted by others meanwhile: announce that nothing goes, and wait.
                Agreement::Missing => {
                    shared.announce_next(passes, pass.collection.number, pass.collection.collected_below);
                    return Ok(());
                }
                // Below such a promise there is nothing to do; in a while it is over.
                Agreement::Open | Agreement::Pinned(_) => {}
            }
        }
        if !pass.agreed {
            passes.current = Some(pass);
            return Ok(());
        }
        let collect = Collect {
            up_to_revision: pass.announced.below,
            collection: pass.collection.number,
            incarnation: Bytes::copy_from_slice(&pass.collection.incarnation),
            after_id: pass.after.clone(),
            max_records: shared.collector.records,
        };
        match self.propose_within(Command { request: None, op: Some(Op::Collect(collect)) }, COMMIT_LIMIT).await {
            Ok(outcome) => match outcome.decision {
                Some(Decision::Collected(collected)) if !collected.done => {
                    pass.after = collected.next_after;
                    passes.current = Some(pass);
                }
                _ => {
                    shared.announce(Announcement::default());
                    let ended = (InstantOf::<RT>::now(), pass.collection.retention);
                    passes.ended.insert(pass.collection.number, ended);
                }
            },
            // Busy, a full disk, no leader any more: this pass goes on later, if this node still leads.
            Err(refusal) => {
                tracing::debug!("collect old versions: {}", refusal.message);
                passes.current = Some(pass);
            }
        }
        Ok(())
    }

    /// Age is measured by the replicated clock, which stands still while nobody writes.
    async fn keep_time(&self, view: &View) {
        let shared = &self.shared;
        let by_age = view.collections().iter().any(|it| it.retention.removes() && it.retention.max_age_ms > 0);
        let behind_us = shared.now_us().saturating_sub(view.applied().clock_us);
        if by_age && u128::from(behind_us) > shared.collector.pass_every.as_micros() {
            let mark = Command { request: None, op: Some(Op::TimeMark(TimeMark {})) };
            if let Err(refusal) = self.propose_within(mark, COMMIT_LIMIT).await {
                tracing::debug!("move the replicated clock: {}", refusal.message);
            }
        }
    }

    async fn compact_changes(&self, frontier: u64) {
        let shared = &self.shared;
        for _ in 0..CHANGE_COMMANDS {
            let oldest = shared.store.view().oldest_change();
            let Some(up_to_revision) = compact_up_to(frontier, oldest, shared.collector.change_window) else { return };
            let compact = CompactChanges { up_to_revision, max_rows: CHANGE_ROWS };
            let command = Command { request: None, op: Some(Op::CompactChanges(compact)) };
            if let Err(refusal) = self.propose_within(command, COMMIT_LIMIT).await {
                tracing::debug!("remove old rows of the change feed: {}", refusal.message);
                return;
            }
        }
    }
}

impl<RT: Runtime> Shared<RT> {
    /// The term in which this node leads and has applied its first entry, and so all that was proposed before.
    fn settled_term(&self) -> Option<u64> {
        let settled = self.role().is_data() && self.is_leader() && self.quorum_age().is_some();
        settled.then(|| self.with_metrics(|metrics| metrics.current_term)).flatten()
    }

    /// Revision of the frontier, if it is applied here and not too far back to be known.
    fn frontier_revision(&self) -> Option<u64> {
        let applied_next = *self.applied_next.borrow();
        let index = self.frontier.next().min(applied_next).checked_sub(1)?;
        self.store.revision_at_index(index)
    }

    /// Begins a pass over the first collection that is due and has something to collect.
    async fn next_pass(
        &self,
        view: &View,
        frontier: u64,
        passes: &mut Passes<InstantOf<RT>>,
    ) -> Result<Option<Pass>, StoreError> {
        if one_is_missing(&self.data_members(passes.since), self.stall_limit(), self.timing.dead_after()) {
            return Ok(None);
        }
        for collection in view.collections() {
            let retention = &collection.retention;
            let last = passes.ended.get(&collection.number).map(|(at, policy)| (at.elapsed(), policy));
            if !is_due(retention, last, self.collector.pass_every) {
                continue;
            }
            let aged_at_us = view.applied().clock_us.saturating_sub(retention.max_age_ms.saturating_mul(1000));
            let aged_view = view.clone();
            let aged = RT::disk(Takes::Long, move || aged_view.revision_at_time(aged_at_us)).await?;
            let target = target(retention, frontier, aged);
            // Below revision 2 nothing was written. A stricter policy may find more below the same revision.
            if target >= collection.collected_below.max(2) {
                let announced = self.announce_next(passes, collection.number, target);
                return Ok(Some(Pass { collection, announced, agreed: false, after: Bytes::new() }));
            }
            passes.ended.insert(collection.number, (InstantOf::<RT>::now(), collection.retention));
        }
        Ok(None)
    }

    fn announce_next(&self, passes: &mut Passes<InstantOf<RT>>, collection: u32, below: u64) -> Announcement {
        passes.rounds += 1;
        let announced = Announcement { term: passes.term, round: passes.rounds, collection, below };
        self.announce(announced);
        announced
    }

    /// Says it with every append from now on, and to this node itself.
    fn announce(&self, announcement: Announcement) {
        *self.announcement.lock() = announcement;
        self.pins.hear(announcement, InstantOf::<RT>::now());
    }

    /// What to say with an append in a leadership.
    pub(crate) fn announcement(&self, term: u64) -> Announcement {
        let announced = *self.announcement.lock();
        if announced.term == term { announced } else { Announcement::default() }
    }

    /// The members that keep records, this one included.
    fn data_members(&self, since: InstantOf<RT>) -> Vec<DataMember> {
        let own = DataMember { silent: Duration::ZERO, said: self.pins.confirm(InstantOf::<RT>::now()) };
        let others = self
            .members()
            .into_iter()
            .filter(|member| member.node_id != self.claim.node_id && member.role_value().is_data());
        let others = others.map(|member| DataMember {
            silent: self.links.last_answer(member.node_id).map_or(since, |(at, _)| at.max(since)).elapsed(),
            said: self.links.confirmation(member.node_id),
        });
        std::iter::once(own).chain(others).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEAD: Duration = Duration::from_secs(120);

    fn policy(max_generations: u64, max_age_ms: u64, hold: &str) -> Retention {
        Retention { max_generations, max_age_ms, hold: hold.into() }
    }

    fn said(term: u64, round: u64, lowest_pin: u64, silent_s: u64) -> DataMember {
        DataMember { silent: Duration::from_secs(silent_s), said: Confirmation { term, round, lowest_pin } }
    }

    #[test]
    fn age_alone_leaves_the_younger_revisions_readable() {
        assert_eq!(target(&policy(0, 1000, ""), 90, 40), 40);
        assert_eq!(target(&policy(0, 1000, ""), 30, 40), 30, "never above the frontier");
        assert_eq!(target(&policy(3, 0, ""), 90, 40), 90);
        assert_eq!(target(&policy(3, 1000, ""), 90, 40), 90);
    }

    #[test]
    fn a_pass_is_due_every_hour_and_when_the_policy_has_changed() {
        let hour = Duration::from_secs(3600);
        let rules = policy(3, 0, "");
        let looser = policy(5, 0, "");
        assert!(is_due(&rules, None, hour));
        assert!(!is_due(&rules, Some((hour / 2, &rules)), hour));
        assert!(is_due(&rules, Some((hour, &rules)), hour));
        assert!(is_due(&rules, Some((Duration::ZERO, &looser)), hour));
        assert!(!is_due(&policy(0, 0, ""), None, hour), "it keeps all");
        assert!(!is_due(&policy(3, 0, "case 7"), None, hour), "it is on hold");
    }

    #[test]
    fn versions_go_only_when_every_live_data_member_has_agreed() {
        let announced = Announcement { term: 5, round: 2, collection: 1, below: 100 };
        let agreed = |members: &[DataMember]| agreement(announced, members, Duration::from_secs(2), DEAD);
        let free = u64::MAX;
        assert_eq!(agreed(&[said(5, 2, free, 0)]), Agreement::Agreed);
        assert_eq!(agreed(&[said(5, 2, free, 0), said(5, 1, free, 0)]), Agreement::Open);
        assert_eq!(agreed(&[said(5, 2, free, 0), said(4, 2, free, 0)]), Agreement::Open);
        assert_eq!(agreed(&[said(5, 2, free, 0), said(0, 0, 0, 2)]), Agreement::Open);
        assert_eq!(agreed(&[said(5, 2, free, 0), said(5, 2, free, 3)]), Agreement::Missing);
        assert_eq!(agreed(&[said(5, 2, free, 0), said(0, 0, 0, 120)]), Agreement::Missing);
        assert_eq!(agreed(&[said(5, 2, free, 0), said(0, 0, 0, 121)]), Agreement::Agreed);
        assert_eq!(agreed(&[said(5, 2, 100, 0), said(5, 2, free, 0)]), Agreement::Agreed);
        assert_eq!(agreed(&[said(5, 2, 99, 0), said(5, 2, 40, 0)]), Agreement::Pinned(40));
    }

    #[test]
    fn the_change_feed_keeps_its_window() {
        assert_eq!(compact_up_to(100, 2, 1000), None);
        assert_eq!(compact_up_to(100, 2, 99), None);
        assert_eq!(compact_up_to(100, 2, 98), Some(2));
        assert_eq!(compact_up_to(100, 41, 60), None);
        assert_eq!(compact_up_to(100, 40, 60), Some(40));
    }
}
