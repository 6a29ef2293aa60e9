//! What a node answers while its start waits for peers to repair its log: how it is, and nothing else.

use std::time::Instant;

use anyhow::bail;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use bytes::Bytes;
use prost::Message;
use rustls::ServerConfig;
use saola_client::proto::cluster_server::{Cluster, ClusterServer};
use saola_client::proto::{
    AddMemberRequest, CampaignRequest, CampaignResponse, DigestRequest, DigestResponse, Header, InitRequest,
    InitResponse, Member, MembershipResponse, NodeStatus, RemoveMemberRequest, ReplaceMemberRequest, ScrubRequest,
    ScrubResponse, SetFailoverRequest, SetFailoverResponse, SetGoalRequest, SetGoalResponse, SetProtectionRequest,
    SetProtectionResponse, StatusRequest, StatusResponse, TransferRequest, TransferResponse,
};
use saola_raft::NodeIdentity;
use saola_raft::transport::tonic::{PeerTls, serve_status};
use saola_storage::types::EpochId;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;

use crate::api::errors::{Reason, Refusal};
use crate::bounded::BoundedListener;
use crate::lifecycle::RECORDS;
use crate::settings::Settings;
use crate::{failure, listen, node, process};

/// Where a node is asked.
pub struct Ports {
    /// By other nodes.
    pub peer: TcpListener,
    /// By clients.
    pub client: TcpListener,
    /// By probes.
    pub metrics: Option<TcpListener>,
}

/// A node that cannot start yet. Cheap to clone.
#[derive(Clone)]
pub struct Waiting {
    member: Member,
    identity: Option<NodeIdentity>,
    certificate_not_after_s: i64,
    began: Instant,
    /// What it waits for; none while it does not.
    waits: watch::Receiver<Option<String>>,
}

impl Waiting {
    /// A node with these settings on this folder.
    pub fn new(
        settings: &Settings,
        identity: Option<NodeIdentity>,
        certificate_not_after_s: i64,
        waits: watch::Receiver<Option<String>>,
    ) -> Waiting {
        let mut member = node::member(settings);
        member.node_id = identity.as_ref().map_or(member.node_id, |own| own.node_id);
        Waiting { member, identity, certificate_not_after_s, began: Instant::now(), waits }
    }

    /// Serves the ports once the node has something to wait for, until it is dropped.
    ///
    /// # Errors
    /// A port is not served any more.
    pub async fn serve(mut self, ports: Ports, peer_tls: PeerTls, client_tls: ServerConfig) -> anyhow::Result<()> {
        if self.waits.wait_for(Option::is_some).await.is_err() {
            // The start has ended, and whoever awaits it is told.
            return std::future::pending().await;
        }
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_service_status(RECORDS, ServingStatus::NotServing).await;
        let (refusing, probed) = (self.clone(), self.clone());
        let mut routes = Routes::builder();
        routes.add_service(health_service).add_service(ClusterServer::new(self.clone()));
        let routes = routes.routes().into_axum_router().fallback(move || {
            let refused = refusing.refuse();
            async move { refused.into_http::<axum::body::Body>() }
        });
        let clients = Server::builder()
            .add_routes(Routes::from(routes))
            // A shutdown that can be waited for is what lets go of the connections when this future is dropped.
            .serve_with_incoming_shutdown(listen::accept_tls(ports.client, client_tls), std::future::pending());
        let peers = serve_status(ports.peer, move || self.status().encode_to_vec().into(), peer_tls);
        let probes = async {
            let Some(port) = ports.metrics else { return std::future::pending().await };
            let port = BoundedListener::new(port, listen::HANDSHAKES, listen::HANDSHAKE_LIMIT);
            axum::serve(port, probed.probes()).with_graceful_shutdown(std::future::pending()).await
        };
        let ended = tokio::select! {
            ended = clients => ended.map_err(|error| failure::chain(&error)),
            ended = peers => ended.map_err(|error| failure::chain(&error)),
            ended = probes => ended.map_err(|error| failure::chain(&error)),
        };
        let why = ended.err().unwrap_or_else(|| "its server ended by itself".into());
        bail!("a port is not served any more: {why}; start the node again")
    }

    fn probes(self) -> Router {
        let ready = move || {
            let answer = (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", self.waits_for()));
            async move { answer }
        };
        Router::new().route("/livez", get(|| async { "alive\n" })).route("/readyz", get(ready))
    }

    fn waits_for(&self) -> String {
        self.waits.borrow().clone().unwrap_or_default()
    }

    fn status(&self) -> StatusResponse {
        let (cluster_id, epoch) = match &self.identity {
            Some(identity) => (Bytes::copy_from_slice(&identity.cluster_id), identity.epoch_id()),
            None => (Bytes::new(), EpochId::default()),
        };
        let own = NodeStatus {
            member: Some(self.member.clone()),
            reachable: true,
            error: self.waits_for(),
            state: "repairing".into(),
            release: env!("CARGO_PKG_VERSION").into(),
            rss_bytes: process::rss_bytes(),
            uptime_s: self.began.elapsed().as_secs(),
            certificate_expires_in_s: node::expires_in_s(self.certificate_not_after_s),
            ..NodeStatus::default()
        };
        StatusResponse {
            header: Some(Header {
                epoch: epoch.number,
                epoch_plan: epoch.plan,
                node: self.member.node_id,
                ..Header::default()
            }),
            cluster_id,
            protection: "not known here: this node repairs its log; ask another node".into(),
            nodes: vec![own],
            ..StatusResponse::default()
        }
    }

    fn refuse(&self) -> Status {
        Refusal::plain(Reason::Repairing, format!("the node has not started: {}", self.waits_for())).into()
    }
}

#[tonic::async_trait]
impl Cluster for Waiting {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(self.status()))
    }

    async fn init(&self, _: Request<InitRequest>) -> Result<Response<InitResponse>, Status> {
        Err(self.refuse())
    }

    async fn transfer(&self, _: Request<TransferRequest>) -> Result<Response<TransferResponse>, Status> {
        Err(self.refuse())
    }

    async fn add_member(&self, _: Request<AddMemberRequest>) -> Result<Response<MembershipResponse>, Status> {
        Err(self.refuse())
    }

    async fn remove_member(&self, _: Request<RemoveMemberRequest>) -> Result<Response<MembershipResponse>, Status> {
        Err(self.refuse())
    }

    async fn replace_member(&self, _: Request<ReplaceMemberRequest>) -> Result<Response<MembershipResponse>, Status> {
        Err(self.refuse())
    }

    async fn digest(&self, _: Request<DigestRequest>) -> Result<Response<DigestResponse>, Status> {
        Err(self.refuse())
    }

    async fn set_protection(
        &self,
        _: Request<SetProtectionRequest>,
    ) -> Result<Response<SetProtectionResponse>, Status> {
        Err(self.refuse())
    }

    async fn campaign(&self, _: Request<CampaignRequest>) -> Result<Response<CampaignResponse>, Status> {
        Err(self.refuse())
    }

    async fn set_failover(&self, _: Request<SetFailoverRequest>) -> Result<Response<SetFailoverResponse>, Status> {
        Err(self.refuse())
    }

    async fn set_goal(&self, _: Request<SetGoalRequest>) -> Result<Response<SetGoalResponse>, Status> {
        Err(self.refuse())
    }

    async fn scrub(&self, _: Request<ScrubRequest>) -> Result<Response<ScrubResponse>, Status> {
        Err(self.refuse())
    }
}
