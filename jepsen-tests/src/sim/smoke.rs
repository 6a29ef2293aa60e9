//! One run of the smoke simulation.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use saola_raft::Replica;
use saola_raft::sim::{SimRuntime, random_u64, run};
use saola_storage::command::Decision;
use sha2::{Digest, Sha256};

use super::records::{compare_digests, generation_at, put, value_of};
use super::{CALL, Cluster, PATIENCE};

const CLIENTS: u64 = 3;

/// What a run did and what was wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Writes that were acknowledged.
    pub acked: u64,
    /// Writes without an answer.
    pub unknown: u64,
    /// Linearizable reads that were answered.
    pub reads: u64,
    /// Nodes crashed.
    pub crashes: u64,
    /// SHA-256 over every answer in order: equal for equal runs.
    pub trace: [u8; 32],
    /// Promises that did not hold.
    pub violations: Vec<String>,
}

#[derive(Default)]
struct Observed {
    trace: Sha256,
    /// Highest acknowledged generation of each record, with its revision.
    acked: BTreeMap<u64, (u64, u64)>,
    versions: BTreeMap<(u64, u64), u64>,
    counts: (u64, u64, u64),
    violations: Vec<String>,
}

impl Observed {
    fn note(&mut self, what: &str, numbers: &[u64]) {
        self.trace.update(what.as_bytes());
        for number in numbers {
            self.trace.update(number.to_le_bytes());
        }
    }
}

/// Runs a cluster of `nodes` nodes (the last one a witness if `witness`) under a seed.
pub fn smoke(seed: u64, nodes: u64, witness: bool) -> Report {
    run(seed, async move {
        let mut cluster = Cluster::new(nodes, witness);
        cluster.init().await;
        let observed = Arc::new(Mutex::new(Observed::default()));
        let crashes = under_faults(&mut cluster, &observed).await;

        cluster.network.heal();
        cluster.start_all().await;
        judge(&cluster, &observed).await;
        let mut seen = observed.lock();
        let (acked, unknown, reads) = seen.counts;
        let trace = std::mem::take(&mut seen.trace).finalize().into();
        Report { acked, unknown, reads, crashes, trace, violations: std::mem::take(&mut seen.violations) }
    })
}

/// Clients write and read while nodes crash and links are cut; answers how many crashes there were.
async fn under_faults(cluster: &mut Cluster, observed: &Arc<Mutex<Observed>>) -> u64 {
    let mut sequences = vec![0u64; CLIENTS as usize];
    let mut crashes = 0;
    for round in 0..8 {
        match round % 4 {
            0 => {}
            1 => cluster.cut_one(),
            2 => {
                let ids = cluster.ids();
                let victim = ids[(random_u64() % ids.len() as u64) as usize];
                if cluster.replica(victim).is_some() {
                    cluster.crash(victim).await;
                    crashes += 1;
                }
            }
            _ => {
                cluster.network.heal();
                cluster.start_all().await;
            }
        }
        let running = cluster.running();
        let calls = (0..CLIENTS).map(|client| {
            let replica = cluster.replica(running[(random_u64() % running.len() as u64) as usize]);
            let replica = replica.expect("it was listed as running");
            let first = sequences[client as usize];
            session(client, first, replica, observed.clone())
        });
        let ended = futures::future::join_all(calls).await;
        sequences.copy_from_slice(&ended);
    }
    crashes
}

/// A client's calls through one node; answers its last sequence number.
async fn session(client: u64, mut sequence: u64, replica: Replica<SimRuntime>, observed: Arc<Mutex<Observed>>) -> u64 {
    for _ in 0..6 {
        let record = random_u64() % 5;
        if random_u64().is_multiple_of(3) {
            read(&replica, record, &observed).await;
            continue;
        }
        sequence += 1;
        let value = value_of(client, sequence);
        let command = put(client, sequence, record, 0);
        let floor = observed.lock().acked.get(&record).copied().unwrap_or_default();
        let result = replica.propose(command, CALL).await;
        let mut seen = observed.lock();
        match result.map(|outcome| (outcome.revision, outcome.decision)) {
            Ok((revision, Some(Decision::Written(written)))) => {
                seen.counts.0 += 1;
                seen.note("ack", &[client, sequence, record, written.generation, revision]);
                if written.generation <= floor.0 || revision <= floor.1 {
                    seen.violations.push(format!(
                        "r{record}: generation {} at revision {revision} after {floor:?} was acknowledged",
                        written.generation
                    ));
                }
                if let Some(other) = seen.versions.insert((record, written.generation), value) {
                    seen.violations
                        .push(format!("r{record}: generation {} was given to {other} and {value}", written.generation));
                }
                let newest = seen.acked.entry(record).or_default();
                *newest = (*newest).max((written.generation, revision));
            }
            Ok((_, decision)) => seen.violations.push(format!("a put was answered {decision:?}")),
            Err(_) => {
                seen.counts.1 += 1;
                seen.note("none", &[client, sequence]);
            }
        }
    }
    sequence
}

async fn read(replica: &Replica<SimRuntime>, record: u64, observed: &Arc<Mutex<Observed>>) {
    let floor = observed.lock().acked.get(&record).copied().unwrap_or_default();
    let Ok(point) = replica.read_point(CALL).await else { return };
    let generation = generation_at(replica, record, &point);
    let mut seen = observed.lock();
    seen.counts.2 += 1;
    seen.note("read", &[record, generation, point.revision]);
    if generation < floor.0 {
        seen.violations.push(format!(
            "r{record}: a linearizable read saw generation {generation} after {} was acknowledged",
            floor.0
        ));
    }
}

/// After healing: the cluster serves, all replicas are equal, nothing acknowledged is missing.
async fn judge(cluster: &Cluster, observed: &Arc<Mutex<Observed>>) {
    if let Err(problem) = compare_digests(cluster).await {
        observed.lock().violations.push(problem);
        return;
    }
    for id in cluster.running() {
        let replica = cluster.replica(id).expect("all nodes run");
        match replica.read_point(PATIENCE).await {
            Ok(point) => {
                let acked = observed.lock().acked.clone();
                for (record, (generation, _)) in acked {
                    let found = generation_at(&replica, record, &point);
                    if found < generation {
                        observed.lock().violations.push(format!(
                            "node {id}: r{record} ends at generation {found}, but {generation} was acknowledged"
                        ));
                    }
                }
            }
            Err(error) => observed.lock().violations.push(format!("node {id} serves no reads: {error}")),
        }
    }
}
