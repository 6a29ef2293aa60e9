//! Five real processes (2+2+w, mutual TLS, sealing on) at three sites that 1, 20 and 40 ms lie between, there and back:
//! a put and a linearizable read at the leader with nothing else in flight, back to back and with pauses, beside a byte and a
//! call to the other site and back; how long no write is acknowledged when the leader or a site is killed; and how long
//! when leadership is moved to the other site and back (`saola switchover`).
//!
//! Each site is a network namespace of its own ([`saola_live::network`]): it needs root, and says so. `SAOLA_ROUNDS` kills
//! of each kind (5), `SAOLA_SWITCHOVERS` switchovers (50).

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use saola_benches::gaps::{Acks, PATIENCE, gap, leader, pause, write};
use saola_benches::{COLLECTION, asked_to_measure, bare_syncs, record_id, started, value};
use saola_client::proto::{Protection, StatusResponse};
use saola_client::{Client, Error, TransferTo};
use saola_live::network::Network;
use saola_ops::exit::Failure;
use saola_ops::launch::{LocalCluster, Plan};

const LINKS: [(&str, Duration); 3] =
    [("lan", Duration::from_millis(1)), ("wan", Duration::from_millis(20)), ("wan", Duration::from_millis(40))];
const CALLS: u64 = 300;
const VALUE_BYTES: usize = 1024;
const CLIENTS: u64 = 4;
/// Writing must be seen to go on for so many acknowledgements before and after a kill.
const ACKNOWLEDGED: u64 = 50;
const MAIN: [&str; 2] = ["main-1", "main-2"];
const DR: [&str; 2] = ["dr-1", "dr-2"];

fn main() -> Result<(), Failure> {
    if !asked_to_measure() {
        return Ok(());
    }
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<usize>().ok());
    let (rounds, switchovers) = (number("SAOLA_ROUNDS").unwrap_or(5), number("SAOLA_SWITCHOVERS").unwrap_or(50));
    let wan = match Network::new(&["main", "dr", "third"], 0) {
        Ok(wan) => wan,
        Err(failure) => {
            eprintln!("not measured: {}; {}", failure.what(), failure.next());
            return Ok(());
        }
    };
    // The clients are at the main site, as the services are.
    wan.enter("main")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|source| Failure::file("start a runtime", &source))?;
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"));
    let folder = folder.map_err(|source| Failure::file("make a folder", &source))?;
    let syncs = bare_syncs(folder.path()).map_err(|source| Failure::file("sync a file", &source))?;
    println!("bare fdatasync of 4 KiB: {:.2} ms", 1000.0 / syncs);
    println!("link        calls   byte ms   call ms   put p50 / p99 ms   aim p50   get p50 / p99 ms   aim p50");
    let mut gaps = vec!["no write acknowledged, ms: half of the runs / the longest".to_string()];
    for (preset, round_trip) in LINKS {
        wan.set_round_trip(round_trip);
        let name = format!("{preset}, {} ms", round_trip.as_millis());
        let place = folder.path().join(round_trip.as_millis().to_string());
        let plan = Plan {
            cluster_name: "bench".to_string(),
            timing: preset.to_string(),
            networks: wan.networks(),
            ..Plan::two_sites_and_witness()
        };
        let to_dr: Vec<f64> = wan.echo("dr", 200)?.iter().map(|time| time.as_secs_f64() * 1000.0).collect();
        let least_ms = Least { to_dr_ms: quantile(&to_dr, 0.5), sync_ms: 1000.0 / syncs };
        runtime.block_on(measure(&plan, &place, &name, least_ms))?;
        let pauses = runtime.block_on(switch_over(&plan, &place.join("switchovers"), switchovers))?;
        let cells = [0.5, 0.99, 1.0].map(|part| format!("{:.0}", quantile(&pauses, part))).join(" / ");
        println!(
            "{name:<10}  {} switchovers pause the writes for {cells} ms: half, 99 of 100, the longest",
            pauses.len()
        );
        let mut times = [Vec::new(), Vec::new(), Vec::new()];
        for round in 0..rounds {
            runtime.block_on(lose(&plan, &place.join(round.to_string()), &mut times))?;
        }
        let cells = ["leader", "main", "dr"].iter().zip(&times);
        let cells =
            cells.map(|(lost, times)| format!("{lost} {:.0} / {:.0}", quantile(times, 0.5), quantile(times, 1.0)));
        gaps.push(format!("{name:<10}   {}", cells.collect::<Vec<_>>().join("   ")));
    }
    println!("{}", gaps.join("\n"));
    Ok(())
}

/// What no system could be quicker than.
#[derive(Clone, Copy)]
struct Least {
    /// A byte to the other site and its answer.
    to_dr_ms: f64,
    /// One bare `fdatasync`.
    sync_ms: f64,
}

/// Prints the latencies.
async fn measure(plan: &Plan, folder: &Path, name: &str, least: Least) -> Result<(), Failure> {
    let Least { to_dr_ms, sync_ms } = least;
    let cluster = started(plan, folder).await?;
    cluster.client().with_deadline(PATIENCE).transfer(TransferTo::Node(1)).await?;
    let (leader, far) = (cluster.client_at(MAIN[0])?, cluster.client_at(DR[0])?);
    for (how, pauses) in [("busy", false), ("idle", true)] {
        let put =
            |client: Client, id| async move { client.put(COLLECTION, id, value(VALUE_BYTES)).send().await.map(|_| ()) };
        let puts = latencies(&leader, pauses, put).await?;
        let get = |client: Client, id| async move { client.get(COLLECTION, id).send().await.map(|_| ()) };
        let gets = latencies(&leader, pauses, get).await?;
        // One round over the same link by the same means, answered by one node alone.
        let get =
            |client: Client, id| async move { client.get(COLLECTION, id).stale(PATIENCE).send().await.map(|_| ()) };
        let call = latencies(&far, pauses, get).await?;
        println!(
            "{name:<10}  {how} {to_dr_ms:>9.2} {:>9.2} {:>10.2} / {:<6.2} {:>8.2} {:>10.2} / {:<6.2} {:>8.2}",
            quantile(&call, 0.5),
            quantile(&puts, 0.5),
            quantile(&puts, 0.99),
            to_dr_ms + sync_ms + 2.0,
            quantile(&gets, 0.5),
            quantile(&gets, 0.99),
            quantile(&call, 0.5) + 1.0,
        );
    }
    Ok(())
}

/// A new cluster loses its leader, its main site and its DR site, each mended before the next. More losses of one cluster
/// would make it wait longer and longer for the site. Adds how long no write was acknowledged, ms.
async fn lose(plan: &Plan, folder: &Path, times: &mut [Vec<f64>; 3]) -> Result<(), Failure> {
    let mut cluster = started(plan, folder).await?;
    let rule = cluster.client().cluster_status(true).await?.rule.unwrap_or_default();
    cluster.client().set_protection(Protection { return_ms: 1_000, parity_ms: 300, ..rule }).await?;
    cluster.client().with_deadline(PATIENCE).transfer(TransferTo::Node(1)).await?;
    let acks = Arc::new(Acks::default());
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        writers.spawn(write(cluster.new_client()?, number, CLIENTS, acks.clone()));
    }
    for (lost, times) in [&MAIN[..1], &MAIN, &DR].into_iter().zip(times) {
        times.push(gap(&mut cluster, lost, &acks, ACKNOWLEDGED).await?.as_secs_f64() * 1000.0);
        mend(&mut cluster, lost).await?;
    }
    writers.abort_all();
    Ok(())
}

/// Moves leadership to the other site and back under load; answers how long no write was acknowledged each time, ms.
async fn switch_over(plan: &Plan, folder: &Path, times: usize) -> Result<Vec<f64>, Failure> {
    let cluster = started(plan, folder).await?;
    cluster.client().with_deadline(PATIENCE).transfer(TransferTo::Node(1)).await?;
    let acks = Arc::new(Acks::default());
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        writers.spawn(write(cluster.new_client()?, number, CLIENTS, acks.clone()));
    }
    let mut pauses = Vec::new();
    for site in ["dr", "main"].into_iter().cycle().take(times) {
        let move_it = async {
            cluster.client().with_deadline(PATIENCE).transfer(TransferTo::Site(site.to_string())).await?;
            Ok(())
        };
        pauses.push(pause(&acks, ACKNOWLEDGED, move_it).await?.as_secs_f64() * 1000.0);
        cluster.wait_for_status("protect each other", synchronized).await?;
    }
    writers.abort_all();
    Ok(pauses)
}

/// Times of calls in milliseconds: back to back, or with pauses, at all moments between two heartbeats.
async fn latencies<F>(client: &Client, pauses: bool, call: impl Fn(Client, String) -> F) -> Result<Vec<f64>, Error>
where
    F: Future<Output = Result<(), Error>>,
{
    let mut times = Vec::new();
    for n in 0..CALLS {
        let start = Instant::now();
        call(client.clone(), record_id(n)).await?;
        times.push(start.elapsed().as_secs_f64() * 1000.0);
        if pauses {
            tokio::time::sleep(Duration::from_millis(n * 37 % 100)).await;
        }
    }
    // The first calls open connections.
    Ok(times.split_off(CALLS as usize / 10))
}

fn quantile(times: &[f64], part: f64) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    let place = (times.len() as f64 * part) as usize;
    times.get(place.min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// Starts killed nodes again, and waits until the sites protect each other and main leads.
async fn mend(cluster: &mut LocalCluster, names: &[&str]) -> Result<(), Failure> {
    for name in names {
        cluster.start(name)?;
    }
    for name in names {
        cluster.wait_for_answer(name).await?;
    }
    cluster.wait_for_status("protect each other", synchronized).await?;
    if leader(cluster).await? != MAIN[0] {
        cluster.client().with_deadline(PATIENCE).transfer(TransferTo::Node(1)).await?;
        cluster.wait_for_status("protect each other", synchronized).await?;
    }
    Ok(())
}

fn synchronized(status: &StatusResponse) -> Result<(), String> {
    match &status.protection_status {
        Some(stand) if stand.state == "SYNCHRONIZED" && status.nodes.iter().all(|node| node.reachable) => Ok(()),
        _ => Err(status.protection.clone()),
    }
}
