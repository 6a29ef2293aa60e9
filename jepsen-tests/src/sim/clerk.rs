//! A client that remembers what it was told, and checks that the cluster does too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use saola_raft::sim::spawn_on;
use saola_raft::{ProposeError, ReadPoint};
use saola_storage::command::{Command, Decision};
use tokio::time::Instant;

use super::cluster::{Cluster, PATIENCE};
use super::records::{client_of, generation_at, history_at, put, value_of};

/// How long one call may take.
pub const CALL: Duration = Duration::from_millis(800);

/// One client. Its calls follow each other, so at most the last one is without an answer.
pub struct Clerk {
    client: u64,
    sequence: u64,
    /// Bytes behind every value.
    pub padding: usize,
    /// Acknowledged: value by record and generation.
    acked: BTreeMap<(u64, u64), u64>,
    /// Shown by some read, the same way: what was shown stays.
    seen: BTreeMap<(u64, u64), u64>,
    /// Values without an answer: each may be there, once at most.
    unanswered: BTreeSet<u64>,
    /// Values that surely were not applied, as the cluster said each time they were offered.
    absent: BTreeSet<u64>,
    last: Option<(u64, u64)>,
}

impl Clerk {
    /// A client with a number of its own.
    pub fn new(client: u64) -> Self {
        let (acked, seen, unanswered, absent) = Default::default();
        Self { client, sequence: 0, padding: 0, acked, seen, unanswered, absent, last: None }
    }

    /// Writes acknowledged so far.
    pub fn acked(&self) -> usize {
        self.acked.len()
    }

    /// One new write through a node. The error says whether it surely was not applied.
    pub async fn put(&mut self, cluster: &Cluster, node: u64, record: u64) -> Result<u64, ProposeError> {
        self.sequence += 1;
        self.absent.insert(value_of(self.client, self.sequence));
        self.last = Some((record, self.sequence));
        self.again(cluster, node, CALL).await
    }

    /// The last write once more, under the same request id.
    pub async fn again(&mut self, cluster: &Cluster, node: u64, limit: Duration) -> Result<u64, ProposeError> {
        let (record, sequence) = self.last.expect("a write comes before its repetition");
        let value = value_of(self.client, sequence);
        // Until the answer is there it may have been applied, also when the caller stops waiting for it.
        let was_absent = self.absent.remove(&value);
        self.unanswered.insert(value);
        let result = self.call(cluster, node, put(self.client, sequence, record, self.padding), limit).await;
        match &result {
            Ok(generation) => {
                self.unanswered.remove(&value);
                let before = self.acked.insert((record, *generation), value);
                assert!(
                    before.is_none_or(|other| other == value),
                    "r{record}: generation {generation} was given to {before:?} and {value}"
                );
            }
            Err(error) if error.certainly_not_applied() && was_absent => {
                self.unanswered.remove(&value);
                self.absent.insert(value);
            }
            Err(_) => {}
        }
        result
    }

    async fn call(&self, cluster: &Cluster, node: u64, put: Command, limit: Duration) -> Result<u64, ProposeError> {
        let gone = |reason: &str| ProposeError::Unknown { reason: reason.into() };
        let replica = cluster.replica(node).ok_or_else(|| gone("the node does not run"))?;
        // On the node's own task, so that the call ends with the node, as a connection does.
        let call = spawn_on(node, async move { replica.propose(put, limit).await });
        let outcome = call.await.map_err(|_| gone("the node crashed"))??;
        match outcome.decision {
            Some(Decision::Written(written)) => Ok(written.generation),
            other => panic!("a put was answered {other:?}"),
        }
    }

    /// Writes through the nodes in turn, always under one request id, until it is acknowledged; answers how long that
    /// took. Panics after `limit`.
    pub async fn put_surely(&mut self, cluster: &Cluster, nodes: &[u64], record: u64, limit: Duration) -> Duration {
        let began = Instant::now();
        if self.put(cluster, nodes[0], record).await.is_err() {
            self.again_surely(cluster, nodes, limit).await;
        }
        let took = began.elapsed();
        assert!(took < limit, "the acknowledgement took {took:?}");
        took
    }

    /// Repeats the last write through the nodes in turn until it is acknowledged. Panics after `limit`.
    pub async fn again_surely(&mut self, cluster: &Cluster, nodes: &[u64], limit: Duration) {
        let began = Instant::now();
        for node in nodes.iter().cycle().skip(1) {
            let Err(error) = self.again(cluster, *node, CALL).await else { return };
            assert!(began.elapsed() < limit, "no acknowledgement within {limit:?}: {error}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A linearizable read at a node sees every acknowledged write as the newest or an older version, and none twice.
    pub async fn check(&self, cluster: &Cluster, node: u64) {
        let replica = cluster.replica(node).expect("callers read where a node runs");
        let point = replica.read_point(PATIENCE).await;
        let point = point.unwrap_or_else(|error| panic!("node {node} serves no reads: {error}"));
        self.check_at(cluster, node, &point);
    }

    /// A linearizable read, if the node serves one within the time of a call: see [`Clerk::check`]. What it shows must
    /// be there from now on.
    pub async fn look(&mut self, cluster: &Cluster, node: u64) -> bool {
        let Some(replica) = cluster.replica(node) else { return false };
        let reads = replica.clone();
        let Ok(Ok(point)) = spawn_on(node, async move { reads.read_point(CALL).await }).await else { return false };
        self.check_at(cluster, node, &point);
        for record in self.records() {
            let shown = history_at(&replica, record, &point);
            self.seen.extend(shown.into_iter().map(|(generation, value)| ((record, generation), value)));
        }
        true
    }

    /// Acknowledged writes that a linearizable read at a node does not show any more, by record and generation. From now on
    /// they count as lost: what was acknowledged or shown beyond is forgotten, as the cluster has.
    pub async fn lose(&mut self, cluster: &Cluster, node: u64) -> Vec<(u64, u64)> {
        let replica = cluster.replica(node).expect("callers read where a node runs");
        let point = replica.read_point(PATIENCE).await;
        let point = point.unwrap_or_else(|error| panic!("node {node} serves no reads: {error}"));
        let histories: BTreeMap<u64, _> =
            self.records().into_iter().map(|record| (record, history_at(&replica, record, &point))).collect();
        let is_there = |(record, generation): &(u64, u64), value: &mut u64| {
            histories.get(record).and_then(|history| history.get(generation)) == Some(value)
        };
        let before: Vec<(u64, u64)> = self.acked.keys().copied().collect();
        // Whatever was lost may be offered again by nobody, and was applied nowhere that is left.
        self.acked.retain(is_there);
        self.seen.retain(is_there);
        before.into_iter().filter(|place| !self.acked.contains_key(place)).collect()
    }

    fn records(&self) -> BTreeSet<u64> {
        self.acked.keys().chain(self.seen.keys()).map(|(record, _)| *record).collect()
    }

    /// The same at a read point that the node gave.
    pub fn check_at(&self, cluster: &Cluster, node: u64, point: &ReadPoint) {
        let replica = cluster.replica(node).expect("callers read where a node runs");
        for record in self.records() {
            let history = history_at(&replica, record, point);
            assert_eq!(history.keys().next_back().copied().unwrap_or(0), generation_at(&replica, record, point));
            for ((_, generation), value) in self.acked.range((record, 0)..=(record, u64::MAX)) {
                let found = history.get(generation);
                assert_eq!(found, Some(value), "node {node}: r{record} generation {generation} was acknowledged");
            }
            for ((_, generation), value) in self.seen.range((record, 0)..=(record, u64::MAX)) {
                assert_eq!(
                    history.get(generation),
                    Some(value),
                    "node {node}: r{record} {generation} was shown before"
                );
            }
            for value in history.values().filter(|value| client_of(**value) == self.client) {
                assert!(
                    self.unanswered.contains(value) || self.acked.values().any(|acked| acked == value),
                    "node {node}: r{record} holds {value}, which was refused for certain or never written"
                );
            }
            let mut values: Vec<u64> = history.values().copied().collect();
            values.sort_unstable();
            let count = values.len();
            values.dedup();
            assert_eq!(count, values.len(), "node {node}: a write to r{record} took effect twice: {history:?}");
        }
    }
}
