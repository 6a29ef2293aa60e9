//! Who calls a cluster during a life: writes, conditional writes, deletions and reads of every kind, through random nodes, each
//! written down. What the history cannot say is checked at once: reads of the past, and how old stale reads are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use saola_raft::sim::{SimRuntime, as_node, spawn_on};
use saola_raft::{ProposeError, ReadPoint, Replica};
use saola_storage::command::{Command, Conflict, Decision};
use saola_storage::store::StoredVersion;
use tokio::time::Instant;

use super::dice::Dice;
use super::faults::Fault;
use super::world::World;
use crate::history::{Recorder, Route};
use crate::operation::{Action, Fingerprint, Found, Outcome};
use crate::sim::records::{COLLECTION, delete, put, put_if, record_id, value_of, version_at};
use crate::sim::{CALL, PATIENCE};

/// A caller waits so long for an answer of a node that may stand still.
const GIVES_UP: Duration = Duration::from_millis(1_500);
/// Whoever is late makes a call again within so long, milliseconds.
const LATE_MS: u64 = 10_000;
/// Nobody may call at the moment: looks again after so long.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Where one can call.
#[derive(Default)]
pub struct Doors {
    nodes: Mutex<BTreeMap<u64, Replica<SimRuntime>>>,
    closed: AtomicBool,
    /// Calls without an answer are made again after a long time.
    late: AtomicBool,
}

impl Doors {
    pub(super) fn set(&self, nodes: BTreeMap<u64, Replica<SimRuntime>>) {
        *self.nodes.lock() = nodes;
    }

    /// Nobody comes in there from now on, and nobody keeps the node's folder open.
    pub(super) fn shut(&self, node: u64) {
        self.nodes.lock().remove(&node);
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    pub(super) fn open(&self) {
        self.closed.store(false, Ordering::Relaxed);
    }

    pub(super) fn retry_late(&self) {
        self.late.store(true, Ordering::Relaxed);
    }

    fn at(&self, node: u64) -> Option<Replica<SimRuntime>> {
        self.nodes.lock().get(&node).cloned()
    }

    fn any(&self, dice: &mut Dice) -> Option<(u64, Replica<SimRuntime>)> {
        let nodes = self.nodes.lock();
        let id = dice.pick(&nodes.keys().copied().collect::<Vec<_>>())?;
        nodes.get(&id).map(|replica| (id, replica.clone()))
    }
}

/// What the cluster has vouched for, as all clients together know it.
#[derive(Default)]
pub struct Shown {
    /// By record: when an answer told that this generation is there.
    told: BTreeMap<u64, Vec<(Instant, u64)>>,
    /// Revisions of versions that were acknowledged: record, generation, value; none: a deletion.
    versions: BTreeMap<u64, (u64, u64, Option<u64>)>,
    /// What answers contradict.
    pub(super) violations: Vec<String>,
    /// Reads of the past and stale reads that were checked.
    pub(super) checked: u64,
}

impl Shown {
    fn tell(&mut self, record: u64, generation: u64) {
        self.told.entry(record).or_default().push((Instant::now(), generation));
    }
}

struct Caller {
    number: u64,
    records: u64,
    padding: usize,
    pause_ms: u64,
    /// Ages are told by clocks that may be slow: so many times slower than true ones at most.
    slack: u32,
    dice: Dice,
    sequence: u64,
    known: BTreeMap<u64, u64>,
    doors: Arc<Doors>,
    recorder: Arc<Recorder>,
    shown: Arc<Mutex<Shown>>,
    stopped: Arc<AtomicBool>,
}

/// A client that calls until the life ends.
pub(super) fn call_until_told(world: &World, number: u64) -> tokio::task::JoinHandle<()> {
    let mut caller = Caller::new(world, number);
    // Of no node: it outlives them all.
    spawn_on(0, async move {
        while !caller.stopped.load(Ordering::Relaxed) {
            match caller.doors.closed.load(Ordering::Relaxed) {
                true => tokio::time::sleep(LOOK_AGAIN).await,
                false => caller.call().await,
            }
            let pause = caller.dice.ms(0, caller.pause_ms);
            tokio::time::sleep(pause).await;
        }
    })
}

/// A client that stays with a node for a while and reads there, one read after the other.
pub(super) fn read_there(world: &World, number: u64, node: u64, time: Duration) -> tokio::task::JoinHandle<()> {
    let mut caller = Caller::new(world, number);
    let until = Instant::now() + time;
    spawn_on(0, async move {
        while Instant::now() < until && !caller.doors.closed.load(Ordering::Relaxed) {
            let record = caller.dice.below(caller.records);
            let Some(replica) = caller.doors.at(node) else { return };
            caller.read(record, node, replica).await;
            let pause = caller.dice.ms(0, 5);
            tokio::time::sleep(pause).await;
        }
    })
}

impl Caller {
    fn new(world: &World, number: u64) -> Caller {
        let life = &world.life;
        Caller {
            number,
            records: life.records,
            padding: life.padding,
            pause_ms: life.pause_ms,
            slack: if life.faults.contains(&Fault::ClockRate) { 2 } else { 1 },
            dice: Dice::new(life.seed, 100 + number),
            sequence: 0,
            known: BTreeMap::new(),
            doors: world.doors.clone(),
            recorder: world.recorder.clone(),
            shown: world.shown.clone(),
            stopped: world.stopped.clone(),
        }
    }

    async fn call(&mut self) {
        let record = self.dice.below(self.records);
        let Some((node, replica)) = self.doors.any(&mut self.dice) else { return };
        match self.dice.below(100) {
            0..30 => self.write(record, Kind::Put, node, replica).await,
            30..50 => self.write(record, Kind::PutIf, node, replica).await,
            50..58 => self.write(record, Kind::Delete, node, replica).await,
            58..88 => self.read(record, node, replica).await,
            88..94 => self.read_the_past(node, replica).await,
            _ => self.read_stale(record, node, replica),
        }
    }

    async fn write(&mut self, record: u64, kind: Kind, node: u64, replica: Replica<SimRuntime>) {
        self.sequence += 1;
        let value = value_of(self.number, self.sequence);
        let fingerprint = fingerprint(value);
        let expect = self.known.get(&record).copied().unwrap_or(0);
        let (command, action) = match kind {
            Kind::Put => (put(self.number, self.sequence, record, self.padding), Action::Put { value: fingerprint }),
            Kind::PutIf => {
                (put_if(self.number, self.sequence, record, expect), Action::Cas { expect, value: fingerprint })
            }
            Kind::Delete => (delete(self.number, self.sequence, record), Action::Delete),
        };
        let call = self.recorder.begin();
        let mut outcome = propose(node, replica, command.clone()).await;
        // The same call again, under the same request id: it must take effect once.
        while let Outcome::Unknown { .. } = outcome
            && self.dice.one_in(2)
            && !self.stopped.load(Ordering::Relaxed)
        {
            if self.doors.late.load(Ordering::Relaxed) {
                tokio::time::sleep(self.dice.ms(0, LATE_MS)).await;
            }
            let Some((node, replica)) = self.doors.any(&mut self.dice) else { break };
            match propose(node, replica, command.clone()).await {
                // A refusal says nothing of the call before; only what the cluster decided does.
                Outcome::Refused { found: None, .. } => {}
                decided => outcome = decided,
            }
        }
        if let Outcome::Written { generation, revision } = outcome {
            let mut shown = self.shown.lock();
            shown.tell(record, generation);
            let value = action.value().map(|_| value);
            shown.versions.insert(revision, (record, generation, value));
        }
        self.learn(record, &outcome);
        let route = Route { node_asked: Some(node), ..Route::default() };
        self.recorder.end(call, self.number as u32, &path(record), action, outcome, route);
    }

    async fn read(&mut self, record: u64, node: u64, replica: Replica<SimRuntime>) {
        let call = self.recorder.begin();
        let read = read(node, replica, move |replica, point| {
            version_at(replica, record, point.revision).map(|version| seen(version, point.revision))
        });
        let outcome = read.await.unwrap_or_else(|reason| Outcome::Unknown { reason });
        if let Outcome::Seen { generation, .. } = outcome {
            self.shown.lock().tell(record, generation);
        }
        self.learn(record, &outcome);
        let route = Route { node_asked: Some(node), ..Route::default() };
        self.recorder.end(call, self.number as u32, &path(record), Action::Get, outcome, route);
    }

    /// At the revision of an acknowledged version every node shows just that version.
    async fn read_the_past(&mut self, node: u64, replica: Replica<SimRuntime>) {
        let revisions: Vec<u64> = self.shown.lock().versions.keys().copied().collect();
        let Some(revision) = self.dice.pick(&revisions) else { return };
        let (record, generation, value) = self.shown.lock().versions[&revision];
        let Ok(found) = read(node, replica, move |replica, _| version_at(replica, record, revision)).await else {
            return;
        };
        let mut shown = self.shown.lock();
        shown.checked += 1;
        let found = found.map(|(version, value)| (version.generation, value));
        if found != Some((generation, value)) {
            shown.violations.push(format!(
                "node {node}: r{record} as of revision {revision} is {found:?}, and ({generation}, {value:?}) was acknowledged there"
            ));
        }
    }

    /// A stale read misses nothing that was told before it was as old as it says.
    fn read_stale(&mut self, record: u64, node: u64, replica: Replica<SimRuntime>) {
        let now = Instant::now();
        let Some(point) = as_node(node, || replica.stale_point()) else { return };
        let Some(age_ms) = point.age_ms else { return };
        let Ok(found) = version_at(&replica, record, point.revision) else { return };
        let found = found.map_or(0, |(version, _)| version.generation);
        let mut shown = self.shown.lock();
        shown.checked += 1;
        let is_older = |at: Instant| now.duration_since(at) > self.slack * Duration::from_millis(age_ms);
        let told = shown.told.get(&record).into_iter().flatten();
        let newest = told.filter(|(at, _)| is_older(*at)).map(|(_, generation)| *generation).max().unwrap_or(0);
        if found < newest {
            shown.violations.push(format!(
                "node {node}: a read of r{record} that is {age_ms} ms old shows generation {found}, and {newest} was told before"
            ));
        }
    }

    fn learn(&mut self, record: u64, outcome: &Outcome) {
        let generation = match outcome {
            Outcome::Written { generation, .. } | Outcome::Seen { generation, .. } => *generation,
            Outcome::Refused { found: Some(Found::Live(generation) | Found::Gone(generation)), .. } => *generation,
            Outcome::Refused { .. } | Outcome::Unknown { .. } => return,
        };
        self.known.insert(record, generation);
    }
}

enum Kind {
    Put,
    PutIf,
    Delete,
}

pub(super) fn path(record: u64) -> String {
    format!("{COLLECTION}/{}", record_id(record))
}

pub(super) fn fingerprint(value: u64) -> Fingerprint {
    Fingerprint::of(&value.to_le_bytes())
}

fn seen(version: Option<(StoredVersion, Option<u64>)>, revision: u64) -> Outcome {
    let (generation, value) = version.map_or((0, None), |(version, value)| (version.generation, value));
    Outcome::Seen { generation, seen: value.map(fingerprint), revision }
}

/// On the node's own task, so that the call ends with the node, as a connection does.
async fn propose(node: u64, replica: Replica<SimRuntime>, command: Command) -> Outcome {
    let call = spawn_on(node, async move { replica.propose(command, CALL).await });
    let unknown = |reason: &str| Outcome::Unknown { reason: reason.into() };
    let refused = |reason: String, found| Outcome::Refused { reason, found };
    match tokio::time::timeout(GIVES_UP, call).await {
        Err(_) => unknown("no answer in time"),
        Ok(Err(_)) => unknown("the node went away"),
        Ok(Ok(Err(error @ (ProposeError::Unknown { .. } | ProposeError::GateWait { .. })))) => {
            unknown(&error.to_string())
        }
        Ok(Ok(Err(error))) => refused(error.to_string(), None),
        Ok(Ok(Ok(outcome))) => match outcome.decision {
            Some(Decision::Written(written)) => {
                Outcome::Written { generation: written.generation, revision: outcome.revision }
            }
            Some(Decision::Conflict(Conflict { live: true, generation, .. })) => {
                refused("CONFLICT".into(), Some(Found::Live(generation)))
            }
            Some(Decision::Conflict(Conflict { live: false, generation, .. })) => {
                refused("CONFLICT".into(), Some(Found::Gone(generation)))
            }
            Some(Decision::NotFound(_)) => refused("NOT_FOUND".into(), Some(Found::NotLive)),
            other => panic!("a write was answered {other:?}"),
        },
    }
}

/// Reads as of what a linearizable read may see.
async fn read<T: Send + 'static>(
    node: u64,
    replica: Replica<SimRuntime>,
    look: impl FnOnce(&Replica<SimRuntime>, ReadPoint) -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let call = spawn_on(node, async move {
        let point = replica.read_point(CALL).await.map_err(|error| error.to_string())?;
        look(&replica, point)
    });
    match tokio::time::timeout(GIVES_UP, call).await {
        Err(_) => Err("no answer in time".into()),
        Ok(Err(_)) => Err("the node went away".into()),
        Ok(Ok(seen)) => seen,
    }
}

/// After everything was mended: each node takes a write, within a time.
pub(super) async fn last_writes(world: &World) -> Vec<String> {
    let mut wrong = Vec::new();
    for node in world.cluster.running() {
        let (number, began) = (world.life.clients + node, Instant::now());
        let record = node % world.life.records;
        let value = value_of(number, 1);
        let call = world.recorder.begin();
        let outcome = loop {
            let replica = world.cluster.replica(node).expect("it was listed as running");
            let outcome = propose(node, replica, put(number, 1, record, 0)).await;
            if matches!(outcome, Outcome::Written { .. }) || began.elapsed() > PATIENCE {
                break outcome;
            }
        };
        if !matches!(outcome, Outcome::Written { .. }) {
            wrong.push(format!("node {node} takes no write after everything was mended: {outcome:?}"));
        }
        let action = Action::Put { value: fingerprint(value) };
        let route = Route { node_asked: Some(node), ..Route::default() };
        world.recorder.end(call, number as u32, &path(record), action, outcome, route);
    }
    wrong
}
