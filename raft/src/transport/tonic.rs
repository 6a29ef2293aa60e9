//! Peer transport over gRPC with mutual TLS.
//!
//! Both ends prove who they are: the caller checks that the certificate is the named node's, the server that the
//! caller's certificate is a node's (DNS name `*.node.saola`) and, message by message, the header.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

use super::{Lane, PeerAddress, Transport, TransportError};
use crate::peer::PeerService;
use crate::types::TokioRuntime;
use crate::wire::{AppendReply, AppendRequest, PeerReply, PeerRequest, SnapshotChunk};

#[allow(missing_docs, clippy::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/saola.peer.v1.Peer.rs"));
}
use generated::peer_client::PeerClient;
use generated::peer_server::{Peer, PeerServer};

/// Suffix of the DNS name that a node's certificate carries: `<node name>.node.saola`.
pub const NODE_SUFFIX: &str = ".node.saola";
/// A connection that is not up by then counts as unreachable.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);
/// Largest message taken: one append holds up to 1 MiB of entries, or one entry of the largest size.
const MESSAGE_BYTES: usize = 16 << 20;
/// HTTP/2 windows: enough for 1 Gbit/s over 40 ms.
const WINDOW_BYTES: u32 = 8 << 20;

/// A node's certificate, its key and the authority that both ends trust; PEM.
#[derive(Clone)]
pub struct TlsFiles {
    /// Certificate authority.
    pub ca_pem: Vec<u8>,
    /// This node's certificate.
    pub cert_pem: Vec<u8>,
    /// Its key.
    pub key_pem: Vec<u8>,
}

/// Calls peers. Connections are made when first needed and kept.
pub struct TonicTransport {
    tls: TlsFiles,
    channels: Mutex<HashMap<(PeerAddress, Lane), Channel>>,
}

impl TonicTransport {
    /// A transport that shows this certificate.
    pub fn new(tls: TlsFiles) -> Self {
        Self { tls, channels: Mutex::new(HashMap::new()) }
    }

    fn client(&self, to: &PeerAddress, lane: Lane) -> Result<PeerClient<Channel>, TransportError> {
        let mut channels = self.channels.lock();
        let channel = match channels.get(&(to.clone(), lane)) {
            Some(channel) => channel.clone(),
            None => {
                let channel = self
                    .connect(to)
                    .map_err(|error| TransportError::Unreachable { peer: describe(to), reason: chain(&error) })?;
                channels.insert((to.clone(), lane), channel.clone());
                channel
            }
        };
        Ok(PeerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES))
    }

    fn connect(&self, to: &PeerAddress) -> Result<Channel, tonic::transport::Error> {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.tls.ca_pem))
            .identity(Identity::from_pem(&self.tls.cert_pem, &self.tls.key_pem))
            .domain_name(format!("{}{NODE_SUFFIX}", to.name));
        let endpoint = Endpoint::from_shared(format!("https://{}", to.address))?
            .tls_config(tls)?
            .connect_timeout(CONNECT_LIMIT)
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .http2_keep_alive_interval(Duration::from_secs(1))
            .keep_alive_timeout(Duration::from_secs(2))
            .keep_alive_while_idle(true);
        Ok(endpoint.connect_lazy())
    }
}

fn describe(to: &PeerAddress) -> String {
    format!("{} at {}", to.name, to.address)
}

/// An error with its causes, which tonic's own message leaves out.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text += &format!(": {inner}");
        cause = inner.source();
    }
    text
}

fn failed(to: &PeerAddress, status: &Status) -> TransportError {
    let reason = chain(status);
    // tonic makes a connection before it sends anything; what failed in that step was surely not delivered.
    let connecting = status.code() == tonic::Code::Unavailable
        && std::error::Error::source(status).is_some_and(|cause| {
            cause.downcast_ref::<tonic::transport::Error>().is_some_and(|error| chain(error).contains("connect"))
        });
    match connecting {
        true => TransportError::Unreachable { peer: describe(to), reason },
        false => TransportError::Broken { peer: describe(to), reason },
    }
}

impl Transport for TonicTransport {
    fn call(
        &self,
        to: &PeerAddress,
        lane: Lane,
        request: PeerRequest,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<PeerReply, TransportError>> {
        let client = self.client(to, lane);
        let to = to.clone();
        Box::pin(async move {
            let mut client = client?;
            #[expect(
                clippy::disallowed_methods,
                reason = "gRPC runs on tokio's own clock; the simulator has its own transport"
            )]
            let answer = tokio::time::timeout(timeout, client.call(request)).await;
            match answer {
                Ok(Ok(reply)) => Ok(reply.into_inner()),
                Ok(Err(status)) => Err(failed(&to, &status)),
                Err(_) => Err(TransportError::Broken {
                    peer: describe(&to),
                    reason: format!("no answer within {} ms", timeout.as_millis()),
                }),
            }
        })
    }

    fn append(
        &self,
        to: &PeerAddress,
        requests: BoxStream<'static, AppendRequest>,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<AppendReply, TransportError>>, TransportError>> {
        let client = self.client(to, Lane::Append);
        let to = to.clone();
        Box::pin(async move {
            let replies = client?.append(Outgoing(requests)).await.map_err(|status| failed(&to, &status))?.into_inner();
            Ok(replies.map(move |reply| reply.map_err(|status| failed(&to, &status))).boxed())
        })
    }

    fn snapshot(
        &self,
        to: &PeerAddress,
        chunks: BoxStream<'static, SnapshotChunk>,
    ) -> BoxFuture<'static, Result<PeerReply, TransportError>> {
        let client = self.client(to, Lane::Snapshot);
        let to = to.clone();
        Box::pin(async move {
            let reply = client?.snapshot(Outgoing(chunks)).await.map_err(|status| failed(&to, &status))?;
            Ok(reply.into_inner())
        })
    }
}

/// Serves peers until `shutdown` resolves.
pub async fn serve(
    listener: TcpListener,
    service: PeerService<TokioRuntime>,
    tls: TlsFiles,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), tonic::transport::Error> {
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(&tls.cert_pem, &tls.key_pem))
        .client_ca_root(Certificate::from_pem(&tls.ca_pem));
    let server = PeerServer::new(Handler { service: Arc::new(service) })
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES);
    Server::builder()
        .tls_config(tls)?
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_keepalive_interval(Some(Duration::from_secs(1)))
        .http2_keepalive_timeout(Some(Duration::from_secs(2)))
        .add_service(server)
        // Set here: the server's own `tcp_nodelay` does not reach a listener that it is given.
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), shutdown)
        .await
}

struct Handler {
    service: Arc<PeerService<TokioRuntime>>,
}

/// Name of the node whose certificate the caller showed.
fn caller<T>(request: &Request<T>) -> Result<String, Status> {
    let refuse = |why: &str| {
        Err(Status::permission_denied(format!(
            "the peer port is for nodes: {why}; a node's certificate carries the DNS name <name>{NODE_SUFFIX}"
        )))
    };
    let certificates = request.peer_certs();
    let Some(certificate) = certificates.as_ref().and_then(|certificates| certificates.first()) else {
        return refuse("the caller showed no certificate");
    };
    match node_name(certificate.as_ref()) {
        Some(name) => Ok(name),
        None => refuse("the caller's certificate is not a node's"),
    }
}

/// Node name in a certificate (DER), if it is a node's.
pub fn node_name(certificate_der: &[u8]) -> Option<String> {
    use x509_parser::extensions::GeneralName;
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate_der).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::DNSName(dns) => dns.strip_suffix(NODE_SUFFIX).filter(|name| !name.is_empty()).map(str::to_owned),
        _ => None,
    })
}

/// The header must name the node that the certificate names.
fn check_name(claimed: Option<&crate::wire::Header>, certified: &str) -> Result<(), Status> {
    match claimed {
        Some(header) if header.from_name != certified => Err(Status::permission_denied(format!(
            "the message says it is from {}, the certificate is {certified}'s",
            header.from_name
        ))),
        _ => Ok(()),
    }
}

/// A stream of a named type: the compiler cannot prove that gRPC's futures over a boxed one are `Send`.
struct Outgoing<T>(BoxStream<'static, T>);

impl<T> Stream for Outgoing<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.poll_next_unpin(context)
    }
}

/// Ends a request stream at its first error; the answer stream then ends too and the sender starts anew.
struct UntilBroken<T> {
    inner: Streaming<T>,
}

impl<T> Stream for UntilBroken<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        self.inner.poll_next_unpin(context).map(|item| match item {
            Some(Ok(message)) => Some(message),
            Some(Err(status)) => {
                tracing::debug!("peer stream broke: {status}");
                None
            }
            None => None,
        })
    }
}

#[tonic::async_trait]
impl Peer for Handler {
    async fn call(&self, request: Request<PeerRequest>) -> Result<Response<PeerReply>, Status> {
        let certified = caller(&request)?;
        let request = request.into_inner();
        check_name(request.header.as_ref(), &certified)?;
        Ok(Response::new(self.service.call(request).await))
    }

    type AppendStream = BoxStream<'static, Result<AppendReply, Status>>;

    async fn append(&self, request: Request<Streaming<AppendRequest>>) -> Result<Response<Self::AppendStream>, Status> {
        let certified = caller(&request)?;
        let requests = UntilBroken { inner: request.into_inner() };
        let service = self.service.clone();
        // The answer starts at once; reading the first request is part of the stream.
        let replies = futures::stream::once(async move {
            let mut requests = requests.boxed();
            let Some(first) = requests.next().await else {
                return futures::stream::empty().boxed();
            };
            if let Err(status) = check_name(first.header.as_ref(), &certified) {
                return futures::stream::iter([Err(status)]).boxed();
            }
            let all = futures::stream::iter([first]).chain(requests).boxed();
            service.append(all).await.map(Ok).boxed()
        });
        Ok(Response::new(replies.flatten().boxed()))
    }

    async fn snapshot(&self, request: Request<Streaming<SnapshotChunk>>) -> Result<Response<PeerReply>, Status> {
        let certified = caller(&request)?;
        let mut chunks = UntilBroken { inner: request.into_inner() };
        let first = chunks.next().await;
        let header = first.as_ref().and_then(|chunk| chunk.begin.as_ref()).and_then(|begin| begin.header.as_ref());
        check_name(header, &certified)?;
        let all = futures::stream::iter(first).chain(chunks);
        Ok(Response::new(self.service.snapshot(all).await))
    }
}
