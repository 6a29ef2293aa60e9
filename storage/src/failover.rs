//! What the cluster does by itself when the site that leads is lost, and where leadership belongs.

use crate::command::{FailoverPolicy, SetFailover};

/// Whether another site takes over by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// It does.
    #[default]
    Automatic,
    /// It votes and does not campaign: what it would have done is told, and people decide.
    ObserveOnly,
}

/// What people set. Replicated: it changes at a log index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failover {
    /// Whether another site takes over by itself.
    pub policy: Policy,
    /// So many times within [`LIMIT_WITHIN_US`], until it is set again; then as with [`Policy::ObserveOnly`]. 0: always.
    pub limit: u32,
    /// The site where leadership belongs; empty: anywhere.
    pub home: String,
    /// It goes back there by itself even after that site was lost.
    pub returns: bool,
}

/// Failovers within six hours count for the limit.
pub const LIMIT_WITHIN_US: u64 = 6 * 3_600 * 1_000_000;

/// So many of the newest failovers are remembered.
const REMEMBERED: usize = 16;

impl Failover {
    /// The command that sets it.
    pub fn to_command(&self) -> SetFailover {
        let policy = match self.policy {
            Policy::Automatic => FailoverPolicy::Automatic,
            Policy::ObserveOnly => FailoverPolicy::ObserveOnly,
        };
        let Failover { limit, home, returns, .. } = self.clone();
        SetFailover { policy: policy.into(), limit, home, returns }
    }

    /// What a command sets; none: a newer release's policy.
    pub fn of_command(set: SetFailover) -> Option<Failover> {
        let policy = match FailoverPolicy::try_from(set.policy).ok()? {
            FailoverPolicy::Automatic => Policy::Automatic,
            FailoverPolicy::ObserveOnly => Policy::ObserveOnly,
        };
        let SetFailover { limit, home, returns, .. } = set;
        Some(Failover { policy, limit, home, returns })
    }
}

/// The rule, and what came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailoverState {
    /// The rule.
    pub rule: Failover,
    /// When sites took over by themselves since it was set, replicated clock, microseconds since 1970; the newest last.
    pub done_us: Vec<u64>,
    /// The home site was lost and leadership has not been back since.
    pub away: bool,
}

/// Why no site takes over by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// By the policy.
    ObserveOnly,
    /// So many failovers within six hours are enough.
    LimitReached(u32),
}

impl FailoverState {
    /// Whether another site must not take over by itself now.
    pub fn held(&self, now_us: u64) -> Option<Held> {
        let recent = self.done_us.iter().filter(|at| now_us.saturating_sub(**at) <= LIMIT_WITHIN_US).count();
        match self.rule {
            Failover { policy: Policy::ObserveOnly, .. } => Some(Held::ObserveOnly),
            Failover { limit, .. } if limit > 0 && recent >= limit as usize => Some(Held::LimitReached(limit)),
            _ => None,
        }
    }

    /// A rule was set: whoever sets it has seen the failovers so far.
    pub(crate) fn with_rule(&self, rule: Failover) -> FailoverState {
        FailoverState { rule, done_us: Vec::new(), away: self.away }
    }

    /// A leader moved the gate; `took_over`: after the loss of the site that led before.
    pub(crate) fn moved(&self, leader_site: &str, took_over: bool, now_us: u64) -> FailoverState {
        let mut next = self.clone();
        let is_home = self.rule.home.is_empty() || self.rule.home == leader_site;
        next.away = !is_home && (self.away || took_over);
        if took_over {
            next.done_us.push(now_us);
            if next.done_us.len() > REMEMBERED {
                next.done_us.remove(0);
            }
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_US: u64 = 1_700_000_000_000_000;

    fn at_main(policy: Policy, limit: u32) -> FailoverState {
        FailoverState {
            rule: Failover { policy, limit, home: "main".into(), returns: false },
            ..FailoverState::default()
        }
    }

    #[test]
    fn failovers_within_six_hours_count_for_the_limit_until_it_is_set_again() {
        let mut state = at_main(Policy::Automatic, 2);
        for hours in 0..2 {
            assert_eq!(state.held(NOW_US), None);
            state = state.moved("dr", true, NOW_US - hours * 3_600_000_000);
        }
        assert_eq!(state.held(NOW_US), Some(Held::LimitReached(2)));
        assert_eq!(state.held(NOW_US + LIMIT_WITHIN_US), None, "one of them is long ago");
        assert_eq!(state.with_rule(state.rule.clone()).held(NOW_US), None);
        assert_eq!(at_main(Policy::Automatic, 0).moved("dr", true, NOW_US).held(NOW_US), None);
        assert_eq!(at_main(Policy::ObserveOnly, 0).held(NOW_US), Some(Held::ObserveOnly));
    }

    #[test]
    fn leadership_is_away_from_the_loss_of_its_home_until_a_leader_there_moves_the_gate() {
        let state = at_main(Policy::Automatic, 0);
        assert!(!state.moved("dr", false, NOW_US).away, "a node was lost, not the site");
        let away = state.moved("dr", true, NOW_US);
        assert!(away.away && away.moved("dr", false, NOW_US).away);
        assert!(!away.moved("main", false, NOW_US).away);
        assert!(!FailoverState::default().moved("dr", true, NOW_US).away, "it belongs nowhere");
        let mut state = state;
        for _ in 0..40 {
            state = state.moved("dr", true, NOW_US);
        }
        assert_eq!(state.done_us.len(), REMEMBERED);
    }

    #[test]
    fn a_rule_survives_its_command() {
        for policy in [Policy::Automatic, Policy::ObserveOnly] {
            let rule = Failover { policy, limit: 3, home: "main".into(), returns: true };
            assert_eq!(Failover::of_command(rule.to_command()), Some(rule));
        }
        assert_eq!(Failover::of_command(SetFailover { policy: 9, ..SetFailover::default() }), None);
    }
}
