//! A replica on its own, whose only peer is a script.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use prost::Message;
use saola_jepsen::sim::{Cluster, FolderCopy};
use saola_raft::folder::{DataFolder, FolderClaim};
use saola_raft::sim::{SimRuntime, kill, run, spawn_on};
use saola_raft::transport::{Caller, Lane, PeerAddress, Transport, TransportError};
use saola_raft::wire::{
    Answer, AppendReply, AppendRequest, FetchReply, FetchRequest, Header, Identity, PeerReply, PeerRequest, Question,
    WIRE_VERSION,
};
use saola_raft::{
    CollectorSettings, Member, PeerService, Replica, ReplicaParts, ReplicaSettings, ScrubSettings, Timing,
};
use saola_storage::log::{Log, LogSettings};
use saola_storage::store::{Keeps, Store, StoreSettings};
use saola_storage::types::LogId;
use tokio::sync::{Mutex, Notify};

/// Simulated time that an answer may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
const ID: u64 = 1;
const BOOT: [u8; 16] = [9; 16];

/// A node of a cluster of two, as its disk is after the cluster was made.
pub(super) struct Home {
    pub members: Vec<Member>,
    pub last: LogId,
    cluster_id: [u8; 16],
    epoch: u64,
    copy: FolderCopy,
}

pub(super) fn home() -> &'static Home {
    static HOME: OnceLock<Home> = OnceLock::new();
    HOME.get_or_init(|| run(1, make()))
}

async fn make() -> Home {
    let mut cluster = Cluster::new(2, false);
    cluster.init().await;
    let status = cluster.replica(ID).expect("it runs").status();
    let last = cluster.log(ID).and_then(|log| log.last).expect("making a cluster writes entries");
    cluster.kill(ID).await;
    let copy = cluster.copy(ID).expect("its disk reads");
    cluster.kill(2).await;
    Home {
        members: status.members,
        last,
        cluster_id: status.cluster_id.expect("it was adopted"),
        epoch: status.epoch,
        copy,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Home {
    fn member(&self, id: u64) -> &Member {
        self.members.iter().find(|member| member.node_id == id).expect("the cluster has two members")
    }

    /// The identity file as adoption leaves it.
    fn identity(&self) -> String {
        let own = self.member(ID);
        format!(
            "saola-folder 1\nnode_id = {ID}\nname = {}\nsite = {}\nrole = {}\nfolder_id = {}\ncluster_id = {}\nepoch = {}\n",
            own.name,
            own.site,
            own.role_value().as_str(),
            hex(&own.folder_id),
            hex(&self.cluster_id),
            self.epoch
        )
    }

    /// Header of a message from node 2.
    pub fn header(&self) -> Header {
        let (from, to) = (self.member(2), self.member(ID));
        Header {
            wire_version: WIRE_VERSION,
            cluster_id: Bytes::copy_from_slice(&self.cluster_id),
            epoch: self.epoch,
            from: from.node_id,
            to: to.node_id,
            from_folder: from.folder_id.clone(),
            to_folder: to.folder_id.clone(),
            from_role: from.role,
            from_site: from.site.clone(),
            from_name: from.name.clone(),
            from_boot: Bytes::from_static(&BOOT),
            ..Header::default()
        }
    }
}

/// Node 2 as the replica hears it: it says who it is, and else what the input says, in order.
#[derive(Default)]
struct Script {
    replies: Mutex<VecDeque<PeerReply>>,
    append_replies: Arc<Mutex<VecDeque<AppendReply>>>,
    fetch_replies: Arc<Mutex<VecDeque<FetchReply>>>,
}

fn unreachable(to: &PeerAddress) -> TransportError {
    TransportError::Unreachable { peer: to.name.clone(), reason: "the input has no answer left".into() }
}

impl Script {
    fn next(self: &Arc<Self>, to: &PeerAddress) -> BoxFuture<'static, Result<PeerReply, TransportError>> {
        let (script, to) = (self.clone(), to.clone());
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            script.replies.lock().await.pop_front().ok_or_else(|| unreachable(&to))
        })
    }
}

struct Scripted(Arc<Script>);

impl Transport for Scripted {
    fn call(
        &self,
        to: &PeerAddress,
        _lane: Lane,
        request: PeerRequest,
        _timeout: Duration,
    ) -> BoxFuture<'static, Result<PeerReply, TransportError>> {
        if let Some(Question::Identify(_)) = request.question {
            let identity = Identity { boot_id: Bytes::from_static(&BOOT), ..Identity::default() };
            return Box::pin(async { Ok(Answer::Identity(identity).into()) });
        }
        self.0.next(to)
    }

    fn append(
        &self,
        to: &PeerAddress,
        requests: BoxStream<'static, AppendRequest>,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<AppendReply, TransportError>>, TransportError>> {
        let (replies, to) = (self.0.append_replies.clone(), to.clone());
        let answers = requests.then(move |_request| {
            let (replies, to) = (replies.clone(), to.clone());
            async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                replies.lock().await.pop_front().ok_or_else(|| unreachable(&to))
            }
        });
        Box::pin(async { Ok(answers.boxed()) })
    }

    fn fetch(
        &self,
        _to: &PeerAddress,
        _request: FetchRequest,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<FetchReply, TransportError>>, TransportError>> {
        let replies = self.0.fetch_replies.clone();
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let mut left = replies.lock().await;
            let end = left.iter().position(|reply| reply.part.is_none()).unwrap_or(left.len());
            let answer: Vec<_> = left.drain(..end).map(Ok).collect();
            // The one without a part.
            left.pop_front();
            Ok(stream::iter(answer).boxed())
        })
    }
}

/// Node 1, running.
pub(super) struct Node {
    service: PeerService<SimRuntime>,
    caller: Caller,
    /// Holds the identity file.
    _folder: tempfile::TempDir,
}

impl Node {
    /// Starts it on its home's disk; `answers` are parts of the input.
    pub async fn start(answers: &[(u8, &[u8])]) -> Node {
        let home = home();
        let script = Arc::new(Script::default());
        for (kind, bytes) in answers {
            let bytes = Bytes::copy_from_slice(bytes);
            match *kind {
                super::REPLY => script.replies.lock().await.extend(PeerReply::decode(bytes)),
                super::FETCH_REPLY => script.fetch_replies.lock().await.extend(FetchReply::decode(bytes)),
                _ => script.append_replies.lock().await.extend(AppendReply::decode(bytes)),
            }
        }
        let (disk, rows) = home.copy.restore();
        let own = home.member(ID);
        let claim = FolderClaim { node_id: ID, name: own.name.clone(), site: own.site.clone(), role: own.role_value() };
        let path = tempfile::tempdir().expect("a temporary folder can be made");
        std::fs::write(path.path().join("identity"), home.identity()).expect("a temporary folder can be written");
        let folder = DataFolder::open(path.path(), claim, [0; 16]).expect("the folder is free and this node's");
        let settings =
            LogSettings { segment_bytes: 8 << 10, tail_bytes: 1 << 10, reserve_bytes: 0, ..LogSettings::default() };
        let (log, mut writer) = Log::open(disk, settings).expect("the copy is whole");
        let work = Arc::new(Notify::new());
        let bell = work.clone();
        log.on_work(Box::new(move || bell.notify_one()));
        spawn_on(ID, async move {
            loop {
                work.notified().await;
                if writer.step().is_err() {
                    return;
                }
            }
        });
        let store = Store::open(rows, Keeps::Records, StoreSettings::default()).expect("the copy is whole");
        let transport = Arc::new(Scripted(script));
        let parts = ReplicaParts { folder, log, store, transport, free_bytes: Box::new(|| Ok(1 << 30)) };
        let settings = ReplicaSettings {
            timing: Timing::LAN,
            min_free_bytes: 0,
            wall_clock: Arc::new(|| 1_700_000_000_000_000),
            keep_entries: 10,
            flush_every: Duration::from_secs(30),
            scrub: ScrubSettings::default(),
            snapshot_bytes_per_s: 1 << 30,
            log_keep_bytes: 1 << 20,
            log_keep_for: Duration::from_secs(3600),
            collector: CollectorSettings::default(),
        };
        let replica = spawn_on(ID, Replica::<SimRuntime>::start_with(parts, settings));
        let replica = replica.await.expect("nothing aborts a starting node").expect("the copy is whole");
        let caller = Caller::certified(home.members.iter().map(|member| member.name.clone()).collect());
        Node { service: replica.peer_service(), caller, _folder: path }
    }

    async fn on_node(&self, work: impl Future<Output = ()> + Send + 'static) {
        let limited = tokio::time::timeout(PATIENCE, work);
        // Time that ran out is an answer like any other.
        let _in_time = spawn_on(ID, limited).await.expect("a node does not panic whatever it is sent").is_ok();
    }

    pub async fn call(&self, requests: Vec<PeerRequest>) {
        for request in requests {
            let (service, caller) = (self.service.clone(), self.caller.clone());
            self.on_node(async move { drop(service.call(&caller, request).await) }).await;
        }
    }

    pub async fn append(&self, requests: Vec<AppendRequest>) {
        let (service, caller) = (self.service.clone(), self.caller.clone());
        self.on_node(async move {
            let answers = service.append(caller, stream::iter(requests).boxed()).await;
            let _answers = answers.count().await;
        })
        .await;
    }

    pub async fn fetch(&self, requests: Vec<FetchRequest>) {
        for request in requests {
            let (service, caller) = (self.service.clone(), self.caller.clone());
            self.on_node(async move {
                let _parts = service.fetch(&caller, request).await.count().await;
            })
            .await;
        }
    }

    pub async fn wait(&self, steps: u32) {
        tokio::time::sleep(Duration::from_millis(10) * steps).await;
    }

    pub async fn end(self) {
        // An election and what follows from it.
        self.wait(50).await;
        drop(self.service);
        kill(ID).await;
    }
}
