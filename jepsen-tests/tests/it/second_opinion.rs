//! The linearizability checker against an exhaustive search, on short histories that are sometimes wrong.

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use saola_jepsen::check::linearizable;
use saola_jepsen::operation::{Action, Fingerprint, Found, Operation, Outcome};

use crate::good_history::{Shape, good_history};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn verdicts_equal_those_of_an_exhaustive_search(seed: u64) {
        let shape = Shape { calls: 7, records: 1, lost_per_mille: 300 };
        let mut rng = SmallRng::seed_from_u64(!seed);
        let mut history = good_history(seed, shape).history;
        for _ in 0..rng.random_range(0..3) {
            tell_a_lie(&mut history, &mut rng);
        }
        let accused = linearizable::check(&history);
        let possible = search(&history, (1 << history.len()) - 1, State::default());
        if possible {
            prop_assert_eq!(accused, vec![], "{:#?}", history);
        } else if claims_completeness(&history) {
            prop_assert_ne!(accused, vec![], "{:#?}", history);
        }
    }
}

/// The two things that the checker leaves open are named in its own comment.
fn claims_completeness(history: &[Operation]) -> bool {
    let unknown = |o: &Operation| matches!(o.outcome, Outcome::Unknown { .. });
    let not_live = Outcome::Refused { reason: "NOT_FOUND".into(), found: Some(Found::NotLive) };
    let unknown_deletion = history.iter().any(|o| unknown(o) && o.action == Action::Delete);
    let not_live_amid_unknown = history.iter().any(unknown) && history.iter().any(|o| o.outcome == not_live);
    !unknown_deletion && !not_live_amid_unknown
}

/// Changes one answer or one interval: the result may be right or wrong.
fn tell_a_lie(history: &mut [Operation], rng: &mut SmallRng) {
    let at = rng.random_range(0..history.len());
    let other = history[rng.random_range(0..history.len())].action.value();
    let step = if rng.random() { 1 } else { u64::MAX };
    let operation = &mut history[at];
    if rng.random_range(0..3) == 0 {
        let length = operation.ret_ns - operation.inv_ns;
        operation.inv_ns = rng.random_range(9_000..11_000);
        operation.ret_ns = operation.inv_ns + length;
        return;
    }
    match &mut operation.outcome {
        Outcome::Seen { seen, .. } if rng.random() => *seen = other,
        Outcome::Seen { generation, .. }
        | Outcome::Written { generation, .. }
        | Outcome::Refused { found: Some(Found::Live(generation) | Found::Gone(generation)), .. } => {
            *generation = generation.wrapping_add(step).min(20)
        }
        Outcome::Refused { .. } | Outcome::Unknown { .. } => {}
    }
}

#[derive(Clone, Copy, Default)]
struct State {
    generation: u64,
    value: Option<Fingerprint>,
}

/// True when the calls in `left`, a bit set, can follow `state` in some order that respects real time.
fn search(history: &[Operation], left: u32, state: State) -> bool {
    let waiting = |at: &usize| left & (1 << at) != 0;
    let answered = |at: &usize| {
        let outcome = &history[*at].outcome;
        !matches!(outcome, Outcome::Unknown { .. } | Outcome::Refused { found: None, .. })
    };
    let first_end = (0..history.len()).filter(|at| waiting(at) && answered(at)).map(|at| history[at].ret_ns).min();
    // What is left is unknown and need never take effect, or was refused.
    let Some(first_end) = first_end else {
        return true;
    };
    (0..history.len())
        .filter(waiting)
        .filter(|at| history[*at].inv_ns <= first_end)
        .any(|at| step(&history[at], state).is_some_and(|next| search(history, left & !(1 << at), next)))
}

/// The state after `operation`, if it can happen here with the answer that it got.
fn step(operation: &Operation, state: State) -> Option<State> {
    let live = state.value.is_some();
    let allowed = match operation.action {
        Action::Put { .. } => true,
        Action::Cas { expect, .. } => expect == state.generation,
        Action::Delete => live,
        Action::Get => false,
    };
    let written = State { generation: state.generation + 1, value: operation.action.value() };
    let stays = |condition: bool| condition.then_some(state);
    match &operation.outcome {
        Outcome::Written { generation, .. } => (allowed && *generation == written.generation).then_some(written),
        Outcome::Seen { generation, seen, .. } => stays(*generation == state.generation && *seen == state.value),
        Outcome::Refused { found, .. } => match found {
            Some(Found::Live(generation)) => stays(!allowed && live && *generation == state.generation),
            Some(Found::Gone(generation)) => stays(!allowed && !live && *generation == state.generation),
            Some(Found::NotLive) => stays(!live),
            None => None,
        },
        Outcome::Unknown { .. } => allowed.then_some(written),
    }
}
