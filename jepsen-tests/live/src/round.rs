//! One cluster, from its first start to the judgement.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use saola_client::proto::{Protection, StatusResponse};
use saola_client::{Client, CreateCollection};
use saola_jepsen::history::{self, Recorder};
use saola_jepsen::operation::count;
use saola_ops::exit::{Exit, Failure};
use saola_ops::launch::{LocalCluster, Place, Plan, PlannedNode, node_binary};
use saola_ops::topology::{Node, Role};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::faults::{Kind, Tally};
use crate::last_day::{self, LastDay};
use crate::machines::Machines;
use crate::nemesis::Nemesis;
use crate::scan::Secrets;
use crate::verdict;
use crate::workload::{COLLECTION, Caller, DEADLINE, canary};

/// Clients of a round.
const CLIENTS: u32 = 8;
/// A site that was lost is waited for again sooner than in earnest, or a round would see it lost once.
const RETURN_MS: u64 = 1_000;
const PARITY_MS: u64 = 300;
/// All must have come back so long after the faults end.
const HEAL: Duration = Duration::from_secs(90);
/// Of all kinds, so many happen in a round: seldom everything at once.
const KINDS_OF_A_ROUND: std::ops::Range<usize> = 6..16;

/// What a round's cluster is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// Two data nodes at each of two sites, and a witness.
    TwoAndTwo,
    /// Three at each, and a witness.
    ThreeAndThree,
    /// Three voters at main, two learners at the other site.
    TwoSites,
}

impl Topology {
    /// All of them.
    pub const ALL: [Topology; 3] = [Topology::TwoAndTwo, Topology::TwoSites, Topology::ThreeAndThree];

    /// As operators write it.
    pub fn name(self) -> &'static str {
        match self {
            Topology::TwoAndTwo => "2+2+w",
            Topology::ThreeAndThree => "3+3+w",
            Topology::TwoSites => "3+2l",
        }
    }

    fn plan(self) -> Plan {
        let (main, dr, role, witness) = match self {
            Topology::TwoAndTwo => (2, 2, Role::Voter, true),
            Topology::ThreeAndThree => (3, 3, Role::Voter, true),
            Topology::TwoSites => (3, 2, Role::Learner, false),
        };
        let name = |site: &str, number: usize| format!("{site}-{number}");
        let main = (1..=main).map(|number| (name("main", number), "main", Role::Voter));
        let dr = (1..=dr).map(|number| (name("dr", number), "dr", role));
        let witness = witness.then(|| ("witness".to_owned(), "third", Role::Witness));
        let nodes: Vec<(String, &str, Role)> = main.chain(dr).chain(witness).collect();
        let nodes: Vec<(&str, &str, Role)> =
            nodes.iter().map(|(name, site, role)| (name.as_str(), *site, *role)).collect();
        Plan::new("live", &nodes)
    }

    /// A machine at each site, for a node that is lost for good.
    fn spares(self) -> Vec<PlannedNode> {
        let role = if self == Topology::TwoSites { Role::Learner } else { Role::Voter };
        let spare =
            |(site, role): (&str, Role)| PlannedNode { name: format!("{site}-spare"), site: site.to_owned(), role };
        [("main", Role::Voter), ("dr", role)].map(spare).to_vec()
    }
}

/// What came of a round.
#[derive(Debug, Default)]
pub struct Report {
    /// What must not be, each in a line.
    pub wrong: Vec<String>,
    /// Why it proves nothing, if so.
    pub quiet: Vec<String>,
    /// What was done to the cluster.
    pub tallies: BTreeMap<Kind, Tally>,
    /// Calls: acknowledged writes, answered reads, refused, unknown.
    pub calls: [u64; 4],
    /// Protection states that the leader told while faults happened.
    pub states: BTreeMap<String, u64>,
    /// How long all needed to be well again after the faults, ms.
    pub healed_ms: u64,
    /// How the other site went on by force at the end, where there is no witness.
    pub last_day: Option<LastDay>,
    /// Images that were searched for what must not stand in clear.
    pub images: u64,
}

/// Runs a round in `folder`, which stays. It begins on the thread that calls it, whose host it changes for good.
///
/// # Errors
/// The machine or the harness fails: nothing is said of the cluster.
pub fn run(topology: Topology, seed: u64, load: Duration, folder: &Path) -> Result<Report, Failure> {
    let mut plan = topology.plan();
    let mut machines = Machines::new(&mut plan, &topology.spares(), folder, seed)?;
    machines.enter()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|source| Failure::file("start a runtime", &source))?;
    let in_runtime = runtime.enter();
    let place = folder.join("cluster");
    let mut cluster = LocalCluster::prepare(&plan, Place::Folder(place.clone()), &node_binary()?)?;
    for node in &cluster.topology().node {
        machines.give_disk(&node.name, cluster.files(&node.name)?)?;
    }
    let mut report = runtime.block_on(live(topology, &mut cluster, &mut machines, seed, load, folder))?;
    drop((cluster, in_runtime));
    scan(machines, &place, seed, &mut report)?;
    Ok(report)
}

async fn live(
    topology: Topology,
    cluster: &mut LocalCluster,
    machines: &mut Machines,
    seed: u64,
    load: Duration,
    folder: &Path,
) -> Result<Report, Failure> {
    cluster.start_all().await?;
    cluster.init().await?;
    cluster.client().create_collection(CreateCollection::new(COLLECTION)).await?;
    let rule = cluster.client().cluster_status(true).await?.rule.unwrap_or_default();
    cluster.client().set_protection(Protection { return_ms: RETURN_MS, parity_ms: PARITY_MS, ..rule }).await?;
    let mut rng = SmallRng::seed_from_u64(seed);
    let kinds = kinds_of_a_round(&mut rng);
    let recorder = Arc::new(Recorder::default());
    let end = Instant::now() + load;
    let (members, _) = watch::channel(cluster.topology().node.clone());
    let callers = callers(cluster, &members, seed)?.into_iter().map(|caller| {
        let recorder = recorder.clone();
        tokio::spawn(async move { caller.run(&recorder, end).await })
    });
    let callers: Vec<_> = callers.collect();
    let watcher = tokio::spawn(watch_states(cluster.new_client()?, end));
    let mut nemesis = Nemesis::new(cluster, machines, topology.spares(), &members, &recorder, rng);
    nemesis.run(&kinds, end).await?;
    let nodes = std::mem::take(&mut nemesis.nodes);
    let mut report = Report {
        tallies: std::mem::take(&mut nemesis.tallies),
        wrong: std::mem::take(&mut nemesis.wrong),
        ..Report::default()
    };
    for caller in callers {
        caller.await.map_err(|error| Failure::new(Exit::Other, format!("a client: {error}"), "see above"))?;
    }
    report.states = watcher.await.unwrap_or_default();
    let (operations, faults) = (recorder.operations(), recorder.faults());
    let saved = history::save(&folder.join("operations.jsonl"), &operations);
    let saved = saved.and_then(|()| history::save(&folder.join("faults.jsonl"), &faults));
    saved.map_err(|source| Failure::file("save the history", &source))?;
    report.calls = count(&operations);
    report.quiet = verdict::too_quiet(&operations);

    let healing = Instant::now();
    for node in &nodes {
        if let Err(failure) = cluster.wait_for_answer(&node.name).await {
            report.wrong.push(format!("after the faults: {failure}"));
            return Ok(report);
        }
    }
    if let Err(failure) = cluster.wait_for_status("be well again", well).await {
        report.wrong.push(format!("after the faults: {failure}"));
        return Ok(report);
    }
    report.healed_ms = healing.elapsed().as_millis() as u64;
    if topology == Topology::TwoSites {
        match last_day::live(cluster, machines, &nodes).await {
            Ok(day) => report.last_day = Some(day),
            Err(failure) => {
                report.wrong.push(format!("the last day: {failure}"));
                return Ok(report);
            }
        }
    }
    let until = Instant::now() + HEAL;
    let mut kept = Vec::new();
    for (node, client) in data_nodes(&nodes, cluster.client())? {
        kept.push((node, verdict::kept_by(node, &client, until).await));
    }
    report.wrong.extend(verdict::judge(&operations, &kept));
    report.wrong.extend(verdict::digests(cluster.client(), until).await);
    for node in &nodes {
        cluster.terminate(&node.name).await?;
    }
    Ok(report)
}

/// All nodes take part, and the sites protect each other.
pub(crate) fn well(status: &StatusResponse) -> Result<(), String> {
    let away = status.nodes.iter().find(|node| !node.reachable);
    match (&status.protection_status, away) {
        (_, Some(node)) => Err(format!("{:?} is away", node.member.as_ref().map(|it| &it.name))),
        (Some(stand), None) if stand.state == "SYNCHRONIZED" => Ok(()),
        _ => Err(status.protection.clone()),
    }
}

/// Which kinds happen at all: the seed decides.
fn kinds_of_a_round(rng: &mut SmallRng) -> Vec<Kind> {
    let mut kinds = Kind::ALL.to_vec();
    kinds.shuffle(rng);
    kinds.truncate(rng.random_range(KINDS_OF_A_ROUND));
    kinds
}

/// How often which state was told, asked again and again.
async fn watch_states(client: Client, end: Instant) -> BTreeMap<String, u64> {
    let client = client.with_deadline(Duration::from_secs(1));
    let mut states = BTreeMap::new();
    let mut again = tokio::time::interval(Duration::from_millis(250));
    while Instant::now() < end {
        again.tick().await;
        if let Ok(status) = client.cluster_status(false).await
            && let Some(stand) = status.protection_status
        {
            // Nobody who leads tells one.
            let state = if stand.state.is_empty() { "NO_LEADER".to_owned() } else { stand.state };
            *states.entry(state).or_default() += 1;
        }
    }
    states
}

fn callers(cluster: &LocalCluster, members: &watch::Sender<Vec<Node>>, seed: u64) -> Result<Vec<Caller>, Failure> {
    let caller = |number| {
        let floating = cluster.new_client()?.with_deadline(DEADLINE);
        Ok(Caller::new(number, seed, floating, members.subscribe()))
    };
    (0..CLIENTS).map(caller).collect()
}

/// Each data node's id, with `client` pinned to it.
pub fn data_nodes(nodes: &[Node], client: &Client) -> Result<Vec<(u64, Client)>, Failure> {
    let nodes = nodes.iter().filter(|node| node.role != Role::Witness);
    nodes.map(|node| Ok((node.node_id, client.at_endpoint(&node.client_address)?))).collect()
}

/// No disk and no file holds a value or a key in clear, and no node has panicked. Each disk gets a file with a secret before that
/// is removed again: a search that does not find it finds nothing.
fn scan(machines: Machines, place: &Path, seed: u64, report: &mut Report) -> Result<(), Failure> {
    let failed = |path: &Path| {
        let doing = format!("search {}", path.display());
        move |source: std::io::Error| Failure::file(doing, &source)
    };
    let mut secrets = vec![("a value", canary(seed).into_bytes())];
    for entry in fs::read_dir(place.join("keys")).map_err(failed(place))? {
        let path = entry.map_err(failed(place))?.path();
        let text = fs::read_to_string(&path).map_err(failed(&path))?;
        secrets.push(("a KEK", secret_of(&text)));
    }
    let secrets = Secrets::new(&secrets);
    let control = canary(seed.wrapping_add(1));
    let controls = Secrets::new(&[("the control", control.clone().into_bytes())]);
    for (name, disk) in machines.into_disks() {
        let path = disk.folder().join("control");
        let written = fs::write(&path, &control).and_then(|()| fs::File::open(&path)?.sync_all());
        written.and_then(|()| fs::remove_file(&path)).map_err(failed(&path))?;
        let image: PathBuf = disk.into_image()?;
        if controls.found_in(&image).map_err(failed(&image))?.is_empty() {
            report.quiet.push(format!("the search of {name}'s disk does not find what was there"));
        }
        let found = secrets.found_in(&image).map_err(failed(&image))?;
        report.wrong.extend(found.into_iter().map(|what| format!("{name}'s disk has {what}")));
        report.images += 1;
        let log = place.join("nodes").join(&name).join("node.log");
        let found = secrets.found_in(&log).map_err(failed(&log))?;
        report.wrong.extend(found.into_iter().map(|what| format!("{name}'s log has {what}")));
        let said = fs::read_to_string(&log).map_err(failed(&log))?;
        let panics = said.lines().filter(|line| line.contains("panicked at"));
        report.wrong.extend(panics.map(|line| format!("{name}: {line}")));
        fs::remove_file(&image).map_err(failed(&image))?;
    }
    Ok(())
}

/// The key that a KEK file holds, 32 bytes.
fn secret_of(text: &str) -> Vec<u8> {
    let digits = text.split_whitespace().last().unwrap_or_default();
    let pairs = digits.as_bytes().chunks(2).filter_map(|pair| std::str::from_utf8(pair).ok());
    pairs.filter_map(|pair| u8::from_str_radix(pair, 16).ok()).collect()
}
