//! One run of the smoke simulation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use saola_raft::sim::{SimRuntime, random_u64, run, spawn_on};
use saola_raft::{ReadPoint, Replica};
use saola_storage::command::{Command, CreateCollection, Decision, Op, PutRecord, RequestId, TakeDigest, WrappedDek};
use saola_storage::store::At;
use sha2::{Digest, Sha256};

use super::Cluster;

const COLLECTION: &str = "drill";
const DEK: [u8; 16] = [7; 16];
const INCARNATION: [u8; 16] = [8; 16];
const CLIENTS: u64 = 3;
const CALL: Duration = Duration::from_millis(800);
const HEAL: Duration = Duration::from_secs(30);

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

fn envelope(value: u64) -> Bytes {
    let mut bytes = vec![1u8, 1];
    bytes.extend_from_slice(&DEK);
    bytes.extend_from_slice(&[0; 28]);
    bytes.extend_from_slice(&value.to_le_bytes());
    bytes.extend_from_slice(&[0; 16]);
    bytes.into()
}

fn request(client: u64, sequence: u64) -> RequestId {
    let mut id = [0u8; 16];
    id[..8].copy_from_slice(&(client + 1).to_le_bytes());
    RequestId { client: Bytes::copy_from_slice(&id), since: 1, sequence, done_below: sequence }
}

/// Runs a cluster of `nodes` nodes (the last one a witness if `witness`) under a seed.
pub fn smoke(seed: u64, nodes: u64, witness: bool) -> Report {
    run(seed, async move {
        let mut cluster = Cluster::new(nodes, witness);
        for id in cluster.ids() {
            cluster.start(id).await;
        }
        let first = cluster.replica(1).expect("node 1 was started");
        let members = cluster.members();
        // On the node's own task: Raft starts there, and its tasks must end with the node.
        let made = spawn_on(1, async move {
            first.init("sim", Vec::new(), members, [5; 32]).await.expect("a quiet cluster initialises");
            create_collection(&first).await;
        });
        made.await.expect("nothing aborts a quiet cluster");

        let observed = Arc::new(Mutex::new(Observed::default()));
        let crashes = under_faults(&mut cluster, &observed).await;

        cluster.network.heal();
        for id in cluster.ids() {
            if cluster.replica(id).is_none() {
                cluster.start(id).await;
            }
        }
        judge(&cluster, &observed).await;
        let mut seen = observed.lock();
        let (acked, unknown, reads) = seen.counts;
        let trace = std::mem::take(&mut seen.trace).finalize().into();
        Report { acked, unknown, reads, crashes, trace, violations: std::mem::take(&mut seen.violations) }
    })
}

async fn create_collection(replica: &Replica<SimRuntime>) {
    let dek = WrappedDek {
        id: Bytes::copy_from_slice(&DEK),
        incarnation: Bytes::copy_from_slice(&INCARNATION),
        wraps: Vec::new(),
    };
    let create = CreateCollection {
        name: COLLECTION.into(),
        incarnation: Bytes::copy_from_slice(&INCARNATION),
        max_value_bytes: 1 << 20,
        key_style: 0,
        owner: String::new(),
        label: String::new(),
        dek: Some(dek),
    };
    let command = Command { request: Some(request(99, 1)), op: Some(Op::CreateCollection(create)) };
    let outcome = replica.propose(command, HEAL).await.expect("a quiet cluster takes a collection");
    assert!(matches!(outcome.decision, Some(Decision::CollectionCreated(_))), "{outcome:?}");
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
                for id in cluster.ids() {
                    if cluster.replica(id).is_none() {
                        cluster.start(id).await;
                    }
                }
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
        let value = client * 1_000_000 + sequence;
        let put = PutRecord {
            collection: COLLECTION.into(),
            id: Bytes::from(format!("r{record}")),
            envelope: envelope(value),
            content_type: String::new(),
            expect: None,
            provenance: None,
            value_bytes: 8,
        };
        let command = Command { request: Some(request(client, sequence)), op: Some(Op::Put(put)) };
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

fn generation_at(replica: &Replica<SimRuntime>, record: u64, point: &ReadPoint) -> u64 {
    let view = replica.store().view();
    let Some(collection) = view.collection(COLLECTION) else { return 0 };
    let id = format!("r{record}");
    let version = view.get(&collection, id.as_bytes(), At::Revision(point.revision));
    version.expect("memory reads").map_or(0, |version| version.generation)
}

/// After healing: the cluster serves, all replicas are equal, nothing acknowledged is missing.
async fn judge(cluster: &Cluster, observed: &Arc<Mutex<Observed>>) {
    let ids = cluster.running();
    let first = cluster.replica(ids[0]).expect("all nodes run");
    let command = Command { request: None, op: Some(Op::TakeDigest(TakeDigest {})) };
    let outcome = match first.propose(command, HEAL).await {
        Ok(outcome) => outcome,
        Err(error) => {
            observed.lock().violations.push(format!("the healed cluster takes no writes: {error}"));
            return;
        }
    };
    let mut digests = BTreeMap::new();
    for id in &ids {
        let replica = cluster.replica(*id).expect("all nodes run");
        match replica.read_point(HEAL).await {
            Ok(point) => {
                let digest = replica.store().digest_at(outcome.index);
                digests.insert(*id, digest);
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
    let mut seen = observed.lock();
    let first = digests.values().next().copied().flatten();
    if first.is_none() || digests.values().any(|digest| *digest != first) {
        seen.violations.push(format!("digests at index {} differ: {digests:?}", outcome.index));
    }
}
