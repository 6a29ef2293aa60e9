//! A disk that hangs: the log makes no progress although something waits for it.
//!
//! A leader in that state goes on committing through the others' disks and keeps its followers quiet, yet it can neither
//! vote nor follow. So after two election maxima it takes no more writes and hands over to the data voter that has
//! flushed most. Raft here cannot even note the next leader while its vote waits for the disk: one that has spoken in a
//! later term counts. If none has within one more election maximum, the process ends, which frees the others.
//!
//! A node that does not lead says so in its status and waits: its own vote comes before each campaign, so it starts
//! none. Nor does a leader end without which there is no quorum: nobody could lead in its place.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::Instant as _;
use saola_storage::types::NodeId;

use super::Shared;
use crate::member::{Role, is_quorum};
use crate::timing::Timing;
use crate::types::{Runtime, detach};

/// What is seen of a node's log at one tick.
#[derive(Clone, Copy, Debug)]
struct LogView {
    /// Operations that wait for a sync.
    waiting: u64,
    /// Syncs so far.
    syncs: u64,
    /// This node leads, as far as it has heard.
    leads: bool,
    /// Without this node there is a quorum that answers, with a data node in it.
    others_can_lead: bool,
}

/// Limits in ticks. Ticks are counted, not time: a process that was paused has missed no sync.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// A log that makes no progress for so long hangs.
    hangs_after: u32,
    /// Who takes over gets so long.
    hand_over: u32,
}

impl Limits {
    /// With one tick per heartbeat. What waits at the first of them may have come just before it.
    fn of(timing: &Timing) -> Limits {
        let ticks = |ms: u64| u32::try_from(ms.div_ceil(timing.heartbeat_ms)).unwrap_or(u32::MAX - 1);
        Limits { hangs_after: ticks(2 * timing.election_max_ms) + 1, hand_over: ticks(timing.election_max_ms) }
    }
}

/// How a log fares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stall {
    syncs: u64,
    /// Ticks without progress.
    still: u32,
    hangs: bool,
    /// Ticks without progress when leadership was handed over.
    handed_over: Option<u32>,
    ended: bool,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Wait,
    HandOver,
    EndProcess,
}

impl Stall {
    /// At the next tick.
    fn next(self, view: LogView, limits: Limits) -> (Stall, Step) {
        if self.ended {
            return (self, Step::Wait);
        }
        if view.waiting == 0 || view.syncs != self.syncs {
            return (Stall { syncs: view.syncs, ..Stall::default() }, Step::Wait);
        }
        let still = self.still.saturating_add(1);
        let now = Stall { still, hangs: still >= limits.hangs_after, ..self };
        match self.handed_over {
            _ if !now.hangs => (now, Step::Wait),
            _ if !view.leads => (Stall { handed_over: None, ..now }, Step::Wait),
            None if view.others_can_lead => (Stall { handed_over: Some(still), ..now }, Step::HandOver),
            // Without it nobody would lead: to end helps only if others can.
            Some(at) if still - at >= limits.hand_over && view.others_can_lead => {
                (Stall { ended: true, ..now }, Step::EndProcess)
            }
            _ => (now, Step::Wait),
        }
    }
}

pub(super) async fn watch<RT: Runtime>(shared: Arc<Shared<RT>>) {
    let limits = Limits::of(&shared.timing);
    while shared.stopped.borrow().is_none() {
        RT::sleep(Duration::from_millis(shared.timing.heartbeat_ms)).await;
        let before = *shared.stall.lock();
        let (now, step) = before.next(shared.log_view(), limits);
        *shared.stall.lock() = now;
        if before.hangs && !now.hangs {
            tracing::info!("the log's disk goes on");
        } else if !before.hangs
            && let Some(reason) = shared.log_hangs()
        {
            tracing::error!("{reason}");
        }
        match step {
            Step::Wait => {}
            Step::HandOver => hand_over(&shared),
            Step::EndProcess => {
                let reason = shared.log_hangs().unwrap_or_default();
                shared.stopped.send_replace(Some(format!("{reason}; nobody took over the leadership in time")));
            }
        }
    }
}

/// Begins it only: Raft may not come back from it while the disk hangs.
fn hand_over<RT: Runtime>(shared: &Arc<Shared<RT>>) {
    let successor = shared.successor_with_disk().filter(|_| shared.role().is_data());
    let (Some(raft), Some(to)) = (shared.raft(), successor) else { return };
    tracing::warn!("handing leadership over to node {to}, whose log has most");
    detach::<RT>(async move {
        if let Err(error) = raft.trigger().transfer_leader(to).await {
            tracing::error!("hand leadership over to node {to}: {error}");
        }
    });
}

impl<RT: Runtime> Shared<RT> {
    fn log_view(&self) -> LogView {
        let stats = self.log.stats();
        LogView {
            waiting: stats.waiting,
            syncs: stats.syncs,
            leads: self.is_leader(),
            others_can_lead: self.successor_with_disk().is_some(),
        }
    }

    /// What is wrong with the log's disk, if it hangs.
    pub(super) fn log_hangs(&self) -> Option<String> {
        let stall = *self.stall.lock();
        stall.hangs.then(|| {
            format!(
                "the disk of node {} ({}) has completed no write of the log for {} ms or longer: see the kernel's log \
                 about the drive under {}",
                self.claim.node_id,
                self.claim.name,
                2 * self.timing.election_max_ms,
                self.folder.lock().path().display()
            )
        })
    }

    /// Why this leader takes no writes, if its disk hangs. Others forward them to a leader whose disk does not.
    pub(super) fn hung_leader(&self) -> Option<String> {
        self.log_hangs().filter(|_| self.is_leader())
    }

    /// Another node leads in a later term than Raft here knows of: it cannot note that while its disk hangs.
    pub(super) fn is_superseded(&self) -> bool {
        let term = self.with_metrics(|metrics| metrics.current_term).unwrap_or(0);
        self.heard_term.load(Ordering::Acquire) > term
    }

    /// True once this process has to end because of its disk.
    #[cfg(feature = "rocksdb")]
    pub(super) fn ended_by_stall(&self) -> bool {
        self.stall.lock().ended
    }

    /// The data voter that has flushed most, if the voters that answer are a quorum without this node.
    fn successor_with_disk(&self) -> Option<NodeId> {
        let recent = Duration::from_millis(2 * self.timing.election_max_ms);
        let answers = |id: &NodeId| {
            let answered = self.links.last_answer(*id);
            *id != self.claim.node_id && answered.is_some_and(|(at, _)| at.elapsed() <= recent)
        };
        if !is_quorum(&self.voter_sets(), |id| answers(&id)) {
            return None;
        }
        let may_lead = |id: &NodeId| {
            let data_node = self.member(*id).is_some_and(|member| member.role_value() == Role::Voter);
            data_node && self.has_vote(*id) && answers(id)
        };
        let fit = self.matched()?.into_iter().filter(|(id, _)| may_lead(id));
        fit.max_by_key(|(id, index)| (*index, self.is_at_own_site(*id), *id)).map(|(id, _)| id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hangs at the fourth tick; two more for who takes over.
    const LIMITS: Limits = Limits { hangs_after: 4, hand_over: 2 };
    const LEADER: LogView = LogView { waiting: 1, syncs: 7, leads: true, others_can_lead: true };
    const FOLLOWER: LogView = LogView { leads: false, ..LEADER };

    /// The steps of a log that is seen like this, one after the other.
    fn steps(views: impl IntoIterator<Item = LogView>) -> (Stall, Vec<Step>) {
        let mut stall = Stall { syncs: 7, ..Stall::default() };
        let steps = views.into_iter().map(|view| {
            let (next, step) = stall.next(view, LIMITS);
            stall = next;
            step
        });
        let steps = steps.collect();
        (stall, steps)
    }

    #[test]
    fn leader_without_progress_hands_over_and_ends_when_nobody_takes_over() {
        use Step::{EndProcess, HandOver, Wait};
        let (stall, taken) = steps([LEADER; 8]);
        assert_eq!(taken, [Wait, Wait, Wait, HandOver, Wait, EndProcess, Wait, Wait]);
        assert!(stall.hangs && stall.ended);
    }

    #[test]
    fn progress_of_any_kind_begins_the_count_again() {
        let moves = LogView { syncs: 8, ..LEADER };
        let (stall, taken) = steps([LEADER, LEADER, LEADER, moves, moves, moves, moves]);
        assert!(taken.iter().all(|step| *step == Step::Wait) && !stall.hangs, "{taken:?}");
        let rests = LogView { waiting: 0, ..LEADER };
        let (stall, taken) = steps([LEADER, LEADER, LEADER, rests, LEADER, LEADER, LEADER]);
        assert!(taken.iter().all(|step| *step == Step::Wait) && !stall.hangs, "{taken:?}");
        let (stall, _) = steps([LEADER, LEADER, LEADER, LEADER, LEADER, moves]);
        assert_eq!(stall, Stall { syncs: 8, ..Stall::default() }, "a stall that ends in time changes nothing");
    }

    #[test]
    fn node_that_does_not_lead_only_says_that_its_disk_hangs() {
        let (stall, taken) = steps([FOLLOWER; 20]);
        assert!(stall.hangs && !stall.ended && taken.iter().all(|step| *step == Step::Wait), "{taken:?}");
        let handed_over = [LEADER, LEADER, LEADER, LEADER, LEADER];
        let (stall, taken) = steps(handed_over.into_iter().chain([FOLLOWER; 20]));
        assert!(!taken.contains(&Step::EndProcess) && !stall.ended, "another one leads: {taken:?}");
    }

    #[test]
    fn leader_without_which_there_is_no_quorum_waits_and_hands_over_once_there_is() {
        let alone = LogView { others_can_lead: false, ..LEADER };
        let (stall, taken) = steps([alone; 20]);
        assert!(stall.hangs && !stall.ended && taken.iter().all(|step| *step == Step::Wait), "{taken:?}");
        let (_, taken) = steps([alone; 20].into_iter().chain([LEADER]));
        assert_eq!(taken.last(), Some(&Step::HandOver));
    }

    #[test]
    fn leader_that_lost_its_quorum_while_it_handed_over_does_not_end() {
        let alone = LogView { others_can_lead: false, ..LEADER };
        let (stall, taken) = steps([LEADER; 4].into_iter().chain([alone; 20]));
        assert!(taken.contains(&Step::HandOver) && !taken.contains(&Step::EndProcess), "{taken:?}");
        assert!(stall.hangs && !stall.ended);
    }

    #[test]
    fn limits_are_two_election_maxima_and_one_more() {
        let lan = Limits::of(&Timing::LAN);
        assert_eq!((lan.hangs_after, lan.hand_over), (13, 6));
    }
}
