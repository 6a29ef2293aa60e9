//! Peer transport over gRPC with mutual TLS.
//!
//! Both ends prove who they are: the caller checks that the certificate is that of the node that the membership names,
//! the server that the caller's certificate is a node's (DNS name `<node name>.node.saola`), and hands its name on with
//! every message.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tonic::{Request, Response, Status, Streaming};

use super::cut::Cuts;
pub use super::tls::{PeerTls, PeerTlsError};
use super::{Caller, Lane, PeerAddress, Transport, TransportError};
use crate::peer::PeerService;
use crate::types::TokioRuntime;
use crate::wire::{Answer, AppendReply, AppendRequest, FetchReply, FetchRequest, PeerReply, PeerRequest, Question};

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

/// Calls peers. Connections are made when first needed and kept.
pub struct TonicTransport {
    tls: PeerTls,
    channels: Mutex<HashMap<(PeerAddress, Lane), Channel>>,
}

impl TonicTransport {
    /// A transport that shows this certificate.
    pub fn new(tls: PeerTls) -> Self {
        Self { tls, channels: Mutex::new(HashMap::new()) }
    }

    fn client(&self, to: &PeerAddress, lane: Lane) -> Result<PeerClient<Channel>, TransportError> {
        let mut channels = self.channels.lock();
        let channel = match channels.get(&(to.clone(), lane)) {
            Some(channel) => channel.clone(),
            None => {
                let channel = self
                    .connect(to)
                    .map_err(|error| TransportError::Unreachable { peer: describe(to), reason: cause(&error) })?;
                channels.insert((to.clone(), lane), channel.clone());
                channel
            }
        };
        Ok(PeerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES))
    }

    fn connect(&self, to: &PeerAddress) -> Result<Channel, tonic::transport::Error> {
        // TLS is made by the connector, which is why the scheme that tonic sees is the plain one.
        let endpoint = Endpoint::from_shared(format!("http://{}", to.address))?
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .http2_keep_alive_interval(Duration::from_secs(1))
            .keep_alive_timeout(Duration::from_secs(2))
            .keep_alive_while_idle(true);
        let (tls, to) = (self.tls.clone(), to.clone());
        Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let (tls, to) = (tls.clone(), to.clone());
            async move {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "gRPC runs on tokio's own clock; the simulator has its own transport"
                )]
                let connected = tokio::time::timeout(CONNECT_LIMIT, tls.connect(&to.address, &to.name)).await;
                connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map(TokioIo::new)
            }
        })))
    }
}

fn describe(to: &PeerAddress) -> String {
    format!("{} at {}", to.name, to.address)
}

/// The innermost cause in a few words, as in "connection refused": what lies around it names only layers.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let innermost = std::iter::successors(Some(error), |error| error.source()).last().unwrap_or(error);
    match innermost.downcast_ref::<io::Error>() {
        Some(error) if error.kind() == io::ErrorKind::TimedOut => {
            format!("no connection within {} ms", CONNECT_LIMIT.as_millis())
        }
        Some(error) if error.get_ref().is_none() => error.kind().to_string(),
        _ => innermost.to_string(),
    }
}

fn failed(to: &PeerAddress, status: &Status) -> TransportError {
    let reason = std::error::Error::source(status).map_or_else(|| status.message().to_owned(), cause);
    // tonic makes a connection before it sends anything; what failed in that step was surely not delivered.
    let causes = std::iter::successors(std::error::Error::source(status), |cause| cause.source());
    let connecting = causes.into_iter().any(|cause| cause.is::<tonic::ConnectError>());
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

    fn fetch(
        &self,
        to: &PeerAddress,
        request: FetchRequest,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<FetchReply, TransportError>>, TransportError>> {
        let client = self.client(to, Lane::Snapshot);
        let to = to.clone();
        Box::pin(async move {
            let replies = client?.fetch(request).await.map_err(|status| failed(&to, &status))?.into_inner();
            Ok(replies.map(move |reply| reply.map_err(|status| failed(&to, &status))).boxed())
        })
    }
}

/// Serves peers until `shutdown` resolves; those whom `cuts` names hear nothing meanwhile.
pub async fn serve(
    listener: TcpListener,
    service: PeerService<TokioRuntime>,
    cuts: Cuts,
    tls: PeerTls,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), tonic::transport::Error> {
    serve_as(listener, Handler { service: Arc::new(service), cuts }, tls, shutdown).await
}

/// Tells peers how this node is, as `status` says it, until it can do more for them; all else they ask fails as if
/// nobody were there.
pub async fn serve_status(
    listener: TcpListener,
    status: impl Fn() -> Bytes + Send + Sync + 'static,
    tls: PeerTls,
) -> Result<(), tonic::transport::Error> {
    serve_as(listener, StatusOnly(status), tls, std::future::pending()).await
}

async fn serve_as(
    listener: TcpListener,
    peer: impl Peer,
    tls: PeerTls,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), tonic::transport::Error> {
    let server =
        PeerServer::new(peer).max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES);
    Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_keepalive_interval(Some(Duration::from_secs(1)))
        .http2_keepalive_timeout(Some(Duration::from_secs(2)))
        .add_service(server)
        .serve_with_incoming_shutdown(tls.accept(listener), shutdown)
        .await
}

struct Handler {
    service: Arc<PeerService<TokioRuntime>>,
    cuts: Cuts,
}

impl Handler {
    /// Who calls, once nothing cuts it off.
    async fn heard<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let caller = caller(request)?;
        self.cuts.until_heard(&caller).await;
        Ok(caller)
    }
}

/// Whose certificate the caller showed.
fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let refuse = |why: &str| {
        Err(Status::permission_denied(format!(
            "the peer port is for nodes: {why}; a node's certificate carries the DNS name <name>{NODE_SUFFIX}"
        )))
    };
    let certificates = request.peer_certs();
    let Some(certificate) = certificates.as_ref().and_then(|certificates| certificates.first()) else {
        return refuse("the caller showed no certificate");
    };
    let names = node_names(certificate.as_ref());
    match names.is_empty() {
        true => refuse("the caller's certificate is not a node's"),
        false => Ok(Caller::certified(names)),
    }
}

/// Names of nodes in a certificate (DER); none: it is not a node's.
fn node_names(certificate_der: &[u8]) -> Vec<String> {
    use x509_parser::extensions::GeneralName;
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate_der) else { return Vec::new() };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let node_name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(dns) => dns.strip_suffix(NODE_SUFFIX).filter(|name| !name.is_empty()).map(str::to_owned),
        _ => None,
    };
    names.value.general_names.iter().filter_map(node_name).collect()
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
        let caller = self.heard(&request).await?;
        Ok(Response::new(self.service.call(&caller, request.into_inner()).await))
    }

    type AppendStream = BoxStream<'static, Result<AppendReply, Status>>;

    async fn append(&self, request: Request<Streaming<AppendRequest>>) -> Result<Response<Self::AppendStream>, Status> {
        let caller = self.heard(&request).await?;
        let (cut, cut_too) = (self.cuts.until_cut(&caller), self.cuts.until_cut(&caller));
        let requests = UntilBroken { inner: request.into_inner() }.take_until(cut).boxed();
        let service = self.service.clone();
        // The answer starts at once; reading the first request is part of the stream.
        let replies = futures::stream::once(async move { service.append(caller, requests).await.map(Ok) });
        Ok(Response::new(replies.flatten().take_until(cut_too).boxed()))
    }

    type FetchStream = BoxStream<'static, Result<FetchReply, Status>>;

    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let caller = self.heard(&request).await?;
        let replies = self.service.fetch(&caller, request.into_inner()).await;
        Ok(Response::new(replies.take_until(self.cuts.until_cut(&caller)).map(Ok).boxed()))
    }
}

/// What [`serve_status`] answers.
struct StatusOnly<F>(F);

fn not_yet() -> Status {
    Status::unavailable("the node repairs its log and takes no part yet")
}

#[tonic::async_trait]
impl<F: Fn() -> Bytes + Send + Sync + 'static> Peer for StatusOnly<F> {
    async fn call(&self, request: Request<PeerRequest>) -> Result<Response<PeerReply>, Status> {
        let caller = caller(&request)?;
        let PeerRequest { header, question } = request.into_inner();
        let certified = header.is_some_and(|header| caller.is(&header.from_name));
        match question {
            Some(Question::Status(_)) if certified => Ok(Response::new(Answer::Status((self.0)()).into())),
            _ => Err(not_yet()),
        }
    }

    type AppendStream = BoxStream<'static, Result<AppendReply, Status>>;

    async fn append(&self, _: Request<Streaming<AppendRequest>>) -> Result<Response<Self::AppendStream>, Status> {
        Err(not_yet())
    }

    type FetchStream = BoxStream<'static, Result<FetchReply, Status>>;

    async fn fetch(&self, _: Request<FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        Err(not_yet())
    }
}
