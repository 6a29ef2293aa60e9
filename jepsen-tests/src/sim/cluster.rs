//! A simulated cluster: nodes that start, crash, lose their folders and come back on what their disks kept.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use saola_raft::folder::{DataFolder, FolderClaim};
use saola_raft::repair::{Repair, open_log};
use saola_raft::sim::{SimNetwork, SimRuntime, kill, random_u64, spawn_on};
use saola_raft::transport::Transport;
use saola_raft::{
    CollectorSettings, Member, Replica, ReplicaParts, ReplicaSettings, Role, ScrubSettings, StartError, Timing,
};
use saola_storage::disk::Disk;
use saola_storage::disk::sim::SimDisk;
use saola_storage::engine::memory::MemoryHome;
use saola_storage::log::{Log, LogSettings, LogState, LogWriter};
use saola_storage::store::{Keeps, Store, StoreSettings};
use tokio::sync::{Notify, watch};

use super::copy::FolderCopy;
use super::records::create_collection;

/// Segments small enough that a run goes through many.
const SEGMENT_BYTES: u64 = 64 << 10;
/// How long a cluster may take, in virtual time, to do what nothing prevents it from doing.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// A log that rests so long gets its mark, as in production.
const IDLE: Duration = Duration::from_millis(500);
const MAIN: &str = "main";
const DR: &str = "dr";

struct Node {
    member: Member,
    /// Whose certificate it shows.
    certified: String,
    folder: PathBuf,
    /// Folders that this node has had so far; the present one's id is made of it.
    folders: u8,
    disk: Arc<SimDisk>,
    home: Arc<MemoryHome>,
    /// Its log's disk hangs.
    hangs: watch::Sender<bool>,
    /// What its log's syncs take beyond the usual.
    slow_us: Arc<AtomicU64>,
    /// How far its wall clock is ahead.
    clock_off_us: Arc<AtomicI64>,
    life: Option<Running>,
    /// Index up to which its log was on disk when it ended.
    stored: u64,
}

/// What a running node is made of.
pub struct Running {
    replica: Replica<SimRuntime>,
    log: Log,
}

/// Nodes, their disks and the network between them.
pub struct Cluster {
    /// The network; cut it and heal it.
    pub network: Arc<SimNetwork>,
    /// Raft's timers.
    pub timing: Timing,
    /// Entries that a log keeps at least; nodes that start later take it.
    pub keep_entries: u64,
    /// How often the records are flushed and the log is purged; nodes that start later take it.
    pub flush_every: Duration,
    /// Bytes that a log holds for dead members; nodes that start later take it.
    pub log_keep_bytes: u64,
    /// How long it holds them; nodes that start later take it.
    pub log_keep_for: Duration,
    /// How old versions are removed.
    pub collector: CollectorSettings,
    /// Below so many free bytes a node has no room for writes; nodes that start later take it.
    pub min_free_bytes: u64,
    /// How copies of the records are checked; nodes that start later take it.
    pub scrub: ScrubSettings,
    /// Bytes of its records that a node sends in a second; nodes that start later take it.
    pub snapshot_bytes_per_s: u64,
    /// From when on the clocks of all nodes count; none: each one's counts from its own start, so that they differ.
    pub clocks_count_from: Option<tokio::time::Instant>,
    nodes: BTreeMap<u64, Node>,
    root: tempfile::TempDir,
}

/// A node that answers holds its way into the network, and the network all that answer: none of them would ever go.
impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.keys().for_each(|id| self.network.disconnect(*id));
    }
}

/// Virtual time begins in November 2023.
fn true_us(since: tokio::time::Instant) -> u64 {
    1_700_000_000_000_000 + since.elapsed().as_micros() as u64
}

impl Cluster {
    fn empty() -> Self {
        let root = tempfile::tempdir().expect("a temporary folder can be made");
        Self {
            network: SimNetwork::new(),
            timing: Timing::LAN,
            keep_entries: 100_000,
            flush_every: Duration::from_secs(30),
            log_keep_bytes: u64::MAX,
            log_keep_for: Duration::MAX,
            collector: CollectorSettings::default(),
            min_free_bytes: 0,
            scrub: ScrubSettings::default(),
            snapshot_bytes_per_s: 64 << 20,
            clocks_count_from: None,
            nodes: BTreeMap::new(),
            root,
        }
    }

    /// Node ids from 1, all at one site; `witness` makes the last one a witness. No node runs yet.
    pub fn new(size: u64, witness: bool) -> Self {
        let mut cluster = Self::empty();
        for id in 1..=size {
            cluster.add(id, MAIN, if witness && id == size { Role::Witness } else { Role::Voter });
        }
        cluster
    }

    /// 2+2+w: nodes 1 and 2 at the site main, 3 and 4 at dr, witness 5 at a third place. No node runs yet.
    pub fn two_sites() -> Self {
        Self::sites_of(2)
    }

    /// 3+3+w: nodes 1 to 3 at the site main, 4 to 6 at dr, witness 7 at a third place. No node runs yet.
    pub fn two_large_sites() -> Self {
        Self::sites_of(3)
    }

    fn sites_of(each: u64) -> Self {
        let mut cluster = Self::empty();
        for id in 1..=2 * each {
            cluster.add(id, if id <= each { MAIN } else { DR }, Role::Voter);
        }
        cluster.add(2 * each + 1, "third", Role::Witness);
        cluster
    }

    /// 3+2l: voters 1 to 3 at the site main, learners 4 and 5 at dr. No node runs yet.
    pub fn two_sites_without_witness() -> Self {
        let mut cluster = Self::empty();
        for id in 1..=3 {
            cluster.add(id, MAIN, Role::Voter);
        }
        for id in 4..=5 {
            cluster.add(id, DR, Role::Learner);
        }
        cluster
    }

    /// Adds a node with an empty folder. It does not run yet and belongs to no cluster.
    pub fn add(&mut self, id: u64, site: &str, role: Role) -> Member {
        let member = Member {
            node_id: id,
            name: format!("n{id}"),
            site: site.into(),
            role: role as i32,
            peer_address: SimNetwork::address(id),
            client_address: String::new(),
            folder_id: Default::default(),
            demoted: false,
        };
        let node = Node {
            member: member.clone(),
            certified: member.name.clone(),
            folder: self.root.path().join(id.to_string()),
            folders: 0,
            disk: Arc::new(SimDisk::new(random_u64())),
            home: Arc::new(MemoryHome::new()),
            hangs: watch::Sender::new(false),
            slow_us: Arc::default(),
            clock_off_us: Arc::default(),
            life: None,
            stored: 0,
        };
        self.nodes.insert(id, node);
        member
    }

    fn node(&self, id: u64) -> &Node {
        self.nodes.get(&id).expect("callers name nodes of this cluster")
    }

    fn node_mut(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).expect("callers name nodes of this cluster")
    }

    /// Numbers of all machines: the node ids, and those of twins.
    pub fn ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    /// All nodes, as a topology lists them.
    pub fn members(&self) -> Vec<Member> {
        self.nodes.values().map(|node| node.member.clone()).collect()
    }

    /// A running node.
    pub fn replica(&self, id: u64) -> Option<Replica<SimRuntime>> {
        self.nodes.get(&id)?.life.as_ref().map(|life| life.replica.clone())
    }

    /// Where a running node's log stands.
    pub fn log(&self, id: u64) -> Option<LogState> {
        self.nodes.get(&id)?.life.as_ref().map(|life| life.log.state())
    }

    /// Index up to which a node's log is on its disk, whether it runs or not.
    pub fn stored(&self, id: u64) -> u64 {
        let node = self.node(id);
        let now = node.life.as_ref().and_then(|life| life.log.stats().flushed_index);
        now.unwrap_or(node.stored)
    }

    /// A node's data folder.
    pub fn folder(&self, id: u64) -> &std::path::Path {
        &self.node(id).folder
    }

    /// A node's disk, to break it.
    pub fn disk(&self, id: u64) -> &SimDisk {
        &self.node(id).disk
    }

    /// A node's records, to damage them.
    pub fn records(&self, id: u64) -> &MemoryHome {
        &self.node(id).home
    }

    /// From now on no write of a node's log completes.
    pub fn hang_log(&self, id: u64) {
        self.node(id).hangs.send_replace(true);
    }

    /// The disk goes on, and completes what waits.
    pub fn release_log(&self, id: u64) {
        self.node(id).hangs.send_replace(false);
    }

    /// A sync of a node's log takes so much longer.
    pub fn slow_log(&self, id: u64, by: Duration) {
        self.node(id).slow_us.store(by.as_micros() as u64, Ordering::Relaxed);
    }

    /// What a wall clock shows that nobody set, where all count from one moment ([`Cluster::clocks_count_from`]).
    ///
    /// # Panics
    /// They count from their own starts.
    pub fn now_us(&self) -> u64 {
        true_us(self.clocks_count_from.expect("all clocks count from one moment"))
    }

    /// Somebody sets a node's wall clock.
    pub fn step_clock(&self, id: u64, by_us: i64) {
        self.node(id).clock_off_us.fetch_add(by_us, Ordering::Relaxed);
    }

    /// Its clock is ahead of the others by so much.
    pub fn step_clock_to(&self, id: u64, ahead_us: i64) {
        self.node(id).clock_off_us.store(ahead_us, Ordering::Relaxed);
    }

    /// A machine is gone for good; it does not run.
    pub fn forget(&mut self, id: u64) {
        assert!(self.node(id).life.is_none(), "a running machine stays");
        self.nodes.remove(&id);
    }

    /// Ids of all that run.
    pub fn running_machines(&self) -> Vec<u64> {
        self.nodes.iter().filter(|(_, node)| node.life.is_some()).map(|(id, _)| *id).collect()
    }

    /// Ids of running data nodes.
    pub fn running(&self) -> Vec<u64> {
        let runs = |node: &Node| node.life.is_some() && node.member.role_value().is_data();
        self.nodes.iter().filter(|(_, node)| runs(node)).map(|(id, _)| *id).collect()
    }

    /// Starts a node on what its disk holds; a damaged log is repaired from the others first.
    pub async fn start(&mut self, id: u64) {
        self.try_start(id).await.expect("a node that must refuse is for `try_start`");
    }

    /// The same, for a node that may have to refuse.
    pub async fn try_start(&mut self, id: u64) -> Result<(), StartError> {
        loop {
            match self.begin_start(id).await {
                Some(running) => {
                    self.has_started(id, running?);
                    return Ok(());
                }
                None => self.crash(id).await,
            }
        }
    }

    /// A node that was started runs.
    pub fn has_started(&mut self, id: u64, running: Running) {
        let node = self.nodes.get_mut(&id).expect("callers name nodes of this cluster");
        self.network.connect(id, &node.certified, running.replica.peer_service());
        node.life = Some(running);
    }

    /// Starts a node while other things go on: it may wait for others that are to be started too. If that is given up, the
    /// node must be ended with [`Cluster::give_up_start`]. None: it has lost power meanwhile.
    pub fn begin_start(&mut self, id: u64) -> impl Future<Output = Option<Result<Running, StartError>>> + Send + use<> {
        let (network, keep_entries, flush_every) = (self.network.clone(), self.keep_entries, self.flush_every);
        let (log_keep_bytes, log_keep_for) = (self.log_keep_bytes, self.log_keep_for);
        let (min_free_bytes, scrub) = (self.min_free_bytes, self.scrub);
        let (snapshot_bytes_per_s, clocks_count_from) = (self.snapshot_bytes_per_s, self.clocks_count_from);
        let (collector, timing) = (self.collector, self.timing);
        let node = self.node_mut(id);
        let role = node.member.role_value();
        let Member { node_id, name, site, .. } = node.member.clone();
        let claim = FolderClaim { node_id, name, site, role };
        let mut folder_id = [id as u8; 16];
        folder_id[0] = node.folders;
        let folder = DataFolder::open(&node.folder, claim, folder_id).expect("the folder is this node's own");
        if folder.lineage().reinstating.is_some() {
            // As production removes what is left from before.
            node.disk = Arc::new(SimDisk::new(random_u64()));
            if !role.is_data() {
                node.home = Arc::new(MemoryHome::new());
            }
        }
        let settings =
            LogSettings { segment_bytes: SEGMENT_BYTES, reserve_bytes: SEGMENT_BYTES, ..LogSettings::default() };
        let keeps = if role.is_data() { Keeps::Records } else { Keeps::LogIdsOnly };
        let store = Store::open(node.home.clone(), keeps, StoreSettings::default()).expect("memory opens");
        let transport: Arc<dyn Transport> = Arc::new(network.transport(id, &node.certified));
        let disk = node.disk.clone();
        let (asking, on, hangs) = (transport.clone(), disk.clone(), node.hangs.subscribe());
        let opened = spawn_on(id, async move {
            let waits = &watch::Sender::new(None);
            let repair = Repair { folder: &folder, store: &store, transport: asking, timing, waits };
            let opened = open_log::<SimRuntime, _>(on, settings, repair).await;
            opened.map(|(log, writer)| (folder, store, log, writer))
        });
        let path = node.folder.clone();
        let (slow_us, clock_off_us) = (node.slow_us.clone(), node.clock_off_us.clone());
        async move {
            let (folder, store, log, writer) = match opened.await.ok()? {
                Ok(opened) => opened,
                Err(source) => return Some(Err(StartError::Log { path, source })),
            };
            drive(id, &log, writer, hangs, slow_us);
            let parts = ReplicaParts {
                folder,
                log: log.clone(),
                store,
                transport,
                free_bytes: Box::new(move || disk.free_bytes()),
            };
            let started_at = clocks_count_from.unwrap_or_else(tokio::time::Instant::now);
            let settings = ReplicaSettings {
                timing,
                min_free_bytes,
                wall_clock: Arc::new(move || {
                    let true_us = true_us(started_at);
                    true_us.saturating_add_signed(clock_off_us.load(Ordering::Relaxed))
                }),
                keep_entries,
                flush_every,
                scrub,
                snapshot_bytes_per_s,
                log_keep_bytes,
                log_keep_for,
                collector,
            };
            // Started from the node's own task, so that everything it spawns belongs to the node.
            let started = spawn_on(id, Replica::<SimRuntime>::start_with(parts, settings)).await.ok()?;
            Some(started.map(|replica| Running { replica, log }))
        }
    }

    /// Ends a node that is being started.
    pub async fn give_up_start(&mut self, id: u64) {
        self.end(id).await;
        let node = self.node(id);
        node.disk.kill();
        node.home.crash();
    }

    /// Starts every node and makes one cluster of them, with a collection to write to.
    pub async fn init(&mut self) {
        self.start_all().await;
        let first = self.replica(1).expect("it was started");
        let members = self.members();
        // On the node's own task: Raft starts there, and its tasks must end with the node.
        let made = spawn_on(1, async move {
            first.init("sim", Vec::new(), members, [5; 32]).await.expect("a quiet cluster initialises");
            create_collection(&first).await;
        });
        made.await.expect("nothing aborts a quiet cluster");
    }

    /// Starts every node that does not run.
    pub async fn start_all(&mut self) {
        for id in self.ids() {
            if self.replica(id).is_none() {
                self.start(id).await;
            }
        }
    }

    async fn end(&mut self, id: u64) {
        self.network.disconnect(id);
        let stored = self.stored(id);
        let node = self.node_mut(id);
        (node.stored, node.life) = (stored, None);
        kill(id).await;
    }

    /// Power loss: what was not synced is lost or torn.
    pub async fn crash(&mut self, id: u64) {
        self.end(id).await;
        let node = self.node(id);
        node.disk.crash(random_u64());
        node.home.crash();
    }

    /// [`Cluster::crash`], where a node may be down already.
    pub async fn crash_if_it_runs(&mut self, id: u64) {
        if self.replica(id).is_some() {
            self.crash(id).await;
        }
    }

    /// The process dies, the machine goes on: what it wrote is still there.
    pub async fn kill(&mut self, id: u64) {
        self.end(id).await;
        let node = self.node(id);
        node.disk.kill();
        node.home.crash();
    }

    /// An orderly stop: leadership is handed over first.
    pub async fn stop(&mut self, id: u64) {
        let replica = self.replica(id).expect("callers stop nodes that run");
        spawn_on(id, async move { replica.shutdown().await }).await.expect("nothing aborts a stopping node");
        self.kill(id).await;
    }

    /// Gives a node that does not run an empty folder, as an operator does who replaces its disk.
    pub fn wipe(&mut self, id: u64) {
        let node = self.node_mut(id);
        assert!(node.life.is_none(), "a running node keeps its folder");
        std::fs::remove_dir_all(&node.folder).expect("the folder of a node that ran can be removed");
        node.folders += 1;
        node.stored = 0;
        node.disk = Arc::new(SimDisk::new(random_u64()));
        node.home = Arc::new(MemoryHome::new());
    }

    /// Copies the folder of a node that does not run; fails if a sector of it is bad.
    pub fn copy(&self, id: u64) -> io::Result<FolderCopy> {
        let node = self.node(id);
        assert!(node.life.is_none(), "the folder of a running node changes under the copy");
        FolderCopy::of(&node.disk, &node.home)
    }

    /// Sets up machine number `id` on a copy of the folder of a node that does not run: the same node with the same
    /// certificate at another address.
    pub fn twin(&mut self, id: u64, of: u64) {
        let (disk, home) = self.copy(of).expect("its disk reads").restore();
        let original = self.node(of);
        let folder = self.root.path().join(id.to_string());
        std::fs::create_dir(&folder).expect("the machine is new");
        std::fs::copy(original.folder.join("identity"), folder.join("identity")).expect("the node has run");
        let member = Member { peer_address: SimNetwork::address(id), ..original.member.clone() };
        let certified = member.name.clone();
        let hangs = watch::Sender::new(false);
        let (slow_us, clock_off_us) = Default::default();
        let twin = Node {
            certified,
            member,
            folder,
            folders: 0,
            disk,
            home,
            hangs,
            slow_us,
            clock_off_us,
            life: None,
            stored: 0,
        };
        self.nodes.insert(id, twin);
    }

    /// Gives a node another one's certificate, from its next start on.
    pub fn certify(&mut self, id: u64, name: &str) {
        self.node_mut(id).certified = name.to_owned();
    }

    /// Puts a copy back in place of what a node that does not run has now. The identity file stays: it is the same.
    pub fn put_back(&mut self, id: u64, copy: &FolderCopy) {
        let node = self.node_mut(id);
        assert!(node.life.is_none(), "a running node keeps its folder");
        (node.disk, node.home) = copy.restore();
    }

    /// Cuts one direction of one link, chosen at random.
    pub fn cut_one(&self) {
        let ids = self.ids();
        let pick = || ids[(random_u64() % ids.len() as u64) as usize];
        self.network.cut(pick(), pick());
    }

    /// Cuts both directions between every node of one group and every node of the other.
    pub fn part(&self, one: &[u64], other: &[u64]) {
        for a in one {
            for b in other {
                self.network.cut(*a, *b);
                self.network.cut(*b, *a);
            }
        }
    }
}

/// Runs the log's writer as a task, as its own thread does in production: syncs take a random while, or as long as the
/// disk hangs.
fn drive(
    id: u64,
    log: &Log,
    mut writer: LogWriter<SimDisk>,
    mut hangs: watch::Receiver<bool>,
    slow_us: Arc<AtomicU64>,
) {
    let work = Arc::new(Notify::new());
    let bell = work.clone();
    log.on_work(Box::new(move || bell.notify_one()));
    spawn_on(id, async move {
        loop {
            let rests = tokio::time::timeout(IDLE, work.notified()).await.is_err();
            let slow_us = slow_us.load(Ordering::Relaxed);
            tokio::time::sleep(Duration::from_micros(200 + random_u64() % 4_000 + slow_us)).await;
            if hangs.wait_for(|hangs| !hangs).await.is_err() {
                return;
            }
            let written = if rests { writer.idle_mark() } else { writer.step().map(|_| ()) };
            if written.is_err() {
                return;
            }
        }
    });
}
