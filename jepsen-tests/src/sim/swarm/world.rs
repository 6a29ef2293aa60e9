//! A cluster, and what has befallen it so far.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use saola_raft::sim::{
    SimRuntime, Weather, as_node, lose_power_no_more, paused, release_disk, resume, set_clock_rate, spawn_on, unpowered,
};
use saola_raft::{AdminError, Replica, ReplicaStatus, Role, StartError};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::clients::{Doors, Shown, call_until_told, read_there};
use super::dice::Dice;
use super::faults::{Fault, TURN_MS, WHOLE_WITHIN};
use super::life::{Life, Topology};
use super::watch::Watch;
use crate::history::Recorder;
use crate::sim::{Cluster, Running};

/// Below so many free bytes a node has no room for writes.
const ROOM: u64 = 1 << 20;
/// The nodes' digests are compared so often: a life is short.
const COMPARED: std::time::Duration = std::time::Duration::from_secs(2);
/// And where rows may be damaged, all are read so often.
const SCRUBBED: std::time::Duration = std::time::Duration::from_secs(5);
/// A start is waited for so long, and then goes on beside what else happens.
const STARTS_WITHIN: std::time::Duration = std::time::Duration::from_secs(2);

/// Where nodes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// The main site.
    Main,
    /// The other one.
    Dr,
    /// The witness's place.
    Third,
}

impl Site {
    fn name(self) -> &'static str {
        match self {
            Site::Main => "main",
            Site::Dr => "dr",
            Site::Third => "third",
        }
    }
}

/// What was done, line by line; it outlives a life that panics.
#[derive(Default)]
pub struct Story(Mutex<Vec<String>>);

impl Story {
    /// All lines so far.
    pub fn told(&self) -> Vec<String> {
        self.0.lock().clone()
    }

    pub(super) fn tell(&self, line: String) {
        self.0.lock().push(line);
    }
}

/// Everything that belongs to a life that is being lived.
pub struct World {
    pub(super) cluster: Cluster,
    pub(super) life: Life,
    pub(super) doors: Arc<Doors>,
    pub(super) recorder: Arc<Recorder>,
    pub(super) shown: Arc<Mutex<Shown>>,
    pub(super) watch: Watch,
    pub(super) weather: Weather,
    pub(super) met: BTreeMap<&'static str, u64>,
    pub(super) stopped: Arc<AtomicBool>,
    pub(super) callers: Vec<JoinHandle<()>>,
    began: Instant,
    story: Arc<Story>,
    /// Machines that are to run, and do not.
    down: BTreeSet<u64>,
    /// Machines that are being started: one with a damaged log waits for others.
    starting: BTreeMap<u64, JoinHandle<Option<Result<Running, StartError>>>>,
    /// Paused nodes, and when they go on; none: they lose power as soon as they are found paused.
    pauses: BTreeMap<u64, Option<Instant>>,
    /// Nodes whose disks lose power by themselves.
    unpowered: BTreeSet<u64>,
    /// Nodes that do not start any more, and why.
    pub(super) refuses: BTreeMap<u64, String>,
    /// A node that has come, and is to go again.
    guest: Option<u64>,
    next_id: u64,
}

impl World {
    /// Makes the cluster, and has clients call it.
    pub(super) async fn begin(life: &Life, recorder: Arc<Recorder>, story: Arc<Story>) -> World {
        let mut cluster = match life.topology {
            Topology::TwoAndTwo => Cluster::two_sites(),
            Topology::ThreeAndThree => Cluster::two_large_sites(),
            Topology::TwoSites => Cluster::two_sites_without_witness(),
            Topology::OneSite => Cluster::new(3, false),
        };
        cluster.keep_entries = life.keep_entries;
        cluster.flush_every = std::time::Duration::from_millis(life.flush_ms);
        cluster.min_free_bytes = ROOM;
        cluster.scrub.compare_every = COMPARED;
        if life.faults.contains(&Fault::DamagedRow) {
            cluster.scrub.every = SCRUBBED;
        }
        cluster.clocks_count_from = Some(Instant::now());
        cluster.init().await;
        let next_id = 1 + cluster.ids().into_iter().max().unwrap_or(0);
        let mut world = World {
            cluster,
            life: life.clone(),
            doors: Arc::default(),
            recorder,
            shown: Arc::default(),
            watch: Watch::new(!life.faults.iter().any(|it| it.takes_what_was_stored())),
            weather: Weather::default(),
            met: BTreeMap::new(),
            stopped: Arc::default(),
            callers: Vec::new(),
            began: Instant::now(),
            story,
            down: BTreeSet::new(),
            starting: BTreeMap::new(),
            pauses: BTreeMap::new(),
            unpowered: BTreeSet::new(),
            refuses: BTreeMap::new(),
            guest: None,
            next_id,
        };
        world.open_doors();
        world.callers = (0..life.clients).map(|number| call_until_told(&world, number)).collect();
        world
    }

    /// Turns in which faults happen.
    pub(super) async fn live(&mut self) {
        for turn in 0..self.life.turns {
            let mut dice = Dice::new(self.life.seed, 1_000 + turn);
            let (lasting, grave): (Vec<Fault>, Vec<Fault>) =
                self.life.faults.iter().partition(|it| !it.takes_what_was_stored());
            if !grave.is_empty() && dice.one_in(4) {
                self.be_whole().await;
                if let Some(fault) = dice.pick(&grave) {
                    self.strike(fault, &mut dice).await;
                }
                self.be_whole().await;
                continue;
            }
            for _ in 0..1 + dice.below(3) {
                if let Some(fault) = dice.pick(&lasting) {
                    self.strike(fault, &mut dice).await;
                }
                self.pass(dice.ms(0, TURN_MS)).await;
            }
            match dice.below(5) {
                0 => self.be_whole().await,
                1 | 2 => self.mend(),
                3 => self.start_all().await,
                _ => {}
            }
        }
    }

    /// Time passes; what ends by itself ends.
    pub(super) async fn pass(&mut self, time: std::time::Duration) {
        let end = Instant::now() + time;
        loop {
            self.tend().await;
            if Instant::now() >= end {
                return;
            }
            let step = std::time::Duration::from_millis(20);
            tokio::time::sleep_until(end.min(Instant::now() + step)).await;
        }
    }

    /// What a supervisor and time do: pauses end, processes that ended are noticed, those that want to start anew do.
    async fn tend(&mut self) {
        self.see_who_lost_power().await;
        self.see_who_started().await;
        self.watch.look(&self.cluster);
        let now = Instant::now();
        for (node, until) in self.pauses.clone() {
            match until {
                None if paused(node) => self.crash(node).await,
                Some(until) if until <= now => {
                    self.pauses.remove(&node);
                    resume(node);
                    self.tell(format!("{node} goes on"));
                }
                _ => {}
            }
        }
        for node in self.cluster.running_machines() {
            let Some(replica) = self.cluster.replica(node) else { continue };
            if replica.status().state == "stopped" {
                self.kill(node).await;
                self.tell(format!("{node} has ended by itself"));
            } else if replica.should_start_anew() {
                self.kill(node).await;
                self.start(node).await;
            }
        }
    }

    /// Links, disks and processes go on; what is down stays down.
    pub(super) fn mend(&mut self) {
        lose_power_no_more();
        self.cluster.network.heal();
        self.cluster.network.hurry();
        self.weather = Weather::default();
        for node in self.cluster.ids() {
            self.cluster.release_log(node);
            self.cluster.slow_log(node, std::time::Duration::ZERO);
            self.cluster.step_clock_to(node, 0);
            set_clock_rate(node, 1_000);
            release_disk(node);
            self.cluster.disk(node).set_capacity(u64::MAX);
            if !self.unpowered.contains(&node) {
                self.cluster.disk(node).mend();
            }
            if self.pauses.remove(&node).is_some() {
                resume(node);
            }
        }
        self.tell("mended".into());
    }

    pub(super) async fn start_all(&mut self) {
        for node in self.down.clone() {
            self.start(node).await;
        }
    }

    /// All but one that is gone for good.
    pub(super) async fn start_all_but(&mut self, gone: u64) {
        self.down.remove(&gone);
        self.start_all().await;
    }

    /// Everything works and runs, nobody calls, and all have everything; the guest is gone.
    pub(super) async fn be_whole(&mut self) {
        self.doors.close();
        self.mend();
        for node in std::mem::take(&mut self.unpowered) {
            self.crash(node).await;
            // A dead disk stays dead when the power goes.
            self.cluster.disk(node).mend();
        }
        let began = Instant::now();
        loop {
            self.start_all().await;
            self.tend().await;
            match self.lacks() {
                None if self.guest.is_none() => break,
                None => self.send_guest_away().await,
                Some(what) => {
                    assert!(began.elapsed() < WHOLE_WITHIN, "not whole within {WHOLE_WITHIN:?}: {what}");
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        self.doors.open();
        self.tell("whole".into());
    }

    /// What is still missing until the cluster is whole.
    pub(super) fn lacks(&self) -> Option<String> {
        let mut seen = Vec::new();
        for node in self.cluster.ids().into_iter().filter(|node| Some(*node) != self.guest) {
            let Some(replica) = self.cluster.replica(node) else {
                return Some(format!("{node} does not run: {:?}", self.refuses.get(&node)));
            };
            let status = as_node(node, || replica.status());
            if !["leader", "follower", "learner", "witness"].contains(&status.state) {
                return Some(format!("{node} is {}: {:?}", status.state, status.refused_by_peers));
            }
            if let Some(why) = status.writes_refused {
                return Some(format!("{node} refuses writes: {why}"));
            }
            seen.push((node, status));
        }
        let leads = |id: &u64| self.cluster.replica(*id).is_some_and(|it| it.status().state == "leader");
        let leaders: Vec<u64> = self.cluster.running_machines().into_iter().filter(leads).collect();
        if leaders.len() != 1 {
            let stand = |(node, it): &(u64, ReplicaStatus)| format!("{node} is {} in term {}", it.state, it.term);
            let all: Vec<String> = seen.iter().map(stand).collect();
            return Some(format!("{leaders:?} lead; {}", all.join(", ")));
        }
        let newest = seen.iter().map(|(_, it)| it.last_log_index).max().unwrap_or(0);
        let behind = seen
            .iter()
            .find(|(node, it)| it.last_log_index < newest || (self.keeps_records(*node) && it.applied_index < newest));
        behind.map(|(node, it)| {
            format!("{node} has {} of {newest} entries, {} applied", it.last_log_index, it.applied_index)
        })
    }

    pub(super) fn keeps_records(&self, node: u64) -> bool {
        self.cluster.members().iter().any(|it| it.node_id == node && it.role_value().is_data())
    }

    pub(super) fn at(&self, site: Site) -> Vec<u64> {
        self.cluster.members().into_iter().filter(|it| it.site == site.name()).map(|it| it.node_id).collect()
    }

    pub(super) fn leader(&self) -> Option<u64> {
        let statuses =
            self.cluster.running().into_iter().filter_map(|id| Some((id, self.cluster.replica(id)?.status())));
        statuses.filter(|(_, it)| it.state == "leader").max_by_key(|(_, it)| it.term).map(|(id, _)| id)
    }

    pub(super) fn open_doors(&self) {
        let data = self.cluster.running();
        self.doors.set(data.into_iter().filter_map(|id| Some((id, self.cluster.replica(id)?))).collect());
    }

    /// Has a node started; it may take a while longer.
    pub(super) async fn start(&mut self, node: u64) {
        self.down.remove(&node);
        if self.cluster.replica(node).is_some() || self.starting.contains_key(&node) {
            return;
        }
        let starts = self.cluster.begin_start(node);
        self.starting.insert(node, spawn_on(0, starts));
        let began = Instant::now();
        while self.starting.contains_key(&node) && began.elapsed() < STARTS_WITHIN {
            self.see_who_lost_power().await;
            self.see_who_started().await;
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    async fn see_who_started(&mut self) {
        let off = unpowered();
        let has_ended = |(node, starts): &(&u64, &JoinHandle<_>)| starts.is_finished() && !off.contains_key(node);
        let ended: Vec<u64> = self.starting.iter().filter(has_ended).map(|(node, _)| *node).collect();
        for node in ended {
            let Some(starts) = self.starting.remove(&node) else { continue };
            let started = starts.await.expect("a start that is given up is not waited for");
            match started.expect("a node that has power answers its start") {
                Ok(running) => {
                    self.refuses.remove(&node);
                    self.cluster.has_started(node, running);
                    self.watch.forget(node);
                    self.open_doors();
                    self.tell(format!("{node} started"));
                }
                Err(error) => {
                    self.cluster.give_up_start(node).await;
                    let chain = std::iter::successors(Some(&error as &dyn std::error::Error), |it| it.source());
                    let why: Vec<String> = chain.map(ToString::to_string).collect();
                    self.tell(format!("{node} refuses to start"));
                    self.refuses.insert(node, why.join(": "));
                    // A supervisor tries again: room may have been made.
                    self.down.insert(node);
                }
            }
        }
    }

    /// Those whom [`saola_raft::sim::lose_power_at`] met.
    async fn see_who_lost_power(&mut self) {
        for (node, point) in unpowered() {
            self.tell(format!("{node} was at {}", point.name()));
            match self.starting.remove(&node) {
                None => self.crash(node).await,
                Some(starts) => {
                    // It lets go of the folder.
                    let _ended = starts.await;
                    self.cluster.crash(node).await;
                    self.is_down(node, "lost power while it started");
                }
            }
        }
    }

    async fn give_up_start(&mut self, node: u64) {
        if let Some(starts) = self.starting.remove(&node) {
            starts.abort();
            // It lets go of the folder.
            let _aborted = starts.await;
            self.cluster.give_up_start(node).await;
            self.is_down(node, "was killed while it started");
        }
    }

    pub(super) async fn crash(&mut self, node: u64) {
        self.pauses.remove(&node);
        self.unpowered.remove(&node);
        self.give_up_start(node).await;
        if self.cluster.replica(node).is_some() {
            self.doors.shut(node);
            self.cluster.crash(node).await;
            self.is_down(node, "lost power");
        }
    }

    pub(super) async fn kill(&mut self, node: u64) {
        if self.unpowered.contains(&node) {
            return self.crash(node).await;
        }
        self.see_who_lost_power().await;
        self.pauses.remove(&node);
        self.give_up_start(node).await;
        if self.cluster.replica(node).is_some() {
            self.doors.shut(node);
            self.cluster.kill(node).await;
            self.is_down(node, "was killed");
        }
    }

    pub(super) async fn stop(&mut self, node: u64) {
        // Whoever stands still does not shut down.
        if self.cluster.replica(node).is_some() && !paused(node) {
            let replica = self.cluster.replica(node).expect("it runs");
            let limit = std::time::Duration::from_secs(20);
            let stopped = tokio::time::timeout(limit, spawn_on(node, async move { replica.shutdown().await })).await;
            if stopped.is_err() {
                self.tell(format!("{node} did not shut down in {limit:?}"));
            }
        }
        self.kill(node).await;
    }

    fn is_down(&mut self, node: u64, how: &str) {
        self.down.insert(node);
        self.tell(format!("{node} {how}"));
    }

    /// A machine is gone for good.
    pub(super) async fn forget(&mut self, node: u64) {
        self.kill(node).await;
        self.down.remove(&node);
        self.refuses.remove(&node);
        self.cluster.forget(node);
    }

    pub(super) fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// One more client, who reads there for a while.
    pub(super) fn have_one_read_at(&mut self, node: u64, time: std::time::Duration) {
        // None of the others calls itself so.
        let number = 10_000 + self.callers.len() as u64;
        self.callers.push(read_there(self, number, node, time));
    }

    pub(super) fn dies_when_paused(&mut self, node: u64) {
        self.pauses.insert(node, None);
    }

    pub(super) fn goes_on_at(&mut self, node: u64, at: Instant) {
        self.pauses.insert(node, Some(at));
    }

    pub(super) fn loses_power(&mut self, node: u64) {
        self.unpowered.insert(node);
    }

    /// Has a node do something, whatever comes of it.
    pub(super) fn ask<F>(&self, node: u64, act: impl FnOnce(Replica<SimRuntime>) -> F + Send + 'static)
    where
        F: Future<Output = Result<(), AdminError>> + Send + 'static,
    {
        if let Some(replica) = self.cluster.replica(node) {
            drop(spawn_on(node, async move { act(replica).await }));
        }
    }

    /// A new node asks to be a member, unless there is a guest already.
    pub(super) async fn have_one_join(&mut self, dice: &mut Dice) {
        if self.guest.is_some() {
            return;
        }
        let id = self.new_id();
        let role = if dice.one_in(2) { Role::Learner } else { Role::Voter };
        let member = self.cluster.add(id, Site::Main.name(), role);
        self.guest = Some(id);
        self.start(id).await;
        if let Some(through) = dice.pick(&self.cluster.running()) {
            self.ask(through, move |replica| async move { replica.add_member(member).await.map(drop) });
        }
    }

    async fn send_guest_away(&mut self) {
        let Some(guest) = self.guest else { return };
        let is_member = |world: &World| {
            let leader = world.leader().and_then(|id| world.cluster.replica(id));
            leader.is_none_or(|it| it.status().members.iter().any(|member| member.node_id == guest))
        };
        if is_member(self) {
            let host = self.at(Site::Main).into_iter().find(|it| *it != guest && self.cluster.replica(*it).is_some());
            let leads = self.leader() == Some(guest);
            let (Some(host), Some(through)) = (host, self.leader()) else { return };
            let Some(replica) = self.cluster.replica(through) else { return };
            let going = spawn_on(through, async move {
                match leads {
                    true => replica.transfer(host).await.is_ok_and(|()| false),
                    false => replica.remove_member(guest).await.is_ok(),
                }
            });
            if !matches!(going.await, Ok(true)) {
                return;
            }
        }
        self.guest = None;
        self.forget(guest).await;
    }

    pub(super) fn happened(&mut self, fault: Fault, node: u64) {
        *self.met.entry(fault.name()).or_default() += 1;
        self.tell(format!("{} {node}", fault.name()));
    }

    pub(super) fn tell(&self, what: String) {
        self.story.tell(format!("{:>9.3} {what}", self.began.elapsed().as_secs_f64()));
    }

    pub(super) fn stop_clients(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(super) fn lived_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }
}
