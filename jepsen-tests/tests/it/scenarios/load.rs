//! Clients that write and read through every data node of two sites, and what they saw.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use saola_jepsen::sim::records::{history_at, put, value_of};
use saola_jepsen::sim::{Cluster, PATIENCE};
use saola_raft::sim::{SimRuntime, spawn_on};
use saola_raft::{Replica, Role};
use saola_storage::command::Decision;
use tokio::time::Instant;

/// A client's call, and its pause before the next.
const CALL: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(15);

#[derive(Default)]
struct Saw {
    stopped: bool,
    writes: Vec<Instant>,
    reads: Vec<Instant>,
    /// Record and generation, and the value.
    acked: BTreeMap<(u64, u64), u64>,
    /// What came of writes that were not acknowledged and may have been applied.
    unknown: Vec<String>,
}

/// One writing and one reading client per data node, one call after the other.
pub struct Load(Arc<Mutex<Saw>>);

impl Load {
    /// Begins at all data nodes of the cluster; each node writes the record of its own number.
    pub fn begin(cluster: &Cluster) -> Load {
        let saw = Arc::new(Mutex::new(Saw::default()));
        for member in cluster.members().iter().filter(|member| member.role_value() != Role::Witness) {
            let replica = cluster.replica(member.node_id).expect("all run");
            clients(&replica, member.node_id, &saw);
        }
        Load(saw)
    }

    /// No call is begun any more.
    pub fn stop(&self) {
        self.0.lock().stopped = true;
    }

    /// The longest time without an acknowledgement between two moments, milliseconds; none: there was none any more at
    /// the end.
    pub fn write_gap_ms(&self, from: Instant, to: Instant) -> Option<u64> {
        gap_ms(self.0.lock().writes.clone(), from, to)
    }

    /// The same of linearizable reads.
    pub fn read_gap_ms(&self, from: Instant, to: Instant) -> Option<u64> {
        gap_ms(self.0.lock().reads.clone(), from, to)
    }

    /// Writes whose clients do not know what came of them.
    pub fn unknown(&self) -> Vec<String> {
        self.0.lock().unknown.clone()
    }

    /// Every acknowledged write is read at every data node, or at some.
    pub async fn check(&self, cluster: &Cluster, everywhere: bool) {
        let mut read = 0;
        for node in cluster.running() {
            let replica = cluster.replica(node).expect("it runs");
            let patience = if everywhere { PATIENCE } else { CALL };
            // A read need not show what is acknowledged only after it began.
            let acked = self.0.lock().acked.clone();
            let Ok(point) = replica.read_point(patience).await else {
                assert!(!everywhere, "node {node} serves no reads");
                continue;
            };
            read += 1;
            let records = acked.keys().map(|(record, _)| *record);
            let histories: BTreeMap<u64, _> =
                records.map(|record| (record, history_at(&replica, record, &point))).collect();
            for ((record, generation), value) in &acked {
                let found = histories[record].get(generation);
                assert_eq!(found, Some(value), "node {node}: r{record} {generation} is lost");
            }
        }
        assert!(read > 0, "some node serves reads");
    }
}

fn clients(replica: &Replica<SimRuntime>, node: u64, saw: &Arc<Mutex<Saw>>) {
    let (writer, seen) = (replica.clone(), saw.clone());
    spawn_on(node, async move {
        for sequence in 1.. {
            if seen.lock().stopped {
                return;
            }
            match writer.propose(put(node, sequence, node, 0), CALL).await {
                Ok(outcome) => {
                    if let Some(Decision::Written(written)) = outcome.decision {
                        let mut saw = seen.lock();
                        saw.writes.push(Instant::now());
                        saw.acked.insert((node, written.generation), value_of(node, sequence));
                    }
                }
                Err(error) if error.certainly_not_applied() => {}
                Err(error) => seen.lock().unknown.push(format!("node {node}, write {sequence}: {error}")),
            }
            tokio::time::sleep(PAUSE).await;
        }
    });
    let (reader, seen) = (replica.clone(), saw.clone());
    spawn_on(node, async move {
        while !seen.lock().stopped {
            if reader.read_point(CALL).await.is_ok() {
                seen.lock().reads.push(Instant::now());
            }
            tokio::time::sleep(PAUSE).await;
        }
    });
}

fn gap_ms(mut times: Vec<Instant>, from: Instant, to: Instant) -> Option<u64> {
    times.retain(|at| *at >= from && *at <= to);
    times.sort_unstable();
    let last = *times.last()?;
    let longest =
        [from].into_iter().chain(times.iter().copied()).zip(times.iter().copied()).map(|(a, b)| b - a).max()?;
    (to - last < Duration::from_secs(1)).then_some(longest.as_millis() as u64)
}

/// Of values in order.
pub fn percentile(sorted: &[u64], percent: usize) -> u64 {
    sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1]
}
