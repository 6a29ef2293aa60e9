//! Histories that a correct cluster could have produced: a sequential store, with calls that overlap at random.

use std::collections::BTreeMap;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use saola_jepsen::check::Kept;
use saola_jepsen::operation::{Action, Fingerprint, Found, Operation, Outcome};

/// What to draw.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Calls in the history.
    pub calls: u64,
    /// Records that they touch.
    pub records: u64,
    /// Calls in a thousand whose answer is lost.
    pub lost_per_mille: u32,
}

/// A history and what the store keeps at its end.
#[derive(Clone, Debug)]
pub struct Good {
    /// The calls, in the order in which they took effect.
    pub history: Vec<Operation>,
    /// Every version of every record.
    pub kept: Vec<Kept>,
}

#[derive(Clone, Copy, Default)]
struct Newest {
    generation: u64,
    value: Option<Fingerprint>,
}

/// Draws a history: each call takes effect at one instant between its beginning and its end.
pub fn good_history(seed: u64, shape: Shape) -> Good {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut store = Store::default();
    let mut history = Vec::new();
    for op_id in 0..shape.calls {
        let at = 10_000 + op_id * 100;
        let record = format!("c/r{}", rng.random_range(0..shape.records));
        let action = draw_action(&mut rng, op_id, store.newest(&record).generation);
        let lost = action.is_write() && rng.random_range(0..1000) < shape.lost_per_mille;
        let inv_ns = at - rng.random_range(1..600);
        // A lost answer says nothing about when the effect came.
        let ret_ns = if lost { inv_ns } else { at } + rng.random_range(1..600);
        let refused = action.is_write() && rng.random_range(0..20) == 0;
        let outcome = if refused {
            Outcome::Refused { reason: "NO_LEADER".into(), found: None }
        } else if lost && rng.random() {
            Outcome::Unknown { reason: "never arrived".into() }
        } else {
            let outcome = store.apply(&record, &action);
            if lost { Outcome::Unknown { reason: "answer lost".into() } } else { outcome }
        };
        history.push(Operation {
            op_id,
            client: rng.random_range(0..5),
            record,
            action,
            inv_ns,
            ret_ns,
            outcome,
            node_asked: None,
            node_answered: None,
            epoch: None,
        });
    }
    Good { history, kept: store.kept }
}

fn draw_action(rng: &mut SmallRng, op_id: u64, generation: u64) -> Action {
    let value = Fingerprint::of(&op_id.to_be_bytes());
    match rng.random_range(0..10) {
        0..3 => Action::Put { value },
        // Mostly right, sometimes stale.
        3..5 => Action::Cas { expect: generation.saturating_sub(rng.random_range(0..4) / 3), value },
        5 => Action::Delete,
        _ => Action::Get,
    }
}

#[derive(Default)]
struct Store {
    newest: BTreeMap<String, Newest>,
    revision: u64,
    kept: Vec<Kept>,
}

impl Store {
    fn newest(&self, record: &str) -> Newest {
        self.newest.get(record).copied().unwrap_or_default()
    }

    fn apply(&mut self, record: &str, action: &Action) -> Outcome {
        let Newest { generation, value } = self.newest(record);
        match action {
            Action::Get => Outcome::Seen { generation, seen: value, revision: self.revision },
            Action::Cas { expect, .. } if *expect != generation => Outcome::Refused {
                reason: "CONFLICT".into(),
                found: Some(match value {
                    Some(_) => Found::Live(generation),
                    None => Found::Gone(generation),
                }),
            },
            Action::Delete if value.is_none() => {
                Outcome::Refused { reason: "NOT_FOUND".into(), found: Some(Found::NotLive) }
            }
            Action::Put { .. } | Action::Cas { .. } | Action::Delete => {
                self.write(record, generation + 1, action.value())
            }
        }
    }

    fn write(&mut self, record: &str, generation: u64, value: Option<Fingerprint>) -> Outcome {
        self.revision += 1;
        let revision = self.revision;
        self.newest.insert(record.to_string(), Newest { generation, value });
        self.kept.push(Kept { record: record.to_string(), generation, revision, value });
        Outcome::Written { generation, revision }
    }
}
