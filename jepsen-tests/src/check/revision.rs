//! The store-wide order: every write has a revision of its own, and revisions never run against real time.

use std::collections::BTreeMap;

use super::Violation;
use super::before::Before;
use crate::operation::{Operation, Outcome};

/// Judges the revisions of all acknowledged writes and answered reads together.
pub fn check(history: &[Operation]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut accuse = |operation: &Operation, other: u64, what: String| {
        violations.push(Violation {
            check: "revision",
            record: operation.record.clone(),
            op_ids: vec![other, operation.op_id],
            what,
        });
    };
    let mut writers: BTreeMap<u64, u64> = BTreeMap::new();
    for operation in history {
        if let Outcome::Written { revision, .. } = operation.outcome
            && let Some(other) = writers.insert(revision, operation.op_id)
        {
            let what = format!("revision {revision} was given to two writes");
            accuse(operation, other, what);
        }
    }
    let shown = history.iter().filter_map(|o| Some((o.ret_ns, revision(&o.outcome)?, o.op_id)));
    let before = Before::new(shown.collect());
    for operation in history {
        if let Some(own) = revision(&operation.outcome)
            && let Some((reached, other)) = before.at(operation.inv_ns)
            && (own < reached || own == reached && is_write(operation))
        {
            let what = format!("answered with revision {own} though {reached} had been shown before it began");
            accuse(operation, other, what);
        }
    }
    violations
}

fn is_write(operation: &Operation) -> bool {
    matches!(operation.outcome, Outcome::Written { .. })
}

fn revision(outcome: &Outcome) -> Option<u64> {
    match outcome {
        Outcome::Written { revision, .. } | Outcome::Seen { revision, .. } => Some(*revision),
        Outcome::Refused { .. } | Outcome::Unknown { .. } => None,
    }
}
