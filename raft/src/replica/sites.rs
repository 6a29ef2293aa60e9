//! The leader's watch over the other sites: what [`crate::protection`] decides is done here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::Instant as _;
use saola_storage::command::{Command, MoveGate, Op};
use saola_storage::failpoint::{Failpoint, reach};
use saola_storage::planted::{self, Bug};
use saola_storage::protection::{Protection, ProtectionState, WaitsFor};
use saola_storage::types::{LeaderId, NodeId};

use super::protection::new_id;
use super::{InstantOf, Replica, Shared};
use crate::frontier::{self, Gate};
use crate::member::needs_two_sites;
use crate::protection::{Action, FLAPPING_MS, Limits, State, View, Watch};
use crate::types::{Runtime, detach};

/// More losses than a few within so long make the cluster wait longer for the site.
pub(super) const FLAPPING_US: u64 = 1_000 * FLAPPING_MS;
/// A proposal that moves the gate may take so long.
const MOVE_LIMIT: Duration = Duration::from_secs(10);

/// What a leader sees of the other sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The state.
    pub state: State,
    /// For how long, milliseconds, as this leader knows.
    pub for_ms: u64,
    /// Id of the replicated state that this is about.
    pub state_id: [u8; 16],
    /// For how long this leader has led, milliseconds.
    pub led_ms: u64,
    /// The gate is closed, and the entry that closed it is stored where it must be: so is all that is acknowledged.
    pub is_in_force: bool,
    /// The witness stands in for the other site, and has all that is acknowledged.
    pub witness_stands_in: bool,
    /// A quorum has confirmed this leader lately.
    pub has_quorum: bool,
    /// Since the newest acknowledgement by enough nodes of other sites was asked for, or since this leader counts.
    pub acknowledged_ms: u64,
    /// The same of the witness; none: there is none.
    pub witness_acknowledged_ms: Option<u64>,
    /// The witness is to stand in for the other site: without that one's votes this site could commit alone.
    pub needs_witness: bool,
    /// No site can commit alone: every commit has a copy at another one.
    pub needs_two_sites: bool,
    /// What no data node of another site has; none: this leader has not heard what they have.
    pub missing: Option<Missing>,
    /// The witness has forgotten entries that a data node lacks: arithmetic alone protects nothing.
    pub is_released: bool,
}

/// Applied and not known to be at any data node of another site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Log entries.
    pub entries: u64,
    /// Revisions.
    pub revisions: u64,
    /// They are no older than this, milliseconds.
    pub ms: u64,
}

/// One leadership, as it watches the other sites.
struct Leading<I> {
    term: u64,
    since: I,
    /// Acknowledgements count from here on, until there is a newer one.
    counts_from: I,
    /// Since when a quorum has confirmed it without a break.
    quorum_since: Option<I>,
    /// The rule at the last look.
    rule: Protection,
    /// Highest revision that some data node of another site is known to have.
    revision_there: u64,
    watch: Watch,
}

/// Watches over the other sites while this node leads. One task per data node.
pub(super) async fn run<RT: Runtime>(replica: Replica<RT>) {
    let shared = &replica.shared;
    let every = Duration::from_millis(shared.timing.heartbeat_ms.div_ceil(2));
    let mut leading: Option<Leading<InstantOf<RT>>> = None;
    let mut led_until: Option<InstantOf<RT>> = None;
    // Whether what was proposed last has come to nothing.
    let not_taken = Arc::new(AtomicBool::new(false));
    while !shared.has_stopped() {
        RT::sleep(every).await;
        let term = shared.with_metrics(|metrics| metrics.current_term).filter(|_| shared.is_leader());
        let Some(term) = term else {
            leading = None;
            *shared.protection_seen.lock() = None;
            continue;
        };
        let now = InstantOf::<RT>::now();
        let lead = match leading.take() {
            Some(lead) if lead.term == term => leading.insert(lead),
            _ => leading.insert(shared.begin_leading(term, now, led_until)),
        };
        led_until = Some(now);
        if not_taken.swap(false, Ordering::AcqRel) {
            lead.watch.not_taken();
        }
        let replicated = shared.store.protection();
        if lead.rule != replicated.rule {
            // Who must acknowledge now has had no time for it.
            (lead.rule, lead.counts_from) = (replicated.rule, now.max(lead.counts_from));
        }
        let view = shared.protection_view(lead, &replicated, now);
        let in_force = view.is_in_force && view.has_quorum;
        let limits = shared.limits_in_force(&replicated, view.is_in_force);
        let now_ms = (now - lead.since).as_millis() as u64;
        let before = lead.watch.state;
        let (next, action) = lead.watch.next(&view, limits, now_ms);
        lead.watch = next;
        *shared.protection_seen.lock() = Some(Seen {
            state: next.state,
            for_ms: now_ms - next.since_ms,
            state_id: replicated.id,
            led_ms: now_ms,
            is_in_force: in_force && view.waits_for == WaitsFor::OtherSite,
            witness_stands_in: in_force && view.waits_for == WaitsFor::Witness,
            has_quorum: view.has_quorum,
            acknowledged_ms: view.since_ack_ms.unwrap_or(view.acknowledged_ms),
            witness_acknowledged_ms: view.witness_acknowledged_ms,
            needs_witness: view.needs_witness,
            needs_two_sites: needs_two_sites(&shared.voter_sets(), &shared.members()),
            missing: shared.missing_elsewhere(lead, &replicated, &view, limits),
            is_released: shared.witness_lets_go(),
        });
        if next.state != before {
            tell(before, next.state, &view);
        }
        if let Some(action) = action {
            let change =
                MoveGate { from: Bytes::copy_from_slice(&replicated.id), to: Bytes::copy_from_slice(&new_id::<RT>()) };
            reach(Failpoint::GateMoves);
            let op = match action {
                Action::Degrade => Op::Degrade(change),
                Action::Synchronize => Op::Synchronize(change),
                Action::WaitForWitness => Op::WaitForWitness(change),
            };
            let (replica, not_taken) = (replica.clone(), not_taken.clone());
            detach::<RT>(async move {
                let command = Command { request: None, op: Some(op) };
                if let Err(refusal) = replica.propose_within(command, MOVE_LIMIT).await
                    && refusal.was_not_taken()
                {
                    tracing::warn!("move the gate: {}; it is tried again", refusal.message);
                    not_taken.store(true, Ordering::Release);
                }
            });
        }
    }
}

fn tell(before: State, now: State, view: &View) {
    let (was, is) = (before.as_str(), now.as_str());
    let View { answering, waits_for, .. } = *view;
    let acknowledged_ms = match waits_for {
        WaitsFor::Witness => view.witness_acknowledged_ms.unwrap_or(view.acknowledged_ms),
        _ => view.acknowledged_ms,
    };
    match now {
        State::Synchronized => tracing::info!(was, is, "protection: every acknowledged write is at the other site"),
        State::Resynchronizing => tracing::info!(was, is, answering, "protection: the other site gets what it lacks"),
        _ => tracing::warn!(was, is, ?waits_for, acknowledged_ms, answering, "protection: see `saola why`"),
    }
}

impl<RT: Runtime> Shared<RT> {
    /// Where no site can commit alone, the time counts from the last word of the former leader, so that after the loss of
    /// a site it runs beside the election. Else from the election: there it is also the lease that bounds a loss.
    fn begin_leading(&self, term: u64, now: InstantOf<RT>, led_until: Option<InstantOf<RT>>) -> Leading<InstantOf<RT>> {
        let runs_beside = needs_two_sites(&self.voter_sets(), &self.members());
        let former = (*self.heard_data_leader.lock()).max(led_until).filter(|_| runs_beside);
        Leading {
            term,
            since: now,
            counts_from: former.map_or(now, |former| former.min(now)),
            quorum_since: None,
            rule: self.store.protection().rule,
            revision_there: 0,
            watch: Watch::default(),
        }
    }

    /// Whether to give up those whom acknowledgements wait for, which was decided a moment ago, is still right: they may
    /// have acknowledged meanwhile.
    pub(super) fn gives_up(&self) -> bool {
        if planted::is(Bug::GateOpensEarly) {
            return true;
        }
        let Some(term) = self.with_metrics(|metrics| metrics.current_term) else { return false };
        let replicated = self.store.protection();
        let seen = *self.protection_seen.lock();
        let in_force = seen.is_some_and(|seen| seen.is_in_force || seen.witness_stands_in);
        let degrade = Duration::from_millis(self.limits_in_force(&replicated, in_force).degrade_ms);
        let led_ms = seen.map_or(0, |seen| seen.led_ms);
        let stands_in = replicated.waits_for == WaitsFor::Witness;
        if stands_in && !self.shrink_view(led_ms, true).needs_witness() {
            return true;
        }
        let voters = self.voter_sets().pop().unwrap_or_default();
        let Gate::On { members, acks } = frontier::gate(&replicated, &self.claim.site, &self.members(), &voters) else {
            return true;
        };
        let newest = self.acknowledgements.lock().newest(term, &members, acks);
        newest.is_none_or(|at| at.elapsed() >= degrade)
    }

    /// A shorter time counts once the other site knows of it: until then it goes by the former one.
    fn limits_in_force(&self, replicated: &ProtectionState, is_in_force: bool) -> Limits {
        let limits = self.limits(replicated.rule);
        let former_ms = if is_in_force { 0 } else { replicated.former_degrade_ms };
        Limits { degrade_ms: limits.degrade_ms.max(former_ms), ..limits }
    }

    fn protection_view(
        &self,
        lead: &mut Leading<InstantOf<RT>>,
        replicated: &ProtectionState,
        now: InstantOf<RT>,
    ) -> View {
        let since = |at: InstantOf<RT>| if now > at { now - at } else { Duration::ZERO };
        let ms = |at: InstantOf<RT>| since(at).as_millis() as u64;
        let members = self.members();
        let elsewhere = frontier::elsewhere(&self.claim.site, &members);
        let acks = replicated.rule.acks as usize;
        let leader = LeaderId { term: lead.term, node_id: self.claim.node_id };
        let witness = frontier::witness(&members, &self.voter_sets().pop().unwrap_or_default());
        let (acknowledged, by_witness) = {
            let known = self.acknowledgements.lock();
            (known.newest(lead.term, &elsewhere, acks), known.newest(lead.term, witness.as_slice(), 1))
        };
        self.keep_acknowledged(lead.term, acknowledged, now);
        let counted_ms = |at: Option<InstantOf<RT>>| ms(at.map_or(lead.counts_from, |at| at.max(lead.counts_from)));
        let recent = Duration::from_millis(self.limits(replicated.rule).degrade_ms);
        let last_answer = |id: NodeId| self.links.last_answer(id).map(|(at, _)| at);
        let answers = |id: &&NodeId| last_answer(**id).is_some_and(|at| at >= lead.since && since(at) < recent);
        let answering = elsewhere.iter().filter(answers).count();
        let has_quorum = self.confirmed_age().is_some_and(|(_, age)| age < self.silence());
        lead.quorum_since = has_quorum.then(|| lead.quorum_since.unwrap_or(now));
        let silent = |witness: NodeId| last_answer(witness).map_or(lead.since, |at| at.max(lead.since));
        View {
            mode: replicated.rule.mode,
            waits_for: replicated.waits_for,
            // What a former leader of the other site has shown may be missing there, until this one's first entry is not.
            is_in_force: self.frontier.next() > replicated.at_index && self.frontier.is_covered(leader),
            has_quorum,
            acks,
            answering,
            acknowledged_ms: counted_ms(acknowledged),
            asked_ms: lead.quorum_since.map_or(0, ms),
            since_ack_ms: acknowledged.map(ms),
            witness_silent_ms: witness.map(|witness| ms(silent(witness))),
            witness_acknowledged_ms: witness.map(|_| counted_ms(by_witness)),
            needs_witness: self.shrink_view(ms(lead.since), has_quorum).needs_witness(),
            losses: replicated.losses_within(FLAPPING_US, self.now_us()) as u32,
            was_lost: !replicated.losses_us.is_empty(),
        }
    }

    /// What the other site may know of its acknowledgements: none of them is younger than what a quorum has confirmed, or
    /// another leader might count from an earlier one.
    fn keep_acknowledged(&self, term: u64, acknowledged: Option<InstantOf<RT>>, now: InstantOf<RT>) {
        let confirmed = self.quorum_age().map(|age| now - age);
        *self.acknowledged.lock() = acknowledged.zip(confirmed).map(|(one, other)| (term, one.min(other)));
    }

    /// See [`crate::wire::AppendRequest::acknowledged_age_ms`].
    pub(crate) fn acknowledged_age_ms(&self, term: u64) -> u64 {
        let acknowledged = self.acknowledged.lock().filter(|(its, _)| *its == term);
        acknowledged.map_or(0, |(_, at)| at.elapsed().as_millis() as u64 + 1)
    }

    /// What no data node of another site is known to have, as far as they have told this leader.
    fn missing_elsewhere(
        &self,
        lead: &mut Leading<InstantOf<RT>>,
        replicated: &ProtectionState,
        view: &View,
        limits: Limits,
    ) -> Option<Missing> {
        let elsewhere = frontier::elsewhere(&self.claim.site, &self.members());
        let next = self.frontier.flushed_by(lead.term, &elsewhere, 1);
        let last_there = next.checked_sub(1)?;
        let applied = self.store.applied();
        let last = applied.log_id.map_or(0, |last| last.index);
        let known = if last_there >= last { Some(applied.revision) } else { self.store.revision_at_index(last_there) };
        lead.revision_there = lead.revision_there.max(known.unwrap_or(0));
        if lead.revision_there == 0 {
            return None;
        }
        let open_ms = self.now_us().saturating_sub(replicated.since_us) / 1000;
        let entries = last.saturating_sub(last_there);
        Some(Missing {
            entries,
            revisions: if entries == 0 { 0 } else { applied.revision - lead.revision_there.min(applied.revision) },
            ms: match view.since_ack_ms {
                Some(since_ack_ms) => since_ack_ms,
                // An earlier leader heard it last, before the gate was opened.
                None if !replicated.is_closed() => view.acknowledged_ms.max(open_ms + limits.degrade_ms),
                None => view.acknowledged_ms,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::member::{Member, Role};

    fn member(node_id: NodeId, site: &str, role: Role) -> Member {
        Member { node_id, site: site.into(), role: role as i32, ..Member::default() }
    }

    #[test]
    fn time_runs_beside_an_election_only_where_no_site_can_commit_alone() {
        let mut members = vec![member(1, "main", Role::Voter), member(2, "main", Role::Voter)];
        members.extend([member(3, "dr", Role::Voter), member(4, "dr", Role::Voter), member(5, "third", Role::Witness)]);
        let five = BTreeSet::from([1, 2, 3, 4, 5]);
        assert!(needs_two_sites(std::slice::from_ref(&five), &members));
        assert!(!needs_two_sites(&[five, BTreeSet::from([1, 2, 5])], &members), "a joint membership: main is enough");
        assert!(!needs_two_sites(&[BTreeSet::from([1, 2])], &members));
        assert!(!needs_two_sites(&[], &members));
    }
}
