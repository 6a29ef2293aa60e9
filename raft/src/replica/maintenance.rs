//! Flushing the state machine and purging the log.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::Instant as _;
use saola_storage::planted::{self, Bug};
use saola_storage::types::NodeId;

use super::{InstantOf, Replica, Shared};
use crate::member::Role;
use crate::types::Runtime;

/// A flush that finds no room would end the node, so below the mark it waits until there is so much. The log keeps what
/// is not flushed.
const FLUSH_ROOM: u64 = 64 << 20;

/// So much of the log is kept for members that were away for a moment, besides what anyone is known to need.
const RECENT_BYTES: u64 = 512 << 20;

/// What a leader knows of another member.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    /// Who it is.
    pub(crate) node_id: NodeId,
    /// First index that it has not flushed.
    pub(crate) next: u64,
    /// Since when it has not answered.
    pub(crate) silent: Duration,
}

/// What a leader's log keeps for members that are dead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep {
    /// One that is silent for longer counts as dead.
    pub(crate) dead_after: Duration,
    /// First index within the bytes that the log may hold for them.
    pub(crate) budget_from: u64,
    /// One that is silent for longer has nothing kept for it.
    pub(crate) keep_for: Duration,
}

/// First index that the log keeps for a member: all it needs while it lives, or until one of the budgets is used up.
fn kept_from(member: &Progress, keep: Keep) -> u64 {
    match member.silent {
        silent if silent <= keep.dead_after => member.next,
        silent if silent <= keep.keep_for => member.next.max(keep.budget_from),
        _ => u64::MAX,
    }
}

/// First index that some other member needs from a log.
pub(crate) fn needed_by(members: &[Progress], keep: Keep) -> Option<u64> {
    members.iter().map(|member| kept_from(member, keep)).min()
}

/// What a log that begins at `log_from` means for a dead member that lacks `lacks_bytes` of it.
fn describe(member: &Progress, log_from: u64, lacks_bytes: u64, keep_bytes: u64, keep_for: Duration) -> String {
    let hours = |time: Duration| time.as_secs() / 3600;
    let silent = match hours(member.silent) {
        0 => format!("{} min", member.silent.as_secs() / 60),
        hours => format!("{hours} h"),
    };
    if member.next < log_from {
        return format!(
            "silent for {silent}; the log no longer has what it lacks: when it comes back it gets a whole snapshot"
        );
    }
    format!(
        "silent for {silent}; what it lacks is kept in the log, {} of {} MiB, until {} h have passed",
        lacks_bytes >> 20,
        keep_bytes >> 20,
        hours(keep_for)
    )
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
    /// … but none before this index, where the bytes for them begin.
    pub(crate) recent_from: u64,
}

/// First index to keep. What is not flushed or needed by a live member is kept whatever its size.
pub(crate) fn purge_below(view: PurgeView) -> u64 {
    let recent = view.last_next.saturating_sub(view.keep_entries).max(view.recent_from);
    view.flushed_next.min(view.needed_from).min(view.repair_from).min(recent)
}

pub(super) async fn run<RT: Runtime>(shared: Arc<Shared<RT>>) {
    let mut leading_since: Option<InstantOf<RT>> = None;
    let mut cut_off = BTreeSet::new();
    loop {
        RT::sleep(shared.flush_every).await;
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
        leading_since = shared.is_leader().then(|| leading_since.unwrap_or_else(InstantOf::<RT>::now));
        let keep = shared.keep();
        let members = leading_since.map(|since| shared.progress(since)).unwrap_or_default();
        if leading_since.is_some() {
            shared.links.set_needed_from(needed_by(&members, keep).unwrap_or(shared.flushed_next()));
        }
        let dead: Vec<Progress> = members.into_iter().filter(|member| member.silent > keep.dead_after).collect();
        shared.tell_of_dead(&dead, &mut cut_off);
        if leading_since.is_some() && shared.claim.role.is_data() {
            (Replica { shared: shared.clone() }).tend_witness().await;
        }
        let keep_from = purge_below(PurgeView {
            flushed_next: match planted::is(Bug::PurgedTooFar) {
                true => shared.flushed_next(),
                false => shared.store.flushed().map_or(0, |log_id| log_id.index + 1),
            },
            last_next: shared.flushed_next(),
            needed_from: match shared.claim.role {
                // It may be the only holder of an entry outside a lost site: see `release`.
                Role::Witness => shared.links.witness_keeps_from(),
                _ => shared.links.needed_from(),
            },
            repair_from: shared.copy.repair_from(),
            keep_entries: shared.keep_entries,
            recent_from: shared.log.first_within(RECENT_BYTES.min(shared.log_keep_bytes)),
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
    fn keep(&self) -> Keep {
        Keep {
            dead_after: self.timing.dead_after(),
            budget_from: self.log.first_within(self.log_keep_bytes),
            keep_for: self.log_keep_for,
        }
    }

    /// Says what the log keeps for the dead members, in the status, and once of each that it no longer suffices for.
    fn tell_of_dead(&self, dead: &[Progress], cut_off: &mut BTreeSet<NodeId>) {
        let log_from = self.log.state().last_purged.map_or(0, |purged| purged.index + 1);
        let describe = |member: &Progress| {
            let lacks_bytes = self.log.bytes_from(member.next);
            (member.node_id, describe(member, log_from, lacks_bytes, self.log_keep_bytes, self.log_keep_for))
        };
        let described: Vec<(NodeId, String)> = dead.iter().map(describe).collect();
        let now: BTreeSet<NodeId> =
            dead.iter().filter(|member| member.next < log_from).map(|member| member.node_id).collect();
        for (id, text) in described.iter().filter(|(id, _)| now.contains(id) && !cut_off.contains(id)) {
            let name = self.member(*id).map_or_else(String::new, |member| format!(" ({})", member.name));
            tracing::warn!("node {id}{name}: {text}; limits.log_keep_bytes and limits.log_keep_hours say what is kept");
        }
        *cut_off = now;
        *self.log_kept.lock() = described;
    }

    /// How far the other members are, as far as this node knows, which leads since `since`: silence counts from then at
    /// the earliest, so the hours of a dead member begin again with each leader.
    fn progress(&self, since: InstantOf<RT>) -> Vec<Progress> {
        let matched = self.matched().unwrap_or_default();
        let others = matched.into_iter().filter(|(id, _)| *id != self.claim.node_id);
        others
            .map(|(id, index)| {
                let answered = self.links.last_answer(id).map_or(since, |(at, _)| at.max(since));
                Progress { node_id: id, next: index.map_or(0, |index| index + 1), silent: answered.elapsed() }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEAD_AFTER: Duration = Duration::from_secs(120);

    const KEEP_FOR: Duration = Duration::from_secs(72 * 3600);

    fn live(next: u64) -> Progress {
        Progress { node_id: 2, next, silent: DEAD_AFTER }
    }

    fn dead(next: u64) -> Progress {
        Progress { node_id: 3, next, silent: DEAD_AFTER + Duration::from_millis(1) }
    }

    fn long_dead(next: u64) -> Progress {
        Progress { node_id: 4, next, silent: KEEP_FOR + Duration::from_millis(1) }
    }

    #[test]
    fn live_members_hold_the_log_and_dead_ones_only_within_its_budgets() {
        let keep = |budget_from| Keep { dead_after: DEAD_AFTER, budget_from, keep_for: KEEP_FOR };
        let needed = |members: &[Progress], budget_from| needed_by(members, keep(budget_from));
        assert_eq!(needed(&[], 50), None);
        assert_eq!(needed(&[live(10), live(90)], 50), Some(10));
        assert_eq!(needed(&[dead(10), live(90)], 50), Some(50));
        assert_eq!(needed(&[dead(10), live(40)], 50), Some(40));
        assert_eq!(needed(&[dead(60), live(90)], 50), Some(60));
        assert_eq!(needed(&[live(0), dead(0)], 50), Some(0), "a new member needs everything");
        assert_eq!(needed(&[long_dead(60), live(90)], 50), Some(90), "its hours are over");
        assert_eq!(needed(&[long_dead(60), dead(70), live(90)], 50), Some(70));
        let no_hours = Keep { keep_for: Duration::ZERO, ..keep(50) };
        assert_eq!(needed_by(&[live(10)], no_hours), Some(10), "a live member is not counted in hours");
        assert_eq!(needed_by(&[dead(10), live(40)], no_hours), Some(40));
    }

    #[test]
    fn a_dead_member_is_told_what_is_kept_for_it_and_when_it_is_too_late() {
        let away = Progress { node_id: 3, next: 100, silent: Duration::from_secs(3 * 3600 + 59) };
        let told = |log_from| describe(&away, log_from, 700 << 20, 4 << 30, KEEP_FOR);
        assert_eq!(
            told(100),
            "silent for 3 h; what it lacks is kept in the log, 700 of 4096 MiB, until 72 h have passed"
        );
        assert!(told(101).starts_with("silent for 3 h; the log no longer has what it lacks"), "{}", told(101));
        let short = Progress { silent: Duration::from_secs(150), ..away };
        assert!(describe(&short, 0, 0, 0, KEEP_FOR).starts_with("silent for 2 min"));
    }

    #[test]
    fn purge_never_overtakes_flush_members_or_the_recent_log() {
        let view = PurgeView {
            flushed_next: 9_990,
            last_next: 10_000,
            needed_from: 9_995,
            repair_from: u64::MAX,
            keep_entries: 100,
            recent_from: 0,
        };
        assert_eq!(purge_below(view), 9_900);
        assert_eq!(purge_below(PurgeView { flushed_next: 500, ..view }), 500);
        assert_eq!(purge_below(PurgeView { needed_from: 500, ..view }), 500);
        assert_eq!(purge_below(PurgeView { repair_from: 500, recent_from: 9_950, ..view }), 500);
        assert_eq!(purge_below(PurgeView { keep_entries: 10_001, ..view }), 0);
        // Recent entries are kept within the budget, what is needed is kept beyond it.
        assert_eq!(purge_below(PurgeView { recent_from: 9_950, ..view }), 9_950);
        assert_eq!(purge_below(PurgeView { recent_from: 9_999, ..view }), 9_990);
        assert_eq!(purge_below(PurgeView { recent_from: 9_950, needed_from: 500, ..view }), 500);
    }
}
