//! Room on the voters' disks: watched before writes are taken, so that no disk runs full by them.
//!
//! Every node tells the leader in its append answers how much its disk has free, and its mark. A node below its own mark
//! takes no writes from clients. A leader takes none either when no quorum of voters with room would be left to store
//! them; while there is one, writes go on without the full disk's owner, and a leader whose own disk is low hands over.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::Instant as _;
use saola_storage::types::NodeId;

use super::{InstantOf, Replica, Shared, Writes};
use crate::links::DiskRoom;
use crate::member::Role;
use crate::types::Runtime;

/// Disks are looked at this often.
const EVERY: Duration = Duration::from_secs(1);

/// What a leader knows of a voter's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VoterDisk {
    /// Above its mark, or the voter has not had the time to tell.
    Enough,
    /// Below its mark.
    Low,
    /// The voter does not answer: it may have room, but it stores nothing.
    Silent,
}

/// The voters whose low disks keep writes from being taken; none: writes are taken.
///
/// A write needs, in every set of voters, a quorum that answers and has room. Where that is missing although no disk is
/// low, the disks are not the reason, and the write fails as it does without a quorum.
pub(crate) fn without_room(voter_sets: &[BTreeSet<NodeId>], disk: impl Fn(NodeId) -> VoterDisk) -> BTreeSet<NodeId> {
    let with = |set: &BTreeSet<NodeId>, what| set.iter().filter(|id| disk(**id) == what).count();
    let lacks_quorum = |set: &&BTreeSet<NodeId>| with(set, VoterDisk::Enough) <= set.len() / 2;
    let lacking = voter_sets.iter().filter(lacks_quorum).flatten();
    lacking.copied().filter(|id| disk(*id) == VoterDisk::Low).collect()
}

pub(super) async fn watch<RT: Runtime>(
    shared: Arc<Shared<RT>>,
    free_bytes: Box<dyn Fn() -> io::Result<u64> + Send + Sync>,
) {
    let mut refused = false;
    let mut low_before = BTreeSet::new();
    let mut leading_since: Option<InstantOf<RT>> = None;
    while shared.stopped.borrow().is_none() {
        match free_bytes() {
            Ok(bytes) => shared.disk_free_bytes.store(bytes, Ordering::Relaxed),
            Err(error) => tracing::error!("ask for free disk space: {error}"),
        }
        leading_since = shared.is_leader().then(|| leading_since.unwrap_or_else(InstantOf::<RT>::now));
        let (reason, low) = leading_since.map(|since| shared.quorum_room(since)).unwrap_or_default();
        *shared.no_quorum_with_room.lock() = reason;
        for peer in low.difference(&low_before) {
            tracing::warn!("{}: writes go on while a quorum of voters has room", shared.describe_room(*peer));
        }
        low_before = low;

        let now_refused = shared.writes_refused();
        if now_refused.is_some() != refused {
            refused = now_refused.is_some();
            match now_refused {
                Some(reason) => tracing::error!("writes are refused: {reason}"),
                None => tracing::info!("there is room on disk again, writes are taken"),
            }
        }
        if let Some(since) = leading_since.filter(|_| shared.role().is_data())
            && let Some(to) = shared.successor_with_room(since)
        {
            tracing::warn!("this leader's disk is low, node {to} has room: handing over");
            if let Err(error) = (Replica { shared: shared.clone() }).transfer_here(to, Writes::MayBeUnderWay).await {
                tracing::error!("hand over to node {to}, whose disk has room: {error}");
            }
        }
        RT::sleep(EVERY).await;
    }
}

impl<RT: Runtime> Shared<RT> {
    pub(crate) fn free_bytes(&self) -> u64 {
        self.disk_free_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn min_free_bytes(&self) -> u64 {
        self.min_free_bytes
    }

    fn own_room(&self) -> DiskRoom {
        DiskRoom { free_bytes: self.free_bytes(), mark_bytes: self.min_free_bytes }
    }

    /// Why this node takes no writes at present, if so.
    pub(super) fn writes_refused(&self) -> Option<String> {
        if self.own_room().is_low() {
            let path = self.folder.lock().path().display().to_string();
            let disk = self.describe_room(self.claim.node_id);
            return Some(format!("{disk}: make room on {path} or lower limits.min_free_bytes"));
        }
        // It is looked at once a second: what a deposed leader found counts no more.
        self.no_quorum_with_room.lock().clone().filter(|_| self.is_leader())
    }

    /// What this leader, which leads since `since`, knows of a voter's disk.
    fn voter_disk(&self, voter: NodeId, since: InstantOf<RT>) -> VoterDisk {
        let answer = self.links.last_answer(voter);
        let room = match answer {
            _ if voter == self.claim.node_id => self.own_room(),
            Some((at, room)) if at.max(since).elapsed() <= self.stall_limit() => room,
            None if since.elapsed() <= self.stall_limit() => return VoterDisk::Enough,
            _ => return VoterDisk::Silent,
        };
        if room.is_low() { VoterDisk::Low } else { VoterDisk::Enough }
    }

    /// Sets of voters; two while the membership is joint.
    pub(crate) fn voter_sets(&self) -> Vec<BTreeSet<NodeId>> {
        self.with_metrics(|metrics| metrics.membership_config.membership().get_joint_config().clone())
            .unwrap_or_default()
    }

    /// Why no quorum of voters has room, if so, and all other voters that are low.
    fn quorum_room(&self, since: InstantOf<RT>) -> (Option<String>, BTreeSet<NodeId>) {
        let sets = self.voter_sets();
        let disk = |voter| self.voter_disk(voter, since);
        let voters: BTreeSet<NodeId> = sets.iter().flatten().copied().collect();
        let which = |what| voters.iter().copied().filter(move |id| *id != self.claim.node_id && disk(*id) == what);
        let without = without_room(&sets, disk);
        let reason = (!without.is_empty()).then(|| {
            let disks: Vec<String> = without.iter().map(|id| self.describe_room(*id)).collect();
            let silent: Vec<String> = which(VoterDisk::Silent).map(|id| self.describe_node(id)).collect();
            let beside = match silent.is_empty() {
                true => String::new(),
                false => format!(", {} without an answer", silent.join(", ")),
            };
            format!(
                "no quorum of voters has room for writes ({}{beside}): make room on that disk or lower that node's \
                 limits.min_free_bytes",
                disks.join("; ")
            )
        });
        (reason, which(VoterDisk::Low).collect())
    }

    /// Who should lead instead of this node, whose disk is low: the voter that has most, if a quorum has room.
    fn successor_with_room(&self, since: InstantOf<RT>) -> Option<NodeId> {
        if !self.own_room().is_low() || !without_room(&self.voter_sets(), |id| self.voter_disk(id, since)).is_empty() {
            return None;
        }
        let matched = self.matched()?;
        let may_lead = |id: &NodeId| {
            let data_node = self.member(*id).is_some_and(|member| member.role_value() == Role::Voter);
            data_node
                && self.has_vote(*id)
                && self.links.last_answer(*id).is_some()
                && self.voter_disk(*id, since) == VoterDisk::Enough
        };
        let others = matched.into_iter().filter(|(id, _)| *id != self.claim.node_id && may_lead(id));
        others.max_by_key(|(id, index)| (*index, self.is_at_own_site(*id), *id)).map(|(id, _)| id)
    }

    fn describe_node(&self, id: NodeId) -> String {
        match self.member(id) {
            Some(member) => format!("node {id} ({})", member.name),
            None if id == self.claim.node_id => format!("node {id} ({})", self.claim.name),
            None => format!("node {id}"),
        }
    }

    /// A node's disk in words.
    fn describe_room(&self, id: NodeId) -> String {
        let room = match id == self.claim.node_id {
            true => Some(self.own_room()),
            false => self.links.last_answer(id).map(|(_, room)| room),
        };
        let DiskRoom { free_bytes, mark_bytes } = room.unwrap_or(DiskRoom { free_bytes: 0, mark_bytes: 0 });
        format!(
            "disk of {} has {} MiB free, below its mark of {} MiB",
            self.describe_node(id),
            free_bytes >> 20,
            mark_bytes >> 20
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::VoterDisk::{Enough, Low, Silent};
    use super::*;

    /// The voters in the way when node 1 has the first of these disks, node 2 the second, and so on.
    fn in_the_way(voter_sets: &[&[NodeId]], disks: &[VoterDisk]) -> Vec<NodeId> {
        let sets: Vec<BTreeSet<NodeId>> = voter_sets.iter().map(|set| set.iter().copied().collect()).collect();
        without_room(&sets, |id| disks[id as usize - 1]).into_iter().collect()
    }

    #[test]
    fn writes_go_on_as_long_as_a_quorum_answers_and_has_room() {
        let three: &[&[NodeId]] = &[&[1, 2, 3]];
        assert_eq!(in_the_way(&[], &[]), []);
        assert_eq!(in_the_way(&[&[1]], &[Low]), [1]);
        assert_eq!(in_the_way(three, &[Enough, Enough, Enough]), []);
        assert_eq!(in_the_way(three, &[Enough, Enough, Low]), []);
        assert_eq!(in_the_way(three, &[Enough, Enough, Silent]), []);
        assert_eq!(in_the_way(three, &[Enough, Low, Low]), [2, 3]);
        assert_eq!(in_the_way(three, &[Enough, Low, Silent]), [2], "one is full, one dead: nobody else could store it");
        assert_eq!(in_the_way(three, &[Enough, Silent, Silent]), [], "no disk is in the way here");
        assert_eq!(in_the_way(&[&[1, 2, 3, 4, 5]], &[Enough, Low, Enough, Low, Enough]), []);
        assert_eq!(in_the_way(&[&[1, 2, 3, 4, 5]], &[Enough, Low, Enough, Low, Silent]), [2, 4]);
        assert_eq!(in_the_way(&[&[1, 2]], &[Enough, Low]), [2], "half is no quorum");
    }

    #[test]
    fn a_membership_change_needs_room_in_both_sets_of_voters() {
        let both: &[&[NodeId]] = &[&[1, 2, 3], &[1, 4, 5]];
        assert_eq!(in_the_way(both, &[Enough, Enough, Low, Enough, Low]), []);
        assert_eq!(in_the_way(both, &[Enough, Enough, Low, Low, Low]), [4, 5]);
        assert_eq!(in_the_way(both, &[Enough, Low, Low, Enough, Enough]), [2, 3]);
    }

    fn disks() -> impl Strategy<Value = Vec<VoterDisk>> {
        prop::collection::vec(prop_oneof![Just(Enough), Just(Low), Just(Silent)], 7)
    }

    proptest! {
        #[test]
        fn room_made_on_a_disk_never_stops_writes(disks in disks(), freed in 0..7usize, voters in 1..8u64) {
            let all: Vec<NodeId> = (1..=voters).collect();
            let before = in_the_way(&[&all], &disks);
            let mut after = disks.clone();
            after[freed] = Enough;
            prop_assert!(!before.is_empty() || in_the_way(&[&all], &after).is_empty());
            prop_assert!(before.iter().all(|id| disks[*id as usize - 1] == Low), "only full disks are named");
        }
    }
}
