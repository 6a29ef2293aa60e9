//! Once only: what is kept at the end is the work of the history's writes, each at most once.

use std::collections::{BTreeMap, HashMap};

use super::{Kept, Violation};
use crate::operation::{Action, Fingerprint, Operation, Outcome};

/// Judges the versions that one node keeps of the records of a history, in any order.
pub fn check(history: &[Operation], kept: &[Kept]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut records: BTreeMap<&str, (Vec<&Kept>, Vec<&Operation>)> = BTreeMap::new();
    for version in kept {
        records.entry(&version.record).or_default().0.push(version);
    }
    for operation in history {
        records.entry(&operation.record).or_default().1.push(operation);
    }
    for (record, (versions, operations)) in &mut records {
        versions.sort_by_key(|version| version.generation);
        check_counters(record, versions, &mut violations);
        check_values(record, versions, operations, &mut violations);
        check_deletions(record, versions, operations, &mut violations);
    }
    violations
}

fn violation(record: &str, op_ids: &[u64], what: String) -> Violation {
    Violation { check: "once", record: record.to_string(), op_ids: op_ids.to_vec(), what }
}

/// Generations are 1, 2, 3 … and revisions grow with them.
fn check_counters(record: &str, versions: &[&Kept], violations: &mut Vec<Violation>) {
    let mut revision = 0;
    for (version, expected) in versions.iter().zip(1..) {
        if version.generation != expected {
            let what = format!("generation {} is kept where {expected} is due", version.generation);
            violations.push(violation(record, &[], what));
            return;
        }
        if version.revision <= revision {
            let what = format!("generation {expected} has revision {}, not above {revision}", version.revision);
            violations.push(violation(record, &[], what));
        }
        revision = version.revision;
    }
}

/// Each kept value has a writer that was not refused, and stands once.
fn check_values(record: &str, versions: &[&Kept], operations: &[&Operation], violations: &mut Vec<Violation>) {
    let writers: HashMap<Fingerprint, &&Operation> =
        operations.iter().filter_map(|operation| Some((operation.action.value()?, operation))).collect();
    let mut kept_at: HashMap<Fingerprint, u64> = HashMap::new();
    for version in versions {
        let Some(value) = version.value else { continue };
        let generation = version.generation;
        let Some(writer) = writers.get(&value) else {
            let what = format!("generation {generation} holds {value}, which nobody wrote");
            violations.push(violation(record, &[], what));
            continue;
        };
        if let Outcome::Refused { reason, .. } = &writer.outcome {
            let what = format!("refused with {reason}, and kept as generation {generation}");
            violations.push(violation(record, &[writer.op_id], what));
        }
        if let Some(other) = kept_at.insert(value, generation) {
            let what = format!("took effect twice, as generations {other} and {generation}");
            violations.push(violation(record, &[writer.op_id], what));
        }
    }
}

/// Deletions have no value to tell them apart, so they are counted.
fn check_deletions(record: &str, versions: &[&Kept], operations: &[&Operation], violations: &mut Vec<Violation>) {
    let kept = versions.iter().filter(|version| version.value.is_none());
    let kept = kept.count();
    let possible = operations.iter().filter(|operation| {
        operation.action == Action::Delete && !matches!(operation.outcome, Outcome::Refused { .. })
    });
    let possible = possible.count();
    if kept > possible {
        let what = format!("{kept} deletions are kept, {possible} can have taken effect");
        violations.push(violation(record, &[], what));
    }
}
