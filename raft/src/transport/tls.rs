//! What the peer port shows and asks for: certificates on both ends, and handshakes that nobody can hold up.

#![expect(clippy::disallowed_methods, reason = "gRPC runs on tokio itself; the simulator has its own transport")]

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_stream::wrappers::ReceiverStream;

use super::tonic::NODE_SUFFIX;

/// A caller that has not finished its TLS handshake by then is dropped.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// Handshakes at a time. One more drops the oldest: peers, whose handshakes take milliseconds, get in all the same.
const HANDSHAKES: usize = 128;
/// Pause after the system refused to accept, which happens when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// HTTP/2.
const PROTOCOL: &[u8] = b"h2";

/// Why certificates cannot be used on the peer port.
#[derive(Debug, thiserror::Error)]
pub enum PeerTlsError {
    /// A PEM file without what it should hold.
    #[error("{what} for the peer port: {reason}; check the files under [tls]")]
    Pem {
        /// Which part.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// rustls refuses the material.
    #[error("certificates for the peer port: {0}; make them anew with your certificate authority")]
    Rustls(String),
}

/// A node's certificate and the authority that both ends trust, ready for calling and for answering. Keys stay inside.
#[derive(Clone)]
pub struct PeerTls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl PeerTls {
    /// From PEM: the authority, this node's certificate chain and its key, which is not kept as PEM.
    ///
    /// # Errors
    /// [`PeerTlsError`] names the part that cannot be used.
    pub fn new(ca_pem: &[u8], cert_pem: &[u8], key_pem: &[u8]) -> Result<Self, PeerTlsError> {
        let refused = |error: &dyn std::fmt::Display| PeerTlsError::Rustls(error.to_string());
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in certificates("certificate authority", ca_pem)? {
            roots.add(certificate).map_err(|error| refused(&error))?;
        }
        let roots = Arc::new(roots);
        let chain = certificates("node certificate", cert_pem)?;
        let key = || {
            PrivateKeyDer::from_pem_slice(key_pem)
                .map_err(|error| PeerTlsError::Pem { what: "private key", reason: error.to_string() })
        };
        let servers = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone()).build();
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| refused(&error))?
            .with_webpki_verifier(servers.map_err(|error| refused(&error))?)
            .with_client_auth_cert(chain.clone(), key()?)
            .map_err(|error| refused(&error))?;
        client.alpn_protocols = vec![PROTOCOL.to_vec()];
        let callers = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build();
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| refused(&error))?
            .with_client_cert_verifier(callers.map_err(|error| refused(&error))?)
            .with_single_cert(chain, key()?)
            .map_err(|error| refused(&error))?;
        server.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }

    /// Connects to the node called `name`: whoever answers must show its certificate.
    pub(super) async fn connect(
        &self,
        address: &str,
        name: &str,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let server_name = ServerName::try_from(format!("{name}{NODE_SUFFIX}"));
        let server_name = server_name.map_err(|error: InvalidDnsNameError| io::Error::other(error))?;
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        TlsConnector::from(self.client.clone()).connect(server_name, stream).await
    }

    /// Accepts connections and hands on those whose handshake succeeds, until the receiver is dropped.
    pub(super) fn accept(&self, listener: TcpListener) -> ReceiverStream<io::Result<TlsStream<TcpStream>>> {
        let (accepted, receiver) = mpsc::channel(HANDSHAKES);
        let acceptor = TlsAcceptor::from(self.server.clone());
        tokio::spawn(async move {
            let mut handshakes = Handshakes::default();
            loop {
                let (stream, caller) = tokio::select! {
                    () = accepted.closed() => return,
                    next = listener.accept() => match next {
                        Ok(next) => next,
                        Err(error) => {
                            tracing::warn!(%error, "cannot accept a peer; raise `ulimit -n` if it persists");
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                            continue;
                        }
                    },
                };
                let (acceptor, accepted) = (acceptor.clone(), accepted.clone());
                let task = tokio::spawn(async move {
                    if let Some(stream) = handshake(&acceptor, stream, caller).await {
                        // Fails only while the server stops; the caller then sees its connection close.
                        let _closing = accepted.send(Ok(stream)).await;
                    }
                });
                handshakes.add(task.abort_handle());
            }
        });
        ReceiverStream::new(receiver)
    }
}

/// Handshakes under way, oldest first.
#[derive(Default)]
struct Handshakes(VecDeque<AbortHandle>);

impl Handshakes {
    fn add(&mut self, handshake: AbortHandle) {
        self.0.retain(|handshake| !handshake.is_finished());
        if self.0.len() == HANDSHAKES
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.abort();
        }
        self.0.push_back(handshake);
    }
}

async fn handshake(acceptor: &TlsAcceptor, stream: TcpStream, caller: SocketAddr) -> Option<TlsStream<TcpStream>> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%caller, %error, "peer connection went away");
        return None;
    }
    let answer = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await;
    match answer {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            match error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
                true => {
                    tracing::warn!(%caller, reason = %error, "peer refused: both need certificates of one authority")
                }
                false => tracing::debug!(%caller, %error, "peer connection went away during its handshake"),
            }
            None
        }
        Err(_late) => {
            tracing::warn!(%caller, "peer dropped: no TLS handshake within {HANDSHAKE_LIMIT:?}");
            None
        }
    }
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PeerTlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(PeerTlsError::Pem { what, reason: "no PEM certificate".into() }),
        Err(error) => Err(PeerTlsError::Pem { what, reason: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_handshake_too_many_drops_the_oldest_that_still_waits() {
        let mut handshakes = Handshakes::default();
        let finished = tokio::spawn(async {});
        handshakes.add(finished.abort_handle());
        finished.await.unwrap();
        let mut waiting: VecDeque<_> = (0..HANDSHAKES).map(|_| tokio::spawn(std::future::pending::<()>())).collect();
        for task in &waiting {
            handshakes.add(task.abort_handle());
        }
        assert!(waiting.iter().all(|task| !task.is_finished()));
        let newest = tokio::spawn(std::future::pending::<()>());
        handshakes.add(newest.abort_handle());
        assert!(waiting.pop_front().unwrap().await.unwrap_err().is_cancelled());
        assert!(waiting.iter().all(|task| !task.is_finished()));
    }
}
