//! How the sites protect each other: what an acknowledgement waits for, and since when.
//!
//! The rule is what people set. Under maximum availability the gate moves by itself: a leader proposes an entry that
//! opens it (DEGRADE) when the other site is silent for too long, and one that closes it (SYNC) when that site has
//! everything again. Where a site that stays away has lost its votes, the witness stands in for it meanwhile. Each state
//! has an id of its own, and names the one that it follows.

use crate::command::{ProtectionMode, SetProtection};

/// When a write counts as safe (the names are Oracle Data Guard's).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// A commit is enough: what that is worth when a site is lost depends on the topology.
    MaximumPerformance,
    /// Data nodes of another site have flushed it too, as long as they answer; when they do not, a commit is enough.
    #[default]
    MaximumAvailability,
    /// Data nodes of another site have flushed it too; without them writes stall.
    MaximumProtection,
}

/// What the cluster has been told to do. Replicated: it changes at a log index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protection {
    /// When a write counts as safe.
    pub mode: Mode,
    /// So many data nodes of other sites must have flushed it, at least 1.
    pub acks: u32,
    /// Under maximum availability, when the gate opens and closes.
    pub timers: Timers,
}

/// See [`Protection::timers`]. Milliseconds; 0: what the nodes' presets say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timers {
    /// The gate opens when the newest acknowledgement of the other site was asked for so long ago.
    pub degrade_ms: u64,
    /// A site that comes back must answer for so long before it is waited for; longer after each of many losses.
    pub return_ms: u64,
    /// Then it must have everything for so long before the gate closes.
    pub parity_ms: u64,
    /// A site that is silent for so long loses its votes until it is back, where the rest may then lose a node.
    pub shrink_ms: u64,
}

/// For whom acknowledgements wait, beside a quorum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WaitsFor {
    /// For nobody: the gate is open.
    #[default]
    Nobody,
    /// For the witness, which keeps the sealed log: without the votes of the other site the site that leads could
    /// commit alone.
    Witness,
    /// For data nodes of the other site: the gate is closed.
    OtherSite,
}

impl Default for Protection {
    fn default() -> Protection {
        Protection { mode: Mode::default(), acks: 1, timers: Timers::default() }
    }
}

impl Protection {
    /// The command that sets it.
    pub fn to_command(self, state_id: [u8; 16]) -> SetProtection {
        let mode = match self.mode {
            Mode::MaximumPerformance => ProtectionMode::MaximumPerformance,
            Mode::MaximumAvailability => ProtectionMode::MaximumAvailability,
            Mode::MaximumProtection => ProtectionMode::MaximumProtection,
        };
        let Timers { degrade_ms, return_ms, parity_ms, shrink_ms } = self.timers;
        let state_id = bytes::Bytes::copy_from_slice(&state_id);
        SetProtection { mode: mode.into(), acks: self.acks, degrade_ms, return_ms, parity_ms, state_id, shrink_ms }
    }

    /// What a command sets; none: a newer release's mode.
    pub fn of_command(set: &SetProtection) -> Option<Protection> {
        let mode = match ProtectionMode::try_from(set.mode).ok()? {
            ProtectionMode::MaximumPerformance => Mode::MaximumPerformance,
            ProtectionMode::MaximumAvailability => Mode::MaximumAvailability,
            ProtectionMode::MaximumProtection => Mode::MaximumProtection,
        };
        let SetProtection { degrade_ms, return_ms, parity_ms, shrink_ms, .. } = *set;
        let timers = Timers { degrade_ms, return_ms, parity_ms, shrink_ms };
        Some(Protection { mode, acks: set.acks.max(1), timers })
    }
}

/// So many of the newest losses are remembered.
const LOSSES: usize = 8;

/// The rule, and where the gate stands. Times are those of the replicated clock, microseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProtectionState {
    /// The rule.
    pub rule: Protection,
    /// For whom acknowledgements wait.
    pub waits_for: WaitsFor,
    /// Id of this state.
    pub id: [u8; 16],
    /// Entry that began it.
    pub at_index: u64,
    /// Since when the other site has been waited for, or has not, under this rule.
    pub since_us: u64,
    /// When the gate was opened because the other site did not answer, the newest last.
    pub losses_us: Vec<u64>,
    /// While this state is not known to be at the other site, the gate opens no sooner than this says: the longest time
    /// that the rule before it said, if it was closed then.
    pub former_degrade_ms: u64,
    /// How long it had been open by then, in the quarter of the year in which this state began.
    pub open_us: u64,
}

/// Where and when another state begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beginning {
    pub id: [u8; 16],
    pub index: u64,
    pub now_us: u64,
}

impl ProtectionState {
    /// The state that a new rule begins.
    pub(crate) fn with_rule(&self, rule: Protection, at: Beginning) -> ProtectionState {
        let waits_for = match rule.mode {
            Mode::MaximumPerformance => WaitsFor::Nobody,
            Mode::MaximumAvailability => self.waits_for,
            Mode::MaximumProtection => WaitsFor::OtherSite,
        };
        let former_degrade_ms =
            if self.is_closed() { self.rule.timers.degrade_ms.max(self.former_degrade_ms) } else { 0 };
        ProtectionState { rule, former_degrade_ms, ..self.moved(waits_for, at) }
    }

    /// The same for a command of the first form, which began a state without an id and without a time.
    pub(crate) fn of_old(rule: Protection) -> ProtectionState {
        let waits_for = if rule.mode == Mode::MaximumProtection { WaitsFor::OtherSite } else { WaitsFor::Nobody };
        ProtectionState { rule, waits_for, ..ProtectionState::default() }
    }

    /// Acknowledgements wait for the other site.
    pub fn is_closed(&self) -> bool {
        self.waits_for == WaitsFor::OtherSite
    }

    /// The state that begins when acknowledgements wait for somebody else. The other site is not waited for any more when
    /// it does not answer: that is a loss.
    pub(crate) fn waiting_for(&self, waits_for: WaitsFor, at: Beginning) -> ProtectionState {
        let mut next = self.moved(waits_for, at);
        if self.is_closed() && !next.is_closed() {
            next.losses_us.push(next.since_us);
            if next.losses_us.len() > LOSSES {
                next.losses_us.remove(0);
            }
        }
        if !self.is_closed() && !next.is_closed() {
            // The other site has been away for as long as before.
            (next.since_us, next.open_us) = (self.since_us, self.open_us);
        }
        next
    }

    /// The state that begins when a site goes on alone for good: under maximum protection nothing could be acknowledged
    /// until there is another one.
    pub(crate) fn alone(&self, at: Beginning) -> ProtectionState {
        let mut next = self.waiting_for(WaitsFor::Nobody, at);
        if next.rule.mode == Mode::MaximumProtection {
            next.rule.mode = Mode::MaximumAvailability;
        }
        next
    }

    fn moved(&self, waits_for: WaitsFor, at: Beginning) -> ProtectionState {
        let now_us = at.now_us.max(self.since_us);
        ProtectionState {
            rule: self.rule,
            waits_for,
            id: at.id,
            at_index: at.index,
            since_us: now_us,
            losses_us: self.losses_us.clone(),
            former_degrade_ms: 0,
            open_us: self.open_in_quarter_us(now_us),
        }
    }

    /// How long the gate has been open in this quarter of the year, microseconds.
    pub fn open_in_quarter_us(&self, now_us: u64) -> u64 {
        if self.since_us == 0 {
            // Before the first state there was no cluster, or one of a release that kept no time.
            return 0;
        }
        let now_us = now_us.max(self.since_us);
        let quarter = quarter_start_us(now_us);
        let before = if self.since_us >= quarter { self.open_us } else { 0 };
        let since = if self.is_closed() { 0 } else { now_us - self.since_us.max(quarter) };
        before + since
    }

    /// How many times it was opened within `within_us` before now because the other site did not answer.
    pub fn losses_within(&self, within_us: u64, now_us: u64) -> usize {
        self.losses_us.iter().filter(|at| now_us.saturating_sub(**at) <= within_us).count()
    }
}

const DAY_US: u64 = 24 * 3_600 * 1_000_000;

/// When the quarter of the year (UTC) began that a moment is in.
fn quarter_start_us(now_us: u64) -> u64 {
    // Days are counted in years that begin in March, so that a leap day is the last one: H. Hinnant,
    // "chrono-Compatible Low-Level Date Algorithms", civil_from_days and days_from_civil.
    let days = now_us / DAY_US + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    // Quarters begin in April, July, October and January: months 1, 4, 7 and 10 from March.
    let begin = match month_from_march {
        0 => None,
        month => Some((month - 1) / 3 * 3 + 1),
    };
    let first_day = |month_from_march: u64| (153 * month_from_march + 2) / 5;
    let start = match begin {
        Some(month) => days - day_of_year + first_day(month),
        // March belongs to the quarter that began in January, ten months into the year before.
        None => {
            let year_before = year_of_era + era * 400 - 1;
            let days_before = 365 * year_before + year_before / 4 - year_before / 100 + year_before / 400;
            days_before + first_day(10)
        }
    };
    start.saturating_sub(719_468) * DAY_US
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-21T00:00:00Z.
    const NOW_US: u64 = 20_778 * DAY_US;
    const MINUTE_US: u64 = 60_000_000;

    fn at(index: u64, now_us: u64) -> Beginning {
        Beginning { id: [index as u8; 16], index, now_us }
    }

    #[test]
    fn quarters_begin_where_the_calendar_says() {
        // Days since 1970 of: 2024-01-01, 2024-04-01, 2024-07-01, 2024-10-01, 2025-01-01, 2100-01-01, 2100-04-01.
        let starts = [19_723, 19_814, 19_905, 19_997, 20_089, 47_482, 47_572];
        for start in starts {
            for days in [0, 1, 30, 58, 59, 60, 61, 89] {
                assert_eq!(quarter_start_us((start + days) * DAY_US + 5) / DAY_US, start, "{start} + {days}");
            }
            assert!(quarter_start_us(start * DAY_US - 1) < start * DAY_US);
        }
        assert_eq!(quarter_start_us(5), 0);
    }

    #[test]
    fn open_time_adds_up_within_a_quarter_and_begins_anew_with_the_next() {
        let rule = Protection::default();
        let begun = ProtectionState::default().with_rule(rule, at(1, NOW_US));
        assert!(!begun.is_closed());
        let closed = begun.waiting_for(WaitsFor::OtherSite, at(2, NOW_US + 2 * MINUTE_US));
        assert_eq!(begun.open_in_quarter_us(NOW_US), 0, "there was no cluster before");
        assert_eq!(closed.open_in_quarter_us(NOW_US + 90 * MINUTE_US), 2 * MINUTE_US);
        let lost = closed.waiting_for(WaitsFor::Nobody, at(3, NOW_US + 90 * MINUTE_US));
        assert_eq!(lost.open_in_quarter_us(NOW_US + 91 * MINUTE_US), 3 * MINUTE_US);
        let new_year = 20_819 * DAY_US;
        assert_eq!(lost.open_in_quarter_us(new_year + MINUTE_US), MINUTE_US);
        assert_eq!(closed.open_in_quarter_us(new_year + MINUTE_US), 0);
    }

    #[test]
    fn performance_opens_the_gate_protection_closes_it_and_availability_leaves_it() {
        let with = |mode| Protection { mode, ..Protection::default() };
        for stays in [WaitsFor::Nobody, WaitsFor::Witness, WaitsFor::OtherSite] {
            let state = ProtectionState { waits_for: stays, ..ProtectionState::default() };
            let set = |mode| state.with_rule(with(mode), at(9, NOW_US));
            assert_eq!(set(Mode::MaximumAvailability).waits_for, stays);
            assert_eq!(set(Mode::MaximumProtection).waits_for, WaitsFor::OtherSite);
            assert_eq!(set(Mode::MaximumPerformance).waits_for, WaitsFor::Nobody);
            assert_eq!((set(Mode::MaximumAvailability).id, set(Mode::MaximumAvailability).at_index), ([9; 16], 9));
        }
    }

    #[test]
    fn a_shorter_time_is_remembered_with_the_longer_one_that_it_follows() {
        let rule =
            |degrade_ms| Protection { timers: Timers { degrade_ms, ..Timers::default() }, ..Protection::default() };
        let open = ProtectionState::default().with_rule(rule(10_000), at(1, NOW_US));
        assert_eq!(open.with_rule(rule(800), at(2, NOW_US)).former_degrade_ms, 0, "nothing waits");
        let closed = open.waiting_for(WaitsFor::OtherSite, at(2, NOW_US));
        let shorter = closed.with_rule(rule(800), at(3, NOW_US));
        assert_eq!((shorter.rule.timers.degrade_ms, shorter.former_degrade_ms), (800, 10_000));
        assert_eq!(shorter.with_rule(rule(900), at(4, NOW_US)).former_degrade_ms, 10_000);
        assert_eq!(shorter.waiting_for(WaitsFor::Nobody, at(4, NOW_US)).former_degrade_ms, 0);
    }

    #[test]
    fn the_newest_losses_are_remembered_and_a_clock_that_went_back_changes_nothing() {
        let mut state = ProtectionState::default();
        for loss in 0..12 {
            let closed = state.waiting_for(WaitsFor::OtherSite, at(2 * loss, NOW_US));
            let lost_to = if loss % 2 == 0 { WaitsFor::Nobody } else { WaitsFor::Witness };
            state = closed.waiting_for(lost_to, at(2 * loss + 1, NOW_US + loss * MINUTE_US));
        }
        assert_eq!(state.losses_us.len(), LOSSES);
        let now = NOW_US + 11 * MINUTE_US;
        assert_eq!((state.losses_within(MINUTE_US, now), state.losses_within(60 * MINUTE_US, now)), (2, LOSSES));
        let without_witness = state.waiting_for(WaitsFor::Nobody, at(98, now));
        assert_eq!(without_witness.losses_us, state.losses_us, "the witness is not the other site");
        assert_eq!(without_witness.since_us, state.since_us, "which has been away since then");
        let later = now + MINUTE_US;
        assert_eq!(without_witness.open_in_quarter_us(later), state.open_in_quarter_us(later));
        let earlier = state.waiting_for(WaitsFor::OtherSite, at(99, 5));
        assert_eq!(earlier.since_us, state.since_us);
    }

    #[test]
    fn a_rule_survives_its_command() {
        for mode in [Mode::MaximumPerformance, Mode::MaximumAvailability, Mode::MaximumProtection] {
            let timers = Timers { degrade_ms: 1, return_ms: 2, parity_ms: 3, shrink_ms: 4 };
            let rule = Protection { mode, acks: 2, timers };
            assert_eq!(Protection::of_command(&rule.to_command([7; 16])), Some(rule));
        }
        assert_eq!(Protection::of_command(&SetProtection { mode: 99, ..SetProtection::default() }), None);
    }
}
