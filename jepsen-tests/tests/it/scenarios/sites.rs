//! Clusters of two sites, and how these stand to each other: what the scenarios of protection share.

use std::time::Duration;

use saola_jepsen::sim::{CALL, Clerk, Cluster, PATIENCE};
use saola_raft::ProposeError;
use saola_raft::protection::State;
use saola_raft::sim::spawn_on;
use saola_storage::protection::{Mode, Protection};

use super::{have_lead, leader, status, until};

/// A cluster, and which of its data nodes are at the main site and at the other one.
pub struct Sites {
    pub cluster: Cluster,
    pub main: Vec<u64>,
    pub dr: Vec<u64>,
}

impl Sites {
    pub fn with_witness() -> Sites {
        Sites { cluster: Cluster::two_sites(), main: vec![1, 2], dr: vec![3, 4] }
    }

    pub fn with_learners() -> Sites {
        Sites { cluster: Cluster::two_sites_without_witness(), main: vec![1, 2, 3], dr: vec![4, 5] }
    }

    /// Makes the cluster, led from the main site, with a record.
    pub async fn begin(&mut self) -> Clerk {
        self.cluster.init().await;
        let mut clerk = Clerk::new(1);
        clerk.put_surely(&self.cluster, &self.main, 0, PATIENCE).await;
        have_lead(&self.cluster, 1).await;
        clerk
    }

    /// The sites do not reach each other; the witness reaches both.
    pub fn part_from_main(&self) {
        self.cluster.part(&self.main, &self.dr);
    }

    /// The other site is out of everybody's reach.
    pub fn part(&self) {
        let others: Vec<u64> = self.cluster.ids().into_iter().filter(|id| !self.dr.contains(id)).collect();
        self.cluster.part(&others, &self.dr);
    }
}

pub fn maximum(acks: u32) -> Protection {
    Protection { mode: Mode::MaximumProtection, acks, ..Protection::default() }
}

pub fn performance() -> Protection {
    Protection { mode: Mode::MaximumPerformance, ..Protection::default() }
}

pub async fn set(cluster: &Cluster, node: u64, protection: Protection) -> Result<(), ProposeError> {
    let replica = cluster.replica(node).expect("callers name nodes that run");
    spawn_on(node, async move { replica.set_protection(protection, CALL).await })
        .await
        .expect("the node does not crash")
}

/// How the sites stand to each other, as the leader of the highest term sees it.
pub fn state(cluster: &Cluster) -> Option<State> {
    let leading = cluster.running().into_iter().map(|id| status(cluster, id)).filter(|it| it.state == "leader");
    let seen = leading.max_by_key(|it| it.term).and_then(|it| it.protection?.seen);
    seen.map(|seen| seen.state)
}

/// Waits until a leader sees the sites so; answers how long it took.
pub async fn until_state(cluster: &Cluster, wanted: State, limit: Duration) -> Duration {
    leader(cluster).await;
    until(wanted.as_str(), limit, || state(cluster) == Some(wanted)).await
}
