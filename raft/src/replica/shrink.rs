//! The votes of a site that stays away: what [`crate::shrink`] decides is done here, at the leader.

use std::time::Duration;

use openraft::Instant as _;
use saola_storage::protection::WaitsFor;
use saola_storage::types::NodeId;

use super::changes::{Change, Seen, caught_up, demotion, promotion};
use super::{AdminError, InstantOf, Replica, Shared};
use crate::member::Member;
use crate::shrink::{Seat, ShrinkView, Step};
use crate::types::Runtime;

/// After an attempt that failed, so long passes before the next one.
const PAUSE: Duration = Duration::from_secs(10);

/// One task per data node.
pub(super) async fn watch<RT: Runtime>(replica: Replica<RT>) {
    let shared = &replica.shared;
    let every = Duration::from_millis(shared.timing.election_max_ms);
    while !shared.has_stopped() {
        RT::sleep(every).await;
        if shared.votes_step() != Step::Nothing
            && let Err(error) = replica.move_votes().await
        {
            tracing::warn!("take votes of a lost site, or give them back: {error}; it is tried again");
            RT::sleep(PAUSE).await;
        }
    }
}

impl<RT: Runtime> Shared<RT> {
    fn votes_step(&self) -> Step {
        let seen = (*self.protection_seen.lock()).filter(|_| self.is_leader());
        let Some(seen) = seen else { return Step::Nothing };
        let replicated = self.store.protection();
        // The gate may have moved since the last look.
        let is_current = replicated.id == seen.state_id && (seen.is_in_force || seen.witness_stands_in);
        let has_all = if is_current { replicated.waits_for } else { WaitsFor::Nobody };
        self.shrink_view(seen.led_ms, seen.has_quorum).step(has_all)
    }

    /// A member has no vote because its site was lost.
    pub(super) fn votes_are_taken(&self) -> bool {
        let sets = self.voter_sets();
        let votes = |id: NodeId| sets.last().is_some_and(|set| set.contains(&id));
        self.members().iter().any(|it| it.demoted && !votes(it.node_id))
    }

    /// What is known of the votes, by a leader that has led for so long.
    pub(super) fn shrink_view(&self, led_ms: u64, has_quorum: bool) -> ShrinkView<'_> {
        let now = InstantOf::<RT>::now();
        let silent_ms = |id: NodeId| match self.links.last_answer(id) {
            _ if id == self.claim.node_id => 0,
            Some((at, _)) if now > at => ((now - at).as_millis() as u64).min(led_ms),
            Some(_) => 0,
            None => led_ms,
        };
        let (sets, matched, last) = (self.voter_sets(), self.matched(), self.flushed_next().saturating_sub(1));
        let seat = |member: Member| {
            let id = member.node_id;
            let index = matched.as_ref().and_then(|matched| matched.get(&id).copied().flatten());
            Seat {
                votes: sets.last().is_some_and(|set| set.contains(&id)),
                silent_ms: silent_ms(id),
                caught_up: caught_up(index, 0, last),
                member,
            }
        };
        let rule = self.store.protection().rule;
        let limits = self.limits(rule);
        ShrinkView {
            own_site: &self.claim.site,
            seats: self.members().into_iter().map(seat).collect(),
            is_joint: sets.len() > 1,
            has_quorum,
            mode: rule.mode,
            goal: self.store.goal(),
            shrink_ms: limits.shrink_ms,
            recent_ms: self.timing.election_max_ms,
        }
    }
}

impl<RT: Runtime> Replica<RT> {
    /// Those whose votes are taken stay members, with a mark by which they get them back.
    async fn move_votes(&self) -> Result<(), AdminError> {
        let shared = &self.shared;
        let _one_at_a_time = shared.admin.lock().await;
        let (step, before) = (shared.votes_step(), shared.voter_sets());
        let steps: Vec<Change> = step.change([].iter()).into_iter().collect();
        self.check_quorum_after(&steps).await?;
        // They may have answered meanwhile.
        let still = |seen: &Seen<RT>| step.change(seen.members()).filter(|_| shared.votes_step() == step);
        self.change(|seen| Ok(still(seen))).await?;
        let after = shared.voter_sets();
        match step {
            _ if after == before => {}
            Step::GiveBack(nodes) => tracing::info!(?nodes, "nodes of a site that was lost have their votes back"),
            Step::Take(nodes) => {
                tracing::warn!(
                    ?nodes,
                    "a site is lost for long: its nodes have no votes until it is back; see `saola why`"
                )
            }
            Step::Nothing => {}
        }
        Ok(())
    }
}

impl Step {
    /// The change of the membership that it takes.
    fn change<'m>(&self, members: impl Iterator<Item = &'m Member>) -> Option<Change> {
        match self {
            Step::Nothing => None,
            Step::Take(ids) => Some(demotion(members, ids)),
            Step::GiveBack(ids) => Some(promotion(members, ids)),
        }
    }
}
