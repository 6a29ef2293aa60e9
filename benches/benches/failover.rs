//! How long no write is acknowledged after SIGKILL of the leader, and of both nodes of the main site: five times each,
//! five real processes (2+2+w, preset `lan`) on this machine, four clients that never stop writing. Beside it, how long
//! a killed node takes from its start until it answers.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use saola_benches::gaps::{Acks, PATIENCE, gap, leader, write};
use saola_benches::{asked_to_measure, five_nodes};
use saola_client::TransferTo;
use saola_ops::exit::Failure;
use saola_ops::launch::LocalCluster;

const ROUNDS: usize = 5;
const CLIENTS: u64 = 4;
/// Writing must be seen to go on for so many acknowledgements before and after a kill.
const ACKNOWLEDGED: u64 = 200;
const MAIN: [&str; 2] = ["main-1", "main-2"];

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
        writers.spawn(write(cluster.new_client()?, number, CLIENTS, acks.clone()));
    }
    let (mut leader_gaps, mut site_gaps, mut starts) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let leader = leader(&cluster).await?;
        leader_gaps.push(gap(&mut cluster, &[&leader], &acks, ACKNOWLEDGED).await?);
        starts.push(restart(&mut cluster, &[&leader]).await?);
    }
    for _ in 0..ROUNDS {
        if !MAIN.contains(&leader(&cluster).await?.as_str()) {
            cluster.client().with_deadline(PATIENCE).transfer(TransferTo::Site("main".to_string())).await?;
        }
        site_gaps.push(gap(&mut cluster, &MAIN, &acks, ACKNOWLEDGED).await?);
        starts.push(restart(&mut cluster, &MAIN).await?);
    }
    writers.abort_all();
    println!("no write acknowledged after SIGKILL of the leader:    {}", line(leader_gaps));
    println!("no write acknowledged after SIGKILL of the main site: {}", line(site_gaps));
    println!("killed nodes answer again after their start:          {}", line(starts));
    Ok(())
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
