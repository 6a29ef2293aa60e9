//! A running local cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{join_all, select_all};
use saola_client::proto::{NodeStatus, StatusResponse};
use saola_client::{Client, Tls};
use tempfile::TempDir;

use super::files::{self, NodeFiles};
use super::plan::{Plan, PlannedNode};
use super::ports::Ports;
use super::process::NodeProcess;
use super::wait::wait_until;
use crate::exit::{Exit, Failure};
use crate::topology::{Node, Role, Topology};

/// A node has so long to answer after its start, and a cluster to find its leader.
const START_LIMIT: Duration = Duration::from_secs(60);
/// One question about a node's state.
const ASK_LIMIT: Duration = Duration::from_secs(1);
/// Calls of clients made here, unless they set another deadline.
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// Where a local cluster's files go.
#[derive(Clone, Debug)]
pub enum Place {
    /// A temporary folder, removed with the cluster.
    Temporary,
    /// This folder, fresh or empty, which stays.
    Folder(PathBuf),
}

/// Nodes as child processes. Dropping it kills them, then removes a temporary folder.
#[derive(Debug)]
pub struct LocalCluster {
    // Dropped before the folder.
    nodes: Vec<LocalNode>,
    temporary: Option<TempDir>,
    folder: PathBuf,
    binary: PathBuf,
    plan: Plan,
    topology: Topology,
    client: Client,
    how_to_talk: [PathBuf; 3],
    /// Kept for nodes that are down.
    ports: Vec<Ports>,
}

/// One node of it.
#[derive(Debug)]
struct LocalNode {
    node: Node,
    files: NodeFiles,
    process: Option<NodeProcess>,
}

impl LocalCluster {
    /// Writes the files of `plan`; starts nothing yet.
    ///
    /// # Errors
    /// As [`files::write`].
    pub fn prepare(plan: &Plan, place: Place, binary: &Path) -> Result<LocalCluster, Failure> {
        let (temporary, folder) = match place {
            Place::Temporary => {
                let made = tempfile::Builder::new().prefix(&format!("saola-{}-", plan.cluster_name)).tempdir();
                let made = made.map_err(|source| Failure::file("make a temporary folder", &source))?;
                let folder = made.path().to_owned();
                (Some(made), folder)
            }
            Place::Folder(folder) => (None, folder),
        };
        let written = files::write(plan, &folder, binary)?;
        let tls = Tls::from_files(&written.ca, &written.client.cert, &written.client.key)?;
        let client = Client::builder()
            .endpoints(files::data_endpoints(&written.topology))
            .tls(tls)
            .deadline(CALL_DEADLINE)
            .build()?;
        let node =
            |node: &Node| LocalNode { node: node.clone(), files: NodeFiles::of(&folder, &node.name), process: None };
        Ok(LocalCluster {
            nodes: written.topology.node.iter().map(node).collect(),
            temporary,
            binary: binary.to_owned(),
            plan: plan.clone(),
            topology: written.topology,
            client,
            how_to_talk: [written.ca, written.client.cert, written.client.key],
            ports: vec![written.ports],
            folder,
        })
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The topology that it was made from.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// A node's paths.
    ///
    /// # Errors
    /// When there is no node of that name.
    pub fn files(&self, name: &str) -> Result<&NodeFiles, Failure> {
        Ok(&self.nodes[self.position(name)?].files)
    }

    /// A client that knows all data nodes; clones share one identity.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A client with an identity of its own that knows all data nodes.
    ///
    /// # Errors
    /// Certificates that cannot be read.
    pub fn new_client(&self) -> Result<Client, Failure> {
        let [ca, cert, key] = &self.how_to_talk;
        let tls = Tls::from_files(ca, cert, key)?;
        let endpoints = files::data_endpoints(&self.topology);
        Ok(Client::builder().endpoints(endpoints).tls(tls).deadline(CALL_DEADLINE).build()?)
    }

    /// A client that talks to one node only.
    ///
    /// # Errors
    /// When there is no node of that name.
    pub fn client_at(&self, name: &str) -> Result<Client, Failure> {
        Ok(self.client.at_endpoint(&self.nodes[self.position(name)?].node.client_address)?)
    }

    /// Lines to paste into a shell.
    ///
    /// # Errors
    /// A folder whose absolute path cannot be told.
    pub fn how_to_talk(&self) -> Result<Vec<String>, Failure> {
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(|source| Failure::file(format!("find {}", path.display()), &source))
        };
        let [ca, cert, key] = &self.how_to_talk;
        Ok(vec![
            format!("export SAOLA_PROFILE={}", absolute(&self.folder.join("profile.toml"))?.display()),
            "# or, one by one:".to_owned(),
            format!("export SAOLA_ENDPOINT={}", files::data_endpoints(&self.topology).join(",")),
            format!("export SAOLA_CA={}", absolute(ca)?.display()),
            format!("export SAOLA_CERT={}", absolute(cert)?.display()),
            format!("export SAOLA_KEY={}", absolute(key)?.display()),
        ])
    }

    /// Writes the files of one more node, at a site that is there already; starts nothing and tells no other node.
    ///
    /// # Errors
    /// As [`files::write_another`].
    pub fn prepare_another(&mut self, planned: &PlannedNode, node_id: u64) -> Result<Node, Failure> {
        let (node, ports) = files::write_another(&self.plan, planned, node_id, &self.folder)?;
        self.ports.push(ports);
        let files = NodeFiles::of(&self.folder, &node.name);
        self.nodes.push(LocalNode { node: node.clone(), files, process: None });
        Ok(node)
    }

    /// Starts one node and does not wait for it.
    ///
    /// # Errors
    /// When it runs already or cannot be started.
    pub fn start(&mut self, name: &str) -> Result<(), Failure> {
        let position = self.position(name)?;
        let local = &mut self.nodes[position];
        if local.process.is_some() {
            return Err(Failure::new(Exit::Other, format!("start node {name}: it runs already"), "kill it first"));
        }
        let inside = self.plan.inside(&local.node.name, &local.node.site);
        local.process = Some(NodeProcess::start(&self.binary, name, &local.files.settings, &local.files.log, inside)?);
        Ok(())
    }

    /// Starts every node and waits until each answers.
    ///
    /// # Errors
    /// A node that ends or does not answer.
    pub async fn start_all(&mut self) -> Result<(), Failure> {
        let names: Vec<String> = self.topology.node.iter().map(|node| node.name.clone()).collect();
        for name in &names {
            self.start(name)?;
        }
        for name in &names {
            self.wait_for_answer(name).await?;
        }
        Ok(())
    }

    /// Waits until a node answers about itself.
    ///
    /// # Errors
    /// When it ends, or does not answer in time.
    pub async fn wait_for_answer(&mut self, name: &str) -> Result<NodeStatus, Failure> {
        let position = self.position(name)?;
        let client = self.client_at(name)?.with_deadline(ASK_LIMIT);
        let what = format!("start node {name}");
        let answer = wait_until(&what, START_LIMIT, || async {
            let status = client.cluster_status(true).await.map_err(|error| error.to_string())?;
            status.nodes.into_iter().find(|node| node.reachable).ok_or_else(|| "it does not know itself".to_owned())
        });
        match &mut self.nodes[position].process {
            None => {
                Err(Failure::new(Exit::Other, format!("wait for node {name}: it is not started"), "start it first"))
            }
            Some(process) => tokio::select! {
                answer = answer => answer,
                ended = process.wait() => {
                    ended?;
                    process.check_running()?;
                    Err(Failure::new(Exit::Other, format!("node {name} ended"), "see its node.log"))
                }
            },
        }
    }

    /// Makes the nodes one cluster and waits until it has a leader, every node is part of it, and two sites protect each
    /// other.
    ///
    /// # Errors
    /// A node that refuses, or no leader in time.
    pub async fn init(&self) -> Result<StatusResponse, Failure> {
        let first = self.topology.node.iter().find(|node| node.role == Role::Voter);
        let first = first.ok_or_else(|| Failure::usage("make cluster: no voter", "plan one"))?;
        self.client_at(&first.name)?.cluster_init(self.topology.to_proto()).await?;
        let two_sites = self.plan.data_sites().len() > 1;
        self.wait_for_status("make cluster", |status| {
            let away = status.nodes.iter().find(|node| !node.reachable || node.state == "waiting");
            match away {
                _ if status.leader == 0 => Err("no leader".to_owned()),
                Some(node) => Err(format!("node {:?} is not part of it yet", node.member.as_ref().map(|it| &it.name))),
                None if status.nodes.len() < self.nodes.len() => Err(format!("{} nodes", status.nodes.len())),
                None if two_sites && !is_synchronized(status) => Err(status.protection.clone()),
                None => Ok(()),
            }
        })
        .await
    }

    /// Asks for the cluster's status until `good` accepts it; its error says what is missing.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn wait_for_status(
        &self,
        what: &str,
        good: impl Fn(&StatusResponse) -> Result<(), String>,
    ) -> Result<StatusResponse, Failure> {
        let client = self.client.with_deadline(ASK_LIMIT * 3);
        let good = &good;
        wait_until(what, START_LIMIT, || async {
            let status = client.cluster_status(false).await.map_err(|error| error.to_string())?;
            good(&status).map(|()| status)
        })
        .await
    }

    /// Kills nodes with SIGKILL, all at once, and waits until they are gone.
    ///
    /// # Errors
    /// A node that does not run.
    pub async fn kill(&mut self, names: &[&str]) -> Result<(), Failure> {
        let mut dying = Vec::new();
        for name in names {
            let mut process = self.take(name)?;
            process.send_kill()?;
            dying.push(process);
        }
        for ended in join_all(dying.iter_mut().map(NodeProcess::wait)).await {
            ended?;
        }
        Ok(())
    }

    /// Asks a node to end in order (SIGTERM) and waits for it.
    ///
    /// # Errors
    /// A node that does not run, or does not end.
    pub async fn terminate(&mut self, name: &str) -> Result<(), Failure> {
        self.take(name)?.terminate().await.map(|_| ())
    }

    /// The running process of a node, to pause it or to learn its process id.
    ///
    /// # Errors
    /// A node that does not run.
    pub fn process(&self, name: &str) -> Result<&NodeProcess, Failure> {
        self.nodes[self.position(name)?].process.as_ref().ok_or_else(|| not_running(name))
    }

    /// Process ids of the nodes that run.
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(|local| local.process.as_ref()?.pid()).collect()
    }

    /// Whether a node that was started and not told to end has ended: then how, with the end of its log, and it may be started
    /// again.
    ///
    /// # Errors
    /// When there is no node of that name.
    pub fn has_ended(&mut self, name: &str) -> Result<Option<Failure>, Failure> {
        let position = self.position(name)?;
        let process = &mut self.nodes[position].process;
        let ended = process.as_mut().and_then(|process| process.check_running().err());
        *process = process.take().filter(|_| ended.is_none());
        Ok(ended)
    }

    /// Waits until a node ends without having been told to.
    pub async fn unexpected_end(&mut self) -> Failure {
        let running = self.nodes.iter_mut().filter_map(|local| local.process.as_mut());
        let waits: Vec<_> = running
            .map(|process| {
                async {
                    match process.wait().await.and_then(|_| process.check_running()) {
                        Err(failure) => failure,
                        Ok(()) => Failure::new(Exit::Other, "a node ended", "see its node.log"),
                    }
                }
                .boxed()
            })
            .collect();
        if waits.is_empty() {
            return Failure::new(Exit::Other, "no node runs", "start one");
        }
        select_all(waits).await.0
    }

    /// Keeps a temporary folder, so that logs can be read after a failure.
    pub fn keep_folder(&mut self) {
        if let Some(temporary) = &mut self.temporary {
            temporary.disable_cleanup(true);
        }
    }

    /// Lets the nodes live on, with their folder.
    ///
    /// # Errors
    /// When a node cannot be told; all of them end then.
    pub fn leave_running(mut self) -> Result<(), Failure> {
        self.keep_folder();
        for process in self.nodes.iter_mut().filter_map(|local| local.process.as_mut()) {
            process.leave_running()?;
        }
        Ok(())
    }

    fn take(&mut self, name: &str) -> Result<NodeProcess, Failure> {
        let position = self.position(name)?;
        self.nodes[position].process.take().ok_or_else(|| not_running(name))
    }

    fn position(&self, name: &str) -> Result<usize, Failure> {
        self.nodes.iter().position(|local| local.node.name == name).ok_or_else(|| {
            Failure::usage(format!("there is no local node {name}"), "see topology.toml in the cluster's folder")
        })
    }
}

fn not_running(name: &str) -> Failure {
    Failure::new(Exit::Other, format!("node {name} does not run"), "start it first")
}

fn is_synchronized(status: &StatusResponse) -> bool {
    status.protection_status.as_ref().is_some_and(|stand| stand.state == "SYNCHRONIZED")
}
