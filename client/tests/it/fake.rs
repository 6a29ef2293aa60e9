//! A node that answers as the test says and remembers what it was asked.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use saola_client::proto::cluster_server::{Cluster, ClusterServer};
use saola_client::proto::collections_server::{Collections, CollectionsServer};
use saola_client::proto::records_server::{Records, RecordsServer};
use saola_client::proto::*;
use saola_client::{Client, ClientBuilder, SERVER_NAME, Tls};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

/// Revision in the header of every answer that the test does not shape itself.
pub const REVISION: u64 = 41;
/// Log index in every header.
pub const LOG_INDEX: u64 = 97;

/// How a fake node answers one call.
pub enum Answer<T> {
    Reply(T),
    Refuse(Status),
    /// Never.
    Silence,
}

impl<T> Answer<T> {
    async fn give(self) -> Result<Response<T>, Status> {
        match self {
            Answer::Reply(reply) => Ok(Response::new(reply)),
            Answer::Refuse(status) => Err(status),
            Answer::Silence => std::future::pending().await,
        }
    }
}

type AnswerFn<M, T> = dyn Fn(usize, &M) -> Answer<T> + Send + Sync;

/// Answers the n-th call (from 0) of one kind and keeps all of them.
pub struct Script<M, T> {
    asked: Mutex<Vec<M>>,
    answer: Box<AnswerFn<M, T>>,
}

impl<M: Clone, T> Script<M, T> {
    pub fn new(answer: impl Fn(usize, &M) -> Answer<T> + Send + Sync + 'static) -> Script<M, T> {
        Script { asked: Mutex::default(), answer: Box::new(answer) }
    }

    pub fn asked(&self) -> Vec<M> {
        self.asked.lock().unwrap().clone()
    }

    async fn give(&self, message: M) -> Result<Response<T>, Status> {
        let nth = {
            let mut asked = self.asked.lock().unwrap();
            asked.push(message.clone());
            asked.len() - 1
        };
        (self.answer)(nth, &message).give().await
    }
}

/// What a fake node says to each kind of call.
pub struct Fake {
    pub header: Header,
    pub put: Script<PutRequest, WriteResponse>,
    pub get: Script<GetRequest, GetResponse>,
    pub list: Script<ListRequest, ListResponse>,
    pub history: Vec<HistoryResponse>,
    pub status: Mutex<StatusResponse>,
    pub collections_listed: AtomicUsize,
}

impl Fake {
    pub fn new(node: u64, epoch: u64) -> Fake {
        Fake::of_plan(node, epoch, 0)
    }

    /// In an epoch that this plan began.
    pub fn of_plan(node: u64, epoch: u64, epoch_plan: u64) -> Fake {
        let header = Header { revision: REVISION, epoch, node, log_index: LOG_INDEX, epoch_plan };
        Fake {
            header,
            put: Script::new(move |nth, _| Answer::Reply(written(header, nth as u64 + 1))),
            get: Script::new(move |_, _| Answer::Reply(GetResponse { header: Some(header), ..Default::default() })),
            list: Script::new(|_, _| Answer::Silence),
            history: Vec::new(),
            status: Mutex::new(StatusResponse { header: Some(header), ..Default::default() }),
            collections_listed: AtomicUsize::new(0),
        }
    }

    pub fn on_put(
        mut self,
        answer: impl Fn(usize, &PutRequest) -> Answer<WriteResponse> + Send + Sync + 'static,
    ) -> Fake {
        self.put = Script::new(answer);
        self
    }
}

pub fn written(header: Header, generation: u64) -> WriteResponse {
    WriteResponse { header: Some(header), generation, revision: header.revision, recorded_at_us: 1, replayed: false }
}

struct Shared(Arc<Fake>);

#[tonic::async_trait]
impl Records for Shared {
    async fn put(&self, request: Request<PutRequest>) -> Result<Response<WriteResponse>, Status> {
        self.0.put.give(request.into_inner()).await
    }

    async fn delete(&self, _: Request<DeleteRequest>) -> Result<Response<WriteResponse>, Status> {
        Err(Status::unimplemented("delete"))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        self.0.get.give(request.into_inner()).await
    }

    async fn batch_get(&self, _: Request<BatchGetRequest>) -> Result<Response<BatchGetResponse>, Status> {
        Err(Status::unimplemented("batch get"))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        self.0.list.give(request.into_inner()).await
    }

    type HistoryStream = tokio_stream::Iter<std::vec::IntoIter<Result<HistoryResponse, Status>>>;

    async fn history(&self, _: Request<HistoryRequest>) -> Result<Response<Self::HistoryStream>, Status> {
        let parts: Vec<_> = self.0.history.iter().cloned().map(Ok).collect();
        Ok(Response::new(tokio_stream::iter(parts)))
    }
}

#[tonic::async_trait]
impl Collections for Shared {
    async fn create(&self, _: Request<CreateCollectionRequest>) -> Result<Response<CreateCollectionResponse>, Status> {
        Err(Status::unimplemented("create"))
    }

    async fn list(&self, _: Request<ListCollectionsRequest>) -> Result<Response<ListCollectionsResponse>, Status> {
        self.0.collections_listed.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(ListCollectionsResponse { header: Some(self.0.header), collections: Vec::new() }))
    }

    async fn set_retention(&self, _: Request<SetRetentionRequest>) -> Result<Response<SetRetentionResponse>, Status> {
        Err(Status::unimplemented("set retention"))
    }
}

#[tonic::async_trait]
impl Cluster for Shared {
    async fn init(&self, _: Request<InitRequest>) -> Result<Response<InitResponse>, Status> {
        Err(Status::unimplemented("init"))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(self.0.status.lock().unwrap().clone()))
    }

    async fn transfer(&self, _: Request<TransferRequest>) -> Result<Response<TransferResponse>, Status> {
        Err(Status::unimplemented("transfer"))
    }

    async fn add_member(&self, _: Request<AddMemberRequest>) -> Result<Response<MembershipResponse>, Status> {
        Err(Status::unimplemented("add member"))
    }

    async fn remove_member(&self, _: Request<RemoveMemberRequest>) -> Result<Response<MembershipResponse>, Status> {
        std::future::pending().await
    }

    async fn replace_member(&self, _: Request<ReplaceMemberRequest>) -> Result<Response<MembershipResponse>, Status> {
        Err(Status::unimplemented("replace member"))
    }

    async fn set_protection(
        &self,
        _: Request<SetProtectionRequest>,
    ) -> Result<Response<SetProtectionResponse>, Status> {
        Err(Status::unimplemented("set_protection"))
    }

    async fn set_failover(&self, _: Request<SetFailoverRequest>) -> Result<Response<SetFailoverResponse>, Status> {
        Err(Status::unimplemented("set_failover"))
    }

    async fn set_goal(&self, _: Request<SetGoalRequest>) -> Result<Response<SetGoalResponse>, Status> {
        Err(Status::unimplemented("set_goal"))
    }

    async fn campaign(&self, _: Request<CampaignRequest>) -> Result<Response<CampaignResponse>, Status> {
        Err(Status::unimplemented("campaign"))
    }

    async fn scrub(&self, _: Request<ScrubRequest>) -> Result<Response<ScrubResponse>, Status> {
        Err(Status::unimplemented("scrub"))
    }

    async fn digest(&self, _: Request<DigestRequest>) -> Result<Response<DigestResponse>, Status> {
        Err(Status::unimplemented("digest"))
    }
}

/// One certificate authority with the certificates of a test.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    pub fn client_tls(&self) -> Tls {
        let (cert, key) = self.issue("test.client.saola");
        Tls { ca_pem: self.issuer.pem().into(), cert_pem: cert.into(), key_pem: key.into() }
    }

    pub fn client(&self, endpoints: &[String]) -> ClientBuilder {
        Client::builder().endpoints(endpoints.to_vec()).tls(self.client_tls())
    }

    /// Starts a node on a free port.
    pub fn serve(&self, fake: Fake) -> Running {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (cert, key) = self.issue(SERVER_NAME);
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(cert, key))
            .client_ca_root(Certificate::from_pem(self.issuer.pem()));
        let fake = Arc::new(fake);
        let server = Server::builder()
            .tls_config(tls)
            .unwrap()
            .add_service(RecordsServer::new(Shared(fake.clone())))
            .add_service(CollectionsServer::new(Shared(fake.clone())))
            .add_service(ClusterServer::new(Shared(fake.clone())));
        // A runtime of its own, so that stopping it also drops the connections that are open.
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async {
            listener.set_nonblocking(true).unwrap();
            let listener = TcpListener::from_std(listener).unwrap();
            server.serve_with_incoming(TcpListenerStream::new(listener)).await
        });
        Running { fake, address, runtime: Some(runtime) }
    }
}

/// A fake node that runs until it is dropped, and its connections with it.
pub struct Running {
    pub fake: Arc<Fake>,
    pub address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Running {
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// An address where nothing listens.
pub fn dead_endpoint() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}
