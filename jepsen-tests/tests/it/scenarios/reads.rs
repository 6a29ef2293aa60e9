//! Linearizable reads from every data node, and stale ones that tell their age.

use std::time::Duration;

use saola_jepsen::sim::records::generation_at;
use saola_jepsen::sim::{CALL, Clerk, Cluster, PATIENCE};
use saola_raft::sim::{hang_disk, random_u64, release_disk, spawn_on};
use tokio::time::{Instant, sleep};

use super::{have_lead, leader, pick, replicas_are_equal, status, under_seeds, until};

/// An age leaves out the way of the leader's message, which takes up to so long here.
const ON_THE_WAY: Duration = Duration::from_millis(3);

/// Writes to one record and notes when each was acknowledged.
struct Writer {
    clerk: Clerk,
    acked: Vec<Instant>,
}

impl Writer {
    fn new() -> Self {
        Self { clerk: Clerk::new(1), acked: Vec::new() }
    }

    async fn write(&mut self, cluster: &Cluster, through: &[u64]) {
        self.clerk.put_surely(cluster, through, 0, PATIENCE).await;
        self.acked.push(Instant::now());
    }

    /// A stale read at a node misses no write that was acknowledged longer ago than it says; answers how long the
    /// oldest write that it misses has been acknowledged.
    fn check_age(&self, cluster: &Cluster, node: u64) -> Option<Duration> {
        let replica = cluster.replica(node).expect("callers read where a node runs");
        let point = replica.stale_point()?;
        let age = Duration::from_millis(point.age_ms.expect("a stale point has an age"));
        let seen = generation_at(&replica, 0, &point) as usize;
        let missed = self.acked.get(seen)?.elapsed();
        assert!(missed <= age + ON_THE_WAY, "node {node} misses a write of {missed:?} ago and says {age:?}");
        Some(missed)
    }
}

#[test]
fn a_node_that_hears_the_leader_but_applies_nothing_tells_a_growing_age() {
    under_seeds("reads::a_node_that_hears_the_leader_but_applies_nothing_tells_a_growing_age", async |_| {
        let mut cluster = Cluster::two_sites();
        cluster.init().await;
        let mut writer = Writer::new();
        for _ in 0..3 {
            writer.write(&cluster, &[1, 2, 3, 4]).await;
        }
        let lead = leader(&cluster).await;
        let hung = pick(&[1, 2, 3, 4].map(|node| if node == lead { lead % 4 + 1 } else { node }));
        let age = || {
            let point = cluster.replica(hung).expect("it runs").stale_point().expect("it heard a leader");
            Duration::from_millis(point.age_ms.expect("a stale point has an age"))
        };
        until("a follower that keeps up is young", PATIENCE, || age() < Duration::from_millis(200)).await;
        hang_disk(hung);
        let mut missed = None;
        for _ in 0..40 {
            writer.write(&cluster, &[lead]).await;
            sleep(Duration::from_millis(random_u64() % 100)).await;
            for node in [1, 2, 3, 4] {
                let there = writer.check_age(&cluster, node);
                missed = if node == hung { there } else { missed };
            }
        }
        assert!(missed.expect("it has applied nothing since") > Duration::from_secs(1));
        release_disk(hung);
        until("it catches up", PATIENCE, || age() < Duration::from_millis(200)).await;
        // The last write may have been acknowledged a moment ago, which such an age allows to be missed.
        until("nothing is missed", PATIENCE, || writer.check_age(&cluster, hung).is_none()).await;
        writer.clerk.check(&cluster, hung).await;
    });
}

#[test]
fn stale_reads_miss_nothing_older_than_their_age_across_leaders() {
    under_seeds("reads::stale_reads_miss_nothing_older_than_their_age_across_leaders", async |_| {
        let mut cluster = Cluster::new(5, false);
        cluster.init().await;
        let mut writer = Writer::new();
        for _ in 0..6 {
            let began = Instant::now();
            while began.elapsed() < Duration::from_millis(300) {
                writer.write(&cluster, &cluster.running()).await;
                sleep(Duration::from_millis(random_u64() % 20)).await;
                for node in cluster.running() {
                    writer.check_age(&cluster, node);
                }
            }
            let fallen = leader(&cluster).await;
            cluster.kill(fallen).await;
            let began = Instant::now();
            while began.elapsed() < Duration::from_millis(1_500) {
                for node in cluster.running() {
                    writer.check_age(&cluster, node);
                }
                sleep(Duration::from_millis(1)).await;
            }
            writer.write(&cluster, &cluster.running()).await;
            cluster.start(fallen).await;
        }
        replicas_are_equal(&cluster).await;
    });
}

#[test]
fn every_data_node_reads_every_acknowledged_write() {
    under_seeds("reads::every_data_node_reads_every_acknowledged_write", async |_| {
        let mut cluster = Cluster::two_sites();
        cluster.init().await;
        let mut clerk = Clerk::new(1);
        for round in 0..30 {
            clerk.put(&cluster, pick(&[1, 2, 3, 4]), round % 3).await.expect("a quiet cluster takes writes");
            // All at once, and at once: the followers have not applied the write yet.
            futures::future::join_all([1, 2, 3, 4].map(|node| clerk.check(&cluster, node))).await;
        }
        assert_eq!(clerk.acked(), 30);
    });
}

#[test]
fn reads_right_after_a_leader_crash_see_every_acknowledged_write() {
    under_seeds("reads::reads_right_after_a_leader_crash_see_every_acknowledged_write", async |_| {
        let mut cluster = Cluster::new(5, false);
        cluster.init().await;
        let mut clerk = Clerk::new(1);
        for round in 0..6 {
            for record in 0..3 {
                clerk.put_surely(&cluster, &cluster.running(), record, PATIENCE).await;
            }
            let fallen = leader(&cluster).await;
            if round % 2 == 0 {
                cluster.crash(fallen).await
            } else {
                cluster.kill(fallen).await
            }
            let left = cluster.running();
            futures::future::join_all(left.iter().map(|node| clerk.check(&cluster, *node))).await;
            clerk.put_surely(&cluster, &left, 0, PATIENCE).await;
            cluster.start(fallen).await;
            clerk.check(&cluster, fallen).await;
        }
        replicas_are_equal(&cluster).await;
    });
}

#[test]
fn a_node_that_is_its_own_quorum_is_never_behind() {
    under_seeds("reads::a_node_that_is_its_own_quorum_is_never_behind", async |_| {
        let mut cluster = Cluster::new(1, false);
        cluster.init().await;
        let mut clerk = Clerk::new(1);
        clerk.put_surely(&cluster, &[1], 0, PATIENCE).await;
        sleep(Duration::from_secs(1)).await;
        let age_ms = cluster.replica(1).unwrap().stale_point().and_then(|point| point.age_ms);
        assert!(age_ms.is_some_and(|age_ms| age_ms <= 1), "{age_ms:?}");
    });
}

#[test]
fn a_node_that_has_started_shows_nothing_that_its_leader_has_not_applied() {
    under_seeds("reads::a_node_that_has_started_shows_nothing_that_its_leader_has_not_applied", async |_| {
        let mut cluster = Cluster::new(3, false);
        cluster.flush_every = Duration::from_millis(200);
        cluster.init().await;
        let mut clerk = Clerk::new(1);
        clerk.put_surely(&cluster, &[1, 2, 3], 0, PATIENCE).await;
        have_lead(&cluster, 1).await;
        let before = status(&cluster, 1).applied_index;
        hang_disk(1);
        // Committed, applied by the others, and known to nobody: the leader does not come to answer.
        let unknown = clerk.put(&cluster, 1, 0).await;
        assert!(unknown.is_err(), "{unknown:?}");
        until("a follower has applied it", PATIENCE, || status(&cluster, 2).applied_index > before).await;
        let flushed = || cluster.replica(2).and_then(|it| it.store().flushed()).map(|at| at.index);
        until("it has flushed what the leader lacks", PATIENCE, || flushed() > Some(before)).await;
        cluster.kill(2).await;
        cluster.start(2).await;
        assert!(status(&cluster, 2).applied_index > before, "it starts with what it has flushed");
        let read = async |node: u64| {
            let replica = cluster.replica(node).expect("it runs");
            let point = spawn_on(node, async move { replica.read_point(CALL).await }).await.expect("it does not crash");
            point.ok().map(|point| generation_at(&cluster.replica(node).expect("it runs"), 0, &point))
        };
        let (first, second) = (read(2).await, read(3).await);
        assert!(second.is_some(), "the leader answers how far it has come");
        assert!(first <= second, "node 2 shows generation {first:?}, then node 3 {second:?}");
        release_disk(1);
        for node in [1, 2, 3] {
            clerk.check(&cluster, node).await;
        }
        replicas_are_equal(&cluster).await;
    });
}
