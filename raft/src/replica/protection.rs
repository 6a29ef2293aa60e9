//! What an acknowledgement waits for: setting it, what stands in the way, and the leader's watch over the other site.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::Instant as _;
use saola_storage::command::{Command, MoveGate, Op};
use saola_storage::protection::{Mode, Protection, ProtectionState};
use saola_storage::types::LeaderId;

use super::{InstantOf, ProposeError, Replica, Shared};
use crate::frontier;
use crate::member::{Member, Role};
use crate::protection::{Action, Limits, State, View, Watch};
use crate::types::{Runtime, detach};

/// A site that comes back must answer for so long before it is waited for.
const RETURN_MS: u64 = 30_000;
/// Then it must have everything for so long.
const PARITY_MS: u64 = 10_000;
/// A witness that is silent for so long counts as lost.
const WITNESS_LOST_MS: u64 = 30_000;
/// More losses than a few within so long make the cluster wait longer for the site.
const FLAPPING_US: u64 = 3_600_000_000;
/// A proposal that moves the gate may take so long.
const MOVE_LIMIT: Duration = Duration::from_secs(10);

/// How the sites stand to each other.
#[derive(Clone, Debug, PartialEq)]
pub struct ProtectionStatus {
    /// As the applied state has it.
    pub replicated: ProtectionState,
    /// Times that are in force.
    pub limits: Limits,
    /// How long the gate has been open in this quarter of the year, milliseconds.
    pub open_in_quarter_ms: u64,
    /// How often it was opened within the last hour because the other site did not answer.
    pub losses: u32,
    /// On a leader: what it sees.
    pub seen: Option<Seen>,
}

/// What a leader sees of the other sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The state.
    pub state: State,
    /// For how long, milliseconds, as this leader knows.
    pub for_ms: u64,
    /// The gate is closed, and the entry that closed it is stored where it must be: so is all that is acknowledged.
    pub is_in_force: bool,
    /// Since the newest acknowledgement by enough nodes of other sites was asked for, or since this leader counts.
    pub acknowledged_ms: u64,
    /// Revisions that no data node of another site has, as far as this leader has heard.
    pub missing_elsewhere: u64,
}

/// Why a cluster cannot give a protection, if so: whichever site leads, `acks` data nodes of the others must be there.
pub(super) fn lacking(protection: Protection, members: &[Member]) -> Option<String> {
    if protection.mode == Mode::MaximumPerformance {
        return None;
    }
    let data = || members.iter().filter(|it| it.role_value().is_data());
    let sites: BTreeSet<&str> = data().map(|it| it.site.as_str()).collect();
    sites.into_iter().find_map(|site| {
        let elsewhere = data().filter(|it| it.site != site).count();
        (elsewhere < protection.acks as usize).then(|| {
            format!(
                "with a leader at site {site} there are {elsewhere} data nodes at other sites, and {} must acknowledge: add \
                 nodes there (saola cluster add), or lower the protection (saola protection set)",
                protection.acks
            )
        })
    })
}

/// The rule that a cluster of these members begins with: of many nodes at the other site two must have a write, so that
/// one of them may be lost with the site that leads.
pub(super) fn first_rule(members: &[Member]) -> Protection {
    let two = Protection { acks: 2, ..Protection::default() };
    let three = Protection { acks: 3, ..two };
    match lacking(three, members) {
        None => two,
        Some(_) => Protection::default(),
    }
}

impl<RT: Runtime> Replica<RT> {
    /// Changes what an acknowledgement waits for. It is in force from the answer on: everything that is acknowledged
    /// later is also where the new rule wants it.
    pub async fn set_protection(&self, protection: Protection, deadline: Duration) -> Result<(), ProposeError> {
        if protection.acks == 0 {
            return Err(ProposeError::Refused("at least one node of another site must acknowledge: ask for 1".into()));
        }
        if let Some(lacks) = lacking(protection, &self.shared.members()) {
            return Err(ProposeError::Refused(lacks));
        }
        let degrade_ms = self.shared.limits(protection).degrade_ms;
        self.shared.timing.check_degrade(degrade_ms).map_err(ProposeError::Refused)?;
        // Said twice it says the same.
        let command = Command { request: None, op: Some(Op::SetProtection(protection.to_command(new_id::<RT>()))) };
        self.propose(command, deadline).await.map(drop)
    }
}

/// Id of a state of the protection.
pub(super) fn new_id<RT: Runtime>() -> [u8; 16] {
    rand::RngExt::random(&mut RT::thread_rng())
}

impl<RT: Runtime> Shared<RT> {
    fn limits(&self, rule: Protection) -> Limits {
        let or = |set: u64, preset: u64| if set == 0 { preset } else { set };
        Limits {
            degrade_ms: or(rule.timers.degrade_ms, self.timing.degrade_ms),
            return_ms: or(rule.timers.return_ms, RETURN_MS),
            parity_ms: or(rule.timers.parity_ms, PARITY_MS),
            witness_lost_ms: WITNESS_LOST_MS,
        }
    }

    /// None on a witness, which does not know the rule.
    pub(super) fn protection_status(&self) -> Option<ProtectionStatus> {
        if !self.claim.role.is_data() {
            return None;
        }
        let replicated = self.store.protection();
        let limits = self.limits(replicated.rule);
        let seen = (*self.protection_seen.lock()).filter(|_| self.is_leader());
        let now_us = self.now_us();
        let open_in_quarter_ms = replicated.open_in_quarter_us(now_us) / 1000;
        let losses = replicated.losses_within(FLAPPING_US, now_us) as u32;
        Some(ProtectionStatus { replicated, limits, open_in_quarter_ms, losses, seen })
    }
}

/// One leadership, as it watches the other site.
struct Leading<I> {
    term: u64,
    since: I,
    /// Acknowledgements count from here on, until there is a newer one.
    counts_from: I,
    watch: Watch,
}

/// Watches over the other site while this node leads. One task per data node.
pub(super) async fn watch<RT: Runtime>(replica: Replica<RT>) {
    let shared = &replica.shared;
    let every = Duration::from_millis(shared.timing.heartbeat_ms.div_ceil(2));
    let mut leading: Option<Leading<InstantOf<RT>>> = None;
    let mut led_until: Option<InstantOf<RT>> = None;
    // Whether what was proposed last has come to nothing.
    let not_taken = Arc::new(parking_lot::Mutex::new(false));
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
        if std::mem::take(&mut *not_taken.lock()) {
            lead.watch.not_taken();
        }
        let replicated = shared.store.protection();
        let view = shared.protection_view(lead, &replicated, now);
        let limits = shared.limits(replicated.rule);
        let now_ms = (now - lead.since).as_millis() as u64;
        let before = lead.watch.state;
        let (next, action) = lead.watch.next(&view, limits, now_ms);
        lead.watch = next;
        *shared.protection_seen.lock() = Some(Seen {
            state: next.state,
            for_ms: now_ms - next.since_ms,
            is_in_force: view.is_closed && view.is_in_force,
            acknowledged_ms: view.acknowledged_ms,
            missing_elsewhere: shared.missing_elsewhere(term),
        });
        if next.state != before {
            tell(before, next.state, &view);
        }
        if let Some(action) = action {
            let change =
                MoveGate { from: Bytes::copy_from_slice(&replicated.id), to: Bytes::copy_from_slice(&new_id::<RT>()) };
            let op = match action {
                Action::Degrade => Op::Degrade(change),
                Action::Synchronize => Op::Synchronize(change),
            };
            let (replica, not_taken) = (replica.clone(), not_taken.clone());
            detach::<RT>(async move {
                let command = Command { request: None, op: Some(op) };
                if let Err(refusal) = replica.propose_within(command, MOVE_LIMIT).await
                    && refusal.was_not_taken()
                {
                    tracing::warn!("move the gate: {}; it is tried again", refusal.message);
                    *not_taken.lock() = true;
                }
            });
        }
    }
}

fn tell(before: State, now: State, view: &View) {
    let (was, is) = (before.as_str(), now.as_str());
    let View { acknowledged_ms, answering, .. } = *view;
    match now {
        State::Synchronized => tracing::info!(was, is, "protection: every acknowledged write is at the other site"),
        State::Resynchronizing => tracing::info!(was, is, answering, "protection: the other site gets what it lacks"),
        _ => tracing::warn!(was, is, acknowledged_ms, answering, "protection: see `saola status`"),
    }
}

impl<RT: Runtime> Shared<RT> {
    /// With a witness the time counts from the last word of the former leader, so that after the loss of a site it runs
    /// beside the election. Without one it counts from the election: there it is also the lease that bounds a loss.
    fn begin_leading(&self, term: u64, now: InstantOf<RT>, led_until: Option<InstantOf<RT>>) -> Leading<InstantOf<RT>> {
        let with_witness = self.voters_are_with_witness();
        let former = (*self.heard.lock()).max(led_until).filter(|_| with_witness);
        let counts_from = former.map_or(now, |former| former.min(now));
        Leading { term, since: now, counts_from, watch: Watch::default() }
    }

    fn voters_are_with_witness(&self) -> bool {
        self.members().iter().any(|it| it.role_value() == Role::Witness && self.has_vote(it.node_id))
    }

    fn protection_view(&self, lead: &Leading<InstantOf<RT>>, replicated: &ProtectionState, now: InstantOf<RT>) -> View {
        let since = |at: InstantOf<RT>| if now > at { now - at } else { Duration::ZERO };
        let members = self.members();
        let elsewhere = frontier::elsewhere(&self.claim.site, &members);
        let acks = replicated.rule.acks as usize;
        let leader = LeaderId { term: lead.term, node_id: self.claim.node_id };
        let acknowledged = self.acknowledgements.lock().newest(lead.term, &elsewhere, acks);
        let recent = Duration::from_millis(self.limits(replicated.rule).degrade_ms);
        let last_answer = |id: u64| self.links.last_answer(id).map(|(at, _)| at);
        let answers = |id: &&u64| last_answer(**id).is_some_and(|at| at >= lead.since && since(at) < recent);
        let quorum = self.with_metrics(|metrics| {
            let alone = metrics.membership_config.voter_ids().all(|id| id == self.claim.node_id);
            alone || metrics.last_quorum_acked.as_ref().is_some_and(|at| at.elapsed() < self.silence())
        });
        let witness = members.iter().find(|it| it.role_value() == Role::Witness);
        let silent = |witness: &Member| last_answer(witness.node_id).map_or(lead.since, |at| at.max(lead.since));
        View {
            mode: replicated.rule.mode,
            is_closed: replicated.is_closed,
            // What a former leader of the other site has shown may be missing there, until this one's first entry is not.
            is_in_force: self.frontier.next() > replicated.at_index && self.frontier.is_covered(leader),
            has_quorum: quorum.unwrap_or(false),
            acks,
            answering: elsewhere.iter().filter(answers).count(),
            acknowledged_ms: since(acknowledged.map_or(lead.counts_from, |at| at.max(lead.counts_from))).as_millis()
                as u64,
            witness_silent_ms: witness.map(|witness| since(silent(witness)).as_millis() as u64),
            losses: replicated.losses_within(FLAPPING_US, self.now_us()) as u32,
            was_lost: !replicated.losses_us.is_empty(),
        }
    }

    /// Applied revisions that no data node of another site is known to have.
    fn missing_elsewhere(&self, term: u64) -> u64 {
        let elsewhere = frontier::elsewhere(&self.claim.site, &self.members());
        let next = self.frontier.flushed_by(term, &elsewhere, 1);
        let applied = self.store.applied();
        let there = match next.checked_sub(1) {
            Some(index) if applied.log_id.is_some_and(|last| last.index <= index) => applied.revision,
            Some(index) => self.store.revision_at_index(index).unwrap_or(0),
            None => 0,
        };
        applied.revision - there.min(applied.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::Role;

    fn member(node_id: u64, site: &str, role: Role) -> Member {
        Member { node_id, site: site.into(), role: role as i32, ..Member::default() }
    }

    #[test]
    fn protection_is_refused_where_too_few_data_nodes_are_elsewhere() {
        let protected = |acks| Protection { mode: Mode::MaximumProtection, acks, ..Protection::default() };
        let mut members = vec![member(1, "main", Role::Voter), member(2, "main", Role::Voter)];
        members.push(member(3, "third", Role::Witness));
        assert!(lacking(protected(1), &members).unwrap().contains("at site main there are 0 data nodes"));
        let performance = Protection { mode: Mode::MaximumPerformance, ..Protection::default() };
        assert_eq!(lacking(performance, &members), None);
        members.push(member(4, "dr", Role::Learner));
        assert_eq!(lacking(protected(1), &members), None);
        assert!(lacking(protected(2), &members).unwrap().contains("at site main there are 1 data nodes"));
    }

    #[test]
    fn two_of_three_nodes_of_the_other_site_must_have_a_write_and_one_of_two() {
        let sites = |each: u64| {
            let at = |site, from: u64| (from..from + each).map(move |id| member(id, site, Role::Voter));
            at("main", 1).chain(at("dr", 10)).collect::<Vec<_>>()
        };
        assert_eq!(first_rule(&sites(3)).acks, 2);
        assert_eq!(first_rule(&sites(2)), Protection::default());
        assert_eq!(first_rule(&[member(1, "main", Role::Voter)]), Protection::default());
    }
}
