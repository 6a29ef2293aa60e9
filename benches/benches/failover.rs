//! How long no write is acknowledged after SIGKILL of the leader, and of both nodes of the main site: five times each,
//! five real processes (2+2+w, preset `lan`) on this machine, four clients that never stop writing. Beside it, how long
//! a killed node takes from its start until it answers.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use saola_benches::{COLLECTION, asked_to_measure, five_nodes, record_id, value};
use saola_client::{Client, Error, TransferTo};
use saola_ops::exit::Failure;
use saola_ops::launch::{LocalCluster, wait_until};

const ROUNDS: usize = 5;
const CLIENTS: u64 = 4;
const MAIN: [&str; 2] = ["main-1", "main-2"];
/// Writing must be seen to go on for so many acknowledgements after a kill.
const ACKNOWLEDGED_AFTER: u64 = 200;
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<(), Failure> {
    if !asked_to_measure() {
        return Ok(());
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"));
    let folder = folder.map_err(|source| Failure::file("make a folder", &source))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|source| Failure::file("start a runtime", &source))?.block_on(bench(folder.path()))
}

async fn bench(folder: &Path) -> Result<(), Failure> {
    let mut cluster = five_nodes(folder).await?;
    let acks = Arc::new(Acks::default());
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        writers.spawn(write(cluster.new_client()?, number, acks.clone()));
    }
    let (mut leader_gaps, mut site_gaps, mut starts) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let leader = leader(&cluster).await?;
        leader_gaps.push(gap(&mut cluster, &[&leader], &acks).await?);
        starts.push(restart(&mut cluster, &[&leader]).await?);
    }
    for _ in 0..ROUNDS {
        if !MAIN.contains(&leader(&cluster).await?.as_str()) {
            cluster.client().with_deadline(PATIENCE).transfer(TransferTo::Site("main".to_string())).await?;
        }
        site_gaps.push(gap(&mut cluster, &MAIN, &acks).await?);
        starts.push(restart(&mut cluster, &MAIN).await?);
    }
    writers.abort_all();
    println!("no write acknowledged after SIGKILL of the leader:    {}", line(leader_gaps));
    println!("no write acknowledged after SIGKILL of the main site: {}", line(site_gaps));
    println!("killed nodes answer again after their start:          {}", line(starts));
    Ok(())
}

/// When writes were acknowledged.
#[derive(Default)]
struct Acks(Mutex<Gap>);

#[derive(Default)]
struct Gap {
    count: u64,
    last: Option<Instant>,
    longest: Duration,
}

impl Acks {
    fn one_more(&self) {
        let mut gap = self.gap();
        let now = Instant::now();
        let since = gap.last.map_or(Duration::ZERO, |last| now - last);
        gap.longest = gap.longest.max(since);
        gap.last = Some(now);
        gap.count += 1;
    }

    /// Forgets the longest gap so far.
    fn reset(&self) {
        let mut gap = self.gap();
        gap.longest = Duration::ZERO;
        gap.count = 0;
    }

    fn gap(&self) -> std::sync::MutexGuard<'_, Gap> {
        // Each change under the lock is whole by itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes until it is aborted. A failed write is tried again as another one: only acknowledgements count here.
async fn write(client: Client, number: u64, acks: Arc<Acks>) {
    let value = value(256);
    for n in 0.. {
        match client.put(COLLECTION, record_id(n * CLIENTS + number), value.clone()).send().await {
            Ok(_) => acks.one_more(),
            Err(error @ (Error::Unavailable(_) | Error::UnknownOutcome { .. })) => {
                eprintln!("writer {number}: {error}")
            }
            Err(error) => {
                eprintln!("writer {number} stops: {error}");
                return;
            }
        }
    }
}

async fn leader(cluster: &LocalCluster) -> Result<String, Failure> {
    let status = cluster.wait_for_status("find the leader", |status| match status.leader {
        0 => Err("no leader".to_string()),
        _ => Ok(()),
    });
    let leader = status.await?.leader;
    let node = cluster.topology().node.iter().find(|node| node.node_id == leader);
    Ok(node.map(|node| node.name.clone()).unwrap_or_default())
}

/// Kills nodes under load and gives the longest time without an acknowledgement.
async fn gap(cluster: &mut LocalCluster, names: &[&str], acks: &Acks) -> Result<Duration, Failure> {
    acks.reset();
    wait_until("write before the kill", PATIENCE, || async { acknowledged(acks) }).await?;
    acks.reset();
    cluster.kill(names).await?;
    wait_until("write after the kill", PATIENCE, || async { acknowledged(acks) }).await?;
    Ok(acks.gap().longest)
}

fn acknowledged(acks: &Acks) -> Result<(), String> {
    match acks.gap().count {
        count if count >= ACKNOWLEDGED_AFTER => Ok(()),
        count => Err(format!("{count} acknowledgements")),
    }
}

/// Starts killed nodes again, waits until all nodes have caught up, and gives the time until the last one answered.
async fn restart(cluster: &mut LocalCluster, names: &[&str]) -> Result<Duration, Failure> {
    let start = Instant::now();
    for name in names {
        cluster.start(name)?;
    }
    for name in names {
        cluster.wait_for_answer(name).await?;
    }
    let elapsed = start.elapsed();
    cluster
        .wait_for_status("catch up", |status| {
            let newest = status.nodes.iter().map(|node| node.committed_index).max().unwrap_or(0);
            // Writing goes on, so "caught up" is within what is written in a moment.
            let behind = status.nodes.iter().find(|node| !node.reachable || node.applied_index + 500 < newest);
            behind.map_or(Ok(()), |node| Err(format!("{:?} is behind", node.member.as_ref().map(|it| &it.name))))
        })
        .await?;
    Ok(elapsed)
}

fn line(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    let all: Vec<String> = times.iter().map(|time| time.as_millis().to_string()).collect();
    format!("median {} ms (all: {})", median.as_millis(), all.join(", "))
}
