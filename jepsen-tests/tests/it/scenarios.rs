//! Simulated clusters with a plot: each test is one promise, told over several seeds.
//!
//! - `reads`: linearizable reads from every data node;
//! - `witness`: the main site is lost while the witness alone holds the newest entry;
//! - `leadership`: transfer, shutdown, partitions, one-way cuts, once only;
//! - `init`: making a cluster, cut short and repeated;
//! - `membership`: adding, removing, replacing nodes;
//! - `disks`: disks that run full or fail;
//! - `hangs`: disks that complete no writes;
//! - `rot`: logs that are damaged while their node is down;
//! - `snapshots`: nodes that the log can no longer bring up to date;
//! - `scrub`: copies of the records that go bad;
//! - `ruin`: records that apply or a start cannot use;
//! - `folders`: empty folders and old copies under a known node id;
//! - `admission`: who may speak as which node;
//! - `protection`, `availability` with `sites`: what an acknowledgement waits for, and what is done without the other site;
//! - `switchover`: leadership goes to the other site on purpose; `promotion` and `worst_day`: a site goes on without the other by force;
//! - `table` with `load`: what each loss costs, as printed in `ops/README.md`;
//! - `failover`: who takes over when a site is lost, and where leadership belongs;
//! - `shrink`: a site that stays away loses its votes until it is back;
//! - `retention`: old versions go, and nothing that was promised goes with them.
//!
//! A failing run ends with the line that runs its seed again. All times are virtual.

mod admission;
mod availability;
mod disks;
mod failover;
mod folders;
mod goal;
mod hangs;
mod init;
mod latency;
mod leadership;
mod load;
mod membership;
mod promotion;
mod protection;
mod reads;
mod retention;
mod rot;
mod ruin;
mod scrub;
mod shrink;
mod sites;
mod snapshots;
mod switchover;
mod table;
mod topologies;
mod two_epochs;
mod witness;
mod worst_day;

use std::time::Duration;

use saola_jepsen::sim::{Clerk, Cluster, PATIENCE, records};
use saola_raft::sim::{SimRuntime, random_u64, run, spawn_on};
use saola_raft::{AdminError, Member, Replica, ReplicaStatus};
use tokio::time::Instant;

/// Seeds of a run, unless `SAOLA_SEEDS` asks for another number or `SAOLA_SEED` for one seed alone.
const SEEDS: u64 = 10;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Says how to run a failing seed again.
struct Replay<'a> {
    name: &'a str,
    seed: u64,
}

impl Drop for Replay<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (name, seed) = (self.name, self.seed);
            eprintln!(
                "replay: SAOLA_SEED={seed} SAOLA_LOG=info cargo test -p saola-jepsen --test it scenarios::{name}"
            );
        }
    }
}

/// Runs a scenario under many seeds.
fn under_seeds(name: &str, scenario: impl AsyncFn(u64)) {
    of_seeds(name, SEEDS, scenario);
}

/// What a scenario answers under each of so many seeds, or as many as were asked for, or under the one that was.
fn of_seeds<T>(name: &str, count: u64, scenario: impl AsyncFn(u64) -> T) -> Vec<T> {
    let seeds = match number("SAOLA_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SAOLA_SEEDS").unwrap_or(count),
    };
    if let Ok(filter) = std::env::var("SAOLA_LOG") {
        // A second scenario of the same process writes to the first one's subscriber.
        let _already_set = tracing_subscriber::fmt().with_env_filter(filter).without_time().with_ansi(false).try_init();
    }
    let one = |seed| {
        let _replay = Replay { name, seed };
        run(seed, scenario(seed))
    };
    seeds.map(one).collect()
}

/// Three voters at one site, and a clerk who has written a record.
async fn three_with_a_record() -> (Cluster, Clerk) {
    let mut cluster = Cluster::new(3, false);
    cluster.init().await;
    let mut clerk = Clerk::new(1);
    clerk.put_surely(&cluster, &[1, 2, 3], 0, PATIENCE).await;
    (cluster, clerk)
}

/// One of several, as the seed decides.
fn pick<T: Copy>(from: &[T]) -> T {
    from[(random_u64() % from.len() as u64) as usize]
}

/// Waits until something holds; panics with `what` after `limit`. Answers how long it took.
async fn until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    began.elapsed()
}

fn status(cluster: &Cluster, id: u64) -> ReplicaStatus {
    cluster.replica(id).expect("callers ask nodes that run").status()
}

fn leads(cluster: &Cluster, id: u64) -> bool {
    cluster.replica(id).is_some_and(|replica| replica.status().state == "leader")
}

/// The leader of the highest term, once there is one.
async fn leader(cluster: &Cluster) -> u64 {
    let newest = || {
        let leading = cluster.running().into_iter().filter(|id| leads(cluster, *id));
        leading.max_by_key(|id| cluster.replica(*id).map(|replica| replica.status().term))
    };
    until("a data node leads", PATIENCE, || newest().is_some()).await;
    newest().expect("it was just seen")
}

/// Has `to` lead.
async fn have_lead(cluster: &Cluster, to: u64) {
    let from = leader(cluster).await;
    let handed = on(cluster, from, move |replica| async move { replica.transfer(to).await }).await;
    handed.expect("a quiet cluster hands over");
    until("the new leader knows it", PATIENCE, || leads(cluster, to)).await;
}

/// Runs an admin verb at a node, on the node's own task. A node that crashes meanwhile leaves the outcome unknown.
async fn on<T, F>(
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

async fn replicas_are_equal(cluster: &Cluster) {
    records::compare_digests(cluster).await.unwrap_or_else(|problem| panic!("{problem}"));
}

async fn add(cluster: &Cluster, through: u64, member: Member) -> Result<Vec<Member>, AdminError> {
    on(cluster, through, move |replica| async move { replica.add_member(member).await }).await
}

async fn remove(cluster: &Cluster, through: u64, node: u64) -> Result<Vec<Member>, AdminError> {
    on(cluster, through, move |replica| async move { replica.remove_member(node).await }).await
}

fn ids(members: &[Member]) -> Vec<u64> {
    members.iter().map(|member| member.node_id).collect()
}
