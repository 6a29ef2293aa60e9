//! Nodes of one cluster in a temporary folder. All are voters at site `main`; node `n` is called `main-n`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use saola_client::proto::{Member, NodeStatus, Role, Site, StatusResponse, Topology};
use saola_client::{Client, CreateCollection, Error, Tls, Written};
use saola_node::entropy;
use saola_storage::kek::{KekPrivate, KekProvider};
use tempfile::TempDir;

use super::certs::{Authority, Pair, Valid};
use super::ports;
use super::process::NodeProcess;
use super::wait::{LIMIT, until, within};

/// Collection that [`Cluster::init`] creates.
pub const COLLECTION: &str = "people";
/// Deadline of calls that should succeed.
const PATIENT: Duration = Duration::from_secs(20);
const MIN_FREE_BYTES: i64 = 1 << 20;
/// Lines of a node's log that a failure shows.
const LOG_LINES: usize = 20;

/// One node's files and, while it runs, its process.
pub struct Node {
    pub id: u64,
    pub name: String,
    pub folder: PathBuf,
    pub peer: String,
    pub client: String,
    pub metrics: String,
    /// Changed settings take effect at the next start.
    pub settings: toml::Table,
    /// Replaces the usual SAOLA_LOG at the next start.
    pub log_filter: Option<&'static str>,
    process: Option<NodeProcess>,
}

impl Node {
    pub fn settings_file(&self) -> PathBuf {
        let path = self.folder.join("node.toml");
        fs::write(&path, toml::to_string(&self.settings).unwrap()).unwrap();
        path
    }

    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub fn kek(&self) -> PathBuf {
        self.folder.join("main.kek")
    }

    /// What it has printed since it was first started.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("node.log")).unwrap_or_default()
    }

    pub fn set(&mut self, section: &str, key: &str, value: impl Into<toml::Value>) {
        self.settings[section].as_table_mut().unwrap().insert(key.into(), value.into());
    }

    /// Starts it without waiting for anything.
    pub fn spawn(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let settings = self.settings_file();
        self.process = Some(NodeProcess::start(&settings, &self.folder.join("node.log"), self.log_filter));
    }

    pub fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
    }

    pub async fn terminate(&mut self) -> ExitStatus {
        self.process.take().expect("it runs").terminate().await
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().expect("it was started").ended()
    }
}

pub struct Cluster {
    pub authority: Authority,
    pub nodes: Vec<Node>,
    pub client_pair: Pair,
    client: Client,
    kek_public: Vec<u8>,
    folder: TempDir,
}

impl Cluster {
    /// Files of `size` nodes; none runs yet.
    pub fn prepare(size: u64) -> Cluster {
        let folder = TempDir::new().unwrap();
        let authority = Authority::new();
        let kek = KekPrivate::from_random(entropy::secret().unwrap());
        let nodes: Vec<Node> = (1..=size).map(|id| node(folder.path(), &authority, &kek, id)).collect();
        let client_pair = authority.client("tester", Valid::Now);
        let client = Client::builder()
            .endpoints(nodes.iter().map(|node| node.client.clone()))
            .tls(tls(&authority, &client_pair))
            .deadline(PATIENT)
            .build()
            .unwrap();
        Cluster { kek_public: kek.public().0.to_vec(), authority, nodes, client_pair, client, folder }
    }

    /// A running cluster with the collection [`COLLECTION`].
    pub async fn running(size: u64) -> Cluster {
        let mut cluster = Cluster::prepare(size);
        cluster.start_and_init().await;
        cluster
    }

    /// Three nodes whose leader nobody doubts for longer than a test waits: leadership moves only when it is handed
    /// over, also when the machine is so busy that heartbeats are late.
    pub async fn running_without_elections() -> Cluster {
        let mut cluster = Cluster::prepare(3);
        for node in &mut cluster.nodes {
            let (min, max) = (2 * LIMIT.as_millis(), 3 * LIMIT.as_millis());
            let timing = format!("heartbeat_ms = 50\nelection_min_ms = {min}\nelection_max_ms = {max}");
            node.settings.insert("timing".into(), toml::from_str(&timing).unwrap());
        }
        cluster.start_and_init().await;
        cluster
    }

    /// Starts all nodes and makes a cluster of them.
    pub async fn start_and_init(&mut self) {
        for node in &mut self.nodes {
            node.spawn();
        }
        for index in 0..self.nodes.len() {
            self.wait_for_answer(index).await;
        }
        self.init().await;
    }

    /// Makes a cluster of the nodes, which answer already.
    pub async fn init(&self) {
        let first = self.at(0);
        first.cluster_init(self.topology()).await.unwrap();
        self.wait_for(0, "a leader", |status| status.leader != 0).await;
        self.client.create_collection(CreateCollection::new(COLLECTION)).await.unwrap();
    }

    pub fn topology(&self) -> Topology {
        let member = |node: &Node| Member {
            node_id: node.id,
            name: node.name.clone(),
            site: "main".into(),
            role: Role::Voter.into(),
            peer_address: node.peer.clone(),
            client_address: node.client.clone(),
        };
        Topology {
            cluster_name: "test".into(),
            sites: vec![Site { name: "main".into(), kek_public: self.kek_public.clone().into() }],
            members: self.nodes.iter().map(member).collect(),
        }
    }

    /// Sets up a copy of a node that does not run, certificate and data included, on ports of its own. Answers its index.
    pub fn twin(&mut self, index: usize) -> usize {
        let original = &self.nodes[index];
        let folder = self.path(&format!("{}-twin", original.name));
        copy_folder(&original.folder, &folder);
        let mut twin = Node {
            id: original.id,
            name: original.name.clone(),
            folder,
            peer: ports::free(),
            client: ports::free(),
            metrics: ports::free(),
            settings: original.settings.clone(),
            log_filter: None,
            process: None,
        };
        for (key, port) in
            [("peer", twin.peer.clone()), ("client", twin.client.clone()), ("metrics", twin.metrics.clone())]
        {
            twin.set("listen", key, port);
        }
        self.nodes.push(twin);
        self.nodes.len() - 1
    }

    /// A temporary folder's path, gone with the cluster.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A client that knows all nodes.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A client pinned to one node.
    pub fn at(&self, index: usize) -> Client {
        self.client.at_endpoint(&self.nodes[index].client).unwrap()
    }

    /// A client with its own certificate, pinned to one node.
    pub fn client_as(&self, trusted: &Authority, pair: &Pair, index: usize) -> Client {
        let endpoint = self.nodes[index].client.as_str();
        let client = Client::builder().endpoints([endpoint]).tls(tls(trusted, pair)).deadline(PATIENT).build();
        client.unwrap().at_endpoint(endpoint).unwrap()
    }

    /// Starts a node and waits until it answers.
    pub async fn start(&mut self, index: usize) -> NodeStatus {
        self.nodes[index].spawn();
        self.wait_for_answer(index).await
    }

    async fn wait_for_answer(&mut self, index: usize) -> NodeStatus {
        let client = self.at(index).with_deadline(Duration::from_secs(1));
        let node = &mut self.nodes[index];
        until(&format!("{} answers", node.name), async || {
            if let Some(status) = node.ended() {
                panic!("{} ended with {status}: {}", node.name, node.log());
            }
            let status = client.cluster_status(true).await.map_err(|error| error.to_string())?;
            Ok(own(&status, node.id))
        })
        .await
    }

    /// What a node says of itself and of the cluster, without asking the others.
    pub async fn status(&self, index: usize) -> StatusResponse {
        self.at(index).cluster_status(true).await.unwrap()
    }

    /// What a node says of itself.
    pub async fn own_status(&self, index: usize) -> NodeStatus {
        own(&self.status(index).await, self.nodes[index].id)
    }

    /// Waits until what a node says fits.
    pub async fn wait_for(&self, index: usize, what: &str, fits: impl Fn(&StatusResponse) -> bool) -> StatusResponse {
        let client = self.at(index);
        let fitting = within(async || {
            let status = client.cluster_status(false).await.map_err(|error| error.to_string())?;
            if fits(&status) { Ok(status) } else { Err(in_short(&status)) }
        });
        let name = &self.nodes[index].name;
        fitting.await.unwrap_or_else(|still| panic!("{name} sees {what}: {still}{}", self.ends_of_logs()))
    }

    fn ends_of_logs(&self) -> String {
        let end = |node: &Node| {
            let log = node.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
            format!("\n--- {} printed {} lines, the last:\n{}", node.name, lines.len(), last.join("\n"))
        };
        self.nodes.iter().map(end).collect()
    }

    /// Index of the node that leads.
    pub async fn leader(&self) -> usize {
        let led = |status: &StatusResponse| self.nodes.iter().any(|node| node.id == status.leader);
        let leader = self.wait_for(0, "a leader", led).await.leader;
        self.nodes.iter().position(|node| node.id == leader).unwrap()
    }

    pub async fn put(&self, id: &str, value: &str) -> Written {
        self.client.put(COLLECTION, id.to_owned(), value.to_owned()).send().await.unwrap()
    }

    pub async fn value(&self, id: &str) -> Option<String> {
        value_at(&self.client, id).await.unwrap()
    }
}

/// Value of a record as a node or a cluster has it.
pub async fn value_at(client: &Client, id: &str) -> Result<Option<String>, Error> {
    let version = client.get(COLLECTION, id.to_owned()).send().await?.value;
    Ok(version.map(|version| String::from_utf8(version.value.to_vec()).unwrap()))
}

/// A line per node: what tests wait for.
fn in_short(status: &StatusResponse) -> String {
    let line = |node: &NodeStatus| {
        let name = node.member.as_ref().map_or("?", |member| member.name.as_str());
        let NodeStatus { state, reachable, revision, error, .. } = node;
        format!("\n{name}: {state}, reachable {reachable}, revision {revision}, error {error:?}")
    };
    format!("leader {}{}", status.leader, status.nodes.iter().map(line).collect::<String>())
}

/// The part of a status that a node says of itself.
pub fn own(status: &StatusResponse, id: u64) -> NodeStatus {
    let own = |node: &&NodeStatus| node.member.as_ref().is_some_and(|member| member.node_id == id);
    status.nodes.iter().find(own).cloned().expect("a node knows itself")
}

pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), &target).unwrap()),
        }
    }
}

pub fn tls(trusted: &Authority, pair: &Pair) -> Tls {
    Tls {
        ca_pem: trusted.pem.clone().into(),
        cert_pem: pair.cert_pem.clone().into(),
        key_pem: pair.key_pem.clone().into(),
    }
}

fn node(cluster: &Path, authority: &Authority, kek: &KekPrivate, id: u64) -> Node {
    let name = format!("main-{id}");
    let folder = cluster.join(&name);
    fs::create_dir(&folder).unwrap();
    let pair = authority.node(&name, Valid::Now);
    for (file, text) in [("ca.pem", &authority.pem), ("node.pem", &pair.cert_pem), ("node.key", &pair.key_pem)] {
        fs::write(folder.join(file), text).unwrap();
    }
    kek.write_file(&folder.join("main.kek")).unwrap();
    let (peer, client, metrics) = (ports::free(), ports::free(), ports::free());
    let settings = toml::toml! {
        [node]
        name = "to be set"
        node_id = 0
        site = "main"
        role = "voter"
        data_dir = "data"
        [tls]
        ca = "ca.pem"
        cert = "node.pem"
        key = "node.key"
        [kek]
        file = "main.kek"
        [timing]
        preset = "lan"
        [listen]
        [limits]
    };
    let mut node = Node {
        id,
        name: name.clone(),
        folder,
        peer: peer.clone(),
        client: client.clone(),
        metrics: metrics.clone(),
        settings,
        log_filter: None,
        process: None,
    };
    node.set("node", "name", name);
    node.set("node", "node_id", i64::try_from(id).unwrap());
    node.set("listen", "peer", peer);
    node.set("listen", "client", client);
    node.set("listen", "metrics", metrics);
    node.set("limits", "min_free_bytes", MIN_FREE_BYTES);
    node
}
