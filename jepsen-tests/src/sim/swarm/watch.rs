//! What must hold at every moment, seen from outside: what was reached is not gone back on, and equal log indexes hold equal
//! states. (Two nodes may lead in one term: leader ids have a term and a node, and the greater one goes before.)

use std::collections::{BTreeMap, BTreeSet};

use saola_raft::ReplicaStatus;
use saola_raft::protection::State;

use crate::sim::Cluster;

/// What was seen so far.
#[derive(Default)]
pub struct Watch {
    /// By node, in its present life: frontier, committed, applied, term.
    reached: BTreeMap<u64, [u64; 4]>,
    /// State digests by log index, and who told them first.
    digests: BTreeMap<u64, (u64, [u8; 32])>,
    /// No fault of this life harms what is stored: nodes that find their copies wrong are a violation.
    is_unharmed: bool,
    accused: BTreeSet<u64>,
    pub(super) states: BTreeMap<&'static str, u64>,
    pub(super) violations: Vec<String>,
}

impl Watch {
    pub(super) fn new(is_unharmed: bool) -> Watch {
        Watch { is_unharmed, ..Watch::default() }
    }

    /// Looks at all nodes that run.
    pub(super) fn look(&mut self, cluster: &Cluster) {
        for node in cluster.running_machines() {
            let Some(replica) = cluster.replica(node) else { continue };
            let it = replica.status();
            count_state(&it, &mut self.states);
            let reached = [it.frontier_index, it.committed_index, it.applied_index, it.term];
            let before = self.reached.insert(node, reached).unwrap_or_default();
            for (what, (was, is)) in ["frontier", "committed", "applied", "term"].iter().zip(before.iter().zip(reached))
            {
                if is < *was {
                    self.violations.push(format!("node {node}: its {what} went from {was} back to {is}"));
                }
            }
            if let Some(alarm) = it.scrub.alarm
                && self.is_unharmed
                && self.accused.insert(node)
            {
                self.violations.push(format!("node {node}: {alarm}; and nothing has harmed what is stored"));
            }
            let store = replica.store();
            if let Some(index) = store.newest_digest()
                && let Some(digest) = store.digest_at(index)
            {
                let (first, known) = *self.digests.entry(index).or_insert((node, digest));
                if known != digest {
                    self.violations.push(format!("nodes {first} and {node} differ at log index {index}"));
                }
            }
        }
    }

    /// A node begins a new life: what it knew may be less.
    pub(super) fn forget(&mut self, node: u64) {
        self.reached.remove(&node);
    }
}

/// Counts how the sites stand to each other, as whoever leads sees it, and who is fenced.
pub(super) fn count_states(cluster: &Cluster, states: &mut BTreeMap<&'static str, u64>) {
    for node in cluster.running_machines() {
        if let Some(replica) = cluster.replica(node) {
            count_state(&replica.status(), states);
        }
    }
}

fn count_state(it: &ReplicaStatus, states: &mut BTreeMap<&'static str, u64>) {
    let seen = it.protection.as_ref().and_then(|it| it.seen.as_ref());
    let state = match it.state {
        "fenced" => "FENCED",
        "leader" if it.epoch > 1 && !it.members.iter().any(|it| it.site == "main") => PROMOTED,
        "leader" => match seen {
            Some(seen) => State::as_str(seen.state),
            None => return,
        },
        _ => return,
    };
    *states.entry(state).or_default() += 1;
}

/// A site goes on alone after a promotion.
pub const PROMOTED: &str = "PROMOTED_UNPROTECTED";
