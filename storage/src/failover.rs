//! What the cluster does by itself when the site that leads is lost, and where leadership belongs.

use std::fmt;

use crate::command::{CameBy, FailoverPolicy, SetFailover};

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
    /// The home site was lost, or somebody has moved leadership away from it, and it has not been back since.
    pub away: bool,
    /// Where leadership is; empty: nobody has said yet.
    pub led_from: String,
}

/// Why no site takes over by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// By the policy.
    ObserveOnly,
    /// So many failovers within six hours are enough.
    LimitReached(u32),
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Held::ObserveOnly => f.write_str("automatic failover is set to observe-only"),
            Held::LimitReached(limit) => {
                write!(f, "the limit of {limit} automatic failovers within six hours is reached")
            }
        }
    }
}

impl FailoverState {
    /// Whether another site must not take over by itself now.
    pub fn held(&self, now_us: u64) -> Option<Held> {
        let recent = self.recent(now_us);
        match self.rule {
            Failover { policy: Policy::ObserveOnly, .. } => Some(Held::ObserveOnly),
            Failover { limit, .. } if limit > 0 && recent >= limit as usize => Some(Held::LimitReached(limit)),
            _ => None,
        }
    }

    /// Failovers that count for the limit.
    pub fn recent(&self, now_us: u64) -> usize {
        self.done_us.iter().filter(|at| now_us.saturating_sub(**at) <= LIMIT_WITHIN_US).count()
    }

    /// A rule was set: whoever sets it has seen the failovers so far.
    pub(crate) fn with_rule(&self, rule: Failover) -> FailoverState {
        // In a new cluster the first leader is taken to be at home: it says so if it is not.
        let led_from = if self.led_from.is_empty() { rule.home.clone() } else { self.led_from.clone() };
        let away = self.away && rule.home != led_from;
        FailoverState { rule, done_us: Vec::new(), away, led_from }
    }

    /// Leadership is at a site now.
    pub(crate) fn led_from(&self, site: String, came_by: CameBy, now_us: u64) -> FailoverState {
        let mut next = self.clone();
        let is_home = self.rule.home.is_empty() || self.rule.home == site;
        next.away = !is_home && (self.away || came_by != CameBy::Election);
        next.led_from = site;
        if came_by == CameBy::Loss {
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
            state = state.led_from("dr".into(), CameBy::Loss, NOW_US - hours * 3_600_000_000);
        }
        assert_eq!(state.held(NOW_US), Some(Held::LimitReached(2)));
        assert_eq!(state.held(NOW_US + LIMIT_WITHIN_US), None, "one of them is long ago");
        assert_eq!(state.with_rule(state.rule.clone()).held(NOW_US), None);
        assert_eq!(at_main(Policy::Automatic, 0).led_from("dr".into(), CameBy::Loss, NOW_US).held(NOW_US), None);
        assert_eq!(at_main(Policy::ObserveOnly, 0).held(NOW_US), Some(Held::ObserveOnly));
    }

    #[test]
    fn leadership_is_away_from_the_loss_of_its_home_or_a_move_until_it_is_back() {
        let state = at_main(Policy::Automatic, 0);
        let to = |state: &FailoverState, site: &str, by| state.led_from(site.into(), by, NOW_US);
        let elected = to(&state, "dr", CameBy::Election);
        assert!(!elected.away && elected.led_from == "dr", "a node was lost, not the site");
        for by in [CameBy::Loss, CameBy::Request] {
            let away = to(&state, "dr", by);
            assert!(away.away && to(&away, "third", CameBy::Election).away);
            assert!(!to(&away, "main", CameBy::Election).away && !to(&away, "main", CameBy::Request).away);
            assert_eq!(away.done_us.len(), usize::from(by == CameBy::Loss));
            let here = Failover { home: "dr".into(), ..Failover::default() };
            assert!(away.with_rule(away.rule.clone()).away && !away.with_rule(here).away, "it belongs here now");
        }
        assert!(!to(&FailoverState::default(), "dr", CameBy::Loss).away, "it belongs nowhere");
        let mut state = state;
        for _ in 0..40 {
            state = to(&state, "dr", CameBy::Loss);
        }
        assert_eq!(state.done_us.len(), REMEMBERED);
        assert_eq!(FailoverState::default().with_rule(state.rule.clone()).led_from, "main", "the first leader's");
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
