//! Five real processes (2+2+w, mutual TLS, sealing on) on this machine: acknowledged puts of 1 KiB by 1, 16 and 64
//! clients, each with one put in flight; beside them what the disk gives: bare `fdatasync` of 4 KiB a second.
//!
//! Clients, nodes and bench share the machine, so the figures are those of one box, not of a network.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use saola_benches::{COLLECTION, asked_to_measure, bare_syncs, five_nodes, record_id, value};
use saola_client::{Client, Error};
use saola_ops::exit::Failure;
use saola_ops::launch::LocalCluster;

const WARM_UP: Duration = Duration::from_secs(2);
const MEASURED: Duration = Duration::from_secs(8);
const VALUE_BYTES: usize = 1024;
/// Records that the puts are spread over.
const RECORDS: u64 = 100_000;

fn main() -> Result<(), Failure> {
    if !asked_to_measure() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|source| Failure::file("start a runtime", &source))?.block_on(bench())
}

async fn bench() -> Result<(), Failure> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"));
    let folder = folder.map_err(|source| Failure::file("make a folder", &source))?;
    let bare = bare_syncs(folder.path()).map_err(|source| Failure::file("sync a file", &source))?;
    let start = Instant::now();
    let mut cluster = five_nodes(folder.path()).await?;
    println!("cluster ready after {} ms", start.elapsed().as_millis());
    println!("bare fdatasync of 4 KiB: {bare:.0}/s");
    println!("clients     puts/s   p50 ms   p99 ms   max ms   log syncs/s of a node   puts per sync");
    for clients in [1, 16, 64] {
        let line = measure(&cluster, clients).await?;
        println!("{line}");
    }
    for node in cluster.client().cluster_status(false).await?.nodes {
        let name = node.member.map(|member| member.name).unwrap_or_default();
        println!("{name:<8} rss {:>6} KiB   data {:>7} KiB", node.rss_bytes >> 10, node.data_bytes >> 10);
    }
    let names: Vec<String> = cluster.topology().node.iter().map(|node| node.name.clone()).collect();
    for name in names {
        cluster.terminate(&name).await?;
    }
    Ok(())
}

/// One line of the table.
async fn measure(cluster: &LocalCluster, clients: u64) -> Result<String, Failure> {
    let measured_from = Instant::now() + WARM_UP;
    let end = measured_from + MEASURED;
    let mut tasks = Vec::new();
    for number in 0..clients {
        tasks.push(tokio::spawn(puts(cluster.new_client()?, number, clients, measured_from, end)));
    }
    tokio::time::sleep_until(measured_from.into()).await;
    let syncs_before = log_syncs(cluster).await?;
    tokio::time::sleep_until(end.into()).await;
    let syncs = log_syncs(cluster).await? - syncs_before;
    let mut latencies = latencies();
    for task in tasks {
        let of_client = task.await.map_err(|error| Failure::usage(format!("a client failed: {error}"), "see above"))?;
        latencies += of_client?;
    }
    let (puts, seconds) = (latencies.len() as f64, MEASURED.as_secs_f64());
    let ms = |microseconds: u64| microseconds as f64 / 1000.0;
    let quantile = |part| ms(latencies.value_at_quantile(part));
    Ok(format!(
        "{clients:>7} {:>10.0} {:>8.2} {:>8.2} {:>8.2} {:>23.0} {:>15.1}",
        puts / seconds,
        quantile(0.5),
        quantile(0.99),
        ms(latencies.max()),
        syncs / seconds,
        puts / syncs.max(1.0),
    ))
}

/// Puts one after another until `end`; latencies in microseconds of those that began after `measured_from`.
async fn puts(
    client: Client,
    number: u64,
    clients: u64,
    measured_from: Instant,
    end: Instant,
) -> Result<Histogram<u64>, Error> {
    let value = value(VALUE_BYTES);
    let mut latencies = latencies();
    let mut n = number;
    while Instant::now() < end {
        let start = Instant::now();
        client.put(COLLECTION, record_id(n % RECORDS), value.clone()).send().await?;
        if start >= measured_from {
            let microseconds = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
            latencies.saturating_record(microseconds);
        }
        n += clients;
    }
    Ok(latencies)
}

/// From a microsecond to a minute, to three digits.
fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds and digits are within what it takes")
}

/// Log syncs of an average node since it started.
async fn log_syncs(cluster: &LocalCluster) -> Result<f64, Failure> {
    let nodes = cluster.client().cluster_status(false).await?.nodes;
    let syncs: u64 = nodes.iter().map(|node| node.log_syncs).sum();
    Ok(syncs as f64 / nodes.len().max(1) as f64)
}
