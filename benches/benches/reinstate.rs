//! A side that was left behind by a forced promotion comes back: five real processes (3+2l, mutual TLS, sealing on), with
//! `SAOLA_RECORDS` records of 256 B (100,000). Main goes on alone for `SAOLA_ALONE_S` seconds (600), updating records and
//! adding others, then DR does for `SAOLA_SINCE_S` (60), at `SAOLA_WRITES_PER_S` (100). What is measured is the time until all of main has come
//! back, node by node, with the bytes that came; beside it a whole copy of one node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use saola_benches::{COLLECTION, asked_to_measure, record_id, started, value};
use saola_client::proto::{Attested, StatusResponse};
use saola_client::{CHANGE_LIMIT, Client, Error};
use saola_ops::exit::Failure;
use saola_ops::launch::{LocalCluster, Plan, wait_until};
use saola_ops::topology::Role;
use saola_storage::promotion::SignedPlan;

const MAIN: [&str; 3] = ["main-1", "main-2", "main-3"];
const DR: [&str; 2] = ["dr-1", "dr-2"];
const VALUE_BYTES: usize = 256;
/// Loading goes on side by side.
const LOADERS: u64 = 64;
/// What must come to pass by itself has so long.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> Result<(), Failure> {
    if !asked_to_measure() {
        return Ok(());
    }
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let work = Work {
        records: number("SAOLA_RECORDS").unwrap_or(100_000),
        alone: Duration::from_secs(number("SAOLA_ALONE_S").unwrap_or(600)),
        since: Duration::from_secs(number("SAOLA_SINCE_S").unwrap_or(60)),
        writes_per_s: number("SAOLA_WRITES_PER_S").unwrap_or(100).max(1),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|source| Failure::file("start a runtime", &source))?;
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"));
    let folder = folder.map_err(|source| Failure::file("make a folder", &source))?;
    runtime.block_on(measure(folder.path(), &work))
}

struct Work {
    records: u64,
    alone: Duration,
    since: Duration,
    writes_per_s: u64,
}

async fn measure(folder: &std::path::Path, work: &Work) -> Result<(), Failure> {
    let voters = MAIN.map(|name| (name, "main", Role::Voter));
    let learners = DR.map(|name| (name, "dr", Role::Learner));
    let plan = Plan::new("bench", &[&voters[..], &learners[..]].concat());
    let mut cluster = started(&plan, folder).await?;
    load(cluster.client(), work.records).await?;
    cluster.wait_for_status("both sites have everything", is_synchronized).await?;

    cluster.kill(&DR).await?;
    let alone = write_for(cluster.client(), work, work.alone, 0).await?;
    cluster.kill(&MAIN).await?;
    for name in DR {
        cluster.start(name)?;
        cluster.wait_for_answer(name).await?;
    }
    promote(&cluster).await?;
    let client = cluster.client_at(DR[0])?;
    let since = write_for(&client, work, work.since, 10 * work.records).await?;
    println!(
        "{} records of {VALUE_BYTES} B; main made {alone} writes alone in {} s, DR {since} since then in {} s",
        work.records,
        work.alone.as_secs(),
        work.since.as_secs()
    );

    for name in MAIN {
        cluster.start(name)?;
        cluster.wait_for_answer(name).await?;
    }
    let all_fenced = wait_until("main is fenced", PATIENCE, || async {
        let former = client.former_members("main").await.map_err(|error| error.to_string())?;
        match former.iter().filter(|it| !it.fenced.is_empty()).count() {
            fenced if fenced == MAIN.len() => Ok(()),
            fenced => Err(format!("{fenced} of {} are", MAIN.len())),
        }
    });
    all_fenced.await?;
    let patient = client.with_deadline(CHANGE_LIMIT);
    let whole = Instant::now();
    for name in MAIN {
        let begun = Instant::now();
        let back = patient.reinstate(name).await?;
        println!(
            "{name} is back as node {} after {:.1} s: {:.1} MB came of {:.1} MB ({:.1} %), {} writes kept",
            back.node_id,
            begun.elapsed().as_secs_f64(),
            back.bytes as f64 / 1e6,
            back.of_bytes as f64 / 1e6,
            100.0 * back.bytes as f64 / back.of_bytes.max(1) as f64,
            back.orphans
        );
    }
    println!("all of main is back after {:.1} s", whole.elapsed().as_secs_f64());
    let digests = client.digest().await?.digests;
    let equal = digests.iter().all(|it| !it.digest.is_empty() && it.digest == digests[0].digest);
    println!("{} replicas have {} digests", digests.len(), if equal { "equal" } else { "DIFFERENT" });
    println!("beside it, a whole copy of one node: {:.1} s", whole_copy(&client).await?);
    Ok(())
}

fn is_synchronized(status: &StatusResponse) -> Result<(), String> {
    match status.protection_status.as_ref().map(|stand| stand.state.as_str()) {
        Some("SYNCHRONIZED") => Ok(()),
        _ => Err(status.protection.clone()),
    }
}

async fn load(client: &Client, records: u64) -> Result<(), Failure> {
    let next = Arc::new(AtomicU64::new(0));
    let loaders = (0..LOADERS).map(|_| {
        let (client, next) = (client.clone(), next.clone());
        tokio::spawn(async move {
            let value = value(VALUE_BYTES);
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= records {
                    return Ok::<(), Error>(());
                }
                client.put(COLLECTION, record_id(number), value.clone()).send().await?;
            }
        })
    });
    for loader in loaders.collect::<Vec<_>>() {
        loader.await.map_err(|error| Failure::usage(error.to_string(), "see the nodes' logs"))??;
    }
    Ok(())
}

/// Writes for so long: every second one updates a record, the others are new from `fresh` on; answers how many.
async fn write_for(client: &Client, work: &Work, time: Duration, fresh: u64) -> Result<u64, Failure> {
    let (begun, mut written) = (Instant::now(), 0_u64);
    let mut pace = tokio::time::interval(Duration::from_secs(1) / u32::try_from(work.writes_per_s).unwrap_or(u32::MAX));
    let patient = client.with_deadline(PATIENCE);
    while begun.elapsed() < time {
        pace.tick().await;
        let number = match written % 2 {
            0 => written.wrapping_mul(7919) % work.records.max(1),
            _ => work.records + fresh + written,
        };
        patient.put(COLLECTION, record_id(number), value(VALUE_BYTES)).send().await?;
        written += 1;
    }
    Ok(written)
}

/// Nobody is named as an approver, so nobody has to approve.
async fn promote(cluster: &LocalCluster) -> Result<(), Failure> {
    let client = cluster.client_at(DR[0])?;
    let attested = Attested { fenced: "a bench has killed it".into(), ..Attested::default() };
    let plan = client.plan_promotion("dr", attested).await?;
    let signed = SignedPlan { plan, approvals: Vec::new() }.to_bytes();
    let goes_on = wait_until("dr goes on", PATIENCE, || async {
        // The node that begins the epoch starts anew, and its connections end.
        let _again = client.apply_promotion(signed.clone()).await;
        let known = client.epochs().await.map_err(|error| error.to_string())?;
        if known.epochs.is_empty() { Err("no epoch has begun".to_owned()) } else { Ok(()) }
    });
    goes_on.await
}

/// Seconds that a node takes to get all records anew.
async fn whole_copy(client: &Client) -> Result<f64, Failure> {
    let status = client.cluster_status(false).await?;
    let of = |status: &StatusResponse, node_id| {
        let node = status.nodes.iter().find(|it| it.member.as_ref().is_some_and(|member| member.node_id == node_id))?;
        Some(node.copy.as_ref()?.repairs)
    };
    let follower = status.nodes.iter().filter_map(|it| it.member.as_ref()).find(|it| it.name == MAIN[2]);
    let node_id = follower.map_or(0, |it| it.node_id);
    let before = of(&status, node_id).unwrap_or(0);
    let begun = Instant::now();
    client.repair_copy(node_id).await?;
    let replaced = wait_until("the copy is replaced", PATIENCE, || async {
        let status = client.cluster_status(false).await.map_err(|error| error.to_string())?;
        if of(&status, node_id).unwrap_or(0) > before { Ok(()) } else { Err("it is not".to_owned()) }
    });
    replaced.await?;
    Ok(begun.elapsed().as_secs_f64())
}
