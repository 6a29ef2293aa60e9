//! Five real processes of a 2+2+w cluster on loopback, for which nobody needs any rights: clients write and read through random
//! nodes while nodes are killed with SIGKILL and started again, or leadership moves; then the history is judged. And what
//! `saola-live` does its faults with, where this machine lets it.
//!
//! A run is not repeatable to the byte, its choices are: the line that it prints first runs the same choices again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use saola_client::CreateCollection;
use saola_jepsen::history::{self, Recorder};
use saola_jepsen::operation::{Outcome, count};
use saola_live::command::saola;
use saola_live::round::data_nodes;
use saola_live::verdict;
use saola_live::workload::{COLLECTION, Caller, DEADLINE};
use saola_ops::exit::Failure;
use saola_ops::launch::{LocalCluster, Place, Plan, node_binary, wait_until};
use tokio::sync::watch;
use tokio::time::Instant;

const CLIENTS: u32 = 8;
const LOAD: Duration = Duration::from_secs(15);
/// Kills or switchovers below which a run shows nothing.
const TROUBLE_MIN: usize = 3;
/// How long all may take to come back once the faults end.
const HEAL: Duration = Duration::from_secs(60);

/// What happens to the cluster under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// One node after another is killed and started again.
    Kills,
    /// `saola switchover` moves leadership to the other site and back, again and again.
    Switchovers,
}

#[test]
fn killed_nodes_lose_nothing_and_show_nothing_wrong() {
    with_seed(Trouble::Kills);
}

#[test]
fn switchovers_lose_nothing_double_nothing_and_leave_no_write_in_doubt() {
    with_seed(Trouble::Switchovers);
}

fn with_seed(trouble: Trouble) {
    let seed = seed();
    println!("live: seed {seed}; the same choices again: SAOLA_SEED={seed} cargo test -p saola-live");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(run(seed, trouble));
}

/// `SAOLA_SEED`, or a new one.
fn seed() -> u64 {
    match std::env::var("SAOLA_SEED") {
        Ok(seed) => seed.parse().expect("SAOLA_SEED is a number"),
        Err(_) => rand::random(),
    }
}

/// Where this run's history is kept, for a second look.
fn folder(seed: u64) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("live-{seed}"));
    fs::create_dir_all(&folder).expect("the build folder takes another");
    folder
}

async fn run(seed: u64, trouble: Trouble) {
    let folder = folder(seed);
    let mut cluster = start(&folder.join("cluster")).await;
    let callers = callers(&cluster, seed);
    let nodes: Vec<(u64, String)> = cluster.topology().node.iter().map(|n| (n.node_id, n.name.clone())).collect();
    let recorder = Arc::new(Recorder::default());
    let end = Instant::now() + LOAD;
    let load: Vec<_> = callers
        .into_iter()
        .map(|caller| {
            let recorder = recorder.clone();
            tokio::spawn(async move { caller.run(&recorder, end).await })
        })
        .collect();
    match trouble {
        Trouble::Kills => kill(&mut cluster, &nodes, &recorder, seed, end).await,
        Trouble::Switchovers => switch_over(&cluster, &recorder, end).await,
    }
    for client in load {
        client.await.expect("a client does not panic");
    }
    let (operations, faults) = (recorder.operations(), recorder.faults());
    history::save(&folder.join("operations.jsonl"), &operations).expect("the history can be saved");
    history::save(&folder.join("faults.jsonl"), &faults).expect("the faults can be saved");

    for (_, name) in &nodes {
        must(cluster.wait_for_answer(name).await);
    }
    let healed = Instant::now() + HEAL;
    let mut kept = Vec::new();
    for (node, client) in must(data_nodes(&cluster.topology().node, cluster.client())) {
        kept.push((node, verdict::kept_by(node, &client, healed).await));
    }
    let mut wrong = verdict::judge(&operations, &kept);
    wrong.extend(verdict::digests(cluster.client(), healed).await);
    if trouble == Trouble::Switchovers {
        let doubts = operations.iter().filter(|operation| matches!(operation.outcome, Outcome::Unknown { .. }));
        wrong.extend(doubts.map(|operation| format!("nobody knows what came of {operation:?}")));
    }
    let mut quiet = verdict::too_quiet(&operations);
    let troubles = faults.iter().filter(|fault| ["kill", "switchover"].contains(&fault.fault.as_str())).count();
    if troubles < TROUBLE_MIN {
        quiet.push(format!("{troubles} kills or switchovers, fewer than {TROUBLE_MIN}"));
    }
    let [written, seen, refused, unknown] = count(&operations);
    println!(
        "live: {written} writes acknowledged, {seen} reads answered, {refused} refused, {unknown} unknown, {troubles} times \
         {trouble:?}"
    );
    let place = folder.display();
    assert!(wrong.is_empty(), "live: seed {seed}, history in {place}:\n{}", wrong.join("\n"));
    assert!(quiet.is_empty(), "live: the run proved nothing: {}; history in {place}", quiet.join("; "));
    drop(cluster);
    fs::remove_dir_all(&folder).expect("the run's folder can be removed");
}

async fn start(folder: &Path) -> LocalCluster {
    let plan = Plan { cluster_name: "live".to_string(), ..Plan::two_sites_and_witness() };
    let binary = must(node_binary());
    let mut cluster = must(LocalCluster::prepare(&plan, Place::Folder(folder.to_path_buf()), &binary));
    must(cluster.start_all().await);
    must(cluster.init().await);
    let made = cluster.client().create_collection(CreateCollection::new(COLLECTION)).await;
    made.expect("a fresh cluster takes a collection");
    cluster
}

fn callers(cluster: &LocalCluster, seed: u64) -> Vec<Caller> {
    let (members, _) = watch::channel(cluster.topology().node.clone());
    let caller = |number| {
        let floating = must(cluster.new_client()).with_deadline(DEADLINE);
        Caller::new(number, seed, floating, members.subscribe())
    };
    (0..CLIENTS).map(caller).collect()
}

/// Kills one node after another, about every two seconds, and starts it again.
async fn kill(cluster: &mut LocalCluster, nodes: &[(u64, String)], recorder: &Recorder, seed: u64, end: Instant) {
    let mut rng = SmallRng::seed_from_u64(seed);
    loop {
        let calm = Duration::from_millis(rng.random_range(1000..1800));
        let away = Duration::from_millis(rng.random_range(200..900));
        let (node, name) = &nodes[rng.random_range(0..nodes.len())];
        if Instant::now() + calm + away > end {
            return;
        }
        tokio::time::sleep(calm).await;
        must(cluster.kill(&[name]).await);
        recorder.fault("kill", *node);
        tokio::time::sleep(away).await;
        must(cluster.start(name));
        recorder.fault("start", *node);
    }
}

/// Moves leadership to the other site and back, without a pause.
async fn switch_over(cluster: &LocalCluster, recorder: &Recorder, end: Instant) {
    for site in ["dr", "main"].into_iter().cycle() {
        if Instant::now() > end {
            return;
        }
        // Warned it may be, of links that are slow for its timers, say, and late for a moment, on a machine that has much
        // to do; and an election may come between the two, on one that stands still for a second.
        let moved = || async {
            let told = saola(cluster.folder(), &["validate", "switchover", "--to", site]).await;
            let verdict = told.unwrap_or_else(|refused| refused.said);
            if !verdict.starts_with("READY") {
                return Err(verdict);
            }
            saola(cluster.folder(), &["switchover", "--to", site]).await.map_err(|refused| {
                recorder.fault("switchover-refused", 0);
                refused.to_string()
            })
        };
        let told = must(wait_until("be ready for a switchover", HEAL, moved).await);
        if told.contains(&format!(" at {site} leads already")) {
            recorder.fault("led-already", 0);
            continue;
        }
        assert!(told.contains(&format!(" at {site} leads, after ")), "{told}");
        assert!(told.contains("SYNCHRONIZED"), "{told}");
        let leader = cluster.client().cluster_status(true).await.map(|status| status.leader).unwrap_or_default();
        recorder.fault("switchover", leader);
    }
}

fn must<T>(result: Result<T, Failure>) -> T {
    result.unwrap_or_else(|failure| panic!("live: {failure}"))
}
