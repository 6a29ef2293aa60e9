//! Where the protection stands, as a leader sees it, and what it does about it.
//!
//! What an acknowledgement waits for is replicated: a closed gate or an open one ([`saola_storage::protection`]). All else
//! follows from what the leader sees now: [`Watch::next`] is a pure function `(state, view, now) → (state, action)`.
//!
//! ```text
//!            acknowledged                          half of degrade_ms        degrade_ms
//!        ┌─ SYNCHRONIZED ◄──────────────────────────── SUSPECT ──────────────► DEGRADING
//!        │       ▲                                                     without a quorum, or
//!        │       │ SYNC is stored there                                under maximum protection:
//!  witness silent│                                                          STALLED   │ DEGRADE is applied
//!        ▼       │                    parity_ms                  return_ms            ▼
//!  WITNESS_LOST  └──── (gate closed) ◄───────── RESYNCHRONIZING ◄─────────── UNSYNCHRONIZED
//! ```
//!
//! A site that stays away loses its votes ([`crate::shrink`]). Meanwhile the witness stands in for it: acknowledgements wait
//! for the witness, UNSYNCHRONIZED, and the same timer opens the gate when the witness is silent too.

use saola_storage::planted::{self, Bug};
use saola_storage::protection::{Mode, WaitsFor};

/// How sites stand to each other. The names are those of `saola status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum State {
    /// Every acknowledged write is at the other site.
    Synchronized,
    /// The other site has not acknowledged for a while: writes wait.
    Suspect,
    /// For so long that the entry which opens the gate has been proposed: writes wait for that.
    Degrading,
    /// A commit is enough: the other site may lack acknowledged writes.
    #[default]
    Unsynchronized,
    /// It answers again, and gets what it lacks; a commit is still enough.
    Resynchronizing,
    /// Writes wait until the other site acknowledges, or a quorum is there.
    Stalled,
    /// Synchronized, but the witness is silent: no site could be lost.
    WitnessLost,
}

impl State {
    /// All of them.
    pub const ALL: [State; 7] = [
        State::Synchronized,
        State::Suspect,
        State::Degrading,
        State::Unsynchronized,
        State::Resynchronizing,
        State::Stalled,
        State::WitnessLost,
    ];

    /// As people read it.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Synchronized => "SYNCHRONIZED",
            State::Suspect => "SUSPECT",
            State::Degrading => "DEGRADING",
            State::Unsynchronized => "UNSYNCHRONIZED",
            State::Resynchronizing => "RESYNCHRONIZING",
            State::Stalled => "STALLED",
            State::WitnessLost => "WITNESS_LOST",
        }
    }
}

/// What a leader sees.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// The replicated rule's.
    pub mode: Mode,
    /// For whom acknowledgements wait, by the applied state.
    pub waits_for: WaitsFor,
    /// The entry that said so may be shown, and this leader's first one: whoever is waited for has all that is
    /// acknowledged.
    pub is_in_force: bool,
    /// A quorum has confirmed this leader lately.
    pub has_quorum: bool,
    /// So many data nodes of other sites must acknowledge.
    pub acks: usize,
    /// So many have answered lately.
    pub answering: usize,
    /// Milliseconds since the newest acknowledgement by enough of them was asked for, or since this leader may count.
    pub acknowledged_ms: u64,
    /// For how long this leader has asked for acknowledgements with a quorum.
    pub asked_ms: u64,
    /// Milliseconds since that acknowledgement was asked for; none: this leader has had none.
    pub since_ack_ms: Option<u64>,
    /// For how long the witness has been silent; none: there is no witness.
    pub witness_silent_ms: Option<u64>,
    /// Milliseconds since the newest acknowledgement by the witness was asked for, or since this leader may count; none:
    /// there is no witness.
    pub witness_acknowledged_ms: Option<u64>,
    /// Without the votes of the other site this leader's could commit alone, or is about to: the witness is to stand in.
    pub needs_witness: bool,
    /// How many times within the last hour the other site was lost.
    pub losses: u32,
    /// It has been lost before, ever.
    pub was_lost: bool,
}

/// How long what is waited for, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// See [`saola_storage::protection::Timers`].
    pub degrade_ms: u64,
    /// The same.
    pub return_ms: u64,
    /// The same.
    pub parity_ms: u64,
    /// The same.
    pub shrink_ms: u64,
    /// A leader has asked for so long, with a quorum, before it gives a site up: it has just come, or its voters have.
    pub asks_ms: u64,
    /// A witness that is silent for so long counts as lost.
    pub witness_lost_ms: u64,
}

/// Losses further apart than this have nothing to do with each other.
pub(crate) const FLAPPING_MS: u64 = 3_600_000;
/// Losses within that time that change nothing; each further one doubles the time that the site must answer.
const FORGIVEN: u32 = 3;
/// … up to this.
const LONGEST_RETURN_MS: u64 = 600_000;
/// A proposal that nothing came of is repeated after so long.
const REPEAT_MS: u64 = 1_000;

impl Limits {
    /// How long a site must answer before it is waited for again.
    pub fn return_after(&self, losses: u32, was_lost: bool) -> u64 {
        if !was_lost {
            // Nothing is known against it: a new cluster is protected at once.
            return 0;
        }
        let doublings = losses.saturating_sub(FORGIVEN).min(16);
        (self.return_ms << doublings).min(LONGEST_RETURN_MS.max(self.return_ms))
    }
}

/// What a leader proposes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Open the gate.
    Degrade,
    /// Close it.
    Synchronize,
    /// Have the witness stand in for the other site.
    WaitForWitness,
}

/// What a leader remembers from one look to the next. Times are milliseconds of a clock that never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Watch {
    /// The state.
    pub state: State,
    /// Since when, as this leader has seen it.
    pub since_ms: u64,
    waits_for: WaitsFor,
    /// Since when enough nodes of the other site have answered without a break.
    steady_since_ms: Option<u64>,
    /// Since when they have had everything.
    parity_since_ms: Option<u64>,
    /// Since when the witness has acknowledged without a break, while nobody is waited for.
    witness_since_ms: Option<u64>,
    /// How many times it was given up, none of them an hour after the one before, and when last.
    witness_losses: u32,
    witness_lost_ms: Option<u64>,
    /// Since when it is waited for and need not be.
    unneeded_since_ms: Option<u64>,
    /// When something was proposed that nothing has come of yet.
    proposed_ms: Option<u64>,
}

impl Watch {
    /// At the next look.
    pub fn next(self, view: &View, limits: Limits, now_ms: u64) -> (Watch, Option<Action>) {
        let mut next = Watch { waits_for: view.waits_for, ..self };
        if view.waits_for != self.waits_for {
            (next.proposed_ms, next.witness_since_ms, next.unneeded_since_ms) = (None, None, None);
            if [view.waits_for, self.waits_for].contains(&WaitsFor::OtherSite) {
                (next.steady_since_ms, next.parity_since_ms) = (None, None);
            }
        }
        if view.needs_witness && (self.waits_for, view.waits_for) == (WaitsFor::Witness, WaitsFor::Nobody) {
            let flaps = self.witness_lost_ms.is_some_and(|at| now_ms.saturating_sub(at) < FLAPPING_MS);
            next.witness_losses = if flaps { self.witness_losses + 1 } else { 1 };
            next.witness_lost_ms = Some(now_ms);
        }
        let (state, action) = match view.waits_for {
            WaitsFor::OtherSite => closed(view, limits),
            WaitsFor::Nobody => next.open(view, limits, now_ms),
            WaitsFor::Witness => {
                let open = next.open(view, limits, now_ms);
                match held_up(view, view.witness_acknowledged_ms.unwrap_or(u64::MAX), limits) {
                    None => open,
                    Some(state) => (state, open.1.or((state == State::Degrading).then_some(Action::Degrade))),
                }
            }
        };
        if state != self.state {
            (next.state, next.since_ms) = (state, now_ms);
        }
        let due = next.proposed_ms.is_none_or(|at| now_ms.saturating_sub(at) >= REPEAT_MS);
        let action = action.filter(|_| due);
        if action.is_some() {
            next.proposed_ms = Some(now_ms);
        }
        (next, action)
    }

    /// What was proposed was not taken: it may be proposed again at once.
    pub fn not_taken(&mut self) {
        self.proposed_ms = None;
    }

    fn open(&mut self, view: &View, limits: Limits, now_ms: u64) -> (State, Option<Action>) {
        if view.mode != Mode::MaximumAvailability {
            return (State::Unsynchronized, None);
        }
        let since = |holds: bool, since: Option<u64>| holds.then(|| since.unwrap_or(now_ms));
        let lasts = |since: Option<u64>, for_ms: u64| since.is_some_and(|at| now_ms - at >= for_ms);
        let stands_in = view.waits_for == WaitsFor::Witness;
        let answers = view.witness_acknowledged_ms.is_some_and(|ms| ms < limits.degrade_ms / 2);
        self.witness_since_ms = since(!stands_in && answers, self.witness_since_ms);
        self.unneeded_since_ms = since(stands_in && !view.needs_witness, self.unneeded_since_ms);
        let witness_returns_ms = limits.return_after(self.witness_losses, true);
        let otherwise = match () {
            () if !view.has_quorum => None,
            () if view.needs_witness && lasts(self.witness_since_ms, witness_returns_ms) => {
                Some(Action::WaitForWitness)
            }
            () if lasts(self.unneeded_since_ms, limits.return_ms) => Some(Action::Degrade),
            () => None,
        };
        self.steady_since_ms = since(view.answering >= view.acks, self.steady_since_ms);
        if !lasts(self.steady_since_ms, limits.return_after(view.losses, view.was_lost)) {
            self.parity_since_ms = None;
            return (State::Unsynchronized, otherwise);
        }
        let has_all = view.acknowledged_ms < limits.degrade_ms / 2;
        self.parity_since_ms = since(has_all, self.parity_since_ms);
        let parity_ms = if view.was_lost { limits.parity_ms } else { 0 };
        let action = lasts(self.parity_since_ms, parity_ms).then_some(Action::Synchronize);
        (State::Resynchronizing, action.filter(|_| view.has_quorum).or(otherwise))
    }
}

/// Whether writes wait, and how, when the newest acknowledgement by those who are waited for is so old.
fn held_up(view: &View, acknowledged_ms: u64, limits: Limits) -> Option<State> {
    let early = planted::is(Bug::GateOpensEarly) && acknowledged_ms >= limits.degrade_ms / 4;
    let late = acknowledged_ms >= limits.degrade_ms || early;
    match () {
        () if late && !view.has_quorum => Some(State::Stalled),
        () if late && view.asked_ms >= limits.asks_ms => Some(match view.mode {
            Mode::MaximumAvailability => State::Degrading,
            _ => State::Stalled,
        }),
        // Without a quorum another leader may go on somewhere, and without this one.
        () if late || !view.has_quorum || acknowledged_ms >= limits.degrade_ms / 2 => Some(State::Suspect),
        () => None,
    }
}

fn closed(view: &View, limits: Limits) -> (State, Option<Action>) {
    let witness_is_there = view.witness_acknowledged_ms.is_some_and(|ms| ms < limits.degrade_ms);
    match held_up(view, view.acknowledged_ms, limits) {
        // Without the other site's votes nobody waited for would mean that the site that leads commits alone.
        Some(State::Degrading) if view.needs_witness && witness_is_there => {
            (State::Degrading, Some(Action::WaitForWitness))
        }
        Some(State::Degrading) => (State::Degrading, Some(Action::Degrade)),
        Some(state) => (state, None),
        None if !view.is_in_force => (State::Resynchronizing, None),
        None if view.witness_silent_ms.is_some_and(|silent| silent >= limits.witness_lost_ms) => {
            (State::WitnessLost, None)
        }
        None => (State::Synchronized, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        degrade_ms: 800,
        return_ms: 30_000,
        parity_ms: 10_000,
        shrink_ms: 600_000,
        asks_ms: 150,
        witness_lost_ms: 30_000,
    };
    const WELL: View = View {
        mode: Mode::MaximumAvailability,
        waits_for: WaitsFor::OtherSite,
        is_in_force: true,
        has_quorum: true,
        acks: 1,
        answering: 2,
        acknowledged_ms: 20,
        asked_ms: 60_000,
        since_ack_ms: Some(20),
        witness_silent_ms: Some(10),
        witness_acknowledged_ms: Some(10),
        needs_witness: false,
        losses: 0,
        was_lost: false,
    };
    const LOST: View = View { waits_for: WaitsFor::Nobody, losses: 1, was_lost: true, ..WELL };
    /// It has lost its votes, too.
    const SHRUNK: View =
        View { waits_for: WaitsFor::Witness, answering: 0, acknowledged_ms: 999_999, needs_witness: true, ..LOST };

    /// What a leader sees first.
    fn look(view: View) -> (State, Option<Action>) {
        let (watch, action) = Watch::default().next(&view, LIMITS, 0);
        (watch.state, action)
    }

    /// Looks every 100 ms for so long; answers the times of what was proposed.
    fn watch(watch: &mut Watch, from_ms: u64, for_ms: u64, view: impl Fn(u64) -> View) -> Vec<(u64, Action)> {
        let mut proposed = Vec::new();
        for now_ms in (from_ms..from_ms + for_ms).step_by(100) {
            let (next, action) = watch.next(&view(now_ms), LIMITS, now_ms);
            *watch = next;
            proposed.extend(action.map(|action| (now_ms, action)));
        }
        proposed
    }

    #[test]
    fn a_silent_site_is_suspect_after_half_the_timer_and_given_up_after_all_of_it() {
        for (acknowledged_ms, expected) in [
            (0, (State::Synchronized, None)),
            (399, (State::Synchronized, None)),
            (400, (State::Suspect, None)),
            (799, (State::Suspect, None)),
            (800, (State::Degrading, Some(Action::Degrade))),
        ] {
            assert_eq!(look(View { acknowledged_ms, ..WELL }), expected, "{acknowledged_ms} ms");
        }
    }

    #[test]
    fn without_a_quorum_or_under_maximum_protection_writes_stall_instead() {
        let late = View { acknowledged_ms: 5_000, ..WELL };
        assert_eq!(look(View { has_quorum: false, ..late }), (State::Stalled, None));
        assert_eq!(look(View { mode: Mode::MaximumProtection, ..late }), (State::Stalled, None));
        assert_eq!(look(View { has_quorum: false, ..WELL }).0, State::Suspect, "another leader may go on without it");
    }

    #[test]
    fn a_leader_that_has_just_come_gives_the_other_site_time_to_answer() {
        let young = View { acknowledged_ms: 900, asked_ms: 149, since_ack_ms: None, ..WELL };
        assert_eq!(look(young), (State::Suspect, None));
        assert_eq!(look(View { asked_ms: 150, ..young }), (State::Degrading, Some(Action::Degrade)));
    }

    #[test]
    fn synchronized_is_said_only_once_the_closing_entry_is_stored_there() {
        assert_eq!(look(View { is_in_force: false, ..WELL }), (State::Resynchronizing, None));
        assert_eq!(look(View { is_in_force: false, acknowledged_ms: 500, ..WELL }).0, State::Suspect);
    }

    #[test]
    fn a_silent_witness_is_named_only_where_nothing_worse_is_to_say() {
        let silent = View { witness_silent_ms: Some(30_000), ..WELL };
        assert_eq!(look(silent), (State::WitnessLost, None));
        assert_eq!(look(View { witness_silent_ms: Some(29_999), ..silent }).0, State::Synchronized);
        assert_eq!(look(View { witness_silent_ms: None, ..silent }).0, State::Synchronized);
        assert_eq!(look(View { acknowledged_ms: 400, ..silent }).0, State::Suspect);
    }

    #[test]
    fn a_new_cluster_is_protected_at_once() {
        let new = View { waits_for: WaitsFor::Nobody, ..WELL };
        assert_eq!(look(new), (State::Resynchronizing, Some(Action::Synchronize)));
        assert_eq!(look(View { answering: 0, ..new }), (State::Unsynchronized, None));
        assert_eq!(look(View { acknowledged_ms: 400, ..new }), (State::Resynchronizing, None));
        assert_eq!(look(View { has_quorum: false, ..new }), (State::Resynchronizing, None));
    }

    #[test]
    fn a_site_that_comes_back_must_answer_and_then_have_everything_for_a_while() {
        let mut seen = Watch::default();
        let proposed = watch(&mut seen, 0, 41_000, |_| LOST);
        assert_eq!(proposed, [(40_000, Action::Synchronize)]);
        assert_eq!((seen.state, seen.since_ms), (State::Resynchronizing, 30_000));
        // A break in the answers, or in having everything, begins the count again.
        let mut seen = Watch::default();
        let silent_at = |at| move |now| View { answering: if now == at { 0 } else { 1 }, ..LOST };
        assert_eq!(watch(&mut seen, 0, 60_000, silent_at(29_000)), []);
        let mut seen = Watch::default();
        let lags_at = |now| View { acknowledged_ms: if now == 35_000 { 900 } else { 0 }, ..LOST };
        assert_eq!(watch(&mut seen, 0, 46_000, lags_at), [(45_100, Action::Synchronize)]);
    }

    #[test]
    fn a_site_that_flaps_is_waited_for_later_each_time_up_to_ten_minutes() {
        let after = |losses| LIMITS.return_after(losses, true);
        assert_eq!([1, 3, 4, 5, 7, 8, 99].map(after), [30_000, 30_000, 60_000, 120_000, 480_000, 600_000, 600_000]);
        assert_eq!(LIMITS.return_after(0, false), 0);
        assert_eq!(LIMITS.return_after(0, true), 30_000, "it was lost long ago");
        let patient = Limits { return_ms: 3_600_000, ..LIMITS };
        assert_eq!(patient.return_after(9, true), 3_600_000, "what an operator set is never shortened");
    }

    #[test]
    fn what_nothing_comes_of_is_proposed_again_once_a_second_or_at_once_if_it_was_not_taken() {
        let late = |_| View { acknowledged_ms: 900, ..WELL };
        let mut seen = Watch::default();
        let times: Vec<u64> = watch(&mut seen, 0, 2_500, late).into_iter().map(|(at, _)| at).collect();
        assert_eq!(times, [0, 1_000, 2_000]);
        seen.not_taken();
        assert_eq!(watch(&mut seen, 2_500, 100, late), [(2_500, Action::Degrade)]);
        // The gate has moved: what follows is a new question.
        let moved = |_| View { waits_for: WaitsFor::Nobody, ..WELL };
        assert_eq!(watch(&mut seen, 2_600, 100, moved), [(2_600, Action::Synchronize)]);
    }

    #[test]
    fn maximum_performance_leaves_the_gate_open() {
        let open = View { mode: Mode::MaximumPerformance, waits_for: WaitsFor::Nobody, ..WELL };
        assert_eq!(look(open), (State::Unsynchronized, None));
    }

    #[test]
    fn the_witness_stands_in_for_a_site_without_votes_and_the_same_timer_gives_it_up() {
        assert_eq!(look(SHRUNK), (State::Unsynchronized, None));
        for (ms, expected) in [
            (399, (State::Unsynchronized, None)),
            (400, (State::Suspect, None)),
            (800, (State::Degrading, Some(Action::Degrade))),
        ] {
            assert_eq!(look(View { witness_acknowledged_ms: Some(ms), ..SHRUNK }), expected, "{ms} ms");
        }
        assert_eq!(look(View { witness_acknowledged_ms: Some(800), has_quorum: false, ..SHRUNK }).0, State::Stalled);
        assert_eq!(look(View { witness_acknowledged_ms: None, ..SHRUNK }).1, Some(Action::Degrade), "there is none");
    }

    #[test]
    fn the_witness_is_waited_for_again_once_it_has_answered_for_a_while_if_it_is_needed() {
        let silent_at =
            |at| move |now| View { witness_acknowledged_ms: Some(if now == at { 400 } else { 0 }), ..SHRUNK };
        let alone = |view: View| View { waits_for: WaitsFor::Nobody, ..view };
        let mut seen = Watch::default();
        assert_eq!(watch(&mut seen, 0, 30_100, |_| alone(SHRUNK)), [(30_000, Action::WaitForWitness)]);
        let mut seen = Watch::default();
        assert_eq!(watch(&mut seen, 0, 59_000, |now| alone(silent_at(29_000)(now))), []);
        let mut seen = Watch::default();
        let votes = |_| View { needs_witness: false, ..alone(SHRUNK) };
        assert_eq!(watch(&mut seen, 0, 99_000, votes), []);
    }

    #[test]
    fn a_witness_that_comes_and_goes_is_waited_for_after_longer_and_longer_pauses() {
        let mut seen = Watch::default();
        let (mut pauses, mut now) = (Vec::new(), 0);
        for lost in 0..7 {
            // It is waited for, and given up.
            (seen, _) = seen.next(&SHRUNK, LIMITS, now);
            let begun = now + 100;
            loop {
                now += 100;
                let (next, action) = seen.next(&View { waits_for: WaitsFor::Nobody, ..SHRUNK }, LIMITS, now);
                seen = next;
                if action == Some(Action::WaitForWitness) {
                    break;
                }
            }
            pauses.push((now - begun) / 1_000);
            // The last but one of them is long ago at the end.
            now += if lost == 5 { FLAPPING_MS } else { 0 };
        }
        assert_eq!(pauses, [30, 30, 30, 60, 120, 240, 30]);
    }

    #[test]
    fn a_site_without_votes_that_is_lost_once_more_leaves_the_witness_to_wait_for() {
        let lost = View { waits_for: WaitsFor::OtherSite, acknowledged_ms: 900, ..SHRUNK };
        assert_eq!(look(lost), (State::Degrading, Some(Action::WaitForWitness)));
        let late = View { witness_acknowledged_ms: Some(799), ..lost };
        assert_eq!(look(late).1, Some(Action::WaitForWitness), "its own time is not over");
        let both = View { witness_acknowledged_ms: Some(800), ..lost };
        assert_eq!(look(both), (State::Degrading, Some(Action::Degrade)));
        assert_eq!(look(View { needs_witness: false, ..lost }).1, Some(Action::Degrade));
    }

    #[test]
    fn a_witness_that_has_nothing_to_stand_in_for_is_waited_for_no_more_after_a_while() {
        let mut seen = Watch::default();
        let unneeded = |_| View { needs_witness: false, witness_acknowledged_ms: Some(500), ..SHRUNK };
        assert_eq!(watch(&mut seen, 0, 30_100, unneeded), [(30_000, Action::Degrade)]);
        let mut seen = Watch::default();
        assert_eq!(watch(&mut seen, 0, 59_000, |now| View { needs_witness: now == 29_000, ..SHRUNK }), []);
    }

    #[test]
    fn a_site_without_votes_comes_back_as_any_other_does() {
        let back = |_| View { answering: 1, acknowledged_ms: 10, ..SHRUNK };
        let mut seen = Watch::default();
        assert_eq!(watch(&mut seen, 0, 40_100, back), [(40_000, Action::Synchronize)]);
        // What becomes of the witness meanwhile does not begin its time again.
        let mut seen = Watch::default();
        let moves =
            |now| View { waits_for: if now < 5_000 { WaitsFor::Witness } else { WaitsFor::Nobody }, ..back(now) };
        assert_eq!(watch(&mut seen, 0, 40_100, moves).last(), Some(&(40_000, Action::Synchronize)));
        // A witness that is always late does not keep it away.
        let mut seen = Watch::default();
        let late = |now| View { witness_acknowledged_ms: Some(500), ..back(now) };
        assert_eq!(watch(&mut seen, 0, 40_100, late), [(40_000, Action::Synchronize)]);
        // While the witness is late or the quorum away, breaks count all the same.
        let mut seen = Watch::default();
        let breaks = |now| View { has_quorum: now > 35_000, answering: usize::from(now != 34_000), ..back(now) };
        assert_eq!(watch(&mut seen, 0, 60_000, breaks), []);
    }
}
