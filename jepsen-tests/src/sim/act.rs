//! What scenarios and lives do to a cluster, and how they wait for it. They panic when it does not come about.

use std::time::Duration;

use saola_raft::sim::{SimRuntime, random_u64, spawn_on};
use saola_raft::{AdminError, Member, Replica, ReplicaStatus};
use tokio::time::Instant;

use super::{Cluster, PATIENCE, records};

/// One of several, as the seed decides.
pub fn pick<T: Copy>(from: &[T]) -> T {
    from[(random_u64() % from.len() as u64) as usize]
}

/// Waits until something holds; panics with `what` after `limit`. Answers how long it took.
pub async fn until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    began.elapsed()
}

/// How a node that runs stands.
pub fn status(cluster: &Cluster, id: u64) -> ReplicaStatus {
    cluster.replica(id).expect("callers ask nodes that run").status()
}

/// Whether a node runs and leads.
pub fn leads(cluster: &Cluster, id: u64) -> bool {
    cluster.replica(id).is_some_and(|replica| replica.status().state == "leader")
}

/// The leader of the highest term, once there is one.
pub async fn leader(cluster: &Cluster) -> u64 {
    let newest = || {
        let leading = cluster.running().into_iter().filter(|id| leads(cluster, *id));
        leading.max_by_key(|id| cluster.replica(*id).map(|replica| replica.status().term))
    };
    until("a data node leads", PATIENCE, || newest().is_some()).await;
    newest().expect("it was just seen")
}

/// Has `to` lead.
pub async fn have_lead(cluster: &Cluster, to: u64) {
    let from = leader(cluster).await;
    let handed = on(cluster, from, move |replica| async move { replica.transfer(to).await }).await;
    handed.expect("a quiet cluster hands over");
    until("the new leader knows it", PATIENCE, || leads(cluster, to)).await;
}

/// Runs an admin verb at a node, on the node's own task. A node that crashes meanwhile leaves the outcome unknown.
pub async fn on<T, F>(
    cluster: &Cluster,
    node: u64,
    act: impl FnOnce(Replica<SimRuntime>) -> F + Send + 'static,
) -> Result<T, AdminError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, AdminError>> + Send + 'static,
{
    let replica = cluster.replica(node).expect("callers name nodes that run");
    let crashed = |_| AdminError::Unknown(format!("node {node} crashed"));
    spawn_on(node, async move { act(replica).await }).await.map_err(crashed)?
}

/// All data nodes that run hold the same state.
pub async fn replicas_are_equal(cluster: &Cluster) {
    records::compare_digests(cluster).await.unwrap_or_else(|problem| panic!("{problem}"));
}

/// Adds a member through a node.
pub async fn add(cluster: &Cluster, through: u64, member: Member) -> Result<Vec<Member>, AdminError> {
    on(cluster, through, move |replica| async move { replica.add_member(member).await }).await
}

/// Removes a member through a node.
pub async fn remove(cluster: &Cluster, through: u64, node: u64) -> Result<Vec<Member>, AdminError> {
    on(cluster, through, move |replica| async move { replica.remove_member(node).await }).await
}

/// Their node ids.
pub fn ids(members: &[Member]) -> Vec<u64> {
    members.iter().map(|member| member.node_id).collect()
}
