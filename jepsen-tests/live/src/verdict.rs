//! What every data node keeps after the run, and the judgement.

use std::collections::BTreeSet;
use std::time::Duration;

use saola_client::Client;
use saola_jepsen::check::{Kept, Violation, durability, linearizable, once, revision};
use saola_jepsen::operation::{Action, Operation, Outcome};
use tokio::time::Instant;

use crate::workload::{COLLECTION, RECORDS, fingerprint, record_id};

/// Acknowledged calls below which a run shows nothing.
const ACKNOWLEDGED_MIN: usize = 300;

/// All versions of all records of the run as one node keeps them. Its client asks that node alone, and a linearizable
/// read there waits until the node has caught up.
pub async fn kept_by(node: u64, client: &Client, end: Instant) -> Vec<Kept> {
    let mut kept = Vec::new();
    for record in 0..RECORDS {
        let id = record_id(record);
        for version in history(node, client, &id, end).await {
            kept.push(Kept {
                record: format!("{COLLECTION}/{id}"),
                generation: version.generation,
                revision: version.revision,
                value: fingerprint(&version),
            });
        }
    }
    kept
}

async fn history(node: u64, client: &Client, id: &str, end: Instant) -> Vec<saola_client::Version> {
    loop {
        match client.history(COLLECTION, id.to_string()).send().await {
            Ok(reply) => return reply.value,
            Err(error) if Instant::now() < end => {
                eprintln!("live: node {node} is not back yet: {error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(error) => panic!("node {node} did not come back: {error}"),
        }
    }
}

/// Everything that is wrong with the history and with what each node keeps.
pub fn judge(operations: &[Operation], kept: &[(u64, Vec<Kept>)]) -> Vec<String> {
    let mut wrong: Vec<String> = Vec::new();
    let mut accuse = |whose: String, violations: Vec<Violation>| {
        wrong.extend(violations.iter().map(|violation| format!("{whose}{violation}")));
    };
    accuse(String::new(), linearizable::check(operations));
    accuse(String::new(), revision::check(operations));
    for (node, kept) in kept {
        accuse(format!("node {node}: "), once::check(operations, kept));
        accuse(format!("node {node}: "), durability::check(operations, kept));
    }
    wrong
}

/// What differs between the data nodes' state digests at one log index, once all of them tell theirs.
pub async fn digests(client: &Client, end: Instant) -> Vec<String> {
    loop {
        let missing = match client.digest().await {
            Ok(reply) => match reply.digests.iter().find(|digest| !digest.error.is_empty()) {
                Some(silent) => format!("node {}: {}", silent.node_id, silent.error),
                None => {
                    let different: BTreeSet<_> = reply.digests.iter().map(|digest| &digest.digest).collect();
                    let what = format!("digests differ at log index {}: {:?}", reply.log_index, reply.digests);
                    return if different.len() == 1 { vec![] } else { vec![what] };
                }
            },
            Err(error) => error.to_string(),
        };
        if Instant::now() >= end {
            return vec![format!("no digest of every data node: {missing}")];
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Why a run was too quiet to prove anything, if it was.
pub fn too_quiet(operations: &[Operation]) -> Vec<String> {
    let acknowledged: Vec<&Operation> = operations
        .iter()
        .filter(|operation| matches!(operation.outcome, Outcome::Written { .. } | Outcome::Seen { .. }))
        .collect();
    let answering: BTreeSet<u64> = acknowledged.iter().filter_map(|operation| operation.node_answered).collect();
    let done = |kind: fn(&Action) -> bool| acknowledged.iter().any(|operation| kind(&operation.action));
    let mut missing = Vec::new();
    let mut require = |fine: bool, what: String| {
        if !fine {
            missing.push(what);
        }
    };
    let calls = acknowledged.len();
    require(calls >= ACKNOWLEDGED_MIN, format!("{calls} calls were acknowledged, fewer than {ACKNOWLEDGED_MIN}"));
    require(answering.len() >= 3, format!("only nodes {answering:?} answered"));
    require(done(|action| matches!(action, Action::Put { .. })), "no put was acknowledged".to_string());
    require(done(|action| matches!(action, Action::Cas { .. })), "no conditional put was acknowledged".to_string());
    require(done(|action| matches!(action, Action::Delete)), "no deletion was acknowledged".to_string());
    require(done(|action| matches!(action, Action::Get)), "no read was answered".to_string());
    missing
}
