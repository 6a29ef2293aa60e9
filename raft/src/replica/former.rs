//! Members of former epochs that are none of this one: who they are, how they stand, and where they were left behind.
//!
//! The leader asks them now and then for their epoch. So whoever was left behind and is reached again is fenced even if it
//! has nothing to say; and if people had two sites promoted, each vouching that the other takes no part, the two epochs of
//! one number find each other. Neither gives way by itself: each has acknowledged writes, and which of them goes on is for
//! people to decide. Until then nodes and clients of the one refuse those of the other, and both say so.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::Instant as _;
use saola_storage::epoch::Epoch;
use saola_storage::keyspace::meta::LogIdRow;
use saola_storage::promotion::{Plan, SignedPlan, epoch_id};
use saola_storage::types::{EpochId, LogId, NodeId};

use super::admin::{QUESTION_LIMIT, invalid};
use super::{AdminError, InstantOf, Replica, Shared};
use crate::member::Member;
use crate::types::Runtime;
use crate::wire::{EpochBegan, LineageVerb, Nothing, Standing};

/// Between two looks of a leader at former members.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// What was seen of another epoch of this one's number is told for so long.
const TOLD_FOR: Duration = Duration::from_secs(60);

/// A member of a former epoch that is none of this one.
#[derive(Clone, Debug)]
pub struct Former {
    /// As it was when its epoch ended.
    pub member: Member,
    /// How it stands, or why that is not known.
    pub standing: Result<FormerStanding, String>,
}

/// How a former member stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormerStanding {
    /// Its epoch.
    pub epoch: u64,
    /// That has this one's number, and this plan began it.
    pub twin: Option<String>,
    /// Why it takes no part; empty: it does not know yet that an epoch goes on without it.
    pub fenced: String,
    /// End of its log.
    pub last: Option<LogId>,
    /// Store-wide revision of what it has applied.
    pub revision: u64,
    /// All up to this entry goes on.
    pub base: Option<LogId>,
    /// Store-wide revision there.
    pub base_revision: u64,
    /// It has begun to come back, under this number.
    pub back_as: Option<NodeId>,
}

/// Where the epoch that left a node behind began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Fork {
    pub epoch: u64,
    pub base: Option<LogIdRow>,
    pub revision: u64,
}

/// Another epoch of this one's number that somebody has shown.
pub(super) struct Twin<I> {
    epoch: EpochId,
    says: String,
    /// When its record was read, and the log told of it.
    told_at: I,
    /// When it was seen last.
    seen_at: I,
}

impl<RT: Runtime> Replica<RT> {
    /// Members of former epochs that are none of this one, each asked how it stands.
    ///
    /// # Errors
    /// This node cannot know: it does not reach a leader with a quorum.
    pub async fn former_members(&self) -> Result<Vec<Former>, AdminError> {
        let shared = &self.shared;
        self.be_current().await?;
        let answers = self.standings_of(&shared.former_members(), LineageVerb::Stand(Nothing {})).await;
        let known = |(member, answer): (Member, Result<Standing, String>)| {
            let standing = answer.map(|it| shared.former_standing(&member, it));
            Former { member, standing }
        };
        Ok(answers.into_iter().map(known).collect())
    }

    /// One of them, by its name; one that has come back already is found as well.
    ///
    /// # Errors
    /// As [`Replica::former_members`]; or there is none of that name.
    pub async fn former_member(&self, name: &str) -> Result<Member, AdminError> {
        self.be_current().await?;
        let mut known = self.shared.former_members();
        known.extend(self.shared.members());
        known.into_iter().find(|it| it.name == name).ok_or_else(|| {
            invalid(format!("no node {name} was left behind by a forced promotion: see `saola epoch history`"))
        })
    }

    pub(super) async fn be_current(&self) -> Result<(), AdminError> {
        let current = self.read_point(QUESTION_LIMIT).await;
        current.map(drop).map_err(|error| AdminError::NoLeader(error.to_string()))
    }
}

/// A leader asks former members for their epoch, for as long as there are any.
pub(super) async fn watch<RT: Runtime>(replica: Replica<RT>) {
    let shared = &replica.shared;
    while !shared.has_stopped() {
        RT::sleep(LOOK_EVERY).await;
        if !shared.is_leader() {
            continue;
        }
        let former = shared.former_members();
        for (_, answer) in replica.standings_of(&former, LineageVerb::AskEpoch(Nothing {})).await {
            // Those that people have fenced are to give way, whatever their number.
            let is_news = |it: &Standing| !it.record.is_empty() && it.fenced.is_empty();
            if let Some(standing) = answer.ok().filter(is_news) {
                replica.meet(&standing.record).await;
            }
        }
    }
}

impl<RT: Runtime> Shared<RT> {
    /// What was seen lately of another epoch of this one's number, in words.
    pub(crate) fn twin_epoch(&self) -> Option<String> {
        self.twin.lock().as_ref().filter(|it| it.seen_at.elapsed() < TOLD_FOR).map(|it| it.says.clone())
    }

    /// The same twin was met lately: it is told of for a while more.
    pub(super) fn is_known_twin(&self, epoch: EpochId) -> bool {
        let mut twin = self.twin.lock();
        let known = twin.as_mut().filter(|it| it.epoch == epoch && it.told_at.elapsed() < TOLD_FOR);
        known.is_some_and(|known| {
            known.seen_at = InstantOf::<RT>::now();
            true
        })
    }

    /// Takes note of an approved plan that began an epoch of this one's number too.
    pub(super) fn met_twin(&self, plan: &Plan, twin: EpochId, own: EpochId) {
        let says = format!(
            "two promotions began epoch {}: this is the one by plan {:016x}, and site {} goes on in that by plan {:016x}; \
             neither knows what the other acknowledges",
            own.number, own.plan, plan.site, twin.plan
        );
        tracing::error!("{says}: decide which goes on, and see the runbook `wrong-promotion`");
        let now = InstantOf::<RT>::now();
        *self.twin.lock() = Some(Twin { epoch: twin, says, told_at: now, seen_at: now });
    }

    /// Members of former epochs that are none of this one, or have come back so far that only their vote is lacking; the
    /// newest word on each.
    pub(super) fn former_members(&self) -> Vec<Member> {
        let is_back = |it: &Member| !it.role_value().votes() || it.demoted || self.has_vote(it.node_id);
        let names: BTreeSet<String> = self.members().into_iter().filter(is_back).map(|it| it.name).collect();
        let (mut former, mut seen) = (Vec::new(), names);
        let own = self.identity().map(|own| own.cluster_id).unwrap_or_default();
        for epoch in self.store.epochs().into_iter().rev() {
            let plan = SignedPlan::from_bytes(&epoch.record).map(|(_, plan)| plan);
            // A copy for a drill has the epochs of the cluster that it was taken from, and nothing to do with its members.
            let Some(plan) = plan.ok().filter(|plan| plan.cluster_id == own[..]) else { continue };
            let gone = plan.lost.into_iter().chain(plan.left);
            former.extend(gone.filter(|it| seen.insert(it.name.clone()) && !it.peer_address.is_empty()));
        }
        former.sort_by_key(|it| it.node_id);
        former
    }

    fn former_standing(&self, member: &Member, standing: Standing) -> FormerStanding {
        let fork = fork(&self.chain(), &standing.epochs);
        let number = standing.member.map_or(member.node_id, |now| now.node_id);
        let own = self.identity().map(|own| own.epoch_id()).unwrap_or_default();
        let theirs = epoch_id(standing.epoch, Some(&standing.record));
        let is_twin = theirs.is_twin_of(own);
        FormerStanding {
            epoch: standing.epoch,
            twin: is_twin.then(|| format!("{:016x}", theirs.plan)),
            fenced: standing.fenced,
            last: standing.last.map(LogId::from),
            revision: standing.revision,
            base: fork.base.map(LogId::from),
            base_revision: fork.revision,
            back_as: (number != member.node_id && !is_twin).then_some(number),
        }
    }

    /// The epochs that forced promotions began, as far as this node is in them: those of its rows, and its own, of which the
    /// first command may not have been applied yet.
    pub(super) fn chain(&self) -> Vec<EpochBegan> {
        let mut epochs = self.store.epochs();
        let (own, record) = (self.own_epoch().map_or(0, |own| own.epoch), self.record());
        if let Ok((_, plan)) = SignedPlan::from_bytes(&record)
            && epochs.last().is_none_or(|last| last.number < own)
        {
            epochs.push(Epoch { number: own, record, at_index: 0, revision: plan.revision, began_us: 0 });
        }
        epochs.iter().filter_map(began).collect()
    }
}

fn began(epoch: &Epoch) -> Option<EpochBegan> {
    let (_, plan) = SignedPlan::from_bytes(&epoch.record).ok()?;
    let EpochId { number, plan: hash } = epoch_id(epoch.number, Some(&epoch.record));
    Some(EpochBegan { number, plan: hash, former: plan.former_epoch, base: plan.base, revision: epoch.revision })
}

fn by_own(next: &EpochBegan) -> Fork {
    Fork { epoch: next.number, base: next.base, revision: next.revision }
}

/// Where a node was left behind that is in the epochs `theirs`, by those who are in `own`: all goes on that both began with.
/// Mostly that is all up to the base of the first of the own epochs that it is not in. If it is in one that is none of the
/// own ones, it is all up to the older of two bases. Of a chain with a hole nothing is known to go on.
pub(super) fn fork(own: &[EpochBegan], theirs: &[EpochBegan]) -> Fork {
    // A plan stands for all that was before it; a node whose rows are behind, and a witness, show no more than that.
    let last = theirs.last().map(|it| it.plan);
    if let Some(known) = own.iter().rposition(|it| Some(it.plan) == last) {
        return own.get(known + 1).map(by_own).unwrap_or_default();
    }
    let is_same = |(one, other): &(&EpochBegan, &EpochBegan)| one.plan == other.plan;
    let common = own.iter().zip(theirs).take_while(is_same).count();
    let Some(next) = own.get(common) else { return Fork::default() };
    let numbers = std::iter::once(1).chain(theirs.iter().map(|it| it.number));
    let is_whole = theirs.iter().zip(numbers).all(|(epoch, before)| epoch.former == before);
    match theirs.get(common) {
        _ if !is_whole => Fork { epoch: next.number, base: None, revision: 0 },
        None => by_own(next),
        Some(other) => {
            let index = |base: &Option<LogIdRow>| base.map_or(0, |base| base.index);
            let base = if index(&other.base) < index(&next.base) { other.base } else { next.base };
            Fork { base, revision: next.revision.min(other.revision), ..by_own(next) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Epoch `number` behind `former`, begun by plan `plan` at the entry 10 times that revision.
    fn began(number: u64, former: u64, plan: u64, revision: u64) -> EpochBegan {
        let base = Some(LogIdRow { term: 3, node_id: 1, index: 10 * revision });
        EpochBegan { number, plan, former, base, revision }
    }

    fn left(own: &[EpochBegan], theirs: &[EpochBegan]) -> (u64, u64, u64) {
        let Fork { epoch, base, revision } = fork(own, theirs);
        (epoch, base.map_or(0, |base| base.index), revision)
    }

    #[test]
    fn a_node_was_left_behind_by_the_first_epoch_that_it_is_not_in() {
        let own = [began(2, 1, 7, 5), began(4, 2, 8, 9)];
        assert_eq!(left(&own, &[]), (2, 50, 5));
        assert_eq!(left(&own, &own[..1]), (4, 90, 9));
        assert_eq!(left(&own, &own), (0, 0, 0), "it is in all of them");
        let own = [own.to_vec(), vec![began(5, 4, 9, 12)]].concat();
        assert_eq!(left(&own, &own[1..2]), (5, 120, 12), "a witness shows the newest one alone");
    }

    #[test]
    fn of_a_node_that_another_promotion_led_elsewhere_only_goes_on_what_both_began_with() {
        let own = [began(2, 1, 7, 5), began(3, 2, 8, 9)];
        assert_eq!(left(&own, &[began(2, 1, 1, 4)]), (2, 40, 4), "it began earlier");
        assert_eq!(left(&own, &[began(2, 1, 1, 6)]), (2, 50, 5), "it began later");
        assert_eq!(left(&own, &[own[0].clone(), began(3, 2, 1, 8)]), (3, 80, 8), "they share an epoch");
        assert_eq!(left(&own, &[began(2, 1, 1, 4), began(3, 2, 2, 20)]), (2, 40, 4), "the second of a name");
        let skipped = [began(3, 1, 7, 10)];
        assert_eq!(left(&skipped, &[began(2, 1, 1, 4)]), (3, 40, 4), "their numbers need not be the same");
        assert_eq!(left(&own, &[began(3, 2, 1, 20)]), (2, 0, 0), "nobody knows which 2 was before it");
    }
}
