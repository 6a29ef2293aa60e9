//! Durable: what was acknowledged, and what a read has shown, is still kept at the end.

use std::collections::HashMap;

use super::{Kept, Violation};
use crate::operation::{Fingerprint, Operation, Outcome};

/// Judges the versions that one node keeps, once it has caught up.
pub fn check(history: &[Operation], kept: &[Kept]) -> Vec<Violation> {
    let kept: HashMap<(&str, u64), &Kept> =
        kept.iter().map(|version| ((version.record.as_str(), version.generation), version)).collect();
    let mut violations = Vec::new();
    for operation in history {
        let Some(promise) = promise(operation) else {
            continue;
        };
        let found = kept.get(&(operation.record.as_str(), promise.generation));
        let what = match found {
            None => "is gone".to_string(),
            Some(found) if found.value != promise.value => {
                format!("holds {:?} instead of {:?}", found.value, promise.value)
            }
            Some(found) if promise.revision.is_some_and(|r| r != found.revision) => {
                format!("moved from revision {:?} to {}", promise.revision, found.revision)
            }
            Some(_) => continue,
        };
        violations.push(Violation {
            check: "durability",
            record: operation.record.clone(),
            op_ids: vec![operation.op_id],
            what: format!("generation {} was {} and {what}", promise.generation, promise.made_by),
        });
    }
    violations
}

/// A version that the cluster has vouched for.
struct Promise {
    generation: u64,
    value: Option<Fingerprint>,
    /// Missing for reads: their revision is the store's.
    revision: Option<u64>,
    made_by: &'static str,
}

fn promise(operation: &Operation) -> Option<Promise> {
    match operation.outcome {
        Outcome::Written { generation, revision } => Some(Promise {
            generation,
            value: operation.action.value(),
            revision: Some(revision),
            made_by: "acknowledged",
        }),
        Outcome::Seen { generation, seen, .. } if generation > 0 => {
            Some(Promise { generation, value: seen, revision: None, made_by: "read" })
        }
        Outcome::Seen { .. } | Outcome::Refused { .. } | Outcome::Unknown { .. } => None,
    }
}
