//! A checker that accepts a wrong history proves nothing, so each kind of lie is told to them and must be caught.

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use saola_jepsen::check::{Kept, durability, linearizable, once, revision};
use saola_jepsen::operation::{Action, Fingerprint, Operation, Outcome};

use crate::good_history::{Good, Shape, good_history};

const SHAPE: Shape = Shape { calls: 150, records: 3, lost_per_mille: 100 };

/// A good history, and what to choose its mutation with.
fn good(seed: u64) -> (Good, SmallRng) {
    (good_history(seed, SHAPE), SmallRng::seed_from_u64(!seed))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn good_histories_pass(seed: u64) {
        let (good, _) = good(seed);
        prop_assert_eq!(linearizable::check(&good.history), vec![]);
        prop_assert_eq!(revision::check(&good.history), vec![]);
        prop_assert_eq!(once::check(&good.history, &good.kept), vec![]);
        prop_assert_eq!(durability::check(&good.history, &good.kept), vec![]);
    }

    #[test]
    fn good_histories_pass_when_most_answers_are_lost(seed: u64) {
        let good = good_history(seed, Shape { lost_per_mille: 700, ..SHAPE });
        prop_assert_eq!(linearizable::check(&good.history), vec![]);
        prop_assert_eq!(once::check(&good.history, &good.kept), vec![]);
    }

    #[test]
    fn swapped_writes_are_rejected(seed: u64) {
        let (mut good, mut rng) = good(seed);
        let pair = ordered_writes(&good.history, &mut rng);
        prop_assume!(pair.is_some());
        if let Some((first, second)) = pair {
            let outcome = good.history[first].outcome.clone();
            good.history[first].outcome = good.history[second].outcome.clone();
            good.history[second].outcome = outcome;
            // Two deletions look alike at the end.
            if good.history[first].action != good.history[second].action {
                prop_assert_ne!(durability::check(&good.history, &good.kept), vec![]);
            }
        }
        prop_assert_ne!(linearizable::check(&good.history), vec![]);
        prop_assert_ne!(revision::check(&good.history), vec![]);
    }

    #[test]
    fn a_dropped_write_that_was_read_is_missed(seed: u64) {
        let (mut good, mut rng) = good(seed);
        let read = reads(&good.history).filter(|(_, value)| value.is_some()).choose(&mut rng);
        prop_assume!(read.is_some());
        good.history.retain(|o| o.action.value().is_none() || o.action.value() != read.and_then(|r| r.1));
        prop_assert_ne!(linearizable::check(&good.history), vec![]);
        prop_assert_ne!(once::check(&good.history, &good.kept), vec![]);
    }

    #[test]
    fn a_write_that_was_read_cannot_have_been_refused(seed: u64) {
        let (mut good, mut rng) = good(seed);
        let read = reads(&good.history).filter(|(_, value)| value.is_some()).choose(&mut rng);
        prop_assume!(read.is_some());
        for operation in &mut good.history {
            if operation.action.value().is_some() && operation.action.value() == read.and_then(|r| r.1) {
                operation.outcome = Outcome::Refused { reason: "NO_LEADER".into(), found: None };
            }
        }
        prop_assert_ne!(linearizable::check(&good.history), vec![]);
        prop_assert_ne!(once::check(&good.history, &good.kept), vec![]);
    }

    #[test]
    fn reads_stale_by_one_are_rejected(seed: u64) {
        let (mut good, mut rng) = good(seed);
        let fresh = reads(&good.history)
            .map(|(at, _)| at)
            .filter(|at| written_before(&good.history, &good.history[*at]))
            .choose(&mut rng);
        prop_assume!(fresh.is_some());
        if let Some(at) = fresh {
            let record = good.history[at].record.clone();
            if let Outcome::Seen { generation, seen, .. } = &mut good.history[at].outcome {
                *generation -= 1;
                let older = good.kept.iter().find(|k| k.record == record && k.generation == *generation);
                *seen = older.and_then(|kept| kept.value);
            }
        }
        prop_assert_ne!(linearizable::check(&good.history), vec![]);
    }

    #[test]
    fn a_generation_written_twice_is_rejected(seed: u64) {
        let (mut good, mut rng) = good(seed);
        let written = good.history.iter()
            .filter(|o| matches!(o.outcome, Outcome::Written { .. }))
            .choose(&mut rng)
            .cloned();
        prop_assume!(written.is_some());
        if let Some(mut twin) = written {
            // The line itself twice, or another call that was told the same generation.
            if rng.random() {
                twin.op_id += 1_000_000;
                twin.action = Action::Put { value: Fingerprint(rng.random()) };
            }
            good.history.push(twin);
        }
        prop_assert_ne!(linearizable::check(&good.history), vec![]);
        prop_assert_ne!(revision::check(&good.history), vec![]);
    }

    #[test]
    fn a_read_before_its_write_is_rejected(seed: u64) {
        let (mut good, mut rng) = good(seed);
        let read = reads(&good.history).filter(|(_, value)| value.is_some()).choose(&mut rng);
        prop_assume!(read.is_some());
        if let Some((at, value)) = read {
            let writer = good.history.iter().find(|o| o.action.value().is_some() && o.action.value() == value);
            let begun = writer.map_or(0, |o| o.inv_ns);
            good.history[at].inv_ns = begun - 20;
            good.history[at].ret_ns = begun - 10;
        }
        prop_assert_ne!(linearizable::check(&good.history), vec![]);
    }

    #[test]
    fn a_lost_version_is_missed(seed: u64) {
        let (mut good, mut rng) = good(seed);
        let vouched = vouched_for(&good);
        let lost = vouched.into_iter().choose(&mut rng);
        prop_assume!(lost.is_some());
        if let Some(at) = lost {
            good.kept.remove(at);
        }
        prop_assert_ne!(durability::check(&good.history, &good.kept), vec![]);
    }

    #[test]
    fn a_version_that_changed_is_missed(seed: u64) {
        let (mut good, mut rng) = good(seed);
        let vouched = vouched_for(&good);
        let changed = vouched.into_iter().choose(&mut rng);
        prop_assume!(changed.is_some());
        if let Some(at) = changed {
            good.kept[at].value = Some(Fingerprint(rng.random()));
        }
        prop_assert_ne!(durability::check(&good.history, &good.kept), vec![]);
        prop_assert_ne!(once::check(&good.history, &good.kept), vec![]);
    }

    #[test]
    fn a_write_kept_twice_is_rejected(seed: u64) {
        let (mut good, mut rng) = good(seed);
        let version = good.kept.iter().filter(|k| k.value.is_some()).choose(&mut rng).cloned();
        prop_assume!(version.is_some());
        if let Some(mut twin) = version {
            let of_record = good.kept.iter().filter(|k| k.record == twin.record);
            twin.generation = of_record.count() as u64 + 1;
            twin.revision = u64::MAX;
            good.kept.push(twin);
        }
        prop_assert_ne!(once::check(&good.history, &good.kept), vec![]);
    }
}

#[test]
fn a_hot_record_with_many_calls_is_judged() {
    let shape = Shape { calls: 20_000, records: 1, lost_per_mille: 20 };
    let good = good_history(7, shape);
    assert_eq!(linearizable::check(&good.history), vec![]);
}

#[test]
fn absurd_generations_are_rejected_and_not_counted_through() {
    for generation in [0, 1 << 40, u64::MAX] {
        let mut good = good_history(3, SHAPE);
        for operation in &mut good.history {
            if let Outcome::Written { generation: told, .. } = &mut operation.outcome {
                *told = generation;
                break;
            }
        }
        assert_ne!(linearizable::check(&good.history), vec![], "{generation}");
    }
}

/// Answered reads of existing versions: position and value seen.
fn reads(history: &[Operation]) -> impl Iterator<Item = (usize, Option<Fingerprint>)> {
    history.iter().enumerate().filter_map(|(at, operation)| match operation.outcome {
        Outcome::Seen { generation, seen, .. } if generation > 0 => Some((at, seen)),
        _ => None,
    })
}

/// Two acknowledged writes of one record, the first of which ended before the second began.
fn ordered_writes(history: &[Operation], rng: &mut SmallRng) -> Option<(usize, usize)> {
    let writes: Vec<usize> =
        (0..history.len()).filter(|at| matches!(history[*at].outcome, Outcome::Written { .. })).collect();
    let pairs = writes.iter().flat_map(|first| writes.iter().map(move |second| (*first, *second)));
    pairs
        .filter(|(first, second)| {
            history[*first].record == history[*second].record && history[*first].ret_ns < history[*second].inv_ns
        })
        .choose(rng)
}

/// True when the version that `read` saw had been acknowledged before the read began.
fn written_before(history: &[Operation], read: &Operation) -> bool {
    let Outcome::Seen { generation: seen, .. } = read.outcome else {
        return false;
    };
    history.iter().any(|write| {
        write.record == read.record
            && write.ret_ns < read.inv_ns
            && matches!(write.outcome, Outcome::Written { generation, .. } if generation == seen)
    })
}

/// Positions of kept versions that were acknowledged.
fn vouched_for(good: &Good) -> Vec<usize> {
    let acknowledged = |kept: &Kept| {
        good.history.iter().any(|o| {
            o.record == kept.record
                && matches!(o.outcome, Outcome::Written { generation, .. } if generation == kept.generation)
        })
    };
    (0..good.kept.len()).filter(|at| acknowledged(&good.kept[*at])).collect()
}
