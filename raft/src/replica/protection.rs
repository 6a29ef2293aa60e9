//! What an acknowledgement waits for: setting it, what stands in the way, and what is known of it.

use std::collections::BTreeSet;
use std::time::Duration;

use saola_storage::command::{Command, Op};
use saola_storage::protection::{Mode, Protection, ProtectionState, Timers};

use super::sites::{FLAPPING_US, Seen};
use super::{ProposeError, Replica, Shared};
use crate::member::Member;
use crate::protection::Limits;
use crate::timing::Timing;
use crate::types::Runtime;

/// A site that comes back must answer for so long before it is waited for.
const RETURN_MS: u64 = 30_000;
/// Then it must have everything for so long.
const PARITY_MS: u64 = 10_000;
/// A site that is silent for so long loses its votes.
const SHRINK_MS: u64 = 600_000;
/// A witness that is silent for so long counts as lost.
pub(super) const WITNESS_LOST_MS: u64 = 30_000;

/// How the sites stand to each other.
#[derive(Clone, Debug, PartialEq)]
pub struct ProtectionStatus {
    /// As the applied state has it.
    pub replicated: ProtectionState,
    /// Times that are in force.
    pub limits: Limits,
    /// How long a site that comes back must answer now, milliseconds: longer after many losses.
    pub return_after_ms: u64,
    /// How long the gate has been open in this quarter of the year, milliseconds.
    pub open_in_quarter_ms: u64,
    /// How often it was opened within the last hour because the other site did not answer.
    pub losses: u32,
    /// On a leader: what it sees.
    pub seen: Option<Seen>,
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
pub(super) fn first_rule(members: &[Member], timing: &Timing) -> Protection {
    let two = Protection { acks: 2, ..Protection::default() };
    let three = Protection { acks: 3, ..two };
    let rule = if lacking(three, members).is_none() { two } else { Protection::default() };
    with_times(rule, timing)
}

/// The rule with all its times written out: what bounds a loss must not depend on one node's settings.
fn with_times(rule: Protection, timing: &Timing) -> Protection {
    let or = |set: u64, preset: u64| if set == 0 { preset } else { set };
    let Timers { degrade_ms, return_ms, parity_ms, shrink_ms } = rule.timers;
    let timers = Timers {
        degrade_ms: or(degrade_ms, timing.degrade_ms),
        return_ms: or(return_ms, RETURN_MS),
        parity_ms: or(parity_ms, PARITY_MS),
        shrink_ms: or(shrink_ms, SHRINK_MS),
    };
    // A site that is about to be back keeps its votes.
    let shrink_ms = if shrink_ms == 0 { timers.shrink_ms.max(back_after_ms(timers)) } else { shrink_ms };
    let timers = Timers { shrink_ms, ..timers };
    Protection { timers, ..rule }
}

/// A site that is silent for a moment is waited for again after so long.
fn back_after_ms(timers: Timers) -> u64 {
    timers.degrade_ms.saturating_add(timers.return_ms).saturating_add(timers.parity_ms)
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
        let protection = with_times(protection, &self.shared.timing);
        self.shared.timing.check_degrade(protection.timers.degrade_ms).map_err(ProposeError::Refused)?;
        let (shrink_ms, least_ms) = (protection.timers.shrink_ms, back_after_ms(protection.timers));
        if shrink_ms < least_ms {
            return Err(ProposeError::Refused(format!(
                "a site would lose its votes after {shrink_ms} ms, sooner than it could be back, which takes {least_ms} ms \
                 (--return-ms and --parity-ms): ask for --shrink-ms {least_ms} or more"
            )));
        }
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
    /// Times that are in force; a rule of an older release has none of its own.
    pub(super) fn limits(&self, rule: Protection) -> Limits {
        let Timers { degrade_ms, return_ms, parity_ms, shrink_ms } = with_times(rule, &self.timing).timers;
        let asks_ms = self.timing.election_min_ms;
        Limits { degrade_ms, return_ms, parity_ms, shrink_ms, asks_ms, witness_lost_ms: WITNESS_LOST_MS }
    }

    /// None on a witness, which does not know the rule.
    pub(super) fn protection_status(&self) -> Option<ProtectionStatus> {
        if !self.claim.role.is_data() {
            return None;
        }
        let mut seen = (*self.protection_seen.lock()).filter(|_| self.is_leader());
        let replicated = self.store.protection();
        if let Some(seen) = &mut seen {
            // The gate may have moved since the last look.
            seen.is_in_force &= replicated.id == seen.state_id;
            seen.witness_stands_in &= replicated.id == seen.state_id;
        }
        let limits = self.limits(replicated.rule);
        let now_us = self.now_us();
        let losses = replicated.losses_within(FLAPPING_US, now_us) as u32;
        Some(ProtectionStatus {
            limits,
            return_after_ms: limits.return_after(losses, !replicated.losses_us.is_empty()),
            open_in_quarter_ms: replicated.open_in_quarter_us(now_us) / 1000,
            losses,
            seen,
            replicated,
        })
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
        let first_rule = |members: &[Member]| first_rule(members, &Timing::LAN);
        assert_eq!(first_rule(&sites(3)).acks, 2);
        let timers = Timers { degrade_ms: 800, return_ms: 30_000, parity_ms: 10_000, shrink_ms: 600_000 };
        let one = Protection { mode: Mode::MaximumAvailability, acks: 1, timers };
        assert_eq!(first_rule(&sites(2)), one);
        assert_eq!(first_rule(&[member(1, "main", Role::Voter)]), one);
    }
}
