//! Flushing the state machine and purging the log.

use std::sync::Arc;
use std::time::Duration;

use openraft::Instant as _;

use super::{InstantOf, Shared};
use crate::member::Role;
use crate::types::Runtime;

/// The state machine is flushed, and the log purged up to what no one needs, at this interval.
const FLUSH_EVERY: Duration = Duration::from_secs(30);
/// A flush that finds no room would end the node, so below the mark it waits until there is so much. The log keeps what
/// is not flushed.
const FLUSH_ROOM: u64 = 64 << 20;

/// What a leader knows of another member.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    /// First index that it has not flushed.
    pub(crate) next: u64,
    /// Since when it has not answered.
    pub(crate) silent: Duration,
}

/// First index that some other member needs from a log: of the dead ones, those silent for longer than `dead_after`,
/// only what begins within the budget.
pub(crate) fn needed_by(members: &[Progress], dead_after: Duration, budget_from: u64) -> Option<u64> {
    let needs = |member: &Progress| match member.silent <= dead_after {
        true => member.next,
        false => member.next.max(budget_from),
    };
    members.iter().map(needs).min()
}

/// What the purge floor is decided from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PurgeView {
    /// First index that is not in this node's flushed state machine.
    pub(crate) flushed_next: u64,
    /// First index that the log does not reach.
    pub(crate) last_next: u64,
    /// First index that other members need, as the leader says: [`needed_by`].
    pub(crate) needed_from: u64,
    /// First index that a repair of this node's copy under way may need.
    pub(crate) repair_from: u64,
    /// So many of the newest entries are kept for members that were away for a moment …
    pub(crate) keep_entries: u64,
    /// … but none before this index, where the log's budget of bytes begins.
    pub(crate) budget_from: u64,
}

/// First index to keep. What is not flushed or needed by a live member is kept whatever its size.
pub(crate) fn purge_below(view: PurgeView) -> u64 {
    let recent = view.last_next.saturating_sub(view.keep_entries).max(view.budget_from);
    view.flushed_next.min(view.needed_from).min(view.repair_from).min(recent)
}

pub(super) async fn run<RT: Runtime>(shared: Arc<Shared<RT>>) {
    let mut leading_since: Option<InstantOf<RT>> = None;
    loop {
        RT::sleep(FLUSH_EVERY).await;
        let Some(raft) = shared.raft() else { return };
        if shared.stopped.borrow().is_some() {
            return;
        }
        if shared.free_bytes() >= shared.min_free_bytes.min(FLUSH_ROOM)
            && let Err(error) = raft.trigger().snapshot().await
        {
            tracing::error!("flush the state machine: {error}");
            return;
        }
        let budget_from = shared.log.first_within(shared.log_budget_bytes);
        leading_since = shared.is_leader().then(|| leading_since.unwrap_or_else(InstantOf::<RT>::now));
        if let Some(since) = leading_since {
            let needed = needed_by(&shared.progress(since), shared.timing.dead_after(), budget_from);
            shared.links.set_needed_from(needed.unwrap_or(shared.flushed_next()));
        }
        if shared.claim.role == Role::Witness {
            // It may be the only holder of an entry outside a lost site.
            continue;
        }
        let keep_from = purge_below(PurgeView {
            flushed_next: shared.store.flushed().map_or(0, |log_id| log_id.index + 1),
            last_next: shared.flushed_next(),
            needed_from: shared.links.needed_from(),
            repair_from: shared.copy.repair_from(),
            keep_entries: shared.keep_entries,
            budget_from,
        });
        if let Some(last) = keep_from.checked_sub(1)
            && let Err(error) = raft.trigger().purge_log(last).await
        {
            tracing::error!("purge the log: {error}");
            return;
        }
    }
}

impl<RT: Runtime> Shared<RT> {
    /// How far the other members are, as far as this node knows, which leads since `since`.
    fn progress(&self, since: InstantOf<RT>) -> Vec<Progress> {
        let matched = self.matched().unwrap_or_default();
        let others = matched.into_iter().filter(|(id, _)| *id != self.claim.node_id);
        others
            .map(|(id, index)| {
                let answered = self.links.last_answer(id).map_or(since, |(at, _)| at.max(since));
                Progress { next: index.map_or(0, |index| index + 1), silent: answered.elapsed() }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEAD_AFTER: Duration = Duration::from_secs(120);

    fn live(next: u64) -> Progress {
        Progress { next, silent: DEAD_AFTER }
    }

    fn dead(next: u64) -> Progress {
        Progress { next, silent: DEAD_AFTER + Duration::from_millis(1) }
    }

    #[test]
    fn live_members_hold_the_log_and_dead_ones_only_within_its_budget() {
        let needed = |members: &[Progress], budget_from| needed_by(members, DEAD_AFTER, budget_from);
        assert_eq!(needed(&[], 50), None);
        assert_eq!(needed(&[live(10), live(90)], 50), Some(10));
        assert_eq!(needed(&[dead(10), live(90)], 50), Some(50));
        assert_eq!(needed(&[dead(10), live(40)], 50), Some(40));
        assert_eq!(needed(&[dead(60), live(90)], 50), Some(60));
        assert_eq!(needed(&[live(0), dead(0)], 50), Some(0), "a new member needs everything");
    }

    #[test]
    fn purge_never_overtakes_flush_members_or_the_recent_log() {
        let view = PurgeView {
            flushed_next: 9_990,
            last_next: 10_000,
            needed_from: 9_995,
            repair_from: u64::MAX,
            keep_entries: 100,
            budget_from: 0,
        };
        assert_eq!(purge_below(view), 9_900);
        assert_eq!(purge_below(PurgeView { flushed_next: 500, ..view }), 500);
        assert_eq!(purge_below(PurgeView { needed_from: 500, ..view }), 500);
        assert_eq!(purge_below(PurgeView { repair_from: 500, budget_from: 9_950, ..view }), 500);
        assert_eq!(purge_below(PurgeView { keep_entries: 10_001, ..view }), 0);
        // Recent entries are kept within the budget, what is needed is kept beyond it.
        assert_eq!(purge_below(PurgeView { budget_from: 9_950, ..view }), 9_950);
        assert_eq!(purge_below(PurgeView { budget_from: 9_999, ..view }), 9_990);
        assert_eq!(purge_below(PurgeView { budget_from: 9_950, needed_from: 500, ..view }), 500);
    }
}
