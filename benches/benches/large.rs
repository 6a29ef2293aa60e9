//! A large store: three real processes (mutual TLS, sealing on) loaded with records of 256 B, and beside each figure
//! the same at 100,000 records.
//!
//! Printed: load rate per tenth of the load, put and get latency at both sizes, bytes on disk per byte of payload,
//! memory of each node, cold start after SIGKILL, a new node's rebuild without and with its connections cut ten times,
//! a scrub of all copies, and what rebuild and scrub do to puts meanwhile.
//!
//! 200,000 records take two minutes; `SAOLA_RECORDS=10000000 cargo bench -p saola-benches --bench large` about an hour
//! and 40 GB of disk. Clients, nodes and bench share the machine.

mod large {
    pub mod cuts;
    pub mod figures;
}

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use large::cuts::Cuts;
use large::figures::{Latencies, folder_bytes, gets, mib, puts};
use saola_benches::{COLLECTION, asked_to_measure, record_id, value};
use saola_client::proto::NodeStatus;
use saola_client::{Client, CreateCollection};
use saola_ops::exit::Failure;
use saola_ops::launch::{LocalCluster, Place, Plan, PlannedNode, node_binary, wait_until};
use saola_ops::topology::Role;

/// Puts in flight while loading.
const LOADERS: u64 = 256;
/// Calls in flight while latency is measured.
const CLIENTS: u64 = 16;
const SMALL: u64 = 100_000;
const VALUE_BYTES: usize = 256;
const MEASURED: Duration = Duration::from_secs(10);
const CUTS: u64 = 10;
/// A pass over ten million records takes a quarter of an hour at the pace that is set for it.
const SCRUB_LIMIT: Duration = Duration::from_secs(3600);

fn main() -> Result<(), Failure> {
    if !asked_to_measure() {
        return Ok(());
    }
    let records = match std::env::var("SAOLA_RECORDS") {
        Ok(text) => text.parse().map_err(|_| Failure::usage(format!("SAOLA_RECORDS={text}"), "give a number"))?,
        Err(_) => 2 * SMALL,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|source| Failure::file("start a runtime", &source))?.block_on(bench(records))
}

async fn bench(records: u64) -> Result<(), Failure> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"));
    let folder = folder.map_err(|source| Failure::file("make a folder", &source))?;
    let nodes = [("n1", "main", Role::Voter), ("n2", "main", Role::Voter), ("n3", "main", Role::Voter)];
    let plan = Plan::new("large", &nodes);
    let mut cluster = LocalCluster::prepare(&plan, Place::Folder(folder.path().join("cluster")), &node_binary()?)?;
    cluster.start_all().await?;
    cluster.init().await?;
    cluster.client().create_collection(CreateCollection::new(COLLECTION)).await?;

    load(&cluster, 0, SMALL).await?;
    latencies(&cluster, SMALL).await?;
    let step = (records - SMALL).div_ceil(10).max(1);
    let mut rates = Vec::new();
    let mut from = SMALL;
    while from < records {
        let upto = (from + step).min(records);
        rates.push(load(&cluster, from, upto).await?);
        from = upto;
    }
    if let (Some(first), Some(last)) = (rates.first(), rates.last()) {
        println!("load rate, last tenth / first tenth: {:.2}", last / first);
    }
    latencies(&cluster, records).await?;
    sizes(&cluster, records).await?;
    cold_start(&mut cluster, &nodes.map(|(name, ..)| name)).await?;
    rebuild(&mut cluster, records, ("n3", 3), ("n4", 4), 0).await?;
    rebuild(&mut cluster, records, ("n4", 4), ("n5", 5), CUTS).await?;
    scrub(&cluster, records).await?;
    for name in ["n1", "n2", "n5"] {
        cluster.terminate(name).await?;
    }
    Ok(())
}

/// Puts records `from..upto` and prints and returns how many a second.
async fn load(cluster: &LocalCluster, from: u64, upto: u64) -> Result<f64, Failure> {
    let (next, start) = (Arc::new(AtomicU64::new(from)), Instant::now());
    let mut tasks = Vec::new();
    for _ in 0..LOADERS {
        tasks.push(tokio::spawn(put_all(cluster.new_client()?, Arc::clone(&next), upto)));
    }
    for task in tasks {
        task.await.map_err(|error| Failure::usage(format!("a client failed: {error}"), "see above"))??;
    }
    let rate = (upto - from) as f64 / start.elapsed().as_secs_f64();
    println!("load {from:>9} to {upto:>9}: {rate:>7.0} puts/s");
    Ok(rate)
}

async fn put_all(client: Client, next: Arc<AtomicU64>, upto: u64) -> Result<(), saola_client::Error> {
    let value = value(VALUE_BYTES);
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        if n >= upto {
            return Ok(());
        }
        client.put(COLLECTION, record_id(n), value.clone()).send().await?;
    }
}

async fn latencies(cluster: &LocalCluster, records: u64) -> Result<(), Failure> {
    let put =
        measure(cluster, |client, number, stop| puts(client, number, CLIENTS, records, VALUE_BYTES, stop)).await?;
    println!("{records:>9} records, {CLIENTS} clients: put {put}");
    let get = measure(cluster, |client, number, stop| gets(client, number, CLIENTS, records, stop)).await?;
    println!("{records:>9} records, {CLIENTS} clients: get {get}");
    Ok(())
}

async fn measure<F>(
    cluster: &LocalCluster,
    mut calls: impl FnMut(Client, u64, Arc<AtomicBool>) -> F,
) -> Result<Latencies, Failure>
where
    F: Future<Output = Result<Latencies, saola_client::Error>> + Send + 'static,
{
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = Vec::new();
    for number in 0..CLIENTS {
        tasks.push(tokio::spawn(calls(cluster.new_client()?, number, Arc::clone(&stop))));
    }
    tokio::time::sleep(MEASURED).await;
    stop.store(true, Ordering::Relaxed);
    join(tasks).await
}

async fn join(
    tasks: Vec<tokio::task::JoinHandle<Result<Latencies, saola_client::Error>>>,
) -> Result<Latencies, Failure> {
    let mut all = Latencies::default();
    for task in tasks {
        let of_one = task.await.map_err(|error| Failure::usage(format!("a client failed: {error}"), "see above"))?;
        all.add(&of_one?);
    }
    Ok(all)
}

async fn nodes(cluster: &LocalCluster) -> Result<Vec<NodeStatus>, Failure> {
    Ok(cluster.client().cluster_status(false).await?.nodes)
}

fn name_of(node: &NodeStatus) -> &str {
    node.member.as_ref().map_or("", |member| &member.name)
}

async fn sizes(cluster: &LocalCluster, records: u64) -> Result<(), Failure> {
    let payload = records * VALUE_BYTES as u64;
    for node in nodes(cluster).await? {
        let data = &cluster.files(name_of(&node))?.data;
        let (db, log) = (folder_bytes(&data.join("db")), folder_bytes(&data.join("log")));
        println!(
            "{}: db {:.0} MiB ({:.2} bytes per payload byte), log {:.0} MiB, rss {:.0} MiB",
            name_of(&node),
            mib(db),
            db as f64 / payload as f64,
            mib(log),
            mib(node.rss_bytes)
        );
    }
    Ok(())
}

/// Clients that put, one call after another each, until they are stopped.
struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<Result<Latencies, saola_client::Error>>>,
}

impl Writers {
    fn begin(cluster: &LocalCluster, records: u64) -> Result<Writers, Failure> {
        let (stop, mut tasks) = (Arc::new(AtomicBool::new(false)), Vec::new());
        for number in 0..CLIENTS {
            let client = cluster.new_client()?;
            tasks.push(tokio::spawn(puts(client, number, CLIENTS, records, VALUE_BYTES, Arc::clone(&stop))));
        }
        Ok(Writers { stop, tasks })
    }

    async fn end(self) -> Result<Latencies, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        join(self.tasks).await
    }
}

/// All nodes read all their rows, at the pace that is set for it, under puts.
async fn scrub(cluster: &LocalCluster, records: u64) -> Result<(), Failure> {
    let passes = |nodes: &[NodeStatus]| -> Vec<u64> {
        nodes.iter().map(|node| node.copy.as_ref().map_or(0, |copy| copy.scrub_passes)).collect()
    };
    let idle = || async {
        let nodes = nodes(cluster).await.map_err(|failure| failure.to_string())?;
        let running = |node: &NodeStatus| node.copy.as_ref().is_some_and(|copy| copy.scrub_running);
        if nodes.iter().any(running) { Err("a scrub is running".to_owned()) } else { Ok(passes(&nodes)) }
    };
    let before = wait_until("the scrub that began by itself", SCRUB_LIMIT, idle).await?;
    let writers = Writers::begin(cluster, records)?;
    let start = Instant::now();
    cluster.client().start_scrub(Vec::new()).await?;
    wait_until("a scrub of every node", SCRUB_LIMIT, || async {
        let after = passes(&nodes(cluster).await.map_err(|failure| failure.to_string())?);
        let ended = after.iter().zip(&before).filter(|(after, before)| after > before).count();
        if ended == before.len() { Ok(()) } else { Err(format!("{ended} of {} nodes have ended", before.len())) }
    })
    .await?;
    let seconds = start.elapsed().as_secs_f64();
    let puts = writers.end().await?;
    for node in nodes(cluster).await? {
        let copy = node.copy.clone().unwrap_or_default();
        println!(
            "{}: scrub of {} rows, {:.0} MiB, {} damaged",
            name_of(&node),
            copy.last_rows,
            mib(copy.last_bytes),
            copy.damaged_rows
        );
    }
    let bytes = nodes(cluster).await?.iter().filter_map(|node| node.copy.as_ref()).map(|copy| copy.last_bytes).max();
    let rate = mib(bytes.unwrap_or(0)) / seconds;
    println!("scrub of all nodes at once: {seconds:.1} s, {rate:.1} MiB/s on each; puts meanwhile {puts}");
    Ok(())
}

/// SIGKILL of all nodes at once; then each is started again, and a read must be answered.
async fn cold_start(cluster: &mut LocalCluster, names: &[&str]) -> Result<(), Failure> {
    cluster.kill(names).await?;
    let start = Instant::now();
    for name in names {
        cluster.start(name)?;
    }
    for name in names {
        cluster.wait_for_answer(name).await?;
        println!("cold start: {name} answers after {} ms", start.elapsed().as_millis());
    }
    let client = cluster.new_client()?;
    wait_until("read after a cold start", Duration::from_secs(300), || async {
        client.get(COLLECTION, record_id(7)).send().await.map_err(|error| error.to_string())
    })
    .await?;
    println!("cold start: a linearizable read is answered after {} ms", start.elapsed().as_millis());
    Ok(())
}

/// Replaces a node by an empty one under puts; with `cuts`, the new node's connections are reset so many times.
async fn rebuild(
    cluster: &mut LocalCluster,
    records: u64,
    (old, old_id): (&str, u64),
    (new, new_id): (&str, u64),
    cuts: u64,
) -> Result<(), Failure> {
    cluster.kill(&[old]).await?;
    let planned = PlannedNode { name: new.to_owned(), site: "main".to_owned(), role: Role::Voter };
    let node = cluster.prepare_another(&planned, new_id)?;
    cluster.start(new)?;
    cluster.wait_for_answer(new).await?;
    let data = cluster.files(new)?.data.clone();
    let full = folder_bytes(&cluster.files("n1")?.data.join("db"));
    let writers = Writers::begin(cluster, records)?;
    let pid = cluster.process(new)?.pid().unwrap_or(0);
    let cutting = Cuts::begin(pid, cuts, full, data.join("db"));
    let start = Instant::now();
    let client = cluster.new_client()?.with_deadline(Duration::from_secs(3600));
    client.replace_member(old_id, node.to_proto()).await?;
    let seconds = start.elapsed().as_secs_f64();
    let done = cutting.end().await;
    let puts = writers.end().await?;
    let received = folder_bytes(&data.join("db"));
    println!(
        "rebuild of an empty node with {done} of {cuts} cuts: {seconds:.1} s, {:.0} MiB on disk, {:.1} MiB/s; puts meanwhile {puts}",
        mib(received),
        mib(received) / seconds
    );
    Ok(())
}
