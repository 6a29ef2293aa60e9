//! A simulated cluster: nodes that start, crash and come back on what their disks kept.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use saola_raft::folder::{DataFolder, FolderClaim};
use saola_raft::sim::{SimNetwork, SimRuntime, kill, random_u64, spawn_on};
use saola_raft::{Member, Replica, ReplicaParts, ReplicaSettings, Role, Timing};
use saola_storage::disk::Disk;
use saola_storage::disk::sim::SimDisk;
use saola_storage::engine::memory::MemoryHome;
use saola_storage::log::{Log, LogSettings, LogWriter};
use saola_storage::store::{Keeps, Store, StoreSettings};
use tokio::sync::Notify;

/// Segments small enough that a run goes through many.
const SEGMENT_BYTES: u64 = 64 << 10;

struct Node {
    member: Member,
    folder: PathBuf,
    disk: Arc<SimDisk>,
    home: Arc<MemoryHome>,
    replica: Option<Replica<SimRuntime>>,
}

/// Nodes, their disks and the network between them.
pub struct Cluster {
    /// The network; cut it and heal it.
    pub network: Arc<SimNetwork>,
    nodes: BTreeMap<u64, Node>,
    root: tempfile::TempDir,
}

impl Cluster {
    /// Node ids from 1; `witness` makes the last one a witness. No node runs yet.
    pub fn new(size: u64, witness: bool) -> Self {
        let root = tempfile::tempdir().expect("a temporary folder can be made");
        let nodes = (1..=size).map(|id| (id, Self::node(root.path(), id, witness && id == size))).collect();
        Self { network: SimNetwork::new(), nodes, root }
    }

    fn node(root: &Path, id: u64, witness: bool) -> Node {
        let role = if witness { Role::Witness } else { Role::Voter };
        let member = Member {
            node_id: id,
            name: format!("n{id}"),
            site: "main".into(),
            role: role as i32,
            peer_address: SimNetwork::address(id),
            client_address: String::new(),
            folder_id: Default::default(),
        };
        Node {
            member,
            folder: root.join(id.to_string()),
            disk: Arc::new(SimDisk::new(random_u64())),
            home: Arc::new(MemoryHome::new()),
            replica: None,
        }
    }

    /// All node ids.
    pub fn ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    /// Members as a topology lists them.
    pub fn members(&self) -> Vec<Member> {
        self.nodes.values().map(|node| node.member.clone()).collect()
    }

    /// A running node.
    pub fn replica(&self, id: u64) -> Option<Replica<SimRuntime>> {
        self.nodes.get(&id).and_then(|node| node.replica.clone())
    }

    /// Ids of running data nodes.
    pub fn running(&self) -> Vec<u64> {
        let runs = |node: &&Node| node.replica.is_some() && node.member.role_value().is_data();
        self.nodes.values().filter(runs).map(|node| node.member.node_id).collect()
    }

    /// Starts a node on what its disk holds.
    pub async fn start(&mut self, id: u64) {
        let network = self.network.clone();
        let node = self.nodes.get_mut(&id).expect("callers name nodes of this cluster");
        let role = node.member.role_value();
        let claim = FolderClaim { node_id: id, name: node.member.name.clone(), site: node.member.site.clone(), role };
        let folder = DataFolder::open(&node.folder, claim, [id as u8; 16]).expect("the folder is this node's own");
        let settings = LogSettings { segment_bytes: SEGMENT_BYTES, ..LogSettings::default() };
        let (log, writer) = Log::open(node.disk.clone(), settings).expect("no rot is injected here");
        let keeps = if role.is_data() { Keeps::Records } else { Keeps::LogIdsOnly };
        let store = Store::open(node.home.clone(), keeps, StoreSettings::default()).expect("memory opens");
        drive(id, &log, writer);
        let disk = node.disk.clone();
        let parts = ReplicaParts {
            folder,
            log,
            store,
            transport: Arc::new(network.transport(id)),
            free_bytes: Box::new(move || disk.free_bytes()),
        };
        let started_at = tokio::time::Instant::now();
        let settings = ReplicaSettings {
            timing: Timing::LAN,
            min_free_bytes: 0,
            wall_clock: Arc::new(move || 1_700_000_000_000_000 + started_at.elapsed().as_micros() as u64),
        };
        // Started from the node's own task, so that everything it spawns belongs to the node.
        let replica = spawn_on(id, Replica::<SimRuntime>::start_with(parts, settings))
            .await
            .expect("nothing aborts a starting node")
            .expect("a simulated node starts");
        network.connect(id, replica.peer_service());
        node.replica = Some(replica);
    }

    /// Power loss: what was not synced is lost or torn.
    pub async fn crash(&mut self, id: u64) {
        self.network.disconnect(id);
        let node = self.nodes.get_mut(&id).expect("callers name nodes of this cluster");
        node.replica = None;
        kill(id).await;
        node.disk.crash(random_u64());
        node.home.crash();
    }

    /// Cuts one direction of one link, chosen at random.
    pub fn cut_one(&self) {
        let ids = self.ids();
        let pick = || ids[(random_u64() % ids.len() as u64) as usize];
        self.network.cut(pick(), pick());
    }

    /// Where the folders are.
    pub fn root(&self) -> &Path {
        self.root.path()
    }
}

/// Runs the log's writer as a task: syncs take a random while.
fn drive(id: u64, log: &Log, mut writer: LogWriter<SimDisk>) {
    let work = Arc::new(Notify::new());
    let bell = work.clone();
    log.on_work(Box::new(move || bell.notify_one()));
    spawn_on(id, async move {
        loop {
            work.notified().await;
            tokio::time::sleep(Duration::from_micros(200 + random_u64() % 4_000)).await;
            if writer.step().is_err() {
                return;
            }
        }
    });
}
