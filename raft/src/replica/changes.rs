//! Changes of the membership, at the leader.
//!
//! Every verb is a row of steps, each of which looks at the membership anew and does only what is left to do, so that
//! a verb which was cut short is finished by repeating it. Steps follow each other (`Shared::admin`); while a new node
//! catches up nothing is held, so that it can be removed, or leadership handed over, in the meantime.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::Precondition;
use openraft::type_config::alias::LogIdOf;
use openraft::{ChangeMembers, Instant as _};
use saola_storage::failpoint::{Failpoint, reach};
use saola_storage::types::NodeId;

use super::admin::invalid;
use super::{AdminError, InstantOf, Replica, Shared, Writes, protection};
use crate::frontier::FrontierCell;
use crate::member::{Member, MembershipRecord, Role, membership_to_record};
use crate::types::{Runtime, TypeConfig};

/// A new node that has not answered for so long is not waited for any more. One that answers may take as long as its
/// records take to come.
const SILENCE_LIMIT: Duration = Duration::from_secs(240);
/// A new node may lag so many entries when it gets its vote. With more, one that has nothing at all would get it in a
/// young cluster, or before its snapshot has arrived.
const VOTE_LAG: u64 = 64;
/// A change that is refused, as by a leader that looks for its quorum, is tried again for so long.
const REFUSED_LIMIT: Duration = Duration::from_secs(10);
/// A change that is in the log has so long to be committed.
pub(super) const COMMIT_LIMIT: Duration = Duration::from_secs(30);

pub(super) type Change = ChangeMembers<NodeId, Member>;

/// The membership as the leader's log has it now.
pub(super) struct Seen<RT: Runtime> {
    /// Entry that set it.
    at: Option<LogIdOf<TypeConfig<RT>>>,
    record: MembershipRecord,
}

impl<RT: Runtime> Seen<RT> {
    fn is_joint(&self) -> bool {
        self.record.configs.len() > 1
    }

    pub(super) fn members(&self) -> impl Iterator<Item = &Member> {
        self.record.seats.iter().filter_map(|seat| seat.member.as_ref())
    }

    /// The voters that it has, or is about to have.
    pub(super) fn voters(&self) -> BTreeSet<NodeId> {
        self.record.configs.last().map(|set| set.node_ids.iter().copied().collect()).unwrap_or_default()
    }

    fn has(&self, node_id: NodeId) -> bool {
        self.record.seats.iter().any(|seat| seat.node_id == node_id)
    }
}

/// Whether voters that a change drops stay as learners: those whose votes are taken for a while do, one that is removed
/// does not.
fn retains(record: &MembershipRecord, change: &Change) -> bool {
    let members = record.seats.iter().filter_map(|seat| seat.member.as_ref());
    let mut marked: BTreeSet<NodeId> = members.filter(|it| it.demoted).map(|it| it.node_id).collect();
    let before: BTreeSet<NodeId> = record.configs.iter().flat_map(|set| set.node_ids.iter().copied()).collect();
    let mut left = record.configs.last().map(|set| set.node_ids.iter().copied().collect()).unwrap_or_default();
    apply(change, &mut left, &mut marked);
    before.difference(&left).any(|id| marked.contains(id))
}

/// Who votes, and who is marked, after a change.
fn apply(change: &Change, voters: &mut BTreeSet<NodeId>, marked: &mut BTreeSet<NodeId>) {
    match change {
        ChangeMembers::AddVoterIds(ids) => voters.extend(ids),
        ChangeMembers::RemoveVoters(ids) => voters.retain(|id| !ids.contains(id)),
        ChangeMembers::SetNodes(nodes) => {
            for (id, member) in nodes {
                if member.demoted {
                    marked.insert(*id)
                } else {
                    marked.remove(id)
                };
            }
        }
        ChangeMembers::Batch(changes) => changes.iter().for_each(|change| apply(change, voters, marked)),
        _ => {}
    }
}

/// Takes the votes of some of the members for a while, and marks them.
pub(super) fn demotion<'m>(members: impl Iterator<Item = &'m Member>, ids: &BTreeSet<NodeId>) -> Change {
    let marked = members.filter(|it| ids.contains(&it.node_id));
    let marked = marked.map(|it| (it.node_id, Member { demoted: true, ..it.clone() })).collect();
    ChangeMembers::Batch(vec![ChangeMembers::SetNodes(marked), ChangeMembers::RemoveVoters(ids.clone())])
}

/// Gives votes to some of the members, and takes the mark from those whose votes had been taken.
pub(super) fn promotion<'m>(members: impl Iterator<Item = &'m Member>, ids: &BTreeSet<NodeId>) -> Change {
    let marked = members.filter(|it| it.demoted && ids.contains(&it.node_id));
    let unmarked: BTreeMap<NodeId, Member> =
        marked.map(|it| (it.node_id, Member { demoted: false, ..it.clone() })).collect();
    let promotion = ChangeMembers::AddVoterIds(ids.clone());
    match unmarked.is_empty() {
        true => promotion,
        false => ChangeMembers::Batch(vec![ChangeMembers::SetNodes(unmarked), promotion]),
    }
}

/// Whether a node that has flushed up to `matched` may be given its vote: it has been told that it belongs (`joined_at`)
/// and lacks little of the log.
pub(super) fn caught_up(matched: Option<u64>, joined_at: u64, last: u64) -> bool {
    matched.is_some_and(|matched| matched >= joined_at && last.saturating_sub(matched) <= VOTE_LAG)
}

/// What is left to do for `node_id` to be gone.
fn removal(node_id: NodeId, voters: &BTreeSet<NodeId>, is_joint: bool, has: bool) -> Option<Change> {
    match () {
        () if voters.contains(&node_id) => Some(ChangeMembers::RemoveVoters(BTreeSet::from([node_id]))),
        // Leaving the joint membership takes its vote and with it, if it had one, its seat.
        () if is_joint || !has => None,
        () => Some(ChangeMembers::RemoveNodes(BTreeSet::from([node_id]))),
    }
}

impl<RT: Runtime> Shared<RT> {
    fn seen(&self) -> Option<Seen<RT>> {
        self.with_metrics(|metrics| Seen {
            at: *metrics.membership_config.log_id(),
            record: membership_to_record(metrics.membership_config.membership()),
        })
    }

    /// True for a member that has a vote, or gets one by the change under way.
    pub(crate) fn has_vote(&self, node_id: NodeId) -> bool {
        self.seen().is_some_and(|seen| seen.voters().contains(&node_id))
    }

    fn lost_leadership(&self) -> AdminError {
        AdminError::NoLeader(format!(
            "node {} stopped leading before the change had ended; repeating the command finishes it",
            self.claim.node_id
        ))
    }
}

/// A node that is about to leave does not count for the gate as long as this lives.
struct Leaving(Arc<FrontierCell>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.set_leaving(None);
    }
}

impl<RT: Runtime> Replica<RT> {
    pub(super) async fn add_here(&self, member: Member) -> Result<(), AdminError> {
        let (node_id, votes) = (member.node_id, member.role_value().votes());
        let is_other_witness = |it: &Member| it.role_value() == Role::Witness && it.node_id != node_id;
        if let Some(witness) =
            self.shared.members().into_iter().find(is_other_witness).filter(|_| member.role_value() == Role::Witness)
        {
            let name = witness.name;
            return Err(invalid(format!(
                "this cluster has a witness, {name}, and one is enough: `saola cluster replace {name}` puts another in its place"
            )));
        }
        if votes && !self.shared.has_vote(node_id) {
            self.check_goal(None, Some(&member))?;
        }
        self.join(member).await?;
        self.catch_up(node_id).await?;
        if !votes {
            return Ok(());
        }
        let _one_at_a_time = self.shared.admin.lock().await;
        let ids = BTreeSet::from([node_id]);
        if !self.shared.has_vote(node_id) {
            self.check_quorum_after(&[ChangeMembers::AddVoterIds(ids.clone())]).await?;
        }
        self.change(|seen| {
            Ok(match seen.has(node_id) {
                true => (!seen.voters().contains(&node_id)).then(|| promotion(seen.members(), &ids)),
                false => return Err(removed_meanwhile(node_id)),
            })
        })
        .await
    }

    pub(super) async fn remove_here(&self, node_id: NodeId) -> Result<(), AdminError> {
        let shared = &self.shared;
        let _one_at_a_time = shared.admin.lock().await;
        if shared.member(node_id).is_none() {
            return match self.was_used(node_id) {
                true => self.give_up_id(node_id).await,
                false => Err(invalid(format!("node {node_id} is not a member of this cluster"))),
            };
        }
        self.check_may_go(node_id)?;
        self.check_protection_without(node_id, None)?;
        self.check_goal(Some(node_id), None)?;
        let _leaving = self.leave_gate(node_id).await?;
        if shared.has_vote(node_id) {
            self.check_quorum_after(&[ChangeMembers::RemoveVoters(BTreeSet::from([node_id]))]).await?;
        }
        self.change(|seen| Ok(removal(node_id, &seen.voters(), seen.is_joint(), seen.has(node_id)))).await?;
        self.give_up_id(node_id).await
    }

    /// The new node joins and catches up first. Then one change swaps it for the old one, so that at no time fewer
    /// voters are there than before, nor an even number in their place.
    pub(super) async fn replace_here(&self, old: NodeId, member: Member) -> Result<(), AdminError> {
        let shared = &self.shared;
        let (new, votes) = (member.node_id, member.role_value().votes());
        if new == old {
            return Err(self.used(new));
        }
        if shared.member(old).is_none() {
            if shared.member(new).is_some() {
                return self.add_here(member).await;
            }
            return Err(invalid(format!(
                "node {old} is not a member of this cluster; to add node {new} use `saola cluster add`"
            )));
        }
        self.check_may_go(old)?;
        self.check_protection_without(old, Some(&member))?;
        self.check_goal(Some(old), Some(&member))?;
        self.join(member.clone()).await?;
        self.catch_up(new).await?;
        let _one_at_a_time = shared.admin.lock().await;
        let swap = |seen: &Seen<RT>| {
            let mut steps = Vec::new();
            if votes && !seen.voters().contains(&new) {
                steps.push(promotion(seen.members(), &BTreeSet::from([new])));
            }
            steps.extend(removal(old, &seen.voters(), seen.is_joint(), seen.has(old)));
            steps
        };
        let _leaving = self.leave_gate(old).await?;
        // It may be gone by now: by another leader's change, completed meanwhile.
        if shared.member(old).is_some() {
            self.check_may_go(old)?;
            self.check_goal(Some(old), Some(&member))?;
        }
        let steps = shared.seen().map(|seen| swap(&seen)).unwrap_or_default();
        self.check_quorum_after(&steps).await?;
        self.change(|seen| {
            let steps = swap(seen);
            match seen.has(new) {
                true => Ok((!steps.is_empty()).then_some(ChangeMembers::Batch(steps))),
                false => Err(removed_meanwhile(new)),
            }
        })
        .await?;
        self.give_up_id(old).await
    }

    /// Makes a node a member without a vote, unless it is a member already.
    async fn join(&self, mut member: Member) -> Result<(), AdminError> {
        let shared = &self.shared;
        let _one_at_a_time = shared.admin.lock().await;
        let node_id = member.node_id;
        if let Some(known) = shared.member(node_id) {
            return self.check_same(&known, member).await;
        }
        self.check_new(&member)?;
        let own = shared.identity().ok_or_else(|| invalid("this node is not part of a cluster"))?;
        let identity = self.identify(&member).await?;
        member.folder_id = identity.member.map(|own| own.folder_id).unwrap_or_default();
        self.check_free(&member)?;
        // One that is not fresh has its log from this cluster, from the time when it was about to join.
        if !identity.fresh && identity.cluster_id != own.cluster_id[..] {
            return Err(invalid(format!(
                "node {node_id} ({}) at {} is not fresh: give it an empty data folder",
                member.name, member.peer_address
            )));
        }
        self.ask_to_adopt(&member, &own.cluster_id, own.epoch).await?;
        if !self.claim_id(node_id, member.folder_id.clone()).await? {
            return Err(self.used(node_id));
        }
        reach(Failpoint::NodeIdClaimed);
        self.change(|seen| {
            let nodes = || BTreeMap::from([(node_id, member.clone())]);
            Ok((!seen.has(node_id)).then(|| ChangeMembers::AddNodes(nodes())))
        })
        .await
    }

    /// Waits until a member that has no vote yet lacks little.
    async fn catch_up(&self, node_id: NodeId) -> Result<(), AdminError> {
        let shared = &self.shared;
        let joined_at = shared.seen().and_then(|seen| seen.at).map_or(0, |at| at.index);
        let matched = || shared.matched_index(node_id).flatten();
        let last = || shared.flushed_next().saturating_sub(1);
        let began = InstantOf::<RT>::now();
        let heard = || shared.links.last_answer(node_id).map_or(began, |(at, _)| at.max(began));
        loop {
            let heard_before = heard();
            let ended = shared.until_deadline(heard_before + SILENCE_LIMIT, || {
                std::future::ready(match () {
                    () if !shared.is_leader() => Some(Err(shared.lost_leadership())),
                    () if shared.member(node_id).is_none() => Some(Err(removed_meanwhile(node_id))),
                    () => caught_up(matched(), joined_at, last()).then_some(Ok(())),
                })
            });
            match ended.await {
                Some(result) => return result,
                None if heard() > heard_before => {}
                None => break,
            }
        }
        Err(AdminError::Unknown(format!(
            "node {node_id} has not answered for {} s and has {} of {} entries; it stays a member without a vote: see \
             its log, and repeat the command once it runs",
            SILENCE_LIMIT.as_secs(),
            matched().map_or(0, |index| index + 1),
            last() + 1
        )))
    }

    fn check_may_go(&self, node_id: NodeId) -> Result<(), AdminError> {
        let shared = &self.shared;
        let member = self.known_member(node_id)?;
        if node_id == shared.claim.node_id {
            return Err(invalid(format!(
                "node {node_id} ({}) leads: hand leadership over first with `saola cluster transfer`",
                member.name
            )));
        }
        if member.role_value() == Role::Witness && shared.witness_is_needed() {
            return Err(invalid(format!(
                "node {node_id} ({}) may be the only one outside this site that has what was acknowledged, as long as the \
                 sites do not protect each other: wait until they do (saola why), or give that up first (saola protection \
                 set maximum-performance)",
                member.name
            )));
        }
        Ok(())
    }

    /// What was shown because a node of another site has stored it must be stored by others before that one goes. Until
    /// the answer is dropped, it does not count.
    async fn leave_gate(&self, node_id: NodeId) -> Result<Leaving, AdminError> {
        let frontier = self.shared.frontier.clone();
        frontier.set_leaving(Some(node_id));
        let leaving = Leaving(frontier);
        if self.within(COMMIT_LIMIT, |shared| shared.frontier.is_stored_without_leaving()).await {
            return Ok(leaving);
        }
        Err(invalid(format!(
            "node {node_id} has stored what other data nodes of its site lack, and it was acknowledged because of it: wait \
             until they have caught up (saola status), or lower the protection (saola protection set)"
        )))
    }

    /// Without enough data nodes at other sites nothing would be acknowledged any more: that is not begun.
    fn check_protection_without(&self, node_id: NodeId, comes: Option<&Member>) -> Result<(), AdminError> {
        let rule = self.shared.store.protection().rule;
        let mut members = self.shared.members();
        if protection::lacking(rule, &members).is_some() {
            // It is so already, as in a cluster of one site.
            return Ok(());
        }
        members.retain(|member| member.node_id != node_id);
        members.extend(comes.cloned());
        protection::lacking(rule, &members).map_or(Ok(()), |lacks| Err(invalid(lacks)))
    }

    /// A change that leaves too few voters which answer could not be completed, nor taken back: it is not begun.
    pub(super) async fn check_quorum_after(&self, steps: &[Change]) -> Result<(), AdminError> {
        let shared = &self.shared;
        let Some(mut voters) = shared.seen().map(|seen| seen.voters()) else { return Ok(()) };
        steps.iter().for_each(|step| apply(step, &mut voters, &mut BTreeSet::new()));
        let others = shared.members().into_iter().filter(|member| voters.contains(&member.node_id));
        let asked = others.map(|member| async move {
            let here = member.node_id == shared.claim.node_id
                || matches!(self.identify(&member).await, Ok(answer) if self.takes_part(&member, &answer));
            (member, here)
        });
        let asked = futures::future::join_all(asked).await;
        let silent: Vec<&str> =
            asked.iter().filter(|(_, here)| !here).map(|(member, _)| member.name.as_str()).collect();
        let (present, quorum) = (asked.len() - silent.len(), voters.len() / 2 + 1);
        if present >= quorum {
            return Ok(());
        }
        Err(invalid(format!(
            "after this change {} voters would be left, of which {present} answer and {quorum} are needed: bring back {} \
             first",
            voters.len(),
            silent.join(", ")
        )))
    }

    /// Changes the membership until `left` finds nothing left to do and it is not joint. Each change names the
    /// membership that was looked at, and is not made if there is another one by then.
    pub(super) async fn change(
        &self,
        left: impl Fn(&Seen<RT>) -> Result<Option<Change>, AdminError>,
    ) -> Result<(), AdminError> {
        let shared = &self.shared;
        let raft = shared.raft().ok_or_else(|| invalid("Raft does not run on this node"))?;
        let until = InstantOf::<RT>::now() + REFUSED_LIMIT;
        let mut refusal = String::from("its membership is not known yet");
        let mut made = None;
        loop {
            if !shared.is_leader() {
                return Err(shared.lost_leadership());
            }
            // What was made shows a moment later.
            if let Some(seen) = shared.seen().filter(|seen| seen.at >= made) {
                let change = match left(&seen)? {
                    Some(change) => change,
                    None if seen.is_joint() => ChangeMembers::AddVoterIds(BTreeSet::new()),
                    None => return Ok(()),
                };
                let unchanged = Precondition::<TypeConfig<RT>>::LastMembershipLogId { last_membership_log_id: seen.at };
                let retain = retains(&seen.record, &change);
                reach(Failpoint::MembershipBefore);
                let changed = RT::timeout(COMMIT_LIMIT, raft.change_membership_if(change, retain, [unchanged])).await;
                match changed {
                    Ok(Ok(response)) => {
                        reach(Failpoint::MembershipAfter);
                        made = Some(response.log_id);
                        continue;
                    }
                    Ok(Err(error)) => refusal = refused(error)?,
                    Err(_) => {
                        return Err(AdminError::Unknown(format!(
                            "the change was not committed within {} s",
                            COMMIT_LIMIT.as_secs()
                        )));
                    }
                }
            }
            if InstantOf::<RT>::now() >= until {
                return Err(AdminError::NoLeader(format!(
                    "node {} leads, but cannot change the membership: {refusal}",
                    shared.claim.node_id
                )));
            }
            RT::sleep(shared.pause()).await;
        }
    }
}

fn removed_meanwhile(node_id: NodeId) -> AdminError {
    invalid(format!("node {node_id} was removed before it had caught up"))
}

/// The reason of a refusal that may pass; an error if trying again makes no sense.
fn refused<RT: Runtime>(
    error: RaftError<TypeConfig<RT>, ClientWriteError<TypeConfig<RT>>>,
) -> Result<String, AdminError> {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(error)) => Ok(error.to_string()),
        RaftError::APIError(ClientWriteError::PreconditionFailed(error)) => Ok(error.to_string()),
        RaftError::APIError(ClientWriteError::ChangeMembershipError(
            error @ (ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_)),
        )) => Ok(error.to_string()),
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => Err(invalid(error.to_string())),
        error => Err(AdminError::Unknown(error.to_string())),
    }
}

/// A leader leaves a joint membership that it finds, as one does that was elected in the middle of a change.
pub(super) async fn leave_joint_memberships<RT: Runtime>(replica: Replica<RT>) {
    let shared: &Arc<Shared<RT>> = &replica.shared;
    let Some(mut metrics) = shared.raft().map(|raft| raft.metrics()) else { return };
    let is_joint = || shared.is_leader() && shared.seen().is_some_and(|seen| seen.is_joint());
    // A leader's metrics change with every heartbeat; they end with Raft.
    while metrics.changed().await.is_ok() {
        if !is_joint() {
            continue;
        }
        let _one_at_a_time = shared.admin.lock().await;
        if !is_joint() {
            continue;
        }
        if let Err(error) = replica.change(|_| Ok(None)).await {
            tracing::warn!("complete the change of the membership that a former leader had begun: {error}");
            continue;
        }
        tracing::info!("completed a change of the membership that a former leader had begun");
        // The change may be this node's own removal.
        if !shared.has_vote(shared.claim.node_id)
            && let Some(to) = replica.successor().await
            && let Err(error) = replica.transfer_here(to, Writes::MayBeUnderWay).await
        {
            tracing::warn!("hand leadership over after the removal of this node: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::{Seat, VoterSet};

    #[test]
    fn vote_is_given_to_one_that_knows_of_its_membership_and_lacks_little() {
        assert!(caught_up(Some(1000), 990, 1000));
        assert!(caught_up(Some(1000), 990, 1000 + VOTE_LAG));
        assert!(!caught_up(Some(1000), 990, 1001 + VOTE_LAG));
        assert!(!caught_up(Some(989), 990, 1000));
        assert!(!caught_up(None, 0, 0));
    }

    /// Voters in sets, and who is marked among nodes 1 to 5.
    fn record(sets: &[&[NodeId]], marked: &[NodeId]) -> MembershipRecord {
        let member = |id| Member { node_id: id, demoted: marked.contains(&id), ..Member::default() };
        let seats = (1..=5).map(|id| Seat { node_id: id, member: Some(member(id)) });
        let configs = sets.iter().map(|ids| VoterSet { node_ids: ids.to_vec() });
        MembershipRecord { configs: configs.collect(), seats: seats.collect() }
    }

    #[test]
    fn voters_that_are_removed_go_and_those_whose_votes_are_taken_stay_whoever_completes_the_change() {
        let all: &[NodeId] = &[1, 2, 3, 4, 5];
        let ids = BTreeSet::from([3, 4]);
        let before = record(&[all], &[]);
        let members =
            |record: &MembershipRecord| record.seats.iter().filter_map(|seat| seat.member.clone()).collect::<Vec<_>>();
        assert!(retains(&before, &demotion(members(&before).iter(), &ids)));
        assert!(!retains(&before, &ChangeMembers::RemoveVoters(BTreeSet::from([4]))));
        let complete = || ChangeMembers::AddVoterIds(BTreeSet::new());
        assert!(retains(&record(&[all, &[1, 2, 5]], &[3, 4]), &complete()), "another leader completes it");
        assert!(!retains(&record(&[all, &[1, 2, 3, 5]], &[]), &complete()), "another leader completes a removal");
        let taken = record(&[&[1, 2, 5]], &[3, 4]);
        assert!(
            !retains(&taken, &ChangeMembers::RemoveVoters(BTreeSet::from([2]))),
            "the marked ones have no vote to lose"
        );
        let back = promotion(members(&taken).iter().collect::<Vec<_>>().into_iter(), &ids);
        assert!(!retains(&taken, &back));
        let (mut voters, mut marked) = (BTreeSet::from([1, 2, 5]), ids.clone());
        apply(&back, &mut voters, &mut marked);
        assert_eq!((voters, marked), (BTreeSet::from([1, 2, 3, 4, 5]), BTreeSet::new()));
    }

    #[test]
    fn removal_goes_by_the_votes_and_is_done_when_the_node_is_gone() {
        let voters = BTreeSet::from([1, 2, 3]);
        assert_eq!(removal(3, &voters, false, true), Some(ChangeMembers::RemoveVoters(BTreeSet::from([3]))));
        assert_eq!(removal(3, &voters, true, true), Some(ChangeMembers::RemoveVoters(BTreeSet::from([3]))));
        assert_eq!(removal(4, &voters, false, true), Some(ChangeMembers::RemoveNodes(BTreeSet::from([4]))));
        assert_eq!(removal(4, &voters, true, true), None, "it goes with the joint membership, or in the next step");
        assert_eq!(removal(4, &voters, false, false), None);
    }
}
