//! A node's life: what is opened in which order, and how it stops.
//!
//! Start: certificates, data folder, key (a node without it starts sealed), ports, replica, services. Stop (SIGTERM,
//! SIGINT, or standard input closed if asked for): not ready any more, clients drained, leadership handed over, replica stopped, ports closed.

use std::error::Error;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use futures::FutureExt;
use saola_client::proto::cluster_server::ClusterServer;
use saola_client::proto::collections_server::CollectionsServer;
use saola_client::proto::dr_server::DrServer;
use saola_client::proto::drills_server::DrillsServer;
use saola_client::proto::records_server::RecordsServer;
use saola_raft::transport::cut::CutTransport;
use saola_raft::transport::tonic::{PeerTls, TonicTransport, serve};
use saola_raft::{DataFolder, FolderClaim, Replica, ReplicaLimits, Role};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinError;
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::api::cluster::ClusterService;
use crate::api::collections::CollectionsService;
use crate::api::dr::DrService;
use crate::api::drill::DrillService;
use crate::api::limits::MAX_REQUEST_BYTES;
use crate::api::records::RecordsService;
use crate::bounded::BoundedListener;
use crate::drill::Troubles;
use crate::events::{Events, Line, Seen, WAITING};
use crate::keys::{Kek, Keys};
use crate::metrics::{self, Requests};
use crate::node::Node;
use crate::settings::Settings;
use crate::tls::TlsMaterial;
use crate::waiting::{Ports, Waiting};
use crate::{entropy, failure, listen, process};

/// Calls under way get so long to end when the node stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(3);

/// How often the key ring is followed and health told: a new data key is opened, or reported, within this time.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(500);
/// Name of the record service in health checks.
pub const RECORDS: &str = <RecordsServer<RecordsService> as NamedService>::NAME;

/// How a node's life has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// For good.
    Stopped,
    /// It goes on in another epoch: its process is to start anew, on a folder that says so.
    StartsAnew,
}

/// Runs a node until it is told to stop; the end of standard input tells it too, `until_stdin_closes`.
///
/// # Errors
/// It cannot start, or it has to stop by itself; the message says why and what to do.
pub async fn run(settings: Settings, until_stdin_closes: bool) -> anyhow::Result<Ended> {
    if let Err(error) = process::forbid_core_files() {
        tracing::warn!("cannot forbid core files, a crash may write keys to disk: {error}");
    }
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let abandoned = stdin_closed(until_stdin_closes)?;

    let tls = TlsMaterial::load(&settings.tls, &settings.name)?;
    let claim = FolderClaim {
        node_id: settings.node_id,
        name: settings.name.clone(),
        site: settings.site.clone(),
        role: settings.role,
    };
    let folder = DataFolder::open(&settings.data_dir, claim, entropy::random()?)?;
    let keys = Keys::new(Kek::load(&settings), &settings.site);
    let peer_port = listen::bind("listen.peer", settings.peer).await?;
    let client_port = listen::bind("listen.client", settings.client).await?;
    let metrics_port = match settings.metrics {
        Some(address) => Some(listen::bind("listen.metrics", address).await?),
        None => None,
    };

    let peer_tls = PeerTls::new(&tls.ca_pem, &tls.cert_pem, &tls.key_pem)?;
    let troubles = Troubles::default();
    let transport = Arc::new(CutTransport::new(TonicTransport::new(peer_tls.clone()), troubles.cuts()));
    let limits = ReplicaLimits {
        min_free_bytes: settings.min_free_bytes,
        log_keep_bytes: settings.log_keep_bytes,
        log_keep_for: Duration::from_secs(settings.log_keep_hours.saturating_mul(3600)),
        snapshot_bytes_per_s: settings.snapshot_bytes_per_s,
    };
    // A damaged log may wait long for peers that can repair it.
    let waits = watch::Sender::new(None);
    let waiting = Waiting::new(&settings, folder.identity(), tls.not_after_s, waits.subscribe());
    let ports = Ports {
        peer: listen::twin(&peer_port)?,
        client: listen::twin(&client_port)?,
        metrics: metrics_port.as_ref().map(listen::twin).transpose()?,
    };
    let replica = tokio::select! {
        started = Replica::start(
            folder, transport, settings.timing, limits, settings.scrub, troubles.hang(), &waits
        ) => started?,
        // Once the replica has started this is dropped, which ends its connections.
        ended = waiting.serve(ports, peer_tls.clone(), tls.server_config()?) => return ended.map(|()| Ended::Stopped),
        _ = terminate.recv() => return Ok(Ended::Stopped),
        _ = interrupt.recv() => return Ok(Ended::Stopped),
    };
    let node = Arc::new(Node::new(&settings, replica.clone(), keys, tls.not_after_s, troubles.clone()));
    let weak = Arc::downgrade(&node);
    replica.set_status_source(Box::new(move || {
        weak.upgrade().map(|node| crate::api::cluster::encoded_status(&node)).unwrap_or_default()
    }));

    let (stop_clients, clients_stopped) = watch::channel(false);
    let (stop_peers, peers_stopped) = watch::channel(false);
    let mut peers =
        tokio::spawn(serve(peer_port, replica.peer_service(), troubles.cuts(), peer_tls, told(peers_stopped)));
    let requests = Requests::default();
    let (health_reporter, health_service) = tonic_health::server::health_reporter();
    let following = tokio::spawn(follow(node.clone(), health_reporter.clone(), 4 * settings.timing.election_max_ms));
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(saola_client::proto::DESCRIPTORS)
        .build_v1()
        .context("describe the services")?;
    let clients = Server::builder()
        .layer(requests.layer())
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(RecordsServer::new(RecordsService::new(node.clone())).max_decoding_message_size(MAX_REQUEST_BYTES))
        .add_service(CollectionsServer::new(CollectionsService(node.clone())))
        .add_service(ClusterServer::new(ClusterService(node.clone())))
        .add_service(DrServer::new(DrService(node.clone())))
        .add_service(DrillsServer::new(DrillService { node: node.clone(), troubles }))
        .serve_with_incoming_shutdown(
            listen::accept_tls(client_port, tls.server_config()?),
            told(clients_stopped.clone()),
        );
    let mut clients = tokio::spawn(clients);
    if let Some(port) = metrics_port {
        let service = metrics::router(node.clone(), requests);
        let port = BoundedListener::new(port, listen::HANDSHAKES, listen::HANDSHAKE_LIMIT);
        tokio::spawn(async move {
            if let Err(error) = axum::serve(port, service).with_graceful_shutdown(told(clients_stopped)).await {
                tracing::error!("metrics port: {error}");
            }
        });
    }
    tracing::info!(
        node = node.id(),
        name = settings.name,
        site = settings.site,
        role = settings.role.as_str(),
        peer = %settings.peer,
        client = %settings.client,
        "node runs"
    );
    let status = replica.status();
    if !status.adopted && status.refused_by_peers.is_none() {
        tracing::info!("{WAITING}");
    }

    let mut anew = false;
    let failed = tokio::select! {
        biased;
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        () = abandoned => None,
        () = replica.starts_anew() => {
            anew = true;
            None
        }
        reason = stopped_by_itself(&replica) => Some(reason),
        ended = &mut clients => Some(closed("client", settings.client, ended)),
        ended = &mut peers => Some(closed("peer", settings.peer, ended)),
    };
    tracing::info!("node stops");
    following.abort();
    // It ends by the abort alone; after that nothing overwrites what is said next.
    let _aborted = following.await;
    for service in ["", RECORDS] {
        health_reporter.set_service_status(service, ServingStatus::NotServing).await;
    }
    stop_clients.send_replace(true);
    if failed.is_none() && tokio::time::timeout(DRAIN_LIMIT, &mut clients).await.is_err() {
        tracing::warn!("calls were still under way after {DRAIN_LIMIT:?}; their clients ask another node");
    }
    replica.shutdown().await;
    stop_peers.send_replace(true);
    // Peers keep their connections open; what is still on them is answered by no one now.
    peers.abort();
    match failed {
        // Whoever has told it to stop meanwhile means it.
        None if anew && terminate.recv().now_or_never().or_else(|| interrupt.recv().now_or_never()).is_none() => {
            Ok(Ended::StartsAnew)
        }
        None => Ok(Ended::Stopped),
        Some(reason) => bail!("the node cannot go on: {reason}"),
    }
}

/// Resolves when standard input ends with nothing in it, if that is `asked` for; else never.
fn stdin_closed(asked: bool) -> anyhow::Result<impl Future<Output = ()>> {
    let (closed, seen) = oneshot::channel();
    if asked {
        // A thread of its own: a read cannot be given up, and nothing may wait for it when the node stops.
        let read = move || match std::io::stdin().read_exact(&mut [0]) {
            Ok(()) => process::let_go(),
            Err(_) => {
                let _node_stopped = closed.send(());
            }
        };
        std::thread::Builder::new().name("saola-stdin".into()).spawn(read).context("watch standard input")?;
    }
    Ok(async move {
        if seen.await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

/// Why a port that should be served until the node stops is not served any more.
fn closed<E: Error + 'static>(port: &str, address: SocketAddr, ended: Result<Result<(), E>, JoinError>) -> String {
    let why = match ended {
        Ok(Ok(())) => "its server ended by itself".into(),
        Ok(Err(error)) => failure::chain(&error),
        Err(error) => failure::chain(&error),
    };
    format!(
        "the {port} port {address} is not served any more: {why}; start the node again, and keep its log if it recurs"
    )
}

/// Opens data keys as they appear, logs what changes in the cluster, and says in health checks whether the node can
/// answer calls about records. A leader without a quorum for `quorum_limit_ms` counts as none.
async fn follow(node: Arc<Node>, health: HealthReporter, quorum_limit_ms: u64) {
    let mut again = tokio::time::interval(FOLLOW_INTERVAL);
    let mut events = Events::since(Seen::of(node.replica().status(), None, quorum_limit_ms));
    loop {
        again.tick().await;
        let age_ms = node.replica().stale_point().and_then(|point| point.age_ms);
        let now = Seen::of(node.replica().status(), age_ms, quorum_limit_ms);
        events.look(now).iter().for_each(Line::log);
        let ready = node.role() != Role::Witness && node.not_ready().is_none();
        // Also when it is not ready for another reason: keys are opened before the first call needs them.
        drop(node.ring());
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        health.set_service_status(RECORDS, status).await;
    }
}

/// Resolves when Raft has died. A replica that its peers refuse stays up instead, so that `saola status` can say why.
async fn stopped_by_itself(replica: &Replica) -> String {
    let reason = replica.stopped().await;
    if replica.status().refused_by_peers.is_some() {
        std::future::pending::<()>().await;
    }
    reason
}

async fn told(mut stop: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is the end too.
    let _ended = stop.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_whose_server_ends_is_named_with_the_cause() {
        let address = SocketAddr::from(([127, 0, 0, 1], 7101));
        let broken = tokio::spawn(async { Err::<(), _>(std::io::Error::other("listener gone")) });
        let said = closed("peer", address, broken.await);
        assert!(said.starts_with("the peer port 127.0.0.1:7101 is not served any more: listener gone; "), "{said}");
        let ended = tokio::spawn(async { Ok::<(), std::io::Error>(()) });
        assert!(closed("peer", address, ended.await).contains("ended by itself"));
    }
}
